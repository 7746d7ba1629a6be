//! The stored form of a manifest: encoding, checked decoding, and what must hold in every one.

use std::path::Path;

use seawall_wal::{Chain, ClusterId, Lsn, Position, TimelineId, Timestamp};

use super::{
    BlobEntry, KEYSPACES_MAX, KeyspaceEntry, LEVELS, MANIFEST_VERSION, MARKS_MAX, Manifest, TableEntry, TimeMark,
};
use crate::blob::BlobMeta;
use crate::codec::{Put, Reader, Truncated, len_u32};
use crate::error::{Error, Result};
use crate::file::FileHash;
use crate::format::{KEYSPACE_NAME_LEN_MAX, KeyspaceId};
use crate::table::TableMeta;

const MAGIC: [u8; 8] = *b"SEAWMANI";
const TABLES_MAX: usize = 4 << 20;
const BLOBS_MAX: usize = 4 << 20;

/// What is wrong with a manifest's bytes.
struct Wrong(&'static str);

impl From<Truncated> for Wrong {
    fn from(Truncated: Truncated) -> Self {
        Self("it ends too early")
    }
}

impl Manifest {
    /// Its stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.tables.len() * 200 + self.blobs.len() * BLOB_LEN);
        bytes.put(&MAGIC);
        bytes.put_u32(0);
        bytes.put_u32(MANIFEST_VERSION);
        bytes.put_u64(self.number);
        bytes.put(&self.cluster.to_bytes());
        bytes.put_u64(self.redo.lsn.offset());
        bytes.put_u64(self.redo.chain.0);
        bytes.put_u32(self.timeline.0);
        bytes.put_u64(self.log_start.lsn.offset());
        bytes.put_u64(self.log_start.chain.0);
        bytes.put_u64(self.redo_time.0);
        bytes.put_u64(self.floor.offset());
        bytes.put_u32(self.next_keyspace);
        for count in [self.keyspaces.len(), self.tables.len(), self.blobs.len(), self.marks.len()] {
            bytes.put_u32(len_u32(count));
        }
        for keyspace in &self.keyspaces {
            bytes.put_u32(keyspace.id.0);
            bytes.put_u64(keyspace.created.offset());
            bytes.put_u64(keyspace.dropped.offset());
            bytes.put_u8(u8::try_from(keyspace.name.len()).expect("a name has at most 255 bytes"));
            bytes.put(keyspace.name.as_bytes());
        }
        self.tables.iter().for_each(|table| put_table(&mut bytes, table));
        self.blobs.iter().for_each(|blob| put_blob(&mut bytes, blob));
        for mark in &self.marks {
            bytes.put_u64(mark.lsn.offset());
            bytes.put_u64(mark.second);
        }
        let crc = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a manifest's bytes. `path` is for the error only.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let corrupt = |Wrong(why)| Error::CorruptManifest { path: path.to_owned(), why };
        let mut reader = Reader::new(bytes);
        let version = read_version(&mut reader, bytes).map_err(corrupt)?;
        if version != MANIFEST_VERSION {
            return Err(Error::version(path, version, MANIFEST_VERSION));
        }
        let manifest = read_body(reader).map_err(corrupt)?;
        manifest.check().map_err(corrupt)?;
        Ok(manifest)
    }

    /// What holds in every manifest, checked so that a wrong one is refused rather than served.
    fn check(&self) -> Result<(), Wrong> {
        if self.floor > self.redo.lsn || self.log_start.lsn > self.redo.lsn {
            return Err(Wrong("its floor or log start lies above its redo position"));
        }
        if !self.keyspaces.is_sorted_by(|a, b| a.id < b.id) {
            return Err(Wrong("its keyspaces are out of order"));
        }
        if self.keyspaces.iter().any(|entry| entry.id.0 == 0 || entry.id.0 >= self.next_keyspace) {
            return Err(Wrong("a keyspace number was not given out"));
        }
        for table in &self.tables {
            let meta = &table.meta;
            if table.level as usize >= LEVELS || !meta.is_possible() {
                return Err(Wrong("a table's level or content is impossible"));
            }
            if meta.max_lsn > self.redo.lsn {
                return Err(Wrong("a table holds something above the redo position"));
            }
            if !self.has_keyspace(table.keyspace) {
                return Err(Wrong("a table belongs to no keyspace"));
            }
        }
        for pair in self.tables.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            if (a.keyspace, a.level) > (b.keyspace, b.level) {
                return Err(Wrong("its tables are out of order"));
            }
            if (a.keyspace, a.level) == (b.keyspace, b.level) {
                let in_order = match a.level {
                    0 => a.meta.min_lsn > b.meta.max_lsn,
                    _ => a.meta.ends_before(&b.meta.min_key),
                };
                if !in_order {
                    return Err(Wrong("tables of one level overlap"));
                }
            }
        }
        if !self.blobs.is_sorted_by(|a, b| (a.keyspace, a.meta.hash) < (b.keyspace, b.meta.hash)) {
            return Err(Wrong("its blob files are out of order"));
        }
        if self.blobs.iter().any(|blob| !self.has_keyspace(blob.keyspace) || !blob.meta.is_possible()) {
            return Err(Wrong("a blob file belongs to no keyspace, or its content is impossible"));
        }
        if !self.marks.is_sorted_by(|a, b| a.lsn < b.lsn && a.second < b.second) {
            return Err(Wrong("its marks of time are out of order"));
        }
        if self.marks.last().is_some_and(|mark| mark.lsn > self.redo.lsn) {
            return Err(Wrong("a mark of time lies above the redo position"));
        }
        Ok(())
    }

    fn has_keyspace(&self, id: KeyspaceId) -> bool {
        self.keyspaces.binary_search_by_key(&id, |entry| entry.id).is_ok()
    }
}

