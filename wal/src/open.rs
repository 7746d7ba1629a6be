//! Opening a log after a shutdown or a crash: one pass over the records from the checkpoint on, all handed to the
//! caller; then the facts about the end are gathered, `recovery`'s table decides, and the verdict is carried out.
//! Recovery reads past the page cache, because after a failed sync the cache may show bytes the disk does not have.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;

use crate::clock::{Clock, Timestamp};
use crate::damage::{Cause, Damages, Noted};
use crate::error::{Error, Result};
use crate::format::{
    FORMAT_VERSION, NotARecord, Position, Record, SEGMENT_HEADER_SIZE, SegmentHeader, UnverifiedSegmentHeader,
};
use crate::handover::{Gone, handover};
use crate::kept::{kept_path, sync_kept};
use crate::log::{Active, Log, LogMode, Opened};
use crate::lsn::{Lsn, SegmentNumber};
use crate::mutant::{Mutant, planted};
use crate::options::{LogOptions, Threads};
use crate::recovery::{AtEnd, Evidence, Halt, Headers, Recovery, Row, Verdict, decide};
use crate::scan::{Scanned, SegmentScan, read_segment_header};
use crate::segment::SegmentId;
use crate::storage::{Access, AlignedBuffer, BLOCK_SIZE, Storage, is_of_device, read_exact_at, write_all_at};
use crate::sync::thread;
use crate::timeline::TimelineHistory;

/// Where to start and what is known about the end.
#[derive(Clone, Debug)]
pub struct OpenAt {
    /// The timelines of this log.
    pub history: TimelineHistory,
    /// Where the records before some segment end; reading starts in that segment. For a new cluster
    /// [`Position::ZERO`], else what [`Log::replay_start`] said for the checkpoint's redo position.
    pub start: Position,
    /// No record made from now on gets a time at or below this: the checkpoint's last commit time.
    pub time_floor: Timestamp,
    /// W: this far the log is known to have been flushed here.
    pub watermark: Lsn,
}

