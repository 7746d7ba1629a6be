use std::sync::Arc;

use seawall_wal::storage::{MemoryDisk, Storage};

use super::store::TableStore;
use super::*;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;

const ROOT: &str = "/d";

/// Key, version, value.
type Stored = (Vec<u8>, Lsn, Option<Vec<u8>>);

fn store(disk: &MemoryDisk) -> TableStore {
    disk.create_dir_all(&Path::new(ROOT).join(TABLES_FOLDER)).unwrap();
    TableStore::new(Arc::new(disk.clone()), Path::new(ROOT), 1 << 20)
}

/// Versions in order: keys `000` to `count - 1`, every third with an older version, every fifth's newest a delete.
fn versions(count: u32, value_len: usize) -> Vec<Stored> {
    let mut versions = Vec::new();
    for number in 0..count {
        let key = format!("{number:05}").into_bytes();
        let value = |salt: u32| vec![(number * 7 + salt) as u8; value_len];
        versions.push((key.clone(), Lsn::new(1000 + u64::from(number)), (number % 5 != 0).then(|| value(1))));
        if number % 3 == 0 {
            versions.push((key, Lsn::new(500), Some(value(2))));
        }
    }
    versions
}

fn write(store: &TableStore, versions: &[Stored], compression: Compression) -> Arc<Table> {
    let mut writer = store.writer(KeyspaceId(3), compression).unwrap();
    for (key, lsn, value) in versions {
        writer
            .push(EntryRef { key, lsn: *lsn, content: value.as_deref().map_or(Content::Delete, Content::Put) })
            .unwrap();
    }
    store.adopt(writer.finish().unwrap()).unwrap()
}

fn scan(table: &Arc<Table>) -> crate::Result<Vec<Stored>> {
    let mut cursor = TableCursor::first_from(Arc::clone(table), None)?;
    let mut found = Vec::new();
    while let Some(entry) = cursor.entry() {
        found.push((entry.key.to_vec(), entry.lsn, entry.content.value().map(<[u8]>::to_vec)));
        cursor.forward()?;
    }
    Ok(found)
}

#[test]
fn a_table_reads_back_both_ways_compressed_or_not() {
    for compression in [Compression::None, Compression::Zstd] {
        let disk = MemoryDisk::new();
        let store = store(&disk);
        let versions = versions(2_000, 60);
        let table = write(&store, &versions, compression);
        assert_eq!(scan(&table).unwrap(), versions);
        let mut cursor = TableCursor::last_before(Arc::clone(&table), None).unwrap();
        for (key, lsn, _) in versions.iter().rev() {
            let entry = cursor.entry().unwrap();
            assert_eq!((entry.key, entry.lsn), (key.as_slice(), *lsn));
            cursor.back().unwrap();
        }
        assert!(cursor.entry().is_none());
        assert!(table.index().unwrap().len() > 3, "several blocks");
        table.verify().unwrap();
    }
}

/// What a table says of a key: nothing, that it was deleted, or its value.
fn get(table: &Table, key: &[u8], at: Lsn) -> Result<Option<Option<Vec<u8>>>> {
    let mut found = None;
    table.versions(key, filter_hash(key), at, |_, content| {
        found = Some(content.value().map(<[u8]>::to_vec));
        true
    })?;
    Ok(found)
}

#[test]
fn a_get_finds_the_newest_version_not_above_the_snapshot() {
    let disk = MemoryDisk::new();
    let table = write(&store(&disk), &versions(2_000, 60), Compression::Zstd);
    let get = |key: &str, at| get(&table, key.as_bytes(), Lsn::new(at)).unwrap();
    let value = |byte: u32| Some(Some(vec![byte as u8; 60]));
    assert_eq!(get("00003", 9_999), value(3 * 7 + 1));
    assert_eq!(get("00003", 1_002), value(3 * 7 + 2));
    assert_eq!(get("00003", 499), None);
    assert_eq!(get("00015", 9_999), Some(None));
    assert_eq!(get("00015", 600), value(15 * 7 + 2));
    assert_eq!(get("00003x", 9_999), None);
    assert_eq!(get("1", 9_999), None);
    assert_eq!(get("01999", 9_999), value(1999 * 7 + 1));
}