fn put_table(bytes: &mut Vec<u8>, TableEntry { keyspace, level, meta }: &TableEntry) {
    bytes.put_u32(keyspace.0);
    bytes.put_u8(*level);
    bytes.put(meta.hash.as_bytes());
    bytes.put_u64(meta.size);
    bytes.put_u64(meta.entries);
    bytes.put_u64(meta.tombstones);
    bytes.put_u64(meta.range_deletes);
    bytes.put_u64(meta.min_lsn.offset());
    bytes.put_u64(meta.max_lsn.offset());
    bytes.put_u64(meta.min_expiry);
    bytes.put_u64(meta.max_expiry);
    bytes.put_u32(len_u32(meta.min_key.len()));
    bytes.put_u32(len_u32(meta.max_key.len()));
    bytes.put_u8(u8::from(meta.max_key_excluded));
    bytes.put(&meta.min_key);
    bytes.put(&meta.max_key);
}

/// Bytes of a blob file's entry.
const BLOB_LEN: usize = 4 + 32 + 8 + 8 + 8;

fn put_blob(bytes: &mut Vec<u8>, BlobEntry { keyspace, meta }: &BlobEntry) {
    bytes.put_u32(keyspace.0);
    bytes.put(meta.hash.as_bytes());
    bytes.put_u64(meta.size);
    bytes.put_u64(meta.values);
    bytes.put_u64(meta.bytes);
}

/// The version of a manifest that is not damaged.
fn read_version(reader: &mut Reader<'_>, bytes: &[u8]) -> Result<u32, Wrong> {
    let (magic, crc) = (reader.array()?, reader.u32()?);
    if magic != MAGIC || crc32fast::hash(&bytes[12..]) != crc {
        return Err(Wrong("its checksum does not match"));
    }
    Ok(reader.u32()?)
}

