//! Merge operators: how an operand changes a value that whoever merges does not read. Each is a pure function of bytes, the
//! same on every node, and is named in log and tables by its number. When operands are applied is `resolve`'s business.

use std::fmt;

use crate::format::MERGED_LEN_MAX;

/// How [`Batch::merge`](crate::Batch::merge) changes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MergeOperator {
    /// Adds integers: value and operand are a little-endian `i64` in 8 bytes, and the sum wraps around. A key that is not
    /// there, or whose value does not have 8 bytes, counts as 0.
    Add = 1,
    /// Keeps the greater of value and operand, compared byte by byte. The operand if the key is not there.
    Max = 2,
    /// Puts the operand behind the value. A value of more than
    /// [`MERGED_LEN_MAX`](crate::format::MERGED_LEN_MAX) bytes cannot be read: [`crate::Error::TooLarge`], until the key is
    /// put or removed.
    Append = 3,
}

impl MergeOperator {
    /// Its number in log and tables.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The one of this number, if there is one.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Add),
            2 => Some(Self::Max),
            3 => Some(Self::Append),
            _ => None,
        }
    }

    /// Whether it can do something with these bytes.
    pub(crate) fn takes(self, operand: &[u8]) -> bool {
        self != Self::Add || operand.len() == size_of::<i64>()
    }

    /// What it makes of a value, or of none.
    pub(crate) fn apply(self, value: Option<Vec<u8>>, operand: &[u8]) -> Result<Vec<u8>, TooLong> {
        let Some(mut value) = value else {
            return Ok(match self {
                Self::Add => integer(operand).to_le_bytes().to_vec(),
                Self::Max | Self::Append => operand.to_vec(),
            });
        };
        match self {
            Self::Add => return Ok(integer(&value).wrapping_add(integer(operand)).to_le_bytes().to_vec()),
            Self::Max if operand > value.as_slice() => {
                value.clear();
                value.extend_from_slice(operand);
            }
            Self::Max => {}
            Self::Append => {
                let size = value.len() + operand.len();
                if size > MERGED_LEN_MAX {
                    return Err(TooLong { size });
                }
                value.extend_from_slice(operand);
            }
        }
        Ok(value)
    }

    /// One operand that does what `first` and then `second` do, whatever the value.
    pub(crate) fn combine(self, first: &[u8], second: &[u8]) -> Result<Vec<u8>, TooLong> {
        // Each of them is associative, and its operands are values of its own kind.
        self.apply(Some(first.to_vec()), second)
    }
}

impl fmt::Display for MergeOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Max => "max",
            Self::Append => "append",
        })
    }
}

/// The value would be longer than one may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    pub(crate) size: usize,
}

fn integer(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [MergeOperator; 3] = [MergeOperator::Add, MergeOperator::Max, MergeOperator::Append];

    #[test]
    fn add_wraps_and_takes_what_is_no_integer_for_zero() {
        let add = |value: Option<&[u8]>, operand: i64| {
            let sum = MergeOperator::Add.apply(value.map(<[u8]>::to_vec), &operand.to_le_bytes()).unwrap();
            i64::from_le_bytes(sum.try_into().unwrap())
        };
        assert_eq!(add(None, 5), 5);
        assert_eq!(add(Some(&7_i64.to_le_bytes()), -9), -2);
        assert_eq!(add(Some(b"seven"), 5), 5);
        assert_eq!(add(Some(&i64::MAX.to_le_bytes()), 1), i64::MIN);
    }

    #[test]
    fn two_operands_are_as_good_as_the_one_they_combine_to() {
        let (first, second) = (200_i64.to_le_bytes(), (-7_i64).to_le_bytes());
        for operator in ALL {
            for value in [None, Some(b"".to_vec()), Some(9_i64.to_le_bytes().to_vec()), Some(b"zebra".to_vec())] {
                let one_by_one = operator.apply(Some(operator.apply(value.clone(), &first).unwrap()), &second);
                let at_once = operator.apply(value, &operator.combine(&first, &second).unwrap());
                assert_eq!(one_by_one, at_once, "{operator}");
            }
        }
    }

    #[test]
    fn a_value_does_not_grow_beyond_what_can_be_kept() {
        let full = vec![0; MERGED_LEN_MAX - 1];
        assert_eq!(MergeOperator::Append.apply(Some(full.clone()), b"x").unwrap().len(), MERGED_LEN_MAX);
        assert_eq!(MergeOperator::Append.apply(Some(full), b"xy"), Err(TooLong { size: MERGED_LEN_MAX + 1 }));
    }

    #[test]
    fn numbers_are_those_of_the_format() {
        assert_eq!(ALL.map(MergeOperator::id), [1, 2, 3]);
        assert!((0..=u8::MAX).all(|id| MergeOperator::from_id(id).is_none_or(|operator| operator.id() == id)));
        assert_eq!((0..=u8::MAX).filter_map(MergeOperator::from_id).count(), ALL.len());
    }
}
