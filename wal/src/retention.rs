//! Which segments must stay, and because of whom. A pure function of who still needs the log; recycling is `Log`'s business.

use std::fmt;

use crate::lsn::Lsn;

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
    /// Where recovery starts.
    pub redo: Lsn,
    /// How far the archive has the log; `None` if there is no archive.
    pub archived: Option<Lsn>,
    /// Slots: name and restart LSN.
    pub slots: Vec<(String, Lsn)>,
    /// Readers that hold the log for a while.
    pub readers: Vec<(String, Lsn)>,
    /// Bytes of log a slot may hold when there is no archive; beyond it the slot loses its claim.
    pub slot_bytes_max: u64,
    /// Where the log ends.
    pub end: Lsn,
}

/// What may go and what holds the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Log before this may go.
    pub keep_from: Lsn,
    /// Who holds it there.
    pub holder: Holder,
    /// Slots that asked for more than they may hold. Their consumers are fed from elsewhere.
    pub overdrawn: Vec<String>,
}

/// Decides. A slot never holds log that is archived: there its consumer gets it from the archive.
pub fn decide(facts: &RetentionFacts) -> Retention {
    let mut holders = vec![Holder { reason: Reason::Checkpoint, from: facts.redo }];
    let mut overdrawn = Vec::new();
    if let Some(archived) = facts.archived {
        holders.push(Holder { reason: Reason::Archive, from: archived });
    }
    for (name, restart) in &facts.slots {
        let from = (*restart).max(facts.archived.unwrap_or(Lsn::ZERO));
        if facts.end.distance_from(from) > facts.slot_bytes_max {
            overdrawn.push(name.clone());
        } else {
            holders.push(Holder { reason: Reason::Slot(name.clone()), from });
        }
    }
    holders
        .extend(facts.readers.iter().map(|(name, from)| Holder { reason: Reason::Reader(name.clone()), from: *from }));
    let holder = holders.into_iter().min_by_key(|holder| holder.from).expect("the checkpoint always holds");
    Retention { keep_from: holder.from, holder, overdrawn }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RetentionFacts {
        RetentionFacts {
            redo: Lsn::new(900),
            archived: None,
            slots: vec![],
            readers: vec![],
            slot_bytes_max: 500,
            end: Lsn::new(1000),
        }
    }

    #[test]
    fn the_slowest_holder_decides_and_is_named() {
        let slots = vec![("a".to_owned(), Lsn::new(950)), ("b".to_owned(), Lsn::new(700))];
        let decision = decide(&RetentionFacts { slots, ..facts() });
        assert_eq!(decision.keep_from, Lsn::new(700));
        assert_eq!(decision.holder.reason, Reason::Slot("b".to_owned()));
    }

    #[test]
    fn an_absent_standby_holds_nothing_that_is_archived() {
        let slots = vec![("absent".to_owned(), Lsn::new(10))];
        let decision = decide(&RetentionFacts { slots, archived: Some(Lsn::new(950)), ..facts() });
        assert_eq!(decision.keep_from, Lsn::new(900));
        assert_eq!(decision.holder.reason, Reason::Checkpoint);
        assert!(decision.overdrawn.is_empty());
    }

    #[test]
    fn a_slot_without_an_archive_holds_only_so_much() {
        let slots = vec![("absent".to_owned(), Lsn::new(10))];
        let decision = decide(&RetentionFacts { slots, ..facts() });
        assert_eq!(decision.overdrawn, ["absent"]);
        assert_eq!(decision.keep_from, Lsn::new(900));
    }

    #[test]
    fn what_is_not_archived_stays() {
        let decision = decide(&RetentionFacts { archived: Some(Lsn::new(100)), ..facts() });
        assert_eq!(decision.keep_from, Lsn::new(100));
        assert_eq!(decision.holder.reason, Reason::Archive);
    }
}
