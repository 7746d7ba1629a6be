//! Transactions, batches, deletes of ranges, snapshots, flushes, compactions, checkpoints and keyspaces that come and go,
//! all at once. Every commit is written down with its LSN and what its transaction had read; folded in the order of LSNs
//! they must explain every read, every snapshot, every checkpoint and the end.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Entries, all, all_at, crashed_somehow, inline, threaded};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seawall_engine::{CommitLevel, Create, Db, Error};
use seawall_wal::storage::{Disk, MemoryDisk};
use seawall_wal::{Lsn, SegmentSize};

const KEYS: u32 = 60;
/// Of each writer.
const COMMITS: u32 = 250;
/// Nothing here takes as long unless it never ends.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
enum Change {
    Put(String, Vec<u8>),
    /// Of the keys from the first up to the second, which is spared.
    RemoveRange(String, String),
}

/// A commit: what it was made of, and what it changed.
#[derive(Debug)]
struct Committed {
    read: Vec<(String, Option<Vec<u8>>)>,
    changes: Vec<Change>,
}

#[derive(Default)]
struct History {
    commits: Mutex<BTreeMap<Lsn, Committed>>,
    /// What somebody found, and as of when.
    seen: Mutex<Vec<(Lsn, Entries)>>,
}

impl History {
    fn add(&self, lsn: Lsn, read: Vec<(String, Option<Vec<u8>>)>, changes: Vec<Change>) {
        let before = self.commits.lock().insert(lsn, Committed { read, changes });
        assert!(before.is_none(), "no two commits have one LSN");
    }

    fn see(&self, lsn: Lsn, entries: Entries) {
        self.seen.lock().push((lsn, entries));
    }

    /// Checks everything, and says what there is at the end.
    fn fold(self) -> Entries {
        let mut seen = self.seen.into_inner();
        seen.sort_by_key(|(lsn, _)| *lsn);
        let mut seen = seen.into_iter().peekable();
        let mut map = BTreeMap::<Vec<u8>, Vec<u8>>::new();
        let entries = |map: &BTreeMap<Vec<u8>, Vec<u8>>| map.clone().into_iter().collect::<Entries>();
        for (lsn, Committed { read, changes }) in self.commits.into_inner() {
            while let Some((at, found)) = seen.next_if(|(at, _)| *at < lsn) {
                assert!(found == entries(&map), "what was seen at {at}");
            }
            for (key, value) in read {
                assert_eq!(map.get(key.as_bytes()), value.as_ref(), "`{key}`, read by the transaction at {lsn}");
            }
            for change in changes {
                match change {
                    Change::Put(key, value) => drop(map.insert(key.into_bytes(), value)),
                    Change::RemoveRange(from, until) => {
                        map.retain(|key, _| !(from.as_bytes()..until.as_bytes()).contains(&key.as_slice()));
                    }
                }
            }
        }
        seen.for_each(|(at, found)| assert!(found == entries(&map), "what was seen at {at}"));
        entries(&map)
    }
}

fn key(number: u32) -> String {
    format!("key-{number:02}")
}

/// Some go to blob files.
fn value(random: &mut StdRng) -> Vec<u8> {
    let len = if random.random_ratio(1, 4) { 400 } else { 60 };
    vec![random.random(); len]
}

fn transact(db: &Db, history: &History, seed: u64) {
    let keys = db.existing_keyspace("k").unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = 0;
    while done < COMMITS {
        let mut transaction = db.transaction().unwrap();
        let (mut read, mut changes) = (Vec::new(), Vec::new());
        for _ in 0..random.random_range(1..4) {
            let key = key(random.random_range(0..KEYS));
            let found = transaction.get(&keys, &key).unwrap();
            // What it wrote itself says nothing about others.
            if !changes.iter().any(|change| matches!(change, Change::Put(written, _) if *written == key)) {
                read.push((key.clone(), found.map(|value| value.to_vec())));
            }
            let value = value(&mut random);
            transaction.put(&keys, &key, &value).unwrap();
            changes.push(Change::Put(key, value));
        }
        match transaction.commit() {
            Ok(commit) => {
                history.add(commit.lsn, read, changes);
                done += 1;
            }
            Err(error) => assert!(matches!(error, Error::Conflict { .. }), "{error}"),
        }
    }
}

