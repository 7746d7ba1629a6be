//! What a merge keeps of the versions of a key: what a reader at or above the floor can still need, and nothing twice. At the
//! floor operands become part of the value they change, and of values that have ended there nothing is left, or their end.

use seawall_wal::{Lsn, Timestamp, end_turn};

use crate::error::Result;
use crate::marks::{Moment, second_of};
use crate::mutant::{Mutant, planted};
use crate::operator::{MergeOperator, TooLong};
use crate::range_deletes::RangeDeletes;
use crate::resolve::{Folded, fold};
use crate::table::{Content, EntryRef};

/// Operands that wait for what they change, in bytes. If there are more, the newest go on as they are.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// What there may be of its keys outside of a merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outside {
    /// Anything, on deeper levels.
    pub(crate) older: bool,
    /// Operands at or below the floor, above.
    pub(crate) newer_operands: bool,
}

/// Takes the versions of all keys in their order and hands on those that survive, in order, too.
#[derive(Debug)]
pub(crate) struct Survival<'a> {
    floor: Moment,
    outside: Outside,
    /// The deletes of ranges among what is merged.
    range_deletes: &'a RangeDeletes,
    key: Vec<u8>,
    /// Versions of the key before this LSN are hidden for readers at the floor.
    hidden_before: Lsn,
    /// Whether a version at or below the floor was met that does not build on older ones: readers need none older.
    settled: bool,
    /// Operands at or below the floor whose base was not met yet, newest first.
    waiting: Vec<Operand>,
    waiting_bytes: usize,
    /// Whether operands of the key at or below the floor went on as they are.
    let_go: bool,
    /// Versions since the thread's turn was last looked at: whole stretches of them may be dropped.
    since_turn: u32,
}

/// Versions between two such looks.
const TURN_VERSIONS: u32 = 128;

#[derive(Debug)]
struct Operand {
    lsn: Lsn,
    operator: MergeOperator,
    time: Timestamp,
    bytes: Vec<u8>,
}

