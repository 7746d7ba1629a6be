//! The slot file: read once, replaced as a whole when slots moved. A lost advance only keeps log longer, so it is not
//! written for every confirmation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::{Storage, read_file, replace_file};

use crate::error::{Error, Result};
use crate::slot::{SLOT_FILE_LEN_MAX, Slots};

/// Where slots are kept.
#[derive(Clone, Debug)]
pub struct SlotFile {
    storage: Arc<dyn Storage>,
    path: PathBuf,
}

impl SlotFile {
    /// The file `slots` in a node's data folder.
    pub fn in_folder(storage: Arc<dyn Storage>, folder: &Path) -> Self {
        Self { storage, path: folder.join("slots") }
    }

    /// What it holds; nothing if there is no file yet.
    ///
    /// # Errors
    /// [`Error::SlotFile`] if it is damaged: the operator decides, because log may have been kept for a slot in it.
    pub fn load(&self) -> Result<Slots> {
        match read_file(&*self.storage, &self.path, SLOT_FILE_LEN_MAX as u64) {
            Ok(bytes) => Slots::parse(&bytes).map_err(|why| Error::SlotFile { path: self.path.clone(), why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Slots::default()),
            Err(error) => Err(seawall_wal::Error::io("read", &self.path, error).into()),
        }
    }

    /// Makes `slots` durable.
    pub fn save(&self, slots: &Slots) -> Result<()> {
        let saved = replace_file(&*self.storage, &self.path, &slots.encode());
        Ok(saved.map_err(|error| seawall_wal::Error::io("write", &self.path, error))?)
    }
}
