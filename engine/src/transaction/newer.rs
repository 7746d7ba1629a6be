//! What is newer than an LSN in a keyspace. Memtables and tables that can hold nothing newer are left out unread.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::Lsn;

use crate::error::Result;
use crate::format::KeyspaceId;
use crate::memtable::{MemoryCursor, Memtable};
use crate::mutant::{Mutant, planted};
use crate::range::Bounds;
use crate::range_deletes::Covers;
use crate::table::{EntryRef, Table, TableCursor, filter_hash};
use crate::version::{Levels, View};

/// The memtables and tables of a keyspace that can hold versions newer than an LSN. For one key, those before hold newer ones.
pub(super) struct Newer<'a> {
    since: Lsn,
    pub(super) memtables: Vec<&'a Arc<Memtable>>,
    pub(super) tables: Vec<&'a Arc<Table>>,
    levels: Option<&'a Arc<Levels>>,
}

impl<'a> Newer<'a> {
    pub(super) fn than(since: Lsn, view: &'a View, keyspace: KeyspaceId) -> Self {
        let frozen = view.frozen.iter().rev().filter(|frozen| frozen.end.lsn > since).map(|frozen| &frozen.set);
        let memtables = [&view.active].into_iter().chain(frozen).filter_map(|set| set.table(keyspace)).collect();
        let levels = view.tables.levels(keyspace).into_iter().flat_map(|levels| levels.iter());
        let tables = levels.flat_map(|(_, tables)| tables).filter(|table| table.meta().max_lsn > since).collect();
        Self { since, memtables, tables, levels: view.tables.levels(keyspace) }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.memtables.is_empty() && self.tables.is_empty()
    }

    /// The deletes of ranges; of tables only if some are newer, so that else none is read.
    fn covers(&self) -> Result<Covers> {
        let mut covers = Covers::default();
        self.memtables.iter().for_each(|memtable| covers.add(memtable.range_deletes()));
        if let Some(levels) = self.levels.filter(|_| !self.tables.is_empty()) {
            covers.add(levels.range_deletes()?);
        }
        Ok(covers)
    }

    /// When a key was changed last, alone or with a range, if that is newer.
    pub(super) fn of_key(&self, key: &[u8]) -> Result<Option<Lsn>> {
        let with_range = self.covers()?.over(key, Lsn::MAX).map(|cover| cover.lsn).filter(|lsn| *lsn > self.since);
        Ok(self.version_of_key(key)?.max(with_range.filter(|_| !planted(Mutant::UncheckedRangeDeletes))))
    }

    fn version_of_key(&self, key: &[u8]) -> Result<Option<Lsn>> {
        let in_memory = self.memtables.iter().find_map(|memtable| memtable.newest(key).filter(|lsn| *lsn > self.since));
        if in_memory.is_some() {
            return Ok(in_memory);
        }
        let hash = filter_hash(key);
        for table in &self.tables {
            if let Some(lsn) = table.newest(key, hash)?.filter(|lsn| *lsn > self.since) {
                return Ok(Some(lsn));
            }
        }
        Ok(None)
    }

    /// Some key between the bounds that has a newer version, and the newest of it.
    pub(super) fn in_span(&self, bounds: &Bounds) -> Result<Option<(Bytes, Lsn)>> {
        if let Some(found) = self.covers()?.newer_in(bounds, self.since)
            && !planted(Mutant::UncheckedRangeDeletes)
        {
            return Ok(Some(found));
        }
        let from = match &bounds.0 {
            Bound::Unbounded => None,
            Bound::Included(key) => Some((&key[..], Lsn::MAX)),
            // No version has LSN 0, so this place is behind all versions of the key.
            Bound::Excluded(key) => Some((&key[..], Lsn::ZERO)),
        };
        let inside = |entry: &EntryRef<'_>| match &bounds.1 {
            Bound::Unbounded => true,
            Bound::Included(upper) => entry.key <= &upper[..],
            Bound::Excluded(upper) => entry.key < &upper[..],
        };
        let found = |entry: EntryRef<'_>| (Bytes::copy_from_slice(entry.key), entry.lsn);
        for &memtable in &self.memtables {
            let mut cursor = MemoryCursor::first_from(Arc::clone(memtable), from);
            while let Some(entry) = cursor.entry().filter(inside) {
                if entry.lsn > self.since {
                    return Ok(Some(found(entry)));
                }
                cursor.forward();
            }
        }
        for table in &self.tables {
            let mut cursor = TableCursor::first_from(Arc::clone(table), from)?;
            while let Some(entry) = cursor.entry().filter(inside) {
                if entry.lsn > self.since {
                    return Ok(Some(found(entry)));
                }
                cursor.forward()?;
            }
        }
        Ok(None)
    }
}
