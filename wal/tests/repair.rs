//! A damaged segment is put in order from another copy of the log, or nothing is changed.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_wal::mutant::{Mutant, with_mutant};
use seawall_wal::storage::{CrashChoice, Fault, FaultyOperation, FaultyStorage, MemoryDisk, Storage};
use seawall_wal::{
    Damage, Error, Log, LogBytes, LogPlace, Lsn, RecordKind, Repaired, Result, SegmentNumber, SegmentSize,
    SegmentSource, TimelineHistory, TimelineId, TimelineNonce,
};
use support::{DIR, Opener, Written, cluster, history};

const SEGMENT: u64 = 64 << 10;

/// A closed log of several segments, and its records.
fn closed_log(records: usize) -> (MemoryDisk, Vec<Written>) {
    let disk = MemoryDisk::new();
    write(&disk, 0..records, 0);
    let found = read(&disk).unwrap();
    assert_eq!(found.len(), records);
    (disk, found)
}

/// Appends records to the log on a disk; with another salt they are others.
fn write(disk: &MemoryDisk, numbers: std::ops::Range<usize>, salt: u8) {
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    for number in numbers {
        let payload = [&[salt], &(number as u32).to_le_bytes().repeat(1 + number * 37 % 500)[..]].concat();
        log.append(RecordKind::Commit, &payload).unwrap().wait().unwrap();
    }
    log.close().unwrap();
}

/// The records of the log on a disk.
fn read(disk: &MemoryDisk) -> Result<Vec<Written>> {
    let (log, _, found) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR))?;
    log.close()?;
    Ok(found)
}

fn segment(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("00000001-{number:016x}.wal"))
}

/// What opening finds, as one who repairs sees it.
fn damage_of(error: &Error) -> Damage {
    match error {
        Error::Corrupt { at, segment, .. } => Damage { segment: *segment, at: *at },
        other => panic!("{other}"),
    }
}

fn repair(storage: &dyn Storage, damage: Damage, source: &dyn SegmentSource) -> Result<Repaired> {
    repair_of(&history(), storage, damage, source)
}

fn repair_of(
    history: &TimelineHistory,
    storage: &dyn Storage,
    damage: Damage,
    source: &dyn SegmentSource,
) -> Result<Repaired> {
    let place = LogPlace { storage, dir: Path::new(DIR), cluster: cluster(), segment_size: SegmentSize::MIN, history };
    place.repair(damage, source)
}

/// Reads an open log up to where it cannot be read.
fn walk(log: &Log) -> Result<u64> {
    let (mut at, mut bytes) = (Lsn::ZERO, 0);
    while let Some(read) = log.read(at, 8 << 10)? {
        bytes += read.bytes.len() as u64;
        at = read.end();
    }
    Ok(bytes)
}

/// The log on a disk as a source.
fn source(disk: &MemoryDisk) -> Log {
    Opener::primary().open(Arc::new(disk.duplicate()), Path::new(DIR)).unwrap().0
}

/// A source that has nothing from some position on, and that may lie.
#[derive(Debug)]
struct Partial {
    log: Log,
    until: Lsn,
    flip: Option<Lsn>,
}

impl SegmentSource for Partial {
    fn name(&self) -> &str {
        "half a copy"
    }

