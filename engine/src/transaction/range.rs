//! Walking a range of a transaction from both ends: what the snapshot holds with the transaction's own writes over it. How
//! far it came from each end is noted with every step, because that is what the commit will be checked for.

use std::collections::btree_map;
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

use super::Transaction;
use super::reads::Span;
use super::write::Write;
use super::writes::KeyspaceWrites;
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::mutant::{Mutant, planted};
use crate::range::{Bounds, Range};
use crate::resolve::Value;

type Pair = (Bytes, Value);

/// Keys and values of a range in order, as a transaction sees them. Walks from both ends. After an error it ends.
pub struct TransactionRange<'a> {
    transaction: &'a Transaction,
    keyspace: Keyspace,
    bounds: Bounds,
    stored: Range,
    /// Taken from one end of `stored` and not handed out, because an own write came first.
    stored_front: Option<Pair>,
    stored_back: Option<Pair>,
    own: btree_map::Range<'a, Bytes, Write>,
    written: Option<&'a KeyspaceWrites>,
    /// What was read from each end.
    front: Option<Span>,
    back: Option<Span>,
    ended: bool,
}

impl fmt::Debug for TransactionRange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionRange").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

impl<'a> TransactionRange<'a> {
    pub(super) fn new(transaction: &'a Transaction, keyspace: &Keyspace, stored: Range, bounds: Bounds) -> Self {
        let written = transaction.written(keyspace);
        let own = match written {
            Some(written) if is_proper(&bounds) => written.keys(bounds.clone()),
            _ => btree_map::Range::default(),
        };
        Self {
            transaction,
            keyspace: keyspace.clone(),
            bounds,
            stored,
            stored_front: None,
            stored_back: None,
            own,
            written,
            front: None,
            back: None,
            ended: false,
        }
    }

    fn step(&mut self, end: End) -> Result<Option<Pair>> {
        let found = loop {
            let stored = self.take_stored(end)?;
            let own = match end {
                End::Front => self.own.clone().next(),
                End::Back if planted(Mutant::OwnWritesUnseenBackward) => None,
                End::Back => self.own.clone().next_back(),
            };
            let Some((own_key, own_write)) = own else { break stored };
            let below = match stored {
                Some(pair) if comes_first(&pair.0, own_key, end) => break Some(pair),
                Some((key, value)) if key == own_key => Some(value),
                Some(pair) if end == End::Front => {
                    self.stored_front = Some(pair);
                    None
                }
                Some(pair) => {
                    self.stored_back = Some(pair);
                    None
                }
                None => None,
            };
            match end {
                End::Front => self.own.next(),
                End::Back => self.own.next_back(),
            };
            if let Some(value) = own_write.seen(below)? {
                break Some((own_key.clone(), value));
            }
        };
        self.note(end, found.as_ref().map(|(key, _)| key))?;
        if let Some((key, Value { expiry: Some(expiry), .. })) = &found {
            self.transaction.reads.lock().add_expiry(self.keyspace.state(), key, *expiry);
        }
        Ok(found)
    }

    /// The next pair of the snapshot at one end that is in no range that is removed. Between what was set aside at the two ends
    /// lies what is left.
    fn take_stored(&mut self, end: End) -> Result<Option<Pair>> {
        let (near, far) = match end {
            End::Front => (&mut self.stored_front, &mut self.stored_back),
            End::Back => (&mut self.stored_back, &mut self.stored_front),
        };
        if near.is_some() {
            return Ok(near.take());
        }
        loop {
            let next = match end {
                End::Front => self.stored.next_found(),
                End::Back => self.stored.next_found_back(),
            };
            let next = next.transpose()?;
            let removed = next.as_ref().and_then(|found| self.written?.removed_with(found.key));
            match (removed, end) {
                (None, _) => {
                    let next = next.map(|found| {
                        let (key, bytes) = found.to_pair();
                        (key, Value { bytes, expiry: found.expiry })
                    });
                    return Ok(next.or_else(|| far.take()));
                }
                // To the end of the keyspace: nothing is left, from whichever end.
                (Some((_, behind)), End::Front) if behind.is_empty() => return Ok(None),
                (Some((_, behind)), End::Front) => self.stored.skip_to(behind.clone()),
                (Some((first, _)), End::Back) => self.stored.skip_back_to(first.clone()),
            }
        }
    }

    /// Notes that the range was read from `end` to `key`, or all of it.
    fn note(&mut self, end: End, key: Option<&Bytes>) -> Result<()> {
        if !is_proper(&self.bounds) {
            return Ok(());
        }
        let (mut lower, mut upper) = self.bounds.clone();
        match (end, key) {
            (End::Front, Some(key)) => upper = Bound::Included(key.clone()),
            (End::Back, Some(key)) => lower = Bound::Included(key.clone()),
            (_, None) => {}
        }
        let span = match end {
            End::Front => &mut self.front,
            End::Back => &mut self.back,
        };
        let mut reads = self.transaction.reads.lock();
        match span {
            Some(span) => reads.set_span(*span, (lower, upper)),
            None => {
                *span = Some(reads.add_span(self.keyspace.state(), (lower, upper))?);
                Ok(())
            }
        }
    }

    fn settle(&mut self, end: End) -> Option<Result<Pair>> {
        if self.ended {
            return None;
        }
        let stepped = self.step(end);
        self.ended = !matches!(stepped, Ok(Some(_)));
        stepped.transpose()
    }
}

/// Whether the bounds are those of a range: a map's own panics if they are not.
fn is_proper((lower, upper): &Bounds) -> bool {
    match (lower, upper) {
        (Bound::Excluded(lower), Bound::Excluded(upper)) => lower < upper,
        (Bound::Included(lower) | Bound::Excluded(lower), Bound::Included(upper) | Bound::Excluded(upper)) => {
            lower <= upper
        }
        _ => true,
    }
}

fn comes_first(key: &Bytes, other: &Bytes, end: End) -> bool {
    match end {
        End::Front => key < other,
        End::Back => key > other,
    }
}

impl Iterator for TransactionRange<'_> {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.settle(End::Front)?.map(|(key, value)| (key, value.bytes)))
    }
}

impl DoubleEndedIterator for TransactionRange<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        Some(self.settle(End::Back)?.map(|(key, value)| (key, value.bytes)))
    }
}

impl std::iter::FusedIterator for TransactionRange<'_> {}
