//! The crash enumerator: runs a workload on a memory disk that keeps a journal, stands at every operation of it, and opens
//! the log in every kind of state a power loss there could leave. One checker judges all of them: what comes back is a
//! prefix of what was written, holds everything acknowledged, and is never called corrupt.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use seawall_wal::recovery::Verdict;
use seawall_wal::storage::{Access, JournalEntry, MemoryDisk, PowerLoss, Storage};
use seawall_wal::{Error, Log, LogMode, Lsn, RecordKind, Result};

use super::{DIR, Opener, Written};

/// A finished run of a workload.
pub struct Run {
    pub opener: Opener,
    /// What the disk held before the journal began.
    pub base: MemoryDisk,
    pub journal: Vec<JournalEntry>,
    /// Every record, in order.
    pub written: Vec<Written>,
}

/// What went wrong in some state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// An acknowledged record is missing.
    Lost { acknowledged: Lsn, found: Lsn },
    /// What came back is not a prefix of what was written.
    NotAPrefix { at: usize },
    /// A healthy log was refused.
    FalseAlarm(String),
}

/// Counters of an exploration.
#[derive(Debug, Default)]
pub struct Explored {
    pub states: u64,
    pub cut: u64,
    pub broken: Vec<(u64, usize, Broken)>,
}

/// Random groups on a primary's log. Every second seed starts with a recycled file that holds valid records of an older
/// log at the very same positions, as after a rewind.
pub fn primary_run(seed: u64, groups: usize) -> Run {
    let mut random = SmallRng::seed_from_u64(seed);
    let base = if seed.is_multiple_of(2) { disk_with_stale_segment(&mut random) } else { empty_disk() };
    let disk = base.duplicate();
    let opener = Opener::primary();
    // Opening is part of the journal: a crash while the first segment is prepared counts too.
    disk.keep_journal();
    let (log, ..) = opener.open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let mut written = Vec::new();
    for _ in 0..groups {
        for _ in 0..random.random_range(1..4) {
            written.push(append(&log, &mut random));
        }
        if random.random_ratio(3, 4) {
            flush_and_mark(&log, &disk);
        }
    }
    Run { opener, base, journal: disk.journal(), written }
}

/// A primary's log whose first segment is not needed any more: its file serves again before the run is over.
pub fn recycling_run(seed: u64) -> Run {
    let mut random = SmallRng::seed_from_u64(seed);
    let disk = empty_disk();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    while log.end().lsn < Lsn::new(65_536 + 20_000) {
        append(&log, &mut random);
        log.flush().unwrap();
    }
    let start = log.replay_start(log.end()).unwrap();
    assert_eq!(log.recycle_before(start.lsn), 1, "the first segment may go");
    let (_, _, mut written) = Opener { start, ..Opener::primary() }
        .open(Arc::new(disk.duplicate()), Path::new(DIR))
        .expect("the second segment is enough");
    let base = disk.duplicate();
    disk.keep_journal();
    // The file's next turn comes with the third segment.
    while log.end().lsn < Lsn::new(2 * 65_536 + 4096) {
        written.push(append(&log, &mut random));
        flush_and_mark(&log, &disk);
    }
    Run { opener: Opener { start, ..Opener::primary() }, base, journal: disk.journal(), written }
}

/// The same log received by a standby, in pieces, with a sync now and then.
pub fn standby_run(seed: u64, groups: usize) -> Run {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5EED);
    let (primary, ..) = Opener::primary().open(Arc::new(empty_disk()), Path::new(DIR)).unwrap();
    let base = if seed.is_multiple_of(2) { disk_with_stale_segment(&mut random) } else { empty_disk() };
    let disk = base.duplicate();
    let opener = Opener::standby();
    disk.keep_journal();
    let (standby, ..) = opener.open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let mut written = Vec::new();
    for _ in 0..groups {
        for _ in 0..random.random_range(1..4) {
            written.push(append(&primary, &mut random));
        }
        primary.flush().unwrap();
        while let Some(bytes) = primary.read(standby.end().lsn, random.random_range(600..6000)).unwrap() {
            standby.receive::<Error>(&bytes, |_| Ok(())).unwrap();
            if random.random_ratio(1, 2) {
                standby.flush_received().unwrap();
            }
            // What a switch of segments flushed by itself may also have been acknowledged.
            disk.mark(standby.flushed().value().offset());
        }
    }
    Run { opener, base, journal: disk.journal(), written }
}

