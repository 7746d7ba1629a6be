//! Restoring to a point in time: the target is resolved and the plan is known before the first byte is written; tables and
//! log are fetched in parallel with bounded memory; the control file comes last, so half a restore cannot be opened. The
//! repository is only read. The result is read-only until it is promoted.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use seawall_engine::control::ROLE_TEXT_LEN_MAX;
use seawall_engine::{Db, FileHash, Installation, Role};
use seawall_wal::storage::Storage;
use seawall_wal::{LogBytes, Lsn, NodeId, Timestamp};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::archive::{Archive, blocking};
use crate::backup::hex;
use crate::error::{Error, Result};
use crate::files::in_parallel;
use crate::format::chunk::{Chunk, ChunkAbout, ChunkObject};
use crate::format::documents::FileEntry;
use crate::progress::Progress;

pub mod plan;
pub mod target;

pub use plan::RestorePlan;
pub use target::RestoreTarget;

/// How a restore is carried out.
#[derive(Clone)]
pub struct RestoreOptions {
    /// Requests on their way at once.
    pub at_once: usize,
    /// Bytes of table files held in memory at once; one file may be more.
    pub memory_bytes: u64,
    /// Open the result once: replay the log, see that it ends at the target, and compare digests where one is known.
    pub check: bool,
    /// Digest the state while checking. Reads everything.
    pub digest: bool,
    /// The id of the new node; random if `None`.
    pub node: Option<NodeId>,
    /// Where the directory lies; the real disk if `None`.
    pub storage: Option<Arc<dyn Storage>>,
    /// Told now and then, from several threads.
    pub progress: Progress<RestoreProgress>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        RestoreOptions {
            at_once: 8,
            memory_bytes: 64 << 20,
            check: true,
            digest: false,
            node: None,
            storage: None,
            progress: None,
        }
    }
}

impl std::fmt::Debug for RestoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestoreOptions")
            .field("at_once", &self.at_once)
            .field("memory_bytes", &self.memory_bytes)
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreProgress {
    /// What is being done.
    pub phase: RestorePhase,
    /// Bytes to fetch in all: tables and log.
    pub bytes: u64,
    /// Bytes of them that are here.
    pub bytes_done: u64,
    /// Since the beginning.
    pub elapsed: Duration,
    /// How long it will take yet at the rate so far; `None` while nothing is known.
    pub remaining: Option<Duration>,
}

/// The parts of a restore, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestorePhase {
    /// Fetching table files.
    Tables,
    /// Fetching log.
    Log,
    /// Opening the result and replaying the log.
    Check,
}

/// A finished restore.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    /// What was done.
    pub plan: RestorePlan,
    /// Where it is now.
    pub path: PathBuf,
    /// Digest of the restored state, if it was asked for.
    pub digest: Option<String>,
    /// How long it took, the check included.
    pub took: Duration,
}

impl Archive {
    /// Carries out a plan in `path`, which must be empty or not there.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::Object`] for a damaged object, [`Error::Gap`] for one that went missing since the plan.
    /// What was fetched is removed again, so that another try finds the directory empty. Only a finished copy that the
    /// check refuses, and what a process left that died while it restored, stay.
    pub async fn restore(&self, plan: &RestorePlan, path: &Path, options: &RestoreOptions) -> Result<RestoreReport> {
        if options.storage.is_none() {
            check_empty(path)?;
        }
        let started = Instant::now();
        let meter = Arc::new(Meter::new(plan, options));
        let manifest = self.file(&plan.backup.manifest, &|_| {}).await?;
        let mut builder =
            builder(path, options).segment_size(self.cluster().segment_size).cluster(self.cluster().cluster);
        if let Some(node) = options.node {
            builder = builder.node(node);
        }
        let history = plan.history.clone();
        let installation = blocking(move || Installation::begin(&builder, &manifest, &history)).await;
        let installation = Arc::new(installation.map_err(|error| not_empty(path, error))?);
        let mut fetched = self.restore_tables(&installation, options, &meter).await;
        if fetched.is_ok() {
            fetched = self.restore_log(plan, &installation, options, &meter).await;
        }
        if let Err(error) = fetched {
            abandon(installation).await;
            return Err(error);
        }
        let role = Role::ReadOnlyRestored { at: plan.target, time: plan.target_time, from: self.origin(plan) };
        let installation = Arc::into_inner(installation).expect("every task that used it has ended");
        blocking(move || installation.finish(role)).await?;
        let digest = if options.check || options.digest { check(plan, path, options, &meter).await? } else { None };
        Ok(RestoreReport { plan: plan.clone(), path: path.to_owned(), digest, took: started.elapsed() })
    }

