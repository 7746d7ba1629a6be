//! Of a log that nobody has open, what is sealed is given, as an open log gives it, and nothing else.

mod support;

use std::path::Path;
use std::sync::Arc;

use seawall_wal::storage::{Access, MemoryDisk, Storage, read_exact_at, write_all_at};
use seawall_wal::{ClusterId, Error, Lsn, RecordKind, SealedSegments, SegmentNumber, SegmentSize};
use support::{DIR, Opener, cluster, history};

const SEGMENT: u64 = 64 << 10;

/// A closed log of several segments on a disk; the number of the one it ends in.
fn closed_log() -> (MemoryDisk, u64) {
    let disk = MemoryDisk::new();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    for number in 0..300_u32 {
        let payload = number.to_le_bytes().repeat(1 + number as usize * 37 % 500);
        log.append(RecordKind::Commit, &payload).unwrap().wait().unwrap();
    }
    let last = log.close().unwrap().offset() / SEGMENT;
    assert!(last > 3);
    (disk, last)
}

fn sealed(disk: &MemoryDisk) -> SealedSegments {
    SealedSegments {
        storage: Arc::new(disk.clone()),
        dir: DIR.into(),
        cluster: cluster(),
        segment_size: SegmentSize::MIN,
        history: history(),
    }
}

/// All that is given of a segment, so many bytes at a time.
fn read(segments: &SealedSegments, number: u64, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let (mut at, mut bytes) = (Lsn::new(number * SEGMENT), Vec::new());
    while at.offset() / SEGMENT == number {
        let Some(log) = segments.read(at, bytes_max)? else { break };
        assert_eq!(log.start, at);
        at = log.end();
        bytes.extend(log.bytes);
    }
    Ok(bytes)
}

fn flip(disk: &MemoryDisk, number: u64, offset: u64) {
    let path = Path::new(DIR).join(format!("00000001-{number:016x}.wal"));
    let file = disk.open(&path, Access::Write).unwrap();
    let mut byte = [0];
    read_exact_at(&*file, &mut byte, offset).unwrap();
    write_all_at(&*file, &[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn what_is_given_of_sealed_segments_is_what_the_open_log_gives_and_of_the_last_one_nothing() {
    let (disk, last) = closed_log();
    let given: Vec<_> = (0..last).map(|number| read(&sealed(&disk), number, 1 << 20).unwrap()).collect();
    for bytes_max in [1, 700, 10_000] {
        let again: Vec<_> = (0..last).map(|number| read(&sealed(&disk), number, bytes_max).unwrap()).collect();
        assert_eq!(again, given, "{bytes_max} bytes at a time");
    }
    for beyond in [last, last + 1, last + 100] {
        assert_eq!(sealed(&disk).read(Lsn::new(beyond * SEGMENT), 1 << 20).unwrap(), None, "segment {beyond}");
    }
    let (log, ..) = Opener::primary().open(Arc::new(disk), Path::new(DIR)).unwrap();
    for (number, bytes) in given.iter().enumerate() {
        let (mut at, mut expected) = (Lsn::new(number as u64 * SEGMENT), Vec::new());
        while at.offset() / SEGMENT == number as u64 {
            let read = log.read(at, 1 << 20).unwrap().unwrap();
            at = read.end();
            expected.extend(read.bytes);
        }
        assert_eq!(*bytes, expected, "segment {number}");
    }
}

#[test]
fn damage_is_not_given_and_takes_nothing_else_with_it() {
    let (disk, last) = closed_log();
    let whole: Vec<_> = (0..last).map(|number| read(&sealed(&disk), number, 1 << 20).unwrap()).collect();
    // A record, and a header: without that, it is not known either where the segment before ends.
    flip(&disk, 1, 30_000);
    flip(&disk, 3, 20);
    let segments = sealed(&disk);
    for number in [1, 3] {
        let error = read(&segments, number, 1 << 20).unwrap_err();
        assert!(matches!(error, Error::CorruptRecord { segment, .. } if segment == SegmentNumber(number)), "{error}");
    }
    assert_eq!(read(&segments, 0, 1 << 20).unwrap(), whole[0]);
    assert_eq!(segments.read(Lsn::new(2 * SEGMENT), 1 << 20).unwrap(), None);
    let strangers = SealedSegments { cluster: ClusterId::random(), ..segments };
    assert_eq!(strangers.read(Lsn::ZERO, 1 << 20).unwrap(), None);
}
