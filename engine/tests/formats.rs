//! The frozen formats: what was written once is read for ever. The files under `fixtures/v1` are never made again; a new
//! version gets a folder of its own.

use std::path::Path;

use seawall_engine::format::KeyspaceId;
use seawall_engine::manifest::{BlobEntry, KeyspaceEntry, Manifest, TableEntry, TimeMark};
use seawall_engine::payload::{Action, CommitBuilder, CommitPayload, KeyspaceChange, Operation, Promotion};
use seawall_engine::{BlobMeta, FileHash, MergeOperator, TableMeta};
use seawall_wal::{Chain, ClusterId, Lsn, NodeId, Position, TimelineId, TimelineNonce, Timestamp};

const COMMIT: &[u8] = include_bytes!("fixtures/v1/commit.payload");
const COMMIT_MERGE_TTL: &[u8] = include_bytes!("fixtures/v1/commit_merge_ttl.payload");
const COMMIT_DELETE_RANGE: &[u8] = include_bytes!("fixtures/v1/commit_delete_range.payload");
const KEYSPACE_CREATE: &[u8] = include_bytes!("fixtures/v1/keyspace_create.payload");
const KEYSPACE_DROP: &[u8] = include_bytes!("fixtures/v1/keyspace_drop.payload");
const PROMOTION: &[u8] = include_bytes!("fixtures/v1/promotion.payload");

const MANIFEST: &[u8] = include_bytes!("fixtures/v1/manifest");

const OPERATIONS: [Operation<'static>; 4] = [
    Operation { keyspace: KeyspaceId(1), key: b"ann", action: Action::Put(b"\x00\xff") },
    Operation { keyspace: KeyspaceId(0x0102_0304), key: b"bob", action: Action::Delete },
    Operation { keyspace: KeyspaceId(1), key: b"c", action: Action::Put(b"") },
    Operation { keyspace: KeyspaceId(1), key: b"ann", action: Action::Delete },
];

const MERGES_AND_TTL: [Operation<'static>; 4] = [
    Operation {
        keyspace: KeyspaceId(1),
        key: b"ann",
        action: Action::PutFor { ttl_micros: 1_800_000_000, value: b"session" },
    },
    Operation {
        keyspace: KeyspaceId(2),
        key: b"visits",
        action: Action::Merge { operator: MergeOperator::Add, operand: &(-5_i64).to_le_bytes() },
    },
    Operation {
        keyspace: KeyspaceId(2),
        key: b"top",
        action: Action::Merge { operator: MergeOperator::Max, operand: b"\xff\x00" },
    },
    Operation {
        keyspace: KeyspaceId(0x0102_0304),
        key: b"log",
        action: Action::Merge { operator: MergeOperator::Append, operand: b"" },
    },
];

const RANGES: [Operation<'static>; 3] = [
    Operation { keyspace: KeyspaceId(1), key: b"a", action: Action::DeleteRange { end: b"b\x00" } },
    Operation { keyspace: KeyspaceId(1), key: b"ann", action: Action::Put(b"kept") },
    Operation { keyspace: KeyspaceId(0x0102_0304), key: b"\x00", action: Action::DeleteRange { end: b"" } },
];

const PROMOTED: Promotion = Promotion {
    timeline: TimelineId(3),
    nonce: TimelineNonce::from_bytes([0xA0; 16]),
    parent: TimelineId(2),
    fork: Position { lsn: Lsn::new(0x0001_0002_0003_0008), chain: Chain(0x1122_3344_5566_7788) },
    node: NodeId::from_bytes([0xB0; 16]),
};

