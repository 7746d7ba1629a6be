//! A node that follows: fed by an upstream, by the archive, or rebuilt from a base backup, whichever the planner names; and
//! ready to feed others. Several upstreams are tried in turn, so that a standby finds the new primary after a failover.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use seawall_backup::{Archive, ArchiveSource};
use seawall_engine::{Create, Db, OpenAs};
use seawall_replication::driver::{
    BaseBackups, ClientConfig, ClientState, ClientStatus, StandbyClient, StandbyTarget, identify,
};
use seawall_replication::feed::BackupOffer;
use seawall_wal::{ClusterId, Lsn, SegmentSize, SegmentSource};
use tokio::sync::Notify;

use super::database::Database;
use super::error::{Error, Result};
use super::primary::{is_final_archive, keep_log_short};
use super::{Inner, State};

/// An upstream that does not let us follow for so long is left for the next one.
const PATIENCE: Duration = Duration::from_secs(2);
/// A new standby asks for so long whose it is.
const INTRODUCTION: Duration = Duration::from_secs(60);
/// How often the log is kept short, and the upstream looked after.
const MAINTENANCE: Duration = Duration::from_millis(500);

/// What runs while a node is a standby.
pub(super) struct Standby {
    client: Arc<Mutex<Option<StandbyClient>>>,
    /// The upstream that is tried or followed; an index into the list.
    upstream: Arc<AtomicU64>,
    reconnects: Arc<AtomicU64>,
    ending: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standby").field("client", &self.client).finish_non_exhaustive()
    }
}

/// What is shown of it.
#[derive(Clone, Debug)]
pub struct Following {
    /// The upstream's address; empty if the archive alone feeds this node.
    pub upstream: String,
    /// What the client is doing.
    pub status: ClientStatus,
    /// Times another attempt was made after something ended.
    pub reconnects: u64,
}

impl Standby {
    /// Starts following. The database receives already.
    pub(super) async fn start(inner: &Arc<Inner>, upstreams: Vec<String>) -> Self {
        let client = Arc::new(Mutex::new(None));
        let (upstream, reconnects) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let ending = Arc::new(Notify::new());
        let following = Follower {
            inner: inner.clone(),
            upstreams,
            slot: client.clone(),
            index: upstream.clone(),
            reconnects: reconnects.clone(),
            ending: ending.clone(),
        };
        let task = tokio::spawn(async move {
            let _ = following.run().await;
        });
        Self { client, upstream, reconnects, ending, task }
    }

    pub(super) fn following(&self, upstreams: &[String]) -> Option<Following> {
        let client = self.client.lock();
        let status = client.as_ref()?.status().borrow().clone();
        let at = self.upstream.load(Ordering::Relaxed) as usize;
        let upstream = upstreams.get(at).cloned().unwrap_or_default();
        Some(Following { upstream, status, reconnects: self.reconnects.load(Ordering::Relaxed) })
    }

    /// Stops following; when it returns nothing is written to the database any more.
    pub(super) async fn stop(self) -> Option<ClientStatus> {
        // Not aborted: it may have the client in its hands, whose end is to be waited for.
        self.ending.notify_one();
        let _ = self.task.await;
        let client = self.client.lock().take()?;
        let status = client.status().borrow().clone();
        let _ = client.stop().await;
        Some(status)
    }
}

/// What follows in the background.
struct Follower {
    inner: Arc<Inner>,
    upstreams: Vec<String>,
    slot: Arc<Mutex<Option<StandbyClient>>>,
    index: Arc<AtomicU64>,
    reconnects: Arc<AtomicU64>,
    ending: Arc<Notify>,
}

