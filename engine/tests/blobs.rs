//! Large values: they lie beside the tables, are kept as long as anybody can read them, and their garbage goes.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{all, all_at, inline, threaded};
use seawall_engine::{Builder, Db, Error, Keyspace, MergeOperator, Stats, Tuning};
use seawall_wal::clock::ManualClock;
use seawall_wal::storage::{MemoryDisk, Storage};
use seawall_wal::{Clock, Timestamp};

/// Of the n-th version of a key: long enough for a blob file, and unlike any other.
fn value(key: u32, version: u32) -> Vec<u8> {
    (0..1_000_u32).map(|at| (at.wrapping_mul(key + 7) ^ version) as u8).collect()
}

fn put(keys: &Keyspace, key: u32, version: u32) {
    keys.insert(format!("{key:04}"), value(key, version)).unwrap();
}

fn blob_files(disk: &MemoryDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new("/data/tables")).unwrap();
    names.into_iter().filter(|name| name.ends_with(".blob")).map(|name| Path::new("/data/tables").join(name)).collect()
}

#[test]
fn values_from_the_limit_on_lie_in_blob_files_and_survive_reopening() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for (name, len) in [("small", 199), ("large", 200), ("larger", 5_000), ("empty", 0)] {
        keys.insert(name, vec![name.len() as u8; len]).unwrap();
    }
    db.flush().unwrap();
    let blobs = db.stats().blobs;
    assert_eq!((blobs.value_bytes, blobs.live_bytes), (5_200, 5_200));
    let content = all(&keys);
    db.compact().unwrap();
    assert_eq!(all(&keys), content);
    let names = ["empty", "large", "larger", "missing", "small"];
    let many = keys.multi_get(&names).unwrap();
    drop((keys, db));
    let db = inline(&disk).open().unwrap();
    let keys = db.existing_keyspace("k").unwrap();
    assert_eq!(all(&keys), content);
    assert_eq!(many, names.map(|name| keys.get(name).unwrap()));
    db.verify_tables().unwrap();
    let backward: Vec<_> = keys.iter().rev().map(|entry| entry.unwrap().0).collect();
    assert_eq!(backward, ["small", "larger", "large", "empty"]);
}

#[test]
fn merges_write_large_values_once_and_small_ones_again_and_again() {
    let written = |least: Option<usize>| {
        let db = inline(&MemoryDisk::new()).blob_bytes(least).open().unwrap();
        let keys = db.keyspace("k").unwrap();
        for round in 0..1_500_u32 {
            put(&keys, round.wrapping_mul(7919) % 500, round);
        }
        let stats = db.stats();
        let expected: BTreeMap<_, _> = (0..1_500_u32)
            .map(|round| (round.wrapping_mul(7919) % 500, round))
            .map(|(key, round)| (format!("{key:04}").into_bytes(), value(key, round)))
            .collect();
        assert_eq!(all(&keys).into_iter().collect::<BTreeMap<_, _>>(), expected);
        assert!(least.is_none() || stats.blobs.value_bytes < 3 * stats.blobs.live_bytes, "{:?}", stats.blobs);
        stats.levels.iter().map(|level| level.written_bytes).sum::<u64>() as f64 / 1_500_000.0
    };
    let (inline, beside) = (written(None), written(Some(200)));
    assert!(beside < 0.6 * inline, "bytes written per byte put: {beside} beside tables, {inline} in them");
}

