//! Promotion as the node carries it out: the decisions are `seawall_replication::promotion`'s, the deeds are the archive's
//! and the database's.

use std::fmt;
use std::sync::Arc;

use seawall_backup::{Archive, ArchiveAuthority, ArchiveSource};
use seawall_engine::{Db, Role};
use seawall_replication::driver::{PromotionActs, PromotionError, promote};
use seawall_replication::promotion::{Candidate, PromotionRequest};
use seawall_wal::{
    Clock as _, FenceOutcome, LogBytes, Lsn, Position, SegmentSource as _, SystemClock, TimelineAuthority as _,
    TimelineClaim, TimelineHistory, TimelineId, TimelineNonce,
};

use super::Inner;
use super::error::{Error, Result};

/// How a node is to be promoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromoteOptions {
    /// Where fencing is impossible, go on: the operator vouches that the old primary is dead.
    pub unfenced: bool,
    /// Refuse if more of the old primary's log than this is known to be missing here.
    pub lag_bytes_max: Option<u64>,
}

/// What a promotion did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The history that was begun; its last entry is the new timeline.
    pub history: TimelineHistory,
    /// Whether the old primary was fenced in the archive.
    pub fenced: bool,
}

/// Promotes a database that has stopped receiving. Blocks.
pub(super) fn carry_out(
    inner: &Inner,
    db: &Db,
    archive: Option<Archive>,
    options: PromoteOptions,
    upstream_flush: Lsn,
) -> Result<Promotion> {
    db.log().flush_received()?;
    db.apply_received(db.log().end().lsn)?;
    let request = PromotionRequest {
        node: inner.options.name.to_string(),
        archive: archive.is_some(),
        unfenced: options.unfenced,
        lag_bytes_max: options.lag_bytes_max,
        nonce: TimelineNonce::random(),
        now: SystemClock.now(),
    };
    if let Role::ReadOnlyRestored { .. } = db.role() {
        return promote_restored(inner, db, archive, &request);
    }
    let candidate = Candidate {
        history: db.history(),
        position: db.log().end(),
        last_time: db.applied().1,
        segment_size: db.log().options().segment_size,
        upstream_flush,
    };
    let acts = Acts { db: db.clone(), archive: archive.map(|archive| ArchiveParts::new(inner, db, archive)) };
    match promote(candidate, request, &acts) {
        Ok(history) => Ok(Promotion { history, fenced: acts.archive.is_some() && !options.unfenced }),
        Err(PromotionError::Refused(refused)) => Err(refused.into()),
        Err(PromotionError::Failed(error)) => Err(error.into()),
    }
}

/// A restored copy ends where its target was, and the archive goes on beyond it on purpose: what lies beyond is left
/// behind. The newest timeline is ended where it ends, and a new one claimed that forks at the copy's end.
fn promote_restored(inner: &Inner, db: &Db, archive: Option<Archive>, request: &PromotionRequest) -> Result<Promotion> {
    let (ours, end) = (db.history(), db.log().end());
    let size = db.log().options().segment_size;
    let Some(archive) = archive else {
        if !request.unfenced {
            return Err(seawall_replication::promotion::PromotionRefused::NoArchive.into());
        }
        let history = ours
            .forked(ours.current().id.next(), request.nonce, end, size)
            .map_err(seawall_replication::promotion::PromotionRefused::from)?;
        db.promote(&history)?;
        return Ok(Promotion { history, fenced: false });
    };
    let parts = ArchiveParts::new(inner, db, archive);
    let newest = parts.authority.newest()?.unwrap_or_else(|| ours.clone());
    let newest_id = newest.current().id.max(ours.current().id);
    parts.end_newest(&newest)?;
    let history = ours
        .forked(newest_id.next(), request.nonce, end, size)
        .map_err(seawall_replication::promotion::PromotionRefused::from)?;
    let claim = TimelineClaim {
        entry: *history.current(),
        parent: ours.current().id,
        claimed: request.now,
        claimant: request.node.clone(),
    };
    parts.authority.claim(&claim, &history)?;
    db.promote(&history)?;
    Ok(Promotion { history, fenced: true })
}

