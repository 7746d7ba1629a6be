//! The two threads of a database: one writes memtables out and keeps the watermark, one merges tables. When something
//! fails they try again, ever more slowly; when the disk is full they say so at the gate until it is not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::core::Core;
use crate::error::{Error, Result, at};
use crate::gate::Worker;

/// How often the watermark is written while it moves, and what has become obsolete is looked for.
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
    let flushing = Arc::clone(core);
    let compacting = Arc::clone(core);
    let threads: [(&str, Box<dyn FnOnce() + Send>); 2] = [
        ("seawall-tables", Box::new(move || run(&flushing, Worker::Flusher))),
        ("seawall-merge", Box::new(move || run(&compacting, Worker::Compactor))),
    ];
    let spawn = |(name, work)| {
        let spawned = std::thread::Builder::new().name(String::from(name)).spawn::<Box<dyn FnOnce() + Send>, ()>(work);
        spawned.map_err(at("start a thread for", &core.path))
    };
    threads.into_iter().map(spawn).collect()
}

fn run(core: &Core, worker: Worker) {
    let bell = match worker {
        Worker::Flusher => &core.flush_bell,
        Worker::Compactor => &core.compact_bell,
    };
    let mut retry: Option<Duration> = None;
    loop {
        bell.wait(retry.unwrap_or(TICK));
        if core.stopping.load(Ordering::Acquire) {
            return;
        }
        let done = match worker {
            Worker::Flusher => {
                core.note_watermark();
                core.flush_frozen()
            }
            Worker::Compactor => core.compact(),
        };
        retry = match done {
            Ok(()) => {
                core.gate.set_disk_full(worker, false);
                None
            }
            Err(Error::Closed) => return,
            Err(error) => {
                core.gate.set_disk_full(worker, matches!(error, Error::DiskFull { .. }));
                let pause = retry.map_or(RETRY_FIRST, |pause| (pause * 2).min(RETRY_MAX));
                tracing::warn!(?worker, %error, ?pause, "background work failed; it is tried again");
                Some(pause)
            }
        };
    }
}