#[test]
fn the_limit_is_a_matter_of_each_opening_and_values_move_with_merges() {
    let disk = MemoryDisk::new();
    let opened = |builder: Builder| builder.table_bytes(16 << 10).open().unwrap();
    let db = opened(inline(&disk));
    let keys = db.keyspace("k").unwrap();
    (0..40).for_each(|key| put(&keys, key, 1));
    let content = all(&keys);
    db.compact().unwrap();
    assert_eq!(db.stats().blobs.live_bytes, 40_000);
    drop((keys, db));
    // References stay references until their files are mostly garbage.
    let db = opened(inline(&disk).blob_bytes(None));
    let keys = db.existing_keyspace("k").unwrap();
    db.compact().unwrap();
    assert_eq!((all(&keys), db.stats().blobs.live_bytes), (content, 40_000));
    (0..40).filter(|key| key % 8 != 0).for_each(|key| put(&keys, key, 2));
    (0..3).for_each(|_| db.compact().unwrap());
    let content = all(&keys);
    assert_eq!(db.stats().blobs.files, 0, "{:?}", db.stats().blobs);
    assert_eq!(blob_files(&disk).len(), 0);
    drop((keys, db));
    let db = opened(inline(&disk).blob_bytes(Some(4_000)).tune("k", Tuning::LargeValues));
    let keys = db.existing_keyspace("k").unwrap();
    db.compact().unwrap();
    assert_eq!((all(&keys), db.stats().blobs.live_bytes), (content, 40_000));
}

#[test]
fn garbage_in_blob_files_goes_and_so_do_files_nobody_refers_to() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for version in 0..30 {
        (0..50).for_each(|key| put(&keys, key, version));
        db.flush().unwrap();
    }
    db.compact().unwrap();
    (0..3).for_each(|_| put(&keys, 0, 99));
    let blobs = db.stats().blobs;
    assert!(blobs.value_bytes <= 2 * blobs.live_bytes + 8_000, "{blobs:?}");
    assert_eq!(blob_files(&disk).len() as u64, blobs.files);
    keys.remove_range::<&str>(..).unwrap();
    db.compact().unwrap();
    db.compact().unwrap();
    assert_eq!((db.stats().blobs.files, blob_files(&disk).len()), (0, 0));
}

/// Waits for what the database does by itself.
#[track_caller]
fn wait_until(db: &Db, reached: impl Fn(&Stats) -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !reached(&db.stats()) {
        assert!(Instant::now() < until, "{:?}", db.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// That it does nothing more.
#[track_caller]
fn assert_at_rest(db: &Db) {
    let merges = db.stats().merges;
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(db.stats().merges, merges, "{:?}", db.stats());
}

#[test]
fn a_table_whose_values_are_mostly_garbage_is_rewritten_where_it_stands() {
    let disk = MemoryDisk::new();
    // No level is ever too full.
    let db = threaded(&disk).memtable_bytes(1 << 20).table_bytes(64 << 10).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    (0..400).for_each(|key| put(&keys, key, 0));
    db.compact().unwrap();
    for key in (0..400).filter(|key| key % 16 != 0) {
        keys.remove(format!("{key:04}")).unwrap();
    }
    // The merge meets files that are needed as a whole, and leaves garbage.
    db.compact().unwrap();
    wait_until(&db, |stats| stats.blobs.value_bytes == 25_000);
    assert_at_rest(&db);
    assert_eq!(db.stats().blobs.live_bytes, 25_000);
    wait_until(&db, |stats| blob_files(&disk).len() as u64 == stats.blobs.files);
    let expected: Vec<_> = (0..25).map(|key| (format!("{:04}", key * 16).into_bytes(), value(key * 16, 0))).collect();
    assert_eq!(all(&keys), expected);
}

#[test]
fn a_little_garbage_is_left_where_it_is() {
    let db = threaded(&MemoryDisk::new()).memtable_bytes(1 << 20).table_bytes(64 << 10).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    (0..60).for_each(|key| put(&keys, key, 0));
    db.compact().unwrap();
    for key in 10..60 {
        keys.remove(format!("{key:04}")).unwrap();
    }
    db.compact().unwrap();
    assert_at_rest(&db);
    let blobs = db.stats().blobs;
    assert_eq!((blobs.live_bytes, blobs.value_bytes), (10_000, 60_000), "less than a blob file may have");
}

#[test]
fn a_table_of_which_most_has_ended_is_rewritten_where_it_stands() {
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000_000)));
    let disk = MemoryDisk::new();
    let build = threaded(&disk).clock(clock.clone()).memtable_bytes(1 << 20).table_bytes(32 << 10);
    let db = build.open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for key in 0..100 {
        let mut batch = db.batch();
        let ends = Duration::from_secs(u64::from(5 + key % 3));
        batch.put_with_ttl(&keys, format!("{key:03}"), value(key, 0), ends);
        batch.commit().unwrap();
    }
    keys.insert("stays", value(0, 1)).unwrap();
    db.compact().unwrap();
    let entries = |stats: &Stats| stats.levels.iter().map(|level| level.entries).sum::<u64>();
    let pass = |seconds: u64| {
        clock.set(Timestamp(clock.now().0 + seconds * 1_000_000));
        keys.insert("other", "1").unwrap();
        db.flush().unwrap();
    };
    pass(4);
    assert_at_rest(&db);
    assert_eq!(entries(&db.stats()), 102, "nothing has ended");
    pass(5);
    wait_until(&db, |stats| entries(stats) < 10 && stats.blobs.value_bytes <= 32 << 10);
    assert_eq!(db.stats().blobs.live_bytes, 1_000);
    assert_at_rest(&db);
    assert_eq!(keys.get("stays").unwrap().unwrap(), value(0, 1));
    assert_eq!(all(&keys).len(), 2);
}

