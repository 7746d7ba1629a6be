//! Names of the files that hold the state: tables, and the blob files they refer to. A file never changes, and its name is
//! what is in it.

mod new;
pub(crate) mod tail;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use new::{NewFile, Temporary};

/// The folder of these files in a data directory.
pub(crate) const TABLES_FOLDER: &str = "tables";

/// The digest of a file's bytes, BLAKE3. It is its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileHash([u8; 32]);

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A table.
    Table,
    /// Large values that tables refer to.
    Blob,
}

impl FileHash {
    /// From its stored form.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its stored form.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Table, Self::Blob];

    /// The name of a file of this kind.
    pub fn file_name(self, hash: &FileHash) -> String {
        format!("{hash}{}", self.ending())
    }

    /// What the file with this name is, if it is one of these.
    pub(crate) fn of_file_name(name: &str) -> Option<(Self, FileHash)> {
        let (kind, hex) = Self::ALL.into_iter().find_map(|kind| Some((kind, name.strip_suffix(kind.ending())?)))?;
        let hash = blake3::Hash::from_hex(hex).ok()?;
        Some((kind, FileHash(*hash.as_bytes())))
    }

    /// Where such a file lies in a data directory.
    pub fn path_in(self, folder: &Path, hash: &FileHash) -> PathBuf {
        folder.join(TABLES_FOLDER).join(self.file_name(hash))
    }

    /// What the names of such files end with.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Table => ".table",
            Self::Blob => ".blob",
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Blob => "blob file",
        })
    }
}

impl fmt::Display for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileHash({self})")
    }
}
