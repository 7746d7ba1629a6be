//! What a transaction has read: keys, and the parts of ranges it walked. Bounded, and compared with newer versions at commit.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::{Lsn, Timestamp};

use super::Transaction;
use super::newer::Newer;
use crate::catalogue::KeyspaceState;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};
use crate::range::Bounds;
use crate::version::View;

/// What was read, by keyspace. `count <= READS_MAX` and `bytes <= READ_BYTES_MAX`.
#[derive(Debug, Default)]
pub(super) struct Reads {
    keyspaces: BTreeMap<KeyspaceId, KeyspaceReads>,
    /// Of keys and spans.
    count: usize,
    /// Of keys, and of the bounds of spans.
    bytes: usize,
    /// Of the values that were read, the one that ends first, if one does.
    first_to_end: Option<Ending>,
}

#[derive(Debug)]
struct Ending {
    expiry: Timestamp,
    keyspace: Arc<KeyspaceState>,
    key: Bytes,
}

#[derive(Debug)]
struct KeyspaceReads {
    keyspace: Arc<KeyspaceState>,
    keys: BTreeSet<Bytes>,
    spans: Vec<Bounds>,
}

/// A part of a range that is being walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    keyspace: KeyspaceId,
    number: usize,
}

impl Reads {
    /// A key was read, whether it was there or not.
    pub(super) fn add_key(&mut self, keyspace: &Arc<KeyspaceState>, key: &[u8]) -> Result<()> {
        if self.keyspaces.get(&keyspace.id).is_some_and(|reads| reads.keys.contains(key)) {
            return Ok(());
        }
        self.grow(self.count + 1, self.bytes + key.len())?;
        self.of(keyspace).keys.insert(Bytes::copy_from_slice(key));
        Ok(())
    }

    /// The value of a key was read, and ends at `expiry`.
    pub(super) fn add_expiry(&mut self, keyspace: &Arc<KeyspaceState>, key: &[u8], expiry: Timestamp) {
        if self.first_to_end.as_ref().is_none_or(|first| expiry < first.expiry) {
            let (keyspace, key) = (Arc::clone(keyspace), Bytes::copy_from_slice(key));
            self.first_to_end = Some(Ending { expiry, keyspace, key });
        }
    }

    /// A range was read between these bounds.
    pub(super) fn add_span(&mut self, keyspace: &Arc<KeyspaceState>, bounds: Bounds) -> Result<Span> {
        self.grow(self.count + 1, self.bytes + bounds_len(&bounds))?;
        let spans = &mut self.of(keyspace).spans;
        spans.push(bounds);
        Ok(Span { keyspace: keyspace.id, number: spans.len() - 1 })
    }

    /// The range was read further.
    pub(super) fn set_span(&mut self, span: Span, bounds: Bounds) -> Result<()> {
        let before = bounds_len(&self.keyspaces[&span.keyspace].spans[span.number]);
        self.grow(self.count, self.bytes - before + bounds_len(&bounds))?;
        if let Some(reads) = self.keyspaces.get_mut(&span.keyspace) {
            reads.spans[span.number] = bounds;
        }
        Ok(())
    }

    fn of(&mut self, keyspace: &Arc<KeyspaceState>) -> &mut KeyspaceReads {
        self.keyspaces.entry(keyspace.id).or_insert_with(|| KeyspaceReads {
            keyspace: Arc::clone(keyspace),
            keys: BTreeSet::new(),
            spans: Vec::new(),
        })
    }

    /// Takes so many reads of so many bytes, if a transaction may have them. One that is refused hands nothing out.
    fn grow(&mut self, count: usize, bytes: usize) -> Result<()> {
        if count > Transaction::READS_MAX {
            return Err(Error::TooMany { what: "reads", max: Transaction::READS_MAX });
        }
        if bytes > Transaction::READ_BYTES_MAX {
            return Err(Error::TooLarge { what: "read set", size: bytes, max: Transaction::READ_BYTES_MAX });
        }
        (self.count, self.bytes) = (count, bytes);
        Ok(())
    }

    /// Whether tables hold something newer than `since` of the keyspaces that were read.
    pub(super) fn newer_tables(&self, view: &View, since: Lsn) -> bool {
        self.keyspaces.keys().any(|keyspace| !Newer::than(since, view, *keyspace).tables.is_empty())
    }

    /// Whether all that was read is as it was at `since`, as far as `view` shows.
    pub(super) fn check(&self, view: &View, since: Lsn) -> Result<()> {
        // Somebody may have seen that it has ended, and written for that reason.
        if let Some(Ending { expiry, keyspace, key }) = &self.first_to_end
            && let Some(lsn) = view.marks.end_of(*expiry)
            && !planted(Mutant::UncheckedExpiry)
        {
            return Err(Error::Conflict { keyspace: keyspace.name.clone(), key: key.clone(), lsn });
        }
        for (id, reads) in &self.keyspaces {
            let name = &reads.keyspace.name;
            if !reads.keyspace.is_live() {
                return Err(Error::UnknownKeyspace { name: name.clone() });
            }
            if planted(Mutant::UncheckedTransactions) {
                continue;
            }
            let newer = Newer::than(since, view, *id);
            if newer.is_nothing() {
                continue;
            }
            let conflict = |key: Bytes, lsn| Error::Conflict { keyspace: name.clone(), key, lsn };
            for key in &reads.keys {
                if let Some(lsn) = newer.of_key(key)? {
                    return Err(conflict(key.clone(), lsn));
                }
            }
            for span in reads.spans.iter().filter(|_| !planted(Mutant::UncheckedRanges)) {
                if let Some((key, lsn)) = newer.in_span(span)? {
                    return Err(conflict(key, lsn));
                }
            }
        }
        Ok(())
    }
}

fn bounds_len(bounds: &Bounds) -> usize {
    let len = |bound: &Bound<Bytes>| match bound {
        Bound::Unbounded => 0,
        Bound::Included(key) | Bound::Excluded(key) => key.len(),
    };
    len(&bounds.0) + len(&bounds.1)
}
