//! The manifest: all keyspaces and tables as of the redo position, in one file written whole. Encoding and checked
//! decoding, writing and reading; which manifest is current is the control file's to say.

use std::path::{Path, PathBuf};

use seawall_wal::storage::{Storage, read_file, replace_file};
use seawall_wal::{Chain, ClusterId, Lsn, Position, TimelineId, Timestamp};

use crate::codec::{Put, Reader, Truncated, len_u32};
use crate::error::{Error, Result, at};
use crate::format::{KEYSPACE_NAME_LEN_MAX, KeyspaceId};
use crate::table::{TableHash, TableMeta};

/// The version this code writes, and the newest it reads.
pub const MANIFEST_VERSION: u32 = 0;
/// No manifest is larger, in bytes.
pub const MANIFEST_SIZE_MAX: u64 = 4 << 30;
/// Keyspaces a database can have at a time, dropped ones that are still readable included.
pub const KEYSPACES_MAX: usize = 65_536;
/// Levels of tables, counted from 0.
pub const LEVELS: usize = 7;

const MAGIC: [u8; 8] = *b"SEAWMANI";
const TABLES_MAX: usize = 4 << 20;

/// A keyspace as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceEntry {
    /// Its number.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
    /// The record that made it.
    pub created: Lsn,
    /// The record that dropped it, or `Lsn::MAX`. `created < dropped`.
    pub dropped: Lsn,
}

/// A table and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Of which keyspace.
    pub keyspace: KeyspaceId,
    /// On which level.
    pub level: u8,
    /// Which file, and what is in it.
    pub meta: TableMeta,
}

/// The state at the redo position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its number, rising.
    pub number: u64,
    /// Whose data.
    pub cluster: ClusterId,
    /// Everything at or below it is in the tables, nothing above it is.
    pub redo: Position,
    /// The timeline of that position.
    pub timeline: TimelineId,
    /// Where the records before redo's segment end: reading the log starts there. `log_start <= redo`.
    pub log_start: Position,
    /// The time of the last record at or below it.
    pub redo_time: Timestamp,
    /// Versions needed only by readers below it may be gone. `floor <= redo`.
    pub floor: Lsn,
    /// The number the next keyspace gets.
    pub next_keyspace: u32,
    /// Keyspaces, by number.
    pub keyspaces: Vec<KeyspaceEntry>,
    /// Tables, in the order FORMAT.md says.
    pub tables: Vec<TableEntry>,
}

impl Manifest {
    /// Of a database with nothing in it yet.
    pub fn empty(cluster: ClusterId) -> Self {
        Self {
            number: 1,
            cluster,
            redo: Position::ZERO,
            timeline: TimelineId::FIRST,
            log_start: Position::ZERO,
            redo_time: Timestamp(0),
            floor: Lsn::ZERO,
            next_keyspace: 1,
            keyspaces: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// A time that all records after those of the log at `log_start` pass. Where the log begins before redo its own
    /// records say more, and those up to redo are older than `redo_time`.
    pub(crate) fn time_floor(&self) -> Timestamp {
        if self.log_start == self.redo { self.redo_time } else { Timestamp(0) }
    }

    /// Its stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.tables.len() * 160);
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
        bytes.put_u32(len_u32(self.keyspaces.len()));
        bytes.put_u32(len_u32(self.tables.len()));
        for keyspace in &self.keyspaces {
            bytes.put_u32(keyspace.id.0);
            bytes.put_u64(keyspace.created.offset());
            bytes.put_u64(keyspace.dropped.offset());
            bytes.put_u8(u8::try_from(keyspace.name.len()).expect("a name has at most 255 bytes"));
            bytes.put(keyspace.name.as_bytes());
        }
        for TableEntry { keyspace, level, meta } in &self.tables {
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
        let crc = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a manifest's bytes. `path` is for the error only.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let corrupt = |why| Error::CorruptManifest { path: path.to_owned(), why };
        let mut reader = Reader::new(bytes);
        let (Ok(magic), Ok(crc)) = (reader.array(), reader.u32()) else {
            return Err(corrupt("it ends too early"));
        };
        if magic != MAGIC || crc32fast::hash(&bytes[12..]) != crc {
            return Err(corrupt("its checksum does not match"));
        }
        match reader.u32() {
            Ok(MANIFEST_VERSION) => {}
            Ok(version) => {
                return Err(Error::version(path, version, MANIFEST_VERSION));
            }
            Err(Truncated) => return Err(corrupt("it ends too early")),
        }
        let manifest = parse_body(reader).map_err(|Truncated| corrupt("it ends too early"))?;
        let manifest = manifest.map_err(corrupt)?;
        manifest.check().map_err(corrupt)?;
        Ok(manifest)
    }

    /// What holds in every manifest, checked so that a wrong one is refused rather than served.
    fn check(&self) -> Result<(), &'static str> {
        if self.floor > self.redo.lsn || self.log_start.lsn > self.redo.lsn {
            return Err("its floor or log start lies above its redo position");
        }
        for pair in self.keyspaces.windows(2) {
            if pair[0].id >= pair[1].id {
                return Err("its keyspaces are out of order");
            }
        }
        if self.keyspaces.iter().any(|entry| entry.id.0 == 0 || entry.id.0 >= self.next_keyspace) {
            return Err("a keyspace number was not given out");
        }
        for table in &self.tables {
            let meta = &table.meta;
            if table.level as usize >= LEVELS || !meta.is_possible() {
                return Err("a table's level or content is impossible");
            }
            if meta.max_lsn > self.redo.lsn {
                return Err("a table holds something above the redo position");
            }
            if self.keyspaces.binary_search_by_key(&table.keyspace, |entry| entry.id).is_err() {
                return Err("a table belongs to no keyspace");
            }
        }
        for pair in self.tables.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            if (a.keyspace, a.level) > (b.keyspace, b.level) {
                return Err("its tables are out of order");
            }
            if (a.keyspace, a.level) == (b.keyspace, b.level) {
                let in_order = match a.level {
                    0 => a.meta.min_lsn > b.meta.max_lsn,
                    _ => a.meta.ends_before(&b.meta.min_key),
                };
                if !in_order {
                    return Err("tables of one level overlap");
                }
            }
        }
        Ok(())
    }

