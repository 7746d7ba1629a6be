//! A word that threads sleep on while it stays the same, and one call that wakes all of them.

use std::time::Duration;

use super::atomic::{AtomicU32, Ordering};
#[cfg(not(all(target_os = "linux", not(shuttle))))]
use super::{Condvar, Mutex};
#[cfg(not(all(target_os = "linux", not(shuttle))))]
use crate::race::{Mutant, planted};

/// Linux has such words; elsewhere a lock and its sleepers behave like one.
#[derive(Debug, Default)]
pub struct Futex {
    word: AtomicU32,
    /// Held to look at the word and fall asleep as one step, as a kernel does.
    #[cfg(not(all(target_os = "linux", not(shuttle))))]
    falling_asleep: Mutex<()>,
    #[cfg(not(all(target_os = "linux", not(shuttle))))]
    called: Condvar,
}

impl Futex {
    /// What it is now.
    pub fn load(&self, order: Ordering) -> u32 {
        self.word.load(order)
    }

    /// Adds to it; from then on nobody falls asleep who saw what it was.
    pub fn add(&self, count: u32, order: Ordering) {
        self.word.fetch_add(count, order);
    }
}

#[cfg(all(target_os = "linux", not(shuttle)))]
impl Futex {
    /// Sleeps if it is `expected`, at most so long. May return for no reason.
    pub fn wait(&self, expected: u32, at_most: Option<Duration>) {
        use rustix::thread::futex::{Flags, Timespec, wait};
        let at_most = at_most.map(|left| {
            let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
            Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() }
        });
        // An error is a call that came first, a signal, or the end of the time: the caller looks again.
        let _ = wait(&self.word, Flags::PRIVATE, expected, at_most.as_ref());
    }

    /// Wakes everybody who sleeps here.
    pub fn wake_all(&self) {
        use rustix::thread::futex::{Flags, wake};
        // It fails for words that are not there only.
        let _ = wake(&self.word, Flags::PRIVATE, i32::MAX as u32);
    }
}

#[cfg(not(all(target_os = "linux", not(shuttle))))]
impl Futex {
    /// As of the other one.
    pub fn wait(&self, expected: u32, at_most: Option<Duration>) {
        let mut falling_asleep = self.falling_asleep.lock();
        if self.word.load(Ordering::Relaxed) == expected {
            match at_most {
                None => self.called.wait(&mut falling_asleep),
                Some(left) => drop(self.called.wait_for(&mut falling_asleep, left)),
            }
        }
    }

    /// As of the other one.
    pub fn wake_all(&self) {
        let _falling_asleep = self.falling_asleep.lock();
        if planted(Mutant::OneIsWoken) {
            self.called.notify_one();
            return;
        }
        self.called.notify_all();
    }
}
