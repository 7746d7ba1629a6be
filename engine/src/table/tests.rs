use std::path::Path;
use std::sync::Arc;

use seawall_wal::storage::{MemoryDisk, Storage};

use super::store::TableStore;
use super::*;
use crate::blob::BlobPolicy;
use crate::error::{Error, Result};
use crate::file::{FileKind, TABLES_FOLDER};
use crate::format::KeyspaceId;
use crate::operator::MergeOperator;

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

fn write(store: &TableStore, versions: &[Stored], placement: Placement) -> Arc<Table> {
    let mut writer = store.writer(KeyspaceId(3), placement, BlobPolicy::NONE).unwrap();
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
    for placement in [Placement::Top, Placement::Below] {
        let disk = MemoryDisk::new();
        let store = store(&disk);
        let versions = versions(2_000, 60);
        let table = write(&store, &versions, placement);
        assert_eq!(scan(&table).unwrap(), versions);
        let mut cursor = TableCursor::last_before(Arc::clone(&table), None).unwrap();
        for (key, lsn, _) in versions.iter().rev() {
            let entry = cursor.entry().unwrap();
            assert_eq!((entry.key, entry.lsn), (key.as_slice(), *lsn));
            cursor.back().unwrap();
        }
        assert!(cursor.entry().is_none());
        assert!(table.blocks_len() > 3, "several blocks");
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
    let table = write(&store(&disk), &versions(2_000, 60), Placement::Below);
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
fn the_versions_of_a_key_are_walked_through_as_many_blocks_as_they_take() {
    let disk = MemoryDisk::new();
    let mut stored = vec![(b"a".to_vec(), Lsn::new(5), Some(vec![0; 50]))];
    stored.extend((0..3000).rev().map(|lsn| (b"key".to_vec(), Lsn::new(10 + lsn), Some(vec![lsn as u8; 50]))));
    stored.push((b"key2".to_vec(), Lsn::new(5), Some(vec![1; 50])));
    for placement in [Placement::Top, Placement::Below] {
        let table = write(&store(&disk), &stored, placement);
        for at in [9, 10, 11, 700, 2000, 3009, 9999] {
            let mut found = Vec::new();
            let walked = table.versions(b"key", filter_hash(b"key"), Lsn::new(at), |lsn, _| {
                found.push(lsn.offset());
                false
            });
            assert!(!walked.unwrap());
            assert_eq!(found, (10..=at.min(3009)).rev().collect::<Vec<_>>(), "{at}");
        }
        let enough = |lsn: Lsn, _: Content<'_>| lsn.offset() == 1000;
        assert!(table.versions(b"key", filter_hash(b"key"), Lsn::MAX, enough).unwrap());
    }
}

#[test]
fn cursors_start_where_they_are_told_to() {
    let disk = MemoryDisk::new();
    let versions = versions(1_000, 60);
    let table = write(&store(&disk), &versions, Placement::Top);
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
    for placement in [Placement::Top, Placement::Below] {
        let disk = MemoryDisk::new();
        let versions = versions(40, 12);
        let meta = write(&store(&disk), &versions, placement).meta().clone();
        let path = FileKind::Table.path_in(Path::new(ROOT), &meta.hash);
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
fn a_reader_that_compares_no_checksum_serves_what_the_flips_would_catch() {
    use crate::mutant::{Mutant, with_mutant};

    let disk = MemoryDisk::new();
    let versions = versions(40, 12);
    let meta = write(&store(&disk), &versions, Placement::Top).meta().clone();
    let path = FileKind::Table.path_in(Path::new(ROOT), &meta.hash);
    let wrong = |disk: &MemoryDisk| {
        (0..meta.size).any(|byte| {
            disk.flip_bit(&path, byte, 3);
            let found = store(disk).open(KeyspaceId(3), meta.clone()).and_then(|table| scan(&table));
            disk.flip_bit(&path, byte, 3);
            found.is_ok_and(|found| found != versions)
        })
    };
    assert!(!wrong(&disk));
    assert!(with_mutant(Mutant::BlocksNotChecked, || wrong(&disk)));
}

#[test]
fn a_block_in_another_place_does_not_pass() {
    let disk = MemoryDisk::new();
    let meta = write(&store(&disk), &versions(600, 60), Placement::Top).meta().clone();
    let path = FileKind::Table.path_in(Path::new(ROOT), &meta.hash);
    let place = |number| {
        let table = store(&disk).open(KeyspaceId(3), meta.clone()).unwrap();
        let place = table.numbered(number).unwrap().unwrap();
        (place.offset, place.len)
    };
    let ((first, len), (second, _)) = (place(0), place(1));
    let file = disk.open(&path, seawall_wal::storage::Access::Write).unwrap();
    let mut bytes = vec![0; len];
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
    let table = write(&store, &versions, Placement::Top);
    let hash = table.meta().hash;
    store.release([hash]);
    assert_eq!(store.collect(), 1, "somebody reads it");
    let again = write(&store, &versions, Placement::Top);
    assert!(Arc::ptr_eq(&table, &again), "the same content is the same table");
    drop(table);
    assert_eq!(store.collect(), 0, "it is needed again");
    assert_eq!(scan(&again).unwrap(), versions);
    store.release([hash]);
    drop(again);
    assert_eq!(store.collect(), 0);
    assert!(!disk.list(&Path::new(ROOT).join(TABLES_FOLDER)).unwrap().contains(&FileKind::Table.file_name(&hash)));
}

#[test]
fn range_deletes_read_back_and_widen_the_key_range() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    let delete =
        |start: &[u8], end: &[u8], lsn| RangeDelete { start: start.into(), end: end.into(), lsn: Lsn::new(lsn) };
    let written = |entries: &[&[u8]], deletes: &[RangeDelete]| {
        let mut writer = store.writer(KeyspaceId(3), Placement::Top, BlobPolicy::NONE).unwrap();
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
    let path = FileKind::Table.path_in(Path::new(ROOT), &meta.hash);
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
    let mut writer = store.writer(KeyspaceId(1), Placement::Top, BlobPolicy::NONE).unwrap();
    writer.push(EntryRef { key: b"k", lsn: Lsn::new(1), content: Content::Delete }).unwrap();
    drop(writer);
    assert!(disk.list(&Path::new(ROOT).join(TABLES_FOLDER)).unwrap().is_empty());
}

#[test]
fn a_block_whose_checksum_was_made_for_nonsense_is_refused_or_consistent() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::block::{self, BlockKind};
    use super::sorted::{self, DATA_RUN, INDEX_RUN, Sorted, SortedBuilder};

    let mut random = StdRng::seed_from_u64(7);
    let (mut refused, mut read) = (0, 0);
    for round in 0..8_000 {
        let mut builder = SortedBuilder::new(if round % 3 == 0 { INDEX_RUN } else { DATA_RUN });
        for number in 0..random.random_range(1..40_u64) {
            let value = vec![1; random.random_range(0..9)];
            builder.push(&[b'c', number as u8 / 2, 7], Lsn::new(99 - number), Content::Put(&value));
        }
        let (mut raw, mut count) = builder.take();
        for _ in 0..random.random_range(0..3) {
            let at = random.random_range(0..raw.len());
            raw[at] = random.random();
        }
        if random.random_bool(0.1) {
            count = random.random();
        }
        let codec = if random.random_bool(0.5) { Codec::Zstd } else { Codec::None };
        let (sealed, _) = block::seal(BlockKind::Data, KeyspaceId(1), 0, &raw, count, codec);
        let map = Arc::new(seawall_wal::storage::Mapping::Owned(sealed));
        let (block, count) = block::open(&map, KeyspaceId(1), BlockKind::Data, 0, None).unwrap();
        match sorted::check(block.bytes(), count, &[]) {
            Err(_) => refused += 1,
            Ok((first, last)) => {
                let entries = Sorted::new(block.bytes());
                let (mut spot, mut key, mut places) = (entries.run(0), Vec::new(), Vec::new());
                while spot != entries.end() {
                    let entry = entries.at(spot);
                    entries.key_of(&entry, &mut key);
                    assert_eq!(entries.seek(&key, entry.lsn), (spot, true));
                    entry.content(&[]);
                    places.push((key.clone(), entry.lsn));
                    spot = entry.next;
                }
                assert!(places.is_sorted_by(|a, b| version_order((&a.0, a.1), (&b.0, b.1)).is_lt()));
                assert_eq!((places.first(), places.last(), places.len()), (Some(&first), Some(&last), count as usize));
                let mut back = Vec::new();
                while spot != entries.run(0) {
                    spot = entries.before(spot, &mut key);
                    back.push((key.clone(), entries.at(spot).lsn));
                }
                assert!(back.into_iter().rev().eq(places));
                read += 1;
            }
        }
    }
    assert!(refused > 1_000 && read > 1_000, "{refused} {read}");
}

#[test]
fn a_search_in_a_block_finds_what_a_search_among_whole_keys_does() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::sorted::{self, Sorted, SortedBuilder};

    let random = &mut StdRng::seed_from_u64(3);
    for round in 0..600 {
        // Keys that share much, that begin others, and that have zeros where shorter ones end.
        let common = [&b""[..], b"a", b"common/part"][round % 3];
        let key = |random: &mut StdRng| {
            let len = random.random_range(0..7);
            [common, &(0..len).map(|_| [0, 1, b'a', 0xff][random.random_range(0..4)]).collect::<Vec<_>>()].concat()
        };
        let mut places: Vec<_> =
            (0..random.random_range(1..400)).map(|_| (key(random), Lsn::new(random.random_range(1..4)))).collect();
        places.sort_by(|a, b| version_order((&a.0, a.1), (&b.0, b.1)));
        places.dedup();
        let run = [1, 2, 16][round / 3 % 3];
        let mut builder = SortedBuilder::new(run);
        for (number, (key, lsn)) in places.iter().enumerate() {
            let before = builder.len();
            let value = vec![number as u8; number % 3];
            builder.push(key, *lsn, Content::Put(&value));
            assert!(builder.len() - before <= SortedBuilder::growth(key, Content::Put(&value)));
        }
        let len = builder.len();
        let (raw, count) = builder.take();
        assert!(raw.len() <= len);
        sorted::check(&raw, count, &[]).unwrap();
        let entries = Sorted::new(&raw);
        let spots: Vec<_> = std::iter::successors(Some(entries.run(0)), |spot| {
            (*spot != entries.end()).then(|| entries.at(*spot).next)
        })
        .collect();
        for _ in 0..200 {
            let wanted = if random.random_bool(0.1) { b"com".to_vec() } else { key(random) };
            let lsn = Lsn::new(random.random_range(0..5));
            let expected = places.partition_point(|(key, own)| version_order((key, *own), (&wanted, lsn)).is_lt());
            let same = places.get(expected).is_some_and(|(key, _)| *key == wanted);
            assert_eq!(entries.seek(&wanted, lsn), (spots[expected], same), "{wanted:?} {lsn}");
            assert_eq!(entries.run_from(&wanted, lsn), expected.div_ceil(run), "{wanted:?} {lsn}");
        }
    }
}

/// What the golden tables hold: several leaves, runs that share and runs that do not, keys of many blocks, deletes.
fn golden() -> (Vec<Stored>, Vec<RangeDelete>) {
    let mut versions = vec![(Vec::new(), Lsn::new(7), Some(b"of the empty key".to_vec()))];
    for number in 0..200_u16 {
        let key = format!("accounts/{:05}", number * 3).into_bytes();
        let value = (number % 7 != 0).then(|| vec![number as u8; usize::from(number % 50)]);
        versions.push((key.clone(), Lsn::new(0x1_0000_0000 + u64::from(number)), value));
        if number % 5 == 0 {
            versions.push((key, Lsn::new(90), Some(b"older".to_vec())));
        }
    }
    for letter in [b'c', b'd', b'e'] {
        for lsn in [80, 70] {
            versions.push((vec![letter; 1500], Lsn::new(lsn), Some(vec![letter ^ lsn as u8; 3000])));
        }
    }
    versions.push((b"f".to_vec(), Lsn::new(80), Some(vec![b'f'; 10_000])));
    let delete =
        |start: &[u8], end: &[u8], lsn| RangeDelete { start: start.into(), end: end.into(), lsn: Lsn::new(lsn) };
    (versions, vec![delete(b"accounts/", b"accounts0", 60), delete(b"c", b"z", 95), delete(b"c", b"d", 65)])
}

/// What a golden version says: some values end, and some are operands.
fn golden_content(lsn: Lsn, value: Option<&[u8]>) -> Content<'_> {
    let time = Timestamp(1_800_000_000_000_000 + lsn.offset());
    match (value, lsn.offset() % 11) {
        (None, _) => Content::Delete,
        (Some(value), 3) => Content::Expiring { expiry: time, value },
        (Some(operand), 4) => Content::Merge { operator: MergeOperator::Append, time, operand },
        (Some(value), _) => Content::Put(value),
    }
}

const LARGE: &[u8] = include_bytes!("../../tests/fixtures/v1/large.table");
const LARGE_BLOBS: [&[u8]; 3] = [
    include_bytes!("../../tests/fixtures/v1/large_0.blob"),
    include_bytes!("../../tests/fixtures/v1/large_1.blob"),
    include_bytes!("../../tests/fixtures/v1/large_2.blob"),
];
const TOP: &[u8] = include_bytes!("../../tests/fixtures/v1/top.table");
const BELOW: &[u8] = include_bytes!("../../tests/fixtures/v1/below.table");

fn write_golden(store: &TableStore, placement: Placement) -> Arc<Table> {
    let (versions, deletes) = golden();
    let mut writer = store.writer(KeyspaceId(3), placement, BlobPolicy::NONE).unwrap();
    for (key, lsn, value) in &versions {
        writer.push(EntryRef { key, lsn: *lsn, content: golden_content(*lsn, value.as_deref()) }).unwrap();
    }
    deletes.iter().for_each(|delete| writer.push_range_delete(&delete.start, &delete.end, delete.lsn));
    store.adopt(writer.finish().unwrap()).unwrap()
}

#[test]
fn tables_of_version_1_are_read_and_written_as_ever() {
    let (versions, deletes) = golden();
    for (placement, bytes) in [(Placement::Top, TOP), (Placement::Below, BELOW)] {
        let disk = MemoryDisk::new();
        let store = store(&disk);
        let written = write_golden(&store, placement);
        let file = seawall_wal::storage::read_file(&disk, written.path(), 1 << 20).unwrap();
        // What zstd makes of the same bytes is its own business; that it is read is ours.
        assert!(placement == Placement::Below || file == bytes, "the same content is the same file");
        let hash = FileHash::from_bytes(*blake3::hash(bytes).as_bytes());
        let path = FileKind::Table.path_in(Path::new(ROOT), &hash);
        drop(written);
        let _ = disk.remove(&path);
        let copy = disk.open(&path, seawall_wal::storage::Access::CreateNew).unwrap();
        seawall_wal::storage::write_all_at(&*copy, bytes, 0).unwrap();
        let meta = TableMeta {
            hash,
            size: bytes.len() as u64,
            entries: 248,
            tombstones: 29,
            range_deletes: 3,
            min_lsn: Lsn::new(7),
            max_lsn: Lsn::new(0x1_0000_00C7),
            min_expiry: 1_800_000_000_000_000 + 80,
            max_expiry: 1_800_000_000_000_000 + 0x1_0000_0000 + 197,
            min_key: Vec::new(),
            max_key: b"z".to_vec(),
            max_key_excluded: true,
        };
        let table = store.open(KeyspaceId(3), meta).unwrap();
        table.verify().unwrap();
        assert_eq!(table.range_deletes().unwrap(), deletes);
        let mut cursor = TableCursor::first_from(Arc::clone(&table), None).unwrap();
        for (key, lsn, value) in &versions {
            let content = golden_content(*lsn, value.as_deref());
            assert_eq!(cursor.entry().unwrap(), EntryRef { key, lsn: *lsn, content });
            cursor.forward().unwrap();
            let walked = table.versions(key, filter_hash(key), *lsn, |at, found| {
                assert_eq!((at, found), (*lsn, content));
                true
            });
            assert!(walked.unwrap());
        }
        assert!(cursor.entry().is_none());
    }
}

/// Key, version, value.
type LargeVersion = (Vec<u8>, Lsn, Vec<u8>);

/// Of the golden table with large values: some end, some are empty, and some are too small to be large.
fn golden_large() -> Vec<LargeVersion> {
    let lens = [0, 99, 100, 700, 5, 4_000, 300, 20_000, 101, 3];
    let version = |(number, len): (u8, &usize)| {
        (vec![b'k', number / 2], Lsn::new(100 - u64::from(number)), (0..*len).map(|at| at as u8 ^ number).collect())
    };
    (0..).zip(&lens).map(version).collect()
}

const LARGE_POLICY: BlobPolicy = BlobPolicy { least: Some(100), file_bytes: 5_000 };

fn large_content(lsn: Lsn, value: &[u8]) -> Content<'_> {
    match lsn.offset() % 3 {
        0 => Content::Expiring { expiry: Timestamp(1_800_000_000_000_000 + lsn.offset()), value },
        _ => Content::Put(value),
    }
}

