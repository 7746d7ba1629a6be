//! What a user of the database relies on.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Entries, PATH, all, all_at, inline, threaded};
use seawall_engine::{CommitLevel, Create, Db, Error};
use seawall_wal::storage::{Disk, MemoryDisk};
use seawall_wal::{ClusterId, Lsn, SegmentSize};

fn text(entries: Entries) -> String {
    let pair = |(key, value): (Vec<u8>, Vec<u8>)| {
        format!("{}={}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value))
    };
    entries.into_iter().map(pair).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_written_is_read_and_survives_reopening() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let users = db.keyspace("users").unwrap();
    let commit = users.insert("ann", "1").unwrap();
    users.insert("bob", "2").unwrap();
    users.remove("ann").unwrap();
    users.insert("cy", "").unwrap();
    assert_eq!(users.get("ann").unwrap(), None);
    assert_eq!(users.get("bob").unwrap().as_deref(), Some(&b"2"[..]));
    assert!(users.contains("cy").unwrap() && !users.contains("dan").unwrap());
    assert!(commit.lsn < db.visible());
    drop((users, db));
    let db = inline(&disk).open().unwrap();
    assert_eq!(text(all(&db.keyspace("users").unwrap())), "bob=2 cy=");
    assert_eq!(db.keyspaces(), ["users"]);
}

#[test]
fn a_batch_takes_effect_as_a_whole_and_its_last_operation_on_a_key_wins() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let (a, b) = (db.keyspace("a").unwrap(), db.keyspace("b").unwrap());
    a.insert("gone", "x").unwrap();
    let mut batch = db.batch();
    batch.put(&a, "k", "1").put(&b, "k", "2").remove(&a, "gone").put(&a, "k", "3").put(&b, "j", "4").remove(&b, "j");
    assert_eq!(batch.len(), 6);
    let before = db.snapshot().unwrap();
    batch.commit().unwrap();
    assert_eq!((text(all(&a)), text(all(&b))), ("k=3".into(), "k=2".into()));
    assert_eq!((text(all_at(&before, &a)), text(all_at(&before, &b))), ("gone=x".into(), String::new()));
    assert_eq!(db.batch().commit().unwrap().lsn, db.visible(), "an empty batch writes nothing");
}

#[test]
fn ranges_walk_from_both_ends_and_meet_once() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for key in ["a", "ab", "b", "ba", "bb", "c", "d"] {
        keys.insert(key, key).unwrap();
    }
    db.flush().unwrap();
    keys.remove("ba").unwrap();
    keys.insert("bc", "bc").unwrap();
    let names = |range: seawall_engine::Range| -> Vec<String> {
        range.map(|entry| String::from_utf8(entry.unwrap().0.to_vec()).unwrap()).collect()
    };
    assert_eq!(names(keys.range("ab".."c")), ["ab", "b", "bb", "bc"]);
    assert_eq!(names(keys.range("ab"..="c")), ["ab", "b", "bb", "bc", "c"]);
    assert_eq!(names(keys.range::<&str>(..)), names(keys.iter()));
    assert_eq!(names(keys.prefix("b")), ["b", "bb", "bc"]);
    assert!(names(keys.range("x".."a")).is_empty(), "an empty range is no panic");
    let backward: Vec<_> = keys.prefix("b").rev().map(|entry| entry.unwrap().0).collect();
    assert_eq!(backward, ["bc", "bb", "b"]);
    let mut range = keys.range("a".."d");
    let mut met = Vec::new();
    while let Some(entry) = range.next() {
        met.push(entry.unwrap().0);
        met.extend(range.next_back().map(|entry| entry.unwrap().0));
    }
    assert_eq!(met, ["a", "c", "ab", "bc", "b", "bb"]);
    assert_eq!(keys.first().unwrap().unwrap().0, "a");
    assert_eq!(keys.last().unwrap().unwrap().0, "d");
}

