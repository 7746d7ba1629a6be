//! Latencies counted by size, so that a run of any length takes the same memory: 32 steps for each power of two, so a
//! percentile is right within 3 %.

use std::time::Duration;

const STEPS_BITS: u32 = 5;
const STEPS: u64 = 1 << STEPS_BITS;
const BUCKETS: usize = (64 - STEPS_BITS as usize + 1) * STEPS as usize;

/// Counts of latencies.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// With nothing in it.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
    }

    /// Counts one.
    pub(crate) fn add(&mut self, latency: Duration) {
        self.counts[bucket(nanos(latency))] += 1;
        self.count += 1;
        self.max = self.max.max(latency);
    }

    /// Counts all of another one.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own += other);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// What a share of all is not longer than, the share being from 0 to 1.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map_or(Duration::ZERO, |bucket| Duration::from_nanos(upper(bucket)).min(self.max))
    }

    /// How many are longer.
    pub(crate) fn above(&self, bound: Duration) -> u64 {
        self.counts[bucket(nanos(bound)) + 1..].iter().sum()
    }
}

fn nanos(latency: Duration) -> u64 {
    latency.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// Below 32 each number has its own; above, the highest six bits say which.
fn bucket(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2().max(STEPS_BITS) - STEPS_BITS;
    (u64::from(power) * STEPS + (nanos >> power)) as usize
}

/// The greatest number in a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let power = (bucket / STEPS).saturating_sub(1);
    let step = bucket - power * STEPS;
    (step << power) + ((1 << power) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_a_bucket_that_ends_at_most_a_32th_above_it() {
        for nanos in (0..200).chain((0..64).map(|power| 1_u64 << power)).chain([u64::MAX, 1_234_567_890]) {
            let end = upper(bucket(nanos));
            assert!(end >= nanos && end - nanos <= nanos / 32, "{nanos} is in a bucket that ends at {end}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        let micros = |share| histogram.quantile(share).as_micros();
        assert!((500..=516).contains(&micros(0.5)), "{}", micros(0.5));
        assert!((999..=1000).contains(&micros(0.999)), "{}", micros(0.999));
        assert_eq!(histogram.max(), Duration::from_millis(1));
        assert!((85..=100).contains(&histogram.above(Duration::from_micros(900))));
        let mut both = Histogram::new();
        both.merge(&histogram);
        both.merge(&histogram);
        assert_eq!((both.count(), both.quantile(0.5)), (2000, histogram.quantile(0.5)));
    }
}
