//! The log of a node: where it ends, what is flushed, and the two ways it grows. `append` adds records of this node,
//! `receive` adds another node's bytes verbatim; a log does one or the other. How a group reaches the disk is `flush`'s
//! business, how the end is found after a crash is `open`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::clock::{Clock, Timestamp};
use crate::crowd::Crowd;
use crate::damage::Damages;
use crate::error::{Error, Result};
use crate::flush::{Flusher, Gathered, run_flusher};
use crate::format::{
    Position, RECORD_HEADER_SIZE, RecordHeader, RecordKind, SegmentHeader, payload_crc, payload_len_max, record_end,
};
use crate::lsn::{Lsn, SegmentNumber};
use crate::mutant::{Mutant, planted};
use crate::options::{LogOptions, Threads};
use crate::panic::caught;
use crate::probe::Way;
use crate::recent::Recent;
use crate::segment::{Preparer, SegmentId};
use crate::stats::Counters;
use crate::storage::{File, Storage};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard, RwLock, now};
use crate::ticket::Ticket;
use crate::timeline::{TimelineEntry, TimelineHistory};
use crate::watch::LsnWatch;

/// How a log grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// By this node's records: a primary.
    Append,
    /// By another node's bytes: a standby, or a restore.
    Receive,
}

/// Something that has a log: a database, or a log alone.
pub trait LogOwner: Send + Sync + 'static {
    /// Its log.
    fn log(&self) -> &Log;
}

impl LogOwner for Log {
    fn log(&self) -> &Log {
        self
    }
}

/// An open log. Dropping it flushes what was appended and ends its threads.
pub struct Log {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) tail: Mutex<Tail>,
    /// Whether the mode is [`LogMode::Receive`]. Changes only under the tail's lock.
    pub(crate) receiving: AtomicBool,
    /// Signalled when buffered bytes have been flushed.
    pub(crate) room: Condvar,
    pub(crate) flusher: Flusher,
    /// Threads that wait for a flush; tasks wait at `flushed`.
    pub(crate) crowd: Crowd,
    /// Up to here the log survives power loss. `flushed <= written <= end`.
    pub(crate) flushed: LsnWatch,
    /// Up to here the log is with the operating system.
    pub(crate) written: AtomicU64,
    pub(crate) history: RwLock<TimelineHistory>,
    /// Segments that have begun, for readers and retention; without a header those whose header is damaged.
    pub(crate) segments: RwLock<BTreeMap<SegmentNumber, Option<SegmentHeader>>>,
    pub(crate) recent: Recent,
    pub(crate) preparer: Preparer,
    /// How groups are written; the preparer finds out what is fastest once that matters.
    pub(crate) way: RwLock<Way>,
    pub(crate) counters: Counters,
    /// What opening and readers met that does not check out.
    pub(crate) damages: Mutex<Damages>,
    /// Held by who repairs a segment, for as long as that takes; no other lock is held by who waits for it.
    pub(crate) repairing: Mutex<()>,
    opened: Instant,
}

/// Where the log grows. One lock covers position, time, chain and the copy into the buffer.
pub(crate) struct Tail {
    /// Where the last record ends.
    pub(crate) end: Position,
    pub(crate) last_time: Timestamp,
    /// The segment that holds the end; none before the first record of a timeline.
    pub(crate) active: Option<Arc<Active>>,
    /// Records not yet handed to a flush.
    pub(crate) gathered: Gathered,
    pub(crate) poisoned: Option<Error>,
}

/// The segment being written.
pub(crate) struct Active {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn File>,
}

/// Everything `open` found out.
pub(crate) struct Opened {
    pub(crate) end: Position,
    pub(crate) last_time: Timestamp,
    pub(crate) active: Option<Active>,
    /// The bytes of the block that holds the end, up to the end.
    pub(crate) tail_block: Vec<u8>,
    pub(crate) segments: BTreeMap<SegmentNumber, Option<SegmentHeader>>,
    /// Of them those that are damaged.
    pub(crate) damages: Damages,
    /// Files of a segment's size whose content nobody needs.
    pub(crate) unused: Vec<PathBuf>,
}

