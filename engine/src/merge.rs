//! Merging the versions of a key range from memtables and tables into one order, and resolving them at an LSN, in either
//! direction.

mod queue;
mod source;

use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::Lsn;

use self::queue::{Queue, Way};
use self::source::Source;
use crate::error::Result;
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::memtable::MemoryCursor;
use crate::range_deletes::Covers;
use crate::resolve::{Resolver, Value};
use crate::table::{EntryRef, LevelCursor, Table, TableCursor};
use crate::version::View;

/// Walks all versions in order: what compaction reads.
#[derive(Debug)]
pub(crate) struct Versions {
    queue: Queue,
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
        Ok(Self { queue: Queue::new(sources, Way::Forward) })
    }

    /// Hands over the next version, if there is one, and moves on.
    pub(crate) fn next<T>(&mut self, take: impl FnOnce(EntryRef<'_>) -> Result<T>) -> Result<Option<T>> {
        let Some(entry) = self.queue.entry() else { return Ok(None) };
        let taken = take(entry)?;
        self.queue.step()?;
        Ok(Some(taken))
    }
}

/// A place among versions from which a walk begins. `None` is the end on that side.
pub(crate) type Place<'a> = Option<(&'a [u8], Lsn)>;

/// Resolves a keyspace at an LSN, forward.
#[derive(Debug)]
pub(crate) struct Forward {
    queue: Queue,
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
        Ok(Self { queue: Queue::new(sources, Way::Forward), covers: view.covers(keyspace)?, at })
    }

    /// The next key that has a value, and its value.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Value)>> {
        loop {
            let Some(entry) = self.queue.entry() else { return Ok(None) };
            if entry.lsn > self.at.lsn {
                self.queue.step()?;
                continue;
            }
            let key = Bytes::copy_from_slice(entry.key);
            let cover = self.covers.over(&key, self.at.lsn);
            if let Some(cover) = cover.as_ref().filter(|cover| entry.lsn < cover.lsn) {
                // Nothing older can be seen, of this key here, and of all keys up to its end in what holds older ones only.
                self.queue.move_each(|source| match source.is_older_than(cover.lsn) {
                    true if source.place().is_some_and(|(key, _)| *key < *cover.end) => source.forward_to(&cover.end),
                    _ => source.forward_past(&key),
                })?;
                continue;
            }
            let mut resolver = Resolver::under(cover.as_ref());
            // They come newest first; once older ones do not matter, they are passed over.
            let mut done = false;
            while let Some(entry) = self.queue.entry().filter(|entry| entry.key == key) {
                done = done || resolver.take(entry.lsn, entry.content);
                self.queue.step()?;
            }
            if let Some(value) = resolver.finish(self.at)? {
                return Ok(Some((key, value)));
            }
        }
    }
}

/// Resolves a keyspace at an LSN, backward.
#[derive(Debug)]
pub(crate) struct Backward {
    queue: Queue,
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
        Ok(Self { queue: Queue::new(sources, Way::Backward), covers: view.covers(keyspace)?, at })
    }

    /// The next key before that has a value, and its value.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Value)>> {
        loop {
            let Some(entry) = self.queue.entry() else { return Ok(None) };
            let key = Bytes::copy_from_slice(entry.key);
            let cover = self.covers.over(&key, self.at.lsn);
            if let Some(cover) = &cover {
                let hidden = |source: &Source| {
                    source.is_older_than(cover.lsn) && source.place().is_some_and(|(key, _)| *key >= *cover.start)
                };
                if self.queue.any(hidden) {
                    self.queue.move_each(|source| match hidden(source) {
                        true => source.back_before(&cover.start),
                        false => Ok(()),
                    })?;
                }
            }
            let mut resolver = Resolver::under(cover.as_ref());
            while let Some(entry) = self.queue.entry().filter(|entry| entry.key == key) {
                if entry.lsn <= self.at.lsn {
                    resolver.take(entry.lsn, entry.content);
                }
                self.queue.step()?;
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
