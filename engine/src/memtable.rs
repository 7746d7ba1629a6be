//! What was committed and is not in tables yet: one ordered map per keyspace, frozen together at one LSN. One writer at
//! a time; any number of readers, who take no lock.
//!
//! The maps of a set share an arena (`arena`, of `chunk`s, which are got `ahead`), and each is a tree in it (`tree`, of `node`s). Nothing is
//! freed before the whole set is, so readers and cursors (`cursor`) refer to versions where they lie.

mod ahead;
mod arena;
mod chunk;
mod cursor;
mod node;
#[cfg(all(test, loom))]
mod orderings;
#[cfg(test)]
mod probe;
mod sync;
mod tree;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use seawall_wal::sync::Mutex;
use seawall_wal::{Lsn, Position, Timestamp};

use crate::format::KeyspaceId;
use crate::manifest::KeyspaceEntry;
use crate::payload::RANGE_DELETES_MAX;
use crate::range_deletes::{RangeDeletes, Removal};
use crate::table::{Content, EntryRef};
use arena::{Allocator, Arena, Record};
use node::Place;
use sync::SLOTS;
use tree::Tree;

pub(crate) use chunk::ChunkPool;
pub(crate) use cursor::MemoryCursor;
pub(crate) use tree::AHEAD;

/// Chains of keyspaces in a set. Few sets have more keyspaces than this.
const CHAINS: usize = 64;

/// The recent versions of one keyspace.
pub(crate) struct Memtable {
    tree: Tree,
    range_deletes: ArcSwapOption<RangeDeletes>,
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memtable")
    }
}

impl Memtable {
    /// Hands over the versions of `key` that are not newer than `at`, newest first, until `take` says that older ones do not
    /// matter; that is the answer.
    pub(crate) fn versions(&self, key: &[u8], at: Lsn, mut take: impl FnMut(Lsn, Content<'_>) -> bool) -> bool {
        let mut place = Place::Before(key, at);
        while let Some(found) = self.tree.first_behind(place).filter(|found| found.key() == key) {
            if take(found.lsn(), found.content()) {
                return true;
            }
            place = Place::After(key, found.lsn());
        }
        false
    }

    /// The LSN of the newest version of `key`.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<Lsn> {
        let found = self.tree.first_behind(Place::Before(key, Lsn::MAX)).map(entry)?;
        (found.key == key).then_some(found.lsn)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tree.is_empty() && self.range_deletes.load().is_none()
    }

    /// The ranges that were deleted, if any were.
    pub(crate) fn range_deletes(&self) -> Option<Arc<RangeDeletes>> {
        self.range_deletes.load_full()
    }

    /// All versions in order.
    pub(crate) fn for_each<E>(&self, mut visit: impl FnMut(EntryRef<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut page = Vec::with_capacity(SLOTS);
        self.tree.page_behind(Place::Start, &mut page);
        while let Some(last) = page.last().copied() {
            page.iter().try_for_each(|kept| visit(entry(self.tree.recall(*kept))))?;
            let last = self.tree.recall(last);
            self.tree.page_behind(Place::After(last.key(), last.lsn()), &mut page);
        }
        Ok(())
    }
}

fn entry(record: Record<'_>) -> EntryRef<'_> {
    EntryRef { key: record.key(), lsn: record.lsn(), content: record.content() }
}

/// The memtables of all keyspaces that are filled, and later written out, together.
pub(crate) struct MemtableSet {
    arena: Arc<Arena>,
    /// Chained by the keyspace's number; grown by the writer only.
    tables: [Chain; CHAINS],
    /// The first and the last time at which a value ends.
    expiries: Mutex<Option<(Timestamp, Timestamp)>>,
    /// What the deletes of ranges take.
    range_delete_bytes: AtomicU64,
    /// What one of them counts at least, so that they are never many: each is copied when another one comes.
    range_delete_bytes_min: u64,
}

type Chain = OnceLock<Box<Chained>>;

struct Chained {
    keyspace: KeyspaceId,
    table: Arc<Memtable>,
    next: Chain,
}

impl fmt::Debug for MemtableSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemtableSet({} bytes)", self.bytes())
    }
}

impl MemtableSet {
    pub(crate) fn new(pool: &Arc<ChunkPool>) -> Self {
        Self {
            arena: Arc::new(Arena::new(Arc::clone(pool))),
            tables: [const { OnceLock::new() }; CHAINS],
            expiries: Mutex::default(),
            range_delete_bytes: AtomicU64::new(0),
            range_delete_bytes_min: pool.memtable_bytes() / RANGE_DELETES_MAX as u64,
        }
    }

