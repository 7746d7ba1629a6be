//! The iterator people use over the keys of a keyspace, from both ends.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::Lsn;

use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::merge::{Backward, Forward, Found, Place};
use crate::version::View;

/// Keys and values of a range in order, as of one LSN. Walks from both ends. After an error it ends.
///
/// It keeps the files and memtables it reads until it is dropped.
pub struct Range {
    source: Option<(Arc<View>, KeyspaceId, Moment)>,
    /// Reported first, then the range is over.
    failed: Option<Error>,
    lower: Bound<Bytes>,
    upper: Bound<Bytes>,
    front: Option<Forward>,
    back: Option<Backward>,
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range").field("lower", &self.lower).field("upper", &self.upper).finish_non_exhaustive()
    }
}

impl Range {
    pub(crate) fn new(view: Arc<View>, keyspace: KeyspaceId, at: Moment, bounds: Bounds) -> Self {
        let (lower, upper) = bounds;
        Self { source: Some((view, keyspace, at)), failed: None, lower, upper, front: None, back: None }
    }

    /// A range that says why it cannot be read.
    pub(crate) fn failed(error: Error) -> Self {
        let (lower, upper) = (Bound::Unbounded, Bound::Unbounded);
        Self { source: None, failed: Some(error), lower, upper, front: None, back: None }
    }

    /// Goes on at `key` when it steps forward.
    pub(crate) fn skip_to(&mut self, key: Bytes) {
        self.lower = Bound::Included(key);
        self.front = None;
    }

    /// Goes on before `key` when it steps back.
    pub(crate) fn skip_back_to(&mut self, key: Bytes) {
        self.upper = Bound::Excluded(key);
        self.back = None;
    }

    fn end(&mut self) {
        self.source = None;
        self.front = None;
        self.back = None;
    }

    /// Goes to the next key. Says whether it is within the bounds and before where the other end is.
    fn step_forward(&mut self) -> Result<bool> {
        let Some((view, keyspace, at)) = &self.source else { return Ok(false) };
        let front = match &mut self.front {
            Some(front) => front,
            front => {
                let from: Place<'_> = match &self.lower {
                    Bound::Unbounded => None,
                    Bound::Included(key) => Some((key, Lsn::MAX)),
                    // No version has LSN 0, so this place is behind all versions of the key.
                    Bound::Excluded(key) => Some((key, Lsn::ZERO)),
                };
                front.insert(Forward::new(view, *keyspace, *at, from)?)
            }
        };
        if !front.advance()? {
            return Ok(false);
        }
        let Some(Found { key, .. }) = front.found() else { return Ok(false) };
        let inside = match &self.upper {
            Bound::Unbounded => true,
            Bound::Included(upper) => key <= &upper[..],
            Bound::Excluded(upper) => key < &upper[..],
        };
        Ok(inside && self.back.as_ref().and_then(Backward::found).is_none_or(|back| key < back.key))
    }

    /// As [`step_forward`](Self::step_forward), from the other end.
    fn step_back(&mut self) -> Result<bool> {
        let Some((view, keyspace, at)) = &self.source else { return Ok(false) };
        let back = match &mut self.back {
            Some(back) => back,
            back => {
                let before: Place<'_> = match &self.upper {
                    Bound::Unbounded => None,
                    Bound::Included(key) => Some((key, Lsn::ZERO)),
                    Bound::Excluded(key) => Some((key, Lsn::MAX)),
                };
                back.insert(Backward::new(view, *keyspace, *at, before)?)
            }
        };
        if !back.advance(view)? {
            return Ok(false);
        }
        let Some(Found { key, .. }) = back.found() else { return Ok(false) };
        let inside = match &self.lower {
            Bound::Unbounded => true,
            Bound::Included(lower) => key >= &lower[..],
            Bound::Excluded(lower) => key > &lower[..],
        };
        Ok(inside && self.front.as_ref().and_then(Forward::found).is_none_or(|front| key > front.key))
    }

    /// Takes a step, and ends where there is nothing more.
    fn step(&mut self, step: impl FnOnce(&mut Self) -> Result<bool>) -> Option<Result<()>> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        let stepped = step(self);
        if !matches!(stepped, Ok(true)) {
            self.end();
        }
        stepped.map(|there| there.then_some(())).transpose()
    }

    /// The next key and value where they lie, without a copy: for long walks that look at much and keep little.
    ///
    /// It goes on where [`next`](Iterator::next) was, and the other way round.
    pub fn next_borrowed(&mut self) -> Option<Result<(&[u8], &[u8])>> {
        let found = self.next_found()?;
        Some(found.map(|Found { key, value, .. }| (key, value)))
    }

    /// The next key with all there is to its value.
    pub(crate) fn next_found(&mut self) -> Option<Result<Found<'_>>> {
        match self.step(Self::step_forward)? {
            Ok(()) => self.front.as_ref().and_then(Forward::found).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    /// As [`next_found`](Self::next_found), from the other end.
    pub(crate) fn next_found_back(&mut self) -> Option<Result<Found<'_>>> {
        match self.step(Self::step_back)? {
            Ok(()) => self.back.as_ref().and_then(Backward::found).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}

impl Iterator for Range {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_found()?.map(|found| found.to_pair()))
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        Some(self.next_found_back()?.map(|found| found.to_pair()))
    }
}

impl std::iter::FusedIterator for Range {}

/// A range of keys with its own bytes.
pub(crate) type Bounds = (Bound<Bytes>, Bound<Bytes>);

pub(crate) fn bounds<K: AsRef<[u8]>>(range: &impl RangeBounds<K>) -> Bounds {
    let own = |bound: Bound<&K>| bound.map(|key| Bytes::copy_from_slice(key.as_ref()));
    (own(range.start_bound()), own(range.end_bound()))
}

/// All keys that begin with `prefix`.
pub(crate) fn prefix_bounds(prefix: &[u8]) -> Bounds {
    let lower = Bound::Included(Bytes::copy_from_slice(prefix));
    // The first key after them: the prefix with its last byte that can be raised raised, and cut there.
    let raisable = prefix.iter().rposition(|byte| *byte < u8::MAX);
    let upper = raisable.map_or(Bound::Unbounded, |last| {
        let mut next = prefix[..=last].to_vec();
        next[last] += 1;
        Bound::Excluded(Bytes::from(next))
    });
    (lower, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        let end = |prefix: &[u8]| prefix_bounds(prefix).1;
        assert_eq!(end(b"ab"), Bound::Excluded(Bytes::from_static(b"ac")));
        assert_eq!(end(b"a\xff\xff"), Bound::Excluded(Bytes::from_static(b"b")));
        assert_eq!(end(b"\xff"), Bound::Unbounded);
        assert_eq!(end(b""), Bound::Unbounded);
    }
}
