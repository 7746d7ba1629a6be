//! A block device whose blocks lie in a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Result, run};

/// Detached when it is dropped.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// The first that is free.
    pub(super) fn attach(file: &Path) -> Result<Self> {
        let path = run(Command::new("losetup").args(["--find", "--show"]).arg(file))?;
        Ok(Self { path: PathBuf::from(path) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // While something is mounted on it, the kernel detaches it when that is gone.
        if let Err(error) = run(Command::new("losetup").arg("--detach").arg(&self.path)) {
            eprintln!("{error}");
        }
    }
}