#[test]
fn keyspaces_are_made_once_dropped_and_not_mixed_with_their_successors() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let old = db.keyspace("k").unwrap();
    old.insert("a", "1").unwrap();
    let snapshot = db.snapshot().unwrap();
    db.drop_keyspace("k").unwrap();
    assert!(matches!(old.get("a"), Err(Error::UnknownKeyspace { name }) if name == "k"));
    assert!(matches!(old.insert("a", "2"), Err(Error::UnknownKeyspace { .. })));
    assert!(matches!(db.drop_keyspace("k"), Err(Error::UnknownKeyspace { .. })));
    let new = db.keyspace("k").unwrap();
    assert_ne!(new.id(), old.id());
    assert_eq!(new.get("a").unwrap(), None);
    assert_eq!(snapshot.get(&old, "a").unwrap().as_deref(), Some(&b"1"[..]), "an older snapshot still reads it");
    assert_eq!(snapshot.keyspaces(), ["k"]);
    db.compact().unwrap();
    assert_eq!(snapshot.get(&old, "a").unwrap().as_deref(), Some(&b"1"[..]), "also after a merge");
    drop(snapshot);
    new.insert("b", "1").unwrap();
    db.compact().unwrap();
    db.compact().unwrap();
    assert_eq!(db.stats().levels.iter().map(|level| level.entries).sum::<u64>(), 1, "its tables are gone");
    drop((old, new, db));
    let db = inline(&disk).open().unwrap();
    assert_eq!(text(all(&db.existing_keyspace("k").unwrap())), "b=1");
    assert!(matches!(db.existing_keyspace("other"), Err(Error::UnknownKeyspace { .. })));
}

#[test]
fn snapshots_stay_while_everything_changes_below_them() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let mut snapshots = Vec::new();
    for round in 0..20 {
        for key in 0..40 {
            keys.insert(format!("{key:03}"), format!("{round}")).unwrap();
        }
        if round % 5 == 0 {
            snapshots.push((round, db.snapshot().unwrap()));
            db.flush().unwrap();
        }
    }
    db.compact().unwrap();
    for (round, snapshot) in &snapshots {
        let values = all_at(snapshot, &keys);
        assert_eq!(values.len(), 40);
        assert!(values.iter().all(|(_, value)| value == round.to_string().as_bytes()), "{round}");
    }
    let oldest = snapshots[0].1.lsn();
    assert_eq!(db.snapshot_at(oldest).unwrap().lsn(), oldest);
    assert!(matches!(db.snapshot_at(Lsn::MAX), Err(Error::SnapshotTooNew { .. })));
    drop(snapshots);
    keys.insert("zzz", "1").unwrap();
    db.compact().unwrap();
    assert!(matches!(db.snapshot_at(oldest), Err(Error::SnapshotTooOld { .. })));
    assert_eq!(db.stats().levels.iter().map(|level| level.entries).sum::<u64>(), 41, "old versions are gone");
}

#[test]
fn a_read_horizon_keeps_versions_for_readers_of_a_level() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let confirmed = keys.insert("a", "confirmed").unwrap().lsn;
    db.set_read_horizon(Some(confirmed));
    keys.insert("a", "not yet").unwrap();
    db.compact().unwrap();
    let snapshot = db.snapshot_at(confirmed).unwrap();
    assert_eq!(snapshot.get(&keys, "a").unwrap().as_deref(), Some(&b"confirmed"[..]));
}

