//! What one who uses transactions relies on: they see their own writes, and they take effect as if they ran one by one.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{all, inline, threaded};
use parking_lot::Mutex;
use seawall_engine::mutant::{Mutant, with_mutant};
use seawall_engine::{
    Admission, Backpressure, CommitLevel, Db, Error, Keyspace, MergeOperator, OpenAs, Permit, Transaction,
    TransactionRange,
};
use seawall_wal::storage::MemoryDisk;

fn open() -> (Db, Keyspace) {
    let db = inline(&MemoryDisk::new()).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    (db, keys)
}

fn text(range: TransactionRange<'_>) -> String {
    let pair = |pair: seawall_engine::Result<(bytes::Bytes, bytes::Bytes)>| {
        let (key, value) = pair.unwrap();
        format!("{}={}", key.escape_ascii(), value.escape_ascii())
    };
    range.map(pair).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn refused(transaction: Transaction, db: &Db, key: &str) {
    let end = db.log().end();
    match transaction.commit() {
        Err(Error::Conflict { keyspace, key: found, lsn }) => {
            assert_eq!((keyspace.as_str(), found), ("k", bytes::Bytes::copy_from_slice(key.as_bytes())));
            assert!(lsn <= end.lsn);
        }
        other => panic!("no conflict: {other:?}"),
    }
    assert_eq!(db.log().end(), end, "a conflict writes nothing");
}

#[test]
fn a_transaction_reads_its_own_writes_and_nobody_else_does_before_its_commit() {
    let (db, keys) = open();
    keys.insert("a", "1").unwrap();
    keys.insert("b", "2").unwrap();
    let mut transaction = db.transaction().unwrap();
    transaction.put(&keys, "a", "mine").unwrap();
    transaction.put(&keys, "c", "mine").unwrap();
    transaction.remove(&keys, "b").unwrap();
    assert_eq!(transaction.get(&keys, "a").unwrap().as_deref(), Some(&b"mine"[..]));
    assert_eq!(transaction.get(&keys, "c").unwrap().as_deref(), Some(&b"mine"[..]));
    assert_eq!(transaction.get(&keys, "b").unwrap(), None);
    assert_eq!(transaction.len(), 3);
    assert_eq!(keys.get("a").unwrap().as_deref(), Some(&b"1"[..]));
    let commit = transaction.commit().unwrap();
    assert_eq!(commit.lsn, db.visible());
    assert_eq!(keys.get("a").unwrap().as_deref(), Some(&b"mine"[..]));
    assert_eq!(keys.get("b").unwrap(), None);
}

#[test]
fn a_dropped_transaction_leaves_nothing_and_holds_nothing() {
    let (db, keys) = open();
    keys.insert("a", "1").unwrap();
    let end = db.log().end();
    let mut transaction = db.transaction().unwrap();
    transaction.put(&keys, "a", "2").unwrap();
    let begun = transaction.lsn();
    drop(transaction);
    assert_eq!(db.log().end(), end);
    assert_eq!(keys.get("a").unwrap().as_deref(), Some(&b"1"[..]));
    keys.insert("a", "3").unwrap();
    db.compact().unwrap();
    assert!(matches!(db.snapshot_at(begun), Err(Error::SnapshotTooOld { .. })), "its snapshot is let go");
}

#[test]
fn iteration_shows_own_writes_in_their_places_from_both_ends() {
    let (db, keys) = open();
    for key in ["b", "d", "f", "h"] {
        keys.insert(key, "old").unwrap();
    }
    db.flush().unwrap();
    let mut transaction = db.transaction().unwrap();
    for (key, value) in [("a", "new"), ("d", "new"), ("g", "new"), ("i", "new")] {
        transaction.put(&keys, key, value).unwrap();
    }
    transaction.remove(&keys, "f").unwrap();
    transaction.remove(&keys, "x").unwrap();
    keys.insert("c", "later").unwrap();
    assert_eq!(text(transaction.iter(&keys)), "a=new b=old d=new g=new h=old i=new");
    assert_eq!(text(transaction.range(&keys, "b"..="g")), "b=old d=new g=new");
    assert_eq!(text(transaction.prefix(&keys, "d")), "d=new");
    assert_eq!(text(transaction.range(&keys, "x".."a")), "", "an empty range is no panic");
    let backward: Vec<_> = transaction.iter(&keys).rev().map(|pair| pair.unwrap().0).collect();
    assert_eq!(backward, ["i", "h", "g", "d", "b", "a"]);
    for pattern in 0..64_u32 {
        let mut range = transaction.iter(&keys);
        let (mut front, mut back) = (Vec::new(), Vec::new());
        for step in 0.. {
            let forward = pattern >> (step % 6) & 1 == 0;
            let next = if forward { range.next() } else { range.next_back() };
            let Some(pair) = next else { break };
            if forward { &mut front } else { &mut back }.push(pair.unwrap().0);
        }
        front.extend(back.into_iter().rev());
        assert_eq!(front, ["a", "b", "d", "g", "h", "i"], "pattern {pattern:b}");
    }
}

#[test]
fn write_skew_is_refused() {
    let (db, keys) = open();
    keys.insert("ann", "on call").unwrap();
    keys.insert("bob", "on call").unwrap();
    // Each may leave while the other stays.
    let (mut ann, mut bob) = (db.transaction().unwrap(), db.transaction().unwrap());
    assert!(ann.get(&keys, "bob").unwrap().is_some());
    ann.remove(&keys, "ann").unwrap();
    assert!(bob.get(&keys, "ann").unwrap().is_some());
    bob.remove(&keys, "bob").unwrap();
    ann.commit().unwrap();
    refused(bob, &db, "ann");
    assert_eq!(all(&keys).len(), 1, "somebody is on call");
}

#[test]
fn a_phantom_in_a_range_that_was_walked_is_refused() {
    let (db, keys) = open();
    for key in ["b", "d", "f"] {
        keys.insert(key, "1").unwrap();
    }
    // Walked how far, from which end, what somebody puts there, and whether that is within what was read.
    let cases = [
        (1, true, "a", true),
        (1, true, "b", true),
        (1, true, "c", false),
        (2, true, "c", true),
        (3, true, "g", false),
        (4, true, "g", true),
        (1, false, "g", true),
        (1, false, "f", true),
        (1, false, "e", false),
        (4, false, "a", true),
        (0, true, "d", false),
    ];
    for (steps, forward, key, phantom) in cases {
        let mut transaction = db.transaction().unwrap();
        let mut range = transaction.iter(&keys);
        for _ in 0..steps {
            if forward {
                range.next()
            } else {
                range.next_back()
            };
        }
        drop(range);
        transaction.put(&keys, "z", "1").unwrap();
        keys.insert(key, "2").unwrap();
        match phantom {
            true => refused(transaction, &db, key),
            false => drop(transaction.commit().unwrap()),
        }
        for key in ["a", "c", "e", "g", "z"] {
            keys.remove(key).unwrap();
        }
    }
}

#[test]
fn a_range_counts_as_read_within_its_bounds_only() {
    let (db, keys) = open();
    keys.insert("m", "1").unwrap();
    for (key, inside) in [("l", false), ("l1", true), ("n", false), ("mm", true), ("a", false), ("z", false)] {
        let mut transaction = db.transaction().unwrap();
        let bounds = (std::ops::Bound::Excluded("l"), std::ops::Bound::Excluded("n"));
        assert_eq!(transaction.range::<&str>(&keys, bounds).count(), 1);
        transaction.put(&keys, "m", "2").unwrap();
        keys.insert(key, "x").unwrap();
        match inside {
            true => refused(transaction, &db, key),
            false => drop(transaction.commit().unwrap()),
        }
        keys.remove(key).unwrap();
    }
}

#[test]
fn a_removal_in_a_range_that_was_walked_is_refused() {
    let (db, keys) = open();
    keys.insert("a", "1").unwrap();
    let mut transaction = db.transaction().unwrap();
    assert_eq!(transaction.prefix(&keys, "a").count(), 1);
    transaction.put(&keys, "count", "1").unwrap();
    keys.remove("a").unwrap();
    refused(transaction, &db, "a");
}

#[test]
fn a_key_read_as_absent_and_inserted_by_another_is_refused() {
    let (db, keys) = open();
    let mut transaction = db.transaction().unwrap();
    assert_eq!(transaction.get(&keys, "name").unwrap(), None);
    transaction.put(&keys, "name", "mine").unwrap();
    keys.insert("name", "theirs").unwrap();
    refused(transaction, &db, "name");
    assert_eq!(keys.get("name").unwrap().as_deref(), Some(&b"theirs"[..]));
}

#[test]
fn blind_writes_do_not_conflict_and_the_last_one_wins() {
    let (db, keys) = open();
    let (mut first, mut second) = (db.transaction().unwrap(), db.transaction().unwrap());
    first.put(&keys, "a", "first").unwrap();
    second.put(&keys, "a", "second").unwrap();
    assert_eq!(second.get(&keys, "a").unwrap().as_deref(), Some(&b"second"[..]), "one's own write is no read");
    keys.insert("a", "between").unwrap();
    first.commit().unwrap();
    second.commit().unwrap();
    assert_eq!(keys.get("a").unwrap().as_deref(), Some(&b"second"[..]));
}

#[test]
fn a_conflict_says_who_was_faster_and_can_be_retried() {
    let (db, keys) = open();
    let mut transaction = db.transaction().unwrap();
    transaction.get(&keys, "a\n").unwrap();
    transaction.put(&keys, "b", "1").unwrap();
    let lsn = keys.insert("a\n", "2").unwrap().lsn;
    let error = transaction.commit().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "key `a\\n` of keyspace `k` was changed by the commit at {lsn} after this transaction had read it; nothing \
             was written, run the transaction again"
        )
    );
    assert_eq!(keys.get("b").unwrap(), None);
    let mut again = db.transaction().unwrap();
    assert_eq!(again.get(&keys, "a\n").unwrap().as_deref(), Some(&b"2"[..]));
    again.put(&keys, "b", "1").unwrap();
    again.commit().unwrap();
    assert_eq!(keys.get("b").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn versions_that_are_not_flushed_conflict_although_nobody_can_read_them() {
    let (db, keys) = open();
    keys.insert("a", "1").unwrap();
    let mut transaction = db.transaction().unwrap();
    assert_eq!(transaction.get(&keys, "a").unwrap().as_deref(), Some(&b"1"[..]));
    transaction.put(&keys, "b", "1").unwrap();
    let mut batch = db.batch();
    batch.put(&keys, "a", "2");
    batch.commit_with(CommitLevel::Buffered).unwrap();
    assert_eq!(keys.get("a").unwrap().as_deref(), Some(&b"1"[..]), "not flushed, so not visible");
    refused(transaction, &db, "a");
    // A transaction begun now cannot read it either, and conflicts until it is flushed.
    let mut blind = db.transaction().unwrap();
    blind.get(&keys, "a").unwrap();
    blind.put(&keys, "b", "1").unwrap();
    refused(blind, &db, "a");
    let mut tries = 0;
    db.transact(|transaction| {
        tries += 1;
        let seen = transaction.get(&keys, "a")?.unwrap();
        transaction.put(&keys, "b", seen)
    })
    .unwrap();
    assert_eq!((tries, keys.get("b").unwrap().as_deref()), (2, Some(&b"2"[..])), "the helper has it flushed");
}

#[test]
fn changes_are_found_wherever_they_have_come_to() {
    type Settle = fn(&Db);
    let settle: [Settle; 3] = [|_| {}, |db| db.flush().unwrap(), |db| db.compact().unwrap()];
    for settle in settle {
        for walked in [false, true] {
            let (db, keys) = open();
            for key in 0..100 {
                keys.insert(format!("{key:03}"), "old").unwrap();
            }
            db.compact().unwrap();
            let begin = || {
                let mut transaction = db.transaction().unwrap();
                match walked {
                    true => assert_eq!(transaction.prefix(&keys, "05").count(), 10),
                    false => drop(transaction.get(&keys, "055").unwrap()),
                }
                transaction.put(&keys, "x", "1").unwrap();
                transaction
            };
            let untouched = begin();
            keys.insert("044", "new").unwrap();
            settle(&db);
            untouched.commit().unwrap();
            let touched = begin();
            keys.remove("055").unwrap();
            settle(&db);
            refused(touched, &db, "055");
        }
    }
}

/// Lets a commit in, and does something first: what another thread might have done at that moment.
#[derive(Default)]
struct Meanwhile {
    work: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    asked: AtomicUsize,
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Admission for Meanwhile {
    fn admit(&self, _: u64, _: Option<Instant>) -> Result<Permit, Backpressure> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let work = self.work.lock().take();
        if let Some(work) = work {
            work();
        }
        Ok(Permit::free())
    }
}

#[test]
fn what_others_do_between_the_first_look_and_the_append_conflicts_also_when_it_is_written_out() {
    for (key, flush) in [("read", false), ("read", true), ("other", false), ("other", true)] {
        let (db, keys) = open();
        let meanwhile = Arc::new(Meanwhile::default());
        db.set_admission(Some(meanwhile.clone()));
        let mut transaction = db.transaction().unwrap();
        transaction.get(&keys, "read").unwrap();
        transaction.put(&keys, "written", "1").unwrap();
        let (theirs, their_keys) = (db.clone(), keys.clone());
        *meanwhile.work.lock() = Some(Box::new(move || {
            their_keys.insert(key, "1").unwrap();
            if flush {
                theirs.flush().unwrap();
            }
        }));
        meanwhile.asked.store(0, Ordering::SeqCst);
        let commit = transaction.commit();
        match key {
            "read" => assert!(matches!(commit, Err(Error::Conflict { .. })), "{commit:?}"),
            _ => drop(commit.unwrap()),
        }
        let again = usize::from(flush && key == "other");
        assert_eq!(meanwhile.asked.load(Ordering::SeqCst), 2 + again, "tables are read without the lock only");
        db.set_admission(None);
    }
}

#[test]
fn a_transaction_that_writes_nothing_leaves_no_record_and_never_conflicts() {
    let (db, keys) = open();
    let transaction = db.transaction().unwrap();
    assert_eq!(transaction.get(&keys, "a").unwrap(), None);
    keys.insert("a", "1").unwrap();
    let end = db.log().end();
    assert_eq!(transaction.commit().unwrap().lsn, end.lsn);
    assert_eq!(db.log().end(), end);
}

#[test]
fn a_transaction_is_atomic_over_keyspaces_and_keeps_the_last_write_of_a_key() {
    let (db, a) = open();
    let b = db.keyspace("b").unwrap();
    let mut transaction = db.transaction().unwrap();
    for value in ["1", "2", "3"] {
        transaction.put(&a, "k", value).unwrap();
    }
    transaction.put(&b, "k", "4").unwrap();
    transaction.remove(&b, "k").unwrap();
    transaction.put(&b, "j", "5").unwrap();
    assert_eq!(transaction.len(), 3);
    let lsn = transaction.commit().unwrap().lsn;
    assert_eq!(all(&a), [(b"k".to_vec(), b"3".to_vec())]);
    assert_eq!(all(&b), [(b"j".to_vec(), b"5".to_vec())]);
    assert_eq!(db.log().end().lsn, lsn);
}

#[test]
fn a_transaction_does_not_see_what_it_removed_with_a_range_and_sees_what_it_wrote_there_afterwards() {
    let (db, keys) = open();
    for key in ["a", "b", "c", "d", "e"] {
        keys.insert(key, "old").unwrap();
    }
    let mut transaction = db.transaction().unwrap();
    transaction.put(&keys, "bb", "given up").unwrap();
    transaction.merge(&keys, "d", MergeOperator::Append, "given up").unwrap();
    transaction.remove_range(&keys, "b".."d").unwrap();
    transaction.remove_range(&keys, "d"..="d").unwrap();
    assert_eq!(transaction.len(), 1, "ranges that touch are one, and nothing is left to be done in it");
    assert_eq!(text(transaction.iter(&keys)), "a=old e=old");
    let backward: Vec<_> = transaction.iter(&keys).rev().map(|pair| pair.unwrap().0).collect();
    assert_eq!(backward, ["e", "a"]);
    assert!(!transaction.contains(&keys, "b").unwrap() && transaction.contains(&keys, "e").unwrap());
    transaction.put(&keys, "c", "new").unwrap();
    transaction.merge(&keys, "b", MergeOperator::Append, "new").unwrap();
    transaction.remove(&keys, "bb").unwrap();
    let many = transaction.multi_get(&keys, &["e", "d", "c", "b", "bb", "c"]).unwrap();
    let many: Vec<_> =
        many.iter().map(|value| value.as_deref().map(|value| value.escape_ascii().to_string())).collect();
    let value = |value: &str| Some(value.to_owned());
    assert_eq!(many, [value("old"), None, value("new"), value("new"), None, value("new")]);
    assert_eq!(text(transaction.range(&keys, "aa"..)), "b=new c=new e=old");
    assert_eq!(keys.get("d").unwrap().as_deref(), Some(&b"old"[..]), "others see nothing of it");
    transaction.commit().unwrap();
    let left: Vec<_> = all(&keys).into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect();
    assert_eq!(left, ["a", "b", "c", "e"]);
    assert_eq!(keys.get("b").unwrap().as_deref(), Some(&b"new"[..]), "what it is merged with was removed");
}

#[test]
fn a_range_removed_to_the_end_hides_it_from_both_ends() {
    let (db, keys) = open();
    for key in ["a", "b", "c", "\u{ff}"] {
        keys.insert(key, "old").unwrap();
    }
    let mut transaction = db.transaction().unwrap();
    transaction.remove_range(&keys, "b"..).unwrap();
    assert_eq!(text(transaction.iter(&keys)), "a=old");
    assert_eq!(transaction.iter(&keys).rev().count(), 1);
    transaction.put(&keys, "x", "new").unwrap();
    assert_eq!(text(transaction.iter(&keys)), "a=old x=new");
    transaction.remove_range::<&str>(&keys, ..).unwrap();
    assert_eq!(transaction.len(), 1);
    assert_eq!((transaction.iter(&keys).count(), transaction.iter(&keys).rev().count()), (0, 0));
    transaction.commit().unwrap();
    assert_eq!(all(&keys), []);
}

#[test]
fn a_range_that_was_only_removed_does_not_conflict_and_takes_what_came_meanwhile() {
    let (db, keys) = open();
    keys.insert("b", "old").unwrap();
    let mut transaction = db.transaction().unwrap();
    transaction.remove_range(&keys, "a".."d").unwrap();
    // Looking at what it removed itself reads nothing.
    assert_eq!(transaction.get(&keys, "b").unwrap(), None);
    keys.insert("b", "meanwhile").unwrap();
    keys.insert("c", "meanwhile").unwrap();
    keys.insert("d", "not in it").unwrap();
    transaction.commit().unwrap();
    assert_eq!(all(&keys), [(b"d".to_vec(), b"not in it".to_vec())]);
}

#[test]
fn a_range_that_was_walked_before_it_was_removed_conflicts_with_what_came_meanwhile() {
    let (db, keys) = open();
    keys.insert("b", "old").unwrap();
    let mut transaction = db.transaction().unwrap();
    assert_eq!(transaction.range(&keys, "a".."d").count(), 1);
    transaction.remove_range(&keys, "a".."d").unwrap();
    keys.insert("c", "meanwhile").unwrap();
    refused(transaction, &db, "c");
    assert_eq!(all(&keys).len(), 2);
}

#[test]
fn a_range_removed_by_a_transaction_conflicts_with_who_read_in_it_wherever_it_has_come_to() {
    type Settle = fn(&Db);
    let settle: [Settle; 3] = [|_| {}, |db| db.flush().unwrap(), |db| db.compact().unwrap()];
    for settle in settle {
        let (db, keys) = open();
        for key in ["a", "b", "c"] {
            keys.insert(key, "old").unwrap();
        }
        let (mut inside, mut absent, mut walked, mut outside) = (
            db.transaction().unwrap(),
            db.transaction().unwrap(),
            db.transaction().unwrap(),
            db.transaction().unwrap(),
        );
        inside.get(&keys, "b").unwrap();
        absent.get(&keys, "bb").unwrap();
        assert_eq!(walked.range(&keys, "bb".."c").count(), 0);
        outside.get(&keys, "c").unwrap();
        for transaction in [&mut inside, &mut absent, &mut walked, &mut outside] {
            transaction.put(&keys, "x", "1").unwrap();
        }
        let mut removing = db.transaction().unwrap();
        removing.remove_range(&keys, "b".."c").unwrap();
        removing.commit().unwrap();
        settle(&db);
        refused(inside, &db, "b");
        refused(absent, &db, "bb");
        refused(walked, &db, "bb");
        outside.commit().unwrap();
    }
}

#[test]
fn ranges_that_hold_no_key_are_no_writes_and_there_are_at_most_so_many() {
    let (db, keys) = open();
    let mut transaction = db.transaction().unwrap();
    transaction.remove_range(&keys, "b".."b").unwrap();
    transaction.remove_range(&keys, "c".."a").unwrap();
    assert!(transaction.is_empty());
    let long = vec![b'k'; seawall_engine::format::KEY_LEN_MAX + 1];
    let refused = transaction.remove_range(&keys, &long[..]..);
    assert!(matches!(refused, Err(Error::TooLarge { what: "key", .. })), "{refused:?}");
    let large = Db::builder("/data").storage(Arc::new(MemoryDisk::new())).open().unwrap();
    let keys = large.keyspace("k").unwrap();
    let mut transaction = large.transaction().unwrap();
    let max = seawall_engine::payload::RANGE_DELETES_MAX;
    let range = |number: usize| format!("{number:05}a")..format!("{number:05}b");
    for number in 0..max {
        transaction.remove_range(&keys, range(number)).unwrap();
    }
    let refused = transaction.remove_range(&keys, range(max)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a transaction may have 1024 removed ranges and this one has more; do the work in smaller transactions"
    );
    assert_eq!(transaction.len(), max, "what was refused is not there");
    transaction.remove_range(&keys, "00000a".."01000b").unwrap();
    assert_eq!(transaction.len(), max - 1000, "what lies in one range is part of it");
    transaction.commit().unwrap();
}

#[test]
fn what_a_removed_range_gives_up_takes_no_room() {
    let (db, keys) = open();
    let mut transaction = db.transaction().unwrap();
    transaction.remove_range(&keys, "a".."b").unwrap();
    transaction.remove_range(&keys, "c".."d").unwrap();
    transaction.put(&keys, "key", vec![1; 10_000]).unwrap();
    let full = transaction.put(&keys, "other", vec![1; 10_000]);
    assert!(matches!(full, Err(Error::TooLarge { what: "batch", .. })), "{full:?}");
    transaction.remove_range(&keys, "b".."l").unwrap();
    assert_eq!(transaction.len(), 1);
    transaction.put(&keys, "other", vec![1; 10_000]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(all(&keys).len(), 1);
}

#[test]
fn a_keyspace_dropped_meanwhile_is_an_error_whether_it_was_read_or_written() {
    for read in [true, false] {
        let (db, keys) = open();
        let other = db.keyspace("other").unwrap();
        keys.insert("a", "1").unwrap();
        let mut transaction = db.transaction().unwrap();
        match read {
            true => drop(transaction.get(&keys, "a").unwrap()),
            false => transaction.put(&keys, "a", "2").unwrap(),
        }
        transaction.put(&other, "b", "1").unwrap();
        db.drop_keyspace("k").unwrap();
        db.keyspace("k").unwrap();
        let refused = transaction.commit();
        assert!(matches!(&refused, Err(Error::UnknownKeyspace { name }) if name == "k"), "{refused:?}");
        assert_eq!(other.get("b").unwrap(), None);
    }
}

#[test]
fn handles_of_another_database_are_refused() {
    let ((db, keys), (_other, theirs)) = (open(), open());
    let mut transaction = db.transaction().unwrap();
    transaction.put(&keys, "a", "1").unwrap();
    assert!(matches!(transaction.get(&theirs, "a"), Err(Error::UnknownKeyspace { .. })));
    assert!(matches!(transaction.put(&theirs, "a", "1"), Err(Error::UnknownKeyspace { .. })));
    let ranged: Vec<_> = transaction.iter(&theirs).collect();
    assert!(matches!(&ranged[..], [Err(Error::UnknownKeyspace { .. })]));
}

#[test]
fn what_a_transaction_reads_and_writes_is_bounded() {
    let (db, keys) = open();
    let mut transaction = db.transaction().unwrap();
    assert!(matches!(transaction.put(&keys, "", "v"), Err(Error::EmptyKey)));
    transaction.put(&keys, "k", vec![1; 10_000]).unwrap();
    transaction.put(&keys, "k", vec![2; 10_000]).unwrap();
    let full = transaction.put(&keys, "l", vec![1; 10_000]);
    assert!(matches!(full, Err(Error::TooLarge { what: "batch", .. })), "{full:?}");
    assert_eq!(transaction.len(), 1, "what was refused is not there");
    for number in 0..Transaction::READS_MAX {
        transaction.get(&keys, number.to_string()).unwrap();
    }
    transaction.get(&keys, "7").unwrap();
    let error = transaction.get(&keys, "one more").unwrap_err();
    assert_eq!(
        error.to_string(),
        "a transaction may have 65536 reads and this one has more; do the work in smaller transactions"
    );
    let transaction = db.transaction().unwrap();
    let long = vec![0; 60_000];
    let mut many = (0_u32..).map(|number| transaction.get(&keys, [&long[..], &number.to_le_bytes()].concat()));
    let error = many.find_map(Result::err).unwrap();
    let limit = Transaction::READ_BYTES_MAX;
    assert!(matches!(error, Error::TooLarge { what: "read set", max, .. } if max == limit), "{error}");
    let large = Db::builder("/data").storage(Arc::new(MemoryDisk::new())).open().unwrap();
    let keys = large.keyspace("k").unwrap();
    let mut transaction = large.transaction().unwrap();
    for number in 0..Transaction::WRITES_MAX {
        transaction.put(&keys, number.to_string(), "").unwrap();
    }
    let more = transaction.put(&keys, "one more", "");
    assert!(matches!(more, Err(Error::TooMany { what: "writes", max: Transaction::WRITES_MAX })), "{more:?}");
    transaction.commit().unwrap();
}

#[test]
fn a_read_only_node_refuses_writes_and_lets_read() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    db.keyspace("k").unwrap().insert("a", "1").unwrap();
    drop(db);
    let db = inline(&disk).open_as(OpenAs::Standby).open().unwrap();
    let keys = db.existing_keyspace("k").unwrap();
    let mut transaction = db.transaction().unwrap();
    assert_eq!(transaction.get(&keys, "a").unwrap().as_deref(), Some(&b"1"[..]));
    transaction.put(&keys, "a", "2").unwrap();
    assert!(matches!(transaction.commit(), Err(Error::ReadOnly { .. })));
    let reading = db.transaction().unwrap();
    assert_eq!(reading.get(&keys, "a").unwrap().as_deref(), Some(&b"1"[..]));
    reading.commit().unwrap();
}

#[test]
fn an_error_of_the_work_ends_it_and_writes_nothing() {
    let (db, keys) = open();
    let mut tries = 0;
    let failed = db.transact(|transaction| {
        tries += 1;
        transaction.put(&keys, "a", "1")?;
        transaction.put(&keys, "", "no key")
    });
    assert!(matches!(failed, Err(Error::EmptyKey)));
    assert_eq!((tries, keys.get("a").unwrap()), (1, None));
}

#[test]
fn a_transaction_that_always_conflicts_is_given_up_after_a_bounded_number_of_tries() {
    let (db, keys) = open();
    let mut tries = 0;
    let failed = db.transact(|transaction| {
        tries += 1;
        transaction.get(&keys, "a")?;
        transaction.put(&keys, "b", "1")?;
        keys.insert("a", "2").map(drop)
    });
    assert!(matches!(failed, Err(Error::Conflict { .. })));
    assert_eq!(tries, 16);
}

/// Four threads raise two counters by reading and writing them; says how many of their steps are missing at the end.
fn lost_steps(steps: usize, mutant: Option<Mutant>) -> usize {
    let db = threaded(&MemoryDisk::new()).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let counter = |value: Option<bytes::Bytes>| {
        value.map_or(0, |value| String::from_utf8(value.to_vec()).unwrap().parse::<usize>().unwrap())
    };
    let until = Instant::now() + Duration::from_secs(60);
    let raise_often = || {
        for step in 0..steps {
            let key = [b"ab"[step % 2]];
            let raise = |transaction: &mut Transaction| {
                let value = counter(transaction.get(&keys, key)?);
                transaction.put(&keys, key, (value + 1).to_string())
            };
            while let Err(error) = db.transact(raise) {
                assert!(matches!(error, Error::Conflict { .. }), "{error}");
                assert!(Instant::now() < until);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| match mutant {
                Some(mutant) => with_mutant(mutant, raise_often),
                None => raise_often(),
            });
        }
    });
    4 * steps - counter(keys.get("a").unwrap()) - counter(keys.get("b").unwrap())
}

#[test]
fn counters_raised_by_many_threads_lose_no_step() {
    assert_eq!(lost_steps(100, None), 0);
}

#[test]
fn the_counters_catch_a_check_that_misses_what_is_not_applied_yet() {
    assert!((0..200).any(|_| lost_steps(100, Some(Mutant::UncheckedPending)) > 0));
}
