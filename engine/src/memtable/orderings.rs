//! One writer and one reader of a memtable in every order of their steps that the language allows, weak memory
//! included, as far as two preemptions reach. Built with `--cfg loom`: `schedules/run orderings`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};

use loom::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::race::{Mutant, with_mutant};

const KEYSPACE: KeyspaceId = KeyspaceId(7);
/// Bugs that are not of memtables; schedules notice them.
const OF_OTHERS: usize = 2;

/// The keys of a set, each with itself as the value, at LSN 1.
fn set(keys: &[&str]) -> Arc<MemtableSet> {
    let set = Arc::new(MemtableSet::new(&Arc::new(ChunkPool::new(1, false))));
    keys.iter().for_each(|key| put(&set, key));
    set
}

fn put(set: &MemtableSet, key: &str) {
    set.writer().insert(KEYSPACE, key.as_bytes(), Lsn::new(1), Content::Put(key.as_bytes()));
}

/// Whether a key is there; if it is, it is whole.
fn is_there(table: &Memtable, key: &str) -> bool {
    table.versions(key.as_bytes(), Lsn::MAX, |lsn, content| {
        assert_eq!((lsn, content.value()), (Lsn::new(1), Some(key.as_bytes())), "half of a version");
        true
    })
}

fn walk(table: &Arc<Memtable>, is_forward: bool) -> Vec<String> {
    let mut cursor = match is_forward {
        true => MemoryCursor::first_from(Arc::clone(table), None),
        false => MemoryCursor::last_before(Arc::clone(table), None),
    };
    let mut met = Vec::new();
    while let Some(entry) = cursor.entry() {
        assert_eq!(Some(entry.key), entry.content.value(), "half of a version");
        met.push(String::from_utf8(entry.key.to_vec()).expect("a key of this test"));
        if is_forward { cursor.forward() } else { cursor.back() }
    }
    if !is_forward {
        met.reverse();
    }
    assert!(met.is_sorted_by(|a, b| a < b), "out of order: {met:?}");
    met
}

/// A writer puts `new` beside a reader. It goes first, in the first order: loom finds the others from what a reader reads
/// after a write, and forgets what was read before one if the writer reads it as well.
fn beside_a_writer(old: &'static [&'static str], new: &'static [&'static str], read: fn(&Arc<Memtable>)) {
    let set = set(old);
    let table = Arc::clone(set.table(KEYSPACE).expect("it has keys"));
    let reading = Arc::clone(&table);
    let reader = loom::thread::spawn(move || read(&reading));
    new.iter().for_each(|key| put(&set, key));
    reader.join().expect("it ends");
    assert!(old.iter().chain(new).all(|key| is_there(&table, key)));
}

fn inserting() {
    beside_a_writer(&["b"], &["a"], |table| {
        assert!(is_there(table, "b"));
        is_there(table, "a");
    });
}

/// Two operations of one commit on a key.
fn replacing() {
    let set = set(&["b"]);
    let table = Arc::clone(set.table(KEYSPACE).expect("it has keys"));
    let reader = loom::thread::spawn(move || {
        let found = table.versions(b"b", Lsn::MAX, |_, content| {
            assert!(matches!(content.value(), Some(b"b" | b"another one")), "half of a version");
            true
        });
        assert!(found);
    });
    set.writer().insert(KEYSPACE, b"b", Lsn::new(1), Content::Put(b"another one"));
    reader.join().expect("it ends");
}

fn splitting() {
    beside_a_writer(&["a", "c"], &["b"], |table| {
        assert!(is_there(table, "c"));
        assert!(is_there(table, "a"));
    });
}

fn splitting_under_a_parent() {
    beside_a_writer(&["a", "b", "d"], &["c"], |table| assert!(is_there(table, "d")));
}

fn walking() {
    beside_a_writer(&["a", "c"], &["b"], |table| {
        let met = walk(table, true);
        assert!(met.first().is_some_and(|key| key == "a") && met.last().is_some_and(|key| key == "c"), "{met:?}");
    });
}

fn walking_back() {
    beside_a_writer(&["a", "c"], &["b"], |table| {
        let met = walk(table, false);
        assert!(met.first().is_some_and(|key| key == "a") && met.last().is_some_and(|key| key == "c"), "{met:?}");
    });
}

/// As the LSN applied last does.
fn publishing() {
    let set = set(&["b"]);
    let table = Arc::clone(set.table(KEYSPACE).expect("it has keys"));
    let applied = Arc::new(AtomicU64::new(0));
    let published = Arc::clone(&applied);
    let reader = loom::thread::spawn(move || {
        let seen = published.load(Ordering::Acquire);
        for key in ["a", "c"].into_iter().take(seen as usize) {
            assert!(is_there(&table, key), "`{key}` was published");
        }
    });
    for (number, key) in ["a", "c"].into_iter().enumerate() {
        put(&set, key);
        applied.store(number as u64 + 1, Ordering::Release);
    }
    reader.join().expect("it ends");
}

fn explore(scenario: fn()) -> u64 {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 100_000;
    let explored = Arc::new(Counter::new(0));
    let counted = Arc::clone(&explored);
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        scenario();
    });
    explored.load(Relaxed)
}

fn keep(promise: &str, scenario: fn()) {
    println!("kept {promise}: {} orders", explore(scenario));
}

fn is_noticed(bug: Mutant, scenario: fn()) -> bool {
    with_mutant(bug, || catch_unwind(AssertUnwindSafe(|| explore(scenario))).is_err())
}

#[test]
fn a_version_is_seen_whole_or_not_at_all_while_another_one_is_inserted() {
    keep("inserting", inserting);
}

#[test]
fn a_version_is_the_old_one_or_the_new_one_while_it_is_replaced() {
    keep("replacing", replacing);
}

#[test]
fn no_version_is_missed_while_a_node_is_split() {
    keep("splitting", splitting);
}

#[test]
fn no_version_is_missed_while_a_parent_hears_of_a_split() {
    keep("splitting under a parent", splitting_under_a_parent);
}

#[test]
fn a_walk_meets_what_was_there_in_order_while_a_node_is_split() {
    keep("walking", walking);
    keep("walking back", walking_back);
}

#[test]
fn what_was_published_is_found() {
    keep("publishing", publishing);
}

#[test]
fn planted_bugs_are_noticed() {
    // What goes into a node that is announced to change is behind a fence; what does not needs an order of its own.
    let bugs = [
        (Mutant::RecordNotReleased, replacing as fn()),
        (Mutant::NodeNotReleased, splitting),
        (Mutant::LinkNotAcquired, inserting),
        (Mutant::ChangeNotAnnounced, inserting),
        (Mutant::ChangeNotFenced, inserting),
        (Mutant::ChangeNotNoticed, inserting),
        (Mutant::LookNotFenced, inserting),
        (Mutant::SplitNotLinked, splitting),
    ];
    assert_eq!(bugs.len(), Mutant::ALL.len() - OF_OTHERS, "a bug of memtables is not tried");
    let missed: Vec<_> =
        bugs.into_iter().filter(|(bug, scenario)| !is_noticed(*bug, *scenario)).map(|(bug, _)| bug).collect();
    assert!(missed.is_empty(), "not noticed: {missed:?}");
    println!("all planted bugs are noticed");
}
