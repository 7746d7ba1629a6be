//! The bytes of one file: what the disk has for certain, what was written since the last sync, sector by sector, and what
//! programs see. It knows no names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use super::loss::Survivors;

/// What a disk writes or does not write as one.
pub const SECTOR_LEN: usize = 512;
/// Of a sector that is written again and again without a sync so many last versions may survive.
const VERSIONS_MAX: usize = 8;

type Sector = Box<[u8; SECTOR_LEN]>;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Through the page cache.
    Cache,
    /// Past it, as `O_DIRECT` does.
    Medium,
}

/// What a failed sync leaves in the cache of what it did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// It is still shown, and taken for written: what ext4 and XFS do.
    Shown,
    /// What was there before is shown.
    Hidden,
}

/// The bytes of one file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// What is there after a power loss that nothing unsynced survives.
    durable: Vec<u8>,
    /// What the cache shows.
    shown: Vec<u8>,
    /// Versions of sectors written since the last sync, oldest first. None is empty.
    unsynced: BTreeMap<usize, VecDeque<Sector>>,
    /// Lengths the file has had since the last sync, oldest first.
    lens: VecDeque<usize>,
    /// Sectors that the cache shows and the disk will never have, unless they are written again.
    forgotten: BTreeSet<usize>,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.shown.len()
    }

    /// At most `len` bytes from `offset` on; fewer at the end.
    pub(super) fn read(&self, offset: usize, len: usize, view: View) -> Vec<u8> {
        let start = offset.min(self.shown.len());
        let end = offset.saturating_add(len).min(self.shown.len());
        let mut bytes = self.shown[start..end].to_vec();
        if view == View::Medium {
            for sector in self.forgotten.iter().copied() {
                let on_medium = sector_of(&self.durable, sector);
                for (at, byte) in on_medium.iter().enumerate().map(|(at, byte)| (sector * SECTOR_LEN + at, byte)) {
                    if (start..end).contains(&at) {
                        bytes[at - start] = *byte;
                    }
                }
            }
        }
        bytes
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.shown.len() < end {
            self.resize(end);
        }
        self.shown[offset..end].copy_from_slice(bytes);
        self.note(offset, end);
    }

    /// A write with `O_DSYNC`: its sectors and the length are durable, whatever else waits.
    pub(super) fn write_durably(&mut self, offset: usize, bytes: &[u8]) {
        self.write(offset, bytes);
        self.durable.resize(self.shown.len(), 0);
        self.lens.clear();
        for sector in sectors(offset, offset + bytes.len()) {
            self.unsynced.remove(&sector);
            self.make_durable(sector);
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let before = self.shown.len();
        if len < before {
            self.shown[len..].fill(0);
            self.note(len, before);
        }
        if len != before {
            self.resize(len);
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.shown.len(), 0);
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            self.make_durable(sector);
        }
        self.lens.clear();
    }

    /// What a sync that fails does to what it should have written.
    pub(super) fn fail_sync(&mut self, cached: Cached) {
        let sectors = std::mem::take(&mut self.unsynced).into_keys();
        match cached {
            Cached::Shown => self.forgotten.extend(sectors),
            Cached::Hidden => {
                self.shown.clone_from(&self.durable);
                self.forgotten.clear();
            }
        }
        self.lens.clear();
    }

    /// So many sectors in a row, from the start of the file on, are lost or kept as one: each as it was, or, if they are more
    /// than one, as it is now.
    pub(super) fn lose_power(&mut self, survivors: &mut Survivors, at_once: usize) {
        let mut bytes = std::mem::take(&mut self.durable);
        let len = match survivors.pick(self.lens.len()) {
            0 => bytes.len(),
            version => self.lens[version - 1],
        };
        let mut last = None;
        for (sector, versions) in &self.unsynced {
            let picked = match last {
                Some((block, kept)) if block == sector / at_once => {
                    if kept {
                        versions.len()
                    } else {
                        0
                    }
                }
                _ if at_once > 1 => survivors.pick(1) * versions.len(),
                _ => survivors.pick(versions.len()),
            };
            last = Some((sector / at_once, picked > 0)).filter(|_| at_once > 1);
            if let Some(version) = picked.checked_sub(1) {
                let start = sector * SECTOR_LEN;
                if bytes.len() < start + SECTOR_LEN {
                    bytes.resize(start + SECTOR_LEN, 0);
                }
                bytes[start..start + SECTOR_LEN].copy_from_slice(&versions[version][..]);
            }
        }
        bytes.resize(len, 0);
        // In the memory it has already: an image of a file system is large.
        let mut shown = std::mem::take(&mut self.shown);
        shown.clone_from(&bytes);
        *self = Self { durable: bytes, shown, ..Self::default() };
    }

    /// Of how many things - so many sectors at once, and its length - a power loss decides whether they survive.
    pub(super) fn unsynced(&self, at_once: usize) -> usize {
        let blocks: BTreeSet<usize> = self.unsynced.keys().map(|sector| sector / at_once).collect();
        blocks.len() + usize::from(!self.lens.is_empty())
    }

    /// Turns over one bit of a byte, on the disk and in what is shown. Whether there is such a byte.
    pub(super) fn flip(&mut self, at: usize, bit: u32) -> bool {
        let bytes = [&mut self.durable, &mut self.shown];
        bytes.into_iter().filter_map(|bytes| bytes.get_mut(at)).map(|byte| *byte ^= 1 << bit).count() > 0
    }

    fn resize(&mut self, len: usize) {
        self.shown.resize(len, 0);
        if self.lens.len() == VERSIONS_MAX {
            self.lens.pop_front();
        }
        self.lens.push_back(len);
    }

    /// Keeps what the sectors of a range look like now as a version that may survive.
    fn note(&mut self, start: usize, end: usize) {
        for sector in sectors(start, end) {
            let versions = self.unsynced.entry(sector).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.pop_front();
            }
            versions.push_back(Box::new(sector_of(&self.shown, sector)));
            self.forgotten.remove(&sector);
        }
    }

    /// The disk has of this sector what is shown, and is as long as what is shown.
    fn make_durable(&mut self, sector: usize) {
        let end = ((sector + 1) * SECTOR_LEN).min(self.shown.len());
        let start = (sector * SECTOR_LEN).min(end);
        self.durable[start..end].copy_from_slice(&self.shown[start..end]);
    }
}

