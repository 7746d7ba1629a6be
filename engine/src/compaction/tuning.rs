//! What a keyspace is for, and what that means for the shape of its levels. A node's own business: it may differ between
//! nodes, and from one opening to the next.

use std::collections::BTreeMap;

use super::pick::Shape;
use crate::format::KeyspaceId;
use crate::state::State;

/// What a keyspace is mostly used for. It decides how its tables are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tuning {
    /// Nothing in particular.
    #[default]
    Balanced,
    /// It is written much and read little: twice as many tables gather before they are merged, so that each byte is
    /// written less often. A read looks into more tables.
    WriteHeavy,
    /// It is read much and written little: half as many tables are enough for a merge. A read looks into fewer tables, and each byte
    /// is written more often.
    ReadHeavy,
    /// Its values are large, so merging costs most of what the device can do: as for [`WriteHeavy`](Self::WriteHeavy), and
    /// tables, blob files and level 1 are four times as large; and values go to blob files from a quarter of
    /// [`Builder::blob_bytes`](crate::Builder::blob_bytes) on.
    LargeValues,
}

impl Tuning {
    fn shape(self, usual: &Shape) -> Shape {
        let Shape { level0_tables, level1_bytes, table_bytes, blob_least } = *usual;
        match self {
            Self::Balanced => *usual,
            Self::WriteHeavy => Shape { level0_tables: 2 * level0_tables, ..*usual },
            Self::ReadHeavy => Shape { level0_tables: level0_tables.div_ceil(2), ..*usual },
            Self::LargeValues => Shape {
                level0_tables: 2 * level0_tables,
                level1_bytes: level1_bytes.saturating_mul(4),
                table_bytes: table_bytes.saturating_mul(4),
                blob_least: blob_least.map(|least| (least / 4).max(1)),
            },
        }
    }
}

/// The shape of each keyspace's levels.
#[derive(Clone, Debug)]
pub(crate) struct Shapes {
    pub(crate) usual: Shape,
    /// By name, because a keyspace has no number before it exists.
    pub(crate) tuned: BTreeMap<String, Tuning>,
}

impl Shapes {
    pub(crate) fn of(&self, state: &State, keyspace: KeyspaceId) -> Shape {
        if self.tuned.is_empty() {
            return self.usual;
        }
        let tuning = state.with_catalogue(|catalogue| {
            catalogue.get(keyspace).and_then(|keyspace| self.tuned.get(&keyspace.name)).copied()
        });
        tuning.unwrap_or_default().shape(&self.usual)
    }
}
