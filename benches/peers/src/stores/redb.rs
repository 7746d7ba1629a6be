//! redb. A durable write is a transaction with `Durability::Immediate`, a buffered one with `Durability::None`.

use std::path::Path;

use anyhow::Result;
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::store::{Durability, Settings, Store};
use crate::workload::{Key, Pair, mark};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bench");

struct Redb {
    db: Database,
    durability: redb::Durability,
}

pub(crate) fn open(dir: &Path, settings: &Settings) -> Result<Box<dyn Store>> {
    let db = Database::builder().set_cache_size(settings.cache_bytes as usize).create(dir.join("redb"))?;
    let durability = match settings.durability {
        Durability::Durable => redb::Durability::Immediate,
        Durability::Buffered => redb::Durability::None,
    };
    let store = Redb { db, durability };
    // A reader must find the table.
    store.write(&[])?;
    Ok(Box::new(store))
}

impl Redb {
    fn commit(&self, pairs: &[Pair], durability: redb::Durability) -> Result<()> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in pairs {
                table.insert(&key[..], &value[..])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Store for Redb {
    fn write(&self, pairs: &[Pair]) -> Result<()> {
        self.commit(pairs, self.durability)
    }

    fn sync(&self) -> Result<()> {
        self.commit(&[], redb::Durability::Immediate)
    }

    fn get(&self, key: &Key) -> Result<Option<u64>> {
        let table = self.db.begin_read()?.open_table(TABLE)?;
        Ok(table.get(&key[..])?.map(|value| mark(value.value())))
    }

    fn get_in_one_view(&self, keys: &[Key]) -> Option<Result<usize>> {
        let found = || {
            let table = self.db.begin_read()?.open_table(TABLE)?;
            let mut found = 0;
            for key in keys {
                found += table.get(&key[..])?.map(|value| mark(value.value())).map_or(0, |_| 1);
            }
            Ok(found)
        };
        Some(found())
    }

    fn multi_get(&self, _: &[Key]) -> Option<Result<usize>> {
        None
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        let table = self.db.begin_read()?.open_table(TABLE)?;
        let mut read = 0;
        for entry in table.range(&from[..]..)?.take(count) {
            let (_, value) = entry?;
            std::hint::black_box(mark(value.value()));
            read += 1;
        }
        Ok(read)
    }

    fn settle(&self) -> Result<()> {
        self.sync()
    }
}
