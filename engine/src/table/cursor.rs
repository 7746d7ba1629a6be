//! Walking the versions in a table in either direction. Who walks is soon where nothing was read yet: the blocks ahead
//! are asked for early, more of them the longer the walk. Asking costs a call that waits for whoever changes the memory map
//! of the process, as merges do, so a short walk over blocks that were read before does not ask.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use seawall_wal::Lsn;

use super::block::Block;
use super::content::{Content, EntryRef};
use super::index::BlockPlace;
use super::reader::Table;
use super::sorted::{Sorted, Spot};
use crate::error::Result;

/// Bytes that are asked for ahead when a walk leaves its first block, and at most. They double with each asking.
const AHEAD_MIN: u64 = 32 << 10;
const AHEAD_MAX: u64 = 512 << 10;
/// A walk over so many blocks asks, whatever it met so far: some may have been put out of memory since they were read.
const LONG: u32 = 16;

/// A place among the versions of a table.
pub(crate) struct TableCursor {
    table: Arc<Table>,
    place: Option<Place>,
    /// The key at the place.
    key: Vec<u8>,
    ahead: Ahead,
}

struct Place {
    at: BlockPlace,
    block: Block,
    spot: Spot,
    next: Spot,
    lsn: Lsn,
    kind: u8,
    /// In the raw bytes of the block.
    value: Range<usize>,
}

impl Place {
    fn new(at: BlockPlace, block: Block, spot: Spot) -> Self {
        let entries = Sorted::new(block.bytes());
        let entry = entries.at(spot);
        let (next, lsn, kind, value) = (entry.next, entry.lsn, entry.kind, entries.value_range(spot, &entry));
        Self { at, block, spot, next, lsn, kind, value }
    }
}

/// What was asked for: all from some block of a walk up to here, or nothing yet.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    /// Blocks behind the first one.
    entered: u32,
    until: Option<u64>,
    /// Bytes asked for last.
    len: u64,
}

impl Ahead {
    /// Whether a walk that comes to its next block has reason to ask: that one is not `at_hand`, or there were many.
    fn has_reason(&mut self, at_hand: bool) -> bool {
        self.entered = self.entered.saturating_add(1);
        !at_hand || self.entered >= LONG
    }

    /// What to ask for when a walk forward comes to `offset`: when half of what was asked for last is behind it.
    fn forward(&mut self, offset: u64, at_hand: bool) -> Option<Range<u64>> {
        if !self.has_reason(at_hand) || self.until.is_some_and(|until| offset + self.len / 2 < until) {
            return None;
        }
        self.len = (self.len * 2).clamp(AHEAD_MIN, AHEAD_MAX);
        let start = self.until.unwrap_or(offset).max(offset);
        self.until = Some(start + self.len);
        Some(start..start + self.len)
    }

    /// As much on the way back, when it comes to a block that ends at `end`.
    fn back(&mut self, end: u64, at_hand: bool) -> Option<Range<u64>> {
        if !self.has_reason(at_hand) || self.until.is_some_and(|until| until == 0 || end > until + self.len / 2) {
            return None;
        }
        self.len = (self.len * 2).clamp(AHEAD_MIN, AHEAD_MAX);
        let start = self.until.unwrap_or(end).min(end);
        self.until = Some(start.saturating_sub(self.len));
        Some(start.saturating_sub(self.len)..start)
    }
}

impl fmt::Debug for TableCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableCursor").field("table", &self.table).field("key", &self.key).finish_non_exhaustive()
    }
}

impl TableCursor {
    /// At the first version at or after the place, or the very first.
    pub(crate) fn first_from(table: Arc<Table>, from: Option<(&[u8], Lsn)>) -> Result<Self> {
        let at = match from {
            Some((key, lsn)) => table.find(key, lsn)?,
            None => table.numbered(0)?,
        };
        let mut cursor = Self { table, place: None, key: Vec::new(), ahead: Ahead::default() };
        let Some(at) = at else { return Ok(cursor) };
        let block = cursor.table.block(&at)?;
        let entries = Sorted::new(block.bytes());
        let spot = from.map_or(entries.run(0), |(key, lsn)| entries.seek(key, lsn).0);
        if spot == entries.end() {
            // It is between this block's last version and the next one's first.
            cursor.enter_after(&at)?;
        } else {
            entries.key_at(spot, &mut cursor.key);
            cursor.place = Some(Place::new(at, block, spot));
        }
        Ok(cursor)
    }

    /// At the last version before the place, or the very last.
    pub(crate) fn last_before(table: Arc<Table>, before: Option<(&[u8], Lsn)>) -> Result<Self> {
        let at = match before {
            Some((key, lsn)) => table.find(key, lsn)?,
            None => None,
        };
        let mut cursor = Self { table, place: None, key: Vec::new(), ahead: Ahead::default() };
        match (at, before) {
            (Some(at), Some((key, lsn))) => {
                let block = cursor.table.block(&at)?;
                let entries = Sorted::new(block.bytes());
                let spot = entries.seek(key, lsn).0;
                cursor.step_back(at, block, spot)?;
            }
            _ => cursor.enter_before(cursor.table.blocks_len())?,
        }
        Ok(cursor)
    }