/// The archive in the parts that promotion needs.
struct ArchiveParts {
    authority: ArchiveAuthority,
    source: ArchiveSource,
    archive: Archive,
    runtime: tokio::runtime::Handle,
}

impl ArchiveParts {
    fn new(inner: &Inner, db: &Db, archive: Archive) -> Self {
        let runtime = inner.runtime.clone();
        let name = inner.options.name.to_string();
        let authority =
            ArchiveAuthority::new(archive.clone(), runtime.clone(), db.node(), name).with_log(Arc::new(db.clone()));
        let source = ArchiveSource::new(archive.clone(), runtime.clone());
        Self { authority, source, archive, runtime }
    }

    /// Ends the newest timeline wherever it ends: whoever writes to it must not be able to archive any more.
    fn end_newest(&self, newest: &TimelineHistory) -> Result<()> {
        let current = newest.current();
        // Without this node's log: it is not to be archived there.
        let authority =
            ArchiveAuthority::new(self.archive.clone(), self.runtime.clone(), seawall_wal::NodeId::random(), "restore");
        for _ in 0..100 {
            let end = self.runtime.block_on(self.archive.end_of_timeline(current.id))?;
            let at = end.unwrap_or(current.fork);
            match authority.fence(current.id, current.nonce, at)? {
                FenceOutcome::Fenced(_) => return Ok(()),
                FenceOutcome::MoreLog(_) => {}
            }
        }
        Err(seawall_replication::promotion::PromotionRefused::StillArchiving { rounds: 100 }.into())
    }
}

/// What the node does for its promotion.
struct Acts {
    db: Db,
    archive: Option<ArchiveParts>,
}

impl fmt::Debug for Acts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acts")
    }
}

impl Acts {
    fn archive(&self) -> &ArchiveParts {
        self.archive.as_ref().expect("promotion without an archive asks nothing of it")
    }
}

impl PromotionActs for Acts {
    fn newest(&self) -> seawall_wal::Result<Option<TimelineHistory>> {
        self.archive().authority.newest()
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> seawall_wal::Result<Option<LogBytes>> {
        self.archive().source.fetch(timeline, from)
    }

    fn apply(&self, log: &LogBytes) -> Result<Position, seawall_replication::Error> {
        let failed = |error: seawall_engine::Error| seawall_replication::Error::Target {
            operation: "apply archived log",
            why: error.to_string(),
        };
        let position = self.db.receive(log).map_err(failed)?;
        self.db.flush_received().map_err(failed)?;
        Ok(position)
    }

    fn archive(&self, _timeline: TimelineId, to: Position) -> seawall_wal::Result<Lsn> {
        // The fence archives what is missing before it stands, so there is nothing to do ahead of it.
        Ok(to.lsn)
    }

    fn fence(&self, timeline: TimelineId, nonce: TimelineNonce, at: Position) -> seawall_wal::Result<FenceOutcome> {
        self.archive().authority.fence(timeline, nonce, at)
    }

    fn claim(&self, claim: &TimelineClaim, history: &TimelineHistory) -> seawall_wal::Result<()> {
        self.archive().authority.claim(claim, history)
    }

    fn begin(&self, history: &TimelineHistory) -> Result<(), seawall_replication::Error> {
        self.db.promote(history).map(drop).map_err(|error| seawall_replication::Error::Target {
            operation: "begin the new timeline",
            why: error.to_string(),
        })
    }
}

impl From<PromotionError> for Error {
    fn from(error: PromotionError) -> Self {
        match error {
            PromotionError::Refused(refused) => refused.into(),
            PromotionError::Failed(error) => error.into(),
        }
    }
}
