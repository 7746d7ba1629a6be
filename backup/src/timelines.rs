//! Which promotion is the true one, decided by a conditional write: of all that claim a timeline one gets it. Also what
//! stops an archiver whose timeline was claimed by another. Ending the parent's log before is `fence`'s business.

use std::sync::Arc;
use std::time::Duration;

use seawall_wal::{
    FenceOutcome, LogOwner, Lsn, NodeId, Position, TimelineAuthority, TimelineClaim, TimelineHistory, TimelineId,
    TimelineNonce, Timestamp,
};
use tokio::runtime::Handle;

use crate::archive::Archive;
use crate::error::{Error, Result};
use crate::fence::FenceRequest;
use crate::format::documents::TimelineDocument;
use crate::format::keys;
use crate::repository::{Condition, LIST_PAGE_MAX, PutOutcome};

/// How often a conditional write is tried that met another one; each try of an S3 store is several.
const CONFLICT_TRIES: u32 = 4;
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);

impl Archive {
    /// The newest history claimed so far.
    pub async fn newest_history(&self) -> Result<Option<TimelineHistory>> {
        let mut newest = TimelineId(0);
        let mut after = None;
        loop {
            let page = self.repository().list(keys::TIMELINES, after.as_deref(), LIST_PAGE_MAX).await?;
            let Some(last) = page.objects.last() else { break };
            for object in &page.objects {
                let number = object.key.strip_prefix(keys::TIMELINES).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                newest = newest.max(TimelineId(number.unwrap_or(0)));
            }
            after = Some(last.key.clone());
            if !page.more {
                break;
            }
        }
        // A listing may be behind; names are not.
        let mut found = match newest {
            TimelineId(0) => None,
            listed => self.timeline(listed).await?,
        };
        while let Some(next) =
            self.timeline(found.as_ref().map_or(TimelineId::FIRST, |it| it.history.current().id.next())).await?
        {
            found = Some(next);
        }
        Ok(found.map(|document| document.history))
    }

    /// Claims a timeline for `history`, whose current one it is.
    ///
    /// # Errors
    /// [`Error::TimelineTaken`], also if the claim does not follow the newest claimed timeline;
    /// [`Error::CannotFence`] if the store would let two claims succeed.
    pub async fn claim_timeline(&self, claim: &TimelineClaim, history: &TimelineHistory) -> Result<()> {
        self.require_fencing().await?;
        let current = history.current();
        // Usually the parent's number plus one; more for a copy restored to before a later promotion.
        let numbered = current.id == claim.entry.id && current.id > claim.parent;
        if !numbered {
            let claimant = "the numbering: a claim takes a number above its parent's".to_owned();
            return Err(Error::TimelineTaken { timeline: claim.entry.id, claimant });
        }
        let document = TimelineDocument {
            parent: Some(claim.parent),
            claimed: claim.claimed,
            claimant: claim.claimant.clone(),
            history: history.clone(),
        };
        self.put_timeline(&document).await
    }

    /// Makes sure that every timeline of `history` is in the archive as ours, oldest first; what is there already is
    /// compared. An archiver calls it before it writes its first chunk.
    ///
    /// # Errors
    /// [`Error::TimelineTaken`] if one of them is another node's.
    pub async fn record_history(&self, history: &TimelineHistory, claimant: &str, now: Timestamp) -> Result<()> {
        let mut missing = Vec::new();
        for (index, entry) in history.entries().iter().enumerate().rev() {
            match self.timeline(entry.id).await? {
                Some(found) if found.history.current().nonce == entry.nonce => break,
                Some(found) => return Err(Error::TimelineTaken { timeline: entry.id, claimant: found.claimant }),
                None => missing.push(index),
            }
        }
        for index in missing.into_iter().rev() {
            let entries = history.entries()[..=index].to_vec();
            let history = TimelineHistory::from_entries(entries, self.cluster().segment_size)
                .expect("the beginning of a history is a history");
            let parent = index.checked_sub(1).map(|parent| history.entries()[parent].id);
            let document = TimelineDocument { parent, claimed: now, claimant: claimant.to_owned(), history };
            self.put_timeline(&document).await?;
        }
        Ok(())
    }

