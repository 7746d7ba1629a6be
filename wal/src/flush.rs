//! Group commit: how gathered records reach the disk. One flush is in flight at a time; what is appended meanwhile forms
//! the next group. A lone committer flushes itself; under load a thread takes over while the next group gathers.
//! This is the only place that moves the flush LSN of a log that is appended to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crowd::GroupNumber;
use crate::error::{Error, Result};
use crate::format::RECORD_HEADER_SIZE;
use crate::log::{Active, Shared, Tail};
use crate::lsn::Lsn;
use crate::mutant::{Mutant, planted};
use crate::panic::caught;
use crate::probe::AFTER_FLUSHES;
use crate::race::{self, Mutant as Race};
use crate::schedule::ask_for_short_turns;
use crate::storage::{AlignedBuffer, BLOCK_SIZE, DurableWrite, File, write_all_at};
use crate::sync::atomic::Ordering;
use crate::sync::{Condvar, Mutex, MutexGuard, now, thread};

/// Bytes of records that one write takes, unless a single record is larger: more would make those wait who came first.
const GROUP_BYTES: usize = 1 << 20;
/// How long what nobody waits for may stay unflushed.
const UNHURRIED: Duration = Duration::from_millis(1);
/// Buffers kept for the groups to come: one gathers while one is written.
const SPARE_BUFFERS_MAX: usize = 3;

/// Bytes of one segment that wait for a flush, from a block boundary on: the block that holds the old end comes again,
/// since direct I/O writes whole blocks, and by the fault model rewriting the same bytes is harmless.
pub(crate) struct Gather {
    active: Arc<Active>,
    /// For those who wait for it.
    number: GroupNumber,
    /// Offset in the segment of the first byte; a multiple of the block size.
    base: usize,
    bytes: AlignedBuffer,
    /// How many of the bytes belong to an earlier group.
    old: usize,
}

impl Gather {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    fn push_zeros(&mut self, count: usize) {
        self.bytes.reserve(count);
        self.bytes.resize(self.bytes.len() + count);
    }

    /// Whether it holds nothing that is not in an earlier group.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == self.old
    }

    /// Bytes that are in no earlier group.
    fn new_bytes(&self) -> usize {
        self.bytes.len() - self.old
    }

    fn end(&self) -> usize {
        self.base + self.bytes.len()
    }

    fn end_lsn(&self) -> Lsn {
        self.active.header.size.start_of(self.active.header.segment).advance(self.end() as u64)
    }

    fn is_full(&self) -> bool {
        self.end() == self.active.header.size.bytes() as usize
    }

    /// Gives what to write: whole blocks with an end mark behind the records.
    fn with_end_mark<T>(&mut self, write: impl FnOnce(&dyn File, &[u8], u64) -> T) -> T {
        let segment = self.active.header.size.bytes() as usize;
        let len = self.bytes.len();
        let marked =
            (self.end() + RECORD_HEADER_SIZE).min(segment).next_multiple_of(BLOCK_SIZE).min(segment) - self.base;
        self.bytes.reserve(marked - len);
        self.bytes.resize(marked);
        let written = write(&*self.active.file, &self.bytes, self.base as u64);
        self.bytes.resize(len);
        written
    }
}

/// Records not yet handed to a flush, oldest first: each piece is written and synced by itself, and all lie in one segment.
/// Once a log is under way nothing here allocates: buffers go round.
#[derive(Default)]
pub(crate) struct Gathered {
    /// The last is of the active segment.
    pieces: VecDeque<Gather>,
    /// Of records that no flush has taken.
    bytes: usize,
    /// Of the last piece.
    number: GroupNumber,
    spare: Vec<AlignedBuffer>,
}

impl Gathered {
    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The group that was added to last.
    pub(crate) fn number(&self) -> GroupNumber {
        self.number
    }

    /// Goes on in a segment at `offset`, where the block already holds `head` (its last bytes count, up to `offset`).
    pub(crate) fn resume(&mut self, active: &Arc<Active>, offset: usize, head: &[u8]) {
        let base = offset / BLOCK_SIZE * BLOCK_SIZE;
        let old = offset - base;
        let mut bytes = self.spare.pop().unwrap_or_else(|| {
            // The old block before it, and the end mark behind it.
            AlignedBuffer::with_capacity(GROUP_BYTES.min(active.header.size.bytes() as usize) + 2 * BLOCK_SIZE)
        });
        bytes.extend_from_slice(&head[head.len() - old..]);
        self.number = GroupNumber(self.number.0 + 1);
        self.pieces.push_back(Gather { active: Arc::clone(active), number: self.number, base, bytes, old });
    }

