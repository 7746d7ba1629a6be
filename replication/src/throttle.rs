//! How fast commits may enter, so that nobody who counts falls behind by more than a ceiling. Facts, a commit's size and the
//! time come in; admit, wait or refuse comes out. Who blocks a thread on the answer is `driver`'s business.
//!
//! Two things hold apart. The **exact rules** say what may enter at all, whatever the controller thinks:
//!
//! - bytes: `append end + reserved + size − slowest counted flush ≤ ceiling`, where *reserved* is what was admitted and
//!   is not appended yet, and voids count nothing;
//! - time: nothing while the oldest unconfirmed commit is older than the ceiling.
//!
//! The **controller** keeps them from being hit: between target and ceiling it allows what the slowest one drains, a little
//! more below the middle and less above it, nothing at the ceiling. Once paused there, commits enter again at the target.
//!
//! A single commit larger than a byte ceiling could never enter without breaking the rule, so it is refused at once, for
//! good; [`Limits::validate`] demands ceilings with room for two of the largest commits, so it cannot happen in a
//! validated configuration. Records of the node itself (time, promotion, keyspaces) never wait: [`INTERNAL_RESERVE`] of
//! every byte ceiling is kept for them.

mod drain;
mod law;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_wal::format::{RECORD_ALIGNMENT, RECORD_HEADER_SIZE, SEGMENT_HEADER_SIZE, payload_len_max};
use seawall_wal::{Lsn, SegmentSize, TimelineHistory};

use crate::lag::LagClock;
use drain::{DrainMeter, RateMeter};

/// Bytes of every ceiling that only the node's own records may use.
pub const INTERNAL_RESERVE: u64 = 64 << 10;

/// From `target` on commits are slowed, at `ceiling` they stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<T> {
    /// Free below.
    pub target: T,
    /// Nothing enters at or beyond.
    pub ceiling: T,
}

/// What bounds ingestion. `None` does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a counted standby may lack.
    pub standby_bytes: Option<Bound<u64>>,
    /// Age of the oldest byte a counted standby lacks.
    pub standby_time: Option<Bound<Duration>>,
    /// Bytes the archive may lack.
    pub archive_bytes: Option<Bound<u64>>,
    /// Age of the oldest byte the archive lacks.
    pub archive_time: Option<Bound<Duration>>,
    /// Free bytes on the log's disk: here `target` is the larger.
    pub disk_free: Option<Bound<u64>>,
    /// Bytes in memory and young tables that still have to be written down.
    pub debt: Option<Bound<u64>>,
}

/// A limit that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimit {
    /// Nothing lies between target and ceiling.
    #[error("{reason}: the target must lie before the ceiling")]
    Inverted {
        /// Which limit.
        reason: Reason,
    },
    /// Large commits could never enter.
    #[error(
        "{reason}: {room} bytes between target and ceiling; with these segments a commit can need {needed}, raise the ceiling"
    )]
    TooTight {
        /// Which limit.
        reason: Reason,
        /// Bytes between target and ceiling.
        room: u64,
        /// Bytes that must lie between them.
        needed: u64,
    },
}

/// Which limit holds ingestion back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A standby lacks too many bytes.
    StandbyLagBytes,
    /// A standby lacks bytes that are too old.
    StandbyLagTime,
    /// The archive lacks too many bytes.
    ArchiveLagBytes,
    /// The archive lacks bytes that are too old.
    ArchiveLagTime,
    /// The log's disk fills up.
    DiskSpace,
    /// Too much is waiting to be written into tables.
    MemtableDebt,
    /// The commit alone is larger than a ceiling.
    CommitTooLarge,
}

/// Whom ingestion waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerKind {
    /// A standby.
    Standby,
    /// The archive.
    Archive,
}

/// What the throttle looks at when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// When which byte became durable here.
    pub clock: &'a LagClock,
    /// Tells voids.
    pub history: &'a TimelineHistory,
    /// Where the next record would go. Must be read after the throttle's lock was taken.
    pub append_end: Lsn,
}

