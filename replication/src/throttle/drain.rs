//! How fast a consumer drains, measured only while it has something to drain; and how fast commits enter.

use std::time::{Duration, Instant};

/// The time over which a new rate replaces an old one (to 63 %).
const SMOOTHING: Duration = Duration::from_secs(1);
/// Progress is gathered for so long before it counts as a sample.
const SAMPLE: Duration = Duration::from_millis(50);

/// Bytes per second a consumer confirms while it lags. Idle time does not count, silence while it lags does.
#[derive(Debug, Default)]
pub(super) struct DrainMeter {
    rate: Option<f64>,
    /// Since when it has had a backlog without a sample, and what it drained since then.
    busy: Option<(Instant, u64)>,
}

impl DrainMeter {
    /// It confirmed so many bytes more, and has more to do or not.
    pub(super) fn drained(&mut self, bytes: u64, backlog: bool, now: Instant) {
        if let Some((since, gathered)) = &mut self.busy {
            *gathered += bytes;
            let elapsed = now.saturating_duration_since(*since);
            if elapsed >= SAMPLE {
                let sample = *gathered as f64 / elapsed.as_secs_f64();
                let old = self.rate.unwrap_or(sample);
                let weight = 1.0 - (-elapsed.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
                self.rate = Some(old + weight * (sample - old));
                self.busy = Some((now, 0));
            }
        }
        if !backlog {
            self.busy = None;
        } else if self.busy.is_none() {
            self.busy = Some((now, 0));
        }
    }

    /// It left or started afresh: time until its next word is not drain time.
    pub(super) fn interrupt(&mut self) {
        self.busy = None;
    }

    /// What it drains, if it is known. A consumer that has been silent keeps its rate: that it lags more and more is what
    /// slows commits then.
    pub(super) fn rate(&self, now: Instant) -> Option<f64> {
        let first = self.busy.filter(|(since, gathered)| *gathered > 0 && now > *since);
        self.rate.or_else(|| first.map(|(since, gathered)| gathered as f64 / (now - since).as_secs_f64()))
    }

    /// How long it will need for so many bytes.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        let seconds = self.rate.filter(|rate| *rate > 0.0).map_or(1.0, |rate| bytes as f64 / rate);
        Duration::from_secs_f64(seconds.clamp(0.001, 30.0))
    }
}

/// Bytes per second that entered lately.
#[derive(Debug)]
pub(super) struct RateMeter {
    rate: f64,
    since: Instant,
    gathered: u64,
}

impl RateMeter {
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: 0.0, since: now, gathered: 0 }
    }

    pub(super) fn add(&mut self, bytes: u64, now: Instant) {
        self.gathered += bytes;
        self.fold(now);
    }

    pub(super) fn rate(&mut self, now: Instant) -> f64 {
        self.fold(now);
        self.rate
    }

    fn fold(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= SAMPLE {
            let sample = self.gathered as f64 / elapsed.as_secs_f64();
            let weight = 1.0 - (-elapsed.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
            self.rate += weight * (sample - self.rate);
            (self.since, self.gathered) = (now, 0);
        }
    }
}
