//! Each kind of operation on the disk meets each answer a disk can give, at every call of it, while a database is made,
//! written over several segments, loaded in bulk, compacted, copied and recovered. Nothing acknowledged is lost, whoever
//! asked is told what could not be done with which file, and on a healthy disk it opens again. What was visited is printed
//! as a matrix, operation by answer; a place that can be visited and was not is a failure.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use FaultyOperation::{Create, FreeBytes, Len, List, Lock, Map, Open, Read, SetLen, SyncDir, Write};
use common::{PATH, all, crashed_keeping_all, inline};
use parking_lot::Mutex;
use seawall_engine::{Db, Error};
use seawall_wal::Lsn;
use seawall_wal::storage::{CrashChoice, Fault, FaultyOperation, FaultyStorage, JournalEntry, MemoryDisk, Storage};

const COPY: &str = "/copy";

/// An answer that is not the one that was hoped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Eio,
    Enospc,
    Erofs,
    Emfile,
    Eintr,
    Short,
}

use Answer::{Eintr, Eio, Emfile, Enospc, Erofs, Short};

impl Answer {
    const ALL: [Self; 6] = [Eio, Enospc, Erofs, Emfile, Eintr, Short];

    fn fault(self) -> Fault {
        match self {
            Eio => Fault::Error(5),
            Enospc => Fault::Error(28),
            Erofs => Fault::Error(30),
            Emfile => Fault::Error(24),
            Eintr => Fault::Error(4),
            Short => Fault::Short,
        }
    }
}

/// Why an operation never meets an answer, if it never does.
fn impossible(operation: FaultyOperation, answer: Answer) -> Option<&'static str> {
    match (operation, answer) {
        (SetLen, _) => Some("log and engine cut and extend no file"),
        (FreeBytes, _) => Some("log and engine do not ask how much room there is; a node does"),
        (operation, Short) if !matches!(operation, Read | Write) => Some("it moves no bytes"),
        (Open | Read | List | Len | Map, Enospc) => Some("it takes no room"),
        (Read | List | Len | Map, Erofs) => Some("it changes nothing"),
        (operation, Emfile) if !matches!(operation, Open | Create | List | SyncDir | Lock) => Some("it opens nothing"),
        _ => None,
    }
}

/// What the disk is used for meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// A database is made, written to and closed.
    Create,
    /// Commits fill memtables, levels and segments; old segments serve again.
    Commit,
    /// Sorted data is loaded.
    BulkLoad,
    /// Everything is merged.
    Compact,
    /// A copy is made that can be opened.
    Checkpoint,
    /// A log with a torn tail, longer than the memtables are large, is recovered, and written to again.
    Recover,
}

impl Work {
    const ALL: [Self; 6] = [Self::Create, Self::Commit, Self::BulkLoad, Self::Compact, Self::Checkpoint, Self::Recover];

    /// Whether opening is a part of it. Else it was opened before.
    fn opens(self) -> bool {
        matches!(self, Self::Create | Self::Recover)
    }
}

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the work writes, in order.
fn writes(work: Work) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (count, len) = match work {
        Work::Create => (3, 50),
        Work::Commit => (40, 4_000),
        Work::BulkLoad => (60, 150),
        Work::Recover => (2, 50),
        Work::Compact | Work::Checkpoint => (0, 0),
    };
    (0..count).map(|n: u8| (format!("new-{n:04}").into_bytes(), vec![n; len + usize::from(n % 3) * 200])).collect()
}

/// What is known of a run outside its disk.
#[derive(Default)]
struct Told {
    sent: usize,
    acknowledged: usize,
    /// Operations before the work began.
    before: BTreeMap<FaultyOperation, u64>,
    /// Merges of tables.
    merges: u64,
    /// Where the log ends, and where it begins.
    log: Option<(Lsn, Lsn)>,
}

/// The work, from opening to closing.
fn work_on(work: Work, storage: &FaultyStorage, told: &mut Told) -> Result<(), Error> {
    let builder = inline(&MemoryDisk::new()).storage(Arc::new(storage.clone())).blob_bytes(Some(1_000));
    let db = builder.memtable_bytes(if work == Work::Commit { 48 << 10 } else { 12 << 10 }).open()?;
    if !work.opens() {
        told.before = FaultyOperation::ALL.map(|operation| (operation, storage.count(operation))).into();
    }
    let keys = db.keyspace("k")?;
    match work {
        Work::Create | Work::Commit | Work::Recover => {
            for (key, value) in writes(work) {
                told.sent += 1;
                keys.insert(key, value)?;
                told.acknowledged += 1;
            }
        }
        Work::BulkLoad => {
            told.sent = writes(work).len();
            db.bulk_load(&keys, writes(work))?;
            told.acknowledged = told.sent;
        }
        Work::Compact => db.compact()?,
        Work::Checkpoint => drop(db.checkpoint(COPY)?),
    }
    keys.multi_get(&["key-01", "key-07", "new-0001"])?;
    (told.merges, told.log) = (db.stats().merges, Some((db.log().end().lsn, db.log().oldest())));
    drop(keys);
    db.close()
}

