//! Walking the records of one segment file, front to back, through a window of deep reads. It says what it finds;
//! whether the end it meets is the end of the log or damage is for its callers.

use std::io;
use std::sync::Arc;

use crate::format::{NotARecord, RECORD_ALIGNMENT, RECORD_HEADER_SIZE, Record, RecordHeader, SEGMENT_HEADER_SIZE};
use crate::format::{SegmentHeader, UnverifiedSegmentHeader};
use crate::lsn::Lsn;
use crate::storage::{AlignedBuffer, BLOCK_SIZE, File, ReadRequest, read_exact_at};
use crate::sync::mpsc::{Receiver, SyncSender, sync_channel};
use crate::sync::thread;

/// Bytes of one read, and how many are in flight.
const READ_SIZE: usize = 256 << 10;
const READS: usize = 8;

/// Of a block where no record begins.
static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// What stands at the scan's place.
pub(crate) enum Scanned<'a> {
    /// A record that is whole in itself.
    Record(Record<'a>),
    /// The segment has no room for another record: the log goes on in the next one.
    Full,
    /// The place lies beyond the trusted bytes.
    Beyond,
    /// Not a record.
    Bad(NotARecord),
}

/// A walk through one segment.
pub(crate) struct SegmentScan {
    file: Arc<dyn File>,
    header: SegmentHeader,
    /// Offset in the segment of the next record.
    next: usize,
    /// Bytes from `window_start` on.
    window: Vec<u8>,
    window_start: usize,
    /// Bytes before this offset are read; what lies beyond has not been flushed, or does not exist.
    trusted: usize,
    staging: AlignedBuffer,
    /// A thread that reads what comes next meanwhile.
    ahead: Option<ReadAhead>,
}

impl SegmentScan {
    /// From the record that starts at `from`, or the first one. Trusts the whole segment.
    pub(crate) fn new(file: Arc<dyn File>, header: SegmentHeader, from: Lsn) -> Self {
        let first = header.first_record().max(from);
        let next = header.size.offset_in_segment(first) as usize;
        let trusted = header.size.bytes() as usize;
        let staging = AlignedBuffer::with_capacity((READ_SIZE * READS).min(trusted));
        Self { file, header, next, window: Vec::new(), window_start: next, trusted, staging, ahead: None }
    }

    /// Has the segment read from here to its end by a thread of its own, while the records are worked on.
    pub(crate) fn read_ahead(&mut self) {
        self.ahead = ReadAhead::start(Arc::clone(&self.file), self.next, self.trusted, self.staging.capacity());
    }

    /// Trusts only the bytes before `lsn`. A wider trust than before makes bytes be read again.
    pub(crate) fn trust_until(&mut self, lsn: Lsn) {
        let size = self.header.size;
        let end = size.end_of(self.header.segment);
        let trusted = if lsn >= end {
            size.bytes() as usize
        } else {
            size.offset_in_segment(lsn.max(size.start_of(self.header.segment))) as usize
        };
        self.trusted = trusted;
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Where the next record starts.
    pub(crate) fn place(&self) -> Lsn {
        self.header.size.start_of(self.header.segment).advance(self.next as u64)
    }

    /// Looks at the next record without moving past it.
    pub(crate) fn peek(&mut self) -> io::Result<Scanned<'_>> {
        let size = self.header.size;
        if size.bytes() as usize - self.next < RECORD_HEADER_SIZE {
            return Ok(Scanned::Full);
        }
        if self.next + RECORD_HEADER_SIZE > self.trusted {
            return Ok(Scanned::Beyond);
        }
        let place = self.place();
        self.fill(RECORD_HEADER_SIZE)?;
        let parsed = RecordHeader::parse(self.bytes(RECORD_HEADER_SIZE), place, self.header.salt, size);
        let header = match parsed {
            Ok(header) => header,
            Err(error) => return Ok(Scanned::Bad(error)),
        };
        let len = RECORD_HEADER_SIZE + header.payload_len;
        if self.next + len > self.trusted {
            return Ok(Scanned::Beyond);
        }
        self.fill(len)?;
        Ok(match Record::with_header(header, &self.bytes(len)[RECORD_HEADER_SIZE..], size) {
            Ok(record) => Scanned::Record(record),
            Err(error) => Scanned::Bad(error),
        })
    }

    /// Moves to `lsn`, the end of the record just seen.
    pub(crate) fn move_to(&mut self, lsn: Lsn) {
        let size = self.header.size;
        let offset = lsn.distance_from(size.start_of(self.header.segment)) as usize;
        assert!(offset >= self.next && offset <= size.bytes() as usize, "a scan moves forward within its segment");
        self.next = offset;
    }

    /// The bytes from `place` on, which was just moved past.
    pub(crate) fn passed(&self, place: Lsn) -> &[u8] {
        let offset = self.header.size.offset_in_segment(place) as usize;
        &self.window[offset - self.window_start..]
    }

    /// Whether the place bears an end mark: zeros where a record's header would stand.
    pub(crate) fn at_end_mark(&mut self) -> io::Result<bool> {
        self.fill(RECORD_HEADER_SIZE)?;
        Ok(self.bytes(RECORD_HEADER_SIZE).iter().all(|byte| *byte == 0))
    }

    /// Searches beyond the place for records that are valid in themselves. Gives each one's header and end to `found`.
    pub(crate) fn search(mut self, mut found: impl FnMut(&RecordHeader, Lsn)) -> io::Result<()> {
        let size = self.header.size;
        while size.bytes() as usize - self.next >= RECORD_HEADER_SIZE {
            match self.peek()? {
                Scanned::Record(record) => {
                    let end = record.lsn;
                    found(&record.header, end);
                    self.move_to(end);
                }
                _ => self.skip_to_candidate(),
            }
        }
        Ok(())
    }

