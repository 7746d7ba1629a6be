//! What a transaction is going to do to a key: one operation, whatever it asked for one after the other.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::operator::MergeOperator;
use crate::payload::Action;
use crate::resolve::{Value, too_large};

/// What is to be done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// A value, and how long it stays if not for ever.
    Put {
        value: Bytes,
        ttl_micros: Option<u64>,
    },
    Remove,
    Merge {
        operator: MergeOperator,
        operand: Bytes,
    },
}

impl Write {
    /// What `action` comes to after what was to be done before.
    pub(super) fn new(key: &[u8], action: Action<'_>, earlier: Option<&Self>) -> Result<Self> {
        let (operator, operand) = match action {
            Action::Put(value) => return Ok(Self::Put { value: Bytes::copy_from_slice(value), ttl_micros: None }),
            Action::PutFor { ttl_micros, value } => {
                return Ok(Self::Put { value: Bytes::copy_from_slice(value), ttl_micros: Some(ttl_micros) });
            }
            Action::Delete => return Ok(Self::Remove),
            Action::DeleteRange { .. } => unreachable!("ranges are not kept by key"),
            Action::Merge { operator, operand } => (operator, operand),
        };
        match earlier {
            None => Ok(Self::Merge { operator, operand: Bytes::copy_from_slice(operand) }),
            Some(Self::Merge { operator: before, operand: first }) if *before == operator => {
                let operand = operator.combine(first, operand).map_err(too_large)?;
                Ok(Self::Merge { operator, operand: operand.into() })
            }
            Some(Self::Merge { .. }) => Err(Error::MixedOperators { key: Bytes::copy_from_slice(key) }),
            Some(Self::Remove) => {
                let value = operator.apply(None, operand).map_err(too_large)?;
                Ok(Self::Put { value: value.into(), ttl_micros: None })
            }
            Some(Self::Put { value, ttl_micros }) => {
                let value = operator.apply(Some(value.to_vec()), operand).map_err(too_large)?;
                Ok(Self::Put { value: value.into(), ttl_micros: *ttl_micros })
            }
        }
    }

    pub(super) fn action(&self) -> Action<'_> {
        match self {
            Self::Put { value, ttl_micros: None } => Action::Put(value),
            Self::Put { value, ttl_micros: Some(ttl_micros) } => Action::PutFor { ttl_micros: *ttl_micros, value },
            Self::Remove => Action::Delete,
            Self::Merge { operator, operand } => Action::Merge { operator: *operator, operand },
        }
    }

    /// Whether its outcome depends on what is stored.
    pub(super) fn builds_on_stored(&self) -> bool {
        matches!(self, Self::Merge { .. })
    }

    /// What the transaction sees of the key that has `stored`.
    pub(super) fn seen(&self, stored: Option<Value>) -> Result<Option<Value>> {
        match self {
            Self::Put { value, .. } => Ok(Some(Value { bytes: value.clone(), expiry: None })),
            Self::Remove => Ok(None),
            Self::Merge { operator, operand } => {
                let (bytes, expiry) = stored.map_or((None, None), |value| (Some(value.bytes.into()), value.expiry));
                let bytes = operator.apply(bytes, operand).map_err(too_large)?;
                Ok(Some(Value { bytes: bytes.into(), expiry }))
            }
        }
    }
}
