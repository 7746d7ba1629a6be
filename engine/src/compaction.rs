//! Merging tables downward: which ones is decided by a pure function of their sizes and ranges (`pick`); the merge
//! (`rewrite`) drops versions that no reader needs, and deletes once nothing lies below them (`survival`). Which values in
//! blob files are written anew with them, and which tables for the sake of that, is `renew`'s.

mod pace;
mod pick;
mod renew;
mod rewrite;
mod survival;
mod tally;
mod tuning;

use std::collections::BTreeSet;
use std::sync::Arc;

use seawall_wal::sync::Mutex;
use seawall_wal::sync::atomic::AtomicBool;
use seawall_wal::{Lsn, Timestamp};

use crate::blob::{BlobFile, BlobMeta, BlobShare};
use crate::durable::Durable;
use crate::error::{Error, Result};
use crate::file::FileHash;
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::mutant::{Mutant, planted};
use crate::state::State;
use crate::table::{Placement, Table};
use crate::version::Levels;
use renew::BlobFacts;
use rewrite::Rewrite;

pub(crate) use pace::{Pace, STEP_BYTES};
pub(crate) use pick::{Metas, Pick, Shape, Way, debt_bytes, fullest, pick, pick_all};
pub(crate) use survival::{Outside, Survival};
pub(crate) use tally::Tally;
pub(crate) use tuning::Shapes;
pub use tuning::Tuning;

/// What a merge needs beside the tables.
#[derive(Clone, Copy)]
pub(crate) struct Merger<'a> {
    pub(crate) state: &'a State,
    pub(crate) durable: &'a Durable,
    pub(crate) shapes: &'a Shapes,
    /// At most so many parts of a merge run at once.
    pub(crate) parts: usize,
    /// Is told of bytes written, and may take its time.
    pub(crate) pace: &'a (dyn Fn(u64) + Sync),
    /// Set when the database closes.
    pub(crate) stop: &'a AtomicBool,
    /// Tables out of which nothing that has ended can be taken: nearly always none. They are not rewritten for that.
    pub(crate) settled: &'a Mutex<BTreeSet<FileHash>>,
}

