//! Which position enough standbys have confirmed. Policies are `any 2 (a, b, c)` and `first 1 (a, b)`; the rest is counting.
//! Losing the quorum blocks whoever waits for it and nobody else: an answer is never given on fewer standbys than asked for.

use std::fmt;
use std::str::FromStr;

use seawall_wal::Lsn;

use crate::message::{Positions, StandbyName};
use crate::mutant::{Mutant, planted};

/// Whose confirmations count, and how many are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumPolicy {
    /// Any of them, or the first that are connected.
    pub rule: QuorumRule,
    /// How many are needed where the commit level does not say.
    pub count: u32,
    /// The standbys that count. No name twice; at least `count`.
    names: Vec<StandbyName>,
}

/// How the standbys of a policy are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuorumRule {
    /// Any `k` of the list.
    Any,
    /// The first `k` of the list that are connected, in its order.
    First,
}

/// What a remote commit level waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Received and handed to the standby's system.
    Write,
    /// On its disk.
    Flush,
    /// Shown to its readers.
    Replay,
}

/// A standby as the policy sees it.
#[derive(Clone, Debug)]
pub struct Voter<'a> {
    /// Its name.
    pub name: &'a StandbyName,
    /// The furthest it ever confirmed.
    pub positions: Positions,
    /// Whether it is there now.
    pub connected: bool,
}

/// More standbys are asked for than the policy names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} standbys are asked for, but only {named} count ({policy})")]
pub struct TooFewNamed {
    /// How many the level wants.
    pub asked: u32,
    /// How many are named.
    pub named: usize,
    policy: String,
}

/// The text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a quorum policy: {why}; expected for example `any 1 (a, b)` or `first 2 (a, b, c)`")]
pub struct ParsePolicyError {
    text: String,
    why: &'static str,
}

impl QuorumPolicy {
    /// A policy if it can ever be met: no name twice, and 1 to as many needed as named.
    pub fn new(rule: QuorumRule, count: u32, names: Vec<StandbyName>) -> Result<Self, &'static str> {
        let twice = names.iter().enumerate().any(|(index, name)| names[..index].contains(name));
        match () {
            () if twice => Err("a standby is named twice"),
            () if count == 0 => Err("at least one standby must be needed"),
            () if count as usize > names.len() => Err("more standbys are needed than named"),
            () => Ok(Self { rule, count, names }),
        }
    }

    /// The standbys that count.
    pub fn names(&self) -> &[StandbyName] {
        &self.names
    }

    /// The position `count` standbys have confirmed at `stage`, or `None` if fewer have confirmed anything or, under
    /// `first`, are connected. May step back when a preferred standby returns; what was confirmed stays confirmed, so
    /// callers keep the furthest.
    pub fn confirmed(&self, stage: Stage, count: u32, voters: &[Voter<'_>]) -> Result<Option<Lsn>, TooFewNamed> {
        if count == 0 || count as usize > self.names.len() {
            return Err(TooFewNamed { asked: count, named: self.names.len(), policy: self.to_string() });
        }
        let found = |name| voters.iter().find(|voter| voter.name == name || planted(Mutant::StrangersConfirm));
        let named = self.names.iter().filter_map(found);
        let position = |voter: &Voter<'_>| match stage {
            Stage::Write => voter.positions.write,
            Stage::Flush => voter.positions.flush,
            Stage::Replay => voter.positions.replay,
        };
        let count = if planted(Mutant::OneConfirmationIsEnough) { 1 } else { count as usize };
        Ok(match self.rule {
            // A standby that left still has on disk what it confirmed.
            QuorumRule::Any => {
                let mut positions: Vec<_> = named.map(position).collect();
                positions.sort_unstable_by(|a, b| b.cmp(a));
                positions.get(count - 1).copied()
            }
            QuorumRule::First => {
                let chosen: Vec<_> = named.filter(|voter| voter.connected).take(count).map(position).collect();
                if chosen.len() == count { chosen.into_iter().min() } else { None }
            }
        })
    }

    /// Whether enough of the named standbys are connected for `count` new confirmations.
    pub fn is_held(&self, count: u32, voters: &[Voter<'_>]) -> bool {
        let there = voters.iter().filter(|voter| voter.connected && self.names.contains(voter.name)).count();
        there >= count as usize
    }
}

impl fmt::Display for QuorumPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.rule {
            QuorumRule::Any => "any",
            QuorumRule::First => "first",
        };
        let names: Vec<_> = self.names.iter().map(StandbyName::as_str).collect();
        write!(f, "{rule} {} ({})", self.count, names.join(", "))
    }
}

