//! Power is lost at every operation on the disk, and every call of the disk fails once: what was acknowledged is there
//! afterwards, what is there is a prefix of what was committed, and no damage is reported that is none.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{all, crashed_keeping_all, crashed_somehow, inline, inline_at};
use rand::SeedableRng;
use rand::rngs::{SmallRng, StdRng};
use seawall_engine::mutant::{Mutant, with_mutant};
use seawall_engine::{CommitLevel, Create, Db, Error};
use seawall_wal::Lsn;
use seawall_wal::storage::{
    Access, Fault, FaultyOperation, FaultyStorage, JournalEntry, MemoryDisk, PowerLoss, Storage,
};

/// What the workload's n-th commit writes: some keys of two keyspaces, some removed again.
fn commit(db: &Db, number: u32, level: CommitLevel) -> Result<Lsn, Error> {
    let (a, b) = (db.keyspace("a")?, db.keyspace("b")?);
    let mut batch = db.batch();
    batch.put(&a, format!("{:03}", number % 40), vec![number as u8; 300]);
    batch.put(&b, "last", number.to_string());
    batch.remove(&a, format!("{:03}", (number + 20) % 40));
    Ok(batch.commit_with(level)?.lsn)
}

/// What is in the database after the commits 0 to `count - 1`.
fn expected(count: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut map = BTreeMap::new();
    for number in 0..count {
        map.insert(format!("{:03}", number % 40).into_bytes(), vec![number as u8; 300]);
        map.remove(format!("{:03}", (number + 20) % 40).as_bytes());
    }
    map
}

/// How many commits the database has, and that it has them wholly.
fn commits_in(db: &Db) -> u32 {
    let last = db.existing_keyspace("b").ok().and_then(|b| b.get("last").unwrap());
    let count = last.map_or(0, |last| String::from_utf8(last.to_vec()).unwrap().parse::<u32>().unwrap() + 1);
    let found = db.existing_keyspace("a").map(|a| all(&a)).unwrap_or_default();
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected(count), "after {count} commits");
    count
}

#[test]
fn power_lost_at_any_operation_loses_nothing_acknowledged() {
    lose_power_at_any_operation();
}

#[test]
fn a_blob_file_that_is_named_before_it_is_synced_is_noticed_when_power_is_lost() {
    let noticed = std::panic::catch_unwind(|| with_mutant(Mutant::BlobsNotSynced, lose_power_at_any_operation));
    let words = noticed.expect_err("the bug survives");
    let words = words.downcast_ref::<String>().expect("a panic with words");
    assert!(words.contains("CorruptTable") || words.contains("is damaged"), "{words}");
}

fn lose_power_at_any_operation() {
    let disk = MemoryDisk::new();
    disk.keep_journal();
    {
        let db = inline(&disk).memtable_bytes(6 << 10).open().unwrap();
        for number in 0..90 {
            let level = if number % 3 == 0 { CommitLevel::Buffered } else { CommitLevel::Local };
            commit(&db, number, level).unwrap();
            if level == CommitLevel::Local {
                disk.mark(u64::from(number) + 1);
            }
            if number == 60 {
                db.compact().unwrap();
            }
        }
        db.close().unwrap();
    }
    disk.mark(90);
    let db = inline(&disk).open().unwrap();
    commit(&db, 90, CommitLevel::Local).unwrap();
    disk.mark(91);
    drop(db);
    let replayed = MemoryDisk::new();
    let mut random = StdRng::seed_from_u64(1);
    let (mut acknowledged, mut states) = (0, 0);
    for (index, entry) in disk.journal().iter().enumerate() {
        replayed.replay(entry);
        if let JournalEntry::Mark(number) = entry {
            acknowledged = *number as u32;
            continue;
        }
        for variant in 0..3 {
            let crashed = match variant {
                0 => replayed.crashed_losing_all(),
                1 => crashed_keeping_all(&replayed),
                _ => crashed_somehow(&replayed, &mut random),
            };
            let db =
                inline(&crashed).open().unwrap_or_else(|error| panic!("operation {index}, variant {variant}: {error}"));
            let count = commits_in(&db);
            assert!(count >= acknowledged, "operation {index}, variant {variant}: {count} of {acknowledged}");
            // It goes on, and the next opening agrees.
            commit(&db, count, CommitLevel::Local).unwrap();
            drop(db);
            assert_eq!(commits_in(&inline(&crashed.crashed_losing_all()).open().unwrap()), count + 1);
            states += 1;
        }
    }
    assert_eq!(acknowledged, 91);
    assert!(states > 1_000, "{states} states");
}

