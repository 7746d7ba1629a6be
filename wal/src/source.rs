//! The traits where replication and backup meet without knowing each other: who can hand over log, who reads it with a
//! slot, and who can say which timeline is the true one. `seawall` plugs them together.

use std::fmt;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::format::Position;
use crate::identity::{TimelineId, TimelineNonce};
use crate::lsn::Lsn;
use crate::timeline::{TimelineEntry, TimelineHistory};

/// Verbatim log: whole records of one segment of one timeline, the segment's header first if they start at its boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBytes {
    /// The timeline they belong to.
    pub timeline: TimelineId,
    /// Where the first byte lies.
    pub start: Lsn,
    /// The bytes; never empty, at most one segment.
    pub bytes: Vec<u8>,
}

impl LogBytes {
    /// Where they end.
    pub fn end(&self) -> Lsn {
        self.start.advance(self.bytes.len() as u64)
    }
}

/// Anything that can hand over log: local segments, the archive, a peer. Blocking.
pub trait SegmentSource: Send + Sync + fmt::Debug {
    /// What to call it in messages: `archive`, `local segments`.
    fn name(&self) -> &str;

    /// The interval of the timeline's log it can serve now, as positions, or `None` if it has none of it.
    fn coverage(&self, timeline: TimelineId) -> Result<Option<(Lsn, Lsn)>>;

    /// The log of `timeline` from the byte at `from` on: some whole records that start there. `None` if the source has
    /// nothing at `from` (yet). Verified for transport damage; the caller still verifies records and chain.
    ///
    /// # Errors
    /// [`Error::SourceSilent`](crate::Error::SourceSilent) from one that knows that it may answer later, else
    /// [`Error::Source`](crate::Error::Source), or what the source's own log says.
    fn fetch(&self, timeline: TimelineId, from: Lsn) -> Result<Option<LogBytes>>;

    /// The history of the cluster as this source knows it, if it keeps one.
    fn history(&self) -> Result<Option<TimelineHistory>>;
}

/// A reader of the log with a claim on it: a standby, the archiver. Retention asks it what it still needs.
pub trait LogConsumer: Send + Sync + fmt::Debug {
    /// Its name, unique on the node: a standby's name, or `archive`.
    fn name(&self) -> &str;
    /// The oldest position it may still ask for locally, or `None` if it pins nothing here.
    fn restart_lsn(&self) -> Option<Lsn>;
    /// How far it has confirmed the log as durable on its side.
    fn confirmed_lsn(&self) -> Lsn;
}

/// A promotion as it is claimed and remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineClaim {
    /// The timeline to begin.
    pub entry: TimelineEntry,
    /// The one it forks from.
    pub parent: TimelineId,
    /// When it was claimed, by the claimant's clock.
    pub claimed: Timestamp,
    /// Who claims it, by name.
    pub claimant: String,
}

/// Where an older timeline was ended for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceOutcome {
    /// Nothing can be added to the timeline after this position any more.
    Fenced(Lsn),
    /// Somebody wrote more of the log there first: fetch it, apply it, and try again at its end.
    MoreLog(LogBytes),
}

/// Something with conditional writes that decides which promotion is the true one. Blocking.
pub trait TimelineAuthority: Send + Sync + fmt::Debug {
    /// The newest history claimed so far.
    fn newest(&self) -> Result<Option<TimelineHistory>>;
    /// Ends `timeline` at `at`, if nothing of it lies beyond.
    fn fence(&self, timeline: TimelineId, nonce: TimelineNonce, at: Position) -> Result<FenceOutcome>;
    /// Claims a timeline; [`crate::Error::TimelineTaken`] if it is not free.
    fn claim(&self, claim: &TimelineClaim, history: &TimelineHistory) -> Result<()>;
}
