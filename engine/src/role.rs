//! What a node does with its database beside writing: receiving another node's log, following its history, being
//! promoted, and refusing writes. Every change of role is in the control file before anything relies on it.

use seawall_wal::format::SEGMENT_HEADER_SIZE;
use seawall_wal::{LogBytes, LogMode, Lsn, Position, Record, RecordKind, TimelineHistory};

use crate::commit::Commit;
use crate::control::{Control, Role};
use crate::db::Db;
use crate::error::{Error, Result};
use crate::payload::Promotion;

/// Why a node refuses writes that its log could take; the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Another node took over.
    Superseded,
    /// It found damage that it cannot repair.
    Damaged,
    /// Something else that it needs has failed for good, such as its archive.
    Failed,
    /// It is on its way down.
    Stopping,
    /// It is not known yet whether another node took over.
    Unconfirmed,
}

impl Db {
    /// What the node may do.
    pub fn role(&self) -> Role {
        self.core().durable.control.with(|control| control.role.clone())
    }

    /// What the control file says now.
    pub fn control(&self) -> Control {
        self.core().durable.control.get()
    }

    /// The timelines this data went through.
    pub fn history(&self) -> TimelineHistory {
        self.core().log.history()
    }

    /// Whether commits are taken: the node appends, and its writes are not held.
    pub fn takes_writes(&self) -> bool {
        self.core().check_writable().is_ok()
    }

    /// Names the primary in [`Error::ReadOnly`], for those who write to the wrong node.
    pub fn set_primary(&self, primary: Option<String>) {
        self.core().hooks.write().primary = primary;
    }

    /// Refuses writes without a change of role, and tells those who write why, as [`Error::Refused`].
    /// [`take_writes`](Self::take_writes) undoes this reason and no other. When this returns, no commit is between being let
    /// in and being in the log.
    pub fn refuse_writes(&self, reason: Refusal, why: &str) {
        let _order = self.core().order.lock();
        self.core().hooks.write().refusals.insert(reason, why.into());
    }

    /// Takes writes again, as far as that reason is concerned.
    pub fn take_writes(&self, reason: Refusal) {
        let _order = self.core().order.lock();
        self.core().hooks.write().refusals.remove(&reason);
    }

    /// Receives log of the node that is followed: checks it, writes it at the same place, applies it. Waits while memory
    /// is full. [`flush_received`](Self::flush_received) makes it durable and visible; another thread may call it meanwhile.
    ///
    /// # Errors
    /// Bytes that do not continue this log are an error and change nothing.
    pub fn receive(&self, log: &LogBytes) -> Result<Position> {
        self.receive_with(log, true)
    }

    /// As [`receive`](Self::receive), but leaves applying to [`apply_received`](Self::apply_received): a delayed standby.
    pub fn receive_unapplied(&self, log: &LogBytes) -> Result<Position> {
        self.receive_with(log, false)
    }

    fn receive_with(&self, log: &LogBytes, apply: bool) -> Result<Position> {
        let core = self.core();
        self.check_receiving("receive log")?;
        // The log is locked while it hands its records over, so waiting is done before, never there.
        self.wait_for_memory()?;
        let _order = core.order.lock();
        let behind = core.state.applied_lsn() < core.log.end().lsn;
        if apply && behind {
            let actual = format!("log up to {} was received but not applied", core.log.end().lsn);
            return Err(Error::WrongState { operation: "receive and apply log", actual });
        }
        core.log.receive(log, |record| {
            if apply {
                core.apply_received(record)?;
                // Between records, so that a large piece of log does not fill one set of memtables beyond its size.
                core.freeze_if_full();
            }
            Ok(())
        })
    }

    /// Makes everything received so far durable.
    pub fn flush_received(&self) -> Result<Lsn> {
        Ok(self.core().log.flush_received()?)
    }

    /// Applies log that was received and flushed, at most up to `to`. Says how far everything is applied now.
    pub fn apply_received(&self, to: Lsn) -> Result<Lsn> {
        let core = self.core();
        self.check_receiving("apply received log")?;
        let mut reader = core.log.reader(core.state.applied().position);
        loop {
            self.wait_for_memory()?;
            let order = core.order.lock();
            match reader.next_record()? {
                Some(record) if record.lsn <= to => core.apply_received(&record)?,
                _ => return Ok(core.state.applied_lsn()),
            }
            core.freeze_if_full();
            drop(order);
        }
    }

