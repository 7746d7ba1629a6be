//! What the engine puts into the log's records: encoding, and checked decoding, of the payloads in FORMAT.md.
//! Knows no log and no state. A payload is understood wholly before any of it is acted on.

use seawall_wal::{Chain, Lsn, NodeId, Position, TimelineId, TimelineNonce};

use crate::codec::{Put, Reader, Truncated, len_u16, len_u32};
use crate::format::{KEYSPACE_NAME_LEN_MAX, KeyspaceId};

const VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const CREATE: u8 = 1;
const DROP: u8 = 2;
/// Kind, keyspace, length of the key.
const OPERATION_LEN_MIN: usize = 1 + 4 + 2;

/// Bytes a commit payload has before its operations.
pub const COMMIT_HEADER_LEN: usize = 8;

/// Why a payload is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misunderstood(pub &'static str);

impl From<Truncated> for Misunderstood {
    fn from(_: Truncated) -> Self {
        Self("it ends too early")
    }
}

/// One operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// In which keyspace.
    pub keyspace: KeyspaceId,
    /// On which key.
    pub key: &'a [u8],
    /// The value put, or `None` for a delete.
    pub value: Option<&'a [u8]>,
}

/// Builds a commit payload.
#[derive(Clone, Debug)]
pub struct CommitBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for CommitBuilder {
    fn default() -> Self {
        Self { bytes: vec![VERSION, 0, 0, 0, 0, 0, 0, 0], count: 0 }
    }
}

impl CommitBuilder {
    /// Adds an operation. The key has 1 to 65535 bytes; the caller checked it.
    pub fn push(&mut self, operation: Operation<'_>) {
        let bytes = &mut self.bytes;
        bytes.put_u8(if operation.value.is_some() { PUT } else { DELETE });
        bytes.put_u32(operation.keyspace.0);
        bytes.put_u16(len_u16(operation.key.len()));
        if let Some(value) = operation.value {
            bytes.put_u32(len_u32(value.len()));
        }
        bytes.put(operation.key);
        bytes.put(operation.value.unwrap_or_default());
        self.count += 1;
    }

    /// Bytes the payload will have.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no operation.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Operations so far.
    pub fn operations(&self) -> u32 {
        self.count
    }

    /// The payload.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[4..8].copy_from_slice(&self.count.to_le_bytes());
        self.bytes
    }
}

/// A commit payload, wholly checked: walking it cannot fail.
#[derive(Clone, Copy, Debug)]
pub struct CommitPayload<'a> {
    operations: Reader<'a>,
    count: u32,
}

impl<'a> CommitPayload<'a> {
    /// Checks a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Misunderstood> {
        let mut reader = Reader::new(payload);
        if reader.array()? != [VERSION, 0, 0, 0] {
            return Err(Misunderstood("its version or flags are unknown"));
        }
        let count = reader.u32()?;
        let operations = reader;
        if count == 0 || count as usize > payload.len() / OPERATION_LEN_MIN {
            return Err(Misunderstood("its number of operations is impossible"));
        }
        for _ in 0..count {
            next_operation(&mut reader)?;
        }
        if !reader.is_empty() {
            return Err(Misunderstood("bytes follow its last operation"));
        }
        Ok(Self { operations, count })
    }

    /// The first operation of a payload that was not checked, if it has one.
    pub(crate) fn first_unchecked(payload: &'a [u8]) -> Option<Operation<'a>> {
        next_operation(&mut Reader::new(payload.get(COMMIT_HEADER_LEN..)?)).ok()
    }

    /// How many operations it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Its operations in order.
    pub fn operations(&self) -> impl Iterator<Item = Operation<'a>> + use<'a> {
        let mut reader = self.operations;
        (0..self.count).map(move |_| next_operation(&mut reader).expect("the payload was checked"))
    }
}

fn next_operation<'a>(reader: &mut Reader<'a>) -> Result<Operation<'a>, Misunderstood> {
    let kind = reader.u8()?;
    let keyspace = KeyspaceId(reader.u32()?);
    let key_len = reader.u16()? as usize;
    if key_len == 0 {
        return Err(Misunderstood("a key is empty"));
    }
    let value_len = match kind {
        PUT => Some(reader.u32()? as usize),
        DELETE => None,
        _ => return Err(Misunderstood("an operation is of an unknown kind")),
    };
    let key = reader.bytes(key_len)?;
    let value = value_len.map(|len| reader.bytes(len)).transpose()?;
    Ok(Operation { keyspace, key, value })
}

/// What happens to a keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyspaceChange<'a> {
    /// It comes into being.
    Create {
        /// Its number.
        id: KeyspaceId,
        /// Its name.
        name: &'a str,
    },
    /// It ends.
    Drop {
        /// Its number.
        id: KeyspaceId,
    },
}

