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
use crate::device::Counters;
use crate::files::forget;
use crate::load::{Work, closed};
use crate::report::Row;
use crate::rounds::{Cell, interleave};
use crate::store::{Durability, Kind, Settings, Store, fill};
use crate::workload::{KEY_LEN, Key, Random, VALUE_LEN, random_keys};

/// Keys at a time.
const TOGETHER: usize = 32;
/// Short, so that few keys lie in blocks that were read for an earlier one.
const SLICE_MAX: Duration = Duration::from_millis(50);
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
    let slice = context.plan.slice.min(SLICE_MAX);
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
            let store = kind.open(&dir, &settings)?;
            let before = context.device.counters();
            let work = slice_of(&*store, keys, turns, slice)?;
            check_cold(&work, before, context.device.counters(), context.sizes.cold_keys)?;
            Ok(work)
        }));
    }
    cells.push(Cell::new(RANDOM_READ, || random_reads(&*raw, slice)));
    let measured = interleave(cells, &context.plan, &context.device);
    let row = Row::new("cold multi_get(32)", COLD, measured).note("figures are keys a second");
    Ok(vec![match threads_instead.as_slice() {
        [] => row,
        some => row.note(format!("no call for many keys: {TOGETHER} threads with a get each at {}", some.join(", "))),
    }])
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

/// Fails unless the keys really came from the disk: at least a block for nearly each of them, and not so much of all the
/// data that the rest came along by reading ahead, which on some devices is megabytes at a time.
fn check_cold(work: &Work, before: Counters, after: Counters, keys: u64) -> Result<()> {
    let (Some(before), Some(after)) = (before.bytes_read, after.bytes_read) else {
        anyhow::bail!("the device does not count what is read, so nobody knows whether it was cold");
    };
    let (read, data) = (after - before, keys * (KEY_LEN + VALUE_LEN) as u64);
    let needed = work.operations * BLOCK_BYTES as u64;
    anyhow::ensure!(
        read >= needed - needed / 5 && read <= data / 2,
        "not cold: {} keys came with {} MiB read of about {} MiB; the kernel read ahead, or they were in memory",
        work.operations,
        read >> 20,
        data >> 20
    );
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_came_from_the_disk_were_cold() {
        let read = |bytes| Counters { bytes_read: Some(bytes), ..Counters::default() };
        let work = Work { operations: 1000, seconds: 1.0, latencies: Vec::new() };
        let is_cold = |bytes| check_cold(&work, read(0), read(bytes), 1_000_000).is_ok();
        assert!(is_cold(1000 * 4096) && is_cold(900 * 4096));
        assert!(!is_cold(100 * 4096), "most were in memory");
        assert!(!is_cold(100 << 20), "the kernel read nearly everything ahead");
        assert!(check_cold(&work, Counters::default(), read(1), 1_000_000).is_err(), "nobody knows");
    }
}
