//! How a log grows by another node's bytes: checked record by record, then written verbatim at the same place, in deep
//! groups through io_uring where the kernel allows it. Nothing unchecked reaches the disk, so damage is never passed on.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::flush::segment_id;
use crate::format::{
    Position, RECORD_HEADER_SIZE, Record, SEGMENT_HEADER_SIZE, SegmentHeader, UnverifiedSegmentHeader,
};
use crate::log::{Active, Log, LogMode, Shared, Tail};
use crate::lsn::Lsn;
use crate::mutant::{Mutant, planted};
use crate::segment::SegmentId;
use crate::source::LogBytes;
use crate::storage::{AfterWrite, AlignedBuffer, BLOCK_SIZE, WriteRequest, read_exact_at};
use crate::sync::atomic::Ordering;
use crate::sync::now;
use crate::timeline::TimelineHistory;

/// Bytes of one write.
const WRITE_SIZE: usize = 256 << 10;

impl Log {
    /// Checks and writes received bytes: whole records that continue this log. They are with the operating system when it
    /// returns; [`flush_received`](Self::flush_received) makes them durable. Each record is handed to `on_record` after it
    /// was written, in order.
    ///
    /// # Errors
    /// [`Error::Discontinuous`], [`Error::Foreign`] or [`Error::CorruptRecord`] if the bytes do not continue this log, and
    /// then nothing was written; what `on_record` fails with; or a failed write, which ends the log.
    pub fn receive<E: From<Error>>(
        &self,
        log: &LogBytes,
        mut on_record: impl FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<Position, E> {
        let shared = &self.shared;
        let mut tail = shared.tail.lock();
        if self.mode() != LogMode::Receive {
            return Err(Error::WrongMode { operation: "receive", actual: "open for appending" }.into());
        }
        if let Some(error) = &tail.poisoned {
            return Err(error.clone().into());
        }
        let checked = shared.check_received(&tail, log)?;
        shared.write_received(&mut tail, log, &checked)?;
        let mut place = &log.bytes[checked.head..];
        let mut start = checked.first;
        while !place.is_empty() {
            let record = Record::parse(place, start, checked.header.salt, checked.header.size)
                .expect("every record was just checked");
            on_record(&record)?;
            shared.counters.records.fetch_add(1, Ordering::Relaxed);
            place = &place[record.lsn.distance_from(start) as usize..];
            start = record.lsn;
        }
        Ok(checked.end)
    }

    /// Makes everything received so far durable and raises the flush LSN.
    pub fn flush_received(&self) -> Result<Lsn> {
        let shared = &self.shared;
        let (end, active) = {
            let tail = shared.tail.lock();
            if let Some(error) = &tail.poisoned {
                return Err(error.clone());
            }
            (tail.end.lsn, tail.active.clone())
        };
        if let Some(active) = active
            && shared.flushed.value() < end
        {
            if !planted(Mutant::StandbyAcknowledgesUnsynced) {
                shared.sync_received(&active)?;
            }
            shared.flushed.advance(end);
        }
        Ok(end)
    }

    /// Takes over the history of the node that is followed, which continues ours.
    pub fn follow_history(&self, history: &TimelineHistory) -> Result<()> {
        let tail = self.shared.tail.lock();
        self.shared.extend_history(&tail, history)
    }
}

/// Received bytes that were checked.
struct Checked {
    header: SegmentHeader,
    /// Whether the bytes begin with the segment's header, which is then new here.
    begins: bool,
    /// Bytes before the first record.
    head: usize,
    first: Lsn,
    end: Position,
    last_time: crate::clock::Timestamp,
}

impl Shared {
    fn check_received(&self, tail: &Tail, log: &LogBytes) -> Result<Checked> {
        let size = self.options.segment_size;
        let at = tail.end;
        let discontinuous = |why| Error::Discontinuous { at, why };
        let expected = self.history.read().next_byte(at.lsn);
        if log.start != expected {
            return Err(discontinuous("the bytes start elsewhere"));
        }
        let segment = size.segment_of(log.start);
        if log.bytes.is_empty() || log.end() > size.end_of(segment) {
            return Err(discontinuous("the bytes are none, or more than one segment"));
        }
        if self.timeline_at(segment).id != log.timeline {
            return Err(discontinuous("the bytes are of another timeline"));
        }
        let begins = log.start == size.start_of(segment);
        let (header, head) = if begins {
            (self.check_header(log, at)?, SEGMENT_HEADER_SIZE)
        } else {
            let active = tail.active.as_ref().filter(|active| active.header.segment == segment);
            let header = active.ok_or_else(|| discontinuous("their segment was not begun here"))?.header;
            (header, 0)
        };
        let first = log.start.advance(head as u64);
        let (mut end, mut last_time) = (at, tail.last_time);
        let (mut place, mut start) = (&log.bytes[head..], first);
        while !place.is_empty() {
            let corrupt = || Error::CorruptRecord { at: start, segment, timeline: log.timeline };
            let record = Record::parse(place, start, header.salt, size).map_err(|_| corrupt())?;
            let extent = record.lsn.distance_from(start) as usize;
            if extent > place.len() {
                return Err(discontinuous("the last record is not whole"));
            }
            if !record.header.continues(end.chain) {
                return Err(discontinuous("a record does not continue the chain: another history"));
            }
            if record.header.time <= last_time {
                return Err(discontinuous("a record is not later than the one before it"));
            }
            end = record.position();
            last_time = record.header.time;
            place = &place[extent..];
            start = record.lsn;
        }
        if end == at {
            return Err(discontinuous("the bytes hold no record"));
        }
        if end.lsn > self.history.read().end_of(log.timeline) {
            return Err(discontinuous("the bytes go on beyond the fork of the next timeline"));
        }
        Ok(Checked { header, begins, head, first, end, last_time })
    }

