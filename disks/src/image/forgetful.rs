//! A real ext4 or XFS on a disk that forgets: what its file system wrote and did not flush is lost with the power, sector by
//! sector, whoever wrote it - the journal, or a program past the page cache. A loop device alone keeps all that it was given.

use std::fs::File;
use std::path::PathBuf;

use super::{FileSystem, Image, Result, made};
use crate::fuse::{FuseDisk, PowerLoss, Remembered};

/// The name of the image on the disk.
const NAME: &str = "image";

/// XFS does not mount again if a block of its directories is torn: its recovery goes by the block's first bytes, and takes one
/// whose first bytes are new for new. ext4 has whole blocks in its journal.
const XFS_SECTORS: usize = 8;

/// A file system on a disk that forgets.
#[derive(Debug)]
pub struct ForgetfulImage {
    // Before the disk that its file is on.
    image: Image,
    disk: FuseDisk,
}

impl ForgetfulImage {
    /// An empty file system of so many bytes, mounted, for tests: none, and a line that says what is missing, where there
    /// cannot be one.
    ///
    /// # Panics
    /// If there could be one and it cannot be made.
    pub fn or_skip(file_system: FileSystem, bytes: u64) -> Option<Self> {
        let disk = FuseDisk::or_skip()?;
        if file_system == FileSystem::Xfs {
            disk.write_at_once(XFS_SECTORS);
        }
        let file = disk.path().join(NAME);
        let image = made(Image::at(file_system, bytes, &file))?;
        // From here on the file itself survives, however little of what is in it.
        for path in [file.as_path(), disk.path()] {
            File::open(path).and_then(|file| file.sync_all()).expect("the disk has no faults yet");
        }
        Some(Self { image, disk })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.image.path()
    }

    /// The disk beneath the file system.
    pub fn disk(&self) -> &FuseDisk {
        &self.disk
    }

    /// From here on every call of the file system to its disk fails, and nothing of it is done.
    pub fn cut_power(&self) {
        self.disk.cut_power();
    }

    /// Decides what of the disk survived, and mounts that, which replays the journal. Nobody may have a file open there any
    /// more.
    ///
    /// # Errors
    /// If somebody has, or the file system cannot be mounted.
    pub fn restart(&mut self, loss: PowerLoss) -> Result<()> {
        self.image.switch_off()?;
        self.disk.restore_power(loss);
        self.image.switch_on()
    }

    /// As [`restart`](Self::restart), of the disk as it was when this was remembered.
    ///
    /// # Errors
    /// As there.
    pub fn restart_as_of(&mut self, then: &Remembered, loss: PowerLoss) -> Result<()> {
        self.image.switch_off()?;
        self.disk.restore_power_as_of(then, loss);
        self.image.switch_on()
    }
}
