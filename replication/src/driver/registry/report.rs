//! The table as people and metrics see it.

use std::time::{Duration, Instant};

use seawall_wal::NodeId;

use super::{Registry, StandbyState};
use crate::lag::Lag;
use crate::message::{IoPath, Positions, StandbyName};
use crate::throttle::{Counters, Mode};

/// One standby.
#[derive(Clone, Debug)]
pub struct StandbyReport {
    /// Its name.
    pub name: StandbyName,
    /// The node that last used the name.
    pub node: Option<NodeId>,
    /// Where it last came from.
    pub address: String,
    /// What it is doing.
    pub state: StandbyState,
    /// For how long it has been there, or missing.
    pub since: Duration,
    /// Whether commits always wait for it.
    pub required: bool,
    /// Whether commits wait for it now.
    pub counted: bool,
    /// How far it is.
    pub positions: Positions,
    /// How far it lags by stage. A missing standby never lags by no time.
    pub lag: StageLag,
    /// Lag in time of the last minutes: half, 95 % and 99 % of the observations were no larger.
    pub lag_percentiles: [Duration; 3],
    /// Free bytes on its log's disk.
    pub disk_free: Option<u64>,
    /// Bytes of log per second it applies.
    pub apply_rate: u64,
    /// How it writes.
    pub io_path: IoPath,
    /// Whether it found damage in its own data.
    pub corruption: bool,
    /// How often it joined, and how often with less than it had confirmed.
    pub connects: u64,
    /// See `connects`.
    pub regressions: u64,
    /// Why its last connection ended.
    pub last_end: Option<String>,
}

/// Lag at each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageLag {
    /// Received by its system.
    pub write: Lag,
    /// On its disk.
    pub flush: Lag,
    /// Shown to its readers.
    pub replay: Lag,
}

/// What the throttle is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct ThrottleReport {
    /// Free, limited or paused, by what and by whom.
    pub mode: Mode,
    /// Totals.
    pub counters: Counters,
    /// Commits that wait for admission now.
    pub waiting: usize,
}

impl StandbyReport {
    /// Whether it is there now.
    pub fn is_connected(&self) -> bool {
        !matches!(self.state, StandbyState::Missing | StandbyState::LostPlace)
    }
}

impl Registry {
    /// Every standby that has a slot, by name.
    pub fn report(&self) -> Vec<StandbyReport> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let (flush, oldest) = (self.owner.log().flushed().value(), self.owner.log().oldest());
        inner.clock.flushed(flush, now);
        let inner = &*inner;
        let lag_of = |lsn, missing: Option<Duration>| {
            let lag = inner.clock.lag(lsn, &inner.history, now);
            Lag { time: lag.time.max(missing.unwrap_or_default()), ..lag }
        };
        let reports = inner.standbys.iter().map(|(name, standby)| {
            let since = now.saturating_duration_since(standby.since);
            let missing = (!standby.is_connected()).then_some(since);
            let Positions { write, flush, replay } = standby.positions;
            let lag = StageLag {
                write: lag_of(write, missing),
                flush: lag_of(flush, missing),
                replay: lag_of(replay, missing),
            };
            let caught_up = self.is_caught_up(lag.flush, inner.throttle.limits());
            StandbyReport {
                name: name.clone(),
                node: standby.node,
                address: standby.address.clone(),
                state: match standby.has_lost_place(oldest) {
                    true => StandbyState::LostPlace,
                    false => standby.state(lag.flush.bytes, caught_up, self.config.leave_after, now),
                },
                since,
                required: standby.required,
                counted: standby.counted,
                positions: standby.positions,
                lag,
                lag_percentiles: [0.5, 0.95, 0.99].map(|part| standby.window.percentile(part).unwrap_or_default()),
                disk_free: standby.status.disk_free,
                apply_rate: standby.status.apply_rate,
                io_path: standby.status.io_path,
                corruption: standby.status.corruption,
                connects: standby.connects,
                regressions: standby.regressions,
                last_end: standby.last_end.clone(),
            }
        });
        reports.collect()
    }

    /// What the throttle is doing now.
    pub fn throttle(&self) -> ThrottleReport {
        let mut inner = self.inner.lock();
        let (throttle, view) = inner.look(&*self.owner);
        let mode = throttle.mode(&view, Instant::now()).clone();
        let counters = throttle.counters();
        ThrottleReport { mode, counters, waiting: inner.queue.len() }
    }
}
