//! What a storm counts.

use std::fmt;
use std::ops::AddAssign;

use crate::crash::DEPTH_MAX;

/// Counters of rounds. They depend on nothing but the seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Runs of a database.
    pub rounds: u64,
    /// Of them those of a standby.
    pub standbys: u64,
    /// Commits begun in them.
    pub commits: u64,
    /// Operations on their disks, after each of which power was lost.
    pub operations: u64,
    /// Segments whose files had been other segments', and had their bytes in them. New spares do not count.
    pub recycled: u64,
    /// Runs in which a call of the disk failed.
    pub faults: u64,
    /// Disks that were opened, read and held against what was acknowledged, no two of a run the same.
    pub states: u64,
    /// Disks that held the same as one of them: what had been found there was held against what was acknowledged since.
    pub seen_before: u64,
    /// Of the states, those in which recovery cut a torn tail.
    pub torn_tails: u64,
    /// Of the states, those with commits that nobody had been told of yet.
    pub unacknowledged_found: u64,
    /// Of the states, those that a power loss during a recovery left, during the recovery of such a one, and once more.
    pub recoveries_crashed: [u64; DEPTH_MAX],
    /// States that took another commit, lost power again, and had it.
    pub onward: u64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.standbys += other.standbys;
        self.commits += other.commits;
        self.operations += other.operations;
        self.recycled += other.recycled;
        self.faults += other.faults;
        self.states += other.states;
        self.seen_before += other.seen_before;
        self.torn_tails += other.torn_tails;
        self.unacknowledged_found += other.unacknowledged_found;
        for (sum, count) in self.recoveries_crashed.iter_mut().zip(other.recoveries_crashed) {
            *sum += count;
        }
        self.onward += other.onward;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [once, twice, thrice] = self.recoveries_crashed;
        writeln!(
            f,
            "{} crash states opened and checked, {} more the same as one of them",
            self.states, self.seen_before
        )?;
        writeln!(
            f,
            "  {} with a torn tail cut, {} with commits not yet acknowledged",
            self.torn_tails, self.unacknowledged_found
        )?;
        writeln!(f, "  {once} of power lost in recovery, {twice} in the recovery of that, {thrice} once more")?;
        writeln!(f, "  {} took another commit, lost power and had it", self.onward)?;
        writeln!(f, "{} rounds, {} of a standby, {} with a failing call", self.rounds, self.standbys, self.faults)?;
        write!(f, "  {} commits, {} operations, {} segments recycled", self.commits, self.operations, self.recycled)
    }
}