impl Log {
    /// Opens the log in `dir`, making the folder if it is not there, and hands every record after `at.start` to
    /// `on_records` in order, some at a time. The caller skips those its checkpoint already holds. With threads of its
    /// own the log reads and checks what comes next meanwhile.
    ///
    /// # Errors
    /// Damage below what was flushed, a foreign or newer segment, and failing reads are errors and change nothing on the
    /// disk; the whole records before them are handed over all the same. What `on_records` fails with is passed on.
    pub fn open<E: From<Error>>(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        options: LogOptions,
        at: &OpenAt,
        mode: LogMode,
        mut on_records: impl FnMut(&[Record<'_>]) -> Result<(), E>,
    ) -> Result<(Self, Recovery), E> {
        storage.create_dir_all(dir).map_err(|error| Error::io("create", dir, error))?;
        let mut pass = Pass::new(&*storage, dir, &options, at)?;
        match options.threads {
            Threads::Inline => pass.read_records(&mut |record| on_records(slice::from_ref(record)))?,
            Threads::Background => pass.read_records_aside(&mut on_records)?,
        }
        let row = pass.judge();
        if let Verdict::Halt(halt) = row.verdict {
            return Err(pass.halted(halt).into());
        }
        let mut recovery = Recovery {
            end: pass.end,
            records: pass.records,
            row: row.number,
            verdict: row.verdict,
            cut_to: pass.end.lsn,
            kept: None,
        };
        if row.verdict != Verdict::Open {
            pass.cut(&mut recovery)?;
        }
        pass.make_durable()?;
        report(&recovery);
        let opened = pass.into_opened()?;
        Ok((Self::start(storage, clock, dir, options, &at.history, mode, opened)?, recovery))
    }
}

fn report(recovery: &Recovery) {
    let Recovery { end, records, row, cut_to, kept, .. } = recovery;
    match recovery.verdict {
        Verdict::Open => tracing::info!(end = %end.lsn, records, "log recovered"),
        Verdict::Cut => {
            let bytes = cut_to.distance_from(end.lsn);
            tracing::warn!(end = %end.lsn, records, row, bytes, ?kept, "log recovered; a torn tail was cut");
        }
        Verdict::Halt(_) => {}
    }
}

/// Missing segments that are noted one by one; of more, which are many files lost at once, those nearest to the end are.
const MISSING_MAX: usize = 1024;

/// One segment file that belongs to the history, with its header as found.
struct Found {
    path: PathBuf,
    header: SegmentHeader,
}

/// The one pass.
struct Pass<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    options: &'a LogOptions,
    at: &'a OpenAt,
    /// Segments of the history that have begun.
    begun: BTreeMap<SegmentNumber, Found>,
    /// Segments of the history before the one in which reading starts whose headers cannot be had.
    headless: Damages,
    /// Files with a segment's name that hold nothing.
    prepared: Vec<PathBuf>,
    /// The first file whose header is not what its place demands.
    odd: Option<(PathBuf, Odd)>,
    end: Position,
    last_time: Timestamp,
    records: u64,
    at_end: AtEnd,
    read_error: Option<Error>,
    /// L, among the segments this node wrote.
    stamped: Lsn,
    /// The end of the last thing beyond X that is valid in itself.
    valid_to: Option<Lsn>,
}

/// How a header is not what its place demands.
enum Odd {
    TooNew(u32),
    Foreign {
        field: &'static str,
        found: String,
        expected: String,
    },
    /// Why it cannot be.
    Unreadable(&'static str),
}

impl<'a> Pass<'a> {
    fn new(storage: &'a dyn Storage, dir: &'a Path, options: &'a LogOptions, at: &'a OpenAt) -> Result<Self> {
        let mut pass = Self {
            storage,
            dir,
            options,
            at,
            begun: BTreeMap::new(),
            headless: Damages::new(),
            prepared: Vec::new(),
            odd: None,
            end: at.start,
            last_time: Timestamp::default(),
            records: 0,
            at_end: AtEnd::Clean,
            read_error: None,
            stamped: Lsn::ZERO,
            valid_to: None,
        };
        let names = storage.list(dir).map_err(|error| Error::io("list", dir, error))?;
        for name in names {
            // A number that no log reaches is none: the file is a stranger, as one of any other name is.
            if let Some(id) = SegmentId::from_file_name(&name).filter(|id| options.segment_size.reaches(id.number)) {
                pass.look_at(id, dir.join(name));
            }
        }
        pass.note_missing();
        Ok(pass)
    }

    /// Segments are let go of one after the other, so those that are here have no gap, unless a file was lost.
    fn note_missing(&mut self) {
        let oldest = self.begun.keys().chain(self.headless.keys()).min().copied();
        let needed = self.options.segment_size.segment_of(self.at.history.next_byte(self.at.start.lsn));
        let Some(oldest) = oldest.filter(|_| !planted(Mutant::GapUnnoticed)) else { return };
        let is_here = |number: &SegmentNumber| self.begun.contains_key(number) || self.headless.contains_key(number);
        let missing = (oldest.0..needed.0).rev().map(SegmentNumber).filter(|number| !is_here(number));
        for number in missing.take(MISSING_MAX).collect::<Vec<_>>() {
            let timeline = self.at.history.of_segment(number, self.options.segment_size).id;
            let path = self.dir.join(SegmentId { number, timeline }.file_name());
            self.note_headless(number, &path, Cause::Checked, "its file is missing");
        }
    }

