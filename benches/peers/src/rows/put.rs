//! Puts that wait for no disk, from one thread. After each slice the store is synced, so that the next one does not pay
//! for what this one left behind. Seawall flushes its log meanwhile, unasked; its peers do not.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::Context;
use crate::bars::PUT;
use crate::load::closed;
use crate::report::Row;
use crate::rounds::{Cell, interleave};
use crate::store::{Durability, Settings};
use crate::workload::pair;

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let folder = context.folder("put")?;
    let stores = context.open(&folder, &Settings::new(Durability::Buffered))?;
    let cells = stores.iter().map(|(kind, store)| {
        let next = AtomicU64::new(0);
        Cell::new(kind.name(), move || {
            let work = closed(1, context.plan.slice, |_, _| {
                store.write(&[pair(next.fetch_add(1, Ordering::Relaxed))])?;
                Ok(1)
            })?;
            store.sync()?;
            Ok(work)
        })
    });
    let measured = interleave(cells.collect(), &context.plan, &context.device);
    let row = Row::new("non-durable put, 1 thread", PUT, measured);
    Ok(vec![row.note("Seawall's buffered commits are flushed in the background; its peers' are not")])
}
