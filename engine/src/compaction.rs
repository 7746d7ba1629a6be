//! Merging tables downward: which ones is decided by a pure function of their sizes and ranges; the merge drops versions
//! that no reader needs, and deletes once nothing lies below them.

mod survival;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use seawall_wal::Lsn;

use crate::durable::Durable;
use crate::error::{Error, Result};
use crate::format::KeyspaceId;
use crate::merge::Versions;
use crate::mutant::{Mutant, planted};
use crate::state::State;
use crate::table::{Compression, Table, TableHash, TableMeta, TableWriter};
use crate::version::Levels;
use survival::Survival;

/// When levels are too full, and how large tables get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Tables of level 0 that start a merge into level 1.
    pub(crate) level0_tables: usize,
    /// Bytes of level 1; each deeper level may have ten times as many.
    pub(crate) level1_bytes: u64,
    /// Bytes of one table.
    pub(crate) table_bytes: u64,
}

/// What to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Levels, from above, and which of their tables by position.
    pub(crate) inputs: Vec<(usize, Vec<usize>)>,
    /// The level that gets the result: the deepest of the inputs, or the one below.
    pub(crate) to: usize,
    /// Whether no deeper level overlaps them, so that deletes need not be kept.
    pub(crate) bottom: bool,
}

/// How full a level is; from 1 on it is too full.
fn fullness(levels: &[Vec<&TableMeta>], shape: &Shape, level: usize) -> f64 {
    match level {
        0 => levels[0].len() as f64 / shape.level0_tables as f64,
        _ => {
            let bytes = levels[level].iter().map(|meta| meta.size).sum::<u64>();
            bytes as f64 / (shape.level1_bytes as f64 * 10_f64.powi(level as i32 - 1))
        }
    }
}

/// The level of a keyspace that is fullest in proportion, if one is too full, and how full it is.
fn fullest(levels: &[Vec<&TableMeta>], shape: &Shape) -> Option<(usize, f64)> {
    let fullness = (0..levels.len() - 1).map(|level| (level, fullness(levels, shape, level)));
    // Of equally full levels the higher one goes first: it is read more often.
    fullness.filter(|(_, full)| *full >= 1.0).max_by(|(a, full_a), (b, full_b)| full_a.total_cmp(full_b).then(b.cmp(a)))
}

/// Which tables of a keyspace to merge next, if any level is too full.
pub(crate) fn pick(levels: &[Vec<&TableMeta>], shape: &Shape) -> Option<Pick> {
    let (from, _) = fullest(levels, shape)?;
    let inputs = match from {
        0 => (0..levels[0].len()).collect(),
        _ => vec![cheapest(&levels[from], &levels[from + 1])?],
    };
    Some(complete(levels, from, inputs))
}

/// Everything of a keyspace into its deepest level in use, rewritten also if it is alone there.
pub(crate) fn pick_all(levels: &[Vec<&TableMeta>]) -> Option<Pick> {
    let used = (0..levels.len()).filter(|level| !levels[*level].is_empty());
    let inputs: Vec<_> = used.map(|level| (level, (0..levels[level].len()).collect())).collect();
    let to = inputs.last()?.0.max(1);
    Some(Pick { inputs, to, bottom: true })
}

fn complete(levels: &[Vec<&TableMeta>], from: usize, chosen: Vec<usize>) -> Pick {
    let to = from + 1;
    let metas = || chosen.iter().map(|index| levels[from][*index]);
    let min = metas().map(|meta| &meta.min_key).min().expect("a pick has inputs");
    let max = metas().map(|meta| &meta.max_key).max().expect("a pick has inputs");
    let overlapping = |level: usize, min: &[u8], max: &[u8]| -> Vec<usize> {
        let metas = levels[level].iter().enumerate();
        metas.filter(|(_, meta)| meta.overlaps(min, max)).map(|(index, _)| index).collect()
    };
    let below = overlapping(to, min, max);
    let min = below.iter().map(|index| &levels[to][*index].min_key).chain([min]).min().expect("not empty");
    let max = below.iter().map(|index| &levels[to][*index].max_key).chain([max]).max().expect("not empty");
    let bottom = (to + 1..levels.len()).all(|level| overlapping(level, min, max).is_empty());
    let mut inputs = vec![(from, chosen)];
    if !below.is_empty() {
        inputs.push((to, below));
    }
    Pick { inputs, to, bottom }
}

/// The table whose move rewrites least of the next level for its size.
fn cheapest(tables: &[&TableMeta], below: &[&TableMeta]) -> Option<usize> {
    let cost = |meta: &TableMeta| {
        let overlapping = below.iter().filter(|other| other.overlaps(&meta.min_key, &meta.max_key));
        overlapping.map(|other| other.size).sum::<u64>() as f64 / meta.size as f64
    };
    (0..tables.len()).min_by(|a, b| cost(tables[*a]).total_cmp(&cost(tables[*b])))
}

/// What a merge needs beside the tables.
#[derive(Clone, Copy)]
pub(crate) struct Merger<'a> {
    pub(crate) state: &'a State,
    pub(crate) durable: &'a Durable,
    pub(crate) shape: &'a Shape,
    /// Set when the database closes.
    pub(crate) stop: &'a AtomicBool,
}

