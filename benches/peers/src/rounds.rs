//! Rounds: every cell takes its turn, again and again, so that a noisy neighbour harms all of them alike. The first
//! round warms up and is dropped. A cell during which others used much of the machine is repeated.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::cpu::{CpuTime, wait_until_quiet};
use crate::device::{Counters, Device};
use crate::load::Work;
use crate::statistics::{Quantiles, Spread, median};

/// How often and how strictly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// With the first, which is dropped.
    pub(crate) rounds: usize,
    /// Of each cell in each round.
    pub(crate) slice: Duration,
    /// Tries of a cell in a round before it is taken as it is, and called dirty.
    pub(crate) tries: usize,
    /// The share of the machine that others may have.
    pub(crate) others_max: f64,
}

/// A figure to be measured.
pub(crate) struct Cell<'a> {
    name: String,
    promise: Promise,
    work: Box<dyn FnMut() -> Result<Work> + 'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// Each operation survives power loss, so the device must have been told to flush.
    Durable,
    None,
}

impl<'a> Cell<'a> {
    /// Of operations that promise nothing.
    pub(crate) fn new(name: impl Into<String>, work: impl FnMut() -> Result<Work> + 'a) -> Self {
        Self { name: name.into(), promise: Promise::None, work: Box::new(work) }
    }

    /// Of durable writes.
    pub(crate) fn durable(name: impl Into<String>, work: impl FnMut() -> Result<Work> + 'a) -> Self {
        Self { name: name.into(), promise: Promise::Durable, work: Box::new(work) }
    }
}

/// What a cell gave in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Quantiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flushes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flushes_per_operation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) journal_commits_per_operation: Option<f64>,
    /// The share of the machine that others had.
    pub(crate) others: f64,
    /// Whether that was too much.
    pub(crate) dirty: bool,
}

/// What a cell gave in all.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<Spread>,
    /// Whether the device was told to flush; none if nothing was promised, or nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) durable: Option<bool>,
    /// Why there is no figure, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
    /// Those that count.
    pub(crate) rounds: Vec<Round>,
}

/// Fewer flushes a second than this are somebody else's.
const FLUSHES_PER_SECOND_MIN: f64 = 1.0;
/// How long a store may go on working behind a cell.
const QUIET_PATIENCE: Duration = Duration::from_secs(3);

/// Measures all cells.
pub(crate) fn interleave(mut cells: Vec<Cell<'_>>, plan: &Plan, device: &Device) -> Vec<Measured> {
    let mut results: Vec<Result<Vec<Round>>> = cells.iter().map(|_| Ok(Vec::new())).collect();
    for number in 0..plan.rounds {
        for (cell, result) in cells.iter_mut().zip(&mut results) {
            let Ok(rounds) = result else { continue };
            match one_round(cell, plan, device) {
                Ok(round) if number > 0 || plan.rounds == 1 => rounds.push(round),
                Ok(_) => {}
                Err(error) => *result = Err(error),
            }
        }
    }
    cells.iter().zip(results).map(|(cell, result)| Measured::new(cell, result, device)).collect()
}

fn one_round(cell: &mut Cell<'_>, plan: &Plan, device: &Device) -> Result<Round> {
    let mut tries = 0;
    loop {
        tries += 1;
        wait_until_quiet(QUIET_PATIENCE);
        let (cpu, counters) = (CpuTime::now(), device.counters());
        let work = (cell.work)()?;
        let others = match (CpuTime::now(), cpu) {
            (Some(after), Some(before)) => after.others_since(&before),
            _ => 0.0,
        };
        let dirty = others >= plan.others_max;
        if !dirty || tries >= plan.tries {
            return Ok(Round::new(cell.promise, work, counters, device.counters(), others, dirty));
        }
    }
}

impl Round {
    fn new(promise: Promise, mut work: Work, before: Counters, after: Counters, others: f64, dirty: bool) -> Self {
        let risen = |before: Option<u64>, after: Option<u64>| match promise {
            Promise::Durable => Some(after?.saturating_sub(before?) as f64),
            Promise::None => None,
        };
        let flushes = risen(before.flushes, after.flushes);
        let journal_commits = risen(before.journal_commits, after.journal_commits);
        let operations = work.operations.max(1) as f64;
        Self {
            per_second: work.operations as f64 / work.seconds,
            latency: Quantiles::of(&mut work.latencies),
            flushes_per_second: flushes.map(|flushes| flushes / work.seconds),
            flushes_per_operation: flushes.map(|flushes| flushes / operations),
            journal_commits_per_operation: journal_commits.map(|commits| commits / operations),
            others,
            dirty,
        }
    }
}

