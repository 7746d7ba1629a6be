//! Commits that are in the log and not yet in the memtables. Appending holds the lock of order for a moment; applying
//! happens after it, by one committer at a time for all who came meanwhile, while the log is being flushed.

use seawall_wal::sync::{Mutex, MutexGuard};
use seawall_wal::{Position, Timestamp};

/// Payload bytes that may wait; who comes then applies before going on. One who applies takes all of them, and so is kept
/// from its own caller by as much: some milliseconds.
const BYTES_MAX: usize = 512 << 10;

/// A commit that waits to be applied.
pub(crate) struct PendingCommit {
    pub(crate) payload: Vec<u8>,
    pub(crate) position: Position,
    pub(crate) time: Timestamp,
}

/// Commits in the order of their LSNs.
#[derive(Default)]
pub(crate) struct Pending {
    queue: Mutex<Queue>,
    /// The commits that were taken last; empty again when the lock is given back.
    applying: Mutex<Vec<PendingCommit>>,
}

#[derive(Default)]
struct Queue {
    commits: Vec<PendingCommit>,
    bytes: usize,
}

/// The right to apply: at most one has it.
pub(crate) struct Applier<'a> {
    pending: &'a Pending,
    taken: MutexGuard<'a, Vec<PendingCommit>>,
}

impl Pending {
    /// Adds a commit. The caller holds the lock of order, so that LSNs rise. Says whether the queue is full.
    pub(crate) fn push(&self, commit: PendingCommit) -> bool {
        let mut queue = self.queue.lock();
        queue.bytes += commit.payload.len();
        queue.commits.push(commit);
        queue.bytes > BYTES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().commits.is_empty()
    }

    /// The right to apply, waiting for whoever has it.
    pub(crate) fn applier(&self) -> Applier<'_> {
        Applier { pending: self, taken: self.applying.lock() }
    }

    /// The right to apply, if nobody has it. Who has it looks again after giving it back.
    pub(crate) fn try_applier(&self) -> Option<Applier<'_>> {
        Some(Applier { pending: self, taken: self.applying.try_lock()? })
    }
}

impl Applier<'_> {
    /// Takes everything that is queued now.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = PendingCommit> {
        let mut queue = self.pending.queue.lock();
        queue.bytes = 0;
        std::mem::swap(&mut queue.commits, &mut self.taken);
        drop(queue);
        self.taken.drain(..)
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queue = self.queue.lock();
        write!(f, "Pending({} commits, {} bytes)", queue.commits.len(), queue.bytes)
    }
}
