//! Writing a table: versions come in order, a synced file under a temporary name comes out. Giving it its name is the
//! store's business, so that a name is never given and taken away at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::Lsn;
use seawall_wal::storage::{Access, File, Storage, write_all_at};

use super::block::{self, BLOCK_TARGET, BlockBuilder, BlockKind, Content, EntryRef};
use super::version_order;
use super::{FOOTER_LEN, FOOTER_MAGIC, HEADER_LEN, HEADER_MAGIC, TABLE_VERSION, TableHash, TableMeta, filter};
use crate::codec::{Put, len_u16};
use crate::error::{Result, at};
use crate::format::KeyspaceId;

const BUFFER_LEN: usize = 1 << 20;

/// Whether data blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// For tables that are soon merged into others.
    None,
    /// zstd at its fast end.
    Zstd,
}

impl Compression {
    fn level(self) -> Option<i32> {
        match self {
            Self::None => None,
            Self::Zstd => Some(1),
        }
    }
}

/// A table in the making. Dropped unfinished, it removes its file.
pub(crate) struct TableWriter {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    file: Arc<dyn File>,
    unfinished: bool,
    keyspace: KeyspaceId,
    compression: Compression,
    buffer: Vec<u8>,
    /// Bytes given to the file; the buffer follows.
    written: u64,
    digest: blake3::Hasher,
    data: BlockBuilder,
    index: BlockBuilder,
    blocks: u32,
    hashes: Vec<u64>,
    last_key: Vec<u8>,
    last_lsn: Lsn,
    first_key: Vec<u8>,
    entries: u64,
    tombstones: u64,
    min_lsn: Lsn,
    max_lsn: Lsn,
}

/// A table that is whole and synced under a temporary name.
#[derive(Debug)]
pub(crate) struct FinishedTable {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) meta: TableMeta,
    pub(crate) temporary: PathBuf,
}

impl TableWriter {
    /// Starts a table in the file `path`, which must not exist.
    pub(crate) fn create(
        storage: Arc<dyn Storage>,
        path: &Path,
        keyspace: KeyspaceId,
        compression: Compression,
    ) -> Result<Self> {
        let file = storage.open(path, Access::CreateNew).map_err(at("create", path))?;
        let mut buffer = Vec::with_capacity(BUFFER_LEN);
        buffer.put(&HEADER_MAGIC);
        buffer.put_u32(TABLE_VERSION);
        buffer.put_u32(keyspace.0);
        debug_assert_eq!(buffer.len(), HEADER_LEN);
        Ok(Self {
            storage,
            path: path.to_owned(),
            file,
            unfinished: true,
            keyspace,
            compression,
            buffer,
            written: 0,
            digest: blake3::Hasher::new(),
            data: BlockBuilder::default(),
            index: BlockBuilder::default(),
            blocks: 0,
            hashes: Vec::new(),
            last_key: Vec::new(),
            last_lsn: Lsn::MAX,
            first_key: Vec::new(),
            entries: 0,
            tombstones: 0,
            min_lsn: Lsn::MAX,
            max_lsn: Lsn::ZERO,
        })
    }

    /// Adds the next version, which comes after all before it.
    pub(crate) fn push(&mut self, entry: EntryRef<'_>) -> Result<()> {
        let first = self.entries == 0;
        // An entry larger than a block stands alone in one, so that small ones beside it stay cheap to read.
        let len = entry.key.len() + entry.content.value().map_or(0, <[u8]>::len);
        if !self.data.is_empty() && self.data.len() + len > 2 * BLOCK_TARGET {
            self.close_block()?;
        }
        assert!(
            first || version_order((&self.last_key, self.last_lsn), (entry.key, entry.lsn)).is_lt(),
            "versions are written in order"
        );
        if first {
            self.first_key = entry.key.to_vec();
        }
        if first || self.last_key != entry.key {
            self.hashes.push(filter::hash(entry.key));
            self.last_key.clear();
            self.last_key.extend_from_slice(entry.key);
        }
        self.last_lsn = entry.lsn;
        self.entries += 1;
        self.tombstones += u64::from(entry.content == Content::Delete);
        self.min_lsn = self.min_lsn.min(entry.lsn);
        self.max_lsn = self.max_lsn.max(entry.lsn);
        self.data.push(entry);
        if self.data.len() >= BLOCK_TARGET { self.close_block() } else { Ok(()) }
    }

