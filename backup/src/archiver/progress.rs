//! How far the archiver is and how it fares: the position others wait for, the claim on the log, and the figures.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use seawall_wal::{LogConsumer, LogOwner, Lsn, LsnWatch, Position, Timestamp};

use super::now;
use crate::archive::Archive;
use crate::error::Error;
use crate::timelines::to_log_error;

/// Samples behind the recovery point figures.
const SAMPLES: usize = 1024;

/// Shared with whoever asks; outlives the archiver.
pub struct ArchiverProgress {
    log: Arc<dyn LogOwner>,
    created: Instant,
    archived: LsnWatch,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: ArchiverState,
    started: bool,
    position: Position,
    last_time: Timestamp,
    oldest_waiting: Option<Timestamp>,
    dirty_since: Option<Instant>,
    chunks: u64,
    bytes_log: u64,
    bytes_stored: u64,
    retries: u64,
    exposures: VecDeque<Duration>,
    exposure_max: Duration,
}

/// What the archiver is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ArchiverState {
    /// Finding out where to go on.
    #[default]
    Starting,
    /// All is well.
    Archiving,
    /// The store fails, or the log here cannot be read; what is to be archived waits.
    Failing {
        /// The store's last answer, or what reading met.
        error: String,
        /// Since when.
        since: Timestamp,
    },
    /// Ended for good: another node went on with the history.
    Fenced {
        /// Where, and how it is known.
        error: String,
    },
    /// Ended for good, and nobody else went on: going on would leave a gap, or an object in the archive is damaged.
    Ended {
        /// Why.
        error: String,
    },
    /// Ended because it was asked to.
    Stopped,
}

/// Positions and figures at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiverStatus {
    /// What it is doing.
    pub state: ArchiverState,
    /// Everything up to here is in the archive.
    pub archived: Position,
    /// Commit time of the last archived record.
    pub archived_time: Timestamp,
    /// Up to here the log is flushed. `archived.lsn <= flushed`, unless the archive is ahead of this node.
    pub flushed: Lsn,
    /// Flushed and not archived, voids left out.
    pub lag_bytes: u64,
    /// How long the oldest record that is not archived has been waiting.
    pub lag: Duration,
    /// Chunks confirmed since start.
    pub chunks: u64,
    /// Log in them, bytes.
    pub bytes_log: u64,
    /// What was sent for them, bytes.
    pub bytes_stored: u64,
    /// Requests that failed and were tried again.
    pub retries: u64,
    /// Time from the commit of a chunk's oldest record to its confirmation, median of the last 1024 chunks: the recovery
    /// point as it really is.
    pub exposure_p50: Duration,
    /// The same, 99 of 100.
    pub exposure_p99: Duration,
    /// The longest since start.
    pub exposure_max: Duration,
}

/// A step of the archived position.
#[derive(Debug, Clone, Default)]
pub(super) struct Confirmed {
    pub(super) position: Position,
    pub(super) last_time: Timestamp,
    /// Of the oldest record, if this archiver uploaded it.
    pub(super) first_time: Option<Timestamp>,
    pub(super) bytes_log: u64,
    pub(super) bytes_stored: u64,
}

impl ArchiverProgress {
    pub(super) fn new(log: Arc<dyn LogOwner>) -> Self {
        ArchiverProgress { log, created: Instant::now(), archived: LsnWatch::new(Lsn::ZERO), inner: Mutex::default() }
    }

    pub(super) fn archived(&self, confirmed: &Confirmed) {
        let mut inner = self.inner.lock();
        assert!(
            !inner.started || confirmed.position.lsn >= inner.position.lsn,
            "the archived position never falls: {} after {}",
            confirmed.position,
            inner.position
        );
        inner.started = true;
        inner.state = ArchiverState::Archiving;
        (inner.position, inner.last_time) = (confirmed.position, confirmed.last_time);
        inner.chunks += u64::from(confirmed.bytes_log > 0);
        inner.bytes_log += confirmed.bytes_log;
        inner.bytes_stored += confirmed.bytes_stored;
        if let Some(first) = confirmed.first_time {
            let exposure = Duration::from_micros(now().micros_since(first));
            inner.exposure_max = inner.exposure_max.max(exposure);
            inner.exposures.push_back(exposure);
            if inner.exposures.len() > SAMPLES {
                inner.exposures.pop_front();
            }
        }
        drop(inner);
        self.archived.advance(confirmed.position.lsn);
    }

