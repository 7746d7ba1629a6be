//! What a version says of its key, and how that is stored, in tables and memtables alike: a kind, and the bytes that stand
//! where a value stands.

use std::sync::Arc;

use seawall_wal::{Lsn, Timestamp};

use super::references::BlobUse;
use crate::blob::{BlobFile, REFERENCE_LEN, Reference};
use crate::error::Result;
use crate::operator::MergeOperator;

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRef<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) lsn: Lsn,
    pub(crate) content: Content<'a>,
}

/// What a version says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// It has this value.
    Put(&'a [u8]),
    /// It is not there.
    Delete,
    /// Its value is changed by an operand, whatever it is.
    Merge {
        operator: MergeOperator,
        /// Of the commit: what had expired by then is not there for it.
        time: Timestamp,
        operand: &'a [u8],
    },
    /// It has this value until then.
    Expiring { expiry: Timestamp, value: &'a [u8] },
    /// It has a value that lies in a blob file.
    Large(Large<'a>),
}

/// A value in a blob file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Large<'a> {
    pub(crate) file: &'a Arc<BlobFile>,
    pub(crate) at: Reference,
}

impl PartialEq for Large<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.file.meta().hash, self.at) == (other.file.meta().hash, other.at)
    }
}

impl Eq for Large<'_> {}

impl<'a> Large<'a> {
    pub(crate) fn expiry(&self) -> Option<Timestamp> {
        (self.at.expiry > 0).then_some(Timestamp(self.at.expiry))
    }

    /// The same with the value itself.
    pub(crate) fn read(&self) -> Result<Content<'a>> {
        let value = self.file.value(&self.at)?;
        Ok(match self.expiry() {
            Some(expiry) => Content::Expiring { expiry, value },
            None => Content::Put(value),
        })
    }
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const MERGE: u8 = 3;
const EXPIRING: u8 = 4;
const LARGE: u8 = 5;

/// What is stored before a value or operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; REFERENCE_LEN],
    len: usize,
}

impl Head {
    fn new(parts: &[&[u8]]) -> Self {
        let mut head = Self { bytes: [0; REFERENCE_LEN], len: 0 };
        for part in parts {
            head.bytes[head.len..head.len + part.len()].copy_from_slice(part);
            head.len += part.len();
        }
        head
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What is stored of a version in a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<'a> {
    pub(super) kind: u8,
    head: Head,
    tail: &'a [u8],
}

impl<'a> Form<'a> {
    /// Of a value that lies in a blob file.
    pub(super) fn large(at: &Reference) -> Self {
        Self { kind: LARGE, head: Head::new(&[&at.encode()]), tail: &[] }
    }

    pub(super) fn len(&self) -> usize {
        self.head.len + self.tail.len()
    }

    pub(super) fn store(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.head.bytes());
        bytes.extend_from_slice(self.tail);
    }
}

impl<'a> From<Content<'a>> for Form<'a> {
    fn from(content: Content<'a>) -> Self {
        let (head, tail) = content.parts();
        Self { kind: content.kind(), head, tail }
    }
}

impl<'a> Content<'a> {
    /// The kind it is stored with.
    pub(crate) fn kind(self) -> u8 {
        match self {
            Self::Put(_) => PUT,
            Self::Delete => DELETE,
            Self::Merge { .. } => MERGE,
            Self::Expiring { .. } => EXPIRING,
            Self::Large(_) => LARGE,
        }
    }

    /// What it is stored in: two parts, one behind the other.
    pub(crate) fn parts(self) -> (Head, &'a [u8]) {
        match self {
            Self::Put(value) => (Head::new(&[]), value),
            Self::Delete => (Head::new(&[]), &[]),
            Self::Merge { operator, time, operand } => (Head::new(&[&[operator.id()], &time.0.to_le_bytes()]), operand),
            Self::Expiring { expiry, value } => (Head::new(&[&expiry.0.to_le_bytes()]), value),
            Self::Large(large) => (Head::new(&[&large.at.encode()]), &[]),
        }
    }

    /// What is stored with a kind, in a table that refers to these blob files; `None` if nothing is stored so.
    pub(crate) fn parse(kind: u8, stored: &'a [u8], blobs: &'a [BlobUse]) -> Option<Self> {
        match kind {
            PUT => Some(Self::Put(stored)),
            DELETE if stored.is_empty() => Some(Self::Delete),
            MERGE => {
                let (operator, rest) = stored.split_first()?;
                let (time, operand) = rest.split_first_chunk()?;
                let operator = MergeOperator::from_id(*operator).filter(|operator| operator.takes(operand))?;
                Some(Self::Merge { operator, time: Timestamp(u64::from_le_bytes(*time)), operand })
            }
            EXPIRING => {
                let (expiry, value) = stored.split_first_chunk()?;
                // 0 stands for none where expiries are summed up.
                let expiry = Timestamp(u64::from_le_bytes(*expiry));
                (expiry.0 > 0).then_some(Self::Expiring { expiry, value })
            }
            LARGE => {
                let at = Reference::parse(stored.try_into().ok()?);
                Some(Self::Large(Large { file: &blobs.get(at.blob as usize)?.file, at }))
            }
            _ => None,
        }
    }

    /// The value it gives the key, if it alone gives one and has it with it.
    pub(crate) fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::Put(value) | Self::Expiring { value, .. } => Some(value),
            Self::Delete | Self::Merge { .. } | Self::Large(_) => None,
        }
    }

    /// When the value ends, if it does.
    pub(crate) fn expiry(self) -> Option<Timestamp> {
        match self {
            Self::Expiring { expiry, .. } => Some(expiry),
            Self::Large(large) => large.expiry(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_read_back_as_they_were_stored() {
        let time = Timestamp(0x0102_0304_0506_0708);
        let operand = &[7; 8];
        for content in [
            Content::Put(b""),
            Content::Put(b"value"),
            Content::Delete,
            Content::Merge { operator: MergeOperator::Add, time, operand },
            Content::Merge { operator: MergeOperator::Append, time, operand: b"" },
            Content::Expiring { expiry: time, value: b"v" },
        ] {
            let mut stored = Vec::new();
            let form = Form::from(content);
            form.store(&mut stored);
            assert_eq!(form.len(), stored.len());
            assert_eq!(Content::parse(form.kind, &stored, &[]), Some(content));
        }
    }

    #[test]
    fn what_is_no_content_is_refused() {
        let add_of = |len: usize| [&[1][..], &[0; 8], &vec![0; len]].concat();
        let parsed = |kind, bytes: &[u8]| Content::parse(kind, bytes, &[]).map(|content| content.kind());
        for (kind, bytes) in [(0, vec![]), (DELETE, vec![0]), (MERGE, vec![1; 8]), (MERGE, add_of(7)), (6, vec![0; 20])]
        {
            assert_eq!(parsed(kind, &bytes), None, "{kind} {bytes:?}");
        }
        assert_eq!(parsed(MERGE, &[4, 0, 0, 0, 0, 0, 0, 0, 0]), None, "an unknown operator");
        assert_eq!(parsed(EXPIRING, &[1; 7]), None);
        assert_eq!(parsed(EXPIRING, &[0; 9]), None);
        assert_eq!(parsed(LARGE, &[0; REFERENCE_LEN]), None, "of a blob file that is not listed");
    }
}