/// Reads what follows the version. Lists grow as their bytes are read, so that a count alone allocates nothing.
fn read_body(mut reader: Reader<'_>) -> Result<Manifest, Wrong> {
    let number = reader.u64()?;
    let cluster = ClusterId::from_bytes(reader.array()?);
    let redo = read_position(&mut reader)?;
    let timeline = TimelineId(reader.u32()?);
    let log_start = read_position(&mut reader)?;
    let redo_time = Timestamp(reader.u64()?);
    let floor = Lsn::new(reader.u64()?);
    let next_keyspace = reader.u32()?;
    let mut counts = [0; 4];
    for (count, max) in counts.iter_mut().zip([KEYSPACES_MAX, TABLES_MAX, BLOBS_MAX, MARKS_MAX]) {
        *count = reader.u32()? as usize;
        if *count > max {
            return Err(Wrong("a count is impossible"));
        }
    }
    let [keyspaces, tables, blobs, marks] = counts;
    let keyspaces = (0..keyspaces).map(|_| read_keyspace(&mut reader)).collect::<Result<_, _>>()?;
    let tables = (0..tables).map(|_| read_table(&mut reader)).collect::<Result<_, _>>()?;
    let blobs = (0..blobs).map(|_| read_blob(&mut reader)).collect::<Result<_, _>>()?;
    let marks = (0..marks).map(|_| read_mark(&mut reader)).collect::<Result<_, _>>()?;
    if !reader.is_empty() {
        return Err(Wrong("bytes follow its last mark of time"));
    }
    Ok(Manifest {
        number,
        cluster,
        redo,
        timeline,
        log_start,
        redo_time,
        floor,
        next_keyspace,
        keyspaces,
        tables,
        blobs,
        marks,
    })
}

fn read_position(reader: &mut Reader<'_>) -> Result<Position, Wrong> {
    Ok(Position { lsn: Lsn::new(reader.u64()?), chain: Chain(reader.u64()?) })
}

fn read_keyspace(reader: &mut Reader<'_>) -> Result<KeyspaceEntry, Wrong> {
    let id = KeyspaceId(reader.u32()?);
    let (created, dropped) = (Lsn::new(reader.u64()?), Lsn::new(reader.u64()?));
    let name_len = reader.u8()? as usize;
    let name = std::str::from_utf8(reader.bytes(name_len)?).map_err(|_| Wrong("a name is not UTF-8"))?;
    Ok(KeyspaceEntry { id, name: name.to_owned(), created, dropped })
}

fn read_table(reader: &mut Reader<'_>) -> Result<TableEntry, Wrong> {
    let (keyspace, level) = (KeyspaceId(reader.u32()?), reader.u8()?);
    let hash = FileHash::from_bytes(reader.array()?);
    let (size, entries) = (reader.u64()?, reader.u64()?);
    let (tombstones, range_deletes) = (reader.u64()?, reader.u64()?);
    let (min_lsn, max_lsn) = (Lsn::new(reader.u64()?), Lsn::new(reader.u64()?));
    let (min_expiry, max_expiry) = (reader.u64()?, reader.u64()?);
    let (min_len, max_len) = (reader.u32()? as usize, reader.u32()? as usize);
    let max_key_excluded = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Wrong("a table's range is impossible")),
    };
    let (min_key, max_key) = (reader.bytes(min_len)?.to_vec(), reader.bytes(max_len)?.to_vec());
    let meta = TableMeta {
        hash,
        size,
        entries,
        tombstones,
        range_deletes,
        min_lsn,
        max_lsn,
        min_expiry,
        max_expiry,
        min_key,
        max_key,
        max_key_excluded,
    };
    Ok(TableEntry { keyspace, level, meta })
}

fn read_blob(reader: &mut Reader<'_>) -> Result<BlobEntry, Wrong> {
    let keyspace = KeyspaceId(reader.u32()?);
    let hash = FileHash::from_bytes(reader.array()?);
    let (size, values, bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
    Ok(BlobEntry { keyspace, meta: BlobMeta { hash, size, values, bytes } })
}

fn read_mark(reader: &mut Reader<'_>) -> Result<TimeMark, Wrong> {
    Ok(TimeMark { lsn: Lsn::new(reader.u64()?), second: reader.u64()? })
}

const _: () = assert!(KEYSPACE_NAME_LEN_MAX <= u8::MAX as usize);