/// That the work is what it is said to be.
fn is_what_it_says(work: Work, disk: &MemoryDisk, told: &Told) {
    let (end, oldest) = told.log.expect("it came to its end");
    match work {
        Work::Commit => {
            assert!(end > Lsn::new(2 * 65_536) && oldest >= Lsn::new(65_536), "from {oldest} to {end}");
            assert!(told.merges > 0, "tables are merged");
        }
        Work::Recover => assert_eq!(disk.list(Path::new("/data/wal/cut")).unwrap().len(), 1, "a torn tail is kept"),
        Work::Compact => assert!(told.merges > 0, "tables are merged"),
        Work::Create | Work::BulkLoad | Work::Checkpoint => {}
    }
}

/// The disk that the work begins with, and what is in the database there.
fn prepared(work: Work) -> (MemoryDisk, Content) {
    let disk = MemoryDisk::new();
    if work == Work::Create {
        return (disk, Content::new());
    }
    let db = inline(&disk).memtable_bytes(1 << 20).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    // Those who commit begin with as many tables as one more merges.
    let rounds = if work == Work::Commit { 8 } else { 5 };
    for round in 0..rounds {
        for number in (0..30_u8).step_by(usize::from(round) % 3 + 1) {
            keys.insert(format!("key-{number:02}"), vec![round; if number % 4 == 0 { 900 } else { 60 }]).unwrap();
        }
        if round < rounds - 1 {
            db.flush().unwrap();
        }
    }
    if work != Work::Recover {
        let content = all(&keys).into_iter().collect();
        drop(keys);
        db.close().unwrap();
        return (disk, content);
    }
    // The process ends here, after it wrote a last group, of which the disk has the first part and not the last.
    let content = all(&keys).into_iter().collect();
    let before = disk.duplicate();
    disk.keep_journal();
    let mut batch = db.batch();
    batch.put(&keys, "never acknowledged", vec![1; 9_000]);
    batch.commit().unwrap();
    let synced = |entry: &JournalEntry| matches!(entry, JournalEntry::Sync(_));
    disk.journal().iter().take_while(|entry| !synced(entry)).for_each(|entry| before.replay(entry));
    let mut sector = 0;
    let torn = before.crashed(|choice| {
        sector += 1;
        match choice {
            CrashChoice::Sector { versions } if sector < 10 => versions,
            _ => 0,
        }
    });
    (torn, content)
}

/// How many of the work's writes there are, all of them and of what was there before.
fn written(db: &Db, before: &Content, work: Work) -> usize {
    let found: Content = db.existing_keyspace("k").map(|keys| all(&keys).into_iter().collect()).unwrap_or_default();
    let count = found.len() - before.len();
    let expected: Content = before.clone().into_iter().chain(writes(work).into_iter().take(count)).collect();
    assert!(found == expected, "{count} of the work's writes are there, or something else");
    db.verify_tables().unwrap();
    count
}

/// That an error says what could not be done with which file, or what became of the log because of that.
fn explains(error: &Error, answer: Answer) {
    let words = error.to_string();
    let ours = |path: &Path| path.starts_with(PATH) || path.starts_with(COPY) || path.as_os_str() == "/";
    match error {
        Error::DiskFull { path } | Error::Log(seawall_wal::Error::DiskFull { path }) => {
            assert!(answer == Enospc && ours(path), "{words}");
        }
        Error::Io { operation, path, source } | Error::Log(seawall_wal::Error::Io { operation, path, source }) => {
            assert!(!operation.is_empty() && ours(path), "{words}");
            let Fault::Error(code) = answer.fault() else { panic!("fewer bytes than asked for are no error: {words}") };
            assert_eq!(source.raw_os_error(), Some(code), "{words}");
        }
        // The copy's log, not the database's.
        Error::Install { path, why } => assert!(path.starts_with(COPY) && why.contains(COPY), "{words}"),
        // Of a commit whose flush failed, and of those after it.
        Error::Indeterminate { why, .. } => assert!(!why.is_empty(), "{words}"),
        Error::Poisoned { cause } => assert!(cause.contains("/data/wal"), "{words}"),
        other => panic!("{other:?}: {other}"),
    }
}

