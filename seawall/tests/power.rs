//! The real program on a disk whose power fails, which is full, which lies: what it acknowledged is there afterwards.
//! `SEAWALL_POWER_LOSSES` says how often the power fails in the storm; with a thousand the other tests leave out nothing:
//!
//! ```text
//! SEAWALL_POWER_LOSSES=1000 cargo test -p seawall --test power -- --nocapture
//! ```

#![cfg(target_os = "linux")]

#[path = "power/answers.rs"]
mod answers;
#[path = "power/machine.rs"]
mod machine;

use machine::{End, Machine, WRONG, storm_losses};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::io::Errno;
use seawall_disks::fuse::{Cached, Effect, Fault, Operation, PowerLoss, SECTOR_LEN};
use seawall_wal::storage::{Disk, DurableWrite, IoPath, Storage as _};

/// What a path has in it and how long the program lives, so that there are changes of every kind of file: a life that is no
/// more than the making of a database and a few commits, and one with several segments, tables, blob files and manifests.
const LIVES: [(&str, [&str; 4]); 5] =
    [("", SHORT), ("tables", LONG), ("manifest", LONG), ("control", LONG), ("spare", LONG)];
const SHORT: [&str; 4] = ["--writers", "2", "--commits", "5"];
const LONG: [&str; 4] = ["--writers", "2", "--commits", "150"];

#[test]
fn power_losses_at_random_moments_lose_no_acknowledged_commit() {
    /// A run is this long at most, in changes of the disk: opening, and then some hundred commits.
    const CHANGES_MAX: u64 = 500;
    let Some(machine) = Machine::start() else { return };
    let (losses, mut random) = (storm_losses(), SmallRng::seed_from_u64(1));
    for (_, way) in (0..losses).zip(ways().into_iter().cycle()) {
        let moment = random.random_range(1..=CHANGES_MAX);
        let choice = choice(random.random_range(0..4), random.random());
        machine.run_until_power_is_lost(&["--writers", "3", "--write-by", way.name()], "", moment, choice);
    }
    let acknowledged = machine.run_to_its_end(&["--writers", "3", "--commits", "20"]).acknowledged_before;
    println!("{losses} power losses, {acknowledged} commits acknowledged before them, 0 lost");
    assert!(acknowledged > losses, "there was load: {acknowledged}");
}

#[test]
fn a_power_loss_at_every_change_and_again_while_recovering_loses_nothing() {
    let Some(machine) = Machine::start() else { return };
    let (mut random, mut lives, mut acknowledged) = (SmallRng::seed_from_u64(2), 0, 0);
    for (round, (path, life)) in (0..rounds()).flat_map(|round| LIVES.map(|life| (round, life))) {
        let before = lives;
        for moment in moments(&life) {
            machine.begin_anew();
            let first = choice(round + moment, random.random());
            if !machine.run_until_power_is_lost(&life, path, moment, first) {
                break;
            }
            // Among the first changes of the recovery, or soon after it.
            let (again, second) = (random.random_range(1..=40), choice(random.random_range(0..4), random.random()));
            machine.run_until_power_is_lost(&life, "", again, second);
            acknowledged += machine.run_to_its_end(&SHORT).acknowledged_before;
            lives += 1;
        }
        println!("{} changes of paths with {path:?} in {life:?}", lives - before);
        assert!(lives - before > 2, "there are more changes of paths with {path:?}");
    }
    println!(
        "{lives} lives cut at a change and once more while recovering, {acknowledged} commits acknowledged, 0 lost"
    );
}

#[test]
fn a_disk_that_becomes_read_only_at_any_change_ends_the_program_and_loses_nothing() {
    let Some(machine) = Machine::start() else { return };
    let mut ended = 0;
    for (life, step) in [(SHORT, 1), (LONG, if is_long() { 10 } else { 70 })] {
        for moment in (1..).step_by(step) {
            machine.begin_anew();
            let fault = Fault::at(&Operation::CHANGES, moment, Effect::Fail(Errno::ROFS.raw_os_error()));
            machine.disk.inject(Fault { lasting: true, ..fault });
            match machine.run(&life) {
                End::Failed { words, .. } => assert!(words.contains("Read-only file system"), "at {moment}: {words}"),
                // What nobody waits for may fail when all is said and done.
                End::Well(_) if !machine.disk.hits().is_empty() => {}
                End::Well(_) => break,
            }
            machine.disk.lose_power(PowerLoss::Random(moment));
            machine.run_to_its_end(&SHORT);
            ended += 1;
        }
    }
    println!("{ended} changes from which on a disk was read-only, 0 commits lost");
    assert!(ended > 30, "a life has more changes: {ended}");
}

#[test]
fn writes_and_reads_that_are_short_are_finished() {
    const SECTOR: Effect = Effect::Short(SECTOR_LEN);
    let Some(machine) = Machine::start() else { return };
    machine.disk.inject(Fault::always(&[Operation::Write], SECTOR));
    machine.run_to_its_end(&LONG);
    let writes = machine.disk.hits().len();
    machine.disk.lose_power(PowerLoss::NothingKept);
    // Tables are mapped, and what a map reads is never short.
    machine.disk.inject(Fault { path: "wal".into(), ..Fault::always(&[Operation::Read], SECTOR) });
    machine.disk.inject(Fault { path: "control".into(), ..Fault::always(&[Operation::Read], SECTOR) });
    machine.run_to_its_end(&LONG);
    let reads = machine.disk.hits().len();
    println!("{writes} writes and {reads} reads of a sector at a time, 0 commits lost");
    assert!(writes > 500 && reads > 50, "there was load: {writes} writes, {reads} reads");
}