    async fn restore_tables(
        &self,
        installation: &Arc<Installation>,
        options: &RestoreOptions,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        meter.phase(RestorePhase::Tables);
        let room = Arc::new(Semaphore::new(MIB_MAX.min(mib(options.memory_bytes)) as usize));
        let missing = installation.missing();
        let fetch = |(hash, size): (FileHash, u64)| {
            let (archive, installation, meter, room) =
                (self.clone(), installation.clone(), meter.clone(), room.clone());
            let place = mib(size).min(MIB_MAX.min(mib(options.memory_bytes)));
            async move {
                let _place = room.acquire_many(place).await.expect("the semaphore is never closed");
                let file = FileEntry { hash: blake3::Hash::from_bytes(*hash.as_bytes()), size };
                let bytes = archive.file(&file, &|bytes| meter.add(bytes)).await?;
                Ok(blocking(move || installation.add_file(&hash, &bytes)).await?)
            }
        };
        in_parallel(missing, options.at_once, fetch, |()| {}).await
    }

    /// Fetches chunks ahead, in order, and hands them to the log one after the other.
    async fn restore_log(
        &self,
        plan: &RestorePlan,
        installation: &Arc<Installation>,
        options: &RestoreOptions,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        meter.phase(RestorePhase::Log);
        let mut wanted = plan.chunks.iter();
        let mut ahead: VecDeque<(ChunkAbout, Ahead)> = VecDeque::new();
        loop {
            while ahead.len() < options.at_once.max(1)
                && let Some(about) = wanted.next()
            {
                let (archive, about) = (self.clone(), *about);
                ahead.push_back((about, Ahead(tokio::spawn(async move { archive.planned(&about).await }))));
            }
            let Some((about, mut fetched)) = ahead.pop_front() else { return Ok(()) };
            let chunk = match (&mut fetched.0).await {
                Ok(chunk) => chunk?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return Err(Error::Ended { why: "the runtime is shutting down".to_owned() }),
            };
            let Some(log) = cut(plan, &chunk) else { continue };
            let bytes = about.end.distance_from(about.start);
            let installation = installation.clone();
            blocking(move || installation.receive(&log)).await?;
            meter.add(bytes);
        }
    }

    /// A chunk as the plan knows it.
    async fn planned(&self, about: &ChunkAbout) -> Result<Chunk> {
        let mut pause = Duration::from_millis(50);
        for last in [false, false, false, true] {
            match self.chunk(about.timeline, about.start).await {
                Ok(Some(ChunkObject::Chunk(chunk))) if chunk.about == *about => return Ok(chunk),
                Ok(_) => return Err(Error::Gap { timeline: about.timeline, from: about.start }),
                Err(error) if last || !error.is_transient() => return Err(error),
                Err(error) => tracing::debug!(%error, "tried again"),
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
        unreachable!("the last try returns")
    }

    fn origin(&self, plan: &RestorePlan) -> String {
        let mut from = format!("backup {} at {}", plan.backup.id, self.location());
        let mut len = from.len().min(ROLE_TEXT_LEN_MAX);
        while !from.is_char_boundary(len) {
            len -= 1;
        }
        from.truncate(len);
        from
    }
}

fn builder(path: &Path, options: &RestoreOptions) -> seawall_engine::Builder {
    let builder = Db::builder(path);
    match &options.storage {
        Some(storage) => builder.storage(storage.clone()),
        None => builder,
    }
}

/// A fetch that is given up when nobody wants it any more.
struct Ahead(JoinHandle<Result<Chunk>>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

const MIB_MAX: u32 = 1 << 20;

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20).max(1)).unwrap_or(u32::MAX)
}

/// What of a chunk belongs into the restored log: not beyond its timeline's fork, not beyond the target.
fn cut(plan: &RestorePlan, chunk: &Chunk) -> Option<LogBytes> {
    let end = plan.target.min(plan.history.end_of(chunk.about.timeline));
    if chunk.about.end <= end { Some(chunk.to_log()) } else { chunk.cut_at(end) }
}

