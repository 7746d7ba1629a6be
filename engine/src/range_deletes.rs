//! Deletes of ranges, cut where one of them begins or ends, so that which of them lie over a key is found by one search.

use std::collections::BTreeMap;
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
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeDeletes {
    all: Vec<Removal>,
    /// By key; they do not overlap.
    fragments: Vec<Fragment>,
}

#[derive(Clone, Debug)]
struct Fragment {
    start: Bytes,
    end: Bytes,
    /// Of those that lie over it, newest first. Never empty.
    lsns: Vec<Lsn>,
}

/// The newest range delete over a key that a reader sees, and a stretch of keys over which it lies at least.
#[derive(Clone, Debug)]
pub(crate) struct Cover {
    pub(crate) lsn: Lsn,
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
}

impl RangeDeletes {
    pub(crate) fn new(all: Vec<Removal>) -> Self {
        // At each place where something begins or ends: what ends there, and what begins.
        let mut places: BTreeMap<&Bytes, (Vec<Lsn>, Vec<Lsn>)> = BTreeMap::new();
        for removal in all.iter().filter(|removal| removal.start < removal.end) {
            places.entry(&removal.start).or_default().1.push(removal.lsn);
            places.entry(&removal.end).or_default().0.push(removal.lsn);
        }
        let mut fragments: Vec<Fragment> = Vec::new();
        // How many of each LSN lie over the current place: a commit may have overlapping ones.
        let mut over: BTreeMap<Lsn, usize> = BTreeMap::new();
        let mut from: Option<&Bytes> = None;
        for (place, (ends, begins)) in &places {
            if let Some(start) = from.filter(|_| !over.is_empty()) {
                let lsns: Vec<Lsn> = over.keys().rev().copied().collect();
                match fragments.last_mut().filter(|last| last.end == *start && last.lsns == lsns) {
                    Some(last) => last.end = Bytes::clone(place),
                    None => fragments.push(Fragment { start: start.clone(), end: Bytes::clone(place), lsns }),
                }
            }
            begins.iter().for_each(|lsn| *over.entry(*lsn).or_default() += 1);
            for lsn in ends {
                if let Some(count) = over.get_mut(lsn) {
                    *count -= 1;
                }
            }
            over.retain(|_, count| *count > 0);
            from = Some(place);
        }
        Self { all, fragments }
    }

    /// As they were given.
    pub(crate) fn all(&self) -> &[Removal] {
        &self.all
    }

    /// The newest one over `key` that a reader at `at` sees.
    pub(crate) fn over(&self, key: &[u8], at: Lsn) -> Option<Cover> {
        let fragment = self.fragments.get(self.fragments.partition_point(|fragment| fragment.end <= key))?;
        if fragment.start > key {
            return None;
        }
        let lsn = *fragment.lsns.get(fragment.lsns.partition_point(|lsn| *lsn > at))?;
        Some(Cover { lsn, start: fragment.start.clone(), end: fragment.end.clone() })
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
        let first = self.fragments.partition_point(|fragment| fragment.end <= from);
        let inside = self.fragments[first..].iter().take_while(|fragment| fragment.start < until && from < until);
        let newer = inside.filter_map(|fragment| {
            let lsn = fragment.lsns.first().filter(|lsn| **lsn > since)?;
            Some((fragment.start.clone().max(from.clone()), *lsn))
        });
        newer.max_by_key(|(_, lsn)| *lsn)
    }

    /// What is left of them for readers at or above `floor`, between two keys. At the bottom nothing lies below, so that
    /// those at or below the floor have done what they can.
    pub(crate) fn between(&self, from: &[u8], until: Option<&[u8]>, floor: Lsn, bottom: bool) -> Vec<Removal> {
        let first = self.fragments.partition_point(|fragment| fragment.end <= from);
        let mut left = Vec::new();
        for Fragment { start, end, lsns } in &self.fragments[first..] {
            let start = if **start < *from { Bytes::copy_from_slice(from) } else { start.clone() };
            let end = match until {
                Some(until) if until < &**end => Bytes::copy_from_slice(until),
                _ => end.clone(),
            };
            if start >= end {
                break;
            }
            let needed = lsns.partition_point(|lsn| *lsn > floor) + usize::from(!bottom);
            let needed = lsns.iter().take(needed);
            left.extend(needed.map(|lsn| Removal { start: start.clone(), end: end.clone(), lsn: *lsn }));
        }
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
    fn fragments_say_what_the_ranges_say() {
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
        assert_eq!(newer(Unbounded, Unbounded, 0), Some((b"f".to_vec(), 9)));
        assert_eq!(newer(Unbounded, Included(b"d"), 0), Some((b"c".to_vec(), 5)));
        assert_eq!(newer(Included(b"d"), Included(b"d"), 5), None);
        assert_eq!(newer(Unbounded, Excluded(b"c"), 0), None);
        assert_eq!(newer(Included(b"h"), Excluded(b"x"), 0), None);
        assert_eq!(newer(Excluded(b"h"), Unbounded, 6), Some((b"x".to_vec(), 7)));
    }
}
