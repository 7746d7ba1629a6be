//! Moments at which the machine itself stood still: a virtual one whose host gave it no processor for a while. No store
//! can do anything in them, so they are told apart from what a store makes its callers wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::nice;
use rustix::thread::{CpuSet, sched_setaffinity};

/// How often each processor is looked at.
const TURN: Duration = Duration::from_millis(1);
/// Who wakes so much later than asked, at the highest rank, on every processor at once, was stopped from outside.
const LATE: Duration = Duration::from_millis(5);
/// The rank of who looks. Without the right to it, what other threads do looks like standing still now and then.
const RANK: i32 = -20;

/// From when to when.
type Span = (Instant, Instant);

/// Looks on, one thread for each processor, until asked to stop.
pub(crate) struct Watch {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Span>>>,
}

impl Watch {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let done = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for processor in 0..std::thread::available_parallelism()?.get() {
            let done = Arc::clone(&done);
            threads.push(Builder::new().name(String::from("standstill")).spawn(move || look(processor, &done))?);
        }
        Ok(Self { done, threads })
    }

    pub(crate) fn stop(self) -> Standstills {
        self.done.store(true, Ordering::Release);
        let of_each = self.threads.into_iter().map(|thread| thread.join().unwrap_or_default());
        let spans = of_each.reduce(|all, one| common(&all, &one)).unwrap_or_default();
        Standstills { spans: spans.into_iter().filter(|span| length(*span) >= LATE).collect() }
    }
}

/// Where it woke late, on one processor.
fn look(processor: usize, done: &AtomicBool) -> Vec<Span> {
    let mut set = CpuSet::new();
    set.set(processor);
    // What is refused makes more of the little that others do to it, and is left so.
    let _ = sched_setaffinity(None, &set);
    let _ = nice(RANK);
    let mut late = Vec::new();
    while !done.load(Ordering::Acquire) {
        let due = Instant::now() + TURN;
        std::thread::sleep(TURN);
        let now = Instant::now();
        if now - due >= LATE {
            late.push((due, now));
        }
    }
    late
}

/// What lies in a span of both, each being in order and without overlaps.
fn common(one: &[Span], other: &[Span]) -> Vec<Span> {
    let (mut all, mut left, mut right) = (Vec::new(), one.iter().peekable(), other.iter().peekable());
    while let (Some(&&a), Some(&&b)) = (left.peek(), right.peek()) {
        let span = (a.0.max(b.0), a.1.min(b.1));
        if span.0 < span.1 {
            all.push(span);
        }
        if a.1 < b.1 {
            left.next()
        } else {
            right.next()
        };
    }
    all
}

fn length((from, to): Span) -> Duration {
    to.saturating_duration_since(from)
}

/// When the machine stood still, in order.
#[derive(Debug, Default)]
pub(crate) struct Standstills {
    spans: Vec<Span>,
}

impl Standstills {
    pub(crate) fn count(&self) -> usize {
        self.spans.len()
    }

    pub(crate) fn total(&self) -> Duration {
        self.spans.iter().copied().map(length).sum()
    }

    pub(crate) fn longest(&self) -> Duration {
        self.spans.iter().copied().map(length).max().unwrap_or_default()
    }

    /// How long it stood still between two moments.
    pub(crate) fn within(&self, from: Instant, to: Instant) -> Duration {
        let first = self.spans.partition_point(|span| span.1 <= from);
        let during = self.spans[first..].iter().take_while(|span| span.0 < to);
        during.map(|span| length((span.0.max(from), span.1.min(to)))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_on_all_processors_at_once_is_the_machine() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let span = |from, to| (at(from), at(to));
        let one = [span(0, 10), span(20, 50), span(60, 61)];
        let other = [span(5, 30), span(40, 45), span(70, 80)];
        assert_eq!(common(&one, &other), [span(5, 10), span(20, 30), span(40, 45)]);
        let standstills = Standstills { spans: common(&one, &other) };
        assert_eq!((standstills.count(), standstills.longest().as_millis()), (3, 10));
        let within = |from, to| standstills.within(at(from), at(to)).as_millis();
        assert_eq!((within(0, 100), within(7, 25), within(30, 40), within(42, 43)), (20, 8, 0, 1));
    }

    #[test]
    fn a_watch_ends_when_it_is_told_to() {
        let watch = Watch::start().unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let began = Instant::now();
        let standstills = watch.stop();
        assert!(standstills.total() >= standstills.longest());
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
