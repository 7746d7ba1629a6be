//! The database of a node, or why it has none. It is not there before it is opened, while a rebuilt one takes its place, and
//! after that failed; who asks meanwhile is told so at once.

use seawall_engine::Db;

use super::error::{Error, Result};

/// What a node answers who asks for its database.
#[derive(Clone, Debug)]
pub(super) enum Database {
    Open(Db),
    /// There will be one: what is done until then, or waited for.
    Awaited(String),
    /// There will be none before the node is started again: why.
    Gone(String),
}

impl Database {
    pub(super) fn open(&self) -> Result<Db> {
        match self {
            Self::Open(db) => Ok(db.clone()),
            Self::Awaited(why) | Self::Gone(why) => Err(Error::NoDatabase { why: why.clone() }),
        }
    }
}
