//! Deletes of ranges, kept so that which of them lie over a key is found by one search.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::Lsn;

use crate::format::{KEY_END_LEN_MAX, KEY_LEN_MAX};
use crate::range::Bounds;

/// Behind every key: where a range ends that goes to the end of its keyspace.
static END_OF_KEYS: [u8; KEY_END_LEN_MAX] = [u8::MAX; KEY_END_LEN_MAX];

/// All versions older than `lsn` of the keys `start <= key < end` are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
    pub(crate) lsn: Lsn,
}

impl Removal {
    pub(crate) fn new(start: &[u8], end: &[u8], lsn: Lsn) -> Self {
        let end = match end.is_empty() || *end == END_OF_KEYS {
            true => Bytes::from_static(&END_OF_KEYS),
            false => Bytes::copy_from_slice(end),
        };
        Self { start: Bytes::copy_from_slice(start), end, lsn }
    }

    /// Bytes of memory it takes, about, with what is cut from it.
    pub(crate) fn weight(&self) -> u64 {
        (3 * (size_of::<Self>() + self.start.len() + self.end.len().min(KEY_LEN_MAX))) as u64
    }
}

/// Many of them. Never changes.
///
/// The places where one of them begins or ends cut the keys into stretches, over which stands a binary tree. Each of them is
/// noted at the few nodes that together are its stretches, so that however many lie over each other, all take no more than
/// they are many, and which lie over a key is seen on the way from its stretch to the root.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeDeletes {
    /// Newest first.
    all: Vec<Removal>,
    /// Where one begins or ends, in order.
    places: Vec<Bytes>,
    /// Node 1 is the root, under node `n` are nodes `2n` and `2n + 1`, and the last half of them are stretches, in order. Each
    /// has the indexes of those that lie over all of it and not over all of what is above it, newest first.
    nodes: Vec<Vec<u32>>,
}

/// The newest range delete over a key that a reader sees, and the keys over which it lies.
#[derive(Clone, Debug)]
pub(crate) struct Cover {
    pub(crate) lsn: Lsn,
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
}

impl RangeDeletes {
    pub(crate) fn new(mut all: Vec<Removal>) -> Self {
        all.retain(|removal| removal.start < removal.end);
        all.sort_unstable_by(|a, b| b.lsn.cmp(&a.lsn).then_with(|| (&a.start, &a.end).cmp(&(&b.start, &b.end))));
        all.dedup();
        let mut places: Vec<Bytes> = all.iter().flat_map(|one| [one.start.clone(), one.end.clone()]).collect();
        places.sort_unstable();
        places.dedup();
        let leaves = places.len().saturating_sub(1).next_power_of_two();
        let mut nodes = vec![Vec::new(); 2 * leaves];
        for (index, Removal { start, end, .. }) in (0..).zip(&all) {
            let place = |key: &Bytes| places.partition_point(|place| place < key);
            let (mut from, mut to) = (leaves + place(start), leaves + place(end));
            while from < to {
                if from % 2 == 1 {
                    nodes[from].push(index);
                    from += 1;
                }
                if to % 2 == 1 {
                    to -= 1;
                    nodes[to].push(index);
                }
                (from, to) = (from / 2, to / 2);
            }
        }
        Self { all, places, nodes }
    }

    /// All, newest first, none twice.
    pub(crate) fn all(&self) -> &[Removal] {
        &self.all
    }

    /// The newest one over `key` that a reader at `at` sees.
    pub(crate) fn over(&self, key: &[u8], at: Lsn) -> Option<Cover> {
        let Removal { start, end, lsn } = self.newest(self.stretch(key)?, at)?.clone();
        Some(Cover { lsn, start, end })
    }

    /// The number of the stretch a key is in.
    fn stretch(&self, key: &[u8]) -> Option<usize> {
        let behind = self.places.partition_point(|place| place <= key);
        (behind < self.places.len()).then_some(behind)?.checked_sub(1)
    }

    /// The newest one over a stretch that is not newer than `at`.
    fn newest(&self, stretch: usize, at: Lsn) -> Option<&Removal> {
        let nodes = std::iter::successors(Some(self.nodes.len() / 2 + stretch), |node| Some(node / 2));
        let newest = |node: usize| {
            let indexes = &self.nodes[node];
            indexes.get(indexes.partition_point(|index| self.all[*index as usize].lsn > at)).copied()
        };
        let newest = nodes.take_while(|node| *node > 0).filter_map(newest).min()?;
        Some(&self.all[newest as usize])
    }

