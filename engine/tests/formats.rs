//! The frozen formats: what was written once is read for ever. The files under `fixtures/v1` are never made again; a new
//! version gets a folder of its own.

use seawall_engine::format::KeyspaceId;
use seawall_engine::payload::{CommitBuilder, CommitPayload, KeyspaceChange, Operation, Promotion};
use seawall_wal::{Chain, Lsn, NodeId, Position, TimelineId, TimelineNonce};

const COMMIT: &[u8] = include_bytes!("fixtures/v1/commit.payload");
const KEYSPACE_CREATE: &[u8] = include_bytes!("fixtures/v1/keyspace_create.payload");
const KEYSPACE_DROP: &[u8] = include_bytes!("fixtures/v1/keyspace_drop.payload");
const PROMOTION: &[u8] = include_bytes!("fixtures/v1/promotion.payload");

const OPERATIONS: [Operation<'static>; 4] = [
    Operation { keyspace: KeyspaceId(1), key: b"ann", value: Some(b"\x00\xff") },
    Operation { keyspace: KeyspaceId(0x0102_0304), key: b"bob", value: None },
    Operation { keyspace: KeyspaceId(1), key: b"c", value: Some(b"") },
    Operation { keyspace: KeyspaceId(1), key: b"ann", value: None },
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
    let mut builder = CommitBuilder::default();
    OPERATIONS.into_iter().for_each(|operation| builder.push(operation));
    assert_eq!(builder.finish(), COMMIT);

    let create = KeyspaceChange::Create { id: KeyspaceId(7), name: "Kunden \u{e9}" };
    assert_eq!(KeyspaceChange::parse(KEYSPACE_CREATE), Ok(create));
    assert_eq!(create.encode(), KEYSPACE_CREATE);
    let drop = KeyspaceChange::Drop { id: KeyspaceId(7) };
    assert_eq!(KeyspaceChange::parse(KEYSPACE_DROP), Ok(drop));
    assert_eq!(drop.encode(), KEYSPACE_DROP);

    assert_eq!(Promotion::parse(PROMOTION), Ok(PROMOTED));
    assert_eq!(PROMOTED.encode(), PROMOTION);
}
