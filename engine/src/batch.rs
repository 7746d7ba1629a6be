//! A batch: operations over any keyspaces that take effect together or not at all.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_wal::format::payload_len_max;

use crate::catalogue::KeyspaceState;
use crate::commit::{Commit, CommitTicket};
use crate::db::Db;
use crate::error::{Error, Result};
use crate::format::KEY_LEN_MAX;
use crate::keyspace::Keyspace;
use crate::level::{CommitLevel, Confirmations};
use crate::operator::MergeOperator;
use crate::payload::{Action, COMMIT_HEADER_LEN, CommitBuilder, Operation, RANGE_DELETES_MAX};
use crate::range::{Bounds, bounds};
use crate::range_deletes::limits;

/// Kind, keyspace, lengths of key and value.
const PUT_OVERHEAD: usize = 1 + 4 + 2 + 4;

/// Operations to be committed as one. The last operation on a key wins. What is wrong with an operation is said by
/// `commit`, which then writes nothing.
///
/// A key has 1 to [`KEY_LEN_MAX`](crate::format::KEY_LEN_MAX) bytes, 65,535; a value may be empty. Keys and values of a batch have at
/// most `min(16 MiB, S/4)` bytes together, with segments of S bytes, less 56 and 11 for each put: 16 MiB with segments of the usual
/// size. That bounds a value, too. What is larger is [`Error::TooLarge`].
#[derive(Debug)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    db: Db,
    payload: CommitBuilder,
    len_max: usize,
    keyspaces: Vec<Arc<KeyspaceState>>,
    deadline: Option<Instant>,
    wrong: Option<Error>,
}

impl Batch {
    pub(crate) fn new(db: Db) -> Self {
        let len_max = payload_len_max(db.log().options().segment_size);
        Self { db, payload: CommitBuilder::default(), len_max, keyspaces: Vec::new(), deadline: None, wrong: None }
    }

    /// Puts a value under a key.
    pub fn put(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(keyspace, key.as_ref(), Action::Put(value.as_ref()));
        self
    }

    /// Puts a value that ends `ttl` after the time of the commit. Time is that of the log, in whole seconds: the value is gone
    /// for everybody who sees a record of a later second than that in which it ends, on every node alike. A primary that
    /// writes nothing else writes a record for it within about two seconds. In microseconds; what is more than 2^64 of them
    /// never ends.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// let sessions = db.keyspace("sessions")?;
    /// let mut batch = db.batch();
    /// batch.put_with_ttl(&sessions, "8f3a", "ann", std::time::Duration::from_secs(1800));
    /// batch.commit()?;
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    pub fn put_with_ttl(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> &mut Self {
        let ttl_micros = ttl_micros(ttl);
        self.push(keyspace, key.as_ref(), Action::PutFor { ttl_micros, value: value.as_ref() });
        self
    }

    /// Removes a key.
    pub fn remove(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(keyspace, key.as_ref(), Action::Delete);
        self
    }

    /// Removes all keys of a range, however many there are, as one operation. A range without a key is no error.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// let events = db.keyspace("events")?;
    /// let mut batch = db.batch();
    /// batch.remove_range(&events, .."2024-01-01").put(&events, "2023-12-31", "kept, for it comes after");
    /// batch.commit()?;
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// Of the commit: [`Error::TooManyRanges`] if a batch removes more than
    /// [`RANGE_DELETES_MAX`](crate::payload::RANGE_DELETES_MAX) ranges.
    pub fn remove_range<K: AsRef<[u8]>>(&mut self, keyspace: &Keyspace, range: impl RangeBounds<K>) -> &mut Self {
        let range = bounds(&range);
        if let Err(error) = check_bounds(&range) {
            self.wrong.get_or_insert(error);
        }
        if self.payload.range_deletes() == RANGE_DELETES_MAX {
            self.wrong.get_or_insert(Error::TooManyRanges { max: RANGE_DELETES_MAX });
        }
        if let Some((start, end)) = limits(&range) {
            self.push(keyspace, &start, Action::DeleteRange { end: &end });
        }
        self
    }

    /// Changes the value of a key without reading it. In one batch all merges of a key count, in their order, and after what
    /// was put or removed before them. If the value ends some time ([`put_with_ttl`](Self::put_with_ttl)), it still ends then.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// use seawall_engine::MergeOperator;
    /// let counters = db.keyspace("counters")?;
    /// let mut batch = db.batch();
    /// batch.merge(&counters, "visits", MergeOperator::Add, 1_i64.to_le_bytes());
    /// batch.commit()?;
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// Of the commit: [`Error::WrongOperand`] if the operator can do nothing with the operand, and
    /// [`Error::MixedOperators`] if a batch merges one key by several operators without having put or removed it first.
    pub fn merge(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        operator: MergeOperator,
        operand: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.push(keyspace, key.as_ref(), Action::Merge { operator, operand: operand.as_ref() });
        self
    }

    /// When to stop waiting: to be let in ([`Error::Backpressure`], nothing was written) or to be confirmed
    /// ([`Error::Indeterminate`]). Without one, being let in waits as long as the database is set to, and a confirmation
    /// as long as it takes.
    pub fn deadline(&mut self, deadline: Instant) -> &mut Self {
        self.deadline = Some(deadline);
        self
    }

    /// Operations in it.
    pub fn len(&self) -> usize {
        self.payload.operations() as usize
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// Whether `commit` will refuse it.
    pub(crate) fn is_wrong(&self) -> bool {
        self.wrong.is_some()
    }

    /// Bytes its record will carry.
    pub fn size(&self) -> usize {
        self.payload.len()
    }

    /// Commits, and returns when that survives power loss of this node.
    pub fn commit(self) -> Result<Commit> {
        self.commit_with(CommitLevel::Local)
    }

    /// Commits, and returns when that has reached `level`.
    pub fn commit_with(self, level: CommitLevel) -> Result<Commit> {
        let deadline = self.deadline;
        let ticket = self.commit_ticket_with(level)?;
        match deadline {
            Some(deadline) => ticket.wait_until(deadline),
            None => ticket.wait(),
        }
    }

    /// Commits and returns at once with a ticket to wait with, from a thread or a task, so that many commits can be on
    /// their way. It still waits to be let in.
    pub fn commit_ticket(self) -> Result<CommitTicket> {
        self.commit_ticket_with(CommitLevel::Local)
    }

    /// As [`commit_ticket`](Self::commit_ticket), for `level`.
    pub fn commit_ticket_with(self, level: CommitLevel) -> Result<CommitTicket> {
        self.prepare(level)?.append(|| Ok(()))
    }

    /// Everything that can be done before the lock of order is held.
    pub(crate) fn prepare(self, level: CommitLevel) -> Result<Prepared> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        if let Some(key) = self.payload.mixed_operators() {
            return Err(Error::MixedOperators { key: Bytes::copy_from_slice(key) });
        }
        let confirmations = match level {
            CommitLevel::Buffered | CommitLevel::Local => None,
            // Asked for before anything is written, so that a level nobody can confirm is an error without a trace.
            level => Some(self.db.confirmations(level)?),
        };
        let payload = (!self.payload.is_empty()).then(|| self.payload.finish());
        let Self { db, keyspaces, deadline, .. } = self;
        Ok(Prepared { db, payload, keyspaces, deadline, level, confirmations })
    }

    pub(crate) fn push(&mut self, keyspace: &Keyspace, key: &[u8], action: Action<'_>) {
        if self.wrong.is_some() {
            return;
        }
        if let Err(error) = check_operation(&self.db, keyspace, key, action, self.payload.len(), self.len_max) {
            self.wrong = Some(error);
            return;
        }
        let state = keyspace.state();
        if !self.keyspaces.iter().any(|known| known.id == state.id) {
            self.keyspaces.push(Arc::clone(state));
        }
        self.payload.push(Operation { keyspace: state.id, key, action });
    }
}

pub(crate) fn ttl_micros(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX)
}

