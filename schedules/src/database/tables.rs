//! Commits and readers beside threads that write memtables out and merge tables.

use seawall_engine::Keyspace;

use super::bench::{Bench, at_once};

/// Every commit fills the memtables.
const MEMTABLE: u64 = 1;

fn put(keyspace: &Keyspace, writer: u8, number: u8) {
    keyspace.insert([writer, number], [number; 100]).expect("nothing failed");
}

/// Writers are stopped at the gate until there is room, and go on; a snapshot sees the same before and after.
pub(crate) fn what_is_written_out_and_merged_is_read_meanwhile_and_afterwards() {
    let bench = Bench::new();
    let (db, keyspace) = bench.open(MEMTABLE);
    put(&keyspace, 9, 9);
    let snapshot = db.snapshot().expect("it is taken");
    let seen = snapshot.iter(&keyspace).count();
    let write = |writer: u8| {
        let keyspace = keyspace.clone();
        move || {
            for number in 0..3 {
                put(&keyspace, writer, number);
                let found = keyspace.get([writer, number]).expect("it reads");
                assert_eq!(found.as_deref(), Some(&[number; 100][..]), "read what one wrote");
            }
        }
    };
    let merge = {
        let db = db.clone();
        move || {
            db.flush().expect("nothing failed");
            db.compact().expect("nothing failed");
        }
    };
    let follow = {
        let keyspace = keyspace.clone();
        move || {
            let mut before = 0;
            for _ in 0..3 {
                let entries: Vec<_> = keyspace.iter().map(|entry| entry.expect("it reads").0).collect();
                assert!(entries.is_sorted_by(|a, b| a < b), "out of order");
                assert!(entries.len() >= before, "what was there is gone");
                before = entries.len();
            }
        }
    };
    at_once(vec![Box::new(write(0)), Box::new(write(1)), Box::new(merge), Box::new(follow)]);
    assert_eq!(snapshot.iter(&keyspace).count(), seen, "a snapshot changed");
    drop(snapshot);
    assert_eq!(keyspace.iter().count(), 7);
    db.close().expect("nothing failed");
    let (left, keyspace) = bench.after_power_loss();
    assert_eq!(keyspace.iter().count(), 7);
    left.close().expect("nothing failed");
}
