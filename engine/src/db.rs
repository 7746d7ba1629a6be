//! The database as its users hold it: a handle that is cheap to clone; the last one to go closes it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use seawall_wal::sync::atomic::Ordering;
use seawall_wal::sync::thread::{self, JoinHandle};
use seawall_wal::sync::{Mutex, now};
use seawall_wal::{ClusterId, Log, LogOwner, Lsn, NodeId, Position, RecordKind, Recovery, Timestamp};

use crate::batch::Batch;
use crate::catalogue::KeyspaceState;
use crate::closing;
use crate::control::DamagedSlot;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::KEYSPACE_NAME_LEN_MAX;
use crate::format::KeyspaceId;
use crate::keyspace::Keyspace;
use crate::level::{Admission, CommitLevel, Confirmations};
use crate::options::{Background, Builder};
use crate::payload::KeyspaceChange;
use crate::snapshot::Snapshot;
use crate::worker;

/// An open database. Clones are the same one; it is closed when the last clone, keyspace and snapshot of it is dropped,
/// or by [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct Db {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Handle {
    fn close(&self) -> Result<()> {
        let mut threads = self.threads.lock();
        if self.core.stopping.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        closing::close(&self.core, std::mem::take(&mut *threads))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(path = %self.core.path.display(), %error, "the database was not shut down cleanly; opening it recovers");
        }
    }
}

impl LogOwner for Db {
    fn log(&self) -> &Log {
        Self::log(self)
    }
}