    fn coverage(&self, timeline: TimelineId) -> Result<Option<(Lsn, Lsn)>> {
        self.log.coverage(timeline)
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> Result<Option<LogBytes>> {
        if from >= self.until {
            return Ok(None);
        }
        let mut log = self.log.read(from, 4 << 10)?.filter(|log| log.timeline == timeline);
        if let (Some(log), Some(flip)) = (&mut log, self.flip)
            && (log.start..log.end()).contains(&flip)
        {
            let at = flip.distance_from(log.start) as usize;
            log.bytes[at] ^= 1;
        }
        Ok(log)
    }

    fn history(&self) -> Result<Option<TimelineHistory>> {
        Ok(Some(history()))
    }
}

#[test]
fn damage_anywhere_below_what_was_flushed_is_repaired_from_a_whole_copy() {
    let (disk, records) = closed_log(260);
    let source = source(&disk);
    let (mut repaired, mut harmless, mut cut) = (0, 0, 0);
    let end = records.last().unwrap().lsn.offset();
    assert!(end > 3 * SEGMENT, "several segments");
    for place in (0..end).step_by(331) {
        let damaged = disk.duplicate();
        damaged.flip_bit(&segment(place / SEGMENT), place % SEGMENT, (place % 8) as u8);
        match read(&damaged) {
            // Padding, or the end of the last group, which nothing says was flushed.
            Ok(found) if found == records => harmless += 1,
            Ok(found) => {
                assert!(records.starts_with(&found), "byte {place}");
                cut += 1;
            }
            Err(error) => {
                let damage = damage_of(&error);
                assert_eq!(damage.segment, SegmentNumber(place / SEGMENT), "byte {place}");
                let done = repair(&damaged, damage, &source).unwrap();
                assert_eq!((done.path, done.kept.is_some()), (segment(place / SEGMENT), true));
                assert_eq!(read(&damaged).unwrap(), records, "byte {place}");
                repaired += 1;
            }
        }
    }
    println!("{repaired} repaired, {harmless} harmless, {cut} tails cut");
    assert!(repaired > 500, "{repaired} repaired, {harmless} harmless, {cut} tails cut");
}

#[test]
fn a_segment_that_is_gone_and_two_that_are_damaged_are_repaired_one_after_the_other() {
    let (disk, records) = closed_log(260);
    let source = source(&disk);
    disk.remove(&segment(1)).unwrap();
    disk.flip_bit(&segment(2), 30_000, 3);
    disk.flip_bit(&segment(0), 100, 1);
    let mut seen = Vec::new();
    let found = loop {
        match read(&disk) {
            Ok(found) => break found,
            Err(error) => {
                let damage = damage_of(&error);
                assert!(!seen.contains(&damage), "{damage:?} is still there");
                repair(&disk, damage, &source).unwrap();
                seen.push(damage);
            }
        }
    };
    assert_eq!(found, records);
    assert_eq!(seen.len(), 3);
}

#[test]
fn what_the_copy_lacks_behind_the_damage_is_kept_from_the_damaged_segment() {
    let (disk, records) = closed_log(260);
    let until = records.iter().map(|record| record.lsn).find(|lsn| lsn.offset() > SEGMENT + 30_000).unwrap();
    let half = Partial { log: source(&disk), until, flip: None };
    disk.flip_bit(&segment(1), 20_000, 3);
    let damage = damage_of(&read(&disk).unwrap_err());
    let done = repair(&disk, damage, &half).unwrap();
    assert!(done.to >= until && done.to.offset() < 2 * SEGMENT, "the copy ends within the segment");
    assert_eq!(read(&disk).unwrap(), records);
}

#[test]
fn a_copy_that_ends_before_the_damage_does_not_help_and_changes_nothing() {
    let (disk, records) = closed_log(260);
    let until = records.iter().map(|record| record.lsn).find(|lsn| lsn.offset() > SEGMENT + 10_000).unwrap();
    let short = Partial { log: source(&disk), until, flip: None };
    disk.flip_bit(&segment(1), 40_000, 3);
    let error = read(&disk).unwrap_err();
    let refused = repair(&disk, damage_of(&error), &short).unwrap_err();
    let words = refused.to_string();
    assert!(
        words.contains("half a copy cannot provide the log") && words.contains("and the damage begins at"),
        "{words}"
    );
    assert_eq!(read(&disk).unwrap_err().to_string(), error.to_string());
    assert!(disk.list(&Path::new(DIR).join("cut")).unwrap_or_default().is_empty());
}

#[test]
fn without_a_header_here_half_a_copy_helps_only_if_it_is_of_this_segment() {
    let (disk, records) = closed_log(260);
    let until = Lsn::new(SEGMENT + 30_000);
    let half = |disk: &MemoryDisk| Partial { log: source(disk), until, flip: None };
    let (ours, strange) = (half(&disk), half(&closed_log(260).0));
    disk.flip_bit(&segment(1), 100, 3);
    let damage = damage_of(&read(&disk).unwrap_err());
    let refused = repair(&disk, damage, &strange);
    assert!(matches!(&refused, Err(Error::Foreign { field: "header", .. })), "{refused:?}");
    assert_eq!(damage_of(&read(&disk).unwrap_err()), damage, "nothing was changed");
    repair(&disk, damage, &ours).unwrap();
    assert_eq!(read(&disk).unwrap(), records);
}

fn refuses_a_copy_that_is_not_of_this_history() {
    let disk = MemoryDisk::new();
    write(&disk, 0..100, 0);
    let fork = disk.duplicate();
    write(&disk, 100..260, 0);
    write(&fork, 100..260, 9);
    let (records, whole) = (read(&disk).unwrap(), disk.duplicate());
    let forked_at = records[99].lsn.offset();
    let number = forked_at / SEGMENT;
    disk.flip_bit(&segment(number), forked_at % SEGMENT + 5_000, 3);
    let damage = damage_of(&read(&disk).unwrap_err());
    let damaged_too = Partial { log: source(&whole), until: Lsn::MAX, flip: Some(damage.at.advance(9_000)) };
    let from_elsewhere = source(&closed_log(260).0);
    for source in [&source(&fork) as &dyn SegmentSource, &damaged_too, &from_elsewhere] {
        let refused = repair(&disk, damage, source);
        let is_refused = matches!(refused, Err(Error::Foreign { .. } | Error::CorruptRecord { .. }));
        assert!(is_refused, "{}: {refused:?}", source.name());
        assert_eq!(damage_of(&read(&disk).unwrap_err()), damage);
    }
    // The last segment that is begun has no next one to compare with.
    let last = records.last().unwrap().lsn.offset() / SEGMENT;
    let tail = whole.duplicate();
    tail.flip_bit(&segment(last), 3_000, 3);
    let damage = Damage { segment: SegmentNumber(last), at: Lsn::new(last * SEGMENT + 1) };
    assert!(matches!(repair(&tail, damage, &source(&fork)), Err(Error::Foreign { .. })));
    repair(&tail, damage, &source(&whole)).unwrap();
    assert_eq!(read(&tail).unwrap(), records);
}

#[test]
fn a_copy_that_is_damaged_or_of_another_history_is_refused() {
    refuses_a_copy_that_is_not_of_this_history();
}

#[test]
fn a_segment_is_put_in_order_while_the_log_is_open_and_read() {
    let (disk, _) = closed_log(260);
    let copy = source(&disk);
    let (log, _, records) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    disk.flip_bit(&segment(1), 20_000, 3);
    assert_eq!(log.damages(), []);
    assert!(matches!(walk(&log).unwrap_err(), Error::CorruptRecord { segment: SegmentNumber(1), .. }));
    let [damage] = log.damages()[..] else { panic!("{:?}", log.damages()) };
    assert_eq!(damage.segment, SegmentNumber(1));
    let active = Damage { segment: SegmentNumber(log.end().lsn.offset() / SEGMENT), at: log.end().lsn };
    assert!(matches!(log.repair(active, &copy), Err(Error::WrongMode { .. })));
    log.repair(damage, &copy).unwrap();
    assert_eq!(log.damages(), []);
    assert_eq!(walk(&log).unwrap(), log.end().lsn.offset());
    log.append(RecordKind::Commit, b"goes on").unwrap().wait().unwrap();
    log.close().unwrap();
    assert_eq!(read(&disk).unwrap().len(), records.len() + 1);
}

#[test]
fn a_segment_whose_last_records_are_not_flushed_is_not_repaired_before_they_are() {
    let (disk, records) = closed_log(100);
    let copy = source(&disk);
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let end = records.last().unwrap().lsn.offset();
    let number = end / SEGMENT;
    disk.flip_bit(&segment(number), end % SEGMENT - 2_000, 3);
    walk(&log).unwrap_err();
    let [damage] = log.damages()[..] else { panic!("{:?}", log.damages()) };
    assert_eq!(damage.segment, SegmentNumber(number));
    // The next segment has begun, and what is still to be flushed of this one is in memory.
    let mut appended = Vec::new();
    while log.end().lsn.offset() < (number + 1) * SEGMENT {
        appended.push(log.append(RecordKind::Commit, &[7; 900]).unwrap());
    }
    let early = log.repair(damage, &copy);
    for ticket in &appended {
        ticket.wait().unwrap();
    }
    let refused = early.as_ref().is_err_and(|error| matches!(error, Error::WrongMode { .. }));
    if refused {
        log.repair(damage, &copy).unwrap();
    }
    log.close().unwrap();
    let found = read(&disk).unwrap_or_else(|error| panic!("what was acknowledged is gone: {error}"));
    assert_eq!(found.len(), records.len() + appended.len());
    assert!(refused, "{early:?}");
}

/// The file that takes a damaged segment's place has one name, whatever the segment. One repair stands still while it syncs
/// its own; the other must not take it away, nor give it to its own segment.
#[test]
fn two_repairs_of_one_log_do_not_share_the_file_that_they_make() {
    const CHANCE: Duration = Duration::from_millis(300);
    let (disk, records) = closed_log(260);
    let copies = [source(&disk), source(&disk)];
    let faulty = FaultyStorage::new(Arc::new(disk.clone()));
    let (log, ..) = Opener::primary().open(Arc::new(faulty.clone()), Path::new(DIR)).unwrap();
    let damages = [1, 2].map(|number| {
        disk.flip_bit(&segment(number), 20_000, 3);
        Damage { segment: SegmentNumber(number), at: Lsn::new(number * SEGMENT + 20_000) }
    });
    let spare = Path::new(DIR).join("spare-repair.tmp");
    faulty.fail_under(&spare, FaultyOperation::Sync, 0, Fault::Silence);
    let outcomes = std::thread::scope(|scope| {
        let first = scope.spawn(|| log.repair(damages[0], &copies[0]));
        while faulty.hits() == 0 && !first.is_finished() {
            std::thread::yield_now();
        }
        let second = scope.spawn(|| log.repair(damages[1], &copies[1]));
        // One that does not wait is over long before.
        let began = Instant::now();
        while !second.is_finished() && began.elapsed() < CHANCE {
            std::thread::yield_now();
        }
        faulty.answer();
        [first, second].map(|repair| repair.join().unwrap())
    });
    for outcome in outcomes {
        outcome.unwrap();
    }
    log.close().unwrap();
    assert_eq!(read(&disk).unwrap(), records);
}

#[test]
fn at_a_fork_a_copy_gives_nothing_from_beyond_it_and_has_to_end_in_it() {
    const PARTED: usize = 90;
    const FORKED: usize = 100;
    let disk = MemoryDisk::new();
    write(&disk, 0..PARTED, 0);
    let stranger = disk.duplicate();
    write(&disk, PARTED..FORKED, 0);
    let old = disk.duplicate();
    let (log, _, records) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let (fork, nonce) = (log.end(), TimelineNonce::from_bytes([0x72; 16]));
    let forked = history().forked(TimelineId(2), nonce, fork, SegmentSize::MIN).unwrap();
    log.begin_timeline(&forked).unwrap();
    log.append(RecordKind::Commit, b"of timeline 2").unwrap().wait().unwrap();
    log.close().unwrap();
    // One went on with records of its own on the old timeline, the other has had others for longer.
    write(&old, FORKED..FORKED + 60, 9);
    write(&stranger, PARTED..FORKED + 60, 5);
    let number = fork.lsn.offset() / SEGMENT;
    assert_eq!(records[PARTED].lsn.offset() / SEGMENT, number, "they part in the segment that has the fork");
    let damage = Damage { segment: SegmentNumber(number), at: Lsn::new(number * SEGMENT) };
    let whole = disk.duplicate();
    disk.remove(&segment(number)).unwrap();
    let refused = repair_of(&forked, &disk, damage, &source(&stranger));
    assert!(matches!(refused, Err(Error::Foreign { .. } | Error::CorruptRecord { .. })), "{refused:?}");
    let done = repair_of(&forked, &disk, damage, &source(&old)).unwrap();
    assert_eq!(done.to, fork.lsn, "nothing of what the old primary wrote on its own");
    let opener = Opener { history: forked, ..Opener::primary() };
    let [found, expected] = [disk, whole].map(|disk| opener.open(Arc::new(disk), Path::new(DIR)).unwrap().2);
    assert_eq!((found.len(), &found), (FORKED + 1, &expected));
}

/// A source while whose answer the log lets go of what is repaired.
#[derive(Debug)]
struct TooLate<'a> {
    copy: Log,
    log: &'a Log,
}

