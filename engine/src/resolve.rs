//! From versions to a value: what the versions of one key say together. Every reader, the digest and merges go through here,
//! so that they agree on operands and expiry.

use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::{Lsn, Timestamp};

use crate::blob::{BlobFile, Reference};
use crate::error::{Error, Result};
use crate::format::MERGED_LEN_MAX;
use crate::marks::{Moment, second_of};
use crate::operator::{MergeOperator, TooLong};
use crate::range_deletes::Cover;
use crate::table::{Content, Large};

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) bytes: Bytes,
    /// When it ends, if it does.
    pub(crate) expiry: Option<Timestamp>,
}

/// Gathers versions of a key, in any order, until a value follows from them.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    /// Older versions were deleted with a range.
    hidden_before: Lsn,
    /// The newest version that does not build on older ones, and the value it gives.
    base: Option<(Lsn, Option<Base>)>,
    /// All newer than the base.
    operands: Vec<Operand>,
}

#[derive(Debug)]
enum Base {
    Value(Value),
    /// Read when the key's value is asked for, if it matters then.
    Large(Arc<BlobFile>, Reference),
}

impl Base {
    fn of(content: Content<'_>) -> Option<Self> {
        if let Content::Large(Large { file, at }) = content {
            return Some(Self::Large(Arc::clone(file), at));
        }
        let value = |bytes| Value { bytes: Bytes::copy_from_slice(bytes), expiry: content.expiry() };
        content.value().map(value).map(Self::Value)
    }

    fn expiry(&self) -> Option<Timestamp> {
        match self {
            Self::Value(value) => value.expiry,
            Self::Large(file, at) => Large { file, at: *at }.expiry(),
        }
    }

    fn read(self) -> Result<Value> {
        let expiry = self.expiry();
        match self {
            Self::Value(value) => Ok(value),
            Self::Large(file, at) => Ok(Value { bytes: Bytes::copy_from_slice(file.value(&at)?), expiry }),
        }
    }
}

#[derive(Debug)]
struct Operand {
    lsn: Lsn,
    operator: MergeOperator,
    time: Timestamp,
    bytes: Bytes,
}

impl Resolver {
    /// Of a key over which this delete of a range lies, if one does.
    pub(crate) fn under(cover: Option<&Cover>) -> Self {
        Self { hidden_before: cover.map_or(Lsn::ZERO, |cover| cover.lsn), ..Self::default() }
    }

    /// Takes a version that the reader may see. Says whether older ones do not matter.
    pub(crate) fn take(&mut self, lsn: Lsn, content: Content<'_>) -> bool {
        if lsn < self.hidden_before {
            return true;
        }
        if self.base.as_ref().is_some_and(|(base, _)| lsn < *base) {
            return true;
        }
        if let Content::Merge { operator, time, operand } = content {
            self.operands.push(Operand { lsn, operator, time, bytes: Bytes::copy_from_slice(operand) });
            return self.base.is_some();
        }
        self.operands.retain(|operand| operand.lsn > lsn);
        self.base = Some((lsn, Base::of(content)));
        true
    }

    /// Whether the value must be fetched from a blob file. It is asked for then.
    pub(crate) fn ask_for_large(&self) -> bool {
        match &self.base {
            Some((_, Some(Base::Large(file, at)))) => {
                file.ask_for(at);
                true
            }
            _ => false,
        }
    }

    /// The value, and that nothing is left of the versions.
    pub(crate) fn finish(&mut self, at: Moment) -> Result<Option<Value>> {
        let base = self.base.take().and_then(|(_, base)| base);
        let ended = |expiry: Option<Timestamp>| expiry.is_some_and(|expiry| at.is_past(expiry));
        if self.operands.is_empty() && base.as_ref().is_some_and(|base| ended(base.expiry())) {
            return Ok(None);
        }
        let mut value = base.map(Base::read).transpose()?;
        if !self.operands.is_empty() {
            self.operands.sort_unstable_by_key(|operand| operand.lsn);
            let mut folded = value.map(Folded::from);
            for Operand { operator, time, bytes, .. } in self.operands.drain(..) {
                folded = Some(fold(folded, operator, time, &bytes).map_err(too_large)?);
            }
            value = folded.map(Value::from);
        }
        Ok(value.filter(|value| !ended(value.expiry)))
    }
}

/// A value that operands change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) expiry: Option<Timestamp>,
}

impl Folded {
    /// What a version that does not build on others and has its value with it gives.
    pub(crate) fn of(content: Content<'_>) -> Option<Self> {
        content.value().map(|value| Self { bytes: value.to_vec(), expiry: content.expiry() })
    }

    /// As a version of its own.
    pub(crate) fn content(&self) -> Content<'_> {
        match self.expiry {
            Some(expiry) => Content::Expiring { expiry, value: &self.bytes },
            None => Content::Put(&self.bytes),
        }
    }
}

