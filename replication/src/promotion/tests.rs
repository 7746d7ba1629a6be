//! Promotions against a simulated archive, with an old primary that goes on archiving and rivals that are promoted at the
//! same time, in every order proptest can think of: at most one timeline begins, and nothing archived is left behind.

use proptest::prelude::*;
use seawall_wal::Chain;

use super::*;

const SIZE: SegmentSize = SegmentSize::MIN;

fn at(lsn: u64) -> Position {
    Position { lsn: Lsn::new(lsn), chain: Chain(lsn) }
}

fn log(from: u64, to: u64) -> LogBytes {
    LogBytes { timeline: TimelineId(1), start: Lsn::new(from), bytes: vec![0; (to - from) as usize] }
}

fn first() -> TimelineHistory {
    TimelineHistory::first(TimelineNonce::from_bytes([1; 16]))
}

fn candidate(position: u64) -> Candidate {
    Candidate {
        history: first(),
        position: at(position),
        last_time: Timestamp(1_000),
        segment_size: SIZE,
        upstream_flush: Lsn::new(position),
    }
}

fn request(nonce: u8) -> PromotionRequest {
    PromotionRequest {
        node: format!("n{nonce}"),
        archive: true,
        unfenced: false,
        lag_bytes_max: None,
        nonce: TimelineNonce::from_bytes([nonce; 16]),
        now: Timestamp(2_000),
    }
}

/// Chunks by where they start, as the store holds them; the first to put a key has it.
#[derive(Debug, Default)]
struct Archive {
    end: u64,
    chunk_ends: Vec<u64>,
    fence: Option<u64>,
    newest: Option<TimelineHistory>,
}

impl Archive {
    fn with(end: u64) -> Self {
        Self { end, chunk_ends: vec![0, end], ..Self::default() }
    }

    /// The old primary puts a chunk at the end, unless a fence is there.
    fn grow(&mut self, bytes: u64) {
        if self.fence.is_none() {
            self.end += bytes;
            self.chunk_ends.push(self.end);
        }
    }

    fn answer(&mut self, step: &Step, position: &mut u64) -> Answer {
        match step {
            Step::Newest => Answer::Newest(self.newest.clone()),
            Step::Fetch { from, .. } => {
                let from = from.offset();
                Answer::Fetched((from < self.end).then(|| log(from, self.end)))
            }
            Step::Apply(log) => {
                *position = log.end().offset();
                Answer::Applied(at(*position))
            }
            Step::Archive { to, .. } => match self.fence {
                Some(fence) if fence < to.lsn.offset() => Answer::Foreign("fenced before".to_owned()),
                _ => {
                    if self.end < to.lsn.offset() {
                        self.end = to.lsn.offset();
                        self.chunk_ends.push(self.end);
                    }
                    Answer::Archived(Lsn::new(self.end))
                }
            },
            Step::Fence { at, .. } => {
                let at = at.lsn.offset();
                if self.end > at {
                    Answer::Fence(FenceOutcome::MoreLog(log(at, self.end)))
                } else {
                    assert_eq!(self.end, at, "a fence beyond the end would leave a hole");
                    self.fence = Some(at);
                    Answer::Fence(FenceOutcome::Fenced(Lsn::new(at)))
                }
            }
            Step::Claim(claim, history) => match &self.newest {
                Some(newest) if newest.current().id >= claim.entry.id => Answer::Taken,
                _ => {
                    self.newest = Some(history.clone());
                    Answer::Claimed
                }
            },
            Step::Begin(_) => unreachable!("the last step has no answer"),
        }
    }
}

fn run(
    archive: &mut Archive,
    mut position: u64,
    request: PromotionRequest,
) -> Result<TimelineHistory, PromotionRefused> {
    let (mut promotion, mut step) = Promotion::start(candidate(position), request)?;
    loop {
        if let Step::Begin(history) = step {
            return Ok(history);
        }
        step = promotion.next(archive.answer(&step, &mut position))?;
    }
}

#[test]
fn a_standby_behind_the_archive_first_takes_what_is_there() {
    let mut archive = Archive::with(5_000);
    let history = run(&mut archive, 3_000, request(2)).unwrap();
    assert_eq!(history.current().fork, at(5_000));
    assert_eq!((history.current().id, history.current().begin), (TimelineId(2), Lsn::new(65_536)));
    assert_eq!(archive.fence, Some(5_000));
}

#[test]
fn a_standby_ahead_of_the_archive_archives_first_so_that_no_hole_is_fenced_in() {
    let mut archive = Archive::with(3_000);
    let history = run(&mut archive, 5_000, request(2)).unwrap();
    assert_eq!(history.current().fork, at(5_000));
    assert_eq!((archive.end, archive.fence), (5_000, Some(5_000)));
}

#[test]
fn without_an_archive_only_an_operator_who_vouches_can_promote() {
    let request = PromotionRequest { archive: false, ..request(2) };
    assert_eq!(run(&mut Archive::default(), 100, request.clone()), Err(PromotionRefused::NoArchive));
    let unfenced = PromotionRequest { unfenced: true, ..request };
    assert_eq!(run(&mut Archive::default(), 100, unfenced).unwrap().current().fork, at(100));
}

