//! The throttle as the engine asks it: a commit waits here, first come first served, until it may enter or its deadline
//! passes. Nothing is held while it waits but its place.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Condvar;
use seawall_engine::{Admission, Backpressure, Permit};
use seawall_wal::format::RECORD_HEADER_SIZE;

use super::registry::Registry;
use crate::throttle::Verdict;

/// Admission by the registry's throttle.
#[derive(Debug)]
pub struct NodeAdmission {
    registry: Arc<Registry>,
}

impl NodeAdmission {
    /// For [`seawall_engine::Db::set_admission`].
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    fn permit(&self, reserved: u64, bytes: u64) -> Permit {
        Permit::holding(Reservation { registry: self.registry.clone(), reserved, bytes })
    }
}

impl Admission for NodeAdmission {
    fn admit(&self, bytes: u64, deadline: Option<Instant>) -> Result<Permit, Backpressure> {
        let registry = &self.registry;
        let payload_len = (bytes as usize).saturating_sub(RECORD_HEADER_SIZE);
        // The node's own bound holds for those who would wait longer, too: they are told why.
        let bound = registry.config.admission_timeout.map(|timeout| Instant::now() + timeout);
        let deadline = deadline.into_iter().chain(bound).min();
        let mut inner = registry.inner.lock();
        if inner.queue.is_empty() {
            let (throttle, view) = inner.look(&*registry.owner);
            match throttle.admit(payload_len, deadline, &view, Instant::now()) {
                Verdict::Admit { reserved } => return Ok(self.permit(reserved, bytes)),
                Verdict::Refuse(refused) => return Err(backpressure(&refused)),
                Verdict::Wait { .. } => {}
            }
        }
        let place = Arc::new(Condvar::new());
        inner.queue.push_back(place.clone());
        let answer = loop {
            if inner.closed {
                let (reason, subject) = ("the node is shutting down".to_owned(), "node".to_owned());
                break Err(Backpressure { reason, subject, retry_after: Duration::from_secs(1) });
            }
            let now = Instant::now();
            let first = inner.queue.front().is_some_and(|first| Arc::ptr_eq(first, &place));
            let late = deadline.is_some_and(|deadline| deadline <= now);
            // Whoever is not first asks only to be told why he is refused.
            let until = if first || late {
                let (throttle, view) = inner.look(&*registry.owner);
                match throttle.admit(payload_len, deadline, &view, now) {
                    Verdict::Admit { reserved } => break Ok(self.permit(reserved, bytes)),
                    Verdict::Refuse(refused) => break Err(backpressure(&refused)),
                    Verdict::Wait { until } => Some(until),
                }
            } else {
                deadline
            };
            match until {
                Some(until) => drop(place.wait_until(&mut inner, until)),
                None => place.wait(&mut inner),
            }
        };
        inner.queue.retain(|waiting| !Arc::ptr_eq(waiting, &place));
        inner.wake_first();
        answer
    }
}

fn backpressure(refused: &crate::throttle::Backpressure) -> Backpressure {
    Backpressure {
        reason: refused.reason.to_string(),
        subject: refused.subject.to_string(),
        retry_after: refused.retry_after,
    }
}

/// What an admitted commit may add to the log, until it has.
struct Reservation {
    registry: Arc<Registry>,
    reserved: u64,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut inner = self.registry.inner.lock();
        inner.throttle.release(self.reserved, self.bytes, Instant::now());
        inner.wake_first();
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation of {} bytes", self.reserved)
    }
}
