//! A node that takes writes: its standbys' table, its replication port, its archiver, and the question it must answer first
//! after a restart: is there a newer timeline? Until that is known it only reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_backup::{Archive, Archiver, ArchiverConfig, ArchiverState};
use seawall_engine::{CommitLevel, Confirmations as _, Db, Refusal};
use seawall_replication::driver::{NodeAdmission, NodeConfirmations, Registry, RegistryConfig, ReplicationServer};
use seawall_replication::driver::{ServerConfig, SlotFile};
use seawall_replication::message::StandbyName;
use seawall_replication::slot::SlotCaps;
use seawall_replication::standing::{Return, on_return};
use seawall_wal::retention::{RetentionFacts, decide};
use seawall_wal::storage::{Disk, Storage as _};
use seawall_wal::{Clock as _, Lsn, SystemClock, TimelineHistory};

use super::error::Result;
use super::{Inner, State};

/// How often space, debt and retention are looked at.
const MAINTENANCE: Duration = Duration::from_millis(500);
/// Between attempts to reach the archive.
const RETRY: Duration = Duration::from_secs(2);
/// A log that was idle for so long gets a time record, so that a restore can name a time in the idle period.
const IDLE: Duration = Duration::from_secs(60);
/// Old versions are kept for readers at remote levels over at most so much log.
const HORIZON_BYTES: u64 = 1 << 30;

/// What runs while a node is primary. Dropping it ends that, whoever waits for a standby or the archive included.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) db: Db,
    pub(super) feeding: Feeding,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// The table of standbys and the port they come to. A standby that feeds others has it too.
#[derive(Debug)]
pub(super) struct Feeding {
    pub(super) registry: Arc<Registry>,
    pub(super) server: Option<ReplicationServer>,
    /// Under which somebody was fed, or may have been, before it was opened.
    known: Vec<StandbyName>,
}

impl Feeding {
    /// Opens the table, and the port if there is one. `counting` says whether standbys and archive hold commits back,
    /// `learning` is [`RegistryConfig`]'s.
    pub(super) async fn start(inner: &Inner, db: &Db, counting: bool, learning: bool) -> Result<Self> {
        let options = &inner.options;
        let config = RegistryConfig {
            required: if counting { options.required.clone() } else { Vec::new() },
            policy: options.synchronous.clone().filter(|_| counting),
            limits: if counting { options.limits } else { Default::default() },
            archive: counting && options.archive.as_ref().is_some_and(|archive| archive.required),
            leave_after: options.replication_timeout,
            slot_caps: SlotCaps::default(),
            admission_timeout: Some(options.admission_wait),
            learning,
            ..RegistryConfig::default()
        };
        let owner = Arc::new(db.clone());
        let slots = SlotFile::in_folder(Arc::new(Disk::posix()), db.path());
        let registry = Registry::open(config, owner.clone(), Arc::new(SystemClock), Some(slots))?;
        let known = registry.fed();
        let server = match inner.options.replication_listen {
            None => None,
            Some(listen) => {
                let size = db.log().options().segment_size;
                let config = ServerConfig {
                    primary: inner.where_writes_go(),
                    timeout: options.replication_timeout,
                    peers_max: options.standbys_max,
                    ..ServerConfig::new(listen, db.cluster(), db.node(), size)
                };
                // The port may have been this node's until a moment ago, in another role.
                let mut tries = 0;
                loop {
                    match ReplicationServer::start(config.clone(), owner.clone(), registry.clone()).await {
                        Ok(server) => break Some(server),
                        Err(_) if tries < 20 => tokio::time::sleep(Duration::from_millis(100)).await,
                        Err(error) => return Err(error.into()),
                    }
                    tries += 1;
                }
            }
        };
        Ok(Self { registry, server, known })
    }
}

impl Primary {
    /// Starts everything around a database that may take writes; it refuses them unless `confirmed`, until it is.
    pub(super) async fn start(inner: &Arc<Inner>, db: &Db, confirmed: bool) -> Result<Self> {
        let feeding = Feeding::start(inner, db, true, confirmed).await?;
        let registry = feeding.registry.clone();
        db.set_admission(Some(Arc::new(NodeAdmission::new(registry.clone()))));
        db.set_confirmations(Some(Arc::new(NodeConfirmations::new(registry.clone()))));
        db.set_primary(None);
        let tasks = vec![
            tokio::spawn(take_up_writing(
                inner.clone(),
                db.clone(),
                registry.clone(),
                (!confirmed).then(|| feeding.known.clone()),
            )),
            tokio::spawn(watch_for_successor(inner.clone(), db.clone(), registry.clone())),
            tokio::spawn(maintain(inner.clone(), db.clone(), registry)),
        ];
        Ok(Self { db: db.clone(), feeding, tasks })
    }

