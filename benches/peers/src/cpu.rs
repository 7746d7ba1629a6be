//! Who else uses the machine: processor time of all, from `/proc/stat`, less our own.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Processor time used up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    /// By everybody, interrupts left out: they serve whoever does input and output, which is us.
    busy: Duration,
    /// That there was, on all processors.
    total: Duration,
    own: Duration,
}

impl CpuTime {
    /// As of now; None where there is no `/proc/stat`.
    pub(crate) fn now() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let (busy, total) = parse(&text, rustix::param::clock_ticks_per_second())?;
        Some(Self { busy, total, own: own() })
    }

    /// The share of the machine that others had since then, from 0 to 1.
    pub(crate) fn others_since(&self, earlier: &Self) -> f64 {
        let others = (self.busy - earlier.busy).saturating_sub(self.own - earlier.own);
        let total = self.total - earlier.total;
        if total.is_zero() { 0.0 } else { others.as_secs_f64() / total.as_secs_f64() }
    }
}

/// Busy and total time of the first line: user, nice, system, idle, iowait, irq, softirq, steal, in ticks.
fn parse(text: &str, ticks_per_second: u64) -> Option<(Duration, Duration)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, _irq, _softirq, steal, ..] = ticks[..] else { return None };
    let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64);
    Some((time(user + nice + system + steal), time(ticks[..8].iter().sum())))
}

/// What this process has used.
fn own() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long a look at our own use lasts, and the share of one processor below which we are quiet.
const LOOK: Duration = Duration::from_millis(20);
const QUIET: f64 = 0.05;

/// Waits until this process does next to nothing, so that what a store does behind a measurement's back is not charged
/// to the next one. At most as long as `patience`.
pub(crate) fn wait_until_quiet(patience: Duration) {
    let started = Instant::now();
    while started.elapsed() < patience {
        let before = own();
        std::thread::sleep(LOOK);
        if (own() - before).as_secs_f64() < QUIET * LOOK.as_secs_f64() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_all_processors() {
        let text = "cpu  100 20 30 800 40 5 6 7 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let (busy, total) = parse(text, 100).unwrap();
        assert_eq!((busy.as_millis(), total.as_millis()), (1570, 10080));
        assert_eq!(parse("nonsense", 100), None);
    }

    #[test]
    fn our_own_time_is_not_others() {
        let at = |busy, own| CpuTime {
            busy: Duration::from_millis(busy),
            total: Duration::from_millis(busy + 1000),
            own: Duration::from_millis(own),
        };
        assert_eq!(at(500, 500).others_since(&at(0, 0)), 0.0);
        let others = at(500, 100).others_since(&at(0, 0));
        assert!((0.79..0.81).contains(&others), "{others}");
    }
}