#[test]
fn readers_of_old_states_keep_their_values() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    (0..60).for_each(|key| put(&keys, key, 1));
    db.flush().unwrap();
    let (snapshot, content) = (db.snapshot().unwrap(), all(&keys));
    let checkpoint = db.pin_checkpoint(true).unwrap();
    let mut range = keys.iter();
    range.next().unwrap().unwrap();
    for version in 2..6 {
        (0..60).for_each(|key| put(&keys, key, version));
        db.compact().unwrap();
    }
    assert_eq!(all_at(&snapshot, &keys), content);
    assert!(range.map(|entry| entry.unwrap().1.to_vec()).eq(content[1..].iter().map(|(_, value)| value.clone())));
    for file in checkpoint.files() {
        let bytes = seawall_wal::storage::read_file(&disk, &file.path, file.size).unwrap();
        assert_eq!(blake3::hash(&bytes).as_bytes(), file.hash.as_bytes(), "{}", file.kind);
    }
    drop((snapshot, checkpoint));
    (0..60).for_each(|key| put(&keys, key, 7));
    (0..3).for_each(|_| db.compact().unwrap());
    let blobs = db.stats().blobs;
    assert_eq!((blobs.live_bytes, blobs.value_bytes), (60_000, 60_000));
    assert_eq!(blob_files(&disk).len() as u64, blobs.files, "nothing is kept for nobody");
}

#[test]
fn operands_build_on_values_in_blob_files() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let mut expected = value(1, 1);
    keys.insert("log", &expected).unwrap();
    db.flush().unwrap();
    for round in 0..6_u8 {
        let mut batch = db.batch();
        batch.merge(&keys, "log", MergeOperator::Append, [round; 10]);
        batch.commit().unwrap();
        expected.extend([round; 10]);
        match round % 3 {
            0 => db.flush().unwrap(),
            1 => db.compact().unwrap(),
            _ => {}
        }
        assert_eq!(keys.get("log").unwrap().unwrap(), expected);
        assert_eq!(keys.multi_get(&["log"]).unwrap()[0].as_deref(), Some(&*expected));
        assert_eq!(all(&keys), [(b"log".to_vec(), expected.clone())]);
    }
    db.compact().unwrap();
    drop((keys, db));
    let db = inline(&disk).open().unwrap();
    assert_eq!(all(&db.existing_keyspace("k").unwrap()), [(b"log".to_vec(), expected)]);
}