#[test]
fn cursors_start_where_they_are_told_to() {
    let disk = MemoryDisk::new();
    let versions = versions(1_000, 60);
    let table = write(&store(&disk), &versions, Compression::None);
    for place in [("00000", u64::MAX), ("00500", u64::MAX), ("00501", 700), ("00999x", 0), ("", 0), ("00300", 0)] {
        let place = (place.0.as_bytes(), Lsn::new(place.1));
        let split = versions.partition_point(|(key, lsn, _)| version_order((key, *lsn), place).is_lt());
        let expected =
            |index: Option<usize>| index.and_then(|i| versions.get(i)).map(|(key, lsn, _)| (key.as_slice(), *lsn));
        let forward = TableCursor::first_from(Arc::clone(&table), Some(place)).unwrap();
        assert_eq!(forward.entry().map(|entry| (entry.key, entry.lsn)), expected(Some(split)), "{place:?}");
        let back = TableCursor::last_before(Arc::clone(&table), Some(place)).unwrap();
        assert_eq!(back.entry().map(|entry| (entry.key, entry.lsn)), expected(split.checked_sub(1)), "{place:?}");
    }
}

#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    for compression in [Compression::None, Compression::Zstd] {
        let disk = MemoryDisk::new();
        let versions = versions(40, 12);
        let meta = write(&store(&disk), &versions, compression).meta().clone();
        let path = meta.hash.path_in(Path::new(ROOT));
        let mut detected = 0;
        for bit in 0..meta.size * 8 {
            disk.flip_bit(&path, bit / 8, (bit % 8) as u8);
            let store = store(&disk);
            let read = store.open(KeyspaceId(3), meta.clone()).and_then(|table| {
                for (key, lsn, value) in &versions {
                    let found = get(&table, key, *lsn)?;
                    assert_eq!(found.as_ref(), Some(value), "bit {bit}, or a key is gone");
                }
                assert!(table.verify().is_err(), "the digest covers every bit, bit {bit}");
                scan(&table)
            });
            match read {
                Ok(found) => assert_eq!(found, versions, "bit {bit}"),
                Err(Error::CorruptTable { path: named, .. }) => {
                    assert_eq!(named, path);
                    detected += 1;
                }
                Err(other) => panic!("bit {bit}: {other}"),
            }
            disk.flip_bit(&path, bit / 8, (bit % 8) as u8);
        }
        // What remains are the properties, which reading does not need.
        assert!(detected * 10 > meta.size * 8 * 9, "{detected} of {}", meta.size * 8);
    }
}

#[test]
fn a_block_in_another_place_does_not_pass() {
    let disk = MemoryDisk::new();
    let meta = write(&store(&disk), &versions(600, 60), Compression::None).meta().clone();
    let path = meta.hash.path_in(Path::new(ROOT));
    let place = |number| {
        let table = store(&disk).open(KeyspaceId(3), meta.clone()).unwrap();
        let value = table.index().unwrap().entry(number).content.value().unwrap().to_vec();
        (u64::from_le_bytes(value[..8].try_into().unwrap()), u32::from_le_bytes(value[8..].try_into().unwrap()))
    };
    let ((first, len), (second, _)) = (place(0), place(1));
    let file = disk.open(&path, seawall_wal::storage::Access::Write).unwrap();
    let mut bytes = vec![0; len as usize];
    seawall_wal::storage::read_exact_at(&*file, &mut bytes, first).unwrap();
    file.write_at(&bytes, second).unwrap();
    let table = store(&disk).open(KeyspaceId(3), meta).unwrap();
    assert!(matches!(scan(&table), Err(Error::CorruptTable { offset, .. }) if offset == second));
}

#[test]
fn a_table_is_not_removed_while_it_is_read_nor_when_it_is_written_again() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    let versions = versions(10, 4);
    let table = write(&store, &versions, Compression::None);
    let hash = table.meta().hash;
    store.release([hash]);
    assert_eq!(store.collect(), 1, "somebody reads it");
    let again = write(&store, &versions, Compression::None);
    assert!(Arc::ptr_eq(&table, &again), "the same content is the same table");
    drop(table);
    assert_eq!(store.collect(), 0, "it is needed again");
    assert_eq!(scan(&again).unwrap(), versions);
    store.release([hash]);
    drop(again);
    assert_eq!(store.collect(), 0);
    assert!(!disk.list(&Path::new(ROOT).join(TABLES_FOLDER)).unwrap().contains(&hash.file_name()));
}

