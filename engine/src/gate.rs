//! Where writers wait so that memory stays bounded: slowed while what waits to be written grows, stopped at the end of
//! what may be in memory or on level 0, and refused while the disk is full. Readers never come here.

mod pressure;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::level::Backpressure;
use crate::mutant::{Mutant, planted};

pub(crate) use pressure::{Bands, Debt, LEVEL0_MAX, MEMORY_SLOW};

/// Who works in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    Flusher = 0,
    Compactor = 1,
}

/// The longest time a writer is slowed at once.
const WAIT_MAX: Duration = Duration::from_millis(50);
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
    /// Why each worker's last attempt failed, if it did.
    failures: [Option<Error>; 2],
    closed: bool,
    /// When the next writer that is slowed may go on.
    next: Instant,
    waits: Waits,
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
        let state = State { failures: [None, None], closed: false, next: Instant::now(), waits };
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
            let now = Instant::now();
            let until = state.next.clamp(now, now + WAIT_MAX);
            if deadline.is_some_and(|deadline| until > deadline) {
                return Err(self.backpressure("tables wait to be written and merged", until - now));
            }
            state.next = until + Duration::from_secs_f64(bytes as f64 / pressure::rate(pressure));
            let wait = until - now;
            if wait < WAIT_MIN || state.closed {
                return Ok(());
            }
            wait
        };
        std::thread::sleep(wait);
        let mut state = self.state.lock();
        state.waits.slowed += 1;
        state.waits.slowed_for += wait;
        state.waits.add(wait);
        Ok(())
    }

    /// Returns when there is room, or says why there is none before `deadline`, or before `timeout` is over if there is no
    /// deadline.
    pub(crate) fn pass(&self, deadline: Option<Instant>, timeout: Duration) -> Result<()> {
        if self.free.load(Ordering::Acquire) || planted(Mutant::GateStopsNobody) {
            return Ok(());
        }
        let deadline = deadline.unwrap_or_else(|| Instant::now() + timeout);
        let mut state = self.state.lock();
        let mut since = None;
        let result = loop {
            if state.closed {
                break Err(Error::Closed);
            }
            if state.is_disk_full() {
                break Err(Error::DiskFull { path: self.path.clone() });
            }
            if let Some(error) = state.gone() {
                break Err(error);
            }
            let Some(reason) = self.full() else { break Ok(()) };
            since.get_or_insert_with(Instant::now);
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break Err(self.backpressure(reason, Duration::from_millis(100)));
            }
        };
        if let Some(since) = since {
            let wait = since.elapsed();
            state.waits.stalls += 1;
            state.waits.stalled += wait;
            state.waits.add(wait);
        }
        result
    }

    fn backpressure(&self, reason: &str, retry_after: Duration) -> Error {
        let subject = self.path.display().to_string();
        Error::Backpressure(Backpressure { reason: reason.to_owned(), subject, retry_after })
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

    /// What there is too much of, if anything.
    fn full(&self) -> Option<&'static str> {
        if self.frozen.load(Ordering::Relaxed) >= self.bands.frozen_max {
            Some("memtables wait to be written out")
        } else if f64::from_bits(self.level0.load(Ordering::Relaxed)) >= LEVEL0_MAX {
            Some("tables wait to be merged")
        } else {
            None
        }
    }

    /// After every change of the state.
    fn announce(&self, state: &State) {
        let free = !state.closed && !state.is_disk_full() && state.gone().is_none() && self.full().is_none();
        self.free.store(free, Ordering::Release);
        self.changed.notify_all();
    }

    /// How a worker's last attempt went. A full disk refuses writes until the attempt succeeds, and a worker that is gone for good
    /// refuses them.
    pub(crate) fn set_outcome(&self, worker: Worker, outcome: Result<(), Error>) {
        let mut state = self.state.lock();
        let before = state.is_disk_full();
        state.failures[worker as usize] = outcome.err();
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
    pub(crate) fn failures(&self) -> Vec<Error> {
        self.state.lock().failures.iter().flatten().cloned().collect()
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
        self.failures.iter().flatten().find(|failure| matches!(failure, Error::Poisoned { .. })).cloned()
    }

    fn is_disk_full(&self) -> bool {
        self.failures.iter().any(|failure| matches!(failure, Some(Error::DiskFull { .. })))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::mutant::with_mutant;

    fn gate() -> Gate {
        Gate::new(Path::new("/d"), Bands { frozen_max: 4, level1_bytes: 1 << 20 })
    }

    #[test]
    fn a_writer_waits_longer_the_more_waits_to_be_written_and_never_long_at_once() {
        let gate = gate();
        let slowed_at = |frozen| {
            gate.update_debt(|| (frozen, 0.0, 0));
            let before = gate.waits().slowed_for;
            (0..8).for_each(|_| gate.slow(64 << 10, || 0.0, None).unwrap());
            gate.waits().slowed_for - before
        };
        let [none, some, much] = [0, 2, 3].map(slowed_at);
        assert_eq!(none, Duration::ZERO);
        assert!(some < much, "{some:?} at two sets, {much:?} at three");
        assert!(much >= Duration::from_millis(10), "{much:?}");
        assert!(gate.waits().longest <= WAIT_MAX);
        assert_eq!(gate.waits().stalls, 0, "nobody was stopped");
    }

    #[test]
    fn a_gate_that_slows_nobody_is_noticed() {
        let slowed_for = || {
            let gate = gate();
            gate.update_debt(|| (3, 0.0, 0));
            (0..8).for_each(|_| gate.slow(64 << 10, || 0.0, None).unwrap());
            gate.waits().slowed_for
        };
        assert!(slowed_for() >= Duration::from_millis(10));
        assert_eq!(with_mutant(Mutant::GateSlowsNobody, slowed_for), Duration::ZERO);
    }

    #[test]
    fn a_look_that_took_long_does_not_undo_a_later_one() {
        let gate = gate();
        let looking = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                gate.update_debt(|| {
                    looking.wait();
                    // The other one comes meanwhile.
                    thread::sleep(Duration::from_millis(100));
                    (4, 0.0, 0)
                });
            });
            looking.wait();
            gate.update_debt(|| (0, 0.0, 0));
        });
        gate.pass(None, Duration::ZERO).expect("nothing waits to be written out");
    }

    #[test]
    fn a_deadline_that_comes_before_the_turn_is_backpressure_at_once() {
        let gate = gate();
        gate.update_debt(|| (0, LEVEL0_MAX, 0));
        gate.slow(1 << 20, || 0.0, None).unwrap();
        let refused = gate.slow(1, || 0.0, Some(Instant::now())).unwrap_err();
        assert!(matches!(refused, Error::Backpressure(_)), "{refused}");
    }

    #[test]
    fn one_large_batch_does_not_make_the_next_writer_wait_long() {
        let gate = gate();
        gate.update_debt(|| (0, LEVEL0_MAX, 0));
        gate.slow(16 << 20, || 0.0, None).unwrap();
        let started = Instant::now();
        gate.slow(1, || 0.0, None).unwrap();
        assert!(started.elapsed() >= WAIT_MAX, "it does wait");
        assert!(gate.waits().longest <= WAIT_MAX, "{:?}", gate.waits().longest);
    }
}