    /// Reads one file's header and puts it where it belongs.
    fn look_at(&mut self, id: SegmentId, path: PathBuf) {
        let size = self.options.segment_size;
        let is_ours = self.at.history.of_segment(id.number, size).id == id.timeline;
        // That reading starts behind it proves that it was begun, filled and flushed.
        let is_passed = is_ours && id.number < size.segment_of(self.at.history.next_byte(self.at.start.lsn));
        let header = self.storage.open(&path, Access::ReadDirect).and_then(|file| {
            if file.len()? != u64::from(size.bytes()) {
                return Ok(None);
            }
            read_segment_header(&*file).map(Some)
        });
        let header = match header {
            Ok(header) => header,
            Err(error) if is_passed && is_of_device(&error) => {
                return self.note_headless(id.number, &path, Cause::Unread, "its header cannot be read");
            }
            Err(error) => {
                self.read_error.get_or_insert(Error::io("read", path, error));
                return;
            }
        };
        // A file of a timeline that is not ours at that place is what another history left; it is nobody's damage.
        if !is_ours && header != Some(UnverifiedSegmentHeader::Prepared) {
            return;
        }
        let why_none = match header {
            Some(UnverifiedSegmentHeader::Prepared) if !is_passed || planted(Mutant::WipedTakenForPrepared) => {
                return self.prepared.push(path);
            }
            Some(UnverifiedSegmentHeader::TooNew(version)) => return self.note_odd(path, Odd::TooNew(version)),
            Some(UnverifiedSegmentHeader::Parsed(header)) => {
                return match self.foreign(&header, id) {
                    Some(odd) => self.note_odd(path, odd),
                    None => drop(self.begun.insert(id.number, Found { path, header })),
                };
            }
            Some(UnverifiedSegmentHeader::Prepared) => "its segment's header is empty",
            Some(UnverifiedSegmentHeader::Unreadable) => "its segment's header is neither empty nor whole",
            None => "its file has another length than a segment",
        };
        match is_passed {
            true => self.note_headless(id.number, &path, Cause::Checked, why_none),
            false => self.note_odd(path, Odd::Unreadable(why_none)),
        }
    }

    /// Recovery does not need it. Whoever needs it later hears that it is damaged, and it is repaired while the log is open.
    fn note_headless(&mut self, number: SegmentNumber, path: &Path, cause: Cause, why: &str) {
        tracing::error!(path = %path.display(), why, "a segment of the log before the checkpoint is damaged");
        let at = self.options.segment_size.start_of(number);
        self.headless.insert(number, Noted { at, cause });
    }

    fn foreign(&self, header: &SegmentHeader, id: SegmentId) -> Option<Odd> {
        let LogOptions { cluster, segment_size, .. } = *self.options;
        let foreign = id.foreign_field(header, cluster, segment_size, &self.at.history);
        let (field, found, expected) = foreign.filter(|_| !planted(Mutant::ForeignAccepted))?;
        Some(Odd::Foreign { field, found, expected })
    }

    /// Remembers the worst: newer before foreign before unreadable.
    fn note_odd(&mut self, path: PathBuf, odd: Odd) {
        let worse = self.odd.as_ref().is_none_or(|(_, known)| odd.rank() < known.rank());
        if worse {
            self.odd = Some((path, odd));
        }
    }

