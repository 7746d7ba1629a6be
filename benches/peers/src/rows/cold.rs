//! Gets of 32 keys at a time that nothing has in memory: the page cache forgets a store's files before each slice, and
//! the store's own cache is small and empty. What the disk itself can do stands beside it: random reads of 4 KiB past
//! the page cache, 32 in flight.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use seawall_wal::storage::{Access, AlignedBuffer, Disk, File, ReadRequest, Storage, write_all_at};

use super::Context;
use crate::bars::{COLD, RANDOM_READ};
use crate::files::forget;
use crate::load::{Work, closed};
use crate::report::Row;
use crate::rounds::{Cell, interleave};
use crate::store::{Durability, Kind, Settings, Store, fill};
use crate::workload::{Key, Random, random_keys};

/// Keys at a time.
const TOGETHER: usize = 32;
const KEYS: usize = 1 << 17;
const BLOCK_BYTES: usize = 4096;
const RAW_BYTES: u64 = 256 << 20;
/// SQLite and redb are left out: they read from here one page at a time, as LMDB does.
const KINDS: [Kind; 5] = [Kind::Seawall, Kind::Rocksdb, Kind::RocksdbTuned, Kind::Fjall, Kind::Lmdb];

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let folder = context.folder("cold")?;
    let settings =
        Settings { durability: Durability::Durable, cache_bytes: 8 << 20, ..Settings::new(Durability::Durable) };
    let keys = random_keys(context.sizes.cold_keys, KEYS, 3);
    let slice = context.plan.slice;
    let raw = raw_file(&folder.path.join("raw"))?;
    let mut cells = Vec::new();
    let mut threads_instead = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| context.kinds.contains(kind)) {
        let dir = folder.path.join(kind.slug());
        let store = kind.open(&dir, &settings)?;
        fill(&*store, context.sizes.cold_keys)?;
        store.settle()?;
        if store.multi_get(&[]).is_none() {
            threads_instead.push(kind.name());
        }
        drop(store);
        let keys = &keys;
        let mut turns = 0;
        cells.push(Cell::new(kind.name(), move || {
            forget(&dir)?;
            turns += 1;
            // Keys that were not asked for in the slices before.
            slice_of(&*kind.open(&dir, &settings)?, keys, turns, slice)
        }));
    }
    cells.push(Cell::new(RANDOM_READ, || random_reads(&*raw, slice)));
    let measured = interleave(cells, &context.plan, &context.device);
    let instead =
        format!("no call for many keys: {TOGETHER} threads with a get each at {}", threads_instead.join(", "));
    Ok(vec![Row::new("cold multi_get(32)", COLD, measured).note(instead).note("figures are keys a second")])
}

fn slice_of(store: &dyn Store, keys: &[Key], turns: usize, slice: Duration) -> Result<Work> {
    let first = turns * 7919 * TOGETHER;
    if store.multi_get(&[]).is_some() {
        return closed(1, slice, |_, turn| {
            let at = (first + turn as usize * TOGETHER) % keys.len();
            let found = store.multi_get(&keys[at..at + TOGETHER]).unwrap_or(Ok(0))?;
            anyhow::ensure!(found == TOGETHER, "a key that was put is not there");
            Ok(TOGETHER as u64)
        });
    }
    let threads = TOGETHER as u64;
    closed(threads, slice, |thread, turn| {
        let at = (first + (turn * threads + thread) as usize) % keys.len();
        anyhow::ensure!(store.get(&keys[at])?.is_some(), "a key that was put is not there");
        Ok(1)
    })
}

fn raw_file(path: &Path) -> Result<Arc<dyn File>> {
    let disk = Disk::new();
    let file = disk.open(path, Access::CreateNew)?;
    let mut random = Random::new(4);
    let chunk: Vec<u8> = (0..1 << 17).flat_map(|_| random.next().to_le_bytes()).collect();
    for offset in (0..RAW_BYTES).step_by(chunk.len()) {
        write_all_at(&*file, &chunk, offset)?;
    }
    file.sync_data()?;
    Ok(disk.open(path, Access::ReadDirect)?)
}

fn random_reads(file: &dyn File, slice: Duration) -> Result<Work> {
    let started = Instant::now();
    let mut random = Random::new(started.elapsed().as_nanos() as u64);
    let mut buffers: Vec<AlignedBuffer> = (0..TOGETHER).map(|_| AlignedBuffer::zeroed(BLOCK_BYTES)).collect();
    let mut operations = 0;
    while started.elapsed() < slice {
        let mut reads: Vec<_> = Vec::with_capacity(TOGETHER);
        for buffer in &mut buffers {
            let offset = random.below(RAW_BYTES / BLOCK_BYTES as u64) * BLOCK_BYTES as u64;
            reads.push(ReadRequest { offset, buffer: &mut buffer[..] });
        }
        file.read_many(&mut reads)?;
        operations += TOGETHER as u64;
    }
    Ok(Work { operations, seconds: started.elapsed().as_secs_f64(), latencies: Vec::new() })
}
