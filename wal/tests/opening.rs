//! Opening with threads of its own: records are read and checked ahead of who puts them to use, and nobody can tell.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use seawall_wal::clock::ManualClock;
use seawall_wal::recovery::Verdict;
use seawall_wal::storage::{Fault, FaultyOperation, FaultyStorage, MemoryDisk, Storage};
use seawall_wal::{
    Error, Log, LogMode, LogOptions, Lsn, OpenAt, Position, Record, RecordKind, SegmentSize, Threads, Timestamp,
};
use support::{DIR, Opener, Written};

/// A closed log of so many records, and its last record's LSN.
fn closed_log(records: usize) -> (MemoryDisk, Lsn) {
    let disk = MemoryDisk::new();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    for number in 0..records {
        let payload = (number as u32).to_le_bytes().repeat(1 + number * 37 % 500);
        log.append(RecordKind::Commit, &payload).unwrap().wait().unwrap();
    }
    let end = log.end().lsn;
    log.close().unwrap();
    (disk, end)
}

/// What opening found, or what it said.
fn outcome(disk: &MemoryDisk, threads: Threads) -> Result<(Position, u8, Verdict, Lsn, Vec<Written>), String> {
    let opener = Opener { threads, ..Opener::primary() };
    let (log, recovery, found) =
        opener.open(Arc::new(disk.duplicate()), Path::new(DIR)).map_err(|error| error.to_string())?;
    log.close().unwrap();
    Ok((recovery.end, recovery.row, recovery.verdict, recovery.cut_to, found))
}

#[test]
fn whatever_is_damaged_a_thread_that_checks_ahead_leads_to_the_same_outcome() {
    let (disk, end) = closed_log(130);
    let segments = end.offset() / 65536;
    assert!(segments >= 1, "more than one segment");
    assert!(outcome(&disk, Threads::Inline).is_ok_and(|found| found.4.len() == 130));
    let (mut refused, mut cut) = (0, 0);
    for place in (0..end.offset() + 100).step_by(509) {
        let damaged = disk.duplicate();
        let path = Path::new(DIR).join(format!("00000001-{:016x}.wal", place / 65536));
        damaged.flip_bit(&path, place % 65536, (place % 8) as u8);
        let alone = outcome(&damaged, Threads::Inline);
        assert_eq!(outcome(&damaged, Threads::Background), alone, "byte {place}");
        match alone {
            Err(_) => refused += 1,
            Ok((_, _, verdict, ..)) => cut += usize::from(verdict == Verdict::Cut),
        }
    }
    assert!(refused > 100 && cut > 0, "{refused} refused, {cut} cut");
}

fn open(disk: &MemoryDisk, on_records: impl FnMut(&[Record<'_>]) -> Result<(), Error>) -> Result<Log, Error> {
    open_on(Arc::new(disk.duplicate()), on_records)
}

fn open_on(
    storage: Arc<dyn Storage>,
    on_records: impl FnMut(&[Record<'_>]) -> Result<(), Error>,
) -> Result<Log, Error> {
    let options = LogOptions {
        segment_size: SegmentSize::MIN,
        threads: Threads::Background,
        ..LogOptions::new(support::cluster(), support::node(1))
    };
    let at =
        OpenAt { history: support::history(), start: Position::ZERO, time_floor: Timestamp(0), watermark: Lsn::ZERO };
    let clock = Arc::new(ManualClock::new(Timestamp(1)));
    Log::open(storage, clock, Path::new(DIR), options, &at, LogMode::Append, on_records).map(|(log, _)| log)
}

#[test]
fn what_putting_records_to_use_fails_with_is_the_outcome_while_more_are_on_their_way() {
    // Several times what can be on its way.
    let (disk, _) = closed_log(6000);
    let mut calls = 0;
    let failed = open(&disk, |_| {
        calls += 1;
        if calls == 3 { Err(Error::Closed) } else { Ok(()) }
    });
    assert!(matches!(failed, Err(Error::Closed)));
    assert_eq!(calls, 3, "nothing is handed over after that");
    let panicked = catch_unwind(AssertUnwindSafe(|| open(&disk, |_| panic!("no use for them"))));
    assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "no use for them");
    let mut records = 0;
    open(&disk, |some| {
        records += some.iter().filter(|record| record.header.kind == RecordKind::Commit).count();
        Ok(())
    })
    .unwrap();
    assert_eq!(records, 6000);
}

#[test]
fn a_panic_of_a_thread_that_reads_or_checks_is_the_openers_and_never_a_shorter_log_or_a_hang() {
    const RECORDS: usize = 300;
    let (disk, _) = closed_log(RECORDS);
    // How many records were handed over, or the panic; within bounds.
    let outcome = |storage: &FaultyStorage| {
        let (send, outcome) = std::sync::mpsc::channel();
        let storage = storage.clone();
        std::thread::spawn(move || {
            let mut records = 0;
            let on_records = |some: &[Record<'_>]| {
                records += some.iter().filter(|record| record.header.kind == RecordKind::Commit).count();
                Ok(())
            };
            let opened = catch_unwind(AssertUnwindSafe(|| open_on(Arc::new(storage), on_records).map(drop)));
            send.send(opened.map(|opened| opened.map(|()| records)))
        });
        outcome.recv_timeout(Duration::from_secs(60)).expect("opening does not end")
    };
    let calm = FaultyStorage::new(Arc::new(disk.duplicate()));
    assert!(matches!(outcome(&calm), Ok(Ok(RECORDS))));
    let (mut panics, mut whole) = (0, 0);
    for operation in [FaultyOperation::Open, FaultyOperation::Read] {
        for nth in 0..calm.count(operation) {
            let storage = FaultyStorage::new(Arc::new(disk.duplicate()));
            storage.fail(operation, nth, Fault::Panic);
            match outcome(&storage) {
                Err(panic) => {
                    assert_eq!(*panic.downcast::<String>().unwrap(), "a storage was asked to panic");
                    panics += 1;
                }
                // That of the thread that reads ahead: who checks reads for itself then.
                Ok(opened) => {
                    assert_eq!(opened.unwrap(), RECORDS, "{operation:?} {nth}");
                    whole += 1;
                }
            }
        }
    }
    assert!(panics > 5 && whole > 0, "{panics} panics, {whole} whole");
}