fn write(db: &Db, history: &History, seed: u64) {
    let keys = db.existing_keyspace("k").unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    for number in 0..COMMITS {
        let mut batch = db.batch();
        let mut changes = Vec::new();
        if random.random_ratio(1, 3) {
            let from = random.random_range(0..KEYS);
            let (from, until) = (key(from), key(from + random.random_range(1..8)));
            batch.remove_range(&keys, from.clone()..until.clone());
            changes.push(Change::RemoveRange(from, until));
        }
        for _ in 0..random.random_range(1..5) {
            let (key, value) = (key(random.random_range(0..KEYS)), value(&mut random));
            batch.put(&keys, &key, &value);
            changes.push(Change::Put(key, value));
        }
        let level = if number % 4 == 0 { CommitLevel::Buffered } else { CommitLevel::Local };
        history.add(batch.commit_with(level).unwrap().lsn, Vec::new(), changes);
    }
}

/// Makes a keyspace, fills it and drops it, while somebody walks through it.
fn come_and_go(db: &Db, round: u64) {
    let keys = db.keyspace("passing").unwrap();
    assert!(keys.first().unwrap().is_none(), "a keyspace that was made anew is empty");
    let fill = |from: u32| {
        let mut batch = db.batch();
        for number in from..from + 20 {
            batch.put(&keys, key(number), [round as u8; 300]);
        }
        batch.commit().unwrap();
    };
    fill(0);
    let snapshot = db.snapshot().unwrap();
    let mut walk = snapshot.iter(&keys);
    assert!(walk.next().unwrap().is_ok());
    fill(20);
    db.drop_keyspace("passing").unwrap();
    assert!(matches!(keys.insert("late", "1"), Err(Error::UnknownKeyspace { .. })));
    assert_eq!(walk.map(|entry| entry.unwrap().1[0]).filter(|byte| *byte == round as u8).count(), 19, "as it was");
    assert_eq!(all_at(&snapshot, &keys).len(), 20);
}

fn see(db: &Db, history: &History) {
    let keys = db.existing_keyspace("k").unwrap();
    let snapshot = db.snapshot().unwrap();
    let forward = all_at(&snapshot, &keys);
    let mut backward: Entries = snapshot
        .iter(&keys)
        .rev()
        .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap())
        .collect();
    backward.reverse();
    assert!(forward == backward, "both ways alike, at {}", snapshot.lsn());
    history.see(snapshot.lsn(), forward);
}

#[test]
fn everything_at_once_is_explained_by_the_order_of_commits() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).memtable_bytes(8 << 10).open().unwrap();
    db.keyspace("k").unwrap();
    let history = History::default();
    let (writing, checkpoints) = (AtomicBool::new(true), AtomicU64::new(0));
    let started = Instant::now();
    thread::scope(|scope| {
        let (db, history, disk, writing, checkpoints) = (&db, &history, &disk, &writing, &checkpoints);
        let repeat = move |work: &dyn Fn(u64)| {
            for round in 0.. {
                work(round);
                assert!(started.elapsed() < PATIENCE, "somebody waits for ever");
                if !writing.load(Ordering::Acquire) {
                    break;
                }
            }
        };
        let writers = [
            scope.spawn(move || transact(db, history, 1)),
            scope.spawn(move || transact(db, history, 2)),
            scope.spawn(move || write(db, history, 3)),
            scope.spawn(move || write(db, history, 4)),
        ];
        scope.spawn(move || repeat(&|_| db.flush().unwrap()));
        scope.spawn(move || repeat(&|_| db.compact().unwrap()));
        scope.spawn(move || repeat(&|_| see(db, history)));
        scope.spawn(move || repeat(&|round| come_and_go(db, round)));
        scope.spawn(move || {
            repeat(&|round| {
                let path = format!("/copy-{round}");
                let at = db.checkpoint(&path).unwrap();
                let copy = Db::builder(&path).storage(Arc::new(disk.clone())).create(Create::Never).open().unwrap();
                history.see(at, all(&copy.existing_keyspace("k").unwrap()));
                copy.verify_tables().unwrap();
                checkpoints.fetch_add(1, Ordering::Relaxed);
            });
        });
        let written = writers.map(thread::ScopedJoinHandle::join);
        writing.store(false, Ordering::Release);
        written.into_iter().for_each(|written| written.unwrap());
    });
    db.sync().unwrap();
    let found = all(&db.existing_keyspace("k").unwrap());
    let seen = history.seen.lock().len();
    assert!(history.fold() == found, "what is there at the end");
    assert!(seen > 1 && checkpoints.into_inner() > 0);
    db.verify_tables().unwrap();
    let merges = db.stats().merges;
    assert!(merges > 0, "tables were merged meanwhile");
    let crashed = crashed_somehow(&disk, &mut StdRng::seed_from_u64(5));
    db.close().unwrap();
    for disk in [crashed, disk] {
        let db = inline(&disk).open().unwrap();
        assert!(all(&db.existing_keyspace("k").unwrap()) == found, "and after opening again");
        assert!(db.existing_keyspace("passing").is_err());
        db.verify_tables().unwrap();
    }
    println!("{seen} looks, {merges} merges, {:?}", started.elapsed());
}

