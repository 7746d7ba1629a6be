//! Merging the versions of a key range from memtables and tables into one order, and resolving them at an LSN, in either
//! direction.

use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::Lsn;

use crate::error::Result;
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::memtable::MemoryCursor;
use crate::range_deletes::Covers;
use crate::resolve::{Resolver, Value};
use crate::table::{EntryRef, LevelCursor, Table, TableCursor, version_order};
use crate::version::View;

/// One ordered run of versions.
#[derive(Debug)]
pub(crate) enum Source {
    Memory(MemoryCursor),
    Table(TableCursor),
    Level(LevelCursor),
}

impl Source {
    fn entry(&self) -> Option<EntryRef<'_>> {
        match self {
            Self::Memory(cursor) => cursor.entry(),
            Self::Table(cursor) => cursor.entry(),
            Self::Level(cursor) => cursor.entry(),
        }
    }

    fn forward(&mut self) -> Result<()> {
        match self {
            Self::Memory(cursor) => {
                cursor.forward();
                Ok(())
            }
            Self::Table(cursor) => cursor.forward(),
            Self::Level(cursor) => cursor.forward(),
        }
    }

    fn back(&mut self) -> Result<()> {
        match self {
            Self::Memory(cursor) => {
                cursor.back();
                Ok(())
            }
            Self::Table(cursor) => cursor.back(),
            Self::Level(cursor) => cursor.back(),
        }
    }
}

impl Source {
    /// Whether it has nothing as new as `lsn`, as far as that is known.
    fn is_older_than(&self, lsn: Lsn) -> bool {
        match self {
            // What it will have is newer than any reader.
            Self::Memory(_) => false,
            Self::Table(cursor) => cursor.max_lsn() < lsn,
            Self::Level(cursor) => cursor.max_lsn() < lsn,
        }
    }

    fn forward_past(&mut self, key: &[u8]) -> Result<()> {
        while self.entry().is_some_and(|entry| entry.key == key) {
            self.forward()?;
        }
        Ok(())
    }

    /// To the first version of a key that is not less.
    fn forward_to(&mut self, key: &[u8]) -> Result<()> {
        match self {
            Self::Memory(_) => {
                while self.entry().is_some_and(|entry| entry.key < key) {
                    self.forward()?;
                }
                Ok(())
            }
            Self::Table(cursor) => cursor.forward_to(key),
            Self::Level(cursor) => cursor.forward_to(key),
        }
    }

    /// To the last version of a key that is less.
    fn back_before(&mut self, key: &[u8]) -> Result<()> {
        match self {
            Self::Memory(_) => {
                while self.entry().is_some_and(|entry| entry.key >= key) {
                    self.back()?;
                }
                Ok(())
            }
            Self::Table(cursor) => cursor.back_before(key),
            Self::Level(cursor) => cursor.back_before(key),
        }
    }
}

/// Walks all versions in order: what compaction reads.
#[derive(Debug)]
pub(crate) struct Versions {
    sources: Vec<Source>,
}

impl Versions {
    /// Of level 0 tables, which overlap, and of runs of tables that do not, from a key on.
    pub(crate) fn of_tables(
        overlapping: &[Arc<Table>],
        runs: Vec<Vec<Arc<Table>>>,
        from: Option<&[u8]>,
    ) -> Result<Self> {
        let from = from.map(|key| (key, Lsn::MAX));
        let mut sources = Vec::new();
        for table in overlapping {
            sources.push(Source::Table(TableCursor::first_from(Arc::clone(table), from)?));
        }
        for run in runs {
            sources.push(Source::Level(LevelCursor::first_from(run, from)?));
        }
        Ok(Self { sources })
    }

    /// Hands over the next version, if there is one, and moves on.
    pub(crate) fn next<T>(&mut self, take: impl FnOnce(EntryRef<'_>) -> Result<T>) -> Result<Option<T>> {
        let Some(index) = least(&self.sources) else { return Ok(None) };
        let taken = take(self.sources[index].entry().expect("the least source has an entry"))?;
        self.sources[index].forward()?;
        Ok(Some(taken))
    }
}

fn least(sources: &[Source]) -> Option<usize> {
    let entries = sources.iter().enumerate().filter_map(|(index, source)| Some((index, source.entry()?)));
    entries.min_by(|(_, a), (_, b)| version_order((a.key, a.lsn), (b.key, b.lsn))).map(|(index, _)| index)
}

/// A place among versions from which a walk begins. `None` is the end on that side.
pub(crate) type Place<'a> = Option<(&'a [u8], Lsn)>;

/// Resolves a keyspace at an LSN, forward.
#[derive(Debug)]
pub(crate) struct Forward {
    sources: Vec<Source>,
    covers: Covers,
    at: Moment,
}