/// The sectors that a range of bytes has a part in.
fn sectors(start: usize, end: usize) -> Range<usize> {
    if start == end { 0..0 } else { start / SECTOR_LEN..end.div_ceil(SECTOR_LEN) }
}

/// One sector, with zeros behind the end of the file.
fn sector_of(bytes: &[u8], sector: usize) -> [u8; SECTOR_LEN] {
    let mut content = [0; SECTOR_LEN];
    let start = (sector * SECTOR_LEN).min(bytes.len());
    let part = &bytes[start..(start + SECTOR_LEN).min(bytes.len())];
    content[..part.len()].copy_from_slice(part);
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::PowerLoss;

    fn after(content: &Content, loss: PowerLoss) -> Vec<u8> {
        let mut content = content.clone();
        content.lose_power(&mut Survivors::of(loss), 1);
        content.read(0, usize::MAX, View::Cache)
    }

    fn synced(bytes: &[u8]) -> Content {
        let mut content = Content::default();
        content.write(0, bytes);
        content.sync();
        content
    }

    #[test]
    fn what_is_not_synced_is_lost_or_kept_sector_by_sector() {
        let mut content = synced(&[1; 4 * SECTOR_LEN]);
        content.write(SECTOR_LEN - 10, &[2; SECTOR_LEN + 20]);
        assert_eq!(after(&content, PowerLoss::NothingKept), [1; 4 * SECTOR_LEN]);
        assert_eq!(after(&content, PowerLoss::EverythingKept), content.read(0, usize::MAX, View::Cache));
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let bytes = after(&content, PowerLoss::Random(seed));
            assert_eq!((bytes[0], bytes[3 * SECTOR_LEN]), (1, 1));
            seen.insert((bytes[SECTOR_LEN - 1], bytes[SECTOR_LEN], bytes[2 * SECTOR_LEN]));
        }
        assert_eq!(seen.len(), 8, "each of three sectors is old or new: {seen:?}");
    }

    #[test]
    fn each_thing_that_is_not_synced_can_be_the_only_one_that_is_lost() {
        let mut content = synced(&[1; 2 * SECTOR_LEN]);
        content.write(0, &[2; SECTOR_LEN]);
        content.write(0, &[3; SECTOR_LEN]);
        content.write(2 * SECTOR_LEN, &[3; SECTOR_LEN]);
        assert_eq!(content.unsynced(1), 3);
        let after_losing = |number| {
            let bytes = after(&content, PowerLoss::AllButOne(number));
            (bytes[0], bytes.get(2 * SECTOR_LEN).copied(), bytes.len())
        };
        assert_eq!(after_losing(0), (3, None, 2 * SECTOR_LEN));
        assert_eq!(after_losing(1), (1, Some(3), 3 * SECTOR_LEN));
        assert_eq!(after_losing(2), (3, Some(0), 3 * SECTOR_LEN));
        assert_eq!(after_losing(3), (3, Some(3), 3 * SECTOR_LEN));
    }

    #[test]
    fn sectors_that_are_written_at_once_are_lost_or_kept_together() {
        let mut content = synced(&[1; 8 * SECTOR_LEN]);
        content.write(SECTOR_LEN, &[2; 6 * SECTOR_LEN]);
        assert_eq!(content.unsynced(4), 2);
        let seen = (0..200).map(|seed| {
            let mut content = content.clone();
            content.lose_power(&mut Survivors::of(PowerLoss::Random(seed)), 4);
            let bytes = content.read(0, usize::MAX, View::Cache);
            (0..8).map(|sector| bytes[sector * SECTOR_LEN]).collect::<Vec<_>>()
        });
        let (first, second) = ([[1, 1, 1, 1], [1, 2, 2, 2]], [[1, 1, 1, 1], [2, 2, 2, 1]]);
        let whole = first.iter().flat_map(|first| second.iter().map(|second| [*first, *second].concat()));
        assert_eq!(seen.collect::<BTreeSet<_>>(), whole.collect());
    }

    #[test]
    fn any_version_of_a_sector_may_survive() {
        let mut content = synced(&[0; SECTOR_LEN]);
        (1..=3).for_each(|version| content.write(0, &[version; SECTOR_LEN]));
        let seen: BTreeSet<u8> = (0..200).map(|seed| after(&content, PowerLoss::Random(seed))[0]).collect();
        assert_eq!(seen, BTreeSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn a_length_is_lost_with_what_is_unsynced_and_the_bytes_of_a_kept_one_may_be_zeros() {
        let mut content = synced(&[1; 100]);
        content.write(100, &[2; 2_000]);
        assert_eq!(after(&content, PowerLoss::NothingKept), [1; 100]);
        assert_eq!(after(&content, PowerLoss::EverythingKept).len(), 2_100);
        let zeros = (0..200).map(|seed| after(&content, PowerLoss::Random(seed)));
        assert!(zeros.into_iter().any(|bytes| bytes.len() == 2_100 && bytes[1_024..].iter().all(|byte| *byte == 0)));
    }

    #[test]
    fn a_file_that_was_cut_and_grew_again_has_zeros_where_it_was_cut() {
        let mut content = synced(&[1; 1_000]);
        content.set_len(600);
        content.set_len(1_000);
        content.sync();
        let bytes = after(&content, PowerLoss::NothingKept);
        assert!(bytes[..600].iter().all(|byte| *byte == 1) && bytes[600..].iter().all(|byte| *byte == 0));
        assert_eq!(bytes.len(), 1_000);
    }

    #[test]
    fn a_durable_write_is_durable_and_nothing_else_is() {
        let mut content = synced(&[1; 4 * SECTOR_LEN]);
        content.write(0, &[2; SECTOR_LEN]);
        content.write_durably(2 * SECTOR_LEN, &[3; 3 * SECTOR_LEN]);
        let bytes = after(&content, PowerLoss::NothingKept);
        assert_eq!((bytes[0], bytes[SECTOR_LEN], bytes[2 * SECTOR_LEN], bytes.len()), (1, 1, 3, 5 * SECTOR_LEN));
    }

    #[test]
    fn what_a_failed_sync_dropped_is_shown_by_the_cache_and_never_reaches_the_disk() {
        let mut content = synced(&[1; 2 * SECTOR_LEN]);
        content.write(0, &[2; SECTOR_LEN]);
        content.fail_sync(Cached::Shown);
        content.sync();
        assert_eq!(content.read(0, 1, View::Cache), [2]);
        assert_eq!(content.read(0, 1, View::Medium), [1]);
        assert_eq!(after(&content, PowerLoss::EverythingKept), [1; 2 * SECTOR_LEN]);
        content.write(0, &[3; SECTOR_LEN]);
        content.sync();
        assert_eq!(content.read(0, 1, View::Medium), [3]);
        content.write(0, &[4; SECTOR_LEN]);
        content.fail_sync(Cached::Hidden);
        assert_eq!(content.read(0, 1, View::Cache), [3]);
    }
}
