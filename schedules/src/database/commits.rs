//! Commits of several threads: who sees them when, and in which order they take effect.

use seawall_engine::{Db, Error, Keyspace};
use shuttle::future::block_on;

use super::bench::{Bench, at_once};

/// What never fills.
const MEMTABLE: u64 = 1 << 20;

fn number(found: Option<impl AsRef<[u8]>>) -> u64 {
    found.map_or(0, |found| u64::from_le_bytes(found.as_ref().try_into().expect("a number")))
}

/// Threads and tasks; the commits of one are applied by another.
pub(crate) fn a_commit_that_was_answered_is_seen_and_survives() {
    let bench = Bench::new();
    let (db, keyspace) = bench.open(MEMTABLE);
    let works = (0..3_u8).map(|writer| {
        let (db, keyspace) = (db.clone(), keyspace.clone());
        let work = move || {
            for number in 0..2 {
                let key = [writer, number];
                let mut batch = db.batch();
                batch.put(&keyspace, key, key);
                let committed = match writer {
                    0 => block_on(batch.commit_ticket().expect("it is taken")),
                    _ => batch.commit(),
                };
                committed.expect("nothing failed");
                assert_eq!(keyspace.get(key).expect("it reads").as_deref(), Some(&key[..]), "read what one wrote");
            }
        };
        Box::new(work) as Box<dyn FnOnce() + Send>
    });
    at_once(works.collect());
    let (left, keyspace) = bench.after_power_loss();
    assert_eq!(keyspace.iter().count(), 6);
    left.close().expect("nothing failed");
    db.close().expect("nothing failed");
}

/// Two keys that always change together, one that makes the log flush, and a reader who looks twice.
pub(crate) fn a_batch_is_seen_whole_and_what_was_seen_stays() {
    let bench = Bench::new();
    let (db, keyspace) = bench.open(MEMTABLE);
    let write = {
        let (db, keyspace) = (db.clone(), keyspace.clone());
        move || {
            for value in 1..=3_u64 {
                let mut batch = db.batch();
                batch.put(&keyspace, "a", value.to_le_bytes()).put(&keyspace, "b", value.to_le_bytes());
                batch.commit().expect("nothing failed");
            }
        }
    };
    let read = |db: Db, keyspace: Keyspace| {
        move || {
            let mut last = 0;
            for _ in 0..5 {
                let snapshot = db.snapshot().expect("it is taken");
                let [a, b] = ["a", "b"].map(|key| number(snapshot.get(&keyspace, key).expect("it reads")));
                assert_eq!(a, b, "half of a batch");
                assert!(a >= last, "what was seen is gone");
                let now = number(keyspace.get("a").expect("it reads"));
                assert!(now >= a, "an older value than the snapshot's");
                let again = number(snapshot.get(&keyspace, "a").expect("it reads"));
                assert_eq!(a, again, "a snapshot changed");
                last = now;
            }
        }
    };
    let other = {
        let keyspace = keyspace.clone();
        move || {
            for _ in 0..2 {
                keyspace.insert("c", "c").expect("nothing failed");
            }
        }
    };
    at_once(vec![Box::new(write), Box::new(other), Box::new(read(db.clone(), keyspace.clone())), Box::new(read(db.clone(), keyspace))]);
    db.close().expect("nothing failed");
}

/// Two write, and one reads what may be on its way to the disk.
pub(crate) fn what_was_read_survives_power_loss() {
    let bench = Bench::new();
    let (db, keyspace) = bench.open(MEMTABLE);
    let write = |writer: u8, keyspace: Keyspace| move || drop(keyspace.insert([writer], [writer]));
    let read = {
        let (bench, keyspace) = (bench.clone(), keyspace.clone());
        move || {
            let seen: Vec<_> = keyspace.iter().map(|entry| entry.expect("it reads").0).collect();
            if !seen.is_empty() {
                let (left, keyspace) = bench.after_power_loss();
                for key in seen {
                    assert!(keyspace.contains(&key).expect("it reads"), "{key:?} was read, and is gone");
                }
                left.close().expect("nothing failed");
            }
        }
    };
    at_once(vec![Box::new(write(0, keyspace.clone())), Box::new(read), Box::new(write(1, keyspace))]);
    db.close().expect("nothing failed");
}

/// Each of three adds one to the same number, and tries again if it met another one.
pub(crate) fn transactions_that_meet_take_effect_one_after_the_other() {
    let bench = Bench::new();
    let (db, keyspace) = bench.open(MEMTABLE);
    let works = (0..3).map(|_| {
        let (db, keyspace) = (db.clone(), keyspace.clone());
        let work = move || {
            let mut transaction = db.transaction().expect("it begins");
            let before = number(transaction.get(&keyspace, "n").expect("it reads"));
            transaction.put(&keyspace, "n", (before + 1).to_le_bytes()).expect("it is noted");
            match transaction.commit() {
                Ok(_) => 1_u64,
                Err(Error::Conflict { .. }) => 0,
                Err(other) => panic!("nothing else failed: {other}"),
            }
        };
        Box::new(work) as Box<dyn FnOnce() -> u64 + Send>
    });
    let done: u64 = at_once(works.collect()).into_iter().sum();
    assert!(done >= 1, "one of those who meet goes first");
    assert_eq!(number(keyspace.get("n").expect("it reads")), done, "one that was acknowledged was overwritten");
    db.close().expect("nothing failed");
}
