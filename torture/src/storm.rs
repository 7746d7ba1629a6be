//! Rounds without end, each of a setup of its own: a run of a database, and all the states that power losses leave of it. A
//! round is made of its seed alone, so a failing one can be made again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::crash::{BrokenState, explore};
use crate::figures::Figures;
use crate::oracle::Broken;
use crate::run::Run;
use crate::setup::{Part, Setup};

/// How long it goes on: until the first of them.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// Of the first round; each has the next.
    pub seed: u64,
    /// Rounds at a time.
    pub threads: usize,
    /// At most so many rounds.
    pub rounds: u64,
    /// No round begins after that.
    pub until: Option<Instant>,
    /// No round begins once so many states were opened.
    pub states: u64,
}

/// A round that went wrong.
#[derive(Debug, thiserror::Error)]
#[error("round {seed} ({setup}): {what}")]
pub struct Failure {
    /// Makes it again.
    pub seed: u64,
    /// How the database was set up.
    pub setup: Box<Setup>,
    /// What went wrong.
    pub what: What,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum What {
    /// While it ran.
    #[error("while it ran: {0}")]
    Running(Broken),
    /// After a power loss.
    #[error(transparent)]
    Crashed(Box<BrokenState>),
}

impl Storm {
    /// Rounds until it is over. Returns what was counted.
    ///
    /// # Errors
    /// The failure of the smallest seed among those that were running when the first one failed.
    pub fn rage(&self) -> Result<Figures, Box<Failure>> {
        let (next, states, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let work = || {
            let mut figures = Figures::default();
            loop {
                let over = self.until.is_some_and(|until| Instant::now() >= until)
                    || states.load(Ordering::Relaxed) >= self.states
                    || stop.load(Ordering::Relaxed);
                let number = next.fetch_add(1, Ordering::Relaxed);
                if over || number >= self.rounds {
                    return Ok(figures);
                }
                let counted = round(self.seed.wrapping_add(number));
                let counted = counted.inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
                states.fetch_add(counted.states, Ordering::Relaxed);
                figures += counted;
            }
        };
        let outcomes: Vec<Result<Figures, Box<Failure>>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut sum = Figures::default();
        let mut failure: Option<Box<Failure>> = None;
        for outcome in outcomes {
            match outcome {
                Ok(figures) => sum += figures,
                Err(other) => {
                    let first = failure.as_ref().is_none_or(|failure| other.seed < failure.seed);
                    failure = if first { Some(other) } else { failure };
                }
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(sum),
        }
    }
}

/// How the database of a seed is set up.
pub fn setup(seed: u64) -> Setup {
    Setup::of(seed, &mut SmallRng::seed_from_u64(seed))
}

/// The round of a seed.
///
/// # Errors
/// What went wrong.
pub fn round(seed: u64) -> Result<Figures, Box<Failure>> {
    let setup = setup(seed);
    let failed = |what| Box::new(Failure { seed, setup: Box::new(setup.clone()), what });
    let run = Run::new(setup.clone()).map_err(|broken| failed(What::Running(broken)))?;
    let mut figures = Figures {
        rounds: 1,
        standbys: u64::from(setup.part == Part::Standby),
        commits: u64::from(setup.commits),
        operations: run.journal.len() as u64,
        recycled: run.recycled(),
        faults: u64::from(run.struck),
        ..Figures::default()
    };
    explore(&run, u64::MAX, &mut figures).map_err(|state| failed(What::Crashed(state)))?;
    Ok(figures)
}
