//! The folder of what was put aside instead of being destroyed: cut tails and damaged segments. It is bounded.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::storage::Storage;

/// That folder, in the log's.
const FOLDER: &str = "cut";
/// Of so many files in it those of the least positions are removed for another one.
const FILES_MAX: usize = 16;

/// A free name for what lay at a position, with room for it.
pub(crate) fn kept_path(storage: &dyn Storage, log: &Path, at: Lsn, ending: &str) -> Result<PathBuf> {
    let dir = log.join(FOLDER);
    let io = |operation, path: &Path, error| Error::io(operation, path, error);
    storage.create_dir_all(&dir).map_err(|error| io("create", &dir, error))?;
    let mut known = storage.list(&dir).map_err(|error| io("list", &dir, error))?;
    let names = (0_u32..).map(|number| format!("{:016x}-{number:04}.{ending}", at.offset()));
    let name = names.into_iter().find(|name| !known.contains(name)).expect("there are more names than files");
    while known.len() >= FILES_MAX {
        let oldest = dir.join(known.remove(0));
        storage.remove(&oldest).map_err(|error| io("remove", &oldest, error))?;
    }
    Ok(dir.join(name))
}

/// Makes the name survive power loss.
pub(crate) fn sync_kept(storage: &dyn Storage, path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    storage.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))
}
