//! Figures about an open database, read at one moment and counted nowhere else.

use std::time::Duration;

use seawall_wal::storage::IoPath;
use seawall_wal::{LogStats, Lsn, Timestamp};

use crate::db::Db;
use crate::error::Error;
use crate::gate::WAIT_BOUNDS;
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
    /// Bytes that merges have read of it since the database was opened.
    pub read_bytes: u64,
    /// Bytes written to it since then, blob files included: level 0 by writing memtables out, others by merges.
    pub written_bytes: u64,
}

/// Blob files, over all keyspaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobStats {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the values in them.
    pub value_bytes: u64,
    /// Bytes of those values that tables refer to. The rest goes when tables are merged. `live_bytes <= value_bytes`.
    pub live_bytes: u64,
}

/// Waits of commits by length: how many took up to 1 ms, 10 ms, 100 ms, 1 s, and longer.
pub type WaitCounts = [u64; WAIT_BOUNDS.len() + 1];

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
    /// Files of large values that tables refer to.
    pub blobs: BlobStats,
    /// The cache of table blocks.
    pub cache: CacheStats,
    /// Sets of memtables written out since the database was opened.
    pub flushes: u64,
    /// Merges of tables since then.
    pub merges: u64,
    /// Parts they were cut into, each on a thread of its own.
    pub merge_parts: u64,
    /// Tables that went down a level as they were since then.
    pub moves: u64,
    /// Bytes that levels have beyond what they may: what merges have to catch up with.
    pub debt_bytes: u64,
    /// How often commits were stopped until there was memory.
    pub stalls: u64,
    /// How long in all.
    pub stalled: Duration,
    /// How often commits were slowed because too much waits to be written and merged, at most 50 ms each.
    pub slowed: u64,
    /// How long in all.
    pub slowed_for: Duration,
    /// The longest time a commit was stopped or slowed at once.
    pub stall_longest: Duration,
    /// Commits that were stopped or slowed, by how long.
    pub waits: WaitCounts,
    /// What fails of `writing memtables out` and `merging tables`, and why. It is tried again and again.
    pub background_failures: Vec<(&'static str, Error)>,
    /// What commits are answered now, if none is let in and there is no use in waiting: [`Error::Poisoned`] until the database
    /// is opened again, anything else until it passes.
    pub writes_refused: Option<Error>,
    /// Whether writes stand still because the disk is full.
    pub disk_full: bool,
    /// Which way bulk reads and writes go.
    pub io_path: IoPath,
    /// The log's own figures.
    pub log: LogStats,
}

impl Stats {
    /// Bytes written to all levels for each byte written to level 0, since the database was opened; the log is not counted.
    /// 1 if nothing was written yet.
    pub fn write_amplification(&self) -> f64 {
        let written: u64 = self.levels.iter().map(|level| level.written_bytes).sum();
        match self.levels[0].written_bytes {
            0 => 1.0,
            flushed => written as f64 / flushed as f64,
        }
    }
}

impl Db {
    /// Figures as of now.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// let stats = db.stats();
    /// let tables: u64 = stats.levels.iter().map(|level| level.bytes).sum();
    /// println!("{} bytes in tables, {} in blob files, {} in memory", tables, stats.blobs.bytes, stats.memtable_bytes);
    /// println!("commits were held up for {:?} in all, {:?} at once", stats.stalled + stats.slowed_for, stats.stall_longest);
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    pub fn stats(&self) -> Stats {
        let core = self.core();
        let view = core.state.view();
        let mut levels = [LevelStats::default(); LEVELS];
        for (_, level, table) in view.tables.tables() {
            levels[level].tables += 1;
            levels[level].bytes += table.meta().size;
            levels[level].entries += table.meta().entries;
        }
        let mut blobs = BlobStats::default();
        for (file, share) in view.tables.keyspaces().flat_map(|(_, levels)| levels.blobs().values()) {
            blobs.files += 1;
            blobs.bytes += file.meta().size;
            blobs.value_bytes += file.meta().bytes;
            blobs.live_bytes += share.bytes;
        }
        for (number, level) in levels.iter_mut().enumerate() {
            (level.read_bytes, level.written_bytes) = core.state.tally.of_level(number);
        }
        let applied = core.state.applied();
        let [flushes, merges, merge_parts, moves] = core.state.tally.counts();
        let waits = core.gate.waits();
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
            blobs,
            cache: core.state.store.cache_stats(),
            flushes,
            merges,
            merge_parts,
            moves,
            debt_bytes: core.gate.debt(|| 0.0).bytes,
            stalls: waits.stalls,
            stalled: waits.stalled,
            slowed: waits.slowed,
            slowed_for: waits.slowed_for,
            stall_longest: waits.longest,
            waits: waits.counts,
            background_failures: core.gate.failures(),
            writes_refused: core.refusal(),
            disk_full: core.gate.is_disk_full(),
            io_path: core.durable.storage().io_path(),
            log: core.log.stats(),
        }
    }
}
