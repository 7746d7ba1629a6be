//! A standby that no log reaches is rebuilt from a base backup: restored beside its data directory, then the two are exchanged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_backup::Archive;
use seawall_backup::restore::{RestoreOptions, RestoreTarget};
use seawall_engine::{Create, Db};
use seawall_replication::feed::BackupOffer;

use super::error::{Error, Result};
use super::primary::Feeding;
use super::{Inner, Part, builder};

/// Restores the backup beside the data directory, then exchanges the two. A crash before the exchange leaves the old data,
/// one after it the new.
pub(super) async fn rebuild(inner: &Arc<Inner>, archive: &Archive, offer: &BackupOffer) -> Result<Db> {
    let data = inner.options.data_dir.clone();
    let [fresh, old] = [sibling(&data, "rebuild"), sibling(&data, "replaced")];
    remove(&fresh)?;
    remove(&old)?;
    tracing::warn!(backup = offer.id, "this standby is rebuilt from a base backup");
    let target: RestoreTarget = RestoreTarget::Backup(offer.id.parse().map_err(|_| Error::WrongState {
        operation: "install a base backup",
        actual: format!("offered {}, which is no backup's id", offer.id),
    })?);
    let plan = archive.plan_restore(&target, None).await?;
    let node = inner.db().node();
    let options = RestoreOptions { check: false, node: Some(node), ..RestoreOptions::default() };
    archive.restore(&plan, &fresh, &options).await?;
    let exchange = {
        let inner = inner.clone();
        move || -> Result<Db> {
            inner.exchange_database(|| {
                let io = |error: std::io::Error| {
                    seawall_engine::Error::from(seawall_wal::Error::io("exchange", &data, error))
                };
                std::fs::rename(&data, &old).map_err(io)?;
                std::fs::rename(&fresh, &data).map_err(io)?;
                if let Some(parent) = data.parent() {
                    std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
                }
                Ok(())
            })?;
            remove(&old)?;
            Ok(inner.db())
        }
    };
    let exchanged = tokio::task::spawn_blocking(exchange).await;
    let db = exchanged
        .map_err(|_| Error::WrongState { operation: "install a base backup", actual: "stopping".to_owned() })??;
    inner.restart_feeding().await?;
    Ok(db)
}

/// After a crash in the middle of an exchange the old data may be under the other name.
pub(super) fn finish_exchange(data: &Path) -> Result<()> {
    let [fresh, old] = [sibling(data, "rebuild"), sibling(data, "replaced")];
    let io = |error: std::io::Error| seawall_wal::Error::io("finish the exchange of", data, error);
    if old.exists() && !data.exists() {
        std::fs::rename(&old, data).map_err(io)?;
    }
    remove(&fresh)?;
    remove(&old)
}

fn sibling(data: &Path, what: &str) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(what);
    data.with_file_name(name)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(seawall_wal::Error::io("remove", path, error).into())
        }
        _ => Ok(()),
    }
}

impl Inner {
    /// Closes the database, lets `exchange` put another one in its place, and opens that. Blocks.
    fn exchange_database(&self, exchange: impl FnOnce() -> Result<()>) -> Result<()> {
        self.seen.lock().registry = None;
        {
            let mut part = self.part.blocking_lock();
            if let Part::Standby { feeding, .. } = &mut *part {
                drop(feeding.take());
            }
        }
        let mut slot = self.db.write();
        if let Some(db) = slot.take() {
            db.close()?;
        }
        let exchanged = exchange();
        let opened = builder(&self.options).create(Create::Never).open_as(seawall_engine::OpenAs::Standby).open();
        *slot = Some(opened?);
        exchanged
    }

    /// After the database was exchanged: a new table and a new port over it.
    async fn restart_feeding(self: &Arc<Self>) -> Result<()> {
        let feeding = Feeding::start(self, &self.db(), false).await?;
        self.adopt_feeding(&feeding, false);
        if let Part::Standby { feeding: slot, .. } = &mut *self.part.lock().await {
            *slot = Some(feeding);
        }
        Ok(())
    }
}
