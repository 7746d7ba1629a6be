//! Ranges of hot tables, in order, from random keys on; counted in entries.

use anyhow::Result;

use super::Context;
use crate::bars::SCAN;
use crate::load::closed;
use crate::report::Row;
use crate::rounds::{Cell, interleave};
use crate::store::{Durability, Settings, fill};
use crate::workload::random_keys;

/// Entries of a range.
const LENGTHS: [usize; 2] = [100, 10_000];
/// Room for everything.
const MEMORY_BYTES: u64 = 256 << 20;
const STARTS: usize = 4096;

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let folder = context.folder("scan")?;
    let settings =
        Settings { durability: Durability::Durable, cache_bytes: MEMORY_BYTES, memtable_bytes: MEMORY_BYTES };
    let stores = context.open(&folder, &settings)?;
    for (_, store) in &stores {
        fill(&**store, context.sizes.hot_keys)?;
        store.settle()?;
    }
    let starts = random_keys(context.sizes.hot_keys, STARTS, 2);
    let row = |entries: usize| {
        let cells = stores.iter().map(|(kind, store)| {
            let (store, starts) = (&**store, &starts);
            let scan = move |_, turn: u64| Ok(store.scan(&starts[turn as usize % STARTS], entries)? as u64);
            Cell::new(kind.name(), move || closed(1, context.plan.slice, scan))
        });
        let measured = interleave(cells.collect(), &context.plan, &context.device);
        Row::new(format!("range scan, hot, {entries} entries"), SCAN, measured).note("figures are entries a second")
    };
    Ok(LENGTHS.into_iter().map(row).collect())
}
