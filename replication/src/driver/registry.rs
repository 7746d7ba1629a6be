//! The table of a node's standbys: who is there, how far each one is, who counts. It turns what they report into the facts
//! that the throttle, commit levels and retention decide on. One lock covers the table; nothing waits while holding it.

mod report;
mod standby;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use seawall_wal::retention::{Holder, Reason as HoldReason};
use seawall_wal::{Clock, LogConsumer, Lsn, LsnWatch, NodeId, TimelineHistory};
use tokio::sync::watch;

use super::slots::SlotFile;
use crate::error::{Error, Result};
use crate::lag::{Lag, LagClock, SAMPLES_DEFAULT};
use crate::message::{Positions, Refusal, StandbyName, Status};
use crate::quorum::{QuorumPolicy, QuorumRule, Stage, TooFewNamed, Voter};
use crate::slot::{Fed, Hold, SLOTS_MAX, SlotCaps, Slots};
use crate::throttle::{ConsumerKind, Limits, Throttle, View};
use seawall_wal::LogOwner;
use standby::Standby;

pub use report::{StageLag, StandbyReport, ThrottleReport};
pub use standby::StandbyState;

/// How standbys are counted.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Standbys that always count, present or not. They are never left behind.
    pub required: Vec<StandbyName>,
    /// Whose confirmations remote commit levels count; every standby's if not set.
    pub policy: Option<QuorumPolicy>,
    /// What bounds ingestion.
    pub limits: Limits,
    /// Whether the archive counts, from the moment the registry is made.
    pub archive: bool,
    /// A standby that is not required counts no more after missing, or standing still, for so long.
    pub leave_after: Duration,
    /// One that is not required counts once it lags by no more than this.
    pub caught_up_bytes: u64,
    /// How long slots hold log that is not archived.
    pub slot_caps: SlotCaps,
    /// A commit that gives no deadline waits this long for admission; for ever if not set.
    pub admission_timeout: Option<Duration>,
    /// Whether slots learn who joins. A primary that does not know yet whether it was replaced feeds any node, and
    /// remembers those that it fed before: see [`Registry::learn`].
    pub learning: bool,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            required: Vec::new(),
            policy: None,
            limits: Limits::default(),
            archive: false,
            leave_after: Duration::from_secs(10),
            caught_up_bytes: 16 << 20,
            slot_caps: SlotCaps::default(),
            admission_timeout: None,
            learning: true,
        }
    }
}

/// One connection of one standby; a newer one of the same node takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u64);

/// The standbys of a node.
pub struct Registry {
    pub(super) owner: Arc<dyn LogOwner>,
    pub(super) config: RegistryConfig,
    wall: Arc<dyn Clock>,
    file: Option<SlotFile>,
    /// Held while the file is written, so that what is older never replaces what is newer. Taken before `inner`.
    saving: Mutex<()>,
    pub(super) inner: Mutex<Inner>,
    /// How far the archive is.
    pub(super) archived: LsnWatch,
    /// The newest history anybody who knows better told us.
    superseded: watch::Sender<Option<TimelineHistory>>,
    /// How far the policy's standbys are, for each stage and count somebody asked about.
    pub(super) confirmed: Mutex<HashMap<(Stage, u32), Arc<LsnWatch>>>,
}

/// Everything under the lock.
pub(super) struct Inner {
    pub(super) throttle: Throttle,
    pub(super) clock: LagClock,
    pub(super) history: TimelineHistory,
    standbys: BTreeMap<StandbyName, Standby>,
    slots: Slots,
    slots_moved: bool,
    /// Whether slots learn who joins.
    learning: bool,
    connections: u64,
    pub(super) closed: bool,
    /// Commits that wait for admission, first come first served.
    pub(super) queue: VecDeque<Arc<Condvar>>,
}

impl Inner {
    /// What the throttle looks at. The append end is read under the lock, after whatever was reserved before.
    pub(super) fn look(&mut self, owner: &dyn LogOwner) -> (&mut Throttle, View<'_>) {
        let log = owner.log();
        self.clock.flushed(log.flushed().value(), Instant::now());
        let view = View { clock: &self.clock, history: &self.history, append_end: log.end().lsn };
        (&mut self.throttle, view)
    }

    pub(super) fn wake_first(&self) {
        if let Some(first) = self.queue.front() {
            first.notify_one();
        }
    }
}

