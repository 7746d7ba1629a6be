//! What the tests of the archive share: logs on an in-memory disk, a repository that misbehaves on demand, and the reading
//! back of what is archived.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod database;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_backup::format::chunk::ChunkObject;
use seawall_backup::repository::Repository;
use seawall_backup::repository::faulty::FaultyRepository;
use seawall_backup::repository::memory::MemoryRepository;
use seawall_backup::{Archive, Archiver, ArchiverConfig, ArchiverState, FenceRequest};
use seawall_wal::storage::{MemoryDisk, Storage};
use seawall_wal::{
    ClusterId, FenceOutcome, Log, LogMode, LogOptions, LogOwner, Lsn, NodeId, OpenAt, Position, RecordKind,
    SegmentSize, SystemClock, Threads, TimelineHistory, TimelineId, TimelineNonce, Timestamp,
};

pub const SIZE: SegmentSize = SegmentSize::MIN;
pub const FIRST: TimelineId = TimelineId::FIRST;

pub fn cluster() -> ClusterId {
    ClusterId::from_bytes([0xC1; 16])
}

pub fn history() -> TimelineHistory {
    TimelineHistory::first(TimelineNonce::from_bytes([0x71; 16]))
}

/// One node's log on a disk of its own.
#[derive(Clone)]
pub struct Node {
    pub id: NodeId,
    pub disk: Arc<dyn Storage>,
    pub log: Arc<Log>,
}

impl Node {
    pub fn new(number: u8) -> Self {
        Self::open(number, Arc::new(MemoryDisk::new()), &history(), Position::ZERO, LogMode::Append)
    }

    pub fn open(number: u8, disk: Arc<dyn Storage>, history: &TimelineHistory, redo: Position, mode: LogMode) -> Self {
        Self::sized(number, SIZE, disk, history, redo, mode)
    }

    pub fn sized(
        number: u8,
        size: SegmentSize,
        disk: Arc<dyn Storage>,
        history: &TimelineHistory,
        redo: Position,
        mode: LogMode,
    ) -> Self {
        let id = NodeId::from_bytes([number; 16]);
        let options = LogOptions { segment_size: size, threads: Threads::Background, ..LogOptions::new(cluster(), id) };
        let at = OpenAt { history: history.clone(), start: redo, time_floor: Timestamp(0), watermark: Lsn::ZERO };
        let clock = Arc::new(SystemClock);
        let nothing = |_: &[seawall_wal::Record<'_>]| Ok::<_, seawall_wal::Error>(());
        let (log, _) = Log::open(disk.clone(), clock, Path::new("/wal"), options, &at, mode, nothing).unwrap();
        Node { id, disk, log: Arc::new(log) }
    }

    /// Commits `count` records of about 1 KiB, each waited for. What they hold depends on `seed` and their number.
    pub fn commit(&self, seed: u8, count: usize) -> Position {
        for n in 0..count {
            let payload: Vec<u8> =
                (0..1000 + n % 37).map(|at| (at as u8).wrapping_mul(seed).wrapping_add(n as u8)).collect();
            self.log.append(RecordKind::Commit, &payload).unwrap().wait().unwrap();
        }
        self.log.end()
    }

    /// All flushed log, piece by piece, as it lies on the disk.
    pub fn bytes(&self) -> Vec<(Lsn, Vec<u8>)> {
        let (mut pieces, mut at) = (vec![], self.log.oldest());
        while let Some(read) = self.log.read(at, SIZE.bytes() as usize).unwrap() {
            at = read.end();
            pieces.push((read.start, read.bytes));
        }
        pieces
    }

    /// A node that received everything this one has.
    pub fn copy(&self, number: u8) -> Self {
        let copy =
            Self::open(number, Arc::new(MemoryDisk::new()), &self.log.history(), Position::ZERO, LogMode::Receive);
        let mut at = Lsn::ZERO;
        while let Some(read) = self.log.read(at, 1 << 20).unwrap() {
            at = read.end();
            copy.log.receive(&read, |_| Ok::<_, seawall_wal::Error>(())).unwrap();
        }
        copy.log.flush_received().unwrap();
        copy
    }
}

/// A memory repository, what is wrong with it, and the archive in it.
pub struct Store {
    pub memory: Arc<MemoryRepository>,
    pub faulty: Arc<FaultyRepository>,
    pub archive: Archive,
}

impl Store {
    pub async fn new() -> Self {
        Self::over(Arc::new(MemoryRepository::new())).await
    }