impl Log {
    pub(crate) fn start(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        options: LogOptions,
        history: &TimelineHistory,
        mode: LogMode,
        opened: Opened,
    ) -> Result<Self> {
        let preparer = Preparer::new(storage.clone(), dir.to_owned(), options.segment_size)?;
        opened.unused.into_iter().for_each(|path| preparer.retire(path));
        let active = opened.active.map(Arc::new);
        let mut gathered = Gathered::default();
        if let Some(active) = &active
            && options.segment_size.end_of(active.header.segment) > opened.end.lsn
        {
            let offset = options.segment_size.offset_in_segment(opened.end.lsn);
            gathered.resume(active, offset as usize, &opened.tail_block);
        }
        let tail = Tail { end: opened.end, last_time: opened.last_time, active, gathered, poisoned: None };
        let shared = Arc::new(Shared {
            storage,
            clock,
            dir: dir.to_owned(),
            options: LogOptions {
                buffer_bytes_max: options.buffer_bytes_max.max(2 * payload_len_max(options.segment_size)),
                ..options
            },
            flushed: LsnWatch::new(opened.end.lsn),
            written: AtomicU64::new(opened.end.lsn.offset()),
            tail: Mutex::new(tail),
            receiving: AtomicBool::new(mode == LogMode::Receive),
            room: Condvar::new(),
            flusher: Flusher::default(),
            crowd: Crowd::default(),
            history: RwLock::new(history.clone()),
            segments: RwLock::new(opened.segments),
            recent: Recent::default(),
            preparer,
            way: RwLock::default(),
            counters: Counters::default(),
            damages: Mutex::new(opened.damages),
            repairing: Mutex::default(),
            opened: now(),
        });
        let mut threads = Vec::new();
        if options.threads == Threads::Background {
            shared.preparer.want(shared.segment_after(opened.end.lsn));
            let preparing = shared.clone();
            threads.push(spawn("seawall-prepare", move || run_preparer(&preparing))?);
            let flushing = shared.clone();
            threads.push(spawn("seawall-flush", move || run_flusher(&flushing))?);
        }
        Ok(Self { shared, threads })
    }

    /// Adds a record and says where it ends and how to wait for it. Records become durable in the order of their
    /// positions. Blocks only while the buffer is full or the next segment is not ready.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::WrongMode`], [`Error::Poisoned`], [`Error::DiskFull`] while no room can be had for
    /// another segment, or [`Error::Stalled`] if the disk does not answer for [`LogOptions::stall_timeout`]; after none of
    /// them anything was added.
    pub fn append(&self, kind: RecordKind, payload: &[u8]) -> Result<Ticket> {
        self.append_with(kind, payload, None, Patience::new(None, None))
    }

