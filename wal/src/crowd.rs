//! Threads that wait for a flush. All whose records are in one group wait at one place, and one call of the system wakes
//! them all: with hundreds of committers on few cores, waking each by itself took longer than the flush.

use std::time::Instant;

use crate::race::{Mutant, planted};
use crate::sync::atomic::Ordering;
use crate::sync::{Futex, now};

/// Groups that are waited for at the same time, at most, without threads being woken for another's: one is flushed and
/// one gathers, and more only if segments or very large groups end.
const PLACES: usize = 8;

/// The number of a group; they follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupNumber(pub(crate) u64);

/// Where threads wait.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    places: [Place; PLACES],
}

impl Crowd {
    /// Blocks until `is_over`, which is asked before each sleep, or the deadline. Whoever makes it so says so by
    /// [`wake`](Self::wake) or [`wake_all`](Self::wake_all) afterwards. Says whether it is over.
    pub(crate) fn wait(&self, group: GroupNumber, deadline: Option<Instant>, is_over: impl Fn() -> bool) -> bool {
        let place = self.place(group);
        loop {
            // Looked at first, so that a call in between is not missed.
            let mut calls = place.calls();
            if is_over() {
                return true;
            }
            if planted(Mutant::CallsCountedLate) {
                calls = place.calls();
            }
            if deadline.is_some_and(|deadline| now() >= deadline) {
                return false;
            }
            place.sleep(calls, deadline);
        }
    }

    /// Wakes those who wait for a group.
    pub(crate) fn wake(&self, group: GroupNumber) {
        self.place(group).call();
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        self.places.iter().for_each(Place::call);
    }

    fn place(&self, group: GroupNumber) -> &Place {
        &self.places[(group.0 % PLACES as u64) as usize]
    }
}

/// In a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place(Futex);

impl Place {
    fn calls(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps unless there was a call since `calls` were counted. May return for no reason.
    fn sleep(&self, calls: u32, deadline: Option<Instant>) {
        self.0.wait(calls, deadline.map(|deadline| deadline.saturating_duration_since(now())));
    }

    fn call(&self) {
        self.0.add(1, Ordering::Release);
        self.0.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_call_wakes_everybody_in_a_group_and_nobody_in_the_next() {
        let crowd = Crowd::default();
        let over = [const { AtomicBool::new(false) }; 2];
        let looks = [const { AtomicUsize::new(0) }; 2];
        let wait = |group: usize| {
            crowd.wait(GroupNumber(group as u64), None, || {
                looks[group].fetch_add(1, Ordering::SeqCst);
                over[group].load(Ordering::SeqCst)
            })
        };
        thread::scope(|scope| {
            let first: Vec<_> = (0..20).map(|_| scope.spawn(|| wait(0))).collect();
            let second = scope.spawn(|| wait(1));
            while looks[0].load(Ordering::SeqCst) < 20 || looks[1].load(Ordering::SeqCst) < 1 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(5));
            over[0].store(true, Ordering::SeqCst);
            crowd.wake(GroupNumber(0));
            assert!(first.into_iter().all(|waited| waited.join().unwrap()));
            assert!(!second.is_finished());
            over[1].store(true, Ordering::SeqCst);
            crowd.wake_all();
            assert!(second.join().unwrap());
        });
        // A sleep may end for no reason, but not often.
        assert!(looks[1].load(Ordering::SeqCst) < 4, "{looks:?}");
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let crowd = Crowd::default();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(!crowd.wait(GroupNumber(3), Some(soon), || false));
        assert!(Instant::now() >= soon);
        assert!(crowd.wait(GroupNumber(3), Some(soon), || true));
    }
}
