//! Every call of the disk fails once, in every way a disk fails, while data is loaded in bulk, memtables are written out,
//! tables are merged, all of them are compacted, a checkpoint is copied and a database is recovered. Whoever asked is told
//! what could not be done with which file; nothing acknowledged is lost, nothing half done is served, asking again or
//! opening again heals, and no file is left that nobody uses.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use FaultyOperation::{Create, Link, List, Open, Remove, Rename, Sync, SyncDir, Write};

use common::{PATH, all, crashed_keeping_all, inline};
use seawall_engine::{Builder, Db, Error, Role};
use seawall_wal::storage::{Fault, FaultyOperation, FaultyStorage, MemoryDisk, Storage};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const COPY: &str = "/copy";

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is done while a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    BulkLoad,
    Flush,
    Merges,
    Compact,
    Checkpoint,
}

/// What the work writes, in order: keys that were not there before.
fn writes(work: Work) -> Vec<(Vec<u8>, Vec<u8>)> {
    let count = match work {
        Work::BulkLoad => 150,
        Work::Merges => 16,
        Work::Flush | Work::Compact | Work::Checkpoint => 0,
    };
    // Every third lies in a blob file.
    (0..count)
        .map(|n: u32| (format!("new-{n:04}").into_bytes(), vec![n as u8; [90, 150, 700][n as usize % 3]]))
        .collect()
}

/// Does the work, or what is left of it after `acknowledged` of its writes, and counts on.
fn work_on(work: Work, db: &Db, acknowledged: &mut usize) -> Result<(), Error> {
    let keys = db.keyspace("k")?;
    match work {
        Work::BulkLoad => {
            db.bulk_load(&keys, writes(work))?;
            *acknowledged = writes(work).len();
        }
        Work::Merges => {
            for (key, value) in writes(work).into_iter().skip(*acknowledged) {
                keys.insert(key, value)?;
                *acknowledged += 1;
            }
        }
        Work::Flush => db.flush()?,
        Work::Compact => db.compact()?,
        Work::Checkpoint => drop(db.checkpoint(COPY)?),
    }
    Ok(())
}

fn builder(work: Work, disk: &MemoryDisk, storage: &FaultyStorage) -> Builder {
    let memtable_bytes = match work {
        Work::Merges => 2 << 10,
        Work::BulkLoad => 24 << 10,
        Work::Flush | Work::Compact | Work::Checkpoint => 64 << 10,
    };
    inline(disk).storage(Arc::new(storage.clone())).memtable_bytes(memtable_bytes)
}

/// A closed database with tables on two levels, values in blob files that nobody needs any more, a deleted range, and a
/// log behind them.
fn prepared() -> (MemoryDisk, Content) {
    let disk = MemoryDisk::new();
    let db = inline(&disk).memtable_bytes(1 << 20).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for round in 0..12_u8 {
        for number in (0..40_u8).step_by(usize::from(round) % 5 + 1) {
            keys.insert(format!("key-{number:02}"), vec![round; if number % 2 == 0 { 80 } else { 500 }]).unwrap();
        }
        if round == 1 {
            db.compact().unwrap();
        }
        if round == 3 {
            keys.remove_range("key-10".."key-15").unwrap();
        }
        if round < 11 {
            db.flush().unwrap();
        }
    }
    let content = all(&keys).into_iter().collect();
    drop(keys);
    db.close().unwrap();
    (disk, content)
}

/// How many of the work's writes are there; everything before them must be, and of them no later one without an earlier.
fn written(db: &Db, before: &Content, work: Work) -> usize {
    let found: Content = all(&db.existing_keyspace("k").unwrap()).into_iter().collect();
    let count = found.len() - before.len();
    let mut expected = before.clone();
    expected.extend(writes(work).into_iter().take(count));
    assert!(found == expected, "{count} of the work's writes are there, or something else");
    db.verify_tables().unwrap();
    count
}

