//! Durable puts: one pair a commit, new keys in random order, from threads that wait for each. A store that is faster
//! holds more in the end, which is in nobody's favour but the slow ones'.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::Context;
use crate::bars::{Bar, DURABLE_1, DURABLE_8, DURABLE_64, FLOOR};
use crate::floor::Floor;
use crate::load::closed;
use crate::report::Row;
use crate::rounds::{Cell, interleave};
use crate::store::{Durability, Settings};
use crate::workload::pair;

/// Threads, and what is asked of them.
const THREADS: [(u64, &[Bar]); 3] = [(1, DURABLE_1), (8, DURABLE_8), (64, DURABLE_64)];

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    THREADS.into_iter().map(|(threads, bars)| one_row(context, threads, bars)).collect()
}

fn one_row(context: &Context, threads: u64, bars: &[Bar]) -> Result<Row> {
    let folder = context.folder("durable-put")?;
    let stores = context.open(&folder, &Settings::new(Durability::Durable))?;
    let mut floor = Floor::new(&folder.path)?;
    let slice = context.plan.slice;
    let cells = stores.iter().map(|(kind, store)| {
        let next = AtomicU64::new(0);
        Cell::durable(kind.name(), move || {
            closed(threads, slice, |_, _| {
                store.write(&[pair(next.fetch_add(1, Ordering::Relaxed))])?;
                Ok(1)
            })
        })
    });
    let mut cells: Vec<_> = cells.collect();
    cells.push(Cell::durable(FLOOR, || floor.run(slice)));
    let measured = interleave(cells, &context.plan, &context.device);
    let threads = if threads == 1 { String::from("1 thread") } else { format!("{threads} threads") };
    Ok(Row::new(format!("engine durable put, {threads}"), bars, measured))
}
