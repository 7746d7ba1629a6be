//! A repository in a local or mounted directory, with the semantics of an object store: whole objects, durable when
//! `put` returns, conditional writes atomic across processes. Meant for a disk that is not the database's own.
//!
//! An object is written under `.tmp/`, synced, and then linked (if absent) or renamed into place. Replacing and
//! deleting happen under an advisory lock on `.lock`, so that a version check and the write it guards are one step.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use seawall_wal::storage::FileLock;

use super::{
    Condition, Etag, Fetched, LIST_PAGE_MAX, ListPage, ListedObject, ObjectInfo, Operation, PutOutcome, Repository,
    RepositoryError, RepositoryErrorKind, Request, check_range, check_size,
};

const TEMPORARY: &str = ".tmp";
const LOCK: &str = ".lock";

/// A temporary file older than this belongs to a writer that died.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Longest wait for another process's replacement of an object; its critical section is a hash and a rename.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(30);

/// See the module's text.
#[derive(Debug, Clone)]
pub struct DirectoryRepository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    location: String,
}

impl DirectoryRepository {
    /// Opens `root`, creating it if needed, and removes what writers that died left under `.tmp/`.
    pub async fn open(root: impl AsRef<Path>) -> Result<Self, RepositoryError> {
        let root = root.as_ref().to_owned();
        let inner = Arc::new(Inner { location: format!("file://{}", root.display()), root });
        let repository = DirectoryRepository { inner };
        repository.run("", Operation::Open, |inner| inner.prepare()).await?;
        Ok(repository)
    }

    /// Runs blocking work off the async threads.
    async fn run<T: Send + 'static>(
        &self,
        key: &str,
        operation: Operation,
        work: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        let request = Request { repository: &self.inner.location, key, operation };
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Io(error))) => Err(request.failed(kind_of(&self.inner.root, &error))),
            Ok(Err(Failure::Kind(kind))) => Err(request.failed(kind)),
            Err(_) => {
                Err(request.failed(RepositoryErrorKind::Internal { detail: "the runtime is shutting down".to_owned() }))
            }
        }
    }
}

