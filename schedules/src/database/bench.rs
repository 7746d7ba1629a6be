//! A small database on a disk in memory, and what is left of it after power loss.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seawall_engine::{Background, Builder, Db, Keyspace};
use seawall_wal::clock::ManualClock;
use seawall_wal::storage::{FaultyStorage, MemoryDisk, Storage};
use seawall_wal::{ClusterId, NodeId, SegmentSize, Timestamp};
use shuttle::thread;

const FOLDER: &str = "/data";

/// The disk, and what stands before it.
#[derive(Clone)]
pub(super) struct Bench {
    disk: MemoryDisk,
    pub(super) faulty: FaultyStorage,
}

impl Bench {
    pub(super) fn new() -> Self {
        let disk = MemoryDisk::new();
        disk.seed_salts(1);
        let faulty = FaultyStorage::new(Arc::new(disk.clone()));
        Self { disk, faulty }
    }

    /// With threads of its own, and memtables so small that `commits` fill them.
    pub(super) fn open(&self, memtable_bytes: u64) -> (Db, Keyspace) {
        let builder = builder(Arc::new(self.faulty.clone())).background(Background::Threads);
        let db = builder.memtable_bytes(memtable_bytes).open().expect("the database opens");
        let keyspace = db.keyspace("k").expect("the keyspace is made");
        (db, keyspace)
    }

    /// The database as it is after a power loss now that takes everything unsynced.
    pub(super) fn after_power_loss(&self) -> (Db, Keyspace) {
        let db = builder(Arc::new(self.disk.crashed_losing_all())).background(Background::Inline).open();
        let db = db.expect("a database opens after power loss");
        let keyspace = db.existing_keyspace("k").expect("the keyspace was acknowledged");
        (db, keyspace)
    }

    pub(super) fn log_folder() -> PathBuf {
        PathBuf::from(FOLDER).join("wal")
    }
}

fn builder(storage: Arc<dyn Storage>) -> Builder {
    Db::builder(FOLDER)
        .storage(storage)
        .clock(Arc::new(ManualClock::new(Timestamp(1))))
        .cluster(ClusterId::from_bytes([1; 16]))
        .node(NodeId::from_bytes([2; 16]))
        .segment_size(SegmentSize::MIN)
        // For ever: who is not told that there is room does not find it by itself.
        .stall_timeout(Duration::from_secs(3600))
        .table_bytes(2 << 10)
        .cache_bytes(64 << 10)
        .merge_threads(2)
}

/// Runs some threads at once, and waits for them.
pub(super) fn at_once<T: Send + 'static>(works: Vec<Box<dyn FnOnce() -> T + Send>>) -> Vec<T> {
    let threads: Vec<_> = works.into_iter().map(thread::spawn).collect();
    threads.into_iter().map(|thread| thread.join().expect("a thread ends")).collect()
}
