//! Merging the versions of a key range from memtables and tables into one order, and resolving them at an LSN, in either
//! direction.

use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::Lsn;

use crate::error::Result;
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::memtable::MemoryCursor;
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
        Ok(Self { sources, at })
    }

    /// The next key that has a value, and its value.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Value)>> {
        let mut resolver = Resolver::default();
        loop {
            let Some(index) = least(&self.sources) else { return Ok(None) };
            let entry = self.sources[index].entry().expect("the least source has an entry");
            if entry.lsn > self.at.lsn {
                self.sources[index].forward()?;
                continue;
            }
            let key = Bytes::copy_from_slice(entry.key);
            if !resolver.take(entry.lsn, entry.content) {
                self.sources[index].forward()?;
                self.take_older(&key, &mut resolver)?;
            }
            for source in &mut self.sources {
                while source.entry().is_some_and(|entry| entry.key == key) {
                    source.forward()?;
                }
            }
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
        Ok(Self { sources, at })
    }

    /// The next key before that has a value, and its value.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Value)>> {
        let mut resolver = Resolver::default();
        loop {
            let greatest = self.sources.iter().filter_map(|source| Some(source.entry()?.key)).max();
            let Some(key) = greatest.map(Bytes::copy_from_slice) else { return Ok(None) };
            // Within a source the versions of a key come oldest first on the way back.
            for source in &mut self.sources {
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
