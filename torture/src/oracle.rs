//! What must be there after a crash, known outside the disk that crashed: commits in their order, how many were begun and how
//! many acknowledged at each point of a run.

use seawall_engine::Db;

use crate::story::{Story, Wrong};

/// What a state may not be.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Commits were acknowledged and are not there.
    #[error("{acknowledged} commits were acknowledged, and {found} are there: acknowledged commits are lost")]
    Lost {
        /// By all writers.
        acknowledged: usize,
        /// Of all writers.
        found: usize,
    },
    /// There are commits that were never made.
    #[error("{begun} commits were begun, and {found} are there: nobody made so many")]
    Invented {
        /// By all writers.
        begun: usize,
        /// Of all writers.
        found: usize,
    },
    /// Commits are there, and one before them is not.
    #[error("the first {found} commits are {expected:?} of each writer, and {there:?} are there: there is a hole")]
    Hole {
        /// Of all writers.
        found: usize,
        /// Of each writer, in the order of the log.
        expected: Vec<u64>,
        /// Of each writer.
        there: Vec<u64>,
    },
    /// A segment or file is called damaged that is not.
    #[error("nothing is damaged, and it says that {0} is")]
    Damage(String),
    /// A database that was opened took one more commit, acknowledged it, and lost power.
    #[error("{before:?} commits of each writer were there, the first writer made one more, and {later:?} are left")]
    Forgotten {
        /// Before it.
        before: Vec<u64>,
        /// After the power loss.
        later: Vec<u64>,
    },
    /// What is there is not what the commits leave.
    #[error(transparent)]
    Differs(Wrong),
    /// Damage is reported where there is none, or it cannot be opened, read or written.
    #[error("a healthy database is refused: {0}")]
    Refused(seawall_engine::Error),
    /// A copy of the control file is called damaged after a crash, which cannot damage it.
    #[error("a healthy control file is called damaged: {0}")]
    Control(&'static str),
}

impl From<seawall_engine::Error> for Broken {
    fn from(error: seawall_engine::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Wrong> for Broken {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Engine(error) => Self::Refused(error),
            wrong => Self::Differs(wrong),
        }
    }
}

/// What is known at one point of a run. `acknowledged <= begun <= order.len()`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// Which order: a node that came back without its last commits has another one from there on.
    pub(crate) order: usize,
    /// Commits that may be there.
    pub(crate) begun: usize,
    /// Commits that must be there.
    pub(crate) acknowledged: usize,
}

/// All that is known of a run.
#[derive(Clone, Debug)]
pub struct Oracle {
    stories: Vec<Story>,
    /// The writer of each commit, by their order in the log.
    orders: Vec<Vec<u32>>,
    points: Vec<Known>,
}

impl Oracle {
    pub(crate) fn new(stories: Vec<Story>) -> Self {
        Self { stories, orders: vec![Vec::new()], points: vec![Known::default()] }
    }

    pub(crate) fn stories(&self) -> &[Story] {
        &self.stories
    }

    /// The current order.
    pub(crate) fn order(&self) -> &[u32] {
        self.orders.last().expect("there is one from the beginning")
    }

    pub(crate) fn now(&self) -> Known {
        *self.points.last().expect("there is one from the beginning")
    }

    /// What was known at a point.
    pub(crate) fn point(&self, number: u64) -> Known {
        self.points[number as usize]
    }

    /// A writer begins its next commit. Returns the number of the new point.
    pub(crate) fn begin(&mut self, writer: u32) -> u64 {
        self.orders.last_mut().expect("there is one from the beginning").push(writer);
        self.note(Known { begun: self.order().len(), ..self.now() })
    }

    /// The first `count` commits are acknowledged. Returns the number of the new point.
    pub(crate) fn acknowledge(&mut self, count: usize) -> u64 {
        let now = self.now();
        assert!(count <= now.begun, "{count} of {} are acknowledged", now.begun);
        self.note(Known { acknowledged: now.acknowledged.max(count), ..now })
    }

    /// No more than the first `count` commits were acknowledged: what was noted beyond was an answer, and it was no.
    pub(crate) fn withdraw(&mut self, count: usize) {
        let beyond = self.points.iter_mut().rev().take_while(|known| known.acknowledged > count);
        beyond.for_each(|known| known.acknowledged = count);
    }

    /// The node came back with its first `count` commits: those stay, and others follow. Returns the number of the new point.
    pub(crate) fn resume(&mut self, count: usize) -> u64 {
        let order = self.order()[..count].to_vec();
        self.orders.push(order);
        self.note(Known { order: self.orders.len() - 1, begun: count, acknowledged: count })
    }

    fn note(&mut self, known: Known) -> u64 {
        self.points.push(known);
        self.points.len() as u64 - 1
    }

    /// How many commits of each writer a database has, each wholly.
    pub(crate) fn found_in(&self, db: &Db) -> Result<Vec<u64>, Broken> {
        self.stories.iter().map(|story| Ok(story.commits_in(db)?)).collect()
    }

    /// Whether so many commits of each writer are what may be there; how many that is.
    pub(crate) fn judge(&self, known: Known, there: &[u64]) -> Result<usize, Broken> {
        let found = there.iter().sum::<u64>() as usize;
        let Known { order, begun, acknowledged } = known;
        if found > begun {
            return Err(Broken::Invented { begun, found });
        }
        let mut expected = vec![0; self.stories.len()];
        self.orders[order][..found].iter().for_each(|writer| expected[*writer as usize] += 1);
        if expected != there {
            return Err(Broken::Hole { found, expected, there: there.to_vec() });
        }
        if found < acknowledged {
            return Err(Broken::Lost { acknowledged, found });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_holds_what_was_acknowledged_is_right_and_nothing_else_is() {
        let mut oracle = Oracle::new(vec![Story::new(1, 0), Story::new(1, 1)]);
        for writer in [0, 1, 1, 0] {
            oracle.begin(writer);
        }
        oracle.acknowledge(2);
        let known = oracle.now();
        assert_eq!(oracle.judge(known, &[1, 1]).unwrap(), 2);
        assert_eq!(oracle.judge(known, &[1, 2]).unwrap(), 3);
        assert!(matches!(oracle.judge(known, &[1, 0]), Err(Broken::Lost { acknowledged: 2, found: 1 })));
        assert!(matches!(oracle.judge(known, &[2, 1]), Err(Broken::Hole { found: 3, .. })));
        assert!(matches!(oracle.judge(known, &[3, 2]), Err(Broken::Invented { begun: 4, found: 5 })));
        oracle.resume(3);
        oracle.begin(1);
        assert_eq!(oracle.judge(oracle.now(), &[1, 3]).unwrap(), 4);
        assert!(
            matches!(oracle.judge(oracle.now(), &[2, 2]), Err(Broken::Hole { .. })),
            "that one is of another order"
        );
    }
}
