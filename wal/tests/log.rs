//! The log as its users see it: what was acknowledged is there after reopening, in order, from any thread or task.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_wal::storage::{Access, Disk, Fault, FaultyOperation, FaultyStorage, MemoryDisk, Storage};
use seawall_wal::{
    Error, Log, LogBytes, LogMode, Lsn, Position, RecordKind, SegmentSize, Threads, TimelineId, TimelineNonce, format,
};
use support::{DIR, Opener, Written};

fn put(log: &Log, payload: &[u8]) -> Written {
    let ticket = log.append(RecordKind::Commit, payload).unwrap();
    ticket.wait().unwrap();
    Written { lsn: ticket.lsn(), kind: RecordKind::Commit, payload: payload.to_vec() }
}

#[test]
fn what_was_acknowledged_is_there_after_reopening_on_every_storage() {
    let folder = tempfile::tempdir().unwrap();
    let storages: [(Arc<dyn Storage>, &Path); 3] = [
        (Arc::new(MemoryDisk::new()), Path::new(DIR)),
        (Arc::new(Disk::new()), &folder.path().join("uring")),
        (Arc::new(Disk::posix()), &folder.path().join("posix")),
    ];
    for (storage, dir) in storages {
        let opener = Opener { threads: Threads::Background, ..Opener::primary() };
        let (log, recovery, found) = opener.open(storage.clone(), dir).unwrap();
        assert_eq!((recovery.row, found.len()), (1, 0));
        let sizes = [0, 1, 7, 500, 4000, 5000, 16_000, 3];
        let written: Vec<Written> = (0..60).map(|index| put(&log, &vec![index as u8; sizes[index % 8]])).collect();
        let end = log.end();
        log.close().unwrap();
        let (log, recovery, found) = opener.open(storage, dir).unwrap();
        assert_eq!(recovery.row, 1, "a clean end needs no cut");
        assert_eq!(found, written);
        assert_eq!(log.end(), end);
    }
}

