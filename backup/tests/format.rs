//! Objects written by version 1 stay readable: golden files, one for each kind, under `tests/fixtures/v1/`. To make those of
//! a new version, run with `SEAWALL_WRITE_FIXTURES=1` and keep the old ones.

use std::path::PathBuf;

use bytes::Bytes;
use seawall_backup::format::chunk::{Chunk, ChunkAbout, ChunkObject, ChunkOrigin, encode_fence};
use seawall_backup::format::envelope::{ABOUT_LEN, Envelope, Kind};
use seawall_backup::format::{BackupManifest, ClusterDocument, FileEntry, FrontierDocument, TimelineDocument};
use seawall_wal::format::{RecordHeader, SegmentHeader, payload_crc};
use seawall_wal::{
    Chain, ClusterId, LogBytes, Lsn, NodeId, Position, RecordKind, SegmentNumber, SegmentSize, TimelineHistory,
    TimelineId, TimelineNonce, Timestamp,
};

const SIZE: SegmentSize = SegmentSize::MIN;
const TIMELINE: TimelineId = TimelineId(2);

fn cluster() -> ClusterDocument {
    let cluster = ClusterId::from_bytes(*b"golden cluster 1");
    ClusterDocument { cluster, segment_size: SIZE, created: Timestamp(1_790_000_000_000_000) }
}

fn history() -> TimelineHistory {
    let fork = Position { lsn: Lsn::new(70_000), chain: Chain(0x0123_4567_89AB_CDEF) };
    TimelineHistory::first(TimelineNonce::from_bytes([1; 16]))
        .forked(TIMELINE, TimelineNonce::from_bytes([2; 16]), fork, SIZE)
        .unwrap()
}

fn origin() -> ChunkOrigin {
    let nonce = history().current().nonce;
    ChunkOrigin { cluster: cluster().cluster, segment_size: SIZE, nonce, node: NodeId::from_bytes([3; 16]) }
}

/// The first records of timeline 2.
fn chunk() -> Chunk {
    let header = SegmentHeader {
        cluster: cluster().cluster,
        nonce: history().current().nonce,
        timeline: TIMELINE,
        size: SIZE,
        segment: SegmentNumber(2),
        salt: 0x5A17,
        previous: history().current().fork,
        writer: NodeId::from_bytes([3; 16]),
        created: Timestamp(1_790_000_000_000_000),
    };
    let mut bytes = header.encode().to_vec();
    let (mut at, mut chain) = (header.first_record(), header.previous.chain);
    let start = SIZE.start_of(header.segment);
    for n in 0..20_u64 {
        let payload = vec![n as u8; 50];
        let time = Timestamp(1_790_000_000_000_100 + n);
        let (len, crc) = (payload.len(), payload_crc(&payload));
        let record = RecordHeader::chained(chain, at, RecordKind::Commit, len, crc, start, time);
        bytes.extend_from_slice(&record.encode(header.salt));
        bytes.extend_from_slice(&payload);
        (at, chain) = (record.end(SIZE), record.chain);
        bytes.resize(at.distance_from(start) as usize, 0);
    }
    let log = LogBytes { timeline: TIMELINE, start, bytes };
    Chunk::of_log(&origin(), log, history().current().fork.chain, None).unwrap()
}

fn fence() -> ChunkAbout {
    ChunkAbout::fence(&origin(), TIMELINE, chunk().about.end_position(), Timestamp(1_790_000_001_000_000))
}

fn timeline() -> TimelineDocument {
    TimelineDocument {
        parent: Some(TimelineId(1)),
        claimed: Timestamp(1_790_000_000_000_050),
        claimant: "node b".to_owned(),
        history: history(),
    }
}

fn frontier() -> FrontierDocument {
    FrontierDocument {
        timeline: TIMELINE,
        nonce: history().current().nonce,
        position: chunk().about.end_position(),
        commit_time: chunk().about.last_time,
        asserted: chunk().about.last_time,
    }
}

fn backup() -> BackupManifest {
    let file = |n: u8, size| FileEntry { hash: blake3::hash(&[n]), size };
    BackupManifest {
        id: "20260921T131320Z-0000a123".parse().unwrap(),
        node: NodeId::from_bytes([3; 16]),
        label: "nightly".to_owned(),
        started: Timestamp(1_790_000_000_000_010),
        finished: Timestamp(1_790_000_002_000_000),
        history: history(),
        redo: chunk().about.end_position(),
        redo_time: chunk().about.last_time,
        log_start: history().current().fork,
        stop: chunk().about.end,
        manifest: file(1, 4000),
        tables: vec![file(2, 32 << 20), file(3, 0)],
        digest: Some("d1".repeat(32)),
    }
}

fn piece() -> Envelope {
    let plaintext: Bytes = (0..3000_u32).map(|n| (n / 11) as u8).collect();
    let (cluster, timeline) = (cluster().cluster, TimelineId(0));
    Envelope { kind: Kind::Piece, cluster, timeline, about: [0; ABOUT_LEN], plaintext }
}

/// The golden file of this name; `new` is what this build would write.
fn golden(name: &str, new: Bytes) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(name);
    if std::env::var_os("SEAWALL_WRITE_FIXTURES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, new).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

#[test]
fn objects_of_version_1_are_read() {
    let id = cluster().cluster;
    assert_eq!(ClusterDocument::decode(&golden("cluster", cluster().encode())), Ok(cluster()));
    let object = golden("timeline", timeline().encode(id));
    assert_eq!(TimelineDocument::decode(&object, &cluster(), TIMELINE), Ok(timeline()));
    let object = golden("frontier", frontier().encode(id));
    assert_eq!(FrontierDocument::decode(&object, id, TIMELINE), Ok(frontier()));
    let object = golden("backup", backup().encode(id));
    assert_eq!(BackupManifest::decode(&object, &cluster(), &backup().id), Ok(backup()));
    let object = golden("piece", piece().encode());
    assert_eq!(Envelope::decode(&object), Ok(piece()));
    let start = chunk().about.start;
    let object = golden("chunk", chunk().encode(id));
    assert_eq!(ChunkObject::decode(&object, id, TIMELINE, start), Ok(ChunkObject::Chunk(chunk())));
    let object = golden("fence", encode_fence(&fence(), id, "node b"));
    let expected = ChunkObject::Fence { about: fence(), by: "node b".to_owned() };
    assert_eq!(ChunkObject::decode(&object, id, TIMELINE, fence().start), Ok(expected));
}

#[test]
fn heads_stand_where_the_format_says() {
    let object = golden("chunk", chunk().encode(cluster().cluster));
    let u32_at = |at: usize| u32::from_le_bytes(object[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(object[at..at + 8].try_into().unwrap());
    assert_eq!(&object[0..8], b"SEAWARC\x01");
    assert_eq!((u32_at(8), object[16], object[17], object[18], u32_at(20)), (1, 3, 1, 0, 2));
    assert_eq!(&object[24..40], b"golden cluster 1");
    let about = chunk().about;
    assert_eq!((u32_at(44), u64_at(72)), (104, about.end.distance_from(about.start)));
    assert_eq!(u64_at(80), object.len() as u64 - 128 - 104);
    assert_eq!(&object[88..120], blake3::hash(&chunk().bytes).as_bytes());
    assert_eq!((u64_at(128 + 16), u64_at(128 + 24)), (about.start.offset(), about.end.offset()));
    assert_eq!((u64_at(128 + 32), u64_at(128 + 48)), (0x0123_4567_89AB_CDEF, 0x5A17));
    assert_eq!((u32_at(128 + 72), u32_at(128 + 76)), (65_536, 20));
}
