//! A log whose bits are flipped, opened as recovery opens it, with and without what the control file knows.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use seawall_engine::{CommitLevel, Control};
use seawall_wal::clock::ManualClock;
use seawall_wal::recovery::Verdict;
use seawall_wal::storage::MemoryDisk;
use seawall_wal::{Error, Log, LogMode, LogOptions, Lsn, OpenAt, Position, Record, SegmentSize, Threads, Timestamp};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Decaying, Flipped, commit, plain};
use crate::setup::{DIR, Setup};
use crate::story::Story;

/// The log of a database, all segments in a row, with everything in it still needed.
pub struct DecayingLog {
    disk: MemoryDisk,
    control: Control,
    /// What recovery goes by beside the log's own stamps.
    watermark: Lsn,
    records: Vec<LogRecord>,
    /// Where the records before each segment end.
    starts: Vec<Position>,
    end: Lsn,
    /// The largest flush LSN that the log itself knows of.
    stamped: Lsn,
    headers: Vec<Range<u64>>,
}

struct LogRecord {
    lsn: Lsn,
    digest: u64,
}

/// Bytes that a segment begins with, of which every bit is flipped, and bytes of the header of a record.
const SEGMENT_HEADER_LEN: u64 = 128;
const RECORD_HEADER_LEN: u64 = seawall_wal::format::RECORD_HEADER_SIZE as u64;
/// Of one of so many records every bit of the header is flipped, and of the last so many.
const HEADERS_EVERY: usize = 64;
const HEADERS_LAST: usize = 6;

impl DecayingLog {
    /// One of `bytes` at least. `watermark` says whether the control file knows that all of it was flushed.
    pub fn new(bytes: u64, watermark: bool) -> Self {
        let setup = Setup { memtable_bytes: 1 << 40, ..plain(1) };
        let disk = MemoryDisk::new();
        let db = setup.open(&disk).expect("nothing fails on this disk");
        let story = Story::new(setup.seed, 0);
        let mut number = 0;
        while db.log().end().lsn.offset() < bytes || number % 4 != 0 {
            let level = if number % 4 == 3 { CommitLevel::Local } else { CommitLevel::Buffered };
            commit(&db, &story, number, level);
            number += 1;
        }
        let control = db.control();
        drop(db);
        let mut log = Self {
            disk,
            control,
            watermark: Lsn::ZERO,
            records: Vec::new(),
            starts: vec![Position::ZERO],
            end: Lsn::ZERO,
            stamped: Lsn::ZERO,
            headers: Vec::new(),
        };
        log.read_healthy();
        if watermark {
            log.watermark = log.end;
        }
        log
    }

    fn size(&self) -> SegmentSize {
        self.control.segment_size
    }

    fn read_healthy(&mut self) {
        let size = self.size();
        let (mut records, mut starts, mut stamped) = (Vec::new(), vec![Position::ZERO], Lsn::ZERO);
        let mut headers = Vec::new();
        let opened = self.open(&self.disk.duplicate(), Position::ZERO, |record| {
            records.push(LogRecord { lsn: record.lsn, digest: digest(record) });
            headers.push(record.header.start.offset());
            stamped = stamped.max(record.header.flush_stamp);
            if size.boundary_at_or_after(record.lsn) == record.lsn {
                starts.push(record.position());
            }
        });
        self.end = opened.expect("a healthy log opens").0;
        let last = headers.len().saturating_sub(HEADERS_LAST);
        let chosen = headers.iter().enumerate().filter(|(index, _)| index % HEADERS_EVERY == 0 || *index >= last);
        self.headers = chosen.map(|(_, start)| *start..*start + RECORD_HEADER_LEN).collect();
        let segments = (0..=self.end.offset() / u64::from(size.bytes())).map(|number| number * u64::from(size.bytes()));
        self.headers.extend(segments.map(|start| start..start + SEGMENT_HEADER_LEN));
        // The header of the last segment says that everything before it was flushed.
        let begun = starts.iter().map(|start| start.lsn).filter(|start| *start < self.end).max();
        (self.records, self.stamped) = (records, stamped.max(begun.unwrap_or(Lsn::ZERO)));
        self.starts = starts;
    }