impl SegmentSource for TooLate<'_> {
    fn name(&self) -> &str {
        "a slow copy"
    }

    fn coverage(&self, timeline: TimelineId) -> Result<Option<(Lsn, Lsn)>> {
        self.copy.coverage(timeline)
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> Result<Option<LogBytes>> {
        self.log.recycle_before(self.log.end().lsn);
        SegmentSource::fetch(&self.copy, timeline, from)
    }

    fn history(&self) -> Result<Option<TimelineHistory>> {
        Ok(Some(history()))
    }
}

#[test]
fn of_a_segment_that_is_let_go_during_its_repair_no_file_and_no_damage_is_left() {
    let (disk, _) = closed_log(260);
    let copy = source(&disk);
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    disk.flip_bit(&segment(1), 20_000, 3);
    walk(&log).unwrap_err();
    let [damage] = log.damages()[..] else { panic!("{:?}", log.damages()) };
    let gone = log.repair(damage, &TooLate { copy, log: &log }).unwrap_err();
    assert!(matches!(gone, Error::Removed { .. }), "{gone}");
    let names = disk.list(Path::new(DIR)).unwrap();
    assert!(!names.iter().any(|name| name.contains("repair")), "{names:?}");
    assert_eq!(log.damages(), [], "nobody needs it any more");
    log.append(RecordKind::Commit, b"goes on").unwrap().wait().unwrap();
    log.close().unwrap();
}

