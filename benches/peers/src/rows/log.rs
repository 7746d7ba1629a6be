//! The log alone, without an engine: appends that wait for their flush, from threads and from tasks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use seawall_wal::format::RECORD_HEADER_SIZE;
use seawall_wal::storage::Disk;
use seawall_wal::{
    ClusterId, Log, LogMode, LogOptions, NodeId, OpenAt, Position, RecordKind, SegmentSize, SystemClock,
    TimelineHistory, TimelineNonce, Timestamp,
};

use super::Context;
use crate::bars::{FLOOR, LOG_ONE, LOG_TASKS, LOG_THREADS};
use crate::floor::Floor;
use crate::load::{Work, closed_with};
use crate::report::Row;
use crate::rounds::{Cell, interleave};

/// Payload of a record that takes 144 bytes of log.
pub(super) const SMALL: usize = 144 - RECORD_HEADER_SIZE;
const LARGE: usize = 1024;
const TASKS: usize = 1024;
/// Threads that run tasks.
const WORKERS: usize = 2;

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let folder = context.folder("log")?;
    let (log, mut floor) = (Arc::new(open(&folder.path.join("wal"), SegmentSize::DEFAULT)?), Floor::new(&folder.path)?);
    let slice = context.plan.slice;
    let mut cells = Vec::new();
    for threads in [1, 8, 64, 256] {
        let name = if threads == 1 { String::from("log, 1 thread") } else { format!("log, {threads} threads") };
        let log = log.clone();
        cells.push(Cell::durable(name, move || by_threads(&log, threads, slice)));
    }
    for (size, payload) in [("144 B", SMALL), ("1 KiB", LARGE)] {
        let log = log.clone();
        let cell = move || by_tasks(&log, payload, slice);
        cells.push(Cell::durable(format!("log, {TASKS} tasks, {size}"), cell));
    }
    cells.push(Cell::durable(FLOOR, || floor.run(slice)));
    let measured = interleave(cells, &context.plan, &context.device);
    let some = |names: &[&str]| {
        let chosen = measured.iter().filter(|cell| cell.name == FLOOR || names.contains(&cell.name.as_str()));
        chosen.cloned().collect()
    };
    let names = |bars: &[crate::bars::Bar]| bars.iter().map(|bar| bar.of).collect::<Vec<_>>();
    Ok(vec![
        Row::new("WAL commits/s, 1 committer", LOG_ONE, some(&names(LOG_ONE))),
        Row::new("WAL commits/s, 8 / 64 / 256 threads (144 B)", LOG_THREADS, some(&names(LOG_THREADS))),
        Row::new("WAL commits/s, 1024 async tasks (144 B / 1 KiB)", LOG_TASKS, some(&names(LOG_TASKS)))
            .note(format!("tasks of tokio on {WORKERS} threads; the larger record has a payload of {LARGE} bytes")),
    ])
}

/// An empty log.
pub(super) fn open(folder: &Path, segment_size: SegmentSize) -> Result<Log> {
    let mut options = LogOptions::new(ClusterId::random(), NodeId::random());
    options.segment_size = segment_size;
    let at = OpenAt {
        history: TimelineHistory::first(TimelineNonce::random()),
        start: Position::ZERO,
        time_floor: Timestamp(0),
        watermark: Position::ZERO.lsn,
    };
    let (storage, clock) = (Arc::new(Disk::new()), Arc::new(SystemClock));
    let opened = Log::open(storage, clock, folder, options, &at, LogMode::Append, |_| Ok::<(), seawall_wal::Error>(()));
    Ok(opened?.0)
}

/// Appends of small records, each waited for. Segments are let go of as they are after a checkpoint.
pub(super) fn by_threads(log: &Log, threads: u64, slice: Duration) -> Result<Work> {
    let append = |_, _| {
        log.append(RecordKind::Commit, &[0x5E; SMALL])?.wait()?;
        Ok(1)
    };
    closed_with(threads, slice, append, || recycle(log))
}

fn recycle(log: &Log) {
    log.recycle_before(log.flushed().value());
}

fn by_tasks(log: &Arc<Log>, payload: usize, slice: Duration) -> Result<Work> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).build()?;
    let (stop, operations) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let one = || {
        let (log, stop, operations) = (log.clone(), stop.clone(), operations.clone());
        async move {
            let payload = vec![0x5E; payload];
            let mut appended = 0;
            while !stop.load(Ordering::Relaxed) {
                log.append(RecordKind::Commit, &payload)?.await?;
                appended += 1;
            }
            operations.fetch_add(appended, Ordering::Relaxed);
            Ok::<(), seawall_wal::Error>(())
        }
    };
    let tasks: Vec<_> = (0..TASKS).map(|_| runtime.spawn(one())).collect();
    while started.elapsed() < slice {
        std::thread::sleep(Duration::from_millis(5));
        recycle(log);
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        runtime.block_on(task).map_err(|error| anyhow!("a task panicked: {error}"))??;
    }
    let operations = operations.load(Ordering::Relaxed);
    Ok(Work { operations, seconds: started.elapsed().as_secs_f64(), latencies: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_and_tasks_count_what_the_log_took() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(open(dir.path(), SegmentSize::new(1 << 20).unwrap()).unwrap());
        let by_threads = by_threads(&log, 2, Duration::from_millis(20)).unwrap().operations;
        let by_tasks = by_tasks(&log, SMALL, Duration::from_millis(20)).unwrap().operations;
        assert!(by_threads > 0 && by_tasks > 0);
        assert_eq!(log.stats().records, by_threads + by_tasks);
    }
}
