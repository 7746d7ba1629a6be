//! How fast tables are written, so that merges neither pile up nor stand in the way of commits: faster the further behind
//! they are, slower while the log's flushes take longer than they need to.

use std::time::{Duration, Instant};

use seawall_wal::LogStats;
use seawall_wal::sync::{Mutex, now, thread};

use crate::mutant::{Mutant, planted};

/// Bytes a second when nothing presses, and just before nothing holds back.
const RATE_MIN: f64 = (8_u64 << 20) as f64;
const RATE_MAX: f64 = (1_u64 << 30) as f64;
/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The longest pause at once, so that what presses is seen soon.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Shorter ones add up.
const PAUSE_MIN: Duration = Duration::from_micros(500);

/// Bytes between two looks at the pace: a fraction of a millisecond of work.
pub(crate) const STEP_BYTES: u64 = 64 << 10;

/// The bucket that one kind of background writes takes from.
#[derive(Debug)]
pub(crate) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the next write may begin.
    next: Instant,
    looked: Instant,
    share: Share,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let now = now();
        Self { state: Mutex::new(State { next: now, looked: now, share: Share::new() }) }
    }

    /// Pauses for `bytes` that were written. From an `urgency` of 1 on there is no pause.
    pub(crate) fn charge(&self, bytes: u64, urgency: f64, log: impl FnOnce() -> LogStats) {
        let pause = {
            let mut state = self.state.lock();
            let now = now();
            if now >= state.looked + LOOK {
                state.looked = now;
                state.share.look(&log());
            }
            if urgency >= 1.0 && !planted(Mutant::PaceNeverHurries) {
                state.next = now;
                return;
            }
            let start = state.next.clamp(now, now + PAUSE_MAX);
            state.next = start + Duration::from_secs_f64(bytes as f64 / (rate(urgency) * state.share.share));
            (state.next - now).min(PAUSE_MAX)
        };
        if pause >= PAUSE_MIN {
            thread::sleep(pause);
        }
    }
}

fn rate(urgency: f64) -> f64 {
    let urgency = if planted(Mutant::PaceNeverHurries) { 0.0 } else { urgency };
    RATE_MIN * (RATE_MAX / RATE_MIN).powf(urgency.clamp(0.0, 1.0))
}

/// The share of the rate that the log leaves to background writes.
#[derive(Debug)]
struct Share {
    share: f64,
    /// The quickest mean of a flush, microseconds, by the size of the groups as a power of two: a large group takes long
    /// on a quiet disk too.
    floors: [f64; SIZES],
    before: LogStats,
}

const SIZES: usize = 32;
/// So many flushes between two looks say something.
const FLUSHES_MIN: u64 = 8;
/// Flushes that take so many times as long as on a quiet disk are in the way of something.
const SLOW: f64 = 2.0;
const SHARE_MIN: f64 = 0.125;
/// What is known of the quiet disk grows old: it doubles in ten minutes of looks.
const AGEING: f64 = 1.000_12;

impl Share {
    fn new() -> Self {
        Self { share: 1.0, floors: [f64::INFINITY; SIZES], before: LogStats::default() }
    }

