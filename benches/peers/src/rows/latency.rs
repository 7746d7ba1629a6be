//! How long a commit of 64 threads takes at worst, and what a change of segment adds to that: the log and the engine,
//! each with segments that are full many times in a slice and with the usual ones.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, anyhow};
use seawall_engine::{CommitLevel, Create, Db};
use seawall_wal::SegmentSize;

use super::{Context, log};
use crate::bars::{Bar, LATENCY, ROTATION, TAIL};
use crate::load::closed;
use crate::report::Row;
use crate::rounds::{Cell, Measured, interleave};
use crate::statistics::{Quantiles, Spread};
use crate::workload::pair;

const THREADS: u64 = 64;
/// MiB of a segment: one that rotates many times in a slice, and the usual one.
const SEGMENTS_MIB: [u32; 2] = [1, 64];

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let folder = context.folder("latency")?;
    let slice = context.plan.slice;
    let mut cells = Vec::new();
    for mib in SEGMENTS_MIB {
        let size = SegmentSize::new(mib << 20).ok_or_else(|| anyhow!("no such segment size"))?;
        let log = log::open(&folder.path.join(format!("log-{mib}")), size)?;
        cells.push(Cell::durable(name("log", mib), move || log::by_threads(&log, THREADS, slice)));
    }
    for mib in SEGMENTS_MIB {
        let size = SegmentSize::new(mib << 20).ok_or_else(|| anyhow!("no such segment size"))?;
        let dir = folder.path.join(format!("engine-{mib}"));
        let db = Db::builder(dir).create(Create::Always).segment_size(size).open()?;
        let keyspace = db.keyspace("bench")?;
        let next = AtomicU64::new(0);
        cells.push(Cell::durable(name("engine", mib), move || {
            closed(THREADS, slice, |_, _| {
                let (key, value) = pair(next.fetch_add(1, Ordering::Relaxed));
                let mut batch = db.batch();
                batch.put(&keyspace, key, value);
                batch.commit_with(CommitLevel::Local)?;
                Ok(1)
            })
        }));
    }
    let measured = interleave(cells, &context.plan, &context.device);
    let row = Row::with("commit p99/p50 at 64 threads; p99.9 with rotation vs without", LATENCY, measured, special);
    Ok(vec![row.note("\"without\" has segments of 64 MiB, of which a slice fills less than one or few")])
}

fn name(of: &str, mib: u32) -> String {
    format!("{of}, {mib} MiB segments")
}

/// Ratios of latencies, round by round.
fn special(bar: &Bar, cells: &[Measured]) -> Option<Spread> {
    let cell = |name: &str| cells.iter().find(|cell| cell.name == name);
    let ours = cell(bar.of)?;
    let ratios: Vec<f64> = match bar.against {
        TAIL => {
            let ratio = |latency: Quantiles| latency.p99_us / latency.p50_us;
            ours.rounds.iter().filter_map(|round| round.latency.map(ratio)).collect()
        }
        ROTATION => {
            let without = cell(&bar.of.replace(&name("", SEGMENTS_MIB[0]), &name("", SEGMENTS_MIB[1])))?;
            let pairs = ours.rounds.iter().zip(&without.rounds);
            pairs.filter_map(|(with, without)| Some(with.latency?.p999_us / without.latency?.p999_us)).collect()
        }
        _ => return None,
    };
    Spread::of(&ratios)
}
