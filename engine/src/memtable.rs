//! What was committed and is not in tables yet: one ordered map per keyspace, frozen together at one LSN. One writer at
//! a time, any number of readers, who are never blocked.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use crossbeam_skiplist::SkipMap;
use parking_lot::RwLock;
use seawall_wal::{Lsn, Position, Timestamp};

use crate::format::KeyspaceId;
use crate::manifest::KeyspaceEntry;
use crate::table::{EntryRef, version_order};

/// What an entry costs beyond its key and value: tower, node and two handles.
const ENTRY_OVERHEAD: u64 = 160;
/// How many entries a cursor takes along at once, at first and at most.
const CHUNK_MIN: usize = 4;
const CHUNK_MAX: usize = 64;

/// A version of a key, ordered as everywhere: by key, newer first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    key: Bytes,
    lsn: Lsn,
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        version_order((&self.key, self.lsn), (&other.key, other.lsn))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The recent versions of one keyspace.
#[derive(Default)]
pub(crate) struct Memtable {
    versions: SkipMap<Version, Option<Bytes>>,
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memtable({} versions)", self.versions.len())
    }
}

impl Memtable {
    /// Adds a version; within one commit the last operation on a key replaces the one before. Returns bytes it costs.
    fn insert(&self, key: &[u8], lsn: Lsn, value: Option<&[u8]>) -> u64 {
        let value_len = value.map_or(0, <[u8]>::len);
        let mut bytes = BytesMut::with_capacity(key.len() + value_len);
        bytes.put_slice(key);
        bytes.put_slice(value.unwrap_or_default());
        let bytes = bytes.freeze();
        let version = Version { key: bytes.slice(..key.len()), lsn };
        self.versions.insert(version, value.map(|_| bytes.slice(key.len()..)));
        (key.len() + value_len) as u64 + ENTRY_OVERHEAD
    }

    /// The newest version of `key` not newer than `at`: its value, or that it was deleted. `None` if there is none.
    fn get(&self, key: &[u8], at: Lsn) -> Option<Option<Bytes>> {
        let from = Version { key: Bytes::copy_from_slice(key), lsn: at };
        let found = self.versions.lower_bound(Bound::Included(&from))?;
        (found.key().key == key).then(|| found.value().clone())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// All versions in order.
    pub(crate) fn for_each<E>(&self, mut visit: impl FnMut(EntryRef<'_>) -> Result<(), E>) -> Result<(), E> {
        self.versions.iter().try_for_each(|entry| {
            let value = entry.value().as_deref();
            visit(EntryRef { key: &entry.key().key, lsn: entry.key().lsn, value })
        })
    }
}

/// The memtables of all keyspaces that are filled, and later written out, together.
#[derive(Debug, Default)]
pub(crate) struct MemtableSet {
    tables: RwLock<BTreeMap<KeyspaceId, Arc<Memtable>>>,
    bytes: AtomicU64,
}

impl MemtableSet {
    pub(crate) fn insert(&self, keyspace: KeyspaceId, key: &[u8], lsn: Lsn, value: Option<&[u8]>) {
        let existing = self.tables.read().get(&keyspace).cloned();
        let table = existing.unwrap_or_else(|| Arc::clone(self.tables.write().entry(keyspace).or_default()));
        let cost = table.insert(key, lsn, value);
        self.bytes.fetch_add(cost, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8], at: Lsn) -> Option<Option<Bytes>> {
        self.table(keyspace)?.get(key, at)
    }

    pub(crate) fn table(&self, keyspace: KeyspaceId) -> Option<Arc<Memtable>> {
        self.tables.read().get(&keyspace).cloned()
    }

    pub(crate) fn tables(&self) -> Vec<(KeyspaceId, Arc<Memtable>)> {
        self.tables.read().iter().map(|(id, table)| (*id, Arc::clone(table))).collect()
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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

/// A place among the versions of a memtable that may grow meanwhile; newer versions do not disturb it.
#[derive(Debug)]
pub(crate) struct MemoryCursor {
    table: Arc<Memtable>,
    /// The entries ahead in the direction of travel; the first is the current one.
    ahead: VecDeque<(Version, Option<Bytes>)>,
    chunk: usize,
}

impl MemoryCursor {
    /// At the first version at or after the place, or the very first.
    pub(crate) fn first_from(table: Arc<Memtable>, from: Option<(&[u8], Lsn)>) -> Self {
        let mut cursor = Self { table, ahead: VecDeque::new(), chunk: CHUNK_MIN };
        let from = from.map(|(key, lsn)| Version { key: Bytes::copy_from_slice(key), lsn });
        cursor.fill_forward(from.as_ref().map_or(Bound::Unbounded, Bound::Included));
        cursor
    }

    /// At the last version before the place, or the very last.
    pub(crate) fn last_before(table: Arc<Memtable>, before: Option<(&[u8], Lsn)>) -> Self {
        let mut cursor = Self { table, ahead: VecDeque::new(), chunk: CHUNK_MIN };
        let before = before.map(|(key, lsn)| Version { key: Bytes::copy_from_slice(key), lsn });
        cursor.fill_back(before.as_ref().map_or(Bound::Unbounded, Bound::Excluded));
        cursor
    }

    pub(crate) fn entry(&self) -> Option<EntryRef<'_>> {
        self.ahead.front().map(|(version, value)| EntryRef {
            key: &version.key,
            lsn: version.lsn,
            value: value.as_deref(),
        })
    }

    pub(crate) fn forward(&mut self) {
        if let Some((last, _)) = self.ahead.pop_front()
            && self.ahead.is_empty()
        {
            self.fill_forward(Bound::Excluded(&last));
        }
    }

    pub(crate) fn back(&mut self) {
        if let Some((last, _)) = self.ahead.pop_front()
            && self.ahead.is_empty()
        {
            self.fill_back(Bound::Excluded(&last));
        }
    }

    fn fill_forward(&mut self, from: Bound<&Version>) {
        let range = self.table.versions.range((from, Bound::<&Version>::Unbounded));
        self.ahead.extend(range.take(self.chunk).map(|entry| (entry.key().clone(), entry.value().clone())));
        self.chunk = (self.chunk * 2).min(CHUNK_MAX);
    }

    fn fill_back(&mut self, before: Bound<&Version>) {
        let range = self.table.versions.range((Bound::<&Version>::Unbounded, before)).rev();
        self.ahead.extend(range.take(self.chunk).map(|entry| (entry.key().clone(), entry.value().clone())));
        self.chunk = (self.chunk * 2).min(CHUNK_MAX);
    }
}