#[test]
fn a_sync_that_fails_is_not_believed_when_the_next_one_succeeds() {
    let Some(machine) = Machine::start() else { return };
    let mut syncs = 0;
    for (cached, (path, life)) in [Cached::Shown, Cached::Hidden].into_iter().flat_map(|c| LIVES.map(|life| (c, life)))
    {
        for moment in moments(&life) {
            machine.begin_anew();
            let effect = Effect::Drop(Errno::IO.raw_os_error(), cached);
            machine.disk.inject(Fault { path: path.into(), ..Fault::at(&[Operation::Sync], moment, effect) });
            machine.run(&life);
            if machine.disk.hits().is_empty() {
                break;
            }
            // What was dropped may still be in the cache, and a recovery that believes it builds on what is not there.
            machine.run_to_its_end(&SHORT);
            machine.disk.lose_power(PowerLoss::NothingKept);
            machine.run_to_its_end(&SHORT);
            syncs += 1;
        }
    }
    println!("{syncs} failed syncs whose bytes were dropped, each before one that succeeded, 0 commits lost");
    assert!(syncs > 20, "there are more syncs: {syncs}");
}

#[test]
fn a_disk_that_fills_up_at_any_size_loses_nothing_and_takes_more_when_there_is_room() {
    const LIFE: [&str; 4] = ["--writers", "2", "--commits", "60"];
    const ROOM: u64 = 64 << 20;
    let Some(machine) = Machine::start() else { return };
    let (mut full, mut sizes) = (0, 0);
    for size in (32 << 10..1024 << 10).step_by((96 << 10) / rounds() as usize) {
        machine.begin_anew();
        machine.disk.set_capacity(size);
        full += u64::from(matches!(machine.run(&LIFE), End::Failed { .. }));
        machine.disk.lose_power(PowerLoss::Random(size));
        machine.disk.set_capacity(ROOM);
        machine.run_to_its_end(&LIFE);
        sizes += 1;
    }
    println!("{sizes} sizes of a disk, {full} of them too small, 0 commits lost");
    assert!(full > 0, "some disks were too small");
}

#[test]
fn commits_lost_by_a_disk_that_only_pretends_to_sync_are_noticed() {
    const LIFE: [&str; 4] = ["--writers", "2", "--commits", "20"];
    let Some(machine) = Machine::start() else { return };
    let lie = |from_its_creation: bool, lies: &[Operation]| {
        machine.begin_anew();
        if !from_its_creation {
            machine.run_to_its_end(&LIFE);
        }
        machine.disk.inject(Fault::always(lies, Effect::Pretend));
        machine.run_to_its_end(&LIFE);
        machine.disk.lose_power(PowerLoss::NothingKept);
        match machine.run_and_see(&LIFE) {
            End::Failed { code: WRONG, words } => words,
            End::Failed { code, words } => {
                panic!("{lies:?}: it ended with {code}, which says nothing of loss: {words}")
            }
            End::Well(_) => panic!("{lies:?}: nobody noticed what the disk lost"),
        }
    };
    // A write is a sync where it has `O_DSYNC`.
    let (bytes, names) = ([Operation::Sync, Operation::Write], [Operation::SyncFolder]);
    let lost = "acknowledged commits are lost";
    let words = lie(false, &[bytes[0], bytes[1], names[0]]);
    assert!(words.contains(lost), "the disk is as it was before: {words}");
    let words = lie(true, &names);
    assert!(words.contains(lost), "nothing has a name: {words}");
    // Names without bytes: that the log is damaged is said before commits are counted.
    lie(false, &bytes);
}

#[test]
fn each_way_of_writing_the_log_loses_commits_to_a_disk_that_breaks_the_promise_it_relies_on_and_to_no_other() {
    let Some(machine) = Machine::start() else { return };
    for way in ways() {
        let life = ["--writers", "2", "--commits", "5", "--write-by", way.name()];
        let durable_write = matches!(way, DurableWrite::Dsync | DurableWrite::UringDsync);
        for (broken, relied_on) in [(Operation::Write, durable_write), (Operation::Sync, !durable_write)] {
            machine.begin_anew();
            machine.run_to_its_end(&life);
            // Of segments, not of spares: they are written and synced, whichever way the log is written.
            machine.disk.inject(Fault { path: "/wal/0000".into(), ..Fault::always(&[broken], Effect::Pretend) });
            machine.run_to_its_end(&life);
            machine.disk.lose_power(PowerLoss::NothingKept);
            let (is_lost, words) = match machine.run_and_see(&life) {
                End::Well(_) => (false, String::new()),
                End::Failed { words, .. } => (true, words),
            };
            assert_eq!(is_lost, relied_on, "written by {way}, {broken:?} broken: {words}");
        }
    }
}

/// How a log can be written on this machine.
fn ways() -> Vec<DurableWrite> {
    let has_rings = Disk::new().io_path() == IoPath::Uring;
    DurableWrite::ALL.into_iter().filter(|way| has_rings || !way.needs_ring()).collect()
}

/// Nothing, everything or something of what is unsynced survives; something twice as often.
fn choice(number: u64, seed: u64) -> PowerLoss {
    match number % 4 {
        0 => PowerLoss::NothingKept,
        1 => PowerLoss::EverythingKept,
        _ => PowerLoss::Random(seed),
    }
}

/// A thousand losses and more are for whoever has minutes.
fn is_long() -> bool {
    storm_losses() >= 1_000
}

/// How often everything that is done at every moment is done, with other choices.
fn rounds() -> u64 {
    if is_long() { 2 } else { 1 }
}

/// At which changes something happens: at each, but in a long life at each seventh where nobody has minutes.
fn moments(life: &[&str]) -> impl Iterator<Item = u64> {
    let step = if life == LONG && !is_long() { 7 } else { 1 };
    (1..).step_by(step)
}