#[test]
fn blob_files_of_version_1_are_read_and_written_as_ever() {
    let disk = MemoryDisk::new();
    let store = store(&disk);
    let mut writer = store.writer(KeyspaceId(3), Placement::Top, LARGE_POLICY).unwrap();
    for (key, lsn, value) in &golden_large() {
        writer.push(EntryRef { key, lsn: *lsn, content: large_content(*lsn, value) }).unwrap();
    }
    let table = store.adopt(writer.finish().unwrap()).unwrap();
    let read = |path: &Path| seawall_wal::storage::read_file(&disk, path, 1 << 20).unwrap();
    let written: Vec<_> = table.blobs().iter().map(|blob| read(blob.file.path())).collect();
    assert!(written.iter().eq(LARGE_BLOBS), "the same values are the same files");
    assert_eq!(read(table.path()), LARGE);
    let meta = table.meta().clone();
    let blobs: Vec<_> = table.blobs().iter().map(|blob| *blob.file.meta()).collect();
    let shares: Vec<_> = table.blobs().iter().map(|blob| (blob.share.values, blob.share.bytes)).collect();
    assert_eq!(shares, [(4, 5_100), (1, 20_000), (1, 101)]);
    drop((table, store));
    let disk = MemoryDisk::new();
    let store = self::store(&disk);
    let copy = |kind: FileKind, bytes: &[u8]| {
        let hash = FileHash::from_bytes(*blake3::hash(bytes).as_bytes());
        let file = disk.open(&kind.path_in(Path::new(ROOT), &hash), seawall_wal::storage::Access::CreateNew).unwrap();
        seawall_wal::storage::write_all_at(&*file, bytes, 0).unwrap();
    };
    copy(FileKind::Table, LARGE);
    LARGE_BLOBS.iter().for_each(|bytes| copy(FileKind::Blob, bytes));
    blobs.iter().for_each(|blob| store.open_blob(KeyspaceId(3), *blob).unwrap());
    let table = store.open(KeyspaceId(3), meta).unwrap();
    table.verify().unwrap();
    for (key, lsn, value) in &golden_large() {
        let walked = table.versions(key, filter_hash(key), *lsn, |at, found| {
            let found = if let Content::Large(large) = found { large.read().unwrap() } else { found };
            assert_eq!((at, found), (*lsn, large_content(*lsn, value)));
            true
        });
        assert!(walked.unwrap());
    }
    table.blobs().iter().for_each(|blob| blob.file.verify().unwrap());
}

