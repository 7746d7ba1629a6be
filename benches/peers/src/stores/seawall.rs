//! Seawall as it comes: tables written from memtables are not compressed, merged ones are by zstd, which gains little on
//! these values and costs time where blocks are read from the disk. A buffered commit asks for a flush of the log that
//! nobody waits for, which the peers' buffered commits do not; and readers see only what has been flushed.

use std::path::Path;

use anyhow::Result;
use seawall_engine::{CommitLevel, Create, Db, Keyspace};

use crate::store::{Durability, Settings, Store};
use crate::workload::{Key, Pair, mark};

struct Seawall {
    db: Db,
    keyspace: Keyspace,
    level: CommitLevel,
}

pub(crate) fn open(dir: &Path, settings: &Settings) -> Result<Box<dyn Store>> {
    let builder = Db::builder(dir).create(Create::IfMissing);
    let db = builder.cache_bytes(settings.cache_bytes).memtable_bytes(settings.memtable_bytes).open()?;
    let keyspace = db.keyspace("bench")?;
    let level = match settings.durability {
        Durability::Durable => CommitLevel::Local,
        Durability::Buffered => CommitLevel::Buffered,
    };
    Ok(Box::new(Seawall { db, keyspace, level }))
}

impl Store for Seawall {
    fn write(&self, pairs: &[Pair]) -> Result<()> {
        let mut batch = self.db.batch();
        for (key, value) in pairs {
            batch.put(&self.keyspace, key, value);
        }
        batch.commit_with(self.level)?;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.db.sync()?;
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.keyspace.get(key)?.map(|value| mark(&value)))
    }

    fn get_in_one_view(&self, keys: &[Key]) -> Option<Result<usize>> {
        let found = || {
            let snapshot = self.db.snapshot()?;
            let mut found = 0;
            for key in keys {
                found += snapshot.get(&self.keyspace, key)?.map(|value| mark(&value)).map_or(0, |_| 1);
            }
            Ok(found)
        };
        Some(found())
    }

    fn multi_get(&self, keys: &[Key]) -> Option<Result<usize>> {
        let found = || {
            let values = self.keyspace.multi_get(keys)?;
            // A mark is read from each value, as everywhere.
            Ok(values.iter().flatten().map(|value| mark(value)).map(std::hint::black_box).count())
        };
        Some(found())
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        let mut read = 0;
        let mut entries = self.keyspace.range(*from..);
        while read < count
            && let Some(entry) = entries.next_borrowed()
        {
            std::hint::black_box(mark(entry?.1));
            read += 1;
        }
        Ok(read)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.db.compact()?)
    }

    fn table_bytes_written(&self) -> Option<u64> {
        Some(self.db.stats().levels.iter().map(|level| level.written_bytes).sum())
    }

    fn report(&self) -> String {
        let stats = self.db.stats();
        let level = |(number, level): (usize, &seawall_engine::LevelStats)| {
            let mib = |bytes: u64| bytes >> 20;
            let (now, read, written) = (mib(level.bytes), mib(level.read_bytes), mib(level.written_bytes));
            format!("level {number}: {} tables, {now} MiB; read {read} MiB, written {written} MiB\n", level.tables)
        };
        let used = stats.levels.iter().enumerate().filter(|(_, level)| level.tables > 0 || level.written_bytes > 0);
        let levels: String = used.map(level).collect();
        format!(
            "{levels}{} flushes, {} merges, {} moves, {:.2} written for each byte flushed\nstopped {} times, {:?}; slowed {} \
             times, {:?}; longest {:?}, by length {:?}\nlog: {} flushes, longest {} us",
            stats.flushes,
            stats.merges,
            stats.moves,
            stats.write_amplification(),
            stats.stalls,
            stats.stalled,
            stats.slowed,
            stats.slowed_for,
            stats.stall_longest,
            stats.waits,
            stats.log.flushes,
            stats.log.flush_micros_max,
        )
    }
}
