//! Objects of an archive under every key. The repository is hostile: envelopes are made right around contents that were
//! changed. What decodes is written back as the same, or refused as damage; nothing grows beyond its kind's limit.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use seawall_backup::format::chunk::{ChunkObject, encode_fence};
use seawall_backup::format::envelope::{ABOUT_LEN, CHUNK_HEAD_LEN, Envelope, HEAD_LEN, Head, Kind};
use seawall_backup::format::{BackupId, BackupManifest, ClusterDocument, FrontierDocument, TimelineDocument, keys};
use seawall_fuzz::{Edit, Script};
use seawall_wal::{ClusterId, Lsn, SegmentSize, TimelineId, Timestamp};

const CLUSTER: ClusterId = ClusterId::from_bytes(*b"golden cluster 1");
const TIMELINE: TimelineId = TimelineId(2);
/// The start of the golden chunk.
const START: Lsn = Lsn::new(131_072);
/// Changes of one input.
const EDITS_MAX: usize = 8;

const GOLDEN: [&[u8]; 7] = [
    include_bytes!("../../backup/tests/fixtures/v1/cluster"),
    include_bytes!("../../backup/tests/fixtures/v1/timeline"),
    include_bytes!("../../backup/tests/fixtures/v1/chunk"),
    include_bytes!("../../backup/tests/fixtures/v1/fence"),
    include_bytes!("../../backup/tests/fixtures/v1/frontier"),
    include_bytes!("../../backup/tests/fixtures/v1/piece"),
    include_bytes!("../../backup/tests/fixtures/v1/backup"),
];

fuzz_target!(
    init: seawall_fuzz::begin(seeds()),
    |input: &[u8]| {
        let mut script = Script::new(input);
        let how = script.u8();
        let kind = usize::from(how >> 4) % GOLDEN.len();
        let object = match how % 4 {
            // The input is the object.
            0 => script.rest().to_vec(),
            // The input is what a golden object holds.
            1 => {
                let golden = Envelope::decode(&Bytes::from_static(GOLDEN[kind])).expect("golden");
                let limit = golden.kind.plaintext_len_max();
                let plaintext = script.rest();
                let plaintext = Bytes::copy_from_slice(&plaintext[..plaintext.len().min(limit)]);
                Envelope { plaintext, ..golden }.encode().to_vec()
            }
            // What a golden object holds and says of itself, changed, in an envelope that is right.
            2 => {
                let golden = Envelope::decode(&Bytes::from_static(GOLDEN[kind])).expect("golden");
                let mut about = golden.about.to_vec();
                let mut plaintext = golden.plaintext.to_vec();
                for _ in 0..EDITS_MAX {
                    let part = if script.bool() { &mut about } else { &mut plaintext };
                    if script.is_over() || part.is_empty() {
                        break;
                    }
                    Edit::next(&mut script, part.len()).apply(part);
                }
                about.resize(ABOUT_LEN, 0);
                plaintext.truncate(golden.kind.plaintext_len_max());
                let about = about.try_into().expect("it was made so long");
                Envelope { about, plaintext: plaintext.into(), ..golden }.encode().to_vec()
            }
            // A golden object with its stored bytes changed and its head made right.
            _ => {
                let mut object = GOLDEN[kind].to_vec();
                for _ in 0..EDITS_MAX {
                    if !script.is_over() && !object.is_empty() {
                        Edit::next(&mut script, object.len()).apply(&mut object);
                    }
                }
                seal(&mut object);
                object
            }
        };
        let start = if how & 4 != 0 { Lsn::new(about_start(&object)) } else { START };
        check(&Bytes::from(object), start);
    }
);

/// Where a chunk says that it begins, as if it had been found under that key.
fn about_start(object: &[u8]) -> u64 {
    object.get(HEAD_LEN + 16..HEAD_LEN + 24).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")))
}

