//! Walking the versions in a table, or in the tables of one level, in either direction.

use std::sync::Arc;

use seawall_wal::Lsn;

use super::block::Block;
use super::content::EntryRef;
use super::reader::Table;
use crate::error::Result;

/// A place among the versions of a table.
#[derive(Debug)]
pub(crate) struct TableCursor {
    table: Arc<Table>,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    number: usize,
    block: Arc<Block>,
    entry: usize,
}

impl TableCursor {
    /// At the first version at or after the place, or the very first.
    pub(crate) fn first_from(table: Arc<Table>, from: Option<(&[u8], Lsn)>) -> Result<Self> {
        let index = table.index()?;
        let number = from.map_or(0, |(key, lsn)| index.lower_bound(key, lsn));
        let place = if number < index.len() {
            let block = table.block(number)?;
            // The block's last version is at or after the place, so there is an entry.
            let entry = from.map_or(0, |(key, lsn)| block.lower_bound(key, lsn));
            Some(Place { number, block, entry })
        } else {
            None
        };
        Ok(Self { table, place })
    }

    /// At the last version before the place, or the very last.
    pub(crate) fn last_before(table: Arc<Table>, before: Option<(&[u8], Lsn)>) -> Result<Self> {
        let index = table.index()?;
        let number = before.map_or(index.len(), |(key, lsn)| index.lower_bound(key, lsn));
        let mut cursor = Self { table, place: None };
        if number < cursor.table.index()?.len() {
            let block = cursor.table.block(number)?;
            let entry = before.map_or(0, |(key, lsn)| block.lower_bound(key, lsn));
            cursor.place = Some(Place { number, block, entry });
            cursor.back()?;
        } else {
            cursor.enter_before(number)?;
        }
        Ok(cursor)
    }

    pub(crate) fn entry(&self) -> Option<EntryRef<'_>> {
        self.place.as_ref().map(|place| place.block.entry(place.entry))
    }

    pub(crate) fn forward(&mut self) -> Result<()> {
        let Some(place) = &mut self.place else { return Ok(()) };
        place.entry += 1;
        if place.entry < place.block.len() {
            return Ok(());
        }
        let number = place.number + 1;
        self.place = None;
        if number < self.table.index()?.len() {
            self.place = Some(Place { number, block: self.table.block(number)?, entry: 0 });
        }
        Ok(())
    }

    pub(crate) fn back(&mut self) -> Result<()> {
        let Some(place) = &mut self.place else { return Ok(()) };
        match place.entry.checked_sub(1) {
            Some(entry) => {
                place.entry = entry;
                Ok(())
            }
            None => {
                let number = place.number;
                self.enter_before(number)
            }
        }
    }

    /// To the last entry of the block before `number`, or nowhere.
    fn enter_before(&mut self, number: usize) -> Result<()> {
        self.place = None;
        if let Some(number) = number.checked_sub(1) {
            let block = self.table.block(number)?;
            let entry = block.len() - 1;
            self.place = Some(Place { number, block, entry });
        }
        Ok(())
    }
}

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

    fn settle_forward(&mut self) -> Result<()> {
        while self.cursor.as_ref().is_some_and(|cursor| cursor.entry().is_none()) {
            self.number += 1;
            self.cursor = match self.tables.get(self.number) {
                Some(table) => Some(TableCursor::first_from(Arc::clone(table), None)?),
                None => None,
            };
        }
        Ok(())
    }

    fn settle_back(&mut self) -> Result<()> {
        while self.cursor.as_ref().is_some_and(|cursor| cursor.entry().is_none()) {
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