    /// Some key between the bounds that one newer than `since` lies over, and its LSN.
    pub(crate) fn newer_in(&self, bounds: &Bounds, since: Lsn) -> Option<(Bytes, Lsn)> {
        let behind = |key: &Bytes| Bytes::from([key, &[0][..]].concat());
        let from = match &bounds.0 {
            Bound::Unbounded => Bytes::new(),
            Bound::Included(key) => key.clone(),
            Bound::Excluded(key) => behind(key),
        };
        let until = match &bounds.1 {
            Bound::Unbounded => Bytes::from_static(&END_OF_KEYS),
            Bound::Included(key) => behind(key),
            Bound::Excluded(key) => key.clone(),
        };
        let mut newer = self.all.iter().take_while(|removal| removal.lsn > since);
        let met = newer.find(|removal| from < until && removal.start < until && from < removal.end)?;
        Some((met.start.clone().max(from), met.lsn))
    }

    /// What is left of them for readers at or above `floor`, between two keys: those above it, and of those at or below it the
    /// newest over each key. At the bottom nothing lies below, so that these have done what they can.
    pub(crate) fn between(&self, from: &[u8], until: Option<&[u8]>, floor: Lsn, bottom: bool) -> Vec<Removal> {
        let within = |start: &Bytes, end: &Bytes, lsn| {
            let start = if **start < *from { Bytes::copy_from_slice(from) } else { start.clone() };
            let end = match until {
                Some(until) if until < &**end => Bytes::copy_from_slice(until),
                _ => end.clone(),
            };
            (start < end).then_some(Removal { start, end, lsn })
        };
        let mut left: Vec<Removal> = Vec::new();
        let stretches = if bottom { &[] } else { &self.places[..] };
        for (stretch, ends) in stretches.windows(2).enumerate() {
            let removal = self.newest(stretch, floor).and_then(|newest| within(&ends[0], &ends[1], newest.lsn));
            match (removal, left.last_mut()) {
                (Some(more), Some(last)) if last.end == more.start && last.lsn == more.lsn => last.end = more.end,
                (removal, _) => left.extend(removal),
            }
        }
        let above = self.all.iter().take_while(|removal| removal.lsn > floor);
        left.extend(above.filter_map(|Removal { start, end, lsn }| within(start, end, *lsn)));
        // What differed outside may be the same between the keys.
        left.sort_unstable_by(|a, b| (&a.start, b.lsn, &a.end).cmp(&(&b.start, a.lsn, &b.end)));
        left.dedup();
        left
    }

    /// The LSNs of all, for tests of what was kept.
    #[cfg(test)]
    fn lsns(&self) -> std::collections::BTreeSet<Lsn> {
        self.all.iter().map(|removal| removal.lsn).collect()
    }
}

/// Those of memtables and of tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Covers(Vec<Arc<RangeDeletes>>);

impl Covers {
    pub(crate) fn add(&mut self, deletes: Option<Arc<RangeDeletes>>) {
        self.0.extend(deletes);
    }

    /// The newest one over `key` that a reader at `at` sees.
    pub(crate) fn over(&self, key: &[u8], at: Lsn) -> Option<Cover> {
        self.0.iter().filter_map(|deletes| deletes.over(key, at)).max_by_key(|cover| cover.lsn)
    }

    /// As of [`RangeDeletes::newer_in`].
    pub(crate) fn newer_in(&self, bounds: &Bounds, since: Lsn) -> Option<(Bytes, Lsn)> {
        self.0.iter().filter_map(|deletes| deletes.newer_in(bounds, since)).max_by_key(|(_, lsn)| *lsn)
    }
}

