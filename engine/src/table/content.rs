//! What a version says of its key, and how that is stored, in tables and memtables alike: a kind, and the bytes that stand
//! where a value stands.

use seawall_wal::{Lsn, Timestamp};

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
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const MERGE: u8 = 3;
const EXPIRING: u8 = 4;

/// What is stored before a value or operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; 9],
    len: usize,
}

impl Head {
    fn new(parts: &[&[u8]]) -> Self {
        let mut head = Self { bytes: [0; 9], len: 0 };
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

impl<'a> Content<'a> {
    /// The kind it is stored with.
    pub(crate) fn kind(self) -> u8 {
        match self {
            Self::Put(_) => PUT,
            Self::Delete => DELETE,
            Self::Merge { .. } => MERGE,
            Self::Expiring { .. } => EXPIRING,
        }
    }

    /// What it is stored in: two parts, one behind the other.
    pub(crate) fn parts(self) -> (Head, &'a [u8]) {
        match self {
            Self::Put(value) => (Head::new(&[]), value),
            Self::Delete => (Head::new(&[]), &[]),
            Self::Merge { operator, time, operand } => (Head::new(&[&[operator.id()], &time.0.to_le_bytes()]), operand),
            Self::Expiring { expiry, value } => (Head::new(&[&expiry.0.to_le_bytes()]), value),
        }
    }

    /// Bytes it is stored in.
    pub(crate) fn stored_len(self) -> usize {
        let (head, tail) = self.parts();
        head.len + tail.len()
    }

    /// Appends what it is stored in.
    pub(crate) fn store(self, bytes: &mut Vec<u8>) {
        let (head, tail) = self.parts();
        bytes.extend_from_slice(head.bytes());
        bytes.extend_from_slice(tail);
    }

    /// What is stored with a kind; `None` if nothing is stored so.
    pub(crate) fn parse(kind: u8, stored: &'a [u8]) -> Option<Self> {
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
            _ => None,
        }
    }

    /// The value it gives the key, if it alone gives one.
    pub(crate) fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::Put(value) | Self::Expiring { value, .. } => Some(value),
            Self::Delete | Self::Merge { .. } => None,
        }
    }

    /// When the value ends, if it does.
    pub(crate) fn expiry(self) -> Option<Timestamp> {
        match self {
            Self::Expiring { expiry, .. } => Some(expiry),
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
            content.store(&mut stored);
            assert_eq!(content.stored_len(), stored.len());
            assert_eq!(Content::parse(content.kind(), &stored), Some(content));
        }
    }

    #[test]
    fn what_is_no_content_is_refused() {
        let add_of = |len: usize| [&[1][..], &[0; 8], &vec![0; len]].concat();
        for (kind, bytes) in [(0, vec![]), (DELETE, vec![0]), (MERGE, vec![1; 8]), (MERGE, add_of(7)), (5, vec![0; 20])]
        {
            assert_eq!(Content::parse(kind, &bytes), None, "{kind} {bytes:?}");
        }
        assert_eq!(Content::parse(MERGE, &[4, 0, 0, 0, 0, 0, 0, 0, 0]), None, "an unknown operator");
        assert_eq!(Content::parse(EXPIRING, &[1; 7]), None);
        assert_eq!(Content::parse(EXPIRING, &[0; 9]), None);
    }
}
