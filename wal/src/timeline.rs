//! Which history the log holds: the timelines a node's log has gone through, and where each forked from the one before.
//! The list says for every LSN to which timeline it belongs, and which bytes are void.

use crate::format::Position;
use crate::identity::{TimelineId, TimelineNonce};
use crate::lsn::{Lsn, SegmentNumber, SegmentSize};

/// One timeline and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineEntry {
    /// Its number.
    pub id: TimelineId,
    /// Tells it from another timeline of the same number.
    pub nonce: TimelineNonce,
    /// Where the parent's history ends for us. [`Position::ZERO`] for a cluster's first timeline.
    pub fork: Position,
    /// Where its own bytes begin: the first segment boundary at or after the fork.
    /// `fork.lsn <= begin`.
    pub begin: Lsn,
}

/// The timelines of one history, oldest first. Never empty.
/// Ids, begins and forks rise; each fork lies at or after the previous begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    entries: Vec<TimelineEntry>,
}

/// Timelines in one history; a cluster promoted daily reaches it in eleven years.
pub const TIMELINES_MAX: usize = 4096;

/// The entries do not form a history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timeline {timeline} does not continue the history before it: {why}")]
pub struct InvalidHistory {
    /// The entry that does not fit.
    pub timeline: TimelineId,
    /// Which rule it breaks.
    pub why: &'static str,
}

impl TimelineHistory {
    /// The history of a new cluster.
    pub fn first(nonce: TimelineNonce) -> Self {
        let entry = TimelineEntry { id: TimelineId::FIRST, nonce, fork: Position::ZERO, begin: Lsn::ZERO };
        Self { entries: vec![entry] }
    }

    /// A history from its stored entries.
    pub fn from_entries(entries: Vec<TimelineEntry>, size: SegmentSize) -> Result<Self, InvalidHistory> {
        let wrong = |entry: &TimelineEntry, why| InvalidHistory { timeline: entry.id, why };
        let Some(first) = entries.first() else {
            return Err(InvalidHistory { timeline: TimelineId(0), why: "the history is empty" });
        };
        if entries.len() > TIMELINES_MAX {
            return Err(wrong(first, "there are too many timelines"));
        }
        for (index, entry) in entries.iter().enumerate() {
            if !entry.fork.lsn.is_reachable() {
                return Err(wrong(entry, "it forks where no log reaches"));
            }
            if entry.begin != size.boundary_at_or_after(entry.fork.lsn) {
                return Err(wrong(entry, "it does not begin at the first segment boundary after its fork"));
            }
            if index > 0 {
                let parent = &entries[index - 1];
                if entry.id <= parent.id {
                    return Err(wrong(entry, "its number does not rise"));
                }
                if entry.fork.lsn < parent.begin || entry.begin < parent.begin {
                    return Err(wrong(entry, "it forks before its parent begins"));
                }
            }
        }
        Ok(Self { entries })
    }

    /// This history continued by a promotion: `id` forks from the current timeline at `fork`.
    pub fn forked(
        &self,
        id: TimelineId,
        nonce: TimelineNonce,
        fork: Position,
        size: SegmentSize,
    ) -> Result<Self, InvalidHistory> {
        let mut entries = self.entries.clone();
        entries.push(TimelineEntry { id, nonce, fork, begin: size.boundary_at_or_after(fork.lsn) });
        Self::from_entries(entries, size)
    }

    /// All timelines, oldest first.
    pub fn entries(&self) -> &[TimelineEntry] {
        &self.entries
    }

    /// The newest.
    pub fn current(&self) -> &TimelineEntry {
        self.entries.last().expect("a history is never empty")
    }

    /// The entry with this number.
    pub fn find(&self, id: TimelineId) -> Option<&TimelineEntry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// Whose bytes fill this segment: the newest timeline that began at or before it.
    pub fn of_segment(&self, segment: SegmentNumber, size: SegmentSize) -> &TimelineEntry {
        let start = size.start_of(segment);
        self.entries.iter().rev().find(|entry| entry.begin <= start).expect("the first timeline begins at 0")
    }

    /// Where this timeline's history stops being ours: the fork of its successor, or `Lsn::MAX` for the current one.
    pub fn end_of(&self, id: TimelineId) -> Lsn {
        self.fork_after(id).map_or(Lsn::MAX, |fork| fork.lsn)
    }

    /// The fork that ends this timeline's history for us; `None` for the current one.
    pub fn fork_after(&self, id: TimelineId) -> Option<Position> {
        let index = self.entries.iter().position(|entry| entry.id == id)?;
        self.entries.get(index + 1).map(|next| next.fork)
    }

    /// The timeline to which the position `lsn`, an exclusive end, belongs: the oldest one that reaches it.
    pub fn of_position(&self, lsn: Lsn) -> &TimelineEntry {
        let index = self.entries.iter().position(|entry| lsn <= self.end_of(entry.id));
        &self.entries[index.expect("the current timeline has no end")]
    }

