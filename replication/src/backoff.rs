//! How long to wait before trying again: twice as long each time, up to a limit, and by chance less, so that many who lost
//! the same peer do not all come back at once.

use std::time::Duration;

/// The first wait at most.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
pub const DELAY_MAX: Duration = Duration::from_secs(30);

/// The wait before attempt `attempt` (0 for the first retry), given a random number: between half and all of
/// `100 ms * 2^attempt`, at most 30 s.
pub fn delay(attempt: u32, random: u32) -> Duration {
    let full = FIRST.saturating_mul(1 << attempt.min(16)).min(DELAY_MAX);
    let part = f64::from(random) / f64::from(u32::MAX);
    full / 2 + (full / 2).mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_never_vanish() {
        assert_eq!(delay(0, u32::MAX), Duration::from_millis(100));
        assert_eq!(delay(0, 0), Duration::from_millis(50));
        assert_eq!(delay(3, u32::MAX), Duration::from_millis(800));
        assert_eq!(delay(u32::MAX, u32::MAX), DELAY_MAX);
        assert_eq!(delay(u32::MAX, 0), DELAY_MAX / 2);
    }
}
