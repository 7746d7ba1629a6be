//! Doors for fuzzers into the readers of tables and blob files: a table whose bytes may be exchanged, read in every way
//! there is, and the bodies of single blocks.

use std::path::Path;
use std::sync::Arc;

use seawall_wal::storage::{Access, MemoryDisk, Storage, write_all_at};
use seawall_wal::{Lsn, Timestamp};

use super::filter::{Filter, hash};
use super::footer::Footer;
use super::sorted::{self, Sorted};
use super::{Content, EntryRef, FOOTER_LEN, Placement, TableCursor, TableMeta, TableStore, range_delete, references};
use crate::blob::{BlobMeta, BlobPolicy, footer as blob_footer};
use crate::error::{Result, at};
use crate::file::tail::TAIL_LEN;
use crate::file::{FileHash, FileKind, TABLES_FOLDER};
use crate::format::KeyspaceId;
use crate::operator::MergeOperator;

const ROOT: &str = "/data";
const KEYSPACE: KeyspaceId = KeyspaceId(3);
/// Values of so many bytes lie in blob files.
const LARGE: usize = 300;

/// A version of a key as it was read: key, position, kind and value.
pub type Version = (Vec<u8>, Lsn, String, Vec<u8>);

/// A table and the blob files it refers to, as bytes.
#[derive(Clone, Debug)]
pub struct TableFiles {
    /// The table's file.
    pub table: Vec<u8>,
    /// The blob files', in the order in which the table lists them.
    pub blobs: Vec<Vec<u8>>,
    meta: TableMeta,
    blob_metas: Vec<BlobMeta>,
}

impl TableFiles {
    /// A small table with versions of every kind: as on an upper level, or `below`, compressed and with another filter.
    ///
    /// # Panics
    /// Never: a disk in memory does not fail.
    pub fn sample(below: bool) -> Self {
        let disk = Arc::new(MemoryDisk::new());
        let placement = if below { Placement::Below } else { Placement::Top };
        Self::write(&disk, placement).expect("a disk in memory does not fail")
    }

    fn write(disk: &Arc<MemoryDisk>, placement: Placement) -> Result<Self> {
        let store = store(disk)?;
        let policy = BlobPolicy { least: Some(LARGE), file_bytes: 1000 };
        let mut writer = store.writer(KEYSPACE, placement, policy)?;
        for number in 0..120_u64 {
            let key =
                [b"a key of".as_slice(), &[b'a' + (number / 8) as u8], &vec![b'k'; number as usize / 4 % 2]].concat();
            let lsn = Lsn::new(2000 - number);
            let value = vec![number as u8; if number % 41 == 7 { LARGE + 9 } else { number as usize }];
            let time = Timestamp(1_800_000_000_000_000 + number);
            let content = match number % 9 {
                0 => Content::Delete,
                1 => Content::Merge { operator: MergeOperator::Append, time, operand: &value },
                2 => Content::Expiring { expiry: time, value: &value },
                _ => Content::Put(&value),
            };
            writer.push(EntryRef { key: &key, lsn, content })?;
        }
        for (start, end) in [(b"a", b"b"), (b"a", b"c"), (b"x", b"z")] {
            writer.push_range_delete(start, end, Lsn::new(77));
        }
        let table = store.adopt(writer.finish()?)?;
        let read = |path: &Path| {
            let file = disk.open(path, Access::Read).map_err(at("open", path))?;
            Ok(file.map().map_err(at("map", path))?.to_vec())
        };
        Ok(Self {
            table: read(table.path())?,
            blobs: table.blobs().iter().map(|blob| read(blob.file.path())).collect::<Result<_>>()?,
            meta: table.meta().clone(),
            blob_metas: table.blobs().iter().map(|blob| *blob.file.meta()).collect(),
        })
    }

    /// Makes footers and lengths right, as somebody could who knows the formats. The checksums of blocks and values stay
    /// as they are: the planted bugs `BlocksNotChecked` and `BlobValuesNotChecked` are there to get past them.
    pub fn seal(&mut self) {
        self.meta.size = self.table.len() as u64;
        if let Some(at) = self.table.len().checked_sub(FOOTER_LEN)
            && let Ok(Some(footer)) = Footer::places(&self.table[at..at + FOOTER_LEN - TAIL_LEN])
        {
            self.table.truncate(at);
            self.table.extend(footer.encode(KEYSPACE, &self.meta));
        }
        for (file, meta) in self.blobs.iter_mut().zip(&mut self.blob_metas) {
            meta.size = file.len() as u64;
            let footer = blob_footer(KEYSPACE, meta);
            if let Some(at) = file.len().checked_sub(footer.len()) {
                file.truncate(at);
                file.extend(footer);
            }
        }
    }

