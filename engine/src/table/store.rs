//! The store of open tables and of the blob files they refer to: gives finished ones their names, hands out open ones, and
//! removes files that no version of the database uses any more. A blob file is used as long as an open table refers to it.
//! Names are given and taken under one lock, so neither can overtake the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use seawall_wal::storage::Storage;
use seawall_wal::sync::Mutex;

use super::block::Block;
use super::{FinishedTable, Placement, Table, TableMeta, TableWriter};
use crate::blob::{BlobFile, BlobMeta, BlobPolicy, FinishedBlob};
use crate::error::{Result, at};
use crate::file::{FileHash, FileKind, TABLES_FOLDER};
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};

/// Blocks in memory, bounded by their bytes.
#[derive(Debug)]
pub(crate) struct BlockCache {
    blocks: Cache<(u64, u64), Block, ByBytes>,
    capacity: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<(u64, u64), Block> for ByBytes {
    fn weight(&self, _: &(u64, u64), block: &Block) -> u64 {
        block.weight()
    }
}

impl BlockCache {
    fn new(capacity: u64) -> Self {
        let items = (capacity / (16 << 10)).clamp(64, 1 << 20) as usize;
        let blocks = Cache::with_weighter(items, capacity, ByBytes);
        Self { blocks, capacity, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    pub(super) fn get(&self, table: u64, offset: u64) -> Option<Block> {
        let block = self.blocks.get(&(table, offset));
        let counter = if block.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        block
    }

    pub(super) fn insert(&self, table: u64, offset: u64, block: Block) {
        self.blocks.insert((table, offset), block);
    }
}

/// How the cache of blocks does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes it holds.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
    /// Blocks found in it.
    pub hits: u64,
    /// Blocks that had to be read.
    pub misses: u64,
}

/// All open tables.
#[derive(Debug)]
pub(crate) struct TableStore {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    cache: Arc<BlockCache>,
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    tables: BTreeMap<FileHash, Arc<Table>>,
    /// Open tables that no current version uses.
    obsolete: BTreeSet<FileHash>,
    /// Open tables that no version here uses, and that the next opening may find current all the same.
    held: BTreeSet<FileHash>,
    /// Those that open tables refer to, and those whose last one was closed since files were removed.
    blobs: BTreeMap<FileHash, Arc<BlobFile>>,
}

impl TableStore {
    /// A store of the data directory `root`, whose folder of tables exists.
    pub(crate) fn new(storage: Arc<dyn Storage>, root: &Path, cache_bytes: u64) -> Self {
        let cache = Arc::new(BlockCache::new(cache_bytes));
        let folder = root.join(TABLES_FOLDER);
        Self { storage, folder, cache, next: AtomicU64::new(1), open: Mutex::default() }
    }

    pub(crate) fn cache_stats(&self) -> CacheStats {
        CacheStats {
            bytes: self.cache.blocks.weight(),
            capacity_bytes: self.cache.capacity,
            hits: self.cache.hits.load(Ordering::Relaxed),
            misses: self.cache.misses.load(Ordering::Relaxed),
        }
    }

    /// Starts a table.
    pub(crate) fn writer(&self, keyspace: KeyspaceId, placement: Placement, policy: BlobPolicy) -> Result<TableWriter> {
        let path = self.folder.join(format!("{}.tmp", self.next.fetch_add(1, Ordering::Relaxed)));
        TableWriter::create(Arc::clone(&self.storage), &path, keyspace, placement, policy)
    }

    /// Gives a finished table and its blob files their names and opens them. The folder is not synced yet. If it fails, none
    /// of the files stays, or not for longer than until the next look at what is [not used](Self::collect).
    pub(crate) fn adopt(&self, finished: FinishedTable) -> Result<Arc<Table>> {
        let mut open = self.open.lock();
        let FinishedTable { keyspace, meta, temporary, blobs } = finished;
        // Before the table, which cannot be opened without them.
        blobs.into_iter().try_for_each(|blob| self.adopt_blob(&mut open, keyspace, blob))?;
        if let Some(table) = open.tables.get(&meta.hash).cloned() {
            open.obsolete.remove(&meta.hash);
            return Ok(table);
        }
        let hash = meta.hash;
        temporary.rename(&self.path(FileKind::Table, &hash))?;
        // Nothing else names a file that is not open.
        self.open_in(&mut open, keyspace, meta).inspect_err(|_| self.remove(FileKind::Table, &hash))
    }

    fn adopt_blob(&self, open: &mut Open, keyspace: KeyspaceId, finished: FinishedBlob) -> Result<()> {
        let FinishedBlob { meta, temporary } = finished;
        if open.blobs.contains_key(&meta.hash) {
            return Ok(());
        }
        temporary.rename(&self.path(FileKind::Blob, &meta.hash))?;
        self.open_blob_in(open, keyspace, meta).inspect_err(|_| self.remove(FileKind::Blob, &meta.hash))
    }

    /// Opens a blob file that the manifest names, for the tables that refer to it.
    pub(crate) fn open_blob(&self, keyspace: KeyspaceId, meta: BlobMeta) -> Result<()> {
        self.open_blob_in(&mut self.open.lock(), keyspace, meta)
    }

    fn open_blob_in(&self, open: &mut Open, keyspace: KeyspaceId, meta: BlobMeta) -> Result<()> {
        let path = self.path(FileKind::Blob, &meta.hash);
        let file = BlobFile::open(&*self.storage, &path, keyspace, meta)?;
        open.blobs.insert(meta.hash, Arc::new(file));
        Ok(())
    }

