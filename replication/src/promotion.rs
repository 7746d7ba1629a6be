//! Promotion, step by step: bring in what the parent timeline's archive holds, end the parent there for good, claim the next
//! timeline, begin it. Each step is asked for as a value and its answer comes back as one; nothing is done in here.
//!
//! ```text
//! Newest -> Fetch/Apply ... -> Archive -> Fence -> Claim -> Begin
//!              ^                  |         |         |
//!              +---- more log ----+---------+         +- taken: who has it? -> Begin, if it was us after all
//! ```
//!
//! A fence only ends the parent if the archive reaches up to it without a hole: otherwise the old primary could still fill
//! the hole. So the candidate first archives what it has and the archive lacks. Nothing is irreversible before `Fence`.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use seawall_wal::{
    FenceOutcome, InvalidHistory, LogBytes, Lsn, Position, SegmentSize, TimelineClaim, TimelineHistory, TimelineId,
    TimelineNonce, Timestamp,
};

use crate::standing::{Relation, relate};

/// What the operator asked for, and what cannot be decided by a pure function.
#[derive(Clone, Debug)]
pub struct PromotionRequest {
    /// Who is promoted, by name.
    pub node: String,
    /// Whether there is an archive to fence in.
    pub archive: bool,
    /// Go on where fencing is impossible: the operator vouches that the old primary is dead.
    pub unfenced: bool,
    /// Refuse if more bytes than this are known to be lost.
    pub lag_bytes_max: Option<u64>,
    /// Fresh randomness for the new timeline.
    pub nonce: TimelineNonce,
    /// This node's clock.
    pub now: Timestamp,
}

/// The standby to be promoted. It has stopped receiving.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its history.
    pub history: TimelineHistory,
    /// The end of its log, flushed and applied.
    pub position: Position,
    /// The time of its last record.
    pub last_time: Timestamp,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// The furthest flush LSN any upstream ever told it.
    pub upstream_flush: Lsn,
}

/// What is to be done next; its answer goes to [`Promotion::next`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the archive for the newest claimed history: [`Answer::Newest`].
    Newest,
    /// Fetch archived log from this position on: [`Answer::Fetched`].
    Fetch {
        /// The parent timeline.
        timeline: TimelineId,
        /// The byte to start at.
        from: Lsn,
    },
    /// Write, flush and apply it: [`Answer::Applied`].
    Apply(LogBytes),
    /// Archive this node's own log of the parent timeline up to its end: [`Answer::Archived`].
    Archive {
        /// The parent timeline.
        timeline: TimelineId,
        /// Up to where.
        to: Position,
    },
    /// End the parent timeline: [`Answer::Fence`].
    Fence {
        /// The parent timeline.
        timeline: TimelineId,
        /// Its nonce.
        nonce: TimelineNonce,
        /// Where.
        at: Position,
    },
    /// Claim the new timeline: [`Answer::Claimed`] or [`Answer::Taken`].
    Claim(TimelineClaim, TimelineHistory),
    /// Make this history durable in the control file, then begin the timeline. The last step.
    Begin(TimelineHistory),
}

/// What a step led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The newest history anybody claimed.
    Newest(Option<TimelineHistory>),
    /// Some log, or none beyond.
    Fetched(Option<LogBytes>),
    /// The log ends here now, flushed and applied.
    Applied(Position),
    /// The archive reaches up to here, without a hole.
    Archived(Lsn),
    /// The fence stands, or somebody archived more first.
    Fence(FenceOutcome),
    /// The timeline is ours.
    Claimed,
    /// Somebody has it.
    Taken,
    /// The archive holds another history than ours, or was fenced before our end.
    Foreign(String),
    /// The archive could not be asked.
    Unreachable(String),
}

