//! Values that end, operands that are merged and ranges that are removed: what a user is promised of them, on every node
//! and after reopening.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{all, all_at, inline, threaded};
use seawall_engine::manifest::Manifest;
use seawall_engine::payload::RANGE_DELETES_MAX;
use seawall_engine::{Error, Installation, Keyspace, LogRetention, MergeOperator, Role};
use seawall_wal::clock::ManualClock;
use seawall_wal::storage::MemoryDisk;
use seawall_wal::{Clock, Lsn, SegmentSize, Timestamp};

const START: Timestamp = Timestamp(1_700_000_000_250_000);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START))
}

fn pass(clock: &ManualClock, millis: u64) {
    clock.set(Timestamp(clock.now().0 + millis * 1_000));
}

fn add(number: i64) -> [u8; 8] {
    number.to_le_bytes()
}

#[test]
fn a_value_ends_with_the_second_in_which_its_time_has_come() {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let db = inline(&disk).clock(clock.clone()).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("a", "older").unwrap();
    keys.insert_with_ttl("a", "1", Duration::from_millis(1_500)).unwrap();
    let early = db.snapshot().unwrap();
    pass(&clock, 1_600);
    assert_eq!(keys.get("a").unwrap().unwrap(), "1", "nothing was written since");
    let at = db.append_time().unwrap();
    assert_eq!(db.snapshot_at(at).unwrap().time(), Timestamp(1_700_000_001_000_000));
    assert_eq!(keys.get("a").unwrap().unwrap(), "1", "its second has not passed");
    pass(&clock, 200);
    db.append_time().unwrap();
    assert_eq!(keys.get("a").unwrap(), None);
    assert_eq!(keys.multi_get(&["a"]).unwrap(), [None]);
    assert_eq!(all(&keys), []);
    assert_eq!(early.get(&keys, "a").unwrap().unwrap(), "1", "a snapshot keeps its time");
    db.compact().unwrap();
    assert_eq!(early.get(&keys, "a").unwrap().unwrap(), "1");
    drop(early);
    keys.insert("b", "2").unwrap();
    db.compact().unwrap();
    let stored: u64 = db.stats().levels.iter().map(|level| level.entries).sum();
    assert_eq!(stored, 1, "what has ended takes no space");
}

#[test]
fn a_walk_finds_what_lies_behind_a_key_of_thousands_of_versions_wherever_they_are() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).memtable_bytes(16 << 20).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let write = |from: u32, to: u32| {
        for number in from..to {
            keys.insert("b", number.to_string()).unwrap();
        }
    };
    let pair = |key: &'static str, value: &str| (key.into(), value.to_owned().into());
    keys.insert("a", "1").unwrap();
    write(0, 3_000);
    keys.insert("c", "3").unwrap();
    let middle = db.snapshot().unwrap();
    write(3_000, 6_000);
    let expected = [pair("a", "1"), pair("b", "5999"), pair("c", "3")];
    for written_out in [false, true] {
        assert_eq!(all(&keys), expected, "{written_out}");
        assert_eq!(all_at(&middle, &keys), [pair("a", "1"), pair("b", "2999"), pair("c", "3")], "{written_out}");
        let own = |(key, value): (bytes::Bytes, bytes::Bytes)| (key.to_vec(), value.to_vec());
        let back = |range: seawall_engine::Range| {
            let mut pairs: Vec<_> = range.rev().map(|pair| own(pair.unwrap())).collect();
            pairs.reverse();
            pairs
        };
        let forward: Vec<_> = keys.range("b"..).map(|pair| own(pair.unwrap())).collect();
        let backward = back(keys.range("a"..));
        assert_eq!((&forward[..], &backward[..]), (&expected[1..], &expected[..]), "{written_out}");
        assert_eq!(back(middle.range(&keys, "b"..)), [pair("b", "2999"), pair("c", "3")], "{written_out}");
        db.flush().unwrap();
    }
    // Some in a table that the snapshot keeps, some in memory again.
    write(6_000, 7_000);
    assert_eq!(all(&keys)[1..], [pair("b", "6999"), pair("c", "3")]);
    keys.remove("b").unwrap();
    assert_eq!(all(&keys), [pair("a", "1"), pair("c", "3")]);
    assert_eq!(all_at(&middle, &keys)[1..], [pair("b", "2999"), pair("c", "3")]);
}