fn power_is_lost_at_each_operation_of_a_repair() {
    let (disk, records) = closed_log(260);
    let source = source(&disk);
    disk.flip_bit(&segment(1), 20_000, 3);
    let damage = damage_of(&read(&disk).unwrap_err());
    let base = disk.crashed(|choice| match choice {
        CrashChoice::Sector { versions } => versions,
        CrashChoice::Directory { operations } => operations,
        CrashChoice::Length => 1,
    });
    let repairing = base.duplicate();
    repairing.keep_journal();
    repair(&repairing, damage, &source).unwrap();
    let journal = repairing.journal();
    assert!(journal.len() > 5, "{} operations", journal.len());
    for (index, entry) in journal.iter().enumerate() {
        base.replay(entry);
        for kept in 0..2 {
            let after = base.crashed(|choice| match choice {
                CrashChoice::Sector { versions } => versions * kept,
                // Names survive now and then without what they name.
                CrashChoice::Directory { operations } => operations,
                CrashChoice::Length => 1,
            });
            match read(&after) {
                Ok(found) => assert_eq!(found, records, "operation {index}"),
                Err(error) => {
                    assert_eq!(damage_of(&error), damage, "operation {index}: {error}");
                    repair(&after, damage, &source).unwrap();
                    assert_eq!(read(&after).unwrap(), records, "operation {index}");
                }
            }
        }
    }
}