impl Follower {
    /// Opens the archive if there is one, follows, changes upstreams, and keeps the log short, until it is to end. Then there
    /// is no client but the one in the slot.
    async fn run(self) -> Option<()> {
        let inner = &self.inner;
        let mut archive: Option<Archive> = None;
        let mut archive_retry = Instant::now();
        let mut streaming_at = Instant::now();
        // Upstreams left since one of them, or something else, led on.
        let mut left = 0;
        loop {
            let database = inner.database.read().clone();
            let cluster = match database {
                Database::Open(db) => db.cluster(),
                Database::Awaited(_) => {
                    self.unless_ending(tokio::time::sleep(MAINTENANCE)).await?;
                    continue;
                }
                Database::Gone(_) => {
                    // What it follows with is closed.
                    self.stop_client().await;
                    return None;
                }
            };
            if archive.is_none() && inner.options.archive.is_some() && Instant::now() >= archive_retry {
                match self.unless_ending(inner.open_archive_to_read(cluster)).await? {
                    Ok(opened) => {
                        archive = Some(opened);
                        // The client was started without it.
                        self.stop_client().await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the archive cannot be used as a feed; trying again");
                        archive_retry = Instant::now() + Duration::from_secs(5);
                    }
                }
            }
            if self.slot.lock().is_none() {
                let Ok(db) = inner.db() else { continue };
                let upstream = self.upstreams.get(self.index.load(Ordering::Relaxed) as usize);
                *self.slot.lock() = Some(start_client(inner, db, upstream, archive.clone()));
                streaming_at = Instant::now();
            }
            self.unless_ending(tokio::time::sleep(MAINTENANCE)).await?;
            let state = self.slot.lock().as_ref().map(|client| client.status().borrow().state.clone());
            let mut is_trying = false;
            match state {
                Some(ClientState::Streaming | ClientState::FromArchive) => {
                    (streaming_at, left) = (Instant::now(), 0);
                    inner.set_state(State::Running, "");
                }
                Some(ClientState::BaseBackup { id }) => {
                    (streaming_at, left) = (Instant::now(), 0);
                    inner.set_state(
                        State::Running,
                        &format!("it is being rebuilt from base backup {id}; old data are shown"),
                    );
                }
                Some(ClientState::Diverged { why, .. } | ClientState::Refused { why }) => {
                    inner.set_state(State::Running, &why);
                }
                Some(ClientState::Waiting { why, .. }) => inner.set_state(State::Running, &why),
                _ => is_trying = true,
            }
            // Where all of them were left once, each gets the time it takes to give up and to look at archive and base backups.
            let may_leave = left < self.upstreams.len() || !is_trying;
            if self.upstreams.len() > 1 && streaming_at.elapsed() >= PATIENCE && may_leave {
                left += 1;
                let next = (self.index.load(Ordering::Relaxed) + 1) % self.upstreams.len() as u64;
                tracing::info!(upstream = self.upstreams[next as usize], "trying the next upstream");
                self.index.store(next, Ordering::Relaxed);
                self.reconnects.fetch_add(1, Ordering::Relaxed);
                self.stop_client().await;
            }
            if let (Ok(db), Some(registry)) = (inner.db(), inner.registry()) {
                // What the archive has nobody needs here; what is upstream's to keep is not ours.
                let kept = tokio::task::spawn_blocking(move || keep_log_short(&db, &registry, None));
                let _ = kept.await;
            }
        }
    }

    /// `None` if it is to end before.
    async fn unless_ending<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.ending.notified() => None,
            done = work => Some(done),
        }
    }

    /// Waits until nothing is written to the database any more.
    async fn stop_client(&self) {
        let client = self.slot.lock().take();
        if let Some(client) = client {
            let _ = client.stop().await;
        }
    }
}

fn start_client(inner: &Arc<Inner>, db: Db, upstream: Option<&String>, archive: Option<Archive>) -> StandbyClient {
    let size = db.log().options().segment_size;
    let delay = inner.options.apply_delay;
    let config = ClientConfig {
        upstream: upstream.cloned(),
        delay: (!delay.is_zero()).then_some(delay),
        connect_timeout: inner.options.replication_timeout,
        ..ClientConfig::new(db.cluster(), db.node(), inner.options.name.clone(), size)
    };
    let source = archive
        .clone()
        .map(|archive| Arc::new(ArchiveSource::new(archive, inner.runtime.clone())) as Arc<dyn SegmentSource>);
    let backups =
        archive.map(|archive| Arc::new(NodeBackups { inner: inner.clone(), archive }) as Arc<dyn BaseBackups>);
    StandbyClient::start(config, Arc::new(db), source, backups)
}

