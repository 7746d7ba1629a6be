//! Writers who wait for their commits and writers who do not, at the same time and with everything that goes on in the
//! background: whenever power is lost, what is there is one prefix of what both wrote, and has all that was acknowledged.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{all, crashed_somehow, inline, threaded};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seawall_engine::{Builder, CommitLevel, Db};
use seawall_wal::Lsn;
use seawall_wal::mutant::{Mutant, with_mutant};
use seawall_wal::storage::{JournalEntry, MemoryDisk};

const WRITERS: [CommitLevel; 4] =
    [CommitLevel::Local, CommitLevel::Buffered, CommitLevel::Local, CommitLevel::Buffered];
/// Of each writer who waits; the others write as long as these do.
const COMMITS: usize = 60;
const BUFFERED_MAX: usize = 400;

/// What was done to a disk, with the LSN of each commit that was acknowledged where that happened, and what was committed.
struct Written {
    journal: Vec<JournalEntry>,
    /// The key that each commit wrote.
    keys: BTreeMap<Lsn, String>,
}

fn write(build: fn(&MemoryDisk) -> Builder, mutant: Option<Mutant>) -> Written {
    let disk = MemoryDisk::new();
    disk.keep_journal();
    let db = build(&disk).memtable_bytes(8 << 10).open().unwrap();
    let keyspace = db.keyspace("k").unwrap();
    let keys = Mutex::new(BTreeMap::new());
    let waiting = AtomicUsize::new(WRITERS.iter().filter(|level| **level == CommitLevel::Local).count());
    let commit = |writer: usize, number: usize| {
        let key = format!("{writer}-{number:03}");
        let mut batch = db.batch();
        batch.put(&keyspace, &key, vec![b'v'; 100]).put(&keyspace, "last", &key);
        let lsn = batch.commit_with(WRITERS[writer]).unwrap().lsn;
        keys.lock().insert(lsn, key);
        lsn
    };
    let run = |writer: usize| match WRITERS[writer] {
        CommitLevel::Local => {
            (0..COMMITS).for_each(|number| disk.mark(commit(writer, number).offset()));
            waiting.fetch_sub(1, Ordering::SeqCst);
        }
        _ => {
            for number in 0..BUFFERED_MAX {
                if waiting.load(Ordering::SeqCst) == 0 {
                    break;
                }
                commit(writer, number);
                thread::sleep(Duration::from_micros(200));
            }
        }
    };
    thread::scope(|scope| {
        for writer in 0..WRITERS.len() {
            scope.spawn(move || match mutant {
                Some(mutant) => with_mutant(mutant, || run(writer)),
                None => run(writer),
            });
        }
    });
    let journal = disk.journal();
    Written { journal, keys: keys.into_inner() }
}

/// What crashes have shown.
#[derive(Debug, Default)]
struct Seen {
    states: usize,
    /// States without a commit that was in the log, of a writer who did not wait.
    lost: usize,
    /// States with more than what was acknowledged.
    more: usize,
}

/// Loses power where `written` changed the disk, and says what is wrong with what is left.
fn crash(written: &Written) -> Result<Seen, String> {
    let replayed = MemoryDisk::new();
    let mut random = StdRng::seed_from_u64(3);
    let mut acknowledged = Lsn::ZERO;
    let mut seen = Seen::default();
    for entry in &written.journal {
        replayed.replay(entry);
        if let JournalEntry::Mark(lsn) = entry {
            acknowledged = acknowledged.max(Lsn::new(*lsn));
        }
        if !matches!(entry, JournalEntry::Mark(_) | JournalEntry::Sync(_)) && random.random_bool(0.7) {
            continue;
        }
        let crashed = match random.random_bool(0.5) {
            true => replayed.crashed_losing_all(),
            false => crashed_somehow(&replayed, &mut random),
        };
        let db = inline(&crashed).open().map_err(|error| format!("it does not open: {error}"))?;
        let there = db.applied().0.lsn;
        if there < acknowledged {
            return Err(format!("{there} after {acknowledged} was acknowledged"));
        }
        check_prefix(&db, &written.keys, there)?;
        seen.states += 1;
        let next = written.keys.range(there..).find(|(lsn, _)| **lsn > there);
        seen.lost += usize::from(next.is_some_and(|(_, key)| key.starts_with(['1', '3'])));
        seen.more += usize::from(there > acknowledged);
    }
    Ok(seen)
}

/// Everything up to `there`, and nothing behind it.
fn check_prefix(db: &Db, keys: &BTreeMap<Lsn, String>, there: Lsn) -> Result<(), String> {
    let found = db.existing_keyspace("k").map(|keyspace| all(&keyspace)).unwrap_or_default();
    let mut expected: BTreeMap<Vec<u8>, Vec<u8>> =
        keys.range(..=there).map(|(_, key)| (key.clone().into_bytes(), vec![b'v'; 100])).collect();
    if let Some((_, last)) = keys.range(..=there).next_back() {
        expected.insert(b"last".to_vec(), last.clone().into_bytes());
    }
    match found.into_iter().eq(expected) {
        true => Ok(()),
        false => Err(format!("what is there at {there} is no prefix of what was written")),
    }
}

#[test]
fn whenever_power_is_lost_those_who_waited_lose_nothing_and_all_have_one_prefix() {
    let seen = [threaded, inline].map(|build| crash(&write(build, None)).unwrap_or_else(|broken| panic!("{broken}")));
    let sum = |count: fn(&Seen) -> usize| seen.iter().map(count).sum::<usize>();
    assert!(sum(|seen| seen.states) > 200 && sum(|seen| seen.lost) > 0 && sum(|seen| seen.more) > 0, "{seen:?}");
}

#[test]
fn acknowledgements_without_a_sync_are_noticed_among_writers_who_do_not_wait() {
    // Without threads of its own, where those who commit flush, so that the bug is where they are.
    let broken = crash(&write(inline, Some(Mutant::NoSync))).unwrap_err();
    // Or the control file says already that what is not there was flushed.
    assert!(broken.ends_with("was acknowledged") || broken.starts_with("it does not open"), "{broken}");
}
