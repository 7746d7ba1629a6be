//! How late a position is, in bytes and in this node's own time. A ring of (LSN, time) samples says when each byte became
//! durable here; whoever has confirmed less is late by the age of the first byte it lacks. Clocks of other nodes never enter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use seawall_wal::{Lsn, TimelineHistory};

/// How far a position lags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Bytes of log it lacks, voids left out.
    pub bytes: u64,
    /// Age of the oldest byte it lacks; zero if it lacks none.
    pub time: Duration,
}

/// When the flush LSN of this node passed which position.
///
/// Time as a function of position is piecewise linear with jumps: a burst after an idle hour starts with a second sample
/// at the same LSN, so that its bytes are as old as the burst, not as the hour.
#[derive(Debug)]
pub struct LagClock {
    /// Both parts rise (LSN not strictly).
    samples: VecDeque<Sample>,
    capacity: usize,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    lsn: Lsn,
    at: Instant,
}

/// Samples kept by default: at one flush per millisecond eight seconds at full resolution, hours at a coarser one.
pub const SAMPLES_DEFAULT: usize = 8192;

/// Without a flush for so long, the next one starts a burst of its own.
const IDLE_AFTER: Duration = Duration::from_millis(20);

impl LagClock {
    /// A clock for a log that is durable up to `flush` now.
    ///
    /// # Panics
    /// If there is no room for eight samples.
    pub fn new(flush: Lsn, now: Instant, capacity: usize) -> Self {
        assert!(capacity >= 8, "a lag clock needs room for a few samples");
        let samples = VecDeque::from([Sample { lsn: flush, at: now }]);
        Self { samples, capacity }
    }

    /// The flush LSN here is `flush` now. Anything but a step forward is ignored.
    pub fn flushed(&mut self, flush: Lsn, now: Instant) {
        let last = self.newest();
        if flush <= last.lsn {
            return;
        }
        if now.saturating_duration_since(last.at) > IDLE_AFTER {
            self.push(Sample { lsn: last.lsn, at: now });
        }
        self.push(Sample { lsn: flush, at: now.max(last.at) });
    }

    /// How far `lsn` lags behind the newest flush.
    pub fn lag(&self, lsn: Lsn, history: &TimelineHistory, now: Instant) -> Lag {
        let bytes = history.bytes_between(lsn, self.newest().lsn);
        let time = if bytes == 0 { Duration::ZERO } else { now.saturating_duration_since(self.time_after(lsn)) };
        Lag { bytes, time }
    }

    /// The newest flush LSN it was told.
    pub fn flush(&self) -> Lsn {
        self.newest().lsn
    }

    /// Nobody will ask about positions before `lsn` any more.
    pub fn forget_before(&mut self, lsn: Lsn) {
        while self.samples.len() > 1 && self.samples[1].lsn <= lsn {
            self.samples.pop_front();
        }
    }

    /// When the byte after `lsn` became durable here; the oldest time known if that was earlier.
    fn time_after(&self, lsn: Lsn) -> Instant {
        let next = self.samples.partition_point(|sample| sample.lsn <= lsn);
        let Some(right) = self.samples.get(next) else {
            return self.newest().at;
        };
        let Some(left) = next.checked_sub(1).map(|index| self.samples[index]) else {
            return right.at;
        };
        let span = right.lsn.distance_from(left.lsn) as f64;
        let part = lsn.distance_from(left.lsn) as f64 / span;
        left.at + (right.at - left.at).mul_f64(part)
    }

    fn push(&mut self, sample: Sample) {
        if self.samples.len() == self.capacity {
            self.thin();
        }
        self.samples.push_back(sample);
    }

    /// Drops every second sample of the older half: the past grows coarser, the present stays exact.
    fn thin(&mut self) {
        let half = self.samples.len() / 2;
        let mut index = 0;
        self.samples.retain(|_| {
            index += 1;
            index > half || index % 2 == 1
        });
    }

    fn newest(&self) -> Sample {
        *self.samples.back().expect("there is always a sample")
    }
}

/// Percentiles over the lag seen lately, for people.
#[derive(Debug, Default)]
pub struct LagWindow {
    seen: VecDeque<Lag>,
}

/// Observations one window holds: five minutes at one a second.
const WINDOW: usize = 300;

impl LagWindow {
    /// Takes note of one observation; one a second makes the window five minutes.
    pub fn observe(&mut self, lag: Lag) {
        if self.seen.len() == WINDOW {
            self.seen.pop_front();
        }
        self.seen.push_back(lag);
    }

