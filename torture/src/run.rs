//! A run of a database on a disk in memory that keeps a journal: commits, memtables written out, merges, clean restarts, and
//! restarts after a fault. What was known at each point is marked in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use seawall_engine::manifest::Manifest;
use seawall_engine::{CommitLevel, Db, Installation, LogRetention, Role};
use seawall_wal::Lsn;
use seawall_wal::storage::{FaultyStorage, JournalEntry, MemoryDisk};

use crate::oracle::{Broken, Oracle};
use crate::setup::{Part, Setup};

/// A finished run.
#[derive(Clone)]
pub struct Run {
    pub(crate) setup: Setup,
    /// The disk before the journal.
    pub(crate) base: MemoryDisk,
    pub(crate) journal: Vec<JournalEntry>,
    pub(crate) oracle: Oracle,
    /// Whether the fault struck.
    pub(crate) struck: bool,
}

impl Run {
    /// Makes one.
    ///
    /// # Errors
    /// What is there when the node came back after a fault is not what must be, or it did not come back.
    pub fn new(setup: Setup) -> Result<Self, Broken> {
        match setup.part {
            Part::Primary => Primary::run(setup),
            Part::Standby => standby(setup),
        }
    }

    /// How often a segment's file became another segment's, with the bytes of the first still in it.
    pub fn recycled(&self) -> u64 {
        recycled_in(&self.journal)
    }
}

/// A spare that is new has only ever been written with zeros; one that was a segment had a header at its start.
fn recycled_in(journal: &[JournalEntry]) -> u64 {
    let (mut names, mut begun, mut recycled) = (BTreeMap::new(), BTreeSet::new(), 0);
    for entry in journal {
        match entry {
            JournalEntry::Create(path, node) => drop(names.insert(path, *node)),
            JournalEntry::Write(node, 0, bytes) if bytes.iter().any(|byte| *byte != 0) => drop(begun.insert(*node)),
            JournalEntry::Rename(from, to) => {
                let Some(node) = names.remove(from) else { continue };
                let is_segment = to.extension().is_some_and(|extension| extension == "wal");
                recycled += u64::from(is_segment && begun.contains(&node));
                names.insert(to, node);
            }
            _ => {}
        }
    }
    recycled
}

/// The points of a run, shared with whoever wakes for an acknowledgement.
#[derive(Clone)]
struct Notes {
    oracle: Arc<Mutex<Oracle>>,
    disk: MemoryDisk,
}

impl Notes {
    fn new(setup: &Setup, disk: &MemoryDisk) -> Self {
        Self { oracle: Arc::new(Mutex::new(Oracle::new(setup.stories()))), disk: disk.clone() }
    }

    fn note(&self, what: impl FnOnce(&mut Oracle) -> u64) {
        let point = what(&mut self.oracle.lock().unwrap_or_else(PoisonError::into_inner));
        self.disk.mark(point);
    }

