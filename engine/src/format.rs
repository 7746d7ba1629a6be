#![doc = include_str!("../FORMAT.md")]
//!
//! # In this module
//!
//! The limits of the formats and the id of a keyspace. The formats are coded where their things live: payloads in
//! [`crate::payload`], the control file in [`crate::control`], the manifest in [`crate::manifest`], tables in `table`,
//! blob files in `blob`.

use std::fmt;

/// The longest key, in bytes.
pub const KEY_LEN_MAX: usize = u16::MAX as usize;
/// The longest key that only ends a range, in bytes: one follows the longest key too.
pub const KEY_END_LEN_MAX: usize = KEY_LEN_MAX + 1;
/// The longest value that operands of a merge can make, in bytes.
pub const MERGED_LEN_MAX: usize = 16 << 20;
/// The longest name of a keyspace, in bytes.
pub const KEYSPACE_NAME_LEN_MAX: usize = 255;

/// The number of a keyspace, the same on every node. Never used again after a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

impl fmt::Display for KeyspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
