//! The one apply path: what a record does to the state. Live commits, crash recovery, standbys and restores all come
//! through here, in the order of LSNs. A record is understood wholly before any of it takes effect.

use std::collections::BTreeMap;

use seawall_wal::{Lsn, Position, Record, RecordKind, Timestamp};

use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::memtable::{AHEAD, MemtableWriter};
use crate::mutant::{Mutant, planted};
use crate::payload::{Action, CommitPayload, KeyspaceChange, Misunderstood, Operation, Promotion};
use crate::range_deletes::{RangeDeletes, Removal};
use crate::resolve::{Folded, fold};
use crate::state::{Applying, State};
use crate::table::Content;

impl State {
    /// Applies a record read from a log. One that was applied before is skipped.
    pub(crate) fn apply_record(&self, record: &Record<'_>) -> Result<()> {
        if record.lsn <= self.applied_lsn() {
            return Ok(());
        }
        self.apply(record.header.kind, record.payload, record.position(), record.header.time)
    }

    /// Applies records read from a log, in order, until the active memtables take so many bytes. Those applied before are
    /// skipped. Says how many it is done with: at least one, if there are any.
    pub(crate) fn apply_records(&self, records: &[Record<'_>], bytes_max: u64) -> Result<usize> {
        let mut done = records.partition_point(|record| record.lsn <= self.applied_lsn());
        while let Some(record) = records.get(done) {
            if record.header.kind == RecordKind::Commit {
                done += self.with_commits(|commits| commits.apply_until(&records[done..], bytes_max))?;
            } else {
                self.apply_record(record)?;
                done += 1;
            }
            if self.view().active.bytes() >= bytes_max {
                break;
            }
        }
        Ok(done)
    }

    /// Applies the next record.
    pub(crate) fn apply(&self, kind: RecordKind, payload: &[u8], position: Position, time: Timestamp) -> Result<()> {
        let misunderstood = |Misunderstood(why)| Error::CorruptPayload { lsn: position.lsn, why };
        match kind {
            RecordKind::Commit => self.with_commits(|commits| commits.apply(payload, position, time)),
            RecordKind::Keyspace => self.applying().advance(position, time, || {
                let change = KeyspaceChange::parse(payload).map_err(misunderstood)?;
                let changed = self.change_catalogue(|catalogue| catalogue.apply(change, position.lsn));
                changed.map_err(|why| misunderstood(Misunderstood(why)))
            }),
            RecordKind::Promotion => {
                self.applying().advance(position, time, || Promotion::parse(payload).map(drop).map_err(misunderstood))
            }
            // They move time and position, nothing else.
            RecordKind::Pad | RecordKind::Time | RecordKind::RestorePoint => {
                self.applying().advance(position, time, || Ok(()))
            }
            RecordKind::MemtableRotate | RecordKind::Checkpoint | RecordKind::Blob => {
                Err(misunderstood(Misunderstood("its kind is reserved for a newer version")))
            }
        }
    }

    /// Takes everything that applying commits needs, once for as many as there are.
    fn with_commits<T>(&self, work: impl FnOnce(&mut Commits<'_>) -> Result<T>) -> Result<T> {
        let applying = self.applying();
        // It cannot be frozen now.
        let view = self.view();
        let writer = view.active.writer();
        self.with_catalogue(|catalogue| work(&mut Commits { state: self, applying, catalogue, writer }))
    }
}

/// Applies commits, and nothing else happens to the state meanwhile.
struct Commits<'a> {
    state: &'a State,
    applying: Applying<'a>,
    catalogue: &'a Catalogue,
    writer: MemtableWriter<'a>,
}

impl Commits<'_> {
    fn apply(&mut self, payload: &[u8], position: Position, time: Timestamp) -> Result<()> {
        let lsn = position.lsn;
        let misunderstood = |Misunderstood(why)| Error::CorruptPayload { lsn, why };
        self.applying.advance(position, time, || {
            let commit = CommitPayload::parse(payload).map_err(misunderstood)?;
            check_keyspaces(self.catalogue, &commit).map_err(misunderstood)?;
            if commit.expires() {
                self.state.mark_time(lsn, time, true);
            }
            let removed_later = commit.deletes_ranges().then(|| removed_later(&commit));
            let mut removals: BTreeMap<KeyspaceId, Vec<Removal>> = BTreeMap::new();
            for (index, operation) in commit.operations().enumerate() {
                if removed_later.as_ref().is_some_and(|removed| removed[index]) {
                    continue;
                }
                if let Action::DeleteRange { end } = operation.action {
                    let removal = Removal::new(operation.key, end, lsn);
                    removals.entry(operation.keyspace).or_default().push(removal);
                    continue;
                }
                if planted(Mutant::DeletesNotApplied) && operation.action == Action::Delete {
                    continue;
                }
                apply_operation(&mut self.writer, operation, lsn, time, commit.count() > 1);
            }
            for (keyspace, removals) in removals {
                self.writer.delete_ranges(keyspace, removals);
            }
            Ok(())
        })
    }

