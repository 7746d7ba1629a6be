//! A wrapper that makes any repository misbehave on demand, for tests: delays, refusals, lost answers, damaged bodies
//! and calls that never return. It also counts what passes, so that tests can assert how little is asked.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Condition, Fetched, ListPage, ObjectInfo, Operation, PutOutcome, Repository, RepositoryError, RepositoryErrorKind,
    Request,
};

/// What goes wrong with one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Waits, then does what was asked.
    Delay(Duration),
    /// Never returns.
    Hang,
    /// Asks to slow down, doing nothing.
    SlowDown,
    /// Fails, doing nothing.
    Internal,
    /// Refuses credentials, doing nothing.
    Denied,
    /// A put that is told to have met another one, doing nothing.
    Conflict,
    /// Does what was asked, and loses the answer.
    DoneThenInternal,
    /// Does what was asked of a put, and answers that its condition failed: the retry of a lost answer.
    DoneThenConditionFailed,
    /// A read that returns only so many bytes.
    Truncate(usize),
    /// A read with one bit flipped.
    FlipBit(usize),
}

/// See the module's text.
pub struct FaultyRepository {
    inner: Arc<dyn Repository>,
    script: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    next: VecDeque<(Operation, String, Fault)>,
    always: HashMap<Operation, Fault>,
    at: HashMap<(Operation, u64), Fault>,
    calls: HashMap<Operation, u64>,
}

impl FaultyRepository {
    /// Wraps a repository; faultless until told otherwise.
    pub fn new(inner: Arc<dyn Repository>) -> Self {
        FaultyRepository { inner, script: Mutex::default() }
    }

    /// The next call of this operation that has no earlier fault waiting meets this one.
    pub fn fail_next(&self, operation: Operation, fault: Fault) {
        self.fail_next_under(operation, "", fault);
    }

    /// The same for calls whose key starts with `prefix`.
    pub fn fail_next_under(&self, operation: Operation, prefix: &str, fault: Fault) {
        self.script.lock().next.push_back((operation, prefix.to_owned(), fault));
    }

    /// The call of this operation after `count` others from now on meets this fault.
    pub fn fail_after(&self, operation: Operation, count: u64, fault: Fault) {
        let mut script = self.script.lock();
        let at = script.calls.get(&operation).copied().unwrap_or(0) + count + 1;
        script.at.insert((operation, at), fault);
    }

    /// Every call of this operation meets this fault until [`heal`](Self::heal).
    pub fn fail_always(&self, operation: Operation, fault: Fault) {
        self.script.lock().always.insert(operation, fault);
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        let mut script = self.script.lock();
        script.next.clear();
        script.always.clear();
        script.at.clear();
    }

    /// Calls of this operation so far, failed ones included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    fn fault(&self, key: &str, operation: Operation) -> Option<Fault> {
        let mut script = self.script.lock();
        let calls = script.calls.entry(operation).or_default();
        *calls += 1;
        let number = *calls;
        if let Some(fault) = script.at.remove(&(operation, number)) {
            return Some(fault);
        }
        match script.next.iter().position(|(of, prefix, _)| *of == operation && key.starts_with(prefix)) {
            Some(at) => script.next.remove(at).map(|(.., fault)| fault),
            None => script.always.get(&operation).cloned(),
        }
    }

    /// What happens before the call; what is left concerns its answer.
    async fn before(&self, key: &str, operation: Operation) -> Result<Option<Fault>, RepositoryError> {
        let request = Request { repository: self.location(), key, operation };
        let detail = "injected".to_owned();
        match self.fault(key, operation) {
            Some(Fault::Delay(duration)) => {
                tokio::time::sleep(duration).await;
                Ok(None)
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::SlowDown) => Err(request.failed(RepositoryErrorKind::Throttled)),
            Some(Fault::Internal) => Err(request.failed(RepositoryErrorKind::Internal { detail })),
            Some(Fault::Denied) => Err(request.failed(RepositoryErrorKind::Denied { detail })),
            other => Ok(other),
        }
    }

    fn after<T>(&self, key: &str, operation: Operation, fault: Option<Fault>, value: T) -> Result<T, RepositoryError> {
        if fault == Some(Fault::DoneThenInternal) {
            let request = Request { repository: self.location(), key, operation };
            return Err(request.failed(RepositoryErrorKind::Internal { detail: "the answer was lost".to_owned() }));
        }
        Ok(value)
    }
}

#[async_trait]
impl Repository for FaultyRepository {
    fn location(&self) -> &str {
        self.inner.location()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>, size_max: u64) -> Result<Fetched, RepositoryError> {
        let fault = self.before(key, Operation::Get).await?;
        let mut fetched = self.inner.get(key, range, size_max).await?;
        match fault {
            Some(Fault::Truncate(len)) => fetched.bytes.truncate(len),
            Some(Fault::FlipBit(bit)) => {
                let mut bytes = fetched.bytes.to_vec();
                let at = bit / 8 % bytes.len();
                bytes[at] ^= 1 << (bit % 8);
                fetched.bytes = bytes.into();
            }
            _ => {}
        }
        self.after(key, Operation::Get, fault, fetched)
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, RepositoryError> {
        let fault = self.before(key, Operation::Head).await?;
        let info = self.inner.head(key).await?;
        self.after(key, Operation::Head, fault, info)
    }

    async fn put(&self, key: &str, body: Bytes, condition: Condition) -> Result<PutOutcome, RepositoryError> {
        let fault = self.before(key, Operation::Put).await?;
        if fault == Some(Fault::Conflict) {
            return Ok(PutOutcome::Conflict);
        }
        let outcome = self.inner.put(key, body, condition).await?;
        if fault == Some(Fault::DoneThenConditionFailed) {
            return Ok(PutOutcome::ConditionFailed);
        }
        self.after(key, Operation::Put, fault, outcome)
    }

    async fn delete(&self, key: &str) -> Result<(), RepositoryError> {
        let fault = self.before(key, Operation::Delete).await?;
        self.inner.delete(key).await?;
        self.after(key, Operation::Delete, fault, ())
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, page: usize) -> Result<ListPage, RepositoryError> {
        let fault = self.before(prefix, Operation::List).await?;
        let listed = self.inner.list(prefix, start_after, page).await?;
        self.after(prefix, Operation::List, fault, listed)
    }
}