impl<'a> KeyspaceChange<'a> {
    /// Its payload. A name has 1 to 255 bytes; the caller checked it.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, id, name) = match *self {
            Self::Create { id, name } => (CREATE, id, name),
            Self::Drop { id } => (DROP, id, ""),
        };
        let mut bytes = vec![VERSION, kind];
        bytes.put_u16(len_u16(name.len()));
        bytes.put_u32(id.0);
        bytes.put(name.as_bytes());
        bytes
    }

    /// Checks a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Misunderstood> {
        let mut reader = Reader::new(payload);
        if reader.u8()? != VERSION {
            return Err(Misunderstood("its version is unknown"));
        }
        let kind = reader.u8()?;
        let name_len = reader.u16()? as usize;
        let id = KeyspaceId(reader.u32()?);
        let name = reader.bytes(name_len)?;
        if !reader.is_empty() || id.0 == 0 {
            return Err(Misunderstood("it is not a change of a keyspace"));
        }
        match kind {
            CREATE if (1..=KEYSPACE_NAME_LEN_MAX).contains(&name_len) => {
                let name = std::str::from_utf8(name).map_err(|_| Misunderstood("a name is not UTF-8"))?;
                Ok(Self::Create { id, name })
            }
            DROP if name_len == 0 => Ok(Self::Drop { id }),
            _ => Err(Misunderstood("it is not a change of a keyspace")),
        }
    }
}

/// The first record of a timeline begun by promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The timeline begun.
    pub timeline: TimelineId,
    /// Its nonce.
    pub nonce: TimelineNonce,
    /// The timeline it forks from.
    pub parent: TimelineId,
    /// Where.
    pub fork: Position,
    /// The node promoted.
    pub node: NodeId,
}

impl Promotion {
    /// Its payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, 0, 0, 0];
        bytes.put_u32(self.timeline.0);
        bytes.put_u32(self.parent.0);
        bytes.put_u32(0);
        bytes.put(&self.nonce.to_bytes());
        bytes.put_u64(self.fork.lsn.offset());
        bytes.put_u64(self.fork.chain.0);
        bytes.put(&self.node.to_bytes());
        bytes
    }

    /// Checks a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Misunderstood> {
        let mut reader = Reader::new(payload);
        if reader.array()? != [VERSION, 0, 0, 0] {
            return Err(Misunderstood("its version is unknown"));
        }
        let timeline = TimelineId(reader.u32()?);
        let parent = TimelineId(reader.u32()?);
        let zero = reader.u32()?;
        let nonce = TimelineNonce::from_bytes(reader.array()?);
        let fork = Position { lsn: Lsn::new(reader.u64()?), chain: Chain(reader.u64()?) };
        let node = NodeId::from_bytes(reader.array()?);
        if zero != 0 || !reader.is_empty() || parent >= timeline {
            return Err(Misunderstood("it is not a promotion"));
        }
        Ok(Self { timeline, nonce, parent, fork, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<u8> {
        let mut builder = CommitBuilder::default();
        builder.push(Operation { keyspace: KeyspaceId(1), key: b"a", value: Some(b"1") });
        builder.push(Operation { keyspace: KeyspaceId(2), key: b"bb", value: None });
        builder.push(Operation { keyspace: KeyspaceId(1), key: b"a", value: Some(b"") });
        builder.finish()
    }

    #[test]
    fn a_batch_reads_back_in_order() {
        let bytes = batch();
        let payload = CommitPayload::parse(&bytes).unwrap();
        let expected = [
            Operation { keyspace: KeyspaceId(1), key: b"a", value: Some(b"1") },
            Operation { keyspace: KeyspaceId(2), key: b"bb", value: None },
            Operation { keyspace: KeyspaceId(1), key: b"a", value: Some(b"") },
        ];
        assert!(payload.operations().eq(expected));
        assert_eq!(payload.count(), 3);
    }

    #[test]
    fn a_batch_cut_or_lengthened_anywhere_is_refused() {
        let bytes = batch();
        for len in 0..bytes.len() {
            assert!(CommitPayload::parse(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(CommitPayload::parse(&[bytes.as_slice(), &[0]].concat()).is_err());
        assert!(CommitPayload::parse(&CommitBuilder::default().finish()).is_err(), "no operation");
    }

    #[test]
    fn lengths_beyond_the_payload_are_refused_without_allocating() {
        let mut bytes = batch();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(CommitPayload::parse(&bytes).is_err());
        let mut bytes = batch();
        bytes[15..19].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(CommitPayload::parse(&bytes).is_err());
        let mut bytes = batch();
        bytes[8] = 3;
        assert!(CommitPayload::parse(&bytes).is_err(), "a reserved kind is not skipped");
    }

    #[test]
    fn keyspace_changes_and_promotions_read_back() {
        for change in
            [KeyspaceChange::Create { id: KeyspaceId(3), name: "users" }, KeyspaceChange::Drop { id: KeyspaceId(3) }]
        {
            let bytes = change.encode();
            assert_eq!(KeyspaceChange::parse(&bytes), Ok(change));
            for len in 0..bytes.len() {
                assert!(KeyspaceChange::parse(&bytes[..len]).is_err());
            }
        }
        let promotion = Promotion {
            timeline: TimelineId(2),
            nonce: TimelineNonce::random(),
            parent: TimelineId(1),
            fork: Position { lsn: Lsn::new(77), chain: Chain(8) },
            node: NodeId::random(),
        };
        let bytes = promotion.encode();
        assert_eq!(bytes.len(), 64);
        assert_eq!(Promotion::parse(&bytes), Ok(promotion));
        assert!(Promotion::parse(&bytes[..63]).is_err());
    }
}
