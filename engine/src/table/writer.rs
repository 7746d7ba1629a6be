//! Writing a table: versions come in order, a synced file under a temporary name comes out. Giving it its name is the
//! store's business, so that a name is never given and taken away at once.

use std::path::Path;
use std::sync::Arc;

use seawall_wal::storage::Storage;
use seawall_wal::{Lsn, Timestamp, end_turn};

use super::block::{self, BlockKind, FRAME_LEN};
use super::content::{Content, EntryRef, Form};
use super::footer::Footer;
use super::index::{IndexBuilder, separator};
use super::range_delete::{self, RangeDelete};
use super::references::{self, References};
use super::sorted::{DATA_RUN, SortedBuilder};
use super::version_order;
use super::{Codec, FOOTER_LEN, HEADER_LEN, HEADER_MAGIC, Placement, TABLE_VERSION, TableMeta, filter};
use crate::blob::{BlobPolicy, FinishedBlob};
use crate::codec::{Put, len_u32};
use crate::error::Result;
use crate::file::{FileHash, NewFile, Temporary};
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};

/// A data block with its frame is at most so long, unless one entry is longer: a page, and what zstd has enough of.
const fn target(codec: Codec) -> usize {
    match codec {
        Codec::None => PAGE,
        Codec::Zstd => 4 * PAGE,
    }
}

/// What one page fault and one read bring.
const PAGE: usize = 4096;
/// Zeros before a block that begins at a page at most.
const PADDING_MAX: u64 = 256;
/// Blocks that are not compressed after two in a row that did not become smaller, and, twice as many after each further one,
/// at most.
const PLAIN_MIN: u32 = 4;
const PLAIN_MAX: u32 = 64;

/// How the next data block is stored. Values that do not become smaller gain nothing from large blocks, and cost four times the
/// reading.
struct Plan {
    /// Of the table.
    codec: Codec,
    /// So many blocks are not compressed before one is again.
    plain: u32,
    /// Blocks in a row that did not become smaller, of those that could.
    failures: u32,
}

impl Plan {
    fn new(codec: Codec) -> Self {
        Self { codec, plain: 0, failures: 0 }
    }

    fn codec(&self) -> Codec {
        if self.plain > 0 { Codec::None } else { self.codec }
    }

    /// After a block that was to be stored as planned.
    fn note(&mut self, stored: Codec) {
        if self.plain > 0 {
            self.plain -= 1;
        } else if stored == self.codec {
            self.failures = 0;
        } else {
            self.failures += 1;
            self.plain = match self.failures {
                1 => 0,
                more => (PLAIN_MIN << (more - 2).min(8)).min(PLAIN_MAX),
            };
        }
    }
}

/// A table in the making, with the blob files that belong to it. Dropped unfinished, it removes its files.
pub(crate) struct TableWriter {
    file: NewFile,
    references: References,
    keyspace: KeyspaceId,
    placement: Placement,
    plan: Plan,
    data: SortedBuilder,
    /// Where the last data block lies, once it is closed; the index learns of it when it is known what follows.
    closed: Option<(u64, u32)>,
    index: IndexBuilder,
    blocks: u32,
    hashes: Vec<u64>,
    last_key: Vec<u8>,
    last_lsn: Lsn,
    first_key: Vec<u8>,
    entries: u64,
    tombstones: u64,
    /// In the order in which they came.
    range_deletes: Vec<RangeDelete>,
    range_delete_bytes: usize,
    min_lsn: Lsn,
    max_lsn: Lsn,
    expiring: u32,
    operands: u32,
    min_expiry: u64,
    max_expiry: u64,
}

/// A table that is whole and synced under a temporary name. Dropped before it is adopted, its files are removed.
#[derive(Debug)]
pub(crate) struct FinishedTable {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) meta: TableMeta,
    pub(crate) temporary: Temporary,
    /// The blob files that were written with it.
    pub(crate) blobs: Vec<FinishedBlob>,
}

impl FinishedTable {
    /// Bytes of all its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.meta.size + self.blobs.iter().map(|blob| blob.meta.size).sum::<u64>()
    }
}

