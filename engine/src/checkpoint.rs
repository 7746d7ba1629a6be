//! A checkpoint: the files and the manifest of one moment, kept alive while a backup reads them, or copied into a
//! directory that can be opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::{Lsn, Position, TimelineHistory, Timestamp};

use crate::control::Role;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::file::{FileHash, FileKind};
use crate::install::Installation;
use crate::manifest::Manifest;
use crate::version::TableSet;

/// Bytes of log copied at once.
const COPY_BYTES: usize = 1 << 20;

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// What it is.
    pub kind: FileKind,
    /// Its digest, which is its name everywhere.
    pub hash: FileHash,
    /// In bytes.
    pub size: u64,
    /// Where it lies. It stays there while the checkpoint is held.
    pub path: PathBuf,
}

/// The state of one moment, kept while it is held: the files, and the manifest that names them. Together with the log
/// from [`log_start`](Self::log_start) at least to [`redo`](Self::redo) it makes a database.
#[derive(Debug)]
pub struct PinnedCheckpoint {
    manifest: Manifest,
    bytes: Arc<[u8]>,
    tables: Arc<TableSet>,
    flushed: Lsn,
    history: TimelineHistory,
    /// Keeps the database open.
    _db: Db,
}

impl PinnedCheckpoint {
    /// What it is, decoded.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it is, as it is stored.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its files: tables, and the blob files they refer to.
    pub fn files(&self) -> Vec<StateFile> {
        let tables = self.tables.tables().map(|(_, _, table)| StateFile {
            kind: FileKind::Table,
            hash: table.meta().hash,
            size: table.meta().size,
            path: table.path().to_owned(),
        });
        let blobs = self.tables.keyspaces().flat_map(|(_, levels)| levels.blobs().values());
        let blobs = blobs.map(|(file, _)| StateFile {
            kind: FileKind::Blob,
            hash: file.meta().hash,
            size: file.meta().size,
            path: file.path().to_owned(),
        });
        tables.chain(blobs).collect()
    }

    /// Everything at or below it is in the tables, nothing above it is.
    pub fn redo(&self) -> Position {
        self.manifest.redo
    }

    /// The time of the last record at or below redo.
    pub fn redo_time(&self) -> Timestamp {
        self.manifest.redo_time
    }

    /// Where the log that belongs to it must start.
    pub fn log_start(&self) -> Position {
        self.manifest.log_start
    }

    /// How far the log was durable when the checkpoint was taken. `redo <= flushed`.
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// The timelines it went through.
    pub fn history(&self) -> &TimelineHistory {
        &self.history
    }
}

impl Db {
    /// Takes a checkpoint and keeps it. With `flush` everything applied is written into tables first, so that little log
    /// belongs to it.
    pub fn pin_checkpoint(&self, flush: bool) -> Result<PinnedCheckpoint> {
        let core = self.core();
        if flush {
            core.flush_all()?;
        }
        let (manifest, bytes, tables) = core.durable.current(&core.state);
        let (flushed, history) = (core.log.flushed().value(), core.log.history());
        Ok(PinnedCheckpoint { manifest, bytes, tables, flushed, history, _db: self.clone() })
    }

    /// Copies the database as it is now into `folder`, which must be empty or not there: tables by hard links where
    /// possible, and the log that belongs to them. The copy is read-only until it is promoted, so that it cannot be
    /// mistaken for this node; [`Builder::open_detached`](crate::Builder::open_detached) makes it a database of its own
    /// that takes writes. Returns up to where it goes. If it fails the folder is empty again, as far as the disk lets
    /// it, and it can be tried again.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// let lsn = db.checkpoint("copy")?;
    /// let copy = seawall_engine::Db::open("copy")?;
    /// assert_eq!(copy.visible(), lsn);
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotEmpty`] if there is anything in `folder`, [`Error::Install`] if it lies within the data directory.
    pub fn checkpoint(&self, folder: impl AsRef<Path>) -> Result<Lsn> {
        let core = self.core();
        let (own, copy) = (std::path::absolute(self.path()), std::path::absolute(folder.as_ref()));
        if let (Ok(own), Ok(copy)) = (own, copy)
            && copy.starts_with(own)
        {
            let why = format!("it lies within {}, which is copied; choose another folder", self.path().display());
            return Err(Error::Install { path: copy, why });
        }
        let builder = self.builder_of_copy(folder.as_ref());
        core.flush_all()?;
        // While this is held, nothing moves redo, so the log that belongs to the copy stays.
        let _one = core.flushing.lock();
        let checkpoint = self.pin_checkpoint(false)?;
        let copy = Installation::begin(&builder, checkpoint.manifest_bytes(), checkpoint.history())?;
        let at = match self.fill_copy(&copy, &checkpoint) {
            Ok(at) => at,
            Err(error) => {
                copy.give_up();
                return Err(error);
            }
        };
        let time = copy.log_time();
        let from = format!("checkpoint of {}", self.path().display());
        let from = from.chars().take(crate::control::ROLE_TEXT_LEN_MAX / 4).collect();
        copy.finish(Role::ReadOnlyRestored { at, time, from })?;
        Ok(at)
    }

    /// Adds files and log, and says up to where.
    fn fill_copy(&self, copy: &Installation, checkpoint: &PinnedCheckpoint) -> Result<Lsn> {
        for file in checkpoint.files() {
            copy.link_file(&file.hash, &file.path)?;
        }
        let mut at = copy.log_end().lsn;
        while at < checkpoint.flushed()
            && let Some(log) = self.log().read(at, COPY_BYTES)?
        {
            at = copy.receive(&log)?.lsn;
        }
        Ok(at)
    }

    fn builder_of_copy(&self, folder: &Path) -> crate::options::Builder {
        let core = self.core();
        Self::builder(folder)
            .storage(Arc::clone(core.durable.storage()))
            .segment_size(core.log.options().segment_size)
            .background(core.settings.background)
    }
}