impl Forward {
    pub(crate) fn new(view: &View, keyspace: KeyspaceId, at: Moment, from: Place<'_>) -> Result<Self> {
        let sources = sources(
            view,
            keyspace,
            |table| Ok(MemoryCursor::first_from(table, from)),
            |table| TableCursor::first_from(table, from),
            |tables| LevelCursor::first_from(tables, from),
        )?;
        Ok(Self { sources, covers: view.covers(keyspace)?, at })
    }

    /// The next key that has a value, and its value.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Value)>> {
        loop {
            let Some(index) = least(&self.sources) else { return Ok(None) };
            let entry = self.sources[index].entry().expect("the least source has an entry");
            if entry.lsn > self.at.lsn {
                self.sources[index].forward()?;
                continue;
            }
            let key = Bytes::copy_from_slice(entry.key);
            let cover = self.covers.over(&key, self.at.lsn);
            if let Some(cover) = cover.as_ref().filter(|cover| entry.lsn < cover.lsn) {
                // Nothing older can be seen, of this key here, and of all keys up to its end in what holds older ones only.
                for source in &mut self.sources {
                    match source.is_older_than(cover.lsn) {
                        true if source.entry().is_some_and(|entry| *entry.key < *cover.end) => {
                            source.forward_to(&cover.end)?;
                        }
                        _ => source.forward_past(&key)?,
                    }
                }
                continue;
            }
            let mut resolver = Resolver::under(cover.as_ref());
            if !resolver.take(entry.lsn, entry.content) {
                self.sources[index].forward()?;
                self.take_older(&key, &mut resolver)?;
            }
            self.sources.iter_mut().try_for_each(|source| source.forward_past(&key))?;
            if let Some(value) = resolver.finish(self.at)? {
                return Ok(Some((key, value)));
            }
        }
    }

    /// Takes versions of `key`, newest first, as long as older ones matter.
    fn take_older(&mut self, key: &[u8], resolver: &mut Resolver) -> Result<()> {
        while let Some(index) = least(&self.sources) {
            let entry = self.sources[index].entry().expect("the least source has an entry");
            if entry.key != key || resolver.take(entry.lsn, entry.content) {
                break;
            }
            self.sources[index].forward()?;
        }
        Ok(())
    }
}

/// Resolves a keyspace at an LSN, backward.
#[derive(Debug)]
pub(crate) struct Backward {
    sources: Vec<Source>,
    covers: Covers,
    at: Moment,
}

impl Backward {
    pub(crate) fn new(view: &View, keyspace: KeyspaceId, at: Moment, before: Place<'_>) -> Result<Self> {
        let sources = sources(
            view,
            keyspace,
            |table| Ok(MemoryCursor::last_before(table, before)),
            |table| TableCursor::last_before(table, before),
            |tables| LevelCursor::last_before(tables, before),
        )?;
        Ok(Self { sources, covers: view.covers(keyspace)?, at })
    }

    /// The next key before that has a value, and its value.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Value)>> {
        loop {
            let greatest = self.sources.iter().filter_map(|source| Some(source.entry()?.key)).max();
            let Some(key) = greatest.map(Bytes::copy_from_slice) else { return Ok(None) };
            let cover = self.covers.over(&key, self.at.lsn);
            let mut resolver = Resolver::under(cover.as_ref());
            // Within a source the versions of a key come oldest first on the way back.
            for source in &mut self.sources {
                if let Some(cover) = cover.as_ref().filter(|cover| source.is_older_than(cover.lsn)) {
                    if source.entry().is_some_and(|entry| *entry.key >= *cover.start) {
                        source.back_before(&cover.start)?;
                    }
                    continue;
                }
                while let Some(entry) = source.entry().filter(|entry| entry.key == key) {
                    if entry.lsn <= self.at.lsn {
                        resolver.take(entry.lsn, entry.content);
                    }
                    source.back()?;
                }
            }
            if let Some(value) = resolver.finish(self.at)? {
                return Ok(Some((key, value)));
            }
        }
    }
}

fn sources(
    view: &View,
    keyspace: KeyspaceId,
    memory: impl Fn(Arc<crate::memtable::Memtable>) -> Result<MemoryCursor>,
    table: impl Fn(Arc<Table>) -> Result<TableCursor>,
    level: impl Fn(Vec<Arc<Table>>) -> Result<LevelCursor>,
) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let sets = std::iter::once(&view.active).chain(view.frozen.iter().map(|frozen| &frozen.set));
    for set in sets {
        if let Some(found) = set.table(keyspace) {
            sources.push(Source::Memory(memory(Arc::clone(found))?));
        }
    }
    if let Some(levels) = view.tables.levels(keyspace) {
        for found in levels.level(0) {
            sources.push(Source::Table(table(Arc::clone(found))?));
        }
        for (_, tables) in levels.iter().skip(1).filter(|(_, tables)| !tables.is_empty()) {
            sources.push(Source::Level(level(tables.to_vec())?));
        }
    }
    Ok(sources)
}