/// The archive's base backups, and how this node is rebuilt from one.
struct NodeBackups {
    inner: Arc<Inner>,
    archive: Archive,
}

impl fmt::Debug for NodeBackups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "base backups in {:?}", self.archive)
    }
}

impl BaseBackups for NodeBackups {
    fn offers(&self) -> seawall_replication::Result<Vec<BackupOffer>> {
        let backups =
            self.inner.runtime.block_on(self.archive.backups()).map_err(|error| failed("list base backups", &error))?;
        let readable = backups.into_iter().filter_map(|(id, manifest)| match manifest {
            Ok(manifest) => Some(BackupOffer { id: id.to_string(), redo: manifest.redo.lsn, stop: manifest.stop }),
            Err(error) => {
                tracing::warn!(%id, %error, "a base backup cannot be read and is left out");
                None
            }
        });
        Ok(readable.collect())
    }

    fn install(&self, offer: &BackupOffer) -> seawall_replication::Result<Arc<dyn StandbyTarget>> {
        let installed = self.inner.runtime.block_on(super::rebuild::rebuild(&self.inner, &self.archive, offer));
        Ok(Arc::new(installed.map_err(|error| failed("install a base backup", &error))?))
    }
}

fn failed(operation: &'static str, error: &dyn fmt::Display) -> seawall_replication::Error {
    seawall_replication::Error::Target { operation, why: error.to_string() }
}

/// Opens a standby's database, making an empty one if there is none: of the cluster that the options, the archive or an
/// upstream name.
pub(super) async fn open(inner: &Arc<Inner>, upstreams: &[String]) -> Result<Db> {
    let options = &inner.options;
    let mut builder = super::builder(options).open_as(OpenAs::Standby);
    if !super::has_control(&options.data_dir) {
        let (cluster, size) = whose(inner, upstreams).await?;
        builder = builder.cluster(cluster).segment_size(size).create(Create::IfMissing);
    }
    super::repair::open(inner, builder).await
}

/// Whose standby this is to be. The primary may be starting at the same time, so it is asked for a while.
async fn whose(inner: &Inner, upstreams: &[String]) -> Result<(ClusterId, SegmentSize)> {
    let options = &inner.options;
    if let (Some(cluster), None) = (options.cluster, &options.archive) {
        return Ok((cluster, options.segment_size));
    }
    let until = Instant::now() + INTRODUCTION;
    loop {
        let mut why = String::from("neither an archive nor an upstream is set");
        if options.archive.is_some() {
            match inner.open_archive_of_any_cluster().await {
                Ok(archive) => return Ok((archive.cluster().cluster, archive.cluster().segment_size)),
                Err(Error::Archive(error)) if is_final_archive(&error) => return Err(error.into()),
                Err(error) => why = error.to_string(),
            }
        }
        for upstream in upstreams {
            match identify(upstream, Duration::from_secs(2)).await {
                Ok(identity) => return Ok((identity.cluster, identity.segment_size)),
                Err(error) => why = error.to_string(),
            }
        }
        if Instant::now() >= until {
            return Err(Error::ClusterUnknown { why });
        }
        tracing::info!(why, "waiting for somebody who knows which cluster this standby is of");
        inner.await_database(format!("who knows which cluster this standby is of is asked for again: {why}"));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The furthest position an upstream ever told this node of.
pub(super) fn upstream_flush(status: Option<&ClientStatus>) -> Lsn {
    status.map_or(Lsn::ZERO, |status| status.upstream_flush)
}
