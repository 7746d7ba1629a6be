//! Runs a scenario in many schedules: half of them at random, half by priorities that change at few points, which finds
//! what needs few but unlikely switches. Both follow from a seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// Points at which priorities change.
const CHANGES: usize = 3;
/// A scenario takes some thousand steps; one that takes so many does not come to an end.
const STEPS_MAX: usize = 300_000;

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Explored {
    /// Schedules that were run, with the one that failed.
    pub(crate) schedules: usize,
    /// Whether one failed.
    pub(crate) failed: bool,
}

/// Runs so many schedules, or as many as it takes for one to fail. That one is written to a file of its own in `failures`.
pub(crate) fn explore(scenario: fn(), schedules: usize, seed: u64, failures: &Path) -> Explored {
    let keep = FailurePersistence::File(Some(failures.to_owned()));
    let random = schedules.div_ceil(2);
    let first = with(RandomScheduler::new_from_seed(seed, random), scenario, keep.clone());
    if first.failed || schedules == random {
        return first;
    }
    let second = with(PctScheduler::new_from_seed(seed, CHANGES, schedules - random), scenario, keep);
    Explored { schedules: first.schedules + second.schedules, failed: second.failed }
}

/// Runs the schedule in a file.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn again(scenario: fn(), file: &Path) -> std::io::Result<Explored> {
    let replay = ReplayScheduler::new_from_file(file)?;
    Ok(with(replay, scenario, FailurePersistence::None))
}

fn with(scheduler: impl Scheduler + 'static, scenario: fn(), keep: FailurePersistence) -> Explored {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.failure_persistence = keep;
    config.silence_warnings = true;
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = {
        let begun = Arc::clone(&begun);
        move || {
            begun.fetch_add(1, Ordering::Relaxed);
            scenario();
        }
    };
    let runner = Runner::new(scheduler, config);
    let failed = catch_unwind(AssertUnwindSafe(|| runner.run(counted))).is_err();
    Explored { schedules: begun.load(Ordering::Relaxed), failed }
}