    fn path(&self, kind: FileKind, hash: &FileHash) -> PathBuf {
        self.folder.join(kind.file_name(hash))
    }

    /// Opens a table that the manifest names.
    pub(crate) fn open(&self, keyspace: KeyspaceId, meta: TableMeta) -> Result<Arc<Table>> {
        self.open_in(&mut self.open.lock(), keyspace, meta)
    }

    fn open_in(&self, open: &mut Open, keyspace: KeyspaceId, meta: TableMeta) -> Result<Arc<Table>> {
        let hash = meta.hash;
        let path = self.path(FileKind::Table, &hash);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (storage, cache) = (Arc::clone(&self.storage), Arc::clone(&self.cache));
        let find_blob = |hash: &FileHash| open.blobs.get(hash).cloned();
        let table = Arc::new(Table::open(storage, &path, keyspace, meta, id, cache, find_blob)?);
        open.tables.insert(hash, Arc::clone(&table));
        Ok(table)
    }

    /// Open files that turned out to be damaged.
    pub(crate) fn damages(&self) -> Vec<(FileKind, FileHash)> {
        let open = self.open.lock();
        let tables = open.tables.values().filter(|table| table.is_damaged());
        let blobs = open.blobs.values().filter(|blob| blob.is_damaged());
        let tables = tables.map(|table| (FileKind::Table, table.meta().hash));
        tables.chain(blobs.map(|blob| (FileKind::Blob, blob.meta().hash))).collect()
    }

    /// Opens a file again that was written again, and the tables that refer to it. Those who read the old ones go on with
    /// them.
    pub(crate) fn reopen(&self, kind: FileKind, hash: &FileHash) -> Result<Vec<Arc<Table>>> {
        let mut open = self.open.lock();
        let before: Vec<Arc<Table>> = match kind {
            FileKind::Table => open.tables.get(hash).cloned().into_iter().collect(),
            FileKind::Blob => {
                let Some(blob) = open.blobs.get(hash).cloned() else { return Ok(Vec::new()) };
                self.open_blob_in(&mut open, blob.keyspace(), *blob.meta())?;
                let refers = |table: &&Arc<Table>| table.blobs().iter().any(|known| known.file.meta().hash == *hash);
                open.tables.values().filter(refers).cloned().collect()
            }
        };
        before.into_iter().map(|table| self.open_in(&mut open, table.keyspace(), table.meta().clone())).collect()
    }

    /// Makes the names given so far survive power loss.
    pub(crate) fn sync(&self) -> Result<()> {
        if planted(Mutant::TablesFolderNotSynced) {
            return Ok(());
        }
        self.storage.sync_dir(&self.folder).map_err(at("sync", &self.folder))
    }

    /// These tables are in no current version any more. Their files go once nobody reads them.
    pub(crate) fn release(&self, tables: impl IntoIterator<Item = FileHash>) {
        self.open.lock().obsolete.extend(tables);
    }

    /// Writing down a version with these tables failed half-way: it may or may not be the current one at the next opening.
    /// Whoever releases them, their files stay until that is [settled](Self::settle).
    pub(crate) fn hold(&self, tables: impl IntoIterator<Item = FileHash>) {
        self.open.lock().held.extend(tables);
    }

    /// A version with `current` tables was written down, so nothing else can be current: all others that were held go.
    pub(crate) fn settle(&self, current: &BTreeSet<FileHash>) {
        let mut open = self.open.lock();
        let held = std::mem::take(&mut open.held);
        open.obsolete.extend(held.difference(current));
    }

    /// Removes the files of obsolete tables that nobody reads, and blob files that no other table refers to. Says how many obsolete ones are left.
    pub(crate) fn collect(&self) -> usize {
        let mut open = self.open.lock();
        let open = &mut *open;
        open.obsolete.retain(|hash| {
            if open.held.contains(hash) {
                return true;
            }
            // Only the store's own reference is left, and new ones come from the store alone, which is locked.
            let unused = open.tables.get(hash).is_none_or(|table| Arc::strong_count(table) == 1);
            if unused {
                open.tables.remove(hash);
                self.remove(FileKind::Table, hash);
            }
            !unused
        });
        open.blobs.retain(|hash, blob| {
            // As above; a table that refers to it holds it.
            let used = Arc::strong_count(blob) > 1;
            if !used {
                self.remove(FileKind::Blob, hash);
            }
            used
        });
        open.obsolete.len()
    }

    fn remove(&self, kind: FileKind, hash: &FileHash) {
        let path = self.path(kind, hash);
        if let Err(error) = self.storage.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a {kind} that is not needed any more");
        }
    }

    /// Removes every file of the folder that is not open.
    pub(crate) fn sweep(&self) -> Result<usize> {
        let open = self.open.lock();
        let tables = open.tables.keys().map(|hash| FileKind::Table.file_name(hash));
        let keep: BTreeSet<String> =
            tables.chain(open.blobs.keys().map(|hash| FileKind::Blob.file_name(hash))).collect();
        let ours =
            |name: &str| name.ends_with(".tmp") || FileKind::ALL.iter().any(|kind| name.ends_with(kind.ending()));
        let mut removed = 0;
        for name in self.storage.list(&self.folder).map_err(at("list", &self.folder))? {
            if !keep.contains(&name) && ours(&name) {
                let path = self.folder.join(name);
                self.storage.remove(&path).map_err(at("remove", &path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}
