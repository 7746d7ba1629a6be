//! How two logs stand to each other: may a node follow this upstream, must it rewind, or is it the upstream that is behind?
//! Both sides of the handshake and a returning old primary ask here; histories are compared, and the chain where it is known.

use seawall_wal::{Chain, ClusterId, Lsn, Position, TimelineHistory, TimelineId};

use crate::mutant::{Mutant, planted};

/// How a node that wants to follow stands to the one it would follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Its log is a prefix of the upstream's history: it may follow, from this byte on.
    Follows {
        /// The first byte it needs: its position, or past the void if it stands at a fork.
        start: Lsn,
    },
    /// Its log goes on where the upstream's history forked.
    Diverged {
        /// The last position both have gone through; the chain is the fork's where a fork names it.
        common: Position,
    },
    /// It knows a newer timeline than the upstream does.
    UpstreamBehind {
        /// The newest timeline the upstream knows.
        current: TimelineId,
    },
    /// They share no history at all.
    Unrelated,
}

/// Compares a node at `position` on history `ours` with the history of the one it would follow.
///
/// Histories tell about timelines only. Whether the *bytes* agree up to `position` is checked by its chain, by whoever
/// has the record there.
pub fn relate(ours: &TimelineHistory, position: Position, theirs: &TimelineHistory) -> Relation {
    let Some(common) = ours.common_end(theirs) else {
        return Relation::Unrelated;
    };
    let shared = |history: &TimelineHistory| {
        let last = ours.entries().iter().zip(theirs.entries()).take_while(|(a, b)| a.id == b.id && a.nonce == b.nonce);
        history.entries().get(last.count()).copied()
    };
    let (ours_next, theirs_next) = (shared(ours), shared(theirs));
    if position.lsn > common {
        // Both may know the fork; theirs says what the chain was where we part.
        let chain =
            theirs_next.filter(|entry| entry.fork.lsn == common).map_or(Chain::default(), |entry| entry.fork.chain);
        return match (ours_next, theirs_next) {
            (Some(_), None) => Relation::UpstreamBehind { current: theirs.current().id },
            _ => Relation::Diverged { common: Position { lsn: common, chain } },
        };
    }
    match (ours_next, theirs_next) {
        // We know a promotion they have not heard of: they must not feed us, wherever we stand.
        (Some(_), None) if !planted(Mutant::FedByAnOlderTimeline) => {
            Relation::UpstreamBehind { current: theirs.current().id }
        }
        // Two promotions from one parent. We stand before both forks, so either may be followed by the log alone; that
        // we already know the other one decides only if it is the newer.
        (Some(our), Some(their)) if our.id > their.id && ours.current().id > theirs.current().id => {
            Relation::UpstreamBehind { current: theirs.current().id }
        }
        (_, Some(their)) if position.lsn == their.fork.lsn && position.chain != their.fork.chain => {
            // The same place, other bytes: written here after the last thing the new primary had seen differently.
            Relation::Diverged { common: Position { lsn: common, chain: their.fork.chain } }
        }
        _ => Relation::Follows { start: theirs.next_byte(position.lsn) },
    }
}

/// What a node that was primary must do when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// No newer timeline exists: it may go on as primary.
    StillCurrent,
    /// It was superseded, but has nothing the new history lacks: it may follow as it is.
    Follow {
        /// The first byte it needs.
        start: Lsn,
    },
    /// It was superseded and holds records the new history does not: they must be set aside first.
    Rewind {
        /// Where its log must be taken back to.
        fork: Position,
    },
    /// What it found belongs to another cluster.
    WrongCluster,
}

