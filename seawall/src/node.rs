//! A node: a database with its standbys, its archive and its role. Programs embed it as they embed [`Db`]; the `seawall`
//! command runs one as a process. It owns a runtime for sockets and the object store; everything else runs on its callers'
//! threads.
//!
//! Shutdown goes the way of the log: stop admitting, flush, let standbys and archive confirm, then close.

mod archive;
mod database;
mod ending;
mod error;
mod options;
mod primary;
mod promotion;
mod rebuild;
mod repair;
mod standby;
mod state;
#[cfg(feature = "cli")]
mod status;
mod stopping;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use seawall_backup::backup::{BackupOptions, BackupReport};
use seawall_backup::format::documents::BackupManifest;
use seawall_backup::{Archive, Archiver, ArchiverStatus};
use seawall_engine::{Builder, Db, LogRetention, Refusal, Role as DataRole};
use seawall_replication::driver::{ClientStatus, Registry, StandbyReport, ThrottleReport};
use seawall_wal::Lsn;
use tokio::runtime::Runtime;

pub use error::{Error, Result};
pub use options::{ArchiveOptions, NodeOptions, Role};
pub use promotion::{PromoteOptions, Promotion};
pub use standby::Following;
pub use state::State;
#[cfg(feature = "cli")]
pub(crate) use status::backup_summary;
pub use stopping::Remaining;

use database::Database;
use primary::{Feeding, Primary};
use standby::Standby;
use state::Condition;

/// A running node. [`stop`](Self::stop) ends it in order; dropping it ends it at once, losing nothing acknowledged.
pub struct Node {
    inner: Arc<Inner>,
    runtime: Option<Runtime>,
}

struct Inner {
    options: NodeOptions,
    runtime: tokio::runtime::Handle,
    started: Instant,
    /// The current one. A standby that is rebuilt gets another. Locked for a moment only, whatever is done with it.
    database: RwLock<Database>,
    part: tokio::sync::Mutex<Part>,
    /// The base backup it is being rebuilt from; begun, and asked for by a promotion, with the part locked.
    rebuilding: Mutex<Option<String>>,
    /// Seen without waiting for a change of part.
    seen: Mutex<Seen>,
    condition: RwLock<Condition>,
    archive: Mutex<Option<Archive>>,
    can_fence: Mutex<Option<bool>>,
    /// Why the archive could not be opened, while it could not.
    archive_error: Mutex<Option<String>>,
    last_backup: Mutex<Option<BackupManifest>>,
    /// How long opening the database took, recovery included.
    opening: Mutex<Duration>,
    /// Started by a task of the primary once the archive is open.
    archiver: Mutex<Option<Archiver>>,
}

/// What runs around the database.
#[derive(Debug)]
enum Part {
    Primary(Primary),
    Standby {
        following: Standby,
        feeding: Option<Feeding>,
    },
    /// A restored copy: it only reads until it is promoted.
    Restored,
    /// There is nothing yet.
    Starting,
    /// On its way from one to another.
    Changing,
    Stopped,
}

/// What status and maintenance look at.
#[derive(Default)]
struct Seen {
    registry: Option<Arc<Registry>>,
    replication_address: Option<SocketAddr>,
    archiver: Option<Arc<seawall_backup::ArchiverProgress>>,
    is_primary: bool,
}

impl Node {
    /// Starts a node. A primary's data directory is made if it is not there; so is a standby's, which then gets its data from
    /// its upstream or the archive.
    ///
    /// # Errors
    /// [`Error::WrongData`] if the data directory is another role's, and whatever stands in the way of opening it.
    pub fn start(options: NodeOptions) -> Result<Self> {
        let node = Self::new(options)?;
        node.open()?;
        Ok(node)
    }