#[test]
fn payloads_of_version_1_are_read_and_written_as_ever() {
    assert!(CommitPayload::parse(COMMIT).unwrap().operations().eq(OPERATIONS));
    assert!(CommitPayload::parse(COMMIT_MERGE_TTL).unwrap().operations().eq(MERGES_AND_TTL));
    assert!(CommitPayload::parse(COMMIT_DELETE_RANGE).unwrap().operations().eq(RANGES));
    let all = [(&OPERATIONS[..], COMMIT), (&MERGES_AND_TTL, COMMIT_MERGE_TTL), (&RANGES, COMMIT_DELETE_RANGE)];
    for (operations, payload) in all {
        let mut builder = CommitBuilder::default();
        operations.iter().for_each(|operation| builder.push(*operation));
        assert_eq!(builder.finish(), payload);
    }

    let create = KeyspaceChange::Create { id: KeyspaceId(7), name: "Kunden \u{e9}" };
    assert_eq!(KeyspaceChange::parse(KEYSPACE_CREATE), Ok(create));
    assert_eq!(create.encode(), KEYSPACE_CREATE);
    let drop = KeyspaceChange::Drop { id: KeyspaceId(7) };
    assert_eq!(KeyspaceChange::parse(KEYSPACE_DROP), Ok(drop));
    assert_eq!(drop.encode(), KEYSPACE_DROP);

    assert_eq!(Promotion::parse(PROMOTION), Ok(PROMOTED));
    assert_eq!(PROMOTED.encode(), PROMOTION);
}

fn manifest() -> Manifest {
    let table = |level, hash, lsns: (u64, u64), keys: (&[u8], &[u8]), max_key_excluded| TableEntry {
        keyspace: KeyspaceId(1),
        level,
        meta: TableMeta {
            hash: FileHash::from_bytes([hash; 32]),
            size: 0x1_0203_0405,
            entries: 9,
            tombstones: 4,
            range_deletes: u64::from(max_key_excluded),
            min_lsn: Lsn::new(lsns.0),
            max_lsn: Lsn::new(lsns.1),
            min_expiry: if level == 0 { 1_700_000_000_000_000 } else { 0 },
            max_expiry: if level == 0 { 1_800_000_000_000_000 } else { 0 },
            min_key: keys.0.to_vec(),
            max_key: keys.1.to_vec(),
            max_key_excluded,
        },
    };
    let blob = |keyspace, hash, size, (values, bytes)| BlobEntry {
        keyspace: KeyspaceId(keyspace),
        meta: BlobMeta { hash: FileHash::from_bytes([hash; 32]), size, values, bytes },
    };
    Manifest {
        number: 0x0123_4567,
        cluster: ClusterId::from_bytes([0xC0; 16]),
        redo: Position { lsn: Lsn::new(0x9000), chain: Chain(0x1122_3344_5566_7788) },
        timeline: TimelineId(3),
        log_start: Position { lsn: Lsn::new(0x8000), chain: Chain(0x99AA_BBCC_DDEE_FF00) },
        redo_time: Timestamp(1_750_000_000_000_000),
        floor: Lsn::new(0x7000),
        next_keyspace: 8,
        keyspaces: vec![
            KeyspaceEntry { id: KeyspaceId(1), name: "Kunden \u{e9}".into(), created: Lsn::new(9), dropped: Lsn::MAX },
            KeyspaceEntry { id: KeyspaceId(7), name: "old".into(), created: Lsn::new(20), dropped: Lsn::new(0x6000) },
        ],
        tables: vec![
            table(0, 0xA1, (0x8001, 0x9000), (b"", b"\xff"), false),
            table(3, 0xA2, (0x10, 0x4000), (b"a", b"m"), true),
            table(3, 0xA3, (0x10, 0x5000), (b"m", b"z"), false),
        ],
        blobs: vec![
            blob(1, 0xB1, 0x1_0203_0405, (7, 0x1_0000_0000)),
            blob(1, 0xB2, 16 + 20 + 64, (1, 0)),
            blob(7, 0xB0, 5_000, (3, 4_000)),
        ],
        marks: vec![
            TimeMark { lsn: Lsn::new(0x40), second: 1_749_999_000 },
            TimeMark { lsn: Lsn::new(0x8500), second: 1_750_000_000 },
        ],
    }
}

#[test]
fn a_manifest_of_version_1_is_read_and_written_as_ever() {
    assert_eq!(Manifest::parse(MANIFEST, Path::new("manifest")).unwrap(), manifest());
    assert_eq!(manifest().encode(), MANIFEST);
}
