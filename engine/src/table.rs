//! Tables: immutable sorted files, each the whole truth about its checksums. Blocks, filter, writer, reader, cursor and
//! the store that owns the open ones. Which table stands on which level is `version`'s business.

mod block;
mod checked;
mod content;
mod cursor;
mod filter;
mod footer;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod index;
mod level_cursor;
mod range_delete;
mod reader;
mod references;
mod sorted;
mod store;
mod writer;

use std::cmp::Ordering;

use seawall_wal::{Lsn, Timestamp};

use crate::file::FileHash;

pub(crate) use block::Block;
pub(crate) use checked::Checked;
pub(crate) use content::{Content, EntryRef, Large};
pub(crate) use cursor::TableCursor;
pub(crate) use filter::hash as filter_hash;
pub(crate) use index::BlockPlace;
pub(crate) use level_cursor::LevelCursor;
#[cfg(test)]
pub(crate) use range_delete::RangeDelete;
pub(crate) use reader::Table;
pub(crate) use references::BlobUse;
pub use store::CacheStats;
pub(crate) use store::TableStore;
pub(crate) use writer::{FinishedTable, TableWriter};

/// The version this code reads and writes.
pub(crate) const TABLE_VERSION: u32 = 1;

/// Header, footer and block header, in bytes.
const HEADER_LEN: usize = 16;
const FOOTER_LEN: usize = 144;
const HEADER_MAGIC: [u8; 8] = *b"SEAWTABL";
const FOOTER_MAGIC: [u8; 8] = *b"SEAWTEND";

/// Where a table goes, which decides how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// On level 0 or 1: read most, and soon merged into others.
    Top,
    /// On a deeper level, where nearly all data are.
    Below,
}

impl Placement {
    pub(crate) fn on_level(level: usize) -> Self {
        if level <= 1 { Self::Top } else { Self::Below }
    }

    fn codec(self) -> Codec {
        match self {
            Self::Top => Codec::None,
            Self::Below => Codec::Zstd,
        }
    }
}

/// How data blocks are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Codec {
    /// As they are, to be read where the file is mapped.
    None = 0,
    /// By zstd, those that become smaller by it.
    Zstd = 1,
}

/// What a table is and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMeta {
    /// Its name.
    pub hash: FileHash,
    /// Of the file, in bytes.
    pub size: u64,
    /// Versions of keys in it.
    pub entries: u64,
    /// Deletes among them.
    pub tombstones: u64,
    /// Deletes of ranges, which do not count as entries.
    pub range_deletes: u64,
    /// The oldest version or range delete. `min_lsn <= max_lsn`.
    pub min_lsn: Lsn,
    /// The newest.
    pub max_lsn: Lsn,
    /// When the first value expires, in microseconds since 1970; 0 if none ever does. `min_expiry <= max_expiry`.
    pub min_expiry: u64,
    /// When the last value that expires does; 0 if none does.
    pub max_expiry: u64,
    /// The least key, also of its range deletes. `min_key <= max_key`.
    pub min_key: Vec<u8>,
    /// Where its keys end, also those of its range deletes.
    pub max_key: Vec<u8>,
    /// Whether `max_key` is not among them: the end of a range delete. Then `min_key < max_key`.
    pub max_key_excluded: bool,
}

impl TableMeta {
    /// Whether a key of it can lie in `[min, max]`.
    pub(crate) fn overlaps(&self, min: &[u8], max: &[u8]) -> bool {
        !self.ends_before(min) && self.min_key.as_slice() <= max
    }

    /// Whether all its keys are less than `key`.
    pub(crate) fn ends_before(&self, key: &[u8]) -> bool {
        match self.max_key_excluded {
            true => self.max_key.as_slice() <= key,
            false => self.max_key.as_slice() < key,
        }
    }

    /// When its first and its last value end that do, if any does.
    pub(crate) fn expiries(&self) -> Option<(Timestamp, Timestamp)> {
        (self.max_expiry > 0).then_some((Timestamp(self.min_expiry), Timestamp(self.max_expiry)))
    }

    /// What holds of every table. Checked where one is read from a manifest.
    pub(crate) fn is_possible(&self) -> bool {
        let holds_something = self.entries > 0 || self.range_deletes > 0;
        let keys = match self.max_key_excluded {
            true => self.range_deletes > 0 && self.min_key < self.max_key,
            false => self.min_key <= self.max_key,
        };
        let expiries = self.min_expiry <= self.max_expiry && (self.min_expiry == 0) == (self.max_expiry == 0);
        holds_something && self.tombstones <= self.entries && self.min_lsn <= self.max_lsn && keys && expiries
    }
}

/// The order of versions everywhere: by key, and newer versions of a key first.
pub(crate) fn version_order(a: (&[u8], Lsn), b: (&[u8], Lsn)) -> Ordering {
    a.0.cmp(b.0).then(b.1.cmp(&a.1))
}

#[cfg(test)]
mod tests;