/// The files in the folder of tables that no manifest names.
fn left_over(db: &Db, disk: &MemoryDisk) -> BTreeSet<String> {
    let used = db.pin_checkpoint(false).unwrap().files();
    let used: BTreeSet<_> =
        used.iter().map(|file| file.path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let tables = Path::new(PATH).join("tables");
    let found: BTreeSet<_> = disk.list(&tables).unwrap().into_iter().collect();
    assert!(found.is_superset(&used), "a file is missing");
    let mut left: BTreeSet<_> = found.difference(&used).cloned().collect();
    let mut own = disk.list(Path::new(PATH)).unwrap();
    own.retain(|name| name.starts_with("manifest-") || name.ends_with(".tmp"));
    if own.len() != 1 {
        left.extend(own);
    }
    left.extend(disk.list(&Path::new(PATH).join("wal")).unwrap().into_iter().filter(|name| !name.ends_with(".wal")));
    left
}

/// That an error says what could not be done with which file, and what is to be done about a full disk.
fn explains(error: &Error, fault: Fault) {
    let words = error.to_string();
    match error {
        Error::DiskFull { path } => {
            assert!(matches!(fault, Fault::Error(ENOSPC)), "{words}");
            assert!(path.starts_with(PATH) || path.starts_with(COPY) || Path::new(COPY).starts_with(path), "{words}");
        }
        Error::Io { operation, path, source } | Error::Log(seawall_wal::Error::Io { operation, path, source }) => {
            let ours = path.starts_with(PATH) || path.starts_with(COPY) || Path::new(COPY).starts_with(path);
            assert!(!operation.is_empty() && ours, "{words}");
            assert_eq!(source.raw_os_error(), Some(EIO), "{words}");
        }
        // The copy's log, not the database's.
        Error::Install { path, why } => assert!(path.starts_with(COPY) && why.contains(COPY), "{words}"),
        // Of a commit whose flush failed.
        Error::Indeterminate { why, .. } => assert!(!why.is_empty(), "{words}"),
        Error::Poisoned { cause } => assert!(cause.contains("/data/wal"), "{words}"),
        other => panic!("{other:?}: {other}"),
    }
}

/// Opens what a power loss or the end of the process left.
fn reopened(disk: &MemoryDisk) -> Db {
    let db = inline(disk).memtable_bytes(64 << 10).open().unwrap();
    assert_eq!(left_over(&db, disk), BTreeSet::new(), "no file is left that nobody uses");
    db
}

/// The copy is whole, or it cannot be opened.
fn copy_is_whole_or_refused(disk: &MemoryDisk, before: &Content) -> bool {
    match Db::builder(COPY).storage(Arc::new(disk.duplicate())).create(seawall_engine::Create::Never).open() {
        Ok(copy) => {
            assert_eq!(written(&copy, before, Work::Checkpoint), 0);
            assert!(matches!(copy.role(), Role::ReadOnlyRestored { .. }));
            true
        }
        Err(Error::NotFound { .. } | Error::Incomplete { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn faults(operation: FaultyOperation) -> &'static [Fault] {
    match operation {
        FaultyOperation::Read => &[Fault::Error(EIO), Fault::Short],
        FaultyOperation::Write => &[Fault::Error(EIO), Fault::Error(ENOSPC), Fault::Short, Fault::DropAndFailSync(EIO)],
        _ => &[Fault::Error(EIO), Fault::Error(ENOSPC)],
    }
}

/// Has one call fail while the work is done.
fn fail_one(work: Work, (disk, before): &(MemoryDisk, Content), operation: FaultyOperation, nth: u64, fault: Fault) {
    let disk = disk.duplicate();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let db = builder(work, &disk, &storage).open().unwrap();
    storage.fail(operation, nth, fault);
    let mut acknowledged = 0;
    let outcome = work_on(work, &db, &mut acknowledged);
    assert_eq!(storage.hits(), 1, "the fault is met");
    assert!(outcome.is_ok() || !matches!(fault, Fault::Short), "fewer bytes than asked for are no error");
    // Power is lost there and then.
    for crashed in [disk.crashed_losing_all(), crashed_keeping_all(&disk)] {
        let there = written(&reopened(&crashed), before, work);
        assert!((acknowledged..=writes(work).len()).contains(&there), "{there} of {acknowledged}");
        let whole = copy_is_whole_or_refused(&crashed, before);
        assert!(whole || work != Work::Checkpoint || outcome.is_err());
    }
    // Or it is not: what is there is served, and the work can be done again unless the log has failed.
    assert!(written(&db, before, work) >= acknowledged);
    if let Err(error) = outcome {
        explains(&error, fault);
        match (work_on(work, &db, &mut acknowledged), db.poisoned()) {
            (again, None) => again.unwrap(),
            (again, Some(why)) => {
                explains(&why, fault);
                if let Err(error) = again {
                    explains(&error, fault);
                }
            }
        }
    }
    if db.poisoned().is_none() {
        assert_eq!(written(&db, before, work), writes(work).len());
        db.flush().unwrap();
        if operation != FaultyOperation::Remove {
            assert_eq!(left_over(&db, &disk), BTreeSet::new(), "nothing is left while the database runs either");
        }
        db.close().unwrap();
    } else {
        db.close().unwrap_err();
    }
    let db = reopened(&disk);
    work_on(work, &db, &mut acknowledged).unwrap_or_else(|error| {
        assert!(work == Work::Checkpoint && matches!(error, Error::NotEmpty { .. }), "{error}");
    });
    assert_eq!(written(&db, before, work), writes(work).len());
    assert_eq!(copy_is_whole_or_refused(&disk, before), work == Work::Checkpoint);
}

/// Fails every call of the work once in every way, and says how many times.
fn fail_every_call(work: Work) -> BTreeMap<FaultyOperation, u64> {
    let prepared = prepared();
    let counts = || {
        let disk = prepared.0.duplicate();
        let storage = FaultyStorage::new(Arc::new(disk.clone()));
        let db = builder(work, &disk, &storage).open().unwrap();
        let before = FaultyOperation::ALL.map(|operation| storage.count(operation));
        work_on(work, &db, &mut 0).unwrap();
        if work == Work::Merges {
            assert!(db.stats().merges > 0, "there are merges that can fail");
        }
        let now = FaultyOperation::ALL.map(|operation| storage.count(operation));
        std::array::from_fn::<u64, { FaultyOperation::ALL.len() }, _>(|at| now[at] - before[at])
    };
    let mut visited = BTreeMap::new();
    for (operation, count) in FaultyOperation::ALL.into_iter().zip(counts()) {
        for nth in 0..count {
            let faults = faults(operation);
            // Of very many calls each fails in one way only.
            let one = nth as usize % faults.len();
            for fault in if work == Work::Merges { &faults[one..=one] } else { faults } {
                let failed = catch_unwind(AssertUnwindSafe(|| fail_one(work, &prepared, operation, nth, *fault)));
                failed.unwrap_or_else(|_| panic!("{work:?}: {operation:?} {nth} of {count}: {fault:?}"));
                *visited.entry(operation).or_default() += 1;
            }
        }
    }
    println!("{work:?}: {visited:?}");
    visited
}

/// That calls of these kinds were among those that failed.
fn fails_all_of(work: Work, operations: &[FaultyOperation]) {
    let visited = fail_every_call(work);
    for operation in operations {
        assert!(visited.get(operation).is_some_and(|count| *count > 0), "{work:?} meets {operation:?}: {visited:?}");
    }
}

#[test]
fn every_call_of_a_bulk_load_fails_once() {
    fails_all_of(Work::BulkLoad, &[Create, Write, Sync, Rename]);
}

#[test]
fn every_call_of_writing_memtables_out_fails_once() {
    fails_all_of(Work::Flush, &[Create, Open, Write, Sync, Rename, SyncDir, Remove]);
}

#[test]
fn every_call_of_merges_fails_once() {
    fails_all_of(Work::Merges, &[Create, Open, Write, Sync, Rename, SyncDir, Remove]);
}

#[test]
fn every_call_of_a_compaction_fails_once() {
    fails_all_of(Work::Compact, &[Create, Open, Write, Sync, Rename, SyncDir, Remove]);
}

#[test]
fn every_call_of_a_checkpoint_fails_once() {
    fails_all_of(Work::Checkpoint, &[Create, Open, Write, Sync, Rename, SyncDir, Link, List]);
}

/// An update of the control file that failed half-way can be what the next opening finds. The tables that it names stay
/// until another update is through, also when the next attempt makes the same tables and fails before that.
#[test]
fn two_calls_of_compactions_fail_one_after_the_other() {
    let (prepared, before) = prepared();
    let calls = |storage: &FaultyStorage| FaultyOperation::ALL.map(|operation| storage.count(operation));
    let mut pairs = 0;
    for first in 0.. {
        let open = || {
            let disk = prepared.duplicate();
            let storage = FaultyStorage::new(Arc::new(disk.clone()));
            let db = builder(Work::Compact, &disk, &storage).open().unwrap();
            storage.fail(Sync, first, Fault::Error(EIO));
            let failed = db.compact().is_err();
            (disk, storage, db, failed)
        };
        let (_, storage, db, failed) = open();
        if !failed {
            break;
        }
        let begun = calls(&storage);
        db.compact().unwrap();
        let ended = calls(&storage);
        for (operation, (begun, ended)) in FaultyOperation::ALL.into_iter().zip(begun.into_iter().zip(ended)) {
            for second in 0..ended - begun {
                let (disk, storage, db, _) = open();
                storage.fail(operation, second, Fault::Error(EIO));
                let _ = db.compact();
                assert_eq!(storage.hits(), 2);
                for crashed in [disk.crashed_losing_all(), crashed_keeping_all(&disk)] {
                    let opened =
                        catch_unwind(AssertUnwindSafe(|| written(&reopened(&crashed), &before, Work::Compact)));
                    opened.unwrap_or_else(|_| panic!("sync {first}, then {operation:?} {second}"));
                }
                assert_eq!(written(&db, &before, Work::Compact), 0);
                pairs += 1;
            }
        }
    }
    println!("{pairs} pairs of calls");
    assert!(pairs > 100, "{pairs}");
}
