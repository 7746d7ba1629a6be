//! Base backups: the tables of one checkpoint, of which only those travel that the repository lacks, and a manifest
//! written last. Every backup is whole by itself; removing one never hurts another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_engine::{Db, PinnedCheckpoint};
use seawall_wal::{NodeId, TimelineId, Timestamp};

use crate::archive::{Archive, blocking};
use crate::error::{Error, Result};
use crate::files::{FileUpload, in_parallel, tried};
use crate::format::documents::{BackupManifest, FILES_MAX, FileEntry};
use crate::format::envelope::Kind;
use crate::format::keys::{self, BackupId};
use crate::progress::Progress;
use crate::repository::{Condition, LIST_PAGE_MAX, PutOutcome};
use crate::timelines::now;

/// How a backup is made.
#[derive(Clone)]
pub struct BackupOptions {
    /// A name for people; may be empty.
    pub label: String,
    /// Files uploaded at once; each holds up to two pieces of 8 MiB in memory.
    pub uploads: usize,
    /// How long to wait for the archiver to bring the log the backup needs into the archive.
    pub archive_wait: Duration,
    /// Digest the state and keep it in the manifest, so that a restore can be proven. Reads everything.
    pub digest: bool,
    /// Told after each file.
    pub progress: Progress<BackupProgress>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        BackupOptions {
            label: String::new(),
            uploads: 4,
            archive_wait: Duration::from_secs(60),
            digest: false,
            progress: None,
        }
    }
}

impl std::fmt::Debug for BackupOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupOptions")
            .field("label", &self.label)
            .field("uploads", &self.uploads)
            .finish_non_exhaustive()
    }
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupProgress {
    /// Files there are.
    pub files: usize,
    /// Files that are in the repository now.
    pub files_done: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of those that are in the repository now.
    pub bytes_done: u64,
}

/// A finished backup and what it took.
#[derive(Debug, Clone)]
pub struct BackupReport {
    /// The backup.
    pub manifest: BackupManifest,
    /// Files uploaded.
    pub files_sent: usize,
    /// Files the repository had already.
    pub files_present: usize,
    /// Bytes sent for them, compressed.
    pub bytes_sent: u64,
    /// How long it took.
    pub took: Duration,
}

impl Archive {
    /// Makes a base backup of an open database.
    ///
    /// # Errors
    /// [`Error::ArchiveBehind`] if the log it needs does not get into the archive in time; the store's and the engine's.
    /// Nothing is listed then, and what was uploaded serves the next one.
    pub async fn create_backup(&self, db: &Db, options: &BackupOptions) -> Result<BackupReport> {
        let (started, began) = (now(), Instant::now());
        let pinned = db.clone();
        let checkpoint = Arc::new(blocking(move || pinned.pin_checkpoint(true)).await?);
        let digest = if options.digest { Some(digest_at(db, &checkpoint).await?) } else { None };
        let mut report = BackupReport {
            manifest: describe(db.node(), started, &checkpoint, options, digest)?,
            files_sent: 0,
            files_present: 0,
            bytes_sent: 0,
            took: Duration::ZERO,
        };
        self.put_files(&checkpoint, options, &mut report).await?;
        self.wait_for_log(&report.manifest, options.archive_wait).await?;
        report.manifest.finished = now();
        let object = report.manifest.encode(self.cluster().cluster);
        let key = keys::backup(&report.manifest.id);
        let outcome = tried(|| self.repository().put(&key, object.clone(), Condition::IfAbsent)).await?;
        if !matches!(outcome, PutOutcome::Stored { .. }) && self.backup(&report.manifest.id).await? != report.manifest {
            // Ids carry a random number: what is there is ours, from a lost answer, or somebody plays with us.
            return Err(self.damaged(&key, crate::format::ObjectDamage::Place));
        }
        report.took = began.elapsed();
        Ok(report)
    }

    async fn put_files(
        &self,
        checkpoint: &Arc<PinnedCheckpoint>,
        options: &BackupOptions,
        report: &mut BackupReport,
    ) -> Result<()> {
        let tables = checkpoint.files();
        let mut progress =
            BackupProgress { files: tables.len() + 1, bytes: report.manifest.bytes(), ..BackupProgress::default() };
        let mut count = |file: FileEntry, upload: FileUpload| {
            match upload {
                FileUpload::Present => report.files_present += 1,
                FileUpload::Stored { stored_bytes } => {
                    report.files_sent += 1;
                    report.bytes_sent += stored_bytes;
                }
            }
            progress.files_done += 1;
            progress.bytes_done += file.size;
            if let Some(tell) = &options.progress {
                tell(&progress);
            }
        };
        let upload = |table: seawall_engine::StateFile| {
            // The checkpoint keeps the file where it is.
            let (archive, held) = (self.clone(), checkpoint.clone());
            async move {
                let file = entry(&table);
                let upload = archive.put_file(&file, &table.path).await?;
                drop(held);
                Ok((file, upload))
            }
        };
        in_parallel(tables, options.uploads, upload, |(file, upload)| count(file, upload)).await?;
        let bytes = Bytes::copy_from_slice(checkpoint.manifest_bytes());
        let (file, upload) = self.put_bytes(&bytes).await?;
        count(file, upload);
        Ok(())
    }

