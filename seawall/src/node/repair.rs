//! A node repairs what it finds damaged from its archive: when its database is opened, and while it runs. What no copy helps
//! with stops its writes.

use std::sync::Arc;
use std::time::Duration;

use seawall_backup::{Archive, ArchiveSource, ArchiveTables};
use seawall_engine::{Builder, Copies, Damage, Db};

use super::error::{Error, Result};
use super::{ARCHIVE_PATIENCE, Inner, State};

/// How often a running node asks whether readers met damage.
const LOOK: Duration = Duration::from_millis(500);
/// Between attempts while the archive does not answer.
const RETRY: Duration = Duration::from_secs(5);

/// Opens a database; with an archive, what is damaged is repaired from it.
pub(super) async fn open(inner: &Arc<Inner>, builder: Builder) -> Result<Db> {
    let inner = inner.clone();
    let opened = tokio::task::spawn_blocking(move || match inner.options.archive {
        None => builder.open(),
        Some(_) => builder.open_repairing(|| inner.copies()).map(|(db, _)| db),
    });
    let stopping = |_| Error::WrongState { operation: "start", actual: String::from("stopping") };
    opened.await.map_err(stopping)?.map_err(Error::from)
}

impl Inner {
    /// The archive as another copy of everything. Blocks.
    fn copies(self: &Arc<Self>) -> seawall_engine::Result<Copies> {
        let opening = tokio::time::timeout(ARCHIVE_PATIENCE, self.open_archive_of_any_cluster());
        let opened = self.runtime.block_on(opening);
        let opened = opened.unwrap_or(Err(Error::ArchiveSilent { operation: "repair what is damaged" }));
        let refused = |error: Error| seawall_engine::Error::WrongState {
            operation: "use the archive for the repair",
            actual: error.to_string(),
        };
        opened.map(|archive| self.copies_in(archive)).map_err(refused)
    }

    fn copies_in(&self, archive: Archive) -> Copies {
        let log = Arc::new(ArchiveSource::new(archive.clone(), self.runtime.clone()));
        Copies { log, tables: Arc::new(ArchiveTables::new(archive, self.runtime.clone())) }
    }
}

/// Looks for damage as long as the node runs.
pub(super) async fn watch(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(db) = inner.db.read().clone() else { return };
        for damage in db.damages() {
            match repair(&inner, &db, &damage).await {
                Attempt::Repaired => {}
                Attempt::NotNow(why) => {
                    tracing::warn!(%damage, why, "damage is not repaired yet; it is not served, and tried again");
                    tokio::time::sleep(RETRY).await;
                }
                Attempt::NoCopy(why) => {
                    db.hold_writes(true);
                    let words = format!(
                        "{damage} is damaged in {}, and {why}; restore this node from a standby or the archive",
                        db.path().display()
                    );
                    tracing::error!(%damage, why, "damage cannot be repaired; this node takes no more writes");
                    inner.set_state(State::Failed, &words);
                    return;
                }
            }
        }
    }
}

/// How a repair went.
enum Attempt {
    Repaired,
    /// Whether there is a copy is not known.
    NotNow(String),
    NoCopy(String),
}

async fn repair(inner: &Arc<Inner>, db: &Db, damage: &Damage) -> Attempt {
    if inner.options.archive.is_none() {
        return Attempt::NoCopy(String::from("there is no archive to repair it from"));
    }
    let archive = match tokio::time::timeout(ARCHIVE_PATIENCE, inner.open_archive_to_read(db.cluster())).await {
        Ok(Ok(archive)) => archive,
        Ok(Err(error)) => return Attempt::NotNow(error.to_string()),
        Err(_) => return Attempt::NotNow(String::from("the archive does not answer")),
    };
    let (copies, work_db, work_damage) = (inner.copies_in(archive.clone()), db.clone(), damage.clone());
    let work = tokio::task::spawn_blocking(move || work_db.repair(&work_damage, &copies));
    match work.await {
        Ok(Ok(done)) => {
            tracing::warn!(%damage, path = %done.path.display(), kept = ?done.kept, "damage was repaired from the archive");
            Attempt::Repaired
        }
        // It was let go meanwhile.
        Ok(Err(_)) if !db.damages().contains(damage) => Attempt::Repaired,
        Ok(Err(error)) => match archive.newest_history().await {
            Ok(_) => Attempt::NoCopy(format!("the archive does not help: {error}")),
            Err(_) => Attempt::NotNow(error.to_string()),
        },
        Err(_) => Attempt::NotNow(String::from("this node is stopping")),
    }
}