    fn withdraw(&self, acknowledged: usize) {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner).withdraw(acknowledged);
    }

    fn read<T>(&self, what: impl FnOnce(&Oracle) -> T) -> T {
        what(&self.oracle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Primary {
    setup: Setup,
    storage: FaultyStorage,
    notes: Notes,
    chance: SmallRng,
    /// Commits of each writer.
    told: Vec<u64>,
}

impl Primary {
    fn run(setup: Setup) -> Result<Run, Broken> {
        let disk = MemoryDisk::new();
        let base = disk.duplicate();
        disk.seed_salts(setup.seed);
        disk.keep_journal();
        let storage = FaultyStorage::new(Arc::new(disk.clone()));
        if let Some(fault) = setup.fault {
            storage.fail(fault.operation, fault.nth, fault.fault);
        }
        let notes = Notes::new(&setup, &disk);
        let chance = SmallRng::seed_from_u64(setup.seed ^ 0x9121);
        let told = vec![0; setup.writers as usize];
        let mut primary = Self { setup, storage, notes, chance, told };
        primary.tell()?;
        let Self { setup, storage, notes, .. } = primary;
        let oracle = notes.read(Oracle::clone);
        Ok(Run { setup, base, journal: disk.journal(), oracle, struck: storage.hits() > 0 })
    }

    fn tell(&mut self) -> Result<(), Broken> {
        let mut db = self.come_back()?;
        for _ in 0..self.setup.commits {
            let done = match self.chance.random_range(0..40) {
                0 => db.flush(),
                1 => db.compact(),
                2 => {
                    let closed = db.close();
                    db = self.come_back()?;
                    closed
                }
                _ => self.commit(&db),
            };
            if let Err(error) = done {
                self.only_by_the_fault(error)?;
                drop(db);
                db = self.come_back()?;
            }
        }
        // The other half ends like a process that is killed.
        if self.chance.random() {
            db.close().or_else(|error| self.only_by_the_fault(error))?;
        }
        Ok(())
    }

    fn commit(&mut self, db: &Db) -> seawall_engine::Result<()> {
        let writer = self.chance.random_range(0..self.setup.writers);
        let story = self.notes.read(|oracle| oracle.stories()[writer as usize]);
        let keyspace = db.keyspace(&story.keyspace())?;
        let mut batch = db.batch();
        story.write(self.told[writer as usize], &keyspace, &mut batch);
        self.notes.note(|oracle| oracle.begin(writer));
        let begun = self.notes.read(|oracle| oracle.now().begun);
        let acknowledged = match self.chance.random_range(0..4) {
            0 | 1 => batch.commit_with(CommitLevel::Local)?.lsn,
            2 => {
                let lsn = batch.commit_with(CommitLevel::Buffered)?.lsn;
                self.flush_and_mark(db, lsn, begun)?;
                lsn
            }
            _ => {
                batch.commit_with(CommitLevel::Buffered)?;
                Lsn::ZERO
            }
        };
        self.told[writer as usize] += 1;
        if acknowledged > Lsn::ZERO {
            self.notes.note(|oracle| oracle.acknowledge(begun));
        }
        Ok(())
    }

    /// Flushes, and marks the journal at the very moment in which who waits is told.
    fn flush_and_mark(&self, db: &Db, lsn: Lsn, begun: usize) -> seawall_engine::Result<()> {
        struct Mark(Notes, usize);
        impl Wake for Mark {
            fn wake(self: Arc<Self>) {
                self.0.note(|oracle| oracle.acknowledge(self.1));
            }
        }
        let before = self.notes.read(|oracle| oracle.now().acknowledged);
        let waker = Waker::from(Arc::new(Mark(self.notes.clone(), begun)));
        let mut told = std::pin::pin!(db.log().flushed().reached(lsn));
        // It is there already if a switch of segments has just flushed it.
        let mut answer = told.as_mut().poll(&mut Context::from_waker(&waker));
        let synced = db.sync();
        if answer.is_pending() {
            answer = told.poll(&mut Context::from_waker(Waker::noop()));
        }
        // Who waits is woken to hear of a failure, too.
        if !matches!(answer, Poll::Ready(Ok(_))) {
            self.notes.withdraw(before);
        }
        synced.map(drop)
    }

    /// Opens it, again if the fault stood in the way, and looks what is there.
    fn come_back(&mut self) -> Result<Db, Broken> {
        let db = loop {
            let before = self.storage.hits();
            match self.setup.builder(Arc::new(self.storage.clone())).open() {
                Ok(db) => break db,
                Err(_) if self.storage.hits() > before => {}
                Err(error) => return Err(error.into()),
            }
        };
        let before = self.storage.hits();
        self.told = match self.notes.read(|oracle| oracle.found_in(&db)) {
            Ok(told) => told,
            // Reading met the fault.
            Err(Broken::Refused(_)) if self.storage.hits() > before => {
                self.notes.read(|oracle| oracle.found_in(&db))?
            }
            Err(broken) => return Err(broken),
        };
        let found = self.notes.read(|oracle| oracle.judge(oracle.now(), &self.told))?;
        self.notes.note(|oracle| oracle.resume(found));
        Ok(db)
    }

    fn only_by_the_fault(&self, error: seawall_engine::Error) -> Result<(), Broken> {
        if self.storage.hits() > 0 { Ok(()) } else { Err(error.into()) }
    }
}

/// The log of a primary whose disk is calm, received in pieces of any length, synced now and then.
fn standby(setup: Setup) -> Result<Run, Broken> {
    let mut chance = SmallRng::seed_from_u64(setup.seed ^ 0x57B7);
    let calm = MemoryDisk::new();
    calm.seed_salts(setup.seed);
    let as_primary = Setup { part: Part::Primary, ..setup.clone() };
    let primary = as_primary.builder(Arc::new(calm)).log_retention(LogRetention::Node).open()?;
    let base = MemoryDisk::new();
    let builder = setup.builder(Arc::new(base.clone()));
    let manifest = Manifest::empty(primary.cluster()).encode();
    Installation::begin(&builder, &manifest, &primary.history())?.finish(Role::Standby)?;
    let disk = base.duplicate();
    disk.keep_journal();
    let notes = Notes::new(&setup, &disk);
    let mut db = setup.open(&disk)?;
    let mut told = vec![0; setup.writers as usize];
    // Where each commit ends in the log.
    let mut ends = Vec::new();
    for _ in 0..setup.commits {
        let writer = chance.random_range(0..setup.writers);
        let story = notes.read(|oracle| oracle.stories()[writer as usize]);
        let keyspace = primary.keyspace(&story.keyspace())?;
        let mut batch = primary.batch();
        story.write(told[writer as usize], &keyspace, &mut batch);
        ends.push(batch.commit_with(CommitLevel::Local)?.lsn);
        told[writer as usize] += 1;
        notes.note(|oracle| oracle.begin(writer));
        if chance.random_ratio(1, 3) {
            continue;
        }
        while let Some(log) = primary
            .log()
            .read(db.log().end().lsn, chance.random_range(600..6000))
            .map_err(seawall_engine::Error::from)?
        {
            db.receive(&log)?;
            if chance.random_ratio(1, 3) {
                db.flush_received()?;
            }
            // What a switch of segments flushed by itself may have been acknowledged as well.
            let flushed = db.log().flushed().value();
            notes.note(|oracle| oracle.acknowledge(ends.partition_point(|end| *end <= flushed)));
        }
        if chance.random_ratio(1, 40) {
            db.close()?;
            db = setup.open(&disk)?;
        }
    }
    drop(db);
    let oracle = notes.read(Oracle::clone);
    Ok(Run { setup, base, journal: disk.journal(), oracle, struck: false })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What each operation did, in a word.
    fn operations(run: &Run) -> Vec<String> {
        let entry = |entry: &JournalEntry| match entry {
            JournalEntry::Create(path, node) => format!("create {} {node}", path.display()),
            JournalEntry::Write(node, offset, bytes) => format!("write {node} {offset} {bytes:?}"),
            JournalEntry::SetLen(node, len) => format!("len {node} {len}"),
            JournalEntry::Sync(node) => format!("sync {node}"),
            JournalEntry::FailedSync(node, luck) => format!("fail to sync {node}, {luck}"),
            JournalEntry::Rename(from, to) => format!("rename {} {}", from.display(), to.display()),
            JournalEntry::Link(from, to) => format!("link {} {}", from.display(), to.display()),
            JournalEntry::Remove(path) => format!("remove {}", path.display()),
            JournalEntry::SyncDir(path) => format!("sync {}", path.display()),
            JournalEntry::Mark(point) => format!("mark {point}"),
        };
        run.journal.iter().map(entry).collect()
    }

    #[test]
    fn a_segment_is_recycled_if_its_file_was_one_before_and_not_if_it_is_new() {
        let path = |name: &str| Path::new("/data/wal").join(name);
        let (first, second) = (path("00000001-0000000000000000.wal"), path("00000001-0000000000000001.wal"));
        let (spare, again) = (path("spare-0000.tmp"), path("spare-0001.tmp"));
        let mut journal = vec![
            JournalEntry::Create(spare.clone(), 0),
            JournalEntry::Write(0, 0, vec![0; 4096]),
            JournalEntry::Rename(spare, first.clone()),
        ];
        assert_eq!(recycled_in(&journal), 0, "it is new");
        let wiped_and_used = [
            JournalEntry::Rename(first, again.clone()),
            JournalEntry::Write(0, 0, vec![0; 4096]),
            JournalEntry::Rename(again, second),
        ];
        let prepared_only = [&journal[..], &wiped_and_used].concat();
        assert_eq!(recycled_in(&prepared_only), 0, "it had the name of a segment and was never begun");
        journal.push(JournalEntry::Write(0, 0, vec![7; 4096]));
        journal.extend(wiped_and_used);
        assert_eq!(recycled_in(&journal), 1);
    }

    #[test]
    fn a_run_of_a_seed_writes_the_same_bytes_each_time() {
        for seed in 1..20 {
            let run = || Run::new(crate::storm::setup(seed)).unwrap();
            let (one, other) = (operations(&run()), operations(&run()));
            let differs = one.iter().zip(&other).position(|(one, other)| one != other);
            if let Some(at) = differs {
                panic!("round {seed}, operation {at} of {}: {:.200} and {:.200}", one.len(), one[at], other[at]);
            }
            assert_eq!(one.len(), other.len());
        }
    }
}