#[test]
fn a_walk_over_a_key_of_thousands_of_versions_takes_no_longer_for_them() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).memtable_bytes(64 << 20).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("few", "1").unwrap();
    keys.insert("many", "1").unwrap();
    let before = db.snapshot().unwrap();
    for number in 0..30_000 {
        keys.insert("many", number.to_string()).unwrap();
    }
    let walks: [(&str, &dyn Fn(&'static str) -> usize); 3] = [
        ("forward", &|key| keys.range(key..=key).count()),
        ("backward", &|key| keys.range(key..=key).rev().count()),
        ("forward before them", &|key| before.range(&keys, key..=key).count()),
    ];
    for (way, walk) in walks {
        // One by one they take thousands of times as long; the shortest of several is nobody else's fault.
        let shortest = |key| {
            let times = (0..20).map(|_| {
                let begun = Instant::now();
                assert_eq!(walk(key), 1, "{way}");
                begun.elapsed()
            });
            times.min().unwrap()
        };
        let (few, many) = (shortest("few"), shortest("many"));
        assert!(many < few * 50, "{way}: {many:?} where a key of one version takes {few:?}");
    }
}

#[test]
fn operands_count_without_being_read_and_all_of_a_batch_do() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.merge("n", MergeOperator::Add, add(5)).unwrap();
    db.flush().unwrap();
    keys.merge("n", MergeOperator::Add, add(-7)).unwrap();
    let mut batch = db.batch();
    batch.merge(&keys, "n", MergeOperator::Add, add(10)).merge(&keys, "n", MergeOperator::Add, add(20));
    batch.put(&keys, "log", "a").merge(&keys, "log", MergeOperator::Append, "b");
    batch.merge(&keys, "log", MergeOperator::Max, "abc").remove(&keys, "gone");
    batch.merge(&keys, "gone", MergeOperator::Append, "new");
    batch.commit().unwrap();
    let expected = [("gone", b"new".to_vec()), ("log", b"abc".to_vec()), ("n", add(28).to_vec())]
        .map(|(key, value)| (key.as_bytes().to_vec(), value));
    assert_eq!(all(&keys), expected);
    db.compact().unwrap();
    assert_eq!(all(&keys), expected);
}

#[test]
fn an_operand_that_is_none_writes_nothing() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let end = db.log().end();
    let wrong = keys.merge("n", MergeOperator::Add, "1").unwrap_err();
    assert!(matches!(wrong, Error::WrongOperand { operator: MergeOperator::Add, size: 1 }), "{wrong}");
    let mut batch = db.batch();
    batch.merge(&keys, "n", MergeOperator::Append, "1").merge(&keys, "n", MergeOperator::Max, "2");
    assert!(matches!(batch.commit(), Err(Error::MixedOperators { key }) if key == "n"));
    assert_eq!(db.log().end(), end);
}

#[test]
fn a_merge_keeps_the_end_of_its_value_and_begins_anew_after_it() {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let db = inline(&disk).clock(clock.clone()).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert_with_ttl("n", add(1), Duration::from_secs(2)).unwrap();
    pass(&clock, 1_000);
    keys.merge("n", MergeOperator::Add, add(10)).unwrap();
    let within = db.snapshot().unwrap();
    pass(&clock, 2_000);
    keys.merge("n", MergeOperator::Add, add(100)).unwrap();
    for _ in 0..2 {
        assert_eq!(within.get(&keys, "n").unwrap().unwrap(), &add(11)[..]);
        assert_eq!(keys.get("n").unwrap().unwrap(), &add(100)[..]);
        db.compact().unwrap();
    }
    pass(&clock, 60_000);
    db.append_time().unwrap();
    assert_eq!(keys.get("n").unwrap().unwrap(), &add(100)[..], "it does not end any more");
}

#[test]
fn snapshots_above_the_floor_read_the_same_after_reopening() {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let open = || inline(&disk).clock(clock.clone()).open().unwrap();
    let db = open();
    let keys = db.keyspace("k").unwrap();
    // Writing out what comes now does not raise the floor.
    db.set_read_horizon(Some(db.visible()));
    let mut digests = Vec::new();
    for number in 0..20_u32 {
        keys.insert_with_ttl(number.to_le_bytes(), "v", Duration::from_millis(u64::from(number) * 700)).unwrap();
        keys.merge("sum", MergeOperator::Add, add(1)).unwrap();
        let snapshot = db.snapshot().unwrap();
        digests.push((snapshot.lsn(), snapshot.time(), snapshot.digest().unwrap()));
        pass(&clock, 400);
        if number == 12 {
            db.flush().unwrap();
        }
    }
    drop(keys);
    db.close().unwrap();
    let db = open();
    for (lsn, time, digest) in digests {
        let snapshot = db.snapshot_at(lsn).unwrap();
        assert_eq!((snapshot.time(), snapshot.digest().unwrap()), (time, digest), "{lsn}");
    }
}

