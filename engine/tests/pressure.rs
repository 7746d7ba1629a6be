//! Memory and disk are bounded: commits wait or are refused, reads go on, and all heals by itself.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{all, inline, threaded};
use seawall_engine::mutant::{Mutant, with_mutant};
use seawall_engine::{Background, CommitLevel, Db, Error, Keyspace};
use seawall_wal::storage::{Fault, FaultyOperation, FaultyStorage, MemoryDisk};

/// Where the log writes: not where segments are prepared.
const ACTIVE_SEGMENT: &str = "/data/wal/00000001-0000000000000000.wal";

#[test]
fn reads_go_on_while_memtables_are_written_out_and_merged() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).memtable_bytes(16 << 10).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for number in 0..100 {
        keys.insert(format!("{number:03}"), "0").unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (db, keys, done) = (db.clone(), keys.clone(), Arc::clone(&done));
            thread::spawn(move || {
                let mut rounds = 0;
                while !done.load(Ordering::Acquire) {
                    let snapshot = db.snapshot().unwrap();
                    let values: Vec<_> = snapshot.iter(&keys).map(|entry| entry.unwrap().1).collect();
                    assert_eq!(values.len(), 100, "no key is ever missing");
                    // A round writes all keys in one batch, so a snapshot never shows two rounds.
                    assert!(values.iter().all(|value| *value == values[0]), "a batch is seen as a whole");
                    let first = keys.get("000").unwrap().unwrap();
                    assert!(String::from_utf8_lossy(&first).parse::<u32>().is_ok());
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    let merged = || db.stats().levels.iter().skip(1).any(|level| level.tables > 0);
    let until = Instant::now() + Duration::from_secs(60);
    for round in 1.. {
        if round >= 400 && merged() {
            break;
        }
        assert!(Instant::now() < until, "tables are merged meanwhile: {:?}", db.stats());
        let mut batch = db.batch();
        for number in 0..100 {
            batch.put(&keys, format!("{number:03}"), round.to_string());
        }
        batch.commit_with(CommitLevel::Buffered).unwrap();
    }
    done.store(true, Ordering::Release);
    let rounds: u32 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert!(rounds > 0);
}

/// Commits on a disk on which no table can be made, ten times what may be in memory; and why they ended, if they did.
fn commit_while_tables_cannot_be_written() -> (Db, Option<Error>) {
    let disk = MemoryDisk::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let db = threaded(&disk)
        .storage(Arc::new(storage.clone()))
        .memtable_bytes(8 << 10)
        .stall_timeout(Duration::from_millis(200))
        .open()
        .unwrap();
    let keys = db.keyspace("k").unwrap();
    // The log makes files too, so creations fail for good only once it has what it needs: tables are few bytes here.
    db.log().flush().unwrap();
    for number in 0..40_u32 {
        (0..200).for_each(|nth| storage.fail(FaultyOperation::Rename, nth, Fault::Error(5)));
        if let Err(error) = keys.insert(format!("{number:04}"), vec![0; 4_000]) {
            return (db, Some(error));
        }
    }
    (db, None)
}

#[test]
fn memory_stays_bounded_while_tables_cannot_be_written() {
    let (db, refused) = commit_while_tables_cannot_be_written();
    let refused = refused.expect("commits do not go on without bound");
    assert!(matches!(&refused, Error::Stuck { work: "writing memtables out", .. }), "{refused}");
    assert!(db.stats().memtable_bytes < 8 * (8 << 10), "{}", db.stats().memtable_bytes);
    assert!(db.keyspace("k").unwrap().get("0000").unwrap().is_some(), "reads go on");
}

#[test]
fn a_gate_that_stops_nobody_is_noticed() {
    // Then the log is the first that cannot go on: it makes files, too.
    let (db, refused) = with_mutant(Mutant::GateStopsNobody, commit_while_tables_cannot_be_written);
    assert!(!matches!(refused, Some(Error::Stuck { .. })) && db.stats().stalls == 0, "{refused:?}");
}

#[test]
fn writers_hear_what_no_table_can_be_written_for_and_go_on_by_themselves_when_one_can() {
    const EIO: i32 = 5;
    const EMFILE: i32 = 24;
    const EROFS: i32 = 30;
    let steps = [(FaultyOperation::Create, EROFS), (FaultyOperation::Create, EMFILE), (FaultyOperation::Write, EIO)];
    for (operation, errno) in steps.into_iter().chain([(FaultyOperation::Sync, EIO), (FaultyOperation::SyncDir, EIO)]) {
        let disk = MemoryDisk::new();
        let storage = FaultyStorage::new(Arc::new(disk.clone()));
        let builder = threaded(&disk).storage(Arc::new(storage.clone())).memtable_bytes(8 << 10);
        let db = builder.stall_timeout(Duration::from_secs(10)).open().unwrap();
        let keys = db.keyspace("k").unwrap();
        // More than will be tried.
        (0..500).for_each(|nth| storage.fail_under(Path::new("/data/tables"), operation, nth, Fault::Error(errno)));
        let mut acknowledged = 0_u32;
        let mut write = || keys.insert(format!("{acknowledged:04}"), vec![0; 4_000]).map(|_| acknowledged += 1);
        let refused = (0..100).find_map(|_| write().err()).expect("memory is bounded");
        let Error::Stuck { work: "writing memtables out", cause } = &refused else {
            panic!("{operation:?}: {refused}")
        };
        let Error::Io { path, source, .. } = &**cause else { panic!("{operation:?}: {cause}") };
        assert!(path.starts_with("/data/tables") && source.raw_os_error() == Some(errno), "{operation:?}: {cause}");
        assert!(refused.to_string().contains(&cause.to_string()), "{refused}");
        let stats = db.stats();
        assert_eq!(stats.writes_refused.map(|error| error.to_string()), Some(refused.to_string()));
        assert!(matches!(&stats.background_failures[..], [("writing memtables out", _)]));
        assert_eq!(keys.get("0000").unwrap().unwrap(), vec![0; 4_000], "reads go on");
        storage.heal();
        let until = Instant::now() + Duration::from_secs(60);
        while let Err(error) = write() {
            assert!(matches!(error, Error::Stuck { .. }) && Instant::now() < until, "{operation:?}: {error}");
            thread::sleep(Duration::from_millis(5));
        }
        (0..20).for_each(|_| write().unwrap());
        db.flush().unwrap();
        let stats = db.stats();
        assert!(stats.background_failures.is_empty() && stats.writes_refused.is_none(), "{stats:?}");
        let expected = all(&keys);
        assert_eq!(expected.len(), acknowledged as usize, "what was refused is not there, what was acknowledged is");
        drop(keys);
        drop(db);
        let db = inline(&disk.crashed_losing_all()).open().unwrap();
        assert_eq!(all(&db.existing_keyspace("k").unwrap()), expected);
    }
}

#[test]
fn a_full_disk_stops_writes_not_reads_and_heals_when_there_is_room() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).memtable_bytes(16 << 10).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("first", "1").unwrap();
    let used = u64::MAX - seawall_wal::storage::Storage::free_bytes(&disk, std::path::Path::new("/")).unwrap();
    assert_eq!(used, 0, "a memory disk has no end unless it is given one");
    disk.set_capacity(900 << 10);
    let mut acknowledged = Vec::new();
    let full = loop {
        let key = format!("{:05}", acknowledged.len());
        match keys.insert(&key, vec![7; 2_000]) {
            Ok(_) => acknowledged.push(key),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 10_000, "the disk is full at some time");
    };
    assert!(matches!(full, Error::DiskFull { .. }), "{full}");
    assert!(full.to_string().contains("free space"), "{full}");
    assert_eq!(keys.get("first").unwrap().unwrap(), "1", "reads go on");
    for key in &acknowledged {
        assert!(keys.contains(key).unwrap(), "{key}");
    }
    disk.set_capacity(1 << 30);
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = keys.insert("after", "1") {
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert!(Instant::now() < until, "it heals by itself");
        thread::sleep(Duration::from_millis(20));
    }
    db.flush().unwrap();
    assert_eq!(all(&keys).len(), acknowledged.len() + 2);
    drop((keys, db));
    let db = inline(&disk).open().unwrap();
    assert_eq!(all(&db.existing_keyspace("k").unwrap()).len(), acknowledged.len() + 2);
}

#[test]
fn a_disk_that_does_not_answer_keeps_nobody_longer_than_they_want_and_is_seen() {
    let disk = MemoryDisk::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let builder = threaded(&disk).storage(Arc::new(storage.clone())).log_buffer_bytes(40_000);
    let db = builder.open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("before", "1").unwrap();
    storage.fail_under(Path::new(ACTIVE_SEGMENT), FaultyOperation::Sync, 0, Fault::Silence);
    let commit = |key: &str, level: CommitLevel, patience: u64| {
        let mut batch = db.batch();
        batch.put(&keys, key, vec![7; 10_000]).deadline(Instant::now() + Duration::from_millis(patience));
        batch.commit_with(level)
    };
    let unknown = commit("unknown", CommitLevel::Local, 100).unwrap_err();
    assert!(matches!(&unknown, Error::Indeterminate { why, .. } if why == "the deadline passed"), "{unknown}");
    assert!(db.stats().log.flush_micros_now > 50_000, "health sees it");
    let mut transaction = db.transaction().unwrap();
    assert!(transaction.get(&keys, "before").unwrap().is_some(), "reads go on");
    transaction.put(&keys, "transaction", "1").unwrap();
    transaction.deadline(Instant::now() + Duration::from_millis(50));
    let late = transaction.commit().unwrap_err();
    assert!(matches!(late, Error::Indeterminate { .. }), "{late}");
    let mut let_in = 0;
    let refused = loop {
        match commit(&format!("buffered-{let_in}"), CommitLevel::Buffered, 50) {
            Ok(_) if let_in < 100 => let_in += 1,
            outcome => break outcome.unwrap_err(),
        }
    };
    assert!(matches!(&refused, Error::Backpressure(why) if why.reason == "the disk does not answer"), "{refused}");
    assert!(let_in > 0, "there was room for some");
    // It answers, and whatever was let in is there, also after reopening.
    storage.answer();
    keys.insert("after", "1").unwrap();
    assert_eq!(db.stats().log.flush_micros_now, 0);
    let expected = all(&keys);
    assert_eq!(expected.len(), 4 + let_in);
    drop(keys);
    db.close().unwrap();
    assert_eq!(all(&inline(&disk).open().unwrap().existing_keyspace("k").unwrap()), expected);
}

/// What closing says of a database with a commit that is not flushed, on a disk that does not answer when it is asked for
/// `operation` on a path or in it; and what is there once the disk has answered.
fn close_on_a_silent_disk(
    under: &str,
    operation: FaultyOperation,
    write: impl Fn(&FaultyStorage, &Db, &Keyspace),
) -> (Error, usize) {
    let disk = MemoryDisk::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let builder = || threaded(&disk).storage(Arc::new(storage.clone())).memtable_bytes(64 << 10);
    let db = builder().stall_timeout(Duration::from_millis(250)).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("before", "1").unwrap();
    storage.fail_under(Path::new(under), operation, 0, Fault::Silence);
    write(&storage, &db, &keys);
    drop(keys);
    let stalled = db.close().unwrap_err();
    assert!(matches!(builder().open(), Err(Error::Locked { .. })), "what is on its way must not meet another opener");
    storage.answer();
    let began = Instant::now();
    let db = loop {
        match builder().open() {
            Ok(db) => break db,
            Err(error) => assert!(matches!(error, Error::Locked { .. }), "{error}"),
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it is closed once the disk answers");
        thread::sleep(Duration::from_millis(50));
    };
    let there = all(&db.existing_keyspace("k").unwrap()).len();
    (stalled, there)
}

#[test]
fn closing_does_not_wait_for_ever_for_a_disk_that_does_not_answer_the_log() {
    let (stalled, there) = close_on_a_silent_disk(ACTIVE_SEGMENT, FaultyOperation::Sync, |_, db, keys| {
        let mut batch = db.batch();
        batch.put(keys, "buffered", "1");
        batch.commit_with(CommitLevel::Buffered).unwrap();
    });
    assert!(matches!(stalled, Error::Stalled { .. }), "{stalled}");
    assert!(stalled.to_string().contains("its directory stays locked until the disk answers"), "{stalled}");
    assert_eq!(there, 2);
}

#[test]
fn closing_does_not_wait_for_ever_for_a_disk_that_does_not_answer_a_table() {
    let (stalled, there) = close_on_a_silent_disk("/data/tables", FaultyOperation::Rename, |storage, _, keys| {
        for number in 0..20 {
            keys.insert(format!("{number:02}"), vec![7; 4_000]).unwrap();
        }
        // Before that the thread that writes tables can still be stopped, and closing need not wait for it.
        while storage.hits() == 0 {
            thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(matches!(stalled, Error::Stalled { .. }), "{stalled}");
    assert_eq!(there, 21);
}

#[test]
fn a_log_larger_than_memory_is_recovered_within_it() {
    let disk = MemoryDisk::new();
    let build = |bytes| inline(&disk).memtable_bytes(bytes).open().unwrap();
    let db = build(1 << 30);
    let keys = db.keyspace("k").unwrap();
    for number in 0..2_000 {
        let mut batch = db.batch();
        batch.put(&keys, format!("{number:05}"), vec![3; 500]);
        batch.commit_with(CommitLevel::Buffered).unwrap();
    }
    db.sync().unwrap();
    let before = db.snapshot().unwrap().digest().unwrap();
    drop(keys);
    db.close().unwrap();
    // With threads, records come in batches that are larger than the memtables.
    let db = threaded(&disk.duplicate()).memtable_bytes(32 << 10).open().unwrap();
    assert!(db.stats().memtable_bytes < 40 << 10, "{}", db.stats().memtable_bytes);
    assert_eq!(db.snapshot().unwrap().digest().unwrap(), before);
    drop(db);
    let db = build(32 << 10);
    let stats = db.stats();
    assert!(stats.memtable_bytes < 40 << 10, "{}", stats.memtable_bytes);
    assert!(stats.levels[0].tables > 20);
    assert_eq!(db.snapshot().unwrap().digest().unwrap(), before);
}

#[test]
fn the_engine_lets_go_of_log_that_its_tables_hold() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for number in 0..300 {
        keys.insert(format!("{number}"), vec![0; 2_000]).unwrap();
    }
    db.flush().unwrap();
    assert!(db.log().oldest() > seawall_wal::Lsn::ZERO);
    assert!(db.log().oldest() <= db.redo().lsn);
    drop((keys, db));
    assert_eq!(all(&inline(&disk).open().unwrap().existing_keyspace("k").unwrap()).len(), 300);
}

#[test]
fn a_failed_sync_of_the_log_is_final_until_reopened() {
    let disk = MemoryDisk::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let db: Db = inline(&disk).storage(Arc::new(storage.clone())).background(Background::Inline).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("a", "1").unwrap();
    storage.fail(FaultyOperation::Sync, 0, Fault::Error(5));
    let lost = keys.insert("b", "2").unwrap_err();
    assert!(matches!(lost, Error::Indeterminate { .. }), "{lost}");
    assert!(lost.to_string().contains("cannot sync ") && lost.to_string().contains("os error 5"), "{lost}");
    let after = keys.insert("c", "3").unwrap_err();
    assert!(matches!(after, Error::Poisoned { .. }), "{after}");
    assert_eq!(keys.get("a").unwrap().unwrap(), "1");
    assert_eq!(keys.get("b").unwrap(), None, "what is not durable is not shown");
    assert!(db.poisoned().is_some());
    drop((keys, db));
    let db = inline(&disk.crashed_losing_all()).open().unwrap();
    assert_eq!(db.existing_keyspace("k").unwrap().get("a").unwrap().unwrap(), "1");
}

/// Commits while the nth call of the disk in a folder panics, in whatever thread. Says which work ended so, as far as writers were told.
fn commit_while_a_thread_panics(folder: &str, operation: FaultyOperation, nth: u64) -> Option<String> {
    let disk = MemoryDisk::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let db = threaded(&disk)
        .storage(Arc::new(storage.clone()))
        .memtable_bytes(8 << 10)
        .stall_timeout(Duration::from_secs(60))
        .open()
        .unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("first", "1").unwrap();
    storage.fail_under(&Path::new("/data").join(folder), operation, nth, Fault::Panic);
    let started = Instant::now();
    let mut acknowledged = 0_u32;
    let refused = loop {
        match keys.insert(format!("{acknowledged:04}"), vec![0; 4_000]) {
            Ok(_) if acknowledged < 400 => acknowledged += 1,
            outcome => break outcome.err(),
        }
    };
    assert!(started.elapsed() < Duration::from_secs(30), "{operation:?} {nth}: {:?}", started.elapsed());
    assert_eq!(keys.get("first").unwrap().unwrap(), "1", "reads go on");
    let why = db.poisoned().map(|error| error.to_string());
    // Who waits for the commit that the panic struck is told that its fate is unknown; all later ones are refused.
    match &refused {
        Some(Error::Poisoned { .. } | Error::Indeterminate { .. }) => assert!(why.is_some()),
        other => assert!(other.is_none() && why.is_none(), "{operation:?} {nth}: {other:?}, {why:?}"),
    }
    drop(keys);
    assert_eq!(db.close().is_err(), why.is_some());
    let db = inline(&disk).open().unwrap();
    let keys = db.existing_keyspace("k").unwrap();
    for number in 0..acknowledged {
        assert!(keys.get(format!("{number:04}")).unwrap().is_some(), "{operation:?} {nth}: {number} of {acknowledged}");
    }
    why
}

#[test]
fn a_thread_that_panics_is_not_waited_for_and_nothing_acknowledged_is_lost() {
    for (folder, operation, work) in [
        ("tables", FaultyOperation::Rename, "writes memtables out"),
        ("wal", FaultyOperation::Create, "prepares the log's segments"),
        ("wal", FaultyOperation::Sync, "flushes the log"),
    ] {
        let told: String = (0..8).filter_map(|nth| commit_while_a_thread_panics(folder, operation, nth)).collect();
        let expected = format!("what {work} met something that cannot be (a storage was asked to panic)");
        assert!(told.contains(&expected), "{folder} {operation:?}: {told}");
    }
}

#[test]
fn the_watermark_follows_the_log_while_it_runs() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    let lsn = db.keyspace("k").unwrap().insert("a", "1").unwrap().lsn;
    let until = Instant::now() + Duration::from_secs(20);
    while db.control().watermark < lsn {
        assert!(Instant::now() < until, "it is written about once a second");
        thread::sleep(Duration::from_millis(20));
    }
    let crashed = disk.crashed_losing_all();
    let (control, _) =
        seawall_engine::control::ControlFile::read(&crashed, std::path::Path::new("/data")).unwrap().unwrap();
    assert_eq!(control.watermark, lsn, "durably");
    assert!(!control.clean_shutdown);
}

#[test]
fn log_cut_below_the_watermark_is_damage_not_a_shorter_log() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for number in 0..20 {
        keys.insert(format!("{number}"), "v").unwrap();
    }
    drop(keys);
    db.close().unwrap();
    let segment = std::path::Path::new("/data/wal/00000001-0000000000000000.wal");
    // A bit of the very last record: no later stamp covers it, only the control file's watermark does.
    let end = inline(&disk.duplicate()).open().unwrap().log().end().lsn.offset();
    disk.flip_bit(segment, end - 12, 0);
    let error = inline(&disk).open().unwrap_err();
    assert!(matches!(&error, Error::Log(seawall_wal::Error::Corrupt { .. })), "{error}");
}
