//! The one door to the disk. Everything in Seawall that touches a file does so through these two traits, so that the
//! same code runs on the real disk, on an in-memory disk that can lose power, and behind a wrapper that makes calls fail.

mod aligned;
mod disk;
#[cfg(any(test, feature = "simulated"))]
mod faulty;
mod lock;
#[cfg(any(test, feature = "simulated"))]
mod memory;
#[cfg(any(test, feature = "simulated"))]
mod power_loss;
#[cfg(target_os = "linux")]
mod uring;

use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use crate::mutant::{Mutant, planted};

pub use aligned::AlignedBuffer;
pub use disk::{Disk, IoPath};
#[cfg(any(test, feature = "simulated"))]
pub use faulty::{Fault, FaultyStorage, Operation as FaultyOperation};
pub use lock::FileLock;
#[cfg(any(test, feature = "simulated"))]
pub use memory::{CrashChoice, JournalEntry, MemoryDisk};
#[cfg(any(test, feature = "simulated"))]
pub use power_loss::PowerLoss;

/// The unit a disk writes or does not write, by the fault model of FORMAT.md.
pub const SECTOR_SIZE: usize = 512;
/// The unit in which the log is written: a page, and a multiple of every device's logical block.
pub const BLOCK_SIZE: usize = 4096;

const _: () = assert!(BLOCK_SIZE.is_multiple_of(SECTOR_SIZE));

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading past the page cache: what the device holds, not what the kernel remembers.
    /// Offsets, lengths and buffers must be multiples of [`BLOCK_SIZE`].
    ReadDirect,
    /// An existing file, for reading and writing.
    Write,
    /// An existing file, for writing past the page cache, with the rule of alignment of `ReadDirect`.
    WriteDirect,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// Files and directories.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Opens or creates a file. A created file is durable only after `sync_data` on it and `sync_dir` on its folder.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>>;
    /// Makes a folder and its parents; not an error if it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Gives `from` the name `to`, replacing what `to` named. Both are in one folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives the file at `from` the second name `to`, which must be free.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals in a folder survive power loss.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Claims a folder for this process until the guard is dropped. `WouldBlock` if another has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Bytes an unprivileged process may still write to the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Which way bulk reads and writes go.
    fn io_path(&self) -> IoPath;
    /// Bits that no segment of a log here was given before: random, unless a simulated disk is to do the same again.
    fn salt(&self) -> u64 {
        rand::random()
    }
}

/// One open file.
///
/// A call that a signal interrupts goes on in one of two places. Reads and writes may answer `Interrupted`, as they may move
/// fewer bytes than asked for: [`read_exact_at`] and [`write_all_at`], through which all of them go, take both for what they
/// are. What else can be asked again without harm, such as opening and syncing, an implementation asks again itself. A call
/// that may have taken effect, such as a rename, is an error like any other.
pub trait File: Send + Sync {
    /// Reads at `offset` into `buffer`; fewer bytes than asked for is allowed, 0 is the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; fewer bytes than given is allowed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Returns after the file's bytes and length survive power loss. An error is final: the kernel may have dropped
    /// the bytes, so calling again proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// On a simulated disk: what a sync that fails does to what was not synced.
    #[cfg(any(test, feature = "simulated"))]
    fn fail_sync(&self) {}
    /// Writes `bytes` at `offset` and returns after they survive power loss. An error is as final as of `sync_data`.
    /// `Unsupported` if the storage does not know the way; then nothing was written.
    fn write_durable(&self, bytes: &[u8], offset: u64, way: DurableWrite) -> io::Result<()> {
        match way {
            DurableWrite::ThenSync => {
                write_all_at(self, bytes, offset)?;
                self.sync_data()
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
    /// Asks for bytes written to be given to the device now rather than all at the next sync, and waits for those given
    /// before. They survive nothing because of it: a hint, which may be ignored.
    fn hand_over(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// In bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
    /// Cuts or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The whole file as memory. The file must never change again.
    fn map(&self) -> io::Result<Mapping>;

    /// Several reads, all in flight at once where the storage can.
    /// Each buffer is filled to its end, or the error is `UnexpectedEof`.
    fn read_many(&self, reads: &mut [ReadRequest<'_>]) -> io::Result<()> {
        reads.iter_mut().try_for_each(|read| read_exact_at(self, read.buffer, read.offset))
    }

    /// Several writes, all in flight at once where the storage can, followed by a sync if asked for.
    fn write_many(&self, writes: &[WriteRequest<'_>], then: AfterWrite) -> io::Result<()> {
        writes.iter().try_for_each(|write| write_all_at(self, write.bytes, write.offset))?;
        match then {
            AfterWrite::Nothing => Ok(()),
            AfterWrite::SyncData => self.sync_data(),
        }
    }
}

/// One of several reads.
#[derive(Debug)]
pub struct ReadRequest<'a> {
    /// Where in the file.
    pub offset: u64,
    /// Filled to its end.
    pub buffer: &'a mut [u8],
}

/// One of several writes.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    /// Where in the file.
    pub offset: u64,
    /// Written to its end.
    pub bytes: &'a [u8],
}

/// What follows a group of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterWrite {
    /// Nothing: the bytes are with the operating system.
    Nothing,
    /// One `sync_data` after all of them are done.
    SyncData,
}

/// How one write is made durable. All of them promise the same; which is fastest depends on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DurableWrite {
    /// pwrite, then fdatasync. What every system can do.
    #[default]
    ThenSync,
    /// pwritev2 with RWF_DSYNC: durable when it returns.
    Dsync,
    /// The same through io_uring.
    UringDsync,
    /// Through io_uring, with a sync linked behind the write.
    UringThenSync,
}

impl DurableWrite {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::ThenSync, Self::Dsync, Self::UringDsync, Self::UringThenSync];

    /// Whether it goes through io_uring.
    pub const fn needs_ring(self) -> bool {
        matches!(self, Self::UringDsync | Self::UringThenSync)
    }

    /// As in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThenSync => "pwrite_fdatasync",
            Self::Dsync => "pwrite_dsync",
            Self::UringDsync => "uring_dsync",
            Self::UringThenSync => "uring_fdatasync",
        }
    }
}