/// Flushes, and marks the journal at the very moment the acknowledgement is given.
fn flush_and_mark(log: &Log, disk: &MemoryDisk) {
    struct Mark(MemoryDisk, Lsn);
    impl Wake for Mark {
        fn wake(self: Arc<Self>) {
            self.0.mark(self.1.offset());
        }
    }
    let end = log.end().lsn;
    let waker = Waker::from(Arc::new(Mark(disk.clone(), end)));
    let acknowledged = std::pin::pin!(log.flushed().reached(end));
    // Nothing is to be flushed if a switch of segments has just done it.
    if acknowledged.poll(&mut Context::from_waker(&waker)).is_ready() {
        disk.mark(end.offset());
    }
    log.flush().unwrap();
}

fn append(log: &Log, random: &mut SmallRng) -> Written {
    let len = match random.random_range(0..20) {
        0 => random.random_range(8000..16_000),
        1..4 => 0,
        _ => random.random_range(1..1500),
    };
    let mut payload = vec![0; len];
    random.fill(&mut payload[..]);
    let kind = if len == 0 { RecordKind::Time } else { RecordKind::Commit };
    let ticket = log.append(kind, &payload).unwrap();
    Written { lsn: ticket.lsn(), kind, payload }
}

fn empty_disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

/// A disk whose only file is a retired segment 0 full of an older log's records.
fn disk_with_stale_segment(random: &mut SmallRng) -> MemoryDisk {
    let disk = empty_disk();
    let (log, ..) = Opener::primary().open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    while log.end().lsn < Lsn::new(60_000) {
        append(&log, random);
        log.flush().unwrap();
    }
    drop(log);
    let path = segment_path(0);
    let file = disk.open(&path, Access::Write).unwrap();
    file.write_at(&[0; 512], 0).unwrap();
    file.sync_data().unwrap();
    for name in disk.list(Path::new(DIR)).unwrap() {
        if Path::new(DIR).join(&name) != path {
            disk.remove(&Path::new(DIR).join(name)).unwrap();
        }
    }
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk
}

pub fn segment_path(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("00000001-{number:016x}.wal"))
}

/// Explores states after every operation of a run, as [`PowerLoss::choose`] has them; and from some of them, crashes during recovery, to a depth
/// of three. Stops early at the first broken state if `stop_at_first`.
pub fn explore(seed: u64, run: &Run, random_subsets: usize, stop_at_first: bool) -> Explored {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut explored = Explored::default();
    let disk = run.base.duplicate();
    let mut acknowledged = Lsn::ZERO;
    // The control file's watermark: some earlier flush LSN, written about once a second.
    let mut watermark = Lsn::ZERO;
    for (step, entry) in run.journal.iter().enumerate() {
        disk.replay(entry);
        if let JournalEntry::Mark(lsn) = entry {
            acknowledged = Lsn::new(*lsn);
            if random.random_ratio(1, 4) {
                watermark = acknowledged;
            }
        }
        let opener = Opener { watermark, ..run.opener.clone() };
        let state = Check { opener: &opener, written: &run.written, acknowledged };
        let losses = PowerLoss::choose(&disk, 12, random_subsets, &mut random);
        for crashed in losses.iter().map(|loss| loss.strike(&disk)) {
            state.judge(&crashed, 0, &mut random, &mut |outcome| {
                explored.states += 1;
                match outcome {
                    Ok(verdict) => explored.cut += u64::from(verdict == Verdict::Cut),
                    Err(broken) => explored.broken.push((seed, step, broken)),
                }
            });
            if stop_at_first && !explored.broken.is_empty() {
                return explored;
            }
        }
    }
    explored
}

struct Check<'a> {
    opener: &'a Opener,
    written: &'a [Written],
    acknowledged: Lsn,
}