/// Why this node is not promoted. Nothing was changed, except that a fence may stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromotionRefused {
    /// There is nothing to fence in.
    #[error("there is no archive to fence the old primary in; make sure it is dead, then promote with --unfenced")]
    NoArchive,
    /// The archive does not answer.
    #[error(
        "the archive cannot be reached, so the old primary cannot be fenced ({why}); restore access, or make sure it is dead and promote with --unfenced"
    )]
    Unreachable {
        /// Its answer.
        why: String,
    },
    /// Too much would be lost.
    #[error(
        "this standby lacks {lag} bytes the primary had flushed, more than the {max} allowed; promote another standby, or raise the limit"
    )]
    TooFarBehind {
        /// Bytes known to be missing.
        lag: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// Somebody was promoted already.
    #[error("timeline {timeline}, newer than this node's, has been claimed; follow it instead")]
    Superseded {
        /// The newest timeline.
        timeline: TimelineId,
    },
    /// The archive's history is not this node's.
    #[error("this node's log is not a prefix of the archived history ({why}); it cannot become primary")]
    Diverged {
        /// What differs.
        why: String,
    },
    /// The clock would make new commits look older than old ones for long.
    #[error("this node's clock is {} s behind the last commit; set it right first", behind.as_secs())]
    ClockBehind {
        /// By how much.
        behind: Duration,
    },
    /// The old primary archives as fast as we fence.
    #[error("the old primary kept archiving through {rounds} attempts to fence it; stop it or try again")]
    StillArchiving {
        /// Attempts made.
        rounds: u32,
    },
    /// The new timeline would not continue the history.
    #[error(transparent)]
    Invalid(#[from] InvalidHistory),
    /// The driver answered another question than was asked.
    #[error("`{answer}` is no answer to what was asked")]
    OutOfStep {
        /// The answer given.
        answer: &'static str,
    },
}

/// A promotion under way.
#[derive(Debug)]
pub struct Promotion {
    request: PromotionRequest,
    candidate: Candidate,
    /// The highest timeline number anybody claimed.
    claimed: TimelineId,
    rounds: u32,
    awaiting: Awaiting,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Awaiting {
    Newest,
    Fetched,
    Applied,
    Archived,
    Fence,
    Claim(TimelineHistory),
    WhoHasIt(TimelineHistory),
    Nothing,
}

/// A clock may be so far behind the log's last time.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(10);
/// Fences tried before giving up. A live primary archives about once a second, a try takes milliseconds.
const ROUNDS_MAX: u32 = 100;

impl Promotion {
    /// Begins; gives the first step.
    pub fn start(candidate: Candidate, request: PromotionRequest) -> Result<(Self, Step), PromotionRefused> {
        let behind = Duration::from_micros(candidate.last_time.micros_since(request.now));
        if behind > CLOCK_BEHIND_MAX {
            return Err(PromotionRefused::ClockBehind { behind });
        }
        let claimed = candidate.history.current().id;
        let mut promotion = Self { request, candidate, claimed, rounds: 0, awaiting: Awaiting::Nothing };
        let step = match (promotion.request.archive, promotion.request.unfenced) {
            (true, _) => promotion.ask(Awaiting::Newest, Step::Newest),
            (false, true) => promotion.begin_unfenced()?,
            (false, false) => return Err(PromotionRefused::NoArchive),
        };
        Ok((promotion, step))
    }

    /// Takes the answer to the last step and gives the next.
    pub fn next(&mut self, answer: Answer) -> Result<Step, PromotionRefused> {
        let awaiting = std::mem::replace(&mut self.awaiting, Awaiting::Nothing);
        match (awaiting, answer) {
            (Awaiting::Nothing, answer) => Err(PromotionRefused::OutOfStep { answer: answer.name() }),
            (Awaiting::Claim(_) | Awaiting::WhoHasIt(_), Answer::Unreachable(why)) if !self.request.unfenced => {
                // The claim may have arrived; asking again later resolves it, because our nonce will be there.
                Err(PromotionRefused::Unreachable { why })
            }
            (_, Answer::Unreachable(_)) if self.request.unfenced => self.begin_unfenced(),
            (_, Answer::Unreachable(why)) => Err(PromotionRefused::Unreachable { why }),
            (_, Answer::Foreign(why)) => Err(PromotionRefused::Diverged { why }),
            (Awaiting::Newest, Answer::Newest(newest)) => {
                self.judge(newest)?;
                Ok(self.fetch())
            }
            (Awaiting::Fetched, Answer::Fetched(Some(log))) => Ok(self.ask(Awaiting::Applied, Step::Apply(log))),
            (Awaiting::Fetched, Answer::Fetched(None)) => {
                self.check_lag()?;
                Ok(self.archive())
            }
            (Awaiting::Applied, Answer::Applied(position)) => {
                self.candidate.position = position;
                Ok(self.fetch())
            }
            (Awaiting::Archived, Answer::Archived(frontier)) => {
                if frontier > self.candidate.position.lsn {
                    Ok(self.fetch())
                } else {
                    self.fence()
                }
            }
            (Awaiting::Fence, Answer::Fence(FenceOutcome::MoreLog(log))) => {
                Ok(self.ask(Awaiting::Applied, Step::Apply(log)))
            }
            (Awaiting::Fence, Answer::Fence(FenceOutcome::Fenced(at))) => {
                if at == self.candidate.position.lsn {
                    self.claim()
                } else {
                    Err(PromotionRefused::Diverged { why: format!("its parent timeline was ended at {at}") })
                }
            }
            (Awaiting::Claim(history) | Awaiting::WhoHasIt(history), Answer::Claimed) => Ok(Step::Begin(history)),
            (Awaiting::Claim(history), Answer::Taken) => Ok(self.ask(Awaiting::WhoHasIt(history), Step::Newest)),
            (Awaiting::WhoHasIt(history), Answer::Newest(newest)) => match newest {
                // The answer to our own claim was lost.
                Some(newest) if newest.current().nonce == history.current().nonce => Ok(Step::Begin(history)),
                newest => {
                    let timeline = newest.map_or(history.current().id, |newest| newest.current().id);
                    Err(PromotionRefused::Superseded { timeline })
                }
            },
            (_, answer) => Err(PromotionRefused::OutOfStep { answer: answer.name() }),
        }
    }

    fn ask(&mut self, awaiting: Awaiting, step: Step) -> Step {
        self.awaiting = awaiting;
        step
    }

    /// Whether the newest claimed history leaves room for us.
    fn judge(&mut self, newest: Option<TimelineHistory>) -> Result<(), PromotionRefused> {
        let Some(newest) = newest else {
            return Ok(());
        };
        let timeline = newest.current().id;
        match relate(&self.candidate.history, self.candidate.position, &newest) {
            Relation::UpstreamBehind { .. } => Ok(()),
            Relation::Follows { .. } if newest == self.candidate.history => Ok(()),
            Relation::Follows { .. } | Relation::Diverged { .. } if self.request.unfenced => {
                // The operator vouches that whoever claimed it is dead. Its number stays taken.
                self.claimed = self.claimed.max(timeline);
                Ok(())
            }
            Relation::Follows { .. } => Err(PromotionRefused::Superseded { timeline }),
            Relation::Diverged { common } => {
                Err(PromotionRefused::Diverged { why: format!("it forked at {}", common.lsn) })
            }
            Relation::Unrelated => {
                Err(PromotionRefused::Diverged { why: "it shares no timeline with ours".to_owned() })
            }
        }
    }

    fn fetch(&mut self) -> Step {
        let from = self.candidate.history.next_byte(self.candidate.position.lsn);
        let timeline = self.parent();
        self.ask(Awaiting::Fetched, Step::Fetch { timeline, from })
    }

    fn check_lag(&self) -> Result<(), PromotionRefused> {
        let Candidate { history, position, upstream_flush, .. } = &self.candidate;
        let lag = history.bytes_between(position.lsn, *upstream_flush);
        match self.request.lag_bytes_max {
            Some(max) if lag > max => Err(PromotionRefused::TooFarBehind { lag, max }),
            _ => Ok(()),
        }
    }

    fn archive(&mut self) -> Step {
        let step = Step::Archive { timeline: self.parent(), to: self.candidate.position };
        self.ask(Awaiting::Archived, step)
    }

    fn fence(&mut self) -> Result<Step, PromotionRefused> {
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX {
            return Err(PromotionRefused::StillArchiving { rounds: ROUNDS_MAX });
        }
        let parent = self.candidate.history.current();
        let step = Step::Fence { timeline: parent.id, nonce: parent.nonce, at: self.candidate.position };
        Ok(self.ask(Awaiting::Fence, step))
    }

    fn claim(&mut self) -> Result<Step, PromotionRefused> {
        let history = self.new_history()?;
        let claim = TimelineClaim {
            entry: *history.current(),
            parent: self.parent(),
            claimed: self.request.now,
            claimant: self.request.node.clone(),
        };
        Ok(self.ask(Awaiting::Claim(history.clone()), Step::Claim(claim, history)))
    }

    fn begin_unfenced(&mut self) -> Result<Step, PromotionRefused> {
        self.check_lag()?;
        Ok(Step::Begin(self.new_history()?))
    }

    fn new_history(&self) -> Result<TimelineHistory, InvalidHistory> {
        let Candidate { history, position, segment_size, .. } = &self.candidate;
        history.forked(self.claimed.next(), self.request.nonce, *position, *segment_size)
    }

    fn parent(&self) -> TimelineId {
        self.candidate.history.current().id
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => write!(f, "asks for the newest history"),
            Self::Fetch { timeline, from } => write!(f, "fetches timeline {timeline} from {from}"),
            Self::Apply(log) => write!(f, "applies {}..{}", log.start, log.end()),
            Self::Archive { timeline, to } => write!(f, "archives timeline {timeline} up to {}", to.lsn),
            Self::Fence { timeline, at, .. } => write!(f, "fences timeline {timeline} at {}", at.lsn),
            Self::Claim(claim, _) => write!(f, "claims timeline {} for {}", claim.entry.id, claim.claimant),
            Self::Begin(history) => {
                let newest = history.current();
                write!(f, "begins timeline {} forked at {}, first byte {}", newest.id, newest.fork.lsn, newest.begin)
            }
        }
    }
}

impl Answer {
    const fn name(&self) -> &'static str {
        match self {
            Self::Newest(_) => "the newest history",
            Self::Fetched(_) => "fetched log",
            Self::Applied(_) => "applied log",
            Self::Archived(_) => "archived log",
            Self::Fence(_) => "a fence",
            Self::Claimed => "claimed",
            Self::Taken => "taken",
            Self::Foreign(_) => "a foreign history",
            Self::Unreachable(_) => "unreachable",
        }
    }
}
