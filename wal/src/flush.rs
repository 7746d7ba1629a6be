//! Group commit: how gathered records reach the disk. One flush is in flight at a time; what is appended meanwhile forms
//! the next group. A lone committer flushes itself; under load a thread takes over while the next group gathers.
//! This is the only place that moves the flush LSN of a log that is appended to.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::format::RECORD_HEADER_SIZE;
use crate::log::{Active, Shared, Tail};
use crate::lsn::Lsn;
use crate::mutant::{Mutant, planted};
use crate::storage::{AlignedBuffer, BLOCK_SIZE, write_all_at};

/// Bytes of one segment that wait for a flush, from a block boundary on: the block that holds the old end comes again,
/// since direct I/O writes whole blocks, and by the fault model rewriting the same bytes is harmless.
pub(crate) struct Gather {
    active: Arc<Active>,
    /// Offset in the segment of the first byte; a multiple of the block size.
    base: usize,
    bytes: AlignedBuffer,
    /// How many of the bytes were already flushed.
    old: usize,
}

impl Gather {
    /// A piece that goes on at `offset`, where the block already holds `head` (its last bytes count, up to `offset`).
    pub(crate) fn resumed(active: Arc<Active>, offset: u32, head: &[u8]) -> Self {
        let offset = offset as usize;
        let base = offset / BLOCK_SIZE * BLOCK_SIZE;
        let old = offset - base;
        let mut bytes = AlignedBuffer::with_capacity(16 * BLOCK_SIZE);
        bytes.extend_from_slice(&head[head.len() - old..]);
        Self { active, base, bytes, old }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn push_zeros(&mut self, count: usize) {
        self.bytes.reserve(count);
        self.bytes.resize(self.bytes.len() + count);
    }

    /// Whether it holds nothing that is not flushed.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == self.old
    }

    fn end(&self) -> usize {
        self.base + self.bytes.len()
    }

    fn is_full(&self) -> bool {
        self.end() == self.active.header.size.bytes() as usize
    }

    /// Writes it with an end mark behind it, and syncs.
    fn write(&mut self) -> io::Result<()> {
        let segment = self.active.header.size.bytes() as usize;
        let len = self.bytes.len();
        let marked =
            (self.end() + RECORD_HEADER_SIZE).min(segment).next_multiple_of(BLOCK_SIZE).min(segment) - self.base;
        self.bytes.reserve(marked - len);
        self.bytes.resize(marked);
        write_all_at(&*self.active.file, &self.bytes, self.base as u64)?;
        self.bytes.resize(len);
        Ok(())
    }
}

/// Who flushes.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Somebody appended and waits, and no flush that began after that has been promised yet.
    pending: bool,
    closed: bool,
}

/// The answer to one who wants a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Flush yourself, then call `finish`.
    Lead,
    /// A flush that includes your records will follow.
    Follow,
}

impl Flusher {
    fn enter(&self) -> Turn {
        let mut state = self.state.lock();
        if state.running {
            state.pending = true;
            Turn::Follow
        } else {
            state.running = true;
            Turn::Lead
        }
    }

    /// Ends a leader's turn. If others came meanwhile the thread goes on with them: the leader has its own caller to serve.
    fn finish(&self) {
        let mut state = self.state.lock();
        state.running = false;
        if state.pending {
            self.wanted.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wanted.notify_one();
    }
}

/// The body of the flusher thread.
pub(crate) fn run_flusher(shared: &Shared) {
    loop {
        {
            let mut state = shared.flusher.state.lock();
            while !state.pending || state.running {
                if state.closed {
                    return;
                }
                shared.flusher.wanted.wait(&mut state);
            }
            state.pending = false;
            state.running = true;
        }
        shared.flush_group();
        shared.flusher.finish();
    }
}

impl Shared {
    /// Sees to it that everything up to `lsn` is flushed, and waits for it.
    pub(crate) fn flush_until(&self, lsn: Lsn, deadline: Option<Instant>) -> Result<Lsn> {
        loop {
            let flushed = self.flushed.value();
            if flushed >= lsn {
                return Ok(flushed);
            }
            if let Some(error) = self.flushed.stopped() {
                return Err(error);
            }
            match self.flusher.enter() {
                Turn::Lead => {
                    self.flush_group();
                    self.flusher.finish();
                }
                Turn::Follow if self.threaded() => return self.flushed.wait_for(lsn, deadline),
                // Without a flusher thread the leader's successor is whoever still waits.
                Turn::Follow => std::thread::yield_now(),
            }
        }
    }

