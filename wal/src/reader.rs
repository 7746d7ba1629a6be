//! Reading a log that is open: record by record for those who interpret it, or as verbatim bytes for those who pass it on.
//! Both check every record and go only as far as the log is flushed.

use std::io;
use std::sync::Arc;

use crate::damage::{Cause, Noted};
use crate::error::{Error, Result};
use crate::format::{
    Chain, Position, RECORD_HEADER_SIZE, Record, RecordHeader, SEGMENT_HEADER_SIZE, SegmentHeader,
    UnverifiedSegmentHeader,
};
use crate::identity::TimelineId;
use crate::log::{Log, Shared};
use crate::lsn::{Lsn, SegmentNumber};
use crate::mutant::{Mutant, planted};
use crate::scan::{Scanned, SegmentScan};
use crate::segment::SegmentId;
use crate::source::{LogBytes, SegmentSource};
use crate::storage::{Access, File, is_of_device, read_exact_at};
use crate::sync::atomic::Ordering;
use crate::timeline::TimelineHistory;

impl Log {
    /// Verbatim log from the position `from` on, an end of a record: some whole records of one segment, about
    /// `bytes_max` of them (one record may be more). `None` if nothing beyond `from` is flushed.
    ///
    /// # Errors
    /// [`Error::Removed`], [`Error::BeyondEnd`], or [`Error::CorruptRecord`]: then nothing of the damaged part is returned.
    pub fn read(&self, from: Lsn, bytes_max: usize) -> Result<Option<LogBytes>> {
        let shared = &self.shared;
        let size = shared.options.segment_size;
        let flushed = shared.flushed.value();
        if from > flushed {
            return Err(Error::BeyondEnd { requested: from, flushed });
        }
        if from == flushed {
            return Ok(None);
        }
        let start = shared.history.read().next_byte(from);
        if start >= flushed {
            return Ok(None);
        }
        let header = shared.header_at(start, from)?;
        let mut file = None;
        let end = flushed.min(size.end_of(header.segment)).min(shared.history.read().end_of(header.timeline));
        let offset = u64::from(size.offset_in_segment(start));
        let available = end.distance_from(start) as usize;
        let head = if offset == 0 { SEGMENT_HEADER_SIZE } else { 0 };
        let mut wanted = bytes_max.max(head + RECORD_HEADER_SIZE).min(available);
        let mut bytes = Vec::new();
        loop {
            let read = bytes.len();
            bytes.resize(wanted, 0);
            if file.is_some() || !shared.recent.read(start.advance(read as u64), &mut bytes[read..]) {
                let file = match &mut file {
                    Some(file) => file,
                    none => none.insert(shared.open_segment(&header, from)?),
                };
                read_exact_at(&**file, &mut bytes[read..], offset + read as u64)
                    .map_err(|error| shared.unreadable("read", start, from, &header, error))?;
            }
            let parsed = bytes[..head].try_into().map(UnverifiedSegmentHeader::parse);
            if parsed.is_ok_and(|parsed| parsed != UnverifiedSegmentHeader::Parsed(header)) {
                return Err(shared.damaged(start, from, &header));
            }
            match whole_records(&bytes, head, start, &header) {
                Ok(whole) if whole > head => {
                    bytes.truncate(whole);
                    let counters = &shared.counters;
                    let reads = if file.is_some() { &counters.reads_disk } else { &counters.reads_memory };
                    reads.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(LogBytes { timeline: header.timeline, start, bytes }));
                }
                // The first record is larger than what was read.
                Ok(_) if wanted < available => {
                    let needed = first_extent(&bytes[head..], start.advance(head as u64), &header);
                    wanted = (head + needed).clamp(wanted + 1, available);
                }
                Ok(_) => return Err(shared.damaged(start, from, &header)),
                Err(at) => return Err(shared.damaged(at, from, &header)),
            }
        }
    }

    /// Reads records from the position `from` on.
    pub fn reader(&self, from: Position) -> LogReader {
        LogReader { shared: self.shared.clone(), position: from, scan: None }
    }

    /// The chain at `lsn`. `None` if it lies outside the log that is here, or if no record ends there: `None` within the log
    /// is a verdict on whoever asks, and so is given only after all that is before it was read and found whole. Reads from the
    /// start of its segment.
    ///
    /// # Errors
    /// [`Error::CorruptRecord`] and [`Error::Io`]: whether a record ends there is not known.
    pub fn position_at(&self, lsn: Lsn) -> Result<Option<Position>> {
        let shared = &self.shared;
        if lsn == Lsn::ZERO {
            return Ok(Some(Position::ZERO));
        }
        let end = self.end();
        if end.lsn == lsn {
            return Ok(Some(end));
        }
        // A position at a boundary, or at a fork, is also what the next segment's header says about the one before.
        let next = shared.history.read().next_byte(lsn);
        let size = shared.options.segment_size;
        let number = size.segment_of(next);
        let behind = shared.segments.read().get(&number).copied();
        if let Some(header) = behind.flatten().filter(|header| header.previous.lsn == lsn) {
            return Ok(Some(header.previous));
        }
        if lsn > shared.flushed.value() {
            return Ok(None);
        }
        match shared.find_position(lsn) {
            // Only the header of the next segment could say what ends here, and it is damaged.
            Err(Error::Removed { .. }) if behind == Some(None) && next == size.start_of(number) => {
                Err(Error::CorruptRecord { at: next, segment: number, timeline: shared.timeline_at(number).id })
            }
            // Recycled long ago, or while it was looked for.
            Err(Error::Removed { requested, oldest }) if requested <= oldest => Ok(None),
            found => found,
        }
    }
}

