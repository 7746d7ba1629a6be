//! What a log counts while it is open.

use crate::log::Log;
use crate::storage::DurableWrite;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of a log's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Records appended or received since opening.
    pub records: u64,
    /// Bytes appended or received since opening.
    pub bytes: u64,
    /// Syncs that returned.
    pub flushes: u64,
    /// Time spent in writes and syncs of the log, microseconds.
    pub flush_micros: u64,
    /// The longest of them, microseconds.
    pub flush_micros_max: u64,
    /// How long the write and sync that is under way has been so, microseconds; 0 if there is none.
    pub flush_micros_now: u64,
    /// Calls of [`Log::read`] that were answered from memory.
    pub reads_memory: u64,
    /// Calls of [`Log::read`] that went to the disk.
    pub reads_disk: u64,
    /// How a group of a log that is appended to becomes durable.
    pub durable_write: DurableWrite,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) flush_micros: AtomicU64,
    pub(crate) flush_micros_max: AtomicU64,
    /// When the write and sync that is under way began, microseconds since opening; 0 if there is none.
    pub(crate) flush_began: AtomicU64,
    pub(crate) reads_memory: AtomicU64,
    pub(crate) reads_disk: AtomicU64,
}

impl Log {
    /// Counters since opening.
    pub fn stats(&self) -> LogStats {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogStats {
            records: get(&counters.records),
            bytes: get(&counters.bytes),
            flushes: get(&counters.flushes),
            flush_micros: get(&counters.flush_micros),
            flush_micros_max: get(&counters.flush_micros_max),
            flush_micros_now: match get(&counters.flush_began) {
                0 => 0,
                began => self.shared.micros().saturating_sub(began).max(1),
            },
            reads_memory: get(&counters.reads_memory),
            reads_disk: get(&counters.reads_disk),
            durable_write: self.shared.way.read().now(),
        }
    }
}
