//! The promises, and the program that tries each in many schedules.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::database::{closing as databases, commits, tables};
use crate::explore::{again as run_again, explore};
use crate::log::{answers, closing, failures, reading, segments};

/// What must hold in every schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// What is promised.
    pub(crate) name: &'static str,
    /// Threads that try to break it, and panic if they do. Whatever does not come to an end is a failure too.
    pub(crate) scenario: fn(),
}

macro_rules! promises {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$(Promise { name: stringify!($name), scenario: $module::$name },)*]
    };
}

/// All of them.
pub(crate) const ALL: &[Promise] = promises![
    answers::every_committer_is_answered_after_a_sync_of_its_record,
    answers::a_record_that_nobody_waits_for_is_flushed_when_asked_for,
    answers::a_wait_with_a_deadline_ends_and_takes_nobodys_answer,
    answers::a_ticket_that_is_dropped_takes_nobodys_wake_up,
    answers::committers_without_a_flusher_take_turns,
    answers::a_position_wakes_everybody_it_has_reached,
    failures::a_failed_sync_is_told_to_all_who_wait_and_all_who_come_later,
    segments::rotation_keeps_the_order_and_loses_nothing,
    segments::appends_wait_for_room_and_go_on,
    segments::a_segment_that_cannot_be_had_at_first_is_had_later,
    closing::closing_ends_and_everybody_gets_an_answer,
    closing::closing_a_log_that_failed_ends_and_everybody_gets_an_answer,
    reading::who_follows_the_log_reads_every_record_once,
    reading::a_standby_has_what_it_acknowledged,
    commits::a_commit_that_was_answered_is_seen_and_survives,
    commits::a_batch_is_seen_whole_and_what_was_seen_stays,
    commits::what_was_read_survives_power_loss,
    commits::transactions_that_meet_take_effect_one_after_the_other,
    tables::what_is_written_out_and_merged_is_read_meanwhile_and_afterwards,
    databases::closing_a_database_ends_and_every_commit_gets_an_answer,
    databases::a_database_whose_log_fails_answers_every_commit,
];

/// Schedules of each promise, unless it is said.
const SCHEDULES: usize = 3000;
/// From which they follow, unless it is said.
const SEED: u64 = 0x5EA;
/// Where schedules are kept that failed, under the folder this runs in.
pub(crate) const FAILURES: &str = "failures";

/// Tries those whose names contain one of the words, or all of them. Says whether they were kept.
pub(crate) fn keep(options: &[&str]) -> bool {
    let (mut schedules, mut seed, mut words) = (SCHEDULES, SEED, Vec::new());
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut number = || options.next().and_then(|number| number.parse().ok()).unwrap_or_else(|| usage(option));
        match *option {
            "--schedules" => schedules = number() as usize,
            "--seed" => seed = number(),
            word => words.push(word),
        }
    }
    let chosen: Vec<&Promise> =
        ALL.iter().filter(|promise| words.is_empty() || words.iter().any(|word| promise.name.contains(word))).collect();
    if chosen.is_empty() {
        eprintln!("no promise is called like that");
        return false;
    }
    let failures = PathBuf::from(FAILURES);
    std::fs::create_dir_all(&failures).expect("a folder for schedules that fail can be made");
    keep_each(&chosen, schedules, seed, &failures)
}

fn usage(option: &str) -> u64 {
    eprintln!("{option} takes a number");
    std::process::exit(2);
}

fn keep_each(chosen: &[&Promise], schedules: usize, seed: u64, failures: &Path) -> bool {
    let began = Instant::now();
    let (next, total, broken) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(promise) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = Instant::now();
            let explored = explore(promise.scenario, schedules, seed, failures);
            total.fetch_add(explored.schedules, Ordering::Relaxed);
            let (count, took) = (explored.schedules, began.elapsed().as_secs_f64());
            if explored.failed {
                println!("BROKEN {:<76} in schedule {count}, {took:5.1} s", promise.name);
                broken.lock().unwrap_or_else(PoisonError::into_inner).push(promise.name);
            } else {
                println!("kept   {:<76} {count:>6} schedules, {took:5.1} s", promise.name);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(chosen.len()) {
            scope.spawn(work);
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let total = total.into_inner();
    println!(
        "{} promises, {total} schedules, {} broken, {:.1} s",
        chosen.len(),
        broken.len(),
        began.elapsed().as_secs_f64()
    );
    for name in &broken {
        eprintln!("again: schedules/run again {name} FILE, with the file that was named above");
    }
    broken.is_empty()
}

/// Runs the schedule in a file.
pub(crate) fn again(promise: &str, file: &str) -> bool {
    let Some(promise) = ALL.iter().find(|known| known.name == promise) else {
        eprintln!("no promise is called like that");
        return false;
    };
    match run_again(promise.scenario, Path::new(file)) {
        Ok(explored) => {
            println!("{} {}", if explored.failed { "BROKEN" } else { "kept  " }, promise.name);
            !explored.failed
        }
        Err(error) => {
            eprintln!("cannot read {file}: {error}");
            false
        }
    }
}