    /// As [`append`](Self::append), waiting for room until `deadline` only. A caller that waited for something else before
    /// says since when: what room there has been since then it need not ask for again.
    pub fn append_until(
        &self,
        kind: RecordKind,
        payload: &[u8],
        since: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Result<Ticket> {
        self.append_with(kind, payload, None, Patience::new(since, deadline))
    }

    /// As [`append`](Self::append), with a commit time chosen by the caller, which must be later than the last one's.
    /// For tests and for tools that build a log.
    pub fn append_at(&self, kind: RecordKind, payload: &[u8], time: Option<Timestamp>) -> Result<Ticket> {
        self.append_with(kind, payload, time, Patience::new(None, None))
    }

    fn append_with(
        &self,
        kind: RecordKind,
        payload: &[u8],
        time: Option<Timestamp>,
        mut patience: Patience,
    ) -> Result<Ticket> {
        let shared = &self.shared;
        let max = payload_len_max(shared.options.segment_size);
        if payload.len() > max {
            return Err(Error::TooLarge { size: payload.len(), max });
        }
        let crc = payload_crc(payload);
        let mut tail = shared.tail.lock();
        loop {
            if self.mode() == LogMode::Receive {
                return Err(Error::WrongMode { operation: "append", actual: "receiving" });
            }
            if let Some(error) = &tail.poisoned {
                return Err(error.clone());
            }
            if tail.gathered.bytes() + payload.len() > shared.options.buffer_bytes_max {
                patience.spend(shared)?;
                shared.flush_or_wait_for_room(&mut tail);
                continue;
            }
            let Some(next) = shared.segment_for(&tail, payload.len()) else { break };
            if !shared.threaded() || shared.preparer.is_ready(next) {
                shared.begin_segment(&mut tail, next)?;
                break;
            }
            // Without the lock: flushes of what is gathered go on meanwhile.
            let (asked, deadline) = patience.spend(shared)?;
            MutexGuard::unlocked(&mut tail, || shared.preparer.await_ready(next, asked, deadline))?;
        }
        let now = time.unwrap_or_else(|| shared.clock.now().max(tail.last_time.next()));
        assert!(now > tail.last_time, "commit times strictly increase");
        let position = shared.add_record(&mut tail, kind, payload, crc, now);
        let group = tail.gathered.number();
        drop(tail);
        shared.counters.records.fetch_add(1, Ordering::Relaxed);
        Ok(Ticket::new(shared.clone(), position, now, group))
    }

    /// Where the last record ends, flushed or not.
    pub fn end(&self) -> Position {
        self.shared.tail.lock().end
    }

    /// The time of the last record.
    pub fn last_time(&self) -> Timestamp {
        self.shared.tail.lock().last_time
    }

    /// Up to where the log survives power loss. Rises; can be waited on.
    pub fn flushed(&self) -> &LsnWatch {
        &self.shared.flushed
    }

    /// Up to where the log is with the operating system.
    pub fn written(&self) -> Lsn {
        Lsn::new(self.shared.written.load(Ordering::Acquire))
    }

    /// How it grows now.
    pub fn mode(&self) -> LogMode {
        match self.shared.receiving.load(Ordering::Acquire) {
            true => LogMode::Receive,
            false => LogMode::Append,
        }
    }

    /// Whose histories it holds.
    pub fn history(&self) -> TimelineHistory {
        self.shared.history.read().clone()
    }

    /// What it was opened with.
    pub fn options(&self) -> &LogOptions {
        &self.shared.options
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Flushes everything appended or received so far and waits for it.
    pub fn flush(&self) -> Result<Lsn> {
        let end = self.end().lsn;
        match self.mode() {
            LogMode::Append => self.shared.flush_until(end, None, None),
            LogMode::Receive => self.flush_received(),
        }
    }

    /// Keeps what is flushed from now on in memory for a while, so that those who pass it on need not read the disk. Meant
    /// for whoever feeds standbys or an archive; takes [`LogOptions::recent_bytes_max`] of memory.
    pub fn keep_recent(&self) {
        self.shared.recent.keep(self.shared.options.recent_bytes_max);
    }

    /// Writes groups this way from now on, whatever is fastest. The storage must know it: a way through a ring where the I/O
    /// path is none ends the log.
    #[cfg(any(test, feature = "simulated"))]
    pub fn write_by(&self, way: crate::storage::DurableWrite) {
        self.shared.way.write().given = Some(way);
    }

    /// Asks for everything appended so far to be flushed within about a millisecond, without waiting.
    pub fn request_flush(&self) {
        self.shared.request_flush_unhurried();
    }

    /// The error after which the log takes nothing more, if there was one.
    pub fn poisoned(&self) -> Option<Error> {
        self.shared.tail.lock().poisoned.clone()
    }

    /// Starts a timeline that forks from the current one at the log's end: a promotion. From now on the log is appended
    /// to. The caller has made `history` durable before.
    ///
    /// # Errors
    /// [`Error::Discontinuous`] if the history does not fork exactly at the end.
    pub fn begin_timeline(&self, history: &TimelineHistory) -> Result<()> {
        let shared = &self.shared;
        self.flush()?;
        let mut tail = shared.tail.lock();
        let fork = history.current().fork;
        if fork != tail.end || shared.flushed.value() != tail.end.lsn {
            return Err(Error::Discontinuous { at: tail.end, why: "the new timeline does not fork at its end" });
        }
        shared.extend_history(&tail, history)?;
        shared.receiving.store(false, Ordering::Release);
        tail.active = None;
        tail.gathered.clear();
        Ok(())
    }

    /// Makes an append-only log of a cluster that was just created receive instead, or the reverse, with no records
    /// added meanwhile. A standby that is told of its role at start uses it.
    pub fn set_mode(&self, mode: LogMode) -> Result<()> {
        self.flush()?;
        let _tail = self.shared.tail.lock();
        self.shared.receiving.store(mode == LogMode::Receive, Ordering::Release);
        Ok(())
    }

    /// The oldest position from which the log can be read here.
    pub fn oldest(&self) -> Lsn {
        self.shared.oldest()
    }

    /// Where reading has to start so that everything after `redo` is read: where the records before redo's segment end.
    /// Recovery and base backups start there, so that a log always begins with a whole segment.
    pub fn replay_start(&self, redo: Position) -> Result<Position> {
        let size = self.shared.options.segment_size;
        let next = self.shared.history.read().next_byte(redo.lsn);
        if next == size.start_of(size.segment_of(next)) {
            return Ok(redo);
        }
        let header = self.shared.segments.read().get(&size.segment_of(next)).copied().flatten();
        header.map(|header| header.previous).ok_or_else(|| self.shared.removed(redo.lsn))
    }

    /// Lets go of segments that lie wholly before `keep_from`; the one being written always stays.
    /// Returns how many were retired.
    pub fn recycle_before(&self, keep_from: Lsn) -> usize {
        let shared = &self.shared;
        let size = shared.options.segment_size;
        let active = shared.tail.lock().active.as_ref().map(|active| active.header.segment);
        let history = self.history();
        let mut retired = 0;
        // Held to the end: whoever else lets go of segments queues them behind these.
        let mut segments = shared.segments.write();
        while let Some(number) = segments.first_key_value().map(|(number, _)| *number) {
            // A timeline's fork may lie in a segment that its child's first segment follows at once.
            if Some(number) == active || size.end_of(number) > keep_from.min(shared.flushed.value()) {
                break;
            }
            segments.pop_first();
            let id = SegmentId { number, timeline: history.of_segment(number, size).id };
            shared.preparer.retire(shared.dir.join(id.file_name()));
            retired += 1;
        }
        retired
    }

    /// Flushes, ends the threads and reports what could not be flushed.
    pub fn close(mut self) -> Result<Lsn> {
        let flushed = self.flush();
        self.stop_threads();
        flushed
    }

    fn stop_threads(&mut self) {
        self.shared.preparer.close();
        self.shared.flusher.close();
        for thread in self.threads.drain(..) {
            // A panic there has already been printed, and there is nothing left for it to do.
            let _ = thread.join();
        }
        self.shared.flushed.stop(Error::Closed);
        self.shared.crowd.wake_all();
    }
}

/// How long an append waits for room. The clock is asked only by those who wait.
struct Patience {
    /// Since when the caller waits, once it does.
    since: Option<Instant>,
    deadline: Option<Instant>,
}

impl Patience {
    fn new(since: Option<Instant>, deadline: Option<Instant>) -> Self {
        Self { since, deadline }
    }

    /// Since when it is waited, and until when it may be.
    fn spend(&mut self, shared: &Shared) -> Result<(Instant, Instant)> {
        let now = now();
        let since = *self.since.get_or_insert(now);
        let deadline = self.deadline.unwrap_or(since + shared.options.stall_timeout);
        if deadline <= now {
            return Err(Error::Stalled { path: shared.dir.clone(), since: now - since });
        }
        Ok((since, deadline))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.threads.is_empty() && self.shared.options.threads == Threads::Background {
            return;
        }
        if self.shared.options.threads == Threads::Background
            && let Err(error) = self.flush()
        {
            tracing::error!(%error, "the log was dropped with records that could not be flushed");
        }
        self.stop_threads();
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("dir", &self.shared.dir).field("flushed", &self.shared.flushed.value()).finish()
    }
}

impl Shared {
    /// The segment into which the record after `end` goes, if it does not fit into the one that holds `end`.
    pub(crate) fn segment_after(&self, end: Lsn) -> SegmentId {
        let size = self.options.segment_size;
        let history = self.history.read();
        let number = size.segment_of(size.boundary_at_or_after(history.next_byte(end)));
        SegmentId { number, timeline: history.of_segment(number, size).id }
    }

    /// The segment that has to begin for so large a record; none if the active one has room.
    fn segment_for(&self, tail: &Tail, payload_len: usize) -> Option<SegmentId> {
        let size = self.options.segment_size;
        match &tail.active {
            Some(active) if tail.end.lsn < size.end_of(active.header.segment) => {
                let fits = record_end(self.next_start(tail), payload_len, size) <= size.end_of(active.header.segment);
                let next = SegmentId { number: active.header.segment.next(), timeline: active.header.timeline };
                (!fits).then_some(next)
            }
            _ => Some(self.segment_after(tail.end.lsn)),
        }
    }

    /// Fills the segment at hand with a pad, if it is not full, and begins the next one. If that one cannot be had, nothing
    /// has changed.
    fn begin_segment(&self, tail: &mut Tail, next: SegmentId) -> Result<()> {
        let size = self.options.segment_size;
        let prepared = self.preparer.take(next, self.threaded())?;
        if let Some(active) = &tail.active
            && tail.end.lsn < size.end_of(active.header.segment)
        {
            let (start, boundary) = (self.next_start(tail), size.end_of(active.header.segment));
            let pad = vec![0; boundary.distance_from(start) as usize - RECORD_HEADER_SIZE];
            let time = tail.last_time.next();
            self.add_record(tail, RecordKind::Pad, &pad, payload_crc(&pad), time);
            assert_eq!(tail.end.lsn, boundary, "a pad fills its segment");
        }
        self.activate(tail, prepared.id, prepared.file);
        Ok(())
    }

    /// Begins a segment: its header joins the group that its first record belongs to.
    fn activate(&self, tail: &mut Tail, id: SegmentId, file: Arc<dyn File>) {
        let entry = *self.history.read().find(id.timeline).expect("segments are prepared for known timelines");
        let header = SegmentHeader {
            cluster: self.options.cluster,
            nonce: entry.nonce,
            timeline: id.timeline,
            size: self.options.segment_size,
            segment: id.number,
            salt: self.storage.salt(),
            previous: tail.end,
            writer: self.options.node,
            created: self.clock.now(),
        };
        let active = Arc::new(Active { header, file });
        self.adopt(tail, active.clone(), header.encode().as_slice());
    }

    /// Makes `active` the segment at the end; `head` are the bytes it begins with.
    pub(crate) fn adopt(&self, tail: &mut Tail, active: Arc<Active>, head: &[u8]) {
        self.segments.write().insert(active.header.segment, Some(active.header));
        tail.gathered.resume(&active, 0, &[]);
        tail.gathered.push([head, &[]], 0);
        let next = SegmentId { number: active.header.segment.next(), timeline: active.header.timeline };
        if self.threaded() {
            self.preparer.want(next);
        }
        tail.active = Some(active);
    }

    /// Where the next record of the active segment starts.
    pub(crate) fn next_start(&self, tail: &Tail) -> Lsn {
        let active = tail.active.as_ref().expect("a record starts in a segment");
        tail.end.lsn.max(active.header.first_record())
    }

    fn add_record(&self, tail: &mut Tail, kind: RecordKind, payload: &[u8], crc: u32, time: Timestamp) -> Position {
        let start = self.next_start(tail);
        let salt = tail.active.as_ref().expect("a record starts in a segment").header.salt;
        let stamp = if planted(Mutant::StampAheadOfFlush) { tail.end.lsn } else { self.flushed.value() };
        let header = RecordHeader::chained(tail.end.chain, start, kind, payload.len(), crc, stamp, time);
        let end = header.end(self.options.segment_size);
        let extent = end.distance_from(start) as usize;
        tail.gathered.push([&header.encode(salt), payload], extent - RECORD_HEADER_SIZE - payload.len());
        tail.end = Position { lsn: end, chain: header.chain };
        tail.last_time = time;
        self.counters.bytes.fetch_add(extent as u64, Ordering::Relaxed);
        tail.end
    }

    /// Takes over a history that continues ours beyond the end.
    pub(crate) fn extend_history(&self, tail: &Tail, history: &TimelineHistory) -> Result<()> {
        let mut ours = self.history.write();
        let shared = ours.common_end(history);
        let kept = history.entries().len() >= ours.entries().len();
        if !kept || shared.is_none_or(|shared| shared < tail.end.lsn) {
            return Err(Error::Discontinuous { at: tail.end, why: "the other history forked before it" });
        }
        *ours = history.clone();
        Ok(())
    }

    /// The oldest position from which the log can be read here.
    pub(crate) fn oldest(&self) -> Lsn {
        let first = self.segments.read().first_key_value().map(|(number, header)| (*number, *header));
        match first {
            None => self.flushed.value(),
            Some((_, Some(header))) => header.previous.lsn,
            // What its header would say: it goes on where the one before ends, or where its timeline forked.
            Some((number, None)) => {
                let start = self.options.segment_size.start_of(number);
                let timeline = self.timeline_at(number);
                if timeline.begin == start { timeline.fork.lsn } else { start }
            }
        }
    }

    /// The timeline of the bytes at the end.
    pub(crate) fn timeline_at(&self, segment: SegmentNumber) -> TimelineEntry {
        *self.history.read().of_segment(segment, self.options.segment_size)
    }

    /// Microseconds since opening, at least 1.
    pub(crate) fn micros(&self) -> u64 {
        u64::try_from((now() - self.opened).as_micros()).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn threaded(&self) -> bool {
        self.options.threads == Threads::Background
    }

    pub(crate) fn path_of(&self, id: SegmentId) -> PathBuf {
        self.dir.join(id.file_name())
    }
}

/// The body of the preparer thread. Without it the log could not go on beyond its segment, so it does not outlive it.
fn run_preparer(shared: &Shared) {
    let run = || shared.preparer.run(|way| shared.way.write().found = way);
    if let Err(error) = caught("prepares the log's segments", run) {
        let poisoned = shared.poison(&mut shared.tail.lock(), &error);
        shared.preparer.fail(poisoned);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|error| Error::io("start a thread for", name, error))
}
