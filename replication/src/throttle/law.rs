//! The control law: what share of the drain may enter at which pressure. Plain functions of numbers.

use std::time::Duration;

/// From this pressure on nothing enters until the target is met again.
pub(super) const PAUSE: f64 = 0.98;
/// How much more or less than the drain may enter around the setpoint.
const GAIN: f64 = 0.08;
/// Midway between target and ceiling: where lag settles.
const SETPOINT: f64 = 0.5;
/// Beyond this the share falls to nothing at [`PAUSE`].
pub(super) const STEEP: f64 = 0.75;
/// The share just before the pause. Not nothing, or a standby that stands still would be crept up on for ever.
const LAST: f64 = 0.05;

const _: () = assert!(0.0 < SETPOINT && SETPOINT < STEEP && STEEP < PAUSE && PAUSE < 1.0);

/// Where `value` lies between `target` (0) and `ceiling` (1); not positive below the target.
pub(super) fn pressure(value: f64, target: f64, ceiling: f64) -> f64 {
    (value - target) / (ceiling - target).max(f64::MIN_POSITIVE)
}

/// The share of the drain that may enter at `pressure`: `1 + GAIN` at the target, 1 at the setpoint, `1 - GAIN` at
/// the steep part's beginning, [`LAST`] just before the pause. The corridor around the setpoint is narrow on purpose: the accepted rate
/// then stays within it of the drain, and a drain that was misjudged is caught by the steep part, not by a pause.
pub(super) fn share(pressure: f64) -> f64 {
    if pressure <= SETPOINT {
        1.0 + GAIN * (SETPOINT - pressure.max(0.0)) / SETPOINT
    } else if pressure <= STEEP {
        1.0 - GAIN * (pressure - SETPOINT) / (STEEP - SETPOINT)
    } else if pressure < PAUSE {
        LAST + (1.0 - GAIN - LAST) * (PAUSE - pressure) / (PAUSE - STEEP)
    } else {
        0.0
    }
}

/// How late a consumer is in seconds, as the controller sees it: the age of the oldest byte it lacks, or the time it will
/// need for all it lacks if that is more. Age alone would tell too late: what is let in now becomes old only after the
/// backlog before it is drained.
pub(super) fn lag_seconds(age: Duration, lag_bytes: u64, drain: Option<f64>) -> f64 {
    let ahead = drain.filter(|rate| *rate > 0.0).map_or(0.0, |rate| lag_bytes as f64 / rate);
    // A rate measured long ago, or over a single slow flush, must not turn a handful of bytes into a long lag.
    let ahead = if lag_bytes < 1 << 20 { ahead.min(age.as_secs_f64() * 2.0) } else { ahead };
    age.as_secs_f64().max(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_falls_steadily_from_target_to_ceiling() {
        assert_eq!((share(0.0), share(SETPOINT), share(PAUSE), share(1.0)), (1.0 + GAIN, 1.0, 0.0, 0.0));
        let steps: Vec<_> = (0..=1_000).map(|step| share(f64::from(step) / 1_000.0)).collect();
        assert!(steps.windows(2).all(|pair| pair[1] <= pair[0]));
        assert!(steps.windows(2).all(|pair| pair[0] - pair[1] < 0.01 || pair[1] == 0.0), "no cliff before the pause");
    }

    #[test]
    fn pressure_counts_from_target_to_ceiling() {
        assert_eq!(pressure(10.0, 10.0, 30.0), 0.0);
        assert_eq!(pressure(20.0, 10.0, 30.0), 0.5);
        assert_eq!(pressure(30.0, 10.0, 30.0), 1.0);
        assert!(pressure(5.0, 10.0, 30.0) < 0.0);
    }

    #[test]
    fn a_backlog_is_as_late_as_it_takes_to_drain() {
        assert_eq!(lag_seconds(Duration::from_secs(1), 100 << 20, Some((10 << 20) as f64)), 10.0);
        assert_eq!(lag_seconds(Duration::from_secs(12), 100 << 20, Some((10 << 20) as f64)), 12.0);
        assert_eq!(lag_seconds(Duration::from_secs(1), 100 << 20, None), 1.0);
    }
}
