//! Merging the versions of a key range from memtables and tables into one order, and resolving them at an LSN, in either
//! direction.

mod queue;
mod source;

use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::{Lsn, Timestamp};

use self::queue::{Queue, Way};
use self::source::{NEAR, Source};
use crate::error::Result;
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::memtable::MemoryCursor;
use crate::range_deletes::Covers;
use crate::resolve::{Resolver, Value};
use crate::table::{Content, EntryRef, LevelCursor, Table, TableCursor};
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

/// A key that has a value, where a walk is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// When the value ends, if it does.
    pub(crate) expiry: Option<Timestamp>,
}

impl Found<'_> {
    /// A copy of key and value.
    pub(crate) fn to_pair(self) -> (Bytes, Bytes) {
        (Bytes::copy_from_slice(self.key), Bytes::copy_from_slice(self.value))
    }
}

/// Resolves a keyspace at an LSN, forward.
#[derive(Debug)]
pub(crate) struct Forward {
    queue: Queue,
    covers: Covers,
    at: Moment,
    /// The key it is at or was at last; empty before the first, as no key is.
    key: Vec<u8>,
    /// Its value if versions had to be put together for it. Else it is where the queue is.
    held: Option<Value>,
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
        let queue = Queue::new(sources, Way::Forward);
        Ok(Self { queue, covers: view.covers(keyspace)?, at, key: Vec::new(), held: None })
    }

    /// Goes to the next key that has a value. Says whether there is one.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        self.held = None;
        self.pass_newer(Lsn::ZERO)?;
        loop {
            let Some(entry) = self.queue.entry() else { return Ok(false) };
            self.key.clear();
            self.key.extend_from_slice(entry.key);
            if entry.lsn > self.at.lsn {
                self.pass_newer(self.at.lsn)?;
                continue;
            }
            let cover = self.covers.over(&self.key, self.at.lsn);
            if let Some(cover) = cover.as_ref().filter(|cover| entry.lsn < cover.lsn) {
                // Nothing older can be seen, of this key here, and of all keys up to its end in what holds older ones only.
                self.queue.move_each(|source| match source.is_older_than(cover.lsn) {
                    true if source.place().is_some_and(|(key, _)| *key < *cover.end) => {
                        source.forward_to(&cover.end, Lsn::MAX)
                    }
                    _ => source.forward_past_newer(&self.key, Lsn::ZERO),
                })?;
                continue;
            }
            match entry.content {
                Content::Put(_) => return Ok(true),
                Content::Expiring { expiry, .. } if !self.at.is_past(expiry) => return Ok(true),
                _ => {}
            }
            let mut resolver = Resolver::under(cover.as_ref());
            // They come newest first; once older ones do not matter, they are passed over.
            while let Some(entry) = self.queue.entry().filter(|entry| *entry.key == *self.key) {
                if resolver.take(entry.lsn, entry.content) {
                    break;
                }
                self.queue.step()?;
            }
            self.pass_newer(Lsn::ZERO)?;
            self.held = resolver.finish(self.at)?;
            if self.held.is_some() {
                return Ok(true);
            }
        }
    }

    /// Passes over the versions of the key it is at that are newer than `than`; no version has LSN 0, so all are newer.
    fn pass_newer(&mut self, than: Lsn) -> Result<()> {
        let mut passed = 0;
        while self.queue.place().is_some_and(|(key, lsn)| *key == *self.key && lsn > than) {
            match passed {
                NEAR => self.queue.move_each(|source| source.forward_past_newer(&self.key, than))?,
                _ => self.queue.step()?,
            }
            passed += 1;
        }
        Ok(())
    }

    /// Where it is, after [`advance`](Self::advance) said that there is something.
    pub(crate) fn found(&self) -> Option<Found<'_>> {
        let (value, expiry) = match &self.held {
            Some(held) => (&held.bytes[..], held.expiry),
            None => {
                let content = self.queue.entry()?.content;
                (content.value()?, content.expiry())
            }
        };
        Some(Found { key: &self.key, value, expiry })
    }
}

/// Resolves a keyspace at an LSN, backward.
#[derive(Debug)]
pub(crate) struct Backward {
    queue: Queue,
    covers: Covers,
    keyspace: KeyspaceId,
    at: Moment,
    /// The key it is at, and its value.
    key: Vec<u8>,
    held: Option<Value>,
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
        let queue = Queue::new(sources, Way::Backward);
        Ok(Self { queue, covers: view.covers(keyspace)?, keyspace, at, key: Vec::new(), held: None })
    }

    /// Goes to the next key before that has a value. Says whether there is one. The view is the one it was made of.
    pub(crate) fn advance(&mut self, view: &View) -> Result<bool> {
        loop {
            self.held = None;
            let Some((key, _)) = self.queue.place() else { return Ok(false) };
            self.key.clear();
            self.key.extend_from_slice(key);
            let cover = self.covers.over(&self.key, self.at.lsn);
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
            // On the way back the versions of a key come oldest first.
            let mut passed = 0;
            while let Some(entry) = self.queue.entry().filter(|entry| *entry.key == *self.key && passed < NEAR) {
                if entry.lsn <= self.at.lsn {
                    resolver.take(entry.lsn, entry.content);
                }
                self.queue.step()?;
                passed += 1;
            }
            let is_of_key = |place: Option<(&[u8], Lsn)>| place.is_some_and(|(key, _)| *key == *self.key);
            self.held = if is_of_key(self.queue.place()) {
                // There are many, and the newest count: they are found from the other end.
                self.queue.move_each(|source| match is_of_key(source.place()) {
                    true => source.back_before(&self.key),
                    false => Ok(()),
                })?;
                view.get(self.keyspace, &self.key, self.at)?
            } else {
                resolver.finish(self.at)?
            };
            if self.held.is_some() {
                return Ok(true);
            }
        }
    }

    /// Where it is, after [`advance`](Self::advance) said that there is something.
    pub(crate) fn found(&self) -> Option<Found<'_>> {
        self.held.as_ref().map(|held| Found { key: &self.key, value: &held.bytes, expiry: held.expiry })
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