    /// Applies one record that is in this node's log already. One that was applied before is skipped.
    ///
    /// # Errors
    /// [`Error::WrongState`] if a record before it was not applied.
    pub fn apply_record(&self, record: &Record<'_>) -> Result<()> {
        let core = self.core();
        self.check_receiving("apply a record")?;
        self.wait_for_memory()?;
        let _order = core.order.lock();
        let applied = core.state.applied_lsn();
        if record.lsn > applied && !self.follows(record, applied) {
            let actual = format!("it starts at {}, and {applied} is applied", record.header.start);
            return Err(Error::WrongState { operation: "apply a record", actual });
        }
        core.apply_received(record)?;
        core.freeze_if_full();
        Ok(())
    }

    /// Whether nothing lies between `applied` and the record but the header of a segment or a void.
    fn follows(&self, record: &Record<'_>, applied: Lsn) -> bool {
        let log = &self.core().log;
        let next = log.history().next_byte(applied);
        let size = log.options().segment_size;
        let begins = size.offset_in_segment(next) == 0;
        let first = if begins { next.advance(SEGMENT_HEADER_SIZE as u64) } else { next };
        record.header.start == first
    }

    /// Takes over the history of the node that is followed, which continues ours.
    pub fn follow_history(&self, history: &TimelineHistory) -> Result<()> {
        let core = self.core();
        let _order = core.order.lock();
        core.log.follow_history(history)?;
        core.durable.control.update(|control| control.history = history.clone())
    }

    /// Stops writing and receives another node's log from now on: what an old primary does that found a newer timeline
    /// and whose log ends at or before its fork, or a restored copy that is to follow a primary.
    pub fn become_standby(&self) -> Result<()> {
        let core = self.core();
        let _order = core.order.lock();
        core.apply_pending();
        core.durable.control.update(|control| control.role = Role::Standby)?;
        Ok(core.log.set_mode(LogMode::Receive)?)
    }

    /// Begins the timeline that `history` ends with, which forks from this log's end; from now on this node writes. The
    /// control file says so first. Returns when the timeline's first record is durable.
    ///
    /// # Errors
    /// [`Error::WrongState`] if the node writes already, has not applied all it received, or the fork is not its log's end.
    pub fn promote(&self, history: &TimelineHistory) -> Result<Commit> {
        let core = self.core();
        let entry = *history.current();
        let wrong = |actual: String| Error::WrongState { operation: "promote", actual };
        let ticket = {
            let _order = core.order.lock();
            self.check_receiving("promote")?;
            core.log.flush_received()?;
            let end = core.log.end();
            if core.state.applied_lsn() != end.lsn {
                return Err(wrong(format!("{} of the log up to {} is applied", core.state.applied_lsn(), end.lsn)));
            }
            if entry.fork != end {
                return Err(wrong(format!("the timeline forks at {}, and the log ends at {end}", entry.fork)));
            }
            let parent = core.log.history().current().id;
            if parent >= entry.id || core.log.history().common_end(history).is_none_or(|common| common < end.lsn) {
                return Err(wrong(format!("timeline {} does not continue timeline {parent}", entry.id)));
            }
            core.durable.control.update(|control| {
                control.history = history.clone();
                control.role = Role::Normal;
                control.watermark = control.watermark.max(end.lsn);
            })?;
            core.log.begin_timeline(history)?;
            let node = self.node();
            let promotion = Promotion { timeline: entry.id, nonce: entry.nonce, parent, fork: end, node };
            let payload = promotion.encode();
            let ticket = core.log.append(RecordKind::Promotion, &payload)?;
            core.state.apply(RecordKind::Promotion, &payload, ticket.position(), ticket.time())?;
            ticket
        };
        ticket.wait()?;
        tracing::info!(timeline = %entry.id, fork = %entry.fork.lsn, "promoted");
        Ok(Commit { lsn: ticket.lsn(), time: ticket.time() })
    }

    fn check_receiving(&self, operation: &'static str) -> Result<()> {
        match self.core().log.mode() {
            LogMode::Receive => Ok(()),
            LogMode::Append => Err(Error::WrongState { operation, actual: String::from("this node writes") }),
        }
    }

    /// Memory is bounded on a standby as on a primary.
    fn wait_for_memory(&self) -> Result<()> {
        let core = self.core();
        core.maintain_inline()?;
        core.gate.pass(None, core.settings.stall_timeout)
    }
}
