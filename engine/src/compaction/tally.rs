//! What writing tables has cost since the database was opened: counted where tables are made, read by `stats`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::manifest::LEVELS;

/// Counters; each is right by itself, and together they are as of about the same moment.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    levels: [LevelTally; LEVELS],
    flushes: AtomicU64,
    merges: AtomicU64,
    parts: AtomicU64,
    moves: AtomicU64,
}

#[derive(Debug, Default)]
struct LevelTally {
    read: AtomicU64,
    written: AtomicU64,
}

impl Tally {
    /// Memtables became tables of level 0.
    pub(crate) fn flushed(&self, bytes: u64) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.levels[0].written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A merge in so many parts read so many bytes of some levels, and wrote so many to one.
    pub(crate) fn merged(&self, parts: usize, read: impl IntoIterator<Item = (usize, u64)>, to: usize, written: u64) {
        self.merges.fetch_add(1, Ordering::Relaxed);
        self.parts.fetch_add(parts as u64, Ordering::Relaxed);
        for (level, bytes) in read {
            self.levels[level].read.fetch_add(bytes, Ordering::Relaxed);
        }
        self.levels[to].written.fetch_add(written, Ordering::Relaxed);
    }

    /// Tables went down a level as they are.
    pub(crate) fn moved(&self, tables: u64) {
        self.moves.fetch_add(tables, Ordering::Relaxed);
    }

    /// Bytes read from a level, and bytes written to it.
    pub(crate) fn of_level(&self, level: usize) -> (u64, u64) {
        let level = &self.levels[level];
        (level.read.load(Ordering::Relaxed), level.written.load(Ordering::Relaxed))
    }

    /// Sets of memtables written out, merges, their parts, and tables moved.
    pub(crate) fn counts(&self) -> [u64; 4] {
        [&self.flushes, &self.merges, &self.parts, &self.moves].map(|counter| counter.load(Ordering::Relaxed))
    }
}