#[test]
fn a_record_is_bounded_by_the_segment_and_nothing_is_added_beyond() {
    let (log, ..) = Opener::primary().open(Arc::new(MemoryDisk::new()), Path::new(DIR)).unwrap();
    let max = format::payload_len_max(SegmentSize::MIN);
    put(&log, &vec![1; max]);
    let end = log.end();
    let error = log.append(RecordKind::Commit, &vec![1; max + 1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("a record of {} bytes exceeds the {max} bytes one batch may have with this segment size", max + 1)
    );
    assert_eq!(log.end(), end);
}

#[test]
fn many_threads_commit_and_every_record_is_found_once_in_lsn_order() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Storage> = Arc::new(Disk::new());
    let opener = Opener { threads: Threads::Background, ..Opener::primary() };
    let (log, ..) = opener.open(disk.clone(), folder.path()).unwrap();
    let log = Arc::new(log);
    let mut written: Vec<Written> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8u8)
            .map(|worker| {
                let log = &log;
                scope.spawn(move || {
                    (0..200u32)
                        .map(|index| put(log, &[&[worker], &index.to_le_bytes()[..]].concat()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    written.sort_by_key(|record| record.lsn);
    let stats = log.stats();
    assert!(stats.flushes < 1600, "groups formed: {} flushes for 1600 commits", stats.flushes);
    drop(log);
    let (_, _, found) = opener.open(disk, folder.path()).unwrap();
    assert_eq!(found, written);
}

#[test]
fn a_thousand_tickets_are_open_at_once_from_one_thread_and_can_be_awaited() {
    let opener = Opener { threads: Threads::Background, ..Opener::primary() };
    let (log, ..) = opener.open(Arc::new(MemoryDisk::new()), Path::new(DIR)).unwrap();
    let tickets: Vec<_> =
        (0..1000u32).map(|index| log.append(RecordKind::Commit, &index.to_le_bytes()).unwrap()).collect();
    let last = tickets.last().unwrap().lsn();
    for ticket in tickets {
        let lsn = ticket.lsn();
        assert_eq!(block_on(ticket).unwrap(), lsn);
    }
    assert_eq!(log.flushed().value(), last);
}

/// Where records go at first.
const FIRST_SEGMENT: &str = "00000001-0000000000000000.wal";

#[test]
fn a_wait_with_a_deadline_ends_and_says_that_the_outcome_is_unknown() {
    let faulty = FaultyStorage::new(Arc::new(MemoryDisk::new()));
    let opener = Opener { threads: Threads::Background, ..Opener::primary() };
    let (log, ..) = opener.open(Arc::new(faulty.clone()), Path::new(DIR)).unwrap();
    put(&log, b"first");
    // The flush's write, not the preparer's.
    faulty.fail_under(&Path::new(DIR).join(FIRST_SEGMENT), FaultyOperation::Write, 0, Fault::Silence);
    let slow = log.append(RecordKind::Commit, b"slow").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| slow.wait().unwrap());
        while faulty.hits() == 0 {
            std::thread::yield_now();
        }
        let late = log.append(RecordKind::Commit, b"late").unwrap();
        let error = late.wait_until(Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::TimedOut { lsn } if lsn == late.lsn()), "{error}");
        faulty.answer();
        late.wait().unwrap();
    });
}

#[test]
fn a_failed_sync_ends_the_log_for_good_and_nothing_acknowledged_is_lost() {
    for operation in [FaultyOperation::Sync, FaultyOperation::Write] {
        let disk = MemoryDisk::new();
        let faulty = FaultyStorage::new(Arc::new(disk.clone()));
        let (log, ..) = Opener::primary().open(Arc::new(faulty.clone()), Path::new(DIR)).unwrap();
        let first = put(&log, b"acknowledged");
        faulty.fail(operation, 0, Fault::DropAndFailSync(5));
        let ticket = log.append(RecordKind::Commit, b"lost").unwrap();
        let error = ticket.wait().unwrap_err();
        assert!(error.to_string().contains("takes no more writes until reopened"), "{error}");
        let syncs = faulty.count(FaultyOperation::Sync);
        assert!(matches!(log.append(RecordKind::Commit, b"more"), Err(Error::Poisoned { .. })));
        assert!(matches!(ticket.wait(), Err(Error::Poisoned { .. })), "the answer does not change");
        assert_eq!(faulty.count(FaultyOperation::Sync), syncs, "a failed sync is never tried again");
        let crashed = Arc::new(disk.crashed_losing_all());
        let (_, _, found) = Opener::primary().open(crashed, Path::new(DIR)).unwrap();
        assert_eq!(found, [first]);
    }
}

#[test]
fn a_disk_that_does_not_answer_is_seen_and_nobody_waits_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultyStorage::new(Arc::new(Disk::new()));
    let opener = Opener { threads: Threads::Background, buffer_bytes_max: 40_000, ..Opener::primary() };
    let (log, ..) = opener.open(Arc::new(disk.clone()), folder.path()).unwrap();
    let mut expected = vec![put(&log, b"before")];
    // The log's sync, not that of a segment in preparation.
    disk.fail_under(&folder.path().join(FIRST_SEGMENT), FaultyOperation::Sync, 0, Fault::Silence);
    let slow = log.append(RecordKind::Commit, b"slow").unwrap();
    let soon = |millis| Some(Instant::now() + Duration::from_millis(millis));
    // Nobody else flushes it, and yet the wait ends in time.
    let waited = slow.wait_until(soon(100).unwrap());
    assert!(matches!(waited, Err(Error::TimedOut { .. })), "{waited:?}");
    assert!(log.stats().flush_micros_now > 50_000, "{:?}", log.stats());
    // More than the buffer takes: no record of it may be added in part, and the answer comes in time.
    let large = vec![7; 15_000];
    let mut added = 0;
    let refused = loop {
        match log.append_until(RecordKind::Commit, &large, None, soon(50)) {
            Ok(_) if added < 100 => added += 1,
            outcome => break outcome,
        }
    };
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("has not finished a write for") && message.contains("no room for more"), "{message}");
    assert!(added > 0);
    disk.answer();
    slow.wait().unwrap();
    expected.extend([put(&log, b"after")]);
    assert!(log.poisoned().is_none() && log.stats().flush_micros_now == 0);
    log.close().unwrap();
    let (log, _, found) = opener.open(Arc::new(Disk::new()), folder.path()).unwrap();
    assert_eq!(found.len(), expected.len() + 1 + added);
    assert_eq!((&found[0], &found[found.len() - 1]), (&expected[0], &expected[1]));
    log.close().unwrap();
}