impl Check<'_> {
    fn judge(
        &self,
        disk: &MemoryDisk,
        depth: usize,
        random: &mut SmallRng,
        report: &mut dyn FnMut(Result<Verdict, Broken>),
    ) {
        let again = depth < 3 && random.random_ratio(1, 40);
        let opened = if again { disk.duplicate() } else { disk.clone() };
        if again {
            opened.keep_journal();
        }
        report(self.open(&opened));
        if again {
            // Crash once more, somewhere in the middle of that recovery.
            let journal = opened.journal();
            let until = random.random_range(0..=journal.len());
            let interrupted = disk.duplicate();
            journal[..until].iter().for_each(|entry| interrupted.replay(entry));
            let crashed = PowerLoss::Random(random.random()).strike(&interrupted);
            self.judge(&crashed, depth + 1, random, report);
        }
    }

    fn open(&self, disk: &MemoryDisk) -> Result<Verdict, Broken> {
        let (log, recovery, found) = self
            .opener
            .open(Arc::new(disk.clone()), Path::new(DIR))
            .map_err(|error| Broken::FalseAlarm(error.to_string()))?;
        if let Some(at) = (0..found.len()).find(|at| self.written.get(*at) != Some(&found[*at])) {
            return Err(Broken::NotAPrefix { at });
        }
        if let Some(damage) = log.damages().first() {
            return Err(Broken::FalseAlarm(format!("a healthy segment is called damaged: {damage:?}")));
        }
        let end = log.end().lsn;
        if end < self.acknowledged {
            return Err(Broken::Lost { acknowledged: self.acknowledged, found: end });
        }
        if self.opener.mode == LogMode::Append && recovery.verdict == Verdict::Cut {
            self.goes_on(log, disk, found)?;
        }
        Ok(recovery.verdict)
    }

    /// Nothing that was cut comes back, or is in the way, once the log has gone on and power is lost again.
    fn goes_on(&self, log: Log, disk: &MemoryDisk, mut expected: Vec<Written>) -> Result<(), Broken> {
        let disk = disk.duplicate();
        drop(log);
        let alarm = |error: Error| Broken::FalseAlarm(format!("after it went on: {error}"));
        let (log, ..) = self.opener.open(Arc::new(disk.clone()), Path::new(DIR)).map_err(alarm)?;
        let ticket = log.append(RecordKind::Commit, b"on").unwrap();
        ticket.wait().map_err(alarm)?;
        expected.push(Written { lsn: ticket.lsn(), kind: RecordKind::Commit, payload: b"on".to_vec() });
        let lost = Arc::new(disk.crashed_losing_all());
        let (log, recovery, found) = self.opener.open(lost, Path::new(DIR)).map_err(alarm)?;
        match (found == expected, recovery.verdict) {
            (true, Verdict::Open) => Ok(()),
            (true, verdict) => Err(Broken::FalseAlarm(format!("what was cut is met again: {verdict:?}"))),
            (false, _) if log.end().lsn < ticket.lsn() => {
                Err(Broken::Lost { acknowledged: ticket.lsn(), found: log.end().lsn })
            }
            (false, _) => Err(Broken::NotAPrefix { at: expected.len() }),
        }
    }
}

/// What became of a log with one flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flipped {
    Harmless,
    Refused,
    ReportedAsCut,
    /// Acknowledged records are missing and nobody said so.
    Silent,
    /// Something that was never written came back.
    Served,
}

/// Opens a healthy disk with one bit of one segment flipped.
pub fn flip(run: &Run, healthy: &MemoryDisk, opener: &Opener, segment: u64, bit: u64) -> Flipped {
    let disk = healthy.duplicate();
    disk.flip_bit(&segment_path(segment), bit / 8, (bit % 8) as u8);
    let Ok((_, recovery, found)) = opener.open(Arc::new(disk), Path::new(DIR)) else { return Flipped::Refused };
    if found.iter().zip(&run.written).any(|(found, written)| found != written) || found.len() > run.written.len() {
        return Flipped::Served;
    }
    match (found.len() == run.written.len(), recovery.verdict) {
        (true, _) => Flipped::Harmless,
        (false, Verdict::Cut) => Flipped::ReportedAsCut,
        (false, _) => Flipped::Silent,
    }
}