    /// A backup without the log up to its stop is no backup: it is not listed before that log is archived.
    async fn wait_for_log(&self, manifest: &BackupManifest, wait: Duration) -> Result<()> {
        let timeline = manifest.history.of_position(manifest.stop).id;
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(20);
        loop {
            let archived = self.archived_end(timeline, manifest).await?;
            if archived.is_some_and(|end| end >= manifest.stop) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::ArchiveBehind { timeline, archived, at: manifest.stop });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn archived_end(&self, timeline: TimelineId, manifest: &BackupManifest) -> Result<Option<seawall_wal::Lsn>> {
        // A cluster without a record has no log to wait for.
        if manifest.stop == seawall_wal::Lsn::ZERO {
            return Ok(Some(manifest.stop));
        }
        Ok(self.list_end(timeline).await?.map(|(end, _)| end))
    }

    /// The ids of all backups, oldest first.
    pub async fn backup_ids(&self) -> Result<Vec<BackupId>> {
        let mut ids = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = tried(|| self.repository().list(keys::BACKUPS, after.as_deref(), LIST_PAGE_MAX)).await?;
            let parsed = page.objects.iter().filter_map(|object| object.key.strip_prefix(keys::BACKUPS)?.parse().ok());
            ids.extend(parsed);
            after = page.objects.last().map(|object| object.key.clone());
            if !page.more || after.is_none() {
                return Ok(ids);
            }
        }
    }

    /// A backup's manifest.
    ///
    /// # Errors
    /// [`Error::UnknownBackup`], [`Error::Object`] and the store's.
    pub async fn backup(&self, id: &BackupId) -> Result<BackupManifest> {
        let key = keys::backup(id);
        let fetched = tried(|| self.repository().get(&key, None, Kind::Backup.object_len_max())).await;
        let object = match fetched {
            Ok(fetched) => fetched.bytes,
            Err(Error::Repository(error)) if error.is_not_found() => {
                let newest = self.backup_ids().await?.pop();
                return Err(Error::UnknownBackup {
                    repository: self.location().to_owned(),
                    id: id.to_string(),
                    newest,
                });
            }
            Err(error) => return Err(error),
        };
        let decoded = BackupManifest::decode(&object, self.cluster(), id);
        decoded.map_err(|damage| self.damaged(&key, damage))
    }

    /// All backups, oldest first; of one that cannot be read, why.
    pub async fn backups(&self) -> Result<Vec<(BackupId, Result<BackupManifest>)>> {
        let mut found = Vec::new();
        for id in self.backup_ids().await? {
            let manifest = self.backup(&id).await;
            found.push((id, manifest));
        }
        Ok(found)
    }
}

fn entry(table: &seawall_engine::StateFile) -> FileEntry {
    FileEntry { hash: blake3::Hash::from_bytes(*table.hash.as_bytes()), size: table.size }
}

fn describe(
    node: NodeId,
    started: Timestamp,
    checkpoint: &PinnedCheckpoint,
    options: &BackupOptions,
    digest: Option<String>,
) -> Result<BackupManifest> {
    let tables: Vec<FileEntry> = checkpoint.files().iter().map(entry).collect();
    if tables.len() > FILES_MAX {
        return Err(Error::TooManyFiles { files: tables.len(), files_max: FILES_MAX });
    }
    let bytes = checkpoint.manifest_bytes();
    Ok(BackupManifest {
        id: BackupId::new(started),
        node,
        label: options.label.clone(),
        started,
        finished: started,
        history: checkpoint.history().clone(),
        redo: checkpoint.redo(),
        redo_time: checkpoint.redo_time(),
        log_start: checkpoint.log_start(),
        stop: checkpoint.redo().lsn,
        manifest: FileEntry { hash: blake3::hash(bytes), size: bytes.len() as u64 },
        tables,
        digest,
    })
}

/// The digest of the state at the checkpoint's redo position.
async fn digest_at(db: &Db, checkpoint: &Arc<PinnedCheckpoint>) -> Result<String> {
    let (db, lsn) = (db.clone(), checkpoint.redo().lsn);
    blocking(move || Ok(hex(&db.snapshot_at(lsn)?.digest()?.root))).await
}

/// A digest as text.
pub(crate) fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}
