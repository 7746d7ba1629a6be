//! A stable view: everything as of one LSN, for as long as it is held.

use std::ops::RangeBounds;

use arc_swap::Guard;
use bytes::Bytes;
use seawall_wal::{Lsn, Timestamp};

use crate::db::Db;
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::marks::Moment;
use crate::mutant::{Mutant, planted};
use crate::range::{Bounds, Range, bounds, prefix_bounds};
use crate::resolve::Value;

/// Everything as of one LSN. While it is held the versions it needs are kept, which costs space when much is overwritten.
#[derive(Debug)]
pub struct Snapshot {
    db: Db,
    at: Moment,
}

impl Snapshot {
    /// The caller has pinned `lsn`, which is let go if what it takes to read there is not known any more.
    pub(crate) fn new(db: Db, lsn: Lsn) -> Result<Self> {
        let at = db.core().state.view().marks.moment(lsn);
        if at.is_err() {
            db.core().state.readers.unpin(lsn);
        }
        Ok(Self { db, at: at? })
    }

    /// Handles of the keyspaces there were, by number.
    pub(crate) fn keyspace_handles(&self) -> Vec<Keyspace> {
        self.db.core().state.with_catalogue(|catalogue| {
            let there = catalogue.iter().filter(|keyspace| keyspace.exists_at(self.at.lsn));
            there.map(|keyspace| Keyspace::new(self.db.clone(), keyspace.clone())).collect()
        })
    }

    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    /// As of when.
    pub fn lsn(&self) -> Lsn {
        self.at.lsn
    }

    /// What time it is for this snapshot, the same on every node: the time of the last record it sees, in whole seconds. Values
    /// that end by then are not in it. 0 as long as nothing was ever written that can end.
    pub fn time(&self) -> Timestamp {
        self.at.time
    }

    /// The names of the keyspaces there were, in the order in which they were made.
    pub fn keyspaces(&self) -> Vec<String> {
        self.db.core().state.with_catalogue(|catalogue| {
            let there = catalogue.iter().filter(|keyspace| keyspace.exists_at(self.at.lsn));
            there.map(|keyspace| keyspace.name.clone()).collect()
        })
    }

    /// A handle of a keyspace there was, which reads through this snapshot even if it was dropped since.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        let found = self.db.core().state.with_catalogue(|catalogue| catalogue.at(name, self.at.lsn).cloned());
        let found = found.ok_or_else(|| crate::Error::UnknownKeyspace { name: name.to_owned() })?;
        Ok(Keyspace::new(self.db.clone(), found))
    }

    /// The value of a key.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.get_value(keyspace, key.as_ref())?.map(|value| value.bytes))
    }

    pub(crate) fn get_value(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Value>> {
        self.check(keyspace)?;
        let mut at = self.at;
        if planted(Mutant::SnapshotsReadNewest) {
            at.lsn = self.db.visible();
        }
        keyspace.get_in(&self.db.core().state.view(), at, key)
    }

    /// The values of many keys, in the order of the keys given; see [`Keyspace::multi_get`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, keys: &[K]) -> Result<Vec<Option<Bytes>>> {
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        Ok(self.multi_get_values(keyspace, &keys)?.into_iter().map(|value| Some(value?.bytes)).collect())
    }

    pub(crate) fn multi_get_values(&self, keyspace: &Keyspace, keys: &[&[u8]]) -> Result<Vec<Option<Value>>> {
        self.check(keyspace)?;
        keyspace.multi_get_in(&self.db.core().state.view(), self.at, keys)
    }

    /// Keys and values in order.
    pub fn iter(&self, keyspace: &Keyspace) -> Range {
        self.range_of(keyspace, bounds::<&[u8]>(&..))
    }

    /// The keys of a range with their values, in order.
    pub fn range<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, range: impl RangeBounds<K>) -> Range {
        self.range_of(keyspace, bounds(&range))
    }

    /// The keys that begin with `prefix` with their values, in order.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range {
        self.range_of(keyspace, prefix_bounds(prefix.as_ref()))
    }

    pub(crate) fn range_of(&self, keyspace: &Keyspace, bounds: Bounds) -> Range {
        match self.check(keyspace) {
            Ok(()) => keyspace.range_in(Guard::into_inner(self.db.core().state.view()), self.at, bounds),
            Err(error) => Range::failed(error),
        }
    }

    fn check(&self, keyspace: &Keyspace) -> Result<()> {
        if keyspace.belongs_to(&self.db) { Ok(()) } else { Err(keyspace.unknown()) }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.db.core().state.readers.unpin(self.at.lsn);
    }
}
