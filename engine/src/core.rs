//! What all handles of an open database share: state, log, files and hooks, and the few operations that tie them
//! together. Its one lock of order, `order`, gives records their places; they are applied in that order after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use seawall_wal::sync::atomic::{AtomicBool, Ordering};
use seawall_wal::sync::{Mutex, MutexGuard, OnceLock, RwLock, now};
use seawall_wal::{Clock, Log, LogMode, Lsn, Record, RecordKind, Recovery, Ticket};

use crate::compaction::{Merger, Pace, Shapes, debt_bytes, metas, purge_dropped, raise_floor};
use crate::control::DamagedSlot;
use crate::durable::Durable;
use crate::error::{Error, Result};
use crate::file::FileHash;
use crate::flush::{RedoPlace, flush_set};
use crate::gate::{Gate, MEMORY_SLOW, Worker};
use crate::level::{Admission, Confirmations};
use crate::marks::{Moment, second_of};
use crate::mutant::{Mutant, planted};
use crate::options::{Background, LogRetention};
use crate::pending::{Applier, Pending, PendingCommit};
use crate::race;
use crate::role::Refusal;
use crate::state::State;
use crate::version::View;
use crate::worker::Bell;

/// How long a committer goes on applying what others queue meanwhile.
const SERVING_MAX: Duration = Duration::from_millis(1);
/// How long a record that only says what time it is waits for room in the log; the next tick tries again.
const TIME_RECORD_PATIENCE: Duration = Duration::from_millis(50);

/// Settings that outlive opening.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) retention: LogRetention,
    pub(crate) background: Background,
    pub(crate) memtable_bytes: u64,
    pub(crate) stall_timeout: Duration,
    pub(crate) shapes: Shapes,
    pub(crate) merge_threads: usize,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What a node plugs in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    pub(crate) confirmations: Option<Arc<dyn Confirmations>>,
    pub(crate) admission: Option<Arc<dyn Admission>>,
    /// Where writes go, for [`Error::ReadOnly`].
    pub(crate) primary: Option<String>,
    /// Why writes are refused although the log could take them, in words.
    pub(crate) refusals: BTreeMap<Refusal, Arc<str>>,
}

pub(crate) struct Core {
    pub(crate) path: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) state: State,
    pub(crate) durable: Durable,
    pub(crate) log: Log,
    pub(crate) recovery: Recovery,
    pub(crate) damaged_control: Vec<DamagedSlot>,
    /// Held while a record is appended and queued, so that records are queued in the order of their LSNs, and by whoever
    /// applies another way.
    pub(crate) order: Mutex<()>,
    pub(crate) pending: Pending,
    pub(crate) hooks: RwLock<Hooks>,
    pub(crate) gate: Gate,
    pub(crate) flush_bell: Bell,
    pub(crate) compact_bell: Bell,
    /// One flush of memtables at a time, and one merge.
    pub(crate) flushing: Mutex<()>,
    pub(crate) compacting: Mutex<()>,
    settled: Mutex<BTreeSet<FileHash>>,
    /// Of writing memtables out, and of merges: neither is to wait for the other's turn.
    flush_pace: Pace,
    merge_pace: Pace,
    pub(crate) stopping: AtomicBool,
    failed: OnceLock<Arc<str>>,
    /// Last, so that it is released when all else is done.
    pub(crate) _lock: LockGuard,
}

pub(crate) struct LockGuard(#[allow(dead_code)] pub(crate) Box<dyn Send + Sync>);

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("path", &self.path).field("log", &self.log).finish_non_exhaustive()
    }
}

