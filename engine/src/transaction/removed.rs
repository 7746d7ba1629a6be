//! The ranges of keys that a transaction removes from a keyspace, joined where they touch, so that whether a key is in one is
//! found by one search.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// First keys, and the first keys behind, which are empty for the end of the keyspace. No two of the ranges touch.
#[derive(Debug, Default)]
pub(super) struct Removed(BTreeMap<Bytes, Bytes>);

/// A range with those it touches, which it takes the place of.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) start: Bytes,
    pub(super) end: Bytes,
    pub(super) replaced: Vec<(Bytes, Bytes)>,
}

impl Removed {
    /// The range that a key is in.
    pub(super) fn over(&self, key: &[u8]) -> Option<(&Bytes, &Bytes)> {
        let nearest = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        nearest.filter(|(_, end)| end.is_empty() || key < &end[..])
    }

    /// What adding a range would come to.
    pub(super) fn join(&self, start: &Bytes, end: &Bytes) -> Joined {
        let before = self.0.range::<Bytes, _>(..=start).next_back();
        let from = before.filter(|(_, end)| end.is_empty() || *end >= start).map_or(start, |(from, _)| from);
        let touched = self.0.range::<Bytes, _>(from..).take_while(|(other, _)| end.is_empty() || *other <= end);
        let replaced: Vec<_> = touched.map(|(start, end)| (start.clone(), end.clone())).collect();
        let last =
            replaced.last().map(|(_, last)| last).filter(|last| !end.is_empty() && (last.is_empty() || *last > end));
        Joined { start: from.clone(), end: last.unwrap_or(end).clone(), replaced }
    }

    /// Adds what was joined.
    pub(super) fn add(&mut self, Joined { start, end, replaced }: Joined) {
        replaced.iter().for_each(|(start, _)| drop(self.0.remove(start)));
        self.0.insert(start, end);
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn joined_ranges_hold_the_keys_of_those_that_were_added_and_do_not_touch() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut removed = Removed::default();
            let mut added = [false; 20];
            for _ in 0..random.random_range(1..8) {
                let (a, b) = (random.random_range(0..20_u8), random.random_range(0..20_u8));
                let (start, end) = (a.min(b), a.max(b) + 1);
                let to_the_end = random.random_bool(0.1);
                let (start_key, end_key) = (vec![start], if to_the_end { Vec::new() } else { vec![end] });
                let joined = removed.join(&start_key.into(), &end_key.into());
                removed.add(joined);
                added[start.into()..if to_the_end { 20 } else { end.into() }].fill(true);
            }
            for key in 0..20_u8 {
                let over = removed.over(&[key]);
                assert_eq!(over.is_some(), added[usize::from(key)], "{key} of {removed:?}");
                assert!(over.is_none_or(|(start, end)| start[0] <= key && (end.is_empty() || key < end[0])));
            }
            let ranges: Vec<_> = removed.iter().collect();
            assert!(ranges.windows(2).all(|pair| !pair[0].1.is_empty() && pair[0].1 < pair[1].0), "{removed:?}");
        }
    }
}
