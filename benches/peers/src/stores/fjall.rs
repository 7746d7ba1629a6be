//! fjall, built without compression. A durable write is a batch with `SyncData`.

use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use crate::store::{Durability, Settings, Store};
use crate::workload::{Key, Pair, mark};

struct Fjall {
    db: Database,
    keyspace: Keyspace,
    durability: Durability,
}

pub(crate) fn open(dir: &Path, settings: &Settings) -> Result<Box<dyn Store>> {
    let db = Database::builder(dir).cache_size(settings.cache_bytes).open()?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(settings.memtable_bytes);
    let keyspace = db.keyspace("bench", options)?;
    Ok(Box::new(Fjall { db, keyspace, durability: settings.durability }))
}

impl Store for Fjall {
    fn write(&self, pairs: &[Pair]) -> Result<()> {
        if let ([(key, value)], Durability::Buffered) = (pairs, self.durability) {
            return Ok(self.keyspace.insert(key, value)?);
        }
        let durable = (self.durability == Durability::Durable).then_some(PersistMode::SyncData);
        let mut batch = self.db.batch().durability(durable);
        for (key, value) in pairs {
            batch.insert(&self.keyspace, key, value);
        }
        Ok(batch.commit()?)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.persist(PersistMode::SyncData)?)
    }

    fn get(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.keyspace.get(key)?.map(|value| mark(&value)))
    }

    fn get_in_one_view(&self, keys: &[Key]) -> Option<Result<usize>> {
        let found = || {
            let snapshot = self.db.snapshot();
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
        for entry in self.keyspace.range(*from..).take(count) {
            let (_, value) = entry.into_inner()?;
            std::hint::black_box(mark(&value));
            read += 1;
        }
        Ok(read)
    }

    fn settle(&self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        Ok(self.keyspace.major_compact()?)
    }
}