#[test]
fn a_standby_judges_the_end_of_values_by_its_primarys_log() {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let primary = inline(&disk).clock(clock.clone()).log_retention(LogRetention::Node).open().unwrap();
    let keys = primary.keyspace("k").unwrap();
    // Its own clock is far ahead, and has no say.
    let ahead = Arc::new(ManualClock::new(Timestamp(START.0 * 2)));
    let standby_disk = MemoryDisk::new();
    let builder = inline(&standby_disk).clock(ahead);
    let manifest = Manifest::empty(primary.cluster()).encode();
    Installation::begin(&builder, &manifest, &primary.history()).unwrap().finish(Role::Standby).unwrap();
    let standby = builder.open().unwrap();
    for number in 0..30_u32 {
        keys.insert_with_ttl(number.to_le_bytes(), "v", Duration::from_secs(u64::from(number) % 7)).unwrap();
        keys.merge("sum", MergeOperator::Add, add(i64::from(number))).unwrap();
        pass(&clock, 300);
    }
    while let Some(log) = primary.log().read(standby.log().end().lsn, 1 << 16).unwrap() {
        standby.receive(&log).unwrap();
        standby.flush_received().unwrap();
    }
    let (ours, theirs) = (primary.snapshot().unwrap(), standby.snapshot().unwrap());
    assert_eq!((ours.lsn(), ours.time()), (theirs.lsn(), theirs.time()));
    standby.compact().unwrap();
    assert_eq!(ours.digest().unwrap(), theirs.digest().unwrap());
    let there = all_at(&ours, &keys).len();
    assert!(there > 5 && there < 20, "{there}: some have ended, some have not");
}

#[test]
fn a_primary_that_writes_nothing_lets_time_pass() {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let db = threaded(&disk).clock(clock.clone()).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert_with_ttl("a", "1", Duration::from_secs(3)).unwrap();
    keys.insert_with_ttl("b", "2", Duration::from_secs(3_600)).unwrap();
    let gone = |key: &str| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while keys.get(key).unwrap().is_some() {
            assert!(Instant::now() < deadline, "{key} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    pass(&clock, 5_000);
    gone("a");
    // Also when it is known from a table only.
    db.compact().unwrap();
    assert_eq!(keys.get("b").unwrap().unwrap(), "2");
    let end = db.log().end();
    pass(&clock, 600_000);
    std::thread::sleep(Duration::from_millis(1_200));
    assert_eq!(db.log().end(), end, "nothing has ended, so nobody has to know the time");
    pass(&clock, 3_600_000);
    gone("b");
}

#[test]
fn transactions_count_without_a_conflict_unless_they_look() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let (mut blind, mut looks) = (db.transaction().unwrap(), db.transaction().unwrap());
    blind.merge(&keys, "n", MergeOperator::Add, add(1)).unwrap();
    looks.merge(&keys, "n", MergeOperator::Add, add(10)).unwrap();
    assert_eq!(looks.get(&keys, "n").unwrap().unwrap(), &add(10)[..]);
    keys.merge("n", MergeOperator::Add, add(100)).unwrap();
    blind.commit().unwrap();
    assert!(matches!(looks.commit(), Err(Error::Conflict { .. })));
    assert_eq!(keys.get("n").unwrap().unwrap(), &add(101)[..]);
}

#[test]
fn a_transaction_conflicts_with_the_end_of_what_it_read() {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let db = inline(&disk).clock(clock.clone()).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert_with_ttl("lease", "ann", Duration::from_secs(1)).unwrap();
    let mut held = db.transaction().unwrap();
    assert!(held.get(&keys, "lease").unwrap().is_some());
    held.put(&keys, "by", "ann").unwrap();
    pass(&clock, 5_000);
    let lsn = keys.insert("other", "seen without a lease").unwrap().lsn;
    match held.commit() {
        Err(Error::Conflict { key, lsn: by, .. }) => assert_eq!((&key[..], by), (&b"lease"[..], lsn)),
        other => panic!("{other:?}"),
    }
    assert_eq!(keys.get("by").unwrap(), None);
}

#[test]
fn a_removed_range_is_gone_wherever_it_was_and_what_comes_after_is_not() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let fill = |from: u32, value: &str| {
        for number in from..from + 100 {
            keys.insert(format!("{number:04}"), value.repeat(30)).unwrap();
        }
    };
    fill(0, "old");
    db.compact().unwrap();
    fill(50, "newer");
    db.flush().unwrap();
    let before = db.snapshot().unwrap();
    let expected = all_at(&before, &keys);
    let mut batch = db.batch();
    batch.put(&keys, "0020", "goes").remove_range(&keys, "0010"..="0139").put(&keys, "0030", "stays");
    batch.merge(&keys, "0040", MergeOperator::Append, "begins");
    batch.commit().unwrap();
    let check = |keys: &Keyspace| {
        let there: Vec<_> = all(keys).into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect();
        let mut wanted: Vec<_> = (0..10).chain([30, 40]).chain(140..150).map(|number| format!("{number:04}")).collect();
        assert_eq!(there, wanted);
        wanted.reverse();
        let back: Vec<_> = keys.iter().rev().map(|pair| String::from_utf8(pair.unwrap().0.to_vec()).unwrap()).collect();
        assert_eq!(back, wanted);
        let many = keys.multi_get(&["0009", "0010", "0030", "0040", "0139", "0140"]).unwrap();
        assert_eq!(many.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, true, false, true]);
        assert_eq!(keys.get("0020").unwrap(), None);
        assert_eq!(keys.get("0040").unwrap().unwrap(), "begins");
    };
    check(&keys);
    db.flush().unwrap();
    check(&keys);
    db.compact().unwrap();
    check(&keys);
    assert_eq!(all_at(&before, &keys), expected, "a snapshot keeps what it had");
    drop((before, keys));
    db.close().unwrap();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    check(&keys);
    db.compact().unwrap();
    check(&keys);
    let stored: u64 = db.stats().levels.iter().map(|level| level.entries).sum();
    assert_eq!(stored, 22, "what was removed takes no space");
    keys.remove_range::<&[u8]>(..).unwrap();
    assert_eq!(all(&keys), []);
    keys.insert("0001", "again").unwrap();
    db.compact().unwrap();
    assert_eq!(all(&keys).len(), 1);
}

