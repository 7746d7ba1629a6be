//! Power is lost after every operation of many runs of a database, in many ways: what was acknowledged is there, nothing is
//! called damaged that is not, and bugs that are planted are noticed.
//!
//! A million states: `SEAWALL_CRASH_STATES=1000000 cargo test -p seawall-torture --test crash_states -- --nocapture`.

use std::time::Instant;

use seawall_engine::mutant as engine;
use seawall_torture::crash::explore;
use seawall_torture::storm::{Failure, Storm, What, round, setup};
use seawall_torture::{Broken, Figures, Part, Run, Setup, SingleFault};
use seawall_wal::mutant as wal;
use seawall_wal::storage::{Fault, FaultyOperation};

/// States that are opened unless `SEAWALL_CRASH_STATES` says otherwise.
const STATES: u64 = 20_000;
/// A planted bug must be noticed in so many rounds.
const ROUNDS: u64 = 40;

#[test]
fn no_power_loss_loses_what_was_acknowledged_or_makes_a_healthy_database_look_damaged() {
    let asked = std::env::var("SEAWALL_CRASH_STATES").ok();
    let states = asked.map_or(STATES, |number| number.parse().expect("SEAWALL_CRASH_STATES is a number"));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let storm = Storm { seed: 1, threads, rounds: u64::MAX, until: None, states };
    let figures = storm.rage().unwrap_or_else(|failure| panic!("{failure}"));
    println!("{figures}");
    println!("  in {:.0} s; no acknowledged commit lost, no false report of damage", started.elapsed().as_secs_f64());
    assert!(figures.states >= states);
    // What it is about does happen.
    let frequent = |count: u64| assert!(count >= states / 500, "{figures}");
    [figures.torn_tails, figures.unacknowledged_found, figures.onward].into_iter().for_each(frequent);
    figures.recoveries_crashed.into_iter().for_each(frequent);
    assert!(figures.recycled > 0 && figures.faults > 0 && figures.standbys > 0, "{figures}");
}

#[test]
fn a_round_counts_the_same_whenever_it_is_made() {
    for seed in [4, 11] {
        assert_eq!(round(seed).unwrap(), round(seed).unwrap());
    }
    let storm = |threads| Storm { seed: 20, threads, rounds: 4, until: None, states: u64::MAX }.rage().unwrap();
    assert_eq!(storm(1), storm(3), "however many are made at a time");
}

#[test]
fn a_flush_that_fails_acknowledges_nothing_though_it_wakes_who_waits() {
    round(227).unwrap_or_else(|failure| panic!("{failure}"));
}

/// The round of a seed in which a sync fails, and loses what the disk likes; what is wrong with a state that it leaves.
fn round_with_a_failed_sync(seed: u64) -> Option<Broken> {
    let fault = SingleFault { operation: FaultyOperation::Sync, nth: 7 * seed, fault: Fault::Error(5) };
    let run = Run::new(Setup { part: Part::Primary, fault: Some(fault), ..setup(seed) });
    let run = run.unwrap_or_else(|broken| panic!("round {seed}, while it ran: {broken}"));
    let mut figures = Figures::default();
    explore(&run, u64::MAX, &mut figures).err().map(|state| state.broken)
}

#[test]
fn no_power_loss_after_a_failed_sync_loses_what_was_acknowledged() {
    for seed in 1..=10 {
        let broken = round_with_a_failed_sync(seed);
        assert!(broken.is_none(), "round {seed}: {}", broken.expect("it was just looked at"));
    }
}

#[test]
fn a_failed_sync_that_is_tried_again_and_believed_is_noticed() {
    let noticed = || (1..=10).find_map(round_with_a_failed_sync).expect("the bug survives");
    let broken = wal::with_mutant(wal::Mutant::RetryFailedSync, noticed);
    assert!(matches!(broken, Broken::Lost { .. }), "{broken}");
}

/// What the first round that notices says.
fn noticed() -> Box<Failure> {
    (1..ROUNDS).find_map(|seed| round(seed).err()).expect("the bug survives")
}

/// What is wrong with the state that the first round finds that notices.
fn noticed_in_a_state() -> Broken {
    match noticed().what {
        What::Crashed(state) => state.broken,
        What::Running(broken) => panic!("it is a state that is wrong, and not {broken}"),
    }
}

#[test]
fn a_log_that_does_not_sync_is_noticed() {
    let broken = wal::with_mutant(wal::Mutant::NoSync, noticed_in_a_state);
    // Commits are gone, or records before others that say they were flushed.
    assert!(matches!(broken, Broken::Lost { .. } | Broken::Refused(seawall_engine::Error::Log(_))), "{broken}");
}

#[test]
fn an_acknowledgement_before_the_sync_is_noticed() {
    let broken = wal::with_mutant(wal::Mutant::AcknowledgeBeforeSync, noticed_in_a_state);
    assert!(matches!(broken, Broken::Lost { .. }), "{broken}");
}

#[test]
fn a_blob_file_that_is_named_before_it_is_synced_is_noticed() {
    let broken = engine::with_mutant(engine::Mutant::BlobsNotSynced, noticed_in_a_state);
    assert!(matches!(broken, Broken::Refused(seawall_engine::Error::CorruptTable { .. })), "{broken}");
}
