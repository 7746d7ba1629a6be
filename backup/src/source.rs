//! The archive as a source of log: for a standby whose next byte is neither in memory nor on anybody's disk, and for the
//! repair of a damaged segment.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use seawall_wal::{LogBytes, Lsn, SegmentSource, TimelineHistory, TimelineId};
use tokio::runtime::Handle;

use crate::archive::Archive;
use crate::error::Result;
use crate::format::chunk::{ChunkAbout, ChunkObject};
use crate::timelines::to_log_error;

/// How long an answer about coverage may be reused: planners ask often.
const COVERAGE_AGE_MAX: Duration = Duration::from_millis(250);

impl Archive {
    /// The log of `timeline` from the byte at `from` on, up to the end of the chunk that holds it; proven. `None` if the
    /// archive does not have it (yet).
    pub async fn log_at(&self, timeline: TimelineId, from: Lsn) -> Result<Option<LogBytes>> {
        // Whoever reads on from chunk to chunk asks for a key.
        let chunk = match self.chunk(timeline, from).await? {
            Some(ChunkObject::Chunk(chunk)) => return Ok(Some(chunk.to_log())),
            Some(ChunkObject::Fence { .. }) => return Ok(None),
            None => match self.locate(timeline, from).await? {
                None => return Ok(None),
                Some(ChunkAbout { start, .. }) => self.chunk(timeline, start).await?,
            },
        };
        Ok(match chunk {
            Some(ChunkObject::Chunk(chunk)) => chunk.log_from(from),
            _ => None,
        })
    }

    /// The interval of a timeline's log that is archived, as positions. `None` if nothing is.
    pub async fn coverage(&self, timeline: TimelineId) -> Result<Option<(Lsn, Lsn)>> {
        let Some(document) = self.timeline(timeline).await? else { return Ok(None) };
        let Some(start) = self.list_start(timeline).await? else { return Ok(None) };
        let begun = document.history.current();
        let start = if start == begun.begin { begun.fork.lsn } else { start };
        // The cursor is enough: what is beyond it is found when it is asked for.
        let end = match self.frontier(timeline).await? {
            Some(frontier) => frontier.position.lsn,
            None => match self.list_end(timeline).await? {
                Some((end, _)) => end,
                None => return Ok(None),
            },
        };
        Ok((start < end).then_some((start, end)))
    }
}

/// An answer that may be given again.
#[derive(Debug, Clone, Copy)]
struct Known {
    asked: Instant,
    timeline: TimelineId,
    coverage: Option<(Lsn, Lsn)>,
}

/// The archive as the log's [`SegmentSource`], for threads that may block.
#[derive(Debug)]
pub struct ArchiveSource {
    archive: Archive,
    runtime: Handle,
    known: Mutex<Option<Known>>,
}

impl ArchiveSource {
    /// `runtime` does the waiting; the methods must not be called from its own threads.
    pub fn new(archive: Archive, runtime: Handle) -> Self {
        ArchiveSource { archive, runtime, known: Mutex::default() }
    }
}

impl SegmentSource for ArchiveSource {
    fn name(&self) -> &str {
        "archive"
    }

    fn coverage(&self, timeline: TimelineId) -> seawall_wal::Result<Option<(Lsn, Lsn)>> {
        let known = *self.known.lock();
        if let Some(known) =
            known.filter(|known| known.timeline == timeline && known.asked.elapsed() < COVERAGE_AGE_MAX)
        {
            return Ok(known.coverage);
        }
        let found = self.runtime.block_on(self.archive.coverage(timeline));
        let coverage = found.map_err(|error| to_log_error(&self.archive, Lsn::ZERO, error))?;
        *self.known.lock() = Some(Known { asked: Instant::now(), timeline, coverage });
        Ok(coverage)
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> seawall_wal::Result<Option<LogBytes>> {
        let found = self.runtime.block_on(self.archive.log_at(timeline, from));
        found.map_err(|error| to_log_error(&self.archive, from, error))
    }

    fn history(&self) -> seawall_wal::Result<Option<TimelineHistory>> {
        let found = self.runtime.block_on(self.archive.newest_history());
        found.map_err(|error| to_log_error(&self.archive, Lsn::ZERO, error))
    }
}