impl fmt::Display for DurableWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A file's bytes as memory: a map of the real file, or a copy.
pub enum Mapping {
    /// Mapped by the kernel.
    #[cfg(unix)]
    Mapped(memmap2::Mmap),
    /// Held in memory.
    Owned(Vec<u8>),
}

impl Mapping {
    /// Says that these bytes are read soon, so that they are fetched meanwhile. Bytes outside are left out.
    pub fn will_need(&self, range: Range<usize>) {
        let range = range.start.min(self.len())..range.end.min(self.len());
        match self {
            // It is a hint: without it the bytes are read all the same.
            #[cfg(unix)]
            Self::Mapped(map) if !range.is_empty() => {
                let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
            }
            _ => {}
        }
    }

    /// Whether these bytes, all of the map, can be read without a disk. They may not be a moment later.
    pub fn is_resident(&self, range: Range<usize>) -> bool {
        let bytes = &self[range];
        match self {
            #[cfg(target_os = "linux")]
            Self::Mapped(_) => disk::is_resident(bytes),
            _ => !bytes.is_empty(),
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            #[cfg(unix)]
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.len())
    }
}

/// Reads until `buffer` is full; `UnexpectedEof` if the file ends first.
pub fn read_exact_at(file: &(impl File + ?Sized), mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if only_interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes until `bytes` is empty; `WriteZero` if the storage takes nothing more.
pub fn write_all_at(file: &(impl File + ?Sized), mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) if planted(Mutant::ShortWriteBelieved) => return Ok(()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(error) if only_interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether nothing has happened but a signal.
/// Whether the device did not read what was asked for, and not the system: a medium that is damaged there, a link that failed,
/// protection that does not check out. The kernel says which of them to who reads past the page cache, and EIO to who does not.
pub(crate) fn is_of_device(error: &io::Error) -> bool {
    [libc::EIO, libc::ENODATA, libc::EREMOTEIO, libc::EILSEQ, libc::ENOLINK]
        .iter()
        .any(|code| error.raw_os_error() == Some(*code))
}

fn only_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted && !planted(Mutant::InterruptedIsFailed)
}

/// Reads a whole file of at most `limit` bytes.
pub fn read_file(storage: &dyn Storage, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = storage.open(path, Access::Read)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{len} bytes where at most {limit} are expected"),
        ));
    }
    let mut bytes = vec![0; len as usize];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Makes `bytes` the content of `path`, wholly or not at all: a synced temporary file, renamed, folder synced. If it fails
/// the temporary file is removed again, which may fail as well.
pub fn replace_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    match storage.remove(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.open(temporary, Access::CreateNew)?;
    let sync = || if planted(Mutant::ReplacedByUnsynced) { Ok(()) } else { file.sync_data() };
    let written = write_all_at(&*file, bytes, 0).and_then(|()| sync());
    written.and_then(|()| storage.rename(temporary, path)).inspect_err(|_| drop(storage.remove(temporary)))?;
    if planted(Mutant::ReplacedNameNotSynced) { Ok(()) } else { storage.sync_dir(folder) }
}
