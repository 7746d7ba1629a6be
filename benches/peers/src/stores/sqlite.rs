//! SQLite in WAL mode. A durable write is a transaction with `synchronous=FULL`, a buffered one with `NORMAL`, which
//! syncs only when the log is folded in. A table without row ids is its nearest thing to an ordered map.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::store::{Durability, Settings, Store};
use crate::workload::{Key, Pair, mark};

/// Who writes through what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// All threads take turns with one connection.
    OneBehindLock,
    /// Each takes a connection of its own while it works, with a cache as large as the single one would have.
    OnePerThread,
}

/// How long a connection waits for another one's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
const PUT: &str =
    "INSERT INTO pairs (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const GET: &str = "SELECT value FROM pairs WHERE key = ?1";
const SCAN: &str = "SELECT key, value FROM pairs WHERE key >= ?1 ORDER BY key LIMIT ?2";

struct Sqlite {
    path: PathBuf,
    settings: Settings,
    sharing: Sharing,
    /// Those nobody uses now; there is always one if they are behind a lock.
    idle: Mutex<Vec<Connection>>,
}

pub(crate) fn open(dir: &Path, settings: &Settings, sharing: Sharing) -> Result<Box<dyn Store>> {
    let path = dir.join("sqlite");
    let first = connect(&path, settings)?;
    first
        .execute_batch("CREATE TABLE IF NOT EXISTS pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")?;
    Ok(Box::new(Sqlite { path, settings: *settings, sharing, idle: Mutex::new(vec![first]) }))
}

fn connect(path: &Path, settings: &Settings) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let synchronous = match settings.durability {
        Durability::Durable => "FULL",
        Durability::Buffered => "NORMAL",
    };
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    // A negative number is in KiB.
    connection.pragma_update(None, "cache_size", -((settings.cache_bytes >> 10) as i64))?;
    Ok(connection)
}

impl Sqlite {
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match self.sharing {
            Sharing::OneBehindLock => match idle().first_mut() {
                Some(connection) => work(connection),
                None => anyhow::bail!("the connection is gone"),
            },
            Sharing::OnePerThread => {
                let waiting = idle().pop();
                let mut connection = match waiting {
                    Some(connection) => connection,
                    None => connect(&self.path, &self.settings)?,
                };
                let done = work(&mut connection);
                idle().push(connection);
                done
            }
        }
    }
}

impl Store for Sqlite {
    fn write(&self, pairs: &[Pair]) -> Result<()> {
        self.with(|connection| {
            if let [(key, value)] = pairs {
                connection.prepare_cached(PUT)?.execute((key, value))?;
                return Ok(());
            }
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut put = transaction.prepare_cached(PUT)?;
                for (key, value) in pairs {
                    put.execute((key, value))?;
                }
            }
            Ok(transaction.commit()?)
        })
    }

    fn sync(&self) -> Result<()> {
        self.with(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            Ok(())
        })
    }

    fn get(&self, key: &Key) -> Result<Option<u64>> {
        self.with(|connection| {
            let mut get = connection.prepare_cached(GET)?;
            Ok(get.query_row([key], |row| Ok(mark(row.get_ref(0)?.as_blob()?))).optional()?)
        })
    }

    fn get_in_one_view(&self, keys: &[Key]) -> Option<Result<usize>> {
        Some(self.with(|connection| {
            let transaction = connection.transaction()?;
            let mut get = transaction.prepare_cached(GET)?;
            let mut found = 0;
            for key in keys {
                let value = get.query_row([key], |row| Ok(mark(row.get_ref(0)?.as_blob()?))).optional()?;
                found += value.map_or(0, |_| 1);
            }
            Ok(found)
        }))
    }

    fn multi_get(&self, _: &[Key]) -> Option<Result<usize>> {
        None
    }

    fn scan(&self, from: &Key, count: usize) -> Result<usize> {
        self.with(|connection| {
            let mut scan = connection.prepare_cached(SCAN)?;
            let mut rows = scan.query((from, count as i64))?;
            let mut read = 0;
            while let Some(row) = rows.next()? {
                std::hint::black_box(mark(row.get_ref(1)?.as_blob()?));
                read += 1;
            }
            Ok(read)
        })
    }

    fn settle(&self) -> Result<()> {
        self.sync()
    }
}
