//! The archiver: follows the flushed log and puts it into the archive, chunk by chunk, as a standby named `archive`. It
//! never drops anything: what cannot be read here or uploaded is tried again until it can, or until this node is fenced.
//!
//! Several uploads may be on their way at once; they are confirmed in order, so the archived position has no holes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_wal::{Clock as _, Log, LogOwner, Lsn, NodeId, Position, SystemClock, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::archive::{Archive, blocking};
use crate::error::{Error, Result};
use crate::format::documents::FrontierDocument;
use crate::format::envelope::Kind;

mod cursor;
mod progress;
mod resume;
mod upload;

use cursor::Cursor;
use progress::Confirmed;
pub use progress::{ArchiverProgress, ArchiverState, ArchiverStatus};
use upload::{Taken, Upload, Uploaded};

/// The most log one chunk is meant to hold; only a single record may make it larger.
pub const CHUNK_BYTES_MAX: usize = 8 << 20;

const _: () = assert!(CHUNK_BYTES_MAX < Kind::Chunk.plaintext_len_max());

/// How the archiver works.
#[derive(Debug, Clone)]
pub struct ArchiverConfig {
    /// Flushed log waits at most so long before it is uploaded.
    pub interval: Duration,
    /// So many bytes of log are uploaded without waiting; at most [`CHUNK_BYTES_MAX`] count.
    pub chunk_bytes: usize,
    /// Uploads on their way at once.
    pub uploads: usize,
    /// How often the cursor object is brought up to date, at most.
    pub frontier_interval: Duration,
    /// A request that takes longer is given up and tried again; above every bound of the store's own client.
    pub call_timeout: Duration,
    /// Longest pause between tries of a failing store.
    pub backoff_max: Duration,
    /// What to do if log that was never archived is no longer here.
    pub gaps: Gaps,
}

impl Default for ArchiverConfig {
    fn default() -> Self {
        ArchiverConfig {
            interval: Duration::from_secs(1),
            chunk_bytes: 4 << 20,
            uploads: 4,
            frontier_interval: Duration::from_secs(5),
            call_timeout: Duration::from_secs(360),
            backoff_max: Duration::from_secs(30),
            gaps: Gaps::Refuse,
        }
    }
}

/// Whether the archive may miss some log between what it has and what is still here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// Stop with [`Error::WouldLeaveGap`].
    Refuse,
    /// Go on after it, loudly; targets inside it cannot be restored.
    Allow,
}

/// A running archiver. Dropping it stops it at once, without a last upload.
#[derive(Debug)]
pub struct Archiver {
    progress: Arc<ArchiverProgress>,
    stop: watch::Sender<Stop>,
    running: JoinHandle<Result<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// Upload what is flushed now, then end.
    Drain,
}

impl Archiver {
    /// Starts archiving `log` for the node of this name. What is in the archive already is found out first; a failing
    /// store is waited for. Runs on the current tokio runtime.
    pub fn start(archive: Archive, log: Arc<dyn LogOwner>, node: NodeId, name: &str, config: ArchiverConfig) -> Self {
        let config = ArchiverConfig { chunk_bytes: config.chunk_bytes.clamp(1, CHUNK_BYTES_MAX), ..config };
        log.log().keep_recent();
        let progress = Arc::new(ArchiverProgress::new(log.clone()));
        let (stop, stopping) = watch::channel(Stop::No);
        let worker = Worker {
            shared: Arc::new(Shared {
                archive,
                owner: log,
                node,
                name: name.to_owned(),
                config,
                progress: progress.clone(),
            }),
            stopping,
        };
        let running = tokio::spawn(worker.run());
        Archiver { progress, stop, running }
    }

    /// Its positions and state; stays readable after the archiver ended.
    pub fn progress(&self) -> &Arc<ArchiverProgress> {
        &self.progress
    }

    /// Whether it ended by itself: fenced, or refused.
    pub fn has_ended(&self) -> bool {
        self.running.is_finished()
    }

    /// Uploads everything flushed by now and ends; gives up at the deadline.
    ///
    /// # Errors
    /// [`Error::Unfinished`] at the deadline, or what it had ended with before.
    pub async fn stop(mut self, deadline: Duration) -> Result<Position> {
        let _ = self.stop.send(Stop::Drain);
        match tokio::time::timeout(deadline, &mut self.running).await {
            Ok(Ok(ended)) => ended.map(|()| self.progress.status().archived),
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) | Err(_) => {
                let status = self.progress.status();
                Err(Error::Unfinished { archived: status.archived.lsn, end: status.flushed })
            }
        }
    }
}

