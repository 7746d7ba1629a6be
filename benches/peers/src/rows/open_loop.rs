//! Durable puts on a schedule, at 70 % of the rate that the same store reached when everyone waited. A latency counts from
//! when the put should have begun, so a pause is charged to all who waited for it.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::Context;
use crate::load::{closed, open};
use crate::report::Row;
use crate::rounds::{Cell, Plan, interleave};
use crate::store::{Durability, Settings};
use crate::workload::pair;

const THREADS: u64 = 64;
const SHARE: f64 = 0.7;

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let folder = context.folder("open-loop")?;
    let stores = context.open(&folder, &Settings::new(Durability::Durable))?;
    let slice = context.plan.slice;
    let nexts: Vec<_> = stores.iter().map(|_| AtomicU64::new(0)).collect();
    let puts: Vec<_> = stores
        .iter()
        .zip(&nexts)
        .map(|((kind, store), next)| {
            let put = move |_, _| {
                store.write(&[pair(next.fetch_add(1, Ordering::Relaxed))])?;
                Ok(1)
            };
            (*kind, put)
        })
        .collect();
    let closed_cells = puts.iter().map(|(kind, put)| Cell::durable(kind.name(), move || closed(THREADS, slice, put)));
    let highest = interleave(closed_cells.collect(), &Plan { rounds: 3, ..context.plan }, &context.device);
    let open_cells = puts.iter().zip(&highest).map(|((kind, put), highest)| {
        let per_second = highest.rate().unwrap_or(0.0) * SHARE;
        Cell::durable(kind.name(), move || {
            anyhow::ensure!(per_second > 0.0, "its highest rate is not known");
            open(THREADS, per_second, slice, put)
        })
    });
    let measured = interleave(open_cells.collect(), &context.plan, &context.device);
    let row = Row::new("durable put, open loop at 70 % of the highest rate of 64 threads", &[], measured);
    Ok(vec![row.note("each store at 70 % of its own rate: compare latencies with the rate in view")])
}