    /// A node that is starting and has no database until [`open`](Self::open), which may take minutes, has returned: recovery
    /// reads the log, and what is damaged waits for another copy. Until then it says how it is.
    ///
    /// # Errors
    /// [`Error::Runtime`].
    pub fn new(options: NodeOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("seawall-node")
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let inner = Arc::new(Inner {
            options,
            runtime: runtime.handle().clone(),
            started: Instant::now(),
            database: RwLock::new(Database::Awaited(String::from("it is being opened"))),
            part: tokio::sync::Mutex::new(Part::Starting),
            rebuilding: Mutex::default(),
            seen: Mutex::default(),
            condition: RwLock::default(),
            archive: Mutex::new(None),
            can_fence: Mutex::new(None),
            archive_error: Mutex::new(None),
            last_backup: Mutex::new(None),
            opening: Mutex::default(),
            archiver: Mutex::new(None),
        });
        Ok(Self { inner, runtime: Some(runtime) })
    }

    /// Opens its database and takes up its role. Blocks; to be called once.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it is open already. Else as [`start`](Self::start); there is nothing left to do with it then but to drop it.
    pub fn open(&self) -> Result<()> {
        self.inner.runtime.block_on(async {
            if !matches!(&*self.inner.part.lock().await, Part::Starting) {
                let (operation, actual) = ("be opened", String::from("open already"));
                return Err(Error::WrongState { operation, actual });
            }
            self.inner.start().await
        })
    }

    /// Its database, for reading and writing. A standby that is rebuilt from a base backup gets another one, so it is asked
    /// for anew each time. Never waits.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] while a rebuilt one takes its place, which is a matter of seconds, and for good if that failed.
    pub fn db(&self) -> Result<Db> {
        self.inner.db()
    }

    /// Its options.
    pub fn options(&self) -> &NodeOptions {
        &self.inner.options
    }

    /// What it is doing, and more about that. A node that has no database now is starting, whatever it did before.
    pub fn state(&self) -> (State, String) {
        self.inner.state()
    }

    /// Whether it is the primary.
    pub fn is_primary(&self) -> bool {
        self.inner.seen.lock().is_primary
    }

    /// Where standbys connect.
    pub fn replication_address(&self) -> Option<SocketAddr> {
        self.inner.seen.lock().replication_address
    }

    /// Since it started.
    pub fn uptime(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// Its standbys, connected or not.
    pub fn standbys(&self) -> Vec<StandbyReport> {
        self.inner.registry().map(|registry| registry.report()).unwrap_or_default()
    }

    /// What holds ingestion back; `None` on a standby.
    pub fn throttle(&self) -> Option<ThrottleReport> {
        self.inner.registry().filter(|_| self.is_primary()).map(|registry| registry.throttle())
    }

    /// How archiving goes; `None` if this node does not archive.
    pub fn archiver(&self) -> Option<ArchiverStatus> {
        self.inner.seen.lock().archiver.as_ref().map(|progress| progress.status())
    }

    /// Why a primary's archive could not be opened yet, and since when nothing has been archived.
    pub fn archive_error(&self) -> Option<(String, Duration)> {
        self.inner.archive_error.lock().clone().map(|error| (error, self.uptime()))
    }

    /// Whether the archive's store honours conditional writes, on which fencing rests; `None` while that is not known.
    pub fn can_fence(&self) -> Option<bool> {
        *self.inner.can_fence.lock()
    }

    /// Whom a standby follows.
    pub fn following(&self) -> Option<Following> {
        let Role::Standby { upstreams } = &self.inner.options.role else { return None };
        match &*self.inner.part.try_lock().ok()? {
            Part::Standby { following, .. } => following.following(upstreams),
            _ => None,
        }
    }

    /// Makes a standby, or a restored copy, the primary of a new timeline. Blocks.
    ///
    /// # Errors
    /// [`Error::NotPromoted`] says why not; the node then goes on as before.
    pub fn promote(&self, options: PromoteOptions) -> Result<Promotion> {
        self.inner.runtime.block_on(self.inner.promote(options))
    }

    /// Makes a base backup. Blocks.
    pub fn create_backup(&self, options: &BackupOptions) -> Result<BackupReport> {
        let operation = "make a base backup";
        let archive = self.archive(operation)?;
        // The archive would wait for log that it does not get.
        self.inner.check_not_superseded(operation)?;
        let report = self.inner.runtime.block_on(archive.create_backup(&self.inner.db()?, options))?;
        *self.inner.last_backup.lock() = Some(report.manifest.clone());
        Ok(report)
    }

    /// The newest base backup this node knows of: made here, or found in the archive when it was opened.
    pub fn last_backup(&self) -> Option<BackupManifest> {
        self.inner.last_backup.lock().clone()
    }

    /// How long opening the database took, recovery included.
    pub fn opening(&self) -> Duration {
        *self.inner.opening.lock()
    }

    /// The runtime on which its sockets live, for those who add more.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.inner.runtime
    }