#[test]
fn a_full_disk_stops_writes_and_the_next_one_after_there_is_room_goes_on() {
    let disk = MemoryDisk::new();
    disk.set_capacity(3 * 65536);
    let opener = Opener { threads: Threads::Background, ..Opener::primary() };
    let (log, ..) = opener.open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let mut written = Vec::new();
    let full = loop {
        match log.append(RecordKind::Commit, &[7; 10_000]) {
            Ok(ticket) => written.push(ticket.wait().unwrap()),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::DiskFull { .. }), "{full}");
    let message = full.to_string();
    assert!(message.starts_with("the disk of /wal/spare-"), "{message}");
    assert!(message.ends_with(" is full; free space, and writes go on by themselves"), "{message}");
    assert!(log.read(Lsn::ZERO, 1000).unwrap().is_some(), "reads go on");
    disk.set_capacity(10 * 65536);
    // A try to make the segment failed a moment ago; what it met is no answer to this one.
    written.push(log.append(RecordKind::Commit, &[7; 10_000]).unwrap().wait().unwrap());
    drop(log);
    let (_, _, found) = opener.open(Arc::new(disk), Path::new(DIR)).unwrap();
    assert_eq!(found.iter().map(|record| record.lsn).collect::<Vec<_>>(), written);
}

#[test]
fn who_keeps_up_is_fed_from_memory_and_who_is_behind_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let opener = Opener { threads: Threads::Background, ..Opener::primary() };
    let (log, ..) = opener.open(Arc::new(Disk::new()), folder.path()).unwrap();
    put(&log, &[1; 500]);
    log.keep_recent();
    let (mut at, mut kept_up) = (log.end().lsn, Vec::new());
    for number in 0..300_u32 {
        put(&log, &number.to_le_bytes().repeat(1 + number as usize % 200));
        let bytes = log.read(at, 100_000).unwrap().expect("it was flushed");
        let end = bytes.end();
        kept_up.push((at, bytes));
        at = end;
    }
    let stats = log.stats();
    assert!(at == log.end().lsn && at.offset() > 65536, "into the second segment");
    assert_eq!((stats.reads_memory, stats.reads_disk), (300, 0));
    log.read(Lsn::ZERO, 100_000).unwrap();
    assert_eq!(log.stats().reads_disk, 1, "what was flushed before is on the disk only");
    log.close().unwrap();
    let (log, ..) = opener.open(Arc::new(Disk::new()), folder.path()).unwrap();
    for (at, bytes) in kept_up {
        let from_disk = log.read(at, 100_000).unwrap().expect("it was flushed");
        assert!(from_disk.start == bytes.start && from_disk.bytes.starts_with(&bytes.bytes), "at {at}");
    }
    assert_eq!(log.stats().reads_memory, 0);
}

#[test]
fn a_standby_receives_the_same_bytes_and_goes_on_alone_on_a_new_timeline() {
    let (primary, ..) = Opener::primary().open(Arc::new(MemoryDisk::new()), Path::new(DIR)).unwrap();
    let mut written: Vec<Written> =
        (0..40u8).map(|index| put(&primary, &vec![index; 100 * usize::from(index)])).collect();
    let disk = MemoryDisk::new();
    let opener = Opener::standby();
    let (standby, ..) = opener.open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    while let Some(bytes) = primary.read(standby.end().lsn, 5000).unwrap() {
        standby.receive::<Error>(&bytes, |_| Ok(())).unwrap();
    }
    standby.flush_received().unwrap();
    assert_eq!(standby.end(), primary.end());
    assert!(matches!(standby.append(RecordKind::Commit, b"x"), Err(Error::WrongMode { .. })));

    let fork = standby.end();
    let next = opener.history.forked(TimelineId(2), TimelineNonce::random(), fork, SegmentSize::MIN).unwrap();
    standby.begin_timeline(&next).unwrap();
    let promoted = put(&standby, b"after promotion");
    assert!(promoted.lsn > next.current().begin);
    written.push(promoted);
    assert_eq!(standby.read(fork.lsn, 1000).unwrap().unwrap().start, next.current().begin, "the void is not read");
    assert_eq!(standby.position_at(fork.lsn).unwrap(), Some(fork));
    drop(standby);
    let reopened = Opener { history: next, mode: LogMode::Append, ..opener };
    let (log, _, found) = reopened.open(Arc::new(disk), Path::new(DIR)).unwrap();
    assert_eq!(found, written);
    put(&log, b"and on");
}