/// Parts from which a core is made.
pub(crate) struct Parts {
    pub(crate) path: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) state: State,
    pub(crate) durable: Durable,
    pub(crate) log: Log,
    pub(crate) recovery: Recovery,
    pub(crate) damaged_control: Vec<DamagedSlot>,
    pub(crate) gate: Gate,
    pub(crate) lock: LockGuard,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { path, settings, state, durable, log, recovery, damaged_control, gate, lock } = parts;
        let core = Self {
            path,
            settings,
            state,
            durable,
            log,
            recovery,
            damaged_control,
            order: Mutex::new(()),
            pending: Pending::default(),
            hooks: RwLock::default(),
            gate,
            flush_bell: Bell::default(),
            compact_bell: Bell::default(),
            flushing: Mutex::new(()),
            compacting: Mutex::new(()),
            settled: Mutex::default(),
            flush_pace: Pace::new(),
            merge_pace: Pace::new(),
            stopping: AtomicBool::new(false),
            failed: OnceLock::new(),
            _lock: lock,
        };
        core.update_debt();
        core
    }

    /// Up to where readers see: `min(applied, flushed)`.
    pub(crate) fn visible(&self) -> Lsn {
        let durable = if planted(Mutant::VisibleBeforeDurable) { Lsn::MAX } else { self.log.flushed().value() };
        let applied = if race::planted(race::Mutant::UnappliedSeen) { Lsn::MAX } else { self.state.applied_lsn() };
        applied.min(durable)
    }

    /// A moment to read at now and the view to read it from.
    pub(crate) fn read_now(&self) -> Result<(Moment, Guard<Arc<View>>)> {
        loop {
            let lsn = self.visible();
            let view = self.state.view();
            if lsn >= view.floor {
                return Ok((view.marks.moment(lsn)?, view));
            }
            // Either a merge overtook us between the two lines, or the log here does not reach the tables yet.
            if self.visible() < view.floor {
                let actual = format!("the log here has reached {lsn} and must reach {} first", view.floor);
                return Err(Error::WrongState { operation: "read", actual });
            }
        }
    }

    /// Appends a commit, to be applied by [`apply_pending`](Self::apply_pending) or by another committer. `check` runs when
    /// nothing can come between it and the append.
    pub(crate) fn append_commit(
        &self,
        payload: Vec<u8>,
        deadline: Option<Instant>,
        check: impl FnOnce() -> Result<()>,
    ) -> Result<Ticket> {
        let admission = self.check_writable()?;
        self.maintain_inline()?;
        let bytes = (seawall_wal::format::RECORD_HEADER_SIZE + payload.len()).next_multiple_of(8) as u64;
        if self.settings.background == Background::Threads {
            self.gate.slow(bytes, || self.active_fill(), deadline)?;
        }
        self.gate.pass(deadline, self.settings.stall_timeout)?;
        // Last, so that what it reserves is not held while waiting for something else.
        let permit = admission.map(|admission| admission.admit(bytes, deadline)).transpose()?;
        let (ticket, full) = {
            let (_order, since) = self.lock_order(deadline)?;
            self.check_writable()?;
            check()?;
            let ticket = self.log.append_until(RecordKind::Commit, &payload, since, deadline)?;
            let commit = PendingCommit { payload, position: ticket.position(), time: ticket.time() };
            (ticket, self.pending.push(commit))
        };
        drop(permit);
        match full {
            true => self.apply_pending(),
            false => self.apply_pending_unless_busy(),
        }
        Ok(ticket)
    }

    /// The lock of order, which is held for moments unless the disk does not answer and whoever holds it waits for room; and
    /// since when it was waited for, if it was.
    fn lock_order(&self, deadline: Option<Instant>) -> Result<(MutexGuard<'_, ()>, Option<Instant>)> {
        if let Some(order) = self.order.try_lock() {
            return Ok((order, None));
        }
        let started = now();
        let deadline = deadline.unwrap_or(started + self.settings.stall_timeout);
        let order = self.order.try_lock_until(deadline).ok_or_else(|| {
            Error::from(seawall_wal::Error::Stalled { path: self.path.clone(), since: now() - started })
        })?;
        Ok((order, Some(started)))
    }

    /// Appends any other record of this node and applies it. Not admitted, since it is the node's own. `check` as above;
    /// everything before the record is applied when it runs.
    pub(crate) fn append(
        &self,
        kind: RecordKind,
        payload: &[u8],
        check: impl FnOnce() -> Result<()>,
    ) -> Result<Ticket> {
        self.maintain_inline()?;
        let _order = self.order.lock();
        self.check_writable()?;
        self.apply_pending();
        check()?;
        let ticket = self.log.append(kind, payload)?;
        if let Err(error) = self.state.apply(kind, payload, ticket.position(), ticket.time()) {
            // The record is in the log and cannot be taken back: what is in memory is no longer what the log says.
            return Err(self.fail(&error));
        }
        self.freeze_if_full();
        Ok(ticket)
    }

    /// Appends a time record if a value should have ended while nothing was written: its end is judged by the time in the log,
    /// which else stands still. On the primary only; others have its log's time.
    pub(crate) fn let_time_pass(&self) -> Result<()> {
        let now = self.settings.clock.now();
        let passed = self.state.applied().time;
        let ended = |(first, last)| first <= second_of(now) && last > second_of(passed);
        if now.micros_since(passed) < 1_000_000 || !self.state.view().expiries().any(ended) {
            return Ok(());
        }
        if self.check_writable().is_err() {
            return Ok(());
        }
        let deadline = Some(seawall_wal::sync::now() + TIME_RECORD_PATIENCE);
        let (_order, since) = self.lock_order(deadline)?;
        self.check_writable()?;
        self.apply_pending();
        let ticket = self.log.append_until(RecordKind::Time, &[], since, deadline)?;
        if let Err(error) = self.state.apply(RecordKind::Time, &[], ticket.position(), ticket.time()) {
            return Err(self.fail(&error));
        }
        self.flush_soon();
        Ok(())
    }

    /// Applies every commit queued before the call, waiting for whoever is at it.
    pub(crate) fn apply_pending(&self) {
        self.apply_with(self.pending.applier());
    }

    /// Applies what is queued unless somebody is at it, who then looks again. Not for ever: a committer has its own caller to
    /// serve, and what it leaves is applied by those who wait for it, by the next one, or by the next tick.
    fn apply_pending_unless_busy(&self) {
        // The clock is asked by those only who were served others' commits too.
        let mut until = None;
        loop {
            let Some(applier) = self.pending.try_applier() else { return };
            self.apply_with(applier);
            if self.pending.is_empty() || now() > *until.get_or_insert_with(|| now() + SERVING_MAX) {
                return;
            }
        }
    }

    fn apply_with(&self, mut applier: Applier<'_>) {
        for PendingCommit { payload, position, time } in applier.take() {
            // After a failure what is in memory is no longer what the log says, and nothing more may build on it.
            if self.failed.get().is_none()
                && let Err(error) = self.state.apply(RecordKind::Commit, &payload, position, time)
            {
                self.fail(&error);
            }
        }
        self.freeze_if_full();
    }

    /// Returns when the flushed record at `lsn` is applied.
    pub(crate) fn await_applied(&self, lsn: Lsn) -> Result<()> {
        if self.state.applied_lsn() >= lsn {
            return Ok(());
        }
        self.apply_pending();
        match self.failed.get() {
            Some(cause) => Err(Error::Indeterminate { lsn, why: format!("applying it failed ({cause})").into() }),
            None => {
                assert!(self.state.applied_lsn() >= lsn, "a flushed commit was queued, and what was queued is applied");
                Ok(())
            }
        }
    }

    /// Applies a received record. The caller holds `order`, or is the only one.
    pub(crate) fn apply_received(&self, record: &Record<'_>) -> Result<()> {
        self.state.apply_record(record).inspect_err(|error| {
            self.fail(error);
        })
    }

    /// Whether this node takes writes now; says who admits them, if anybody does.
    pub(crate) fn check_writable(&self) -> Result<Option<Arc<dyn Admission>>> {
        if let Some(cause) = self.failed.get() {
            return Err(Error::Poisoned { cause: Arc::clone(cause) });
        }
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let hooks = self.hooks.read();
        if self.log.mode() == LogMode::Receive {
            return Err(Error::ReadOnly { primary: hooks.primary.clone() });
        }
        match hooks.refusals.first_key_value() {
            Some((&reason, why)) => Err(Error::Refused { reason, why: Arc::clone(why) }),
            None => Ok(hooks.admission.clone()),
        }
    }

    /// What commits are answered now, if none is let in and there is no use in waiting.
    pub(crate) fn refusal(&self) -> Option<Error> {
        let hooks = self.hooks.read();
        let refused = hooks.refusals.first_key_value().filter(|(reason, _)| {
            self.log.mode() == LogMode::Append && !matches!(reason, Refusal::Stopping | Refusal::Unconfirmed)
        });
        let refused = refused.map(|(&reason, why)| Error::Refused { reason, why: Arc::clone(why) });
        self.poisoned().or(refused).or_else(|| self.gate.refusal())
    }

    /// Stops taking writes until reopened.
    pub(crate) fn fail(&self, error: &dyn std::fmt::Display) -> Error {
        let cause: Arc<str> = error.to_string().into();
        tracing::error!(%cause, "the database stops taking writes");
        Error::Poisoned { cause: Arc::clone(self.failed.get_or_init(|| cause)) }
    }

    /// The error after which nothing more is written, if there was one.
    pub(crate) fn poisoned(&self) -> Option<Error> {
        let failed = self.failed.get().map(|cause| Error::Poisoned { cause: Arc::clone(cause) });
        failed.or_else(|| self.log.poisoned().map(Error::from))
    }

    pub(crate) fn freeze_if_full(&self) {
        if self.state.view().active.bytes() >= self.settings.memtable_bytes {
            self.freeze();
        }
    }

    /// Freezes the memtables at the record applied last.
    pub(crate) fn freeze(&self) {
        self.state.freeze(None);
        self.update_debt();
        self.flush_bell.ring();
    }

    /// Without threads, whoever is about to write first does what the threads would have done since the last write.
    pub(crate) fn maintain_inline(&self) -> Result<()> {
        if self.settings.background == Background::Inline && !self.state.view().frozen.is_empty() {
            self.flush_frozen()?;
            self.compact()?;
        }
        Ok(())
    }

    fn update_debt(&self) {
        self.gate.update_debt(|| {
            let view = self.state.view();
            let (mut level0, mut bytes) = (0.0_f64, 0);
            for (keyspace, levels) in view.tables.keyspaces() {
                let shape = self.settings.shapes.of(&self.state, keyspace);
                level0 = level0.max(levels.level(0).len() as f64 / shape.level0_tables as f64);
                bytes += debt_bytes(&metas(levels), &shape);
            }
            (view.frozen.len(), level0, bytes)
        });
    }

    /// How full the memtables are that take commits.
    pub(crate) fn active_fill(&self) -> f64 {
        self.state.view().active.bytes() as f64 / self.settings.memtable_bytes as f64
    }

    /// Slows the writing of memtables as long as there is time, which is until writers would be slowed.
    fn pace_flush(&self, bytes: u64) {
        let ahead = self.gate.debt(|| self.active_fill()).memory - 1.0;
        self.flush_pace.charge(bytes, ahead / (MEMORY_SLOW - 1.0), || self.log.stats());
    }

    /// Writes out all frozen memtables.
    pub(crate) fn flush_frozen(&self) -> Result<()> {
        let _one = self.flushing.lock();
        while let Some(frozen) = self.state.view().frozen.first().cloned() {
            let flushed = self.flush_log_to(frozen.end.lsn)?;
            let timeline = self.log.history().of_position(frozen.end.lsn).id;
            let log_start = match frozen.log_start {
                Some(log_start) => log_start,
                None => self.log.replay_start(frozen.end)?,
            };
            let place = RedoPlace { timeline, log_start, flushed };
            let pace: &dyn Fn(u64) = match self.paced() {
                true => &|bytes| self.pace_flush(bytes),
                false => &|_| (),
            };
            let floor = raise_floor(&self.state, self.visible().min(frozen.end.lsn));
            flush_set(&self.state, &self.durable, &self.settings.shapes, &frozen, place, floor, pace)?;
            // Before there is room: else who fills it again at once is told what failed before.
            self.gate.set_outcome(Worker::Flusher, Ok(()));
            self.update_debt();
            self.compact_bell.ring();
            if self.settings.retention == LogRetention::Engine {
                self.log.recycle_before(self.durable.log_start().lsn);
            }
        }
        self.state.store.collect();
        Ok(())
    }

    /// Makes the log durable at least up to `lsn`.
    pub(crate) fn flush_log_to(&self, lsn: Lsn) -> Result<Lsn> {
        let flushed = self.log.flushed().value();
        if flushed >= lsn {
            return Ok(flushed);
        }
        match self.log.mode() {
            LogMode::Append => self.log.flush()?,
            LogMode::Receive => self.log.flush_received()?,
        };
        Ok(self.log.flushed().value())
    }

    /// Writes everything applied so far into tables.
    pub(crate) fn flush_all(&self) -> Result<()> {
        {
            let _order = self.order.lock();
            self.apply_pending();
            if self.state.applied().position.lsn > self.durable.redo().lsn {
                self.freeze();
            }
        }
        self.flush_frozen()
    }

    /// Merges tables until no level is too full, and forgets dropped keyspaces.
    pub(crate) fn compact(&self) -> Result<()> {
        let _one = self.compacting.lock();
        let merged = self.merge_while_needed();
        // Also what a merge that failed let go of: it may have been the disk that was full.
        self.state.store.collect();
        merged
    }

    fn merge_while_needed(&self) -> Result<()> {
        purge_dropped(&self.state, &self.durable, self.visible())?;
        let pace = |bytes| self.merge_pace.charge(bytes, self.gate.urgency(), || self.log.stats());
        let pace: &(dyn Fn(u64) + Sync) = if self.paced() { &pace } else { &|_| () };
        while self.merger(pace, self.parts()).merge_once(self.visible())? {
            self.update_debt();
            self.state.store.collect();
        }
        Ok(())
    }

    /// Merges all tables of each keyspace into one level.
    pub(crate) fn compact_all(&self) -> Result<()> {
        let _one = self.compacting.lock();
        purge_dropped(&self.state, &self.durable, self.visible())?;
        // Whoever asked waits for it.
        let merged = self.merger(&|_| (), self.parts_max()).merge_all(self.visible());
        self.update_debt();
        self.state.store.collect();
        merged
    }

    fn merger<'a>(&'a self, pace: &'a (dyn Fn(u64) + Sync), parts: usize) -> Merger<'a> {
        let Self { state, durable, settings, stopping, settled, .. } = self;
        Merger { state, durable, shapes: &settings.shapes, parts, pace, stop: stopping, settled }
    }

    /// Parts that a merge may have which nobody waits for: half of them, unless writers are slowed already. The others'
    /// processors are not all taken at once then.
    fn parts(&self) -> usize {
        let calm = self.gate.urgency() < 1.0;
        let all = self.parts_max();
        if calm { all.div_ceil(2) } else { all }
    }

    fn parts_max(&self) -> usize {
        match self.settings.background {
            Background::Threads => self.settings.merge_threads,
            Background::Inline => 1,
        }
    }

    /// Whether background writes take their time: not when somebody waits for them.
    fn paced(&self) -> bool {
        self.settings.background == Background::Threads && !self.stopping.load(Ordering::Relaxed)
    }

    /// Has what was appended flushed soon, if there is a thread to do it.
    pub(crate) fn flush_soon(&self) {
        if self.settings.background == Background::Threads && self.log.mode() == LogMode::Append {
            self.log.request_flush();
        }
    }

    /// Writes down how far the log is flushed, if that moved.
    pub(crate) fn note_watermark(&self) {
        if !planted(Mutant::WatermarkNotNoted)
            && let Err(error) = self.durable.control.raise_watermark(self.log.flushed().value())
        {
            tracing::warn!(%error, "the watermark could not be written; it is tried again");
        }
    }

    /// What is written into a folder that was removed is durable nowhere, although each sync succeeds: nothing more is.
    pub(crate) fn look_for_folder(&self) {
        if self.failed.get().is_none() && self.durable.control.is_gone(&**self.durable.storage()) {
            self.fail(&Error::Gone { path: self.path.clone() });
        }
    }

    /// Flushes the log and says in the control file that nothing is missing.
    pub(crate) fn note_clean_shutdown(&self) -> Result<()> {
        let end = self.log.end().lsn;
        let flushed = self.flush_log_to(end)?;
        self.durable.control.update(|control| {
            control.watermark = control.watermark.max(flushed);
            control.clean_shutdown = true;
        })
    }
}
