//! How a database under test is set up: sizes so small that few commits meet switches of segments, memtables written out,
//! merges and blob files, and different for each seed.

use std::fmt;
use std::sync::Arc;

use rand::Rng as _;
use rand::rngs::SmallRng;
use seawall_engine::{Background, Builder, Db};
use seawall_wal::clock::ManualClock;
use seawall_wal::storage::{Fault, FaultyOperation, MemoryDisk, Storage};
use seawall_wal::{ClusterId, NodeId, SegmentSize, Timestamp};

use crate::story::Story;

/// Where the database is on its disk in memory.
pub(crate) const DIR: &str = "/data";

/// What the node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It takes commits.
    Primary,
    /// It receives the log of one that does.
    Standby,
}

/// One call of the disk that fails.
#[derive(Clone, Copy, Debug)]
pub struct SingleFault {
    /// Of this kind.
    pub operation: FaultyOperation,
    /// After so many that do not.
    pub nth: u64,
    /// In this way.
    pub fault: Fault,
}

/// A database and who writes how much.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What is written, and all that is left to chance.
    pub seed: u64,
    /// What the node does.
    pub part: Part,
    /// Writers that commit in turns.
    pub writers: u32,
    /// Commits of all of them.
    pub commits: u32,
    /// Bytes of a segment of the log.
    pub segment: SegmentSize,
    /// Bytes of memtables that are written out together.
    pub memtable_bytes: u64,
    /// Bytes of a table and of a blob file.
    pub table_bytes: u64,
    /// Bytes from which on values lie in blob files.
    pub blob_bytes: Option<usize>,
    /// What fails meanwhile.
    pub fault: Option<SingleFault>,
}

impl Setup {
    /// One of a seed.
    pub fn of(seed: u64, chance: &mut SmallRng) -> Self {
        let part = if chance.random_ratio(1, 4) { Part::Standby } else { Part::Primary };
        let faulty = part == Part::Primary && chance.random_ratio(1, 2);
        Self {
            seed,
            part,
            writers: chance.random_range(1..=4),
            commits: chance.random_range(60..=180),
            segment: if chance.random_ratio(3, 4) { SegmentSize::MIN } else { size(128 << 10) },
            memtable_bytes: chance.random_range(6..=40) << 10,
            table_bytes: chance.random_range(4..=24) << 10,
            blob_bytes: [None, Some(400), Some(2 << 10)][chance.random_range(0..3)],
            fault: faulty.then(|| SingleFault::of(chance)),
        }
    }

    /// The stories of its writers.
    pub fn stories(&self) -> Vec<Story> {
        (0..self.writers).map(|writer| Story::new(self.seed, writer)).collect()
    }

    /// How it is opened: everything in one order, and the same bytes each time.
    pub(crate) fn builder(&self, storage: Arc<dyn Storage>) -> Builder {
        Db::builder(DIR)
            .storage(storage)
            .clock(Arc::new(ManualClock::new(Timestamp(1_000_000_000_000))))
            .background(Background::Inline)
            .cluster(ClusterId::from_bytes([0x5E; 16]))
            .node(NodeId::from_bytes(
                [match self.part {
                    Part::Primary => 1,
                    Part::Standby => 2,
                }; 16],
            ))
            .segment_size(self.segment)
            .memtable_bytes(self.memtable_bytes)
            .table_bytes(self.table_bytes)
            .blob_bytes(self.blob_bytes)
            .cache_bytes(1 << 20)
    }

    /// Opens it on a disk on which nothing fails.
    pub(crate) fn open(&self, disk: &MemoryDisk) -> seawall_engine::Result<Db> {
        self.builder(Arc::new(disk.clone())).open()
    }
}

impl SingleFault {
    fn of(chance: &mut SmallRng) -> Self {
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        let operation = FaultyOperation::ALL[chance.random_range(0..FaultyOperation::ALL.len())];
        let moves = matches!(operation, FaultyOperation::Read | FaultyOperation::Write);
        let fault = match chance.random_range(0..4) {
            0 => Fault::Error(ENOSPC),
            1 if moves => Fault::Short,
            2 if operation == FaultyOperation::Write => Fault::DropAndFailSync(EIO),
            _ => Fault::Error(EIO),
        };
        // Of writes and syncs there are hundreds in a run, of the others some tens.
        let often = matches!(operation, FaultyOperation::Write | FaultyOperation::Sync);
        Self { operation, nth: chance.random_range(0..if often { 200 } else { 30 }), fault }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, writers, commits, segment, memtable_bytes, table_bytes, blob_bytes, fault, seed: _ } = self;
        write!(f, "{part:?}, {writers} writers, {commits} commits, segments of {}, ", segment.bytes())?;
        write!(f, "memtables of {memtable_bytes}, tables of {table_bytes}, ")?;
        match blob_bytes {
            Some(least) => write!(f, "blob files from {least}")?,
            None => write!(f, "no blob files")?,
        }
        match fault {
            Some(SingleFault { operation, nth, fault }) => write!(f, ", {operation:?} {nth} meets {fault:?}"),
            None => write!(f, ", no fault"),
        }
    }
}

fn size(bytes: u32) -> SegmentSize {
    SegmentSize::new(bytes).expect("it is a size segments may have")
}
