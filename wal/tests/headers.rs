//! Headers of segments that opening does not need: damage there is found at once, told of, never passed on and never put to
//! use as an empty file, and it is repaired while the log is open.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::{Access, Fault, FaultyOperation, FaultyStorage, MemoryDisk, Storage};
use seawall_wal::{Damage, Error, Log, LogBytes, Lsn, Position, RecordKind, SegmentNumber, SegmentSize};
use seawall_wal::{TimelineId, TimelineNonce};
use support::{DIR, Opener};

const SIZE: SegmentSize = SegmentSize::MIN;
/// Segments before this one are not needed at opening.
const START: SegmentNumber = SegmentNumber(3);

fn path_of(segment: SegmentNumber) -> PathBuf {
    Path::new(DIR).join(format!("00000001-{:016x}.wal", segment.0))
}

fn append(log: &Log, records: usize) {
    for number in 0..records {
        log.append(RecordKind::Commit, &vec![number as u8; 700 + number % 91]).unwrap().wait().unwrap();
    }
}

/// A closed log of some segments, and where reading starts.
fn closed_log() -> (MemoryDisk, Position) {
    let disk = MemoryDisk::new();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    append(&log, 350);
    assert!(log.end().lsn > SIZE.start_of(START.next()));
    let start = log.position_at(SIZE.start_of(START)).unwrap().unwrap();
    log.close().unwrap();
    (disk, start)
}

fn open(storage: Arc<dyn Storage>, start: Position) -> Result<Log, Error> {
    Opener { start, watermark: start.lsn, ..Opener::primary() }.open(storage, Path::new(DIR)).map(|(log, ..)| log)
}

/// A segment as it is passed on.
fn segment_of(log: &Log, segment: SegmentNumber) -> Result<Vec<LogBytes>, Error> {
    let (mut at, mut all) = (SIZE.start_of(segment), Vec::new());
    while at < SIZE.end_of(segment) {
        let bytes = log.read(at, 8 << 10)?.expect("it is flushed");
        at = bytes.end();
        all.push(bytes);
    }
    Ok(all)
}