impl Measured {
    fn new(cell: &Cell<'_>, result: Result<Vec<Round>>, device: &Device) -> Self {
        let (rounds, failed) = match result {
            Ok(rounds) => (rounds, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        let mut measured = Self { name: cell.name.clone(), per_second: None, durable: None, failed, rounds };
        measured.per_second = Spread::of(&measured.each(|round| Some(round.per_second)));
        if cell.promise == Promise::Durable && device.is_told_to_flush() {
            let flushes = measured.median(|round| round.flushes_per_second);
            measured.durable = flushes.map(|flushes| flushes >= FLUSHES_PER_SECOND_MIN);
        }
        measured
    }

    fn each(&self, figure: impl Fn(&Round) -> Option<f64>) -> Vec<f64> {
        self.rounds.iter().filter_map(figure).collect()
    }

    /// The median of a figure over the rounds that have it.
    pub(crate) fn median(&self, figure: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        median(&self.each(figure))
    }

    /// Operations a second.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.per_second.map(|spread| spread.median)
    }

    /// How many times as fast as `other`, round by round.
    pub(crate) fn times(&self, other: &Self) -> Option<Spread> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        Spread::of(&pairs.map(|(ours, theirs)| ours.per_second / theirs.per_second).collect::<Vec<_>>())
    }

    /// Rounds in which others used too much of the machine.
    pub(crate) fn dirty_rounds(&self) -> usize {
        self.rounds.iter().filter(|round| round.dirty).count()
    }
}

/// The fastest of those whose name `is_one`: who is compared with a store of several settings, is compared with its best.
pub(crate) fn best(cells: &[Measured], is_one: impl Fn(&str) -> bool) -> Option<&Measured> {
    let ones = cells.iter().filter(|cell| is_one(&cell.name) && cell.durable != Some(false));
    ones.filter(|cell| cell.rate().is_some()).max_by(|a, b| a.rate().unwrap_or(0.0).total_cmp(&b.rate().unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { rounds: 4, slice: Duration::ZERO, tries: 1, others_max: 2.0 };

    fn counted(operations: u64) -> Result<Work> {
        Ok(Work { operations, seconds: 1.0, latencies: Vec::new() })
    }

    #[test]
    fn cells_take_turns_and_the_first_round_is_dropped() {
        let order = std::cell::RefCell::new(String::new());
        let mut turn = 0;
        let a = Cell::new("a", || {
            order.borrow_mut().push('a');
            turn += 1;
            counted(turn)
        });
        let b = Cell::new("b", || {
            order.borrow_mut().push('b');
            counted(1)
        });
        let measured = interleave(vec![a, b], &PLAN, &Device::default());
        assert_eq!(*order.borrow(), "abababab");
        assert_eq!(measured[0].per_second, Some(Spread { median: 3.0, min: 2.0, max: 4.0 }));
        assert_eq!(measured[0].times(&measured[1]), Some(Spread { median: 3.0, min: 2.0, max: 4.0 }));
        assert_eq!(best(&measured, |_| true).unwrap().name, "a");
    }

    #[test]
    fn a_cell_that_fails_says_why_and_harms_no_other() {
        let cells = vec![Cell::new("bad", || anyhow::bail!("no room")), Cell::new("good", || counted(5))];
        let measured = interleave(cells, &PLAN, &Device::default());
        assert_eq!(measured[0].failed.as_deref(), Some("no room"));
        assert_eq!(measured[0].rate(), None);
        assert_eq!(measured[1].rate(), Some(5.0));
        assert_eq!(measured[0].times(&measured[1]), None);
    }

    #[test]
    fn a_round_in_which_others_were_busy_is_tried_again_and_then_called_dirty() {
        let mut calls = 0;
        let plan = Plan { rounds: 2, tries: 3, others_max: 0.0, ..PLAN };
        let cell = Cell::new("cell", || {
            calls += 1;
            counted(1)
        });
        let measured = interleave(vec![cell], &plan, &Device::default());
        assert_eq!(measured[0].dirty_rounds(), 1);
        assert_eq!(calls, 6);
    }

    #[test]
    fn a_promise_without_flushes_is_not_kept() {
        let at = |flushes| Counters { flushes: Some(flushes), ..Counters::default() };
        let round = Round::new(Promise::Durable, counted(100).unwrap(), at(10), at(110), 0.0, false);
        assert_eq!((round.flushes_per_second, round.flushes_per_operation), (Some(100.0), Some(1.0)));
        let round = Round::new(Promise::None, counted(100).unwrap(), at(10), at(110), 0.0, false);
        assert_eq!(round.flushes_per_second, None, "nothing was promised");
    }
}
