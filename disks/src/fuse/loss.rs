//! What of everything unsynced survives a power loss.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// What of everything unsynced survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLoss {
    /// Nothing.
    NothingKept,
    /// Everything.
    EverythingKept,
    /// Everything but one thing: of the [unsynced](super::Remembered::unsynced) ones that with this number, counted from 0.
    AllButOne(usize),
    /// Each sector and each change of a directory for itself, few, half or most of them: the same for the same number.
    Random(u64),
}

/// Decides for one thing after the other, for the length of one power loss.
pub(super) struct Survivors(Decision);

enum Decision {
    Nothing,
    Everything,
    AllBut { before: Option<usize> },
    Random { random: SmallRng, share: f64 },
}

impl Survivors {
    pub(super) fn of(loss: PowerLoss) -> Self {
        Self(match loss {
            PowerLoss::NothingKept => Decision::Nothing,
            PowerLoss::EverythingKept => Decision::Everything,
            PowerLoss::AllButOne(number) => Decision::AllBut { before: Some(number) },
            PowerLoss::Random(seed) => {
                let mut random = SmallRng::seed_from_u64(seed);
                let share = [0.1, 0.5, 0.9][random.random_range(0..3)];
                Decision::Random { random, share }
            }
        })
    }

    /// Which of so many versions, the oldest being 1, or 0 for what was there before.
    pub(super) fn pick(&mut self, versions: usize) -> usize {
        match &mut self.0 {
            Decision::Nothing => 0,
            Decision::Everything => versions,
            _ if versions == 0 => 0,
            Decision::AllBut { before } => match before {
                Some(0) => {
                    *before = None;
                    0
                }
                before => {
                    *before = before.map(|before| before - 1);
                    versions
                }
            },
            Decision::Random { random, share } => {
                if random.random_bool(*share) {
                    random.random_range(1..=versions)
                } else {
                    0
                }
            }
        }
    }
}