#[test]
fn power_lost_during_recovery_loses_nothing_either() {
    let disk = MemoryDisk::new();
    {
        // The memtables are large at first, so that recovery with small ones writes tables.
        let db = inline(&disk).memtable_bytes(1 << 30).open().unwrap();
        for number in 0..80 {
            commit(&db, number, CommitLevel::Local).unwrap();
        }
    }
    let base = disk.crashed_losing_all();
    let recovering = base.duplicate();
    recovering.keep_journal();
    drop(inline(&recovering).memtable_bytes(4 << 10).open().unwrap());
    let journal = recovering.journal();
    assert!(journal.len() > 50, "recovery wrote tables");
    let mut random = StdRng::seed_from_u64(2);
    for (index, entry) in journal.iter().enumerate() {
        base.replay(entry);
        let crashed = crashed_somehow(&base, &mut random);
        let db = inline(&crashed)
            .memtable_bytes(4 << 10)
            .open()
            .unwrap_or_else(|error| panic!("operation {index}: {error}"));
        assert_eq!(commits_in(&db), 80);
    }
}

#[test]
fn power_lost_while_a_checkpoint_is_made_leaves_a_whole_copy_or_none() {
    const COPY: &str = "/copy";
    const BEFORE: u32 = 60;
    let disk = MemoryDisk::new();
    let (base, journal) = {
        let db = inline(&disk).memtable_bytes(6 << 10).open().unwrap();
        for number in 0..BEFORE {
            commit(&db, number, CommitLevel::Local).unwrap();
        }
        let base = disk.duplicate();
        disk.keep_journal();
        db.checkpoint(COPY).unwrap();
        disk.mark(1);
        // The files of the copy are removed from where they came from.
        for number in BEFORE..BEFORE + 30 {
            commit(&db, number, CommitLevel::Local).unwrap();
        }
        db.compact().unwrap();
        (base, disk.journal())
    };
    let mut random = SmallRng::seed_from_u64(3);
    let (mut made, mut whole, mut none) = (false, 0, 0);
    for (index, entry) in journal.iter().enumerate() {
        base.replay(entry);
        made |= matches!(entry, JournalEntry::Mark(1));
        for loss in PowerLoss::choose(&base, 8, 4, &mut random) {
            let crashed = loss.strike(&base);
            let copy = inline_at(&crashed, COPY).create(Create::Never).open();
            match copy {
                Ok(copy) => {
                    assert_eq!(commits_in(&copy), BEFORE, "operation {index}, {loss:?}");
                    copy.verify_tables().unwrap();
                    whole += 1;
                }
                Err(Error::NotFound { .. } | Error::Incomplete { .. }) if !made => none += 1,
                Err(error) => panic!("operation {index}, {loss:?}, made: {made}: {error}"),
            }
            assert!(commits_in(&inline(&crashed).open().unwrap()) >= BEFORE, "operation {index}, {loss:?}");
        }
    }
    assert!(made && whole > 500 && none > 100, "{whole} whole, {none} none");
}

#[test]
fn every_call_of_the_disk_fails_once_and_nothing_acknowledged_is_lost() {
    const COMMITS: u32 = 160;
    // How many commits were acknowledged, how many were sent, and how many merges there were.
    let workload = |storage: &FaultyStorage| -> (u32, u32, u64) {
        let (mut acknowledged, mut sent) = (0, 0);
        let opened = |disk: &FaultyStorage| {
            inline(&MemoryDisk::new()).storage(Arc::new(disk.clone())).memtable_bytes(6 << 10).open()
        };
        let Ok(db) = opened(storage) else { return (0, 0, 0) };
        for number in 0..COMMITS {
            sent = number + 1;
            match commit(&db, number, CommitLevel::Local) {
                Ok(_) => acknowledged = number + 1,
                // With everything inline the one who commits is told when writing tables fails, though its commit is in.
                Err(_) => break,
            }
        }
        (acknowledged, sent, db.stats().merges)
    };
    let mut faults = 0;
    for operation in FaultyOperation::ALL {
        let calm = FaultyStorage::new(Arc::new(MemoryDisk::new()));
        let (acknowledged, sent, merges) = workload(&calm);
        assert_eq!((acknowledged, sent), (COMMITS, COMMITS));
        assert!(merges > 0, "merges are part of what fails");
        for nth in 0..calm.count(operation) {
            let disk = MemoryDisk::new();
            let storage = FaultyStorage::new(Arc::new(disk.clone()));
            storage.fail(operation, nth, Fault::Error(5));
            let (acknowledged, sent, _) = workload(&storage);
            faults += storage.hits();
            for disk in [disk.crashed_losing_all(), crashed_keeping_all(&disk)] {
                let db = inline(&disk).open().unwrap_or_else(|error| panic!("{operation:?} {nth}: {error}"));
                let count = commits_in(&db);
                assert!(
                    (acknowledged..=sent).contains(&count),
                    "{operation:?} {nth}: {count} not in {acknowledged}..={sent}"
                );
            }
        }
    }
    assert!(faults > 300, "{faults} faults struck");
}