#[test]
fn power_lost_during_a_repair_leaves_a_log_that_is_whole_or_can_be_repaired_again() {
    power_is_lost_at_each_operation_of_a_repair();
}

#[test]
fn a_repair_that_fails_at_any_call_can_be_tried_again() {
    let (disk, records) = closed_log(260);
    let source = source(&disk);
    disk.flip_bit(&segment(1), 20_000, 3);
    let damage = damage_of(&read(&disk).unwrap_err());
    let mut failures = 0;
    for operation in FaultyOperation::ALL {
        for nth in 0.. {
            let copy = disk.duplicate();
            let faulty = FaultyStorage::new(Arc::new(copy.clone()));
            faulty.fail(operation, nth, Fault::Error(libc::EIO));
            let done = repair(&faulty, damage, &source);
            if faulty.hits() == 0 {
                break;
            }
            failures += usize::from(done.is_err());
            let left = copy.list(Path::new(DIR)).unwrap().iter().any(|name| name.contains("repair"));
            assert!(!left || operation == FaultyOperation::Remove, "{operation:?} {nth} leaves half a file");
            if read(&copy).is_err() {
                repair(&copy, damage, &source).unwrap();
            }
            assert_eq!(read(&copy).unwrap(), records, "{operation:?} {nth}");
        }
    }
    assert!(failures > 5, "{failures}");
}

#[test]
fn a_repair_that_is_not_synced_or_not_proven_is_noticed() {
    for (mutant, test, words) in [
        (Mutant::RepairNotSynced, power_is_lost_at_each_operation_of_a_repair as fn(), "operation"),
        (Mutant::RepairUnproven, refuses_a_copy_that_is_not_of_this_history, "local segments: Ok"),
    ] {
        let noticed = std::panic::catch_unwind(|| with_mutant(mutant, test)).expect_err("it survives");
        let said = noticed.downcast_ref::<String>().expect("a panic with words");
        assert!(said.contains(words), "{mutant:?}: {said}");
    }
}