/// The answer to a commit that wants to enter.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It may, and so many bytes are reserved for it until [`Throttle::release`].
    Admit {
        /// What to release once it is appended or given up.
        reserved: u64,
    },
    /// Not yet: ask again at this time or when anybody made progress, whichever is first.
    Wait {
        /// When at the latest.
        until: Instant,
    },
    /// No.
    Refuse(Backpressure),
}

/// Why a commit may not enter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("writes are held back because of {reason} ({subject}); try again in {retry_after:?}")]
pub struct Backpressure {
    /// Which limit.
    pub reason: Reason,
    /// Who: a standby's name, `archive`, `disk`, `memtables`.
    pub subject: Arc<str>,
    /// When it may be worth trying again; [`Duration::MAX`] if never.
    pub retry_after: Duration,
}

/// What the throttle is doing, for people and metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mode {
    /// Nothing is held back.
    #[default]
    Free,
    /// Commits are slowed.
    Limited(Limit),
    /// Commits wait until the limit's target is met again.
    Paused(Limit),
}

/// The limit that binds.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Which.
    pub reason: Reason,
    /// Who.
    pub subject: Arc<str>,
    /// How far between target (0) and ceiling (1).
    pub pressure: f64,
    /// Bytes of log per second allowed.
    pub allowed: f64,
}

/// Sizes up commits against everybody who counts.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    consumers: Vec<Consumer>,
    disk_free: Option<u64>,
    debt: u64,
    /// Admitted, not appended yet.
    reserved: u64,
    /// Bytes that may enter now; negative after a large commit.
    tokens: f64,
    refilled: Instant,
    admitted: RateMeter,
    /// The admitted rate when disk or debt last came under pressure.
    reference: f64,
    mode: Mode,
    /// When the pause that is on began.
    paused_since: Option<Instant>,
    /// Up to when pauses are in the counters.
    pause_counted: Instant,
    decided: Option<Decided>,
    counters: Counters,
}

/// Totals since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commits admitted.
    pub admitted: u64,
    /// Commits refused.
    pub refused: u64,
    /// Pauses begun.
    pub pauses: u64,
    /// Time in pauses, the one that is on included.
    pub paused: Duration,
    /// The longest pause, the one that is on included.
    pub pause_max: Duration,
}

#[derive(Debug)]
struct Consumer {
    kind: ConsumerKind,
    name: Arc<str>,
    confirmed: Lsn,
    drain: DrainMeter,
}

/// What holds until somebody makes progress or a millisecond passed.
#[derive(Clone, Copy, Debug)]
struct Decided {
    at: Instant,
    /// The smallest room the byte ceilings leave, as the largest append end allowed, and whose that is.
    byte_room: Option<(Reason, usize)>,
    /// When the oldest byte somebody under a time limit lacks became durable here.
    oldest: Option<(Reason, usize, Instant, Duration)>,
    allowed: f64,
}

/// The controller's decision is as old as this at most.
const DECISION_AGE_MAX: Duration = Duration::from_millis(1);
/// Nobody waits longer than this without asking again.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Tokens saved up while nobody commits.
const BURST: Duration = Duration::from_millis(20);

impl Limits {
    /// What `max_replication_lag_seconds` means: slowed from half of it on, for standbys and the archive.
    pub fn lag_time(ceiling: Duration) -> Self {
        let bound = Some(Bound { target: ceiling / 2, ceiling });
        Self { standby_time: bound, archive_time: bound, ..Self::default() }
    }

