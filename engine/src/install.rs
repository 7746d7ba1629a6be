//! Building a data directory from what a backup or a primary hands over: the manifest, the files it names, and log from
//! the manifest's log start on. The control file is written last, so that half a copy cannot be opened.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::{Access, Storage, read_file, write_all_at};
use seawall_wal::sync::Mutex;
use seawall_wal::{Log, LogBytes, LogMode, NodeId, OpenAt, Position, SegmentSize, TimelineHistory, Timestamp};

use crate::control::{CONTROL_NAME, Control, ControlFile, ROLE_TEXT_LEN_MAX, Role};
use crate::core::LockGuard;
use crate::error::{Error, Result, at};
use crate::file::{FileHash, FileKind, TABLES_FOLDER};
use crate::manifest::{Manifest, manifest_path};
use crate::mutant::{Mutant, planted};
use crate::open::{LOG_FOLDER, lock, log_options, make_folder};
use crate::options::Builder;

/// Names the file by which a directory is locked on a real disk.
const LOCK_NAME: &str = "LOCK";

/// Whoever can hand over tables and blob files by their digest: an archive, a primary. Blocking.
pub trait TableSource: Send + Sync + fmt::Debug {
    /// The bytes of a file, `size` of them. The caller checks the digest.
    fn fetch(&self, hash: &FileHash, size: u64) -> Result<Vec<u8>>;
}

/// A data directory in the making. Dropped before [`finish`](Self::finish), it leaves a directory that cannot be opened.
#[derive(Debug)]
pub struct Installation {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    manifest: Manifest,
    history: TimelineHistory,
    segment_size: SegmentSize,
    node: NodeId,
    /// Files that are not here yet: what they are, and their sizes.
    missing: Mutex<BTreeMap<FileHash, (FileKind, u64)>>,
    log: Log,
    _lock: LockGuard,
}

impl Installation {
    /// Starts in the directory of `builder`, which must be empty or not there. `builder` also says the storage, the
    /// segment size, which must be the cluster's, and the node's id.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], or [`Error::CorruptManifest`] if the bytes are not a manifest.
    pub fn begin(builder: &Builder, manifest: &[u8], history: &TimelineHistory) -> Result<Self> {
        let storage = builder.storage_or_disk();
        let path = builder.path.clone();
        let refuse = |why: String| Error::Install { path: path.clone(), why };
        let manifest = Manifest::parse(manifest, &manifest_path(&path, 0))?;
        let segment_size = builder.segment_size.unwrap_or(SegmentSize::DEFAULT);
        if let Some(cluster) = builder.cluster.filter(|cluster| *cluster != manifest.cluster) {
            return Err(refuse(format!("it is of cluster {}, not {cluster}", manifest.cluster)));
        }
        let belongs = history.of_position(manifest.redo.lsn).id == manifest.timeline;
        if !belongs || TimelineHistory::from_entries(history.entries().to_vec(), segment_size).is_err() {
            return Err(refuse(format!("the history does not go through timeline {}", manifest.timeline)));
        }
        refuse_full(&*storage, &path)?;
        make_folder(&*storage, &path)?;
        let lock = lock(&*storage, &path)?;
        // Somebody may have come between the look and the lock.
        refuse_full(&*storage, &path)?;
        let node = builder.node.unwrap_or_else(NodeId::random);
        let start = OpenAt {
            history: history.clone(),
            start: manifest.log_start,
            time_floor: manifest.time_floor(),
            watermark: manifest.log_start.lsn,
        };
        let (log, _) = Log::open::<Error>(
            Arc::clone(&storage),
            Arc::clone(&builder.clock),
            &path.join(LOG_FOLDER),
            log_options(builder, manifest.cluster, node, segment_size),
            &start,
            LogMode::Receive,
            |_| Ok(()),
        )
        .inspect_err(|_| remove_left(&*storage, &path))?;
        let missing = manifest.files().map(|(kind, hash, size)| (hash, (kind, size))).collect();
        let (missing, history) = (Mutex::new(missing), history.clone());
        Ok(Self { storage, path, manifest, history, segment_size, node, missing, log, _lock: lock })
    }

    /// Where it is installed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is installed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The files that are not here yet, with their sizes in bytes.
    pub fn missing(&self) -> Vec<(FileHash, u64)> {
        self.missing.lock().iter().map(|(hash, (_, size))| (*hash, *size)).collect()
    }

    /// Adds a file by its bytes, which are checked against its name. Several threads may add at once.
    pub fn add_file(&self, hash: &FileHash, bytes: &[u8]) -> Result<()> {
        let Some((kind, size)) = self.missing.lock().get(hash).copied() else { return self.check_known(hash) };
        if bytes.len() as u64 != size || blake3::hash(bytes).as_bytes() != hash.as_bytes() {
            return Err(self.refuse(format!("the bytes given as {kind} {hash} are not those of that {kind}")));
        }
        let path = kind.path_in(&self.path, hash);
        let temporary = path.with_extension("tmp");
        let file = self.storage.open(&temporary, Access::CreateNew).map_err(at("create", &temporary))?;
        write_all_at(&*file, bytes, 0).map_err(at("write", &temporary))?;
        file.sync_data().map_err(at("sync", &temporary))?;
        self.storage.rename(&temporary, &path).map_err(at("rename", &temporary))?;
        self.missing.lock().remove(hash);
        Ok(())
    }

    /// Adds a file that lies in another data directory, by a second name for it if both are on one file system, else as a
    /// copy.
    pub fn link_file(&self, hash: &FileHash, from: &Path) -> Result<()> {
        let Some((kind, size)) = self.missing.lock().get(hash).copied() else { return self.check_known(hash) };
        let path = kind.path_in(&self.path, hash);
        match self.storage.hard_link(from, &path) {
            Ok(()) => {
                self.missing.lock().remove(hash);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::Unsupported) => {
                let bytes = read_file(&*self.storage, from, size).map_err(at("read", from))?;
                self.add_file(hash, &bytes)
            }
            Err(error) => Err(at("link", from)(error)),
        }
    }