impl Merger<'_> {
    /// Does the merge that is needed most in some keyspace, if any is. Says whether it did.
    pub(crate) fn merge_once(&self, visible: Lsn) -> Result<bool> {
        let limit = self.limit(visible);
        let tables = Arc::clone(&self.state.view().tables);
        let floor = self.state.readers.could_raise_floor(limit).min(limit);
        let floor = moment(self.state, floor);
        self.settled.lock().retain(|hash| tables.tables().any(|(_, _, table)| table.meta().hash == *hash));
        let needy = tables.keyspaces().filter_map(|(keyspace, levels)| {
            let (metas, shape) = (metas(levels), self.shapes.of(self.state, keyspace));
            let pick = pick(&metas, &shape, floor.lsn).or_else(|| self.pick_in_place(levels, &metas, &shape, floor))?;
            Some((keyspace, levels, pick, fullest(&metas, &shape)))
        });
        let mut needy: Vec<_> = needy.collect();
        needy.sort_by(|(.., a), (.., b)| b.total_cmp(a));
        let mut corrupt = None;
        for (keyspace, levels, pick, _) in needy {
            match self.carry_out(keyspace, levels, &pick, limit) {
                Ok(()) => return Ok(true),
                // One damaged table must not keep other keyspaces from being merged.
                Err(error @ Error::CorruptTable { .. }) => {
                    corrupt.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        corrupt.map_or(Ok(false), Err)
    }

    /// How high the floor of a merge may be of tables that are looked at after this: they have all up to here. Elsewhere it may be
    /// higher already, while operands that end with what the merge would drop are on their way to a table.
    fn limit(&self, visible: Lsn) -> Lsn {
        visible.min(self.durable.redo().lsn)
    }

    /// Merges all tables of each keyspace into one level, and drops everything no reader needs.
    pub(crate) fn merge_all(&self, visible: Lsn) -> Result<()> {
        let limit = self.limit(visible);
        let tables = Arc::clone(&self.state.view().tables);
        for (keyspace, levels) in tables.keyspaces() {
            if let Some(pick) = pick_all(&metas(levels)) {
                self.carry_out(keyspace, levels, &pick, limit)?;
            }
        }
        Ok(())
    }

    /// A table to be rewritten where it stands: because most of it has ended, or because of garbage in a blob file it
    /// refers to.
    fn pick_in_place(&self, levels: &Levels, metas: &Metas<'_>, shape: &Shape, floor: Moment) -> Option<Pick> {
        let tables = || {
            levels
                .iter()
                .flat_map(|(level, tables)| tables.iter().enumerate().map(move |(index, table)| (level, index, table)))
        };
        let settled = self.settled.lock();
        let is_over = |level, index, table: &Table| {
            let operands = |level, index: usize| levels.level(level)[index].has_operands();
            renew::is_over(table.meta(), table.expiring(), floor)
                && !settled.contains(&table.meta().hash)
                && !renew::has_newer_operands(metas, &renew::in_place(metas, level, index), floor.lsn, operands)
        };
        let over = tables().find(|(level, index, table)| is_over(*level, *index, table));
        let (level, index, _) = over.or_else(|| {
            let facts: Vec<_> = levels.blobs().values().map(facts).collect();
            let wasted = renew::wasted(&facts, shape.blob_policy().file_bytes)?;
            tables().max_by_key(|(.., table)| table.share_of(&wasted).bytes)
        })?;
        Some(renew::in_place(metas, level, index))
    }

    fn carry_out(&self, keyspace: KeyspaceId, levels: &Levels, pick: &Pick, limit: Lsn) -> Result<()> {
        let mut inputs: Vec<(usize, Vec<Arc<Table>>)> = Vec::new();
        for (level, indexes) in &pick.inputs {
            let tables = levels.level(*level);
            inputs.push((*level, indexes.iter().map(|index| Arc::clone(&tables[*index])).collect()));
        }
        match pick.way {
            Way::Merge => self.merge(keyspace, levels, pick, inputs, limit),
            Way::Move => self.relocate(keyspace, pick, inputs),
        }
    }

    fn merge(
        &self,
        keyspace: KeyspaceId,
        levels: &Levels,
        pick: &Pick,
        inputs: Vec<(usize, Vec<Arc<Table>>)>,
        limit: Lsn,
    ) -> Result<()> {
        let Self { state, durable, shapes, parts, pace, stop, settled } = *self;
        let shape = shapes.of(state, keyspace);
        let floor = moment(state, raise_floor(state, limit).lsn.min(limit));
        let metas = metas(levels);
        let cuts = pick::cuts(&metas, pick, parts, 2 * shape.table_bytes);
        let newer = |level, index: usize| levels.level(level)[index].has_operands();
        let outside =
            Outside { older: !pick.bottom, newer_operands: renew::has_newer_operands(&metas, pick, floor.lsn, newer) };
        let gone = hashes(&inputs);
        let met: BTreeSet<_> = inputs
            .iter()
            .flat_map(|(_, tables)| tables)
            .flat_map(|table| table.blobs())
            .map(|blob| blob.file.meta().hash)
            .collect();
        let met: Vec<_> = levels.blobs().values().map(facts).filter(|blob| met.contains(&blob.hash)).collect();
        let stale = renew::stale(&met, shape.blob_policy().file_bytes);
        let read: Vec<_> = inputs.iter().map(|(level, tables)| (*level, bytes(tables))).collect();
        let (level0, deeper): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|(level, _)| *level == 0);
        let rewrite = Rewrite {
            store: &state.store,
            keyspace,
            level0: level0.into_iter().flat_map(|(_, tables)| tables).collect(),
            deeper: deeper.into_iter().map(|(_, tables)| tables).collect(),
            floor,
            outside,
            placement: Placement::on_level(pick.to),
            // What is merged within level 0 stays one table: tables there follow each other by LSN.
            table_bytes: if pick.to == 0 { u64::MAX } else { shape.table_bytes },
            policy: shape.blob_policy(),
            stale,
            seams: metas.get(pick.to + 1).into_iter().flatten().map(|meta| meta.min_key.clone()).collect(),
            pace,
            stop,
        };
        let (outputs, written) = rewrite.run(&cuts)?;
        if !outputs.is_empty() {
            let synced = state.store.sync();
            synced.inspect_err(|_| state.store.release(outputs.iter().map(|table| table.meta().hash)))?;
        }
        tracing::debug!(%keyspace, to = pick.to, parts = cuts.len() + 1, inputs = gone.len(), outputs = outputs.len(), "tables merged");
        let still_over = outputs.iter().filter(|table| renew::is_over(table.meta(), table.expiring(), floor));
        settled.lock().extend(still_over.map(|table| table.meta().hash));
        durable.install(
            state,
            Lsn::ZERO,
            |manifest, set| {
                manifest.floor = manifest.floor.max(floor.lsn);
                set.remove(keyspace, &gone);
                outputs.into_iter().for_each(|table| set.add(pick.to, table));
            },
            |_| {},
        )?;
        state.tally.merged(cuts.len() + 1, read, pick.to, written);
        Ok(())
    }

    /// Lets tables stand on the next level as they are.
    fn relocate(&self, keyspace: KeyspaceId, pick: &Pick, inputs: Vec<(usize, Vec<Arc<Table>>)>) -> Result<()> {
        let moved = hashes(&inputs);
        tracing::debug!(%keyspace, to = pick.to, tables = moved.len(), "tables moved");
        self.durable.install(
            self.state,
            Lsn::ZERO,
            |_, set| {
                set.remove(keyspace, &moved);
                inputs.into_iter().flat_map(|(_, tables)| tables).for_each(|table| set.add(pick.to, table));
            },
            |_| {},
        )?;
        self.state.tally.moved(moved.len() as u64);
        Ok(())
    }
}

/// Raises the floor as far as readers allow, at most to `limit`, and says what time it was there.
pub(crate) fn raise_floor(state: &State, limit: Lsn) -> Moment {
    let lsn = match planted(Mutant::MergeForgetsSnapshots) {
        true => limit,
        false => state.readers.raise_floor(|| limit),
    };
    moment(state, lsn)
}

/// What time it was at an LSN. If that is not known any more, nothing has ended.
fn moment(state: &State, lsn: Lsn) -> Moment {
    state.view().marks.moment(lsn).unwrap_or(Moment { lsn, time: Timestamp(0) })
}

fn facts((file, share): &(Arc<BlobFile>, BlobShare)) -> BlobFacts {
    let BlobMeta { hash, bytes, .. } = *file.meta();
    BlobFacts { hash, bytes, live: share.bytes }
}

fn hashes(inputs: &[(usize, Vec<Arc<Table>>)]) -> BTreeSet<FileHash> {
    inputs.iter().flat_map(|(_, tables)| tables).map(|table| table.meta().hash).collect()
}

fn bytes(tables: &[Arc<Table>]) -> u64 {
    tables.iter().map(|table| table.meta().size).sum()
}

pub(crate) fn metas(levels: &Levels) -> Metas<'_> {
    levels.iter().map(|(_, tables)| tables.iter().map(|table| table.meta()).collect()).collect()
}

