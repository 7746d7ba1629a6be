//! Gets of keys that are there, from one thread, by data that are in memory: in memtables, and in tables whose blocks
//! are in the cache. Each get sees the store as of its own moment; beside that stands each store's way of many gets
//! within one view, and a peer is represented by the faster of the two.

use anyhow::Result;

use super::{Context, Folder};
use crate::bars::{Bar, GET_MEMTABLE, GET_TABLE};
use crate::load::closed;
use crate::report::Row;
use crate::rounds::{Cell, interleave};
use crate::store::{Durability, Settings, Store, fill};
use crate::workload::{Key, random_keys};

/// Keys of one call: its time is shared by so many gets.
const CALL_KEYS: usize = 1000;
/// Keys that are made before the clock runs.
const KEYS: usize = 200 * CALL_KEYS;
/// Room for everything.
const MEMORY_BYTES: u64 = 256 << 20;

/// Where the data are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Memtable,
    Table,
}

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let folder = context.folder("get")?;
    let memtable = one_row(context, &folder, Place::Memtable, "get: memtable, per core", GET_MEMTABLE)?;
    let table = one_row(context, &folder, Place::Table, "get: hot table, per core", GET_TABLE)?;
    Ok(vec![
        memtable.note("redb, LMDB and SQLite have no memtable: their pages are in memory"),
        table.note("everything merged into one level and read once before"),
    ])
}

fn one_row(context: &Context, folder: &Folder, place: Place, name: &str, bars: &[Bar]) -> Result<Row> {
    let settings =
        Settings { durability: Durability::Durable, cache_bytes: MEMORY_BYTES, memtable_bytes: MEMORY_BYTES };
    let stores = context.open(folder, &settings)?;
    let keys = random_keys(context.sizes.hot_keys, KEYS, 1);
    for (_, store) in &stores {
        match place {
            Place::Memtable => fill(&**store, context.sizes.hot_keys)?,
            // Filled by the row before.
            Place::Table => store.settle()?,
        }
        gets(&**store, &keys)?;
    }
    let mut cells = Vec::new();
    for (kind, store) in &stores {
        let (store, keys, slice) = (&**store, &keys, context.plan.slice);
        cells.push(Cell::new(kind.name(), move || closed(1, slice, |_, turn| gets(store, chunk(keys, turn)))));
        if store.get_in_one_view(&[]).is_some() {
            let call = move || closed(1, slice, |_, turn| gets_in_one_view(store, chunk(keys, turn)));
            cells.push(Cell::new(format!("{kind}, {CALL_KEYS} in one view"), call));
        }
    }
    Ok(Row::new(name, bars, interleave(cells, &context.plan, &context.device)))
}

fn chunk(keys: &[Key], turn: u64) -> &[Key] {
    let first = turn as usize * CALL_KEYS % keys.len();
    &keys[first..first + CALL_KEYS]
}

fn gets(store: &dyn Store, keys: &[Key]) -> Result<u64> {
    for key in keys {
        anyhow::ensure!(store.get(key)?.is_some(), "a key that was put is not there");
    }
    Ok(keys.len() as u64)
}

fn gets_in_one_view(store: &dyn Store, keys: &[Key]) -> Result<u64> {
    let found = store.get_in_one_view(keys).unwrap_or(Ok(0))?;
    anyhow::ensure!(found == keys.len(), "a key that was put is not there");
    Ok(keys.len() as u64)
}