    /// Fetches every file that is not here yet, one after the other.
    pub fn fetch_files(&self, source: &dyn TableSource) -> Result<()> {
        self.missing().into_iter().try_for_each(|(hash, size)| self.add_file(&hash, &source.fetch(&hash, size)?))
    }

    /// Where the log that is here ends: at first the manifest's log start.
    pub fn log_end(&self) -> Position {
        self.log.end()
    }

    /// The time of the last record of that log.
    pub fn log_time(&self) -> Timestamp {
        self.log.last_time()
    }

    /// Adds log: whole records that continue what is here.
    pub fn receive(&self, log: &LogBytes) -> Result<Position> {
        self.log.receive(log, |_| Ok::<_, Error>(())).map_err(|error| self.own(error))
    }

    /// Makes everything durable, and then the directory one that can be opened, in `role`. If the disk fails meanwhile, what
    /// there is is removed, as far as the disk lets it: nothing of it could be used.
    ///
    /// # Errors
    /// [`Error::Install`] if a file is missing, or if the log ends before the tables do, unless a standby's, which gets
    /// the rest from its feed.
    pub fn finish(self, role: Role) -> Result<()> {
        if let Some((hash, (kind, _))) = self.missing.lock().first_key_value() {
            return Err(self.refuse(format!("{kind} {hash} is missing")));
        }
        if matches!(&role, Role::ReadOnlyRestored { from, .. } if from.len() > ROLE_TEXT_LEN_MAX) {
            return Err(self.refuse(format!("where it is from is said in more than {ROLE_TEXT_LEN_MAX} bytes")));
        }
        let end = match self.log.flush_received() {
            Ok(end) => end,
            Err(error) => {
                let error = self.own(error.into());
                self.give_up();
                return Err(error);
            }
        };
        if end < self.manifest.redo.lsn && role != Role::Standby {
            let redo = self.manifest.redo.lsn;
            return Err(self.refuse(format!("the log ends at {end}, and the tables need it up to {redo}")));
        }
        let Self { storage, path, manifest, history, segment_size, node, log, _lock, .. } = self;
        let make_openable = || {
            log.close()?;
            let tables = path.join(TABLES_FOLDER);
            if !planted(Mutant::CopiedNamesNotSynced) {
                storage.sync_dir(&tables).map_err(at("sync", &tables))?;
            }
            let manifest_digest = manifest.write(&*storage, &path)?;
            let control = Control {
                cluster: manifest.cluster,
                node,
                segment_size,
                history,
                watermark: end,
                clean_shutdown: true,
                manifest_number: manifest.number,
                manifest_digest,
                role,
            };
            ControlFile::create(&*storage, &path, control).map(drop)
        };
        make_openable().inspect_err(|_| remove_left(&*storage, &path))
    }

    /// Gives the installation up: removes what it made, and leaves an empty directory.
    ///
    /// # Errors
    /// [`Error::Io`] for the first file that cannot be removed; the others are left then.
    pub fn abandon(self) -> Result<()> {
        let Self { storage, path, log, _lock, .. } = self;
        log.close()?;
        remove_all(&*storage, &path)
    }

    /// As [`abandon`](Self::abandon), for those who have an error to tell that matters more than what is left behind.
    pub(crate) fn give_up(self) {
        let Self { storage, path, log, _lock, .. } = self;
        // It may be the log that failed.
        drop(log);
        remove_left(&*storage, &path);
    }

    fn check_known(&self, hash: &FileHash) -> Result<()> {
        match self.manifest.files().any(|(_, known, _)| known == *hash) {
            true => Ok(()),
            false => Err(self.refuse(format!("file {hash} is not in the manifest"))),
        }
    }

    /// The log that failed is that of the installation, not of the database it is made from.
    fn own(&self, error: Error) -> Error {
        match error {
            Error::Poisoned { cause } => self.refuse(cause.to_string()),
            other => other,
        }
    }

    fn refuse(&self, why: String) -> Error {
        Error::Install { path: self.path.clone(), why }
    }
}

/// Removes every file of an installation. The control file goes first, for good, so that nothing less than a whole
/// database can ever be opened.
fn remove_all(storage: &dyn Storage, path: &Path) -> Result<()> {
    for folder in [path.to_owned(), path.join(TABLES_FOLDER), path.join(LOG_FOLDER)] {
        let mut names = storage.list(&folder).map_err(at("list", &folder))?;
        names.retain(|name| name != LOCK_NAME);
        names.sort_by_key(|name| name != CONTROL_NAME);
        for name in names {
            let file = folder.join(name);
            storage.remove(&file).map_err(at("remove", &file))?;
        }
        storage.sync_dir(&folder).map_err(at("sync", &folder))?;
    }
    Ok(())
}

/// The same for those who have an error to tell already.
fn remove_left(storage: &dyn Storage, path: &Path) {
    if let Err(error) = remove_all(storage, path) {
        tracing::warn!(%error, path = %path.display(), "an unfinished copy is left behind");
    }
}

fn refuse_full(storage: &dyn Storage, path: &Path) -> Result<()> {
    for folder in [path.to_owned(), path.join(TABLES_FOLDER), path.join(LOG_FOLDER)] {
        let names = match storage.list(&folder) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(at("list", &folder)(error)),
        };
        if names.iter().any(|name| name != LOCK_NAME) {
            return Err(Error::NotEmpty { path: path.to_owned() });
        }
    }
    Ok(())
}