impl Shared {
    /// The position at `lsn`, below what is flushed, found by reading its segment from the start.
    fn find_position(&self, lsn: Lsn) -> Result<Option<Position>> {
        let header = self.header_at(Lsn::new(lsn.offset() - 1), lsn)?;
        let file = self.open_segment(&header, lsn)?;
        // Behind a fork nothing was ever written.
        let written = self.flushed.value().min(self.history.read().end_of(header.timeline));
        let mut scan = SegmentScan::new(file, header, Lsn::ZERO);
        scan.trust_until(written);
        loop {
            let place = scan.place();
            let io = |error| self.unreadable("read", place, lsn, &header, error);
            let record = match scan.peek().map_err(io)? {
                Scanned::Record(record) => record,
                Scanned::Full => return Ok(None),
                Scanned::Beyond if place >= written => return Ok(None),
                Scanned::Bad(_) if planted(Mutant::DamageTakenForAnotherLog) => return Ok(None),
                Scanned::Beyond | Scanned::Bad(_) => return Err(self.damaged(place, lsn, &header)),
            };
            let position = record.position();
            if position.lsn >= lsn {
                return Ok((position.lsn == lsn).then_some(position));
            }
            assert!(position.lsn > place, "records have an extent");
            scan.move_to(position.lsn);
        }
    }
}

/// Bytes handed over at once to those who fetch.
const FETCH_SIZE: usize = 1 << 20;

/// The segments a node has on its own disk, as a source for others.
impl SegmentSource for Log {
    fn name(&self) -> &str {
        "local segments"
    }

    fn coverage(&self, timeline: TimelineId) -> Result<Option<(Lsn, Lsn)>> {
        let history = self.history();
        let Some(entry) = history.find(timeline) else { return Ok(None) };
        let from = self.oldest().max(entry.begin);
        let to = self.flushed().value().min(history.end_of(timeline));
        Ok((from < to).then_some((from, to)))
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> Result<Option<LogBytes>> {
        if from > self.flushed().value() {
            return Ok(None);
        }
        let bytes = match self.read(from, FETCH_SIZE) {
            Err(Error::Removed { .. }) => None,
            read => read?,
        };
        Ok(bytes.filter(|bytes| bytes.timeline == timeline && bytes.start == from))
    }

    fn history(&self) -> Result<Option<TimelineHistory>> {
        Ok(Some(self.history()))
    }
}

/// A walk through the records of an open log.
pub struct LogReader {
    shared: Arc<Shared>,
    position: Position,
    scan: Option<SegmentScan>,
}

impl LogReader {
    /// Where it stands: the end of the last record it gave.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next record, or `None` if it is not flushed yet.
    ///
    /// # Errors
    /// [`Error::Removed`], [`Error::CorruptRecord`], or [`Error::Discontinuous`] if the position it was given is not of
    /// this history.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        let size = self.shared.options.segment_size;
        let flushed = self.shared.flushed.value();
        let start = self.shared.history.read().next_byte(self.position.lsn);
        if start >= flushed {
            return Ok(None);
        }
        let segment = size.segment_of(start);
        if self.scan.as_ref().is_none_or(|scan| scan.header().segment != segment) {
            let header = self.shared.header_at(start, self.position.lsn)?;
            let file = self.shared.open_segment(&header, self.position.lsn)?;
            if start == size.start_of(segment) && header.previous != self.position {
                return Err(Error::Discontinuous { at: self.position, why: "the log holds another history" });
            }
            self.scan = Some(SegmentScan::new(file, header, start));
        }
        let shared = &self.shared;
        let scan = self.scan.as_mut().expect("it was just made");
        scan.trust_until(flushed);
        let header = *scan.header();
        let from = self.position.lsn;
        let io = |error| shared.unreadable("read", start, from, &header, error);
        let position = match scan.peek().map_err(io)? {
            Scanned::Record(record) if record.header.continues(self.position.chain) => record.position(),
            Scanned::Record(_) => {
                return Err(Error::Discontinuous { at: self.position, why: "the log holds another history" });
            }
            Scanned::Beyond => return Ok(None),
            Scanned::Full | Scanned::Bad(_) => return Err(shared.damaged(start, self.position.lsn, &header)),
        };
        let place = scan.place();
        scan.move_to(position.lsn);
        self.position = position;
        let scan = self.scan.as_ref().expect("it was just used");
        let record = Record::parse(scan.passed(place), place, header.salt, size).expect("it was just checked");
        Ok(Some(record))
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogReader at {}", self.position)
    }
}