    /// The one writer; waits for another one to be done.
    pub(crate) fn writer(&self) -> MemtableWriter<'_> {
        MemtableWriter { set: self, allocator: self.arena.allocator(), current: None }
    }

    /// Whether ranges were deleted in any of its keyspaces.
    pub(crate) fn has_range_deletes(&self) -> bool {
        self.range_delete_bytes.load(Ordering::Relaxed) > 0
    }

    /// When the first and the last of its values end that do, if any does.
    pub(crate) fn expiries(&self) -> Option<(Timestamp, Timestamp)> {
        *self.expiries.lock()
    }

    pub(crate) fn table(&self, keyspace: KeyspaceId) -> Option<&Arc<Memtable>> {
        self.find(keyspace).ok()
    }

    /// In the order of their keyspaces.
    pub(crate) fn tables(&self) -> Vec<(KeyspaceId, Arc<Memtable>)> {
        let first = self.tables.iter().filter_map(Chain::get);
        let all = first.flat_map(|first| std::iter::successors(Some(first), |chained| chained.next.get()));
        let mut tables: Vec<_> = all.map(|chained| (chained.keyspace, Arc::clone(&chained.table))).collect();
        tables.sort_unstable_by_key(|(keyspace, _)| *keyspace);
        tables
    }

    /// How much memory its versions, their trees and range deletes take. One chunk of the arena more is reserved.
    pub(crate) fn bytes(&self) -> u64 {
        self.arena.taken() + self.range_delete_bytes.load(Ordering::Relaxed)
    }

    /// The table of a keyspace, or the end of the chain where it would be.
    fn find(&self, keyspace: KeyspaceId) -> Result<&Arc<Memtable>, &Chain> {
        let mut chain = &self.tables[keyspace.0 as usize % CHAINS];
        while let Some(chained) = chain.get() {
            if chained.keyspace == keyspace {
                return Ok(&chained.table);
            }
            chain = &chained.next;
        }
        Err(chain)
    }
}

/// Adds versions to a set. While there is one no other can be.
pub(crate) struct MemtableWriter<'a> {
    set: &'a MemtableSet,
    allocator: Allocator<'a>,
    /// Where the last version went; the next one goes there most often.
    current: Option<(KeyspaceId, &'a Memtable)>,
}

impl MemtableWriter<'_> {
    /// Adds a version; within one commit the last operation on a key replaces the one before.
    pub(crate) fn insert(&mut self, keyspace: KeyspaceId, key: &[u8], lsn: Lsn, content: Content<'_>) {
        if let Content::Expiring { expiry, .. } = content {
            let mut expiries = self.set.expiries.lock();
            let (first, last) = expiries.unwrap_or((expiry, expiry));
            *expiries = Some((first.min(expiry), last.max(expiry)));
        }
        let table = self.table(keyspace);
        table.tree.insert(&mut self.allocator, EntryRef { key, lsn, content });
    }

    /// Adds deletes of ranges.
    pub(crate) fn delete_ranges(&mut self, keyspace: KeyspaceId, removals: Vec<Removal>) {
        let weight = |removal: &Removal| removal.weight().max(self.set.range_delete_bytes_min);
        self.set.range_delete_bytes.fetch_add(removals.iter().map(weight).sum(), Ordering::Relaxed);
        let table = self.table(keyspace);
        let before = table.range_deletes();
        let before = before.iter().flat_map(|before| before.all()).cloned();
        table.range_deletes.store(Some(Arc::new(RangeDeletes::new(before.chain(removals).collect()))));
    }

    /// As of [`MemtableSet::bytes`].
    pub(crate) fn bytes(&self) -> u64 {
        self.set.bytes()
    }

    /// Gets ready for inserting so many keys of a keyspace, [`AHEAD`] at most, that are about to be. Changes nothing.
    pub(crate) fn anticipate(&self, keyspace: KeyspaceId, keys: &[&[u8]]) {
        if let Some(table) = self.set.table(keyspace) {
            table.tree.anticipate(&self.allocator, keys);
        }
    }
}

impl<'a> MemtableWriter<'a> {
    /// What the commit at `lsn` has done to a key so far, if anything.
    pub(crate) fn done(&mut self, keyspace: KeyspaceId, key: &[u8], lsn: Lsn) -> Option<Content<'a>> {
        let found = self.table(keyspace).tree.first_behind(Place::Before(key, lsn))?;
        (found.key() == key && found.lsn() == lsn).then(|| found.content())
    }

    fn table(&mut self, keyspace: KeyspaceId) -> &'a Memtable {
        match self.current {
            Some((current, table)) if current == keyspace => table,
            _ => self.turn_to(keyspace),
        }
    }

    fn turn_to(&mut self, keyspace: KeyspaceId) -> &'a Memtable {
        let table = self.set.find(keyspace).unwrap_or_else(|end| {
            let table = Arc::new(Memtable {
                tree: Tree::new(&self.set.arena, &mut self.allocator),
                range_deletes: ArcSwapOption::empty(),
            });
            &end.get_or_init(|| Box::new(Chained { keyspace, table, next: OnceLock::new() })).table
        });
        self.current = Some((keyspace, table));
        table
    }
}

/// Memtables that take nothing more, and everything their manifest will say.
#[derive(Debug)]
pub(crate) struct FrozenSet {
    pub(crate) set: Arc<MemtableSet>,
    /// Everything up to here that is not in tables is in this set or in older ones.
    pub(crate) end: Position,
    /// The time of the last record at or below `end`.
    pub(crate) time: Timestamp,
    /// Where the records before the segment of `end` end, if that is known without the log.
    pub(crate) log_start: Option<Position>,
    /// The keyspaces as of `end`.
    pub(crate) keyspaces: Vec<KeyspaceEntry>,
    pub(crate) next_keyspace: u32,
}

#[cfg(test)]
mod tests;
