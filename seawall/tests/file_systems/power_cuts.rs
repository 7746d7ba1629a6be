//! The power goes while the program writes, opens or recovers, again and again, and of what the file system wrote and did not
//! flush anything may be gone; and a log that does not sync and a disk whose syncs were lies, to see that a loss is noticed.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use seawall_disks::fuse::{Effect, Fault, Operation, PowerLoss};
use seawall_disks::image::{FileSystem, ForgetfulImage, Image};

use crate::plug::{Plug, WRONG};
use crate::{EXT4_BYTES, XFS_BYTES, how_many};

/// Commits that are acknowledged before the power goes, at most.
const COMMITS_MAX: usize = 300;
/// Of one power cut so many sectors are lost alone, each in a turn of its own.
const SECTORS_MAX: usize = 64;
/// Opening takes about as long, so that a cut within this time meets recovery.
const OPENING: Duration = Duration::from_millis(40);

#[test]
fn power_cuts_on_ext4_lose_nothing_that_was_acknowledged() {
    power_cuts(FileSystem::Ext4, EXT4_BYTES, how_many("SEAWALL_EXT4_CUTS", 20));
}

#[test]
fn power_cuts_on_xfs_lose_nothing_that_was_acknowledged() {
    power_cuts(FileSystem::Xfs, XFS_BYTES, how_many("SEAWALL_XFS_CUTS", 5));
}

fn power_cuts(file_system: FileSystem, bytes: u64, cuts: u64) {
    let Some(mut image) = ForgetfulImage::or_skip(file_system, bytes) else { return };
    let plug = Plug::new(image.path().join("data"));
    let mut random = SmallRng::seed_from_u64(1);
    for cut in 0..cuts {
        let mut running = plug.start();
        let ended = match cut % 4 {
            3 => {
                let moment = Instant::now() + OPENING.mul_f64(random.random());
                while Instant::now() < moment {
                    std::hint::spin_loop();
                }
                image.cut_power();
                running.kill()
            }
            2 => {
                // What it had handed to the system goes down with the power, some time after itself.
                running.wait_until_acknowledged(random.random_range(1..COMMITS_MAX));
                let ended = running.kill();
                image.cut_power();
                ended
            }
            _ => {
                running.wait_until_acknowledged(random.random_range(1..COMMITS_MAX));
                image.cut_power();
                running.kill()
            }
        };
        assert_ne!(ended.code, Some(WRONG), "cut {cut}: {}", ended.words);
        let loss = match cut % 5 {
            0 | 1 => PowerLoss::NothingKept,
            2 => PowerLoss::EverythingKept,
            _ => PowerLoss::Random(random.random()),
        };
        image.restart(loss).unwrap_or_else(|error| panic!("cut {cut}, {loss:?}: {error}"));
    }
    let last = plug.go_on(0);
    println!("{cuts} power cuts on {file_system}, {last}");
    assert!(last.acknowledged_before > cuts, "it wrote: {last:?}");
}

#[test]
fn any_sector_may_be_the_only_one_that_a_power_cut_of_ext4_takes() {
    let Some(mut image) = ForgetfulImage::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let plug = Plug::new(image.path().join("data"));
    let (mut random, mut tried, mut cuts) = (SmallRng::seed_from_u64(2), 0, 0);
    let sectors = how_many("SEAWALL_LONE_SECTORS", 8);
    while tried < sectors {
        assert!(cuts < 10 * sectors, "after {cuts} power cuts {tried} sectors that were not synced");
        cuts += 1;
        let mut running = plug.start();
        running.wait_until_acknowledged(random.random_range(1..COMMITS_MAX));
        image.cut_power();
        running.kill();
        let (then, book) = (image.disk().remember(), fs::read(plug.book()).unwrap());
        for number in 0..then.unsynced().min(SECTORS_MAX) {
            // What one of these endings shows, the others know nothing of.
            fs::write(plug.book(), &book).unwrap();
            image.restart_as_of(&then, PowerLoss::AllButOne(number)).unwrap();
            plug.go_on(0);
            tried += 1;
        }
        fs::write(plug.book(), &book).unwrap();
        image.restart_as_of(&then, PowerLoss::NothingKept).unwrap();
    }
    println!("{tried} sectors lost alone at {cuts} power cuts, {}", plug.go_on(0));
}

#[test]
fn a_log_that_is_not_synced_loses_commits_when_the_power_of_ext4_is_cut_and_that_is_noticed() {
    /// Whoever syncs any file has the disk keep all it was given, so that a cut soon after takes nothing.
    const TRIES: usize = 20;
    let Some(mut image) = ForgetfulImage::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let mut plug = Plug::new(image.path().join("data"));
    for _ in 0..TRIES {
        plug.plant(Some("wal:no-sync"));
        let mut running = plug.start();
        running.wait_until_acknowledged(COMMITS_MAX / 2);
        image.cut_power();
        running.kill();
        image.restart(PowerLoss::NothingKept).unwrap();
        plug.plant(None);
        let ended = plug.run(0);
        if ended.code == Some(WRONG) {
            let (_, message) = ended.error();
            assert!(message.contains("acknowledged commits are lost"), "{message}");
            return;
        }
        assert_eq!(ended.code, Some(0), "{}", ended.words);
    }
    panic!("a log without its sync went through {TRIES} power cuts unnoticed");
}

#[test]
fn a_commit_that_was_acknowledged_and_never_made_is_noticed() {
    let Some(image) = Image::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let plug = Plug::new(image.path().join("data"));
    plug.go_on(50);
    let mut book = OpenOptions::new().append(true).open(plug.book()).unwrap();
    book.write_all(b"2 51\n").unwrap();
    assert_lost(&plug, "writer 2 was told of 51 commits, and 50 are there: acknowledged commits are lost");
}

#[test]
fn a_disk_whose_syncs_were_lies_is_noticed() {
    let Some(mut image) = ForgetfulImage::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let plug = Plug::new(image.path().join("data"));
    plug.go_on(200);
    image.disk().inject(Fault::always(&[Operation::Sync], Effect::Pretend));
    let mut running = plug.start();
    running.wait_until_acknowledged(200);
    image.cut_power();
    running.kill();
    // A whole and consistent database, of some time before.
    image.restart(PowerLoss::NothingKept).unwrap();
    assert_lost(&plug, "and 200 are there: acknowledged commits are lost");
}

fn assert_lost(plug: &Plug, words: &str) {
    let ended = plug.run(0);
    let (kind, message) = ended.error();
    assert_eq!((ended.code, kind.as_str()), (Some(WRONG), "verification_failed"), "{message}");
    assert!(message.contains(words), "{message}");
}
