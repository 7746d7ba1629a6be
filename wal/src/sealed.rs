//! The segments of a log that nobody has open, read for other nodes: a node that waits for a repair before it can open can
//! still help those that wait for it. How far such a log was flushed is not known before recovery, so a segment is given
//! only if the next one has begun: its header says where the records before it end, and was written after they were durable
//! (FORMAT.md, "Segment header").

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{RECORD_HEADER_SIZE, SEGMENT_HEADER_SIZE, SegmentHeader, UnverifiedSegmentHeader};
use crate::identity::ClusterId;
use crate::lsn::{Lsn, SegmentNumber, SegmentSize};
use crate::mutant::{Mutant, planted};
use crate::reader::{first_extent, whole_records};
use crate::scan::read_segment_header;
use crate::segment::SegmentId;
use crate::source::LogBytes;
use crate::storage::{Access, AlignedBuffer, BLOCK_SIZE, File, Storage, read_exact_at};
use crate::timeline::TimelineHistory;

/// A folder of segments of one history, for reading what is sealed of them. Repair may put others in their place meanwhile.
#[derive(Clone, Debug)]
pub struct SealedSegments {
    /// Where it lies.
    pub storage: Arc<dyn Storage>,
    /// The folder.
    pub dir: PathBuf,
    /// Whose log it is.
    pub cluster: ClusterId,
    /// Of its segments.
    pub segment_size: SegmentSize,
    /// Its timelines.
    pub history: TimelineHistory,
}

impl SealedSegments {
    /// Verbatim log from `from` on, the start of a segment or the end of a record: whole records of that segment, about
    /// `bytes_max` of them. `None` if the segment is not here, or nothing proves that it was flushed up to there.
    ///
    /// # Errors
    /// [`Error::CorruptRecord`] or [`Error::Io`]: nothing of what is damaged or cannot be read is returned.
    pub fn read(&self, from: Lsn, bytes_max: usize) -> Result<Option<LogBytes>> {
        let size = self.segment_size;
        let id = self.id_of(size.segment_of(from));
        let Some(end) = self.sealed_end(id.number)?.filter(|end| *end > from) else { return Ok(None) };
        let Some(file) = self.open(id)? else { return Ok(None) };
        let corrupt = |at| Error::CorruptRecord { at, segment: id.number, timeline: id.timeline };
        let unreadable = |error| Error::io("read", self.dir.join(id.file_name()), error);
        let header = self.own_header(id, &*file)?.ok_or_else(|| corrupt(size.start_of(id.number)))?;
        let offset = size.offset_in_segment(from) as usize;
        let head = if from == size.start_of(id.number) { SEGMENT_HEADER_SIZE } else { 0 };
        let available = end.distance_from(from) as usize;
        let mut wanted = bytes_max.max(head + RECORD_HEADER_SIZE).min(available);
        loop {
            let window = read_blocks(&*file, offset, wanted).map_err(unreadable)?;
            let bytes = &window[offset % BLOCK_SIZE..][..wanted];
            match whole_records(bytes, head, from, &header).map_err(corrupt)? {
                whole if whole > head => {
                    let bytes = bytes[..whole].to_vec();
                    return Ok(Some(LogBytes { timeline: id.timeline, start: from, bytes }));
                }
                // The first record is larger than what was read.
                _ if wanted < available => {
                    let needed = first_extent(&bytes[head..], from.advance(head as u64), &header);
                    wanted = (head + needed).clamp(wanted + 1, available);
                }
                _ => return Err(corrupt(from.advance(head as u64))),
            }
        }
    }

    /// Where the flushed records of a segment end, if it is sealed.
    fn sealed_end(&self, segment: SegmentNumber) -> Result<Option<Lsn>> {
        if planted(Mutant::UnsealedGiven) {
            return Ok(Some(self.segment_size.end_of(segment)));
        }
        let next = self.id_of(segment.next());
        let Some(file) = self.open(next)? else { return Ok(None) };
        Ok(self.own_header(next, &*file)?.map(|header| header.previous.lsn.min(self.segment_size.end_of(segment))))
    }

    /// The header of a segment's file, if it is whole and of this history.
    fn own_header(&self, id: SegmentId, file: &dyn File) -> Result<Option<SegmentHeader>> {
        match read_segment_header(file).map_err(|error| Error::io("read", self.dir.join(id.file_name()), error))? {
            UnverifiedSegmentHeader::Parsed(header) => {
                let foreign = id.foreign_field(&header, self.cluster, self.segment_size, &self.history);
                Ok(foreign.is_none().then_some(header))
            }
            _ => Ok(None),
        }
    }

    /// Past the page cache, as recovery reads: after a sync that failed the cache may show what the disk does not have.
    fn open(&self, id: SegmentId) -> Result<Option<Arc<dyn File>>> {
        let path = self.dir.join(id.file_name());
        match self.storage.open(&path, Access::ReadDirect) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", path, error)),
        }
    }

    fn id_of(&self, number: SegmentNumber) -> SegmentId {
        SegmentId { number, timeline: self.history.of_segment(number, self.segment_size).id }
    }
}

/// The blocks that hold these bytes of a file.
fn read_blocks(file: &dyn File, offset: usize, len: usize) -> io::Result<AlignedBuffer> {
    let start = offset - offset % BLOCK_SIZE;
    let mut blocks = AlignedBuffer::zeroed((offset + len).next_multiple_of(BLOCK_SIZE) - start);
    read_exact_at(file, &mut blocks, start as u64)?;
    Ok(blocks)
}
