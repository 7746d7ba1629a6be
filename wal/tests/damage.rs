//! What readers of an open log say of a file that is damaged, unreadable or gone: never that the log is another one.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::{Fault, FaultyOperation, FaultyStorage, MemoryDisk, Storage};
use seawall_wal::{Damage, Error, Log, Lsn, RecordKind, SegmentNumber, SegmentSize, TimelineId, TimelineNonce};
use support::{DIR, Opener};

const SIZE: SegmentSize = SegmentSize::MIN;
const SEGMENT: SegmentNumber = SegmentNumber(2);

/// A log of several segments, and where its records end.
fn log_on(storage: Arc<dyn Storage>) -> (Log, Vec<Lsn>) {
    let (log, ..) = Opener::primary().open(storage, Path::new(DIR)).unwrap();
    let append = |number: usize| {
        let ticket = log.append(RecordKind::Commit, &vec![number as u8; 700 + number % 91]).unwrap();
        ticket.wait().unwrap();
        log.end().lsn
    };
    let ends: Vec<Lsn> = (0..350).map(append).collect();
    assert!(log.end().lsn > SIZE.start_of(SegmentNumber(4)));
    (log, ends)
}

fn path_of(segment: SegmentNumber) -> PathBuf {
    Path::new(DIR).join(format!("00000001-{:016x}.wal", segment.0))
}

/// The end of the last record that lies wholly before this byte of the segment.
fn last_before(ends: &[Lsn], segment: SegmentNumber, offset: u64) -> usize {
    ends.iter().rposition(|end| *end <= SIZE.start_of(segment).advance(offset)).unwrap()
}

#[test]
fn whether_a_record_ends_behind_damage_is_not_known_and_the_damage_is_noted() {
    let disk = MemoryDisk::new();
    let (log, ends) = log_on(Arc::new(disk.clone()));
    let whole = last_before(&ends, SEGMENT, 30_000);
    let known = log.position_at(ends[whole]).unwrap().unwrap();
    disk.flip_bit(&path_of(SEGMENT), 30_000, 5);
    for behind in [ends[whole + 1], ends[whole + 20], ends[whole + 1].advance(8)] {
        let error = log.position_at(behind).unwrap_err();
        assert!(matches!(error, Error::CorruptRecord { at, segment: SEGMENT, .. } if at == ends[whole]), "{error}");
    }
    assert_eq!(log.damages(), [Damage { segment: SEGMENT, at: ends[whole] }]);
    assert_eq!(log.position_at(ends[whole]).unwrap(), Some(known), "what is before it is known");
    let next = last_before(&ends, SEGMENT.next(), 20_000);
    assert!(log.position_at(ends[next]).unwrap().is_some(), "and so is what is in other segments");
}

#[test]
fn only_a_whole_log_says_that_no_record_ends_at_a_position() {
    let (log, ends) = log_on(Arc::new(MemoryDisk::new()));
    for end in &ends {
        assert_eq!(log.position_at(*end).unwrap().unwrap().lsn, *end);
    }
    for end in &ends[..ends.len() - 1] {
        assert_eq!(log.position_at(end.advance(16)).unwrap(), None, "within a record");
    }
    assert_eq!(log.position_at(log.end().lsn.advance(64)).unwrap(), None, "beyond the end");
    assert!(log.recycle_before(SIZE.start_of(SEGMENT)) > 0);
    assert_eq!(log.position_at(ends[0]).unwrap(), None, "recycled");
    let fork = log.end();
    let next = log.history().forked(TimelineId(2), TimelineNonce::random(), fork, SIZE).unwrap();
    log.begin_timeline(&next).unwrap();
    log.append(RecordKind::Commit, b"after promotion").unwrap().wait().unwrap();
    assert_eq!(log.position_at(fork.lsn).unwrap(), Some(fork));
    assert_eq!(log.position_at(fork.lsn.advance(64)).unwrap(), None, "in the void behind a fork");
    assert_eq!(log.damages(), []);
}

#[test]
fn a_sector_of_a_sealed_segment_that_the_device_cannot_read_is_noted_as_damage_and_other_errors_are_not() {
    let readers: [fn(&Log, Lsn) -> Error; 3] = [
        |log, at| log.read(at, 4_000).unwrap_err(),
        |log, at| log.position_at(at.advance(48)).unwrap_err(),
        |log, at| log.reader(log.position_at(at).unwrap().unwrap()).next_record().map(drop).unwrap_err(),
    ];
    for read in readers {
        for (operation, errno, is_damage) in [
            (FaultyOperation::Read, libc::EIO, true),
            (FaultyOperation::Read, libc::ENODATA, true),
            (FaultyOperation::Open, libc::EIO, true),
            (FaultyOperation::Open, libc::EMFILE, false),
            (FaultyOperation::Read, libc::ENOMEM, false),
        ] {
            let disk = FaultyStorage::new(Arc::new(MemoryDisk::new()));
            let (log, _) = log_on(Arc::new(disk.clone()));
            let start = SIZE.start_of(SEGMENT);
            disk.fail_under(&path_of(SEGMENT), operation, 0, Fault::Error(errno));
            let error = read(&log, start);
            let Error::Io { path, source, .. } = &error else { panic!("{error}") };
            assert_eq!((path, source.raw_os_error()), (&path_of(SEGMENT), Some(errno)), "the caller hears of it");
            let noted: Vec<_> = log.damages().into_iter().map(|damage| damage.segment).collect();
            assert_eq!(noted, if is_damage { vec![SEGMENT] } else { vec![] }, "{operation:?} {errno}");
            assert!(log.read(start, 4_000).is_ok(), "it is asked again the next time");
        }
    }
}

