//! One ordered run of versions: a memtable, a table of level 0, or a level whose tables do not overlap.

use seawall_wal::Lsn;

use crate::error::Result;
use crate::memtable::MemoryCursor;
use crate::table::{EntryRef, LevelCursor, TableCursor};

/// Versions that are passed over one by one before the next key is looked for.
pub(super) const NEAR: usize = 8;

/// One ordered run of versions.
#[derive(Debug)]
pub(super) enum Source {
    Memory(MemoryCursor),
    Table(TableCursor),
    Level(LevelCursor),
}

impl Source {
    pub(super) fn entry(&self) -> Option<EntryRef<'_>> {
        match self {
            Self::Memory(cursor) => cursor.entry(),
            Self::Table(cursor) => cursor.entry(),
            Self::Level(cursor) => cursor.entry(),
        }
    }

    /// Key and LSN of the entry.
    pub(super) fn place(&self) -> Option<(&[u8], Lsn)> {
        match self {
            Self::Memory(cursor) => cursor.place(),
            Self::Table(cursor) => cursor.place(),
            Self::Level(cursor) => cursor.place(),
        }
    }

    pub(super) fn forward(&mut self) -> Result<()> {
        match self {
            Self::Memory(cursor) => {
                cursor.forward();
                Ok(())
            }
            Self::Table(cursor) => cursor.forward(),
            Self::Level(cursor) => cursor.forward(),
        }
    }

    pub(super) fn back(&mut self) -> Result<()> {
        match self {
            Self::Memory(cursor) => {
                cursor.back();
                Ok(())
            }
            Self::Table(cursor) => cursor.back(),
            Self::Level(cursor) => cursor.back(),
        }
    }

    /// Whether it has nothing as new as `lsn`, as far as that is known.
    pub(super) fn is_older_than(&self, lsn: Lsn) -> bool {
        match self {
            // What it will have is newer than any reader.
            Self::Memory(_) => false,
            Self::Table(cursor) => cursor.max_lsn() < lsn,
            Self::Level(cursor) => cursor.max_lsn() < lsn,
        }
    }

    /// Passes over the versions of a key that are newer than `than`, from before them. A memtable has each that was
    /// written, which may be thousands.
    pub(super) fn forward_past_newer(&mut self, key: &[u8], than: Lsn) -> Result<()> {
        let mut passed = 0;
        while self.place().is_some_and(|(at, lsn)| at == key && lsn > than) {
            match passed {
                NEAR => self.forward_to(key, than)?,
                _ => self.forward()?,
            }
            passed += 1;
        }
        Ok(())
    }

    /// To the first version at or behind the place, from before it; a level may stop at its next table.
    pub(super) fn forward_to(&mut self, key: &[u8], lsn: Lsn) -> Result<()> {
        match self {
            Self::Memory(cursor) => {
                cursor.forward_to(key, lsn);
                Ok(())
            }
            Self::Table(cursor) => cursor.forward_to(key, lsn),
            Self::Level(cursor) => cursor.forward_to(key, lsn),
        }
    }

    /// To the last version of a key that is less, from behind it; a level may stop at its next table.
    pub(super) fn back_before(&mut self, key: &[u8]) -> Result<()> {
        match self {
            Self::Memory(cursor) => {
                cursor.back_before(key);
                Ok(())
            }
            Self::Table(cursor) => cursor.back_before(key),
            Self::Level(cursor) => cursor.back_before(key),
        }
    }
}
