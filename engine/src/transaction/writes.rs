//! Everything that a transaction is going to write, by keyspace, and how much of a record that is. Ranges are removed before
//! keys are written: what a range hides of the keys written earlier is given up at once.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

use bytes::Bytes;
use seawall_wal::format::payload_len_max;

use super::Transaction;
use super::removed::Removed;
use super::write::Write;
use crate::batch::{Batch, check_bounds, check_operation, operation_len};
use crate::db::Db;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::keyspace::Keyspace;
use crate::mutant::{Mutant, planted};
use crate::payload::{Action, COMMIT_HEADER_LEN, RANGE_DELETES_MAX};
use crate::range::Bounds;
use crate::range_deletes::limits;

static REMOVED: Write = Write::Remove;

#[derive(Debug)]
pub(super) struct Writes {
    keyspaces: BTreeMap<KeyspaceId, KeyspaceWrites>,
    /// Over all keyspaces. The length is that of the record's payload.
    keys: usize,
    ranges: usize,
    len: usize,
}

/// What is to be written to a keyspace.
#[derive(Debug)]
pub(super) struct KeyspaceWrites {
    keyspace: Keyspace,
    keys: BTreeMap<Bytes, Write>,
    removed: Removed,
}

impl Writes {
    pub(super) fn new() -> Self {
        Self { keyspaces: BTreeMap::new(), keys: 0, ranges: 0, len: COMMIT_HEADER_LEN }
    }

    /// Keys and ranges.
    pub(super) fn count(&self) -> usize {
        self.keys + self.ranges
    }

    /// To a keyspace of the database that is written to.
    pub(super) fn of(&self, keyspace: KeyspaceId) -> Option<&KeyspaceWrites> {
        self.keyspaces.get(&keyspace)
    }

    /// Adds an operation on a key. On an error everything is as it was.
    pub(super) fn add(&mut self, db: &Db, keyspace: &Keyspace, key: &[u8], action: Action<'_>) -> Result<()> {
        let len_max = payload_len_max(db.log().options().segment_size);
        check_operation(db, keyspace, key, action, COMMIT_HEADER_LEN, len_max)?;
        let writes = self.of(keyspace.id());
        let replaced_len =
            writes.and_then(|writes| writes.keys.get(key)).map(|write| operation_len(key, write.action()));
        let write = Write::new(key, action, writes.and_then(|writes| writes.of_key(key)))?;
        let len = self.len - replaced_len.unwrap_or(0);
        check_operation(db, keyspace, key, write.action(), len, len_max)?;
        let keys = self.keys + usize::from(replaced_len.is_none());
        if keys > Transaction::WRITES_MAX {
            return Err(Error::TooMany { what: "writes", max: Transaction::WRITES_MAX });
        }
        (self.keys, self.len) = (keys, len + operation_len(key, write.action()));
        self.of_mut(keyspace).keys.insert(Bytes::copy_from_slice(key), write);
        Ok(())
    }

    /// Removes a range, and gives up what was to be written to keys in it. On an error everything is as it was.
    pub(super) fn remove_range(&mut self, db: &Db, keyspace: &Keyspace, bounds: &Bounds) -> Result<()> {
        check_bounds(bounds)?;
        let Some((start, end)) = limits(bounds) else { return Ok(()) };
        let len_max = payload_len_max(db.log().options().segment_size);
        check_operation(db, keyspace, &start, Action::DeleteRange { end: &end }, COMMIT_HEADER_LEN, len_max)?;
        let none = KeyspaceWrites::new(keyspace);
        let writes = self.of(keyspace.id()).unwrap_or(&none);
        let hidden: Vec<Bytes> = writes.keys_within(&start, &end).map(|(key, _)| key.clone()).collect();
        let hidden_len: usize =
            writes.keys_within(&start, &end).map(|(key, write)| operation_len(key, write.action())).sum();
        let joined = writes.removed.join(&start, &end);
        let replaced = joined.replaced.iter().map(|(start, end)| operation_len(start, Action::DeleteRange { end }));
        let len = self.len - hidden_len - replaced.sum::<usize>();
        let removal = Action::DeleteRange { end: &joined.end };
        check_operation(db, keyspace, &joined.start, removal, len, len_max)?;
        let ranges = self.ranges - joined.replaced.len() + 1;
        if ranges > RANGE_DELETES_MAX {
            return Err(Error::TooMany { what: "removed ranges", max: RANGE_DELETES_MAX });
        }
        self.len = len + operation_len(&joined.start, removal);
        (self.keys, self.ranges) = (self.keys - hidden.len(), ranges);
        let writes = self.of_mut(keyspace);
        hidden.iter().for_each(|key| drop(writes.keys.remove(key)));
        writes.removed.add(joined);
        Ok(())
    }

    /// Puts all of it into a batch.
    pub(super) fn push_to(&self, batch: &mut Batch) {
        for KeyspaceWrites { keyspace, keys, removed } in self.keyspaces.values() {
            removed.iter().for_each(|(start, end)| batch.push(keyspace, start, Action::DeleteRange { end }));
            keys.iter().for_each(|(key, write)| batch.push(keyspace, key, write.action()));
        }
    }

    fn of_mut(&mut self, keyspace: &Keyspace) -> &mut KeyspaceWrites {
        self.keyspaces.entry(keyspace.id()).or_insert_with(|| KeyspaceWrites::new(keyspace))
    }
}

impl KeyspaceWrites {
    fn new(keyspace: &Keyspace) -> Self {
        Self { keyspace: keyspace.clone(), keys: BTreeMap::new(), removed: Removed::default() }
    }

    /// What is to be done to a key, alone or with a range.
    pub(super) fn of_key(&self, key: &[u8]) -> Option<&Write> {
        self.keys.get(key).or_else(|| self.removed_with(key).map(|_| &REMOVED))
    }

    /// The range with which a key is removed before it is written, if it is.
    pub(super) fn removed_with(&self, key: &[u8]) -> Option<(&Bytes, &Bytes)> {
        self.removed.over(key).filter(|_| !planted(Mutant::OwnRangeDeletesUnseen))
    }

    /// What is to be done to keys alone; the bounds are those of a range.
    pub(super) fn keys(&self, bounds: Bounds) -> btree_map::Range<'_, Bytes, Write> {
        self.keys.range(bounds)
    }

    fn keys_within(&self, start: &Bytes, end: &Bytes) -> btree_map::Range<'_, Bytes, Write> {
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        self.keys.range::<Bytes, _>((Bound::Included(start), upper))
    }
}
