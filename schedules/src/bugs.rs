//! Bugs to plant, each with the promise that is broken by it: a checker that has never found anything proves little.

use std::path::Path;
use std::process::Command;

use seawall_wal::mutant::VARIABLE;
use seawall_wal::race;

/// The bug, as the environment names it, and the promise.
const ROWS: &[(&str, &str)] = &[
    ("wal:acknowledge-before-sync", "every_committer_is_answered_after_a_sync_of_its_record"),
    ("wal-race:woken-before-flushed", "every_committer_is_answered_after_a_sync_of_its_record"),
    ("wal-race:calls-counted-late", "every_committer_is_answered_after_a_sync_of_its_record"),
    ("wal-race:turn-not-passed-on", "every_committer_is_answered_after_a_sync_of_its_record"),
    ("wal-race:request-forgotten", "every_committer_is_answered_after_a_sync_of_its_record"),
    ("wal-race:flushed-to-the-end", "every_committer_is_answered_after_a_sync_of_its_record"),
    ("wal-race:one-is-woken", "every_committer_is_answered_after_a_sync_of_its_record"),
    ("wal-race:seen-without-the-lock", "a_position_wakes_everybody_it_has_reached"),
    ("wal-race:another-is-forgotten", "a_ticket_that_is_dropped_takes_nobodys_wake_up"),
    ("wal-race:threads-not-told", "a_failed_sync_is_told_to_all_who_wait_and_all_who_come_later"),
    ("wal-race:ready-not-announced", "rotation_keeps_the_order_and_loses_nothing"),
    ("wal-race:end-seen-last", "closing_ends_and_everybody_gets_an_answer"),
    ("wal-race:segment-made-again", "rotation_keeps_the_order_and_loses_nothing"),
    ("engine-race:unapplied-seen", "a_batch_is_seen_whole_and_what_was_seen_stays"),
    ("engine-race:room-not-announced", "what_is_written_out_and_merged_is_read_meanwhile_and_afterwards"),
    ("engine:visible-before-durable", "what_was_read_survives_power_loss"),
    ("engine:unchecked-transactions", "transactions_that_meet_take_effect_one_after_the_other"),
    ("engine:unchecked-unflushed", "transactions_that_meet_take_effect_one_after_the_other"),
    ("engine:unchecked-pending", "transactions_that_meet_take_effect_one_after_the_other"),
];

/// Most are noticed within a few schedules; the one that takes longest needs one of some thousand whose priorities change.
const SCHEDULES: &str = "16000";

/// Plants those whose names contain one of the words, or all of them. Says whether each was noticed.
pub(crate) fn are_noticed(words: &[&str]) -> bool {
    let planned: Vec<String> = race::Mutant::ALL.iter().map(|bug| bug.name()).collect();
    let mut all = planned.iter().all(|bug| {
        let has_row = ROWS.iter().any(|(known, _)| known == bug);
        if !has_row {
            eprintln!("no promise is named that {bug} breaks");
        }
        has_row
    });
    let own = std::env::current_exe().expect("a program knows where it is");
    for (bug, promise) in ROWS.iter().filter(|(bug, _)| words.is_empty() || words.iter().any(|word| bug.contains(word)))
    {
        let noticed = is_noticed(&own, bug, promise);
        println!(
            "{} {bug:<34} {promise}{}",
            if noticed.is_some() { "noticed" } else { "MISSED " },
            noticed.as_deref().unwrap_or_default()
        );
        all &= noticed.is_some();
    }
    all
}

/// What the program says of a promise with a bug, if it says that it is broken.
fn is_noticed(own: &Path, bug: &str, promise: &str) -> Option<String> {
    let folder = std::env::temp_dir().join(format!("seawall-schedules-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for schedules that fail can be made");
    let mut trial = Command::new(own);
    trial.args(["run", "--schedules", SCHEDULES, promise]).env(VARIABLE, bug).current_dir(&folder);
    let output = trial.output().expect("a program can be started again");
    let removed = std::fs::remove_dir_all(&folder);
    removed.expect("what it wrote can be removed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.starts_with("BROKEN"))?;
    Some(line.split(promise).nth(1).unwrap_or_default().trim_end().to_owned())
}
