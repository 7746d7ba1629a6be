//! Reading a table: its parts are checked when they are first used, and a part that does not check out is an error that
//! says which file and where, never data.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use seawall_wal::Lsn;
use seawall_wal::storage::{Access, Mapping, ReadRequest, Storage};

use super::block::{self, Block, BlockKind, Body};
use super::content::{Content, EntryRef};
use super::footer::{Footer, Unreadable};
use super::range_delete::{self, RangeDelete};
use super::store::BlockCache;
use super::{FOOTER_LEN, HEADER_LEN, HEADER_MAGIC, TABLE_VERSION, TableMeta, filter};
use crate::error::{Error, Result, at};
use crate::format::KeyspaceId;

/// The largest block that is read with others into memory; nearly all are far smaller.
const READ_LEN_MAX: usize = 64 << 10;

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
    index: OnceLock<Arc<Block>>,
    filter: OnceLock<Body>,
    range_deletes: OnceLock<Box<[RangeDelete]>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.path.display())
    }
}

impl Table {
    /// Opens the file at `path`, which must be what `meta` says.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        path: &Path,
        keyspace: KeyspaceId,
        meta: TableMeta,
        id: u64,
        cache: Arc<BlockCache>,
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
        let path = path.to_owned();
        let (index, filter, range_deletes) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Self { id, keyspace, meta, path, storage, map, cache, footer, index, filter, range_deletes })
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

    /// Hands over the versions of `key` that are not newer than `at`, newest first, until `take` says that older ones do not
    /// matter; that is the answer. `hash` is the key's in the filter.
    pub(crate) fn versions(
        &self,
        key: &[u8],
        hash: u64,
        at: Lsn,
        take: impl FnMut(Lsn, Content<'_>) -> bool,
    ) -> Result<bool> {
        let Some(number) = self.block_of(key, hash, at)? else { return Ok(false) };
        self.versions_from(number, &*self.block(number)?, key, at, take)
    }

    /// The version of the newest entry of `key`.
    pub(crate) fn newest(&self, key: &[u8], hash: u64) -> Result<Option<Lsn>> {
        let Some(number) = self.block_of(key, hash, Lsn::MAX)? else { return Ok(None) };
        let block = self.block(number)?;
        Ok(self.entry_in_block(&block, key, Lsn::MAX)?.map(|entry| entry.lsn))
    }

    /// The data block that has the newest version of `key` not newer than `at`, if the table has one; it may not.
    pub(crate) fn block_of(&self, key: &[u8], hash: u64, at: Lsn) -> Result<Option<usize>> {
        if !self.meta.overlaps(key, key) || self.meta.min_lsn > at || !self.may_contain(hash)? {
            return Ok(None);
        }
        let index = self.index()?;
        let number = index.lower_bound(key, at);
        Ok((number < index.len()).then_some(number))
    }

    /// As [`versions`](Self::versions), from data block `number` on, which is that of [`block_of`](Self::block_of).
    pub(crate) fn versions_from(
        &self,
        number: usize,
        block: &Block,
        key: &[u8],
        at: Lsn,
        mut take: impl FnMut(Lsn, Content<'_>) -> bool,
    ) -> Result<bool> {
        let Some(newest) = self.entry_in_block(block, key, at)? else { return Ok(false) };
        if take(newest.lsn, newest.content) {
            return Ok(true);
        }
        let mut next = block.lower_bound(key, newest.lsn) + 1;
        let mut later: Option<(usize, Arc<Block>)> = None;
        loop {
            let (number, current) = match &later {
                None => (number, block),
                Some((number, block)) => (*number, &**block),
            };
            while next < current.len() {
                let entry = current.entry(next);
                if entry.key != key {
                    return Ok(false);
                }
                if take(entry.lsn, entry.content) {
                    return Ok(true);
                }
                next += 1;
            }
            // The versions of a key can go on in the next block.
            if number + 1 == self.index()?.len() {
                return Ok(false);
            }
            later = Some((number + 1, self.block(number + 1)?));
            next = 0;
        }
    }

    fn entry_in_block<'a>(&self, block: &'a Block, key: &[u8], at: Lsn) -> Result<Option<EntryRef<'a>>> {
        let place = block.lower_bound(key, at);
        if place == block.len() {
            return Err(self.corrupt(self.footer.index_at, "its index does not describe its blocks"));
        }
        Ok(Some(block.entry(place)).filter(|entry| entry.key == key))
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

    /// The index: one entry per data block.
    pub(crate) fn index(&self) -> Result<&Arc<Block>> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let block = block::open(&self.map, self.keyspace, BlockKind::Index, self.footer.index_at, None)
            .and_then(|(body, count)| Block::new(body, count))
            .map_err(|why| self.corrupt(self.footer.index_at, why))?;
        Ok(self.index.get_or_init(|| Arc::new(block)))
    }

    /// Data block `number`, from the cache if it is there.
    pub(crate) fn block(&self, number: usize) -> Result<Arc<Block>> {
        let (offset, len) = self.place_of(number)?;
        match self.cache.get(self.id, offset) {
            Some(block) => Ok(block),
            None => {
                self.admit(number, offset, block::open(&self.map, self.keyspace, BlockKind::Data, offset, Some(len)))
            }
        }
    }

    /// Data blocks by their numbers, no two the same. Those that are not in the cache are read together, past the map,
    /// so that a cold disk is asked for all of them at once.
    pub(crate) fn blocks(&self, numbers: &[usize]) -> Result<Vec<Arc<Block>>> {
        let mut blocks = Vec::with_capacity(numbers.len());
        let mut missing = Vec::new();
        for (index, &number) in numbers.iter().enumerate() {
            let (offset, len) = self.place_of(number)?;
            let cached = self.cache.get(self.id, offset);
            if cached.is_none() {
                missing.push((index, offset, len));
            }
            blocks.push(cached);
        }
        // One read is no faster than a page fault, and a place outside the file or a huge block is the map's business.
        let together = |(_, offset, len): &&(usize, u64, usize)| {
            *len <= READ_LEN_MAX && offset.checked_add(*len as u64).is_some_and(|end| end <= self.meta.size)
        };
        if missing.iter().filter(together).count() > 1 {
            let mut buffers: Vec<_> = missing.iter().filter(together).map(|place| (*place, vec![0; place.2])).collect();
            let mut reads: Vec<_> =
                buffers.iter_mut().map(|((_, offset, _), buffer)| ReadRequest { offset: *offset, buffer }).collect();
            // Opened for this only: a file held open for each table would be too many for a large database.
            let file = self.storage.open(&self.path, Access::Read).map_err(at("open", &self.path))?;
            file.read_many(&mut reads).map_err(at("read", &self.path))?;
            for ((index, offset, _), bytes) in buffers {
                let opened = block::open_read(bytes, self.keyspace, BlockKind::Data, offset);
                blocks[index] = Some(self.admit(numbers[index], offset, opened)?);
            }
        }
        for (index, offset, len) in missing {
            if blocks[index].is_none() {
                let opened = block::open(&self.map, self.keyspace, BlockKind::Data, offset, Some(len));
                blocks[index] = Some(self.admit(numbers[index], offset, opened)?);
            }
        }
        Ok(blocks.into_iter().flatten().collect())
    }

    /// Where data block `number` lies: its offset in the file, and its length.
    fn place_of(&self, number: usize) -> Result<(u64, usize)> {
        let place = self.index()?.entry(number).content.value().and_then(|place| place.split_first_chunk::<8>());
        match place.map(|(offset, len)| (u64::from_le_bytes(*offset), len.try_into())) {
            Some((offset, Ok(len))) => Ok((offset, u32::from_le_bytes(len) as usize)),
            _ => Err(self.corrupt(self.footer.index_at, "its index does not describe its blocks")),
        }
    }

    /// Makes a block of what was opened at `offset`, which must be block `number`, and puts it into the cache.
    fn admit(&self, number: usize, offset: u64, opened: Result<(Body, u32), &'static str>) -> Result<Arc<Block>> {
        let block =
            opened.and_then(|(body, count)| Block::new(body, count)).map_err(|why| self.corrupt(offset, why))?;
        let entry = self.index()?.entry(number);
        let last = block.len().checked_sub(1).map(|last| block.entry(last));
        if last.is_none_or(|last| (last.key, last.lsn) != (entry.key, entry.lsn)) {
            return Err(self.corrupt(offset, "it is not the block its index describes"));
        }
        let block = Arc::new(block);
        self.cache.insert(self.id, offset, Arc::clone(&block));
        Ok(block)
    }

    fn may_contain(&self, hash: u64) -> Result<bool> {
        if let Some(filter) = self.filter.get() {
            return Ok(filter::may_contain(filter.bytes(), hash));
        }
        let (body, blocks) = block::open(&self.map, self.keyspace, BlockKind::Filter, self.footer.filter_at, None)
            .map_err(|why| self.corrupt(self.footer.filter_at, why))?;
        if !filter::is_filter(body.bytes(), blocks) {
            return Err(self.corrupt(self.footer.filter_at, "its filter has the wrong length"));
        }
        Ok(filter::may_contain(self.filter.get_or_init(|| body).bytes(), hash))
    }

    /// Checks every byte: the digest of the whole file, and each block.
    pub(crate) fn verify(&self) -> Result<()> {
        if blake3::hash(&self.map).as_bytes() != self.meta.hash.as_bytes() {
            // A block says more precisely where; if all blocks are whole, the damage is between them.
            (0..self.index()?.len()).try_for_each(|number| self.block(number).map(drop))?;
            self.may_contain(0)?;
            self.range_deletes()?;
            return Err(self.corrupt(0, "its digest is not its name"));
        }
        Ok(())
    }

    fn corrupt(&self, offset: u64, why: &'static str) -> Error {
        Error::CorruptTable { path: self.path.clone(), offset, why }
    }
}
