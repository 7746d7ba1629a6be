//! The log's own commits a second, and what the disk gives it in bandwidth, through the same door the product uses.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seawall_wal::storage::{Access, AfterWrite, AlignedBuffer, Disk, ReadRequest, Storage, WriteRequest, write_all_at};
use seawall_wal::{
    ClusterId, Error, Log, LogMode, LogOptions, NodeId, OpenAt, Position, RecordKind, Result, SegmentSize, SystemClock,
    TimelineHistory, TimelineNonce, Timestamp,
};

/// Of each record: with its header 176 bytes of log.
const PAYLOAD: [u8; 128] = [0x5E; 128];
/// Bytes moved for a figure of bandwidth.
const BULK_BYTES: usize = 64 << 20;
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks in flight.
const DEPTH: usize = 8;

/// Who commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Committers {
    /// So many threads, each waiting for its own.
    Threads(usize),
    /// One thread with so many tickets open.
    Tickets(usize),
}

impl Committers {
    pub(super) const ALL: [Self; 4] = [Self::Threads(1), Self::Threads(8), Self::Threads(64), Self::Tickets(1024)];

    pub(super) fn name(self) -> String {
        match self {
            Self::Threads(count) => format!("log_commits_{count}_threads"),
            Self::Tickets(count) => format!("log_commits_{count}_tickets"),
        }
    }

    pub(super) fn description(self) -> String {
        match self {
            Self::Threads(1) => String::from("log commits, 1 thread"),
            Self::Threads(count) => format!("log commits, {count} threads"),
            Self::Tickets(count) => format!("log commits, {count} tickets of 1 thread"),
        }
    }
}

/// A log in a folder of its own.
pub(super) fn open(folder: &Path) -> Result<Log> {
    let mut options = LogOptions::new(ClusterId::random(), NodeId::random());
    options.segment_size = SegmentSize::new(16 << 20).unwrap_or(SegmentSize::DEFAULT);
    let at = OpenAt {
        history: TimelineHistory::first(TimelineNonce::random()),
        start: Position::ZERO,
        time_floor: Timestamp(0),
        watermark: Position::ZERO.lsn,
    };
    let (storage, clock) = (Arc::new(Disk::new()), Arc::new(SystemClock));
    let opened = Log::open(storage, clock, folder, options, &at, LogMode::Append, |_| Ok::<(), Error>(()));
    opened.map(|(log, _)| log)
}

/// Commits for as long as `slice`; commits a second.
pub(super) fn commits(log: &Log, committers: Committers, slice: Duration) -> Result<f64> {
    let started = Instant::now();
    let commits = match committers {
        Committers::Threads(count) => by_threads(log, count, slice)?,
        Committers::Tickets(count) => by_tickets(log, count, slice)?,
    };
    let seconds = started.elapsed().as_secs_f64();
    log.recycle_before(log.flushed().value());
    Ok(commits as f64 / seconds)
}

fn by_threads(log: &Log, count: usize, slice: Duration) -> Result<u64> {
    let (stop, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Each at least once: a thread may not run at all before a short slice is over.
        let committer = || loop {
            log.append(RecordKind::Commit, &PAYLOAD)?.wait()?;
            commits.fetch_add(1, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        };
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(committer)).collect();
        std::thread::sleep(slice);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(Error::Closed)))
    })?;
    Ok(commits.into_inner())
}

fn by_tickets(log: &Log, count: usize, slice: Duration) -> Result<u64> {
    let started = Instant::now();
    let mut open = VecDeque::with_capacity(count);
    let mut commits = 0;
    while started.elapsed() < slice {
        while open.len() < count {
            open.push_back(log.append(RecordKind::Commit, &PAYLOAD)?);
        }
        // The oldest half is waited for, the rest goes on meanwhile.
        for ticket in open.drain(..count.div_ceil(2)) {
            ticket.wait()?;
            commits += 1;
        }
    }
    for ticket in open {
        ticket.wait()?;
        commits += 1;
    }
    Ok(commits)
}

/// Sequential bandwidth in bytes a second: writing with one sync at the end, and reading what was written, both past the
/// page cache and some megabytes in flight.
pub(super) struct Bandwidth {
    pub(super) write: f64,
    pub(super) read: f64,
}

pub(super) fn bandwidth(path: &Path) -> std::io::Result<Bandwidth> {
    let storage = Disk::new();
    let file = storage.open(path, Access::CreateNew)?;
    // Laid out first: what is measured is the disk, not the file system's search for room.
    let mut chunk = AlignedBuffer::zeroed(CHUNK_BYTES);
    for offset in (0..BULK_BYTES).step_by(CHUNK_BYTES) {
        write_all_at(&*file, &chunk, offset as u64)?;
    }
    file.sync_data()?;
    for (number, byte) in chunk.iter_mut().enumerate() {
        *byte = (number % 251) as u8;
    }
    let file = storage.open(path, Access::WriteDirect)?;
    let offsets: Vec<u64> = (0..BULK_BYTES).step_by(CHUNK_BYTES).map(|offset| offset as u64).collect();
    let started = Instant::now();
    for group in offsets.chunks(DEPTH) {
        let writes: Vec<_> = group.iter().map(|&offset| WriteRequest { offset, bytes: &chunk }).collect();
        file.write_many(&writes, AfterWrite::Nothing)?;
    }
    file.sync_data()?;
    let write = BULK_BYTES as f64 / started.elapsed().as_secs_f64();
    let file = storage.open(path, Access::ReadDirect)?;
    let mut buffers: Vec<AlignedBuffer> = (0..DEPTH).map(|_| AlignedBuffer::zeroed(CHUNK_BYTES)).collect();
    let started = Instant::now();
    for group in offsets.chunks(DEPTH) {
        let pairs = buffers.iter_mut().zip(group);
        let mut reads: Vec<_> =
            pairs.map(|(buffer, &offset)| ReadRequest { offset, buffer: &mut buffer[..] }).collect();
        file.read_many(&mut reads)?;
    }
    let read = BULK_BYTES as f64 / started.elapsed().as_secs_f64();
    storage.remove(path)?;
    Ok(Bandwidth { write, read })
}
