//! The manifest: all keyspaces, tables and blob files as of the redo position, in one file written whole. What is in it, writing and
//! reading; which manifest is current is the control file's to say.

mod stored;

use std::path::{Path, PathBuf};

use seawall_wal::storage::{Storage, read_file, replace_file};
use seawall_wal::{ClusterId, Lsn, Position, TimelineId, Timestamp};

use crate::blob::BlobMeta;
use crate::error::{Error, Result, at};
use crate::file::{FileHash, FileKind};
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};
use crate::table::TableMeta;

/// The version this code reads and writes.
pub const MANIFEST_VERSION: u32 = 1;
/// No manifest is larger, in bytes.
pub const MANIFEST_SIZE_MAX: u64 = 4 << 30;
/// Keyspaces a database can have at a time, dropped ones that are still readable included.
pub const KEYSPACES_MAX: usize = 65_536;
/// Levels of tables, counted from 0.
pub const LEVELS: usize = 7;
/// Marks of time a manifest can have.
pub const MARKS_MAX: usize = 4096;

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

/// A blob file and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    /// Of which keyspace.
    pub keyspace: KeyspaceId,
    /// Which file, and how much is in it.
    pub meta: BlobMeta,
}

/// When a record was written, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeMark {
    /// The first record of a second.
    pub lsn: Lsn,
    /// Which second, since 1970.
    pub second: u64,
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
    /// The blob files that these tables refer to, by keyspace and digest.
    pub blobs: Vec<BlobEntry>,
    /// When records at or below redo were written: both rising, at most [`MARKS_MAX`].
    pub marks: Vec<TimeMark>,
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
            blobs: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// A time that all records after those of the log at `log_start` pass. Where the log begins before redo its own
    /// records say more, and those up to redo are older than `redo_time`.
    pub(crate) fn time_floor(&self) -> Timestamp {
        if self.log_start == self.redo { self.redo_time } else { Timestamp(0) }
    }

    /// Every file it names, with its size in bytes.
    pub fn files(&self) -> impl Iterator<Item = (FileKind, FileHash, u64)> {
        let tables = self.tables.iter().map(|table| (FileKind::Table, table.meta.hash, table.meta.size));
        tables.chain(self.blobs.iter().map(|blob| (FileKind::Blob, blob.meta.hash, blob.meta.size)))
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
        if blake3::hash(&bytes).as_bytes() != digest && !planted(Mutant::ManifestNotChecked) {
            return Err(Error::CorruptManifest { path, why: "it is not the one the control file names" });
        }
        let manifest = Self::parse(&bytes, &path)?;
        if manifest.number != number {
            return Err(Error::CorruptManifest { path, why: "its number is not the one in its name" });
        }
        Ok((manifest, bytes))
    }
}

/// Where manifest `number` of `folder` lies.
pub fn manifest_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("manifest-{number:016x}"))
}

#[cfg(test)]
mod tests;
