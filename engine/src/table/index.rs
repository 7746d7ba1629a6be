//! The index of a table: a root over leaf blocks over data blocks. Root and leaves are searched where they are mapped, and
//! checked when they are first used, so that an open table costs a few bits of memory per block.

use std::sync::Arc;

use seawall_wal::Lsn;
use seawall_wal::storage::Mapping;

use super::block::{self, BlockKind, FRAME_LEN};
use super::checked::Checked;
use super::content::Content;
use super::footer::Footer;
use super::sorted::{self, INDEX_RUN, Place, Sorted, SortedBuilder};
use super::version_order;
use crate::codec::Put;
use crate::format::KeyspaceId;

/// A leaf is closed when it has so many bytes with its frame.
const LEAF_LEN: usize = 4096;
/// Offset and length of a data block.
const LEAF_VALUE_LEN: usize = 8 + 4;
/// Offset and length of a leaf, and the data blocks before its own.
const ROOT_VALUE_LEN: usize = 8 + 4 + 4;

/// Where a data block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    /// Which of the table's.
    pub(super) number: usize,
    /// Which leaf it is in, and which entry of that it is.
    leaf: usize,
    entry: usize,
    pub(super) offset: u64,
    pub(super) len: usize,
}

impl BlockPlace {
    /// Which of the table's data blocks it is.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

/// What is wrong with the index, and where.
pub(super) type Damage = (u64, &'static str);

/// The index of a table that has data blocks. Its root was checked.
pub(super) struct Index {
    map: Arc<Mapping>,
    keyspace: KeyspaceId,
    footer: Footer,
    root: block::Block,
    leaves: Checked,
    /// Data blocks that were checked.
    pub(super) blocks: Checked,
}

impl Index {
    pub(super) fn open(map: &Arc<Mapping>, keyspace: KeyspaceId, footer: Footer) -> Result<Self, Damage> {
        let wrong = |why| (footer.root_at, why);
        let (root, count) = block::open(map, keyspace, BlockKind::Root, footer.root_at, None).map_err(wrong)?;
        sorted::check(root.bytes(), count, &[]).map_err(wrong)?;
        if footer.blocks as usize > map.len() / FRAME_LEN {
            return Err(wrong("its number of data blocks is impossible"));
        }
        let index = Self {
            map: Arc::clone(map),
            keyspace,
            footer,
            leaves: Checked::none(count as usize),
            blocks: Checked::none(footer.blocks as usize),
            root,
        };
        let root = index.root();
        if !root.has_runs_of_one(count, ROOT_VALUE_LEN) {
            return Err(wrong("its entries are not those of a root"));
        }
        let firsts = (0..root.runs()).map(|leaf| index.leaf_place(leaf).2);
        if !firsts.is_sorted_by(|a, b| a < b) || index.leaf_place(0).2 != 0 {
            return Err(wrong("its leaves are out of order"));
        }
        Ok(index)
    }

    fn root(&self) -> Sorted<'_> {
        Sorted::new(self.root.bytes())
    }

    /// Offset and length of a leaf, and the number of its first data block.
    fn leaf_place(&self, leaf: usize) -> (u64, usize, usize) {
        let value = self.root().value_of_run(leaf, ROOT_VALUE_LEN);
        (u64_at(value, 0), u32_at(value, 8) as usize, u32_at(value, 12) as usize)
    }

    /// The data block that has the first version at or after a place, or it is the first of the next one.
    #[inline]
    pub(super) fn find(&self, key: &[u8], lsn: Lsn) -> Result<Option<BlockPlace>, Damage> {
        let root = self.root();
        let leaf = root.run_from(key, lsn);
        if leaf == root.runs() {
            return Ok(None);
        }
        let entries = self.leaf(leaf)?;
        // The last entry of a leaf is at the place the root has, so that there is one.
        Ok(Some(self.place(leaf, entries, entries.run_from(key, lsn))))
    }

    /// Data block `number`; `None` behind the last one.
    pub(super) fn numbered(&self, number: usize) -> Result<Option<BlockPlace>, Damage> {
        if number >= self.footer.blocks as usize {
            return Ok(None);
        }
        let (mut low, mut high) = (0, self.root().runs());
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.leaf_place(middle).2 <= number { low = middle } else { high = middle }
        }
        let entries = self.leaf(low)?;
        Ok(Some(self.place(low, entries, number - self.leaf_place(low).2)))
    }

    fn place(&self, leaf: usize, entries: Sorted<'_>, entry: usize) -> BlockPlace {
        let value = entries.value_of_run(entry, LEAF_VALUE_LEN);
        let number = self.leaf_place(leaf).2 + entry;
        BlockPlace { number, leaf, entry, offset: u64_at(value, 0), len: u32_at(value, 8) as usize }
    }

