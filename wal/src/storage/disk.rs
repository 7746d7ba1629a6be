//! The real disk: POSIX calls for single operations, io_uring for groups of them where the kernel allows it.
//! It decides nothing about durability; callers say when to sync.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::{Access, File, FileLock, Mapping, Storage};
#[cfg(target_os = "linux")]
use super::{
    AfterWrite, DurableWrite, ReadRequest, WriteRequest,
    uring::{Durable, Rings},
};

/// Which way bulk reads and writes go. Said in the log, in status and in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoPath {
    /// Linux io_uring.
    Uring,
    /// pread, pwrite and fdatasync.
    Posix,
    /// No device at all.
    Memory,
}

impl std::fmt::Display for IoPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Posix => "posix",
            Self::Memory => "memory",
        })
    }
}

/// Files of the operating system.
#[derive(Clone, Debug)]
pub struct Disk {
    #[cfg(target_os = "linux")]
    rings: Option<Arc<Rings>>,
}

impl Disk {
    /// With io_uring if the kernel grants a ring, else POSIX calls with the same meaning.
    pub fn new() -> Self {
        #[cfg(target_os = "linux")]
        match Rings::probe() {
            Ok(rings) => return Self { rings: Some(Arc::new(rings)) },
            Err(error) => tracing::info!(%error, "io_uring is not available here; using POSIX calls"),
        }
        Self::posix()
    }

    /// With POSIX calls only.
    pub fn posix() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            rings: None,
        }
    }

    /// With rings of these.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn with_rings(rings: Rings) -> Self {
        Self { rings: Some(Arc::new(rings)) }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Storage for Disk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(0o600);
        let direct = matches!(access, Access::ReadDirect | Access::WriteDirect);
        match access {
            Access::Read | Access::ReadDirect => {}
            Access::Write | Access::WriteDirect => {
                options.write(true);
            }
            Access::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        #[cfg(target_os = "linux")]
        if direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = match options.open(path) {
            // Some file systems have no direct I/O; there the page cache is what there is.
            Err(error) if direct && error.raw_os_error() == Some(libc::EINVAL) => {
                options.custom_flags(0);
                options.open(path)?
            }
            opened => opened?,
        };
        Ok(Arc::new(DiskFile {
            file,
            #[cfg(target_os = "linux")]
            rings: self.rings.clone(),
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path.join("LOCK"))?;
        Ok(Box::new(FileLock::try_new(file)?))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(path)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn io_path(&self) -> IoPath {
        #[cfg(target_os = "linux")]
        if self.rings.is_some() {
            return IoPath::Uring;
        }
        IoPath::Posix
    }
}

struct DiskFile {
    file: fs::File,
    #[cfg(target_os = "linux")]
    rings: Option<Arc<Rings>>,
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn write_durable(&self, bytes: &[u8], offset: u64, way: DurableWrite) -> io::Result<()> {
        let by_ring = |durable| {
            let rings = self.rings.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
            let written = rings.write_durable(&self.file, bytes, offset, durable);
            written.unwrap_or_else(|| self.write_durable(bytes, offset, DurableWrite::ThenSync))
        };
        match way {
            DurableWrite::ThenSync => {
                super::write_all_at(self, bytes, offset)?;
                self.sync_data()
            }
            DurableWrite::Dsync => dsync(&self.file, bytes, offset),
            DurableWrite::UringDsync => by_ring(Durable::Dsync),
            DurableWrite::UringThenSync => by_ring(Durable::LinkedSync),
        }
    }

    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    fn hand_over(&self, offset: u64, len: u64) {
        use std::os::fd::AsRawFd;
        let range = |from: u64, len: u64, flags| match (from.try_into(), len.try_into()) {
            // SAFETY: the call takes numbers, and the file is open while it runs. What it says is found out at the sync.
            (Ok(from), Ok(len)) => unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, len, flags) },
            _ => 0,
        };
        range(offset, len, libc::SYNC_FILE_RANGE_WRITE);
        // With one step on its way there is never more than two to write at the next sync.
        let before = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        if offset > 0 {
            range(offset.saturating_sub(len), len.min(offset), before);
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    #[allow(unsafe_code)]
    fn map(&self) -> io::Result<Mapping> {
        // SAFETY: callers map only files that never change again (tables, named by their content), and Seawall never
        // cuts or rewrites such a file. Another program that does can still make the process die of SIGBUS.
        let map = unsafe { memmap2::Mmap::map(&self.file) }?;
        // Whoever reads in order says so with `will_need`; a page more than was asked for is wasted on all others.
        #[cfg(target_os = "linux")]
        if !map.is_empty() {
            let _ = map.advise(memmap2::Advice::Random);
        }
        Ok(Mapping::Mapped(map))
    }

    #[cfg(target_os = "linux")]
    fn read_many(&self, reads: &mut [ReadRequest<'_>]) -> io::Result<()> {
        let rings = self.rings.as_ref().filter(|_| reads.len() > 1);
        if let Some(read) = rings.and_then(|rings| rings.read(&self.file, reads)) {
            return read;
        }
        reads.iter_mut().try_for_each(|read| super::read_exact_at(self, read.buffer, read.offset))
    }

    #[cfg(target_os = "linux")]
    fn write_many(&self, writes: &[WriteRequest<'_>], then: AfterWrite) -> io::Result<()> {
        if let Some(written) = self.rings.as_ref().and_then(|rings| rings.write(&self.file, writes, then)) {
            return written;
        }
        writes.iter().try_for_each(|write| super::write_all_at(self, write.bytes, write.offset))?;
        match then {
            AfterWrite::Nothing => Ok(()),
            AfterWrite::SyncData => self.sync_data(),
        }
    }
}

/// Whether the pages of mapped bytes are in memory. If the kernel does not say, they are taken to be.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub(super) fn is_resident(bytes: &[u8]) -> bool {
    const PAGES_MAX: usize = 64;
    let page = rustix::param::page_size();
    let mut at = bytes.as_ptr() as usize / page * page;
    let end = bytes.as_ptr() as usize + bytes.len();
    while at < end {
        let len = (end - at).min(PAGES_MAX * page);
        let mut pages = [0_u8; PAGES_MAX];
        // SAFETY: the pages from `at` on belong to the map that `bytes` are a part of, and there is room for a byte for
        // each of them.
        let refused = unsafe { libc::mincore(at as *mut libc::c_void, len, pages.as_mut_ptr()) } != 0;
        if !refused && pages[..len.div_ceil(page)].iter().any(|page| page & 1 == 0) {
            return false;
        }
        at += len;
    }
    true
}

/// Writes with RWF_DSYNC.
#[cfg(target_os = "linux")]
fn dsync(file: &fs::File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    use rustix::io::{Errno, ReadWriteFlags, pwritev2};
    while !bytes.is_empty() {
        match pwritev2(file, &[io::IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Err(io::ErrorKind::Unsupported.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
