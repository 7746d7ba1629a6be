//! RocksDB, as it comes and tuned for durable writes. Compression is off in both; a durable write is `sync = true`.

use std::path::Path;

use anyhow::Result;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Options, WriteBatch, WriteOptions,
};

use crate::store::{Durability, Settings, Store};
use crate::workload::{Key, Pair, mark};

/// Whose choice the settings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tuning {
    /// RocksDB's.
    Default,
    /// Ours, for the sake of RocksDB: what its documents advise for many small durable writes.
    Tuned,
}

/// Logs kept for reuse when tuned: an overwritten log needs no new blocks from the file system.
const RECYCLED_LOGS: usize = 4;
const FAMILY: &str = "default";

struct Rocks {
    db: DB,
    write: WriteOptions,
}

pub(crate) fn open(dir: &Path, settings: &Settings, tuning: Tuning) -> Result<Box<dyn Store>> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(settings.cache_bytes as usize));
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(settings.memtable_bytes as usize);
    if tuning == Tuning::Tuned {
        table.set_bloom_filter(10.0, false);
        options.set_enable_pipelined_write(true);
        options.set_recycle_log_file_num(RECYCLED_LOGS);
        options.set_write_buffer_size(4 * settings.memtable_bytes as usize);
        options.increase_parallelism(std::thread::available_parallelism().map_or(1, usize::from) as i32);
    }
    options.set_block_based_table_factory(&table);
    let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
    let db = DB::open_cf_descriptors(&options, dir, [family])?;
    let mut write = WriteOptions::default();
    write.set_sync(settings.durability == Durability::Durable);
    Ok(Box::new(Rocks { db, write }))
}

impl Store for Rocks {
    fn write(&self, pairs: &[Pair]) -> Result<()> {
        if let [(key, value)] = pairs {
            return Ok(self.db.put_opt(key, value, &self.write)?);
        }
        let mut batch = WriteBatch::default();
        for (key, value) in pairs {
            batch.put(key, value);
        }
        Ok(self.db.write_opt(batch, &self.write)?)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.flush_wal(true)?)
    }

    fn get(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.db.get_pinned(key)?.map(|value| mark(&value)))
    }

    fn get_in_one_view(&self, keys: &[Key]) -> Option<Result<usize>> {
        let found = || {
            let snapshot = self.db.snapshot();
            let mut found = 0;
            for key in keys {
                found += snapshot.get_pinned(key)?.map(|value| mark(&value)).map_or(0, |_| 1);
            }
            Ok(found)
        };
        Some(found())
    }

    fn multi_get(&self, keys: &[Key]) -> Option<Result<usize>> {
        let family = self.db.cf_handle(FAMILY)?;
        let found = || {
            let mut found = 0;
            for value in self.db.batched_multi_get_cf(family, keys, false) {
                found += value?.map(|value| mark(&value)).map_or(0, |_| 1);
            }
            Ok(found)
        };
        Some(found())
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        let mut entries = self.db.raw_iterator();
        entries.seek(from);
        let mut read = 0;
        while read < count
            && let Some((_, value)) = entries.item()
        {
            std::hint::black_box(mark(value));
            read += 1;
            entries.next();
        }
        entries.status()?;
        Ok(read)
    }

    fn settle(&self) -> Result<()> {
        self.db.flush()?;
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn table_bytes_written(&self) -> Option<u64> {
        // In words, to a hundredth of a GiB: the counters cost each call something.
        let text = self.report();
        let line = text.lines().find_map(|line| line.strip_prefix("Cumulative compaction: "))?;
        let gib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some((gib * f64::from(1 << 30)) as u64)
    }

    fn report(&self) -> String {
        let family = self.db.cf_handle(FAMILY);
        let text = family
            .and_then(|family| self.db.property_value_cf(family, "rocksdb.cfstats-no-file-histogram").ok().flatten());
        text.unwrap_or_default()
    }
}