/// Opens the result once. What it replays is what every later opening replays.
async fn check(
    plan: &RestorePlan,
    path: &Path,
    options: &RestoreOptions,
    meter: &Arc<Meter>,
) -> Result<Option<String>> {
    meter.phase(RestorePhase::Check);
    let (target, want_digest, path) = (plan.target, options.digest, path.to_owned());
    let builder = builder(&path, options);
    let expected = plan.backup.digest.clone().filter(|_| plan.target == plan.backup.stop);
    let digest = blocking(move || -> Result<Option<String>> {
        let db = builder.create(seawall_engine::Create::Never).open()?;
        let (applied, _) = db.applied();
        let wrong = |why: String| {
            Err(seawall_engine::Error::Install { path: path.clone(), why: format!("the restored copy {why}") }.into())
        };
        if applied.lsn != target {
            return wrong(format!("reaches to {} where {target} was meant", applied.lsn));
        }
        let digest = match want_digest || expected.is_some() {
            true => Some(hex(&db.snapshot()?.digest()?.root)),
            false => None,
        };
        if expected.is_some() && digest != expected {
            return wrong("has another digest than the backup's".to_owned());
        }
        db.close()?;
        Ok(digest)
    });
    digest.await
}

/// Whether something can be restored into `path`: it is empty, or not there, or holds no more than what a restore that failed
/// leaves, its lock and two empty folders.
///
/// # Errors
/// [`Error::NotEmpty`], and [`Error::Io`] for what is no directory.
pub fn check_empty(path: &Path) -> Result<()> {
    let inside = ["LOCK"].as_slice();
    let folders = [(path.to_owned(), ["LOCK", "wal", "tables"].as_slice())];
    for (folder, known) in folders.into_iter().chain(["wal", "tables"].map(|name| (path.join(name), inside))) {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("list", &folder)(error)),
        };
        for entry in entries {
            let name = entry.map_err(Error::io("list", &folder))?.file_name();
            if !known.iter().any(|known| name == **known) {
                return Err(Error::NotEmpty { path: path.to_owned() });
            }
        }
    }
    Ok(())
}

/// Removes what a failed restore fetched, once the tasks that were called off have let go of it. What cannot be removed is
/// only told: the error that ended the restore matters more.
async fn abandon(mut installation: Arc<Installation>) {
    let path = installation.path().to_owned();
    for _ in 0..1000 {
        match Arc::try_unwrap(installation) {
            Ok(alone) => {
                if let Err(error) = blocking(move || alone.abandon()).await {
                    tracing::warn!(%error, path = %path.display(), "an unfinished restore is left behind");
                }
                return;
            }
            Err(shared) => installation = shared,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tracing::warn!(path = %path.display(), "an unfinished restore is left behind: it is still being written");
}

fn not_empty(path: &Path, error: seawall_engine::Error) -> Error {
    match error {
        seawall_engine::Error::NotEmpty { .. } => Error::NotEmpty { path: path.to_owned() },
        error => error.into(),
    }
}

/// Counts bytes and tells of them.
struct Meter {
    started: Instant,
    bytes: u64,
    done: AtomicU64,
    phase: parking_lot::Mutex<RestorePhase>,
    tell: Progress<RestoreProgress>,
}

impl Meter {
    fn new(plan: &RestorePlan, options: &RestoreOptions) -> Self {
        Meter {
            started: Instant::now(),
            bytes: plan.table_bytes + plan.log_bytes,
            done: AtomicU64::new(0),
            phase: parking_lot::Mutex::new(RestorePhase::Tables),
            tell: options.progress.clone(),
        }
    }

    fn phase(&self, phase: RestorePhase) {
        *self.phase.lock() = phase;
        self.add(0);
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Relaxed) + bytes;
        let Some(tell) = &self.tell else { return };
        let elapsed = self.started.elapsed();
        let left = self.bytes.saturating_sub(done);
        let remaining = (done > 0).then(|| elapsed.mul_f64(left as f64 / done as f64));
        let phase = *self.phase.lock();
        tell(&RestoreProgress { phase, bytes: self.bytes, bytes_done: done, elapsed, remaining });
    }
}

/// The latest position and time that can be restored, for messages.
pub(crate) fn described(lsn: Lsn, time: Timestamp) -> String {
    format!("{lsn} ({})", crate::error::written(time))
}