/// Where a range of keys starts and ends in the log: the first key in it, and the first one behind it, which is empty for the
/// end of the keyspace. `None` if no key can be in it.
pub(crate) fn limits((lower, upper): &Bounds) -> Option<(Bytes, Bytes)> {
    let start = match lower {
        Bound::Unbounded => Bytes::from_static(&[0]),
        // No key is empty.
        Bound::Included(key) | Bound::Excluded(key) if key.is_empty() => Bytes::from_static(&[0]),
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) if key.len() < KEY_LEN_MAX => Bytes::from([key, &[0][..]].concat()),
        // What follows the longest keys is shorter.
        Bound::Excluded(key) => match crate::range::prefix_bounds(key).1 {
            Bound::Excluded(next) => next,
            _ => return None,
        },
    };
    let end = match upper {
        Bound::Unbounded => return Some((start, Bytes::new())),
        Bound::Included(key) => Bytes::from([key, &[0][..]].concat()),
        Bound::Excluded(key) => key.clone(),
    };
    (start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn removal(start: &str, end: &str, lsn: u64) -> Removal {
        Removal::new(start.as_bytes(), end.as_bytes(), Lsn::new(lsn))
    }

    #[test]
    fn what_is_found_over_a_key_is_what_the_ranges_say() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let key = |rng: &mut StdRng| [b'a' + rng.random_range(0..12)].repeat(rng.random_range(1..3));
            let all: Vec<Removal> = (0..rng.random_range(0..12))
                .map(|_| {
                    let (a, b) = (key(&mut rng), key(&mut rng));
                    let end = if rng.random_bool(0.1) { Vec::new() } else { a.clone().max(b.clone()) };
                    Removal::new(&a.min(b), &end, Lsn::new(rng.random_range(1..9)))
                })
                .collect();
            let deletes = RangeDeletes::new(all.clone());
            let (from, floor) = (key(&mut rng), Lsn::new(rng.random_range(0..9)));
            let until = Some(key(&mut rng)).filter(|_| rng.random_bool(0.7));
            let kept = RangeDeletes::new(deletes.between(&from, until.as_deref(), floor, false));
            assert!(kept.lsns().is_subset(&deletes.lsns()));
            let above = RangeDeletes::new(deletes.between(&from, until.as_deref(), floor, true));
            assert!(above.lsns().iter().all(|lsn| *lsn > floor));
            for _ in 0..60 {
                let (key, at) = (key(&mut rng), Lsn::new(rng.random_range(0..10)));
                let over = |all: &[Removal]| {
                    let over = all.iter().filter(|one| one.start <= key && key < one.end && one.lsn <= at);
                    over.map(|one| one.lsn).max()
                };
                let cover = deletes.over(&key, at);
                assert_eq!(cover.as_ref().map(|cover| cover.lsn), over(&all));
                assert!(cover.is_none_or(|cover| cover.start <= key && key < cover.end));
                let inside = *key >= *from && until.as_ref().is_none_or(|until| key < *until);
                let expected = over(&all).filter(|_| inside && at >= floor);
                assert_eq!(kept.over(&key, at).map(|cover| cover.lsn).filter(|_| at >= floor), expected);
            }
        }
    }

    #[test]
    fn many_that_lie_over_each_other_stay_as_many() {
        let count = 2_000;
        let nested = (1..=count).map(|lsn| removal("0", &format!("{lsn:04}"), lsn));
        let deletes = RangeDeletes::new(nested.collect());
        assert!(deletes.nodes.iter().map(Vec::len).sum::<usize>() < 24 * count as usize);
        // A reader holds all of them.
        assert_eq!(deletes.between(&[], None, Lsn::ZERO, false).len(), count as usize);
        // Nobody needs more than the newest, which lies over all.
        assert_eq!(deletes.between(&[], None, Lsn::MAX, false).len(), 1);
    }

    #[test]
    fn bounds_become_the_first_key_in_and_the_first_behind() {
        let own = |key: &[u8]| Bytes::copy_from_slice(key);
        let longest = vec![u8::MAX - 1; KEY_LEN_MAX];
        let limits = |lower: Bound<&[u8]>, upper: Bound<&[u8]>| {
            limits(&(lower.map(own), upper.map(own))).map(|(start, end)| (start.to_vec(), end.to_vec()))
        };
        use Bound::{Excluded, Included, Unbounded};
        assert_eq!(limits(Unbounded, Unbounded), Some((vec![0], vec![])));
        assert_eq!(limits(Included(b"a"), Excluded(b"b")), Some((b"a".to_vec(), b"b".to_vec())));
        assert_eq!(limits(Excluded(b"a"), Included(b"b")), Some((b"a\0".to_vec(), b"b\0".to_vec())));
        assert_eq!(limits(Included(b"b"), Excluded(b"b")), None);
        assert_eq!(limits(Included(b"c"), Included(b"b")), None);
        assert_eq!(limits(Included(b""), Included(b"b")).unwrap().0, [0]);
        let (start, end) = limits(Excluded(&longest), Included(&longest[..])).unwrap_or_default();
        assert!(start.is_empty() && end.is_empty(), "there is no key between");
        assert!(limits(Excluded(&longest), Unbounded).unwrap().0 > longest);
        assert_eq!(limits(Excluded(&[u8::MAX; KEY_LEN_MAX]), Unbounded), None);
        assert!(limits(Included(b"a"), Included(&longest)).unwrap().1.len() == KEY_END_LEN_MAX);
    }

    #[test]
    fn a_span_meets_what_lies_over_a_part_of_it() {
        let deletes = RangeDeletes::new(vec![removal("c", "f", 5), removal("e", "h", 9), removal("x", "", 7)]);
        let newer = |lower: Bound<&'static [u8]>, upper: Bound<&'static [u8]>, since| {
            let bounds = (lower.map(Bytes::from_static), upper.map(Bytes::from_static));
            deletes.newer_in(&bounds, Lsn::new(since)).map(|(key, lsn)| (key.to_vec(), lsn.offset()))
        };
        use Bound::{Excluded, Included, Unbounded};
        assert_eq!(newer(Unbounded, Unbounded, 0), Some((b"e".to_vec(), 9)));
        assert_eq!(newer(Unbounded, Included(b"d"), 0), Some((b"c".to_vec(), 5)));
        assert_eq!(newer(Included(b"d"), Included(b"d"), 5), None);
        assert_eq!(newer(Unbounded, Excluded(b"c"), 0), None);
        assert_eq!(newer(Included(b"h"), Excluded(b"x"), 0), None);
        assert_eq!(newer(Excluded(b"h"), Unbounded, 6), Some((b"x".to_vec(), 7)));
    }
}