    /// Stops it: no more commits, then everything flushed reaches standbys and archive, at most until the deadline, then
    /// the database is closed. Says what did not get where it should. A standby that is just being rebuilt gives that up; its
    /// next start begins it again.
    pub fn stop(mut self, deadline: Duration) -> Result<Remaining> {
        let runtime = self.runtime.take().expect("it is stopped once");
        let stopped = runtime.block_on(self.inner.stop(deadline));
        runtime.shutdown_timeout(Duration::from_secs(2));
        stopped
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.inner.options.name).field("state", &self.state()).finish()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Inner {
    async fn start(self: &Arc<Self>) -> Result<()> {
        let started = Instant::now();
        rebuild::finish_exchange(&self.options.data_dir)?;
        let fresh = !has_control(&self.options.data_dir);
        if fresh {
            self.check_not_inside_another()?;
        }
        match &self.options.role {
            Role::Primary => {
                let db = repair::open(self, builder(&self.options)).await?;
                let alone = self.options.replication_listen.is_none() && self.options.archive.is_none();
                let confirmed = fresh || self.options.assume_primary || alone;
                if !confirmed && db.role() == DataRole::Normal {
                    // Before anybody can have the database.
                    self.wait_for_confirmation(&db, "it is not known yet whether another node was promoted; asking");
                }
                self.adopt_opened(&db, fresh, started)?;
                match db.role() {
                    DataRole::Normal => {
                        let primary = Primary::start(self, &db, confirmed).await?;
                        self.adopt_feeding(&primary.feeding, true);
                        self.become_part(Part::Primary(primary)).await;
                        if confirmed {
                            self.set_state(State::Running, "");
                        }
                    }
                    DataRole::ReadOnlyRestored { at, .. } => self.become_restored(at).await,
                    DataRole::Standby => {
                        return Err(Error::WrongData {
                            path: self.options.data_dir.clone(),
                            found: "a standby's data",
                            wanted: "a primary",
                            advice: "start it as a standby and promote it",
                        });
                    }
                }
            }
            Role::Standby { upstreams } => {
                let db = standby::open(self, upstreams).await?;
                self.adopt_opened(&db, fresh, started)?;
                let feeding = Feeding::start(self, &db, false, true).await?;
                self.adopt_feeding(&feeding, false);
                let following = Standby::start(self, upstreams.clone()).await;
                self.become_part(Part::Standby { following, feeding: Some(feeding) }).await;
                self.set_state(State::Running, "");
            }
        }
        self.runtime.spawn(repair::watch(self.clone()));
        self.runtime.spawn(ending::watch(self.clone()));
        Ok(())
    }

    /// A database is not made in the folder of another one: the settings most likely mean that one.
    fn check_not_inside_another(&self) -> Result<()> {
        match self.options.data_dir.parent() {
            Some(above) if has_control(above) => Err(Error::WrongData {
                path: above.to_owned(),
                found: "a database",
                wanted: "the folder of another one",
                advice: "set node.data_dir to it, or move it to where that is",
            }),
            _ => Ok(()),
        }
    }

    /// The database is open, so that nobody else can have it, and was just made if it is `fresh`.
    fn adopt_opened(&self, db: &Db, fresh: bool, started: Instant) -> Result<()> {
        *self.opening.lock() = started.elapsed();
        if !fresh {
            rebuild::remove_leftovers(&self.options.data_dir)?;
        }
        self.adopt_database(Database::Open(db.clone()));
        Ok(())
    }

    async fn become_part(&self, part: Part) {
        *self.part.lock().await = part;
    }

    async fn become_restored(&self, at: Lsn) {
        self.become_part(Part::Restored).await;
        self.set_state(State::ReadOnly, &format!("a copy restored to {at}; promote it to write"));
    }

    /// A standby, or a restored copy, becomes primary; if it cannot, it goes on as before.
    async fn promote(self: &Arc<Self>, options: PromoteOptions) -> Result<Promotion> {
        let wrong = |actual: &str| Error::WrongState { operation: "be promoted", actual: actual.to_owned() };
        // Not locked while it goes on: a standby that is to be rebuilt asks for the lock, and is told that it is not.
        let taken = {
            let mut part = self.part.lock().await;
            if let Some(backup) = &*self.rebuilding.lock() {
                return Err(wrong(&format!(
                    "being rebuilt from base backup {backup}, because its own data are too old for any log there is (try again \
                     when that is done, or promote another node)"
                )));
            }
            match &*part {
                Part::Primary(_) => {
                    self.check_not_superseded("be promoted")?;
                    return Err(wrong("the primary already"));
                }
                Part::Starting => return Err(wrong("starting")),
                Part::Changing => return Err(wrong("changing its role already")),
                Part::Stopped => return Err(wrong("stopping")),
                Part::Standby { .. } | Part::Restored => std::mem::replace(&mut *part, Part::Changing),
            }
        };
        let (restored, status, feeding) = match taken {
            Part::Standby { following, feeding } => {
                let status = following.stop().await;
                // That of a database which was exchanged meanwhile is of no use any more.
                (false, status, feeding.filter(|_| self.registry().is_some()))
            }
            _ => (true, None, None),
        };
        match self.carry_out_promotion(options, status.as_ref()).await {
            Ok((db, promotion)) => {
                // Its standbys come back to the same port, where the table that counts them is now.
                if let Some(server) = feeding.and_then(|feeding| feeding.server) {
                    let _ = server.drain(Duration::from_secs(1)).await;
                }
                let primary = Primary::start(self, &db, true).await?;
                self.adopt_feeding(&primary.feeding, true);
                self.become_part(Part::Primary(primary)).await;
                self.set_state(State::Running, "");
                Ok(promotion)
            }
            Err(error) => {
                match &self.options.role {
                    Role::Standby { upstreams } if !restored => {
                        let following = Standby::start(self, upstreams.clone()).await;
                        let is_to_feed = feeding.is_none();
                        self.become_part(Part::Standby { following, feeding }).await;
                        if is_to_feed
                            && self.db().is_ok()
                            && let Err(error) = self.restart_feeding().await
                        {
                            self.lose_database(&format!("other nodes cannot connect to it any more: {error}"));
                        }
                    }
                    _ => self.become_part(Part::Restored).await,
                }
                Err(error)
            }
        }
    }

    async fn carry_out_promotion(
        self: &Arc<Self>,
        options: PromoteOptions,
        status: Option<&ClientStatus>,
    ) -> Result<(Db, Promotion)> {
        let db = self.db()?;
        let archive = match &self.options.archive {
            Some(_) => match self.open_archive_to_read(db.cluster()).await {
                Ok(archive) => Some(archive),
                Err(_) if options.unfenced => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let (inner, database, upstream_flush) = (self.clone(), db.clone(), standby::upstream_flush(status));
        let work = move || promotion::carry_out(&inner, &database, archive, options, upstream_flush);
        let stopping = |_| Error::WrongState { operation: "be promoted", actual: String::from("stopping") };
        Ok((db, tokio::task::spawn_blocking(work).await.map_err(stopping)??))
    }

    fn db(&self) -> Result<Db> {
        self.database.read().open()
    }

    /// Who asks for the database is told what is being done or waited for.
    fn await_database(&self, why: String) {
        self.adopt_database(Database::Awaited(why));
    }

    fn adopt_database(&self, database: Database) {
        *self.database.write() = database;
    }

    fn adopt_feeding(&self, feeding: &Feeding, is_primary: bool) {
        let mut seen = self.seen.lock();
        seen.registry = Some(feeding.registry.clone());
        seen.replication_address = feeding.server.as_ref().map(seawall_replication::driver::ReplicationServer::address);
        seen.is_primary = is_primary;
    }

    fn registry(&self) -> Option<Arc<Registry>> {
        self.seen.lock().registry.clone()
    }

    fn state(&self) -> (State, String) {
        let Condition { state, words } = self.condition.read().clone();
        match (&*self.database.read(), state) {
            (Database::Awaited(why), State::Starting | State::Running | State::ReadOnly) => {
                (State::Starting, why.clone())
            }
            _ => (state, words),
        }
    }

    fn set_state(&self, state: State, words: &str) {
        self.condition.write().hear(state, words);
    }

    /// Another node took over: nothing is written here any more, and nobody is fed from here.
    fn fence(self: &Arc<Self>, db: &Db, why: &str) {
        db.refuse_writes(Refusal::Superseded, why);
        tracing::error!(why, "this node has been superseded and is read-only from now on");
        self.set_state(State::Fenced, why);
        let inner = self.clone();
        self.runtime.spawn(async move {
            if let Part::Primary(primary) = &mut *inner.part.lock().await {
                // Its standbys are to find the new primary.
                drop(primary.feeding.server.take());
                inner.seen.lock().replication_address = None;
            }
        });
    }

    /// Nothing can be archived any more, and nobody took over: what would be written could be restored from nowhere. Standbys
    /// are fed on.
    fn fail_archiving(&self, db: &Db, why: &str) {
        let why = format!("archiving has ended: {why}");
        db.refuse_writes(Refusal::Failed, &why);
        tracing::error!(why, "nothing can be archived any more; this node takes no more writes");
        self.set_state(State::Failed, &why);
    }

    fn check_not_superseded(&self, operation: &'static str) -> Result<()> {
        match self.state() {
            (State::Fenced, why) => Err(Error::Superseded { operation, why }),
            _ => Ok(()),
        }
    }

    /// Whether another node was promoted must be answered before this one writes.
    fn wait_for_confirmation(&self, db: &Db, why: &str) {
        db.refuse_writes(Refusal::Unconfirmed, why);
        self.set_state(State::ReadOnly, why);
    }

    fn where_writes_go(&self) -> String {
        self.options.advertise.clone()
    }
}

/// Opens a database as the options say.
fn builder(options: &NodeOptions) -> Builder {
    let mut builder = Db::builder(&options.data_dir)
        .log_retention(LogRetention::Node)
        .log_buffer_bytes(options.log_buffer_bytes)
        .memtable_bytes(options.memtable_bytes)
        .cache_bytes(options.cache_bytes);
    for (name, tuning) in &options.tunings {
        builder = builder.tune(name, *tuning);
    }
    if let Some(cluster) = options.cluster {
        builder = builder.cluster(cluster);
    }
    if !has_control(&options.data_dir) {
        builder = builder.segment_size(options.segment_size);
    }
    builder
}

fn has_control(data_dir: &Path) -> bool {
    data_dir.join(seawall_engine::control::CONTROL_NAME).exists()
}
