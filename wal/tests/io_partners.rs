//! Logs written through io_uring and through POSIX calls, on the same seed: the same files to the byte, the same answers to
//! whoever commits, and on a disk that fails the same of both that survives a power loss. Where the kernel grants no ring,
//! nothing is compared, and the test says so; the second half needs the FUSE disk, and says so as well. With more faults:
//!
//! ```text
//! SEAWALL_IO_FAULTS=all cargo test -p seawall-wal --test io_partners -- --nocapture
//! ```

#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use seawall_disks::fuse::{Cached, Effect, Fault, FuseDisk, Operation, PowerLoss};
use seawall_disks::refusal::{Call, refuse_at_times};
use seawall_wal::format::{RECORD_HEADER_SIZE, payload_len_max};
use seawall_wal::storage::{Access, AfterWrite, Disk, DurableWrite, File, IoPath, Storage, WriteRequest};
use seawall_wal::{Error, Log, LogBytes, Lsn, Position, RecordKind, SegmentSize, Threads, Ticket};
use support::{Opener, Written};

/// Each way through a ring, and the one with the same calls that is not.
const PARTNERS: [(DurableWrite, DurableWrite); 2] =
    [(DurableWrite::UringThenSync, DurableWrite::ThenSync), (DurableWrite::UringDsync, DurableWrite::Dsync)];

/// The real disk, with salts that come again: nothing of a log's files is chance then.
#[derive(Debug)]
struct Repeating {
    disk: Disk,
    salts: AtomicU64,
}

impl Repeating {
    /// The disk for a way: with a ring if the way has one.
    fn of(way: DurableWrite) -> Arc<Self> {
        let ring = matches!(way, DurableWrite::UringDsync | DurableWrite::UringThenSync);
        Arc::new(Self { disk: if ring { Disk::new() } else { Disk::posix() }, salts: AtomicU64::new(0) })
    }
}

impl Storage for Repeating {
    fn open(&self, path: &Path, access: Access) -> std::io::Result<Arc<dyn File>> {
        self.disk.open(path, access)
    }

    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, path: &Path) -> std::io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> std::io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> std::io::Result<u64> {
        self.disk.free_bytes(path)
    }

    fn io_path(&self) -> IoPath {
        self.disk.io_path()
    }

    fn salt(&self) -> u64 {
        0x5A17 + self.salts.fetch_add(1, Ordering::Relaxed)
    }
}

/// Whether there is a ring, and so anything to compare.
fn is_ring_granted() -> bool {
    let granted = Disk::new().io_path() == IoPath::Uring;
    if !granted {
        println!("skipped, nothing was compared: io_uring is not granted here");
    }
    granted
}

/// An error as its class: which answer of the disk was behind it, whatever the way was asked for.
fn class(error: &Error) -> String {
    let words = error.to_string();
    match words.find("os error ") {
        Some(at) => words[at..].trim_end_matches([')', '.']).to_owned(),
        None if words.contains(" is full; free space") => String::from("os error 28"),
        None => words,
    }
}

/// Faults are met at each moment by whoever has minutes and says so, else at every so many.
fn step(otherwise: usize) -> usize {
    if std::env::var_os("SEAWALL_IO_FAULTS").is_some() { otherwise.div_ceil(8) } else { otherwise }
}

/// A number of bytes near a place where something begins or ends: sectors, blocks, segments, the largest record.
fn size(random: &mut SmallRng) -> usize {
    let max = payload_len_max(SegmentSize::MIN);
    let edges = [0, 512, 4096, 2 * 4096, max];
    let edge = *edges.choose(random).expect("there are some");
    let near = (edge + random.random_range(0..100)).saturating_sub(50 + RECORD_HEADER_SIZE);
    if random.random_bool(0.5) { near.min(max) } else { random.random_range(0..3000) }
}

/// What a log said, step by step, and what it acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    answers: Vec<String>,
    acknowledged: Vec<u64>,
}

