//! Making a restored copy a cluster of its own: a new cluster id and a new timeline, so that it can live beside the one it
//! was restored from, with its own archive.

use std::sync::Arc;

use seawall_wal::{ClusterId, NodeId, TimelineNonce};

use crate::control::{ControlFile, Role};
use crate::db::Db;
use crate::error::{Error, Result, at};
use crate::open::{LOG_FOLDER, lock};
use crate::options::{Builder, Create};

impl Builder {
    /// Gives the restored copy in this directory the new identity `cluster`, and opens it for writing. Its state is the
    /// same, at the same LSN; its log begins anew there, on a timeline of its own, so it needs a base backup before it can
    /// be restored or followed from an archive.
    ///
    /// If this is interrupted the copy may be unusable; restore it again.
    ///
    /// # Errors
    /// [`Error::WrongState`] if the directory is not a restored copy that was not promoted.
    pub fn open_detached(mut self, cluster: ClusterId) -> Result<Db> {
        self.cluster = None;
        let db = self.clone().create(Create::Never).open()?;
        if !matches!(db.role(), Role::ReadOnlyRestored { .. }) {
            let actual = String::from("only a restored copy that was not promoted can get a new identity");
            return Err(Error::WrongState { operation: "give a new identity", actual });
        }
        // Everything is in tables then, and the old log, which carries the old identity, is not needed.
        db.flush()?;
        let checkpoint = db.pin_checkpoint(false)?;
        let mut manifest = checkpoint.manifest().clone();
        let size = db.log().options().segment_size;
        let next = db.history().current().id.next();
        let forked = db.history().forked(next, TimelineNonce::random(), manifest.redo, size);
        let history = forked
            .map_err(|error| Error::WrongState { operation: "give a new identity", actual: error.to_string() })?;
        if db.log().end() != manifest.redo {
            let actual = format!("the log ends at {}, the tables at {}", db.log().end(), manifest.redo);
            return Err(Error::WrongState { operation: "give a new identity", actual });
        }
        let (storage, path) = (self.storage_or_disk(), self.path.clone());
        drop(checkpoint);
        db.close()?;
        let guard = lock(&*storage, &path)?;
        let log = path.join(LOG_FOLDER);
        for name in storage.list(&log).map_err(at("list", &log))? {
            let file = log.join(name);
            storage.remove(&file).map_err(at("remove", &file))?;
        }
        storage.sync_dir(&log).map_err(at("sync", &log))?;
        manifest.number += 1;
        manifest.cluster = cluster;
        manifest.log_start = manifest.redo;
        let digest = manifest.write(&*storage, &path)?;
        let Some((control, _)) = ControlFile::open(&*storage, &path)? else {
            return Err(Error::NotFound { path });
        };
        control.update(|control| {
            control.cluster = cluster;
            control.node = NodeId::random();
            control.history = history;
            control.watermark = manifest.redo.lsn;
            control.manifest_number = manifest.number;
            control.manifest_digest = digest;
            control.role = Role::Normal;
        })?;
        drop((control, guard));
        self.storage(Arc::clone(&storage)).cluster(cluster).open()
    }
}
