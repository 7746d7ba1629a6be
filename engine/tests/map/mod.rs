//! The map that the database is compared with: every version there was of every key, by keyspace, and what follows from
//! them. It knows nothing of logs, tables or flushes, only the order of commits.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use seawall_wal::Lsn;

/// One life of a keyspace, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Incarnation(usize);

impl Incarnation {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What a commit does to a key; `None` removes it.
pub(crate) type Change = (Incarnation, Vec<u8>, Option<Vec<u8>>);

/// What a transaction has read.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) keys: BTreeSet<(Incarnation, Vec<u8>)>,
    pub(crate) spans: Vec<Span>,
}

/// A part of a range that was walked.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) incarnation: Incarnation,
    pub(crate) bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
}

impl Reads {
    pub(crate) fn incarnations(&self) -> BTreeSet<Incarnation> {
        let keys = self.keys.iter().map(|(incarnation, _)| *incarnation);
        keys.chain(self.spans.iter().map(|span| span.incarnation)).collect()
    }
}

/// The versions of a key, oldest first.
type Versions = Vec<(Lsn, Option<Vec<u8>>)>;

#[derive(Debug)]
struct Life {
    name: &'static str,
    created: Lsn,
    dropped: Lsn,
    keys: BTreeMap<Vec<u8>, Versions>,
}

/// All versions of all keys, in the order of commits.
#[derive(Debug, Default)]
pub(crate) struct Map {
    /// By [`Incarnation`], in the order in which they were made.
    lives: Vec<Life>,
    /// Of commits and changes of keyspaces; rising.
    lsns: Vec<Lsn>,
}

impl Map {
    fn push(&mut self, lsn: Lsn) {
        assert!(self.end() < lsn, "commits come in the order of their LSNs");
        self.lsns.push(lsn);
    }

    /// The LSN of the last change.
    pub(crate) fn end(&self) -> Lsn {
        self.lsns.last().copied().unwrap_or(Lsn::ZERO)
    }

    pub(crate) fn create(&mut self, name: &'static str, lsn: Lsn) -> Incarnation {
        self.push(lsn);
        self.lives.push(Life { name, created: lsn, dropped: Lsn::MAX, keys: BTreeMap::new() });
        Incarnation(self.lives.len() - 1)
    }

    pub(crate) fn drop_at(&mut self, incarnation: Incarnation, lsn: Lsn) {
        self.push(lsn);
        self.lives[incarnation.0].dropped = lsn;
    }

    pub(crate) fn commit(&mut self, lsn: Lsn, changes: Vec<Change>) {
        self.push(lsn);
        for (incarnation, key, value) in changes {
            let versions = self.lives[incarnation.0].keys.entry(key).or_default();
            // The last change of a key in a commit wins.
            versions.pop_if(|(last, _)| *last == lsn);
            versions.push((lsn, value));
        }
    }

    /// Forgets everything above `end`, and says how many changes that were.
    pub(crate) fn cut(&mut self, end: Lsn) -> u64 {
        let before = self.lsns.len();
        self.lsns.retain(|lsn| *lsn <= end);
        self.lives.retain(|life| life.created <= end);
        for life in &mut self.lives {
            if life.dropped > end {
                life.dropped = Lsn::MAX;
            }
            life.keys.values_mut().for_each(|versions| versions.retain(|(lsn, _)| *lsn <= end));
        }
        (before - self.lsns.len()) as u64
    }

    pub(crate) fn live(&self, name: &str) -> Option<Incarnation> {
        self.lives.iter().position(|life| life.name == name && life.dropped == Lsn::MAX).map(Incarnation)
    }

    pub(crate) fn is_dropped(&self, incarnation: Incarnation) -> bool {
        self.lives[incarnation.0].dropped < Lsn::MAX
    }

    /// The keyspaces there were at `lsn`, in the order in which they were made.
    pub(crate) fn there(&self, lsn: Lsn) -> Vec<(&'static str, Incarnation)> {
        let lives = self.lives.iter().enumerate();
        let there = lives.filter(|(_, life)| life.created <= lsn && lsn < life.dropped);
        there.map(|(index, life)| (life.name, Incarnation(index))).collect()
    }

    pub(crate) fn get(&self, incarnation: Incarnation, key: &[u8], at: Lsn) -> Option<Vec<u8>> {
        value_at(self.lives[incarnation.0].keys.get(key)?, at).cloned()
    }

    pub(crate) fn all(&self, incarnation: Incarnation, at: Lsn) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let keys = self.lives[incarnation.0].keys.iter();
        keys.filter_map(|(key, versions)| Some((key.clone(), value_at(versions, at)?.clone()))).collect()
    }

    /// What was changed of `reads` after `at`: keyspace, key and by which commit last.
    pub(crate) fn conflicts(&self, reads: &Reads, at: Lsn) -> BTreeSet<(String, Vec<u8>, Lsn)> {
        let mut conflicts = BTreeSet::new();
        let mut look = |incarnation: Incarnation, bounds: (Bound<&[u8]>, Bound<&[u8]>)| {
            let life = &self.lives[incarnation.0];
            for (key, versions) in life.keys.range::<[u8], _>(bounds) {
                if let Some((lsn, _)) = versions.last().filter(|(lsn, _)| *lsn > at) {
                    conflicts.insert((life.name.to_owned(), key.clone(), *lsn));
                }
            }
        };
        for (incarnation, key) in &reads.keys {
            look(*incarnation, (Bound::Included(key), Bound::Included(key)));
        }
        for Span { incarnation, bounds: (lower, upper) } in &reads.spans {
            look(*incarnation, (lower.as_ref().map(Vec::as_slice), upper.as_ref().map(Vec::as_slice)));
        }
        conflicts
    }
}

fn value_at(versions: &Versions, at: Lsn) -> Option<&Vec<u8>> {
    versions.iter().rev().find(|(lsn, _)| *lsn <= at).and_then(|(_, value)| value.as_ref())
}
