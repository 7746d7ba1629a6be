//! What the benches measure. Each workload is a function of a size, so that criterion runs it large and the tests run it
//! small: a bench that no longer works is a failing test, not a surprise.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_engine::{Builder, CommitLevel, Create, Db, Error, Keyspace, Result};
use seawall_wal::storage::Disk;
use seawall_wal::{
    ClusterId, Log, LogMode, LogOptions, NodeId, OpenAt, Position, RecordKind, SystemClock, TimelineHistory,
    TimelineNonce, Timestamp,
};

/// Of keys: a number in hex, spread over the key space.
pub const KEY_LEN: usize = 16;
/// Of what is put where the workload does not say.
const VALUE_LEN: usize = 112;

/// The key with a number: neighbours in number are far apart in order.
pub fn key(number: u64) -> [u8; KEY_LEN] {
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut key = [0; KEY_LEN];
    for (place, byte) in key.iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(spread >> (60 - 4 * place) & 15) as usize];
    }
    key
}

/// A value of so many bytes, different for each number.
pub fn value(number: u64, len: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// Commits `commits` puts from each of `threads` threads, each waiting for its own.
pub fn commit(keyspace: &Keyspace, db: &Db, threads: u64, commits: u64, level: CommitLevel) -> Result<()> {
    std::thread::scope(|scope| {
        let committer = |thread: u64| {
            move || -> Result<()> {
                for number in 0..commits {
                    let mut batch = db.batch();
                    batch.put(keyspace, key(thread << 32 | number), value(number, VALUE_LEN));
                    batch.commit_with(level)?;
                }
                Ok(())
            }
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(committer(thread))).collect();
        running.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(Error::Closed)))
    })
}

/// Commits `commits` puts with all tickets open at once, then waits for all.
pub fn commit_pipelined(keyspace: &Keyspace, db: &Db, commits: u64) -> Result<()> {
    let ticket = |number| {
        let mut batch = db.batch();
        batch.put(keyspace, key(number), value(number, VALUE_LEN));
        batch.commit_ticket()
    };
    let tickets: Vec<_> = (0..commits).map(ticket).collect::<Result<_>>()?;
    tickets.into_iter().try_for_each(|ticket| ticket.wait().map(drop))
}

/// In which order keys are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrder {
    /// Each anywhere among the others.
    Random,
    /// Each behind the others.
    Ascending,
}

/// A database with nothing in it, whose memtables take anything the benches put.
pub fn empty(dir: &Path) -> Result<(Db, Keyspace)> {
    let db = Db::builder(dir).create(Create::Always).memtable_bytes(1 << 30).open()?;
    let keyspace = db.keyspace("bench")?;
    Ok((db, keyspace))
}

/// Puts so many keys, a thousand in a batch that nobody waits for.
pub fn fill(db: &Db, keyspace: &Keyspace, keys: u64, value_len: usize, order: KeyOrder) -> Result<()> {
    for first in (0..keys).step_by(1000) {
        let mut batch = db.batch();
        for number in first..keys.min(first + 1000) {
            match order {
                KeyOrder::Random => batch.put(keyspace, key(number), value(number, value_len)),
                KeyOrder::Ascending => batch.put(keyspace, format!("{number:016x}"), value(number, value_len)),
            };
        }
        batch.commit_with(CommitLevel::Buffered)?;
    }
    Ok(())
}

/// A database with so many keys, all in tables if `settled`, else in memory.
pub fn filled(dir: &Path, keys: u64, value_len: usize, settled: bool) -> Result<(Db, Keyspace)> {
    filled_by(Db::builder(dir), keys, value_len, settled)
}

/// The same, opened as the builder says.
pub fn filled_by(builder: Builder, keys: u64, value_len: usize, settled: bool) -> Result<(Db, Keyspace)> {
    let db = builder.create(Create::Always).open()?;
    let keyspace = db.keyspace("bench")?;
    fill(&db, &keyspace, keys, value_len, KeyOrder::Random)?;
    db.sync()?;
    if settled {
        db.compact()?;
    }
    Ok((db, keyspace))
}

