//! Failures of other systems, re-enacted: docs/famous-bugs.md tells them. Those that other tests re-enact already are named
//! there.

use std::path::Path;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use seawall_engine::{Background, Builder, CommitLevel, Db, Error};
use seawall_torture::Story;
use seawall_wal::SegmentSize;
use seawall_wal::storage::{Access, CrashChoice, MemoryDisk, Storage};

const DATA: &str = "/data";

fn builder(disk: &MemoryDisk) -> Builder {
    Db::builder(DATA)
        .storage(Arc::new(disk.clone()))
        .segment_size(SegmentSize::MIN)
        .background(Background::Inline)
        .memtable_bytes(40 << 10)
        .table_bytes(16 << 10)
        .blob_bytes(Some(2 << 10))
}

/// Commits that were acknowledged, from one number up to another.
fn tell(db: &Db, story: &Story, from: u64, to: u64) {
    let keyspace = db.keyspace(&story.keyspace()).unwrap();
    for number in from..to {
        let mut batch = db.batch();
        story.write(number, &keyspace, &mut batch);
        batch.commit_with(CommitLevel::Local).unwrap();
    }
}

/// Power is lost: each unsynced sector and name is there or not.
fn without_power(disk: &MemoryDisk, random: &mut SmallRng) -> MemoryDisk {
    disk.crashed(|choice| match choice {
        CrashChoice::Sector { versions } => random.random_range(0..=versions),
        CrashChoice::Directory { operations } => random.random_range(0..=operations),
        CrashChoice::Length => random.random_range(0..=1),
    })
}

/// Logs that recycle their files have old records behind the new ones. What is old must never come back, and a tail that
/// was lost must never become a hole in the middle.
#[test]
fn a_recycled_log_has_neither_old_records_nor_a_hole_after_a_power_loss() {
    let (mut disk, mut random) = (MemoryDisk::new(), SmallRng::seed_from_u64(12_918));
    let story = Story::new(12_918, 0);
    let (mut commits, mut recycled) = (0, 0);
    for _ in 0..150 {
        let db = builder(&disk).open().unwrap();
        let found = story.check(&db, commits).unwrap();
        commits = found + random.random_range(1..40);
        tell(&db, &story, found, commits);
        recycled = db.log().oldest().offset() / u64::from(SegmentSize::MIN.bytes());
        // Not closed: what is on its way to the disk is lost or not.
        let after = without_power(&disk, &mut random);
        drop(db);
        disk = after;
    }
    println!("150 power losses over {commits} commits, {recycled} segments recycled: 0 lost");
    assert!(recycled > 20, "segments were used again: {recycled}");
}

/// One flipped bit in the log of one node: everything that was acknowledged is still there, or the node says that it is
/// damaged; it never goes on with less.
#[test]
fn one_flipped_bit_in_the_log_loses_nothing_without_a_word() {
    let disk = MemoryDisk::new();
    let story = Story::new(1_367_069, 0);
    let db = builder(&disk).memtable_bytes(1 << 20).open().unwrap();
    tell(&db, &story, 0, 200);
    db.close().unwrap();
    let folder = Path::new(DATA).join("wal");
    let (mut whole, mut refused) = (0, 0);
    for name in disk.list(&folder).unwrap().into_iter().filter(|name| name.ends_with(".wal")) {
        let path = folder.join(name);
        let len = disk.open(&path, Access::Read).unwrap().len().unwrap();
        for offset in (0..len).step_by(211) {
            let flipped = disk.duplicate();
            flipped.flip_bit(&path, offset, (offset % 8) as u8);
            match builder(&flipped).open() {
                Ok(db) => {
                    assert_eq!(story.check(&db, 200).unwrap(), 200, "{} at {offset}", path.display());
                    whole += 1;
                }
                Err(Error::Log(error)) => {
                    let words = error.to_string();
                    assert!(words.contains("damaged") || words.contains("is not part of this log"), "{words}");
                    refused += 1;
                }
                Err(other) => panic!("{} at {offset}: {other}", path.display()),
            }
        }
    }
    println!("{refused} flips refused, {whole} harmless, 0 of 200 commits lost");
    assert!(refused > 200, "{refused} refused, {whole} harmless");
}

/// A single node acknowledges only what is on its disk: power is lost right after each acknowledgement, and everything that
/// was not synced with it.
#[test]
fn power_lost_right_after_an_acknowledgement_does_not_take_it_back() {
    let mut disk = MemoryDisk::new();
    let story = Story::new(14_370, 0);
    for commits in 1..200 {
        let db = builder(&disk).open().unwrap();
        assert_eq!(story.check(&db, commits - 1).unwrap(), commits - 1);
        tell(&db, &story, commits - 1, commits);
        let after = disk.crashed_losing_all();
        drop(db);
        disk = after;
    }
}
