//! Which segments must stay, and because of whom. A pure function of who still needs the log; recycling is `Log`'s business.

use std::fmt;

use crate::lsn::Lsn;
use crate::mutant::{Mutant, planted};

/// Somebody who still needs the log from a position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Why it is held.
    pub reason: Reason,
    /// The oldest position still needed.
    pub from: Lsn,
}

/// Why log is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Crash recovery starts there.
    Checkpoint,
    /// The archive does not have it yet.
    Archive,
    /// A slot's consumer has not confirmed it, and nowhere else can it be had.
    Slot(String),
    /// Somebody is reading it right now, such as a checkpoint being copied.
    Reader(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Archive => f.write_str("archive"),
            Self::Slot(name) => write!(f, "slot {name}"),
            Self::Reader(name) => write!(f, "reader {name}"),
        }
    }
}

/// The facts.
#[derive(Clone, Debug)]
pub struct RetentionFacts {
    /// Where opening this node starts to read.
    pub log_start: Lsn,
    /// How far the archive has the log; `None` if there is no archive.
    pub archived: Option<Lsn>,
    /// What else is held: slots that may still hold something, readers that are at work.
    pub held: Vec<Holder>,
}

/// Who holds the oldest log that must stay; what lies before it may go.
pub fn decide(facts: &RetentionFacts) -> Holder {
    let checkpoint = Holder { reason: Reason::Checkpoint, from: facts.log_start };
    let archive = facts.archived.map(|from| Holder { reason: Reason::Archive, from });
    let held = facts.held.iter().filter(|_| !planted(Mutant::RetentionIgnoresHolders)).cloned();
    let holders = held.chain(archive).chain([checkpoint]);
    holders.min_by_key(|holder| holder.from).expect("the checkpoint always holds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, from: u64) -> Holder {
        Holder { reason: Reason::Slot(name.to_owned()), from: Lsn::new(from) }
    }

    #[test]
    fn the_slowest_holder_decides_and_is_named() {
        let held = vec![slot("a", 950), slot("b", 700)];
        let decision = decide(&RetentionFacts { log_start: Lsn::new(900), archived: None, held });
        assert_eq!(decision, slot("b", 700));
        assert_eq!(decision.reason.to_string(), "slot b");
    }

    #[test]
    fn what_is_not_archived_stays_and_what_recovery_needs_stays_anyway() {
        let facts =
            |archived| RetentionFacts { log_start: Lsn::new(900), archived: Some(Lsn::new(archived)), held: vec![] };
        assert_eq!(decide(&facts(100)), Holder { reason: Reason::Archive, from: Lsn::new(100) });
        assert_eq!(decide(&facts(950)), Holder { reason: Reason::Checkpoint, from: Lsn::new(900) });
    }
}
