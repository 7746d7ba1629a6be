//! One standby in the table: whether it is there, how far it is, and whether it counts.

use std::fmt;
use std::time::{Duration, Instant};

use seawall_wal::{Lsn, NodeId};

use super::ConnectionId;
use crate::lag::LagWindow;
use crate::message::{Positions, Status};

/// What a standby is doing, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StandbyState {
    /// It is there, and lacks more than a little.
    CatchUp,
    /// It is there and follows closely.
    Streaming,
    /// It is there, lags, and does not move.
    Stalled,
    /// It is not there.
    Missing,
    /// It is not there, and the log that it needs next is not here either.
    LostPlace,
}

#[derive(Debug)]
pub(super) struct Standby {
    pub(super) required: bool,
    pub(super) node: Option<NodeId>,
    pub(super) address: String,
    pub(super) connection: Option<ConnectionId>,
    /// Since when it is there, or missing.
    pub(super) since: Instant,
    /// The furthest it confirmed since it last joined. `replay <= flush <= write`.
    pub(super) positions: Positions,
    pub(super) status: Status,
    /// When a position last moved, or it had nothing to do.
    pub(super) moved: Instant,
    /// Whether commits wait for it.
    pub(super) counted: bool,
    pub(super) window: LagWindow,
    pub(super) connects: u64,
    /// How often it came back with less than it had confirmed.
    pub(super) regressions: u64,
    pub(super) last_end: Option<String>,
    /// Whether it joined as the node that was fed under its name, with all that it had confirmed.
    pub(super) returned: bool,
}

/// What a report changed.
pub(super) struct Moved {
    pub(super) any: bool,
    pub(super) flush: bool,
    pub(super) corruption_known: bool,
}

impl Standby {
    pub(super) fn missing(required: bool, confirmed: Lsn, now: Instant) -> Self {
        Self {
            required,
            node: None,
            address: String::new(),
            connection: None,
            since: now,
            positions: Positions::all(confirmed),
            status: Status::default(),
            moved: now,
            counted: required,
            window: LagWindow::default(),
            connects: 0,
            regressions: 0,
            last_end: None,
            returned: false,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) fn joined(&mut self, id: ConnectionId, node: NodeId, address: &str, position: Lsn, now: Instant) {
        self.connection = Some(id);
        self.node = Some(node);
        self.address = address.to_owned();
        (self.since, self.moved) = (now, now);
        self.fall_back(position);
        self.connects += 1;
    }

    /// Its log ends at `position`, whatever it had confirmed.
    pub(super) fn fall_back(&mut self, position: Lsn) {
        let Positions { write, flush, replay } = self.positions;
        self.positions =
            Positions { write: write.min(position), flush: flush.min(position), replay: replay.min(position) };
    }

    pub(super) fn left(&mut self, why: &str, now: Instant) {
        self.connection = None;
        self.since = now;
        self.last_end = Some(why.to_owned());
    }

    pub(super) fn reported(&mut self, status: &Status, now: Instant) -> Moved {
        let before = self.positions;
        let corruption_known = self.status.corruption;
        // A connection's reports only rise; what it had before it joined may lie ahead of its first one.
        self.positions = Positions {
            write: before.write.max(status.positions.write),
            flush: before.flush.max(status.positions.flush),
            replay: before.replay.max(status.positions.replay),
        };
        self.status = *status;
        let any = self.positions != before;
        if any {
            self.moved = now;
        }
        Moved { any, flush: self.positions.flush != before.flush, corruption_known }
    }

    /// Whether it is away, and the log here, which begins at `oldest`, does not lead on from what it has on its disk.
    pub(super) fn has_lost_place(&self, oldest: Lsn) -> bool {
        !self.is_connected() && self.positions.flush < oldest
    }

    /// What it is doing, if it lacks `lag_bytes` on its disk and `caught_up` says whether that is little. (Replay may be
    /// late on purpose.)
    pub(super) fn state(&self, lag_bytes: u64, caught_up: bool, stall: Duration, now: Instant) -> StandbyState {
        let still = now.saturating_duration_since(self.moved) > stall;
        match (self.is_connected(), caught_up) {
            (false, _) => StandbyState::Missing,
            (true, _) if lag_bytes > 0 && still => StandbyState::Stalled,
            (true, false) => StandbyState::CatchUp,
            (true, true) => StandbyState::Streaming,
        }
    }

    /// Whether it counts and should not any more. A required one always should.
    pub(super) fn should_leave(&mut self, lag_bytes: u64, after: Duration, now: Instant) -> bool {
        if lag_bytes == 0 {
            self.moved = now;
        }
        let gone = match self.state(lag_bytes, true, after, now) {
            StandbyState::Missing => now.saturating_duration_since(self.since) > after,
            StandbyState::Stalled => true,
            StandbyState::CatchUp | StandbyState::Streaming | StandbyState::LostPlace => false,
        };
        gone && self.counted && !self.required
    }
}

impl fmt::Display for StandbyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CatchUp => "catching up",
            Self::Streaming => "streaming",
            Self::Stalled => "stalled",
            Self::Missing => "missing",
            Self::LostPlace => "without a place in the log",
        })
    }
}
