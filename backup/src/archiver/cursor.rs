//! Where the archiver reads the log, and the cutting of the next chunk there.

use seawall_wal::format::{SEGMENT_HEADER_SIZE, UnverifiedSegmentHeader};
use seawall_wal::{Log, Lsn, Position, SegmentNumber, Timestamp};

use super::Shared;
use super::progress::Confirmed;
use crate::error::{Error, Result};
use crate::format::chunk::{Chunk, ChunkAbout, ChunkOrigin};

/// The end of the last chunk cut, and what its successor needs to know.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    position: Position,
    last_time: Timestamp,
    /// Of the segment that holds the position; known once one of its chunks was seen.
    salt: Option<(SegmentNumber, u64)>,
}

impl Cursor {
    pub(super) fn new(position: Position, last_time: Timestamp) -> Self {
        Cursor { position, last_time, salt: None }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// The cursor after a chunk that is in the archive, or will be.
    pub(super) fn after(about: &ChunkAbout) -> Self {
        let segment = about.segment_size.segment_of(about.start);
        Cursor { position: about.end_position(), last_time: about.last_time, salt: Some((segment, about.salt)) }
    }

    pub(super) fn confirmed(&self) -> Confirmed {
        Confirmed { position: self.position, last_time: self.last_time, ..Confirmed::default() }
    }

    /// The next chunk, if anything is flushed beyond the position. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the log here does not continue what was archived.
    pub(super) fn cut(self, shared: &Shared) -> Result<(Option<Chunk>, Self)> {
        let Some(log) = shared.log().read(self.position.lsn, shared.config.chunk_bytes)? else {
            return Ok((None, self));
        };
        let options = shared.log().options();
        let history = shared.log().history();
        let nonce = history.find(log.timeline).expect("the log reads only timelines of its history").nonce;
        let origin =
            ChunkOrigin { cluster: options.cluster, segment_size: options.segment_size, nonce, node: shared.node };
        let salt = self.salt_of(shared.log(), log.start)?;
        let (timeline, start) = (log.timeline, log.start);
        let mut chunk = Chunk::of_log(&origin, log, self.position.chain, salt).map_err(|damage| Error::Fenced {
            timeline,
            at: start,
            by: format!("the log here does not continue what is archived up to {}: {damage}", self.position),
        })?;
        chunk.about.confirmed = shared.progress.archived_lsn().min(start);
        let next = Cursor::after(&chunk.about);
        Ok((Some(chunk), next))
    }

    fn salt_of(&self, log: &Log, start: Lsn) -> Result<Option<u64>> {
        let size = log.options().segment_size;
        let segment = size.segment_of(start);
        if size.offset_in_segment(start) == 0 {
            return Ok(None);
        }
        if let Some((_, salt)) = self.salt.filter(|(known, _)| *known == segment) {
            return Ok(Some(salt));
        }
        let boundary = size.start_of(segment);
        let history = log.history();
        let entry = history.of_segment(segment, size);
        // The position before a timeline's first byte is its fork.
        let before = if entry.begin == boundary { entry.fork.lsn } else { boundary };
        let Some(bytes) = log.read(before, SEGMENT_HEADER_SIZE)? else { return Ok(None) };
        let sector = bytes.bytes.first_chunk().expect("log read from a boundary begins with the header");
        match UnverifiedSegmentHeader::parse(sector) {
            UnverifiedSegmentHeader::Parsed(header) => Ok(Some(header.salt)),
            _ => Ok(None),
        }
    }
}
