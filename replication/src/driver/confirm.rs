//! Commit levels beyond the node's own disk, as the engine asks for them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use seawall_engine::{CommitLevel, Confirmations, Error as EngineError};
use seawall_wal::{Error as WalError, Lsn, LsnWatch};

use super::registry::Registry;
use crate::quorum::Stage;

/// Confirmations by the registry's standbys and the archive.
#[derive(Debug)]
pub struct NodeConfirmations {
    registry: Arc<Registry>,
}

impl NodeConfirmations {
    /// For [`seawall_engine::Db::set_confirmations`].
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// Gives the watch that tells about a level to `look`.
    fn with<R>(&self, level: CommitLevel, look: impl FnOnce(&LsnWatch) -> R) -> Result<R, EngineError> {
        let unavailable = |why: String| EngineError::LevelUnavailable { level, why };
        let (stage, count) = match level {
            CommitLevel::Buffered | CommitLevel::Local => return Ok(look(self.registry.owner.log().flushed())),
            CommitLevel::Archived if self.registry.has_archive() => return Ok(look(&self.registry.archived)),
            CommitLevel::Archived => return Err(unavailable("this node has no archive".to_owned())),
            CommitLevel::RemoteWrite(count) => (Stage::Write, count),
            CommitLevel::RemoteFlush(count) => (Stage::Flush, count),
            CommitLevel::RemoteReplay(count) => (Stage::Replay, count),
        };
        if count == 0 {
            return Err(unavailable("at least one standby must be asked for".to_owned()));
        }
        let watch = self.registry.watch(stage, count.into()).map_err(|error| unavailable(error.to_string()))?;
        Ok(look(&watch))
    }
}

impl Confirmations for NodeConfirmations {
    fn wait(&self, lsn: Lsn, level: CommitLevel, deadline: Option<Instant>) -> Result<(), EngineError> {
        let waited = self.with(level, |watch| watch.wait_for(lsn, deadline))?;
        waited.map(drop).map_err(|error| indeterminate(lsn, &error))
    }

    fn confirmed(&self, level: CommitLevel) -> Result<Lsn, EngineError> {
        self.with(level, LsnWatch::value)
    }

    fn poll(&self, lsn: Lsn, level: CommitLevel, waker: &Waker) -> Result<bool, EngineError> {
        let polled = self.with(level, |watch| pin!(watch.reached(lsn)).poll(&mut Context::from_waker(waker)))?;
        match polled {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(indeterminate(lsn, &error)),
        }
    }
}

fn indeterminate(lsn: Lsn, error: &WalError) -> EngineError {
    let why = match error {
        WalError::TimedOut { .. } => "the deadline passed first",
        WalError::Closed => "the node is shutting down",
        _ => "what would confirm it has stopped",
    };
    EngineError::Indeterminate { lsn, why: why.into() }
}