    /// Judges the flushes since the last look.
    fn look(&mut self, log: &LogStats) {
        let flushes = log.flushes.saturating_sub(self.before.flushes);
        if flushes < FLUSHES_MIN {
            self.share = (self.share * 1.25).min(1.0);
            return;
        }
        let mean = log.flush_micros.saturating_sub(self.before.flush_micros) as f64 / flushes as f64;
        let size = log.bytes.saturating_sub(self.before.bytes) / flushes;
        let floor = &mut self.floors[(size.max(1).ilog2() as usize).min(SIZES - 1)];
        *floor = mean.min(*floor * AGEING);
        let back = if planted(Mutant::PaceNeverComesBack) { 1.0 } else { 1.25 };
        self.share = if mean > SLOW * *floor { self.share / 2.0 } else { self.share * back };
        self.share = self.share.clamp(SHARE_MIN, 1.0);
        self.before = *log;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutant::with_mutant;

    /// A log that flushed so often, each time so many bytes in so many microseconds.
    fn after(log: &LogStats, flushes: u64, bytes: u64, micros: u64) -> LogStats {
        LogStats {
            flushes: log.flushes + flushes,
            bytes: log.bytes + flushes * bytes,
            flush_micros: log.flush_micros + flushes * micros,
            ..*log
        }
    }

    /// What is left of the budget after some slow flushes and many quick ones.
    fn share_in_the_end() -> f64 {
        let (mut share, mut log) = (Share::new(), LogStats::default());
        for micros in [100, 900, 900, 900].into_iter().chain([110; 20]) {
            log = after(&log, 100, 4_096, micros);
            share.look(&log);
        }
        share.share
    }

    #[test]
    fn a_budget_that_never_comes_back_is_noticed() {
        assert_eq!(share_in_the_end(), 1.0);
        assert_eq!(with_mutant(Mutant::PaceNeverComesBack, share_in_the_end), SHARE_MIN);
    }

    #[test]
    fn merges_that_do_not_hurry_are_noticed() {
        let pause_for_what_writers_wait_for = || {
            let pace = Pace::new();
            let started = Instant::now();
            (0..8).for_each(|_| pace.charge(1 << 20, 1.0, LogStats::default));
            started.elapsed()
        };
        assert!(with_mutant(Mutant::PaceNeverHurries, pause_for_what_writers_wait_for) >= Duration::from_millis(100));
        assert!(pause_for_what_writers_wait_for() < Duration::from_millis(100));
    }

    #[test]
    fn the_budget_shrinks_while_flushes_take_twice_as_long_as_on_a_quiet_disk_and_comes_back() {
        let (mut share, mut log) = (Share::new(), LogStats::default());
        let mut look = |bytes, micros| {
            log = after(&log, 100, bytes, micros);
            share.look(&log);
            share.share
        };
        assert_eq!(look(4_096, 100), 1.0);
        assert_eq!(look(4_096, 190), 1.0, "not yet twice as long");
        assert_eq!([look(4_096, 250), look(4_096, 250), look(4_096, 900), look(4_096, 900)], [0.5, 0.25, 0.125, 0.125]);
        assert_eq!(look(4_096, 110), 0.15625);
        assert_eq!((0..20).map(|_| look(4_096, 110)).last(), Some(1.0));
    }

    #[test]
    fn large_groups_are_held_against_large_groups() {
        let (mut share, mut log) = (Share::new(), LogStats::default());
        for (bytes, micros) in [(4_096, 100), (1 << 20, 3_000), (1 << 20, 3_100), (4_096, 100)] {
            log = after(&log, 100, bytes, micros);
            share.look(&log);
            assert_eq!(share.share, 1.0, "{bytes} bytes in {micros} us are as quick as they get");
        }
    }

    #[test]
    fn a_log_that_is_not_written_leaves_everything_to_merges() {
        let (mut share, log) = (Share::new(), LogStats::default());
        share.share = 0.5;
        (0..10).for_each(|_| share.look(&log));
        assert_eq!(share.share, 1.0);
    }

    #[test]
    fn writing_is_as_fast_as_the_debt_demands() {
        assert_eq!([rate(0.0), rate(1.0)], [RATE_MIN, RATE_MAX]);
        let pace = Pace::new();
        let timed = |urgency| {
            let started = Instant::now();
            (0..8).for_each(|_| pace.charge(256 << 10, urgency, LogStats::default));
            started.elapsed()
        };
        assert!(timed(0.0) >= Duration::from_millis(40), "2 MiB at 8 MiB/s are 250 ms, in pauses of 20");
        let hurried = Instant::now();
        pace.charge(1 << 30, 1.0, LogStats::default);
        assert!(hurried.elapsed() < Duration::from_millis(20), "nothing holds back what writers wait for");
    }
}