/// A database closed with so many records, a put each, in its log and in no table. Opening it replays them all, as after
/// a crash: closing writes no memtables out.
pub fn unflushed(dir: &Path, records: u64) -> Result<()> {
    let db = open_unflushed(dir)?;
    let keyspace = db.keyspace("bench")?;
    for number in 0..records {
        let mut batch = db.batch();
        batch.put(&keyspace, key(number), value(number, VALUE_LEN));
        batch.commit_with(CommitLevel::Buffered)?;
    }
    db.close()
}

/// Opens such a database and reads its last record; says how long that took.
pub fn recover(dir: &Path, records: u64) -> Result<Duration> {
    let started = Instant::now();
    let db = open_unflushed(dir)?;
    let last = db.keyspace("bench")?.get(key(records - 1))?;
    let took = started.elapsed();
    assert_eq!(last.as_deref(), Some(&value(records - 1, VALUE_LEN)[..]), "the last record is there");
    assert!(db.recovery().records > records, "all of them, and the keyspace");
    db.close()?;
    Ok(took)
}

fn open_unflushed(dir: &Path) -> Result<Db> {
    Db::builder(dir).memtable_bytes(1 << 30).open()
}

/// Writes everything that is in tables anew; says how many bytes that made.
pub fn merge(db: &Db) -> Result<u64> {
    let written = || db.stats().levels.iter().map(|level| level.written_bytes).sum::<u64>();
    let before = written();
    db.compact()?;
    Ok(written() - before)
}

/// The key with a number, in order of the numbers, and none that `key` gives.
fn sorted_key(number: u64) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key.copy_from_slice(format!("s{number:015x}").as_bytes());
    key
}

/// Loads so many entries in order; says how many.
pub fn bulk_load(db: &Db, keyspace: &Keyspace, entries: u64, value_len: usize) -> Result<u64> {
    let entries = (0..entries).map(|number| (sorted_key(number), value(number, value_len)));
    Ok(db.bulk_load(keyspace, entries)?.entries)
}

/// Puts the same entries one by one, nobody waiting for any but the last.
pub fn put_each(db: &Db, keyspace: &Keyspace, entries: u64, value_len: usize) -> Result<()> {
    for number in 0..entries {
        let mut batch = db.batch();
        batch.put(keyspace, sorted_key(number), value(number, value_len));
        batch.commit_with(CommitLevel::Buffered)?;
    }
    db.sync().map(drop)
}

/// A log of so many records and nothing else, for replay. Says where it ends.
pub fn written_log(
    dir: &Path,
    options: &LogOptions,
    history: &TimelineHistory,
    records: u64,
    len: usize,
) -> Result<Position> {
    let (log, _) = open_log(dir, options, history, |_| Ok(()))?;
    for number in 0..records {
        // The log flushes what nobody waits for.
        drop(log.append(RecordKind::Commit, &value(number, len))?);
    }
    log.flush()?;
    let end = log.end();
    log.close()?;
    Ok(end)
}

/// Reads a whole log as recovery does; says how many records it has.
pub fn replay(dir: &Path, options: &LogOptions, history: &TimelineHistory) -> Result<u64> {
    let mut records = 0;
    let (log, _) = open_log(dir, options, history, |some| {
        records += some.len() as u64;
        Ok(())
    })?;
    log.close()?;
    Ok(records)
}

