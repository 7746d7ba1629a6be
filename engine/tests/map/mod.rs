//! The map that the database is compared with: every version there was of every key, by keyspace, and what follows from
//! them. It knows nothing of logs, tables or flushes, only the order of commits.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use seawall_engine::MergeOperator;
use seawall_wal::Lsn;

/// One life of a keyspace, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Incarnation(usize);

impl Incarnation {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What an operation does to a key.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// With a time to live in microseconds.
    Put(Vec<u8>, Option<u64>),
    Remove,
    Merge(MergeOperator, Vec<u8>),
}

/// What a commit does: to a key, or to all keys of a range.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Key(Incarnation, Vec<u8>, Action),
    RemoveRange(Incarnation, Span),
}

/// A value, and when it ends if it does.
pub(crate) type Value = (Vec<u8>, Option<u64>);

/// What a transaction has read.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) keys: BTreeSet<(Incarnation, Vec<u8>)>,
    pub(crate) spans: Vec<Span>,
    /// Values that end, and when.
    pub(crate) ends: Vec<(Incarnation, Vec<u8>, u64)>,
}

/// A part of a range that was walked, or a range that was removed.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) incarnation: Incarnation,
    pub(crate) bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
}

impl Span {
    /// As the first key in it and the first one behind, or no end.
    fn limits(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let behind = |key: &Vec<u8>| [&key[..], &[0]].concat();
        let from = match &self.bounds.0 {
            Bound::Unbounded => Vec::new(),
            Bound::Included(key) => key.clone(),
            Bound::Excluded(key) => behind(key),
        };
        let until = match &self.bounds.1 {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(behind(key)),
            Bound::Excluded(key) => Some(key.clone()),
        };
        (from, until)
    }

    /// Whether no key can be in it.
    pub(crate) fn is_empty(&self) -> bool {
        let (from, until) = self.limits();
        until.is_some_and(|until| until <= from)
    }

    pub(crate) fn contains(&self, incarnation: Incarnation, key: &[u8]) -> bool {
        let (from, until) = self.limits();
        self.incarnation == incarnation && *key >= from[..] && until.is_none_or(|until| *key < until[..])
    }

    fn overlaps(&self, other: &Self) -> bool {
        let ((from, until), (other_from, other_until)) = (self.limits(), other.limits());
        let until = [until, other_until].into_iter().flatten().min();
        until.is_none_or(|until| from.max(other_from) < until)
    }
}

impl Reads {
    pub(crate) fn incarnations(&self) -> BTreeSet<Incarnation> {
        let keys = self.keys.iter().map(|(incarnation, _)| *incarnation);
        keys.chain(self.spans.iter().map(|span| span.incarnation)).collect()
    }
}

/// What was done to a key, oldest first: by which commit, and at what time.
type History = Vec<(Lsn, u64, Action)>;

/// The second that a time lies in.
fn second(micros: u64) -> u64 {
    micros / 1_000_000 * 1_000_000
}

/// What an action at a time makes of a value.
pub(crate) fn act(value: Option<Value>, time: u64, action: &Action) -> Option<Value> {
    match action {
        Action::Put(value, ttl) => Some((value.clone(), ttl.map(|ttl| time + ttl))),
        Action::Remove => None,
        Action::Merge(operator, operand) => {
            let (value, end) = value.filter(|(_, end)| end.is_none_or(|end| end > second(time))).unzip();
            let number = |bytes: &[u8]| bytes.try_into().map_or(0, i64::from_le_bytes);
            let merged = match (operator, value) {
                (_, None) => operand.clone(),
                (MergeOperator::Add, Some(value)) => {
                    number(&value).wrapping_add(number(operand)).to_le_bytes().to_vec()
                }
                (MergeOperator::Max, Some(value)) => value.max(operand.clone()),
                (MergeOperator::Append, Some(value)) => [value, operand.clone()].concat(),
            };
            Some((merged, end.flatten()))
        }
    }
}

#[derive(Debug)]
struct Life {
    name: &'static str,
    created: Lsn,
    dropped: Lsn,
    keys: BTreeMap<Vec<u8>, History>,
    removed: Vec<(Lsn, Span)>,
}

/// All versions of all keys, in the order of commits.
#[derive(Debug, Default)]
pub(crate) struct Map {
    /// By [`Incarnation`], in the order in which they were made.
    lives: Vec<Life>,
    /// Of all records, and their times; both rising.
    records: Vec<(Lsn, u64)>,
    /// Where the first thing was written that can end: before, there is no time.
    time_begins: Option<Lsn>,
}

impl Map {
    /// Adds a record.
    pub(crate) fn push(&mut self, lsn: Lsn, time: u64) {
        assert!(self.records.last().is_none_or(|last| *last < (lsn, time)), "records come in order");
        self.records.push((lsn, time));
    }

    /// The LSN of the last record.
    pub(crate) fn end(&self) -> Lsn {
        self.records.last().map_or(Lsn::ZERO, |(lsn, _)| *lsn)
    }

    /// What time it is for a reader.
    pub(crate) fn time_at(&self, at: Lsn) -> u64 {
        let seen = self.records.partition_point(|(lsn, _)| *lsn <= at);
        let begun = self.time_begins.is_some_and(|begins| begins <= at);
        if begun { second(self.records[seen - 1].1) } else { 0 }
    }

