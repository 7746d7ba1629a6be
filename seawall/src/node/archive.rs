//! The archive as the node uses it: opened once it is needed, by a primary that writes to it and by others that read.

use std::sync::Arc;
use std::time::Duration;

use seawall_backup::repository::Repository;
use seawall_backup::{Archive, Archiver};
use seawall_engine::Db;
use seawall_wal::{Clock as _, ClusterId, Lsn, SystemClock};

use super::error::{Error, Result};
use super::{Inner, Node};

/// A command that needs the archive waits so long for it to answer.
pub(super) const ARCHIVE_PATIENCE: Duration = Duration::from_secs(20);

impl Node {
    /// Its archive, open.
    pub fn archive(&self, operation: &'static str) -> Result<Archive> {
        if self.inner.options.archive.is_none() {
            return Err(Error::NoArchive { operation });
        }
        let known = self.inner.archive.lock().clone();
        match known {
            Some(archive) => Ok(archive),
            None => self.inner.runtime.block_on(async {
                let cluster = self.inner.db()?.cluster();
                let opening = self.inner.open_archive_to_read(cluster);
                match tokio::time::timeout(ARCHIVE_PATIENCE, opening).await {
                    Ok(opened) => opened,
                    Err(_) => Err(Error::ArchiveSilent { operation }),
                }
            }),
        }
    }
}

impl Inner {
    /// How far the archive is, for retention: nothing yet while it is not open.
    pub(super) fn archived(&self) -> Option<Lsn> {
        self.options.archive.as_ref()?;
        let progress = self.seen.lock().archiver.clone();
        Some(progress.map_or(Lsn::ZERO, |progress| progress.watch().value()))
    }

    pub(super) fn adopt_archiver(&self, archiver: Archiver) {
        self.seen.lock().archiver = Some(archiver.progress().clone());
        *self.archiver.lock() = Some(archiver);
    }

    /// The repository the options name.
    pub(super) async fn repository(&self) -> Result<Arc<dyn Repository>> {
        let archive = self.options.archive.as_ref().ok_or(Error::NoArchive { operation: "use it" })?;
        Ok(archive.repository.open().await?)
    }

    /// For a primary: makes it if the repository is empty.
    pub(super) async fn open_archive(&self, db: &Db) -> Result<Archive> {
        let size = db.log().options().segment_size;
        let archive = Archive::create_or_open(self.repository().await?, db.cluster(), size, SystemClock.now()).await?;
        *self.can_fence.lock() = Some(archive.conditions().await?.can_fence());
        *self.archive.lock() = Some(archive.clone());
        Ok(archive)
    }

    /// Finds the newest base backup, for status; a failure only leaves it unknown.
    pub(super) async fn look_for_backups(&self, archive: &Archive) {
        match archive.backups().await {
            Ok(backups) => *self.last_backup.lock() = backups.into_iter().rev().find_map(|(_, manifest)| manifest.ok()),
            Err(error) => tracing::warn!(%error, "the base backups in the archive could not be listed"),
        }
    }

    pub(super) async fn open_archive_of_any_cluster(&self) -> Result<Archive> {
        let archive = Archive::open(self.repository().await?).await?;
        if let Some(expected) = self.options.cluster
            && archive.cluster().cluster != expected
        {
            let (repository, found) = (archive.location().to_owned(), archive.cluster().cluster);
            return Err(seawall_backup::Error::ForeignRepository { repository, found, expected }.into());
        }
        Ok(archive)
    }

    pub(super) async fn open_archive_to_read(&self, expected: ClusterId) -> Result<Archive> {
        let archive = Archive::open(self.repository().await?).await?;
        let found = archive.cluster().cluster;
        if found != expected {
            let repository = archive.location().to_owned();
            return Err(seawall_backup::Error::ForeignRepository { repository, found, expected }.into());
        }
        *self.archive.lock() = Some(archive.clone());
        Ok(archive)
    }
}