impl Merger<'_> {
    /// Does the merge that is needed most in some keyspace, if any is. Says whether it did.
    pub(crate) fn merge_once(&self, visible: Lsn) -> Result<bool> {
        let tables = Arc::clone(&self.state.view().tables);
        let debt = |levels: &Levels| fullest(&metas(levels), self.shape).map(|(_, full)| full);
        let mut needy: Vec<_> =
            tables.keyspaces().filter_map(|(keyspace, levels)| Some((keyspace, levels, debt(levels)?))).collect();
        needy.sort_by(|(_, _, a), (_, _, b)| b.total_cmp(a));
        let mut corrupt = None;
        for (keyspace, levels, _) in needy {
            let pick = pick(&metas(levels), self.shape).expect("a level that is too full can be merged");
            match self.merge(keyspace, levels, &pick, visible) {
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

    /// Merges all tables of each keyspace into one level, and drops everything no reader needs.
    pub(crate) fn merge_all(&self, visible: Lsn) -> Result<()> {
        let tables = Arc::clone(&self.state.view().tables);
        for (keyspace, levels) in tables.keyspaces() {
            if let Some(pick) = pick_all(&metas(levels)) {
                self.merge(keyspace, levels, &pick, visible)?;
            }
        }
        Ok(())
    }

    fn merge(&self, keyspace: KeyspaceId, levels: &Levels, pick: &Pick, visible: Lsn) -> Result<()> {
        let Self { state, durable, shape, stop } = *self;
        let mut runs: Vec<(usize, Vec<Arc<Table>>)> = Vec::new();
        for (level, indexes) in &pick.inputs {
            let tables = levels.level(*level);
            runs.push((*level, indexes.iter().map(|index| Arc::clone(&tables[*index])).collect()));
        }
        // The tables hold nothing above redo, so a floor above it means no more than redo does.
        let redo = durable.redo().lsn;
        let mut floor = state.readers.raise_floor(|| visible.min(redo));
        if planted(Mutant::MergeForgetsSnapshots) {
            floor = visible.min(redo);
        }
        let gone: HashSet<TableHash> =
            runs.iter().flat_map(|(_, tables)| tables).map(|table| table.meta().hash).collect();
        let (level0, deeper): (Vec<_>, Vec<_>) = runs.into_iter().partition(|(level, _)| *level == 0);
        let level0: Vec<Arc<Table>> = level0.into_iter().flat_map(|(_, tables)| tables).collect();
        let mut versions = Versions::of_tables(&level0, deeper.into_iter().map(|(_, tables)| tables).collect())?;
        let mut survival = Survival::new(floor, pick.bottom);
        let mut outputs = Vec::new();
        let mut writer: Option<TableWriter> = None;
        let mut count = 0_u64;
        loop {
            let step = versions.next(|entry| {
                if !survival.keeps(entry) {
                    return Ok(());
                }
                // All versions of a key stay in one table.
                let full = |writer: &TableWriter| writer.size() >= shape.table_bytes && writer.last_key() != entry.key;
                if let Some(finished) = writer.take_if(|writer| full(writer)) {
                    outputs.push(state.store.adopt(finished.finish()?)?);
                }
                let writer = match &mut writer {
                    Some(writer) => writer,
                    none => none.insert(state.store.writer(keyspace, Compression::Zstd)?),
                };
                writer.push(entry)
            })?;
            if step.is_none() {
                break;
            }
            count += 1;
            if count.is_multiple_of(1024) && stop.load(Ordering::Relaxed) {
                state.store.release(outputs.iter().map(|table| table.meta().hash));
                return Err(Error::Closed);
            }
        }
        if let Some(writer) = writer.filter(|writer| !writer.is_empty()) {
            outputs.push(state.store.adopt(writer.finish()?)?);
        }
        if !outputs.is_empty() {
            state.store.sync()?;
        }
        tracing::debug!(%keyspace, to = pick.to, inputs = gone.len(), outputs = outputs.len(), "tables merged");
        durable.install(
            state,
            Lsn::ZERO,
            |manifest, set| {
                manifest.floor = manifest.floor.max(floor);
                set.remove(keyspace, &gone);
                outputs.into_iter().for_each(|table| set.add(pick.to, table));
            },
            |_| {},
        )
    }
}

fn metas(levels: &Levels) -> Vec<Vec<&TableMeta>> {
    levels.iter().map(|(_, tables)| tables.iter().map(|table| table.meta()).collect()).collect()
}

/// Forgets keyspaces that were dropped so long ago that no reader can see them, with their tables. Says how many.
pub(crate) fn purge_dropped(state: &State, durable: &Durable, visible: Lsn) -> Result<usize> {
    let redo = durable.redo().lsn;
    let oldest_drop = state.with_catalogue(|catalogue| catalogue.iter().map(|keyspace| keyspace.dropped()).min());
    if oldest_drop.is_none_or(|dropped| dropped > redo) {
        return Ok(0);
    }
    let floor = state.readers.raise_floor(|| visible.min(redo));
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
mod tests;
