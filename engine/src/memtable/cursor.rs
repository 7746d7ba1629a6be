//! Walking the versions of a memtable in either direction while it grows. A cursor takes along what one leaf has ahead,
//! as it is at that moment, and then looks for what follows the last of it: versions that were there when the cursor was
//! made are all met, in order, and of newer ones some.

use std::fmt;
use std::sync::Arc;

use seawall_wal::Lsn;

use super::Memtable;
use super::arena::Kept;
use super::node::Place;
use super::sync::SLOTS;
use crate::table::EntryRef;

/// A place among the versions of a memtable that may grow meanwhile; newer versions do not disturb it.
pub(crate) struct MemoryCursor {
    table: Arc<Memtable>,
    /// Some of what is ahead in the direction of travel, from the current version on.
    page: Vec<Kept>,
    /// Which of them is the current one; behind them if there is none.
    at: usize,
}

impl fmt::Debug for MemoryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCursor").field("table", &self.table).finish_non_exhaustive()
    }
}

impl MemoryCursor {
    /// At the first version at or after the place, or the very first.
    pub(crate) fn first_from(table: Arc<Memtable>, from: Option<(&[u8], Lsn)>) -> Self {
        let mut page = Vec::with_capacity(SLOTS);
        table.tree.page_behind(from.map_or(Place::Start, |(key, lsn)| Place::Before(key, lsn)), &mut page);
        Self { table, page, at: 0 }
    }

    /// At the last version before the place, or the very last.
    pub(crate) fn last_before(table: Arc<Memtable>, before: Option<(&[u8], Lsn)>) -> Self {
        let mut page = Vec::with_capacity(SLOTS);
        table.tree.page_before(before.map_or(Place::End, |(key, lsn)| Place::Before(key, lsn)), &mut page);
        Self { table, page, at: 0 }
    }

    pub(crate) fn entry(&self) -> Option<EntryRef<'_>> {
        self.page.get(self.at).map(|kept| super::entry(self.table.tree.recall(*kept)))
    }

    /// Key and LSN of the entry.
    pub(crate) fn place(&self) -> Option<(&[u8], Lsn)> {
        let record = self.table.tree.recall(*self.page.get(self.at)?);
        Some((record.key(), record.lsn()))
    }

    /// To the next version. A cursor walks in one direction only.
    pub(crate) fn forward(&mut self) {
        let Some(left) = self.page.get(self.at).copied() else { return };
        self.at += 1;
        if self.at == self.page.len() {
            let left = self.table.tree.recall(left);
            self.table.tree.page_behind(Place::After(left.key(), left.lsn()), &mut self.page);
            self.at = 0;
        }
    }

    /// To the first version at or behind the place, from before it, however many lie between.
    pub(crate) fn forward_to(&mut self, key: &[u8], lsn: Lsn) {
        self.table.tree.page_behind(Place::Before(key, lsn), &mut self.page);
        self.at = 0;
    }

    /// To the version before. A cursor walks in one direction only.
    pub(crate) fn back(&mut self) {
        let Some(left) = self.page.get(self.at).copied() else { return };
        self.at += 1;
        if self.at == self.page.len() {
            let left = self.table.tree.recall(left);
            self.table.tree.page_before(Place::Before(left.key(), left.lsn()), &mut self.page);
            self.at = 0;
        }
    }

    /// To the last version of a key that is less, from behind it, however many lie between.
    pub(crate) fn back_before(&mut self, key: &[u8]) {
        self.table.tree.page_before(Place::Before(key, Lsn::MAX), &mut self.page);
        self.at = 0;
    }
}