    /// Applies the commits before the first record of another kind, until memtables take so many bytes.
    fn apply_until(&mut self, records: &[Record<'_>], bytes_max: u64) -> Result<usize> {
        let is_commit = |record: &Record<'_>| record.header.kind == RecordKind::Commit;
        let mut done = 0;
        for some in records.chunks(AHEAD) {
            self.anticipate(some);
            for record in some {
                if !is_commit(record) {
                    return Ok(done);
                }
                self.apply(record.payload, record.position(), record.header.time)?;
                done += 1;
                if self.writer.bytes() >= bytes_max {
                    return Ok(done);
                }
            }
        }
        Ok(done)
    }

    /// Has the memtables get ready for records that are about to be applied. It is a guess: of each it looks at the first
    /// operation, and nothing was checked.
    fn anticipate(&self, records: &[Record<'_>]) {
        let mut operations =
            records.iter().filter_map(|record| CommitPayload::first_unchecked(record.payload)).peekable();
        let Some(keyspace) = operations.peek().map(|operation| operation.keyspace) else { return };
        let mut keys: [&[u8]; AHEAD] = [&[]; AHEAD];
        let mut count = 0;
        for operation in operations.filter(|operation| operation.keyspace == keyspace) {
            keys[count] = operation.key;
            count += 1;
        }
        self.writer.anticipate(keyspace, &keys[..count]);
    }
}

fn check_keyspaces(catalogue: &Catalogue, commit: &CommitPayload<'_>) -> Result<(), Misunderstood> {
    let mut last = None;
    for operation in commit.operations() {
        if last != Some(operation.keyspace) {
            let live = catalogue.get(operation.keyspace).is_some_and(|keyspace| keyspace.is_live());
            if !live {
                return Err(Misunderstood("it writes to a keyspace that is not there"));
            }
            last = Some(operation.keyspace);
        }
    }
    Ok(())
}

/// Which operations of a commit are undone by a delete of a range behind them: they share its LSN, and would not be hidden.
fn removed_later(commit: &CommitPayload<'_>) -> Vec<bool> {
    // Here the place of an operation in the commit stands for its LSN.
    let place = |index: usize| Lsn::new(index as u64 + 1);
    let mut removals: BTreeMap<KeyspaceId, Vec<Removal>> = BTreeMap::new();
    for (index, Operation { keyspace, key, action }) in commit.operations().enumerate() {
        if let Action::DeleteRange { end } = action {
            removals.entry(keyspace).or_default().push(Removal::new(key, end, place(index)));
        }
    }
    let deletes: BTreeMap<_, _> =
        removals.into_iter().map(|(keyspace, removals)| (keyspace, RangeDeletes::new(removals))).collect();
    let is_removed = |(index, Operation { keyspace, key, action }): (usize, Operation<'_>)| {
        let newest = || deletes.get(&keyspace)?.over(key, Lsn::MAX);
        !matches!(action, Action::DeleteRange { .. })
            && newest().is_some_and(|cover| cover.lsn > place(index))
            && !planted(Mutant::RangeDeletesSpareTheirCommit)
    };
    commit.operations().enumerate().map(is_removed).collect()
}

/// `others` is whether the commit has other operations, which may have been on the same key.
fn apply_operation(writer: &mut MemtableWriter<'_>, operation: Operation<'_>, lsn: Lsn, time: Timestamp, others: bool) {
    let Operation { keyspace, key, action } = operation;
    let content = match action {
        Action::Put(value) => Content::Put(value),
        Action::Delete => Content::Delete,
        Action::DeleteRange { .. } => unreachable!("ranges are deleted apart from keys"),
        Action::PutFor { ttl_micros, value } => {
            Content::Expiring { expiry: Timestamp(time.0.saturating_add(ttl_micros)), value }
        }
        Action::Merge { operator, operand } => {
            let others = others && !planted(Mutant::OperandsReplaceEachOther);
            let done = others.then(|| writer.done(keyspace, key, lsn)).flatten();
            // All that comes together here was in one payload, which is smaller than the largest value.
            let fits = "a commit makes no value that is too long";
            match done {
                None => Content::Merge { operator, time, operand },
                Some(Content::Merge { operand: earlier, .. }) => {
                    let operand = operator.combine(earlier, operand).expect(fits);
                    return writer.insert(keyspace, key, lsn, Content::Merge { operator, time, operand: &operand });
                }
                Some(before) => {
                    let folded = fold(Folded::of(before), operator, time, operand).expect(fits);
                    return writer.insert(keyspace, key, lsn, folded.content());
                }
            }
        }
    };
    writer.insert(keyspace, key, lsn, content);
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use seawall_wal::format::RecordHeader;
    use seawall_wal::storage::MemoryDisk;
    use seawall_wal::{Chain, ClusterId, SegmentSize};

    use super::*;
    use crate::manifest::{Manifest, TimeMark};
    use crate::memtable::ChunkPool;
    use crate::operator::MergeOperator;
    use crate::payload::CommitBuilder;
    use crate::table::TableStore;

    fn state() -> State {
        let store = TableStore::new(Arc::new(MemoryDisk::new()), Path::new("/db"), 1 << 20);
        let manifest = Manifest::empty(ClusterId::from_bytes([1; 16]));
        State::open(store, &manifest, Path::new("/db/manifest"), ChunkPool::new(1 << 20, false)).unwrap()
    }

    fn commit(number: u32) -> Vec<u8> {
        let mut builder = CommitBuilder::default();
        for operation in 0..1 + number % 3 {
            let key = (number * 7919 % 211 + operation).to_le_bytes();
            let value = number.to_le_bytes();
            let action = match number % 7 {
                0 => Action::Delete,
                1 => Action::PutFor { ttl_micros: 900, value: &value },
                6 if number.is_multiple_of(4) => Action::DeleteRange { end: b"" },
                2 => Action::Merge { operator: MergeOperator::Append, operand: &value },
                _ => Action::Put(&value),
            };
            builder.push(Operation { keyspace: KeyspaceId(1 + (number + operation) % 2), key: &key, action });
        }
        builder.finish()
    }

    /// Keyspaces first, then commits with other kinds between them; the last one is not understood.
    fn log() -> Vec<(RecordKind, Vec<u8>)> {
        let create = |id, name| KeyspaceChange::Create { id: KeyspaceId(id), name }.encode();
        let mut log = vec![(RecordKind::Keyspace, create(1, "a")), (RecordKind::Keyspace, create(2, "b"))];
        for number in 0..400 {
            log.push((RecordKind::Commit, commit(number)));
            if number % 67 < 3 {
                log.push((RecordKind::Time, Vec::new()));
            }
        }
        log.push((RecordKind::Commit, b"nonsense".to_vec()));
        log
    }

    fn records(log: &[(RecordKind, Vec<u8>)]) -> Vec<Record<'_>> {
        let mut at = Position { lsn: Lsn::new(512), chain: Chain(0) };
        let record = |(kind, payload): &'_ (RecordKind, Vec<u8>)| {
            let time = Timestamp(at.lsn.offset());
            let header = RecordHeader::chained(at.chain, at.lsn, *kind, payload.len(), 0, Lsn::ZERO, time);
            at = Position { lsn: header.end(SegmentSize::DEFAULT), chain: header.chain };
            (header, at.lsn)
        };
        let headers: Vec<_> = log.iter().map(record).collect();
        log.iter().zip(headers).map(|((_, payload), (header, lsn))| Record { header, payload, lsn }).collect()
    }

