//! Writing frozen memtables out as tables of level 0, and moving the redo position behind them.

use std::sync::Arc;

use seawall_wal::{Lsn, Position, TimelineId};

use crate::compaction::{Outside, STEP_BYTES, Shapes, Survival};
use crate::durable::Durable;
use crate::error::Result;
use crate::marks::Moment;
use crate::memtable::FrozenSet;
use crate::mutant::{Mutant, planted};
use crate::range_deletes::Removal;
use crate::state::State;
use crate::table::{Content, EntryRef, Placement, Table};

/// Where a frozen set ends in the log, as the manifest wants to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedoPlace {
    pub(crate) timeline: TimelineId,
    pub(crate) log_start: Position,
    /// How far the log is flushed.
    pub(crate) flushed: Lsn,
}

/// Writes the oldest frozen set out. The log is flushed at least to the set's end, so that no table ever holds
/// something that the log can lose. What no reader at or above `floor` needs is left out. `pace` is told of bytes written,
/// and may take its time.
pub(crate) fn flush_set(
    state: &State,
    durable: &Durable,
    shapes: &Shapes,
    frozen: &FrozenSet,
    place: RedoPlace,
    floor: Moment,
    pace: &dyn Fn(u64),
) -> Result<()> {
    assert!(frozen.end.lsn <= place.flushed, "a table holds nothing that is not flushed");
    let mut tables = Vec::new();
    let written = write_tables(state, shapes, frozen, floor, pace, &mut tables);
    let bytes = written.inspect_err(|_| state.store.release(tables.iter().map(|table| table.meta().hash)))?;
    let count = tables.len();
    durable.install(
        state,
        place.flushed,
        |manifest, set| {
            manifest.floor = manifest.floor.max(floor.lsn);
            manifest.redo = if planted(Mutant::RedoBeyondTables) { state.applied().position } else { frozen.end };
            manifest.redo_time = frozen.time;
            manifest.timeline = place.timeline;
            manifest.log_start = place.log_start;
            manifest.next_keyspace = frozen.next_keyspace;
            // A keyspace that was forgotten since has nothing in this set: it was dropped below an earlier redo.
            manifest.keyspaces = frozen.keyspaces.clone();
            manifest.keyspaces.retain(|entry| state.with_catalogue(|catalogue| catalogue.get(entry.id).is_some()));
            tables.into_iter().for_each(|table| set.add(0, table));
        },
        |view| view.frozen.retain(|other| !std::ptr::eq(&**other, frozen)),
    )?;
    state.tally.flushed(bytes);
    tracing::debug!(tables = count, redo = %frozen.end.lsn, "memtables written out");
    Ok(())
}

/// Writes the tables of a set, and says how many bytes that took. Those that are written already when it fails are in
/// `tables` too.
fn write_tables(
    state: &State,
    shapes: &Shapes,
    frozen: &FrozenSet,
    floor: Moment,
    pace: &dyn Fn(u64),
    tables: &mut Vec<Arc<Table>>,
) -> Result<u64> {
    let mut bytes = 0;
    for (keyspace, memtable) in frozen.set.tables() {
        if memtable.is_empty() {
            continue;
        }
        let mut writer = state.store.writer(keyspace, Placement::Top, shapes.of(state, keyspace).blob_policy())?;
        let mut paced = 0;
        let mut keep = |entry: EntryRef<'_>| {
            if planted(Mutant::DeletesNotWrittenOut) && entry.content == Content::Delete {
                return Ok(());
            }
            writer.push(entry)?;
            if writer.written() >= paced + STEP_BYTES {
                pace(writer.written() - paced);
                paced = writer.written();
            }
            Ok(())
        };
        let deletes = memtable.range_deletes().filter(|_| !planted(Mutant::RangeDeletesNotWrittenOut));
        let deletes = deletes.unwrap_or_default();
        // Older tables may have what deletes hide. What is newer is above the floor.
        let outside = Outside { older: true, newer_operands: false };
        let mut survival = Survival::new(floor, outside, &deletes);
        memtable.for_each(|entry| survival.take(entry, &mut keep))?;
        survival.finish(&mut keep)?;
        for Removal { start, end, lsn } in deletes.all() {
            writer.push_range_delete(start, end, *lsn);
        }
        if !writer.is_empty() {
            let finished = writer.finish()?;
            bytes += finished.bytes();
            tables.push(state.store.adopt(finished)?);
        }
    }
    if !tables.is_empty() {
        state.store.sync()?;
    }
    Ok(bytes)
}