#[test]
fn every_flipped_bit_of_a_table_that_refers_to_blob_files_is_detected_or_harmless() {
    let disk = MemoryDisk::new();
    let versions = golden_large();
    let write = |store: &TableStore| {
        let mut writer = store.writer(KeyspaceId(3), Placement::Top, LARGE_POLICY).unwrap();
        for (key, lsn, value) in &versions {
            writer.push(EntryRef { key, lsn: *lsn, content: large_content(*lsn, value) }).unwrap();
        }
        store.adopt(writer.finish().unwrap()).unwrap()
    };
    let table = write(&store(&disk));
    let (meta, path) = (table.meta().clone(), table.path().to_owned());
    let blobs: Vec<_> = table.blobs().iter().map(|blob| *blob.file.meta()).collect();
    let read = |disk: &MemoryDisk| -> Result<Vec<LargeVersion>> {
        let store = store(disk);
        blobs.iter().try_for_each(|blob| store.open_blob(KeyspaceId(3), *blob))?;
        let mut cursor = TableCursor::first_from(store.open(KeyspaceId(3), meta.clone())?, None)?;
        let mut found = Vec::new();
        while let Some(EntryRef { key, lsn, content }) = cursor.entry() {
            let content = if let Content::Large(large) = content { large.read()? } else { content };
            assert_eq!(content.expiry().is_some(), lsn.offset() % 3 == 0);
            found.push((key.to_vec(), lsn, content.value().unwrap().to_vec()));
            cursor.forward()?;
        }
        Ok(found)
    };
    assert_eq!(read(&disk).unwrap(), versions);
    let mut detected = 0;
    for bit in 0..meta.size * 8 {
        disk.flip_bit(&path, bit / 8, (bit % 8) as u8);
        match read(&disk) {
            Ok(found) => assert_eq!(found, versions, "bit {bit}"),
            Err(Error::CorruptTable { path: named, .. }) => {
                assert_eq!(named, path);
                detected += 1;
            }
            Err(other) => panic!("bit {bit}: {other}"),
        }
        disk.flip_bit(&path, bit / 8, (bit % 8) as u8);
    }
    // A walk needs neither the filter nor what stands between blocks.
    assert!(detected * 10 > meta.size * 8 * 8, "{detected} of {}", meta.size * 8);
    // With one of its blob files missing it does not open.
    let store = store(&disk);
    store.open_blob(KeyspaceId(3), blobs[0]).unwrap();
    let error = store.open(KeyspaceId(3), meta.clone()).unwrap_err();
    assert!(error.to_string().contains("a blob file that the manifest does not have"), "{error}");
}