    /// Where the byte after the position `lsn` lies: `lsn` itself, or past the void if a fork is there.
    pub fn next_byte(&self, lsn: Lsn) -> Lsn {
        let forked = self.entries[1..].iter().rev().find(|entry| entry.fork.lsn == lsn);
        forked.map_or(lsn, |entry| entry.begin)
    }

    /// Bytes that exist between two positions, voids left out. 0 if `to` is not after `from`.
    pub fn bytes_between(&self, from: Lsn, to: Lsn) -> u64 {
        let voids = self.entries[1..].iter().map(|entry| {
            let (start, end) = (entry.fork.lsn.max(from), entry.begin.min(to));
            end.distance_from(start)
        });
        to.distance_from(from).saturating_sub(voids.sum())
    }

    /// The newest position both histories have gone through, as far as their timelines tell.
    /// `Lsn::MAX` if one history is the other; `None` if they share nothing.
    pub fn common_end(&self, other: &Self) -> Option<Lsn> {
        let shared = self.entries.iter().zip(&other.entries).take_while(|(a, b)| a.id == b.id && a.nonce == b.nonce);
        let last = shared.last()?.0.id;
        Some(self.end_of(last).min(other.end_of(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Chain;

    const SIZE: SegmentSize = SegmentSize::MIN;

    fn history() -> TimelineHistory {
        let fork = Position { lsn: Lsn::new(70_000), chain: Chain(7) };
        TimelineHistory::first(TimelineNonce::from_bytes([1; 16]))
            .forked(TimelineId(2), TimelineNonce::from_bytes([2; 16]), fork, SIZE)
            .unwrap()
    }

    #[test]
    fn a_void_is_skipped_and_does_not_count() {
        let history = history();
        assert_eq!(history.current().begin, Lsn::new(131_072));
        assert_eq!(history.next_byte(Lsn::new(70_000)), Lsn::new(131_072));
        assert_eq!(history.next_byte(Lsn::new(69_000)), Lsn::new(69_000));
        assert_eq!(history.bytes_between(Lsn::new(69_000), Lsn::new(131_172)), 1_100);
        assert_eq!(history.bytes_between(Lsn::new(70_000), Lsn::new(131_072)), 0);
        assert_eq!(history.bytes_between(Lsn::new(5), Lsn::new(4)), 0);
    }

    #[test]
    fn every_segment_and_position_has_one_timeline() {
        let history = history();
        assert_eq!(history.of_segment(SegmentNumber(1), SIZE).id, TimelineId(1));
        assert_eq!(history.of_segment(SegmentNumber(2), SIZE).id, TimelineId(2));
        assert_eq!(history.of_position(Lsn::new(70_000)).id, TimelineId(1));
        assert_eq!(history.of_position(Lsn::new(131_073)).id, TimelineId(2));
    }

    #[test]
    fn two_promotions_from_one_parent_share_only_the_parent() {
        let parent = TimelineHistory::first(TimelineNonce::from_bytes([1; 16]));
        let at = |lsn| Position { lsn: Lsn::new(lsn), chain: Chain(1) };
        let left = parent.forked(TimelineId(2), TimelineNonce::from_bytes([2; 16]), at(100), SIZE).unwrap();
        let right = parent.forked(TimelineId(2), TimelineNonce::from_bytes([3; 16]), at(200), SIZE).unwrap();
        assert_eq!(left.common_end(&right), Some(Lsn::new(100)));
        assert_eq!(parent.common_end(&right), Some(Lsn::new(200)));
        assert_eq!(left.common_end(&left), Some(Lsn::MAX));
        assert_eq!(left.common_end(&TimelineHistory::first(TimelineNonce::from_bytes([9; 16]))), None);
    }

    #[test]
    fn a_fork_beyond_every_log_is_refused_before_its_boundary_is_computed() {
        let fork = Position { lsn: Lsn::MAX, chain: Chain(1) };
        let entry = TimelineEntry { id: TimelineId(2), nonce: TimelineNonce::random(), fork, begin: Lsn::ZERO };
        let first = history().entries()[0];
        let refused = TimelineHistory::from_entries(vec![first, entry], SIZE).unwrap_err();
        assert!(refused.to_string().contains("no log reaches"), "{refused}");
    }

    #[test]
    fn a_history_that_does_not_rise_is_refused() {
        let again = history().forked(TimelineId(2), TimelineNonce::random(), history().current().fork, SIZE);
        assert!(again.is_err());
        let back = history().forked(
            TimelineId(3),
            TimelineNonce::random(),
            Position { lsn: Lsn::new(10), chain: Chain(0) },
            SIZE,
        );
        assert!(back.is_err());
    }
}
