//! What the tests of this crate share: a cluster of one identity, opening a log on any storage, and the list of records
//! that should be in it.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod crash;

use std::path::Path;
use std::sync::Arc;

use seawall_wal::clock::ManualClock;
use seawall_wal::storage::Storage;
use seawall_wal::{
    ClusterId, Log, LogMode, LogOptions, Lsn, NodeId, OpenAt, Position, RecordKind, Recovery, Result, SegmentSize,
    Threads, TimelineHistory, TimelineNonce, Timestamp,
};

pub const DIR: &str = "/wal";

pub fn cluster() -> ClusterId {
    ClusterId::from_bytes([0xC1; 16])
}

pub fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

pub fn history() -> TimelineHistory {
    TimelineHistory::first(TimelineNonce::from_bytes([0x71; 16]))
}

/// One record as a test wrote it or found it again. Pads do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub lsn: Lsn,
    pub kind: RecordKind,
    pub payload: Vec<u8>,
}

/// How to open a log in a test.
#[derive(Clone)]
pub struct Opener {
    pub node: NodeId,
    pub mode: LogMode,
    pub threads: Threads,
    pub history: TimelineHistory,
    pub watermark: Lsn,
    /// Where the records before the first segment end.
    pub start: Position,
    pub segment_size: SegmentSize,
    pub buffer_bytes_max: usize,
}

impl Opener {
    /// A primary whose steps happen in one order.
    pub fn primary() -> Self {
        Self {
            node: node(1),
            mode: LogMode::Append,
            threads: Threads::Inline,
            history: history(),
            watermark: Lsn::ZERO,
            start: Position::ZERO,
            segment_size: SegmentSize::MIN,
            buffer_bytes_max: 64 << 20,
        }
    }

    pub fn standby() -> Self {
        Self { node: node(2), mode: LogMode::Receive, ..Self::primary() }
    }

    pub fn open(&self, storage: Arc<dyn Storage>, dir: &Path) -> Result<(Log, Recovery, Vec<Written>)> {
        let options = LogOptions {
            segment_size: self.segment_size,
            buffer_bytes_max: self.buffer_bytes_max,
            threads: self.threads,
            ..LogOptions::new(cluster(), self.node)
        };
        let at = OpenAt {
            history: self.history.clone(),
            start: self.start,
            time_floor: Timestamp(0),
            watermark: self.watermark,
        };
        let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
        let mut found = Vec::new();
        let (log, recovery) = Log::open(storage, clock, dir, options, &at, self.mode, |records| {
            for record in records.iter().filter(|record| record.header.kind != RecordKind::Pad) {
                let payload = record.payload.to_vec();
                found.push(Written { lsn: record.lsn, kind: record.header.kind, payload });
            }
            Result::Ok(())
        })?;
        Ok((log, recovery, found))
    }
}