#[test]
fn a_removed_range_conflicts_with_what_was_read_of_it() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for flushed in [false, true] {
        keys.insert("b", "1").unwrap();
        let mut transactions: Vec<_> = (0..4).map(|_| db.transaction().unwrap()).collect();
        assert!(transactions[0].get(&keys, "b").unwrap().is_some());
        assert_eq!(transactions[1].range(&keys, "x"..).count(), 0);
        assert_eq!(transactions[2].range(&keys, "c".."d").count(), 0);
        assert!(transactions[3].get(&keys, "a").unwrap().is_none());
        transactions.iter_mut().for_each(|transaction| transaction.put(&keys, "own", "2").unwrap());
        let lsn = keys.remove_range("b".."c").unwrap().lsn;
        keys.remove_range("y"..).unwrap();
        if flushed {
            db.flush().unwrap();
        }
        let outcomes: Vec<_> = transactions.into_iter().map(|transaction| transaction.commit().map(drop)).collect();
        let (first, second) = (&outcomes[0], &outcomes[1]);
        assert!(matches!(first, Err(Error::Conflict { key, lsn: by, .. }) if key == "b" && *by == lsn), "{first:?}");
        assert!(matches!(second, Err(Error::Conflict { key, .. }) if key == "y"), "{second:?}");
        assert!(outcomes[2].is_ok() && outcomes[3].is_ok());
    }
}

#[test]
fn many_removed_ranges_do_not_fill_the_memory() {
    let disk = MemoryDisk::new();
    let size = SegmentSize::new(1 << 20).unwrap();
    let db = inline(&disk).segment_size(size).memtable_bytes(1 << 20).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let mut batch = db.batch();
    for number in 0..=RANGE_DELETES_MAX {
        batch.remove_range(&keys, format!("{number:05}")..format!("{number:05}5"));
    }
    assert!(matches!(batch.commit(), Err(Error::TooManyRanges { .. })));
    for number in 0..3_000 {
        keys.insert(format!("{number:05}"), "v").unwrap();
        keys.remove_range(format!("{number:05}")..format!("{number:05}5")).unwrap();
    }
    assert!(db.redo().lsn > Lsn::ZERO, "ranges count as memory");
    assert_eq!(all(&keys), []);
    db.compact().unwrap();
    assert_eq!(db.stats().levels.iter().map(|level| level.tables).sum::<u64>(), 0, "nothing is left to remove");
}
