//! `seawall torture`: databases on a disk in memory, and what power losses and failing calls leave of them. It needs no
//! directory and no privilege.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use clap::Args;
use seawall_torture::Figures;
use seawall_torture::storm::{self, Storm};
use serde::Serialize;

use super::Context;
use crate::failure::{Failure, Kind};

#[derive(Args, Debug)]
#[group(id = "storm")]
pub(super) struct Arguments {
    /// Of the first round: it says how the database is set up, what is written, what fails and what is lost
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// No round begins after this time [default: 1m, or none with --rounds]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// Make so many rounds, each with the next seed: the same figures every time
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Rounds at a time [default: one a core]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

/// How long it goes on if nothing is said.
const TIME: Duration = Duration::from_secs(60);

/// The figures as they are in JSON.
#[derive(Serialize)]
struct Report {
    seed: u64,
    acknowledged_lost: u64,
    false_damage: u64,
    states: u64,
    states_seen_before: u64,
    torn_tails: u64,
    unacknowledged_found: u64,
    recoveries_crashed: [u64; 3],
    onward: u64,
    rounds: u64,
    rounds_of_standbys: u64,
    rounds_with_faults: u64,
    commits: u64,
    operations: u64,
    segments_recycled: u64,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let time = match (arguments.time, arguments.rounds) {
        (None, None) => Some(TIME),
        (time, _) => time,
    };
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let storm = Storm {
        seed: arguments.seed,
        threads: arguments.threads.unwrap_or_else(cores).get(),
        rounds: arguments.rounds.unwrap_or(u64::MAX),
        until: time.and_then(|time| Instant::now().checked_add(time)),
        states: u64::MAX,
    };
    let figures = storm.rage().map_err(|failure| failed(&failure))?;
    context.output.document(&report(arguments.seed, &figures), |out| {
        writeln!(out, "{figures}")?;
        writeln!(out, "no acknowledged commit was lost, and no healthy database was called damaged")
    })
}

/// What a storm returns has lost nothing and called nothing damaged: it would have failed.
fn report(seed: u64, figures: &Figures) -> Report {
    Report {
        seed,
        acknowledged_lost: 0,
        false_damage: 0,
        states: figures.states,
        states_seen_before: figures.seen_before,
        torn_tails: figures.torn_tails,
        unacknowledged_found: figures.unacknowledged_found,
        recoveries_crashed: figures.recoveries_crashed,
        onward: figures.onward,
        rounds: figures.rounds,
        rounds_of_standbys: figures.standbys,
        rounds_with_faults: figures.faults,
        commits: figures.commits,
        operations: figures.operations,
        segments_recycled: figures.recycled,
    }
}

fn failed(failure: &storm::Failure) -> Failure {
    Failure::new(Kind::VerificationFailed, failure.to_string()).hint(format!(
        "`seawall torture --seed {} --rounds 1` makes it again; report it: this must never happen",
        failure.seed
    ))
}

#[cfg(test)]
mod tests {
    use seawall_torture::Broken;
    use seawall_torture::storm::{What, setup};

    use super::*;

    #[test]
    fn a_round_that_fails_says_how_to_make_it_again() {
        let what = What::Running(Broken::Lost { acknowledged: 12, found: 11 });
        let failure = failed(&storm::Failure { seed: 77, setup: Box::new(setup(77)), what });
        assert_eq!(failure.kind.exit_code(), 12);
        assert!(failure.message.starts_with("round 77 ("), "{failure}");
        assert!(
            failure.message.ends_with("12 commits were acknowledged, and 11 are there: acknowledged commits are lost")
        );
        assert!(failure.hint.unwrap().contains("`seawall torture --seed 77 --rounds 1`"));
    }
}