    /// Opens the log from a segment's start on. Where it ends then, and what recovery said.
    fn open(
        &self,
        disk: &MemoryDisk,
        start: Position,
        mut each: impl FnMut(&Record<'_>),
    ) -> seawall_wal::Result<(Lsn, Verdict)> {
        let options = LogOptions {
            segment_size: self.size(),
            threads: Threads::Inline,
            ..LogOptions::new(self.control.cluster, self.control.node)
        };
        let at = OpenAt {
            history: self.control.history.clone(),
            start,
            time_floor: Timestamp(0),
            watermark: self.watermark,
        };
        let clock = Arc::new(ManualClock::new(Timestamp(1)));
        let dir = Path::new(DIR).join("wal");
        let (log, recovery) =
            Log::open(Arc::new(disk.clone()), clock, &dir, options, &at, LogMode::Append, |records| {
                records.iter().for_each(&mut each);
                seawall_wal::Result::Ok(())
            })?;
        Ok((log.end().lsn, recovery.verdict))
    }
}

impl DecayingLog {
    /// Whether who reads the error looks at the segment and the record, or segment header, with this byte.
    fn leads_to(&self, error: &Error, byte: Lsn) -> bool {
        let Error::Corrupt { at, segment, timeline, .. } = error else { return false };
        let before = self.records.partition_point(|record| record.lsn <= byte);
        let start = before.checked_sub(1).map_or(Lsn::ZERO, |last| self.records[last].lsn);
        let id = (*segment, timeline.0);
        id == (self.size().segment_of(byte), 1) && *at == start
    }
}

impl Decaying for DecayingLog {
    fn bytes(&self) -> u64 {
        self.end.offset() + RECORD_HEADER_LEN
    }

    fn headers(&self) -> &[Range<u64>] {
        &self.headers
    }

    /// Recovery begins in the segment of the bit, as after a checkpoint there: segments before it are not read.
    fn flip(&self, byte: u64, bit: u8) -> Flipped {
        let bytes = u64::from(self.size().bytes());
        let number = (byte / bytes).min(self.starts.len() as u64 - 1);
        let disk = self.disk.duplicate();
        let path = Path::new(DIR).join("wal").join(format!("00000001-{:016x}.wal", byte / bytes));
        disk.flip_bit(&path, byte % bytes, bit);
        let start = self.starts[number as usize];
        let mut expected = self.records[self.records.partition_point(|record| record.lsn <= start.lsn)..].iter();
        let mut wrong = false;
        let opened = self.open(&disk, start, |record| {
            let right =
                expected.next().is_some_and(|expected| (expected.lsn, expected.digest) == (record.lsn, digest(record)));
            wrong |= !right;
        });
        match opened {
            _ if wrong => Flipped::Served,
            Err(error) if self.leads_to(&error, Lsn::new(byte)) => Flipped::Detected,
            Err(_) => Flipped::Misnamed,
            Ok((end, _)) if end == self.end => Flipped::Harmless,
            Ok((end, Verdict::Cut)) if end >= self.stamped && end >= self.watermark => Flipped::CutTail,
            Ok(_) => Flipped::CutBelowStamp,
        }
    }
}

fn digest(record: &Record<'_>) -> u64 {
    xxh3_64_with_seed(record.payload, record.header.kind as u64)
}

#[cfg(test)]
mod tests {
    use seawall_wal::{SegmentNumber, TimelineId};

    use super::*;

    #[test]
    fn a_refusal_that_names_another_place_does_not_count_as_noticed() {
        let log = DecayingLog::new(100_000, true);
        let record = &log.records[20];
        let byte = record.lsn.advance(8);
        let error = |at, segment| Error::Corrupt { at, segment, timeline: TimelineId(1), evidence: "it is" };
        assert!(log.leads_to(&error(record.lsn, SegmentNumber(0)), byte));
        assert!(!log.leads_to(&error(log.records[19].lsn, SegmentNumber(0)), byte), "the record before");
        assert!(!log.leads_to(&error(record.lsn, SegmentNumber(1)), byte), "another segment");
        assert!(!log.leads_to(&Error::Closed, byte));
    }
}
