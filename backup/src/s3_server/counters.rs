//! Requests and bytes by operation: what the archive would have cost at a provider.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Live counters; requests refused for their signature are not among them.
#[derive(Debug, Default)]
pub struct S3Counters {
    pub(super) put: AtomicU64,
    pub(super) get: AtomicU64,
    pub(super) head: AtomicU64,
    pub(super) list: AtomicU64,
    pub(super) delete: AtomicU64,
    pub(super) other: AtomicU64,
    pub(super) conditions_failed: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
}

/// Counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CounterSnapshot {
    /// Object writes asked for.
    pub put: u64,
    /// Object reads asked for.
    pub get: u64,
    /// Object look-ups.
    pub head: u64,
    /// Listings.
    pub list: u64,
    /// Deletions, of however many objects.
    pub delete: u64,
    /// Bucket operations.
    pub other: u64,
    /// Writes refused because their condition did not hold.
    pub conditions_failed: u64,
    /// Bytes of objects received.
    pub bytes_in: u64,
    /// Bytes of objects sent.
    pub bytes_out: u64,
}

impl CounterSnapshot {
    /// Requests of all kinds.
    pub fn requests(&self) -> u64 {
        self.put + self.get + self.head + self.list + self.delete + self.other
    }
}

impl S3Counters {
    pub(super) fn snapshot(&self) -> CounterSnapshot {
        CounterSnapshot {
            put: self.put.load(Relaxed),
            get: self.get.load(Relaxed),
            head: self.head.load(Relaxed),
            list: self.list.load(Relaxed),
            delete: self.delete.load(Relaxed),
            other: self.other.load(Relaxed),
            conditions_failed: self.conditions_failed.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}