    pub async fn over(memory: Arc<MemoryRepository>) -> Self {
        let faulty = Arc::new(FaultyRepository::new(memory.clone()));
        let archive = Archive::create_or_open(faulty.clone(), cluster(), SIZE, Timestamp(1)).await.unwrap();
        Store { memory, faulty, archive }
    }

    pub fn repository(&self) -> Arc<dyn Repository> {
        self.faulty.clone()
    }

    pub fn archiver(&self, node: &Node) -> Archiver {
        self.archiver_with(node, hasty())
    }

    pub fn archiver_with(&self, node: &Node, config: ArchiverConfig) -> Archiver {
        Archiver::start(self.archive.clone(), node.log.clone(), node.id, "test", config)
    }

    pub fn fence_request(&self, node: &Node) -> FenceRequest {
        let current = *node.log.history().current();
        let name = format!("node {}", node.id.to_bytes()[0]);
        let now = Timestamp(9);
        FenceRequest { timeline: current.id, nonce: current.nonce, at: node.log.end(), node: node.id, name, now }
    }

    /// The node asks to end its timeline at its log's end.
    pub async fn fence(&self, node: &Node) -> seawall_backup::Result<FenceOutcome> {
        let log: Arc<dyn LogOwner> = node.log.clone();
        self.archive.fence_timeline(&self.fence_request(node), Some(&log)).await
    }

    /// Archives everything the node has flushed.
    pub async fn archive_all(&self, node: &Node) -> Position {
        self.archiver(node).stop(Duration::from_secs(20)).await.unwrap()
    }

    /// The archived log of a timeline from `at` on, by name, joined where it is contiguous in the log.
    pub async fn archived(&self, timeline: TimelineId, mut at: Lsn) -> (Vec<u8>, Option<String>) {
        let mut bytes = vec![];
        loop {
            match self.archive.chunk(timeline, at).await.unwrap() {
                None => return (bytes, None),
                Some(ChunkObject::Fence { by, .. }) => return (bytes, Some(by)),
                Some(ChunkObject::Chunk(chunk)) => {
                    bytes.extend_from_slice(&chunk.bytes);
                    at = chunk.about.end;
                }
            }
        }
    }
}

/// Quick to act and to try again.
pub fn hasty() -> ArchiverConfig {
    ArchiverConfig {
        interval: Duration::from_millis(20),
        chunk_bytes: 8 << 10,
        frontier_interval: Duration::from_millis(100),
        call_timeout: Duration::from_millis(500),
        backoff_max: Duration::from_millis(50),
        ..ArchiverConfig::default()
    }
}

/// Waits until everything the node has flushed is archived.
pub async fn caught_up(archiver: &Archiver, node: &Node) {
    let end = node.log.flushed().value();
    let reached = tokio::time::timeout(Duration::from_secs(20), archiver.progress().watch().reached(end)).await;
    reached.expect("the archiver catches up in time").unwrap();
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the archiver ends by itself, and says why.
pub async fn ended(archiver: Archiver) -> seawall_backup::Error {
    until("the archiver ends", || archiver.has_ended()).await;
    let state = archiver.progress().status().state;
    let error = archiver.stop(Duration::from_secs(1)).await.unwrap_err();
    match error.is_superseded() {
        true => assert!(matches!(state, ArchiverState::Fenced { .. }), "{state:?}"),
        false => assert!(matches!(state, ArchiverState::Ended { .. }), "{state:?}"),
    }
    error
}