    /// Checks that every limit can work with segments of this size.
    pub fn validate(&self, size: SegmentSize) -> Result<(), InvalidLimit> {
        let needed = 2 * log_bytes_max(payload_len_max(size)) + INTERNAL_RESERVE;
        let bytes = [(Reason::StandbyLagBytes, self.standby_bytes), (Reason::ArchiveLagBytes, self.archive_bytes)];
        for (reason, bound) in bytes.into_iter().filter_map(|(reason, bound)| Some((reason, bound?))) {
            let room = bound.ceiling.saturating_sub(bound.target);
            if room < needed {
                return Err(InvalidLimit::TooTight { reason, room, needed });
            }
        }
        let times = [(Reason::StandbyLagTime, self.standby_time), (Reason::ArchiveLagTime, self.archive_time)];
        let inverted = |reason| Err(InvalidLimit::Inverted { reason });
        if let Some((reason, _)) = times.into_iter().find(|(_, bound)| bound.is_some_and(|b| b.target >= b.ceiling)) {
            return inverted(reason);
        }
        match (self.disk_free, self.debt) {
            (Some(disk), _) if disk.target <= disk.ceiling => inverted(Reason::DiskSpace),
            (_, Some(debt)) if debt.target >= debt.ceiling => inverted(Reason::MemtableDebt),
            _ => Ok(()),
        }
    }

    fn bytes(&self, kind: ConsumerKind) -> (Reason, Option<Bound<u64>>) {
        match kind {
            ConsumerKind::Standby => (Reason::StandbyLagBytes, self.standby_bytes),
            ConsumerKind::Archive => (Reason::ArchiveLagBytes, self.archive_bytes),
        }
    }

    fn time(&self, kind: ConsumerKind) -> (Reason, Option<Bound<Duration>>) {
        match kind {
            ConsumerKind::Standby => (Reason::StandbyLagTime, self.standby_time),
            ConsumerKind::Archive => (Reason::ArchiveLagTime, self.archive_time),
        }
    }
}

/// Bytes the log can grow by for one record, at most: a segment that must be padded first (by less than the record
/// needs), a header for the next, and the record with its alignment and an end too short for another.
pub const fn log_bytes_max(payload_len: usize) -> u64 {
    let record = (RECORD_HEADER_SIZE + payload_len + RECORD_ALIGNMENT + RECORD_HEADER_SIZE) as u64;
    2 * record + SEGMENT_HEADER_SIZE as u64
}