fn open_log(
    dir: &Path,
    options: &LogOptions,
    history: &TimelineHistory,
    on_records: impl FnMut(&[seawall_wal::Record<'_>]) -> Result<(), seawall_wal::Error>,
) -> Result<(Log, seawall_wal::Recovery)> {
    let at = OpenAt {
        history: history.clone(),
        start: Position::ZERO,
        time_floor: Timestamp(0),
        watermark: Position::ZERO.lsn,
    };
    let storage = Arc::new(Disk::new());
    Ok(Log::open(storage, Arc::new(SystemClock), dir, *options, &at, LogMode::Append, on_records)?)
}

/// Whose log the replay bench reads.
pub fn log_identity() -> (LogOptions, TimelineHistory) {
    (LogOptions::new(ClusterId::random(), NodeId::random()), TimelineHistory::first(TimelineNonce::random()))
}

/// Gets `gets` keys, in an order that is not that of the keys; says how many were there.
pub fn get(keyspace: &Keyspace, keys: u64, gets: u64) -> Result<u64> {
    let mut found = 0;
    for number in 0..gets {
        found += u64::from(keyspace.get(key(number.wrapping_mul(7919) % keys))?.is_some());
    }
    Ok(found)
}

/// As [`get`], so many keys at once.
pub fn multi_get(keyspace: &Keyspace, keys: u64, gets: u64, at_once: u64) -> Result<u64> {
    let mut found = 0;
    for first in (0..gets).step_by(at_once as usize) {
        let wanted: Vec<_> =
            (first..gets.min(first + at_once)).map(|number| key(number.wrapping_mul(7919) % keys)).collect();
        found += keyspace.multi_get(&wanted)?.iter().flatten().count() as u64;
    }
    Ok(found)
}

/// Walks over `entries` entries from the start; says how many bytes they have.
pub fn scan(keyspace: &Keyspace, entries: usize) -> Result<usize> {
    let mut bytes = 0;
    for pair in keyspace.iter().take(entries) {
        let (key, value) = pair?;
        bytes += key.len() + value.len();
    }
    Ok(bytes)
}

/// As [`scan`], where the entries lie.
pub fn scan_borrowed(keyspace: &Keyspace, entries: usize) -> Result<usize> {
    let (mut range, mut bytes) = (keyspace.iter(), 0);
    for _ in 0..entries {
        let Some(entry) = range.next_borrowed() else { break };
        let (key, value) = entry?;
        bytes += key.len() + value.len();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_does_what_it_says_when_it_is_small() {
        let dir = tempfile::tempdir().unwrap();
        let (db, keyspace) = filled(&dir.path().join("db"), 500, 100, true).unwrap();
        assert_eq!(get(&keyspace, 500, 500).unwrap(), 500);
        assert_eq!(get(&keyspace, 1000, 1000).unwrap(), 500, "half of these keys are not there");
        assert_eq!(multi_get(&keyspace, 1000, 1000, 32).unwrap(), 500);
        assert_eq!(scan(&keyspace, 1000).unwrap(), 500 * (KEY_LEN + 100));
        assert_eq!(scan_borrowed(&keyspace, 400).unwrap(), 400 * (KEY_LEN + 100));
        let before = db.stats().log.records;
        commit(&keyspace, &db, 2, 5, CommitLevel::Local).unwrap();
        commit_pipelined(&keyspace, &db, 20).unwrap();
        assert_eq!(db.stats().log.records - before, 30);
        db.close().unwrap();
    }

    #[test]
    fn keys_are_put_in_either_order() {
        for order in [KeyOrder::Random, KeyOrder::Ascending] {
            let dir = tempfile::tempdir().unwrap();
            let (db, keyspace) = empty(&dir.path().join("db")).unwrap();
            fill(&db, &keyspace, 1500, 10, order).unwrap();
            db.sync().unwrap();
            assert_eq!(keyspace.iter().count(), 1500, "{order:?}");
        }
    }

    #[test]
    fn small_merges_and_loads_do_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let (db, keyspace) = filled(&dir.path().join("db"), 500, 100, true).unwrap();
        assert!(merge(&db).unwrap() > 0);
        assert_eq!(bulk_load(&db, &keyspace, 100, 10).unwrap(), 100);
        put_each(&db, &keyspace, 200, 10).unwrap();
        assert_eq!(scan(&keyspace, 1000).unwrap(), 500 * (KEY_LEN + 100) + 200 * (KEY_LEN + 10));
    }

    #[test]
    fn a_written_log_is_replayed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (options, history) = log_identity();
        let end = written_log(dir.path(), &options, &history, 1000, 96).unwrap();
        assert!(end.lsn.offset() > 1000 * 144);
        assert_eq!(replay(dir.path(), &options, &history).unwrap(), 1000);
    }

    #[test]
    fn what_was_in_no_table_is_recovered_each_time() {
        let dir = tempfile::tempdir().unwrap();
        unflushed(dir.path(), 500).unwrap();
        for _ in 0..2 {
            assert!(recover(dir.path(), 500).unwrap() > Duration::ZERO);
        }
    }

    #[test]
    fn keys_are_distinct_and_spread() {
        let keys: std::collections::BTreeSet<_> = (0..1000).map(key).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().map(|key| key[0]).collect::<std::collections::BTreeSet<_>>().len() == 16);
    }
}
