//! Segment files: their names, and the preparer that keeps one ready so that rotation costs the commit path neither an
//! allocation nor a sync. What is inside a segment is `format`'s business.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem};

use crate::error::{Error, Result};
use crate::format::{SEGMENT_HEADER_SIZE, SegmentHeader};
use crate::identity::{ClusterId, TimelineId};
use crate::lsn::{SegmentNumber, SegmentSize};
use crate::mutant::{Mutant, planted};
use crate::probe::fastest_way;
use crate::race::{self, Mutant as Race};
use crate::storage::{Access, AlignedBuffer, BLOCK_SIZE, DurableWrite, File, Storage, write_all_at};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, now};
use crate::timeline::TimelineHistory;

const SUFFIX: &str = ".wal";
const SPARE_PREFIX: &str = "spare-";
const SPARE_SUFFIX: &str = ".tmp";
/// A file that is to take a damaged segment's place has the name of a spare: left over, it is removed like one.
pub(crate) const SPARE_FOR_REPAIR: &str = "spare-repair.tmp";
/// Zeros are written in pieces of this size; a flush that comes at the same time waits for no more than one of them.
const ZERO_CHUNK: usize = 256 << 10;

/// A segment file of one timeline. Ordered by number, then timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// Which part of the log.
    pub number: SegmentNumber,
    /// In whose history.
    pub timeline: TimelineId,
}

impl SegmentId {
    /// The first field of a header that is not what this segment of this cluster and history has to say: its name, what it
    /// says, what it should.
    pub(crate) fn foreign_field(
        self,
        header: &SegmentHeader,
        cluster: ClusterId,
        size: SegmentSize,
        history: &TimelineHistory,
    ) -> Option<(&'static str, String, String)> {
        let nonce = history.of_segment(self.number, size).nonce;
        let fields = [
            ("cluster", header.cluster.to_string(), cluster.to_string()),
            ("timeline", header.timeline.to_string(), self.timeline.to_string()),
            ("timeline nonce", header.nonce.to_string(), nonce.to_string()),
            ("segment size", header.size.bytes().to_string(), size.bytes().to_string()),
            ("segment number", header.segment.to_string(), self.number.to_string()),
        ];
        fields.into_iter().find(|(_, found, expected)| found != expected)
    }

    /// The file's name.
    pub fn file_name(self) -> String {
        format!("{:08x}-{:016x}{SUFFIX}", self.timeline.0, self.number.0)
    }

    /// The segment a file of this name holds, if it is one.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let (timeline, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let hex =
            |text: &str, digits| text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex(timeline, 8) || !hex(number, 16) {
            return None;
        }
        Some(Self {
            number: SegmentNumber(u64::from_str_radix(number, 16).ok()?),
            timeline: TimelineId(u32::from_str_radix(timeline, 16).ok()?),
        })
    }
}

/// A prepared segment: it has its name, its size and a zero header, all durable, and nobody writes to it yet.
pub(crate) struct Prepared {
    pub(crate) id: SegmentId,
    pub(crate) file: Arc<dyn File>,
}

/// Prepares segments in the background, or at once where a test wants every step in order.
pub(crate) struct Preparer {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    size: SegmentSize,
    spare_numbers: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Ready to become a segment: zero header, right size, durable, under a spare's name.
    spares: Vec<PathBuf>,
    /// What is to be made ready under its final name.
    wanted: Option<SegmentId>,
    ready: Option<Prepared>,
    /// Segments to turn into spares, in the order in which they are let go of.
    retired: VecDeque<PathBuf>,
    /// Why the last try failed, if it did, and when that try began: later than it, there may be room again.
    failure: Option<(Instant, Error)>,
    /// When somebody last asked for what is wanted.
    asked: Option<Instant>,
    /// The last one taken. A log that fills segments gets a spare beside the one that is ready, others do not pay for it.
    /// `taken < wanted` and `taken < ready.id`: what was taken has the log in it, and its name is never given away again.
    taken: Option<SegmentId>,
    /// Whether something failed for which nobody waits; not tried again before the next segment is taken or retired.
    put_off: bool,
    /// Those who wait for what is wanted.
    waiting: usize,
    /// Whether the way to write is to be measured.
    probe: bool,
    closed: bool,
}