    /// Moves at least one step, past places whose bytes in the window do not even name their own position.
    fn skip_to_candidate(&mut self) {
        let base = self.header.size.start_of(self.header.segment).offset();
        self.next += RECORD_ALIGNMENT;
        // A segment that was not recycled is zero behind the log's end.
        while let Some(block) =
            self.window.get(self.next - self.window_start..).and_then(|rest| rest.get(..ZEROS.len()))
            && block == ZEROS
        {
            self.next += ZEROS.len() - RECORD_HEADER_SIZE;
        }
        while let Some(field) = self.window.get(self.next + 8 - self.window_start..self.next + 16 - self.window_start)
            && field != (base + self.next as u64).to_le_bytes()
        {
            self.next += RECORD_ALIGNMENT;
        }
    }

    fn bytes(&self, len: usize) -> &[u8] {
        &self.window[self.next - self.window_start..][..len]
    }

    /// Makes `len` bytes from the place on be in the window.
    fn fill(&mut self, len: usize) -> io::Result<()> {
        let have = self.window_start + self.window.len();
        if self.next >= self.window_start && self.next + len <= have {
            return Ok(());
        }
        let segment = self.header.size.bytes() as usize;
        // Keep what is already there of the record at hand; it may be larger than one round of reads.
        let kept = if self.next >= self.window_start && self.next < have {
            self.next - self.window_start
        } else {
            self.window.len()
        };
        self.window.drain(..kept);
        self.window_start = self.next;
        while self.window.len() < len {
            let from = self.window_start + self.window.len();
            if let Some(ahead) = &self.ahead {
                match ahead.next() {
                    Some(piece) => {
                        let (start, bytes) = piece?;
                        if let Some(new) = bytes.get(from.saturating_sub(start)..) {
                            self.window.extend_from_slice(new);
                        }
                        ahead.give_back(bytes);
                        continue;
                    }
                    None => self.ahead = None,
                }
            }
            let start = from / BLOCK_SIZE * BLOCK_SIZE;
            // Only whole blocks below the trusted end: what lies beyond would have to be read again anyway.
            let limit = self.trusted.next_multiple_of(BLOCK_SIZE).min(segment);
            let end = (start + self.staging.capacity()).min(limit);
            assert!(end > from, "no byte beyond the trusted ones is asked for");
            self.staging.resize(end - start);
            read_deep(&*self.file, &mut self.staging, start)?;
            let valid = end.min(self.trusted.max(from));
            self.window.extend_from_slice(&self.staging[from - start..valid - start]);
        }
        Ok(())
    }
}

/// Reads until `buffer` is full, several pieces at a time.
fn read_deep(file: &dyn File, buffer: &mut [u8], offset: usize) -> io::Result<()> {
    let pieces = buffer.chunks_mut(READ_SIZE).enumerate();
    let mut reads: Vec<ReadRequest<'_>> =
        pieces.map(|(index, buffer)| ReadRequest { offset: (offset + index * READ_SIZE) as u64, buffer }).collect();
    file.read_many(&mut reads)
}

/// A thread that reads a file in large pieces, a few ahead of who takes them.
struct ReadAhead {
    pieces: Receiver<io::Result<(usize, AlignedBuffer)>>,
    used: SyncSender<AlignedBuffer>,
}

/// Pieces that are read and not yet taken.
const PIECES_AHEAD: usize = 2;

impl ReadAhead {
    /// From the block of `from` to `end`. `None` if there is no thread to be had.
    fn start(file: Arc<dyn File>, from: usize, end: usize, piece_bytes: usize) -> Option<Self> {
        let (send, pieces) = sync_channel(PIECES_AHEAD);
        let (used, free) = sync_channel::<AlignedBuffer>(PIECES_AHEAD + 2);
        let read = move || {
            let mut start = from / BLOCK_SIZE * BLOCK_SIZE;
            while start < end {
                let mut buffer = free.try_recv().unwrap_or_else(|_| AlignedBuffer::with_capacity(piece_bytes));
                // What it held is overwritten, so nothing is cleared.
                buffer.resize(piece_bytes.min(end - start));
                let outcome = read_deep(&*file, &mut buffer, start).map(|()| (start, buffer));
                start += piece_bytes;
                let failed = outcome.is_err();
                // Nobody takes it any more, or nothing comes after it.
                if send.send(outcome).is_err() || failed {
                    return;
                }
            }
        };
        // Ends by itself: at the end, or when the scan is dropped.
        thread::Builder::new().name(String::from("seawall-read")).spawn(read).ok()?;
        Some(Self { pieces, used })
    }

    fn next(&self) -> Option<io::Result<(usize, AlignedBuffer)>> {
        self.pieces.recv().ok()
    }

    fn give_back(&self, buffer: AlignedBuffer) {
        // The thread makes another one if this one is in nobody's way.
        let _ = self.used.try_send(buffer);
    }
}

/// Reads a segment's first sector.
pub(crate) fn read_segment_header(file: &dyn File) -> io::Result<UnverifiedSegmentHeader> {
    let mut block = AlignedBuffer::zeroed(BLOCK_SIZE);
    read_exact_at(file, &mut block, 0)?;
    let sector = block[..SEGMENT_HEADER_SIZE].try_into().expect("a block is larger than a header");
    Ok(UnverifiedSegmentHeader::parse(sector))
}