    /// Keyspace, key, LSN, kind, and what is stored with it.
    type Versions = Vec<(KeyspaceId, Vec<u8>, Lsn, u8, Vec<u8>)>;

    fn content(state: &State) -> (Versions, Vec<TimeMark>, Position, Timestamp) {
        let mut versions = Vec::new();
        for (keyspace, table) in state.view().active.tables() {
            let all = table.for_each(|entry| {
                let (head, tail) = entry.content.parts();
                let stored = [head.bytes(), tail].concat();
                versions.push((keyspace, entry.key.to_vec(), entry.lsn, entry.content.kind(), stored));
                Ok::<_, Error>(())
            });
            all.unwrap();
            for removal in table.range_deletes().iter().flat_map(|deletes| deletes.all()) {
                versions.push((keyspace, removal.start.to_vec(), removal.lsn, 0, removal.end.to_vec()));
            }
        }
        let applied = state.applied();
        (versions, state.view().marks.up_to(Lsn::MAX), applied.position, applied.time)
    }

    #[test]
    fn records_are_applied_alike_one_by_one_and_in_batches_and_up_to_the_first_that_is_not_understood() {
        let log = log();
        let records = records(&log);
        let one_by_one = state();
        let failed = records.iter().find_map(|record| one_by_one.apply_record(record).err());
        assert!(matches!(failed, Some(Error::CorruptPayload { lsn, .. }) if lsn == records.last().unwrap().lsn));
        let expected = content(&one_by_one);
        assert_eq!(expected.2, records[records.len() - 2].position());
        for batch in [1, 2, 7, 16, 17, 100, records.len()] {
            for bytes_max in [1, 1000, u64::MAX] {
                let state = state();
                let mut failed = None;
                // Each batch begins with some that were applied before.
                for from in (0..records.len()).step_by(batch) {
                    let mut rest = &records[from.saturating_sub(3)..records.len().min(from + batch)];
                    while !rest.is_empty() && failed.is_none() {
                        match state.apply_records(rest, bytes_max) {
                            Ok(done) => {
                                assert!(done > 0 && (bytes_max < u64::MAX || done == rest.len()));
                                rest = &rest[done..];
                            }
                            Err(error) => failed = Some(error),
                        }
                    }
                }
                assert!(matches!(failed, Some(Error::CorruptPayload { .. })), "batches of {batch}");
                assert_eq!(content(&state), expected, "batches of {batch}, {bytes_max} bytes");
            }
        }
    }

    #[test]
    fn applying_stops_behind_the_commit_that_fills_the_memtables() {
        let log = log();
        let records = records(&log);
        let state = state();
        let filled = records.iter().position(|record| {
            state.apply_record(record).unwrap();
            state.view().active.bytes() >= 20_000
        });
        let again = self::state();
        assert_eq!(again.apply_records(&records, 20_000).unwrap(), filled.unwrap() + 1);
        assert_eq!(content(&again), content(&state));
    }
}
