//! One chunk on its way into the archive: tried until the store has it, or says that something else is there; then
//! compared before anything is concluded.

use std::sync::Arc;
use std::time::Duration;

use seawall_wal::{Lsn, Position, Timestamp};
use tokio::task::JoinHandle;

use super::Shared;
use super::cursor::Cursor;
use super::progress::Confirmed;
use crate::archive::blocking;
use crate::error::{Error, Result};
use crate::format::chunk::{Agreement, Chunk, ChunkObject};
use crate::format::keys;
use crate::mutant::{Mutant, planted};
use crate::repository::{Condition, PutOutcome};

/// A chunk and the task that uploads it. Dropped with its task.
#[derive(Debug)]
pub(super) struct Upload {
    chunk: Chunk,
    task: JoinHandle<Result<Uploaded>>,
}

/// How an upload ended.
#[derive(Debug)]
pub(super) enum Uploaded {
    /// The store has it.
    Stored { object_len: u64 },
    /// This is under its key already; perhaps itself.
    Taken(ChunkObject),
}

/// What is under the key of a chunk that could not be stored, if it is of our history.
#[derive(Debug)]
pub(super) enum Taken {
    /// The same log.
    AsOurs,
    /// The same log as far as it goes, cut elsewhere.
    EndsElsewhere(Box<Cursor>),
}

impl Upload {
    pub(super) fn start(shared: Arc<Shared>, chunk: Chunk) -> Self {
        let task = tokio::spawn(upload(shared, chunk.clone()));
        Upload { chunk, task }
    }

    pub(super) fn first_time(&self) -> Timestamp {
        self.chunk.about.first_time
    }

