//! Where writers wait so that memory stays bounded: slowed while what waits to be written grows, stopped at the end of
//! what may be in memory or on level 0, and refused while the disk is full, or while what would make room fails. Readers
//! never come here.

mod pressure;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seawall_wal::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use seawall_wal::sync::{Condvar, Mutex, now, thread};

use crate::error::{Error, Result};
use crate::level::Backpressure;
use crate::mutant::{Mutant, planted};
use crate::race;

pub(crate) use pressure::{Bands, Debt, LEVEL0_MAX, MEMORY_SLOW};

/// Who works in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    Flusher = 0,
    Compactor = 1,
}

impl Worker {
    const ALL: [Self; 2] = [Self::Flusher, Self::Compactor];

    /// What it does, for who reads that it fails.
    fn work(self) -> &'static str {
        match self {
            Self::Flusher => "writing memtables out",
            Self::Compactor => "merging tables",
        }
    }
}

/// The longest time a writer is slowed at once.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Tries of a worker that may fail, one after the other, before writers that wait for it are told: some errors pass.
const TRIES_BORNE: u32 = 3;
/// Less is not slept, but added to the next one's: the scheduler could not keep it.
const WAIT_MIN: Duration = Duration::from_micros(200);

/// Bounds of the counts in [`Waits::counts`]; what is longer than the last one is counted behind it.
pub(crate) const WAIT_BOUNDS: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)];

#[derive(Debug)]
pub(crate) struct Gate {
    path: PathBuf,
    bands: Bands,
    /// Whether nobody has to wait, or to be refused: `state` says the same. For those who pass, which is nearly all.
    free: AtomicBool,
    /// Sets of memtables that wait to be written out.
    frozen: AtomicUsize,
    /// The other two of [`Debt`], as bits.
    level0: AtomicU64,
    bytes: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// How each worker fails, if it does.
    failures: [Option<Failure>; 2],
    closed: bool,
    /// When the next writer that is slowed may go on.
    next: Instant,
    waits: Waits,
}

/// Of a worker.
#[derive(Clone, Debug)]
struct Failure {
    /// Why the last try failed.
    error: Error,
    /// How many did, one after the other.
    tries: u32,
}

/// Waits of writers since opening.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waits {
    /// Of writers that were stopped.
    pub(crate) stalls: u64,
    pub(crate) stalled: Duration,
    /// Of writers that were slowed.
    pub(crate) slowed: u64,
    pub(crate) slowed_for: Duration,
    /// Of either.
    pub(crate) longest: Duration,
    pub(crate) counts: [u64; WAIT_BOUNDS.len() + 1],
}

impl Waits {
    fn add(&mut self, wait: Duration) {
        self.longest = self.longest.max(wait);
        self.counts[WAIT_BOUNDS.partition_point(|bound| *bound < wait)] += 1;
    }
}