impl Registry {
    /// The registry of the node that owns this log. With a file, slots outlive the process.
    pub fn open(
        config: RegistryConfig,
        owner: Arc<dyn LogOwner>,
        wall: Arc<dyn Clock>,
        file: Option<SlotFile>,
    ) -> Result<Arc<Self>> {
        let now = Instant::now();
        let flush = owner.log().flushed().value();
        let mut slots = file.as_ref().map(SlotFile::load).transpose()?.unwrap_or_default();
        let mut throttle = Throttle::new(config.limits, now);
        let mut standbys = BTreeMap::new();
        for name in &config.required {
            if !slots.ensure(name, flush, flush, wall.now()) {
                return Err(Error::TooManySlots { name: name.to_string(), max: SLOTS_MAX });
            }
        }
        for slot in slots.iter() {
            let required = config.required.contains(&slot.name);
            standbys.insert(slot.name.clone(), Standby::missing(required, slot.restart, now));
            if required {
                throttle.count(ConsumerKind::Standby, slot.name.as_str(), slot.restart);
            }
        }
        if config.archive {
            // Until the archiver speaks, all that is sure is that what was recycled here is archived.
            throttle.count(ConsumerKind::Archive, ARCHIVE, owner.log().oldest());
        }
        let history = owner.log().history();
        let inner = Inner {
            throttle,
            clock: LagClock::new(flush, now, SAMPLES_DEFAULT),
            history,
            standbys,
            slots,
            slots_moved: true,
            learning: config.learning,
            connections: 0,
            closed: false,
            queue: VecDeque::new(),
        };
        let (inner, archived) = (Mutex::new(inner), LsnWatch::new(Lsn::ZERO));
        let (superseded, confirmed) = (watch::Sender::new(None), Mutex::default());
        let saving = Mutex::default();
        Ok(Arc::new(Self { owner, config, wall, file, saving, inner, archived, superseded, confirmed }))
    }

    /// A standby introduced itself and may be fed; its log ends at `position`. A connection of the same node that is
    /// still open is replaced by this one. A slot that is new, begins earlier than before, or had fed another, is made
    /// durable: from now on the standby counts on it, whatever becomes of this process. Blocks.
    pub fn join(
        &self,
        name: &StandbyName,
        node: NodeId,
        address: &str,
        position: Lsn,
    ) -> Result<ConnectionId, Refusal> {
        let (now, wall) = (Instant::now(), self.wall.now());
        let flush = self.owner.log().flushed().value();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if let Some(standby) = inner.standbys.get(name)
            && standby.is_connected()
            && standby.node != Some(node)
        {
            return Err(Refusal::NameTaken);
        }
        let slot = inner.slots.get(name);
        let (restart, before) = slot.map_or((Lsn::MAX, Fed::Nobody), |slot| (slot.restart, slot.fed));
        let fed = match (inner.learning, before) {
            (true, _) => Fed::Node { node, confirmed: position },
            (false, Fed::Nobody) => Fed::Somebody,
            // It is given back what it lost, and at the next start nobody could tell it from one that lost nothing.
            (false, _) if before.is(node, Lsn::MAX) && !before.is(node, position) => Fed::Somebody,
            (false, _) => before,
        };
        let promised = restart <= position && (fed == before || inner.learning && before.is(node, Lsn::MAX));
        if !inner.slots.ensure(name, position, flush, wall) {
            return Err(Refusal::NoRoom);
        }
        inner.slots.rejoin(name, position, wall);
        inner.slots.set_fed(name, fed);
        inner.slots_moved = true;
        inner.connections += 1;
        let id = ConnectionId(inner.connections);
        let required = self.config.required.contains(name);
        let standby = inner.standbys.entry(name.clone()).or_insert_with(|| Standby::missing(required, position, now));
        if position < standby.positions.flush {
            // It lost what it had confirmed: commits that counted on it may be on fewer disks than promised.
            tracing::error!(
                standby = %name, confirmed = %standby.positions.flush, %position,
                "a standby came back with less than it had confirmed; its disk lied, or it was rebuilt"
            );
            standby.regressions += 1;
        }
        standby.joined(id, node, address, position, now);
        standby.returned = before.is(node, position);
        // One that is not required and comes back far behind holds nobody up while it catches up.
        standby.counted &=
            standby.required || inner.history.bytes_between(position, flush) <= self.config.caught_up_bytes;
        if standby.counted {
            inner.throttle.count(ConsumerKind::Standby, name.as_str(), position);
        } else {
            inner.throttle.discount(ConsumerKind::Standby, name.as_str());
        }
        inner.wake_first();
        drop(guard);
        if !promised && let Err(error) = self.save_slots() {
            // It is tried again every second, and the standby can be fed meanwhile.
            tracing::warn!(%error, standby = %name, "the slot of a standby could not be saved yet");
        }
        tracing::info!(standby = %name, address, %position, "a standby joined");
        Ok(id)
    }