#[test]
fn a_damaged_value_is_an_error_that_names_its_file_and_others_are_served() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    (0..20).for_each(|key| put(&keys, key, 1));
    db.compact().unwrap();
    drop((keys, db));
    let blob = blob_files(&disk).remove(0);
    disk.flip_bit(&blob, 16 + 20 + 4 + 500, 3);
    let db = inline(&disk).open().unwrap();
    let keys = db.existing_keyspace("k").unwrap();
    let names: Vec<_> = (0..20).map(|key| format!("{key:04}")).collect();
    let damaged = |error: &Error| matches!(error, Error::CorruptTable { path, offset: 16, .. } if *path == blob);
    let bad: Vec<_> = names.iter().filter(|name| keys.get(name).is_err_and(|error| damaged(&error))).collect();
    assert_eq!(bad.len(), 1);
    for (key, name) in (0..).zip(&names).filter(|(_, name)| *name != bad[0]) {
        assert_eq!(keys.get(name).unwrap().unwrap(), value(key, 1));
    }
    assert!(keys.multi_get(&names).is_err_and(|error| damaged(&error)));
    assert!(keys.iter().any(|entry| entry.is_err_and(|error| damaged(&error))));
    assert!(db.verify_tables().is_err_and(|error| damaged(&error)));
    // It can be overwritten, and then nobody reads it.
    let key = bad[0].parse().unwrap();
    put(&keys, key, 2);
    assert_eq!(keys.get(bad[0]).unwrap().unwrap(), value(key, 2));
    assert_eq!(all(&keys).len(), 20);
}

#[test]
fn a_blob_file_that_is_gone_is_missed_at_once_and_one_too_many_is_swept() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    (0..20).for_each(|key| put(&keys, key, 1));
    db.compact().unwrap();
    drop((keys, db));
    let blobs = blob_files(&disk);
    let stray = blobs[0].with_file_name(format!("{}.blob", "ab".repeat(32)));
    disk.hard_link(&blobs[0], &stray).unwrap();
    drop(inline(&disk).open().unwrap());
    assert_eq!(blob_files(&disk), blobs);
    disk.remove(&blobs[0]).unwrap();
    let missing = inline(&disk).open().unwrap_err();
    assert!(matches!(&missing, Error::Io { operation: "open", path, .. } if *path == blobs[0]), "{missing}");
}

#[test]
fn a_disk_that_is_full_while_values_are_written_out_stops_writes_not_reads_and_heals() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).memtable_bytes(64 << 10).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    (0..100).for_each(|key| put(&keys, key, 1));
    db.compact().unwrap();
    (0..50).for_each(|key| put(&keys, key, 2));
    let huge = 1 << 40;
    disk.set_capacity(huge);
    let used = huge - disk.free_bytes(Path::new("/data")).unwrap();
    disk.set_capacity(used + 20_000);
    assert!(matches!(db.flush(), Err(Error::DiskFull { .. })));
    let expected: Vec<_> = (0..100).map(|key| value(key, if key < 50 { 2 } else { 1 })).collect();
    let read = || all(&keys).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
    assert_eq!(read(), expected);
    disk.set_capacity(huge);
    db.compact().unwrap();
    assert_eq!(read(), expected);
    let (stats, files) = (db.stats(), disk.list(Path::new("/data/tables")).unwrap());
    let tables: u64 = stats.levels.iter().map(|level| level.tables).sum();
    assert_eq!(files.len() as u64, tables + stats.blobs.files, "{files:?}");
}

#[test]
fn few_large_values_in_many_tables_do_not_make_many_files() {
    // Each value is written out alone.
    let db = inline(&MemoryDisk::new()).memtable_bytes(1).table_bytes(64 << 10).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for number in 0..200 {
        // All tables overlap, so that they are merged and not moved.
        let mut batch = db.batch();
        batch.put(&keys, " ", "first").put(&keys, format!("{number:04}"), value(number, 1)).put(&keys, "~", "last");
        batch.commit().unwrap();
    }
    keys.insert("other", "1").unwrap();
    let blobs = db.stats().blobs;
    assert!(blobs.files < 40 && blobs.live_bytes == 200_000, "{blobs:?}");
}
