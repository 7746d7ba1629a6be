//! Logs of every released format version still open. The files were written once and are never written again: if this
//! test fails, the format changed, and that needs a new version in FORMAT.md.

mod support;

use std::path::Path;
use std::sync::Arc;

use seawall_wal::storage::{Access, MemoryDisk, Storage};
use seawall_wal::{Log, LogMode, Lsn, Position, RecordKind, SegmentSize, TimelineHistory, TimelineId, TimelineNonce};
use support::{DIR, Opener, Written};

const SEGMENTS: [&str; 3] =
    ["00000001-0000000000000000.wal", "00000001-0000000000000001.wal", "00000002-0000000000000002.wal"];

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// What the fixture of version 1 holds: every kind a log can hold, a pad, a void and a promotion.
fn contents() -> [Vec<(RecordKind, Vec<u8>)>; 2] {
    let bytes = |seed: usize, len: usize| (0..len).map(|index| (index * seed + index / 7) as u8).collect::<Vec<u8>>();
    let first = vec![
        (RecordKind::Keyspace, b"keyspace".to_vec()),
        (RecordKind::Commit, bytes(3, 100)),
        (RecordKind::Time, Vec::new()),
        (RecordKind::Commit, bytes(5, 16_000)),
        (RecordKind::Commit, bytes(7, 16_000)),
        (RecordKind::Commit, bytes(11, 16_000)),
        (RecordKind::Commit, bytes(13, 15_000)),
        (RecordKind::Commit, bytes(15, 9_000)),
        (RecordKind::RestorePoint, b"before the accident".to_vec()),
        (RecordKind::Commit, bytes(17, 1)),
    ];
    let second = vec![(RecordKind::Promotion, b"promotion".to_vec()), (RecordKind::Commit, bytes(19, 5000))];
    [first, second]
}

fn second_timeline(fork: Position) -> TimelineHistory {
    let nonce = TimelineNonce::from_bytes([0x72; 16]);
    support::history().forked(TimelineId(2), nonce, fork, SegmentSize::MIN).unwrap()
}

fn write(log: &Log, contents: &[(RecordKind, Vec<u8>)]) -> Vec<Written> {
    let append = |(kind, payload): &(RecordKind, Vec<u8>)| {
        let ticket = log.append(*kind, payload).unwrap();
        ticket.wait().unwrap();
        Written { lsn: ticket.lsn(), kind: *kind, payload: payload.clone() }
    };
    contents.iter().map(append).collect()
}

/// The log as this version writes it: LSNs are decided by the format alone, so they must be those of the fixture.
fn written_now(disk: &MemoryDisk) -> (Vec<Written>, TimelineHistory) {
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let [first, second] = contents();
    let mut written = write(&log, &first);
    let history = second_timeline(log.end());
    log.begin_timeline(&history).unwrap();
    written.extend(write(&log, &second));
    (written, history)
}

#[test]
fn the_log_of_version_1_opens_and_holds_what_was_written() {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for name in SEGMENTS {
        let bytes = std::fs::read(fixtures().join(name)).unwrap();
        disk.open(&Path::new(DIR).join(name), Access::CreateNew).unwrap().write_at(&bytes, 0).unwrap();
    }
    let (expected, _) = written_now(&MemoryDisk::new());
    let fork = expected[contents()[0].len() - 1].lsn;
    // The chain at the fork is whatever the stored bytes say, so it is read from them.
    let (log, ..) = Opener { mode: LogMode::Receive, ..Opener::primary() }
        .open(Arc::new(disk.duplicate()), Path::new(DIR))
        .unwrap();
    assert_eq!(log.end().lsn, fork);
    let history = second_timeline(log.end());
    let opener = Opener { history, watermark: expected.last().unwrap().lsn, ..Opener::primary() };
    let (log, recovery, found) = opener.open(Arc::new(disk), Path::new(DIR)).unwrap();
    assert_eq!((recovery.row, found), (1, expected));
    assert_eq!(log.end().lsn, Lsn::new(0x215F8));
    write(&log, &[(RecordKind::Commit, b"and it goes on".to_vec())]);
}

/// Writes the fixture. Only for a new version, by hand: `cargo test -p seawall-wal --test fixtures -- --ignored`.
#[test]
#[ignore = "writes the fixture of a new format version; existing ones are never written again"]
fn write_the_fixture() {
    let disk = MemoryDisk::new();
    written_now(&disk);
    std::fs::create_dir_all(fixtures()).unwrap();
    for name in SEGMENTS {
        let path = fixtures().join(name);
        assert!(!path.exists(), "{} exists already", path.display());
        let bytes = disk.open(&Path::new(DIR).join(name), Access::Read).unwrap().map().unwrap();
        std::fs::write(path, &bytes[..]).unwrap();
    }
}
