//! Where measuring writes: a folder on the disk that is measured, which goes away again.

use std::io;
use std::path::{Path, PathBuf};

use seawall_wal::storage::{Disk, Storage};

use crate::failure::{Failure, Kind};
use crate::output::human_bytes;

/// Free bytes that must be left beside what is written for measuring.
const ROOM_BYTES: u64 = 512 << 20;

/// A folder that goes away again.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
}

impl Scratch {
    /// In `dir`, if there is room.
    pub(super) fn new(dir: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::new(Kind::Failed, format!("cannot use {}: {error}", dir.display()));
        let free = Disk::new().free_bytes(dir).map_err(failed)?;
        if free < ROOM_BYTES {
            let message =
                format!("{} has {} free, {} are needed", dir.display(), human_bytes(free), human_bytes(ROOM_BYTES));
            return Err(Failure::new(Kind::DiskFull, message));
        }
        let path = dir.join(format!("seawall-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(failed)?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
