//! Where writers wait so that memory stays bounded: while too many memtables wait to be written out, or level 0 is too
//! deep, and where they are refused while the disk is full. Readers never come here.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::level::Backpressure;

/// Who works in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    Flusher = 0,
    Compactor = 1,
}

#[derive(Debug)]
pub(crate) struct Gate {
    path: PathBuf,
    frozen_max: usize,
    level0_max: usize,
    /// Whether nobody has to wait, or to be refused: `state` says the same. For those who pass, which is nearly all.
    free: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    frozen: usize,
    level0: usize,
    /// Why each worker's last attempt failed, if it did.
    failures: [Option<Error>; 2],
    closed: bool,
    stalls: u64,
    stalled: Duration,
}

impl Gate {
    pub(crate) fn new(path: &Path, frozen_max: usize, level0_max: usize) -> Self {
        let (state, changed, free) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Self { path: path.to_owned(), frozen_max, level0_max, free, state, changed }
    }

    /// Returns when there is room, or says why there is none before `deadline`, or before `timeout` is over if there is no
    /// deadline.
    pub(crate) fn pass(&self, deadline: Option<Instant>, timeout: Duration) -> Result<()> {
        if self.free.load(Ordering::Acquire) {
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
            let Some(reason) = self.full(&state) else { break Ok(()) };
            since.get_or_insert_with(Instant::now);
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break Err(Error::Backpressure(Backpressure {
                    reason: reason.to_owned(),
                    subject: self.path.display().to_string(),
                    retry_after: Duration::from_millis(100),
                }));
            }
        };
        if let Some(since) = since {
            state.stalls += 1;
            state.stalled += since.elapsed();
        }
        result
    }

    /// What now waits to be written out or merged.
    pub(crate) fn set_debt(&self, frozen: usize, level0: usize) {
        let mut state = self.state.lock();
        (state.frozen, state.level0) = (frozen, level0);
        self.announce(&state);
    }

    /// What there is too much of, if anything.
    fn full(&self, state: &State) -> Option<&'static str> {
        if state.frozen >= self.frozen_max {
            Some("memtables wait to be written out")
        } else if state.level0 >= self.level0_max {
            Some("tables wait to be merged")
        } else {
            None
        }
    }

    /// After every change of the state.
    fn announce(&self, state: &State) {
        let free = !state.closed && !state.is_disk_full() && self.full(state).is_none();
        self.free.store(free, Ordering::Release);
        self.changed.notify_all();
    }

    /// How a worker's last attempt went. A full disk refuses writes until the attempt succeeds.
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

    /// How often writers waited here, and how long in all.
    pub(crate) fn stalls(&self) -> (u64, Duration) {
        let state = self.state.lock();
        (state.stalls, state.stalled)
    }
}

impl State {
    fn is_disk_full(&self) -> bool {
        self.failures.iter().any(|failure| matches!(failure, Some(Error::DiskFull { .. })))
    }
}
