//! Optimistic transactions: they read at a snapshot and keep their writes to themselves, and when they are committed, it is
//! checked that nothing they read has changed. The check and the append are one step in the order of commits, so that
//! transactions take effect as if they ran one after the other.
//!
//! What was read is kept by `reads`, and compared with what is newer by `newer`; what is to be written is kept by `writes`, by
//! key and in ranges that are `removed`. `range` walks snapshot and own writes as one.

mod newer;
mod range;
mod reads;
mod removed;
mod write;
mod writes;

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeBounds;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_wal::Lsn;
use seawall_wal::sync::{Mutex, thread};

pub use range::TransactionRange;

use self::reads::Reads;
use self::write::Write;
use self::writes::{KeyspaceWrites, Writes};
use crate::batch::ttl_micros;
use crate::commit::{Commit, CommitTicket};
use crate::db::Db;
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::level::CommitLevel;
use crate::mutant::{Mutant, planted};
use crate::operator::MergeOperator;
use crate::payload::Action;
use crate::range::{Bounds, bounds, prefix_bounds};
use crate::resolve::Value;
use crate::snapshot::Snapshot;
use crate::version::View;

/// How often [`Db::transact`] runs its work before it gives up.
const TRIES: u32 = 16;
/// How long it pauses at most: after the first conflict, doubled with each further one, and ever.
const PAUSE_FIRST: Duration = Duration::from_micros(100);
const PAUSE_MAX: Duration = Duration::from_millis(20);

