#![doc = include_str!("fuse/README.md")]

mod content;
mod directory;
mod fault;
mod loss;
mod server;
mod shared;
mod tree;

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

pub use content::{Cached, SECTOR_LEN};
pub use fault::{Effect, Fault, Hit, Operation};
pub use loss::PowerLoss;

use server::Server;
use shared::Shared;
use tree::Tree;

/// What a disk had, synced and not, at one moment.
#[derive(Clone, Debug)]
pub struct Remembered(Tree);

impl Remembered {
    /// Of how many things - sectors, lengths, changes of folders - a power loss decides whether they survive.
    pub fn unsynced(&self) -> usize {
        self.0.unsynced()
    }
}

/// A disk in memory, mounted as a file system until it is dropped.
pub struct FuseDisk {
    shared: Arc<Shared>,
    /// Both are there until it is dropped.
    session: Option<BackgroundSession>,
    folder: TempDir,
}

impl std::fmt::Debug for FuseDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FuseDisk").field(&self.folder.path()).finish()
    }
}

impl FuseDisk {
    /// What this machine lacks for such a disk, in words for who reads why a test was skipped; `None` if nothing.
    pub fn missing() -> Option<&'static str> {
        if !rustix::process::geteuid().is_root() {
            return Some("mounting a FUSE disk needs root");
        }
        match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            Ok(_) => None,
            Err(_) => Some("a FUSE disk needs /dev/fuse, which cannot be opened here"),
        }
    }

    /// An empty disk of 1 GiB, on a folder of its own.
    ///
    /// # Errors
    /// What the kernel says when it is mounted; see [`missing`](Self::missing).
    pub fn mount() -> io::Result<Self> {
        let (folder, shared) = (tempfile::tempdir()?, Arc::new(Shared::new()));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("seawall-disk".into())];
        let session = fuser::spawn_mount(Server(Arc::clone(&shared)), folder.path(), &config)?;
        Ok(Self { shared, session: Some(session), folder })
    }

    /// As [`mount`](Self::mount), for tests: none, and a line that says what is [missing](Self::missing), where there
    /// cannot be one.
    ///
    /// # Panics
    /// If there could be one and it cannot be mounted.
    pub fn or_skip() -> Option<Self> {
        if let Some(missing) = Self::missing() {
            // Past the harness, which keeps to itself what is printed by tests that pass.
            let _ = io::stderr().write_all(format!("skipped: {missing}\n").as_bytes());
            return None;
        }
        Some(Self::mount().expect("a FUSE disk is mounted"))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// From now on this goes wrong, too.
    pub fn inject(&self, fault: Fault) {
        self.shared.with(|state| state.faults.arm(fault));
    }

    /// Nothing goes wrong any more, and operations are counted from 0 again.
    pub fn heal(&self) {
        self.shared.with(|state| state.faults.clear());
    }

    /// How many operations of these kinds there were since it was mounted or [healed](Self::heal).
    pub fn count(&self, operations: &[Operation]) -> u64 {
        self.shared.with(|state| operations.iter().map(|operation| state.faults.count(*operation)).sum())
    }

    /// What went wrong since it was mounted or [healed](Self::heal): the first thousand.
    pub fn hits(&self) -> Vec<Hit> {
        self.shared.with(|state| state.faults.hits().to_vec())
    }

    /// Waits until the disk answers nothing any more, as [`Effect::Stop`] makes it. `false` if `is_expected`, which is
    /// asked now and then, says that this will not happen.
    pub fn wait_until_stopped(&self, is_expected: impl FnMut() -> bool) -> bool {
        self.shared.wait_until_stopped(is_expected)
    }

    /// A disk that has stopped does what it was asked, and answers.
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// Everything it is asked fails with `EIO` and does nothing, also what it has not answered yet.
    pub fn cut_power(&self) {
        self.shared.cut_power();
    }

    /// Decides what survived the [cut](Self::cut_power), and answers again, without faults. Nobody may have a file open: what
    /// was opened before is gone for good.
    pub fn restore_power(&self, loss: PowerLoss) {
        self.shared.with(|state| {
            state.tree.lose_power(loss);
            state.faults.clear();
        });
        self.shared.restore_power();
    }

    /// Both, for a disk that nobody uses just now.
    pub fn lose_power(&self, loss: PowerLoss) {
        self.cut_power();
        self.restore_power(loss);
    }

    /// All that is there now and may be lost or not, so that one [cut](Self::cut_power) can end in several ways.
    pub fn remember(&self) -> Remembered {
        self.shared.with(|state| Remembered(state.tree.clone()))
    }

    /// As [`restore_power`](Self::restore_power), of the disk as it was when this was remembered.
    pub fn restore_power_as_of(&self, then: &Remembered, loss: PowerLoss) {
        self.shared.with(|state| state.tree.become_again(&then.0));
        self.restore_power(loss);
    }

    /// An empty disk without faults.
    pub fn erase(&self) {
        self.shared.with(|state| {
            state.tree.erase();
            state.faults.clear();
        });
    }

    /// How many bytes all its files may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.with(|state| state.tree.set_capacity(bytes));
    }

    /// So many sectors, from a multiple of that on, survive a power loss together or not at all, as on a device whose physical
    /// sectors are so much larger.
    pub fn write_at_once(&self, sectors: usize) {
        self.shared.with(|state| state.tree.set_sectors_at_once(sectors));
    }

    /// Turns over a bit, counted from the lowest of the byte, of the file at a path below the disk's.
    ///
    /// # Errors
    /// If there is no such file or byte.
    pub fn flip(&self, path: &str, byte: usize, bit: u32) -> io::Result<()> {
        self.shared.with(|state| state.tree.flip(path, byte, bit)).map_err(io::Error::from_raw_os_error)
    }
}

impl Drop for FuseDisk {
    fn drop(&mut self) {
        // Whoever still waits for an answer gets one, or neither it nor the mount would ever go away.
        self.shared.cut_power();
        // Detached, it goes away also if somebody still uses it; if that fails, ending the session tries once more.
        let _ = rustix::mount::unmount(self.folder.path(), UnmountFlags::DETACH);
        drop(self.session.take());
    }
}

#[cfg(test)]
mod tests;
