//! What every store must do to be compared, and the list of those that are.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use crate::stores;
use crate::workload::{Key, Pair};

/// What a write has reached when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It survives power loss.
    Durable,
    /// It is on its way: each store's usual mode without a sync for each commit.
    Buffered,
}

/// How a store is opened; the same for all of them as far as they know the word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) durability: Durability,
    /// For blocks of tables or pages. LMDB has none of its own: it uses the page cache.
    pub(crate) cache_bytes: u64,
    /// For stores with memtables.
    pub(crate) memtable_bytes: u64,
}

impl Settings {
    /// 64 MiB of cache and 64 MiB of memtable, which is the default of RocksDB, fjall and Seawall.
    pub(crate) fn new(durability: Durability) -> Self {
        Self { durability, cache_bytes: 64 << 20, memtable_bytes: 64 << 20 }
    }
}

/// A store of keys and values in order. Reads return the mark of the value, so that none can be left out.
pub(crate) trait Store: Send + Sync {
    /// Puts pairs as one commit, as durable as the store was opened.
    fn write(&self, pairs: &[Pair]) -> Result<()>;
    /// Makes everything written before durable, and visible where that is the condition.
    fn sync(&self) -> Result<()>;
    /// The mark of a key's value, as of now.
    fn get(&self, key: &Key) -> Result<Option<u64>>;
    /// One get after the other within one view (a snapshot, a transaction), where the store has one to offer. Says how
    /// many keys were there.
    fn get_in_one_view(&self, keys: &[Key]) -> Option<Result<usize>>;
    /// Many keys in one call, if the store has such a call. Says how many were there.
    fn multi_get(&self, keys: &[Key]) -> Option<Result<usize>>;
    /// Reads `count` entries, or as many as there are, in order from a key on. Says how many.
    fn scan(&self, from: &Key, count: usize) -> Result<usize>;
    /// Moves everything to where it would be after a quiet night: tables written and merged, logs folded in.
    fn settle(&self) -> Result<()>;
    /// Bytes written into tables since it was opened, if it has tables and counts them.
    fn table_bytes_written(&self) -> Option<u64> {
        None
    }
    /// What it says of its own work since it was opened, for people.
    fn report(&self) -> String {
        String::new()
    }
}

/// The stores that are compared, in the order in which they take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// This one
    Seawall,
    /// RocksDB as it comes
    Rocksdb,
    /// RocksDB with pipelined writes, recycled logs, memtables four times as large, Bloom filters
    RocksdbTuned,
    /// fjall
    Fjall,
    /// redb
    Redb,
    /// LMDB
    Lmdb,
    /// SQLite, one connection behind a lock
    Sqlite,
    /// SQLite, a connection for each thread
    SqliteThreads,
}

impl Kind {
    /// Those that this build has, in order.
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().iter().copied().filter(|kind| kind.is_built()).collect()
    }

    fn is_built(self) -> bool {
        cfg!(feature = "rocksdb") || !matches!(self, Self::Rocksdb | Self::RocksdbTuned)
    }

    /// As people call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Seawall => "Seawall",
            Self::Rocksdb => "RocksDB",
            Self::RocksdbTuned => "RocksDB tuned",
            Self::Fjall => "fjall",
            Self::Redb => "redb",
            Self::Lmdb => "LMDB",
            Self::Sqlite => "SQLite",
            Self::SqliteThreads => "SQLite, connection per thread",
        }
    }

    /// As it is called on the command line and in names of folders.
    pub(crate) fn slug(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Opens it in `dir`, making it if there is none; recovers it if it was not closed.
    pub(crate) fn open(self, dir: &Path, settings: &Settings) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        match self {
            Self::Seawall => stores::seawall::open(dir, settings),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => stores::rocksdb::open(dir, settings, stores::rocksdb::Tuning::Default),
            #[cfg(feature = "rocksdb")]
            Self::RocksdbTuned => stores::rocksdb::open(dir, settings, stores::rocksdb::Tuning::Tuned),
            #[cfg(not(feature = "rocksdb"))]
            Self::Rocksdb | Self::RocksdbTuned => anyhow::bail!("this build has no RocksDB"),
            Self::Fjall => stores::fjall::open(dir, settings),
            Self::Redb => stores::redb::open(dir, settings),
            Self::Lmdb => stores::lmdb::open(dir, settings),
            Self::Sqlite => stores::sqlite::open(dir, settings, stores::sqlite::Sharing::OneBehindLock),
            Self::SqliteThreads => stores::sqlite::open(dir, settings, stores::sqlite::Sharing::OnePerThread),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Pairs of one commit while a store is filled.
const FILL_BATCH: u64 = 1000;

/// Puts the pairs with the numbers below `keys`, many to a commit.
pub(crate) fn fill(store: &dyn Store, keys: u64) -> Result<()> {
    for first in (0..keys).step_by(FILL_BATCH as usize) {
        let pairs: Vec<Pair> = (first..keys.min(first + FILL_BATCH)).map(crate::workload::pair).collect();
        store.write(&pairs)?;
    }
    store.sync()
}