/// Appends and waits, with many records in flight, as the seed says; until something fails.
fn write(log: &Log, seed: u64, steps: usize, told: &mut Told) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut open: Vec<Ticket> = Vec::new();
    for _ in 0..steps {
        let answer = match random.random_range(0..6) {
            0 => log.flush().map(|lsn| format!("flushed {lsn}")),
            1 if !open.is_empty() => {
                let ticket = open.swap_remove(random.random_range(0..open.len()));
                ticket.wait().map(|lsn| {
                    told.acknowledged.push(lsn.offset());
                    format!("durable {lsn}")
                })
            }
            _ => {
                let mut payload = vec![0; size(&mut random)];
                random.fill(&mut payload[..]);
                log.append(RecordKind::Commit, &payload).map(|ticket| {
                    let said = format!("{} at {:?}", ticket.lsn(), ticket.time());
                    open.push(ticket);
                    said
                })
            }
        };
        let failed = answer.is_err();
        told.answers.push(answer.unwrap_or_else(|error| class(&error)));
        if failed {
            break;
        }
    }
    // Whoever still waits is answered alike, too.
    for ticket in open {
        told.answers.push(ticket.wait().map_or_else(|error| class(&error), |lsn| lsn.to_string()));
    }
}

/// Every file in a folder and in those in it, by its path there.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        for entry in fs::read_dir(&path).unwrap().map(|entry| entry.unwrap()) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    let name = entry.path().strip_prefix(folder).unwrap().to_owned();
                    found.insert(name, fs::read(entry.path()).unwrap());
                }
            }
        }
    }
    found
}

#[test]
fn a_log_has_the_same_files_and_says_the_same_whichever_way_it_is_written() {
    let seeds = 12 / step(4) as u64;
    if !is_ring_granted() {
        return;
    }
    let mut bytes = 0;
    for seed in 0..seeds {
        let run = |way: DurableWrite| {
            let folder = tempfile::tempdir().unwrap();
            let (storage, mut told) = (Repeating::of(way), Told::default());
            let (mut records, mut opener) = (0, Opener::primary());
            // It is opened again in between, which is where it is read.
            for life in 0..3 {
                let (log, recovery, found) = opener.open(storage.clone(), folder.path()).unwrap();
                told.answers.push(format!("{:?} to {}, {} records", recovery.verdict, recovery.end.lsn, found.len()));
                records += found.len();
                log.write_by(way);
                write(&log, seed * 100 + life, 120, &mut told);
                // Old segments serve again as new ones.
                let keep = log.flush().unwrap().offset().saturating_sub(3 << 16);
                told.answers.push(format!("{} retired", log.recycle_before(Lsn::new(keep))));
                write(&log, seed * 100 + life + 50, 120, &mut told);
                let inside = Position { lsn: log.oldest().advance(1000), ..log.end() };
                opener.start = log.replay_start(inside).unwrap();
                log.close().unwrap();
            }
            assert!(records > 50, "seed {seed}: there were records to be read");
            (told, files(folder.path()))
        };
        let (told, expected) = run(DurableWrite::ThenSync);
        for way in [DurableWrite::Dsync, DurableWrite::UringDsync, DurableWrite::UringThenSync] {
            let (other, found) = run(way);
            assert_eq!(other, told, "seed {seed}, {way}");
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "seed {seed}, {way}");
            let differs = found.iter().find(|(name, bytes)| expected[*name] != **bytes);
            assert!(differs.is_none(), "seed {seed}, {way}: {} differs", differs.unwrap().0.display());
        }
        bytes += expected.values().map(Vec::len).sum::<usize>();
    }
    println!("{seeds} logs by four ways, {bytes} bytes by each, the same");
}

