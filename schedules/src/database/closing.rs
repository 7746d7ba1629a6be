//! Databases that end, of their own accord or because their disk fails, while others write.

use seawall_engine::{Error, Keyspace};
use seawall_wal::storage::{Fault, FaultyOperation};

use super::bench::{Bench, at_once};

const EIO: i32 = 5;
const MEMTABLE: u64 = 1 << 20;

/// Puts two keys, and says which were acknowledged.
fn write(keyspace: &Keyspace, writer: u8) -> Vec<[u8; 2]> {
    let mut acknowledged = Vec::new();
    for number in 0..2 {
        let key = [writer, number];
        match keyspace.insert(key, key) {
            Ok(_) => acknowledged.push(key),
            Err(Error::Closed | Error::Indeterminate { .. } | Error::Poisoned { .. }) => {}
            Err(other) => panic!("no answer for a commit of a database that ends: {other}"),
        }
    }
    acknowledged
}

fn writers_and(keyspace: &Keyspace, end: impl FnOnce() + Send + 'static) -> Vec<[u8; 2]> {
    let mut works: Vec<Box<dyn FnOnce() -> Vec<[u8; 2]> + Send>> = Vec::new();
    for writer in 0..2 {
        let keyspace = keyspace.clone();
        works.push(Box::new(move || write(&keyspace, writer)));
    }
    works.push(Box::new(move || {
        end();
        Vec::new()
    }));
    at_once(works).concat()
}

fn assert_left(bench: &Bench, acknowledged: &[[u8; 2]]) {
    let (left, keyspace) = bench.after_power_loss();
    for key in acknowledged {
        assert!(keyspace.contains(key).expect("it reads"), "{key:?} was acknowledged");
    }
    left.close().expect("nothing failed");
}

pub(crate) fn closing_a_database_ends_and_every_commit_gets_an_answer() {
    let bench = Bench::new();
    let (db, keyspace) = bench.open(MEMTABLE);
    let acknowledged = writers_and(&keyspace, move || db.close().expect("nothing failed"));
    assert_left(&bench, &acknowledged);
}

/// A sync of the log fails; reads go on.
pub(crate) fn a_database_whose_log_fails_answers_every_commit() {
    let bench = Bench::new();
    let (db, keyspace) = bench.open(MEMTABLE);
    bench.faulty.fail_under(&Bench::log_folder(), FaultyOperation::Sync, 1, Fault::Error(EIO));
    let reading = keyspace.clone();
    let acknowledged = writers_and(&keyspace, move || {
        reading.iter().for_each(|entry| drop(entry.expect("reads go on")));
    });
    if let Some(error) = db.poisoned() {
        let refused = keyspace.insert("late", "late").expect_err("it takes nothing more");
        assert!(matches!(refused, Error::Poisoned { .. }), "{refused}, after {error}");
    }
    assert_left(&bench, &acknowledged);
    let _ = db.close();
}
