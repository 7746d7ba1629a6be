//! Which tables to write again where they stand, and which values of blob files with them: pure functions of shares and
//! expiries. Each such rewrite leaves less of what made it necessary, so they come to an end.

use std::collections::BTreeSet;

use seawall_wal::Lsn;

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
pub(super) fn stale(met: &[BlobFacts], full_bytes: u64) -> BTreeSet<FileHash> {
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

/// Whether versions of keys of a pick that are newer and at or below the floor can be operands, which lie in other tables.
pub(super) fn has_newer_operands(
    levels: &Metas<'_>,
    pick: &Pick,
    floor: Lsn,
    has_operands: impl Fn(usize, usize) -> bool,
) -> bool {
    let chosen = |level, index| pick.inputs.iter().any(|(of, indexes)| *of == level && indexes.contains(&index));
    let inputs = || pick.inputs.iter().flat_map(|(level, indexes)| indexes.iter().map(|index| levels[*level][*index]));
    // On level 0 those before it are newer.
    let above = match pick.to {
        0 => pick.inputs.iter().flat_map(|(_, indexes)| indexes).min().map_or(0, |first| *first),
        _ => usize::MAX,
    };
    let newer = levels[..pick.to.max(1)].iter().enumerate().flat_map(|(level, tables)| {
        tables.iter().enumerate().take(above).map(move |(index, meta)| (level, index, meta))
    });
    newer.into_iter().any(|(level, index, meta)| {
        meta.min_lsn <= floor
            && has_operands(level, index)
            && !chosen(level, index)
            && inputs().any(|input| meta.overlaps(&input.min_key, &input.max_key))
    })
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
    use seawall_wal::Timestamp;

    use super::*;
    use crate::compaction::pick::tests::levels;

    fn meta(min: &str, max: &str, lsns: (u64, u64)) -> TableMeta {
        TableMeta {
            hash: FileHash::from_bytes([0; 32]),
            size: 100,
            entries: 10,
            tombstones: 0,
            range_deletes: 0,
            min_lsn: Lsn::new(lsns.0),
            max_lsn: Lsn::new(lsns.1),
            min_expiry: 40,
            max_expiry: 50,
            min_key: min.into(),
            max_key: max.into(),
            max_key_excluded: false,
        }
    }

    #[test]
    fn a_table_is_over_when_most_of_it_has_ended_for_every_reader() {
        let at = |lsn, time| Moment { lsn: Lsn::new(lsn), time: Timestamp(time) };
        let meta = meta("a", "z", (5, 9));
        assert!(is_over(&meta, 6, at(9, 50)));
        assert!(!is_over(&meta, 5, at(9, 50)), "half of it has not");
        assert!(!is_over(&meta, 10, at(9, 49)), "its last value has not");
        assert!(!is_over(&meta, 10, at(8, 50)), "not for a reader at 8");
        assert!(!is_over(&TableMeta { min_expiry: 0, max_expiry: 0, ..meta }, 0, at(9, 50)));
    }

    #[test]
    fn a_table_by_itself_is_at_the_bottom_if_nothing_older_overlaps_it() {
        let metas = [
            vec![meta("a", "m", (90, 99)), meta("x", "y", (80, 89)), meta("a", "c", (70, 79))],
            vec![meta("a", "d", (50, 60)), meta("e", "k", (50, 60))],
            vec![meta("k", "l", (1, 40))],
        ];
        let bottom = |level, index| in_place(&levels(&metas), level, index).bottom;
        assert_eq!([bottom(0, 0), bottom(0, 1), bottom(0, 2)], [false, true, false]);
        assert_eq!([bottom(1, 0), bottom(1, 1), bottom(2, 0)], [true, false, true]);
    }

    #[test]
    fn operands_above_that_can_change_what_a_merge_meets_are_seen() {
        let metas = [
            vec![meta("a", "m", (90, 99)), meta("x", "y", (80, 89)), meta("a", "c", (70, 79))],
            vec![meta("a", "d", (50, 60)), meta("e", "k", (50, 60))],
            vec![meta("k", "l", (1, 40))],
        ];
        let newer = |pick: &Pick, floor, operands: &[(usize, usize)]| {
            has_newer_operands(&levels(&metas), pick, Lsn::new(floor), |level, index| {
                operands.contains(&(level, index))
            })
        };
        let alone = |level, index| in_place(&levels(&metas), level, index);
        assert!(newer(&alone(0, 2), 99, &[(0, 0)]));
        assert!(!newer(&alone(0, 2), 89, &[(0, 0)]), "all of them are above the floor");
        assert!(!newer(&alone(0, 2), 99, &[(0, 1)]), "it does not overlap");
        assert!(!newer(&alone(0, 0), 99, &[(0, 0), (0, 2), (1, 0)]), "its own and older ones");
        assert!(newer(&alone(1, 1), 99, &[(0, 0)]) && !newer(&alone(1, 1), 99, &[(1, 0), (2, 0)]));
        // What overlaps only the lower part of a merge is above it all the same.
        let down = Pick { inputs: vec![(1, vec![0]), (2, vec![0])], to: 2, bottom: true, way: Way::Merge };
        assert!(newer(&down, 99, &[(1, 1)]) && !newer(&down, 99, &[(1, 0)]));
        let oldest = Pick { inputs: vec![(0, vec![1, 2]), (1, vec![0])], to: 1, bottom: true, way: Way::Merge };
        assert!(newer(&oldest, 99, &[(0, 0)]) && !newer(&oldest, 99, &[(0, 1), (0, 2), (1, 1)]));
    }

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