impl Drop for Archiver {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// What the worker and its uploads have in common.
struct Shared {
    archive: Archive,
    owner: Arc<dyn LogOwner>,
    node: NodeId,
    name: String,
    config: ArchiverConfig,
    progress: Arc<ArchiverProgress>,
}

impl Shared {
    fn log(&self) -> &Log {
        self.owner.log()
    }
}

struct Worker {
    shared: Arc<Shared>,
    stopping: watch::Receiver<Stop>,
}

/// What the worker found to do next.
enum Event {
    /// The first upload on its way is done.
    Uploaded(Result<Uploaded>),
    /// There may be log to cut, or the cursor object is due.
    Tick,
    Stop,
}

impl Worker {
    async fn run(self) -> Result<()> {
        let shared = self.shared.clone();
        let ended = self.archive_until_stopped().await;
        match &ended {
            Ok(()) => shared.progress.stopped(),
            Err(error) => {
                tracing::error!(%error, "archiving ended");
                shared.progress.ended(&shared.archive, error);
            }
        }
        ended
    }

    async fn archive_until_stopped(mut self) -> Result<()> {
        let mut cursor = self.resume().await?;
        let mut sent: VecDeque<Upload> = VecDeque::new();
        let mut frontier = FrontierWriter::new(self.shared.clone(), &cursor.confirmed());
        // Everything up to here is to be cut into chunks without waiting any longer.
        let mut due = cursor.position().lsn;
        let mut dirty_since: Option<Instant> = None;
        let mut drain_to: Option<Lsn> = None;
        let mut pauses = upload::Backoff::new(self.shared.config.backoff_max);
        loop {
            let flushed = self.shared.log().flushed().value();
            let config = &self.shared.config;
            let pending = flushed.distance_from(cursor.position().lsn);
            dirty_since = if pending == 0 { None } else { dirty_since.or_else(|| Some(Instant::now())) };
            let waited = dirty_since.is_some_and(|since| since.elapsed() >= config.interval);
            due = due.max(drain_to.unwrap_or(due));
            if waited || pending >= config.chunk_bytes as u64 {
                due = due.max(flushed);
            }
            self.shared.progress.pending(sent.front().map(|upload| upload.first_time()), dirty_since);
            let mut is_readable = true;
            while cursor.position().lsn < due && sent.len() < config.uploads.max(1) {
                let (shared, from) = (self.shared.clone(), cursor.clone());
                let (chunk, next) = match blocking(move || from.cut(&shared)).await {
                    Err(error) if error.is_unreadable_log() => {
                        self.shared.progress.unreadable(&error);
                        is_readable = false;
                        break;
                    }
                    cut => cut?,
                };
                pauses = upload::Backoff::new(config.backoff_max);
                cursor = next;
                let Some(chunk) = chunk else { break };
                dirty_since = None;
                sent.push_back(Upload::start(self.shared.clone(), chunk));
            }
            frontier.write_if_due();
            if !is_readable && sent.is_empty() {
                // Nothing is archived past it. Whoever repairs the log was told when it was read.
                pauses.pause().await;
                continue;
            }
            if sent.is_empty() && drain_to.is_some_and(|end| cursor.position().lsn >= end) {
                return frontier.finish().await;
            }
            let room = is_readable && sent.len() < config.uploads.max(1);
            match self
                .next_event(&mut sent, cursor.position().lsn, room, dirty_since, drain_to.is_some(), frontier.due())
                .await
            {
                Event::Stop => drain_to = Some(self.shared.log().flushed().value()),
                Event::Tick => {}
                Event::Uploaded(done) => {
                    let upload = sent.pop_front().expect("an upload was on its way");
                    let confirmed = match done? {
                        Uploaded::Stored { object_len } => upload.confirm(object_len),
                        Uploaded::Taken(found) => match upload.compare(&self.shared, found).await? {
                            Taken::AsOurs => upload.confirm(0),
                            Taken::EndsElsewhere(elsewhere) => {
                                // Our own from an earlier run that was cut differently: go on at its end.
                                sent.clear();
                                cursor = *elsewhere;
                                cursor.confirmed()
                            }
                        },
                    };
                    self.shared.progress.archived(&confirmed);
                    frontier.moved(confirmed.position, confirmed.last_time);
                }
            }
        }
    }

