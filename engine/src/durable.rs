//! The owner of what is written down beside the log: the current manifest and the control file that points at it. Every
//! change of the set of tables goes through `install`, one at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::Storage;
use seawall_wal::sync::Mutex;
use seawall_wal::{Lsn, Position};

use crate::control::ControlFile;
use crate::error::Result;
use crate::file::{FileHash, FileKind};
use crate::manifest::{Manifest, manifest_path};
use crate::mutant::{Mutant, planted};
use crate::state::State;
use crate::version::{TableSet, View};

/// Manifest and control file.
#[derive(Debug)]
pub(crate) struct Durable {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    pub(crate) control: ControlFile,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    manifest: Manifest,
    bytes: Arc<[u8]>,
    /// Given to the next attempt, so that no file a control slot may name is ever written over.
    next_number: u64,
    /// Manifests that the control file does not name once the next one is installed.
    stale: Vec<u64>,
}

impl Durable {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        folder: &Path,
        control: ControlFile,
        manifest: Manifest,
        bytes: Vec<u8>,
    ) -> Self {
        let next_number = manifest.number + 1;
        let stale = vec![manifest.number];
        let current = Current { manifest, bytes: bytes.into(), next_number, stale };
        Self { storage, folder: folder.to_owned(), control, current: Mutex::new(current) }
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub(crate) fn redo(&self) -> Position {
        self.current.lock().manifest.redo
    }

    pub(crate) fn log_start(&self) -> Position {
        self.current.lock().manifest.log_start
    }

    /// The current manifest, as it is stored too, together with exactly its tables.
    pub(crate) fn current(&self, state: &State) -> (Manifest, Arc<[u8]>, Arc<TableSet>) {
        let current = self.current.lock();
        (current.manifest.clone(), Arc::clone(&current.bytes), Arc::clone(&state.view().tables))
    }

    /// Readers from now on see a file that was written again.
    pub(crate) fn reopen(&self, state: &State, kind: FileKind, hash: &FileHash) -> Result<()> {
        // Nobody changes the set of tables meanwhile.
        let _current = self.current.lock();
        let tables = state.store.reopen(kind, hash)?;
        state.change_view(|view| Arc::make_mut(&mut view.tables).exchange(&tables));
        Ok(())
    }

    /// Changes the set of tables: `edit` changes the manifest's fields and the tables, then all is made durable, then
    /// readers see it, then what it replaced is let go. `flushed` raises the watermark by the way.
    ///
    /// If it fails nothing has changed for readers, and the old files are still there; the new ones too if the control file
    /// may name them.
    pub(crate) fn install(
        &self,
        state: &State,
        flushed: Lsn,
        edit: impl FnOnce(&mut Manifest, &mut TableSet),
        publish: impl FnOnce(&mut View),
    ) -> Result<()> {
        let mut current = self.current.lock();
        let old = Arc::clone(&state.view().tables);
        let mut tables = TableSet::clone(&old);
        let mut manifest = current.manifest.clone();
        edit(&mut manifest, &mut tables);
        manifest.marks = state.view().marks.up_to(manifest.redo.lsn);
        manifest.number = current.next_number;
        manifest.tables = tables.entries();
        manifest.blobs = tables.blob_entries();
        current.next_number += 1;
        current.stale.push(manifest.number);
        let (before, after) = (old.hashes(), tables.hashes());
        let added = || after.difference(&before).copied();
        let written = manifest.write(&*self.storage, &self.folder);
        let digest = written.inspect_err(|_| state.store.release(added()))?;
        if planted(Mutant::OldManifestRemovedFirst) {
            let _ = self.storage.remove(&manifest_path(&self.folder, current.manifest.number));
        }
        let updated = self.control.update(|control| {
            control.manifest_number = manifest.number;
            control.manifest_digest = digest;
            control.watermark = control.watermark.max(flushed);
        });
        updated.inspect_err(|_| {
            state.store.hold(added());
            state.store.release(added());
        })?;
        state.store.settle(&after);
        let gone: Vec<_> = before.difference(&after).copied().collect();
        state.change_view(|view| {
            view.tables = Arc::new(tables);
            view.floor = view.floor.max(manifest.floor);
            Arc::make_mut(&mut view.marks).forget_below(view.floor);
            publish(view);
        });
        drop(old);
        state.store.release(gone);
        current.stale.retain(|number| {
            let path = manifest_path(&self.folder, *number);
            *number == manifest.number
                || self.storage.remove(&path).is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound)
        });
        current.bytes = manifest.encode().into();
        current.manifest = manifest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use seawall_wal::SegmentSize;
    use seawall_wal::storage::MemoryDisk;

    use crate::{Background, Db};

    /// A reader takes its LSN first and its view second. What tells it that a merge came between them is the view's floor.
    #[test]
    fn a_view_says_below_which_lsn_it_is_incomplete() {
        let disk = std::sync::Arc::new(MemoryDisk::new());
        let build = || Db::builder("/d").storage(disk.clone()).segment_size(SegmentSize::MIN);
        let db = build().background(Background::Inline).open().unwrap();
        let keys = db.keyspace("k").unwrap();
        keys.insert("a", "1").unwrap();
        let merged = keys.insert("a", "2").unwrap().lsn;
        let early = db.core().state.view();
        assert_eq!(early.floor, seawall_wal::Lsn::ZERO);
        db.compact().unwrap();
        assert_eq!(db.core().state.view().floor, merged);
        assert_eq!(db.core().read_now().unwrap().0.lsn, merged);
        drop((keys, early, db));
        assert_eq!(build().open().unwrap().core().state.view().floor, merged, "also after reopening");
    }
}
