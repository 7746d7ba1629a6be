//! What can go wrong with the log, by who must act: the disk, the operator, the caller, or a copy of the data.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::format::Position;
use crate::identity::{ClusterId, TimelineId};
use crate::lsn::{Lsn, SegmentNumber};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on the log failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage refused an operation.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The storage's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// No room for more log. Reads go on; writes come back when there is room.
    #[error("the disk of {} is full; free space, and writes go on by themselves", path.display())]
    DiskFull {
        /// The log's folder.
        path: PathBuf,
    },
    /// The log is damaged where it had been flushed: bytes that were acknowledged are gone from this copy.
    #[error(
        "the log is damaged at {at} in segment {segment} of timeline {timeline}, below what had been flushed ({evidence}); \
         nothing was changed: restore this node from a standby or the archive"
    )]
    Corrupt {
        /// The first position from which nothing valid follows.
        at: Lsn,
        /// The segment that holds it.
        segment: SegmentNumber,
        /// The timeline of that segment.
        timeline: TimelineId,
        /// Why it must have been whole.
        evidence: &'static str,
    },
    /// A record below the flush LSN of an open log, or the header of its segment, does not check out.
    #[error("the log at {at} in segment {segment} of timeline {timeline} does not match its checksum")]
    CorruptRecord {
        /// Where it starts; the segment's start if that is its header.
        at: Lsn,
        /// The segment that holds it.
        segment: SegmentNumber,
        /// The timeline of that segment.
        timeline: TimelineId,
    },
    /// A segment belongs to another cluster, timeline or place.
    #[error("{} is not part of this log: {field} is {found}, expected {expected}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Which field of its header.
        field: &'static str,
        /// What it says.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A segment was written by a newer Seawall.
    #[error("{} has format version {version}, this build reads up to {supported}; use a newer build", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version read here.
        supported: u32,
    },
    /// An earlier write or sync failed. Nothing was written since; reopening recovers.
    #[error("the log stopped at {flushed} after an error and takes no more writes until reopened: {cause}")]
    Poisoned {
        /// Up to here everything is durable.
        flushed: Lsn,
        /// The first error.
        cause: Arc<str>,
    },
    /// A thread that others wait for panicked: a defect of this program.
    #[error("what {work} met something that cannot be ({said}); this is a defect: report it with this message")]
    Panicked {
        /// What the thread does.
        work: &'static str,
        /// What it said.
        said: Arc<str>,
    },
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
    /// A wait ran out of time. The record may or may not survive.
    #[error("no confirmation yet for {lsn}: whether it survives is unknown")]
    TimedOut {
        /// What was waited for.
        lsn: Lsn,
    },
    /// The disk did not answer for so long that there is no room for another record. Nothing was added; it may be tried again.
    #[error("the disk of {} has not finished a write for {} ms, and there is no room for more", path.display(), since.as_millis())]
    Stalled {
        /// The log's folder.
        path: PathBuf,
        /// How long the caller waited.
        since: Duration,
    },
    /// A record would be larger than one may be.
    #[error("a record of {size} bytes exceeds the {max} bytes one batch may have with this segment size")]
    TooLarge {
        /// Bytes of payload asked for.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The log before this is no longer here.
    #[error("the log here starts at {oldest}; {requested} has been recycled")]
    Removed {
        /// What was asked for.
        requested: Lsn,
        /// The oldest position that can be read.
        oldest: Lsn,
    },
    /// Something beyond the flushed end was asked for.
    #[error("{requested} is beyond the log's flushed end {flushed}")]
    BeyondEnd {
        /// What was asked for.
        requested: Lsn,
        /// How far the log reaches.
        flushed: Lsn,
    },
    /// Received bytes do not continue this log.
    #[error("received bytes do not continue this log at {at}: {why}")]
    Discontinuous {
        /// Where this log ends.
        at: Position,
        /// What does not fit.
        why: &'static str,
    },
    /// An append to a log that receives, or the reverse.
    #[error("the log is {actual}, so it cannot {operation}")]
    WrongMode {
        /// What was tried.
        operation: &'static str,
        /// What the log is doing.
        actual: &'static str,
    },
    /// The bytes offered are of another cluster.
    #[error("cluster {found} is not this cluster, {expected}")]
    WrongCluster {
        /// Theirs.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// A source of log (the archive, a peer) failed or does not have the bytes.
    #[error("{source_name} cannot provide the log at {at}: {why}")]
    Source {
        /// Which source.
        source_name: String,
        /// From where.
        at: Lsn,
        /// Its answer.
        why: String,
    },
    /// A source of log (the archive, a peer) does not answer now; asked again later it may.
    #[error("{source_name} does not answer, so it cannot provide the log at {at} now: {why}")]
    SourceSilent {
        /// Which source.
        source_name: String,
        /// From where.
        at: Lsn,
        /// What was met.
        why: String,
    },
    /// A timeline was claimed by somebody else.
    #[error("timeline {timeline} has been claimed by another node; this one may not begin it")]
    TimelineTaken {
        /// The number.
        timeline: TimelineId,
    },
}

impl Error {
    /// An I/O error with its circumstances; a full disk is told apart by its kind.
    pub fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { operation, path, source: Arc::new(source) },
        }
    }
}