    /// Writes it to `folder` durably, and gives its digest. The control file does not point at it yet.
    pub fn write(&self, storage: &dyn Storage, folder: &Path) -> Result<[u8; 32]> {
        let path = manifest_path(folder, self.number);
        let bytes = self.encode();
        replace_file(storage, &path, &bytes).map_err(at("write", &path))?;
        Ok(*blake3::hash(&bytes).as_bytes())
    }

    /// Reads manifest `number` of `folder`, which must have this digest.
    pub fn read(storage: &dyn Storage, folder: &Path, number: u64, digest: &[u8; 32]) -> Result<(Self, Vec<u8>)> {
        let path = manifest_path(folder, number);
        let bytes = read_file(storage, &path, MANIFEST_SIZE_MAX).map_err(at("read", &path))?;
        if blake3::hash(&bytes).as_bytes() != digest {
            return Err(Error::CorruptManifest { path, why: "it is not the one the control file names" });
        }
        let manifest = Self::parse(&bytes, &path)?;
        if manifest.number != number {
            return Err(Error::CorruptManifest { path, why: "its number is not the one in its name" });
        }
        Ok((manifest, bytes))
    }
}

fn parse_body(mut reader: Reader<'_>) -> Result<Result<Manifest, &'static str>, Truncated> {
    let number = reader.u64()?;
    let cluster = ClusterId::from_bytes(reader.array()?);
    let redo = Position { lsn: Lsn::new(reader.u64()?), chain: Chain(reader.u64()?) };
    let timeline = TimelineId(reader.u32()?);
    let log_start = Position { lsn: Lsn::new(reader.u64()?), chain: Chain(reader.u64()?) };
    let redo_time = Timestamp(reader.u64()?);
    let floor = Lsn::new(reader.u64()?);
    let next_keyspace = reader.u32()?;
    let keyspace_count = reader.u32()? as usize;
    let table_count = reader.u32()? as usize;
    if keyspace_count > KEYSPACES_MAX || table_count > TABLES_MAX {
        return Ok(Err("a count is impossible"));
    }
    let mut keyspaces = Vec::new();
    for _ in 0..keyspace_count {
        let id = KeyspaceId(reader.u32()?);
        let created = Lsn::new(reader.u64()?);
        let dropped = Lsn::new(reader.u64()?);
        let name_len = reader.u8()? as usize;
        let Ok(name) = std::str::from_utf8(reader.bytes(name_len)?) else {
            return Ok(Err("a name is not UTF-8"));
        };
        keyspaces.push(KeyspaceEntry { id, name: name.to_owned(), created, dropped });
    }
    let mut tables = Vec::new();
    for _ in 0..table_count {
        let keyspace = KeyspaceId(reader.u32()?);
        let level = reader.u8()?;
        let hash = TableHash::from_bytes(reader.array()?);
        let (size, entries) = (reader.u64()?, reader.u64()?);
        let (tombstones, range_deletes) = (reader.u64()?, reader.u64()?);
        let (min_lsn, max_lsn) = (Lsn::new(reader.u64()?), Lsn::new(reader.u64()?));
        let (min_expiry, max_expiry) = (reader.u64()?, reader.u64()?);
        let (min_len, max_len) = (reader.u32()? as usize, reader.u32()? as usize);
        let max_key_excluded = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Ok(Err("a table's range is impossible")),
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
        tables.push(TableEntry { keyspace, level, meta });
    }
    if !reader.is_empty() {
        return Ok(Err("bytes follow its last table"));
    }
    Ok(Ok(Manifest { number, cluster, redo, timeline, log_start, redo_time, floor, next_keyspace, keyspaces, tables }))
}

/// Where manifest `number` of `folder` lies.
pub fn manifest_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("manifest-{number:016x}"))
}