    /// Has the records read and checked by a thread of its own, while those before are put to use on this one.
    fn read_records_aside<E: From<Error>>(
        &mut self,
        on_records: &mut impl FnMut(&[Record<'_>]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut giver, taker) = handover(self.options.segment_size);
        let dir = self.dir;
        thread::scope(|scope| {
            let check = || {
                // It is gone when `on_records` failed, which then is the outcome.
                let _: Result<(), Gone> =
                    self.read_records(&mut |record| giver.give(record)).and_then(|()| giver.finish());
            };
            let checking = thread::Builder::new()
                .name(String::from("seawall-check"))
                .spawn_scoped(scope, check)
                .map_err(|error| Error::io("start a thread for", dir, error))?;
            let taken = taker.take_all(on_records);
            // It ended, or will when it next gives something to nobody.
            checking.join().unwrap_or_else(|panic| resume_unwind(panic));
            taken
        })
    }

    fn read_records<E>(&mut self, on_record: &mut impl FnMut(&Record<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.read_error.is_some() || self.odd.is_some() {
            return Ok(());
        }
        loop {
            let size = self.options.segment_size;
            let byte = self.at.history.next_byte(self.end.lsn);
            let number = size.segment_of(byte);
            let Some(found) = self.begun.get(&number) else {
                self.at_end = AtEnd::Clean;
                return Ok(());
            };
            let header = found.header;
            let path = found.path.clone();
            // Records that are whole but of another history do not come from damage: somebody mixed files.
            if header.previous != self.end {
                let (found, expected) = (header.previous.to_string(), self.end.to_string());
                self.note_odd(path, Odd::Foreign { field: "position before it", found, expected });
                return Ok(());
            }
            let file = match self.storage.open(&path, Access::ReadDirect) {
                Ok(file) => file,
                Err(error) => return self.note_read_error(path, error),
            };
            let mut scan = SegmentScan::new(file, header, byte);
            if self.options.threads == Threads::Background {
                scan.read_ahead();
            }
            loop {
                // At a fork, or at its end, this segment's part of the history is over.
                if size.segment_of(self.at.history.next_byte(self.end.lsn)) != number {
                    break;
                }
                match scan.peek() {
                    Err(error) => return self.note_read_error(path, error),
                    Ok(Scanned::Full) => break,
                    Ok(Scanned::Record(record))
                        if record.header.continues(self.end.chain) && record.header.time > self.last_time =>
                    {
                        on_record(&record)?;
                        self.end = record.position();
                        self.last_time = record.header.time;
                        self.records += 1;
                    }
                    Ok(Scanned::Record(_)) => {
                        self.at_end = AtEnd::Bad;
                        self.look_beyond(scan, &path);
                        return Ok(());
                    }
                    Ok(Scanned::Bad(NotARecord::Unknown)) => {
                        let found = format!("not known, in the record at {}", self.end.lsn);
                        let expected = format!("one of format version {FORMAT_VERSION}");
                        self.note_odd(path, Odd::Foreign { field: "record kind", found, expected });
                        return Ok(());
                    }
                    Ok(Scanned::Bad(_) | Scanned::Beyond) => {
                        match scan.at_end_mark() {
                            Ok(true) => self.at_end = AtEnd::Clean,
                            Ok(false) => self.at_end = AtEnd::Bad,
                            Err(error) => return self.note_read_error(path, error),
                        }
                        self.look_beyond(scan, &path);
                        return Ok(());
                    }
                }
                scan.move_to(self.end.lsn);
            }
        }
    }

    fn note_read_error<E>(&mut self, path: PathBuf, error: std::io::Error) -> Result<(), E> {
        self.read_error.get_or_insert(Error::io("read", path, error));
        Ok(())
    }

    /// Collects what is valid beyond X in the segment at hand and in all that follow.
    fn look_beyond(&mut self, scan: SegmentScan, path: &Path) {
        let at = scan.header().segment;
        self.search(scan, path);
        let later: Vec<SegmentNumber> = self.begun.range(at.next()..).map(|(number, _)| *number).collect();
        for number in later {
            let Found { path, header } = &self.begun[&number];
            let (path, header) = (path.clone(), *header);
            match self.storage.open(&path, Access::ReadDirect) {
                Ok(file) => self.search(SegmentScan::new(file, header, Lsn::ZERO), &path),
                Err(error) => {
                    self.read_error.get_or_insert(Error::io("read", path, error));
                }
            }
        }
    }

    fn search(&mut self, scan: SegmentScan, path: &Path) {
        let own = scan.header().writer == self.options.node;
        let (mut stamped, mut valid_to) = (self.stamped, self.valid_to);
        let searched = scan.search(|header, end| {
            if own && !planted(Mutant::IgnoreStamp) {
                stamped = stamped.max(header.flush_stamp);
            }
            valid_to = valid_to.max(Some(end));
        });
        (self.stamped, self.valid_to) = (stamped, valid_to);
        if let Err(error) = searched {
            self.read_error.get_or_insert(Error::io("read", path, error));
        }
    }

    /// Puts the facts together and asks the table.
    fn judge(&mut self) -> &'static Row {
        // A header beyond X says that everything before its segment was flushed here: whoever made it, a segment is begun
        // after the one before is synced.
        let end = self.end.lsn;
        for found in self.begun.values().filter(|found| found.header.previous.lsn > end) {
            if !planted(Mutant::IgnoreStamp) {
                self.stamped = self.stamped.max(found.header.previous.lsn);
            }
            self.valid_to = self.valid_to.max(Some(found.header.first_record()));
        }
        let evidence = Evidence {
            read_failed: self.read_error.is_some(),
            headers: match &self.odd {
                None => Headers::Fine,
                Some((_, Odd::TooNew(_))) => Headers::TooNew,
                Some((_, Odd::Foreign { .. })) => Headers::Foreign,
                Some((_, Odd::Unreadable(_))) => Headers::Unreadable,
            },
            at_end: self.at_end,
            below_watermark: end < self.at.watermark && !planted(Mutant::WatermarkIgnored),
            stamped_beyond: self.stamped > end,
            valid_beyond: self.valid_to.is_some_and(|valid| valid > end),
        };
        if planted(Mutant::TruncateAtAnyBadCrc) {
            let naive = Evidence { below_watermark: false, stamped_beyond: false, ..evidence };
            return decide(&naive);
        }
        decide(&evidence)
    }

    fn halted(&mut self, halt: Halt) -> Error {
        let number = self.options.segment_size.segment_of(self.at.history.next_byte(self.end.lsn));
        let corrupt = |at: Lsn, evidence| Error::Corrupt {
            at,
            segment: number,
            timeline: self.at.history.of_segment(number, self.options.segment_size).id,
            evidence,
        };
        match (halt, self.odd.take()) {
            (Halt::Io, _) => self.read_error.take().expect("row 9 needs a read error"),
            (Halt::TooNew, Some((path, Odd::TooNew(version)))) => {
                Error::TooNew { path, version, supported: FORMAT_VERSION }
            }
            (Halt::Foreign, Some((path, Odd::Foreign { field, found, expected }))) => {
                Error::Foreign { path, field, found, expected }
            }
            (Halt::UnreadableHeader, Some((path, Odd::Unreadable(evidence)))) => {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let id = SegmentId::from_file_name(name).expect("only segment files are looked at");
                Error::Corrupt {
                    at: self.options.segment_size.start_of(id.number),
                    segment: id.number,
                    timeline: id.timeline,
                    evidence,
                }
            }
            (Halt::BelowWatermark, _) => corrupt(self.end.lsn, "this node had noted that it flushed beyond"),
            (Halt::BelowStamp, _) => corrupt(self.end.lsn, "a later record says that it was flushed"),
            (halt, _) => unreachable!("{halt:?} without its cause"),
        }
    }

    /// Puts away what lies beyond X.
    fn cut(&mut self, recovery: &mut Recovery) -> Result<()> {
        let size = self.options.segment_size;
        let number = size.segment_of(self.at.history.next_byte(self.end.lsn));
        recovery.cut_to = self.valid_to.unwrap_or(self.end.lsn).max(self.end.lsn);
        // Later segments: what is there has never been acknowledged.
        let later: Vec<SegmentNumber> = self.begun.range(number..).map(|(number, _)| *number).collect();
        // From the back, so that a crash in between leaves no gap.
        for later in later.into_iter().rev() {
            if size.start_of(later) >= self.end.lsn {
                let found = self.begun.remove(&later).expect("it was just listed");
                self.retire(&found.path)?;
                self.prepared.push(found.path);
            }
        }
        let Some(found) = self.begun.get(&number) else { return Ok(()) };
        let file =
            self.storage.open(&found.path, Access::Write).map_err(|error| Error::io("open", &found.path, error))?;
        let from = size.offset_in_segment(self.end.lsn) as usize;
        let mut rest = vec![0; size.bytes() as usize - from];
        let io = |operation, error| Error::io(operation, &found.path, error);
        read_exact_at(&*file, &mut rest, from as u64).map_err(|error| io("read", error))?;
        let used = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            return Ok(());
        }
        recovery.cut_to = recovery.cut_to.max(self.end.lsn.advance(used as u64));
        recovery.kept = Some(self.keep_aside(&rest[..used])?);
        if planted(Mutant::CutLeftThere) {
            return Ok(());
        }
        rest.fill(0);
        write_all_at(&*file, &rest, from as u64).map_err(|error| io("write", error))?;
        file.sync_data().map_err(|error| io("sync", error))
    }

    /// Empties a segment's header, so that the file counts as prepared.
    fn retire(&self, path: &Path) -> Result<()> {
        let empty = || {
            let file = self.storage.open(path, Access::Write)?;
            write_all_at(&*file, &[0; SEGMENT_HEADER_SIZE], 0)?;
            file.sync_data()
        };
        empty().map_err(|error| Error::io("empty", path, error))
    }

    fn keep_aside(&self, bytes: &[u8]) -> Result<PathBuf> {
        let io = |operation, path: &Path, error| Error::io(operation, path, error);
        let path = kept_path(self.storage, self.dir, self.end.lsn, "cut")?;
        let file = self.storage.open(&path, Access::CreateNew).map_err(|error| io("create", &path, error))?;
        write_all_at(&*file, bytes, 0).map_err(|error| io("write", &path, error))?;
        file.sync_data().map_err(|error| io("sync", &path, error))?;
        sync_kept(self.storage, &path)?;
        Ok(path)
    }

    /// What was read may still be on its way to the disk when the process before us was killed; it counts as flushed from
    /// now on, so it is made so.
    fn make_durable(&self) -> Result<()> {
        if planted(Mutant::RecoveredNotSynced) {
            return Ok(());
        }
        let size = self.options.segment_size;
        let first = size.segment_of(self.at.start.lsn);
        for found in self.begun.range(first..).map(|(_, found)| found) {
            let synced = self.storage.open(&found.path, Access::Write).and_then(|file| file.sync_data());
            synced.map_err(|error| Error::io("sync", &found.path, error))?;
        }
        self.storage.sync_dir(self.dir).map_err(|error| Error::io("sync", self.dir, error))
    }

    fn into_opened(self) -> Result<Opened> {
        let size = self.options.segment_size;
        let end = self.end.lsn;
        // The segment that goes on: the one that holds the byte before the end, unless a timeline begins elsewhere.
        let goes_on = self.at.history.next_byte(end) == end && end > Lsn::ZERO;
        let number = size.segment_of(Lsn::new(end.offset().saturating_sub(1)));
        let mut active = None;
        let mut tail_block = Vec::new();
        if goes_on && let Some(found) = self.begun.get(&number) {
            let io = |operation, error| Error::io(operation, &found.path, error);
            let file = self.storage.open(&found.path, Access::WriteDirect).map_err(|error| io("open", error))?;
            let offset = (end.offset() - size.start_of(number).offset()) as usize;
            let base = offset / BLOCK_SIZE * BLOCK_SIZE;
            if offset > base {
                let mut block = AlignedBuffer::zeroed(BLOCK_SIZE);
                read_exact_at(&*file, &mut block, base as u64).map_err(|error| io("read", error))?;
                tail_block = block[..offset - base].to_vec();
            }
            active = Some(Active { header: found.header, file });
        }
        let begun = self.begun.into_iter().map(|(number, found)| (number, Some(found.header)));
        let segments = begun.chain(self.headless.keys().map(|number| (*number, None))).collect();
        let last_time = self.last_time.max(self.at.time_floor);
        let (unused, damages) = (self.prepared, self.headless);
        Ok(Opened { end: self.end, last_time, active, tail_block, segments, damages, unused })
    }
}

impl Odd {
    const fn rank(&self) -> u8 {
        match self {
            Self::TooNew(_) => 0,
            Self::Foreign { .. } => 1,
            Self::Unreadable(_) => 2,
        }
    }
}
