//! The crash enumerator: stands after every operation of a run, loses power in many ways there, opens what is left, and looks
//! whether it is what must be. Some of the recoveries lose power as well, and theirs again.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use seawall_engine::{CommitLevel, Db};
use seawall_wal::recovery::Verdict;
use seawall_wal::storage::{JournalEntry, MemoryDisk, PowerLoss};

use crate::figures::Figures;
use crate::oracle::{Broken, Known};
use crate::run::Run;
use crate::setup::Part;

/// Recoveries that lose power in a row.
pub const DEPTH_MAX: usize = 3;
/// Parts of what is not synced, each of which is missing alone once.
const PARTS: usize = 8;
/// Random subsets of what is not synced.
const RANDOM: usize = 4;
/// One of so many recoveries loses power, and of recoveries after one that did, at so many places.
const RECOVERY_EVERY: u32 = 20;
const RECOVERY_AGAIN_EVERY: u32 = 3;
const RECOVERY_PLACES: usize = 3;
/// One of so many databases goes on with another commit, and loses power once more.
const ONWARD_EVERY: u32 = 16;

/// A state that is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("after operation {operation} of {operations}, power lost in the ways {losses:?}: {broken}")]
pub struct BrokenState {
    /// Of the run's journal.
    pub operation: usize,
    /// How many there are.
    pub operations: usize,
    /// What was lost then, and in its recovery, and so on.
    pub losses: Vec<PowerLoss>,
    /// In what way.
    pub broken: Broken,
}

/// Looks at states of a run, at most `states_max` that were not seen before, and counts them.
///
/// # Errors
/// The first one that is wrong.
pub fn explore(run: &Run, states_max: u64, figures: &mut Figures) -> Result<(), Box<BrokenState>> {
    let mut explorer = Explorer {
        run,
        chance: SmallRng::seed_from_u64(run.setup.seed ^ 0xC4A5),
        seen: HashMap::new(),
        losses: Vec::new(),
        figures,
    };
    let disk = run.base.duplicate();
    let mut known = run.oracle.point(0);
    let operations = run.journal.len();
    for (operation, entry) in run.journal.iter().enumerate() {
        disk.replay(entry);
        if let JournalEntry::Mark(point) = entry {
            known = run.oracle.point(*point);
        }
        explorer.strike(&disk, known).map_err(|broken| {
            Box::new(BrokenState { operation, operations, losses: explorer.losses.clone(), broken })
        })?;
        if explorer.seen.len() as u64 >= states_max {
            break;
        }
    }
    Ok(())
}

struct Explorer<'a> {
    run: &'a Run,
    chance: SmallRng,
    /// What was found on disks by their images.
    seen: HashMap<u64, Box<[u64]>>,
    /// The way to the state that is looked at.
    losses: Vec<PowerLoss>,
    figures: &'a mut Figures,
}

impl Explorer<'_> {
    fn strike(&mut self, disk: &MemoryDisk, known: Known) -> Result<(), Broken> {
        for loss in PowerLoss::choose(disk, PARTS, RANDOM, &mut self.chance) {
            self.losses.push(loss);
            self.judge(&loss.strike(disk), known)?;
            self.losses.pop();
        }
        Ok(())
    }

    fn judge(&mut self, disk: &MemoryDisk, known: Known) -> Result<(), Broken> {
        let image = disk.image();
        if let Some(there) = self.seen.get(&image) {
            self.figures.seen_before += 1;
            return self.run.oracle.judge(known, there).map(drop);
        }
        self.figures.states += 1;
        disk.seed_salts(image);
        let depth = self.losses.len();
        if depth > 1 {
            self.figures.recoveries_crashed[depth - 2] += 1;
        }
        let every = if depth == 1 { RECOVERY_EVERY } else { RECOVERY_AGAIN_EVERY };
        let again = depth <= DEPTH_MAX && self.chance.random_ratio(1, every);
        let before = again.then(|| disk.duplicate());
        if again {
            disk.keep_journal();
        }
        let (db, there) = self.open(disk, known)?;
        let journal = disk.journal();
        if self.run.setup.part == Part::Primary && self.chance.random_ratio(1, ONWARD_EVERY) {
            self.go_on(disk, db, &there)?;
        }
        self.seen.insert(image, there.into_boxed_slice());
        match before {
            Some(before) => self.strike_recovery(&before, &journal, known),
            None => Ok(()),
        }
    }

    /// Loses power at some places of a recovery, whose journal this is.
    fn strike_recovery(&mut self, disk: &MemoryDisk, journal: &[JournalEntry], known: Known) -> Result<(), Broken> {
        for _ in 0..RECOVERY_PLACES {
            let interrupted = disk.duplicate();
            let until = self.chance.random_range(0..=journal.len());
            journal[..until].iter().for_each(|entry| interrupted.replay(entry));
            let loss = match self.chance.random_range(0..4) {
                0 => PowerLoss::Everything,
                1 => PowerLoss::Nothing,
                _ => PowerLoss::Random(self.chance.next_u64()),
            };
            self.losses.push(loss);
            self.judge(&loss.strike(&interrupted), known)?;
            self.losses.pop();
        }
        Ok(())
    }

    /// Opens it and reads everything; how many commits of each writer are there.
    fn open(&mut self, disk: &MemoryDisk, known: Known) -> Result<(Db, Vec<u64>), Broken> {
        let db = self.run.setup.open(disk)?;
        if let Some(damaged) = db.damaged_control().first() {
            return Err(Broken::Control(damaged.why));
        }
        if let Some(damage) = db.damages().first() {
            return Err(Broken::Damage(damage.to_string()));
        }
        let there = self.run.oracle.found_in(&db)?;
        let found = self.run.oracle.judge(known, &there)?;
        self.figures.torn_tails += u64::from(db.recovery().verdict == Verdict::Cut);
        self.figures.unacknowledged_found += u64::from(found > known.acknowledged);
        Ok((db, there))
    }

    /// It takes one more commit and loses power: the commit is there afterwards, and what was there before.
    fn go_on(&mut self, disk: &MemoryDisk, db: Db, there: &[u64]) -> Result<(), Broken> {
        let story = self.run.oracle.stories()[0];
        let mut batch = db.batch();
        story.write(there[0], &db.keyspace(&story.keyspace())?, &mut batch);
        batch.commit_with(CommitLevel::Local)?;
        drop(db);
        let later = self.run.oracle.found_in(&self.run.setup.open(&disk.crashed_losing_all())?)?;
        if later[0] != there[0] + 1 || later[1..] != there[1..] {
            return Err(Broken::Forgotten { before: there.to_vec(), later });
        }
        self.figures.onward += 1;
        Ok(())
    }
}
