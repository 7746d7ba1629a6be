//! How fast a consumer drains, measured only while it has something to drain; and how fast commits enter.

use std::time::{Duration, Instant};

/// The time over which a new rate replaces an old one (to 63 %).
const SMOOTHING: Duration = Duration::from_secs(1);
/// Progress is gathered for so long before it counts as a sample.
const SAMPLE: Duration = Duration::from_millis(50);

/// Bytes per second a consumer confirms while it lags. Idle time does not count, silence while it lags does.
///
/// A consumer that takes all there is each time shows how fast commits come, not how fast it is: such a sample can only
/// raise the rate. One that leaves more behind than it took shows what it can do.
#[derive(Debug, Default)]
pub(super) struct DrainMeter {
    rate: Option<f64>,
    proof: Proof,
    /// Since when it has had a backlog without a sample, and what it drained since then.
    busy: Option<(Instant, u64)>,
}

/// What is known about a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Proof {
    /// It can do at least this.
    #[default]
    AtLeast,
    /// It can do this, by less than a whole sample.
    Hint,
    /// It can do this.
    Shown,
}

impl DrainMeter {
    /// It confirmed so many bytes more, and lacks so many still.
    pub(super) fn drained(&mut self, bytes: u64, backlog: u64, now: Instant) {
        if let Some((since, gathered)) = &mut self.busy {
            *gathered += bytes;
            let elapsed = now.saturating_duration_since(*since);
            let sample = *gathered as f64 / elapsed.as_secs_f64().max(0.001);
            let limited = backlog >= *gathered;
            match (limited, elapsed >= SAMPLE) {
                (true, false) if self.proof != Proof::Shown => (self.rate, self.proof) = (Some(sample), Proof::Hint),
                (_, false) => {}
                (true, true) => {
                    let old = self.rate.filter(|_| self.proof == Proof::Shown).unwrap_or(sample);
                    self.rate = Some(old + weight(elapsed) * (sample - old));
                    self.proof = Proof::Shown;
                }
                (false, true) => {
                    self.rate = Some(self.rate.map_or(sample, |old| old.max(sample)));
                    self.proof = Proof::AtLeast;
                }
            }
            if elapsed >= SAMPLE {
                self.busy = Some((now, 0));
            }
        }
        if backlog == 0 {
            self.interrupt();
        } else if self.busy.is_none() {
            self.busy = Some((now, 0));
        }
    }

    /// It left or started afresh: time until its next word is not drain time.
    pub(super) fn interrupt(&mut self) {
        (self.busy, self.proof) = (None, Proof::AtLeast);
    }

    /// What it is known to drain. A consumer that has been silent keeps its rate: that it lags more and more is what
    /// slows commits then.
    pub(super) fn rate(&self, now: Instant) -> Option<f64> {
        let first = self.busy.filter(|(since, gathered)| *gathered > 0 && now > *since);
        self.rate.or_else(|| first.map(|(since, gathered)| gathered as f64 / (now - since).as_secs_f64()))
    }

    /// The rate, if it is what the consumer can do and not merely what it was given.
    pub(super) fn proven_rate(&self) -> Option<f64> {
        self.rate.filter(|_| self.proof != Proof::AtLeast)
    }

    /// How long it will need for so many bytes.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        let seconds = self.rate.filter(|rate| *rate > 0.0).map_or(1.0, |rate| bytes as f64 / rate);
        Duration::from_secs_f64(seconds.clamp(0.001, 30.0))
    }
}

/// How much a sample over so long counts against what was known.
fn weight(elapsed: Duration) -> f64 {
    1.0 - (-elapsed.as_secs_f64() / SMOOTHING.as_secs_f64()).exp()
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
            self.rate += weight(elapsed) * (sample - self.rate);
            (self.since, self.gathered) = (now, 0);
        }
    }
}
