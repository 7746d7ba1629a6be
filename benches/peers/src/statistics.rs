//! Medians, spreads and quantiles: the little arithmetic that figures need.

use serde::Serialize;

/// Middle, least and greatest of some figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// None of no figures.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: middle(&sorted), min, max })
    }
}

/// The median; of an even number of figures the mean of the two in the middle.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    Spread::of(figures).map(|spread| spread.median)
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

/// Of latencies, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Quantiles {
    /// Of latencies in nanoseconds, which are sorted on the way. None of none.
    pub(crate) fn of(nanoseconds: &mut [u64]) -> Option<Self> {
        nanoseconds.sort_unstable();
        let max_us = micros(*nanoseconds.last()?);
        let at = |share: f64| micros(quantile(nanoseconds, share));
        Some(Self { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us })
    }
}

/// The least figure that at least `share` of all are not above. `sorted` is not empty.
fn quantile(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_stands_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(Spread::of(&[5.0, 9.0, 7.0]), Some(Spread { median: 7.0, min: 5.0, max: 9.0 }));
    }

    #[test]
    fn quantiles_are_figures_that_were_measured() {
        let mut latencies: Vec<u64> = (1..=1000).rev().map(|number| number * 1000).collect();
        let quantiles = Quantiles::of(&mut latencies).unwrap();
        assert_eq!(quantiles, Quantiles { p50_us: 500.0, p99_us: 990.0, p999_us: 999.0, max_us: 1000.0 });
        assert_eq!(Quantiles::of(&mut [7000]).unwrap().p999_us, 7.0);
        assert_eq!(Quantiles::of(&mut []), None);
    }
}
