//! Reading a table: its parts are checked when they are first used, and a part that does not check out is an error that
//! says which file and where, never data.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use seawall_wal::Lsn;
use seawall_wal::storage::{Access, Mapping, ReadRequest, Storage};
use seawall_wal::sync::OnceLock;

use super::block::{self, Block, BlockKind, FRAME_LEN};
use super::content::Content;
use super::filter::Filter;
use super::footer::{Footer, Unreadable};
use super::index::{BlockPlace, Damage, Index};
use super::range_delete::{self, RangeDelete};
use super::references::{self, BlobUse};
use super::sorted::{self, Sorted};
use super::store::BlockCache;
use super::{Codec, FOOTER_LEN, HEADER_LEN, HEADER_MAGIC, TABLE_VERSION, TableMeta};
use crate::blob::{BlobFile, BlobShare};
use crate::error::{Error, Result, at};
use crate::file::FileHash;
use crate::format::KeyspaceId;

/// The largest block that is read with others into memory; nearly all are far smaller.
const READ_LEN_MAX: usize = 64 << 10;

/// Bytes that are asked for ahead when a whole file is read.
const VERIFY_LEN: usize = 1 << 20;

/// An open table.
pub(crate) struct Table {
    /// Unlike any other table's while the process lives; names its blocks in the cache.
    id: u64,
    keyspace: KeyspaceId,
    meta: TableMeta,
    path: PathBuf,
    storage: Arc<dyn Storage>,
    map: Arc<Mapping>,
    cache: Arc<BlockCache>,
    footer: Footer,
    index: OnceLock<Index>,
    filter: OnceLock<(Filter, Block)>,
    range_deletes: OnceLock<Box<[RangeDelete]>>,
    /// In the order in which entries count them.
    blobs: Box<[BlobUse]>,
    /// Whether a part did not check out.
    damaged: AtomicBool,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.path.display())
    }
}

