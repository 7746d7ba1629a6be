//! What a commit leaves behind: its position and time, and the ticket to wait for its level with, from a thread or from
//! a task on any runtime.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use seawall_wal::{Lsn, Ticket, Timestamp};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::level::{CommitLevel, Confirmations};

/// A commit that reached its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its position, and the version of all it wrote.
    pub lsn: Lsn,
    /// Its time.
    pub time: Timestamp,
}

/// A commit on its way. It is in the log and takes effect whether or not it is waited for; dropping the ticket, or
/// cancelling the future, gives up the answer only.
#[must_use = "the commit has not reached its level before the ticket says so"]
pub struct CommitTicket {
    commit: Commit,
    level: CommitLevel,
    /// Until the log has flushed it and it is applied.
    local: Option<(Ticket, Arc<Core>)>,
    remote: Option<Arc<dyn Confirmations>>,
}

impl CommitTicket {
    pub(crate) fn new(
        core: Arc<Core>,
        ticket: Ticket,
        level: CommitLevel,
        remote: Option<Arc<dyn Confirmations>>,
    ) -> Self {
        let commit = Commit { lsn: ticket.lsn(), time: ticket.time() };
        let local = (level != CommitLevel::Buffered).then_some((ticket, core));
        Self { commit, level, local, remote }
    }

    /// Of a batch with nothing in it.
    pub(crate) fn empty(lsn: Lsn, time: Timestamp) -> Self {
        Self { commit: Commit { lsn, time }, level: CommitLevel::Buffered, local: None, remote: None }
    }

    /// Its position.
    pub fn lsn(&self) -> Lsn {
        self.commit.lsn
    }

    /// Its time.
    pub fn time(&self) -> Timestamp {
        self.commit.time
    }

    /// What it waits for.
    pub fn level(&self) -> CommitLevel {
        self.level
    }

    /// Blocks until the commit has reached its level.
    ///
    /// # Errors
    /// [`Error::Indeterminate`] if that will not be known: the commit may or may not survive.
    pub fn wait(self) -> Result<Commit> {
        self.wait_for(None)
    }

    /// Blocks until the commit has reached its level or the deadline has passed.
    pub fn wait_until(self, deadline: Instant) -> Result<Commit> {
        self.wait_for(Some(deadline))
    }

    fn wait_for(&self, deadline: Option<Instant>) -> Result<Commit> {
        if let Some((ticket, core)) = &self.local {
            let flushed = match deadline {
                Some(deadline) => ticket.wait_until(deadline),
                None => ticket.wait(),
            };
            flushed.map_err(|error| self.unknown(error))?;
            core.await_applied(self.commit.lsn)?;
        }
        if let Some(remote) = &self.remote {
            remote.wait(self.commit.lsn, self.level, deadline)?;
        }
        Ok(self.commit)
    }

    /// A flush that failed or was not waited for says nothing about the record: it may be on the disk.
    fn unknown(&self, error: seawall_wal::Error) -> Error {
        let lsn = self.commit.lsn;
        match error {
            seawall_wal::Error::TimedOut { .. } => Error::Indeterminate { lsn, why: "the deadline passed".into() },
            seawall_wal::Error::Poisoned { cause, .. } => {
                Error::Indeterminate { lsn, why: format!("writing the log failed ({cause})").into() }
            }
            seawall_wal::Error::Closed => Error::Indeterminate { lsn, why: "the database was closed".into() },
            other => Error::from(other),
        }
    }
}

impl Future for CommitTicket {
    type Output = Result<Commit>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some((ticket, core)) = &mut self.local {
            match Pin::new(ticket).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(lsn)) => core.await_applied(lsn)?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.unknown(error))),
            }
            self.local = None;
        }
        let confirmed = match &self.remote {
            Some(remote) => remote.poll(self.commit.lsn, self.level, context.waker())?,
            None => true,
        };
        if confirmed { Poll::Ready(Ok(self.commit)) } else { Poll::Pending }
    }
}

impl fmt::Debug for CommitTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitTicket").field("lsn", &self.commit.lsn).field("level", &self.level).finish()
    }
}
