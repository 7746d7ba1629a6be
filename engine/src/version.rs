//! What a reader sees: memtables and tables at one moment, never changed, shared by whoever looked then. The files of a
//! view stay while it is held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use seawall_wal::sync::OnceLock;
use seawall_wal::{Lsn, Timestamp};

use crate::blob::{BlobFile, BlobShare};
use crate::error::Result;
use crate::file::FileHash;
use crate::format::KeyspaceId;
use crate::manifest::{BlobEntry, LEVELS, TableEntry};
use crate::marks::{Moment, TimeMarks};
use crate::memtable::{FrozenSet, MemtableSet};
use crate::mutant::{Mutant, planted};
use crate::range_deletes::{Covers, RangeDeletes, Removal};
use crate::resolve::{Resolver, Value};
use crate::table::{BlobUse, Content, Table, filter_hash};

/// The tables of one keyspace by level. Level 0 from newest to oldest, others by key without overlap; for one key a
/// lower level is newer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    levels: [Vec<Arc<Table>>; LEVELS],
    /// Of all its tables, once somebody asked.
    range_deletes: OnceLock<Arc<RangeDeletes>>,
    has_range_deletes: bool,
    blobs: OnceLock<Blobs>,
}

/// The blob files that some tables refer to, and how much of each they do.
pub(crate) type Blobs = BTreeMap<FileHash, (Arc<BlobFile>, BlobShare)>;

impl Levels {
    pub(crate) fn level(&self, level: usize) -> &[Arc<Table>] {
        &self.levels[level]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &[Arc<Table>])> {
        self.levels.iter().enumerate().map(|(level, tables)| (level, tables.as_slice()))
    }

    /// The deletes of ranges in its tables, if there are any.
    pub(crate) fn range_deletes(&self) -> Result<Option<Arc<RangeDeletes>>> {
        if !self.has_range_deletes {
            return Ok(None);
        }
        if let Some(deletes) = self.range_deletes.get() {
            return Ok(Some(Arc::clone(deletes)));
        }
        let mut all = Vec::new();
        for table in self.levels.iter().flatten() {
            all.extend(
                table.range_deletes()?.iter().map(|delete| Removal::new(&delete.start, &delete.end, delete.lsn)),
            );
        }
        Ok(Some(Arc::clone(self.range_deletes.get_or_init(|| Arc::new(RangeDeletes::new(all))))))
    }

    /// The blob files that its tables refer to.
    pub(crate) fn blobs(&self) -> &Blobs {
        self.blobs.get_or_init(|| {
            let mut blobs = Blobs::new();
            let levels = if planted(Mutant::KeptBlobsForgotten) { &self.levels[..1] } else { &self.levels[..] };
            for BlobUse { file, share } in levels.iter().flatten().flat_map(|table| table.blobs()) {
                let known = blobs.entry(file.meta().hash);
                known.or_insert_with(|| (Arc::clone(file), BlobShare::default())).1.add(*share);
            }
            blobs
        })
    }

    /// After a change of its tables.
    fn note_change(&mut self) {
        self.has_range_deletes = self.levels.iter().flatten().any(|table| table.meta().range_deletes > 0);
        self.range_deletes = OnceLock::new();
        self.blobs = OnceLock::new();
    }

