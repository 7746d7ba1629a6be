//! A ticket is what an append leaves behind: the record's position, and a way to wait until it is durable, from a thread
//! or from a task. Many tickets may be open at once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::clock::Timestamp;
use crate::crowd::GroupNumber;
use crate::error::Result;
use crate::format::Position;
use crate::log::Shared;
use crate::lsn::Lsn;
use crate::watch::Registration;

/// A record on its way to the disk. Dropping the ticket does not take the record back.
#[must_use = "the record is durable only once the ticket has been waited for"]
pub struct Ticket {
    shared: Arc<Shared>,
    position: Position,
    time: Timestamp,
    group: GroupNumber,
    registration: Registration,
}

impl Ticket {
    pub(crate) fn new(shared: Arc<Shared>, position: Position, time: Timestamp, group: GroupNumber) -> Self {
        Self { shared, position, time, group, registration: Registration::default() }
    }

    /// The record's LSN.
    pub fn lsn(&self) -> Lsn {
        self.position.lsn
    }

    /// The record's end and the chain there.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The record's commit time.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Whether it is durable.
    pub fn is_flushed(&self) -> bool {
        self.shared.flushed.value() >= self.position.lsn
    }

    /// Blocks until the record is durable.
    pub fn wait(&self) -> Result<Lsn> {
        self.shared.flush_until(self.position.lsn, Some(self.group), None).map(|_| self.position.lsn)
    }

    /// Blocks until the record is durable or the deadline has passed. [`crate::Error::TimedOut`] means *unknown*: the record
    /// may become durable later.
    pub fn wait_until(&self, deadline: Instant) -> Result<Lsn> {
        self.shared.flush_until(self.position.lsn, Some(self.group), Some(deadline)).map(|_| self.position.lsn)
    }
}

/// Completes when the record is durable, on any runtime.
impl Future for Ticket {
    type Output = Result<Lsn>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, position, registration, .. } = &mut *self;
        let polled = shared.flushed.poll(position.lsn, context.waker(), registration);
        if polled.is_pending() {
            shared.request_flush();
        }
        polled.map_ok(|_| position.lsn)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_flushed() {
            self.shared.flushed.forget(&self.registration);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("lsn", &self.position.lsn).field("flushed", &self.is_flushed()).finish()
    }
}
