//! Carries a promotion out: does what [`Promotion`] asks for, one blocking call after the other.

use std::fmt;

use seawall_wal::{
    Error as WalError, FenceOutcome, LogBytes, Lsn, Position, TimelineClaim, TimelineHistory, TimelineId, TimelineNonce,
};

use crate::error::Error;
use crate::promotion::{Answer, Candidate, Promotion, PromotionRefused, PromotionRequest, Step};

/// What a node can do for its promotion. All methods block. An archive that cannot be asked is an error.
pub trait PromotionActs: fmt::Debug {
    /// The newest history anybody claimed.
    fn newest(&self) -> seawall_wal::Result<Option<TimelineHistory>>;
    /// Archived log of `timeline` from the byte at `from` on.
    fn fetch(&self, timeline: TimelineId, from: Lsn) -> seawall_wal::Result<Option<LogBytes>>;
    /// Writes, flushes and applies log; gives the new end.
    fn apply(&self, log: &LogBytes) -> Result<Position, Error>;
    /// Archives this node's own log up to `to`; gives how far the archive reaches without a hole.
    fn archive(&self, timeline: TimelineId, to: Position) -> seawall_wal::Result<Lsn>;
    /// Ends a timeline.
    fn fence(&self, timeline: TimelineId, nonce: TimelineNonce, at: Position) -> seawall_wal::Result<FenceOutcome>;
    /// Claims a timeline; [`WalError::TimelineTaken`] if somebody has it.
    fn claim(&self, claim: &TimelineClaim, history: &TimelineHistory) -> seawall_wal::Result<()>;
    /// Makes the history durable and begins its last timeline.
    fn begin(&self, history: &TimelineHistory) -> Result<(), Error>;
}

/// Why a promotion failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PromotionError {
    /// It was decided against.
    #[error(transparent)]
    Refused(#[from] PromotionRefused),
    /// This node could not do its part.
    #[error("the promotion failed: {0}")]
    Failed(#[from] Error),
}

/// Promotes the candidate; gives the history it began. The candidate's client was stopped before.
pub fn promote(
    candidate: Candidate,
    request: PromotionRequest,
    acts: &dyn PromotionActs,
) -> Result<TimelineHistory, PromotionError> {
    let (mut promotion, mut step) = Promotion::start(candidate, request)?;
    loop {
        tracing::info!("promotion {step}");
        let answer = match step {
            Step::Newest => answer(acts.newest(), Answer::Newest),
            Step::Fetch { timeline, from } => answer(acts.fetch(timeline, from), Answer::Fetched),
            Step::Apply(log) => Answer::Applied(acts.apply(&log)?),
            Step::Archive { timeline, to } => answer(acts.archive(timeline, to), Answer::Archived),
            Step::Fence { timeline, nonce, at } => answer(acts.fence(timeline, nonce, at), Answer::Fence),
            Step::Claim(claim, history) => match acts.claim(&claim, &history) {
                Ok(()) => Answer::Claimed,
                Err(WalError::TimelineTaken { .. }) => Answer::Taken,
                Err(error) => Answer::Unreachable(error.to_string()),
            },
            Step::Begin(history) => {
                acts.begin(&history)?;
                return Ok(history);
            }
        };
        step = promotion.next(answer)?;
    }
}

fn answer<T>(result: seawall_wal::Result<T>, answer: impl FnOnce(T) -> Answer) -> Answer {
    match result {
        Ok(value) => answer(value),
        // Another history is no question of trying again, with or without a vouching operator.
        Err(error @ (WalError::Discontinuous { .. } | WalError::WrongCluster { .. })) => {
            Answer::Foreign(error.to_string())
        }
        Err(error) => Answer::Unreachable(error.to_string()),
    }
}