#[test]
fn what_is_too_large_or_empty_is_refused_and_nothing_is_written() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let before = db.log().end();
    let key = vec![7; 65_536];
    assert!(matches!(keys.insert(&key, "v"), Err(Error::TooLarge { what: "key", size: 65_536, max: 65_535 })));
    let error = keys.insert("k", vec![0; 20_000]).unwrap_err();
    assert_eq!(error.to_string(), "a value of 20000 bytes exceeds the 16316 bytes it may have");
    assert!(matches!(keys.insert("", "v"), Err(Error::EmptyKey)));
    let mut batch = db.batch();
    for key in 0..10_u8 {
        batch.put(&keys, [key], vec![0; 4_000]);
    }
    assert!(matches!(batch.commit(), Err(Error::TooLarge { what: "batch", .. })));
    assert!(matches!(db.keyspace(""), Err(Error::EmptyName)));
    assert!(matches!(db.keyspace(&"n".repeat(256)), Err(Error::TooLarge { .. })));
    assert_eq!(db.log().end(), before);
    keys.insert("k", vec![1; 16_316]).unwrap();
    db.flush().unwrap();
    assert_eq!(keys.get("k").unwrap().unwrap().len(), 16_316);
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Db::builder(folder.path()).segment_size(SegmentSize::MIN).storage(Arc::new(Disk::posix())).open();
    let db = open().unwrap();
    let error = open().unwrap_err();
    assert!(matches!(&error, Error::Locked { path } if path == folder.path()), "{error}");
    db.keyspace("k").unwrap().insert("a", "1").unwrap();
    drop(db);
    assert_eq!(open().unwrap().keyspace("k").unwrap().get("a").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn opening_says_what_does_not_fit() {
    let disk = MemoryDisk::new();
    let open = |create| inline(&disk).create(create).open();
    assert!(matches!(open(Create::Never), Err(Error::NotFound { .. })));
    let db = open(Create::IfMissing).unwrap();
    db.keyspace("k").unwrap();
    let cluster = db.cluster();
    drop(db);
    assert!(matches!(open(Create::Always), Err(Error::NotEmpty { .. })));
    let other = inline(&disk).cluster(ClusterId::random()).open().unwrap_err();
    assert!(other.to_string().contains(&cluster.to_string()), "{other}");
    let size = inline(&disk).segment_size(SegmentSize::DEFAULT).open();
    assert!(matches!(size, Err(Error::Mismatch { field: "segment size", .. })));
    use seawall_wal::storage::Storage;
    disk.remove(Path::new("/data/control")).unwrap();
    let unfinished = open(Create::IfMissing).unwrap_err();
    assert!(matches!(&unfinished, Error::Incomplete { .. }), "{unfinished}");
}

#[test]
fn tickets_are_waited_for_by_threads_and_tasks() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let commit = |key: &str, level| {
        let mut batch = db.batch();
        batch.put(&keys, key, "v");
        batch.commit_ticket_with(level).unwrap()
    };
    let tickets: Vec<_> = (0..100).map(|key| commit(&format!("{key}"), CommitLevel::Local)).collect();
    let lsns: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap().lsn).collect();
    assert!(lsns.is_sorted());
    let asynchronous = pollster(commit("async", CommitLevel::Local)).unwrap();
    assert!(asynchronous.lsn > lsns[99] && db.visible() >= asynchronous.lsn);
    let deadline = Instant::now() + Duration::from_secs(10);
    commit("deadline", CommitLevel::Local).wait_until(deadline).unwrap();
    let buffered = commit("buffered", CommitLevel::Buffered).wait().unwrap();
    db.sync().unwrap();
    assert!(db.visible() >= buffered.lsn);
    let mut batch = db.batch();
    batch.put(&keys, "k", "v");
    let end = db.log().end();
    let error = batch.commit_with(CommitLevel::RemoteFlush(1)).unwrap_err();
    assert!(matches!(error, Error::LevelUnavailable { level: CommitLevel::RemoteFlush(1), .. }));
    assert_eq!(db.log().end(), end, "nothing was written");
}

/// Runs a future to its end on this thread.
fn pollster<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(5)),
        }
    }
}

#[test]
fn handles_of_another_database_are_refused() {
    let (a, b) = (MemoryDisk::new(), MemoryDisk::new());
    let (a, b) = (inline(&a).open().unwrap(), inline(&b).open().unwrap());
    let theirs = b.keyspace("k").unwrap();
    let mut batch = a.batch();
    batch.put(&theirs, "k", "v");
    assert!(matches!(batch.commit(), Err(Error::UnknownKeyspace { .. })));
    assert!(matches!(a.snapshot().unwrap().get(&theirs, "k"), Err(Error::UnknownKeyspace { .. })));
}