impl Db {
    /// Begins a transaction, which reads at a snapshot of everything durable now and writes nothing before its commit.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// let accounts = db.keyspace("accounts")?;
    /// let mut transaction = db.transaction()?;
    /// if transaction.get(&accounts, "ann")?.is_none() {
    ///     transaction.put(&accounts, "ann", "0")?;
    /// }
    /// match transaction.commit() {
    ///     Ok(commit) => println!("made at {}", commit.lsn),
    ///     Err(seawall_engine::Error::Conflict { .. }) => println!("somebody was faster; nothing was written"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    pub fn transaction(&self) -> Result<Transaction> {
        Ok(Transaction::new(self.snapshot()?))
    }

    /// Runs `work` in a transaction and commits it, and does so again after a conflict, up to 16 times with a pause that
    /// grows in between. Returns what `work` returned when its writes are durable here. An error of `work` ends it, and
    /// nothing is written.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// let counters = db.keyspace("counters")?;
    /// let visits = db.transact(|transaction| {
    ///     let before = transaction.get(&counters, "visits")?;
    ///     let visits = before.map_or(0, |value| value.len()) + 1;
    ///     transaction.put(&counters, "visits", vec![b'|'; visits])?;
    ///     Ok(visits)
    /// })?;
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Conflict`] if the last try met one, too.
    pub fn transact<T>(&self, mut work: impl FnMut(&mut Transaction) -> Result<T>) -> Result<T> {
        let mut tries = 1;
        loop {
            let mut transaction = self.transaction()?;
            let done = work(&mut transaction)?;
            match transaction.commit() {
                Ok(_) => return Ok(done),
                Err(Error::Conflict { lsn, .. }) if tries < TRIES => {
                    // A snapshot taken before the other commit is flushed would only meet it again.
                    self.core().flush_log_to(lsn)?;
                    self.core().apply_pending();
                    thread::sleep(pause(tries));
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Some part of the pause after the `tries`-th conflict, so that those who met do not meet again.
fn pause(tries: u32) -> Duration {
    let whole = (PAUSE_FIRST * 2_u32.pow(tries - 1)).min(PAUSE_MAX);
    // Every `RandomState` is another.
    let random = RandomState::new().hash_one(tries) as u32;
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Reads at one moment and writes at another, as if both were one: the commit succeeds only if no key that was read, and no
/// part of a range that was walked, has been changed since by somebody else, be it flushed yet or not. Keys that were not
/// found count as read; keys that are only written do not. Else it is [`Error::Conflict`], nothing was written, and the
/// transaction can be run again from its beginning.
///
/// It sees its own writes. Dropping it gives them up. While it is held, old versions are kept as for a [`Snapshot`].
///
/// A value that ends by itself counts as changed when the log has passed its end.
///
/// A range counts as read from its bound to the last key it handed out, and wholly if it was walked to its end.
///
/// One transaction may read [`READS_MAX`](Self::READS_MAX) keys and ranges whose keys have
/// [`READ_BYTES_MAX`](Self::READ_BYTES_MAX) bytes, write [`WRITES_MAX`](Self::WRITES_MAX) keys and remove
/// [`RANGE_DELETES_MAX`](crate::payload::RANGE_DELETES_MAX) ranges, within the size of a [`Batch`](crate::Batch):
/// `min(16 MiB, S/4)` with segments of S bytes.
#[derive(Debug)]
#[must_use = "a transaction writes nothing until it is committed"]
pub struct Transaction {
    snapshot: Snapshot,
    /// Behind a lock because reading takes no `&mut`; never contended by one who uses it from one thread.
    reads: Mutex<Reads>,
    writes: Writes,
    deadline: Option<Instant>,
}

impl Transaction {
    /// Keys and ranges that one transaction may read.
    pub const READS_MAX: usize = 1 << 16;
    /// Bytes that the keys it reads, and the bounds of the ranges it walks, may have together.
    pub const READ_BYTES_MAX: usize = 16 << 20;
    /// Keys that one transaction may write.
    pub const WRITES_MAX: usize = 1 << 16;

    fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, reads: Mutex::default(), writes: Writes::new(), deadline: None }
    }

    /// As of when it reads.
    pub fn lsn(&self) -> Lsn {
        self.snapshot.lsn()
    }

    /// Keys it is going to write, and ranges it is going to remove, those that touch counted as one.
    pub fn len(&self) -> usize {
        self.writes.count()
    }

    /// Whether it is going to write nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::TooMany`] and [`Error::TooLarge`] if the transaction reads more than one may.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let key = key.as_ref();
        let own = self.written(keyspace).and_then(|writes| writes.of_key(key));
        self.see(keyspace, key, own, || self.snapshot.get_value(keyspace, key))
    }

    /// The values of many keys, in the order of the keys given; see [`Keyspace::multi_get`].
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn multi_get<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, keys: &[K]) -> Result<Vec<Option<Bytes>>> {
        let own_of = |key: &[u8]| self.written(keyspace).and_then(|writes| writes.of_key(key));
        let keys = keys.iter().map(AsRef::as_ref);
        let wanted: Vec<&[u8]> = keys.clone().filter(|key| own_of(key).is_none_or(Write::builds_on_stored)).collect();
        let mut stored = self.snapshot.multi_get_values(keyspace, &wanted)?.into_iter();
        keys.map(|key| self.see(keyspace, key, own_of(key), || Ok(stored.next().flatten()))).collect()
    }

    /// Whether there is a value under a key.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn contains(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(keyspace, key)?.is_some())
    }

    /// What it sees of a key, which counts as read if what is stored matters for that; only then it is asked for.
    fn see(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        own: Option<&Write>,
        stored: impl FnOnce() -> Result<Option<Value>>,
    ) -> Result<Option<Bytes>> {
        let seen = match own {
            Some(own) if !own.builds_on_stored() => own.seen(None)?,
            own => {
                let stored = stored()?;
                let mut reads = self.reads.lock();
                reads.add_key(keyspace.state(), key)?;
                if let Some(expiry) = stored.as_ref().and_then(|value| value.expiry) {
                    reads.add_expiry(keyspace.state(), key, expiry);
                }
                match own {
                    Some(own) => own.seen(stored)?,
                    None => stored,
                }
            }
        };
        Ok(seen.map(|value| value.bytes))
    }

    /// Keys and values in order. An error is an item, the last one.
    pub fn iter(&self, keyspace: &Keyspace) -> TransactionRange<'_> {
        self.range_of(keyspace, bounds::<&[u8]>(&..))
    }

    /// The keys of a range with their values, in order.
    pub fn range<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, range: impl RangeBounds<K>) -> TransactionRange<'_> {
        self.range_of(keyspace, bounds(&range))
    }

    /// The keys that begin with `prefix` with their values, in order.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> TransactionRange<'_> {
        self.range_of(keyspace, prefix_bounds(prefix.as_ref()))
    }

    fn range_of(&self, keyspace: &Keyspace, bounds: Bounds) -> TransactionRange<'_> {
        let stored = self.snapshot.range_of(keyspace, bounds.clone());
        TransactionRange::new(self, keyspace, stored, bounds)
    }

    /// Puts a value under a key when the transaction is committed.
    ///
    /// # Errors
    /// Those of [`Batch::commit`](crate::Batch::commit) that are about the operation, and [`Error::TooMany`]; the
    /// transaction is then as it was.
    pub fn put(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.write(keyspace, key.as_ref(), Action::Put(value.as_ref()))
    }

    /// Puts a value that ends `ttl` after the time of the commit; see
    /// [`Batch::put_with_ttl`](crate::Batch::put_with_ttl).
    pub fn put_with_ttl(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<()> {
        let ttl_micros = ttl_micros(ttl);
        self.write(keyspace, key.as_ref(), Action::PutFor { ttl_micros, value: value.as_ref() })
    }

    /// Changes the value of a key when the transaction is committed; see [`Batch::merge`](crate::Batch::merge). The key does
    /// not count as read, so that many transactions can count at once without a conflict. Looking at it afterwards does.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::MixedOperators`] if the transaction merges it already, by another operator.
    pub fn merge(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        operator: MergeOperator,
        operand: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.write(keyspace, key.as_ref(), Action::Merge { operator, operand: operand.as_ref() })
    }

    /// Removes a key when the transaction is committed. A key that is not there is no error, and does not count as read.
    pub fn remove(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        self.write(keyspace, key.as_ref(), Action::Delete)
    }

    /// Removes all keys of a range when the transaction is committed, as one operation; see
    /// [`Batch::remove_range`](crate::Batch::remove_range). Those are the keys there are then: none of them counts as read, so
    /// what others put into the range meanwhile is no conflict, and is removed as well. Walk the range before, and it is one.
    /// What the transaction wrote to the range before is given up; what it writes to it afterwards stays.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// let (events, totals) = (db.keyspace("events")?, db.keyspace("totals")?);
    /// db.transact(|transaction| {
    ///     let days = ..="2024-01-31";
    ///     let count = transaction.range(&events, days).count();
    ///     transaction.remove_range(&events, days)?;
    ///     transaction.put(&totals, "2024-01", count.to_string())
    /// })?;
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn remove_range<K: AsRef<[u8]>>(&mut self, keyspace: &Keyspace, range: impl RangeBounds<K>) -> Result<()> {
        self.writes.remove_range(self.snapshot.db(), keyspace, &bounds(&range))
    }

    fn write(&mut self, keyspace: &Keyspace, key: &[u8], action: Action<'_>) -> Result<()> {
        self.writes.add(self.snapshot.db(), keyspace, key, action)
    }

    /// What it wrote to a keyspace. A handle of another database finds nothing here, and is refused by the snapshot.
    fn written(&self, keyspace: &Keyspace) -> Option<&KeyspaceWrites> {
        self.writes.of(keyspace.id()).filter(|_| keyspace.belongs_to(self.snapshot.db()))
    }

    /// When to stop waiting, as for a [`Batch`](crate::Batch::deadline).
    pub fn deadline(&mut self, deadline: Instant) -> &mut Self {
        self.deadline = Some(deadline);
        self
    }

    /// Commits, and returns when that survives power loss of this node. One that writes nothing leaves no record, never
    /// conflicts, and answers with the position of the last commit applied.
    ///
    /// # Errors
    /// [`Error::Conflict`] if something it read has changed, [`Error::UnknownKeyspace`] if a keyspace it used was dropped.
    /// In both cases nothing was written.
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

    /// Commits and returns with a ticket to wait with. Whether there is a conflict is known by then.
    pub fn commit_ticket(self) -> Result<CommitTicket> {
        self.commit_ticket_with(CommitLevel::Local)
    }

    /// As [`commit_ticket`](Self::commit_ticket), for `level`.
    pub fn commit_ticket_with(self, level: CommitLevel) -> Result<CommitTicket> {
        let core = self.snapshot.db().core();
        if self.is_empty() {
            let applied = core.state.applied();
            return Ok(CommitTicket::empty(applied.position.lsn, applied.time));
        }
        let mut batch = self.snapshot.db().batch();
        if let Some(deadline) = self.deadline {
            batch.deadline(deadline);
        }
        self.writes.push_to(&mut batch);
        let prepared = batch.prepare(level)?;
        core.check_writable()?;
        let reads = self.reads.lock();
        let check = |view: &View, since| match reads.check(view, since) {
            Err(Error::Conflict { lsn, .. }) if planted(Mutant::UncheckedUnflushed) && lsn > core.visible() => Ok(()),
            checked => checked,
        };
        // Nothing that was read has a version in `(snapshot, checked]`.
        let mut checked = self.snapshot.lsn();
        loop {
            // Tables are read here, so that no disk is waited for while the lock of order is held: there, only what was
            // appended meanwhile is looked at, and that is in memory. The LSN is taken first: the view has all up to it.
            core.apply_pending();
            let applied = core.state.applied_lsn();
            check(&core.state.view(), checked)?;
            checked = checked.max(applied);
            let mut written_out = false;
            let appended = prepared.clone().append(|| {
                // What is in the log counts, whoever has not come to applying it yet.
                if !planted(Mutant::UncheckedPending) {
                    core.apply_pending();
                }
                core.check_writable()?;
                if core.state.applied_lsn() <= checked {
                    return Ok(());
                }
                let view = core.state.view();
                written_out = reads.newer_tables(&view, checked);
                match written_out {
                    // Unless it has been written out meanwhile; then once more from the beginning.
                    true => Err(Error::Closed),
                    false => check(&view, checked),
                }
            });
            if !written_out {
                return appended;
            }
        }
    }
}

#[cfg(test)]
mod tests;