impl Operand {
    fn content(&self) -> Content<'_> {
        Content::Merge { operator: self.operator, time: self.time, operand: &self.bytes }
    }

    fn weight(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

impl<'a> Survival<'a> {
    pub(crate) fn new(floor: Moment, outside: Outside, range_deletes: &'a RangeDeletes) -> Self {
        Self {
            floor,
            outside,
            range_deletes,
            key: Vec::new(),
            hidden_before: Lsn::ZERO,
            settled: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
            let_go: false,
            since_turn: 0,
        }
    }

    /// Takes the next version.
    pub(crate) fn take(&mut self, entry: EntryRef<'_>, mut keep: impl FnMut(EntryRef<'_>) -> Result<()>) -> Result<()> {
        self.since_turn += 1;
        if self.since_turn >= TURN_VERSIONS {
            self.since_turn = 0;
            end_turn();
        }
        if self.key != entry.key {
            self.finish(&mut keep)?;
            self.key.clear();
            self.key.extend_from_slice(entry.key);
            self.settled = false;
            self.let_go = false;
            let cover = self.range_deletes.over(entry.key, self.floor.lsn);
            self.hidden_before = cover.map_or(Lsn::ZERO, |cover| cover.lsn);
        }
        if entry.lsn < self.hidden_before {
            self.settled = true;
            return self.finish(keep);
        }
        let EntryRef { lsn, content, .. } = entry;
        if let Content::Merge { operator, time, operand } = content {
            let folds = lsn <= self.floor.lsn || planted(Mutant::OperandsFoldedAcrossTheFloor);
            return match folds {
                true if self.settled => Ok(()),
                true => self.wait(Operand { lsn, operator, time, bytes: operand.to_vec() }, keep),
                false => keep(entry),
            };
        }
        if lsn > self.floor.lsn {
            return keep(entry);
        }
        if std::mem::replace(&mut self.settled, true) {
            return Ok(());
        }
        if self.waiting.is_empty() {
            return self.keep_base(lsn, content, keep);
        }
        let base = match content {
            Content::Large(large) => large.read()?,
            content => content,
        };
        match self.fold(Folded::of(base)) {
            Ok(Some((lsn, folded))) => self.keep_base(lsn, folded.content(), keep),
            Ok(None) => self.keep_base(lsn, content, keep),
            // Readers are told; until it is put or removed nothing is lost.
            Err(TooLong { .. }) => {
                self.let_go(&mut keep)?;
                keep(entry)
            }
        }
    }

    /// Ends the key, and with the last one all.
    pub(crate) fn finish(&mut self, mut keep: impl FnMut(EntryRef<'_>) -> Result<()>) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if !self.outside.older || self.hidden_before > Lsn::ZERO || planted(Mutant::OperandsWithoutTheirBase) {
            // They change a key that is not there.
            if let Ok(Some((lsn, folded))) = self.fold(None) {
                return self.keep_base(lsn, folded.content(), keep);
            }
        }
        self.let_go(&mut keep)
    }

    /// Keeps a version that does not build on others, and is the newest at or below the floor.
    fn keep_base(
        &self,
        lsn: Lsn,
        content: Content<'_>,
        mut keep: impl FnMut(EntryRef<'_>) -> Result<()>,
    ) -> Result<()> {
        let content = match content.expiry() {
            // Operands from before its end, which are elsewhere or went on, must find that they ended with it.
            Some(expiry) if self.floor.is_past(expiry) && self.meets_operands() => {
                Content::Expiring { expiry, value: b"" }
            }
            Some(expiry) if self.floor.is_past(expiry) => Content::Delete,
            _ => content,
        };
        match content == Content::Delete && !self.outside.older {
            true => Ok(()),
            false => keep(EntryRef { key: &self.key, lsn, content }),
        }
    }

    fn meets_operands(&self) -> bool {
        (self.outside.newer_operands || self.let_go) && !planted(Mutant::EndsForgottenBelowOperands)
    }

    /// Adds an operand, older than all that wait.
    fn wait(&mut self, older: Operand, keep: impl FnMut(EntryRef<'_>) -> Result<()>) -> Result<()> {
        // Those of one second meet the same value, so that one that does what both do takes their place.
        if let Some(newer) = self.waiting.last_mut()
            && newer.operator == older.operator
            && second_of(newer.time) == second_of(older.time)
            && newer.bytes.len() + older.bytes.len() <= WAITING_BYTES_MAX
            && let Ok(combined) = newer.operator.combine(&older.bytes, &newer.bytes)
        {
            self.waiting_bytes = self.waiting_bytes + combined.len() - newer.bytes.len();
            newer.bytes = combined;
        } else {
            self.waiting_bytes += older.weight();
            self.waiting.push(older);
        }
        if self.waiting_bytes > WAITING_BYTES_MAX { self.let_go(keep) } else { Ok(()) }
    }

    /// Hands on what waits as it is.
    fn let_go(&mut self, mut keep: impl FnMut(EntryRef<'_>) -> Result<()>) -> Result<()> {
        self.waiting_bytes = 0;
        self.let_go |= !self.waiting.is_empty();
        let Self { waiting, key, .. } = self;
        waiting.drain(..).try_for_each(|operand| keep(EntryRef { key, lsn: operand.lsn, content: operand.content() }))
    }

    /// What the operands that wait, if any, make of a value, as one version. If that cannot be, they still wait.
    fn fold(&mut self, base: Option<Folded>) -> Result<Option<(Lsn, Folded)>, TooLong> {
        let Some(newest) = self.waiting.first() else { return Ok(None) };
        let lsn = newest.lsn;
        let mut folded = base;
        if planted(Mutant::ExpiryAtTheFloorForOperands) {
            folded = folded.filter(|value| value.expiry.is_none_or(|expiry| !self.floor.is_past(expiry)));
        }
        for operand in self.waiting.iter().rev() {
            folded = Some(fold(folded, operand.operator, operand.time, &operand.bytes)?);
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(folded.map(|folded| (lsn, folded)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::MERGED_LEN_MAX;
    use crate::mutant::with_mutant;
    use crate::range_deletes::Removal;

    const SECOND: u64 = 1_000_000;
    /// The floor, and the second it lies in.
    const FLOOR: (u64, u64) = (10, 50);

    /// What is left of versions given newest first, as text.
    fn survivors(bottom: bool, versions: &[(u64, Content<'_>)]) -> Vec<String> {
        survivors_of(bottom, versions, &[])
    }

    fn survivors_of(bottom: bool, versions: &[(u64, Content<'_>)], removals: &[Removal]) -> Vec<String> {
        survivors_below(false, bottom, versions, removals)
    }

    fn survivors_below(
        newer_operands: bool,
        bottom: bool,
        versions: &[(u64, Content<'_>)],
        removals: &[Removal],
    ) -> Vec<String> {
        let floor = Moment { lsn: Lsn::new(FLOOR.0), time: Timestamp(FLOOR.1 * SECOND) };
        let range_deletes = RangeDeletes::new(removals.to_vec());
        let outside = Outside { older: !bottom, newer_operands };
        let mut survival = Survival::new(floor, outside, &range_deletes);
        let mut kept = Vec::new();
        let mut keep = |entry: EntryRef<'_>| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let lsn = entry.lsn.offset();
            kept.push(match entry.content {
                Content::Put(value) => format!("{lsn} put {}", text(value)),
                Content::Delete => format!("{lsn} delete"),
                Content::Large(_) => unreachable!("values are given as they are"),
                Content::Merge { operand, .. } => format!("{lsn} merge {}", text(operand)),
                Content::Expiring { expiry, value } => format!("{lsn} until {} {}", expiry.0 / SECOND, text(value)),
            });
            Ok(())
        };
        for (lsn, content) in versions {
            survival.take(EntryRef { key: b"k", lsn: Lsn::new(*lsn), content: *content }, &mut keep).unwrap();
        }
        survival.finish(&mut keep).unwrap();
        kept
    }

    fn append(second: u64, operand: &[u8]) -> Content<'_> {
        Content::Merge { operator: MergeOperator::Append, time: Timestamp(second * SECOND + 7), operand }
    }

    fn until(second: u64, value: &[u8]) -> Content<'_> {
        Content::Expiring { expiry: Timestamp(second * SECOND), value }
    }

    #[test]
    fn the_newest_version_at_the_floor_survives_and_a_delete_only_above_something() {
        let put = Content::Put(b"v");
        let versions = [(12, put), (11, Content::Delete), (10, put), (9, put)];
        assert_eq!(survivors(true, &versions), ["12 put v", "11 delete", "10 put v"]);
        assert_eq!(survivors(false, &[(12, put), (9, Content::Delete), (8, put)]), ["12 put v", "9 delete"]);
        assert_eq!(survivors(true, &[(12, put), (9, Content::Delete), (8, put)]), ["12 put v"]);
    }

    #[test]
    fn operands_at_the_floor_become_part_of_their_value_and_those_above_stay() {
        let versions = [
            (12, append(52, b"d")),
            (10, append(49, b"c")),
            (9, append(48, b"b")),
            (8, Content::Put(b"a")),
            (7, until(9, b"x")),
        ];
        assert_eq!(survivors(false, &versions), ["12 merge d", "10 put abc"]);
        let on_nothing = [(10, append(49, b"c")), (9, append(48, b"b")), (8, Content::Delete)];
        assert_eq!(survivors(false, &on_nothing), ["10 put bc"]);
    }

    #[test]
    fn operands_without_a_base_are_a_value_at_the_bottom_only() {
        let versions = [(10, append(49, b"c")), (9, append(48, b"b"))];
        assert_eq!(survivors(true, &versions), ["10 put bc"]);
        assert_eq!(survivors(false, &versions), ["10 merge c", "9 merge b"]);
        let of_one_second = [(10, append(49, b"c")), (9, append(49, b"b")), (8, append(48, b"a"))];
        assert_eq!(survivors(false, &of_one_second), ["10 merge bc", "8 merge a"]);
        let planted = with_mutant(Mutant::OperandsWithoutTheirBase, || survivors(false, &versions));
        assert_eq!(planted, ["10 put bc"], "the bug is seen here");
    }

    #[test]
    fn what_has_ended_at_the_floor_is_a_delete_and_what_has_not_ends_in_its_time() {
        assert_eq!(survivors(false, &[(9, until(50, b"a"))]), ["9 delete"]);
        assert_eq!(survivors(true, &[(9, until(50, b"a"))]), [""; 0]);
        assert_eq!(survivors(true, &[(9, until(51, b"a"))]), ["9 until 51 a"]);
        assert_eq!(survivors(true, &[(11, until(50, b"b")), (9, until(51, b"a"))]), ["11 until 50 b", "9 until 51 a"]);
        assert_eq!(survivors(true, &[(10, append(49, b"b")), (9, until(51, b"a"))]), ["10 until 51 ab"]);
        // It had not ended for this operand, and so they ended together.
        assert_eq!(survivors(true, &[(10, append(40, b"b")), (9, until(50, b"a"))]), [""; 0]);
        assert_eq!(survivors(true, &[(10, append(40, b"b")), (9, until(40, b"a"))]), ["10 put b"]);
    }

    #[test]
    fn of_what_has_ended_the_end_is_left_for_operands_that_came_before_it() {
        let ended = [(9, until(50, b"a")), (8, Content::Put(b"older"))];
        for bottom in [false, true] {
            assert_eq!(survivors_below(true, bottom, &ended, &[]), ["9 until 50 "]);
            assert_eq!(survivors_below(true, bottom, &[(9, until(51, b"a"))], &[]), ["9 until 51 a"]);
        }
        let folded = [(10, append(40, b"b")), (9, until(50, b"a"))];
        assert_eq!(survivors_below(true, true, &folded, &[]), ["10 until 50 "]);
        // An operand above, of second 45, makes of it what has ended too; of nothing it would make a value.
        let planted = || survivors_below(true, true, &ended, &[]);
        assert_eq!(with_mutant(Mutant::EndsForgottenBelowOperands, planted), [""; 0], "the bug is seen here");
    }

    #[test]
    fn operands_that_did_not_wait_for_a_value_that_ended_end_with_it() {
        let long = vec![b'x'; WAITING_BYTES_MAX + 1];
        let versions = [(10, append(40, &long)), (9, append(40, b"b")), (8, until(50, b"a"))];
        assert_eq!(survivors(true, &versions)[1..], ["9 until 50 "]);
        let planted = with_mutant(Mutant::EndsForgottenBelowOperands, || survivors(true, &versions));
        assert_eq!(planted.len(), 1, "the bug is seen here: the operand is a value that does not end");
    }

    #[test]
    fn what_would_be_too_long_stays_in_parts() {
        let almost = vec![b'x'; MERGED_LEN_MAX - 1];
        let versions =
            [(10, append(49, b"c")), (9, append(48, b"b")), (8, Content::Put(&almost)), (7, Content::Put(b"a"))];
        let kept: Vec<_> =
            survivors(true, &versions).iter().map(|kept| kept.chars().take(8).collect::<String>()).collect();
        assert_eq!(kept, ["10 merge", "9 merge ", "8 put xx"]);
    }

    #[test]
    fn what_a_range_delete_at_the_floor_hides_is_gone_and_what_one_above_it_hides_stays() {
        let removal = |lsn| Removal::new(b"a", b"z", Lsn::new(lsn));
        let put = Content::Put(b"v");
        let versions = [(12, put), (9, put), (8, put)];
        assert_eq!(survivors_of(false, &versions, &[removal(9)]), ["12 put v", "9 put v"], "of one commit");
        assert_eq!(survivors_of(false, &versions, &[removal(10)]), ["12 put v"]);
        assert_eq!(survivors_of(false, &versions, &[removal(13)]), ["12 put v", "9 put v"]);
        let operands = [(10, append(49, b"c")), (9, append(48, b"b")), (7, Content::Put(b"a"))];
        assert_eq!(survivors_of(false, &operands, &[removal(8)]), ["10 put bc"]);
        assert_eq!(survivors_of(false, &operands[..2], &[removal(8)]), ["10 put bc"], "whatever lies below is hidden");
        assert_eq!(survivors_of(false, &operands, &[removal(10)]), ["10 put c"]);
    }

    #[test]
    fn many_operands_do_not_fill_the_memory() {
        let operand = [b'x'; 1000];
        let versions: Vec<_> = (0..3_000).map(|index| (3_000 - index, append(index, &operand))).collect();
        let floor = Moment { lsn: Lsn::MAX, time: Timestamp(0) };
        let none = RangeDeletes::default();
        let (mut survival, mut kept, mut most) =
            (Survival::new(floor, Outside { older: false, newer_operands: false }, &none), 0, 0);
        for (lsn, content) in versions {
            let keep = |_: EntryRef<'_>| {
                kept += 1;
                Ok(())
            };
            survival.take(EntryRef { key: b"k", lsn: Lsn::new(lsn), content }, keep).unwrap();
            most = most.max(survival.waiting_bytes);
        }
        assert!(most <= WAITING_BYTES_MAX && kept > 1_000 && survival.waiting.len() < 1_500, "{most} {kept}");
    }
}