#[test]
fn a_standby_that_is_dropped_makes_what_it_received_durable() {
    let (primary, ..) = Opener::primary().open(Arc::new(MemoryDisk::new()), Path::new(DIR)).unwrap();
    let written = put(&primary, b"received, not flushed");
    let disk = MemoryDisk::new();
    let opener = Opener { threads: Threads::Background, ..Opener::standby() };
    let (standby, ..) = opener.open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    standby.receive::<Error>(&primary.read(Lsn::ZERO, 5000).unwrap().unwrap(), |_| Ok(())).unwrap();
    drop(standby);
    let (_, _, found) = opener.open(Arc::new(disk.crashed_losing_all()), Path::new(DIR)).unwrap();
    assert_eq!(found, [written]);
}

#[test]
fn bytes_that_do_not_continue_a_log_are_refused_and_leave_no_trace() {
    let (primary, ..) = Opener::primary().open(Arc::new(MemoryDisk::new()), Path::new(DIR)).unwrap();
    (0..10u8).for_each(|index| drop(put(&primary, &[index; 50])));
    let (standby, ..) = Opener::standby().open(Arc::new(MemoryDisk::new()), Path::new(DIR)).unwrap();
    let receive = |bytes: &LogBytes| standby.receive::<Error>(bytes, |_| Ok(()));
    let good = primary.read(Lsn::ZERO, 700).unwrap().unwrap();
    for at in [20, 60, 512 + 4, 512 + 16, 512 + 60, good.bytes.len() - 20] {
        let mut flipped = good.clone();
        flipped.bytes[at] ^= 4;
        receive(&flipped).unwrap_err();
    }
    let mut short = good.clone();
    short.bytes.truncate(good.bytes.len() - 8);
    receive(&short).unwrap_err();
    let mut elsewhere = good.clone();
    elsewhere.start = Lsn::new(65536);
    receive(&elsewhere).unwrap_err();
    let mut other = good.clone();
    other.timeline = TimelineId(2);
    receive(&other).unwrap_err();
    assert_eq!(standby.end(), Position::ZERO);
    let error = receive(&primary.read(good.end(), 700).unwrap().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "received bytes do not continue this log at 0/00000000 (chain 0000000000000000): the bytes start elsewhere"
    );
    receive(&good).unwrap();
    assert_eq!(standby.end().lsn, good.end());
}

