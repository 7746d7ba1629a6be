use std::path::Path;
use std::sync::Arc;

use seawall_wal::Lsn;
use seawall_wal::storage::{Access, MemoryDisk, Storage};

use super::*;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, with_mutant};

const KEYSPACE: KeyspaceId = KeyspaceId(3);

fn path() -> &'static Path {
    Path::new("/d/blob")
}

/// A file with values of these, and where they lie in it.
fn written(disk: &MemoryDisk, values: &[&[u8]]) -> (BlobMeta, Vec<Reference>) {
    disk.create_dir_all(Path::new("/d")).unwrap();
    let mut writer = BlobWriter::create(Arc::new(disk.clone()), Path::new("/d/1.tmp"), KEYSPACE).unwrap();
    let references = values.iter().enumerate().map(|(number, value)| {
        let (offset, crc) = writer.push(&[b'k', number as u8], Lsn::new(number as u64 + 1), value).unwrap();
        Reference { blob: 0, offset, len: value.len() as u32, crc, expiry: 0 }
    });
    let references = references.collect();
    let finished = writer.finish().unwrap();
    finished.temporary.rename(path()).unwrap();
    (finished.meta, references)
}

fn open(disk: &MemoryDisk, meta: &BlobMeta) -> Result<BlobFile> {
    BlobFile::open(disk, path(), KEYSPACE, *meta)
}

#[test]
fn values_read_back_in_any_order_and_the_file_is_what_its_name_says() {
    let disk = MemoryDisk::new();
    let large = vec![7; 3 << 20];
    let values: [&[u8]; 4] = [b"one", b"", &large, b"last"];
    let (meta, references) = written(&disk, &values);
    assert_eq!((meta.values, meta.bytes), (4, large.len() as u64 + 7));
    assert!(meta.is_possible());
    let file = open(&disk, &meta).unwrap();
    for (value, reference) in values.iter().zip(&references).rev() {
        assert_eq!(file.value(reference).unwrap(), *value);
    }
    file.verify().unwrap();
    let bytes = seawall_wal::storage::read_file(&disk, path(), 1 << 30).unwrap();
    assert_eq!((bytes.len() as u64, blake3::hash(&bytes).as_bytes()), (meta.size, meta.hash.as_bytes()));
}

/// What is read after each bit of the file was flipped: for each either what was written or an error that names the file.
fn read_with_flips(disk: &MemoryDisk, meta: &BlobMeta, values: &[&[u8]], references: &[Reference]) -> (u64, u64) {
    let (mut detected, mut wrong) = (0, 0);
    for bit in 0..meta.size * 8 {
        disk.flip_bit(path(), bit / 8, (bit % 8) as u8);
        match open(disk, meta) {
            Err(Error::CorruptTable { path: named, .. }) => {
                assert_eq!(named, path());
                detected += 1;
            }
            Err(other) => panic!("bit {bit}: {other}"),
            Ok(file) => {
                assert!(file.verify().is_err(), "the digest covers every bit, bit {bit}");
                for (value, reference) in values.iter().zip(references) {
                    match file.value(reference) {
                        Ok(found) => wrong += u64::from(found != *value),
                        Err(Error::CorruptTable { path: named, offset, .. }) => {
                            assert_eq!((named.as_path(), offset), (path(), reference.offset));
                            detected += 1;
                        }
                        Err(other) => panic!("bit {bit}: {other}"),
                    }
                }
            }
        }
        disk.flip_bit(path(), bit / 8, (bit % 8) as u8);
    }
    (detected, wrong)
}

#[test]
fn every_flipped_bit_is_detected_in_the_value_it_hits_and_in_no_other() {
    let disk = MemoryDisk::new();
    let values: [&[u8]; 3] = [b"the first", b"and the second", b"3"];
    let (meta, references) = written(&disk, &values);
    assert_eq!(read_with_flips(&disk, &meta, &values, &references), (meta.size * 8, 0));
    let planted = || read_with_flips(&disk, &meta, &values, &references);
    let (_, wrong) = with_mutant(Mutant::BlobValuesNotChecked, planted);
    assert!(wrong > 100, "a reader that compares no checksum is noticed: {wrong}");
}

#[test]
fn a_record_of_another_place_or_file_does_not_pass() {
    let disk = MemoryDisk::new();
    let (meta, references) = written(&disk, &[b"value", b"VALUE"]);
    let file = open(&disk, &meta).unwrap();
    let refused = |reference: Reference| {
        let error = file.value(&reference).unwrap_err();
        assert!(matches!(&error, Error::CorruptTable { .. }), "{error}");
    };
    let [first, second] = references[..] else { panic!("two values were written") };
    refused(Reference { offset: second.offset, ..first });
    refused(Reference { crc: second.crc, ..first });
    refused(Reference { len: 4, ..first });
    refused(Reference { len: 1 << 20, offset: u64::MAX, ..first });
    for offset in [0, first.offset + 1, meta.size - 64, meta.size - 20, meta.size, u64::MAX] {
        refused(Reference { offset, ..first });
    }
    // The second record over the first.
    let bytes = seawall_wal::storage::read_file(&disk, path(), 1 << 20).unwrap();
    let record = &bytes[second.offset as usize..meta.size as usize - 64];
    disk.open(path(), Access::Write).unwrap().write_at(record, first.offset).unwrap();
    let file = open(&disk, &meta).unwrap();
    assert!(matches!(file.value(&first), Err(Error::CorruptTable { offset, .. }) if offset == first.offset));
    assert!(matches!(file.verify(), Err(Error::CorruptTable { offset, .. }) if offset == first.offset));
    assert_eq!(file.value(&second).unwrap(), b"VALUE");
}

#[test]
fn a_file_that_is_not_the_one_named_is_refused() {
    let disk = MemoryDisk::new();
    let (meta, _) = written(&disk, &[b"value"]);
    for wrong in
        [BlobMeta { size: meta.size + 1, ..meta }, BlobMeta { values: 2, ..meta }, BlobMeta { bytes: 4, ..meta }]
    {
        assert!(matches!(open(&disk, &wrong), Err(Error::CorruptTable { .. })), "{wrong:?}");
    }
    assert!(matches!(
        BlobFile::open(&disk, path(), KeyspaceId(4), meta),
        Err(Error::CorruptTable { why: "its footer is not that of the blob file in the manifest", .. })
    ));
    disk.remove(path()).unwrap();
    assert!(matches!(open(&disk, &meta), Err(Error::Io { operation: "open", .. })));
}

#[test]
fn an_unfinished_file_is_removed() {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    let mut writer = BlobWriter::create(Arc::new(disk.clone()), path(), KEYSPACE).unwrap();
    writer.push(b"k", Lsn::new(1), b"value").unwrap();
    drop(writer);
    assert!(disk.list(Path::new("/d")).unwrap().is_empty());
}
