//! The one apply path: what a record does to the state. Live commits, crash recovery, standbys and restores all come
//! through here, in the order of LSNs. A record is understood wholly before any of it takes effect.

use seawall_wal::{Position, Record, RecordKind, Timestamp};

use crate::error::{Error, Result};
use crate::mutant::{Mutant, planted};
use crate::payload::{CommitPayload, KeyspaceChange, Misunderstood, Promotion};
use crate::state::State;

impl State {
    /// Applies a record read from a log. One that was applied before is skipped.
    pub(crate) fn apply_record(&self, record: &Record<'_>) -> Result<()> {
        if record.lsn <= self.applied_lsn() {
            return Ok(());
        }
        self.apply(record.header.kind, record.payload, record.position(), record.header.time)
    }

    /// Applies the next record.
    pub(crate) fn apply(&self, kind: RecordKind, payload: &[u8], position: Position, time: Timestamp) -> Result<()> {
        let lsn = position.lsn;
        let misunderstood = |Misunderstood(why)| Error::CorruptPayload { lsn, why };
        self.advance(position, time, || match kind {
            RecordKind::Commit => {
                let commit = CommitPayload::parse(payload).map_err(misunderstood)?;
                self.check_keyspaces(&commit).map_err(misunderstood)?;
                let view = self.view();
                let mut writer = view.active.writer();
                for operation in commit.operations() {
                    if planted(Mutant::DeletesNotApplied) && operation.value.is_none() {
                        continue;
                    }
                    writer.insert(operation.keyspace, operation.key, lsn, operation.value);
                }
                Ok(())
            }
            RecordKind::Keyspace => {
                let change = KeyspaceChange::parse(payload).map_err(misunderstood)?;
                let changed = self.change_catalogue(|catalogue| catalogue.apply(change, lsn));
                changed.map_err(|why| misunderstood(Misunderstood(why)))
            }
            RecordKind::Promotion => Promotion::parse(payload).map(drop).map_err(misunderstood),
            // They move time and position, nothing else.
            RecordKind::Pad | RecordKind::Time | RecordKind::RestorePoint => Ok(()),
            RecordKind::MemtableRotate | RecordKind::Checkpoint | RecordKind::Blob => {
                Err(misunderstood(Misunderstood("its kind is reserved for a newer version")))
            }
        })
    }

    fn check_keyspaces(&self, commit: &CommitPayload<'_>) -> Result<(), Misunderstood> {
        self.with_catalogue(|catalogue| {
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
        })
    }
}
