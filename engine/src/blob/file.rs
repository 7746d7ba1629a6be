//! Reading a blob file: a value is checked when it is first read, and one that does not check out is an error that says which
//! file and where, never data.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use seawall_wal::storage::{Access, Mapping, Storage};

use super::record::{self, Reference};
use super::{BLOB_VERSION, BlobMeta, FOOTER_LEN, FOOTER_MAGIC, HEADER_LEN, HEADER_MAGIC};
use crate::codec::Put;
use crate::error::{Error, Result, at};
use crate::file::tail::{self, TAIL_LEN};
use crate::format::KeyspaceId;
use crate::table::Checked;

/// Bytes that are asked for ahead when a whole file is read.
const VERIFY_LEN: usize = 1 << 20;
/// What the map brings at a time. A value of more is asked for as a whole.
const PAGE: usize = 4096;

/// An open blob file.
pub(crate) struct BlobFile {
    keyspace: KeyspaceId,
    meta: BlobMeta,
    path: PathBuf,
    map: Mapping,
    /// Pages in which a record begins that was checked. Only records of a page or more are noted, so that no two begin in
    /// one; comparing others again takes no longer than finding them.
    checked: Checked,
    /// Whether a record did not check out.
    damaged: AtomicBool,
}

impl fmt::Debug for BlobFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobFile({})", self.path.display())
    }
}

impl BlobFile {
    /// Opens the file at `path`, which must be what `meta` says.
    pub(crate) fn open(storage: &dyn Storage, path: &Path, keyspace: KeyspaceId, meta: BlobMeta) -> Result<Self> {
        let file = storage.open(path, Access::Read).map_err(at("open", path))?;
        let len = file.len().map_err(at("read", path))?;
        let corrupt = |offset, why| Error::CorruptTable { path: path.to_owned(), offset, why };
        if len != meta.size || len < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(corrupt(0, "its length is not the one in the manifest"));
        }
        let map = file.map().map_err(at("map", path))?;
        let footer_at = map.len() - FOOTER_LEN;
        let (version, _) = tail::check(&map, &FOOTER_MAGIC)
            .ok_or_else(|| corrupt(footer_at as u64, "its footer does not match its checksum"))?;
        if version != BLOB_VERSION {
            return Err(Error::version(path, version, BLOB_VERSION));
        }
        if map[footer_at..] != footer(keyspace, &meta) {
            return Err(corrupt(footer_at as u64, "its footer is not that of the blob file in the manifest"));
        }
        let header: [&[u8]; 3] = [&HEADER_MAGIC, &BLOB_VERSION.to_le_bytes(), &keyspace.0.to_le_bytes()];
        if map[..HEADER_LEN] != header.concat() {
            return Err(corrupt(0, "its header is wrong"));
        }
        let checked = Checked::none(map.len().div_ceil(PAGE));
        Ok(Self { keyspace, meta, path: path.to_owned(), map, checked, damaged: AtomicBool::new(false) })
    }

    pub(crate) fn keyspace(&self) -> KeyspaceId {
        self.keyspace
    }

    pub(crate) fn meta(&self) -> &BlobMeta {
        &self.meta
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A value that a table refers to.
    pub(crate) fn value(&self, at: &Reference) -> Result<&[u8]> {
        self.ask_for(at);
        let is_noted = at.len as usize >= PAGE && at.offset < self.map.len() as u64;
        let page = is_noted.then_some(at.offset as usize / PAGE);
        let was_checked = page.is_some_and(|page| self.checked.has(page));
        let range = record::find(self.records(), self.keyspace, at, was_checked);
        let range = range.map_err(|why| self.corrupt(at.offset, why))?;
        if let Some(page) = page.filter(|_| !was_checked) {
            self.checked.set(page);
        }
        Ok(&self.map[range])
    }

    /// Says that a value is read soon.
    pub(crate) fn ask_for(&self, at: &Reference) {
        let start = at.offset as usize;
        let len = at.len as usize + record::FRAME_LEN;
        if start % PAGE + len > PAGE {
            self.map.will_need(start..start.saturating_add(len));
        }
    }

    /// Everything before the footer.
    fn records(&self) -> &[u8] {
        &self.map[..self.map.len() - FOOTER_LEN]
    }

    /// Checks every byte.
    pub(crate) fn verify(&self) -> Result<()> {
        let mut digest = blake3::Hasher::new();
        for (number, window) in self.map.chunks(VERIFY_LEN).enumerate() {
            let start = number * VERIFY_LEN;
            self.map.will_need(start..start + 2 * VERIFY_LEN);
            digest.update(window);
        }
        if digest.finalize().as_bytes() == self.meta.hash.as_bytes() {
            return Ok(());
        }
        // A record says more precisely where.
        let mut offset = HEADER_LEN;
        while offset < self.records().len() {
            let record = record::open(self.records(), self.keyspace, offset as u64, false);
            offset = record.map_err(|why| self.corrupt(offset as u64, why))?.value.end;
        }
        Err(self.corrupt(0, "its digest is not its name"))
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

/// The footer of a blob file.
pub(crate) fn footer(keyspace: KeyspaceId, meta: &BlobMeta) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FOOTER_LEN);
    bytes.put_u64(meta.size);
    bytes.put_u64(meta.values);
    bytes.put_u64(meta.bytes);
    bytes.put_u32(keyspace.0);
    bytes.put(&[0; FOOTER_LEN - TAIL_LEN - 28]);
    tail::put(&mut bytes, BLOB_VERSION, &FOOTER_MAGIC);
    debug_assert_eq!(bytes.len(), FOOTER_LEN);
    bytes
}

const _: () = assert!(FOOTER_LEN >= TAIL_LEN + 28);