#[test]
fn a_log_is_the_same_while_the_kernel_has_no_time_for_its_ring() {
    if !is_ring_granted() {
        return;
    }
    let life = |way: DurableWrite| {
        let (folder, mut told) = (tempfile::tempdir().unwrap(), Told::default());
        for life in 0..2 {
            let (log, ..) = Opener::primary().open(Repeating::of(way), folder.path()).unwrap();
            log.write_by(way);
            write(&log, life, 120, &mut told);
            log.close().unwrap();
        }
        (told, files(folder.path()))
    };
    for (ring, calls) in PARTNERS {
        let expected = life(calls);
        let (refused, granted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counts = (Arc::clone(&refused), Arc::clone(&granted));
        // On a thread of its own: what is refused once is refused for as long as the thread lives.
        let found = std::thread::spawn(move || {
            let mut random = SmallRng::seed_from_u64(1);
            let answers = move || {
                let errno = [libc::EBUSY, libc::EAGAIN, libc::EINTR, libc::ENOMEM].choose(&mut random).copied();
                let errno = errno.filter(|_| random.random_bool(0.4));
                if errno.is_some() { &counts.0 } else { &counts.1 }.fetch_add(1, Ordering::Relaxed);
                errno
            };
            refuse_at_times(Call::IoUringEnter, answers).map(|()| life(ring))
        });
        let found = match found.join().unwrap() {
            Ok(found) => found,
            Err(error) => return println!("skipped: no filter of system calls can be set here: {error}"),
        };
        assert_eq!(found.0, expected.0, "{ring}");
        assert!(found.1 == expected.1, "{ring}: other bytes");
        let [refused, granted] = [refused, granted].map(|count| count.load(Ordering::Relaxed));
        println!(
            "{ring}: io_uring_enter was refused {refused} times and granted {granted} times, the same answers and bytes"
        );
        assert!(refused > 20 && granted > 20, "{ring}: {refused} refused, {granted} granted");
    }
}

/// A folder for a log on an empty disk.
fn begin_anew(disk: &FuseDisk) -> PathBuf {
    disk.erase();
    let folder = disk.path().join("log");
    fs::create_dir(&folder).unwrap();
    fs::File::open(disk.path()).unwrap().sync_all().unwrap();
    folder
}

/// What a log of a way says when its disk has this fault, and what is in it after a power loss that keeps what was synced only.
fn on_a_failing_disk(disk: &FuseDisk, way: DurableWrite, fault: &Fault, seed: u64) -> (Told, Vec<Written>, usize) {
    let (storage, dir) = (Repeating::of(way), begin_anew(disk));
    let mut told = Told::default();
    let (log, ..) = Opener::primary().open(storage, &dir).unwrap();
    log.write_by(way);
    disk.inject(fault.clone());
    write(&log, seed, 150, &mut told);
    drop(log);
    let hits = disk.hits().len();
    disk.lose_power(PowerLoss::NothingKept);
    let opened = Opener::primary().open(Repeating::of(way), &dir);
    let (log, _, found) = opened.unwrap_or_else(|error| panic!("{way}, after {fault:?}: {error}"));
    drop(log);
    let lost = told.acknowledged.iter().find(|lsn| !found.iter().any(|record| record.lsn.offset() == **lsn));
    assert!(lost.is_none(), "{way}: {lost:?} was acknowledged, and is lost after {fault:?}");
    (told, found, hits)
}

#[test]
fn a_log_on_a_failing_disk_says_the_same_and_keeps_the_same_through_a_ring_and_through_calls() {
    let step = step(4);
    let Some(disk) = FuseDisk::or_skip().filter(|_| is_ring_granted()) else { return };
    let fail = Effect::Fail;
    let of_both = [
        (Operation::Write, fail(libc::EIO)),
        (Operation::Write, fail(libc::ENOSPC)),
        (Operation::Write, fail(libc::EROFS)),
        (Operation::Write, fail(libc::EINTR)),
        (Operation::Write, Effect::Drop(libc::EIO, Cached::Shown)),
    ];
    let of_syncs = [
        (Operation::Sync, fail(libc::EIO)),
        (Operation::Sync, fail(libc::ENOSPC)),
        (Operation::Sync, fail(libc::EINTR)),
        (Operation::Sync, Effect::Drop(libc::EIO, Cached::Hidden)),
    ];
    let mut cases = BTreeMap::<String, usize>::new();
    for (ring, calls) in PARTNERS {
        for (operation, effect) in of_both.into_iter().chain(of_syncs) {
            for nth in (1..).step_by(step) {
                let fault = Fault::at(&[operation], nth, effect);
                let seed = nth % 5;
                let (expected, kept, hits) = on_a_failing_disk(&disk, calls, &fault, seed);
                let (told, found, hits_of_ring) = on_a_failing_disk(&disk, ring, &fault, seed);
                assert_eq!(hits, hits_of_ring, "{ring}: {fault:?}");
                if hits == 0 {
                    break;
                }
                assert_eq!(told, expected, "{ring}: {fault:?}");
                assert!(found == kept, "{ring}: {} records after {fault:?}, not {}", found.len(), kept.len());
                let failed = told.answers.iter().any(|answer| answer.starts_with("os error"));
                // Making a segment may fail, and be tried again; a write or sync of the log ends it.
                let interrupted = effect == fail(libc::EINTR);
                assert!(!(interrupted && failed), "{ring}: what is interrupted goes on: {fault:?}: {told:?}");
                *cases.entry(format!("{ring} {operation:?} {effect:?}")).or_default() += 1;
            }
        }
    }
    cases.iter().for_each(|(case, count)| println!("{count:>4} {case}"));
    let without = cases.values().filter(|count| **count < 3).count();
    assert!(without == 0 && cases.len() == 18, "each fault is met several times by each way: {cases:?}");
}

#[test]
fn a_write_that_is_short_is_finished_by_every_way_and_so_is_a_group() {
    const LEN: usize = 3 * 4096;
    let Some(disk) = FuseDisk::or_skip().filter(|_| is_ring_granted()) else { return };
    let bytes: Vec<u8> = (0..LEN).map(|at| (at / 100) as u8 + 1).collect();
    for short in [512, 1000, 4096, LEN - 1] {
        let folder = begin_anew(&disk);
        let path = folder.join("file");
        drop(Disk::new().open(&path, Access::CreateNew).unwrap());
        fs::File::open(&folder).unwrap().sync_all().unwrap();
        // Through the page cache: what the kernel makes of short direct writes to a FUSE disk is in that disk's README.
        let file = Disk::new().open(&path, Access::Write).unwrap();
        disk.inject(Fault::always(&[Operation::Write], Effect::Short(short)));
        for (way, offset) in DurableWrite::ALL.into_iter().zip((0..).step_by(LEN)) {
            file.write_durable(&bytes, offset, way).unwrap_or_else(|error| panic!("{way}: {error}"));
        }
        let thirds = bytes.chunks(LEN / 3).zip((4 * LEN as u64..).step_by(LEN / 3));
        let group: Vec<_> = thirds.map(|(bytes, offset)| WriteRequest { offset, bytes }).collect();
        file.write_many(&group, AfterWrite::SyncData).unwrap();
        drop(file);
        assert!(disk.hits().len() > 5, "{short}");
        disk.lose_power(PowerLoss::NothingKept);
        assert!(fs::read(&path).unwrap() == bytes.repeat(5), "{short} bytes at a time");
    }
}

#[test]
fn a_standby_on_a_failing_disk_says_the_same_and_keeps_the_same_through_a_ring_and_through_calls() {
    const PIECE: usize = 700 << 10;
    let Some(disk) = FuseDisk::or_skip().filter(|_| is_ring_granted()) else { return };
    let size = SegmentSize::new(1 << 20).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let primary = Opener { segment_size: size, ..Opener::primary() };
    let (log, ..) = primary.open(Arc::new(Disk::posix()), folder.path()).unwrap();
    // Each record has its number in it again and again, by which a fault finds it in whichever order writes come.
    let payload = |number: u32| [b"record", &number.to_le_bytes()[..]].concat().repeat(400);
    (0..800).for_each(|number| drop(log.append(RecordKind::Commit, &payload(number)).unwrap()));
    log.flush().unwrap();
    let mut pieces: Vec<LogBytes> = Vec::new();
    while let Some(bytes) = log.read(pieces.last().map_or(Lsn::ZERO, LogBytes::end), PIECE).unwrap() {
        pieces.push(bytes);
    }
    assert!(pieces.len() > 4, "{}", pieces.len());
    let receive = |storage: Disk, fault: Option<Fault>| {
        let (dir, opener) = (begin_anew(&disk), Opener { segment_size: size, ..Opener::standby() });
        let (standby, ..) = opener.open(Arc::new(storage.clone()), &dir).unwrap();
        fault.into_iter().for_each(|fault| disk.inject(fault));
        let mut answers = Vec::new();
        for bytes in &pieces {
            let received = standby.receive::<Error>(bytes, |_| Ok(())).and_then(|_| standby.flush_received());
            answers.push(received.as_ref().map_or_else(class, ToString::to_string));
            if received.is_err() {
                answers.push(standby.flush_received().map_or_else(|error| class(&error), |lsn| lsn.to_string()));
                break;
            }
        }
        let flushed = standby.flushed().value();
        drop(standby);
        let hits = disk.hits().len();
        disk.lose_power(PowerLoss::NothingKept);
        let opener = Opener { watermark: flushed, ..opener };
        let opened = opener.open(Arc::new(storage), &dir);
        let (standby, recovery, found) = opened.unwrap_or_else(|error| panic!("after {answers:?}: {error}"));
        assert!(recovery.end.lsn >= flushed, "what was flushed is there: {} of {flushed}", recovery.end.lsn);
        let end = standby.end();
        drop(standby);
        (answers, found, end, hits, files(&dir))
    };
    let whole = receive(Disk::posix(), None);
    assert_eq!(whole.2, log.end(), "without a fault everything is there");
    let mut met = 0;
    for effect in [libc::EIO, libc::ENOSPC, libc::EINTR].map(Effect::Fail) {
        for number in (0..800).step_by(step(199)) {
            let content = payload(number)[..10].to_vec();
            // For good, so that it does not matter how often whoever writes tries the same bytes.
            let lasting = effect != Effect::Fail(libc::EINTR);
            let fault = Fault { content, lasting, ..Fault::at(&[Operation::Write], 1, effect) };
            let expected = receive(Disk::posix(), Some(fault.clone()));
            let found = receive(Disk::new(), Some(fault.clone()));
            assert_eq!(found.0, expected.0, "{fault:?}");
            assert!(found.1 == expected.1 && found.2 == expected.2, "{fault:?}: other records");
            assert!(found.4 == expected.4, "{fault:?}: other bytes");
            assert!(found.3 > 0 && expected.3 > 0, "{fault:?} was not met");
            met += 1;
        }
    }
    for (nth, effect) in
        (1..=6).step_by(step(2)).flat_map(|nth| [libc::EIO, libc::EINTR].map(|errno| (nth, Effect::Fail(errno))))
    {
        let fault = Fault { path: ".wal".into(), ..Fault::at(&[Operation::Sync], nth, effect) };
        let (expected, found) =
            (receive(Disk::posix(), Some(fault.clone())), receive(Disk::new(), Some(fault.clone())));
        assert!(found == expected, "{fault:?}: {:?}, not {:?}", found.0, expected.0);
        met += usize::from(found.3 > 0);
    }
    println!("{met} faults under a standby with a ring and under one without: the same answers, records and bytes");
    assert!(met > 15, "{met}");
}

#[test]
fn threads_in_the_background_and_a_ring_leave_what_was_acknowledged() {
    let Some(disk) = FuseDisk::or_skip().filter(|_| is_ring_granted()) else { return };
    for (nth, way) in (3..60).step_by(7).flat_map(|nth| [(nth, PARTNERS[0].0), (nth, PARTNERS[1].0)]) {
        let dir = begin_anew(&disk);
        let opener = Opener { threads: Threads::Background, ..Opener::primary() };
        let (log, ..) = opener.open(Arc::new(Disk::new()), &dir).unwrap();
        log.write_by(way);
        disk.inject(Fault { path: ".wal".into(), ..Fault::at(&[Operation::Write], nth, Effect::Fail(libc::EIO)) });
        let acknowledged: Vec<_> = std::thread::scope(|scope| {
            let commit = |writer: u8| {
                let log = &log;
                move || {
                    (0..60).map_while(|_| log.append(RecordKind::Commit, &[writer; 900]).ok()?.wait().ok()).collect()
                }
            };
            let writers: Vec<_> = (0..3).map(|writer| scope.spawn(commit(writer))).collect();
            writers.into_iter().flat_map(|writer| -> Vec<_> { writer.join().unwrap() }).collect()
        });
        assert_eq!(disk.hits().len(), 1, "{way}, {nth}");
        assert!(matches!(log.poisoned(), Some(Error::Poisoned { .. })), "{way}, {nth}");
        drop(log);
        disk.lose_power(PowerLoss::NothingKept);
        let (log, _, found) = opener.open(Arc::new(Disk::new()), &dir).unwrap();
        drop(log);
        let lost = acknowledged.iter().find(|lsn| !found.iter().any(|record| record.lsn == **lsn));
        assert!(lost.is_none(), "{way}, {nth}: {lost:?} of {} is lost", acknowledged.len());
    }
}