#[test]
fn range_deletes_read_back_and_widen_the_key_range() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    let delete =
        |start: &[u8], end: &[u8], lsn| RangeDelete { start: start.into(), end: end.into(), lsn: Lsn::new(lsn) };
    let written = |entries: &[&[u8]], deletes: &[RangeDelete]| {
        let mut writer = store.writer(KeyspaceId(3), Compression::None).unwrap();
        for key in entries {
            writer.push(EntryRef { key, lsn: Lsn::new(50), content: Content::Put(b"v") }).unwrap();
        }
        deletes.iter().for_each(|delete| writer.push_range_delete(&delete.start, &delete.end, delete.lsn));
        let table = store.adopt(writer.finish().unwrap()).unwrap();
        drop(store.open(KeyspaceId(3), table.meta().clone()).unwrap());
        table
    };
    let range = |table: &Table| {
        let meta = table.meta();
        (meta.min_key.clone(), meta.max_key.clone(), meta.max_key_excluded)
    };
    let (low, high, twice) = (delete(b"a", b"k", 70), delete(b"m", b"z", 20), delete(b"a", b"c", 30));
    // Given in no order, and one of them twice.
    let table = written(&[b"f", b"p"], &[high.clone(), twice.clone(), low.clone(), high.clone()]);
    assert_eq!(table.range_deletes().unwrap(), [low.clone(), twice.clone(), high.clone()]);
    assert_eq!(range(&table), (b"a".to_vec(), b"z".to_vec(), true));
    assert_eq!((table.meta().entries, table.meta().range_deletes), (2, 3));
    assert_eq!((table.meta().min_lsn, table.meta().max_lsn), (Lsn::new(20), Lsn::new(70)));
    assert!(table.meta().ends_before(b"z") && !table.meta().ends_before(b"y"));
    assert!(table.meta().overlaps(b"yy", b"zz") && !table.meta().overlaps(b"z", b"zz"));
    table.verify().unwrap();
    // A key at the end of a range is a key all the same.
    assert_eq!(range(&written(&[b"f", b"z"], std::slice::from_ref(&high))), (b"f".to_vec(), b"z".to_vec(), false));
    // Nothing but range deletes.
    let table = written(&[], std::slice::from_ref(&low));
    assert_eq!(range(&table), (b"a".to_vec(), b"k".to_vec(), true));
    assert_eq!(table.range_deletes().unwrap(), [low]);
    assert_eq!(get(&table, b"b", Lsn::MAX).unwrap(), None);
    assert_eq!(scan(&table).unwrap(), []);
    assert!(TableCursor::last_before(Arc::clone(&table), None).unwrap().entry().is_none());
    // Damage is seen.
    let meta = written(&[b"f"], &[high, twice]).meta().clone();
    let path = meta.hash.path_in(Path::new(ROOT));
    let mut detected = 0;
    for byte in 0..meta.size {
        disk.flip_bit(&path, byte, 3);
        match super::store::TableStore::new(Arc::new(disk.clone()), Path::new(ROOT), 1 << 20)
            .open(KeyspaceId(3), meta.clone())
            .and_then(|table| table.range_deletes().map(<[_]>::len))
        {
            Ok(found) => assert_eq!(found, 2),
            Err(Error::CorruptTable { .. }) => detected += 1,
            Err(other) => panic!("byte {byte}: {other}"),
        }
        disk.flip_bit(&path, byte, 3);
    }
    assert!(detected > 100, "{detected} of {}", meta.size);
}

#[test]
fn an_unfinished_table_leaves_no_file() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    let mut writer = store.writer(KeyspaceId(1), Compression::None).unwrap();
    writer.push(EntryRef { key: b"k", lsn: Lsn::new(1), content: Content::Delete }).unwrap();
    drop(writer);
    assert!(disk.list(&Path::new(ROOT).join(TABLES_FOLDER)).unwrap().is_empty());
}

#[test]
fn a_block_whose_checksum_was_made_for_nonsense_is_refused_or_consistent() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::block::{self, Block, BlockBuilder, BlockKind};

    let mut random = StdRng::seed_from_u64(7);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..20_000 {
        let mut builder = BlockBuilder::default();
        for number in 0..random.random_range(1..5_u64) {
            let value = vec![1; random.random_range(0..9)];
            builder.push(EntryRef { key: &[number as u8], lsn: Lsn::new(9), content: Content::Put(&value) });
        }
        let (mut raw, mut count) = builder.take();
        for _ in 0..random.random_range(0..3) {
            let at = random.random_range(0..raw.len());
            raw[at] = random.random();
        }
        if random.random_bool(0.1) {
            count = random.random();
        }
        let zstd = random.random_bool(0.5).then_some(1);
        let sealed = block::seal(BlockKind::Data, KeyspaceId(1), 0, &raw, count, zstd);
        let map = Arc::new(seawall_wal::storage::Mapping::Owned(sealed));
        let opened = block::open(&map, KeyspaceId(1), BlockKind::Data, 0, None).unwrap();
        match Block::new(opened.0, opened.1) {
            Err(_) => refused += 1,
            Ok(block) => {
                let keys: Vec<_> = (0..block.len()).map(|index| block.entry(index).key.to_vec()).collect();
                assert!(keys.is_sorted());
                assert!(keys.iter().all(|key| block.lower_bound(key, Lsn::MAX) < block.len()));
                read += 1;
            }
        }
    }
    assert!(refused > 1_000 && read > 1_000, "{refused} {read}");
}
