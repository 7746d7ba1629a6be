//! A log on a disk in memory, and an oracle that asks the disk, not the log, what would survive power loss.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_wal::clock::ManualClock;
use seawall_wal::format::RECORD_HEADER_SIZE;
use seawall_wal::storage::{Access, FaultyStorage, MemoryDisk, Storage, read_exact_at};
use seawall_wal::{
    ClusterId, Error, Log, LogMode, LogOptions, Lsn, NodeId, OpenAt, Position, RecordKind, SegmentId, SegmentNumber,
    SegmentSize, Threads, Ticket, TimelineHistory, TimelineId, TimelineNonce, Timestamp,
};
use shuttle::thread;

const FOLDER: &str = "/log";
const SIZE: SegmentSize = SegmentSize::MIN;
/// The largest payload that segments of this size take.
pub(super) const LARGE: usize = 16 << 10;

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

    /// A primary's log with threads of its own.
    pub(super) fn open(&self) -> Log {
        self.open_with(LogMode::Append, Threads::Background).0
    }

    /// A log and the payloads that were in it, without pads.
    pub(super) fn open_with(&self, mode: LogMode, threads: Threads) -> (Log, Vec<Vec<u8>>) {
        let options = LogOptions {
            segment_size: SIZE,
            buffer_bytes_max: 1,
            threads,
            // For ever: who is not told of the segment that it waits for does not find it by itself.
            stall_timeout: Duration::from_secs(3600),
            ..LogOptions::new(ClusterId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]))
        };
        let history = TimelineHistory::first(TimelineNonce::from_bytes([3; 16]));
        let at = OpenAt { history, start: Position::ZERO, time_floor: Timestamp(0), watermark: Lsn::ZERO };
        let clock = Arc::new(ManualClock::new(Timestamp(1)));
        let mut payloads = Vec::new();
        let storage = Arc::new(self.faulty.clone());
        let opened = Log::open(storage, clock, Path::new(FOLDER), options, &at, mode, |records| {
            let records = records.iter().filter(|record| record.header.kind != RecordKind::Pad);
            payloads.extend(records.map(|record| record.payload.to_vec()));
            Ok::<_, Error>(())
        });
        (opened.expect("the log opens").0, payloads)
    }

    /// The file of a segment of the first timeline.
    pub(super) fn segment(number: u64) -> PathBuf {
        let id = SegmentId { number: SegmentNumber(number), timeline: TimelineId(1) };
        Path::new(FOLDER).join(id.file_name())
    }

    /// Panics unless the record that ends at `lsn` would survive power loss now.
    pub(super) fn assert_durable(&self, lsn: Lsn, payload: &[u8]) {
        let extent = (RECORD_HEADER_SIZE + payload.len()).next_multiple_of(8) as u64;
        let start = Lsn::new(lsn.offset() - extent);
        let file = Self::segment(SIZE.segment_of(start).0);
        let left = self.disk.crashed_losing_all();
        let file = left.open(&file, Access::Read).expect("the name of an acknowledged record's segment survives");
        let mut found = vec![0; payload.len()];
        let offset = u64::from(SIZE.offset_in_segment(start)) + RECORD_HEADER_SIZE as u64;
        read_exact_at(&*file, &mut found, offset).expect("a segment has its size");
        assert!(found == payload, "the record that ends at {lsn} was acknowledged, and does not survive power loss");
    }
}

/// The payload of a committer's n-th record.
pub(super) fn payload(committer: u8, number: u8) -> Vec<u8> {
    vec![committer + 1, number + 1, 0xAA, 0x55]
}

pub(super) fn append(log: &Log, payload: &[u8]) -> Ticket {
    log.append(RecordKind::Commit, payload).expect("the log takes records")
}

/// Runs `work` for several committers at once, and waits for them.
pub(super) fn committers<T: Send + 'static>(count: u8, work: impl Fn(u8) -> T + Send + Sync + 'static) -> Vec<T> {
    let work = Arc::new(work);
    let threads: Vec<_> = (0..count)
        .map(|committer| {
            let work = Arc::clone(&work);
            thread::spawn(move || work(committer))
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("a committer ends")).collect()
}