#[test]
fn either_copy_of_the_control_file_is_enough_after_any_crash_and_during_the_next_opening() {
    let disk = MemoryDisk::new();
    disk.keep_journal();
    {
        let db = inline(&disk).memtable_bytes(8 << 10).open().unwrap();
        for number in 0..60 {
            commit(&db, number, CommitLevel::Local).unwrap();
        }
        db.compact().unwrap();
    }
    let journal = disk.journal();
    let control = journal.iter().find_map(|entry| match entry {
        JournalEntry::Create(path, node) if path == Path::new("/data/control.tmp") => Some(*node),
        _ => None,
    });
    let replayed = MemoryDisk::new();
    let mut opened = 0;
    for entry in journal {
        replayed.replay(&entry);
        if !matches!(entry, JournalEntry::Sync(node) if Some(node) == control) {
            continue;
        }
        // Between the two writes of an update the copies name different manifests.
        let crashed = replayed.crashed_losing_all();
        if crashed.open(common::control_path(), Access::Read).is_err() {
            continue;
        }
        let opening = crashed.duplicate();
        opening.keep_journal();
        let db = inline(&opening).open().unwrap();
        let count = commits_in(&db);
        drop(db);
        for entry in opening.journal() {
            crashed.replay(&entry);
            for slot in [0, 1] {
                // The process is killed; a removal that no sync made durable yet has happened all the same.
                let damaged = crashed.duplicate();
                damaged.flip_bit(common::control_path(), slot * 262_144 + 40, 3);
                let db = inline(&damaged).open().unwrap_or_else(|error| panic!("slot {slot}: {error}"));
                assert_eq!((commits_in(&db), db.damaged_control().len()), (count, 1));
                opened += 1;
            }
        }
    }
    assert!(opened > 500, "{opened}");
}

#[test]
fn tables_written_by_recovery_are_not_ahead_of_a_log_that_was_never_synced() {
    let disk = MemoryDisk::new();
    disk.keep_journal();
    {
        let db = inline(&disk).memtable_bytes(1 << 30).open().unwrap();
        db.keyspace("a").unwrap();
        db.keyspace("b").unwrap();
        for number in 0..80 {
            commit(&db, number, CommitLevel::Buffered).unwrap();
        }
        db.sync().unwrap();
    }
    // The process is killed after it wrote the group and before it synced it: the kernel still has the bytes.
    let journal = disk.journal();
    let writes = |entry: &JournalEntry| matches!(entry, JournalEntry::Write(_, _, bytes) if bytes.len() > 20_000);
    let last = journal.iter().rposition(writes).expect("the group was written in large pieces");
    let killed = MemoryDisk::new();
    journal[..=last].iter().for_each(|entry| killed.replay(entry));
    let recovering = killed.duplicate();
    recovering.keep_journal();
    let count = commits_in(&inline(&recovering).memtable_bytes(4 << 10).open().unwrap());
    assert!(count > 10, "{count} commits were in the kernel's hands");
    let mut lost = 0;
    for entry in recovering.journal() {
        killed.replay(&entry);
        let db = inline(&killed.crashed_losing_all()).memtable_bytes(4 << 10).open().unwrap();
        lost += u32::from(commits_in(&db) < count);
    }
    assert!(lost > 0, "power was lost before recovery had synced the log, too");
}
