//! What a test wants to go wrong, at the place where a real store would do it: behind the wire.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::repository::Operation;

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFault {
    /// 503 SlowDown, doing nothing.
    SlowDown,
    /// 500, doing nothing.
    Internal,
    /// 409 ConditionalRequestConflict, doing nothing.
    Conflict,
    /// Writes the object and answers 500: the client cannot know.
    WriteThenInternal,
    /// Waits first.
    Delay(Duration),
    /// Never answers.
    Hang,
    /// Announces the whole object, sends so many bytes, and breaks off.
    TruncateBody(u64),
    /// Flips the lowest bit of the byte at this offset of a read object.
    FlipBit(u64),
}

/// Faults waiting for their request.
#[derive(Debug, Default)]
pub struct ServerFaults {
    next: Mutex<VecDeque<(Operation, ServerFault)>>,
    always: Mutex<Option<ServerFault>>,
}

impl ServerFaults {
    /// The next request of this operation without an earlier fault meets this one. Clients retry: one fault is one
    /// attempt, not one call.
    pub fn fail_next(&self, operation: Operation, fault: ServerFault) {
        self.next.lock().push_back((operation, fault));
    }

    /// Every object request meets this fault; `None` heals.
    pub fn fail_always(&self, fault: Option<ServerFault>) {
        *self.always.lock() = fault;
    }

    pub(super) fn take(&self, operation: Operation) -> Option<ServerFault> {
        let mut next = self.next.lock();
        match next.iter().position(|(of, _)| *of == operation) {
            Some(at) => next.remove(at).map(|(_, fault)| fault),
            None => self.always.lock().clone(),
        }
    }
}