/// A copy of a primary's disk goes on as if it were the primary: same cluster, same timeline, same segment, same places.
#[test]
fn what_a_copied_primary_wrote_does_not_continue_what_the_primary_wrote() {
    let disk = MemoryDisk::new();
    let (primary, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    put(&primary, b"of both");
    let (copied, ..) = Opener::primary().open(Arc::new(disk.duplicate()), Path::new(DIR)).unwrap();
    for (log, word) in [(&primary, b"of the one"), (&copied, b"the others")] {
        put(log, word);
        put(log, b"behind it");
    }
    let (standby, ..) = Opener::standby().open(Arc::new(MemoryDisk::new()), Path::new(DIR)).unwrap();
    let receive = |bytes: &LogBytes| standby.receive::<Error>(bytes, |_| Ok(()));
    let first = primary.read(Lsn::ZERO, 1).unwrap().unwrap();
    receive(&first).unwrap();
    let second = primary.read(first.end(), 1).unwrap().unwrap();
    receive(&second).unwrap();
    let at = standby.end();
    let error = receive(&copied.read(second.end(), 1).unwrap().unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("a record does not continue the chain: another history"), "{error}");
    assert_eq!(standby.end(), at);
}

#[test]
fn a_log_of_another_cluster_or_version_is_refused_unchanged() {
    let disk = MemoryDisk::new();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    put(&log, b"x");
    let path = Path::new(DIR).join("00000001-0000000000000000.wal");
    let refused = |disk: &MemoryDisk, change: &dyn Fn(&mut Vec<u8>)| {
        let disk = disk.duplicate();
        let file = disk.open(&path, Access::Write).unwrap();
        let mut header = file.map().unwrap()[..512].to_vec();
        change(&mut header);
        // After version 1 the checksum covers the version too.
        let version = if header[8] == 1 { &[] } else { &header[8..12] };
        let crc = crc32fast_of(&[version, &header[16..]].concat());
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        file.write_at(&header, 0).unwrap();
        let before = file.map().unwrap().to_vec();
        let error = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap_err();
        assert_eq!(disk.open(&path, Access::Read).unwrap().map().unwrap().to_vec(), before, "nothing is changed");
        error.to_string()
    };
    let name = path.display();
    assert_eq!(
        refused(&disk, &|header| header[16] ^= 1),
        format!("{name} is not part of this log: cluster is c0{0}, expected c1{0}", "c1".repeat(15))
    );
    assert_eq!(
        refused(&disk, &|header| header[8] = 2),
        format!("{name} has format version 2, this build reads up to 1; use a newer build")
    );
    assert!(refused(&disk, &|header| header[48] = 9).contains("timeline is 9, expected 1"));
    assert!(refused(&disk, &|header| header[56] = 9).contains("segment number is 9, expected 0"));
    let short = disk.duplicate();
    short.open(&path, Access::Write).unwrap().set_len(5000).unwrap();
    let error = Opener::primary().open(Arc::new(short), Path::new(DIR)).unwrap_err();
    assert!(matches!(error, Error::Corrupt { segment: seawall_wal::SegmentNumber(0), at: Lsn::ZERO, .. }), "{error}");
    assert!(error.to_string().contains("another length than a segment"), "{error}");
}

#[test]
fn a_file_named_for_a_segment_that_no_log_reaches_is_left_alone() {
    let disk = MemoryDisk::new();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let written = put(&log, b"x");
    drop(log);
    let path = Path::new(DIR).join("00000001-ffffffffffffffff.wal");
    disk.open(&path, Access::CreateNew).unwrap().write_at(&[7; 65536], 0).unwrap();
    let (_, _, found) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    assert_eq!(found, [written]);
    assert_eq!(disk.open(&path, Access::Read).unwrap().map().unwrap()[..], [7; 65536]);
}

#[test]
fn recycled_log_is_gone_for_readers_with_a_word_and_its_files_serve_again() {
    let disk = MemoryDisk::new();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let written: Vec<Written> = (0..30).map(|_| put(&log, &[5; 10_000])).collect();
    let keep = written[20].lsn;
    assert!(log.recycle_before(keep) >= 2);
    let error = log.read(Lsn::ZERO, 1000).unwrap_err();
    assert!(matches!(error, Error::Removed { requested: Lsn::ZERO, oldest } if oldest <= keep), "{error}");
    let mut reader = log.reader(log.replay_start(log.position_at(keep).unwrap().unwrap()).unwrap());
    let mut last = Lsn::ZERO;
    while let Some(record) = reader.next_record().unwrap() {
        last = record.lsn;
    }
    assert_eq!(last, log.end().lsn);
    (0..30).for_each(|_| drop(put(&log, &[6; 10_000])));
    let start = log.replay_start(log.position_at(keep).unwrap().unwrap()).unwrap();
    assert!(start.lsn <= keep);
    assert_eq!(log.mode(), LogMode::Append);
}

fn crc32fast_of(bytes: &[u8]) -> u32 {
    format::payload_crc(bytes)
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
