//! A log for targets that damage one: its cluster, its records, and how it is opened.

use std::path::Path;
use std::sync::Arc;

use seawall_wal::clock::ManualClock;
use seawall_wal::recovery::Recovery;
use seawall_wal::storage::{MemoryDisk, Storage};
use seawall_wal::{
    ClusterId, Error, Log, LogMode, LogOptions, Lsn, NodeId, OpenAt, Position, RecordKind, SegmentSize, Threads,
    TimelineHistory, TimelineNonce, Timestamp,
};

/// Whose log.
pub const CLUSTER: ClusterId = ClusterId::from_bytes([0xC1; 16]);
/// The node that wrote it.
pub const NODE: NodeId = NodeId::from_bytes([1; 16]);
/// Where it lies.
pub const DIR: &str = "/wal";

/// A record as it was written or found, pads included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it begins.
    pub start: Lsn,
    /// Where it ends.
    pub lsn: Lsn,
    /// Everything before it was flushed up to here when it was made. `stamp <= start`.
    pub stamp: Lsn,
    /// What it says.
    pub kind: RecordKind,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// The only timeline.
pub fn history() -> TimelineHistory {
    TimelineHistory::first(TimelineNonce::from_bytes([0x71; 16]))
}

/// Opens a log on a disk and collects its records. A log that is refused has handed over some before.
///
/// # Errors
/// As of [`Log::open`].
pub fn open(
    disk: Arc<dyn Storage>,
    mode: LogMode,
    watermark: Lsn,
) -> Result<(Log, Recovery, Vec<Written>), (Error, Vec<Written>)> {
    let options =
        LogOptions { segment_size: SegmentSize::MIN, threads: Threads::Inline, ..LogOptions::new(CLUSTER, NODE) };
    let at = OpenAt { history: history(), start: Position::ZERO, time_floor: Timestamp(0), watermark };
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let mut found = Vec::new();
    let opened = Log::open(disk, clock, Path::new(DIR), options, &at, mode, |records| {
        found.extend(records.iter().map(|record| Written {
            start: record.header.start,
            lsn: record.lsn,
            stamp: record.header.flush_stamp,
            kind: record.header.kind,
            payload: record.payload.to_vec(),
        }));
        Ok::<_, Error>(())
    });
    match opened {
        Ok((log, recovery)) => Ok((log, recovery, found)),
        Err(error) => Err((error, found)),
    }
}

/// A log of two segments in groups of one to three records, and what is in it.
///
/// # Panics
/// Never: a disk in memory does not fail.
pub fn sample() -> (MemoryDisk, Vec<Written>) {
    let disk = MemoryDisk::new();
    let (log, ..) =
        open(Arc::new(disk.clone()), LogMode::Append, Lsn::ZERO).map_err(|(error, _)| error).expect("empty");
    let mut number = 0_u64;
    while log.end().lsn < Lsn::new(65536 + 9000) {
        for _ in 0..=number % 3 {
            let len = [700, 40, 0, 6000, 1, 300, 15_000][number as usize % 7];
            let payload: Vec<u8> = (0..len).map(|at| (at * 7 + number as usize * 13) as u8).collect();
            let kind = if len == 0 { RecordKind::Time } else { RecordKind::Commit };
            let _ = log.append(kind, &payload).expect("memory");
            number += 1;
        }
        log.flush().expect("memory");
    }
    drop(log);
    let again = open(Arc::new(disk.duplicate()), LogMode::Append, Lsn::ZERO);
    let (_, _, written) = again.map_err(|(error, _)| error).expect("a healthy log opens");
    (disk, written)
}
