//! The planner against a search over everything: whatever the sources cover, following its advice ends where the best
//! possible way ends, without ever asking a source for what it lacks. (Situations to read are in tests/scenarios.)

use proptest::prelude::*;
use seawall_wal::{Chain, Position, SegmentSize, TimelineId, TimelineNonce};

use super::*;

fn history(forked: bool) -> TimelineHistory {
    let history = TimelineHistory::first(TimelineNonce::from_bytes([1; 16]));
    let fork = Position { lsn: Lsn::new(40_000), chain: Chain(7) };
    let second = TimelineNonce::from_bytes([2; 16]);
    if forked { history.forked(TimelineId(2), second, fork, SegmentSize::MIN).unwrap() } else { history }
}

/// Positions on a coarse grid that avoids the void `[40 000, 65 536)`.
fn grid(step: u64) -> Lsn {
    let lsn = step * 10_000;
    Lsn::new(if lsn > 40_000 { 65_536 + (step - 4) * 10_000 } else { lsn })
}

fn stretch() -> impl Strategy<Value = Option<Coverage>> {
    proptest::option::of(
        (0..10_u64, 0..10_u64).prop_map(|(a, b)| Coverage { from: grid(a.min(b)), to: grid(a.max(b)) }),
    )
}

fn sources() -> impl Strategy<Value = Sources> {
    let backups = proptest::collection::vec((0..9_u64, 0..3_u64), 0..3).prop_map(|offers| {
        let offer = |(index, (redo, more)): (usize, (u64, u64))| BackupOffer {
            id: format!("b{index}"),
            redo: grid(redo),
            stop: grid((redo + more).min(9)),
        };
        offers.into_iter().enumerate().map(offer).collect()
    });
    (stretch(), stretch(), backups).prop_map(|(upstream, archive, backups)| Sources { upstream, archive, backups })
}

/// Everywhere one can get from `standing`, by brute force over the grid.
fn reachable(standing: Standing, sources: &Sources, history: &TimelineHistory) -> Vec<Lsn> {
    let view = View { sources, history };
    let mut reached = match standing {
        Standing::At(at) => vec![at],
        Standing::Nothing => vec![Lsn::ZERO],
    };
    reached.extend(
        sources.backups.iter().filter(|backup| view.reach(backup.redo) >= backup.stop).map(|backup| backup.redo),
    );
    loop {
        let more: Vec<_> = [sources.upstream, sources.archive]
            .into_iter()
            .flatten()
            .flat_map(|source| (0..10).map(grid).filter(move |to| *to <= source.to).map(move |to| (source, to)))
            .filter(|(source, to)| reached.iter().any(|at| *at < *to && view.covers(*source, *at)))
            .map(|(_, to)| to)
            .filter(|to| !reached.contains(to))
            .collect();
        if more.is_empty() {
            return reached;
        }
        reached.extend(more);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn following_the_plan_gets_as_far_as_anything_can(
        sources in sources(), at in proptest::option::of(0..10_u64), forked: bool
    ) {
        let history = history(forked);
        let start = at.map_or(Standing::Nothing, |at| Standing::At(grid(at)));
        let view = View { sources: &sources, history: &history };
        let frontier = view.frontier();
        let mut standing = start;
        let mut steps = 0;
        let end = loop {
            steps += 1;
            prop_assert!(steps < 10, "the plan goes round in circles");
            match next_feed(standing, Goal::Live, &sources, &history) {
                Feed::Stream { from } => {
                    let upstream = sources.upstream.unwrap();
                    let at = match standing {
                        Standing::At(at) => at,
                        Standing::Nothing => Lsn::ZERO,
                    };
                    prop_assert!(upstream.from <= from && (from <= upstream.to || at == upstream.to));
                    // The live log goes on growing: whoever streams has arrived.
                    return Ok(());
                }
                Feed::Archive { from, to } => {
                    let archive = sources.archive.unwrap();
                    prop_assert!(archive.from <= from && from < to && to <= archive.to);
                    standing = Standing::At(to);
                }
                Feed::BaseBackup(backup) => {
                    if let Standing::At(at) = standing {
                        prop_assert!(backup.redo > at, "a backup must bring the node forward");
                    }
                    standing = Standing::At(backup.redo);
                }
                Feed::Arrived => break None,
                Feed::Wait { .. } => break match standing {
                    Standing::At(at) => Some(at),
                    Standing::Nothing => Some(Lsn::ZERO),
                },
            }
        };
        // If the frontier can be reached at all, the plan reaches it.
        if let Some(frontier) = frontier
            && reachable(start, &sources, &history).contains(&frontier)
        {
            let at_frontier = end.is_some_and(|end| history.next_byte(end) >= history.next_byte(frontier) || end >= frontier);
            prop_assert!(at_frontier, "stopped at {end:?} before {frontier}");
        }
    }

    #[test]
    fn a_target_is_never_overshot(sources in sources(), target in 0..10_u64) {
        let history = history(false);
        let target = grid(target);
        let mut standing = Standing::Nothing;
        for _ in 0..10 {
            match next_feed(standing, Goal::Reach(target), &sources, &history) {
                Feed::Archive { to, .. } => {
                    prop_assert!(to <= target);
                    standing = Standing::At(to);
                }
                Feed::BaseBackup(backup) => {
                    prop_assert!(backup.stop <= target);
                    standing = Standing::At(backup.redo);
                }
                Feed::Stream { .. } | Feed::Arrived | Feed::Wait { .. } => break,
            }
        }
    }
}
