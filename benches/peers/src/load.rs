//! The loops that put load on a store: threads that each wait for their own call (closed), and threads that call at set
//! times whether or not the store keeps up (open).

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// What one slice of time gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// Of each call, in nanoseconds; of none where a call does many operations.
    pub(crate) latencies: Vec<u64>,
}

/// What a thread does again and again; gets the thread's number and its turn, says how many operations that was.
pub(crate) trait Call: Fn(u64, u64) -> Result<u64> + Sync {}

impl<F: Fn(u64, u64) -> Result<u64> + Sync> Call for F {}

/// How often housekeeping happens during a slice.
const TICK: Duration = Duration::from_millis(20);

/// Calls from so many threads for as long as `slice`.
pub(crate) fn closed(threads: u64, slice: Duration, call: impl Call) -> Result<Work> {
    closed_with(threads, slice, call, || ())
}

/// The same, with something to be done meanwhile now and then.
pub(crate) fn closed_with(threads: u64, slice: Duration, call: impl Call, tick: impl Fn()) -> Result<Work> {
    let (stop, start) = (AtomicBool::new(false), Barrier::new(threads as usize + 1));
    let one = |thread: u64| {
        start.wait();
        let (mut operations, mut latencies) = (0, Vec::with_capacity(1 << 14));
        let mut before = Instant::now();
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let done = call(thread, turn)?;
            let after = Instant::now();
            if done == 1 {
                latencies.push((after - before).as_nanos() as u64);
            }
            operations += done;
            before = after;
        }
        Ok::<_, anyhow::Error>((operations, latencies))
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        start.wait();
        let started = Instant::now();
        while let Some(left) = slice.checked_sub(started.elapsed()) {
            std::thread::sleep(left.min(TICK));
            tick();
        }
        stop.store(true, Ordering::Relaxed);
        let mut work = Work::default();
        for thread in threads {
            let (operations, latencies) = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            work.operations += operations;
            work.latencies.extend(latencies);
        }
        work.seconds = started.elapsed().as_secs_f64();
        Ok(work)
    })
}

/// Calls `per_second` times a second, spread over so many threads. A call that begins late because the one before it was
/// slow is charged for that: its latency counts from when it should have begun.
pub(crate) fn open(threads: u64, per_second: f64, slice: Duration, call: impl Call) -> Result<Work> {
    let started = Instant::now() + Duration::from_millis(20);
    let one = |thread: u64| {
        let mut latencies = Vec::new();
        for turn in 0.. {
            let intended = started + Duration::from_secs_f64((turn * threads + thread) as f64 / per_second);
            if intended >= started + slice {
                break;
            }
            if let Some(early) = intended.checked_duration_since(Instant::now()) {
                std::thread::sleep(early);
            }
            call(thread, turn)?;
            latencies.push(intended.elapsed().as_nanos() as u64);
        }
        Ok(latencies)
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        let mut work = Work::default();
        for thread in threads {
            let latencies: Result<Vec<u64>> = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
            work.latencies.extend(latencies?);
        }
        work.operations = work.latencies.len() as u64;
        work.seconds = started.elapsed().as_secs_f64();
        Ok(work)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_counted_and_timed() {
        let slept = |_, _| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(1)
        };
        let work = closed(3, Duration::from_millis(50), slept).unwrap();
        assert_eq!(work.operations, work.latencies.len() as u64);
        assert!(work.operations >= 3 && work.seconds >= 0.05, "{work:?}");
        assert!(work.latencies.iter().all(|latency| *latency >= 1_000_000));
    }

    #[test]
    fn calls_that_do_many_operations_have_no_latency() {
        let work = closed(1, Duration::from_millis(5), |_, _| Ok(10)).unwrap();
        assert!(work.latencies.is_empty() && work.operations.is_multiple_of(10));
    }

    #[test]
    fn an_open_loop_charges_a_pause_to_all_calls_it_delays() {
        let pause_once = |_, turn| {
            if turn == 0 {
                std::thread::sleep(Duration::from_millis(60));
            }
            Ok(1)
        };
        let work = open(1, 1000.0, Duration::from_millis(100), pause_once).unwrap();
        assert_eq!(work.operations, 100);
        let delayed = work.latencies.iter().filter(|latency| **latency > 20_000_000).count();
        assert!(delayed >= 30, "{delayed} calls waited for the pause");
    }

    #[test]
    fn an_error_ends_the_slice() {
        assert!(closed(2, Duration::from_millis(5), |_, _| anyhow::bail!("no")).is_err());
    }
}
