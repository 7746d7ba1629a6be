//! LMDB, through heed. A durable write is a transaction of an environment opened without flags, a buffered one has
//! `MDB_NOSYNC`. Its cache is the kernel's page cache, whose size nobody bounds here.

#![allow(unsafe_code)]

use std::path::Path;

use anyhow::Result;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use crate::store::{Durability, Settings, Store};
use crate::workload::{Key, Pair, mark};

/// Address space for the map; the file is as large as its content.
const MAP_BYTES: usize = 16 << 30;
const READERS_MAX: u32 = 512;

struct Lmdb {
    env: Env,
    pairs: Database<'static, Bytes, Bytes>,
}

pub(crate) fn open(dir: &Path, settings: &Settings) -> Result<Box<dyn Store>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_readers(READERS_MAX);
    if settings.durability == Durability::Buffered {
        // SAFETY: without syncs a power loss may damage the file; these files live for one measurement.
        unsafe { options.flags(EnvFlags::NO_SYNC) };
    }
    // SAFETY: the folder is this process's own, so nobody else maps, truncates or opens the file.
    let env = unsafe { options.open(dir)? };
    let made = env.create_databases_and_commit(env.write_txn()?, |opener, transaction| {
        opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
    })?;
    let pairs = made.unwrap_commit();
    Ok(Box::new(Lmdb { env, pairs }))
}

impl Store for Lmdb {
    fn write(&self, pairs: &[Pair]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in pairs {
            self.pairs.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn get(&self, key: &Key) -> Result<Option<u64>> {
        let transaction = self.env.read_txn()?;
        Ok(self.pairs.get(&transaction, key)?.map(mark))
    }

    fn get_in_one_view(&self, keys: &[Key]) -> Option<Result<usize>> {
        let found = || {
            let transaction = self.env.read_txn()?;
            let mut found = 0;
            for key in keys {
                found += self.pairs.get(&transaction, key)?.map(mark).map_or(0, |_| 1);
            }
            Ok(found)
        };
        Some(found())
    }

    fn multi_get(&self, _: &[Key]) -> Option<Result<usize>> {
        None
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        let transaction = self.env.read_txn()?;
        let from = (std::ops::Bound::Included(&from[..]), std::ops::Bound::Unbounded);
        let mut read = 0;
        for entry in self.pairs.range(&transaction, &from)?.take(count) {
            let (_, value) = entry?;
            std::hint::black_box(mark(value));
            read += 1;
        }
        Ok(read)
    }

    fn settle(&self) -> Result<()> {
        self.sync()
    }
}