    fn check_header(&self, log: &LogBytes, at: Position) -> Result<SegmentHeader> {
        let size = self.options.segment_size;
        let segment = size.segment_of(log.start);
        let id = SegmentId { number: segment, timeline: log.timeline };
        let corrupt = Error::CorruptRecord { at: log.start, segment, timeline: log.timeline };
        let bytes = log.bytes.get(..SEGMENT_HEADER_SIZE).and_then(|bytes| bytes.try_into().ok());
        let header = match bytes.map(UnverifiedSegmentHeader::parse) {
            Some(UnverifiedSegmentHeader::Parsed(header)) => header,
            Some(UnverifiedSegmentHeader::TooNew(version)) => {
                return Err(Error::TooNew {
                    path: self.path_of(id),
                    version,
                    supported: crate::format::FORMAT_VERSION,
                });
            }
            _ => return Err(corrupt),
        };
        if header.cluster != self.options.cluster {
            return Err(Error::WrongCluster { found: header.cluster, expected: self.options.cluster });
        }
        let entry = self.timeline_at(segment);
        let fits = header.segment == segment
            && header.timeline == entry.id
            && header.nonce == entry.nonce
            && header.size == size
            && header.previous == at;
        if !fits {
            return Err(Error::Discontinuous { at, why: "the segment's header names another place or history" });
        }
        Ok(header)
    }

    fn write_received(&self, tail: &mut Tail, log: &LogBytes, checked: &Checked) -> Result<()> {
        let size = self.options.segment_size;
        if checked.begins {
            // The earlier segment is synced before the later one is written.
            if let Some(active) = tail.active.clone() {
                let end = tail.end.lsn;
                if !planted(Mutant::StandbySwitchesUnsynced) {
                    self.sync_received_locked(tail, &active)?;
                }
                self.flushed.advance(end);
            }
            let id = SegmentId { number: checked.header.segment, timeline: log.timeline };
            let prepared = self.preparer.take(id, self.threaded())?;
            let active = Arc::new(Active { header: checked.header, file: prepared.file });
            self.segments.write().insert(id.number, Some(checked.header));
            if self.threaded() {
                self.preparer.want(SegmentId { number: id.number.next(), timeline: id.timeline });
            }
            tail.active = Some(active);
        }
        let active = tail.active.clone().expect("a record lies in a segment");
        let offset = size.offset_in_segment(log.start) as usize;
        let base = offset / BLOCK_SIZE * BLOCK_SIZE;
        let wrote = || -> std::io::Result<()> {
            let segment = size.bytes() as usize;
            let end = offset + log.bytes.len();
            let marked = (end + RECORD_HEADER_SIZE).min(segment).next_multiple_of(BLOCK_SIZE).min(segment);
            let mut buffer = AlignedBuffer::zeroed(marked - base);
            if offset > base {
                // The block that holds the old end comes again, as on the node that wrote it.
                let mut block = AlignedBuffer::zeroed(BLOCK_SIZE);
                read_exact_at(&*active.file, &mut block, base as u64)?;
                buffer[..offset - base].copy_from_slice(&block[..offset - base]);
            }
            buffer[offset - base..end - base].copy_from_slice(&log.bytes);
            let writes: Vec<WriteRequest<'_>> = buffer
                .chunks(WRITE_SIZE)
                .enumerate()
                .map(|(index, bytes)| WriteRequest { offset: (base + index * WRITE_SIZE) as u64, bytes })
                .collect();
            active.file.write_many(&writes, AfterWrite::Nothing)
        };
        if let Err(error) = wrote() {
            return Err(self.poison(tail, &Error::io("write", self.path_of(segment_id(&active)), error)));
        }
        tail.end = checked.end;
        tail.last_time = checked.last_time;
        self.written.fetch_max(checked.end.lsn.offset(), Ordering::AcqRel);
        self.counters.bytes.fetch_add(log.bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn sync_received(&self, active: &Active) -> Result<()> {
        let synced = self.timed_sync(active);
        synced.map_err(|error| {
            let error = Error::io("sync", self.path_of(segment_id(active)), error);
            self.poison(&mut self.tail.lock(), &error);
            error
        })
    }

    fn timed_sync(&self, active: &Active) -> std::io::Result<()> {
        let started = now();
        self.counters.flush_began.store(self.micros(), Ordering::Relaxed);
        let synced = active.file.sync_data();
        self.count_flush(started);
        synced
    }

    fn sync_received_locked(&self, tail: &mut Tail, active: &Active) -> Result<()> {
        let synced = self.timed_sync(active);
        synced.map_err(|error| self.poison(tail, &Error::io("sync", self.path_of(segment_id(active)), error)))
    }
}
