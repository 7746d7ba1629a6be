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

    fn multi_get(&self, _: &[Key]) -> Option<Result<usize>> {
        None
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        let mut read = 0;
        for pair in self.keyspace.range(*from..).take(count) {
            let (_, value) = pair?;
            std::hint::black_box(mark(&value));
            read += 1;
        }
        Ok(read)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.db.compact()?)
    }
}
