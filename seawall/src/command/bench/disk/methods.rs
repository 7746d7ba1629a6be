//! The ways to make 4 KiB durable, each measured alone: blocks one after the other, each durable before the next.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seawall_wal::storage::{AlignedBuffer, BLOCK_SIZE};

#[cfg(target_os = "linux")]
use super::uring::{Durable, OneWrite};

/// Bytes of the file that is written over, again and again.
const FILE_BYTES: u64 = 32 << 20;

/// One way to write durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// pwrite, fdatasync, in a file that grows: each sync writes the file's new length too.
    Growing,
    /// pwrite, fdatasync, over bytes that are there. **F**, what everything is compared with.
    Plain,
    /// The same past the page cache.
    Direct,
    /// Past the page cache, durable when the write returns.
    DirectDsync,
    /// Past the page cache, through io_uring, a sync linked behind the write.
    UringLinked,
    /// Past the page cache, through io_uring, the write itself durable.
    UringDsync,
}

impl Method {
    pub(super) const ALL: [Self; 6] =
        [Self::Growing, Self::Plain, Self::Direct, Self::DirectDsync, Self::UringLinked, Self::UringDsync];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Growing => "pwrite_fdatasync_growing",
            Self::Plain => "pwrite_fdatasync",
            Self::Direct => "direct_fdatasync",
            Self::DirectDsync => "direct_dsync",
            Self::UringLinked => "uring_linked_fdatasync",
            Self::UringDsync => "uring_rwf_dsync",
        }
    }

    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Growing => "pwrite + fdatasync, growing file",
            Self::Plain => "pwrite + fdatasync, written file (F)",
            Self::Direct => "O_DIRECT pwrite + fdatasync",
            Self::DirectDsync => "O_DIRECT + O_DSYNC pwrite",
            Self::UringLinked => "io_uring write -> fdatasync, O_DIRECT",
            Self::UringDsync => "io_uring write RWF_DSYNC, O_DIRECT",
        }
    }

    const fn is_direct(self) -> bool {
        !matches!(self, Self::Growing | Self::Plain)
    }
}

/// A file to write into by one method.
pub(super) struct Bench {
    method: Method,
    path: PathBuf,
    file: File,
    writer: Writer,
    block: AlignedBuffer,
    offset: u64,
}

enum Writer {
    Sync,
    Dsync,
    #[cfg(target_os = "linux")]
    Uring(Box<OneWrite>),
}

/// What one slice of time gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Durable writes a second.
    pub(super) per_second: f64,
}

impl Bench {
    /// Prepares the file. Fails where the file system or the kernel does not know the method.
    pub(super) fn new(dir: &Path, method: Method) -> io::Result<Self> {
        let path = dir.join(method.name());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path)?;
        if method != Method::Growing {
            let zeros = vec![0; 1 << 20];
            for offset in (0..FILE_BYTES).step_by(zeros.len()) {
                file.write_all_at(&zeros, offset)?;
            }
            file.sync_all()?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags(method));
        let file = if method.is_direct() { options.open(&path)? } else { file };
        let writer = match method {
            Method::Growing | Method::Plain | Method::Direct => Writer::Sync,
            Method::DirectDsync => Writer::Dsync,
            #[cfg(target_os = "linux")]
            Method::UringLinked => Writer::Uring(Box::new(OneWrite::new(Durable::LinkedSync)?)),
            #[cfg(target_os = "linux")]
            Method::UringDsync => Writer::Uring(Box::new(OneWrite::new(Durable::Dsync)?)),
            #[cfg(not(target_os = "linux"))]
            Method::UringLinked | Method::UringDsync => return Err(io::ErrorKind::Unsupported.into()),
        };
        let mut bench = Self { method, path, file, writer, block: AlignedBuffer::zeroed(BLOCK_SIZE), offset: 0 };
        bench.write()?;
        Ok(bench)
    }

    /// Writes for as long as `slice`.
    pub(super) fn run(&mut self, slice: Duration) -> io::Result<Rate> {
        if self.method == Method::Growing {
            self.file.set_len(0)?;
            self.file.sync_all()?;
            self.offset = 0;
        }
        let started = Instant::now();
        let mut writes = 0_u32;
        while started.elapsed() < slice {
            self.write()?;
            writes += 1;
        }
        Ok(Rate { per_second: f64::from(writes) / started.elapsed().as_secs_f64() })
    }

    fn write(&mut self) -> io::Result<()> {
        // Blocks that differ, so that nothing on the way finds a shortcut.
        let mark = self.offset.to_le_bytes();
        self.block[..mark.len()].copy_from_slice(&mark);
        match &mut self.writer {
            Writer::Sync => {
                self.file.write_all_at(&self.block, self.offset)?;
                self.file.sync_data()?;
            }
            Writer::Dsync => self.file.write_all_at(&self.block, self.offset)?,
            #[cfg(target_os = "linux")]
            Writer::Uring(ring) => ring.write(&self.file, &self.block, self.offset)?,
        }
        self.offset += BLOCK_SIZE as u64;
        if self.method != Method::Growing {
            self.offset %= FILE_BYTES;
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(target_os = "linux")]
fn flags(method: Method) -> i32 {
    use rustix::fs::OFlags;
    let flags = match method {
        Method::Growing | Method::Plain => OFlags::empty(),
        Method::DirectDsync => OFlags::DIRECT | OFlags::DSYNC,
        Method::Direct | Method::UringLinked | Method::UringDsync => OFlags::DIRECT,
    };
    flags.bits() as i32
}

#[cfg(not(target_os = "linux"))]
fn flags(_: Method) -> i32 {
    0
}