    /// A standby reported.
    pub fn progress(&self, name: &StandbyName, id: ConnectionId, status: &Status) {
        let (now, wall) = (Instant::now(), self.wall.now());
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Some(standby) = inner.standbys.get_mut(name).filter(|standby| standby.connection == Some(id)) else {
            return;
        };
        let moved = standby.reported(status, now);
        if status.corruption && !moved.corruption_known {
            tracing::error!(standby = %name, "a standby reports damage in its own data");
        }
        let (positions, required, standby_node) = (standby.positions, standby.required, standby.node);
        let lag = inner.clock.lag(positions.flush, &inner.history, now);
        if !standby.counted && self.is_caught_up(lag, inner.throttle.limits()) {
            standby.counted = true;
            inner.throttle.count(ConsumerKind::Standby, name.as_str(), positions.flush);
            tracing::info!(standby = %name, required, "a standby caught up and counts from now on");
        }
        if moved.flush {
            inner.slots.advance(name, positions.flush, wall);
            if let (true, Some(node)) = (inner.learning, standby_node) {
                inner.slots.set_fed(name, Fed::Node { node, confirmed: positions.flush });
            }
            inner.slots_moved = true;
            let (throttle, view) = inner.look(&*self.owner);
            throttle.progress(ConsumerKind::Standby, name.as_str(), positions.flush, &view, now);
        }
        inner.wake_first();
        if moved.any {
            self.confirm(guard);
        }
    }

    /// A standby came and could not be fed: the log after `position`, where its own ends, is no longer here. What it had confirmed
    /// beyond, it does not have any more. One that was never fed here is not in the table, and does not come in for that.
    pub fn lost_place(&self, name: &StandbyName, position: Lsn) {
        let mut inner = self.inner.lock();
        let Some(standby) = inner.standbys.get_mut(name).filter(|standby| !standby.is_connected()) else { return };
        standby.fall_back(position);
        tracing::warn!(standby = %name, %position, "a standby needs log that is no longer here: it has to be fed by the archive, or be rebuilt");
    }

    /// A connection ended.
    pub fn left(&self, name: &StandbyName, id: ConnectionId, why: &str) {
        let mut inner = self.inner.lock();
        if let Some(standby) = inner.standbys.get_mut(name).filter(|standby| standby.connection == Some(id)) {
            standby.left(why, Instant::now());
            tracing::warn!(standby = %name, required = standby.required, why, "a standby left");
        }
        self.confirm(inner);
    }

    /// Whether this is still the standby's connection.
    pub fn is_current(&self, name: &StandbyName, id: ConnectionId) -> bool {
        self.inner.lock().standbys.get(name).is_some_and(|standby| standby.connection == Some(id))
    }

    /// The log was flushed further, perhaps on a new history.
    pub fn flushed(&self, lsn: Lsn, history: &TimelineHistory) {
        let mut inner = self.inner.lock();
        inner.clock.flushed(lsn, Instant::now());
        if inner.history != *history {
            inner.history = history.clone();
        }
    }

    /// The archive reaches up to here.
    pub fn archived(&self, lsn: Lsn) {
        self.archived.advance(lsn);
        let mut inner = self.inner.lock();
        let (throttle, view) = inner.look(&*self.owner);
        throttle.progress(ConsumerKind::Archive, ARCHIVE, lsn, &view, Instant::now());
        inner.wake_first();
    }

    /// Whether there is an archive: it counts, or it has said something.
    pub(super) fn has_archive(&self) -> bool {
        self.config.archive || self.archived.value() > Lsn::ZERO
    }