/// Has one call meet one answer while the work is done.
fn fail_one(work: Work, (disk, before): &(MemoryDisk, Content), operation: FaultyOperation, nth: u64, answer: Answer) {
    let disk = disk.duplicate();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    storage.fail(operation, nth, answer.fault());
    let mut told = Told::default();
    let outcome = work_on(work, &storage, &mut told);
    assert_eq!(storage.hits(), 1, "the fault is met");
    match outcome {
        Ok(()) => assert_eq!(told.acknowledged, writes(work).len(), "it went on"),
        Err(error) => {
            let goes_on = answer == Short || answer == Eintr && matches!(operation, Read | Write);
            assert!(!goes_on, "what was cut short or interrupted goes on: {error}");
            explains(&error, answer);
        }
    }
    for crashed in [disk.crashed_losing_all(), crashed_keeping_all(&disk)] {
        let db = inline(&crashed).open().unwrap_or_else(|error| panic!("on a healthy disk: {error}"));
        let there = written(&db, before, work);
        assert!((told.acknowledged..=told.sent).contains(&there), "{there} of {}", told.acknowledged);
        let keys = db.keyspace("k").unwrap();
        keys.insert("after", "wards").unwrap();
    }
}

/// One visit.
type Case = (Work, FaultyOperation, u64, Answer);

/// Every call of every kind of operation in every work, with every answer.
fn cases(prepared: &BTreeMap<usize, (MemoryDisk, Content)>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, work) in Work::ALL.into_iter().enumerate() {
        let disk = prepared[&index].0.duplicate();
        let storage = FaultyStorage::new(Arc::new(disk.clone()));
        let mut told = Told::default();
        work_on(work, &storage, &mut told).unwrap();
        is_what_it_says(work, &disk, &told);
        for operation in FaultyOperation::ALL {
            let (first, end) = (told.before.get(&operation).copied().unwrap_or(0), storage.count(operation));
            for nth in first..end {
                let answers = Answer::ALL.into_iter().filter(|answer| impossible(operation, *answer).is_none());
                cases.extend(answers.map(|answer| (work, operation, nth, answer)));
            }
            let unknown = end > first && Answer::ALL.iter().all(|answer| impossible(operation, *answer).is_some());
            assert!(!unknown, "{operation:?} is said never to be asked for, and {work:?} asks for it");
        }
    }
    cases
}

/// Who was visited how often, as a table; what cannot be visited with the reason, below.
fn matrix(visited: &BTreeMap<(FaultyOperation, Answer), usize>) -> String {
    let mut text = format!("{:<10}", "");
    Answer::ALL.iter().for_each(|answer| write!(text, "{:>8}", format!("{answer:?}")).unwrap());
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for operation in FaultyOperation::ALL {
        write!(text, "\n{:<10}", format!("{operation:?}")).unwrap();
        for answer in Answer::ALL {
            match impossible(operation, answer) {
                Some(reason) => {
                    reasons.entry(reason).or_default().push(format!("{operation:?}/{answer:?}"));
                    write!(text, "{:>8}", "-").unwrap();
                }
                None => write!(text, "{:>8}", visited.get(&(operation, answer)).unwrap_or(&0)).unwrap(),
            }
        }
    }
    reasons.iter().for_each(|(reason, places)| write!(text, "\n- {reason}: {}", places.join(", ")).unwrap());
    text
}

#[test]
fn every_operation_meets_every_answer_and_nothing_acknowledged_is_lost() {
    let prepared: BTreeMap<_, _> = Work::ALL.into_iter().map(prepared).enumerate().collect();
    let cases = cases(&prepared);
    let (next, visited) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let visit = || {
        while let Some(&(work, operation, nth, answer)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let disk = &prepared[&Work::ALL.iter().position(|other| *other == work).unwrap()];
            catch_unwind(AssertUnwindSafe(|| fail_one(work, disk, operation, nth, answer)))
                .unwrap_or_else(|_| panic!("{work:?}: {operation:?} {nth} answers {answer:?}"));
            *visited.lock().entry((operation, answer)).or_default() += 1;
        }
    };
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(visit)).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("every case is as it should be"));
    });
    let visited = visited.into_inner();
    println!("{} cases\n{}", cases.len(), matrix(&visited));
    for operation in FaultyOperation::ALL {
        for answer in Answer::ALL {
            let seen = visited.contains_key(&(operation, answer)) || impossible(operation, answer).is_some();
            assert!(seen, "{operation:?} never answered {answer:?}");
        }
    }
}
