//! Merges: in parts, on a disk that is full, and when power is lost meanwhile. Which tables are chosen is tested beside
//! the choice.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{all, crashed_keeping_all, inline, threaded};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seawall_engine::{CommitLevel, Db, Error, Keyspace, Tuning};
use seawall_wal::storage::{JournalEntry, MemoryDisk, Storage};

const KEYS: u32 = 120;

/// A hundred bytes that do not compress, so that tables are as large on every level.
fn value(number: u32) -> Vec<u8> {
    StdRng::seed_from_u64(u64::from(number)).random_iter().take(100).collect()
}

/// What the n-th commit writes: keys all over the range, so that merges overlap, and a count.
fn commit(db: &Db, keys: &Keyspace, number: u32) -> Result<(), Error> {
    let mut batch = db.batch();
    for key in (number % 7..KEYS).step_by(7) {
        batch.put(keys, format!("{key:03}"), value(number));
    }
    batch.remove(keys, format!("{:03}", number % KEYS));
    batch.put(keys, "count", (number + 1).to_string());
    batch.commit_with(CommitLevel::Local).map(drop)
}

/// What is in the database after so many commits.
fn expected(count: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut map = BTreeMap::new();
    for number in 0..count {
        for key in (number % 7..KEYS).step_by(7) {
            map.insert(format!("{key:03}").into_bytes(), value(number));
        }
        map.remove(format!("{:03}", number % KEYS).as_bytes());
        map.insert(b"count".to_vec(), (number + 1).to_string().into_bytes());
    }
    map
}

/// How many commits a database has, and that it has them wholly.
fn commits_in(db: &Db) -> u32 {
    let Ok(keys) = db.existing_keyspace("k") else { return 0 };
    let count = keys.get("count").unwrap();
    let count = count.map_or(0, |count| String::from_utf8(count.to_vec()).unwrap().parse().unwrap());
    assert_eq!(all(&keys).into_iter().collect::<BTreeMap<_, _>>(), expected(count), "after {count} commits");
    count
}

#[test]
fn a_merge_in_parts_gives_what_a_merge_in_one_gives() {
    let digest = |threads: usize| {
        let disk = MemoryDisk::new();
        let db = threaded(&disk).memtable_bytes(16 << 10).merge_threads(threads).open().unwrap();
        let keys = db.keyspace("k").unwrap();
        for number in 0..200 {
            commit(&db, &keys, number).unwrap();
        }
        // Level 0 and what lies below it become one level, then that is written anew.
        (0..2).for_each(|_| db.compact().unwrap());
        let stats = db.stats();
        assert_eq!(commits_in(&db), 200);
        assert_eq!(stats.merge_parts > stats.merges, threads > 1, "{stats:?}");
        db.verify_tables().unwrap();
        db.snapshot().unwrap().digest().unwrap()
    };
    assert_eq!(digest(4), digest(1));
}

#[test]
fn power_lost_while_parts_of_a_merge_are_written_loses_nothing() {
    let disk = MemoryDisk::new();
    disk.keep_journal();
    {
        let db = threaded(&disk).memtable_bytes(12 << 10).merge_threads(3).blob_bytes(Some(50)).open().unwrap();
        let keys = db.keyspace("k").unwrap();
        for number in 0..60 {
            commit(&db, &keys, number).unwrap();
            disk.mark(u64::from(number) + 1);
            if number % 20 == 19 {
                db.compact().unwrap();
            }
        }
        let stats = db.stats();
        assert!(stats.merge_parts > stats.merges, "{stats:?}");
        drop(keys);
        db.close().unwrap();
    }
    let replayed = MemoryDisk::new();
    let (mut acknowledged, mut states) = (0, 0);
    for (index, entry) in disk.journal().iter().enumerate() {
        replayed.replay(entry);
        if let JournalEntry::Mark(number) = entry {
            acknowledged = *number as u32;
            continue;
        }
        // Every other operation, with nothing kept that was not synced and with everything, by turns.
        if index % 2 == 1 {
            continue;
        }
        let crashed = match index % 4 == 0 {
            true => crashed_keeping_all(&replayed),
            false => replayed.crashed_losing_all(),
        };
        let db = inline(&crashed).open().unwrap_or_else(|error| panic!("operation {index}: {error}"));
        let count = commits_in(&db);
        assert!(count >= acknowledged, "operation {index}: {count} of {acknowledged}");
        states += 1;
    }
    assert_eq!(acknowledged, 60);
    assert!(states > 200, "{states} states");
}

