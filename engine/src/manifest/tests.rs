use seawall_wal::Chain;
use seawall_wal::storage::MemoryDisk;

use super::*;
use crate::file::FileHash;

fn manifest() -> Manifest {
    let table = |level, byte: u8, lsns: (u64, u64), keys: (&[u8], &[u8])| TableEntry {
        keyspace: KeyspaceId(1),
        level,
        meta: TableMeta {
            hash: FileHash::from_bytes([byte; 32]),
            size: 100,
            entries: 3,
            tombstones: 1,
            range_deletes: 2,
            min_lsn: Lsn::new(lsns.0),
            max_lsn: Lsn::new(lsns.1),
            min_expiry: 0,
            max_expiry: 0,
            min_key: keys.0.to_vec(),
            max_key: keys.1.to_vec(),
            max_key_excluded: byte == 3,
        },
    };
    Manifest {
        number: 7,
        redo: Position { lsn: Lsn::new(900), chain: Chain(5) },
        redo_time: Timestamp(3),
        floor: Lsn::new(600),
        next_keyspace: 3,
        keyspaces: vec![
            KeyspaceEntry { id: KeyspaceId(1), name: "a".into(), created: Lsn::new(600), dropped: Lsn::MAX },
            KeyspaceEntry { id: KeyspaceId(2), name: "b".into(), created: Lsn::new(650), dropped: Lsn::new(700) },
        ],
        tables: vec![
            table(0, 1, (800, 900), (b"a", b"z")),
            table(0, 2, (700, 750), (b"b", b"c")),
            table(1, 3, (600, 650), (b"a", b"m")),
            // The one before ends where this begins.
            table(1, 4, (600, 690), (b"m", b"z")),
        ],
        blobs: [(1, 5, 700), (1, 7, 700), (2, 5, 16 + 20 + 3 + 64)]
            .map(|(keyspace, byte, size)| BlobEntry {
                keyspace: KeyspaceId(keyspace),
                meta: BlobMeta { hash: FileHash::from_bytes([byte; 32]), size, values: 1, bytes: 3 },
            })
            .into(),
        marks: [(100, 1_000), (200, 1_001), (900, 1_700)]
            .map(|(lsn, second)| TimeMark { lsn: Lsn::new(lsn), second })
            .into(),
        ..Manifest::empty(ClusterId::random())
    }
}

#[test]
fn a_manifest_reads_back_by_number_and_digest() {
    let disk = MemoryDisk::new();
    let folder = Path::new("/d");
    disk.create_dir_all(folder).unwrap();
    let digest = manifest().clone().write(&disk, folder).unwrap();
    assert!(matches!(
        Manifest::read(&disk, folder, 7, &[0; 32]),
        Err(Error::CorruptManifest { why: "it is not the one the control file names", .. })
    ));
    let (read, bytes) = Manifest::read(&disk, folder, 7, &digest).unwrap();
    assert_eq!(read.encode(), bytes);
    assert_eq!(Manifest { cluster: read.cluster, ..manifest() }, read);
}

#[test]
fn every_flipped_bit_and_every_cut_is_detected() {
    let good = manifest().encode();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::parse(&bytes, Path::new("m")).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(Manifest::parse(&good[..len], Path::new("m")).is_err(), "cut at {len}");
    }
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let wrongs: [fn(&mut Manifest); 16] = [
        |m| m.floor = Lsn::new(901),
        |m| m.tables[0].meta.max_lsn = Lsn::new(901),
        |m| m.tables.swap(0, 1),
        |m| m.tables[3].meta.min_key = b"l".to_vec(),
        |m| m.tables[2].meta.max_key_excluded = false,
        |m| m.tables[2].meta.range_deletes = 0,
        |m| m.tables[2].meta.max_expiry = 1,
        |m| m.next_keyspace = 2,
        |m| m.blobs.swap(0, 1),
        |m| m.blobs[1] = m.blobs[0],
        |m| m.blobs[2].keyspace = KeyspaceId(3),
        |m| m.blobs[2].meta.values = 0,
        |m| m.blobs[2].meta.bytes = 4,
        |m| m.marks[1].second = 1_000,
        |m| m.marks[2].lsn = Lsn::new(901),
        |m| m.marks = (0..4097).map(|n| TimeMark { lsn: Lsn::new(n), second: n }).collect(),
    ];
    for (index, wrong) in wrongs.iter().enumerate() {
        let mut manifest = manifest();
        wrong(&mut manifest);
        let parsed = Manifest::parse(&manifest.encode(), Path::new("m"));
        assert!(matches!(parsed, Err(Error::CorruptManifest { .. })), "{index}");
    }
}

#[test]
fn bytes_changed_under_a_right_checksum_are_refused_or_make_sense() {
    let good = manifest().encode();
    let (mut refused, mut read) = (0, 0);
    for at in 12..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let crc = crc32fast::hash(&bytes[12..]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            match Manifest::parse(&bytes, Path::new("m")) {
                Err(Error::CorruptManifest { .. } | Error::TooNew { .. } | Error::TooOld { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
                Ok(manifest) => {
                    assert_eq!(manifest.encode(), bytes, "what is read is all there is");
                    read += 1;
                }
            }
        }
    }
    assert!(refused > 100 && read > 100, "{refused} {read}");
}

#[test]
fn a_manifest_of_another_version_is_refused_with_what_to_do() {
    let of_version = |version: u32| {
        let mut bytes = manifest().encode();
        bytes[12..16].copy_from_slice(&version.to_le_bytes());
        let crc = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        Manifest::parse(&bytes, Path::new("m")).unwrap_err().to_string()
    };
    let old = of_version(0);
    assert!(old.contains("was never released") && old.contains("with the build that wrote it"), "{old}");
    let new = of_version(2);
    assert!(new.contains("version 2") && new.contains("use a newer build"), "{new}");
}