    /// Hands over the versions of `key` that are not newer than `at`, newest first, until `take` says that older ones do not
    /// matter.
    fn versions(&self, key: &[u8], at: Lsn, mut take: impl FnMut(Lsn, Content<'_>) -> bool) -> Result<()> {
        let hash = filter_hash(key);
        for table in &self.levels[0] {
            if table.versions(key, hash, at, &mut take)? {
                return Ok(());
            }
        }
        for tables in &self.levels[1..] {
            let number = tables.partition_point(|table| table.meta().ends_before(key));
            if let Some(table) = tables.get(number)
                && table.versions(key, hash, at, &mut take)?
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The tables of all keyspaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableSet {
    keyspaces: BTreeMap<KeyspaceId, Arc<Levels>>,
    has_range_deletes: bool,
}

impl TableSet {
    pub(crate) fn levels(&self, keyspace: KeyspaceId) -> Option<&Arc<Levels>> {
        self.keyspaces.get(&keyspace)
    }

    pub(crate) fn keyspaces(&self) -> impl Iterator<Item = (KeyspaceId, &Arc<Levels>)> {
        self.keyspaces.iter().map(|(id, levels)| (*id, levels))
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = (KeyspaceId, usize, &Arc<Table>)> {
        self.keyspaces.iter().flat_map(|(id, levels)| {
            levels.iter().flat_map(move |(level, tables)| tables.iter().map(move |table| (*id, level, table)))
        })
    }

    /// In the manifest's order.
    pub(crate) fn entries(&self) -> Vec<TableEntry> {
        self.tables()
            .map(|(keyspace, level, table)| TableEntry { keyspace, level: level as u8, meta: table.meta().clone() })
            .collect()
    }

    /// The blob files, in the manifest's order.
    pub(crate) fn blob_entries(&self) -> Vec<BlobEntry> {
        let of_keyspace = |(keyspace, levels): (&KeyspaceId, &Arc<Levels>)| -> Vec<BlobEntry> {
            levels.blobs().values().map(|(file, _)| BlobEntry { keyspace: *keyspace, meta: *file.meta() }).collect()
        };
        self.keyspaces.iter().flat_map(of_keyspace).collect()
    }

    pub(crate) fn hashes(&self) -> BTreeSet<FileHash> {
        self.tables().map(|(_, _, table)| table.meta().hash).collect()
    }

    /// Adds a table to level 0 or, in its place by key, to a deeper one.
    pub(crate) fn add(&mut self, level: usize, table: Arc<Table>) {
        let levels = Arc::make_mut(self.keyspaces.entry(table.keyspace()).or_default());
        let tables = &mut levels.levels[level];
        let place = match level {
            0 => tables.partition_point(|other| other.meta().min_lsn > table.meta().max_lsn),
            _ => tables.partition_point(|other| other.meta().ends_before(&table.meta().min_key)),
        };
        if level > 0 {
            let fits = tables.get(place).is_none_or(|next| table.meta().ends_before(&next.meta().min_key));
            assert!(fits, "tables of one level do not overlap");
        }
        tables.insert(place, table);
        levels.note_change();
        self.note_range_deletes();
    }

    pub(crate) fn remove(&mut self, keyspace: KeyspaceId, hashes: &BTreeSet<FileHash>) {
        if let Some(levels) = self.keyspaces.get_mut(&keyspace) {
            let levels = Arc::make_mut(levels);
            levels.levels.iter_mut().for_each(|tables| tables.retain(|table| !hashes.contains(&table.meta().hash)));
            levels.note_change();
        }
        self.note_range_deletes();
    }

    /// Puts tables that were opened again in the places of the same ones.
    pub(crate) fn exchange(&mut self, tables: &[Arc<Table>]) {
        for table in tables {
            let Some(levels) = self.keyspaces.get_mut(&table.keyspace()) else { continue };
            let levels = Arc::make_mut(levels);
            for place in levels.levels.iter_mut().flatten().filter(|other| other.meta().hash == table.meta().hash) {
                *place = Arc::clone(table);
            }
            levels.note_change();
        }
    }

    pub(crate) fn remove_keyspace(&mut self, keyspace: KeyspaceId) {
        self.keyspaces.remove(&keyspace);
        self.note_range_deletes();
    }

    fn note_range_deletes(&mut self) {
        self.has_range_deletes = self.keyspaces.values().any(|levels| levels.has_range_deletes);
    }
}

/// Everything there was at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Takes commits.
    pub(crate) active: Arc<MemtableSet>,
    /// Wait to be written out, oldest first.
    pub(crate) frozen: Vec<Arc<FrozenSet>>,
    pub(crate) tables: Arc<TableSet>,
    /// Reads below it may miss versions.
    pub(crate) floor: Lsn,
    /// The times of readers from the floor on.
    pub(crate) marks: Arc<TimeMarks>,
}

impl View {
    /// The value of `key` as of `at`, which is not below the floor.
    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8], at: Moment) -> Result<Option<Value>> {
        debug_assert!(at.lsn >= self.floor);
        let mut resolver = match self.has_range_deletes() {
            true => Resolver::under(self.covers(keyspace)?.over(key, at.lsn).as_ref()),
            false => Resolver::default(),
        };
        if !self.versions_in_memory(keyspace, key, at.lsn, &mut resolver)
            && let Some(levels) = self.tables.levels(keyspace)
        {
            levels.versions(key, at.lsn, |lsn, content| resolver.take(lsn, content))?;
        }
        resolver.finish(at)
    }

    /// Whether ranges were deleted in any keyspace: nearly always not.
    fn has_range_deletes(&self) -> bool {
        let in_memory = |frozen: &Arc<FrozenSet>| frozen.set.has_range_deletes();
        self.tables.has_range_deletes || self.active.has_range_deletes() || self.frozen.iter().any(in_memory)
    }

    /// The deletes of ranges of a keyspace.
    pub(crate) fn covers(&self, keyspace: KeyspaceId) -> Result<Covers> {
        let mut covers = Covers::default();
        if !self.has_range_deletes() {
            return Ok(covers);
        }
        for set in std::iter::once(&self.active).chain(self.frozen.iter().map(|frozen| &frozen.set)) {
            if set.has_range_deletes() {
                covers.add(set.table(keyspace).and_then(|table| table.range_deletes()));
            }
        }
        if let Some(levels) = self.tables.levels(keyspace)
            && !planted(Mutant::RangeDeletesInTablesUnseen)
        {
            covers.add(levels.range_deletes()?);
        }
        Ok(covers)
    }

    /// Takes the versions of `key` that are in memtables. Says whether older ones do not matter.
    pub(crate) fn versions_in_memory(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        at: Lsn,
        resolver: &mut Resolver,
    ) -> bool {
        let sets = std::iter::once(&self.active).chain(self.frozen.iter().rev().map(|frozen| &frozen.set));
        for table in sets.filter_map(|set| set.table(keyspace)) {
            if table.versions(key, at, |lsn, content| resolver.take(lsn, content)) {
                return true;
            }
        }
        false
    }

    /// When the first and the last value of each part ends that has such values.
    pub(crate) fn expiries(&self) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let sets = std::iter::once(&self.active).chain(self.frozen.iter().map(|frozen| &frozen.set));
        let tables = self.tables.tables().filter_map(|(_, _, table)| table.meta().expiries());
        sets.filter_map(|set| set.expiries()).chain(tables)
    }

    /// Bytes of memtables, frozen ones included.
    pub(crate) fn memtable_bytes(&self) -> u64 {
        self.active.bytes() + self.frozen.iter().map(|frozen| frozen.set.bytes()).sum::<u64>()
    }
}
