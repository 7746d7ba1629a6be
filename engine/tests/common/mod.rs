//! Small databases on a memory disk, shared by the tests.
// Each test binary uses its part of it.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use rand::Rng;
use seawall_engine::{Background, Builder, Db, Keyspace, Snapshot};
use seawall_wal::SegmentSize;
use seawall_wal::storage::{MemoryDisk, PowerLoss};

/// Keys and values in order.
pub(crate) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) const PATH: &str = "/data";

/// Small segments, small memtables, everything in one order.
pub(crate) fn inline(disk: &MemoryDisk) -> Builder {
    inline_at(disk, PATH)
}

/// The same elsewhere on the disk.
pub(crate) fn inline_at(disk: &MemoryDisk, path: &str) -> Builder {
    Db::builder(path)
        .storage(Arc::new(disk.clone()))
        .segment_size(SegmentSize::MIN)
        .background(Background::Inline)
        .memtable_bytes(32 << 10)
        .table_bytes(2 << 10)
        .blob_bytes(Some(200))
        .cache_bytes(1 << 20)
}

/// The same with its threads.
pub(crate) fn threaded(disk: &MemoryDisk) -> Builder {
    inline(disk).background(Background::Threads)
}

pub(crate) fn control_path() -> &'static Path {
    Path::new("/data/control")
}

/// Everything in a keyspace, as of now.
pub(crate) fn all(keyspace: &Keyspace) -> Entries {
    keyspace.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

/// Everything in a keyspace, as of a snapshot.
pub(crate) fn all_at(snapshot: &Snapshot, keyspace: &Keyspace) -> Entries {
    snapshot.iter(keyspace).map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

/// Power is lost, and everything was on its way to the disk in time.
pub(crate) fn crashed_keeping_all(disk: &MemoryDisk) -> MemoryDisk {
    PowerLoss::Nothing.strike(disk)
}

/// Power is lost, and some of what was not synced is there.
pub(crate) fn crashed_somehow(disk: &MemoryDisk, random: &mut impl Rng) -> MemoryDisk {
    PowerLoss::Random(random.random()).strike(disk)
}