/// Decides what a returning primary does, given the newest history anybody claims.
pub fn on_return(
    cluster: ClusterId,
    ours: &TimelineHistory,
    position: Position,
    their_cluster: ClusterId,
    newest: &TimelineHistory,
) -> Return {
    if cluster != their_cluster {
        return Return::WrongCluster;
    }
    if ours == newest {
        return Return::StillCurrent;
    }
    match relate(ours, position, newest) {
        Relation::Follows { start } => Return::Follow { start },
        Relation::Diverged { common } => Return::Rewind { fork: common },
        Relation::UpstreamBehind { .. } => Return::StillCurrent,
        Relation::Unrelated => Return::WrongCluster,
    }
}

#[cfg(test)]
mod tests {
    use seawall_wal::{SegmentSize, TimelineNonce};

    use super::*;

    fn at(lsn: u64) -> Position {
        Position { lsn: Lsn::new(lsn), chain: Chain(lsn) }
    }

    fn first() -> TimelineHistory {
        TimelineHistory::first(TimelineNonce::from_bytes([1; 16]))
    }

    fn forked(id: u32, nonce: u8, fork: u64) -> TimelineHistory {
        first().forked(TimelineId(id), TimelineNonce::from_bytes([nonce; 16]), at(fork), SegmentSize::MIN).unwrap()
    }

    #[test]
    fn a_node_behind_follows_from_where_it_stands() {
        assert_eq!(relate(&first(), at(500), &first()), Relation::Follows { start: Lsn::new(500) });
        assert_eq!(relate(&first(), at(500), &forked(2, 2, 1_000)), Relation::Follows { start: Lsn::new(500) });
    }

    #[test]
    fn a_node_at_the_fork_goes_on_past_the_void() {
        let start = Lsn::new(65_536);
        assert_eq!(relate(&first(), at(1_000), &forked(2, 2, 1_000)), Relation::Follows { start });
    }

    #[test]
    fn a_node_past_the_fork_has_diverged_there() {
        let diverged = Relation::Diverged { common: at(1_000) };
        assert_eq!(relate(&first(), at(1_001), &forked(2, 2, 1_000)), diverged);
        assert_eq!(relate(&forked(2, 3, 2_000), at(66_000), &forked(2, 2, 1_000)), diverged);
    }

    #[test]
    fn the_same_place_with_other_bytes_has_diverged() {
        let position = Position { lsn: Lsn::new(1_000), chain: Chain(5) };
        assert!(matches!(relate(&first(), position, &forked(2, 2, 1_000)), Relation::Diverged { .. }));
    }

    #[test]
    fn nobody_is_fed_by_an_older_timeline_than_he_knows() {
        let behind = Relation::UpstreamBehind { current: TimelineId(1) };
        assert_eq!(relate(&forked(2, 2, 1_000), at(66_000), &first()), behind);
        assert_eq!(relate(&forked(2, 2, 1_000), at(500), &first()), behind);
        let behind = Relation::UpstreamBehind { current: TimelineId(2) };
        assert_eq!(relate(&forked(3, 3, 1_000), at(500), &forked(2, 2, 1_000)), behind);
    }

    #[test]
    fn strangers_are_told_apart_by_the_nonce() {
        let stranger = TimelineHistory::first(TimelineNonce::from_bytes([9; 16]));
        assert_eq!(relate(&first(), at(0), &stranger), Relation::Unrelated);
    }

    #[test]
    fn a_returning_primary_learns_what_became_of_it() {
        let (ours, theirs) = (ClusterId::from_bytes([1; 16]), ClusterId::from_bytes([2; 16]));
        let newest = forked(2, 2, 1_000);
        let decide = |position, newest: &_| on_return(ours, &first(), position, ours, newest);
        assert_eq!(decide(at(2_000), &first()), Return::StillCurrent);
        assert_eq!(decide(at(1_000), &newest), Return::Follow { start: Lsn::new(65_536) });
        assert_eq!(decide(at(2_000), &newest), Return::Rewind { fork: at(1_000) });
        assert_eq!(on_return(ours, &first(), at(5), theirs, &first()), Return::WrongCluster);
        assert_eq!(on_return(ours, &newest, at(66_000), ours, &first()), Return::StillCurrent);
    }
}