impl TableWriter {
    /// Starts a table in the file `path`, which must not exist. Blob files get names that begin with it.
    pub(crate) fn create(
        storage: Arc<dyn Storage>,
        path: &Path,
        keyspace: KeyspaceId,
        placement: Placement,
        policy: BlobPolicy,
    ) -> Result<Self> {
        let mut file = NewFile::create(Arc::clone(&storage), path)?;
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.put(&HEADER_MAGIC);
        header.put_u32(TABLE_VERSION);
        header.put_u32(keyspace.0);
        file.put(&header)?;
        Ok(Self {
            file,
            references: References::new(storage, path, keyspace, policy),
            keyspace,
            placement,
            plan: Plan::new(placement.codec()),
            data: SortedBuilder::new(DATA_RUN),
            closed: None,
            index: IndexBuilder::new(),
            blocks: 0,
            hashes: Vec::new(),
            last_key: Vec::new(),
            last_lsn: Lsn::MAX,
            first_key: Vec::new(),
            entries: 0,
            tombstones: 0,
            range_deletes: Vec::new(),
            range_delete_bytes: 0,
            min_lsn: Lsn::MAX,
            max_lsn: Lsn::ZERO,
            expiring: 0,
            operands: 0,
            min_expiry: 0,
            max_expiry: 0,
        })
    }

    /// Adds the next version, which comes after all before it.
    pub(crate) fn push(&mut self, entry: EntryRef<'_>) -> Result<()> {
        let first = self.entries == 0;
        assert!(
            first || version_order((&self.last_key, self.last_lsn), (entry.key, entry.lsn)).is_lt(),
            "versions are written in order"
        );
        let form = match entry.content {
            Content::Large(large) => Form::large(&self.references.keep(large)),
            content => match self.references.move_out(&entry)? {
                Some(reference) => Form::large(&reference),
                None => content.into(),
            },
        };
        let growth = SortedBuilder::growth(entry.key, form);
        if !self.data.is_empty() && FRAME_LEN + self.data.len() + growth > target(self.plan.codec()) {
            self.close_block()?;
        }
        self.note_in_index(Some(entry.key));
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
        if matches!(entry.content, Content::Merge { .. }) {
            self.operands = self.operands.saturating_add(1);
        }
        self.note_lsn(entry.lsn);
        if let Some(Timestamp(expiry)) = entry.content.expiry() {
            self.expiring = self.expiring.saturating_add(1);
            self.min_expiry = if self.min_expiry == 0 { expiry } else { self.min_expiry.min(expiry) };
            self.max_expiry = self.max_expiry.max(expiry);
        }
        self.data.push(entry.key, entry.lsn, form);
        Ok(())
    }

    /// Adds a range delete. They come in any order, and may lie anywhere and over each other.
    pub(crate) fn push_range_delete(&mut self, start: &[u8], end: &[u8], lsn: Lsn) {
        assert!(start < end, "a range holds something");
        self.note_lsn(lsn);
        let delete = RangeDelete { start: start.into(), end: end.into(), lsn };
        self.range_delete_bytes += delete.stored_len();
        self.range_deletes.push(delete);
    }

    fn note_lsn(&mut self, lsn: Lsn) {
        self.min_lsn = self.min_lsn.min(lsn);
        self.max_lsn = self.max_lsn.max(lsn);
    }

