//! What the engine puts into the log's records: encoding, and checked decoding, of the payloads in FORMAT.md.
//! Knows no log and no state. A payload is understood wholly before any of it is acted on.

use std::collections::BTreeMap;

use seawall_wal::{Chain, Lsn, NodeId, Position, TimelineId, TimelineNonce};

use crate::codec::{Put, Reader, Truncated, len_u16, len_u32};
use crate::format::{KEY_END_LEN_MAX, KEYSPACE_NAME_LEN_MAX, KeyspaceId};
use crate::operator::MergeOperator;

const VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;
const MERGE: u8 = 4;
const PUT_FOR: u8 = 5;
/// Bytes of a time to live.
const TTL_LEN: usize = 8;
const CREATE: u8 = 1;
const DROP: u8 = 2;
/// Kind, keyspace, length of the key.
const OPERATION_LEN_MIN: usize = 1 + 4 + 2;
/// The length of what follows the key.
const VALUE_LEN_LEN: usize = 4;
/// Room that a payload is begun with: one operation with a key and a value of usual sizes.
const USUAL_LEN: usize = 256;

/// Ranges a commit can delete.
pub const RANGE_DELETES_MAX: usize = 1024;
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
    /// What it does.
    pub action: Action<'a>,
}

/// What an operation does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Gives it a value.
    Put(&'a [u8]),
    /// Gives it a value that ends so many microseconds after the time of the commit.
    PutFor {
        /// Time to live, in microseconds.
        ttl_micros: u64,
        /// The value.
        value: &'a [u8],
    },
    /// Removes it.
    Delete,
    /// Removes it and all keys behind it.
    DeleteRange {
        /// Up to here, which stays. Empty for the end of the keyspace.
        end: &'a [u8],
    },
    /// Changes its value.
    Merge {
        /// How.
        operator: MergeOperator,
        /// With what.
        operand: &'a [u8],
    },
}

impl Action<'_> {
    /// Bytes that follow the key in the payload.
    pub fn value_len(&self) -> usize {
        match self {
            Self::Put(value) => value.len(),
            Self::PutFor { value, .. } => TTL_LEN + value.len(),
            Self::Delete => 0,
            Self::DeleteRange { end } => end.len(),
            Self::Merge { operand, .. } => 1 + operand.len(),
        }
    }
}

/// Builds a commit payload.
#[derive(Clone, Debug)]
pub struct CommitBuilder {
    bytes: Vec<u8>,
    count: u32,
    traits: Traits,
}

impl Default for CommitBuilder {
    fn default() -> Self {
        let mut bytes = Vec::with_capacity(USUAL_LEN);
        bytes.put(&[VERSION, 0, 0, 0, 0, 0, 0, 0]);
        Self { bytes, count: 0, traits: Traits::default() }
    }
}

impl CommitBuilder {
    /// Adds an operation. The key has 1 to 65535 bytes; the caller checked it.
    pub fn push(&mut self, operation: Operation<'_>) {
        let Operation { keyspace, key, action } = operation;
        let bytes = &mut self.bytes;
        bytes.reserve(OPERATION_LEN_MIN + VALUE_LEN_LEN + key.len() + action.value_len());
        bytes.put_u8(match action {
            Action::Put(_) => PUT,
            Action::Delete => DELETE,
            Action::DeleteRange { .. } => DELETE_RANGE,
            Action::Merge { .. } => MERGE,
            Action::PutFor { .. } => PUT_FOR,
        });
        bytes.put_u32(keyspace.0);
        bytes.put_u16(len_u16(key.len()));
        if action != Action::Delete {
            bytes.put_u32(len_u32(action.value_len()));
        }
        bytes.put(key);
        match action {
            Action::Put(value) => bytes.put(value),
            Action::Delete => {}
            Action::DeleteRange { end } => bytes.put(end),
            Action::Merge { operator, operand } => {
                bytes.put_u8(operator.id());
                bytes.put(operand);
            }
            Action::PutFor { ttl_micros, value } => {
                bytes.put_u64(ttl_micros);
                bytes.put(value);
            }
        }
        self.count += 1;
        self.traits.note(action);
    }

    /// The key on which it mixes merge operators, if it does, which no payload may.
    pub(crate) fn mixed_operators(&self) -> Option<&[u8]> {
        if !self.traits.mixes_operators {
            return None;
        }
        let mut reader = Reader::new(&self.bytes[COMMIT_HEADER_LEN..]);
        let operations = (0..self.count).map(|_| next_operation(&mut reader).expect("what was built is understood"));
        mixed_operators(operations)
    }

    /// Ranges it deletes so far.
    pub(crate) fn range_deletes(&self) -> usize {
        self.traits.range_deletes
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
    traits: Traits,
}

/// What there is among the operations of a commit, so that most are spared a closer look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    /// Something it writes can expire.
    pub(crate) expires: bool,
    /// There are operands of several merge operators.
    pub(crate) mixes_operators: bool,
    /// How many ranges it deletes.
    pub(crate) range_deletes: usize,
    operator: Option<MergeOperator>,
}

