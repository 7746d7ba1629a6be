//! A file beside the log whose bits are flipped: control file, manifest, table or blob file of a database that is then opened
//! and read as a whole.

use std::ops::Range;
use std::path::{Path, PathBuf};

use seawall_engine::{CommitLevel, DamagedSlot, Error};
use seawall_wal::storage::{Access, MemoryDisk, Storage};

use super::{Decaying, Flipped, commit, plain};
use crate::setup::{DIR, Setup};
use crate::story::{Story, Wrong};

/// A file of a database whose state is all in tables.
pub struct DecayingFile {
    kind: Kind,
    setup: Setup,
    disk: MemoryDisk,
    path: PathBuf,
    len: u64,
    commits: u64,
    headers: Vec<Range<u64>>,
}

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two copies of what is current.
    Control,
    /// The list of tables.
    Manifest,
    /// The largest table.
    Table,
    /// The largest blob file.
    Blob,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Control, Self::Manifest, Self::Table, Self::Blob];

    /// Where such files are, how their names begin or end, and the parts of such a file whose every bit is flipped.
    fn place(self, len: u64) -> (PathBuf, &'static str, Vec<Range<u64>>) {
        let (dir, tables) = (PathBuf::from(DIR), Path::new(DIR).join("tables"));
        match self {
            Self::Control => (dir, "control", vec![0..200, len / 2..len / 2 + 200]),
            Self::Manifest => (dir, "manifest-", vec![0..100, len.saturating_sub(100)..len]),
            Self::Table => (tables, ".table", vec![0..64, len.saturating_sub(128)..len]),
            Self::Blob => (tables, ".blob", vec![0..64, len.saturating_sub(64)..len]),
        }
    }
}

impl DecayingFile {
    /// One of this kind.
    pub fn new(kind: Kind) -> Self {
        let setup = Setup { table_bytes: 32 << 10, blob_bytes: Some(2 << 10), ..plain(2) };
        let (disk, commits) = (MemoryDisk::new(), 60);
        let db = setup.open(&disk).expect("nothing fails on this disk");
        (0..commits).for_each(|number| commit(&db, &Story::new(setup.seed, 0), number, CommitLevel::Local));
        db.compact().and_then(|()| db.close()).expect("nothing fails on this disk");
        let (folder, like, _) = kind.place(0);
        let names = disk.list(&folder).expect("nothing fails on this disk");
        let sized = names.iter().filter(|name| name.contains(like)).map(|name| {
            let path = folder.join(name);
            let len = disk.open(&path, Access::Read).and_then(|file| file.len()).expect("nothing fails on this disk");
            (len, path)
        });
        let (len, path) = sized.max().expect("a database has files of every kind");
        let (_, _, headers) = kind.place(len);
        Self { kind, setup, disk, path, len, commits, headers }
    }

    fn read(&self, disk: &MemoryDisk, byte: u64) -> Flipped {
        let db = match self.setup.open(disk) {
            Ok(db) => db,
            Err(error) => return self.refused(&error),
        };
        let is_other_slot = |damaged: &DamagedSlot| {
            let flipped = usize::from(byte >= self.len / 2);
            self.kind != Kind::Control || damaged.slot != flipped
        };
        if db.damaged_control().iter().any(is_other_slot) {
            return Flipped::Misnamed;
        }
        let is_reported = !db.damaged_control().is_empty();
        match Story::new(self.setup.seed, 0).commits_in(&db) {
            Err(Wrong::Engine(error)) => self.refused(&error),
            Ok(commits) if commits == self.commits => match db.verify_tables() {
                Ok(()) if is_reported => Flipped::Detected,
                Ok(()) => Flipped::Harmless,
                Err(error) => self.refused(&error),
            },
            _ => Flipped::Served,
        }
    }

    /// Whether who reads the error looks at this file.
    fn refused(&self, error: &Error) -> Flipped {
        match error.to_string().contains(&*self.path.to_string_lossy()) {
            true => Flipped::Detected,
            false => Flipped::Misnamed,
        }
    }
}

impl Decaying for DecayingFile {
    fn bytes(&self) -> u64 {
        self.len
    }

    fn headers(&self) -> &[Range<u64>] {
        &self.headers
    }

    fn flip(&self, byte: u64, bit: u8) -> Flipped {
        let disk = self.disk.duplicate();
        disk.flip_bit(&self.path, byte, bit);
        self.read(&disk, byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_names_another_file_does_not_count_as_noticed() {
        let table = DecayingFile::new(Kind::Table);
        let byte = table.len - 20;
        assert_eq!(table.flip(byte, 3), Flipped::Detected);
        let manifest = DecayingFile::new(Kind::Manifest).path;
        table.disk.flip_bit(&manifest, 60, 1);
        assert_eq!(table.flip(byte, 3), Flipped::Misnamed);
    }
}