    /// Whether it has nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// About how many bytes the file has.
    pub(crate) fn size(&self) -> u64 {
        self.written + (self.buffer.len() + self.data.len() + self.index.len()) as u64
    }

    /// The key added last.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Writes what is left and syncs the file. There must be at least one version.
    pub(crate) fn finish(mut self) -> Result<FinishedTable> {
        assert!(!self.is_empty(), "a table holds something");
        if !self.data.is_empty() {
            self.close_block()?;
        }
        let (raw, blocks) = filter::build(&self.hashes);
        let filter_at = self.write_block(BlockKind::Filter, &raw, blocks)?.0;
        let (raw, count) = self.index.take();
        let index_at = self.write_block(BlockKind::Index, &raw, count)?.0;
        let mut raw = Vec::new();
        raw.put_u16(len_u16(self.first_key.len()));
        raw.put_u16(len_u16(self.last_key.len()));
        raw.put(&self.first_key);
        raw.put(&self.last_key);
        let properties_at = self.write_block(BlockKind::Properties, &raw, 2)?.0;
        let size = self.position() + FOOTER_LEN as u64;
        let mut footer = Vec::with_capacity(FOOTER_LEN);
        for field in [index_at, filter_at, properties_at, self.entries, self.tombstones] {
            footer.put_u64(field);
        }
        footer.put_u64(self.min_lsn.offset());
        footer.put_u64(self.max_lsn.offset());
        footer.put_u64(size);
        footer.put_u32(self.keyspace.0);
        footer.put_u32(self.blocks);
        footer.put_u32(TABLE_VERSION);
        footer.put_u32(0);
        let crc = crc32fast::hash(&footer);
        footer.put_u32(crc);
        footer.put_u32(0);
        footer.put(&FOOTER_MAGIC);
        debug_assert_eq!(footer.len(), FOOTER_LEN);
        self.buffer.put(&footer);
        self.write_buffer()?;
        self.file.sync_data().map_err(at("sync", &self.path))?;
        self.unfinished = false;
        let meta = TableMeta {
            hash: TableHash::from_bytes(*self.digest.finalize().as_bytes()),
            size,
            entries: self.entries,
            tombstones: self.tombstones,
            min_lsn: self.min_lsn,
            max_lsn: self.max_lsn,
            min_key: std::mem::take(&mut self.first_key),
            max_key: std::mem::take(&mut self.last_key),
        };
        Ok(FinishedTable { keyspace: self.keyspace, meta, temporary: self.path.clone() })
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Closes the block that ends with the version added last.
    fn close_block(&mut self) -> Result<()> {
        let (raw, count) = self.data.take();
        let (offset, len) = self.write_block(BlockKind::Data, &raw, count)?;
        let mut place = Vec::with_capacity(12);
        place.put_u64(offset);
        place.put_u32(len);
        self.index.push(EntryRef { key: &self.last_key, lsn: self.last_lsn, content: Content::Put(&place) });
        self.blocks += 1;
        Ok(())
    }

    fn write_block(&mut self, kind: BlockKind, raw: &[u8], count: u32) -> Result<(u64, u32)> {
        let offset = self.position();
        let level = if kind == BlockKind::Data { self.compression.level() } else { None };
        let block = block::seal(kind, self.keyspace, offset, raw, count, level);
        self.buffer.put(&block);
        if self.buffer.len() >= BUFFER_LEN {
            self.write_buffer()?;
        }
        Ok((offset, crate::codec::len_u32(block.len())))
    }

    fn write_buffer(&mut self) -> Result<()> {
        self.digest.update(&self.buffer);
        write_all_at(&*self.file, &self.buffer, self.written).map_err(at("write", &self.path))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        if self.unfinished {
            // What cannot be removed now is removed at the next open.
            let _ = self.storage.remove(&self.path);
        }
    }
}