impl Traits {
    pub(crate) fn note(&mut self, action: Action<'_>) {
        match action {
            Action::PutFor { .. } => self.expires = true,
            Action::Merge { operator, .. } => {
                self.mixes_operators |= *self.operator.get_or_insert(operator) != operator;
            }
            Action::DeleteRange { .. } => self.range_deletes += 1,
            Action::Put(_) | Action::Delete => {}
        }
    }
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
        let mut traits = Traits::default();
        for _ in 0..count {
            traits.note(next_operation(&mut reader)?.action);
        }
        if !reader.is_empty() {
            return Err(Misunderstood("bytes follow its last operation"));
        }
        let payload = Self { operations, count, traits };
        if traits.mixes_operators && mixed_operators(payload.operations()).is_some() {
            return Err(Misunderstood("it mixes merge operators on one key"));
        }
        if traits.range_deletes > RANGE_DELETES_MAX {
            return Err(Misunderstood("it deletes too many ranges"));
        }
        Ok(payload)
    }

    /// The first operation of a payload that was not checked, if it has one.
    pub(crate) fn first_unchecked(payload: &'a [u8]) -> Option<Operation<'a>> {
        next_operation(&mut Reader::new(payload.get(COMMIT_HEADER_LEN..)?)).ok()
    }

    /// How many operations it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether something it writes can expire.
    pub(crate) fn expires(&self) -> bool {
        self.traits.expires
    }

    /// Whether it deletes ranges.
    pub(crate) fn deletes_ranges(&self) -> bool {
        self.traits.range_deletes > 0
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
    if !matches!(kind, PUT | DELETE | DELETE_RANGE | MERGE | PUT_FOR) {
        return Err(Misunderstood("an operation is of an unknown kind"));
    }
    let value_len = if kind == DELETE { 0 } else { reader.u32()? as usize };
    let key = reader.bytes(key_len)?;
    let value = reader.bytes(value_len)?;
    let mut fields = Reader::new(value);
    let action = match kind {
        PUT => Action::Put(value),
        DELETE => Action::Delete,
        DELETE_RANGE if value.is_empty() || key < value && value.len() <= KEY_END_LEN_MAX => {
            Action::DeleteRange { end: value }
        }
        DELETE_RANGE => return Err(Misunderstood("a range is none")),
        MERGE => {
            let operator = MergeOperator::from_id(fields.u8()?);
            let operator = operator.ok_or(Misunderstood("its merge operator is unknown"))?;
            let operand = fields.rest();
            if !operator.takes(operand) {
                return Err(Misunderstood("an operand is none of its operator"));
            }
            Action::Merge { operator, operand }
        }
        _ => Action::PutFor { ttl_micros: fields.u64()?, value: fields.rest() },
    };
    Ok(Operation { keyspace, key, action })
}

/// Finds a key on which operations with several merge operators would have to be one version: then it is the key.
pub(crate) fn mixed_operators<'a>(operations: impl Iterator<Item = Operation<'a>>) -> Option<&'a [u8]> {
    let mut operators = BTreeMap::new();
    for Operation { keyspace, key, action } in operations {
        match action {
            // An operand is applied at once to what was put or removed before in the same commit.
            Action::Put(_) | Action::PutFor { .. } | Action::Delete => drop(operators.insert((keyspace, key), None)),
            // For the sake of one rule for all.
            Action::DeleteRange { .. } => {}
            Action::Merge { operator, .. } => {
                let earlier = operators.entry((keyspace, key)).or_insert(Some(operator));
                if earlier.is_some_and(|earlier| earlier != operator) {
                    return Some(key);
                }
            }
        }
    }
    None
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
        builder.push(Operation { keyspace: KeyspaceId(1), key: b"a", action: Action::Put(b"1") });
        builder.push(Operation { keyspace: KeyspaceId(2), key: b"bb", action: Action::Delete });
        builder.push(Operation { keyspace: KeyspaceId(1), key: b"a", action: Action::Put(b"") });
        builder.finish()
    }

    #[test]
    fn a_batch_reads_back_in_order() {
        let bytes = batch();
        let payload = CommitPayload::parse(&bytes).unwrap();
        let expected = [
            Operation { keyspace: KeyspaceId(1), key: b"a", action: Action::Put(b"1") },
            Operation { keyspace: KeyspaceId(2), key: b"bb", action: Action::Delete },
            Operation { keyspace: KeyspaceId(1), key: b"a", action: Action::Put(b"") },
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
        bytes[8] = 6;
        assert!(CommitPayload::parse(&bytes).is_err(), "a reserved kind is not skipped");
    }

    #[test]
    fn operators_and_operands_that_are_none_are_refused() {
        let merge = |key: &'static [u8], operator, operand: &'static [u8]| Operation {
            keyspace: KeyspaceId(1),
            key,
            action: Action::Merge { operator, operand },
        };
        let payload = |operations: &[Operation<'_>]| {
            let mut builder = CommitBuilder::default();
            operations.iter().for_each(|operation| builder.push(*operation));
            (builder.mixed_operators().map(<[u8]>::to_vec), builder.finish())
        };
        let (_, mut bytes) = payload(&[merge(b"k", MergeOperator::Max, b"x")]);
        assert!(CommitPayload::parse(&bytes).is_ok());
        bytes[COMMIT_HEADER_LEN + OPERATION_LEN_MIN + 4 + 1] = 9;
        assert_eq!(CommitPayload::parse(&bytes).unwrap_err().0, "its merge operator is unknown");
        let (_, bytes) = payload(&[merge(b"k", MergeOperator::Add, b"x")]);
        assert_eq!(CommitPayload::parse(&bytes).unwrap_err().0, "an operand is none of its operator");
        let put = Operation { keyspace: KeyspaceId(1), key: b"k", action: Action::Put(b"v") };
        let (max, append) = (merge(b"k", MergeOperator::Max, b"x"), merge(b"k", MergeOperator::Append, b"y"));
        let (mixed, bytes) = payload(&[max, append]);
        assert_eq!(mixed.as_deref(), Some(&b"k"[..]));
        assert_eq!(CommitPayload::parse(&bytes).unwrap_err().0, "it mixes merge operators on one key");
        for fine in [&[put, max, append][..], &[max, put, append], &[max, merge(b"l", MergeOperator::Append, b"")]] {
            let (mixed, bytes) = payload(fine);
            assert!(mixed.is_none() && CommitPayload::parse(&bytes).is_ok());
        }
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
