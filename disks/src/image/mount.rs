//! A file system that is mounted, and the call that cuts its power.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, opcode};
use rustix::mount::{MountFlags, UnmountFlags};

use super::{FileSystem, Result, at};

/// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN` are the same call.
const SHUT_DOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// Of its three ways the one that writes nothing any more, not even the journal.
const WITHOUT_LOG_FLUSH: u32 = 2;

/// How long somebody may take to let go: the kernel itself does, for a moment, of a process that was killed.
const BUSY_FOR: Duration = Duration::from_secs(30);

/// Unmounted when it is dropped.
#[derive(Debug)]
pub(super) struct Mount {
    place: Option<PathBuf>,
}

impl Mount {
    pub(super) fn new(file_system: FileSystem, device: &Path, place: &Path) -> Result<Self> {
        Self::with(file_system, device, place, MountFlags::empty())
    }

    pub(super) fn read_only(file_system: FileSystem, device: &Path, place: &Path) -> Result<Self> {
        Self::with(file_system, device, place, MountFlags::RDONLY)
    }

    fn with(file_system: FileSystem, device: &Path, place: &Path, flags: MountFlags) -> Result<Self> {
        let mounted = rustix::mount::mount(device, place, file_system.name(), flags, None).map_err(io::Error::from);
        mounted.map_err(at("mount", device))?;
        Ok(Self { place: Some(place.to_owned()) })
    }

    pub(super) fn unmount(mut self) -> Result<()> {
        let place = self.place.take().expect("it is taken once");
        unmount(&place).map_err(at("unmount", &place))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        if let Err(error) = unmount(&place) {
            eprintln!("cannot unmount {}: {error}; it goes once nobody uses it", place.display());
            let _ = rustix::mount::unmount(&place, UnmountFlags::DETACH);
        }
    }
}

fn unmount(place: &Path) -> io::Result<()> {
    let until = Instant::now() + BUSY_FOR;
    loop {
        match rustix::mount::unmount(place, UnmountFlags::empty()) {
            Err(Errno::BUSY) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            answer => return Ok(answer?),
        }
    }
}

/// Nothing is written to its device any more.
#[allow(unsafe_code)]
pub(super) fn shut_down(place: &Path) -> io::Result<()> {
    let folder = File::open(place)?;
    // SAFETY: the call reads one u32 and keeps nothing; a file system that does not know it refuses it.
    Ok(unsafe { rustix::ioctl::ioctl(&folder, Setter::<SHUT_DOWN, u32>::new(WITHOUT_LOG_FLUSH)) }?)
}