impl Table {
    /// Opens the file at `path`, which must be what `meta` says. `find_blob` hands over the blob files it refers to.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        path: &Path,
        keyspace: KeyspaceId,
        meta: TableMeta,
        id: u64,
        cache: Arc<BlockCache>,
        find_blob: impl Fn(&FileHash) -> Option<Arc<BlobFile>>,
    ) -> Result<Self> {
        let file = storage.open(path, Access::Read).map_err(at("open", path))?;
        let len = file.len().map_err(at("read", path))?;
        let corrupt = |offset, why| Error::CorruptTable { path: path.to_owned(), offset, why };
        if len != meta.size || len < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(corrupt(0, "its length is not the one in the manifest"));
        }
        let map = Arc::new(file.map().map_err(at("map", path))?);
        let footer_at = len - FOOTER_LEN as u64;
        let footer = Footer::parse(&map, keyspace, &meta).map_err(|why| match why {
            Unreadable::Damaged(why) => corrupt(footer_at, why),
            Unreadable::Version(version) => Error::version(path, version, TABLE_VERSION),
        })?;
        let header: [&[u8]; 3] = [&HEADER_MAGIC, &TABLE_VERSION.to_le_bytes(), &keyspace.0.to_le_bytes()];
        if map[..HEADER_LEN] != header.concat() {
            return Err(corrupt(0, "its header is wrong"));
        }
        let blobs =
            references::open(&map, keyspace, &footer, find_blob).map_err(|why| corrupt(footer.properties_at, why))?;
        let path = path.to_owned();
        let (index, filter, range_deletes) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let damaged = AtomicBool::new(false);
        Ok(Self { id, keyspace, meta, path, storage, map, cache, footer, index, filter, range_deletes, blobs, damaged })
    }

    pub(crate) fn meta(&self) -> &TableMeta {
        &self.meta
    }

    pub(crate) fn keyspace(&self) -> KeyspaceId {
        self.keyspace
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The blob files it refers to, in the order in which its entries count them.
    pub(crate) fn blobs(&self) -> &[BlobUse] {
        &self.blobs
    }

    /// How much of a blob file it refers to.
    pub(crate) fn share_of(&self, blob: &FileHash) -> BlobShare {
        let found = self.blobs.iter().find(|known| known.file.meta().hash == *blob);
        found.map_or(BlobShare::default(), |known| known.share)
    }

    /// Entries of it that expire.
    pub(crate) fn expiring(&self) -> u64 {
        self.footer.expiring.into()
    }

    /// Whether it has operands.
    pub(crate) fn has_operands(&self) -> bool {
        self.footer.operands > 0
    }

    /// Hands over the versions of `key` that are not newer than `at`, newest first, until `take` says that older ones do not
    /// matter; that is the answer. `hash` is the key's in the filter.
    pub(crate) fn versions(
        &self,
        key: &[u8],
        hash: u64,
        at: Lsn,
        mut take: impl FnMut(Lsn, Content<'_>) -> bool,
    ) -> Result<bool> {
        let Some(place) = self.block_of(key, hash, at)? else { return Ok(false) };
        match self.in_block(&place, |entries| walk(entries, &self.blobs, key, at, &mut take))? {
            Walked::Settled => Ok(true),
            Walked::Over => Ok(false),
            Walked::ToTheEnd => self.versions_behind(&place, key, at, take),
        }
    }

    /// The version of the newest entry of `key`.
    pub(crate) fn newest(&self, key: &[u8], hash: u64) -> Result<Option<Lsn>> {
        let Some(place) = self.block_of(key, hash, Lsn::MAX)? else { return Ok(None) };
        self.in_block(&place, |entries| match entries.seek(key, Lsn::MAX) {
            (spot, true) => Some(entries.at(spot).lsn),
            _ => None,
        })
    }

    /// The data block that has the newest version of `key` not newer than `at`, if the table has one; it may not.
    pub(crate) fn block_of(&self, key: &[u8], hash: u64, at: Lsn) -> Result<Option<BlockPlace>> {
        match self.meta.overlaps(key, key) && self.meta.min_lsn <= at && self.may_contain(hash)? {
            true => self.find(key, at),
            false => Ok(None),
        }
    }

    /// As [`versions`](Self::versions), from the data block of [`block_of`](Self::block_of) on.
    pub(crate) fn versions_from(
        &self,
        place: &BlockPlace,
        block: &Block,
        key: &[u8],
        at: Lsn,
        mut take: impl FnMut(Lsn, Content<'_>) -> bool,
    ) -> Result<bool> {
        match walk(Sorted::new(block.bytes()), &self.blobs, key, at, &mut take) {
            Walked::Settled => Ok(true),
            Walked::Over => Ok(false),
            Walked::ToTheEnd => self.versions_behind(place, key, at, take),
        }
    }

    /// The versions of a key can go on in the blocks behind one.
    #[cold]
    fn versions_behind(
        &self,
        place: &BlockPlace,
        key: &[u8],
        at: Lsn,
        mut take: impl FnMut(Lsn, Content<'_>) -> bool,
    ) -> Result<bool> {
        for number in place.number + 1..self.blocks_len() {
            let Some(place) = self.numbered(number)? else { break };
            match self.in_block(&place, |entries| walk(entries, &self.blobs, key, at, &mut take))? {
                Walked::Settled => return Ok(true),
                Walked::Over => break,
                Walked::ToTheEnd => {}
            }
        }
        Ok(false)
    }

    /// Looks at the entries of a data block where they are.
    #[inline]
    fn in_block<T>(&self, place: &BlockPlace, look: impl FnOnce(Sorted<'_>) -> T) -> Result<T> {
        match self.footer.codec {
            Codec::None if self.index()?.blocks.has(place.number) => {
                let raw = &self.map[raw_range(place)];
                ask_for_keys(raw);
                Ok(look(Sorted::new(raw)))
            }
            _ => Ok(look(Sorted::new(self.block(place)?.bytes()))),
        }
    }

    /// Its range deletes by start, newer ones of the same start first. They may lie over each other.
    pub(crate) fn range_deletes(&self) -> Result<&[RangeDelete]> {
        if self.meta.range_deletes == 0 {
            return Ok(&[]);
        }
        if let Some(deletes) = self.range_deletes.get() {
            return Ok(deletes);
        }
        let offset = self.footer.range_deletes_at;
        let deletes = block::open(&self.map, self.keyspace, BlockKind::RangeDeletes, offset, None)
            .and_then(|(body, count)| range_delete::parse(body.bytes(), count))
            .map_err(|why| self.corrupt(offset, why))?;
        if deletes.len() as u64 != self.meta.range_deletes {
            return Err(self.corrupt(offset, "it has not as many range deletes as the table"));
        }
        Ok(self.range_deletes.get_or_init(|| deletes))
    }

    fn index(&self) -> Result<&Index> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        self.ask_for_lookups();
        let index = Index::open(&self.map, self.keyspace, self.footer).map_err(|damage| self.damaged(damage))?;
        Ok(self.index.get_or_init(|| index))
    }

    /// The data block that has the first version at or after a place, or that version is the first of the next block.
    pub(super) fn find(&self, key: &[u8], lsn: Lsn) -> Result<Option<BlockPlace>> {
        match self.footer.blocks {
            0 => Ok(None),
            _ => self.index()?.find(key, lsn).map_err(|damage| self.damaged(damage)),
        }
    }

    /// Data block `number`; `None` behind the last one.
    pub(super) fn numbered(&self, number: usize) -> Result<Option<BlockPlace>> {
        match self.footer.blocks {
            0 => Ok(None),
            _ => self.index()?.numbered(number).map_err(|damage| self.damaged(damage)),
        }
    }

    /// How many data blocks it has.
    pub(super) fn blocks_len(&self) -> usize {
        self.footer.blocks as usize
    }

    /// A data block: where it is mapped, or from the cache.
    pub(super) fn block(&self, place: &BlockPlace) -> Result<Block> {
        match self.kept(place)? {
            Some(block) => Ok(block),
            None => {
                self.admit(place, block::open(&self.map, self.keyspace, BlockKind::Data, place.offset, Some(place.len)))
            }
        }
    }

    /// A data block that was checked and can be used at once.
    pub(super) fn kept(&self, place: &BlockPlace) -> Result<Option<Block>> {
        Ok(match self.footer.codec {
            Codec::None => {
                let checked = self.index()?.blocks.has(place.number);
                checked.then(|| Block::Mapped(Arc::clone(&self.map), raw_range(place)))
            }
            Codec::Zstd => self.cache.get(self.id, place.offset),
        })
    }

    /// Says that this range of the file is read soon.
    pub(super) fn will_need(&self, range: Range<u64>) {
        self.map.will_need(range.start as usize..range.end as usize);
    }

    /// Those of these data blocks that are in memory and were checked. The disk is asked for the others.
    pub(crate) fn find_blocks(&self, places: &[BlockPlace]) -> Result<Vec<Option<Block>>> {
        let find = |place: &BlockPlace| {
            let kept = self.kept(place)?.filter(Block::is_in_memory);
            if kept.is_none() {
                self.will_need(place.offset..place.offset + place.len as u64);
            }
            Ok(kept)
        };
        places.iter().map(find).collect()
    }

    /// Asks for what gets need beside data blocks: about a fortieth of the file, which would else come page by page.
    fn ask_for_lookups(&self) {
        self.will_need(self.footer.filter_at..self.meta.size);
    }

    /// Data blocks, no two the same, of which these were [found](Self::find_blocks) before. The others are read together,
    /// past the map, so that a cold disk is asked for all of them at once.
    pub(crate) fn blocks(&self, places: &[BlockPlace], mut found: Vec<Option<Block>>) -> Result<Vec<Block>> {
        assert_eq!(places.len(), found.len(), "each was looked for");
        for (place, found) in places.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
            // One that was checked once may have come back meanwhile.
            *found = self.kept(place)?.filter(Block::is_in_memory);
        }
        let is_missing = |index: &usize| found[*index].is_none() && places[*index].len <= READ_LEN_MAX;
        let missing: Vec<usize> = (0..places.len()).filter(is_missing).collect();
        // One read is no faster than a page fault.
        if missing.len() > 1 {
            let mut buffers: Vec<_> = missing.iter().map(|index| vec![0; places[*index].len]).collect();
            let mut reads: Vec<_> = missing
                .iter()
                .zip(&mut buffers)
                .map(|(index, buffer)| ReadRequest { offset: places[*index].offset, buffer })
                .collect();
            // Opened for this only: a file held open for each table would be too many for a large database.
            let file = self.storage.open(&self.path, Access::Read).map_err(at("open", &self.path))?;
            file.read_many(&mut reads).map_err(at("read", &self.path))?;
            for (index, bytes) in missing.into_iter().zip(buffers) {
                let opened = block::open_read(bytes, self.keyspace, BlockKind::Data, places[index].offset);
                found[index] = Some(self.admit(&places[index], opened)?);
            }
        }
        let all = found.into_iter().zip(places);
        all.map(|(block, place)| block.map_or_else(|| self.block(place), Ok)).collect()
    }

    /// Checks what was opened at a data block's place, and keeps it: decompressed in the cache, else where it is mapped.
    #[cold]
    fn admit(&self, place: &BlockPlace, opened: Result<(Block, u32), &'static str>) -> Result<Block> {
        let index = self.index()?;
        let corrupt = |why| self.corrupt(place.offset, why);
        let (block, count) = opened.map_err(corrupt)?;
        let (first, last) = sorted::check(block.bytes(), count, &self.blobs).map_err(corrupt)?;
        if !index.encloses(place, &first, &last).map_err(|damage| self.damaged(damage))? {
            return Err(corrupt("it is not the block its index describes"));
        }
        match self.footer.codec {
            Codec::None if !block.is_as_stored() => return Err(corrupt("it is compressed")),
            Codec::None => index.blocks.set(place.number),
            Codec::Zstd => self.cache.insert(self.id, place.offset, block.clone()),
        }
        Ok(block)
    }

    fn may_contain(&self, hash: u64) -> Result<bool> {
        if let Some((filter, block)) = self.filter.get() {
            return Ok(filter.may_contain(block.bytes(), hash));
        }
        if self.footer.filter_at == 0 {
            return Ok(false);
        }
        self.ask_for_lookups();
        let (block, count) = block::open(&self.map, self.keyspace, BlockKind::Filter, self.footer.filter_at, None)
            .map_err(|why| self.corrupt(self.footer.filter_at, why))?;
        let filter = Filter::check(block.bytes(), count).map_err(|why| self.corrupt(self.footer.filter_at, why))?;
        let (filter, block) = self.filter.get_or_init(|| (filter, block));
        Ok(filter.may_contain(block.bytes(), hash))
    }

    /// Checks every byte: the digest of the whole file, and each block.
    pub(crate) fn verify(&self) -> Result<()> {
        let mut digest = blake3::Hasher::new();
        for (number, window) in self.map.chunks(VERIFY_LEN).enumerate() {
            let start = (number * VERIFY_LEN) as u64;
            self.will_need(start..start + 2 * VERIFY_LEN as u64);
            digest.update(window);
        }
        if digest.finalize().as_bytes() != self.meta.hash.as_bytes() {
            // A block says more precisely where; if all blocks are whole, the damage is between them.
            for number in 0..self.blocks_len() {
                if let Some(place) = self.numbered(number)? {
                    self.block(&place)?;
                }
            }
            self.may_contain(0)?;
            self.range_deletes()?;
            return Err(self.corrupt(0, "its digest is not its name"));
        }
        Ok(())
    }

    fn damaged(&self, (offset, why): Damage) -> Error {
        self.corrupt(offset, why)
    }

    /// Whether a part of it did not check out when it was read.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn corrupt(&self, offset: u64, why: &'static str) -> Error {
        self.damaged.store(true, Ordering::Relaxed);
        Error::CorruptTable { path: self.path.clone(), offset, why }
    }
}

/// Where the raw bytes of a block lie that is stored as they are.
fn raw_range(place: &BlockPlace) -> Range<usize> {
    let start = place.offset as usize;
    start + FRAME_LEN..start + place.len
}

/// How a walk over the versions of a key in a block ended.
enum Walked {
    /// Older versions do not matter.
    Settled,
    /// The block has no more, nor have those behind it.
    Over,
    /// With the block's last entry, which is one of the key.
    ToTheEnd,
}

/// Hands over the versions of a key in a block that are not newer than `at`, until `take` has enough.
#[inline]
fn walk(
    entries: Sorted<'_>,
    blobs: &[BlobUse],
    key: &[u8],
    at: Lsn,
    take: &mut impl FnMut(Lsn, Content<'_>) -> bool,
) -> Walked {
    let (mut spot, found) = entries.seek(key, at);
    if !found {
        return Walked::Over;
    }
    let mut entry = entries.at(spot);
    while !take(entry.lsn, entry.content(blobs)) {
        spot = entry.next;
        if spot == entries.end() {
            return Walked::ToTheEnd;
        }
        entry = entries.at(spot);
        if !entries.is_same_key(&entry, key) {
            return Walked::Over;
        }
    }
    Walked::Settled
}

/// Loads from where the keys of a block begin, without waiting for it: a search looks at most of these lines, one after the
/// other, and would wait for each.
#[inline]
fn ask_for_keys(raw: &[u8]) {
    const LINE: usize = 64;
    const LINES: usize = 16;
    let loaded = raw.chunks(LINE).take(LINES).fold(0, |loaded, line| loaded ^ line[0]);
    std::hint::black_box(loaded);
}