    pub(crate) fn entry(&self) -> Option<EntryRef<'_>> {
        let place = self.place.as_ref()?;
        let content = Content::parse(place.kind, &place.block.bytes()[place.value.clone()], self.table.blobs());
        Some(EntryRef { key: &self.key, lsn: place.lsn, content: content.expect("the block was checked") })
    }

    /// Key and LSN of the entry.
    pub(crate) fn place(&self) -> Option<(&[u8], Lsn)> {
        self.place.as_ref().map(|place| (self.key.as_slice(), place.lsn))
    }

    pub(crate) fn forward(&mut self) -> Result<()> {
        let Some(place) = &mut self.place else { return Ok(()) };
        let entries = Sorted::new(place.block.bytes());
        if place.next == entries.end() {
            let at = place.at;
            return self.enter_after(&at);
        }
        let entry = entries.at(place.next);
        entries.key_of(&entry, &mut self.key);
        (place.value, place.lsn, place.kind) = (entries.value_range(place.next, &entry), entry.lsn, entry.kind);
        (place.spot, place.next) = (place.next, entry.next);
        Ok(())
    }

    pub(crate) fn back(&mut self) -> Result<()> {
        match self.place.take() {
            Some(Place { at, block, spot, .. }) => self.step_back(at, block, spot),
            None => Ok(()),
        }
    }

    /// The newest LSN in its table.
    pub(crate) fn max_lsn(&self) -> Lsn {
        self.table.meta().max_lsn
    }

    /// To the first version at or behind the place, from before it.
    pub(crate) fn forward_to(&mut self, key: &[u8], lsn: Lsn) -> Result<()> {
        *self = Self::first_from(Arc::clone(&self.table), Some((key, lsn)))?;
        Ok(())
    }

    /// To the last version of a key that is less, from behind it.
    pub(crate) fn back_before(&mut self, key: &[u8]) -> Result<()> {
        *self = Self::last_before(Arc::clone(&self.table), Some((key, Lsn::MAX)))?;
        Ok(())
    }

    /// To the entry before a spot, which may be in the block before.
    fn step_back(&mut self, at: BlockPlace, block: Block, spot: Spot) -> Result<()> {
        let entries = Sorted::new(block.bytes());
        if spot == entries.run(0) {
            return self.enter_before(at.number);
        }
        let spot = entries.before(spot, &mut self.key);
        self.place = Some(Place::new(at, block, spot));
        Ok(())
    }

    /// The next block of the walk; asks for what is ahead of it before it is read.
    fn enter(&mut self, at: &BlockPlace, ask: impl Fn(&mut Ahead, bool) -> Option<Range<u64>>) -> Result<Block> {
        let kept = self.table.kept(at)?;
        if let Some(range) = ask(&mut self.ahead, kept.is_some()) {
            self.table.will_need(range);
        }
        kept.map_or_else(|| self.table.block(at), Ok)
    }

    /// To the first entry of the block behind, or nowhere.
    fn enter_after(&mut self, at: &BlockPlace) -> Result<()> {
        self.place = None;
        if let Some(at) = self.table.numbered(at.number + 1)? {
            let block = self.enter(&at, |ahead, at_hand| ahead.forward(at.offset, at_hand))?;
            let entries = Sorted::new(block.bytes());
            let spot = entries.run(0);
            entries.key_at(spot, &mut self.key);
            self.place = Some(Place::new(at, block, spot));
        }
        Ok(())
    }

    /// To the last entry of the block before `number`, or nowhere.
    fn enter_before(&mut self, number: usize) -> Result<()> {
        self.place = None;
        let Some(number) = number.checked_sub(1) else { return Ok(()) };
        if let Some(at) = self.table.numbered(number)? {
            let block = self.enter(&at, |ahead, at_hand| ahead.back(at.offset + at.len as u64, at_hand))?;
            let end = Sorted::new(block.bytes()).end();
            self.step_back(at, block, end)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_asks_for_all_ahead_once_and_for_more_the_longer_it_is() {
        let (mut ahead, mut asked) = (Ahead::default(), Vec::new());
        for offset in (100_000..3_000_000).step_by(4_000) {
            asked.extend(ahead.forward(offset, false));
            assert!(asked.iter().any(|range| range.contains(&offset)));
        }
        assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].start < pair[1].start));
        assert_eq!(asked[0], 100_000..100_000 + AHEAD_MIN);
        assert!(asked.len() < 14 && asked.iter().all(|range| range.end - range.start <= AHEAD_MAX), "{asked:?}");
        let (mut ahead, mut behind) = (Ahead::default(), Vec::new());
        for end in (100_000..3_000_000).rev().step_by(4_000) {
            behind.extend(ahead.back(end, false));
            assert!(behind.iter().any(|range| range.contains(&(end - 1))));
        }
        assert!(behind.len() < 14 && behind.windows(2).all(|pair| pair[0].start == pair[1].end), "{behind:?}");
    }

    #[test]
    fn a_short_walk_over_what_was_read_before_asks_for_nothing_and_a_long_one_does() {
        let offsets = || (100_000..).step_by(4_000);
        let (mut ahead, mut behind) = (Ahead::default(), Ahead::default());
        for offset in offsets().take(LONG as usize - 1) {
            assert_eq!((ahead.forward(offset, true), behind.back(1_000_000 - offset, true)), (None, None));
        }
        assert!(ahead.forward(200_000, true).is_some() && behind.back(800_000, true).is_some());
        let mut ahead = Ahead::default();
        assert_eq!((ahead.forward(100_000, true), ahead.forward(104_000, false)), (None, Some(104_000..136_768)));
    }
}
