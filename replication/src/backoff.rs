//! How long to wait before trying again: twice as long each time, up to a limit, and by chance less, so that many who lost
//! the same peer do not all come back at once.

use std::time::{Duration, Instant};

/// The first wait at most.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
pub const DELAY_MAX: Duration = Duration::from_secs(30);
/// A connection over which log or a sign of life came for so long after the handshake was a good one.
const LASTED: Duration = Duration::from_secs(5);

/// Attempts since it last went well. An upstream that takes a standby and leaves it at once is no better than one that does not
/// answer, so the handshake alone does not count.
#[derive(Debug, Default)]
pub struct Attempts {
    count: u32,
    joined: Option<Instant>,
}

impl Attempts {
    /// How many.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// A connection begins.
    pub fn connecting(&mut self) {
        self.joined = None;
    }

    /// The upstream took us.
    pub fn joined(&mut self, now: Instant) {
        self.joined = Some(now);
    }

    /// The upstream said something.
    pub fn heard(&mut self, now: Instant) {
        if self.joined.is_some_and(|joined| now.saturating_duration_since(joined) >= LASTED) {
            self.count = 0;
        }
    }

    /// Log came from elsewhere.
    pub fn went_well(&mut self) {
        self.count = 0;
    }

    /// Another one failed: the wait before the next, given a random number.
    pub fn failed(&mut self, random: u32) -> Duration {
        let delay = delay(self.count, random);
        self.count = self.count.saturating_add(1);
        delay
    }
}

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
    fn only_a_connection_that_lasted_starts_the_waits_anew() {
        let (start, mut attempts) = (Instant::now(), Attempts::default());
        for number in 0..4 {
            attempts.connecting();
            attempts.joined(start);
            attempts.heard(start + LASTED / 2);
            assert_eq!(attempts.failed(u32::MAX), FIRST * (1 << number), "it was heard, and left again");
        }
        attempts.connecting();
        attempts.heard(start + LASTED * 2);
        assert_eq!(attempts.count(), 4, "what came before it was taken is a part of the handshake");
        attempts.joined(start);
        attempts.heard(start + LASTED);
        assert_eq!((attempts.count(), attempts.failed(u32::MAX)), (0, FIRST));
    }

    #[test]
    fn waits_double_up_to_the_limit_and_never_vanish() {
        assert_eq!(delay(0, u32::MAX), Duration::from_millis(100));
        assert_eq!(delay(0, 0), Duration::from_millis(50));
        assert_eq!(delay(3, u32::MAX), Duration::from_millis(800));
        assert_eq!(delay(u32::MAX, u32::MAX), DELAY_MAX);
        assert_eq!(delay(u32::MAX, 0), DELAY_MAX / 2);
    }
}