#[test]
fn between_a_promotion_and_its_first_record_a_sector_that_cannot_be_read_is_noted_in_every_segment() {
    let disk = FaultyStorage::new(Arc::new(MemoryDisk::new()));
    let (log, _) = log_on(Arc::new(disk.clone()));
    let last = SIZE.segment_of(log.end().lsn);
    let next = log.history().forked(TimelineId(2), TimelineNonce::random(), log.end(), SIZE).unwrap();
    log.begin_timeline(&next).unwrap();
    for segment in [SEGMENT, last] {
        disk.fail_under(&path_of(segment), FaultyOperation::Read, 0, Fault::Error(libc::EIO));
        assert!(matches!(log.read(SIZE.start_of(segment), 4_000).unwrap_err(), Error::Io { .. }));
    }
    let noted: Vec<_> = log.damages().into_iter().map(|damage| damage.segment).collect();
    assert_eq!(noted, [SEGMENT, last]);
    for segment in noted {
        assert!(log.read_again(segment).unwrap(), "the one with the fork is whole up to there");
    }
    assert_eq!(log.damages(), []);
}

#[test]
fn a_segment_that_could_not_be_read_is_damaged_only_if_it_cannot_be_read_again() {
    let faulty = FaultyStorage::new(Arc::new(MemoryDisk::new()));
    let (log, _) = log_on(Arc::new(faulty.clone()));
    let fail = |times: u64| {
        for _ in 0..times {
            faulty.fail_under(&path_of(SEGMENT), FaultyOperation::Read, 0, Fault::Error(libc::EIO));
        }
    };
    let read = || log.read(SIZE.start_of(SEGMENT), 4_000);
    fail(3);
    read().unwrap_err();
    let [damage] = log.damages()[..] else { panic!("{:?}", log.damages()) };
    for _ in 0..2 {
        assert!(!log.read_again(SEGMENT).unwrap(), "the device does not read it");
        assert_eq!(log.damages(), [damage]);
    }
    assert!(log.read_again(SEGMENT).unwrap(), "now it does");
    assert_eq!(log.damages(), []);
    assert!(!log.read_again(SEGMENT).unwrap(), "of what is not damaged there is nothing to say");
    read().unwrap();
}

#[test]
fn a_segment_that_could_not_be_read_and_then_is_gone_is_damaged() {
    let memory = MemoryDisk::new();
    let faulty = FaultyStorage::new(Arc::new(memory.clone()));
    let (log, _) = log_on(Arc::new(faulty.clone()));
    faulty.fail_under(&path_of(SEGMENT), FaultyOperation::Read, 0, Fault::Error(libc::EIO));
    log.read(SIZE.start_of(SEGMENT), 4_000).unwrap_err();
    memory.remove(&path_of(SEGMENT)).unwrap();
    assert!(!log.read_again(SEGMENT).unwrap(), "copies are asked");
    assert_eq!(log.damages().len(), 1);
}

#[test]
fn what_was_read_and_does_not_check_out_is_not_read_again_and_neither_is_what_does_not_the_second_time() {
    let memory = MemoryDisk::new();
    let faulty = FaultyStorage::new(Arc::new(memory.clone()));
    let (log, _) = log_on(Arc::new(faulty.clone()));
    faulty.fail_under(&path_of(SEGMENT), FaultyOperation::Read, 0, Fault::Error(libc::EIO));
    log.read(SIZE.start_of(SEGMENT), 4_000).unwrap_err();
    for (offset, bit) in [(30_000, 5), (100, 0)] {
        memory.flip_bit(&path_of(SEGMENT), offset, bit);
        assert!(!log.read_again(SEGMENT).unwrap());
        memory.flip_bit(&path_of(SEGMENT), offset, bit);
        assert!(!log.read_again(SEGMENT).unwrap(), "a device that gives now this and now that is damaged");
        assert_eq!(log.damages().len(), 1);
    }
}

#[test]
fn an_error_of_the_segment_that_is_written_is_not_noted_since_nobody_could_repair_it() {
    let disk = FaultyStorage::new(Arc::new(MemoryDisk::new()));
    let (log, _) = log_on(Arc::new(disk.clone()));
    let active = SIZE.segment_of(log.end().lsn);
    disk.fail_under(&path_of(active), FaultyOperation::Read, 0, Fault::Error(libc::EIO));
    assert!(matches!(log.read(SIZE.start_of(active), 4_000).unwrap_err(), Error::Io { .. }));
    assert_eq!(log.damages(), []);
}

#[test]
fn a_sealed_segment_whose_file_is_gone_is_damage_and_not_recycled_log() {
    let disk = MemoryDisk::new();
    let (log, ends) = log_on(Arc::new(disk.clone()));
    let (copy, _) = log_on(Arc::new(disk.duplicate()));
    disk.remove(&path_of(SEGMENT)).unwrap();
    let inside = ends[last_before(&ends, SEGMENT, 30_000)];
    for error in [log.position_at(inside).unwrap_err(), log.read(inside, 4_000).unwrap_err()] {
        assert!(matches!(&error, Error::Io { operation: "open", path, .. } if *path == path_of(SEGMENT)), "{error}");
    }
    let [damage] = log.damages()[..] else { panic!("{:?}", log.damages()) };
    log.repair(damage, &copy).unwrap();
    assert!(log.position_at(inside).unwrap().is_some());
    assert_eq!(log.damages(), []);
}
