//! A named ordered map of keys to values, one of many that share the log.

use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use bytes::Bytes;
use seawall_wal::Lsn;

use crate::catalogue::KeyspaceState;
use crate::commit::Commit;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::multi_get::multi_get;
use crate::operator::MergeOperator;
use crate::range::{Bounds, Range, bounds, prefix_bounds};
use crate::resolve::Value;
use crate::version::View;

/// A handle of a keyspace; cheap to clone. Reads see everything durable at their moment. Writes are batches of one
/// operation, and return when it is durable here; [`Db::batch`] does more at once, or waits for other levels. How large
/// keys and values may be is said at [`Batch`](crate::Batch).
#[derive(Clone, Debug)]
pub struct Keyspace {
    db: Db,
    state: Arc<KeyspaceState>,
}

impl Keyspace {
    pub(crate) fn new(db: Db, state: Arc<KeyspaceState>) -> Self {
        Self { db, state }
    }

    pub(crate) fn state(&self) -> &Arc<KeyspaceState> {
        &self.state
    }

    pub(crate) fn belongs_to(&self, db: &Db) -> bool {
        Arc::ptr_eq(self.db.core(), db.core())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its number, the same on every node.
    pub fn id(&self) -> KeyspaceId {
        self.state.id
    }

    /// Puts a value under a key, and returns when that is durable.
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Commit> {
        let mut batch = self.db.batch();
        batch.put(self, key, value);
        batch.commit()
    }

    /// Puts a value that ends after `ttl`, and returns when it is durable; see [`Batch::put_with_ttl`](crate::Batch::put_with_ttl).
    pub fn insert_with_ttl(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Duration) -> Result<Commit> {
        let mut batch = self.db.batch();
        batch.put_with_ttl(self, key, value, ttl);
        batch.commit()
    }

    /// Changes the value of a key without reading it, and returns when that is durable; see
    /// [`Batch::merge`](crate::Batch::merge).
    pub fn merge(&self, key: impl AsRef<[u8]>, operator: MergeOperator, operand: impl AsRef<[u8]>) -> Result<Commit> {
        let mut batch = self.db.batch();
        batch.merge(self, key, operator, operand);
        batch.commit()
    }

    /// Removes a key, and returns when that is durable. A key that is not there is no error.
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<Commit> {
        let mut batch = self.db.batch();
        batch.remove(self, key);
        batch.commit()
    }

    /// Removes all keys of a range as one operation, and returns when that is durable; see
    /// [`Batch::remove_range`](crate::Batch::remove_range).
    pub fn remove_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<Commit> {
        let mut batch = self.db.batch();
        batch.remove_range(self, range);
        batch.commit()
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let (at, view) = self.db.core().read_now()?;
        Ok(self.get_in(&view, at, key.as_ref())?.map(|value| value.bytes))
    }

    /// The values of many keys as of one moment, in the order of the keys given. The keys may repeat and need no order.
    /// Blocks of tables that are not in memory are read together.
    ///
    /// ```no_run
    /// # let users = seawall_engine::Db::open("data")?.keyspace("users")?;
    /// let values = users.multi_get(&["ann", "bob"])?;
    /// assert_eq!(values.len(), 2);
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Bytes>>> {
        let (at, view) = self.db.core().read_now()?;
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let values = self.multi_get_in(&view, at, &keys)?;
        Ok(values.into_iter().map(|value| Some(value?.bytes)).collect())
    }

    /// Whether there is a value under a key.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Keys and values in order. An error is an item, the last one.
    pub fn iter(&self) -> Range {
        self.range_now(bounds::<&[u8]>(&..))
    }

    /// The keys of a range with their values, in order. It walks from both ends, and is empty if its bounds cross.
    ///
    /// ```no_run
    /// # let orders = seawall_engine::Db::open("data")?.keyspace("orders")?;
    /// for pair in orders.range("2024-01".."2024-02").rev().take(10) {
    ///     let (key, value) = pair?;
    ///     println!("{} has {} bytes", String::from_utf8_lossy(&key), value.len());
    /// }
    /// let mut bytes = 0;
    /// let mut all = orders.range::<&str>(..);
    /// while let Some(pair) = all.next_borrowed() {
    ///     let (_, value) = pair?;
    ///     bytes += value.len();
    /// }
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Range {
        self.range_now(bounds(&range))
    }

    /// The keys that begin with `prefix` with their values, in order.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        self.range_now(prefix_bounds(prefix.as_ref()))
    }

    /// The least key and its value.
    pub fn first(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.iter().next().transpose()
    }

    /// The greatest key and its value.
    pub fn last(&self) -> Result<Option<(Bytes, Bytes)>> {
        self.iter().next_back().transpose()
    }

    pub(crate) fn get_in(&self, view: &View, at: Moment, key: &[u8]) -> Result<Option<Value>> {
        self.check_there(at.lsn)?;
        view.get(self.state.id, key, at)
    }

    pub(crate) fn multi_get_in(&self, view: &View, at: Moment, keys: &[&[u8]]) -> Result<Vec<Option<Value>>> {
        self.check_there(at.lsn)?;
        multi_get(view, self.state.id, at, keys)
    }

    pub(crate) fn range_in(&self, view: Arc<View>, at: Moment, bounds: Bounds) -> Range {
        match self.check_there(at.lsn) {
            Ok(()) => Range::new(view, self.state.id, at, bounds),
            Err(error) => Range::failed(error),
        }
    }

    fn range_now(&self, bounds: Bounds) -> Range {
        match self.db.core().read_now() {
            Ok((at, view)) => self.range_in(Guard::into_inner(view), at, bounds),
            Err(error) => Range::failed(error),
        }
    }

    /// A keyspace that was just made is empty for a reader whose LSN is older; one that was dropped is not there.
    fn check_there(&self, at: Lsn) -> Result<()> {
        match at < self.state.dropped() {
            true => Ok(()),
            false => Err(self.unknown()),
        }
    }

    pub(crate) fn unknown(&self) -> Error {
        Error::UnknownKeyspace { name: self.state.name.clone() }
    }
}
