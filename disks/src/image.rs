//! A real ext4 or XFS in a file: a loop device, its file system, and where it is mounted. It can lose power under the
//! programs that use it, have as few bytes free as wanted, and become read-only. It needs root and loop devices, and leaves
//! nothing behind when it is dropped, also by a test that fails.

mod forgetful;
mod loop_device;
mod mount;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

pub use forgetful::ForgetfulImage;
use loop_device::LoopDevice;
use mount::Mount;

/// A folder whose files are in memory.
const MEMORY: &str = "/dev/shm";
/// The file that takes up room.
const FILLER: &str = "filler";
/// What the file itself needs to be described changes with its size, so that it is made to fit a few times.
const FILL_TRIES: usize = 10;

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 as `mkfs.ext4` makes it, but without blocks reserved for root, and read-only once it finds itself damaged, as
    /// installers set it up.
    Ext4,
    /// XFS as `mkfs.xfs` makes it.
    Xfs,
}

/// A file system in a file.
#[derive(Debug)]
pub struct Image {
    // Dropped in this order: what is mounted, the device under it, the files.
    mount: Option<Mount>,
    device: Option<LoopDevice>,
    file: PathBuf,
    folder: tempfile::TempDir,
    file_system: FileSystem,
}

/// Why there is no image, or why something could not be done to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine, or this user, has not what it needs.
    #[error("{file_system} in an image needs {what}")]
    Missing {
        /// Which was wanted.
        file_system: FileSystem,
        /// What it needs.
        what: String,
    },
    /// A command failed.
    #[error("`{command}` failed: {words}")]
    Command {
        /// The command with its arguments.
        command: String,
        /// What it said.
        words: String,
    },
    /// A call failed.
    #[error("cannot {operation} {}: {error}", .path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        error: io::Error,
    },
}

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Image {
    /// An empty file system of so many bytes, mounted. Its file is in memory if there is room: what fails is the file system,
    /// and a power cut that waits for no disk can be tried the more often.
    ///
    /// # Errors
    /// [`Error::Missing`] without root, `losetup`, `mkfs.ext4` or `mkfs.xfs`, loop devices, or the kernel's part.
    pub fn new(file_system: FileSystem, bytes: u64) -> Result<Self> {
        let memory = Path::new(MEMORY);
        let parent = match free_bytes(memory) {
            Ok(free) if free >= 2 * bytes => memory.to_owned(),
            _ => std::env::temp_dir(),
        };
        let folder = tempfile::tempdir_in(&parent).map_err(at("make a folder in", &parent))?;
        let file = folder.path().join("image");
        Self::in_file(file_system, bytes, &file, folder)
    }

    /// As [`new`](Self::new), in a file that is made at `file`: on another disk that fails, say.
    ///
    /// # Errors
    /// As there.
    pub fn at(file_system: FileSystem, bytes: u64, file: &Path) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(at("make a folder in", &std::env::temp_dir()))?;
        Self::in_file(file_system, bytes, file, folder)
    }

    /// As [`new`](Self::new), for tests: none, and a line that says what is missing, where there cannot be one.
    ///
    /// # Panics
    /// If there could be one and it cannot be made.
    pub fn or_skip(file_system: FileSystem, bytes: u64) -> Option<Self> {
        made(Self::new(file_system, bytes))
    }

    /// As [`or_skip`](Self::or_skip), in a file that is made [`at`](Self::at) `file`.
    ///
    /// # Panics
    /// As there.
    pub fn at_or_skip(file_system: FileSystem, bytes: u64, file: &Path) -> Option<Self> {
        made(Self::at(file_system, bytes, file))
    }

    fn in_file(file_system: FileSystem, bytes: u64, file: &Path, folder: tempfile::TempDir) -> Result<Self> {
        let missing = |what: &str| Error::Missing { file_system, what: what.to_owned() };
        if !rustix::process::geteuid().is_root() {
            return Err(missing("root"));
        }
        File::create(file).and_then(|image| image.set_len(bytes)).map_err(at("make", file))?;
        let device = LoopDevice::attach(file).map_err(|why| missing(&format!("a loop device ({why})")))?;
        file_system.make_on(device.path())?;
        let place = folder.path().join("mounted");
        fs::create_dir(&place).map_err(at("make", &place))?;
        let mount = Mount::new(file_system, device.path(), &place).map_err(|error| match &error {
            // What a container answers, and a kernel without the file system.
            Error::Io { error: why, .. }
                if [Errno::PERM, Errno::ACCESS, Errno::NODEV]
                    .iter()
                    .any(|no| Some(no.raw_os_error()) == why.raw_os_error()) =>
            {
                missing(&format!("a kernel that mounts it ({why})"))
            }
            _ => error,
        })?;
        Ok(Self { mount: Some(mount), device: Some(device), file: file.to_owned(), folder, file_system })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// From here on nothing reaches the device, as when its power is cut: what was not synced is lost, the journal's last
    /// part too, and every call on the file system fails. [`restart`](Self::restart) brings the power back.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn cut_power(&self) -> Result<()> {
        mount::shut_down(&self.path()).map_err(at("shut down", &self.path()))
    }

    /// Unmounts, and mounts again, which replays the journal. Nobody may have a file open there any more.
    ///
    /// # Errors
    /// If somebody has, or the file system cannot be mounted.
    pub fn restart(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount = Some(Mount::new(self.file_system, self.device(), &self.path())?);
        Ok(())
    }

    /// As [`restart`](Self::restart), but read-only.
    ///
    /// # Errors
    /// As there.
    pub fn restart_read_only(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount = Some(Mount::read_only(self.file_system, self.device(), &self.path())?);
        Ok(())
    }

    /// The file system finds itself damaged, and is read-only from here on, under whoever is writing: what ext4 does by
    /// itself when a block of its own makes no sense. [`restart`](Self::restart) makes it writable again.
    ///
    /// # Errors
    /// On XFS, which has no such state, and if ext4 refuses.
    pub fn find_damage(&self) -> Result<()> {
        let name = self.device().file_name().expect("a device has a name");
        let trigger = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
        fs::write(&trigger, "a test wants it read-only").map_err(at("write to", &trigger))
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// If the file system does not say.
    pub fn free_bytes(&self) -> Result<u64> {
        free_bytes(&self.path()).map_err(at("ask for the room on", &self.path()))
    }

    /// Leaves so many bytes free, rounded to whole blocks as the file system allows; how many it really left.
    ///
    /// # Errors
    /// If there are fewer bytes without the file that takes up room.
    pub fn fill(&self, free: u64) -> Result<u64> {
        let path = self.path().join(FILLER);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let filler = opened.map_err(at("open", &path))?;
        let mut len = filler.metadata().map_err(at("ask", &path))?.len();
        let mut left = self.free_bytes()?;
        for _ in 0..FILL_TRIES {
            if left == free {
                break;
            }
            let wanted = (len + left).saturating_sub(free);
            if wanted < len {
                filler.set_len(wanted).map_err(at("shorten", &path))?;
            } else {
                match rustix::fs::fallocate(&filler, FallocateFlags::empty(), 0, wanted) {
                    // It has taken what there was.
                    Ok(()) | Err(Errno::NOSPC) => {}
                    Err(error) => return Err(at("fill", &path)(error.into())),
                }
            }
            // Freed blocks are free once the journal says so.
            filler.sync_all().map_err(at("sync", &path))?;
            (len, left) = (wanted, self.free_bytes()?);
        }
        Ok(left)
    }

    /// Gives back what [`fill`](Self::fill) took.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn make_room(&self) -> Result<()> {
        let path = self.path().join(FILLER);
        fs::remove_file(&path).map_err(at("remove", &path))
    }

    /// Nobody has the file open any more, so that it can become another one.
    fn switch_off(&mut self) -> Result<()> {
        self.unmount()?;
        self.device = None;
        Ok(())
    }

    /// Mounts the file as it is now.
    fn switch_on(&mut self) -> Result<()> {
        self.device = Some(LoopDevice::attach(&self.file)?);
        self.restart()
    }

    fn unmount(&mut self) -> Result<()> {
        self.mount.take().map_or(Ok(()), Mount::unmount)
    }

    fn device(&self) -> &Path {
        self.device.as_ref().expect("it is switched on").path()
    }
}

