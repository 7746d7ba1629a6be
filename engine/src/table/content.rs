//! What a version says of its key, and how that is stored: a kind, and the bytes that stand where a value stands.

use seawall_wal::Lsn;

const PUT: u8 = 1;
const DELETE: u8 = 2;

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
}

impl<'a> Content<'a> {
    /// The value, if there is one.
    pub(crate) fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::Put(value) => Some(value),
            Self::Delete => None,
        }
    }

    /// When it expires, in microseconds since 1970; 0 is never.
    pub(super) fn expiry(self) -> u64 {
        match self {
            Self::Put(_) | Self::Delete => 0,
        }
    }

    /// The kind it is stored with.
    pub(super) fn kind(self) -> u8 {
        match self {
            Self::Put(_) => PUT,
            Self::Delete => DELETE,
        }
    }

    /// Bytes it is stored in.
    pub(super) fn stored_len(self) -> usize {
        match self {
            Self::Put(value) => value.len(),
            Self::Delete => 0,
        }
    }

    /// Appends what it is stored in.
    pub(super) fn store(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Put(value) => bytes.extend_from_slice(value),
            Self::Delete => {}
        }
    }

    /// What is stored with a kind; `None` if nothing is stored so.
    pub(super) fn parse(kind: u8, stored: &'a [u8]) -> Option<Self> {
        match kind {
            PUT => Some(Self::Put(stored)),
            DELETE if stored.is_empty() => Some(Self::Delete),
            _ => None,
        }
    }
}