#[test]
fn a_walk_goes_on_when_its_keyspace_is_dropped_and_the_database_closed_and_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let builder = Db::builder(folder.path()).storage(Arc::new(Disk::new())).blob_bytes(Some(200));
        builder.segment_size(SegmentSize::MIN).memtable_bytes(4 << 10).open().unwrap()
    };
    let db = open();
    let keys = db.keyspace("k").unwrap();
    for number in 0..200_u32 {
        let mut batch = db.batch();
        batch.put(&keys, format!("{number:03}"), vec![number as u8; 300]);
        batch.commit_with(CommitLevel::Buffered).unwrap();
    }
    db.sync().unwrap();
    let mut walk = keys.iter();
    let mut next = || walk.next().map(|entry| entry.unwrap().1[0]);
    assert_eq!((next(), next()), (Some(0), Some(1)));
    db.drop_keyspace("k").unwrap();
    db.flush().unwrap();
    db.compact().unwrap();
    assert_eq!(next(), Some(2));
    drop(keys);
    db.close().unwrap();
    assert_eq!(next(), Some(3));
    // The files it reads lose their names, and it has them all the same.
    let db = open();
    assert!(db.existing_keyspace("k").is_err());
    db.keyspace("other").unwrap().insert("a", "1").unwrap();
    db.compact().unwrap();
    db.compact().unwrap();
    assert_eq!(db.stats().levels.iter().map(|level| level.tables).sum::<u64>(), 1);
    assert!((4..200).all(|number| next() == Some(number as u8)) && next().is_none());
}

#[test]
fn many_who_open_one_directory_over_and_over_are_let_in_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        Db::builder(folder.path())
            .storage(Arc::new(Disk::new()))
            .segment_size(SegmentSize::MIN)
            .memtable_bytes(2 << 10)
            .open()
    };
    let (inside, opened) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut mine = 0;
                while mine < 10 {
                    let db = match open() {
                        Ok(db) => db,
                        Err(Error::Locked { .. }) => {
                            thread::sleep(Duration::from_millis(1));
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    };
                    assert!(!inside.swap(true, Ordering::AcqRel), "two are inside");
                    let count = opened.fetch_add(1, Ordering::AcqRel);
                    let keys = db.keyspace("k").unwrap();
                    assert_eq!(all(&keys).len() as u64, count, "everything the others wrote is there");
                    keys.insert(format!("{count:04}"), [1; 300]).unwrap();
                    inside.store(false, Ordering::Release);
                    drop(keys);
                    // Half of them say goodbye.
                    if count.is_multiple_of(2) {
                        db.close().unwrap();
                    }
                    mine += 1;
                }
            });
        }
    });
    assert_eq!(opened.into_inner(), 40);
}
