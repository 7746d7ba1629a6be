//! A thread that has the next chunks of memory ready: their pages are touched before a writer needs them. The system clears
//! a page when it is touched first, and a virtual machine may have to get it from its host, which takes milliseconds.

use std::sync::Arc;

use seawall_wal::sync::thread::{self, JoinHandle};
use seawall_wal::sync::{Condvar, Mutex};

use super::chunk::Chunk;

/// Chunks that are ready: so many are filled while one is touched.
const READY: usize = 2;

/// The thread, until it is dropped.
pub(super) struct Ahead {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    chunk_bytes: usize,
    stock: Mutex<Stock>,
    changed: Condvar,
}

#[derive(Default)]
struct Stock {
    ready: Vec<Chunk>,
    closing: bool,
}

impl Ahead {
    /// Begins to have chunks of this size ready. Without a thread there are none, and who needs one touches it.
    pub(super) fn start(chunk_bytes: usize) -> Self {
        let shared = Arc::new(Shared { chunk_bytes, stock: Mutex::default(), changed: Condvar::new() });
        let working = Arc::clone(&shared);
        let thread = thread::Builder::new().name(String::from("seawall-memory")).spawn(move || working.run());
        Self { shared, thread: thread.inspect_err(|error| tracing::debug!(%error, "no memory is got ahead")).ok() }
    }

    /// One that is ready, if there is one; another one will be.
    pub(super) fn take(&self) -> Option<Chunk> {
        let taken = self.shared.stock.lock().ready.pop();
        if taken.is_some() {
            self.shared.changed.notify_one();
        }
        taken
    }

    /// Waits until as many as promised are ready.
    #[cfg(test)]
    pub(super) fn await_ready(&self) {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.ready() < READY {
            assert!(std::time::Instant::now() < until, "{} are ready", self.ready());
            std::thread::yield_now();
        }
    }

    /// Where the one lies that is taken next.
    #[cfg(test)]
    pub(super) fn next_start(&self) -> Option<std::num::NonZero<usize>> {
        self.shared.stock.lock().ready.last().map(|chunk| chunk.start().addr())
    }

    #[cfg(test)]
    fn ready(&self) -> usize {
        self.shared.stock.lock().ready.len()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.stock.lock().closing = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // What it panicked with kept nobody from anything.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        // It does not give way: what it has not ready a writer does itself.
        seawall_wal::ask_for_short_turns();
        let mut stock = self.stock.lock();
        while !stock.closing {
            if stock.ready.len() >= READY {
                self.changed.wait(&mut stock);
                continue;
            }
            drop(stock);
            let mut chunk = Chunk::new(self.chunk_bytes);
            chunk.touch();
            stock = self.stock.lock();
            stock.ready.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn as_many_as_promised_are_ready_again_after_some_were_taken() {
        let ahead = Ahead::start(1 << 20);
        for _ in 0..3 {
            ahead.await_ready();
            let taken: Vec<_> = std::iter::from_fn(|| ahead.take()).take(READY).collect();
            assert_eq!(taken.iter().map(Chunk::bytes).collect::<Vec<_>>(), [1 << 20; READY]);
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(ahead.ready() <= READY, "no more than promised");
    }
}
