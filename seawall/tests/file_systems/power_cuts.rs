//! The power goes while the program writes, opens or recovers, again and again; and a disk whose syncs were lies, to see
//! that a loss is noticed.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::Rng as _;
use seawall_disks::image::{FileSystem, Image};

use crate::plug::{Plug, WRONG};
use crate::{EXT4_BYTES, XFS_BYTES, how_many};

/// Commits that are acknowledged before the power goes, at most.
const COMMITS_MAX: usize = 300;
/// Opening takes about as long, so that a cut within this time meets recovery.
const OPENING: Duration = Duration::from_millis(40);

#[test]
fn power_cuts_on_ext4_lose_nothing_that_was_acknowledged() {
    power_cuts(FileSystem::Ext4, EXT4_BYTES, how_many("SEAWALL_EXT4_CUTS", 40));
}

#[test]
fn power_cuts_on_xfs_lose_nothing_that_was_acknowledged() {
    power_cuts(FileSystem::Xfs, XFS_BYTES, how_many("SEAWALL_XFS_CUTS", 10));
}

fn power_cuts(file_system: FileSystem, bytes: u64, cuts: u64) {
    let Some(mut image) = Image::or_skip(file_system, bytes) else { return };
    let plug = Plug::new(image.path().join("data"));
    for cut in 0..cuts {
        let mut running = plug.start();
        let ended = match cut % 4 {
            3 => {
                let moment = Instant::now() + OPENING.mul_f64(rand::rng().random());
                while Instant::now() < moment {
                    std::hint::spin_loop();
                }
                image.cut_power().unwrap();
                running.kill()
            }
            2 => {
                // What it had handed to the system goes down with the power, some time after itself.
                running.wait_until_acknowledged(rand::rng().random_range(1..COMMITS_MAX));
                let ended = running.kill();
                image.cut_power().unwrap();
                ended
            }
            _ => {
                running.wait_until_acknowledged(rand::rng().random_range(1..COMMITS_MAX));
                image.cut_power().unwrap();
                running.kill()
            }
        };
        assert_ne!(ended.code, Some(WRONG), "cut {cut}: {}", ended.words);
        image.restart().unwrap();
    }
    let last = plug.go_on(0);
    println!("{cuts} power cuts on {file_system}, {last}");
    assert!(last.acknowledged_before > cuts, "it wrote: {last:?}");
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
    let Some(mut image) = Image::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let (plug, elsewhere) = (Plug::new(image.path().join("data")), tempfile::tempdir().unwrap());
    plug.go_on(200);
    let synced = elsewhere.path().join("synced");
    copy(plug.dir(), &synced);
    let mut running = plug.start();
    running.wait_until_acknowledged(200);
    image.cut_power().unwrap();
    running.kill();
    image.restart().unwrap();
    // What such a disk has after the cut: a whole and consistent database, of some time before.
    std::fs::remove_dir_all(plug.dir()).unwrap();
    copy(&synced, plug.dir());
    assert_lost(&plug, "and 200 are there: acknowledged commits are lost");
}

fn assert_lost(plug: &Plug, words: &str) {
    let ended = plug.run(0);
    let (kind, message) = ended.error();
    assert_eq!((ended.code, kind.as_str()), (Some(WRONG), "verification_failed"), "{message}");
    assert!(message.contains(words), "{message}");
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("--archive").arg(from).arg(to).status().unwrap().success());
}