/// Makes the head's checksum right.
fn seal(object: &mut [u8]) {
    let about_len = object.get(44..48).map_or(0, |len| u32::from_le_bytes(len.try_into().expect("four")) as usize);
    if let Some(covered) = object.get(16..HEAD_LEN.saturating_add(about_len)) {
        let crc = crc32fast::hash(covered);
        object[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}

fn check(object: &Bytes, start: Lsn) {
    let cluster = ClusterDocument { cluster: CLUSTER, segment_size: SegmentSize::MIN, created: Timestamp(1) };
    let id: BackupId = "20260921T131320Z-0000a123".parse().expect("an id");
    if let Ok(head) = Head::parse(object) {
        assert!(head.plaintext_len <= head.kind.plaintext_len_max());
        assert!(head.object_len() <= head.kind.object_len_max());
    }
    if let Ok(envelope) = Envelope::decode(object) {
        assert!(envelope.plaintext.len() <= envelope.kind.plaintext_len_max());
        // The bytes may be another way of compressing the same.
        assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
    }
    if let Ok(document) = ClusterDocument::decode(object) {
        assert_eq!(ClusterDocument::decode(&document.encode()), Ok(document));
    }
    if let Ok(document) = TimelineDocument::decode(object, &cluster, TIMELINE) {
        let again = TimelineDocument::decode(&document.encode(CLUSTER), &cluster, TIMELINE);
        // A text that is too long is cut when it is written.
        assert_eq!(again.map(|again| again.history), Ok(document.history));
    }
    if let Ok(document) = FrontierDocument::decode(object, CLUSTER, TIMELINE) {
        assert_eq!(FrontierDocument::decode(&document.encode(CLUSTER), CLUSTER, TIMELINE), Ok(document));
    }
    if let Ok(backup) = BackupManifest::decode(object, &cluster, &id) {
        assert!(backup.files().count() <= object.len().max(64 << 20));
        assert!(backup.log_start.lsn <= backup.redo.lsn && backup.redo.lsn <= backup.stop);
        let _ = backup.bytes();
    }
    let head = &object[..object.len().min(CHUNK_HEAD_LEN)];
    let about = seawall_backup::format::ChunkAbout::parse_head(head, CLUSTER, TIMELINE, start);
    match ChunkObject::decode(object, CLUSTER, TIMELINE, start) {
        Ok(ChunkObject::Chunk(chunk)) => {
            assert_eq!(about, Ok((chunk.about, false)));
            assert_eq!(
                ChunkObject::decode(&chunk.encode(CLUSTER), CLUSTER, TIMELINE, start),
                Ok(ChunkObject::Chunk(chunk.clone()))
            );
            let mut records = 0;
            chunk.for_each_record(|record| {
                assert!(record.lsn > start && record.lsn <= chunk.about.end);
                records += 1;
            });
            assert_eq!(records, chunk.about.records);
            assert_eq!(chunk.after(chunk.about.end_position()), None);
            assert_eq!(chunk.cut_at(chunk.about.end), Some(chunk.to_log()));
            let key = keys::chunk(TIMELINE, chunk.about.end);
            assert_eq!(keys::chunk_start(TIMELINE, &key), Some(chunk.about.end));
        }
        Ok(ChunkObject::Fence { about, by }) => {
            let again = encode_fence(&about, CLUSTER, &by);
            assert!(ChunkObject::decode(&again, CLUSTER, TIMELINE, start).is_ok());
        }
        Err(damage) => assert!(!damage.to_string().is_empty()),
    }
    let _ = (Kind::Piece, std::str::from_utf8(object).map(|text| text.parse::<BackupId>()));
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let names = ["cluster", "timeline", "chunk", "fence", "frontier", "piece", "backup"];
    let mut seeds = Vec::new();
    for (kind, (name, golden)) in (0_u8..).zip(names.into_iter().zip(GOLDEN)) {
        seeds.push((name, [&[0], golden].concat()));
        let Ok(envelope) = Envelope::decode(&Bytes::from_static(golden)) else { continue };
        if matches!(name, "cluster" | "timeline" | "frontier" | "backup") {
            let held = ["cluster_held", "timeline_held", "", "", "frontier_held", "", "backup_held"][usize::from(kind)];
            seeds.push((held, [&[kind << 4 | 1], envelope.plaintext.as_ref()].concat()));
        }
    }
    seeds.push(("chunk_changed", vec![0x26, 0, 0, 200, 0, 0, 0, 0xFF]));
    seeds.push(("chunk_about", vec![0x26, 1, 24, 16, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]));
    seeds.push(("piece_stored", vec![0x53, 0, 140, 0, 0, 0, 0xFF]));
    seeds
}