    /// The archive will not get further: waits for it end with this error.
    pub fn archive_ended(&self, error: seawall_wal::Error) {
        self.archived.stop(error);
    }

    /// The node stops: whoever waits for a confirmation or for admission is told.
    pub fn close(&self) {
        self.archived.stop(seawall_wal::Error::Closed);
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.queue.iter().for_each(|waiting| {
            waiting.notify_one();
        });
        drop(inner);
        self.confirmed.lock().values().for_each(|watch| watch.stop(seawall_wal::Error::Closed));
    }

    /// A standby showed that it follows a newer timeline than this node's.
    pub fn superseded(&self, history: &TimelineHistory) {
        self.superseded.send_replace(Some(history.clone()));
    }

    /// Tells when a newer timeline than this node's has been seen: the node must stop taking writes.
    pub fn watch_superseded(&self) -> watch::Receiver<Option<TimelineHistory>> {
        self.superseded.subscribe()
    }

    /// What the node measured: free bytes on the log's disk, and bytes waiting to be written into tables.
    pub fn measured(&self, disk_free: Option<u64>, debt_bytes: u64) {
        let mut inner = self.inner.lock();
        inner.throttle.measured(disk_free, debt_bytes);
        inner.wake_first();
    }

    /// Changes the limits while running.
    pub fn set_limits(&self, limits: Limits) {
        let mut inner = self.inner.lock();
        inner.throttle.set_limits(limits);
        inner.wake_first();
    }

    /// Once a second: lets go of those who have been away for too long, and keeps the slots. Blocks for the slot file.
    pub fn tick(&self) -> Result<()> {
        let now = Instant::now();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.clock.flushed(self.owner.log().flushed().value(), now);
        let flush = inner.clock.flush();
        let mut oldest = flush;
        for (name, standby) in &mut inner.standbys {
            standby.window.observe(inner.clock.lag(standby.positions.replay, &inner.history, now));
            oldest = oldest.min(standby.positions.replay);
            let lag_bytes = inner.history.bytes_between(standby.positions.flush, flush);
            if standby.should_leave(lag_bytes, self.config.leave_after, now) {
                standby.counted = false;
                inner.throttle.discount(ConsumerKind::Standby, name.as_str());
                let state = standby.state(lag_bytes, true, self.config.leave_after, now);
                tracing::warn!(standby = %name, %state, "a standby that is not required counts no more; commits no longer wait for it");
            }
        }
        inner.clock.forget_before(oldest);
        inner.wake_first();
        drop(guard);
        self.save_slots()
    }