#[async_trait]
impl Repository for DirectoryRepository {
    fn location(&self) -> &str {
        &self.inner.location
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>, size_max: u64) -> Result<Fetched, RepositoryError> {
        Request { repository: self.location(), key, operation: Operation::Get }.check_key()?;
        let path = self.inner.path(key);
        self.run(key, Operation::Get, move |inner| match read(&path, range, size_max)? {
            Some(fetched) => Ok(fetched),
            None => Err(inner.absent().map_or_else(Failure::Io, |()| RepositoryErrorKind::NotFound.into())),
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, RepositoryError> {
        Request { repository: self.location(), key, operation: Operation::Head }.check_key()?;
        let path = self.inner.path(key);
        self.run(key, Operation::Head, move |inner| match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Some(ObjectInfo { size: meta.len() })),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(inner.absent().map(|()| None)?),
            Err(error) => Err(error.into()),
        })
        .await
    }

    async fn put(&self, key: &str, body: Bytes, condition: Condition) -> Result<PutOutcome, RepositoryError> {
        Request { repository: self.location(), key, operation: Operation::Put }.check_key()?;
        let path = self.inner.path(key);
        self.run(key, Operation::Put, move |inner| inner.put(&path, &body, &condition)).await
    }

    async fn delete(&self, key: &str) -> Result<(), RepositoryError> {
        Request { repository: self.location(), key, operation: Operation::Delete }.check_key()?;
        let path = self.inner.path(key);
        self.run(key, Operation::Delete, move |inner| {
            let _lock = inner.lock()?;
            match fs::remove_file(&path) {
                Ok(()) => Ok(sync_directory(parent(&path))?),
                Err(error) if is_absent(&error) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, page: usize) -> Result<ListPage, RepositoryError> {
        Request { repository: self.location(), key: prefix, operation: Operation::List }.check_prefix()?;
        let walk = Walk {
            prefix: prefix.to_owned(),
            start_after: start_after.unwrap_or_default().to_owned(),
            page: page.clamp(1, LIST_PAGE_MAX),
        };
        self.run(prefix, Operation::List, move |inner| {
            inner.absent()?;
            let mut found = ListPage::default();
            walk.folder(&inner.root, "", &mut found)?;
            Ok(found)
        })
        .await
    }
}

enum Failure {
    Io(io::Error),
    Kind(RepositoryErrorKind),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl From<RepositoryErrorKind> for Failure {
    fn from(kind: RepositoryErrorKind) -> Self {
        Failure::Kind(kind)
    }
}

impl Inner {
    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Before something counts as absent: is the directory itself there, or was a disk unmounted?
    fn absent(&self) -> io::Result<()> {
        fs::metadata(self.root.join(TEMPORARY)).map(drop)
    }

    fn prepare(&self) -> Result<(), Failure> {
        let temporary = self.root.join(TEMPORARY);
        fs::create_dir_all(&temporary)?;
        sync_directory(&self.root)?;
        if let Some(above) = self.root.parent() {
            // Best effort: the folder above may be one that this user cannot open.
            let _ = sync_directory(above);
        }
        for entry in fs::read_dir(&temporary)? {
            let entry = entry?;
            let age = entry.metadata().and_then(|meta| meta.modified()).map(|at| SystemTime::now().duration_since(at));
            if matches!(age, Ok(Ok(age)) if age > TEMPORARY_AGE_MAX) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn put(&self, path: &Path, body: &[u8], condition: &Condition) -> Result<PutOutcome, Failure> {
        let etag = etag(body);
        if *condition == Condition::IfAbsent && path.exists() {
            return Ok(PutOutcome::ConditionFailed);
        }
        // First: it fails if the directory went away, before anything is created where it was.
        let temporary = Temporary::create(&self.root.join(TEMPORARY), body)?;
        self.create_folders(parent(path))?;
        match condition {
            Condition::IfAbsent => match fs::hard_link(&temporary.path, path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Ok(PutOutcome::ConditionFailed);
                }
                Err(error) => return Err(error.into()),
            },
            Condition::Always => {
                let _lock = self.lock()?;
                fs::rename(&temporary.path, path)?;
            }
            Condition::IfMatch(expected) => {
                let _lock = self.lock()?;
                match fs::read(path) {
                    Ok(current) if etag_of_matches(&current, expected) => fs::rename(&temporary.path, path)?,
                    Ok(_) => return Ok(PutOutcome::ConditionFailed),
                    Err(error) if is_absent(&error) => return Ok(PutOutcome::ConditionFailed),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        sync_directory(parent(path))?;
        Ok(PutOutcome::Stored { etag })
    }

    /// Each folder made is synced into its parent, or a power cut could take a synced object with it.
    fn create_folders(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        self.create_folders(parent(folder))?;
        match fs::create_dir(folder) {
            Ok(()) => sync_directory(parent(folder)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lock(&self) -> Result<FileLock, Failure> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.root.join(LOCK))?;
        let started = Instant::now();
        FileLock::within(file, LOCK_WAIT_MAX).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => RepositoryErrorKind::Timeout { after: started.elapsed() }.into(),
            _ => error.into(),
        })
    }
}

/// A synced file under `.tmp/`, removed when dropped: after a link its name is surplus, after a rename it is gone.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn create(folder: &Path, body: &[u8]) -> io::Result<Self> {
        let temporary = Temporary { path: folder.join(format!("{:032x}", rand::random::<u128>())) };
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary.path)?;
        file.write_all(body)?;
        file.sync_all()?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// `None` if there is no such file.
fn read(path: &Path, range: Option<Range<u64>>, size_max: u64) -> Result<Option<Fetched>, Failure> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let wanted = range.clone().unwrap_or(0..meta.len());
    if range.is_some() {
        check_range(&wanted, meta.len())?;
    }
    let size = wanted.end - wanted.start;
    check_size(size, size_max)?;
    file.seek(SeekFrom::Start(wanted.start))?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size {
        let detail = format!("{} bytes of {size}", bytes.len());
        return Err(RepositoryErrorKind::Damaged { detail }.into());
    }
    let etag = range.is_none().then(|| etag(&bytes));
    Ok(Some(Fetched { bytes: bytes.into(), etag, object_size: Some(meta.len()) }))
}

/// One page of a walk in byte order of whole keys. At most a page of names is held per folder level.
struct Walk {
    prefix: String,
    start_after: String,
    page: usize,
}

impl Walk {
    fn folder(&self, path: &Path, key: &str, found: &mut ListPage) -> io::Result<()> {
        for name in self.names(path, key)? {
            let full = format!("{key}{name}");
            let below = path.join(name.trim_end_matches('/'));
            if name.ends_with('/') {
                self.folder(&below, &full, found)?;
            } else if found.objects.len() == self.page {
                found.more = true;
            } else {
                match fs::metadata(&below) {
                    Ok(meta) => found.objects.push(ListedObject { key: full, size: meta.len() }),
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            if found.more {
                break;
            }
        }
        Ok(())
    }

    /// The first names of a folder that can matter, folders with a slash: so they sort as their keys do.
    fn names(&self, path: &Path, key: &str) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let mut objects = 0;
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(names),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let Ok(mut name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            if entry.file_type()?.is_dir() {
                name.push('/');
            }
            if self.can_matter(&format!("{key}{name}")) {
                objects += usize::from(!name.ends_with('/'));
                names.insert(name);
                // One more object than a page holds tells that there are more; what sorts after it cannot matter.
                if objects > self.page + 1 {
                    objects -= usize::from(names.pop_last().is_some_and(|last| !last.ends_with('/')));
                }
            }
        }
        Ok(names)
    }

    fn can_matter(&self, key: &str) -> bool {
        if key.ends_with('/') {
            let inside = key.starts_with(&self.prefix) || self.prefix.starts_with(key);
            inside && (key > self.start_after.as_str() || self.start_after.starts_with(key))
        } else {
            key.starts_with(&self.prefix) && key > self.start_after.as_str()
        }
    }
}

fn etag(body: &[u8]) -> Etag {
    Etag(blake3::hash(body).to_hex().to_string())
}

fn etag_of_matches(current: &[u8], expected: &Etag) -> bool {
    etag(current) == *expected
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Keys have at least one component below the root, so their paths have parents.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn kind_of(root: &Path, error: &io::Error) -> RepositoryErrorKind {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            RepositoryErrorKind::Denied { detail: error.to_string() }
        }
        ErrorKind::NotFound => RepositoryErrorKind::NoSuchBucket { bucket: root.display().to_string() },
        ErrorKind::TimedOut | ErrorKind::StaleNetworkFileHandle => {
            RepositoryErrorKind::Unreachable { detail: error.to_string() }
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            RepositoryErrorKind::Internal { detail: format!("{error}: free space where the repository is") }
        }
        _ => RepositoryErrorKind::Other { detail: error.to_string() },
    }
}