#[test]
fn a_closed_database_still_reads_and_says_that_it_is_closed() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("a", "1").unwrap();
    db.close().unwrap();
    assert_eq!(keys.get("a").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(matches!(keys.insert("a", "2"), Err(Error::Closed)));
    drop(keys);
    let (control, _) = seawall_engine::control::ControlFile::read(&disk, Path::new(PATH)).unwrap().unwrap();
    assert!(control.clean_shutdown);
}

#[test]
fn commits_nobody_waits_for_become_visible_by_themselves() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let commit = |key: &str, level| {
        let mut batch = db.batch();
        batch.put(&keys, key, "v");
        drop(batch.commit_ticket_with(level).unwrap());
    };
    for (key, level) in [("buffered", CommitLevel::Buffered), ("dropped", CommitLevel::Local)] {
        commit(key, level);
        let until = Instant::now() + Duration::from_secs(20);
        while !keys.contains(key).unwrap() {
            assert!(Instant::now() < until, "{key}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn handles_are_shared_between_threads_and_a_keyspace_is_made_once() {
    fn shared<T: Clone + Send + Sync + 'static>(value: &T) -> T {
        value.clone()
    }
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    let threads: Vec<_> = (0..8_u32)
        .map(|thread| {
            let db = shared(&db);
            std::thread::spawn(move || {
                let keys = shared(&db.keyspace("together").unwrap());
                for number in 0..50 {
                    keys.insert(format!("{thread} {number}"), "v").unwrap();
                    assert!(keys.contains(format!("{thread} {number}")).unwrap(), "one reads one's own writes");
                }
                keys.id()
            })
        })
        .collect();
    let ids: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(db.keyspaces(), ["together"]);
    assert_eq!(all(&db.keyspace("together").unwrap()).len(), 400);
}

#[test]
fn sorted_data_is_loaded_in_bulk_and_survives() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("00005", "before").unwrap();
    let entries = || (0..2_000).map(|number| (format!("{number:05}"), vec![number as u8; 50]));
    let loaded = db.bulk_load(&keys, entries()).unwrap();
    assert_eq!(loaded.entries, 2_000);
    assert_eq!(db.visible(), loaded.lsn, "the last of it is durable and shown");
    assert_eq!(db.bulk_load(&keys, Vec::<(&str, &str)>::new()).unwrap().entries, 0);
    drop((keys, db));
    let db = inline(&disk.crashed_losing_all()).open().unwrap();
    let keys = db.existing_keyspace("k").unwrap();
    let expected: Vec<_> = entries().map(|(key, value)| (key.into_bytes(), value)).collect();
    assert_eq!(all(&keys), expected);
    let moves = db.stats().moves;
    assert!(db.stats().levels[0].tables < 10, "{:?}, {moves} moved", db.stats().levels);
}

#[test]
fn bulk_data_that_is_not_sorted_is_refused_by_its_first_key_out_of_order() {
    let db = inline(&MemoryDisk::new()).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for wrong in ["b", "a"] {
        let refused = db.bulk_load(&keys, [("a", "1"), ("b", "2"), (wrong, "3"), ("d", "4")]).unwrap_err();
        assert!(matches!(&refused, Error::Unsorted { key, entries: 2 } if key == wrong), "{refused}");
        assert!(
            refused.to_string().starts_with(&format!("key `{wrong}`, entry number 3, is not greater")),
            "{refused}"
        );
        assert!(refused.to_string().contains("sort the entries"), "{refused}");
    }
    assert_eq!(keys.get("d").unwrap(), None);
    let empty = db.bulk_load(&keys, [("", "1")]).unwrap_err();
    assert!(matches!(empty, Error::EmptyKey), "{empty}");
}