    async fn next_event(
        &mut self,
        sent: &mut VecDeque<Upload>,
        from: Lsn,
        room: bool,
        dirty_since: Option<Instant>,
        draining: bool,
        frontier_due: Option<Instant>,
    ) -> Event {
        let config = &self.shared.config;
        let flushed = self.shared.log().flushed();
        // Not dirty: anything new matters. Dirty: a full chunk, or the end of the interval.
        let wanted = from.advance(if dirty_since.is_some() { config.chunk_bytes as u64 } else { 1 });
        let deadline = match (dirty_since, frontier_due) {
            (Some(since), Some(due)) if room => Some(due.min(since + config.interval)),
            (Some(since), None) if room => Some(since + config.interval),
            (_, due) => due,
        };
        let front = async {
            match sent.front_mut() {
                Some(upload) => upload.done().await,
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = front => Event::Uploaded(done),
            grown = flushed.reached(wanted), if room && !draining => match grown {
                Ok(_) => Event::Tick,
                // A poisoned log flushes nothing more; what it flushed still is to be archived.
                Err(_) => {
                    tokio::time::sleep(config.interval).await;
                    Event::Tick
                }
            },
            () = timer => Event::Tick,
            changed = self.stopping.changed(), if !draining => match changed {
                Ok(()) => Event::Stop,
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Finds where to go on, however often the store fails, or the log cannot be read, meanwhile.
    async fn resume(&self) -> Result<Cursor> {
        let mut tries = upload::Backoff::new(self.shared.config.backoff_max);
        loop {
            let resumed = tokio::time::timeout(self.shared.config.call_timeout, resume::resume(&self.shared)).await;
            let progress = &self.shared.progress;
            match resumed {
                Ok(Ok(cursor)) => {
                    progress.archived(&cursor.confirmed());
                    return Ok(cursor);
                }
                Ok(Err(Error::Repository(error))) => progress.failing(&error.to_string()),
                Ok(Err(error)) if error.is_unreadable_log() => progress.unreadable(&error),
                Ok(Err(error)) => return Err(error),
                Err(_) => progress.failing(&format!("{} does not answer", self.shared.archive.location())),
            }
            tries.pause().await;
        }
    }
}

/// Keeps the cursor object near the archived position, one write at a time and never in the way.
struct FrontierWriter {
    shared: Arc<Shared>,
    position: Position,
    last_time: Timestamp,
    written: Lsn,
    written_at: Option<Instant>,
    writing: Option<JoinHandle<()>>,
}

impl FrontierWriter {
    fn new(shared: Arc<Shared>, at: &Confirmed) -> Self {
        let (position, last_time) = (at.position, at.last_time);
        FrontierWriter { shared, position, last_time, written: Lsn::ZERO, written_at: None, writing: None }
    }

    fn moved(&mut self, position: Position, last_time: Timestamp) {
        (self.position, self.last_time) = (position, last_time);
        self.write_if_due();
    }

    fn write_if_due(&mut self) {
        if self.due().is_some_and(|due| due <= Instant::now()) {
            self.write();
        }
    }

    /// When the object wants writing, if it does.
    fn due(&self) -> Option<Instant> {
        let interval = self.shared.config.frontier_interval;
        let knows = self.position.lsn > self.written && self.last_time > Timestamp(0);
        knows.then(|| self.written_at.map_or_else(Instant::now, |at| at + interval))
    }

    fn write(&mut self) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            self.written_at = Some(Instant::now());
            return;
        }
        (self.written, self.written_at) = (self.position.lsn, Some(Instant::now()));
        let (shared, document) = (self.shared.clone(), self.document());
        self.writing = Some(tokio::spawn(async move {
            let put = shared.archive.put_frontier(&document);
            match tokio::time::timeout(shared.config.call_timeout, put).await {
                Ok(Ok(())) => {}
                // It is only a cursor: the next write makes up for this one.
                Ok(Err(error)) => tracing::warn!(%error, "the frontier object was not written"),
                Err(_) => tracing::warn!("the frontier object was not written in time"),
            }
        }));
    }

    /// The last one, so that the next archiver starts where this one ended.
    async fn finish(mut self) -> Result<()> {
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
        if self.last_time > Timestamp(0) {
            self.shared.archive.put_frontier(&self.document()).await?;
        }
        Ok(())
    }

    fn document(&self) -> FrontierDocument {
        let history = self.shared.log().history();
        let entry = history.of_position(self.position.lsn);
        FrontierDocument {
            timeline: entry.id,
            nonce: entry.nonce,
            position: self.position,
            commit_time: self.last_time,
            // Times in the log rise strictly, so nothing at or below the last archived one is missing.
            asserted: self.last_time,
        }
    }
}

/// The wall clock, as the log's times.
fn now() -> Timestamp {
    SystemClock.now()
}