    /// Asks the flusher thread for a flush of what is gathered.
    pub(crate) fn request_flush(&self) {
        let mut state = self.flusher.state.lock();
        if !state.pending {
            state.pending = true;
            if !state.running {
                self.flusher.wanted.notify_one();
            }
        }
    }

    /// For an append that finds the buffer full.
    pub(crate) fn flush_or_wait_for_room(&self, tail: &mut MutexGuard<'_, Tail>) {
        match self.flusher.enter() {
            Turn::Lead => MutexGuard::unlocked(tail, || {
                self.flush_group();
                self.flusher.finish();
            }),
            Turn::Follow => {
                self.room.wait_for(tail, std::time::Duration::from_millis(10));
            }
        }
    }

    /// Writes and syncs everything gathered. Called by whoever has the turn. An error ends the log: it is not known what
    /// of the group is on the disk, and the kernel may have dropped it, so nothing is tried again.
    fn flush_group(&self) {
        let (mut group, end) = {
            let mut tail = self.tail.lock();
            if tail.poisoned.is_some() || tail.gathered.iter().all(Gather::is_empty) {
                return;
            }
            let group = std::mem::take(&mut tail.gathered);
            tail.gathered_bytes = 0;
            if let Some(last) = group.back()
                && !last.is_full()
            {
                let offset = u32::try_from(last.end()).expect("a segment is at most 1 GiB");
                tail.gathered.push_back(Gather::resumed(last.active.clone(), offset, &last.bytes));
            }
            (group, tail.end.lsn)
        };
        if planted(Mutant::AcknowledgeBeforeSync) {
            self.flushed.advance(end);
        }
        let started = Instant::now();
        let result = self.write_group(&mut group);
        self.count_flush(started);
        match result {
            Ok(()) => {
                self.written.fetch_max(end.offset(), Ordering::AcqRel);
                self.flushed.advance(end);
            }
            Err(error) => self.poison(&error),
        }
        // The lock is taken so that nobody checks for room and then misses the signal.
        drop(self.tail.lock());
        self.room.notify_all();
    }

    /// A flush never spans segments: the earlier file is synced before the later one is written.
    fn write_group(&self, group: &mut VecDeque<Gather>) -> Result<()> {
        for gather in group.iter_mut().filter(|gather| !gather.is_empty()) {
            let path = self.path_of(segment_id(&gather.active));
            gather.write().map_err(|error| Error::io("write", &path, error))?;
            self.written.fetch_max(self.lsn_at(&gather.active, gather.end()).offset(), Ordering::AcqRel);
            if planted(Mutant::NoSync) {
                continue;
            }
            gather.active.file.sync_data().map_err(|error| Error::io("sync", path, error))?;
        }
        Ok(())
    }

    pub(crate) fn count_flush(&self, started: Instant) {
        let micros = started.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.counters.flush_micros.fetch_add(micros, Ordering::Relaxed);
        self.counters.flush_micros_max.fetch_max(micros, Ordering::Relaxed);
    }

    pub(crate) fn poison(&self, error: &Error) {
        let flushed = self.flushed.value();
        tracing::error!(%error, %flushed, "the log stops: a write or sync failed");
        let poisoned = Error::Poisoned { flushed, cause: error.to_string().into() };
        self.tail.lock().poisoned.get_or_insert(poisoned.clone());
        self.flushed.stop(poisoned);
    }

    fn lsn_at(&self, active: &Active, offset: usize) -> Lsn {
        active.header.size.start_of(active.header.segment).advance(offset as u64)
    }
}

pub(crate) fn segment_id(active: &Active) -> crate::segment::SegmentId {
    crate::segment::SegmentId { number: active.header.segment, timeline: active.header.timeline }
}