#[test]
fn an_archive_that_does_not_answer_refuses_unless_unfenced() {
    let down = Answer::Unreachable("timed out".to_owned());
    let (mut promotion, _) = Promotion::start(candidate(100), request(2)).unwrap();
    assert!(matches!(promotion.next(down.clone()), Err(PromotionRefused::Unreachable { .. })));
    let (mut promotion, _) =
        Promotion::start(candidate(100), PromotionRequest { unfenced: true, ..request(2) }).unwrap();
    assert!(matches!(promotion.next(down), Ok(Step::Begin(_))));
}

#[test]
fn too_much_known_loss_is_refused_before_anything_is_fenced() {
    let mut archive = Archive::with(100);
    let limited = PromotionRequest { lag_bytes_max: Some(1_000), ..request(2) };
    let late = Candidate { upstream_flush: Lsn::new(5_000), ..candidate(100) };
    let (mut promotion, mut step) = Promotion::start(late, limited).unwrap();
    let refused = loop {
        match promotion.next(archive.answer(&step, &mut 100)) {
            Ok(next) => step = next,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, PromotionRefused::TooFarBehind { lag: 4_900, max: 1_000 });
    assert_eq!(archive.fence, None);
}

#[test]
fn a_clock_far_behind_the_log_is_refused() {
    let ahead = Candidate { last_time: Timestamp(60_000_000), ..candidate(100) };
    let refused = Promotion::start(ahead, request(2)).unwrap_err();
    assert!(matches!(refused, PromotionRefused::ClockBehind { behind } if behind.as_secs() == 59), "{refused:?}");
}

#[test]
fn who_finds_a_newer_timeline_follows_it_instead() {
    let mut archive = Archive::with(5_000);
    run(&mut archive, 5_000, request(2)).unwrap();
    let refused = run(&mut archive, 4_000, request(3)).unwrap_err();
    assert_eq!(refused, PromotionRefused::Superseded { timeline: TimelineId(2) });
    let refused = run(&mut archive, 6_000, request(3)).unwrap_err();
    assert!(matches!(refused, PromotionRefused::Diverged { .. }));
}

#[test]
fn a_claim_whose_answer_was_lost_is_recognised_as_ours() {
    let mut archive = Archive::with(5_000);
    let mut position = 5_000;
    let (mut promotion, mut step) = Promotion::start(candidate(position), request(2)).unwrap();
    let history = loop {
        if let Step::Begin(history) = step {
            break history;
        }
        let mut answer = archive.answer(&step, &mut position);
        if answer == Answer::Claimed {
            answer = Answer::Taken;
        }
        step = promotion.next(answer).unwrap();
    };
    assert_eq!(history.current().nonce, TimelineNonce::from_bytes([2; 16]));
}

#[test]
fn an_old_primary_that_always_archives_first_does_not_hold_us_up_for_ever() {
    let mut archive = Archive::with(5_000);
    let mut position = 5_000;
    let (mut promotion, mut step) = Promotion::start(candidate(position), request(2)).unwrap();
    let refused = loop {
        if matches!(step, Step::Fence { .. }) {
            archive.grow(10);
        }
        match promotion.next(archive.answer(&step, &mut position)) {
            Ok(next) => step = next,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, PromotionRefused::StillArchiving { .. }));
}

/// A rival: its promotion, its next step and where its log ends.
struct Rival {
    promotion: Promotion,
    step: Option<Step>,
    position: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_rivals_at_most_one_begins_and_no_archived_byte_is_left_behind(
        end in 0..5_000_u64, starts in proptest::collection::vec(0..6_000_u64, 2..4),
        turns in proptest::collection::vec(0..5_usize, 0..80),
    ) {
        let mut archive = Archive::with(end);
        let mut rivals: Vec<_> = starts
            .iter()
            .zip(2_u8..)
            .map(|(start, nonce)| {
                let (promotion, step) = Promotion::start(candidate(*start), request(nonce)).unwrap();
                Rival { promotion, step: Some(step), position: *start }
            })
            .collect();
        let mut begun = Vec::new();
        // A random beginning, then everybody in turn until all are done.
        let rival_count = rivals.len();
        let turns = turns.into_iter().chain((0..).map(|turn| turn % rival_count)).take(1_000);
        for turn in turns {
            let Some(rival) = rivals.get_mut(turn) else {
                archive.grow(7);
                continue;
            };
            match rival.step.take() {
                None => {}
                Some(Step::Begin(history)) => begun.push(history),
                Some(step) => {
                    let answer = archive.answer(&step, &mut rival.position);
                    rival.step = rival.promotion.next(answer).ok();
                }
            }
        }
        prop_assert!(rivals.iter().all(|rival| rival.step.is_none()), "somebody never finished");
        prop_assert!(begun.len() <= 1, "{begun:?}");
        if let Some(history) = begun.first() {
            prop_assert_eq!(Some(history.current().fork.lsn.offset()), archive.fence);
            prop_assert_eq!(archive.fence, Some(archive.end), "log was archived beyond the fork");
        }
    }
}
