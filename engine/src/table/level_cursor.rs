//! Walking the versions in the tables of one level, which are in order and do not overlap, in either direction.

use std::sync::Arc;

use seawall_wal::Lsn;

use super::content::EntryRef;
use super::cursor::TableCursor;
use super::reader::Table;
use crate::error::Result;

/// A place among the versions of a level whose tables are in order and do not overlap.
#[derive(Debug)]
pub(crate) struct LevelCursor {
    tables: Vec<Arc<Table>>,
    /// Which table the cursor is in; meaningless without one.
    number: usize,
    cursor: Option<TableCursor>,
}

impl LevelCursor {
    /// At the first version at or after the place, or the very first.
    pub(crate) fn first_from(tables: Vec<Arc<Table>>, from: Option<(&[u8], Lsn)>) -> Result<Self> {
        let number = from.map_or(0, |(key, _)| tables.partition_point(|table| table.meta().ends_before(key)));
        let cursor = match tables.get(number) {
            Some(table) => Some(TableCursor::first_from(Arc::clone(table), from)?),
            None => None,
        };
        let mut level = Self { tables, number, cursor };
        level.settle_forward()?;
        Ok(level)
    }

    /// At the last version before the place, or the very last.
    pub(crate) fn last_before(tables: Vec<Arc<Table>>, before: Option<(&[u8], Lsn)>) -> Result<Self> {
        // Tables whose least key is not above the place's key may hold something before it.
        let count = before
            .map_or(tables.len(), |(key, _)| tables.partition_point(|table| table.meta().min_key.as_slice() <= key));
        let mut level = Self { tables, number: count, cursor: None };
        if let Some(number) = count.checked_sub(1) {
            level.number = number;
            level.cursor = Some(TableCursor::last_before(Arc::clone(&level.tables[number]), before)?);
            level.settle_back()?;
        }
        Ok(level)
    }

    pub(crate) fn entry(&self) -> Option<EntryRef<'_>> {
        self.cursor.as_ref().and_then(TableCursor::entry)
    }

    /// Key and LSN of the entry.
    pub(crate) fn place(&self) -> Option<(&[u8], Lsn)> {
        self.cursor.as_ref().and_then(TableCursor::place)
    }

    pub(crate) fn forward(&mut self) -> Result<()> {
        if let Some(cursor) = &mut self.cursor {
            cursor.forward()?;
        }
        self.settle_forward()
    }

    pub(crate) fn back(&mut self) -> Result<()> {
        if let Some(cursor) = &mut self.cursor {
            cursor.back()?;
        }
        self.settle_back()
    }

    /// The newest LSN in the table it is in; there may be newer ones in others.
    pub(crate) fn max_lsn(&self) -> Lsn {
        self.cursor.as_ref().map_or(Lsn::ZERO, TableCursor::max_lsn)
    }

    /// To the first version at or behind the place, from before it, or to the end of the table it is in.
    pub(crate) fn forward_to(&mut self, key: &[u8], lsn: Lsn) -> Result<()> {
        if let Some(cursor) = &mut self.cursor {
            cursor.forward_to(key, lsn)?;
        }
        self.settle_forward()
    }

    /// To the last version of a key that is less, from behind it, or to the beginning of the table it is in.
    pub(crate) fn back_before(&mut self, key: &[u8]) -> Result<()> {
        if let Some(cursor) = &mut self.cursor {
            cursor.back_before(key)?;
        }
        self.settle_back()
    }

    fn settle_forward(&mut self) -> Result<()> {
        while self.cursor.as_ref().is_some_and(|cursor| cursor.place().is_none()) {
            self.number += 1;
            self.cursor = match self.tables.get(self.number) {
                Some(table) => Some(TableCursor::first_from(Arc::clone(table), None)?),
                None => None,
            };
        }
        Ok(())
    }

    fn settle_back(&mut self) -> Result<()> {
        while self.cursor.as_ref().is_some_and(|cursor| cursor.place().is_none()) {
            self.cursor = match self.number.checked_sub(1) {
                Some(number) => {
                    self.number = number;
                    Some(TableCursor::last_before(Arc::clone(&self.tables[number]), None)?)
                }
                None => None,
            };
        }
        Ok(())
    }
}