impl Shared {
    /// The header of the segment that holds the byte at `start`.
    fn header_at(&self, start: Lsn, requested: Lsn) -> Result<SegmentHeader> {
        let number = self.options.segment_size.segment_of(start);
        let found = self.segments.read().get(&number).copied();
        let at = self.options.segment_size.start_of(number);
        let damaged = || Error::CorruptRecord { at, segment: number, timeline: self.timeline_at(number).id };
        found.ok_or_else(|| self.removed(requested))?.ok_or_else(damaged)
    }

    /// A segment's file for reading.
    fn open_segment(&self, header: &SegmentHeader, requested: Lsn) -> Result<Arc<dyn File>> {
        let opened = self.storage.open(&self.path_of(id_of(header)), Access::Read);
        let start = header.size.start_of(header.segment);
        opened.map_err(|error| self.unreadable("open", start, requested, header, error))
    }

    pub(crate) fn removed(&self, requested: Lsn) -> Error {
        Error::Removed { requested, oldest: self.oldest() }
    }

    /// The error for a bad record: damage, unless the segment was recycled while it was read.
    fn damaged(&self, at: Lsn, requested: Lsn, header: &SegmentHeader) -> Error {
        if !self.is_here(header) {
            return self.removed(requested);
        }
        self.note_damage(at, header, Cause::Checked);
        Error::CorruptRecord { at, segment: header.segment, timeline: header.timeline }
    }

    /// The error of a segment's file that cannot be opened or read. A sealed one that is gone, or has a sector which the device
    /// cannot read any more, is damage as well: only another copy helps. Any other error may pass by itself.
    fn unreadable(
        &self,
        operation: &'static str,
        at: Lsn,
        requested: Lsn,
        header: &SegmentHeader,
        error: io::Error,
    ) -> Error {
        let is_gone = error.kind() == io::ErrorKind::NotFound;
        if is_gone && !self.is_here(header) {
            return self.removed(requested);
        }
        let is_unreadable = is_of_device(&error) && !planted(Mutant::UnreadableSectorNotNoted);
        let cause = if is_gone { Cause::Checked } else { Cause::Unread };
        if (is_gone || is_unreadable) && self.is_here(header) && self.is_sealed(header.segment) {
            self.note_damage(at, header, cause);
        }
        Error::io(operation, self.path_of(id_of(header)), error)
    }

    /// Whether the segment was not recycled meanwhile.
    fn is_here(&self, header: &SegmentHeader) -> bool {
        self.segments.read().contains_key(&header.segment)
    }

    /// Whether nothing is written to the segment any more; before a timeline's first record that is so of all.
    fn is_sealed(&self, segment: SegmentNumber) -> bool {
        self.tail.lock().active.as_ref().is_none_or(|active| active.header.segment > segment)
    }

    fn note_damage(&self, at: Lsn, header: &SegmentHeader, cause: Cause) {
        let noted = Noted { at, cause };
        self.damages.lock().entry(header.segment).and_modify(|known| known.add(noted)).or_insert(noted);
    }
}

/// How many of `bytes` are whole records after `head` bytes. `Err` with the place of a record that does not check out.
pub(crate) fn whole_records(bytes: &[u8], head: usize, start: Lsn, header: &SegmentHeader) -> Result<usize, Lsn> {
    let mut at = head;
    let mut chain: Option<Chain> = None;
    while bytes.len() - at >= RECORD_HEADER_SIZE {
        let place = start.advance(at as u64);
        let parsed = RecordHeader::parse(&bytes[at..], place, header.salt, header.size).map_err(|_| place)?;
        let end = at + parsed.end(header.size).distance_from(place) as usize;
        if end > bytes.len() {
            break;
        }
        let record = Record::parse(&bytes[at..], place, header.salt, header.size).map_err(|_| place)?;
        if chain.is_some_and(|chain| !record.header.continues(chain)) {
            return Err(place);
        }
        chain = Some(record.header.chain);
        at = end;
    }
    Ok(at)
}

/// The extent of the record at the head of `bytes`, or one byte more than there is if its header is not whole.
pub(crate) fn first_extent(bytes: &[u8], start: Lsn, header: &SegmentHeader) -> usize {
    match RecordHeader::parse(bytes, start, header.salt, header.size) {
        Ok(record) => record.end(header.size).distance_from(start) as usize,
        Err(_) => bytes.len() + 1,
    }
}

fn id_of(header: &SegmentHeader) -> SegmentId {
    SegmentId { number: header.segment, timeline: header.timeline }
}