    /// Adds bytes to the active segment: those of one header or record, which `parts` and then `zeros` zeros make up.
    pub(crate) fn push(&mut self, parts: [&[u8]; 2], zeros: usize) {
        let extent = parts[0].len() + parts[1].len() + zeros;
        let last = self.pieces.back().expect("the active segment has a piece");
        if !last.is_empty() && last.new_bytes() + extent > GROUP_BYTES {
            self.split();
        }
        let last = self.pieces.back_mut().expect("the active segment has a piece");
        parts.into_iter().for_each(|part| last.push(part));
        last.push_zeros(zeros);
        self.bytes += extent;
    }

    /// Ends the last piece where it is, and begins the next one there.
    fn split(&mut self) {
        let last = self.pieces.pop_back().expect("the active segment has a piece");
        let active = Arc::clone(&last.active);
        self.resume(&active, last.end(), &last.bytes);
        let place = self.pieces.len() - 1;
        self.pieces.insert(place, last);
    }

    /// Takes the oldest piece that holds anything; the next record begins another one.
    fn take(&mut self) -> Option<Gather> {
        while self.pieces.len() > 1 && self.pieces[0].is_empty() {
            // Its segment is full and flushed.
            let done = self.pieces.pop_front();
            done.into_iter().for_each(|done| self.give_back(done));
        }
        if self.pieces.front()?.is_empty() {
            return None;
        }
        if self.pieces.len() == 1 && !self.pieces[0].is_full() {
            self.split();
        }
        let taken = self.pieces.pop_front()?;
        self.bytes -= taken.new_bytes();
        Some(taken)
    }