    /// The archived position, to read or to wait for.
    pub fn watch(&self) -> &LsnWatch {
        &self.archived
    }

    /// Everything at once.
    pub fn status(&self) -> ArchiverStatus {
        let flushed = self.log.log().flushed().value();
        let history = self.log.log().history();
        let inner = self.inner.lock();
        let lag_bytes = history.bytes_between(inner.position.lsn, flushed);
        let oldest = inner.oldest_waiting.map(|time| Duration::from_micros(now().micros_since(time)));
        let lag = match (lag_bytes, oldest, inner.dirty_since) {
            (0, _, _) => Duration::ZERO,
            (_, Some(oldest), _) => oldest,
            (_, None, Some(since)) => since.elapsed(),
            // Not started yet: at least since somebody wanted it to.
            (_, None, None) => self.created.elapsed(),
        };
        let mut exposures: Vec<Duration> = inner.exposures.iter().copied().collect();
        exposures.sort_unstable();
        let of_100 = |n: usize| exposures.get((exposures.len() * n / 100).min(exposures.len().saturating_sub(1)));
        ArchiverStatus {
            state: inner.state.clone(),
            archived: inner.position,
            archived_time: inner.last_time,
            flushed,
            lag_bytes,
            lag,
            chunks: inner.chunks,
            bytes_log: inner.bytes_log,
            bytes_stored: inner.bytes_stored,
            retries: inner.retries,
            exposure_p50: of_100(50).copied().unwrap_or_default(),
            exposure_p99: of_100(99).copied().unwrap_or_default(),
            exposure_max: inner.exposure_max,
        }
    }

    pub(super) fn archived_lsn(&self) -> Lsn {
        self.inner.lock().position.lsn
    }

    pub(super) fn pending(&self, oldest_sent: Option<Timestamp>, dirty_since: Option<Instant>) {
        let mut inner = self.inner.lock();
        (inner.oldest_waiting, inner.dirty_since) = (oldest_sent, dirty_since);
    }

    /// The store did not do what it was asked, and is asked again.
    pub(super) fn failing(&self, error: &str) {
        self.inner.lock().retries += 1;
        self.waiting(error);
    }

    /// The log here cannot be read now. Nothing was asked of the store.
    pub(super) fn unreadable(&self, error: &Error) {
        self.waiting(&error.to_string());
    }

    fn waiting(&self, error: &str) {
        let mut inner = self.inner.lock();
        let since = match &inner.state {
            ArchiverState::Failing { since, .. } => *since,
            _ => {
                tracing::warn!(error, "archiving fails; what is to be archived waits");
                now()
            }
        };
        inner.state = ArchiverState::Failing { error: error.to_owned(), since };
    }

    pub(super) fn ended(&self, archive: &Archive, error: &Error) {
        let at = self.archived_lsn();
        let words = error.to_string();
        self.inner.lock().state = match error.is_superseded() {
            true => ArchiverState::Fenced { error: words },
            false => ArchiverState::Ended { error: words },
        };
        self.archived.stop(to_log_error(archive, at, Error::Ended { why: error.to_string() }));
    }

    pub(super) fn stopped(&self) {
        self.inner.lock().state = ArchiverState::Stopped;
        self.archived.stop(seawall_wal::Error::Closed);
    }
}

impl std::fmt::Debug for ArchiverProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ArchiverProgress").field(&self.inner.lock()).finish()
    }
}

impl LogConsumer for ArchiverProgress {
    fn name(&self) -> &str {
        "archive"
    }

    fn restart_lsn(&self) -> Option<Lsn> {
        Some(self.archived.value())
    }

    fn confirmed_lsn(&self) -> Lsn {
        self.archived.value()
    }
}