    /// Ends what runs in the background; the archiver and the port are drained by the caller.
    pub(super) fn abort_tasks(&self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.abort_tasks();
        self.feeding.registry.close();
        // They hold the table, and the table holds the database: it would stay open, and its directory locked, for ever.
        self.db.set_admission(None);
        self.db.set_confirmations(None);
    }
}

/// Opens the archive, finds out whether this node still is the primary, lets it write, and archives.
/// `asked` are those who may know, if it is not known already.
async fn take_up_writing(inner: Arc<Inner>, db: Db, registry: Arc<Registry>, mut asked: Option<Vec<StandbyName>>) {
    let mut archive = None;
    if inner.options.archive.is_some() {
        loop {
            match inner.open_archive(&db).await {
                Ok(opened) => {
                    *inner.archive_error.lock() = None;
                    archive = Some(opened);
                    break;
                }
                Err(error) if is_final(&error) => {
                    tracing::error!(%error, "the archive cannot be used");
                    let why = format!("the archive cannot be used: {error}");
                    db.refuse_writes(Refusal::Failed, &why);
                    inner.set_state(State::Failed, &why);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the archive cannot be reached; trying again");
                    *inner.archive_error.lock() = Some(error.to_string());
                    if asked.is_some() {
                        let why = format!("the archive must say whether another node was promoted: {error}");
                        inner.wait_for_confirmation(&db, &why);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
    if let Some(archive) = &archive {
        if let Some(newest) = newest_history(archive).await
            && let Some(why) = superseded_by(&db, &newest)
        {
            return inner.fence(&db, &why);
        }
        asked = None;
    }
    if let Some(known) = asked {
        // Without an archive the standbys know: one that has heard of a newer timeline says so when it connects.
        let needed = inner.options.synchronous.as_ref().map_or(1, |policy| policy.names().len().div_ceil(2));
        while let Some(why) = unconfirmed(&registry.returned(), &known, needed) {
            inner.wait_for_confirmation(&db, &why);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let learner = registry.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || learner.learn()).await {
        // It is tried again every second.
        tracing::warn!(%error, "the slots of the standbys could not be saved yet");
    }
    db.take_writes(Refusal::Unconfirmed);
    inner.set_state(State::Running, "");
    if let Some(archive) = archive {
        inner.look_for_backups(&archive).await;
        archive_the_log(&inner, &db, &registry, archive).await;
    }
}

/// Runs the archiver and passes on what it confirms.
async fn archive_the_log(inner: &Arc<Inner>, db: &Db, registry: &Arc<Registry>, archive: Archive) {
    let now = SystemClock.now();
    while let Err(error) = archive.record_history(&db.history(), inner.options.name.as_str(), now).await {
        if error.is_superseded() {
            return inner.fence(db, &error.to_string());
        }
        if is_final_archive(&error) {
            return inner.fail_archiving(db, &error.to_string());
        }
        tracing::warn!(%error, "the timeline could not be recorded in the archive; trying again");
        tokio::time::sleep(RETRY).await;
    }
    let interval = inner.options.archive.as_ref().map_or(Duration::from_secs(1), |archive| archive.interval);
    let config = ArchiverConfig { interval, ..ArchiverConfig::default() };
    let name = inner.options.name.as_str();
    let archiver = Archiver::start(archive, Arc::new(db.clone()), db.node(), name, config);
    let progress = archiver.progress().clone();
    inner.adopt_archiver(archiver);
    let mut seen = Lsn::ZERO;
    loop {
        let reached = progress.watch().reached(seen.advance(1));
        match tokio::time::timeout(Duration::from_secs(1), reached).await {
            Ok(Ok(lsn)) => {
                seen = lsn;
                registry.archived(lsn);
            }
            Ok(Err(error)) => {
                registry.archive_ended(error.clone());
                match progress.status().state {
                    ArchiverState::Fenced { error } => inner.fence(db, &error),
                    ArchiverState::Ended { error } => inner.fail_archiving(db, &error),
                    _ => {}
                }
                return;
            }
            Err(_) => {}
        }
    }
}

/// A standby, or the archive's newest timeline, can tell that another node took over.
async fn watch_for_successor(inner: Arc<Inner>, db: Db, registry: Arc<Registry>) {
    let mut superseded = registry.watch_superseded();
    loop {
        let newer = superseded.borrow_and_update().clone();
        if let Some(newest) = newer
            && let Some(why) = superseded_by(&db, &newest)
        {
            return inner.fence(&db, &why);
        }
        if superseded.changed().await.is_err() {
            return;
        }
    }
}

/// What is waited for until `needed` of the standbys that were `known`, or all of those, have `returned`. A new one, or one
/// that came back without what it had, knows nothing.
fn unconfirmed(returned: &[StandbyName], known: &[StandbyName], needed: usize) -> Option<String> {
    let (returned, missing): (Vec<_>, Vec<_>) = known.iter().partition(|name| returned.contains(name));
    let lacking = needed.min(known.len()).checked_sub(returned.len()).filter(|lacking| *lacking > 0)?;
    let names: Vec<&str> = missing.iter().map(|name| name.as_str()).collect();
    Some(format!(
        "it is not known whether another node was promoted: {lacking} of its standbys ({}) must connect first, with the \
         data it had; if that cannot be and none was promoted, start it with --assume-primary",
        names.join(", ")
    ))
}

/// Why `newest` means that this node is no longer primary, if it does.
fn superseded_by(db: &Db, newest: &TimelineHistory) -> Option<String> {
    let (ours, end) = (db.history(), db.log().end());
    let current = newest.current();
    match on_return(db.cluster(), &ours, end, db.cluster(), newest) {
        Return::StillCurrent => None,
        Return::Follow { .. } => Some(format!(
            "timeline {} took over at {}; this node has nothing it lacks and can be started as its standby",
            current.id, current.fork.lsn
        )),
        Return::Rewind { fork } => Some(format!(
            "timeline {} took over at {}; this node's log goes on to {} on its own: with an empty data \
             directory it can be its standby",
            current.id, fork.lsn, end.lsn
        )),
        Return::WrongCluster => Some("the archive's timelines are of another cluster".to_owned()),
    }
}

async fn newest_history(archive: &Archive) -> Option<TimelineHistory> {
    loop {
        match archive.newest_history().await {
            Ok(newest) => return newest,
            Err(error) => {
                tracing::warn!(%error, "the archive does not say which timeline is the newest; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Keeps the throttle informed, the log short and readers' old versions within bounds.
async fn maintain(inner: Arc<Inner>, db: Db, registry: Arc<Registry>) {
    let mut last_end = (db.log().end().lsn, Instant::now());
    loop {
        tokio::time::sleep(MAINTENANCE).await;
        let (task_db, task_registry) = (db.clone(), registry.clone());
        let archived = inner.archived();
        let idle = last_end.1.elapsed() >= IDLE && inner.options.archive.is_some() && inner.state().0 == State::Running;
        let work = tokio::task::spawn_blocking(move || {
            let (db, registry) = (task_db, task_registry);
            let free = Disk::posix().free_bytes(db.path()).ok();
            registry.measured(free, db.stats().memtable_bytes);
            if idle && let Err(error) = db.append_time() {
                tracing::debug!(%error, "no time record was written");
            }
            keep_log_short(&db, &registry, archived);
            keep_versions(&db, &registry);
        });
        if work.await.is_err() {
            return;
        }
        let end = db.log().end().lsn;
        if end != last_end.0 {
            last_end = (end, Instant::now());
        }
    }
}

/// Recycles log that nobody needs here any more. `archived` is `None` without an archive.
pub(super) fn keep_log_short(db: &Db, registry: &Registry, archived: Option<Lsn>) {
    let facts = RetentionFacts { log_start: db.log_start().lsn, archived, held: registry.holders(archived) };
    let holder = decide(&facts);
    let retired = db.recycle_log(holder.from);
    if retired > 0 {
        tracing::debug!(segments = retired, from = %holder.from, "log recycled");
    }
}

/// Readers who ask for what a quorum confirmed find its versions.
fn keep_versions(db: &Db, registry: &Arc<Registry>) {
    let confirmations = NodeConfirmations::new(registry.clone());
    let confirmed = confirmations.confirmed(CommitLevel::RemoteFlush(1)).ok();
    let oldest = Lsn::new(db.visible().offset().saturating_sub(HORIZON_BYTES));
    db.set_read_horizon(confirmed.map(|confirmed| confirmed.max(oldest)));
}

/// Whether trying again to open the archive cannot help.
pub(super) fn is_final(error: &super::Error) -> bool {
    matches!(error, super::Error::Archive(error) if is_final_archive(error))
        || matches!(error, super::Error::RepositorySettings(_))
}

/// Whether trying again cannot help.
pub(super) fn is_final_archive(error: &seawall_backup::Error) -> bool {
    use seawall_backup::Error as E;
    matches!(error, E::ForeignRepository { .. } | E::SegmentSize { .. } | E::TimelineTaken { .. } | E::Fenced { .. })
}
