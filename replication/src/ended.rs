//! Why a conversation ended. The driver decides from it what to do next; people read it in the log.

use std::time::Duration;

use crate::error::ProtocolError;
use crate::message::{Bye, ByeReason, Refusal};

/// The end of a conversation, as one side sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The peer broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The peer said nothing for too long.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// The upstream refused, at the start or later.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The peer said good-bye.
    #[error("the peer left ({:?}): {}", .0.reason, .0.text)]
    Left(Bye),
    /// This side shut down, and everything flushed was confirmed.
    #[error("everything was sent and confirmed")]
    Drained,
    /// This side no longer wanted the connection.
    #[error("{0}")]
    NotWanted(&'static str),
    /// This side's log or disk failed.
    #[error("this node's own storage failed: {0}")]
    Storage(String),
}

impl Ended {
    /// What to tell the peer, if there is anything it does not know.
    pub(crate) fn bye(&self) -> Option<Bye> {
        let reason = match self {
            Self::Protocol(_) => ByeReason::Protocol,
            Self::Silent(_) => ByeReason::Timeout,
            Self::Drained => ByeReason::Drained,
            Self::NotWanted(_) => ByeReason::NotWanted,
            Self::Storage(_) => ByeReason::Storage,
            Self::Refused(_) | Self::Left(_) => return None,
        };
        Some(Bye { reason, text: self.to_string() })
    }
}