impl Db {
    /// Opens the database in `path`, making it if there is none.
    ///
    /// ```no_run
    /// let db = seawall_engine::Db::open("data")?;
    /// let users = db.keyspace("users")?;
    /// users.insert("ann", "1")?;
    /// assert_eq!(users.get("ann")?.as_deref(), Some(&b"1"[..]));
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).open()
    }

    /// Opens the database in `path` with other than the usual settings.
    pub fn builder(path: impl AsRef<Path>) -> Builder {
        Builder::new(path.as_ref())
    }

    pub(crate) fn start(core: Core, background: Background) -> Result<Self> {
        let core = Arc::new(core);
        let threads = match background {
            Background::Threads => worker::spawn(&core)?,
            Background::Inline => Vec::new(),
        };
        Ok(Self { handle: Arc::new(Handle { core, threads: Mutex::new(threads) }) })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Its data directory.
    pub fn path(&self) -> &Path {
        &self.core().path
    }

    /// Whose data it holds.
    pub fn cluster(&self) -> ClusterId {
        self.core().durable.control.with(|control| control.cluster)
    }

    /// Which node this is.
    pub fn node(&self) -> NodeId {
        self.core().durable.control.with(|control| control.node)
    }

    /// The keyspace `name`, made through the log if there is none.
    ///
    /// # Errors
    /// On a node that takes no writes [`Error::UnknownKeyspace`] if there is none.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        check_name(name)?;
        let core = self.core();
        let live = || core.state.with_catalogue(|catalogue| catalogue.live(name).cloned());
        let made = live();
        let keyspace = match made {
            Some(keyspace) => keyspace,
            None => match self.create_keyspace(name) {
                Ok(keyspace) => keyspace,
                Err(Error::ReadOnly { .. } | Error::Refused { .. }) => {
                    return Err(Error::UnknownKeyspace { name: name.to_owned() });
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Keyspace::new(self.clone(), keyspace))
    }

    /// The keyspace `name` if there is one.
    pub fn existing_keyspace(&self, name: &str) -> Result<Keyspace> {
        let live = self.core().state.with_catalogue(|catalogue| catalogue.live(name).cloned());
        let keyspace = live.ok_or_else(|| Error::UnknownKeyspace { name: name.to_owned() })?;
        Ok(Keyspace::new(self.clone(), keyspace))
    }

    /// The names of all keyspaces, in the order in which they were made.
    pub fn keyspaces(&self) -> Vec<String> {
        self.core().state.with_catalogue(|catalogue| {
            catalogue.iter().filter(|keyspace| keyspace.is_live()).map(|keyspace| keyspace.name.clone()).collect()
        })
    }

    fn create_keyspace(&self, name: &str) -> Result<Arc<KeyspaceState>> {
        let core = self.core();
        let live = || core.state.with_catalogue(|catalogue| catalogue.live(name).cloned());
        loop {
            let id = KeyspaceId(core.state.with_catalogue(|catalogue| catalogue.next()));
            let change = KeyspaceChange::Create { id, name };
            // Somebody else may have made it, or another one of this number, since we looked.
            let mut refused = None;
            let appended = core.append(RecordKind::Keyspace, &change.encode(), || {
                core.state.with_catalogue(|catalogue| catalogue.check(change)).map_err(|why| {
                    refused = Some(why);
                    Error::Closed
                })
            });
            match (appended, refused) {
                (Ok(ticket), _) => {
                    ticket.wait()?;
                    return live().ok_or_else(|| Error::UnknownKeyspace { name: name.to_owned() });
                }
                (Err(_), Some(why)) => match live() {
                    Some(keyspace) => return Ok(keyspace),
                    None if core.state.with_catalogue(|catalogue| catalogue.next()) != id.0 => {}
                    None => return Err(Error::WrongState { operation: "make a keyspace", actual: why.to_owned() }),
                },
                (Err(error), None) => return Err(error),
            }
        }
    }

    /// Ends the keyspace `name` with all its keys. Snapshots taken before still read it.
    pub fn drop_keyspace(&self, name: &str) -> Result<Lsn> {
        let core = self.core();
        let unknown = || Error::UnknownKeyspace { name: name.to_owned() };
        let live = core.state.with_catalogue(|catalogue| catalogue.live(name).cloned()).ok_or_else(unknown)?;
        let change = KeyspaceChange::Drop { id: live.id };
        let ticket = core.append(RecordKind::Keyspace, &change.encode(), || {
            core.state.with_catalogue(|catalogue| catalogue.check(change)).map_err(|_| unknown())
        })?;
        Ok(ticket.wait()?)
    }

    /// A batch that is committed as a whole, over any keyspaces.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// A stable view of everything durable now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let core = self.core();
        core.read_now()?;
        let lsn = core.state.readers.pin(|| core.visible())?;
        Snapshot::new(self.clone(), lsn)
    }

    /// A stable view as of an earlier LSN that is still readable.
    ///
    /// # Errors
    /// [`Error::SnapshotTooOld`] and [`Error::SnapshotTooNew`] say which LSNs can be had.
    pub fn snapshot_at(&self, lsn: Lsn) -> Result<Snapshot> {
        let core = self.core();
        let visible = core.visible();
        if lsn > visible {
            return Err(Error::SnapshotTooNew { requested: lsn, visible });
        }
        let lsn = core.state.readers.pin(|| lsn)?;
        Snapshot::new(self.clone(), lsn)
    }

    /// A stable view of what is confirmed at `level`, which cannot be lost while the level holds.
    pub fn snapshot_at_level(&self, level: CommitLevel) -> Result<Snapshot> {
        match level {
            CommitLevel::Buffered | CommitLevel::Local => self.snapshot(),
            level => self.snapshot_at(self.confirmations(level)?.confirmed(level)?.min(self.core().visible())),
        }
    }

    /// Keeps versions readable at least down to `horizon`, from now on: the LSN confirmed by a quorum or the archive.
    /// `None` keeps only what snapshots hold.
    pub fn set_read_horizon(&self, horizon: Option<Lsn>) {
        self.core().state.readers.set_horizon(horizon);
    }

    /// Up to where reads see now: everything before it is applied and durable here.
    pub fn visible(&self) -> Lsn {
        self.core().visible()
    }

    /// The end of the last record applied, and its commit time.
    pub fn applied(&self) -> (Position, Timestamp) {
        let applied = self.core().state.applied();
        (applied.position, applied.time)
    }

    /// Everything up to here is in tables; the log before it is not needed to open this database.
    pub fn redo(&self) -> Position {
        self.core().durable.redo()
    }

    /// Where the log must reach back to for this database to open: the start of redo's segment.
    pub fn log_start(&self) -> Position {
        self.core().durable.log_start()
    }

    /// The log, for those who ship or archive it. It is appended to through the database only.
    pub fn log(&self) -> &Log {
        &self.core().log
    }

    /// Lets go of log before `keep_from`, as far as this database can do without it. For [`crate::LogRetention::Node`].
    /// Returns how many segments went.
    pub fn recycle_log(&self, keep_from: Lsn) -> usize {
        self.core().log.recycle_before(keep_from.min(self.log_start().lsn))
    }

    /// How the log was found when it was opened.
    pub fn recovery(&self) -> &Recovery {
        &self.core().recovery
    }

    /// Copies of the control file that were found damaged when it was opened; both are whole now.
    pub fn damaged_control(&self) -> &[DamagedSlot] {
        &self.core().damaged_control
    }

    /// Writes everything applied so far into tables, which moves [`redo`](Self::redo).
    pub fn flush(&self) -> Result<()> {
        self.core().flush_all()
    }

    /// Writes memtables out and merges all tables of each keyspace into one level.
    pub fn compact(&self) -> Result<()> {
        self.core().flush_all()?;
        self.core().compact_all()
    }

    /// Reads every byte of every table and blob file and checks it.
    pub fn verify_tables(&self) -> Result<()> {
        // Not the guard: it is held for long, and keeps files as the view does.
        let tables = Arc::clone(&self.core().state.view().tables);
        tables.tables().try_for_each(|(_, _, table)| table.verify())?;
        tables.keyspaces().try_for_each(|(_, levels)| levels.blobs().values().try_for_each(|(file, _)| file.verify()))
    }

    /// Puts a record into the log that says "no commit at or before this time is missing", for those who ask for a time
    /// while nothing is written. Never waits for admission.
    pub fn append_time(&self) -> Result<Lsn> {
        let ticket = self.core().append(RecordKind::Time, &[], || Ok(()))?;
        Ok(ticket.wait()?)
    }

    /// Names the current position, so that a restore can ask for it. At most 255 bytes.
    pub fn append_restore_point(&self, name: &str) -> Result<Lsn> {
        check_name(name)?;
        let ticket = self.core().append(RecordKind::RestorePoint, name.as_bytes(), || Ok(()))?;
        Ok(ticket.wait()?)
    }

    /// Installs who confirms the levels beyond `Local`.
    pub fn set_confirmations(&self, confirmations: Option<Arc<dyn Confirmations>>) {
        self.core().hooks.write().confirmations = confirmations;
    }

    /// Installs who decides whether a commit may enter the log.
    pub fn set_admission(&self, admission: Option<Arc<dyn Admission>>) {
        self.core().hooks.write().admission = admission;
    }

    pub(crate) fn confirmations(&self, level: CommitLevel) -> Result<Arc<dyn Confirmations>> {
        let installed = self.core().hooks.read().confirmations.clone();
        installed.ok_or_else(|| Error::LevelUnavailable {
            level,
            why: String::from("this database runs without standbys and archive"),
        })
    }

    /// Waits until everything committed so far is durable.
    pub fn sync(&self) -> Result<Lsn> {
        let core = self.core();
        let end = core.log.end().lsn;
        let flushed = core.flush_log_to(end)?;
        core.apply_pending();
        Ok(flushed)
    }

    /// Returns when `lsn` is visible here, for reading one's own writes on a standby.
    pub fn wait_visible(&self, lsn: Lsn, deadline: Instant) -> Result<()> {
        let core = self.core();
        core.log.flushed().wait_for(lsn, Some(deadline))?;
        // Applying follows receiving, or appending, within moments.
        while core.visible() < lsn {
            if now() >= deadline {
                return Err(Error::Indeterminate { lsn, why: "the deadline passed before it was applied here".into() });
            }
            thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops taking writes, ends the background work, makes everything durable and says so in the control file. Handles
    /// that are left can still read, and keep the directory locked until they are dropped.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the log had failed. [`Error::Stalled`] if a write of the log has not been done for as long as
    /// [`Builder::stall_timeout`], or closing takes ten times as long in all: it goes on when the disk answers, and the
    /// directory stays locked meanwhile. With [`Background::Inline`] the caller writes for itself, and waits for the disk.
    pub fn close(self) -> Result<()> {
        self.handle.close()
    }

    /// The error after which nothing more is written, if there was one.
    pub fn poisoned(&self) -> Option<Error> {
        self.core().poisoned()
    }
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    match name.len() {
        0 => Err(Error::EmptyName),
        1..=KEYSPACE_NAME_LEN_MAX => Ok(()),
        size => Err(Error::TooLarge { what: "name", size, max: KEYSPACE_NAME_LEN_MAX }),
    }
}