impl FromStr for QuorumPolicy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, ParsePolicyError> {
        let wrong = |why| ParsePolicyError { text: text.to_owned(), why };
        let (head, names) = text.split_once('(').ok_or(wrong("the list of standbys is missing"))?;
        let names = names.trim_end().strip_suffix(')').ok_or(wrong("the list of standbys is not closed"))?;
        let mut head = head.split_whitespace();
        let rule = match head.next() {
            Some("any") => QuorumRule::Any,
            Some("first") => QuorumRule::First,
            _ => return Err(wrong("it must start with `any` or `first`")),
        };
        let count =
            head.next().and_then(|count| count.parse().ok()).ok_or(wrong("the number of standbys is missing"))?;
        if head.next().is_some() {
            return Err(wrong("there is too much before the list"));
        }
        let names = names.split(',').map(|name| StandbyName::new(name.trim()));
        let names =
            names.collect::<Result<Vec<_>, _>>().map_err(|_| wrong("a name in the list cannot name a standby"))?;
        Self::new(rule, count, names).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> QuorumPolicy {
        text.parse().unwrap()
    }

    fn confirmed(text: &str, count: u32, flushes: &[(&str, u64, bool)]) -> Option<u64> {
        let names: Vec<_> = flushes.iter().map(|(name, ..)| StandbyName::new(name).unwrap()).collect();
        let voters: Vec<_> = flushes
            .iter()
            .zip(&names)
            .map(|((_, flush, connected), name)| {
                let positions = Positions { write: Lsn::MAX, flush: Lsn::new(*flush), replay: Lsn::ZERO };
                Voter { name, positions, connected: *connected }
            })
            .collect();
        policy(text).confirmed(Stage::Flush, count, &voters).unwrap().map(Lsn::offset)
    }

    #[test]
    fn a_policy_survives_its_text() {
        for text in ["any 1 (a, b)", "first 2 (a, b, c)", "any 3 (x.1, y_2, z-3)"] {
            assert_eq!(policy(text).to_string(), text);
        }
        assert_eq!(policy("  any 1(a,b) ").to_string(), "any 1 (a, b)");
    }

    #[test]
    fn a_policy_that_can_never_be_met_is_refused() {
        for text in [
            "",
            "any",
            "any 1",
            "any 1 (a",
            "any 0 (a)",
            "any 2 (a)",
            "any 1 (a, a)",
            "all 1 (a)",
            "any 1 ()",
            "any 1 2 (a)",
        ] {
            assert!(text.parse::<QuorumPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn any_counts_whoever_confirmed_most_even_if_gone_since() {
        let flushes = [("a", 30, false), ("b", 10, true), ("c", 20, true)];
        assert_eq!(confirmed("any 1 (a, b, c)", 1, &flushes), Some(30));
        assert_eq!(confirmed("any 1 (a, b, c)", 2, &flushes), Some(20));
        assert_eq!(confirmed("any 1 (a, b, c)", 3, &flushes), Some(10));
    }

    #[test]
    fn first_waits_for_the_preferred_ones_that_are_there() {
        let flushes = [("a", 5, true), ("b", 30, false), ("c", 20, true)];
        assert_eq!(confirmed("first 1 (a, b, c)", 1, &flushes), Some(5));
        assert_eq!(confirmed("first 1 (b, c, a)", 1, &flushes), Some(20));
        assert_eq!(confirmed("first 2 (a, b, c)", 2, &flushes), Some(5));
        assert_eq!(confirmed("first 3 (a, b, c)", 3, &flushes), None);
    }

    #[test]
    fn standbys_outside_the_policy_do_not_count() {
        assert_eq!(confirmed("any 1 (a)", 1, &[("z", 99, true)]), None);
        assert_eq!(confirmed("any 1 (a)", 1, &[("z", 99, true), ("a", 3, true)]), Some(3));
    }

    #[test]
    fn asking_for_more_than_are_named_is_an_error_not_a_wait() {
        let error = policy("any 1 (a, b)").confirmed(Stage::Write, 3, &[]).unwrap_err();
        assert_eq!(error.to_string(), "3 standbys are asked for, but only 2 count (any 1 (a, b))");
    }

    #[test]
    fn confirmations_never_exceed_what_count_standbys_have() {
        // Every assignment of positions 0..4 to three standbys, every count: compare with counting by hand.
        for code in 0..64_u64 {
            let flushes = [("a", code % 4, true), ("b", code / 4 % 4, true), ("c", code / 16, true)];
            for count in 1..=3 {
                let at = confirmed("any 1 (a, b, c)", count, &flushes).unwrap();
                let reached = |lsn: u64| flushes.iter().filter(|(_, flush, _)| *flush >= lsn).count();
                assert!(reached(at) >= count as usize && reached(at + 1) < count as usize);
            }
        }
    }
}
