//! Which tables to write again where they stand, and which values of blob files with them: pure functions of shares and
//! expiries. Each such rewrite leaves less of what made it necessary, so they come to an end.

use std::collections::HashSet;

use super::pick::{Metas, Pick, Way};
use crate::file::FileHash;
use crate::marks::Moment;
use crate::table::TableMeta;

/// Blob files that a merge must meet before it puts those together that are small.
const SMALL_MANY: usize = 8;
/// A blob file is small below such a part of a full one.
const SMALL_PART: u64 = 8;

/// A blob file and how much of it is needed, in bytes of values. `live <= bytes`.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlobFacts {
    pub(super) hash: FileHash,
    pub(super) bytes: u64,
    pub(super) live: u64,
}

impl BlobFacts {
    fn is_mostly_garbage(&self) -> bool {
        self.live < self.bytes - self.live
    }
}

/// Of the blob files that a merge meets, those whose values it writes again: less than half of them is needed, or they are
/// small and many.
pub(super) fn stale(met: &[BlobFacts], full_bytes: u64) -> HashSet<FileHash> {
    let is_small = |blob: &BlobFacts| blob.bytes < full_bytes / SMALL_PART;
    let many = met.iter().filter(|blob| is_small(blob)).count() >= SMALL_MANY;
    let stale = met.iter().filter(|blob| blob.is_mostly_garbage() || many && is_small(blob));
    stale.map(|blob| blob.hash).collect()
}

/// The blob file with the least share that is needed, if less than half of all is and that is worth the work. Rewriting a
/// table that refers to it takes that table's values out of it, since it is [`stale`] itself.
pub(super) fn wasted(blobs: &[BlobFacts], worth_bytes: u64) -> Option<FileHash> {
    let live: u64 = blobs.iter().map(|blob| blob.live).sum();
    let garbage = blobs.iter().map(|blob| blob.bytes).sum::<u64>() - live;
    if garbage <= live || garbage < worth_bytes {
        return None;
    }
    let share = |blob: &&BlobFacts| blob.live as f64 / blob.bytes.max(1) as f64;
    let worst = blobs.iter().min_by(|a, b| share(a).total_cmp(&share(b)));
    worst.filter(|blob| blob.is_mostly_garbage()).map(|blob| blob.hash)
}

/// Whether most of a table's entries, `expiring` of them, were values that have all ended for every reader at or above the
/// floor.
pub(super) fn is_over(meta: &TableMeta, expiring: u64, floor: Moment) -> bool {
    let ended = meta.expiries().is_some_and(|(_, last)| floor.is_past(last));
    ended && expiring > meta.entries / 2 && meta.max_lsn <= floor.lsn
}

/// A table by itself, on the level it is on.
pub(super) fn in_place(levels: &Metas<'_>, level: usize, index: usize) -> Pick {
    let meta = levels[level][index];
    // On level 0 those behind it are older.
    let beside = if level == 0 { &levels[0][index + 1..] } else { &[] };
    let mut older = beside.iter().chain(levels[level + 1..].iter().flatten());
    let bottom = !older.any(|other| other.overlaps(&meta.min_key, &meta.max_key));
    Pick { inputs: vec![(level, vec![index])], to: level, bottom, way: Way::Merge }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: u8, bytes: u64, live: u64) -> BlobFacts {
        BlobFacts { hash: FileHash::from_bytes([name; 32]), bytes, live }
    }

    fn names(hashes: impl IntoIterator<Item = FileHash>) -> Vec<u8> {
        let mut names: Vec<_> = hashes.into_iter().map(|hash| hash.as_bytes()[0]).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_merge_writes_values_again_of_which_less_than_half_is_needed() {
        let met = [blob(1, 1_000, 499), blob(2, 1_000, 500), blob(3, 1_000, 0), blob(4, 0, 0)];
        assert_eq!(names(stale(&met, 800)), [1, 3]);
    }

    #[test]
    fn small_blob_files_are_put_together_when_they_are_many() {
        let small = |count: u8| (0..count).map(|name| blob(name, 99, 99)).chain([blob(99, 100, 100)]);
        assert_eq!(names(stale(&small(7).collect::<Vec<_>>(), 800)), [0_u8; 0]);
        assert_eq!(names(stale(&small(8).collect::<Vec<_>>(), 800)), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn garbage_is_worth_a_rewrite_when_it_is_more_than_what_is_needed_and_not_little() {
        let name = |blobs: &[BlobFacts], worth| names(wasted(blobs, worth));
        assert_eq!(name(&[], 0), [0_u8; 0]);
        assert_eq!(name(&[blob(1, 1_000, 500), blob(2, 1_000, 500)], 0), [0_u8; 0], "as much as is needed");
        assert_eq!(name(&[blob(1, 1_000, 900), blob(2, 1_000, 99)], 0), [2], "just more");
        assert_eq!(name(&[blob(1, 1_000, 900), blob(2, 1_000, 99)], 1_002), [0_u8; 0], "little");
        assert_eq!(name(&[blob(1, 1_000, 100), blob(2, 10, 0), blob(3, 500, 60)], 0), [2]);
    }
}