#[test]
fn a_disk_that_is_full_during_a_merge_in_parts_keeps_nothing_of_it_and_heals() {
    for least in [None, Some(50)] {
        a_full_disk_heals(least);
    }
}

fn a_full_disk_heals(least: Option<usize>) {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).memtable_bytes(1 << 20).merge_threads(4).blob_bytes(least).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for number in 0..400 {
        commit(&db, &keys, number).unwrap();
        if number % 80 == 79 {
            db.flush().unwrap();
        }
    }
    db.compact().unwrap();
    for number in 400..600 {
        commit(&db, &keys, number).unwrap();
    }
    db.flush().unwrap();
    let before = commits_in(&db);
    // More room each time: for none of the outputs, then for some, at last for all.
    let huge = 1 << 40;
    disk.set_capacity(huge);
    let used = huge - disk.free_bytes(Path::new("/data")).unwrap();
    let refused = (1..1_000).map_while(|step| {
        disk.set_capacity(used + step * 1_500);
        db.compact().err()
    });
    let refused: Vec<_> = refused.collect();
    assert!(refused.len() > 3, "{refused:?}");
    assert!(refused.iter().all(|error| matches!(error, Error::DiskFull { .. })), "{refused:?}");
    assert_eq!(commits_in(&db), before, "reads go on");
    disk.set_capacity(huge);
    db.compact().unwrap();
    assert_eq!(commits_in(&db), before);
    commit(&db, &keys, 600).unwrap();
    assert_eq!(commits_in(&db), 601, "and so do writes");
    db.compact().unwrap();
    let files = disk.list(Path::new("/data/tables")).unwrap();
    let stats = db.stats();
    let tables: u64 = stats.levels.iter().map(|level| level.tables).sum();
    assert_eq!(stats.blobs.files > 0, least.is_some());
    assert_eq!(files.len() as u64, tables + stats.blobs.files, "nothing of a merge that failed is left: {files:?}");
}

#[test]
fn what_a_keyspace_is_for_decides_between_writing_it_often_and_looking_into_many_tables() {
    const COMMITS: u32 = 1200;
    let run = |tuning: Tuning| {
        let disk = MemoryDisk::new();
        let db = inline(&disk).memtable_bytes(8 << 10).tune("k", tuning).open().unwrap();
        let keys = db.keyspace("k").unwrap();
        let mut level0 = 0;
        for number in 0..COMMITS {
            commit(&db, &keys, number).unwrap();
            level0 += db.stats().levels[0].tables;
        }
        assert_eq!(commits_in(&db), COMMITS);
        (db.stats().write_amplification(), level0)
    };
    let [balanced, write_heavy, read_heavy, large_values] =
        [Tuning::Balanced, Tuning::WriteHeavy, Tuning::ReadHeavy, Tuning::LargeValues].map(run);
    // Each byte is written out once, whatever the tuning; the rest is merging.
    let merging = |(amplification, _): (f64, u64)| amplification - 1.0;
    assert!(
        merging(write_heavy) < 0.7 * merging(balanced),
        "write amplification {write_heavy:?}, balanced {balanced:?}"
    );
    assert!(large_values.0 <= write_heavy.0, "write amplification {large_values:?}, write-heavy {write_heavy:?}");
    assert!(read_heavy.1 < balanced.1 && balanced.1 < write_heavy.1, "tables of level 0: {read_heavy:?}, {balanced:?}");
}