#[test]
fn blocks_that_are_not_in_memory_are_read_together_once_and_then_kept() {
    use seawall_wal::storage::{FaultyOperation, FaultyStorage};

    for placement in [Placement::Top, Placement::Below] {
        let storage = FaultyStorage::new(Arc::new(MemoryDisk::new()));
        storage.create_dir_all(&Path::new(ROOT).join(TABLES_FOLDER)).unwrap();
        let store = || TableStore::new(Arc::new(storage.clone()), Path::new(ROOT), 1 << 20);
        let mut writer = store().writer(KeyspaceId(3), placement, BlobPolicy::NONE).unwrap();
        for (key, lsn, value) in &versions(2_000, 60) {
            let content = value.as_deref().map_or(Content::Delete, Content::Put);
            writer.push(EntryRef { key, lsn: *lsn, content }).unwrap();
        }
        let meta = store().adopt(writer.finish().unwrap()).unwrap().meta().clone();
        let store = store();
        let table = store.open(KeyspaceId(3), meta).unwrap();
        let places: Vec<_> = (0..table.blocks_len()).map(|number| table.numbered(number).unwrap().unwrap()).collect();
        let counts = || (storage.count(FaultyOperation::Open), storage.count(FaultyOperation::Read));
        let before = counts();
        assert_eq!(table.blocks(&places, table.find_blocks(&places).unwrap()).unwrap().len(), places.len());
        assert_eq!(counts(), (before.0 + 1, before.1 + places.len() as u64), "{placement:?}");
        let before = counts();
        assert_eq!(table.blocks(&places, table.find_blocks(&places).unwrap()).unwrap().len(), places.len());
        scan(&table).unwrap();
        assert_eq!(counts(), before, "{placement:?}");
        // What is stored as it is takes no memory of ours.
        assert_eq!(store.cache_stats().bytes > 0, placement == Placement::Below);
    }
}

