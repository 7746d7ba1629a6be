//! Ending a timeline for good, before another one is begun from it: a fence object at the end of its list of chunks. All
//! of the timeline that the archive holds is handed to the caller first, and what the caller holds and the archive
//! lacks is archived first, so that the list ends exactly where the caller's log does.

use std::sync::Arc;
use std::time::Duration;

use seawall_wal::{FenceOutcome, LogOwner, NodeId, Position, TimelineId, TimelineNonce, Timestamp};

use crate::archive::Archive;
use crate::archiver::{Archiver, ArchiverConfig};
use crate::error::{Error, Result, written};
use crate::format::chunk::{ChunkAbout, ChunkObject, ChunkOrigin, encode_fence};
use crate::format::keys;
use crate::repository::{Condition, PutOutcome};

/// How often it is tried against an old primary that goes on archiving meanwhile.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);

/// Longest wait for what this node holds and the archive lacks.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(300);

/// Which timeline is to end, where, and who says so.
#[derive(Debug, Clone)]
pub struct FenceRequest {
    /// The timeline.
    pub timeline: TimelineId,
    /// Its nonce.
    pub nonce: TimelineNonce,
    /// The end of the log of whoever fences.
    pub at: Position,
    /// Who fences.
    pub node: NodeId,
    /// The same for people.
    pub name: String,
    /// When.
    pub now: Timestamp,
}

impl Archive {
    /// Ends a timeline, or gives the caller more of it. `log` is the caller's own, from which what the archive lacks is
    /// archived first; without it the archive must reach as far as the caller does.
    ///
    /// # Errors
    /// [`Error::CannotFence`]; [`Error::Fenced`] if the archive's log is not the caller's, or ends before the caller's;
    /// [`Error::ArchiveBehind`].
    pub async fn fence_timeline(
        &self,
        request: &FenceRequest,
        log: Option<&Arc<dyn LogOwner>>,
    ) -> Result<FenceOutcome> {
        self.require_fencing().await?;
        for _ in 0..TRIES {
            if let Some(outcome) = self.try_to_fence(request, log).await? {
                return Ok(outcome);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(request.fenced("another node keeps writing there; stop it, or try again".to_owned()))
    }

    /// Where a timeline's archived log ends now, fenced or not; `None` if the archive has nothing of it.
    pub async fn end_of_timeline(&self, timeline: TimelineId) -> Result<Option<Position>> {
        let Some((end, _)) = self.list_end(timeline).await? else { return Ok(None) };
        let chain = self.position_before(timeline, end).await?;
        Ok(chain.map(|chain| Position { lsn: end, chain }))
    }

    /// `None` if somebody wrote there at this moment.
    async fn try_to_fence(
        &self,
        request: &FenceRequest,
        log: Option<&Arc<dyn LogOwner>>,
    ) -> Result<Option<FenceOutcome>> {
        let FenceRequest { timeline, at, .. } = *request;
        // A timeline without a record ends at its fork, and its first byte is elsewhere.
        let document = self.timeline(timeline).await?;
        let next = document.map_or(at.lsn, |document| {
            let begun = document.history.current();
            if at.lsn == begun.fork.lsn { begun.begin } else { at.lsn }
        });
        let ended = self.list_end(timeline).await?;
        match ended {
            Some((end, _)) if end > next => {
                let more = self.log_after(request, next).await?;
                Ok(Some(FenceOutcome::MoreLog(more)))
            }
            Some((end, Some(fence))) => {
                let told = format!("fenced by node {} at {}", fence.node, written(fence.first_time));
                // Ours from a lost answer, or another candidate's at the same place: the claim decides between us.
                let same = end == next && fence.nonce == request.nonce && fence.chain_before == at.chain;
                if same { Ok(Some(FenceOutcome::Fenced(at.lsn))) } else { Err(request.fenced(told)) }
            }
            Some((end, None)) if end == next => self.put_fence(request, next).await,
            Some(_) | None => {
                let archived = ended.map(|(end, _)| end);
                let Some(log) = log else { return Err(Error::ArchiveBehind { timeline, archived, at: at.lsn }) };
                let config = ArchiverConfig { interval: Duration::ZERO, ..ArchiverConfig::default() };
                let archiver = Archiver::start(self.clone(), log.clone(), request.node, &request.name, config);
                archiver.stop(DRAIN_WAIT_MAX).await?;
                Ok(None)
            }
        }
    }

    async fn put_fence(&self, request: &FenceRequest, next: seawall_wal::Lsn) -> Result<Option<FenceOutcome>> {
        let cluster = self.cluster();
        let before = self.position_before(request.timeline, next).await?;
        if before.is_some_and(|chain| chain != request.at.chain) {
            return Err(request.fenced("its archived log is another history than this node's".to_owned()));
        }
        let origin = ChunkOrigin {
            cluster: cluster.cluster,
            segment_size: cluster.segment_size,
            nonce: request.nonce,
            node: request.node,
        };
        let position = Position { lsn: next, chain: request.at.chain };
        let about = ChunkAbout::fence(&origin, request.timeline, position, request.now);
        let object = encode_fence(&about, cluster.cluster, &request.name);
        let key = keys::chunk(request.timeline, next);
        match self.repository().put(&key, object, Condition::IfAbsent).await? {
            PutOutcome::Stored { .. } => Ok(Some(FenceOutcome::Fenced(request.at.lsn))),
            PutOutcome::ConditionFailed | PutOutcome::Conflict => Ok(None),
        }
    }

    /// The chain before the byte at `next`, where the list ends.
    async fn position_before(
        &self,
        timeline: TimelineId,
        next: seawall_wal::Lsn,
    ) -> Result<Option<seawall_wal::Chain>> {
        if let Some(frontier) = self.frontier(timeline).await?
            && frontier.position.lsn == next
        {
            return Ok(Some(frontier.position.chain));
        }
        let Some(inside) = next.offset().checked_sub(1).map(seawall_wal::Lsn::new) else { return Ok(None) };
        Ok(self.locate(timeline, inside).await?.map(|chunk| chunk.chain_after))
    }

    /// The archived log that follows the caller's, from one chunk.
    async fn log_after(&self, request: &FenceRequest, next: seawall_wal::Lsn) -> Result<seawall_wal::LogBytes> {
        let timeline = request.timeline;
        let gap = || Error::Gap { timeline, from: next };
        let holder = self.locate(timeline, next).await?.ok_or_else(gap)?;
        let chunk = match self.chunk(timeline, holder.start).await? {
            Some(ChunkObject::Chunk(chunk)) if chunk.about.nonce == request.nonce => chunk,
            Some(_) => return Err(request.fenced("its archived log is another history than this node's".to_owned())),
            None => return Err(gap()),
        };
        chunk
            .after(Position { lsn: next, chain: request.at.chain })
            .ok_or_else(|| request.fenced("its archived log is another history than this node's".to_owned()))
    }
}

impl FenceRequest {
    fn fenced(&self, by: String) -> Error {
        Error::Fenced { timeline: self.timeline, at: self.at.lsn, by }
    }
}