    /// From now on slots learn who joins, and who is connected now. When it succeeds that is durable. Blocks.
    pub fn learn(&self) -> Result<()> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.learning = true;
        for (name, standby) in inner.standbys.iter().filter(|(_, standby)| standby.is_connected()) {
            if let Some(node) = standby.node {
                inner.slots.set_fed(name, Fed::Node { node, confirmed: standby.positions.flush });
                inner.slots_moved = true;
            }
        }
        drop(guard);
        self.save_slots()
    }

    /// The names under which somebody was fed, or may have been.
    pub fn fed(&self) -> Vec<StandbyName> {
        let inner = self.inner.lock();
        inner.slots.iter().filter(|slot| slot.fed != Fed::Nobody).map(|slot| slot.name.clone()).collect()
    }

    /// The standbys that are connected and joined as the node that was fed under their name, with all that it had confirmed.
    pub fn returned(&self) -> Vec<StandbyName> {
        let inner = self.inner.lock();
        let returned = inner.standbys.iter().filter(|(_, standby)| standby.is_connected() && standby.returned);
        returned.map(|(name, _)| name.clone()).collect()
    }

    /// Makes slots durable that moved since they were.
    pub(super) fn save_slots(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let _turn = self.saving.lock();
        let moved = {
            let mut inner = self.inner.lock();
            std::mem::take(&mut inner.slots_moved).then(|| inner.slots.clone())
        };
        moved.map_or(Ok(()), |slots| file.save(&slots)).inspect_err(|_| self.inner.lock().slots_moved = true)
    }

    /// Forgets a standby and its slot. False if there is none of this name, or if it is connected or required.
    pub fn drop_slot(&self, name: &StandbyName) -> bool {
        let mut inner = self.inner.lock();
        let idle = inner.standbys.get(name).is_some_and(|standby| !standby.is_connected() && !standby.required);
        if idle {
            inner.standbys.remove(name);
            inner.throttle.discount(ConsumerKind::Standby, name.as_str());
            inner.slots_moved |= inner.slots.drop_slot(name);
        }
        idle
    }

    /// Who still needs local log, for retention. `archived` is how far the archive has it, if there is one.
    pub fn holders(&self, archived: Option<Lsn>) -> Vec<Holder> {
        let flush = self.owner.log().flushed().value();
        let (wall, inner) = (self.wall.now(), self.inner.lock());
        let holds =
            inner.slots.iter().filter_map(|slot| match slot.hold(flush, archived, wall, &self.config.slot_caps) {
                Hold::From(from) => Some(Holder { reason: HoldReason::Slot(slot.name.to_string()), from }),
                Hold::Archived | Hold::Lapsed(_) => None,
            });
        holds.collect()
    }

    /// The standby of this name as a consumer of the log.
    pub fn consumer(self: &Arc<Self>, name: &StandbyName) -> StandbyConsumer {
        StandbyConsumer { registry: self.clone(), name: name.clone() }
    }

    /// Whether a standby that lags so much may count without holding anybody back at once.
    pub(super) fn is_caught_up(&self, lag: Lag, limits: &Limits) -> bool {
        let bytes = limits.standby_bytes.map_or(u64::MAX, |bound| bound.target);
        let time = limits.standby_time.map_or(Duration::MAX, |bound| bound.target);
        lag.bytes <= self.config.caught_up_bytes.min(bytes) && lag.time <= time
    }

    /// Raises what is confirmed for each stage and count somebody asked about.
    fn confirm(&self, inner: MutexGuard<'_, Inner>) {
        let watches: Vec<_> = self.confirmed.lock().iter().map(|(key, watch)| (*key, watch.clone())).collect();
        let confirmed = watches.into_iter().filter_map(|((stage, count), watch)| {
            let lsn = self.count(&inner, stage, count).ok().flatten()?;
            Some((watch, lsn))
        });
        let confirmed: Vec<_> = confirmed.collect();
        drop(inner);
        confirmed.into_iter().for_each(|(watch, lsn)| watch.advance(lsn));
    }

    /// What is confirmed at a stage by so many standbys, and changes of it from now on.
    pub(super) fn watch(&self, stage: Stage, count: u32) -> Result<Arc<LsnWatch>, TooFewNamed> {
        // Registered before counting: whoever confirms meanwhile finds the watch.
        let watch = self.confirmed.lock().entry((stage, count)).or_default().clone();
        let confirmed = self.count(&self.inner.lock(), stage, count)?;
        if let Some(lsn) = confirmed {
            watch.advance(lsn);
        }
        Ok(watch)
    }

    fn count(&self, inner: &Inner, stage: Stage, count: u32) -> Result<Option<Lsn>, TooFewNamed> {
        let voters: Vec<_> = inner
            .standbys
            .iter()
            .map(|(name, standby)| Voter { name, positions: standby.positions, connected: standby.is_connected() })
            .collect();
        match &self.config.policy {
            Some(policy) => policy.confirmed(stage, count, &voters),
            None => {
                // Without a policy any standby will do; one that is still to come may be the one that is missing.
                let names = voters.iter().map(|voter| voter.name.clone()).collect();
                let Ok(policy) = QuorumPolicy::new(QuorumRule::Any, count, names) else {
                    return Ok(None);
                };
                policy.confirmed(stage, count, &voters)
            }
        }
    }
}

/// What the archive is called.
pub(super) const ARCHIVE: &str = "archive";

/// A standby as retention sees it.
pub struct StandbyConsumer {
    registry: Arc<Registry>,
    name: StandbyName,
}

impl LogConsumer for StandbyConsumer {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn restart_lsn(&self) -> Option<Lsn> {
        let inner = self.registry.inner.lock();
        inner.slots.get(&self.name).map(|slot| slot.restart)
    }

    fn confirmed_lsn(&self) -> Lsn {
        let inner = self.registry.inner.lock();
        inner.standbys.get(&self.name).map_or(Positions::default(), |standby| standby.positions).flush
    }
}

impl fmt::Debug for StandbyConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StandbyConsumer({})", self.name)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("config", &self.config).finish_non_exhaustive()
    }
}