    fn give_back(&mut self, done: Gather) {
        let Gather { mut bytes, active, .. } = done;
        let usual = GROUP_BYTES.min(active.header.size.bytes() as usize) + 2 * BLOCK_SIZE;
        if self.spare.len() < SPARE_BUFFERS_MAX && bytes.capacity() == usual {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Forgets every piece; there is nothing in them that is not flushed.
    pub(crate) fn clear(&mut self) {
        assert_eq!(self.bytes, 0, "what was not flushed is not forgotten");
        while let Some(piece) = self.pieces.pop_front() {
            self.give_back(piece);
        }
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
    /// Somebody appended and does not wait.
    unhurried: bool,
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
        if (state.pending || state.unhurried) && !race::planted(Race::TurnNotPassedOn) {
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
    ask_for_short_turns();
    loop {
        {
            let mut state = shared.flusher.state.lock();
            while !state.pending || state.running {
                if state.closed {
                    return;
                }
                if state.unhurried && !state.running {
                    // Whoever comes meanwhile and waits ends the pause.
                    state.pending |= shared.flusher.wanted.wait_for(&mut state, UNHURRIED).timed_out();
                } else {
                    shared.flusher.wanted.wait(&mut state);
                }
            }
            (state.pending, state.unhurried, state.running) = (false, false, true);
        }
        shared.flush_group();
        if race::planted(Race::RequestForgotten) {
            shared.flusher.state.lock().pending = false;
        }
        shared.flusher.finish();
    }
}

impl Shared {
    /// Sees to it that everything up to `lsn` is flushed, and waits for it: with its group, if the caller knows which one.
    pub(crate) fn flush_until(&self, lsn: Lsn, group: Option<GroupNumber>, deadline: Option<Instant>) -> Result<Lsn> {
        loop {
            // In this order: the last flush comes before the end, and what it reached is reached.
            let stopped = self.flushed.stopped();
            let flushed = self.flushed.value();
            if flushed >= lsn {
                return Ok(flushed);
            }
            let stopped = if race::planted(Race::EndSeenLast) { self.flushed.stopped() } else { stopped };
            if let Some(error) = stopped {
                return Err(error);
            }
            if deadline.is_some() && self.threaded() {
                // Who flushes has no say in how long it takes.
                self.request_flush();
                return self.await_flush(lsn, group, deadline);
            }
            match self.flusher.enter() {
                Turn::Lead => {
                    self.flush_group();
                    self.flusher.finish();
                }
                Turn::Follow if self.threaded() => return self.await_flush(lsn, group, deadline),
                // Without a flusher thread the leader's successor is whoever still waits.
                Turn::Follow => thread::yield_now(),
            }
        }
    }

    /// Waits for a flush that somebody else will do.
    fn await_flush(&self, lsn: Lsn, group: Option<GroupNumber>, deadline: Option<Instant>) -> Result<Lsn> {
        let Some(group) = group else { return self.flushed.wait_for(lsn, deadline) };
        self.crowd.wait(group, deadline, || self.flushed.value() >= lsn || self.flushed.is_stopped());
        // In this order, as above.
        let stopped = self.flushed.stopped();
        match self.flushed.value() {
            flushed if flushed >= lsn => Ok(flushed),
            _ => Err(stopped.unwrap_or(Error::TimedOut { lsn })),
        }
    }

    /// Asks the flusher thread for a flush of what is gathered within a moment, for those who do not wait: one flush for each
    /// of their records would keep device and processor busy for nobody.
    pub(crate) fn request_flush_unhurried(&self) {
        let mut state = self.flusher.state.lock();
        if !state.pending && !state.unhurried {
            state.unhurried = true;
            if !state.running {
                self.flusher.wanted.notify_one();
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
        if !self.threaded() && self.flusher.enter() == Turn::Lead {
            MutexGuard::unlocked(tail, || {
                self.flush_group();
                self.flusher.finish();
            });
            return;
        }
        // With a flusher it flushes, so that whoever wants to append waits no longer than they want to.
        self.request_flush();
        self.room.wait_for(tail, Duration::from_millis(10));
    }

    /// Writes and syncs everything gathered when it was called, a piece at a time. Called by whoever has the turn. An error
    /// ends the log: it is not known what of the piece is on the disk, and the kernel may have dropped it, so nothing is
    /// tried again.
    fn flush_group(&self) {
        let mut tail = self.tail.lock();
        let end = tail.end.lsn;
        while tail.poisoned.is_none()
            && self.flushed.value() < end
            && let Some(mut piece) = tail.gathered.take()
        {
            drop(tail);
            let flushed = caught("flushes the log", || self.flush_piece(&mut piece)).flatten();
            tail = self.tail.lock();
            match flushed {
                Ok(()) => tail.gathered.give_back(piece),
                Err(error) => drop(self.poison(&mut tail, &error)),
            }
            // Signalled under the lock, so that nobody checks for room and then misses it.
            self.room.notify_all();
        }
    }

    /// A flush never spans segments: the earlier file is synced before the later one is written.
    fn flush_piece(&self, piece: &mut Gather) -> Result<()> {
        let end = match race::planted(Race::FlushedToTheEnd) {
            true => self.tail.lock().end.lsn,
            false => piece.end_lsn(),
        };
        if planted(Mutant::AcknowledgeBeforeSync) {
            self.flushed.advance(end);
        }
        let id = segment_id(&piece.active);
        let failed = |operation| move |error| Error::io(operation, self.path_of(id), error);
        let started = now();
        self.counters.flush_began.store(self.micros(), Ordering::Relaxed);
        let way = self.way.read().now();
        match way {
            DurableWrite::ThenSync => {
                if planted(Mutant::SyncBeforeWrite) {
                    piece.active.file.sync_data().map_err(failed("sync"))?;
                }
                piece.with_end_mark(|file, bytes, at| write_all_at(file, bytes, at)).map_err(failed("write"))?;
                self.written.fetch_max(end.offset(), Ordering::AcqRel);
                if !planted(Mutant::NoSync) && !planted(Mutant::SyncBeforeWrite) {
                    let file = &piece.active.file;
                    let again = |error| if planted(Mutant::RetryFailedSync) { file.sync_data() } else { Err(error) };
                    file.sync_data().or_else(again).map_err(failed("sync"))?;
                }
            }
            _ => {
                let write = |file: &dyn File, bytes: &[u8], offset| file.write_durable(bytes, offset, way);
                piece.with_end_mark(write).map_err(failed("write and sync"))?;
                self.written.fetch_max(end.offset(), Ordering::AcqRel);
            }
        }
        self.count_flush(started);
        // Before anybody is told that there is more.
        let new = &piece.bytes[piece.old..];
        self.recent.push(Lsn::new(end.offset() - new.len() as u64), new);
        if race::planted(Race::WokenBeforeFlushed) {
            self.crowd.wake(piece.number);
            self.flushed.advance(end);
            return Ok(());
        }
        self.flushed.advance(end);
        self.crowd.wake(piece.number);
        Ok(())
    }

    pub(crate) fn count_flush(&self, started: Instant) {
        self.counters.flush_began.store(0, Ordering::Relaxed);
        let micros = (now() - started).as_micros().try_into().unwrap_or(u64::MAX);
        let before = self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        if before + 1 == AFTER_FLUSHES && self.threaded() {
            self.preparer.request_probe();
        }
        self.counters.flush_micros.fetch_add(micros, Ordering::Relaxed);
        self.counters.flush_micros_max.fetch_max(micros, Ordering::Relaxed);
    }

    /// Ends the log: nothing more is taken, and whoever waits is told.
    pub(crate) fn poison(&self, tail: &mut Tail, error: &Error) -> Error {
        self.counters.flush_began.store(0, Ordering::Relaxed);
        let flushed = self.flushed.value();
        tracing::error!(%error, %flushed, "the log stops");
        let poisoned = Error::Poisoned { flushed, cause: error.to_string().into() };
        tail.poisoned.get_or_insert(poisoned.clone());
        self.flushed.stop(poisoned.clone());
        if !race::planted(Race::ThreadsNotTold) {
            self.crowd.wake_all();
        }
        poisoned
    }
}

pub(crate) fn segment_id(active: &Active) -> crate::segment::SegmentId {
    crate::segment::SegmentId { number: active.header.segment, timeline: active.header.timeline }
}