    /// The lag time not exceeded by `part` (0 to 1) of the observations, or `None` without any.
    pub fn percentile(&self, part: f64) -> Option<Duration> {
        let mut times: Vec<_> = self.seen.iter().map(|lag| lag.time).collect();
        times.sort_unstable();
        let index = (part.clamp(0.0, 1.0) * times.len().saturating_sub(1) as f64).round() as usize;
        times.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use seawall_wal::{Chain, Position, SegmentSize, TimelineId, TimelineNonce};

    use super::*;

    fn history() -> TimelineHistory {
        TimelineHistory::first(TimelineNonce::from_bytes([1; 16]))
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn close(a: Duration, b: Duration) -> bool {
        a.abs_diff(b) < Duration::from_micros(10)
    }

    #[test]
    fn idle_and_caught_up_is_zero_however_long() {
        let start = Instant::now();
        let mut clock = LagClock::new(Lsn::ZERO, start, 64);
        clock.flushed(Lsn::new(100), start);
        assert_eq!(clock.lag(Lsn::new(100), &history(), start + ms(3_600_000)), Lag::default());
    }

    #[test]
    fn a_stuck_standby_lags_more_every_second() {
        let start = Instant::now();
        let mut clock = LagClock::new(Lsn::ZERO, start, 64);
        for tick in 1..=10 {
            clock.flushed(Lsn::new(tick * 100), start + ms(tick * 10));
        }
        let lag = |at| clock.lag(Lsn::new(450), &history(), start + ms(at));
        assert_eq!(lag(100).bytes, 550);
        assert!(close(lag(100).time, ms(55)), "{:?}", lag(100));
        assert!(close(lag(5_100).time, ms(5_055)));
    }

    #[test]
    fn a_burst_after_idleness_is_not_as_old_as_the_idleness() {
        let start = Instant::now();
        let mut clock = LagClock::new(Lsn::new(100), start, 64);
        clock.flushed(Lsn::new(200), start + ms(3_600_000));
        let now = start + ms(3_600_050);
        assert!(close(clock.lag(Lsn::new(100), &history(), now).time, ms(50)));
        assert!(close(clock.lag(Lsn::new(150), &history(), now).time, ms(50)));
    }

    #[test]
    fn an_injected_delay_is_reported_as_that_delay() {
        let start = Instant::now();
        let mut clock = LagClock::new(Lsn::ZERO, start, SAMPLES_DEFAULT);
        for tick in 1..=20_000 {
            clock.flushed(Lsn::new(tick * 1_000), start + ms(tick));
        }
        for delay in [20, 250, 3_000, 11_000] {
            let confirmed = Lsn::new((20_000 - delay) * 1_000);
            let seen = clock.lag(confirmed, &history(), start + ms(20_000)).time;
            let error = seen.abs_diff(ms(delay));
            assert!(error <= ms(delay / 20).min(ms(20)), "{delay} ms was seen as {seen:?}");
        }
    }

    #[test]
    fn the_ring_is_bounded_and_forgets_what_nobody_asks() {
        let start = Instant::now();
        let mut clock = LagClock::new(Lsn::ZERO, start, 16);
        for tick in 1..=10_000 {
            clock.flushed(Lsn::new(tick), start + ms(tick));
        }
        assert!(clock.samples.len() <= 16);
        assert!(clock.samples.iter().zip(clock.samples.iter().skip(1)).all(|(a, b)| a.lsn <= b.lsn && a.at <= b.at));
        let before = clock.lag(Lsn::new(9_999), &history(), start + ms(10_000));
        clock.forget_before(Lsn::new(9_999));
        assert_eq!(clock.lag(Lsn::new(9_999), &history(), start + ms(10_000)), before);
        assert!(clock.samples.len() < 8);
    }

    #[test]
    fn a_void_is_no_lag() {
        let size = SegmentSize::MIN;
        let fork = Position { lsn: Lsn::new(70_000), chain: Chain(7) };
        let history = history().forked(TimelineId(2), TimelineNonce::from_bytes([2; 16]), fork, size).unwrap();
        let start = Instant::now();
        let mut clock = LagClock::new(Lsn::new(70_000), start, 64);
        clock.flushed(Lsn::new(131_072), start + ms(100));
        assert_eq!(clock.lag(Lsn::new(70_000), &history, start + ms(200)), Lag::default());
        clock.flushed(Lsn::new(131_172), start + ms(300));
        assert_eq!(clock.lag(Lsn::new(70_000), &history, start + ms(400)).bytes, 100);
    }

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let mut window = LagWindow::default();
        assert_eq!(window.percentile(0.5), None);
        for second in 0..1_000 {
            window.observe(Lag { bytes: 0, time: ms(second) });
        }
        assert_eq!(window.percentile(0.0), Some(ms(700)));
        assert_eq!(window.percentile(1.0), Some(ms(999)));
    }
}