impl FileSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn make_on(self, device: &Path) -> Result<()> {
        let mut command = match self {
            Self::Ext4 => Command::new("mkfs.ext4"),
            Self::Xfs => Command::new("mkfs.xfs"),
        };
        match self {
            Self::Ext4 => command.args(["-q", "-F", "-m", "0", "-e", "remount-ro"]),
            Self::Xfs => command.args(["-q", "-f"]),
        };
        run(command.arg(device)).map(drop).map_err(|error| match error {
            Error::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => Error::Missing {
                file_system: self,
                what: format!("mkfs.{self}, from {}", if self == Self::Ext4 { "e2fsprogs" } else { "xfsprogs" }),
            },
            error => error,
        })
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An image, or a line that says why there is none.
fn made(image: Result<Image>) -> Option<Image> {
    match image {
        Ok(image) => Some(image),
        Err(missing @ Error::Missing { .. }) => {
            // Past the harness, which keeps to itself what is printed by tests that pass.
            let _ = io::stderr().write_all(format!("skipped: {missing}\n").as_bytes());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What a command printed, if it succeeded.
fn run(command: &mut Command) -> Result<String> {
    // Where these commands are is not where every user looks for commands.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.env("PATH", path).output().map_err(at("start", Path::new(command.get_program())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let words = format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Err(Error::Command { command: format!("{command:?}"), words })
}

fn free_bytes(place: &Path) -> io::Result<u64> {
    let answer = rustix::fs::statvfs(place)?;
    Ok(answer.f_bavail * answer.f_frsize)
}

fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| Error::Io { operation, path: path.to_owned(), error }
}