    /// Whether it has nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0 && self.range_deletes.is_empty()
    }

    /// About how many bytes the table has.
    pub(crate) fn size(&self) -> u64 {
        self.file.position() + (self.data.len() + self.index.len() + self.range_delete_bytes) as u64
    }

    /// About how many bytes were written, to blob files too.
    pub(crate) fn written(&self) -> u64 {
        self.size() + self.references.written()
    }

    /// The key added first.
    pub(crate) fn first_key(&self) -> &[u8] {
        &self.first_key
    }

    /// The key added last.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Writes what is left and syncs the files. There must be at least one version or range delete.
    pub(crate) fn finish(mut self) -> Result<FinishedTable> {
        assert!(!self.is_empty(), "a table holds something");
        if !self.data.is_empty() {
            self.close_block()?;
        }
        self.note_in_index(None);
        let (filter_at, root_at) = self.write_filter_and_index()?;
        let range_deletes_at = self.write_range_deletes()?;
        let (min_key, max_key, max_key_excluded) = self.key_range();
        let mut raw = Vec::new();
        raw.put_u32(len_u32(min_key.len()));
        raw.put_u32(len_u32(max_key.len()));
        raw.put_u8(u8::from(max_key_excluded));
        raw.put(&min_key);
        raw.put(&max_key);
        let blobs = self.references.finish()?;
        references::put(&mut raw, &blobs);
        let properties_at = self.write_block(BlockKind::Properties, &raw, 2 + len_u32(blobs.len()))?.0;
        let size = self.file.position() + FOOTER_LEN as u64;
        let meta = TableMeta {
            hash: FileHash::from_bytes([0; 32]),
            size,
            entries: self.entries,
            tombstones: self.tombstones,
            range_deletes: self.range_deletes.len() as u64,
            min_lsn: self.min_lsn,
            max_lsn: self.max_lsn,
            min_expiry: self.min_expiry,
            max_expiry: self.max_expiry,
            min_key,
            max_key,
            max_key_excluded,
        };
        let footer = Footer {
            root_at,
            filter_at,
            properties_at,
            range_deletes_at,
            blocks: self.blocks,
            codec: self.placement.codec(),
            blobs: len_u32(blobs.len()),
            expiring: self.expiring,
            operands: self.operands,
        };
        self.file.put(&footer.encode(self.keyspace, &meta))?;
        if !planted(Mutant::TablesNotSynced) {
            self.file.sync()?;
        }
        let (hash, temporary) = self.file.done()?;
        let blobs = self.references.hand_over();
        Ok(FinishedTable { keyspace: self.keyspace, meta: TableMeta { hash, ..meta }, temporary, blobs })
    }

    /// Where the filter and the root lie; 0 without data blocks.
    fn write_filter_and_index(&mut self) -> Result<(u64, u64)> {
        if self.index.is_empty() {
            return Ok((0, 0));
        }
        let (raw, count) = filter::build(&mut self.hashes, self.placement);
        let at = self.file.position();
        self.file.pad((at.next_multiple_of(filter::ALIGNMENT) - at) as usize);
        let filter_at = self.write_block(BlockKind::Filter, &raw, count)?.0;
        let index = std::mem::replace(&mut self.index, IndexBuilder::new());
        let root_at = index.finish(|kind, raw, count| self.write_block(kind, raw, count))?;
        Ok((filter_at, root_at))
    }

    /// Where their block lies; 0 if there is none.
    fn write_range_deletes(&mut self) -> Result<u64> {
        if self.range_deletes.is_empty() {
            return Ok(0);
        }
        self.range_deletes.sort_unstable_by(RangeDelete::order);
        self.range_deletes.dedup();
        let raw = range_delete::encode(&self.range_deletes);
        Ok(self.write_block(BlockKind::RangeDeletes, &raw, len_u32(self.range_deletes.len()))?.0)
    }

    /// The least key, where keys end, and whether that is not one of them.
    fn key_range(&self) -> (Vec<u8>, Vec<u8>, bool) {
        let keys = (self.entries > 0).then_some((&*self.first_key, &*self.last_key));
        let starts = self.range_deletes.iter().map(|delete| &*delete.start);
        let ends = self.range_deletes.iter().map(|delete| (&*delete.end, true));
        let min = starts.chain(keys.map(|(first, _)| first)).min();
        // A key that is there comes after the same key as an end that is not.
        let max = ends.chain(keys.map(|(_, last)| (last, false))).max_by_key(|(key, excluded)| (*key, !*excluded));
        let (max, excluded) = max.expect("a table holds something");
        (min.expect("a table holds something").to_vec(), max.to_vec(), excluded)
    }

    /// Closes the block that ends with the version added last.
    fn close_block(&mut self) -> Result<()> {
        let (raw, count) = self.data.take();
        self.closed = Some(self.write_block(BlockKind::Data, &raw, count)?);
        self.blocks += 1;
        end_turn();
        Ok(())
    }

    /// Tells the index of a block that was closed, before a version of `next` comes, or nothing does.
    fn note_in_index(&mut self, next: Option<&[u8]>) {
        let Some((offset, len)) = self.closed.take() else { return };
        let place = match next {
            Some(next) if next != self.last_key => (separator(&self.last_key, next), Lsn::ZERO),
            _ => (self.last_key.clone(), self.last_lsn),
        };
        self.index.push(place, offset, len);
    }

    fn write_block(&mut self, kind: BlockKind, raw: &[u8], count: u32) -> Result<(u64, u32)> {
        let codec = if kind == BlockKind::Data { self.plan.codec() } else { Codec::None };
        if codec == Codec::None && matches!(kind, BlockKind::Data | BlockKind::Leaf) {
            self.pad_to_page(FRAME_LEN + raw.len());
        }
        let offset = self.file.position();
        let (block, stored) = block::seal(kind, self.keyspace, offset, raw, count, codec);
        if kind == BlockKind::Data {
            self.plan.note(stored);
        }
        self.file.put(&block)?;
        Ok((offset, len_u32(block.len())))
    }

    /// Moves on to the next page if a block of this length would cross into it, could fit into one, and little is lost.
    fn pad_to_page(&mut self, len: usize) {
        let at = self.file.position();
        let left = at.next_multiple_of(PAGE as u64) - at;
        if left < len as u64 && len <= PAGE && left <= PADDING_MAX {
            self.file.pad(left as usize);
        }
    }
}
