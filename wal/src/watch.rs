//! A position that only rises, and those who wait for it: threads and tasks alike. The flush LSN is one; so are the
//! positions confirmed by standbys and by the archive.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::race::{Mutant, planted};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::{self, Thread};
use crate::sync::{Mutex, now, thread_local};

/// A rising position with waiters.
#[derive(Debug, Default)]
pub struct LsnWatch {
    value: AtomicU64,
    /// Whether `inner.stopped` is set.
    is_stopped: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiters: Vec<Waiter>,
    /// Room for those who are woken, kept from one time to the next.
    spare: Vec<Waiter>,
    /// Numbers given to waiters so far.
    numbers: u64,
    /// Set once; from then on nothing rises and every wait fails with it.
    stopped: Option<Error>,
}

#[derive(Clone, Debug)]
struct Waiter {
    number: u64,
    lsn: Lsn,
    waker: Waker,
}

impl LsnWatch {
    /// Standing at `value`.
    pub fn new(value: Lsn) -> Self {
        Self { value: AtomicU64::new(value.offset()), ..Self::default() }
    }

    /// Where it stands.
    pub fn value(&self) -> Lsn {
        Lsn::new(self.value.load(Ordering::Acquire))
    }

    /// Raises it and wakes those who waited for no more than that. Lower values change nothing.
    pub fn advance(&self, to: Lsn) {
        if self.value.fetch_max(to.offset(), Ordering::AcqRel) >= to.offset() {
            return;
        }
        let mut woken = {
            let mut inner = self.inner.lock();
            if inner.waiters.is_empty() {
                return;
            }
            let mut woken = std::mem::take(&mut inner.spare);
            if inner.waiters.iter().all(|waiter| waiter.lsn <= to) {
                std::mem::swap(&mut inner.waiters, &mut woken);
            } else {
                woken.extend(inner.waiters.extract_if(.., |waiter| waiter.lsn <= to));
            }
            woken
        };
        woken.drain(..).for_each(|waiter| waiter.waker.wake());
        self.inner.lock().spare = woken;
    }

    /// Ends it: every wait for a position not reached fails with `error`, now and later. The first error stays.
    pub fn stop(&self, error: Error) {
        let waiters = {
            let mut inner = self.inner.lock();
            inner.stopped.get_or_insert(error);
            self.is_stopped.store(true, Ordering::Release);
            std::mem::take(&mut inner.waiters)
        };
        waiters.into_iter().for_each(|waiter| waiter.waker.wake());
    }

    /// The error it was stopped with.
    pub fn stopped(&self) -> Option<Error> {
        // Who commits asks each time, and it never is.
        if self.is_stopped() { self.inner.lock().stopped.clone() } else { None }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Blocks until it stands at `lsn` or beyond, at most until `deadline`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], or what it was stopped with.
    pub fn wait_for(&self, lsn: Lsn, deadline: Option<Instant>) -> Result<Lsn> {
        let mut registration = Registration::default();
        loop {
            match THIS_THREAD.with(|waker| self.poll(lsn, waker, &mut registration)) {
                Poll::Ready(result) => return result,
                Poll::Pending => match deadline {
                    None => thread::park(),
                    Some(deadline) => {
                        let Some(left) = deadline.checked_duration_since(now()) else {
                            self.forget(&registration);
                            return Err(Error::TimedOut { lsn });
                        };
                        thread::park_timeout(left);
                    }
                },
            }
        }
    }

    /// Completes when it stands at `lsn` or beyond. Works with any runtime.
    pub fn reached(&self, lsn: Lsn) -> Reached<'_> {
        Reached { watch: self, lsn, registration: Registration::default() }
    }

    /// One look, leaving `waker` behind if it is too early.
    pub(crate) fn poll(&self, lsn: Lsn, waker: &Waker, registration: &mut Registration) -> Poll<Result<Lsn>> {
        if self.value() >= lsn {
            return Poll::Ready(Ok(self.value()));
        }
        let mut inner = self.inner.lock();
        // Again under the lock: `advance` raises the value before it takes the lock, so nothing is missed.
        if self.value() >= lsn && !planted(Mutant::SeenWithoutTheLock) {
            return Poll::Ready(Ok(self.value()));
        }
        if let Some(error) = &inner.stopped {
            return Poll::Ready(Err(error.clone()));
        }
        let inner = &mut *inner;
        let known = registration.0.and_then(|number| inner.waiters.iter_mut().find(|waiter| waiter.number == number));
        match known {
            Some(waiter) => waiter.waker.clone_from(waker),
            None => {
                inner.numbers += 1;
                registration.0 = Some(inner.numbers);
                inner.waiters.push(Waiter { number: inner.numbers, lsn, waker: waker.clone() });
            }
        }
        Poll::Pending
    }

    /// Takes back what `poll` left behind, if it is still there.
    pub(crate) fn forget(&self, registration: &Registration) {
        if let Some(number) = registration.0 {
            let forgotten = |of: u64| of == number || planted(Mutant::AnotherIsForgotten) && of > number;
            self.inner.lock().waiters.retain(|waiter| !forgotten(waiter.number));
        }
    }
}

/// What a waiter left behind, so that it can be renewed and taken back. A thousand tasks that each poll once must not each
/// search the others.
#[derive(Debug, Default)]
pub(crate) struct Registration(Option<u64>);

struct Unpark(Thread);

thread_local! {
    /// Made once for each thread that ever waits, not for each wait.
    static THIS_THREAD: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The future of [`LsnWatch::reached`].
#[derive(Debug)]
pub struct Reached<'a> {
    watch: &'a LsnWatch,
    lsn: Lsn,
    registration: Registration,
}

impl Future for Reached<'_> {
    type Output = Result<Lsn>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { watch, lsn, registration } = &mut *self;
        watch.poll(*lsn, context.waker(), registration)
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        self.watch.forget(&self.registration);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_those_it_has_reached_are_woken() {
        let watch = Arc::new(LsnWatch::new(Lsn::ZERO));
        let waits = [10, 20, 30].map(|lsn| {
            let watch = watch.clone();
            std::thread::spawn(move || watch.wait_for(Lsn::new(lsn), None))
        });
        watch.advance(Lsn::new(20));
        let [first, second, third] = waits;
        assert!(first.join().unwrap().unwrap() >= Lsn::new(10));
        assert_eq!(second.join().unwrap().unwrap(), Lsn::new(20));
        assert!(!third.is_finished());
        watch.stop(Error::Closed);
        assert!(matches!(third.join().unwrap(), Err(Error::Closed)));
        assert!(watch.wait_for(Lsn::new(20), None).is_ok(), "what was reached stays reached");
    }

    #[test]
    fn a_deadline_ends_a_wait_and_leaves_no_waiter() {
        let watch = LsnWatch::new(Lsn::ZERO);
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(matches!(watch.wait_for(Lsn::new(1), Some(soon)), Err(Error::TimedOut { .. })));
        assert!(watch.inner.lock().waiters.is_empty());
    }
}
