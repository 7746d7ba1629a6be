//! Promotions: what the node does next after each answer.

use seawall_replication::promotion::{Answer, Candidate, Promotion, PromotionRefused, PromotionRequest, Step};
use seawall_wal::{
    Chain, FenceOutcome, LogBytes, Lsn, Position, SegmentSize, TimelineHistory, TimelineId, TimelineNonce, Timestamp,
};

use super::{Command, World};

pub(crate) struct PromotionWorld {
    promotion: Option<Promotion>,
    history: TimelineHistory,
}

impl PromotionWorld {
    pub(crate) fn new() -> Self {
        Self { promotion: None, history: TimelineHistory::first(TimelineNonce::from_bytes([1; 16])) }
    }

    fn tell(&mut self, result: Result<Step, PromotionRefused>) -> Vec<String> {
        vec![match result {
            Err(refused) => format!("refused: {refused}"),
            Ok(step) => step.to_string(),
        }]
    }
}

fn position(lsn: Lsn) -> Position {
    Position { lsn, chain: Chain(lsn.offset()) }
}

fn log(command: &Command) -> LogBytes {
    let (start, end): (Lsn, Lsn) = (command.need("from"), command.need("to"));
    LogBytes { timeline: TimelineId(1), start, bytes: vec![0; end.distance_from(start) as usize] }
}

impl World for PromotionWorld {
    fn run(&mut self, command: &Command) -> Vec<String> {
        if command.verb == "promote" {
            let at: Lsn = command.need("at");
            let has = |word: &str| command.words.iter().any(|given| given == word);
            let candidate = Candidate {
                history: self.history.clone(),
                position: position(at),
                last_time: Timestamp(1),
                segment_size: SegmentSize::MIN,
                upstream_flush: command.get("upstream").unwrap_or(at),
            };
            let request = PromotionRequest {
                node: "b".to_owned(),
                archive: !has("no-archive"),
                unfenced: has("--unfenced"),
                lag_bytes_max: command.get("lag_max"),
                nonce: TimelineNonce::from_bytes([7; 16]),
                now: Timestamp(2),
            };
            let started = Promotion::start(candidate, request);
            let step = started.map(|(promotion, step)| {
                self.promotion = Some(promotion);
                step
            });
            return self.tell(step);
        }
        let answer = match command.verb.as_str() {
            "newest" => Answer::Newest(match command.word(0) {
                "none" => None,
                "same" => Some(self.history.clone()),
                id => {
                    let id = TimelineId(id.parse().unwrap());
                    let nonce = TimelineNonce::from_bytes([command.get("nonce").unwrap_or(9); 16]);
                    let fork = position(command.need("fork"));
                    Some(self.history.forked(id, nonce, fork, SegmentSize::MIN).unwrap())
                }
            }),
            "fetched" if command.words.first().is_some_and(|word| word == "nothing") => Answer::Fetched(None),
            "fetched" => Answer::Fetched(Some(log(command))),
            "applied" => Answer::Applied(position(command.word(0).parse().unwrap())),
            "archived" => Answer::Archived(command.word(0).parse().unwrap()),
            "fenced" => Answer::Fence(FenceOutcome::Fenced(command.word(0).parse().unwrap())),
            "more" => Answer::Fence(FenceOutcome::MoreLog(log(command))),
            "claimed" => Answer::Claimed,
            "taken" => Answer::Taken,
            "unreachable" => Answer::Unreachable("timed out".to_owned()),
            verb => panic!("unknown command `{verb}`"),
        };
        let step = self.promotion.as_mut().expect("a promotion was started").next(answer);
        self.tell(step)
    }
}
