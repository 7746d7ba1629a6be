//! Figures about an open database, read at one moment and counted nowhere else.

use std::time::Duration;

use seawall_wal::storage::IoPath;
use seawall_wal::{LogStats, Lsn, Timestamp};

use crate::db::Db;
use crate::error::Error;
use crate::manifest::LEVELS;
use crate::table::CacheStats;

/// Tables of one level, over all keyspaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// How many.
    pub tables: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Versions of keys in them, deletes included.
    pub entries: u64,
}

/// Figures about an open database.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Where the log ends.
    pub end: Lsn,
    /// Up to where it is with the operating system.
    pub written: Lsn,
    /// Up to where it survives power loss.
    pub flushed: Lsn,
    /// Up to where it is applied.
    pub applied: Lsn,
    /// Up to where reads see.
    pub visible: Lsn,
    /// Up to where everything is in tables.
    pub redo: Lsn,
    /// The oldest LSN that can be read.
    pub floor: Lsn,
    /// The time of the last record applied.
    pub last_commit: Timestamp,
    /// Snapshots held.
    pub snapshots: usize,
    /// Bytes of memtables, those that wait to be written out included.
    pub memtable_bytes: u64,
    /// Sets of memtables that wait to be written out.
    pub memtables_frozen: usize,
    /// Tables by level.
    pub levels: [LevelStats; LEVELS],
    /// The cache of table blocks.
    pub cache: CacheStats,
    /// How often commits waited for memory.
    pub stalls: u64,
    /// How long in all.
    pub stalled: Duration,
    /// Why writing tables out or merging them stands still, if it does. It is tried again and again.
    pub background_failures: Vec<Error>,
    /// Whether writes stand still because the disk is full.
    pub disk_full: bool,
    /// Which way bulk reads and writes go.
    pub io_path: IoPath,
    /// The log's own figures.
    pub log: LogStats,
}

impl Db {
    /// Figures as of now.
    pub fn stats(&self) -> Stats {
        let core = self.core();
        let view = core.state.view();
        let mut levels = [LevelStats::default(); LEVELS];
        for (_, level, table) in view.tables.tables() {
            levels[level].tables += 1;
            levels[level].bytes += table.meta().size;
            levels[level].entries += table.meta().entries;
        }
        let applied = core.state.applied();
        let (stalls, stalled) = core.gate.stalls();
        Stats {
            end: core.log.end().lsn,
            written: core.log.written(),
            flushed: core.log.flushed().value(),
            applied: applied.position.lsn,
            visible: core.visible(),
            redo: core.durable.redo().lsn,
            floor: core.state.readers.floor(),
            last_commit: applied.time,
            snapshots: core.state.readers.pins(),
            memtable_bytes: view.memtable_bytes(),
            memtables_frozen: view.frozen.len(),
            levels,
            cache: core.state.store.cache_stats(),
            stalls,
            stalled,
            background_failures: core.gate.failures(),
            disk_full: core.gate.is_disk_full(),
            io_path: core.durable.storage().io_path(),
            log: core.log.stats(),
        }
    }
}