impl Gate {
    pub(crate) fn new(path: &Path, bands: Bands) -> Self {
        let waits = Waits::default();
        let state = State { failures: [None, None], closed: false, next: now(), waits };
        Self {
            path: path.to_owned(),
            bands,
            free: AtomicBool::new(false),
            frozen: AtomicUsize::new(0),
            level0: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Slows whoever is about to write `bytes` as much as the debt demands. `active` is how full the memtables are that
    /// take commits.
    pub(crate) fn slow(&self, bytes: u64, active: impl FnOnce() -> f64, deadline: Option<Instant>) -> Result<()> {
        let pressure = self.bands.pressure(&self.debt(active));
        if pressure <= 0.0 || planted(Mutant::GateSlowsNobody) {
            return Ok(());
        }
        let wait = {
            let mut state = self.state.lock();
            let now = now();
            let until = state.next.clamp(now, now + WAIT_MAX);
            if deadline.is_some_and(|deadline| until > deadline) {
                let reason = match state.failures.iter().flatten().next() {
                    Some(failure) => format!("tables wait to be written and merged, which fails: {}", failure.error),
                    None => String::from("tables wait to be written and merged"),
                };
                return Err(self.backpressure(reason, until - now));
            }
            state.next = until + Duration::from_secs_f64(bytes as f64 / pressure::rate(pressure));
            let wait = until - now;
            if wait < WAIT_MIN || state.closed {
                return Ok(());
            }
            wait
        };
        thread::sleep(wait);
        let mut state = self.state.lock();
        state.waits.slowed += 1;
        state.waits.slowed_for += wait;
        state.waits.add(wait);
        Ok(())
    }

    /// Returns when there is room, or says why there is none before `deadline`, or before `timeout` is over if there is no
    /// deadline; sooner if who should make room fails again and again.
    pub(crate) fn pass(&self, deadline: Option<Instant>, timeout: Duration) -> Result<()> {
        if self.free.load(Ordering::Acquire) || planted(Mutant::GateStopsNobody) {
            return Ok(());
        }
        let deadline = deadline.unwrap_or_else(|| now() + timeout);
        let mut state = self.state.lock();
        let mut since = None;
        let result = loop {
            if state.closed {
                break Err(Error::Closed);
            }
            if let Some(error) = self.refused(&state) {
                break Err(error);
            }
            let Some((worker, reason)) = self.full() else { break Ok(()) };
            since.get_or_insert_with(now);
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                let late = || self.backpressure(reason.to_owned(), Duration::from_millis(100));
                break Err(state.stuck(worker, 1).unwrap_or_else(late));
            }
        };
        if let Some(since) = since {
            let wait = now() - since;
            state.waits.stalls += 1;
            state.waits.stalled += wait;
            state.waits.add(wait);
        }
        result
    }

    /// What writers are told at once, if there is no use in waiting.
    fn refused(&self, state: &State) -> Option<Error> {
        if state.is_disk_full() {
            return Some(Error::DiskFull { path: self.path.clone() });
        }
        state.gone().or_else(|| self.full().and_then(|(worker, _)| state.stuck(worker, TRIES_BORNE)))
    }

    fn backpressure(&self, reason: String, retry_after: Duration) -> Error {
        let subject = self.path.display().to_string();
        Error::Backpressure(Backpressure { reason, subject, retry_after })
    }

    /// Has somebody look at what waits to be written out or merged: sets of memtables, and the other two of [`Debt`]. Looks
    /// follow each other, so that what is believed is never older than the last one: after the last set was written out nobody
    /// would look again, and writers would wait for nothing.
    pub(crate) fn update_debt(&self, look: impl FnOnce() -> (usize, f64, u64)) {
        let state = self.state.lock();
        let (frozen, level0, bytes) = look();
        self.frozen.store(frozen, Ordering::Relaxed);
        self.level0.store(level0.to_bits(), Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.announce(&state);
    }

    /// What waits, `active` being how full the memtables are that take commits.
    pub(crate) fn debt(&self, active: impl FnOnce() -> f64) -> Debt {
        let frozen = self.frozen.load(Ordering::Relaxed);
        // Without one that waits it does not matter, and those who write need not look.
        let memory = if frozen == 0 { 0.0 } else { frozen as f64 + active() };
        let level0 = f64::from_bits(self.level0.load(Ordering::Relaxed));
        Debt { memory, level0, bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// How far merges are behind, as a part of where writers are slowed because of it.
    pub(crate) fn urgency(&self) -> f64 {
        self.bands.urgency(&self.debt(|| 0.0))
    }

    /// What there is too much of, if anything, and who makes it less.
    fn full(&self) -> Option<(Worker, &'static str)> {
        if self.frozen.load(Ordering::Relaxed) >= self.bands.frozen_max {
            Some((Worker::Flusher, "memtables wait to be written out"))
        } else if f64::from_bits(self.level0.load(Ordering::Relaxed)) >= LEVEL0_MAX {
            Some((Worker::Compactor, "tables wait to be merged"))
        } else {
            None
        }
    }

    /// After every change of the state.
    fn announce(&self, state: &State) {
        let free = !state.closed && self.full().is_none() && self.refused(state).is_none();
        self.free.store(free, Ordering::Release);
        if !race::planted(race::Mutant::RoomNotAnnounced) {
            self.changed.notify_all();
        }
    }

    /// How a worker's last try went. A full disk refuses writes until a try succeeds, a worker that is gone for good refuses
    /// them, and so does one that fails again and again while there is no room without it.
    pub(crate) fn set_outcome(&self, worker: Worker, outcome: Result<(), Error>) {
        let mut state = self.state.lock();
        if state.gone().is_some() {
            return;
        }
        let before = state.is_disk_full();
        let failure = &mut state.failures[worker as usize];
        let tries = failure.as_ref().map_or(0, |failure| failure.tries).saturating_add(1);
        *failure = outcome.err().map(|error| Failure { error, tries });
        let after = state.is_disk_full();
        self.announce(&state);
        drop(state);
        if after && !before {
            tracing::error!(path = %self.path.display(), "the disk is full; writes stop until there is room, reads go on");
        } else if before && !after {
            tracing::info!(path = %self.path.display(), "there is room on the disk again; writes go on");
        }
    }

    pub(crate) fn is_disk_full(&self) -> bool {
        self.state.lock().is_disk_full()
    }

    /// Why background work stands still, if it does.
    pub(crate) fn failures(&self) -> Vec<(&'static str, Error)> {
        let state = self.state.lock();
        let failing = |worker: Worker| Some((worker.work(), state.failures[worker as usize].as_ref()?.error.clone()));
        Worker::ALL.into_iter().filter_map(failing).collect()
    }

    /// What writers are told at once now, if they are not let in and there is no use in waiting.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.refused(&self.state.lock())
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.announce(&state);
    }

    /// How long writers waited here.
    pub(crate) fn waits(&self) -> Waits {
        self.state.lock().waits
    }
}

impl State {
    /// Why a worker will not come back, if one will not: there is nobody to wait for.
    fn gone(&self) -> Option<Error> {
        let mut errors = self.failures.iter().flatten().map(|failure| &failure.error);
        errors.find(|error| matches!(error, Error::Poisoned { .. })).cloned()
    }

    /// Why nobody is let in as long as there is no room without this worker, if so many of its tries have failed.
    fn stuck(&self, worker: Worker, tries: u32) -> Option<Error> {
        let failure = self.failures[worker as usize].as_ref().filter(|failure| failure.tries >= tries)?;
        if planted(Mutant::FailureNotTold) {
            return None;
        }
        Some(Error::Stuck { work: worker.work(), cause: Box::new(failure.error.clone()) })
    }

    fn is_disk_full(&self) -> bool {
        self.failures.iter().flatten().any(|failure| matches!(failure.error, Error::DiskFull { .. }))
    }
}