const _: () = assert!(KEYSPACE_NAME_LEN_MAX <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use seawall_wal::storage::MemoryDisk;

    use super::*;

    fn manifest() -> Manifest {
        let table = |level, byte: u8, lsns: (u64, u64), keys: (&[u8], &[u8])| TableEntry {
            keyspace: KeyspaceId(1),
            level,
            meta: TableMeta {
                hash: TableHash::from_bytes([byte; 32]),
                size: 100,
                entries: 3,
                tombstones: 1,
                range_deletes: 2,
                min_lsn: Lsn::new(lsns.0),
                max_lsn: Lsn::new(lsns.1),
                min_expiry: 0,
                max_expiry: 0,
                min_key: keys.0.to_vec(),
                max_key: keys.1.to_vec(),
                max_key_excluded: byte == 3,
            },
        };
        Manifest {
            number: 7,
            redo: Position { lsn: Lsn::new(900), chain: Chain(5) },
            redo_time: Timestamp(3),
            floor: Lsn::new(600),
            next_keyspace: 3,
            keyspaces: vec![
                KeyspaceEntry { id: KeyspaceId(1), name: "a".into(), created: Lsn::new(600), dropped: Lsn::MAX },
                KeyspaceEntry { id: KeyspaceId(2), name: "b".into(), created: Lsn::new(650), dropped: Lsn::new(700) },
            ],
            tables: vec![
                table(0, 1, (800, 900), (b"a", b"z")),
                table(0, 2, (700, 750), (b"b", b"c")),
                table(1, 3, (600, 650), (b"a", b"m")),
                // The one before ends where this begins.
                table(1, 4, (600, 690), (b"m", b"z")),
            ],
            ..Manifest::empty(ClusterId::random())
        }
    }

    #[test]
    fn a_manifest_reads_back_by_number_and_digest() {
        let disk = MemoryDisk::new();
        let folder = Path::new("/d");
        disk.create_dir_all(folder).unwrap();
        let digest = manifest().clone().write(&disk, folder).unwrap();
        assert!(matches!(
            Manifest::read(&disk, folder, 7, &[0; 32]),
            Err(Error::CorruptManifest { why: "it is not the one the control file names", .. })
        ));
        let (read, bytes) = Manifest::read(&disk, folder, 7, &digest).unwrap();
        assert_eq!(read.encode(), bytes);
        assert_eq!(Manifest { cluster: read.cluster, ..manifest() }, read);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_detected() {
        let good = manifest().encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::parse(&bytes, Path::new("m")).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Manifest::parse(&good[..len], Path::new("m")).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        let wrongs: [fn(&mut Manifest); 8] = [
            |m| m.floor = Lsn::new(901),
            |m| m.tables[0].meta.max_lsn = Lsn::new(901),
            |m| m.tables.swap(0, 1),
            |m| m.tables[3].meta.min_key = b"l".to_vec(),
            |m| m.tables[2].meta.max_key_excluded = false,
            |m| m.tables[2].meta.range_deletes = 0,
            |m| m.tables[2].meta.max_expiry = 1,
            |m| m.next_keyspace = 2,
        ];
        for (index, wrong) in wrongs.iter().enumerate() {
            let mut manifest = manifest();
            wrong(&mut manifest);
            let parsed = Manifest::parse(&manifest.encode(), Path::new("m"));
            assert!(matches!(parsed, Err(Error::CorruptManifest { .. })), "{index}");
        }
    }

    #[test]
    fn bytes_changed_under_a_right_checksum_are_refused_or_make_sense() {
        let good = manifest().encode();
        let (mut refused, mut read) = (0, 0);
        for at in 12..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let crc = crc32fast::hash(&bytes[12..]);
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
                match Manifest::parse(&bytes, Path::new("m")) {
                    Err(Error::CorruptManifest { .. } | Error::TooNew { .. }) => refused += 1,
                    Err(other) => panic!("{other}"),
                    Ok(manifest) => {
                        assert_eq!(manifest.encode(), bytes, "what is read is all there is");
                        read += 1;
                    }
                }
            }
        }
        assert!(refused > 100 && read > 100, "{refused} {read}");
    }
}