impl From<Value> for Folded {
    fn from(Value { bytes, expiry }: Value) -> Self {
        Self { bytes: bytes.into(), expiry }
    }
}

impl From<Folded> for Value {
    fn from(Folded { bytes, expiry }: Folded) -> Self {
        Self { bytes: bytes.into(), expiry }
    }
}

/// What an operand of a commit at `time` makes of a value. One that had expired by then is not there for it; else the result
/// ends when the value would have.
pub(crate) fn fold(
    value: Option<Folded>,
    operator: MergeOperator,
    time: Timestamp,
    operand: &[u8],
) -> Result<Folded, TooLong> {
    let value = value.filter(|value| value.expiry.is_none_or(|expiry| expiry > second_of(time)));
    let (bytes, expiry) = match value {
        Some(Folded { bytes, expiry }) => (Some(bytes), expiry),
        None => (None, None),
    };
    Ok(Folded { bytes: operator.apply(bytes, operand)?, expiry })
}

pub(crate) fn too_large(TooLong { size }: TooLong) -> Error {
    Error::TooLarge { what: "merged value", size, max: MERGED_LEN_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Moment = Moment { lsn: Lsn::MAX, time: Timestamp(50_000_000) };

    fn append(second: u64, operand: &'static [u8]) -> Content<'static> {
        let time = Timestamp(second * 1_000_000 + 999_999);
        Content::Merge { operator: MergeOperator::Append, time, operand }
    }

    fn until(second: u64, value: &'static [u8]) -> Content<'static> {
        Content::Expiring { expiry: Timestamp(second * 1_000_000), value }
    }

    /// Of versions given newest first, taken in both directions.
    fn resolved(versions: &[Content<'static>]) -> Option<(Vec<u8>, Option<u64>)> {
        let version = |index: usize| (Lsn::new((100 - index) as u64), versions[index]);
        let finish = |mut resolver: Resolver| resolver.finish(AT).unwrap();
        let mut newest_first = Resolver::default();
        let settled = (0..versions.len()).map(version).any(|(lsn, content)| newest_first.take(lsn, content));
        assert_eq!(settled, versions.iter().any(|content| !matches!(content, Content::Merge { .. })));
        let mut oldest_first = Resolver::default();
        for (lsn, content) in (0..versions.len()).rev().map(version) {
            oldest_first.take(lsn, content);
        }
        let value = finish(newest_first);
        assert_eq!(value, finish(oldest_first));
        value.map(|value| (value.bytes.to_vec(), value.expiry.map(|expiry| expiry.0 / 1_000_000)))
    }

    #[test]
    fn the_newest_version_that_is_no_operand_ends_the_search() {
        assert_eq!(resolved(&[]), None);
        assert_eq!(resolved(&[Content::Put(b"b"), Content::Put(b"a")]), Some((b"b".to_vec(), None)));
        assert_eq!(resolved(&[Content::Delete, Content::Put(b"a")]), None);
        let versions = [append(9, b"2"), append(8, b"1"), Content::Put(b"0"), append(7, b"x"), Content::Put(b"a")];
        assert_eq!(resolved(&versions), Some((b"012".to_vec(), None)));
        assert_eq!(resolved(&[append(9, b"1"), Content::Delete, Content::Put(b"a")]), Some((b"1".to_vec(), None)));
        assert_eq!(resolved(&[append(9, b"2"), append(8, b"1")]), Some((b"12".to_vec(), None)));
    }

    #[test]
    fn a_value_is_gone_when_its_time_has_come_and_operands_do_not_make_it_longer() {
        assert_eq!(resolved(&[until(51, b"a")]), Some((b"a".to_vec(), Some(51))));
        assert_eq!(resolved(&[until(50, b"a"), Content::Put(b"older")]), None);
        assert_eq!(resolved(&[append(40, b"b"), until(51, b"a")]), Some((b"ab".to_vec(), Some(51))));
        assert_eq!(resolved(&[append(40, b"b"), until(50, b"a")]), None);
    }

    #[test]
    fn an_operand_begins_anew_where_the_value_had_ended() {
        assert_eq!(resolved(&[append(30, b"b"), until(30, b"a")]), Some((b"b".to_vec(), None)));
        let versions = [append(31, b"c"), append(29, b"b"), until(30, b"a")];
        assert_eq!(resolved(&versions), Some((b"c".to_vec(), None)));
    }

    #[test]
    fn what_cannot_be_kept_cannot_be_read() {
        let mut resolver = Resolver::default();
        let half = vec![0; MERGED_LEN_MAX / 2 + 1];
        let operator = MergeOperator::Append;
        resolver.take(Lsn::new(2), Content::Merge { operator, time: Timestamp(0), operand: &half });
        resolver.take(Lsn::new(1), Content::Put(&half));
        assert!(matches!(resolver.finish(AT), Err(Error::TooLarge { what: "merged value", .. })));
    }
}