    pub(crate) fn create(&mut self, name: &'static str, lsn: Lsn, time: u64) -> Incarnation {
        self.push(lsn, time);
        self.lives.push(Life { name, created: lsn, dropped: Lsn::MAX, keys: BTreeMap::new(), removed: Vec::new() });
        Incarnation(self.lives.len() - 1)
    }

    pub(crate) fn drop_at(&mut self, incarnation: Incarnation, lsn: Lsn, time: u64) {
        self.push(lsn, time);
        self.lives[incarnation.0].dropped = lsn;
    }

    pub(crate) fn commit(&mut self, lsn: Lsn, time: u64, changes: Vec<Change>) {
        self.push(lsn, time);
        for change in changes {
            match change {
                Change::Key(incarnation, key, action) => {
                    if matches!(action, Action::Put(_, Some(_))) {
                        self.time_begins.get_or_insert(lsn);
                    }
                    self.lives[incarnation.0].keys.entry(key).or_default().push((lsn, time, action));
                }
                Change::RemoveRange(incarnation, span) => {
                    let life = &mut self.lives[incarnation.0];
                    let (from, until) = span.limits();
                    for (key, history) in life.keys.range_mut(from..) {
                        if until.as_ref().is_none_or(|until| key < until) {
                            history.push((lsn, time, Action::Remove));
                        }
                    }
                    life.removed.push((lsn, span));
                }
            }
        }
    }

    /// Forgets everything above `end`, and says how many changes that were.
    pub(crate) fn cut(&mut self, end: Lsn) -> u64 {
        let before = self.records.len();
        self.records.retain(|(lsn, _)| *lsn <= end);
        self.time_begins = self.time_begins.filter(|begins| *begins <= end);
        self.lives.retain(|life| life.created <= end);
        for life in &mut self.lives {
            if life.dropped > end {
                life.dropped = Lsn::MAX;
            }
            life.keys.values_mut().for_each(|history| history.retain(|(lsn, ..)| *lsn <= end));
            life.removed.retain(|(lsn, _)| *lsn <= end);
        }
        (before - self.records.len()) as u64
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

    /// The value of a key, and when it ends.
    pub(crate) fn value(&self, incarnation: Incarnation, key: &[u8], at: Lsn) -> Option<Value> {
        self.value_of(self.lives[incarnation.0].keys.get(key)?, at)
    }

    pub(crate) fn get(&self, incarnation: Incarnation, key: &[u8], at: Lsn) -> Option<Vec<u8>> {
        Some(self.value(incarnation, key, at)?.0)
    }

    pub(crate) fn values(&self, incarnation: Incarnation, at: Lsn) -> BTreeMap<Vec<u8>, Value> {
        let keys = self.lives[incarnation.0].keys.iter();
        keys.filter_map(|(key, history)| Some((key.clone(), self.value_of(history, at)?))).collect()
    }

    pub(crate) fn all(&self, incarnation: Incarnation, at: Lsn) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.values(incarnation, at).into_iter().map(|(key, (value, _))| (key, value)).collect()
    }

    fn value_of(&self, history: &History, at: Lsn) -> Option<Value> {
        let seen = history.iter().take_while(|(lsn, ..)| *lsn <= at);
        let value = seen.fold(None, |value, (_, time, action)| act(value, *time, action));
        value.filter(|(_, end)| end.is_none_or(|end| end > self.time_at(at)))
    }

    /// The removals of ranges after `at` that lie over something that was read: keyspace, and by which commit.
    pub(crate) fn removals(&self, reads: &Reads, at: Lsn) -> BTreeSet<(String, Lsn)> {
        let keys = reads.keys.iter().map(|(incarnation, key)| Span {
            incarnation: *incarnation,
            bounds: (Bound::Included(key.clone()), Bound::Included(key.clone())),
        });
        let mut removals = BTreeSet::new();
        for span in keys.chain(reads.spans.iter().cloned()) {
            let life = &self.lives[span.incarnation.0];
            let newer = life.removed.iter().filter(|(lsn, removed)| *lsn > at && removed.overlaps(&span));
            removals.extend(newer.map(|(lsn, _)| (life.name.to_owned(), *lsn)));
        }
        removals
    }

    /// What was changed of `reads` after `at`: keyspace, key and by which commit last.
    pub(crate) fn conflicts(&self, reads: &Reads, at: Lsn) -> BTreeSet<(String, Vec<u8>, Lsn)> {
        let mut conflicts = BTreeSet::new();
        let mut look = |incarnation: Incarnation, bounds: (Bound<&[u8]>, Bound<&[u8]>)| {
            let life = &self.lives[incarnation.0];
            for (key, history) in life.keys.range::<[u8], _>(bounds) {
                if let Some((lsn, ..)) = history.last().filter(|(lsn, ..)| *lsn > at) {
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
        for (incarnation, key, end) in &reads.ends {
            if let Some((lsn, _)) = self.records.iter().find(|(_, time)| second(*time) >= *end) {
                conflicts.insert((self.lives[incarnation.0].name.to_owned(), key.clone(), *lsn));
            }
        }
        conflicts
    }
}