impl State {
    fn wants_spare(&self) -> bool {
        self.taken.is_some() && !self.put_off && self.spares.is_empty()
    }

    /// Whether the log has got to this segment, or beyond it.
    fn has_passed(&self, id: SegmentId) -> bool {
        self.taken.is_some_and(|taken| id <= taken) && !race::planted(Race::SegmentMadeAgain)
    }

    fn is_ready(&self, id: SegmentId) -> bool {
        self.ready.as_ref().is_some_and(|ready| ready.id == id)
    }

    fn has_work(&self) -> bool {
        let idle = !self.put_off && !self.retired.is_empty();
        self.wanted.is_some() || idle || self.wants_spare() || self.probe
    }
}

/// How long the thread pauses after a try that failed, unless somebody asks meanwhile.
const RETRY: Duration = Duration::from_millis(200);
/// Spares kept beside the one that is ready. More retired segments than that are removed.
const SPARES_MAX: usize = 2;

impl Preparer {
    /// A preparer for a folder; left-over spares are removed.
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: PathBuf, size: SegmentSize) -> Result<Self> {
        let names = storage.list(&dir).map_err(|error| Error::io("list", &dir, error))?;
        for name in names.iter().filter(|name| name.starts_with(SPARE_PREFIX) && name.ends_with(SPARE_SUFFIX)) {
            let path = dir.join(name);
            storage.remove(&path).map_err(|error| Error::io("remove", path, error))?;
        }
        let state = Mutex::default();
        Ok(Self { storage, dir, size, spare_numbers: AtomicU64::new(0), state, changed: Condvar::new() })
    }

    /// Says which segment comes next. Another one that was ready instead is given back. Who says it too late, after somebody
    /// else took it, changes nothing.
    pub(crate) fn want(&self, id: SegmentId) {
        self.want_locked(&mut self.state.lock(), id);
    }

    fn want_locked(&self, state: &mut State, id: SegmentId) {
        if state.has_passed(id) || state.is_ready(id) || state.wanted == Some(id) {
            return;
        }
        if let Some(other) = state.ready.take() {
            state.retired.push_back(self.dir.join(other.id.file_name()));
        }
        state.wanted = Some(id);
        self.changed.notify_all();
    }

    /// Gives a segment's file back for use as a spare. Its content is no longer needed by anybody.
    pub(crate) fn retire(&self, path: PathBuf) {
        let mut state = self.state.lock();
        state.retired.push_back(path);
        // It may be the room that was missing.
        state.put_off = false;
        self.changed.notify_all();
    }

    /// Whether [`take`](Self::take) would have to wait.
    pub(crate) fn is_ready(&self, id: SegmentId) -> bool {
        self.state.lock().is_ready(id)
    }

    /// Waits until `deadline` at most until the thread has segment `id` ready, or somebody else took it. The caller wants it
    /// since `asked`: the answer is that of a try that began later, which the thread makes at once.
    ///
    /// # Errors
    /// What that try failed with, or, if it is not over by then, the one before. The thread goes on trying, so a later call
    /// can succeed.
    pub(crate) fn await_ready(&self, id: SegmentId, asked: Instant, deadline: Instant) -> Result<()> {
        let mut state = self.state.lock();
        self.await_locked(&mut state, id, asked, Some(deadline))
    }

    fn await_locked(
        &self,
        state: &mut MutexGuard<'_, State>,
        id: SegmentId,
        asked: Instant,
        deadline: Option<Instant>,
    ) -> Result<()> {
        state.waiting += 1;
        state.asked = state.asked.max(Some(asked));
        self.changed.notify_all();
        let result = loop {
            // Each time: somebody else may have asked for another one, as when a timeline begins.
            self.want_locked(state, id);
            if state.is_ready(id) || state.has_passed(id) {
                break Ok(());
            }
            let counts = |began| began >= asked || planted(Mutant::StaleFailureBelieved);
            match &state.failure {
                Some((began, failure)) if counts(*began) || state.closed => break Err(failure.clone()),
                _ if state.closed => break Err(Error::Closed),
                _ => {}
            }
            match deadline {
                None => self.changed.wait(state),
                Some(deadline) if self.changed.wait_until(state, deadline).timed_out() => {
                    break state.failure.as_ref().map_or(Ok(()), |(_, failure)| Err(failure.clone()));
                }
                Some(_) => {}
            }
        };
        state.waiting -= 1;
        result
    }

    /// The prepared segment `id`. Waits for a preparer thread that is at it; prepares it here if there is none.
    ///
    /// # Errors
    /// As of [`await_ready`](Self::await_ready).
    pub(crate) fn take(&self, id: SegmentId, threaded: bool) -> Result<Prepared> {
        self.want(id);
        let asked = now();
        loop {
            let mut state = self.state.lock();
            assert!(!state.has_passed(id), "a segment is begun once");
            if threaded {
                self.await_locked(&mut state, id, asked, None)?;
            }
            if let Some(ready) = state.ready.take_if(|ready| ready.id == id) {
                let path = self.dir.join(id.file_name());
                assert!(planted(Mutant::NameLetGoOfTwice) || !state.retired.contains(&path), "what is begun is kept");
                (state.failure, state.taken, state.put_off) = (None, Some(id), false);
                // Others who wait for it need not any more.
                self.changed.notify_all();
                return Ok(ready);
            }
            drop(state);
            self.step()?;
        }
    }

    /// Has the thread find the fastest way to write when it has nothing else to do.
    pub(crate) fn request_probe(&self) {
        self.state.lock().probe = true;
        self.changed.notify_all();
    }

    /// The body of the preparer thread. `found` is told the fastest way to write if that is asked for.
    pub(crate) fn run(&self, found: impl Fn(DurableWrite)) {
        loop {
            {
                let mut state = self.state.lock();
                while !state.closed && !state.has_work() {
                    self.changed.wait(&mut state);
                }
                if state.closed {
                    return;
                }
            }
            if let Some(way) = self.probe() {
                found(way);
            }
            let began = now();
            if let Err(error) = self.step() {
                tracing::warn!(%error, "cannot prepare the next log segment; trying again");
                let mut state = self.state.lock();
                state.failure = Some((began, error));
                self.changed.notify_all();
                // Who asked since is owed a try of their own.
                if !state.closed && state.asked <= Some(began) {
                    self.changed.wait_for(&mut state, RETRY);
                }
            }
        }
    }

    /// Measures if it was asked to and nothing waits.
    fn probe(&self) -> Option<DurableWrite> {
        {
            let mut state = self.state.lock();
            if !state.probe || state.wanted.is_some() {
                return None;
            }
            state.probe = false;
        }
        let idle = || {
            let state = self.state.lock();
            state.waiting == 0 && !state.closed
        };
        let way = fastest_way(&*self.storage, &self.spare_path(), idle);
        way.inspect_err(|error| tracing::debug!(%error, "the ways to write the log could not be compared")).ok()
    }

    /// Tells whoever waits that there will be no more segments.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        (state.failure, state.closed) = (Some((now(), error)), true);
        self.changed.notify_all();
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Lets go of what was retired, then makes ready what is wanted.
    fn step(&self) -> Result<()> {
        self.let_go();
        let (wanted, spare) = {
            let mut state = self.state.lock();
            let Some(wanted) = state.wanted else {
                let spare = state.wants_spare();
                drop(state);
                return if spare { self.add_spare() } else { Ok(()) };
            };
            (wanted, state.spares.pop())
        };
        let spare = match spare {
            Some(spare) => spare,
            None => self.zero_written()?,
        };
        let path = self.dir.join(wanted.file_name());
        if let Err(error) = self.storage.rename(&spare, &path) {
            // For the next attempt, which would write another one otherwise.
            self.state.lock().spares.push(spare.clone());
            return Err(Error::io("rename", spare, error));
        }
        if !planted(Mutant::NameLetGoOfTwice) {
            // A file that had the name and could not be let go of has been replaced; the one that has it now is needed.
            self.state.lock().retired.retain(|other| *other != path);
        }
        if !planted(Mutant::FolderNotSynced) {
            self.storage.sync_dir(&self.dir).map_err(|error| Error::io("sync", &self.dir, error))?;
        }
        let file = self.storage.open(&path, Access::WriteDirect).map_err(|error| Error::io("open", path, error))?;
        let mut state = self.state.lock();
        if state.wanted == Some(wanted) {
            state.wanted = None;
            state.ready = Some(Prepared { id: wanted, file });
            state.failure = None;
        } else {
            // Another segment was asked for meanwhile, as when a timeline begins.
            state.retired.push_back(self.dir.join(wanted.file_name()));
        }
        if !race::planted(Race::ReadyNotAnnounced) {
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Makes spares of what was retired, and removes what is too much. One after the other, each name gone for good before the
    /// next one goes: so a segment that is missing between others is damage, and never what a crash left of this. What cannot
    /// be let go of now stays, with all behind it; nobody waits for it. What is waited for comes first, once there is a spare for it.
    fn let_go(&self) {
        loop {
            let (path, room) = {
                let mut state = self.state.lock();
                if planted(Mutant::NewestLetGoFirst) {
                    state.retired.make_contiguous().reverse();
                }
                // After a failure they may be the room that is missing.
                let is_wanted_first = state.waiting > 0 && !state.spares.is_empty() && state.failure.is_none();
                if state.closed || is_wanted_first {
                    return;
                }
                let Some(path) = state.retired.front() else { return };
                (path.clone(), state.spares.len() < SPARES_MAX)
            };
            // A damaged segment's file may have been cut.
            let len = self.storage.open(&path, Access::Read).and_then(|file| file.len());
            let gone = match room && len.is_ok_and(|len| len == u64::from(self.size.bytes())) {
                true => self.recycle(&path),
                false => self.remove(&path).map(|()| None),
            };
            let mut state = self.state.lock();
            match gone {
                Ok(spare) => {
                    state.retired.pop_front();
                    state.spares.extend(spare);
                }
                Err(error) => {
                    // Once: where the next segment cannot be made either, it is tried again with each try of that.
                    if !mem::replace(&mut state.put_off, true) {
                        tracing::warn!(
                            %error,
                            "a log segment that is not needed any more stays, and all behind it; tried again with the next segment"
                        );
                    }
                    return;
                }
            }
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let removed = match self.storage.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.storage.sync_dir(&self.dir),
        };
        removed.map_err(|error| Error::io("remove", path, error))
    }

    /// Makes an old segment a spare: first its name goes, for good, then its header, so that no file ever has a segment's
    /// name and another segment's header. Were the name not gone for good before the spare gets another one, power loss could
    /// leave a file with both: two segments in one. What cannot become a spare is removed.
    fn recycle(&self, path: &Path) -> Result<Option<PathBuf>> {
        let spare = self.spare_path();
        if let Err(error) = self.storage.rename(path, &spare) {
            tracing::debug!(%error, path = %path.display(), "an old log segment could not be renamed; it is removed");
            return self.remove(path).map(|()| None);
        }
        // Nobody knows of it any more if it does not become a spare.
        let forget = || drop(self.storage.remove(&spare));
        if !planted(Mutant::RecycledNameNotSynced)
            && let Err(error) = self.storage.sync_dir(&self.dir)
        {
            forget();
            return Err(Error::io("sync", &self.dir, error));
        }
        let wipe = || -> io::Result<()> {
            let file = self.storage.open(&spare, Access::WriteDirect)?;
            write_all_at(&*file, &AlignedBuffer::zeroed(BLOCK_SIZE), 0)?;
            file.sync_data()
        };
        if !planted(Mutant::RecycledNotWiped)
            && let Err(error) = wipe()
        {
            tracing::warn!(%error, path = %spare.display(), "an old log segment could not be recycled; it is removed");
            forget();
            return Ok(None);
        }
        Ok(Some(spare))
    }

    /// Makes one segment more than is wanted, so that the next one is a matter of a rename. It may fail: nobody waits.
    fn add_spare(&self) -> Result<()> {
        match self.zero_written() {
            Ok(spare) => self.state.lock().spares.push(spare),
            Err(error) => {
                tracing::debug!(%error, "no spare log segment");
                self.state.lock().put_off = true;
            }
        }
        Ok(())
    }

    fn zero_written(&self) -> Result<PathBuf> {
        let spare = self.spare_path();
        let made = self.zero_written_file(&spare);
        if let Err(error) = made {
            // Half a spare is only in the way, above all when the disk is full.
            let _ = self.storage.remove(&spare);
            return Err(Error::io("prepare", spare, error));
        }
        Ok(spare)
    }

    /// Really writes zeros: a file that is merely long makes every first flush of a block change metadata too. The device
    /// is left alone half of the time, for the flushes of commits, as long as nobody waits for the segment.
    fn zero_written_file(&self, path: &Path) -> io::Result<()> {
        self.storage.open(path, Access::CreateNew)?;
        let file = self.storage.open(path, Access::WriteDirect)?;
        let total = u64::from(self.size.bytes());
        let zeros = AlignedBuffer::zeroed(ZERO_CHUNK.min(self.size.bytes() as usize));
        let mut offset = 0;
        while offset < total {
            let started = now();
            write_all_at(&*file, &zeros, offset)?;
            offset += zeros.len() as u64;
            let mut state = self.state.lock();
            if state.taken.is_some() && state.waiting == 0 && !state.closed {
                self.changed.wait_for(&mut state, now() - started);
            }
        }
        file.sync_data()
    }

    fn spare_path(&self) -> PathBuf {
        let number = self.spare_numbers.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{SPARE_PREFIX}{number:04}{SPARE_SUFFIX}"))
    }
}

const _: () = assert!(SEGMENT_HEADER_SIZE <= BLOCK_SIZE);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Fault, FaultyOperation, FaultyStorage, JournalEntry, MemoryDisk};

    const DIR: &str = "/log";

    /// A folder, what can go wrong with it, and a preparer for it.
    fn folder() -> (MemoryDisk, FaultyStorage, Preparer) {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        let faulty = FaultyStorage::new(Arc::new(disk.clone()));
        let preparer = preparer_on(&faulty);
        (disk, faulty, preparer)
    }

    fn preparer_on(storage: &FaultyStorage) -> Preparer {
        Preparer::new(Arc::new(storage.clone()), DIR.into(), SegmentSize::MIN).unwrap()
    }

    fn id(number: u64) -> SegmentId {
        SegmentId { number: SegmentNumber(number), timeline: TimelineId(1) }
    }

    fn path_of(id: SegmentId) -> PathBuf {
        Path::new(DIR).join(id.file_name())
    }

    #[test]
    fn a_segment_is_known_by_its_name_only_in_its_exact_form() {
        let id = SegmentId { number: SegmentNumber(2), timeline: TimelineId(1) };
        assert_eq!(id.file_name(), "00000001-0000000000000002.wal");
        assert_eq!(SegmentId::from_file_name(&id.file_name()), Some(id));
        for other in ["00000001-0000000000000002", "1-2.wal", "00000001-000000000000000G.wal", "spare-0000.tmp"] {
            assert_eq!(SegmentId::from_file_name(other), None, "{other}");
        }
    }

    /// Two appends found that the next segment was not ready, and one of them was interrupted before it asked for it. When
    /// it went on, the other one had begun the segment; a new file was made for it and took the name of the one that was
    /// written to, so that what was acknowledged from then on was in a file without a name.
    #[test]
    fn who_asks_too_late_for_a_segment_leaves_it_alone() {
        let (disk, _, preparer) = folder();
        let (id, next) = (id(0), id(1));
        let begun = preparer.take(id, false).unwrap();
        begun.file.write_at(b"log", 0).unwrap();
        preparer.await_ready(id, now(), now()).expect("it does not wait for what it need not have");
        preparer.step().unwrap();
        let mut found = [0; 3];
        let named = disk.open(&path_of(id), Access::Read).unwrap();
        named.read_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"log");
        assert_eq!(preparer.take(next, false).unwrap().id, next, "and the next one is had all the same");
    }

    /// A start finds a segment that was prepared and never begun. It is given back, which fails, and made anew under the same
    /// name; once it was begun, the failed try was made up for, and the segment that was written to was wiped.
    #[test]
    fn what_could_not_be_let_go_of_stays_once_its_name_is_needed_again() {
        let (disk, faulty, before) = folder();
        let (id, next) = (id(0), id(1));
        let path = path_of(id);
        before.take(id, false).unwrap();
        let preparer = preparer_on(&faulty);
        preparer.retire(path.clone());
        for operation in [FaultyOperation::Rename, FaultyOperation::Remove] {
            faulty.fail_under(&path, operation, 0, Fault::Error(libc::EIO));
        }
        preparer.take(id, false).unwrap().file.write_at(b"log", 0).unwrap();
        assert_eq!(faulty.hits(), 2);
        preparer.take(next, false).unwrap();
        let mut found = [0; 3];
        disk.open(&path, Access::Read).expect("it has its name").read_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"log");
    }

    #[test]
    fn what_is_waited_for_comes_before_what_is_let_go_of_and_needs_one_spare() {
        let (disk, _, preparer) = folder();
        (0..8).for_each(|number| drop(preparer.take(id(number), false).unwrap()));
        (0..8).for_each(|number| preparer.retire(path_of(id(number))));
        preparer.state.lock().waiting = 1;
        preparer.take(id(8), false).unwrap();
        let left = || {
            disk.list(Path::new(DIR)).unwrap().iter().filter(|name| SegmentId::from_file_name(name).is_some()).count()
        };
        assert_eq!(left(), 8, "one was let go of, and one made of it");
        preparer.want(id(9));
        let spare = preparer.zero_written().unwrap();
        preparer.state.lock().spares.push(spare);
        preparer.state.lock().failure = Some((now(), Error::Closed));
        preparer.step().unwrap();
        assert_eq!(left(), 2, "all of them when that failed");
        assert!(preparer.is_ready(id(9)));
    }

    /// A disk that is so full that no name can change has room for a removal, which gives some back.
    #[test]
    fn what_cannot_be_renamed_is_removed() {
        let (disk, faulty, preparer) = folder();
        let (id, next) = (id(0), id(1));
        let path = path_of(id);
        preparer.take(id, false).unwrap();
        faulty.fail_under(&path, FaultyOperation::Rename, 0, Fault::Error(libc::ENOSPC));
        preparer.retire(path.clone());
        preparer.take(next, false).unwrap();
        assert_eq!((faulty.hits(), disk.open(&path, Access::Read).is_err()), (1, true));
    }

    #[test]
    fn a_recycled_segment_has_lost_its_name_for_good_before_it_gets_another_one() {
        let (disk, _, preparer) = folder();
        let (old, new) = (id(0), id(1));
        preparer.take(old, false).unwrap();
        disk.keep_journal();
        preparer.retire(path_of(old));
        preparer.take(new, false).unwrap();
        let of_folder = |entry: &JournalEntry| match entry {
            JournalEntry::Rename(..) => Some("rename"),
            JournalEntry::SyncDir(_) => Some("sync"),
            _ => None,
        };
        let order: Vec<_> = disk.journal().iter().filter_map(of_folder).collect();
        assert_eq!(order, ["rename", "sync", "rename", "sync"]);
    }
}