impl Throttle {
    /// A throttle nobody counts for yet.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            consumers: Vec::new(),
            disk_free: None,
            debt: 0,
            reserved: 0,
            tokens: 0.0,
            refilled: now,
            admitted: RateMeter::new(now),
            reference: 0.0,
            mode: Mode::Free,
            paused_since: None,
            pause_counted: now,
            decided: None,
            counters: Counters::default(),
        }
    }

    /// What bounds ingestion now.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Changes the limits while running.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.decided = None;
    }

    /// From now on this one counts; it has confirmed the log up to `confirmed`. If it counts already, it stepped to there.
    pub fn count(&mut self, kind: ConsumerKind, name: &str, confirmed: Lsn) {
        self.decided = None;
        match self.consumers.iter_mut().find(|consumer| consumer.kind == kind && *consumer.name == *name) {
            Some(consumer) => {
                consumer.confirmed = confirmed;
                consumer.drain.interrupt();
            }
            None => {
                let consumer = Consumer { kind, name: name.into(), confirmed, drain: DrainMeter::default() };
                self.consumers.push(consumer);
            }
        }
    }

    /// This one counts no more.
    pub fn discount(&mut self, kind: ConsumerKind, name: &str) {
        self.consumers.retain(|consumer| consumer.kind != kind || *consumer.name != *name);
        self.decided = None;
    }

    /// One that counts confirmed more. Others are ignored.
    pub fn progress(&mut self, kind: ConsumerKind, name: &str, confirmed: Lsn, view: &View<'_>, now: Instant) {
        let consumer = self.consumers.iter_mut().find(|consumer| consumer.kind == kind && *consumer.name == *name);
        let Some(consumer) = consumer.filter(|consumer| consumer.confirmed < confirmed) else {
            return;
        };
        let drained = view.history.bytes_between(consumer.confirmed, confirmed);
        let backlog = view.history.bytes_between(confirmed, view.append_end);
        consumer.drain.drained(drained, backlog, now);
        consumer.confirmed = confirmed;
        self.decided = None;
    }

    /// What the node measured lately: free bytes on the log's disk, and bytes waiting to be written into tables.
    pub fn measured(&mut self, disk_free: Option<u64>, debt: u64) {
        (self.disk_free, self.debt) = (disk_free, debt);
        self.decided = None;
    }

    /// Whether a commit with so long a payload may enter. A caller that would not wait past `deadline` is refused then.
    pub fn admit(&mut self, payload_len: usize, deadline: Option<Instant>, view: &View<'_>, now: Instant) -> Verdict {
        let size = log_bytes_max(payload_len);
        if let Some(subject) = self.too_large(size) {
            self.counters.refused += 1;
            let reason = Reason::CommitTooLarge;
            return Verdict::Refuse(Backpressure { reason, subject, retry_after: Duration::MAX });
        }
        let decided = self.decide(view, now);
        let blocked = self.blocked(&decided, size, view, now);
        if blocked.is_none() {
            self.reserved += size;
            self.counters.admitted += 1;
            return Verdict::Admit { reserved: size };
        }
        let (reason, subject, wait) = blocked.expect("checked above");
        self.pause_if_full(reason, &subject, view, now);
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.counters.refused += 1;
            return Verdict::Refuse(Backpressure { reason, subject, retry_after: wait });
        }
        let until = now + wait.min(WAIT_MAX);
        Verdict::Wait { until: deadline.map_or(until, |deadline| until.min(deadline)) }
    }

    /// A commit did not fit under a ceiling that is near: that is a pause, also if smaller commits would still fit. Who
    /// creeps up on the ceiling commit by commit would never be told that ingestion stands still.
    fn pause_if_full(&mut self, reason: Reason, subject: &Arc<str>, view: &View<'_>, now: Instant) {
        let by_name = |consumer: &&Consumer| consumer.name == *subject && self.limits.bytes(consumer.kind).0 == reason;
        let Some(consumer) = self.consumers.iter().find(by_name) else { return };
        let Some(bound) = self.limits.bytes(consumer.kind).1 else { return };
        let lag = self.lag_bytes(consumer, view) as f64;
        let pressure = law::pressure(lag, bound.target as f64, bound.ceiling as f64);
        if pressure >= law::STEEP && !matches!(self.mode, Mode::Paused(_)) {
            self.mode = Mode::Paused(Limit { reason, subject: subject.clone(), pressure, allowed: 0.0 });
            self.counters.pauses += 1;
            self.paused_since = Some(now);
        }
    }

    /// A record of the node itself enters. It always may; false says that the reserve is used up and that a record which
    /// is not needed now should rather wait.
    pub fn admit_internal(&mut self, payload_len: usize, view: &View<'_>) -> (u64, bool) {
        let size = log_bytes_max(payload_len);
        let fits = self.consumers.iter().all(|consumer| {
            let (_, bound) = self.limits.bytes(consumer.kind);
            bound.is_none_or(|bound| self.lag_bytes(consumer, view) + self.reserved + size <= bound.ceiling)
        });
        self.reserved += size;
        (size, fits)
    }

    /// The commit was appended (it is now before the append end), or given up. `appended` is what it added to the log.
    pub fn release(&mut self, reserved: u64, appended: u64, now: Instant) {
        assert!(reserved <= self.reserved, "more was released than reserved");
        self.reserved -= reserved;
        self.tokens -= appended as f64;
        self.admitted.add(appended, now);
    }

    /// What it is doing now.
    pub fn mode(&mut self, view: &View<'_>, now: Instant) -> &Mode {
        self.decide(view, now);
        &self.mode
    }

    /// Totals since start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Why a commit of this size may not enter now, and how long that may last.
    fn blocked(
        &self,
        decided: &Decided,
        size: u64,
        view: &View<'_>,
        now: Instant,
    ) -> Option<(Reason, Arc<str>, Duration)> {
        // The exact rules first: they hold whatever the controller thinks.
        if let Some((reason, index)) = decided.byte_room {
            let consumer = &self.consumers[index];
            let ceiling = self.limits.bytes(consumer.kind).1.expect("it has a byte limit").ceiling - INTERNAL_RESERVE;
            let over = (self.lag_bytes(consumer, view) + self.reserved + size).saturating_sub(ceiling);
            if over > 0 {
                return Some((reason, consumer.name.clone(), consumer.drain.time_for(over)));
            }
        }
        if let Some((reason, index, since, ceiling)) = decided.oldest
            && now.saturating_duration_since(since) >= ceiling
        {
            let consumer = &self.consumers[index];
            return Some((reason, consumer.name.clone(), consumer.drain.time_for(self.lag_bytes(consumer, view))));
        }
        match &self.mode {
            Mode::Free => None,
            Mode::Paused(limit) => Some((limit.reason, limit.subject.clone(), Duration::from_secs(1))),
            Mode::Limited(limit) => {
                // What is admitted and not appended yet will be taken from the tokens when it is.
                let tokens = self.tokens - self.reserved as f64 / 2.0;
                let wait = (1.0 - tokens) / limit.allowed.max(1.0);
                let wait = Duration::from_secs_f64(wait.clamp(0.0005, 30.0));
                (tokens < 1.0).then(|| (limit.reason, limit.subject.clone(), wait))
            }
        }
    }

    fn decide(&mut self, view: &View<'_>, now: Instant) -> Decided {
        let decided = match self.decided {
            Some(decided) if now.saturating_duration_since(decided.at) < DECISION_AGE_MAX => return decided,
            _ => Decided { at: now, byte_room: None, oldest: None, allowed: f64::INFINITY },
        };
        let decided = self.look(decided, view, now);
        self.refill(decided.allowed, now);
        self.decided = Some(decided);
        decided
    }

    /// Weighs everybody who counts, and moves between free, limited and paused.
    fn look(&mut self, mut decided: Decided, view: &View<'_>, now: Instant) -> Decided {
        let admitted = self.admitted.rate(now);
        let mut limits = Vec::new();
        let mut least_room = u64::MAX;
        for (index, consumer) in self.consumers.iter().enumerate() {
            let lag_bytes = self.lag_bytes(consumer, view);
            // Nothing proves that it cannot take what it was given so far.
            let known = consumer.drain.rate(now).unwrap_or(0.0);
            let drain = consumer.drain.proven_rate().unwrap_or(known.max(admitted));
            let mut add = |reason, pressure| {
                let allowed = drain * law::share(pressure);
                limits.push(Limit { reason, subject: consumer.name.clone(), pressure, allowed });
            };
            let (reason, bound) = self.limits.bytes(consumer.kind);
            if let Some(bound) = bound {
                add(reason, law::pressure(lag_bytes as f64, bound.target as f64, bound.ceiling as f64));
                let room = bound.ceiling.saturating_sub(lag_bytes);
                if room < least_room {
                    (least_room, decided.byte_room) = (room, Some((reason, index)));
                }
            }
            let (reason, bound) = self.limits.time(consumer.kind);
            if let Some(bound) = bound {
                let age = view.clock.lag(consumer.confirmed, view.history, now).time;
                let seconds = law::lag_seconds(age, lag_bytes, consumer.drain.proven_rate());
                add(reason, law::pressure(seconds, bound.target.as_secs_f64(), bound.ceiling.as_secs_f64()));
                // The one whose ceiling comes first.
                let since = now - age;
                let sooner =
                    |(_, _, other, ceiling): (_, _, Instant, Duration)| since + bound.ceiling < other + ceiling;
                if age > Duration::ZERO && decided.oldest.is_none_or(sooner) {
                    decided.oldest = Some((reason, index, since, bound.ceiling));
                }
            }
        }
        self.look_at_gauges(&mut limits, admitted);
        self.turn(limits, now);
        decided.allowed = match &self.mode {
            Mode::Free => f64::INFINITY,
            Mode::Limited(limit) => limit.allowed,
            Mode::Paused(_) => 0.0,
        };
        decided
    }

    fn look_at_gauges(&mut self, limits: &mut Vec<Limit>, admitted: f64) {
        let disk = self.limits.disk_free.zip(self.disk_free).map(|(bound, free)| {
            // Free space falls towards its ceiling, so both ends count from the target down.
            let used = bound.target.saturating_sub(free) as f64;
            (Reason::DiskSpace, "disk", law::pressure(used, 0.0, bound.target.saturating_sub(bound.ceiling) as f64))
        });
        let debt = self.limits.debt.map(|bound| {
            let pressure = law::pressure(self.debt as f64, bound.target as f64, bound.ceiling as f64);
            (Reason::MemtableDebt, "memtables", pressure)
        });
        let pressed: Vec<_> = disk.into_iter().chain(debt).filter(|(_, _, pressure)| *pressure > 0.0).collect();
        if pressed.is_empty() {
            self.reference = admitted;
        }
        for (reason, subject, pressure) in pressed {
            let allowed = self.reference * (1.0 - pressure).max(0.0);
            limits.push(Limit { reason, subject: subject.into(), pressure, allowed });
        }
    }

    fn turn(&mut self, limits: Vec<Limit>, now: Instant) {
        let lasted = self.paused_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.counters.pause_max = self.counters.pause_max.max(lasted);
        if let Some(since) = self.paused_since {
            let counted = self.pause_counted.max(since);
            self.counters.paused += now.saturating_duration_since(counted);
            self.pause_counted = now;
        }
        let binding = limits.iter().filter(|limit| limit.pressure > 0.0).min_by(|a, b| a.allowed.total_cmp(&b.allowed));
        // A pause ends only at the target of the limit that began it.
        if let Mode::Paused(pause) = &mut self.mode
            && let Some(still) =
                limits.iter().find(|limit| limit.reason == pause.reason && limit.subject == pause.subject)
            && still.pressure > 0.0
        {
            *pause = Limit { allowed: 0.0, ..still.clone() };
            return;
        }
        let was_paused = matches!(self.mode, Mode::Paused(_));
        self.mode = match binding {
            None => Mode::Free,
            Some(limit) if limit.pressure >= law::PAUSE => Mode::Paused(Limit { allowed: 0.0, ..limit.clone() }),
            Some(limit) => Mode::Limited(limit.clone()),
        };
        let paused = matches!(self.mode, Mode::Paused(_));
        if !was_paused && paused {
            self.counters.pauses += 1;
            self.paused_since = Some(now);
        } else if was_paused && !paused {
            self.paused_since = None;
        }
    }

    fn refill(&mut self, allowed: f64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        if allowed.is_finite() {
            let burst = allowed * BURST.as_secs_f64();
            self.tokens = (self.tokens + allowed * elapsed).min(burst.max(1.0));
        } else {
            // Free: nothing was owed, and nothing is saved up for when a limit begins to bind.
            self.tokens = 0.0;
        }
    }

    fn too_large(&self, size: u64) -> Option<Arc<str>> {
        let never = self.consumers.iter().find(|consumer| {
            let (_, bound) = self.limits.bytes(consumer.kind);
            bound.is_some_and(|bound| size + INTERNAL_RESERVE > bound.ceiling)
        });
        never.map(|consumer| consumer.name.clone())
    }

    fn lag_bytes(&self, consumer: &Consumer, view: &View<'_>) -> u64 {
        view.history.bytes_between(consumer.confirmed, view.append_end)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StandbyLagBytes => "standby lag in bytes",
            Self::StandbyLagTime => "standby lag in time",
            Self::ArchiveLagBytes => "archive lag in bytes",
            Self::ArchiveLagTime => "archive lag in time",
            Self::DiskSpace => "disk space",
            Self::MemtableDebt => "memtable debt",
            Self::CommitTooLarge => "a commit larger than the ceiling",
        })
    }
}