#[test]
fn values_that_do_not_compress_lie_in_blocks_of_a_page_and_all_others_in_large_ones() {
    const VALUE_LEN: u32 = 320;
    let word = |key: &str, n: u32| filter_hash(&[key.as_bytes(), &n.to_le_bytes()].concat()).to_le_bytes();
    let random = |key: &str| (0..VALUE_LEN / 8).flat_map(|n| word(key, n)).collect();
    let stored = |count: u32, is_random: &dyn Fn(u32) -> bool| -> Vec<Stored> {
        let keys = (0..count).map(|number| (number, format!("{number:05}")));
        keys.map(|(number, key)| {
            let value = if is_random(number) { random(&key) } else { vec![7; VALUE_LEN as usize] };
            (key.into_bytes(), Lsn::new(5), Some(value))
        })
        .collect()
    };
    // Blocks that are not compressed, all of them, and bytes of the former that are no longer than a page.
    let written = |stored: &[Stored]| {
        let disk = MemoryDisk::new();
        let table = write(&store(&disk), stored, Placement::Below);
        let mut counts = (0, table.blocks_len(), 0);
        for number in 0..table.blocks_len() {
            let place = table.numbered(number).unwrap().unwrap();
            let is_plain = table.block(&place).unwrap().is_as_stored();
            counts.0 += usize::from(is_plain);
            counts.2 += if is_plain && place.len <= 4096 { place.len } else { 0 };
        }
        assert_eq!(scan(&table).unwrap(), stored);
        counts
    };
    let bytes = |count: u32| (count * (VALUE_LEN + 15)) as usize;
    let (plain, blocks, small) = written(&stored(3_000, &|_| true));
    assert_eq!(plain, blocks);
    assert!(small > bytes(3_000) * 4 / 5, "{small} bytes in small blocks");
    let (plain, blocks, _) = written(&stored(3_000, &|_| false));
    assert!(plain == 0 && blocks <= bytes(3_000) / (15 << 10), "{plain} of {blocks}");
    // A few among others, as 30 KiB in each 300: most is compressed all the same.
    let (plain, blocks, small) = written(&stored(9_000, &|number| number % 900 < 90));
    assert!(blocks > plain && small < bytes(9_000) / 4, "{plain} of {blocks}, {small} bytes in small blocks");
    // Up to somewhere: soon all is.
    let (plain, blocks, _) = written(&stored(9_000, &|number| number < 3_000));
    assert!(plain <= bytes(3_000) / 3_500 + 64 && blocks - plain > 100, "{plain} of {blocks}");
}