/// Bytes of an operation in a payload, at most.
pub(crate) fn operation_len(key: &[u8], action: Action<'_>) -> usize {
    PUT_OVERHEAD + key.len() + action.value_len()
}

/// Whether a range can be removed between these bounds.
pub(crate) fn check_bounds((lower, upper): &Bounds) -> Result<()> {
    for bound in [lower, upper] {
        if let Bound::Included(key) | Bound::Excluded(key) = bound
            && key.len() > KEY_LEN_MAX
        {
            return Err(Error::TooLarge { what: "key", size: key.len(), max: KEY_LEN_MAX });
        }
    }
    Ok(())
}

/// Whether an operation can be added to a payload of `len` bytes that may have `len_max`.
pub(crate) fn check_operation(
    db: &Db,
    keyspace: &Keyspace,
    key: &[u8],
    action: Action<'_>,
    len: usize,
    len_max: usize,
) -> Result<()> {
    if !keyspace.belongs_to(db) {
        return Err(keyspace.unknown());
    }
    if key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if key.len() > KEY_LEN_MAX {
        return Err(Error::TooLarge { what: "key", size: key.len(), max: KEY_LEN_MAX });
    }
    if let Action::Merge { operator, operand } = action
        && !operator.takes(operand)
    {
        return Err(Error::WrongOperand { operator, size: operand.len() });
    }
    let value_len = action.value_len();
    let value_max = len_max.saturating_sub(COMMIT_HEADER_LEN + PUT_OVERHEAD + key.len());
    if value_len > value_max {
        return Err(Error::TooLarge { what: "value", size: value_len, max: value_max });
    }
    let size = len + operation_len(key, action);
    if size > len_max {
        return Err(Error::TooLarge { what: "batch", size, max: len_max });
    }
    Ok(())
}

/// A batch that only has to be appended.
#[derive(Clone)]
pub(crate) struct Prepared {
    db: Db,
    /// `None` if there is nothing to write.
    payload: Option<Vec<u8>>,
    keyspaces: Vec<Arc<KeyspaceState>>,
    deadline: Option<Instant>,
    level: CommitLevel,
    confirmations: Option<Arc<dyn Confirmations>>,
}

impl Prepared {
    /// Appends it, unless one of its keyspaces was dropped or `check` objects, which runs when nothing can come between it
    /// and the append.
    pub(crate) fn append(self, check: impl FnOnce() -> Result<()>) -> Result<CommitTicket> {
        let core = self.db.core();
        let Some(payload) = self.payload else {
            core.check_writable()?;
            let applied = core.state.applied();
            return Ok(CommitTicket::empty(applied.position.lsn, applied.time));
        };
        let ticket = core.append_commit(payload, self.deadline, || {
            match self.keyspaces.iter().find(|keyspace| !keyspace.is_live()) {
                Some(dropped) => Err(Error::UnknownKeyspace { name: dropped.name.clone() }),
                None => check(),
            }
        })?;
        if self.level == CommitLevel::Buffered {
            // Nobody will wait for it, and readers see it once it is flushed.
            core.flush_soon();
        }
        Ok(CommitTicket::new(Arc::clone(core), ticket, self.level, self.confirmations))
    }
}