    async fn put_timeline(&self, document: &TimelineDocument) -> Result<()> {
        let current = document.history.current();
        let key = keys::timeline(current.id);
        for _ in 0..CONFLICT_TRIES {
            let object = document.encode(self.cluster().cluster);
            match self.repository().put(&key, object, Condition::IfAbsent).await? {
                PutOutcome::Stored { .. } => return Ok(()),
                PutOutcome::ConditionFailed | PutOutcome::Conflict => match self.timeline(current.id).await? {
                    // Ours, from an attempt whose answer was lost: nonces are random.
                    Some(found) if found.history.current().nonce == current.nonce => return Ok(()),
                    Some(found) => {
                        return Err(Error::TimelineTaken { timeline: current.id, claimant: found.claimant });
                    }
                    None => tokio::time::sleep(CONFLICT_PAUSE).await,
                },
            }
        }
        let claimant = "somebody who is claiming it at this moment".to_owned();
        Err(Error::TimelineTaken { timeline: current.id, claimant })
    }
}

/// The archive as the log's [`TimelineAuthority`]: the same, for threads that may block.
#[derive(Clone)]
pub struct ArchiveAuthority {
    archive: Archive,
    runtime: Handle,
    node: NodeId,
    name: String,
    log: Option<Arc<dyn LogOwner>>,
}

impl ArchiveAuthority {
    /// For the node of this name. `runtime` does the waiting; the methods must not be called from its own threads.
    pub fn new(archive: Archive, runtime: Handle, node: NodeId, name: impl Into<String>) -> Self {
        ArchiveAuthority { archive, runtime, node, name: name.into(), log: None }
    }

    /// With the node's own log, from which a fence first archives what the archive lacks.
    #[must_use]
    pub fn with_log(self, log: Arc<dyn LogOwner>) -> Self {
        ArchiveAuthority { log: Some(log), ..self }
    }
}

impl std::fmt::Debug for ArchiveAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArchiveAuthority of {} over {:?}", self.name, self.archive)
    }
}

impl TimelineAuthority for ArchiveAuthority {
    fn newest(&self) -> seawall_wal::Result<Option<TimelineHistory>> {
        self.runtime
            .block_on(self.archive.newest_history())
            .map_err(|error| to_log_error(&self.archive, Lsn::ZERO, error))
    }

    fn fence(&self, timeline: TimelineId, nonce: TimelineNonce, at: Position) -> seawall_wal::Result<FenceOutcome> {
        let request = FenceRequest { timeline, nonce, at, node: self.node, name: self.name.clone(), now: now() };
        let fenced = self.archive.fence_timeline(&request, self.log.as_ref());
        self.runtime.block_on(fenced).map_err(|error| to_log_error(&self.archive, at.lsn, error))
    }

    fn claim(&self, claim: &TimelineClaim, history: &TimelineHistory) -> seawall_wal::Result<()> {
        let claimed = self.archive.claim_timeline(claim, history);
        self.runtime.block_on(claimed).map_err(|error| to_log_error(&self.archive, claim.entry.fork.lsn, error))
    }
}

/// The log's own error for what an archive could not do.
pub(crate) fn to_log_error(archive: &Archive, at: Lsn, error: Error) -> seawall_wal::Error {
    match error {
        Error::Log(error) => error,
        Error::TimelineTaken { timeline, .. } => seawall_wal::Error::TimelineTaken { timeline },
        error => seawall_wal::Error::Source {
            source_name: format!("the archive at {}", archive.location()),
            at,
            why: error.to_string(),
        },
    }
}

pub(crate) fn now() -> Timestamp {
    use seawall_wal::Clock as _;
    seawall_wal::SystemClock.now()
}
