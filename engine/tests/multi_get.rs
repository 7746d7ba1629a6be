//! Reading many keys at once: the same answers as one by one, with the cold blocks of a table read together.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::inline;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seawall_engine::{Builder, Db, Error, Keyspace};
use seawall_wal::storage::{Disk, Fault, FaultyOperation, FaultyStorage, MemoryDisk, Storage};

fn one_by_one(keyspace: &Keyspace, keys: &[String]) -> Vec<Option<bytes::Bytes>> {
    keys.iter().map(|key| keyspace.get(key).unwrap()).collect()
}

/// Keys with versions in memtables and on three levels, some removed again.
fn fill(db: &Db, random: &mut StdRng) -> Keyspace {
    let keys = db.keyspace("k").unwrap();
    for round in 0..4_u8 {
        for _ in 0..150 {
            let key = format!("{:03}", random.random_range(0..400));
            if random.random_bool(0.8) {
                let value: Vec<u8> = (0..random.random_range(0..200)).map(|_| random.random()).collect();
                keys.insert(key, value).unwrap();
            } else {
                keys.remove(key).unwrap();
            }
        }
        match round {
            0 => db.compact().unwrap(),
            1 | 2 => db.flush().unwrap(),
            _ => {}
        }
    }
    keys
}

#[test]
fn many_keys_at_once_have_the_values_they_have_one_by_one_in_the_order_asked_for() {
    for seed in 0..10 {
        let random = &mut StdRng::seed_from_u64(seed);
        let db = inline(&MemoryDisk::new()).open().unwrap();
        let keys = fill(&db, random);
        for count in [0, 1, 2, 20, 300, 1_000] {
            let asked: Vec<_> = (0..count).map(|_| format!("{:03}", random.random_range(0..410))).collect();
            assert_eq!(keys.multi_get(&asked).unwrap(), one_by_one(&keys, &asked), "seed {seed}, {count} keys");
        }
    }
}

#[test]
fn all_keys_are_read_as_of_the_same_moment() {
    let db = inline(&MemoryDisk::new()).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("a", "1").unwrap();
    let before = db.snapshot().unwrap();
    keys.insert("a", "2").unwrap();
    keys.insert("b", "2").unwrap();
    db.compact().unwrap();
    assert_eq!(before.multi_get(&keys, &["b", "a"]).unwrap(), [None, Some("1".into())]);
    assert_eq!(keys.multi_get(&["b", "a", "b"]).unwrap(), [Some("2".into()), Some("2".into()), Some("2".into())]);
    db.drop_keyspace("k").unwrap();
    assert!(matches!(keys.multi_get(&["a"]), Err(Error::UnknownKeyspace { .. })));
    assert_eq!(before.multi_get(&keys, &["a"]).unwrap(), [Some("1".into())]);
}

/// A database whose only table is not in memory: two hundred blocks of it, more than are read together at once.
fn cold(builder: impl Fn() -> Builder) -> (Db, Keyspace, Vec<String>) {
    let builder = || builder().memtable_bytes(64 << 20).table_bytes(64 << 20);
    let db = builder().open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let names: Vec<_> = (0..400).map(|number| format!("{number:03}")).collect();
    let random = &mut StdRng::seed_from_u64(1);
    for name in &names {
        keys.insert(name, (0..1600).map(|_| random.random()).collect::<Vec<u8>>()).unwrap();
    }
    db.flush().unwrap();
    drop((keys, db));
    let db = builder().open().unwrap();
    let keys = db.existing_keyspace("k").unwrap();
    (db, keys, names)
}

#[test]
fn cold_blocks_are_read_together_once_and_then_kept() {
    let storage = FaultyStorage::new(Arc::new(MemoryDisk::new()));
    let (db, keys, names) = cold(|| inline(&MemoryDisk::new()).blob_bytes(None).storage(Arc::new(storage.clone())));
    let counts = || (storage.count(FaultyOperation::Open), storage.count(FaultyOperation::Read));
    let (opened, read) = counts();
    let values = keys.multi_get(&names).unwrap();
    // Blocks of two values each, eight of them together at most.
    let (opened, read) = (counts().0 - opened, counts().1 - read);
    assert!(opened == 25 && read == 200, "{opened} {read}");
    assert!(values.iter().all(|value| value.as_ref().is_some_and(|value| value.len() == 1600)));
    let before = counts();
    assert_eq!(keys.multi_get(&names).unwrap(), values);
    assert_eq!(counts(), before, "they are read where they are mapped");
    assert_eq!(db.stats().cache.bytes, 0, "and not a second time in memory");
}

#[test]
fn one_key_is_read_where_it_is_mapped() {
    let storage = FaultyStorage::new(Arc::new(MemoryDisk::new()));
    let (_db, keys, names) = cold(|| inline(&MemoryDisk::new()).storage(Arc::new(storage.clone())));
    let before = storage.count(FaultyOperation::Read);
    assert!(keys.multi_get(&names[7..8]).unwrap()[0].is_some());
    assert_eq!(storage.count(FaultyOperation::Read), before);
}

#[test]
fn a_read_that_fails_is_an_error_and_the_next_try_answers() {
    let storage = FaultyStorage::new(Arc::new(MemoryDisk::new()));
    let (_db, keys, names) = cold(|| inline(&MemoryDisk::new()).storage(Arc::new(storage.clone())));
    for operation in [FaultyOperation::Open, FaultyOperation::Read] {
        storage.fail(operation, 0, Fault::Error(5));
        assert!(matches!(keys.multi_get(&names), Err(Error::Io { .. })), "{operation:?}");
    }
    assert!(keys.multi_get(&names).unwrap().iter().all(Option::is_some));
}

#[test]
fn a_damaged_block_is_an_error_that_names_it_and_never_a_value() {
    let disk = MemoryDisk::new();
    let (db, keys, names) = cold(|| inline(&disk).blob_bytes(None));
    let table = disk.list(Path::new("/data/tables")).unwrap().pop().unwrap();
    drop((keys, db));
    disk.flip_bit(&Path::new("/data/tables").join(table), 20_000, 3);
    let db = inline(&disk).open().unwrap();
    let keys = db.existing_keyspace("k").unwrap();
    assert!(matches!(keys.multi_get(&names), Err(Error::CorruptTable { offset, .. }) if offset < 20_000));
    assert!(keys.multi_get(&names[100..]).unwrap().iter().all(Option::is_some), "the others are whole");
}

#[test]
fn it_reads_the_same_from_a_real_disk_by_either_way() {
    for disk in [Disk::new(), Disk::posix()] {
        let folder = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Storage> = Arc::new(disk);
        let build = || Db::builder(folder.path()).storage(disk.clone()).segment_size(seawall_wal::SegmentSize::MIN);
        let (_db, keys, names) = cold(build);
        let values = keys.multi_get(&names).unwrap();
        assert_eq!(values, one_by_one(&keys, &names));
    }
}
