//! The two threads of a database: one writes memtables out, keeps the watermark and sees whether its folder is still there,
//! one merges tables. When something fails they try again, ever more slowly; when the disk is full they say so at the gate
//! until it is not.

use std::sync::Arc;
use std::time::Duration;

use seawall_wal::caught;
use seawall_wal::sync::atomic::Ordering;
use seawall_wal::sync::thread::{self, JoinHandle};
use seawall_wal::sync::{Condvar, Mutex};

use crate::core::Core;
use crate::error::{Error, Result, at};
use crate::gate::Worker;

/// How often the watermark is written while it moves, the folder is looked for, and what has become obsolete.
const TICK: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Wakes a thread that waits for work.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.changed.notify_all();
    }

    fn wait(&self, at_most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.changed.wait_for(&mut rung, at_most);
        }
        *rung = false;
    }
}

pub(crate) fn spawn(core: &Arc<Core>) -> Result<Vec<JoinHandle<()>>> {
    let core_path = core.path.clone();
    let start = |name: &str, worker| {
        let core = Arc::clone(core);
        let started = thread::Builder::new().name(name.to_owned()).spawn(move || watched(&core, worker));
        started.map_err(at("start a thread for", &core_path))
    };
    Ok(vec![start("seawall-tables", Worker::Flusher)?, start("seawall-merge", Worker::Compactor)?])
}

/// A write and sync of the log takes this long only if something is wrong with the disk.
const STALL: Duration = Duration::from_secs(5);

fn warn_of_stall(core: &Core) {
    let underway = Duration::from_micros(core.log.stats().flush_micros_now);
    if underway > STALL {
        tracing::warn!(path = %core.path.display(), ?underway, "the disk does not answer a write of the log; commits wait for it");
    }
}

/// A thread that panics does not come back, and what only it does is not done any more: whoever would wait for it is told.
fn watched(core: &Core, worker: Worker) {
    let work = match worker {
        Worker::Flusher => "writes memtables out",
        Worker::Compactor => "merges tables",
    };
    if let Err(error) = caught(work, || run(core, worker)) {
        let error = core.fail(&error);
        core.gate.set_outcome(worker, Err(error));
    }
}

fn run(core: &Core, worker: Worker) {
    let bell = match worker {
        Worker::Flusher => &core.flush_bell,
        Worker::Compactor => &core.compact_bell,
    };
    match worker {
        // Memory is not free before it is done, so it gets its share, but in turns so short that nobody waits for one to end.
        Worker::Flusher => seawall_wal::ask_for_short_turns(),
        Worker::Compactor => seawall_wal::give_way(),
    }
    let mut retry: Option<Duration> = None;
    loop {
        bell.wait(retry.unwrap_or(TICK));
        if core.stopping.load(Ordering::Acquire) {
            return;
        }
        let done = match worker {
            Worker::Flusher => {
                // For tickets that were dropped without being waited for.
                core.flush_soon();
                core.apply_pending();
                if let Err(error) = core.let_time_pass() {
                    tracing::debug!(%error, "the time could not be written into the log; it is tried again");
                }
                core.note_watermark();
                core.look_for_folder();
                core.flush_frozen()
            }
            Worker::Compactor => {
                warn_of_stall(core);
                core.compact()
            }
        };
        if matches!(done, Err(Error::Closed)) {
            return;
        }
        core.gate.set_outcome(worker, done.clone());
        retry = done.err().map(|error| {
            let pause = retry.map_or(RETRY_FIRST, |pause| (pause * 2).min(RETRY_MAX));
            tracing::warn!(?worker, %error, ?pause, "background work failed; it is tried again");
            pause
        });
    }
}