    /// The entries of a leaf.
    #[inline]
    fn leaf(&self, leaf: usize) -> Result<Sorted<'_>, Damage> {
        let (offset, len, _) = self.leaf_place(leaf);
        if !self.leaves.has(leaf) {
            self.check_leaf(leaf).map_err(|why| (offset, why))?;
            self.leaves.set(leaf);
        }
        Ok(Sorted::new(&self.map[offset as usize + FRAME_LEN..offset as usize + len]))
    }

    #[cold]
    fn check_leaf(&self, leaf: usize) -> Result<(), &'static str> {
        let (offset, len, first) = self.leaf_place(leaf);
        let (block, count) = block::open(&self.map, self.keyspace, BlockKind::Leaf, offset, Some(len))?;
        let (_, last) = sorted::check(block.bytes(), count, &[])?;
        let next = match leaf + 1 < self.root().runs() {
            true => self.leaf_place(leaf + 1).2,
            false => self.footer.blocks as usize,
        };
        let entries = Sorted::new(block.bytes());
        if !entries.has_runs_of_one(count, LEAF_VALUE_LEN) || first + count as usize != next || last != self.bound(leaf)
        {
            return Err("it is not the leaf its root describes");
        }
        let inside = |entry| {
            let place = self.place(leaf, entries, entry);
            place.len > FRAME_LEN
                && place.offset.checked_add(place.len as u64).is_some_and(|end| end <= self.map.len() as u64)
        };
        match (0..entries.runs()).all(inside) {
            true => Ok(()),
            false => Err("a data block lies outside the file"),
        }
    }

    /// The place at or after all of a leaf.
    fn bound(&self, leaf: usize) -> Place {
        self.root().place_of_run(leaf)
    }

    /// Whether a data block that begins and ends so is the one meant at its place.
    pub(super) fn encloses(&self, place: &BlockPlace, first: &Place, last: &Place) -> Result<bool, Damage> {
        let entries = self.leaf(place.leaf)?;
        let bound = entries.place_of_run(place.entry);
        let before = match (place.leaf, place.entry) {
            (0, 0) => None,
            (leaf, 0) => Some(self.bound(leaf - 1)),
            (_, entry) => Some(entries.place_of_run(entry - 1)),
        };
        let in_order = |a: &Place, b: &Place| version_order((&a.0, a.1), (&b.0, b.1));
        Ok(in_order(last, &bound).is_le() && before.is_none_or(|before| in_order(&before, first).is_lt()))
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Gathers the places of data blocks.
#[derive(Debug)]
pub(super) struct IndexBuilder {
    leaf: SortedBuilder,
    /// Closed ones: raw bytes, number of entries, and the place of the last.
    leaves: Vec<(Vec<u8>, u32, Place)>,
    /// Bytes of those.
    leaves_len: usize,
    last: Place,
}

impl IndexBuilder {
    pub(super) fn new() -> Self {
        Self { leaf: SortedBuilder::new(INDEX_RUN), leaves: Vec::new(), leaves_len: 0, last: (Vec::new(), Lsn::MAX) }
    }

    /// Adds the next data block, whose last version is at or before a place that comes before all that follows.
    pub(super) fn push(&mut self, place: Place, offset: u64, len: u32) {
        let mut value = Vec::with_capacity(LEAF_VALUE_LEN);
        value.put_u64(offset);
        value.put_u32(len);
        let content = Content::Put(&value);
        if !self.leaf.is_empty() && self.leaf.len() + SortedBuilder::growth(&place.0, content) > LEAF_LEN - FRAME_LEN {
            self.close_leaf();
        }
        self.leaf.push(&place.0, place.1, content);
        self.last = place;
    }

    fn close_leaf(&mut self) {
        let (raw, count) = self.leaf.take();
        self.leaves_len += raw.len();
        self.leaves.push((raw, count, self.last.clone()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leaf.is_empty() && self.leaves.is_empty()
    }

    /// About how many bytes it takes.
    pub(super) fn len(&self) -> usize {
        self.leaves_len + self.leaf.len()
    }

    /// Writes the leaves and then the root with `write`, which says where a block lies and how long it is. Says where the
    /// root lies.
    pub(super) fn finish<E>(
        mut self,
        mut write: impl FnMut(BlockKind, &[u8], u32) -> Result<(u64, u32), E>,
    ) -> Result<u64, E> {
        if !self.leaf.is_empty() {
            self.close_leaf();
        }
        let mut root = SortedBuilder::new(INDEX_RUN);
        let mut blocks = 0;
        for (raw, count, last) in self.leaves {
            let (offset, len) = write(BlockKind::Leaf, &raw, count)?;
            let mut value = Vec::with_capacity(ROOT_VALUE_LEN);
            value.put_u64(offset);
            value.put_u32(len);
            value.put_u32(blocks);
            root.push(&last.0, last.1, Content::Put(&value));
            blocks += count;
        }
        let (raw, count) = root.take();
        Ok(write(BlockKind::Root, &raw, count)?.0)
    }
}

/// The shortest key at or after `last` that comes before `next`, which is greater: as long as what they share and one byte.
pub(super) fn separator(last: &[u8], next: &[u8]) -> Vec<u8> {
    let same = sorted::common_len(last, next);
    match (last.get(same), next.get(same)) {
        // Both go on: a key of `next`'s byte comes behind `last`, and before `next` if that is longer.
        (Some(_), Some(_)) if next.len() > same + 1 => next[..=same].to_vec(),
        (Some(a), Some(b)) if a + 1 < *b => [&last[..same], &[a + 1]].concat(),
        _ => last.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separator_is_short_and_lies_between() {
        let cases: [(&[u8], &[u8], &[u8]); 6] = [
            (b"abcdef", b"abz", b"abd"),
            (b"abcdef", b"abdef", b"abd"),
            (b"abcdef", b"abd", b"abcdef"),
            (b"ab", b"abc", b"ab"),
            (b"", b"\0", b""),
            (b"a\xfe", b"a\xff\0", b"a\xff"),
        ];
        for (last, next, expected) in cases {
            let between = separator(last, next);
            assert_eq!(between, expected);
            assert!(last <= &*between && &*between < next);
        }
    }
}