/// How a header is spoilt, by name.
type Spoil = (&'static str, fn(&MemoryDisk, &Path));

const SPOILS: [Spoil; 4] = [
    ("a bit of it is flipped", |disk, path| disk.flip_bit(path, 60, 3)),
    ("a bit of its version is flipped", |disk, path| disk.flip_bit(path, 8, 1)),
    ("it is empty", |disk, path| {
        disk.open(path, Access::Write).unwrap().write_at(&[0; 512], 0).unwrap();
    }),
    ("its file is cut", |disk, path| disk.open(path, Access::Write).unwrap().set_len(5000).unwrap()),
];

#[test]
fn a_damaged_header_of_a_segment_that_opening_does_not_need_is_noted_and_repaired_while_the_log_is_open() {
    let (healthy, start) = closed_log();
    let copy = open(Arc::new(healthy.duplicate()), start).unwrap();
    assert_eq!(copy.damages(), []);
    for number in (0..START.0).map(SegmentNumber) {
        for (how, spoil) in SPOILS {
            let disk = healthy.duplicate();
            spoil(&disk, &path_of(number));
            let spoilt = disk.open(&path_of(number), Access::Read).unwrap().map().unwrap().to_vec();
            let log = open(Arc::new(disk.clone()), start).unwrap_or_else(|error| panic!("{number}, {how}: {error}"));
            let begin = SIZE.start_of(number);
            let damage = Damage { segment: number, at: begin };
            assert_eq!(log.damages(), [damage], "{number}, {how}");
            assert_eq!(log.oldest(), Lsn::ZERO, "{number}, {how}");
            let refused = [
                segment_of(&log, number).map(drop),
                log.position_at(begin.advance(9_000)).map(drop),
                log.reader(copy.position_at(begin).unwrap().unwrap()).next_record().map(drop),
            ];
            for refused in refused {
                let named = matches!(refused, Err(Error::CorruptRecord { at, segment, .. }) if (at, segment) == (begin, number));
                assert!(named, "{number}, {how}: {refused:?}");
            }
            // The files of what follows are made, not taken from here.
            append(&log, 200);
            let left = disk.open(&path_of(number), Access::Read).unwrap().map().unwrap().to_vec();
            assert!(left == spoilt, "{number}, {how}: its file was put to another use");
            log.repair(damage, &copy).unwrap_or_else(|error| panic!("{number}, {how}: {error}"));
            assert_eq!(log.damages(), [], "{number}, {how}");
            assert_eq!(segment_of(&log, number).unwrap(), segment_of(&copy, number).unwrap(), "{number}, {how}");
            log.close().unwrap();
            assert_eq!(open(Arc::new(disk), start).unwrap().damages(), [], "{number}, {how}");
        }
    }
}

#[test]
fn a_segment_that_is_missing_between_others_is_noted_and_repaired_and_the_oldest_may_have_been_let_go() {
    let (healthy, start) = closed_log();
    let copy = open(Arc::new(healthy.duplicate()), start).unwrap();
    for number in (1..START.0).map(SegmentNumber) {
        let disk = healthy.duplicate();
        disk.remove(&path_of(number)).unwrap();
        let log = open(Arc::new(disk.clone()), start).unwrap();
        let damage = Damage { segment: number, at: SIZE.start_of(number) };
        assert_eq!((log.damages(), log.oldest()), (vec![damage], Lsn::ZERO), "{number}");
        let refused = segment_of(&log, number);
        assert!(matches!(refused, Err(Error::CorruptRecord { segment, .. }) if segment == number), "{refused:?}");
        log.repair(damage, &copy).unwrap();
        assert_eq!((log.damages(), segment_of(&log, number).unwrap()), (vec![], segment_of(&copy, number).unwrap()));
        log.close().unwrap();
        assert_eq!(open(Arc::new(disk), start).unwrap().damages(), [], "{number}");
    }
    let disk = healthy.duplicate();
    disk.remove(&path_of(SegmentNumber(0))).unwrap();
    let log = open(Arc::new(disk), start).unwrap();
    assert_eq!((log.damages(), log.oldest()), (vec![], SIZE.end_of(SegmentNumber(0))));
}

#[test]
fn segments_are_let_go_of_in_their_order_and_the_first_that_stays_keeps_those_behind_it() {
    let (disk, start) = closed_log();
    let faulty = FaultyStorage::new(Arc::new(disk.clone()));
    let log = open(Arc::new(faulty.clone()), start).unwrap();
    let stuck = path_of(SegmentNumber(1));
    for _ in 0..50 {
        faulty.fail_under(&stuck, FaultyOperation::Rename, 0, Fault::Error(libc::EIO));
        faulty.fail_under(&stuck, FaultyOperation::Remove, 0, Fault::Error(libc::EIO));
    }
    assert_eq!(log.recycle_before(start.lsn) as u64, START.0);
    append(&log, 350);
    let here = |number| disk.open(&path_of(SegmentNumber(number)), Access::Read).is_ok();
    assert_eq!([0, 1, 2].map(here), [false, true, true], "and the log goes on");
    faulty.heal();
    append(&log, 350);
    assert_eq!([0, 1, 2].map(here), [false; 3], "all of them once it can be");
    log.close().unwrap();
}

#[test]
fn no_flipped_bit_of_a_header_goes_unnoticed_and_none_keeps_the_log_from_opening_where_it_is_not_needed() {
    let (healthy, start) = closed_log();
    for (needed, number) in [(false, SegmentNumber(1)), (true, START)] {
        for bit in 0..512 * 8 {
            let disk = healthy.duplicate();
            disk.flip_bit(&path_of(number), bit / 8, (bit % 8) as u8);
            let damage = Damage { segment: number, at: SIZE.start_of(number) };
            match open(Arc::new(disk), start) {
                Ok(log) => assert_eq!((needed, &log.damages()[..]), (false, &[damage][..]), "bit {bit} of {number}"),
                Err(Error::Corrupt { at, segment, .. }) => {
                    assert_eq!((needed, Damage { segment, at }), (true, damage), "bit {bit}");
                }
                Err(error) => panic!("bit {bit} of {number}: {error}"),
            }
        }
    }
}

#[test]
fn a_damaged_segment_that_nobody_needs_is_let_go_and_the_log_goes_on_in_whole_files() {
    let (healthy, start) = closed_log();
    for (how, spoil) in SPOILS {
        let disk = healthy.duplicate();
        for number in 0..START.0 {
            spoil(&disk, &path_of(SegmentNumber(number)));
        }
        let log = open(Arc::new(disk.clone()), start).unwrap();
        assert_eq!(log.damages().len() as u64, START.0, "{how}");
        assert_eq!(log.recycle_before(start.lsn) as u64, START.0, "{how}");
        assert_eq!((log.damages(), log.oldest()), (vec![], start.lsn), "{how}");
        append(&log, 350);
        let segments = disk.list(Path::new(DIR)).unwrap();
        for name in segments.iter().filter(|name| name.ends_with(".wal")) {
            let file = disk.open(&Path::new(DIR).join(name), Access::Read).unwrap();
            assert_eq!(file.len().unwrap(), u64::from(SIZE.bytes()), "{how}: {name}");
        }
        log.close().unwrap();
        assert_eq!(open(Arc::new(disk), start).unwrap().damages(), [], "{how}");
    }
}

#[test]
fn what_lies_between_segments_that_have_begun_is_damage_and_never_an_end_of_the_log_on_a_standby_either() {
    let (healthy, _) = closed_log();
    for (how, spoil) in SPOILS {
        let disk = healthy.duplicate();
        spoil(&disk, &path_of(SegmentNumber(2)));
        for opener in [Opener::primary(), Opener::standby()] {
            let before = disk.image();
            let refused = opener.open(Arc::new(disk.clone()), Path::new(DIR)).map(drop);
            let named = matches!(refused, Err(Error::Corrupt { segment: SegmentNumber(2), .. }));
            assert!(named, "{how}, {:?}: {refused:?}", opener.mode);
            assert_eq!(disk.image(), before, "{how}: nothing is changed");
        }
    }
}

#[test]
fn the_first_segment_of_a_timeline_begins_where_it_forked_with_or_without_its_header() {
    let disk = MemoryDisk::new();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    append(&log, 20);
    let fork = log.end();
    let history = log.history().forked(TimelineId(2), TimelineNonce::from_bytes([0x72; 16]), fork, SIZE).unwrap();
    log.begin_timeline(&history).unwrap();
    append(&log, 200);
    let start = log.position_at(SIZE.start_of(START)).unwrap().unwrap();
    log.close().unwrap();
    disk.remove(&path_of(SegmentNumber(0))).unwrap();
    let path = Path::new(DIR).join("00000002-0000000000000001.wal");
    let opener = Opener { history, start, ..Opener::primary() };
    let oldest = || opener.open(Arc::new(disk.duplicate()), Path::new(DIR)).unwrap().0.oldest();
    assert_eq!(oldest(), fork.lsn);
    disk.flip_bit(&path, 100, 1);
    assert_eq!(oldest(), fork.lsn);
}

#[test]
fn where_the_log_begins_with_a_damaged_header_nothing_is_said_about_what_ends_there_before_it_is_repaired() {
    let (healthy, start) = closed_log();
    let copy = open(Arc::new(healthy.duplicate()), start).unwrap();
    let begin = SIZE.start_of(SegmentNumber(1));
    let position = copy.position_at(begin).unwrap();
    assert!(position.is_some());
    for (how, spoil) in SPOILS {
        let disk = healthy.duplicate();
        disk.remove(&path_of(SegmentNumber(0))).unwrap();
        spoil(&disk, &path_of(SegmentNumber(1)));
        let log = open(Arc::new(disk), start).unwrap();
        assert_eq!(log.oldest(), begin, "{how}");
        let refused = log.position_at(begin);
        assert!(matches!(refused, Err(Error::CorruptRecord { segment: SegmentNumber(1), .. })), "{how}: {refused:?}");
        log.repair(log.damages()[0], &copy).unwrap();
        assert_eq!(log.position_at(begin).unwrap(), position, "{how}");
    }
}

#[test]
fn a_header_that_the_device_cannot_read_is_damage_where_opening_does_not_need_it_and_halts_it_elsewhere() {
    let (disk, start) = closed_log();
    for (errno, number, opens) in [
        (libc::EIO, 1, true),
        (libc::ENODATA, 1, true),
        (libc::EIO, START.0, false),
        (libc::EIO, START.0 + 1, false),
        (libc::ENOMEM, 1, false),
    ] {
        let faulty = FaultyStorage::new(Arc::new(disk.duplicate()));
        faulty.fail_under(&path_of(SegmentNumber(number)), FaultyOperation::Read, 0, Fault::Error(errno));
        match open(Arc::new(faulty), start) {
            Ok(log) => {
                let noted: Vec<_> = log.damages().into_iter().map(|damage| damage.segment.0).collect();
                assert!(opens && noted == [number], "{errno} {number}: {noted:?}");
            }
            Err(Error::Io { path, .. }) => {
                assert!(!opens && path == path_of(SegmentNumber(number)), "{errno} {number}")
            }
            Err(error) => panic!("{errno} {number}: {error}"),
        }
    }
}
