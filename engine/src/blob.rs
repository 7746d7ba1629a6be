//! Blob files: values that are too large to be written again with every merge of the tables that refer to them. A blob file
//! is written beside a table, read where it is mapped, and never changed; it goes when no table refers to it any more.

mod file;
mod record;
mod writer;

use crate::file::FileHash;

pub(crate) use file::BlobFile;
#[cfg(feature = "testing")]
pub(crate) use file::footer;
pub(crate) use record::{REFERENCE_LEN, Reference};
pub(crate) use writer::{BlobWriter, FinishedBlob};

/// The version this code reads and writes.
const BLOB_VERSION: u32 = 1;
const HEADER_LEN: usize = 16;
const FOOTER_LEN: usize = 64;
const HEADER_MAGIC: [u8; 8] = *b"SEAWBLOB";
const FOOTER_MAGIC: [u8; 8] = *b"SEAWBEND";

/// What a blob file is and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobMeta {
    /// Its name.
    pub hash: FileHash,
    /// Of the file, in bytes.
    pub size: u64,
    /// Values in it, at least 1.
    pub values: u64,
    /// Bytes of values in it, keys not counted.
    pub bytes: u64,
}

impl BlobMeta {
    /// What holds of every blob file. Checked where one is read from a manifest.
    pub(crate) fn is_possible(&self) -> bool {
        let frames = self.values.checked_mul(record::FRAME_LEN as u64);
        let least =
            frames.and_then(|frames| frames.checked_add(self.bytes)?.checked_add((HEADER_LEN + FOOTER_LEN) as u64));
        self.values > 0 && least.is_some_and(|least| least <= self.size)
    }
}

/// Which values a table's writer puts into blob files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobPolicy {
    /// Those of at least so many bytes; none if there is no such number.
    pub(crate) least: Option<usize>,
    /// A blob file of so many bytes takes no more values.
    pub(crate) file_bytes: u64,
}

impl BlobPolicy {
    /// No value.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self { least: None, file_bytes: 0 };

    pub(crate) fn takes(&self, value: &[u8]) -> bool {
        self.least.is_some_and(|least| value.len() >= least)
    }
}

/// How much of a blob file tables refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlobShare {
    /// Values.
    pub(crate) values: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl BlobShare {
    pub(crate) fn add(&mut self, other: Self) {
        self.values = self.values.saturating_add(other.values);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

#[cfg(test)]
mod tests;
