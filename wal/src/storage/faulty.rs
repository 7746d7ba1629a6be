//! A storage that fails on purpose: the n-th operation of a kind returns an error, moves fewer bytes, falls silent, or panics.
//! It wraps any other storage and counts what passes, so that a test can fail every call of a run once.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Access, File, IoPath, Mapping, Storage};
use crate::sync::{Mutex, thread};

/// The kinds of operation that are counted and can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Opening an existing file.
    Open,
    /// Creating a file.
    Create,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Syncing a file.
    Sync,
    /// Syncing a folder.
    SyncDir,
    /// Renaming.
    Rename,
    /// Linking.
    Link,
    /// Removing.
    Remove,
    /// Listing a folder.
    List,
    /// Making a folder.
    CreateDir,
    /// Claiming a folder.
    Lock,
    /// Asking how much room there is.
    FreeBytes,
    /// Asking how long a file is.
    Len,
    /// Cutting or extending a file.
    SetLen,
    /// Mapping a file.
    Map,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Open,
        Self::Create,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::SyncDir,
        Self::Rename,
        Self::Link,
        Self::Remove,
        Self::List,
        Self::CreateDir,
        Self::Lock,
        Self::FreeBytes,
        Self::Len,
        Self::SetLen,
        Self::Map,
    ];
}

/// What happens instead.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The operation is not done and answers with this `errno`. A sync that does loses what it was for, or a part of it.
    Error(i32),
    /// A read or write moves one byte only.
    Short,
    /// A write loses its bytes yet the following sync answers with this `errno`: a page dropped after a write-back error.
    DropAndFailSync(i32),
    /// It is done once the storage is told to [answer](FaultyStorage::answer), however long that takes.
    Silence,
    /// The thread that asks for it panics.
    Panic,
}

/// With this word.
const PANIC: &str = "a storage was asked to panic";

#[derive(Default)]
struct Plan {
    counts: std::collections::BTreeMap<Operation, u64>,
    waiting: Vec<Waiting>,
    fail_next_sync: Option<i32>,
    hits: u64,
    /// Whether nothing is silent any more.
    answers: bool,
}

/// A fault that has not struck yet.
struct Waiting {
    operation: Operation,
    under: PathBuf,
    /// Operations that pass before it.
    left: u64,
    fault: Fault,
}

/// The wrapper. Clones share the plan.
#[derive(Clone)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    plan: Arc<Mutex<Plan>>,
}

impl FaultyStorage {
    /// Wraps a storage; nothing fails until asked to.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// The `nth` operation of this kind from now on, counted from 0, meets `fault`.
    pub fn fail(&self, operation: Operation, nth: u64, fault: Fault) {
        self.fail_under(Path::new(""), operation, nth, fault);
    }

    /// As [`fail`](Self::fail), of the operations on this path and what is in it. Where several threads work at once, who
    /// comes n-th is chance; a folder is one's own.
    pub fn fail_under(&self, under: &Path, operation: Operation, nth: u64, fault: Fault) {
        self.plan.lock().waiting.push(Waiting { operation, under: under.to_owned(), left: nth, fault });
    }

    /// Nothing fails any more of what has not yet.
    pub fn heal(&self) {
        self.plan.lock().waiting.clear();
    }

    /// Ends all [silence](Fault::Silence), also that to come.
    pub fn answer(&self) {
        self.plan.lock().answers = true;
    }

    fn await_answer(&self) {
        while !self.plan.lock().answers {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many operations of a kind have passed.
    pub fn count(&self, operation: Operation) -> u64 {
        self.plan.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// How many faults have struck.
    pub fn hits(&self) -> u64 {
        self.plan.lock().hits
    }

    fn next(&self, operation: Operation, path: &Path) -> Option<Fault> {
        let plan = &mut *self.plan.lock();
        *plan.counts.entry(operation).or_default() += 1;
        let mut strikes = None;
        for (index, waiting) in plan.waiting.iter_mut().enumerate() {
            if waiting.operation != operation || !path.starts_with(&waiting.under) {
                continue;
            }
            match waiting.left {
                0 => strikes = strikes.or(Some(index)),
                _ => waiting.left -= 1,
            }
        }
        let waiting = plan.waiting.remove(strikes?);
        plan.hits += 1;
        Some(waiting.fault)
    }

    fn pass(&self, operation: Operation, path: &Path) -> io::Result<()> {
        match self.next(operation, path) {
            Some(Fault::Error(code) | Fault::DropAndFailSync(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Fault::Silence) => {
                self.await_answer();
                Ok(())
            }
            Some(Fault::Panic) => panic!("{PANIC}"),
            Some(Fault::Short) | None => Ok(()),
        }
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStorage({:?})", self.inner)
    }
}

impl Storage for FaultyStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let operation = if access == Access::CreateNew { Operation::Create } else { Operation::Open };
        self.pass(operation, path)?;
        let inner = self.inner.open(path, access)?;
        Ok(Arc::new(FaultyFile { inner, path: path.to_owned(), storage: self.clone() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.pass(Operation::CreateDir, path)?;
        self.inner.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Operation::Rename, from)?;
        self.inner.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Operation::Link, from)?;
        self.inner.hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.pass(Operation::Remove, path)?;
        self.inner.remove(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.pass(Operation::List, path)?;
        self.inner.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Operation::SyncDir, path)?;
        self.inner.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.pass(Operation::Lock, path)?;
        self.inner.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.pass(Operation::FreeBytes, path)?;
        self.inner.free_bytes(path)
    }

    fn io_path(&self) -> IoPath {
        self.inner.io_path()
    }

    fn salt(&self) -> u64 {
        self.inner.salt()
    }
}

struct FaultyFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    storage: FaultyStorage,
}

impl File for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.storage.next(Operation::Read, &self.path) {
            Some(Fault::Error(code) | Fault::DropAndFailSync(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Fault::Short) => {
                let count = buffer.len().min(1);
                self.inner.read_at(&mut buffer[..count], offset)
            }
            Some(Fault::Silence) => {
                self.storage.await_answer();
                self.inner.read_at(buffer, offset)
            }
            Some(Fault::Panic) => panic!("{PANIC}"),
            None => self.inner.read_at(buffer, offset),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.storage.next(Operation::Write, &self.path) {
            Some(Fault::Error(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Fault::DropAndFailSync(code)) => {
                self.storage.plan.lock().fail_next_sync = Some(code);
                Ok(bytes.len())
            }
            Some(Fault::Short) => self.inner.write_at(&bytes[..bytes.len().min(1)], offset),
            Some(Fault::Silence) => {
                self.storage.await_answer();
                self.inner.write_at(bytes, offset)
            }
            Some(Fault::Panic) => panic!("{PANIC}"),
            None => self.inner.write_at(bytes, offset),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(code) = self.storage.plan.lock().fail_next_sync.take() {
            self.inner.fail_sync();
            return Err(io::Error::from_raw_os_error(code));
        }
        self.storage.pass(Operation::Sync, &self.path).inspect_err(|_| self.inner.fail_sync())?;
        self.inner.sync_data()
    }

    fn fail_sync(&self) {
        self.inner.fail_sync();
    }

    fn len(&self) -> io::Result<u64> {
        self.storage.pass(Operation::Len, &self.path)?;
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.pass(Operation::SetLen, &self.path)?;
        self.inner.set_len(len)
    }

    fn map(&self) -> io::Result<Mapping> {
        self.storage.pass(Operation::Map, &self.path)?;
        self.inner.map()
    }
}