    /// Completes when the task ends; may be dropped and asked again.
    pub(super) async fn done(&mut self) -> Result<Uploaded> {
        match (&mut self.task).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Ended { why: "the runtime is shutting down".to_owned() }),
        }
    }

    pub(super) fn confirm(&self, object_len: u64) -> Confirmed {
        let about = &self.chunk.about;
        Confirmed {
            position: about.end_position(),
            last_time: about.last_time,
            first_time: Some(about.first_time),
            bytes_log: self.chunk.bytes.len() as u64,
            bytes_stored: object_len,
        }
    }

    /// Compares what is there with the local log, once that can be read.
    pub(super) async fn compare(&self, shared: &Arc<Shared>, found: ChunkObject) -> Result<Taken> {
        let about = &self.chunk.about;
        let before = Position { lsn: about.start, chain: about.chain_before };
        let mut tries = Backoff::new(shared.config.backoff_max);
        let cursor = loop {
            match compare(shared, before, found.clone()).await {
                Err(error) if error.is_unreadable_log() => shared.progress.unreadable(&error),
                compared => break compared?,
            }
            tries.pause().await;
        };
        if cursor.position() == about.end_position() {
            Ok(Taken::AsOurs)
        } else {
            Ok(Taken::EndsElsewhere(Box::new(cursor)))
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Compares an object found where our log continues `before`, as far as the log is still here, and gives the cursor after it.
///
/// # Errors
/// [`Error::Fenced`] if it is a fence, another history, or more of the history than this node has.
pub(super) async fn compare(shared: &Arc<Shared>, before: Position, found: ChunkObject) -> Result<Cursor> {
    let about = *found.about();
    let (timeline, start) = (about.timeline, about.start);
    let fenced = |at, by: String| Error::Fenced { timeline, at, by };
    if planted(Mutant::OwnWriteTakenForAFence) {
        return Err(fenced(start, String::from("there is an object already")));
    }
    let chunk = match found {
        ChunkObject::Chunk(chunk) => chunk,
        ChunkObject::Fence { by, .. } => {
            let at = crate::error::written(about.first_time);
            return Err(fenced(start, format!("fenced by {by} at {at}")));
        }
    };
    let history = shared.log().history();
    let same = history.find(timeline).is_some_and(|entry| entry.nonce == about.nonce);
    if !same || about.chain_before != before.chain {
        return Err(fenced(start, format!("node {} archived another history", about.node)));
    }
    let local = shared.clone();
    let fork = history.end_of(timeline);
    let flushed = shared.log().flushed().value();
    let compared = blocking(move || {
        let mut last_time = Timestamp(0);
        chunk.for_each_record(|record| {
            if record.lsn <= fork {
                last_time = record.header.time;
            }
        });
        Ok::<_, Error>((compare_with_local(&local, &chunk, fork)?, last_time))
    });
    let (agreement, last_time) = compared.await?;
    if let Some(Agreement::Differs { at }) = agreement {
        return Err(fenced(at, format!("node {} archived another history", about.node)));
    }
    if about.end > fork {
        // An old primary went on beyond our fork before it knew; the part before the fork is ours too.
        let next = history.entries().iter().find(|entry| entry.fork.lsn == fork).expect("an end is a fork");
        return Ok(Cursor::new(next.fork, last_time));
    }
    if about.end > flushed {
        let by = format!("the archive holds its log up to {}, more than this node has; fetch it first", about.end);
        return Err(fenced(flushed, by));
    }
    Ok(Cursor::after(&about))
}

/// Compares as far as the log reaches here, `end` at most. `None` if it is no longer here; then the chain has to do.
fn compare_with_local(shared: &Shared, chunk: &Chunk, end: Lsn) -> Result<Option<Agreement>> {
    let end = chunk.about.end.min(end);
    let mut at = chunk.about.start;
    while at < end {
        let wanted = end.distance_from(at) as usize;
        let read = match shared.log().read(position_before(shared, at), wanted) {
            Ok(Some(read)) => read,
            Ok(None) | Err(seawall_wal::Error::BeyondEnd { .. }) => break,
            Err(seawall_wal::Error::Removed { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if read.start != at {
            return Ok(Some(Agreement::Differs { at }));
        }
        if let Agreement::Differs { at } = chunk.compare(&read) {
            return Ok(Some(Agreement::Differs { at }));
        }
        at = read.end();
    }
    Ok(Some(Agreement::Agrees))
}

/// The position after which the byte at `start` comes: itself, or the fork before a timeline's first byte.
fn position_before(shared: &Shared, start: Lsn) -> Lsn {
    let history = shared.log().history();
    history.entries().iter().find(|entry| entry.begin == start).map_or(start, |entry| entry.fork.lsn)
}

async fn upload(shared: Arc<Shared>, chunk: Chunk) -> Result<Uploaded> {
    let cluster = shared.archive.cluster().cluster;
    let (timeline, start) = (chunk.about.timeline, chunk.about.start);
    let key = keys::chunk(timeline, start);
    let object = blocking(move || chunk.encode(cluster)).await;
    let object_len = object.len() as u64;
    let mut tries = Backoff::new(shared.config.backoff_max);
    let condition = if planted(Mutant::ChunksPutOverOthers) { Condition::Always } else { Condition::IfAbsent };
    loop {
        let put = tried(&shared, || {
            let (archive, key, object) = (shared.archive.clone(), key.clone(), object.clone());
            let condition = condition.clone();
            async move { Ok(archive.repository().put(&key, object, condition).await?) }
        });
        if let PutOutcome::Stored { .. } = put.await? {
            return Ok(Uploaded::Stored { object_len });
        }
        let get = tried(&shared, || {
            let archive = shared.archive.clone();
            async move { archive.chunk(timeline, start).await }
        });
        if let Some(found) = get.await? {
            return Ok(Uploaded::Taken(found));
        }
        // Refused, and yet nothing is there: a conflict whose winner gave up, or a store that is not consistent.
        shared.progress.failing(&format!("{} refuses `{key}`, and there is no such object", shared.archive.location()));
        tries.pause().await;
    }
}

/// Tries until the store answers; errors that are not the store's end it.
async fn tried<T, F>(shared: &Shared, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>> + Send,
{
    let mut tries = Backoff::new(shared.config.backoff_max);
    loop {
        let error = match tokio::time::timeout(shared.config.call_timeout, call()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(Error::Repository(error))) => error.to_string(),
            Ok(Err(error)) => return Err(error),
            Err(_) => format!("{} does not answer", shared.archive.location()),
        };
        shared.progress.failing(&error);
        tries.pause().await;
    }
}

/// Growing pauses with jitter.
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(max: Duration) -> Self {
        Backoff { next: Duration::from_millis(100).min(max), max }
    }

    pub(super) async fn pause(&mut self) {
        let pause = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.max);
        tokio::time::sleep(pause).await;
    }
}
