//! The database against a map: random operations, snapshots, flushes, merges, reopening and crashes, by seed.

mod common;

use std::collections::BTreeMap;
use std::ops::Bound;

use common::{all_at, inline, threaded};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seawall_engine::{Builder, CommitLevel, Db, Keyspace, Snapshot};
use seawall_wal::Lsn;
use seawall_wal::storage::MemoryDisk;

const NAMES: [&str; 3] = ["users", "orders", "x"];

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Change {
    Create(&'static str),
    Drop(&'static str),
    Put(&'static str, Vec<u8>, Vec<u8>),
    Remove(&'static str, Vec<u8>),
}

/// Everything that was committed, in order.
#[derive(Default)]
struct Model {
    commits: Vec<(Lsn, Vec<Change>)>,
    /// Nothing acknowledged lies above.
    acknowledged: Lsn,
}

impl Model {
    fn at(&self, lsn: Lsn) -> BTreeMap<&'static str, Map> {
        let mut state: BTreeMap<&'static str, Map> = BTreeMap::new();
        for change in self.commits.iter().take_while(|(at, _)| *at <= lsn).flat_map(|(_, changes)| changes) {
            match change {
                Change::Create(name) => {
                    state.insert(name, Map::new());
                }
                Change::Drop(name) => {
                    state.remove(name);
                }
                Change::Put(name, key, value) => {
                    state.get_mut(name).unwrap().insert(key.clone(), value.clone());
                }
                Change::Remove(name, key) => {
                    state.get_mut(name).unwrap().remove(key);
                }
            }
        }
        state
    }

    fn push(&mut self, lsn: Lsn, changes: Vec<Change>, acknowledged: bool) {
        assert!(self.commits.last().is_none_or(|(last, _)| *last < lsn));
        self.commits.push((lsn, changes));
        if acknowledged {
            self.acknowledged = lsn;
        }
    }
}

fn key(random: &mut StdRng) -> Vec<u8> {
    let len = random.random_range(1..4);
    (0..len).map(|_| b"abcdef\xff\x00"[random.random_range(0..8)]).collect()
}

struct Run {
    random: StdRng,
    disk: MemoryDisk,
    build: fn(&MemoryDisk) -> Builder,
    db: Option<Db>,
    model: Model,
    snapshots: Vec<Snapshot>,
}

impl Run {
    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    fn keyspace(&mut self, name: &'static str) -> Keyspace {
        let db = self.db().clone();
        match db.existing_keyspace(name) {
            Ok(keyspace) => keyspace,
            Err(_) => {
                let keyspace = db.keyspace(name).unwrap();
                self.model.push(db.applied().0.lsn, vec![Change::Create(name)], true);
                keyspace
            }
        }
    }

    fn commit(&mut self) {
        let mut batch = self.db().batch();
        let mut changes = Vec::new();
        let mut last_create = None;
        for _ in 0..self.random.random_range(1..8) {
            let name = NAMES[self.random.random_range(0..NAMES.len())];
            let keyspace = self.keyspace(name);
            last_create = last_create.max(self.model.commits.last().map(|(lsn, _)| *lsn));
            let key = key(&mut self.random);
            if self.random.random_bool(0.7) {
                let value_len = if self.random.random_bool(0.1) { 1500 } else { self.random.random_range(0..40) };
                // Random bytes do not compress, so that levels fill.
                let value: Vec<u8> = (0..value_len).map(|_| self.random.random()).collect();
                batch.put(&keyspace, &key, &value);
                changes.push(Change::Put(name, key, value));
            } else {
                batch.remove(&keyspace, &key);
                changes.push(Change::Remove(name, key));
            }
        }
        let local = self.random.random_bool(0.6);
        let level = if local { CommitLevel::Local } else { CommitLevel::Buffered };
        let commit = batch.commit_with(level).unwrap();
        self.model.push(commit.lsn, changes, local);
    }

    /// The whole state, forward, and random ranges from both ends, and gets.
    fn check(&mut self, snapshot: &Snapshot) {
        let expected = self.model.at(snapshot.lsn());
        assert_eq!(snapshot.keyspaces().len(), expected.len());
        for (name, map) in &expected {
            let keyspace = snapshot.keyspace(name).unwrap();
            let found = all_at(snapshot, &keyspace);
            let wanted: Vec<_> = map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            assert_eq!(found, wanted, "{name} at {}", snapshot.lsn());
            let (low, high) = (key(&mut self.random), key(&mut self.random));
            let (low, high) = if low <= high { (low, high) } else { (high, low) };
            let bounds = (
                if self.random.random() { Bound::Included(low.clone()) } else { Bound::Excluded(low.clone()) },
                if self.random.random() || low == high { Bound::Included(high) } else { Bound::Excluded(high) },
            );
            let mut range = snapshot.range(&keyspace, bounds.clone());
            let mut wanted = map.range(bounds);
            loop {
                let (found, wanted) = match self.random.random() {
                    true => (range.next(), wanted.next()),
                    false => (range.next_back(), wanted.next_back()),
                };
                let found = found.map(|entry| entry.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec()));
                assert_eq!(found, wanted.map(|(key, value)| (key.clone(), value.clone())));
                if found.is_none() {
                    break;
                }
            }
            for _ in 0..5 {
                let key = key(&mut self.random);
                assert_eq!(snapshot.get(&keyspace, &key).unwrap().as_deref(), map.get(&key).map(Vec::as_slice));
            }
        }
    }

    fn check_now(&mut self) {
        let snapshot = self.db().snapshot().unwrap();
        assert!(snapshot.lsn() >= self.model.acknowledged, "what was acknowledged is visible");
        self.check(&snapshot);
    }

    fn reopen(&mut self) {
        self.snapshots.clear();
        self.db.take().unwrap().close().unwrap();
        self.model.acknowledged = self.model.commits.last().map_or(Lsn::ZERO, |(lsn, _)| *lsn);
        self.db = Some((self.build)(&self.disk).open().unwrap());
    }

    fn crash(&mut self) {
        let random = &mut self.random;
        let crashed = self.disk.crashed(|choice| match choice {
            seawall_wal::storage::CrashChoice::Sector { versions } => random.random_range(0..=versions),
            seawall_wal::storage::CrashChoice::Directory { operations } => random.random_range(0..=operations),
            seawall_wal::storage::CrashChoice::Length => random.random_range(0..=1),
        });
        self.snapshots.clear();
        self.db = None;
        self.disk = crashed;
        self.db = Some((self.build)(&self.disk).open().unwrap());
        let applied = self.db().applied().0.lsn;
        assert!(applied >= self.model.acknowledged, "{applied} after {} was acknowledged", self.model.acknowledged);
        self.model.commits.retain(|(lsn, _)| *lsn <= applied);
    }

    fn step(&mut self) {
        match self.random.random_range(0..1000) {
            0..850 => self.commit(),
            850..870 => self.db().flush().unwrap(),
            870..880 => self.db().compact().unwrap(),
            880..920 if self.snapshots.len() < 5 => {
                let snapshot = self.db().snapshot().unwrap();
                self.snapshots.push(snapshot);
            }
            880..950 => {
                if !self.snapshots.is_empty() {
                    let index = self.random.random_range(0..self.snapshots.len());
                    let snapshot = self.snapshots.swap_remove(index);
                    self.check(&snapshot);
                }
            }
            950..980 => self.check_now(),
            980..985 => {
                let name = NAMES[self.random.random_range(0..NAMES.len())];
                if let Ok(lsn) = self.db().drop_keyspace(name) {
                    self.model.push(lsn, vec![Change::Drop(name)], true);
                }
            }
            985..992 => self.reopen(),
            _ => self.crash(),
        }
    }
}

fn run(seed: u64, steps: usize, build: fn(&MemoryDisk) -> Builder) {
    let disk = MemoryDisk::new();
    let db = Some(build(&disk).open().unwrap());
    let random = StdRng::seed_from_u64(seed);
    let mut run = Run { random, disk, build, db, model: Model::default(), snapshots: Vec::new() };
    for step in 0..steps {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.step()));
        if let Err(panic) = caught {
            eprintln!("seed {seed}, step {step}");
            std::panic::resume_unwind(panic);
        }
    }
    run.check_now();
    let snapshot = run.db().snapshot().unwrap();
    let digest = snapshot.digest().unwrap();
    run.db().compact().unwrap();
    assert_eq!(snapshot.digest().unwrap(), digest, "merging changes no digest");
    drop(snapshot);
    run.db().verify_tables().unwrap();
}

/// How many seeds: as many times the usual as SEAWALL_MODEL_TIMES says, for a long run by hand.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let times = std::env::var("SEAWALL_MODEL_TIMES").ok().and_then(|times| times.parse().ok());
    0..usual * times.unwrap_or(1)
}

#[test]
fn it_is_a_map_whatever_happens_in_one_order() {
    for seed in seeds(20) {
        run(seed, 1_500, inline);
    }
}

#[test]
fn it_is_a_map_whatever_happens_with_its_threads() {
    for seed in seeds(8) {
        run(seed, 1_000, |disk| threaded(disk).memtable_bytes(16 << 10));
    }
}
