//! Closing a database: its threads end, what is in the log is flushed, and the control file says so. A disk that does not
//! answer keeps nobody here for ever: then all of that goes on by itself, and the directory stays locked meanwhile.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use seawall_wal::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use seawall_wal::sync::now;
use seawall_wal::sync::thread::{self, JoinHandle};

use crate::core::Core;
use crate::error::{Error, Result};

/// How often the disk is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(100);
/// So many times what a write of the log may take is the longest that everything else may, tables being written included.
const PATIENCE: u32 = 10;

/// Closes what was told to stop. Threads of its own are `threads`; without any the caller does it all.
pub(crate) fn close(core: &Arc<Core>, threads: Vec<JoinHandle<()>>) -> Result<()> {
    core.gate.close();
    core.flush_bell.ring();
    core.compact_bell.ring();
    if threads.is_empty() {
        return shut_down(core, threads);
    }
    let (done, outcome) = channel();
    let own = Arc::clone(core);
    let work = move || {
        let result = shut_down(&own, threads);
        // The caller may open the directory again as soon as it hears of it.
        drop(own);
        // Nobody may be listening any more.
        let _ = done.send(result);
    };
    match thread::Builder::new().name(String::from("seawall-close")).spawn(work) {
        Ok(thread) => wait(core, &outcome, thread),
        Err(error) => Err(crate::error::at("start a thread for", &core.path)(error)),
    }
}

fn wait(core: &Core, outcome: &Receiver<Result<()>>, thread: JoinHandle<()>) -> Result<()> {
    let patience = core.settings.stall_timeout;
    let began = now();
    loop {
        match outcome.recv_timeout(LOOK.min(patience)) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => return Err(Error::Closed),
            },
            Err(RecvTimeoutError::Timeout) => {
                let underway = Duration::from_micros(core.log.stats().flush_micros_now);
                if underway >= patience || now() - began >= PATIENCE * patience {
                    return Err(Error::Stalled { path: core.path.clone(), since: underway.max(now() - began) });
                }
            }
        }
    }
}

fn shut_down(core: &Core, threads: Vec<JoinHandle<()>>) -> Result<()> {
    for thread in threads {
        // A panic there was printed when it happened; what is left to do is done here all the same.
        let _ = thread.join();
    }
    if let Some(error) = core.poisoned() {
        return Err(error);
    }
    // No commit that began before can still be between append and apply.
    let _order = core.order.lock();
    core.note_clean_shutdown()
}
