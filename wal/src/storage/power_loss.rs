//! Which of the states a power loss could leave are looked at: there are as many as subsets of what was not synced, so some
//! are chosen that tell most - all, nothing, one thing missing, a write torn in the middle - and some at random.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore as _, SeedableRng as _};

use super::{CrashChoice, MemoryDisk};

/// What a power loss does with what was not synced: folders' operations, files' lengths and sectors, in the order in which
/// [`MemoryDisk::crashed`] asks for them. It does the same each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLoss {
    /// All of it is lost.
    Everything,
    /// None of it is.
    Nothing,
    /// So many things in a row are lost, from this one on, and nothing else.
    Missing {
        /// The first of them.
        first: usize,
        /// How many.
        count: usize,
    },
    /// Only the first so many things are there: a write that was torn.
    Torn {
        /// How many.
        kept: usize,
    },
    /// Each thing is lost or kept, in any version it had, by chance; the number says which.
    Random(u64),
}

impl PowerLoss {
    /// What to try now: everything, nothing, each thing alone missing, or each of at most `parts` parts if there are more
    /// things, a torn write, and `random` subsets.
    pub fn choose(disk: &MemoryDisk, parts: usize, random: usize, chance: &mut SmallRng) -> Vec<Self> {
        let mut things: usize = 0;
        disk.crashed(|choice| {
            things += 1;
            newest(choice)
        });
        let mut losses = vec![Self::Everything, Self::Nothing];
        if things < 2 {
            return losses;
        }
        let count = things.div_ceil(parts.max(1));
        losses.extend((0..things).step_by(count).map(|first| Self::Missing { first, count }));
        if count > 1 {
            losses.push(Self::Missing { first: chance.random_range(0..things), count: 1 });
        }
        losses.push(Self::Torn { kept: chance.random_range(1..things) });
        losses.extend((0..random).map(|_| Self::Random(chance.next_u64())));
        losses
    }

    /// The disk afterwards.
    pub fn strike(self, disk: &MemoryDisk) -> MemoryDisk {
        let mut things = 0..;
        let mut next = || things.next().expect("there is no end of numbers");
        match self {
            Self::Everything => disk.crashed_losing_all(),
            Self::Nothing => disk.crashed(newest),
            Self::Missing { first, count } => {
                disk.crashed(|choice| if (first..first + count).contains(&next()) { 0 } else { newest(choice) })
            }
            Self::Torn { kept } => disk.crashed(|choice| if next() < kept { newest(choice) } else { 0 }),
            Self::Random(seed) => {
                let mut chance = SmallRng::seed_from_u64(seed);
                disk.crashed(|choice| chance.random_range(0..=newest(choice)))
            }
        }
    }
}

/// The choice that loses nothing.
fn newest(choice: CrashChoice) -> usize {
    match choice {
        CrashChoice::Sector { versions } => versions,
        CrashChoice::Directory { operations } => operations,
        CrashChoice::Length => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::storage::{Access, Storage, read_file};

    #[test]
    fn every_sector_is_missing_alone_once_and_a_write_is_torn() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/")).unwrap();
        let file = disk.open(Path::new("/a"), Access::CreateNew).unwrap();
        file.write_at(&[1; 2048], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(&[2; 2048], 0).unwrap();
        let mut chance = SmallRng::seed_from_u64(3);
        let losses = PowerLoss::choose(&disk, 8, 5, &mut chance);
        let left = |loss: &PowerLoss| {
            let bytes = read_file(&loss.strike(&disk), Path::new("/a"), 4096).unwrap();
            bytes.chunks(512).map(|sector| sector[0]).collect::<Vec<_>>()
        };
        let states: BTreeSet<Vec<u8>> = losses.iter().map(left).collect();
        for state in [[1, 1, 1, 1], [2, 2, 2, 2], [1, 2, 2, 2], [2, 1, 2, 2], [2, 2, 1, 2], [2, 2, 2, 1]] {
            assert!(states.contains(&state[..]), "{state:?}");
        }
        let torn = losses.iter().find(|loss| matches!(loss, PowerLoss::Torn { .. })).unwrap();
        assert!([[2, 1, 1, 1], [2, 2, 1, 1], [2, 2, 2, 1]].contains(&left(torn).try_into().unwrap()));
        assert_eq!(losses.iter().map(left).collect::<Vec<_>>(), losses.iter().map(left).collect::<Vec<_>>());
        let parts = PowerLoss::choose(&disk, 2, 0, &mut chance);
        assert!(parts.contains(&PowerLoss::Missing { first: 2, count: 2 }), "{parts:?}");
    }
}