    /// Opens the files and reads all there is, forward and backward, key by key, and through blocks read together.
    ///
    /// # Errors
    /// What the readers say of damage.
    ///
    /// # Panics
    /// If two ways of reading disagree. `filter_is_sound` says that the filter was not tampered with.
    pub fn read(&self, filter_is_sound: bool) -> Result<Vec<Version>> {
        let disk = Arc::new(MemoryDisk::new());
        let store = store(&disk)?;
        put(&disk, FileKind::Table, &self.meta.hash, &self.table)?;
        for (meta, bytes) in self.blob_metas.iter().zip(&self.blobs) {
            put(&disk, FileKind::Blob, &meta.hash, bytes)?;
            store.open_blob(KEYSPACE, *meta)?;
        }
        let table = store.open(KEYSPACE, self.meta.clone())?;
        let mut forward = Vec::new();
        let mut cursor = TableCursor::first_from(Arc::clone(&table), None)?;
        while let Some(entry) = cursor.entry() {
            forward.push(version(&entry)?);
            cursor.forward()?;
        }
        let mut backward = Vec::new();
        let mut cursor = TableCursor::last_before(Arc::clone(&table), None)?;
        while let Some(entry) = cursor.entry() {
            backward.push(version(&entry)?);
            cursor.back()?;
        }
        backward.reverse();
        assert_eq!(forward, backward, "a walk forward and one backward differ");
        let places = (0..table.blocks_len()).filter_map(|number| table.numbered(number).transpose());
        let places = places.collect::<Result<Vec<_>>>()?;
        table.blocks(&places, table.find_blocks(&places)?)?;
        for (key, lsn, ..) in &forward {
            let found = table.versions(key, hash(key), *lsn, |found, _| found == *lsn)?;
            assert!(found || !filter_is_sound, "a get does not find what a walk does");
            table.newest(key, hash(key))?;
        }
        for strange in [b"".as_slice(), b"a key", b"a key of", b"a key ofkk", b"\xff"] {
            table.versions(strange, hash(strange), Lsn::MAX, |_, _| false)?;
            cursor.back_before(strange)?;
            cursor.forward_to(strange, Lsn::MAX)?;
        }
        table.range_deletes()?;
        // Says so wherever a byte differs, and that is said elsewhere.
        let _ = table.verify();
        table.blobs().iter().for_each(|blob| drop(blob.file.verify()));
        Ok(forward)
    }
}

fn store(disk: &Arc<MemoryDisk>) -> Result<TableStore> {
    let root = Path::new(ROOT);
    let folder = root.join(TABLES_FOLDER);
    disk.create_dir_all(&folder).map_err(at("create", &folder))?;
    Ok(TableStore::new(disk.clone(), root, 1 << 20))
}

fn put(disk: &MemoryDisk, kind: FileKind, name: &FileHash, bytes: &[u8]) -> Result<()> {
    let path = kind.path_in(Path::new(ROOT), name);
    let written = disk.open(&path, Access::CreateNew).and_then(|file| write_all_at(&*file, bytes, 0));
    written.map_err(at("write", &path))
}

fn version(entry: &EntryRef<'_>) -> Result<Version> {
    let content = if let Content::Large(large) = entry.content { large.read()? } else { entry.content };
    let (kind, value): (_, &[u8]) = match content {
        Content::Put(value) => (String::from("put"), value),
        Content::Delete => (String::from("delete"), &[]),
        Content::Merge { operator, time, operand } => (format!("{operator:?} at {}", time.0), operand),
        Content::Expiring { expiry, value } => (format!("until {}", expiry.0), value),
        Content::Large(_) => unreachable!("it was read"),
    };
    Ok((entry.key.to_vec(), entry.lsn, kind, value.to_vec()))
}

/// The body of a block of sorted entries: if it passes its check, walking and searching it must not fail. Says how many
/// entries it has.
///
/// # Panics
/// If something that passed the check cannot be used.
pub fn sorted_block(raw: &[u8], count: u32) -> Option<usize> {
    let (first, last) = sorted::check(raw, count, &[]).ok()?;
    let entries = Sorted::new(raw);
    let (mut spot, mut key, mut seen) = (entries.run(0), Vec::new(), 0);
    let mut keys = Vec::new();
    while spot != entries.end() {
        let entry = entries.at(spot);
        entries.key_of(&entry, &mut key);
        assert_eq!(entries.seek(&key, entry.lsn), (spot, true), "a search finds what a walk does");
        assert!(raw.get(entries.value_range(spot, &entry)).is_some());
        keys.push((key.clone(), entry.lsn));
        (spot, seen) = (entry.next, seen + 1);
    }
    assert_eq!((keys.first(), keys.last(), seen), (Some(&first), Some(&last), count as usize));
    // Backward, which is another walk.
    for (expected, _) in keys.iter().rev() {
        spot = entries.before(spot, &mut key);
        assert_eq!(&key, expected);
    }
    (0..entries.runs()).for_each(|run| drop(entries.place_of_run(run)));
    Some(seen)
}

/// The body of a filter: if it passes its check, it can be asked.
pub fn filter(raw: &[u8], count: u32, key: &[u8]) -> Option<bool> {
    Some(Filter::check(raw, count).ok()?.may_contain(raw, hash(key)))
}

/// The body of a block of range deletes: how many there are.
///
/// # Panics
/// If what was read is not written back as it was.
pub fn range_deletes(raw: &[u8], count: u32) -> Option<usize> {
    let deletes = range_delete::parse(raw, count).ok()?;
    assert_eq!(range_delete::encode(&deletes), raw);
    Some(deletes.len())
}

/// The list of blob files in a table's properties: how many there are.
///
/// # Panics
/// If what was read is not written back as it was.
pub fn blob_list(raw: &[u8], count: u32) -> Option<usize> {
    let list = references::parse(raw, count).ok()?;
    let mut again = Vec::new();
    references::put(&mut again, &list);
    assert_eq!(again, raw);
    Some(list.len())
}