/// Forgets keyspaces that were dropped so long ago that no reader can see them, with their tables. Says how many.
pub(crate) fn purge_dropped(state: &State, durable: &Durable, visible: Lsn) -> Result<usize> {
    let redo = durable.redo().lsn;
    let oldest_drop = state.with_catalogue(|catalogue| catalogue.iter().map(|keyspace| keyspace.dropped()).min());
    if oldest_drop.is_none_or(|dropped| dropped > redo) {
        return Ok(0);
    }
    // The floor may be higher already, because of a set that is being written out. What was dropped there may have keys in
    // it, and no manifest may have a floor above its redo position.
    let limit = visible.min(redo);
    let floor = state.readers.raise_floor(|| limit).min(limit);
    let gone: Vec<KeyspaceId> = state.with_catalogue(|catalogue| {
        catalogue.iter().filter(|keyspace| keyspace.dropped() <= floor).map(|keyspace| keyspace.id).collect()
    });
    if gone.is_empty() {
        return Ok(0);
    }
    durable.install(
        state,
        Lsn::ZERO,
        |manifest, set| {
            manifest.floor = manifest.floor.max(floor);
            manifest.keyspaces.retain(|entry| !gone.contains(&entry.id));
            gone.iter().for_each(|id| set.remove_keyspace(*id));
        },
        |_| {},
    )?;
    state.change_catalogue(|catalogue| gone.iter().for_each(|id| catalogue.forget(*id)));
    Ok(gone.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use seawall_wal::SegmentSize;
    use seawall_wal::storage::MemoryDisk;

    use super::*;
    use crate::{Background, Db};

    /// A flush raises the floor before it moves the redo position, and a purge can come between.
    #[test]
    fn a_keyspace_dropped_above_the_redo_position_is_not_forgotten_however_high_the_floor_is() {
        let disk = Arc::new(MemoryDisk::new());
        let open = |disk: MemoryDisk| {
            let builder = Db::builder("/d").storage(Arc::new(disk)).segment_size(SegmentSize::MIN);
            builder.background(Background::Inline).open()
        };
        let db = open(MemoryDisk::clone(&disk)).unwrap();
        let make_and_drop = |name: &str| {
            db.keyspace(name).unwrap().insert("key", "value").unwrap();
            db.drop_keyspace(name).unwrap();
        };
        make_and_drop("first");
        db.flush().unwrap();
        make_and_drop("second");
        let core = db.core();
        assert_eq!(core.state.readers.raise_floor(|| core.visible()), core.visible());
        assert_eq!(purge_dropped(&core.state, &core.durable, core.visible()).unwrap(), 1);
        open(disk.crashed_losing_all()).unwrap();
        db.flush().unwrap();
        open(disk.crashed_losing_all()).unwrap();
        assert_eq!(purge_dropped(&core.state, &core.durable, core.visible()).unwrap(), 1);
        open(disk.crashed_losing_all()).unwrap();
    }
}
