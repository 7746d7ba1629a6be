//! One 4 KiB write made durable through io_uring, in the two ways there are.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};

/// Of the kernel's uapi/linux/fs.h: this write is durable when it completes.
const RWF_DSYNC: i32 = 0x2;

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    /// The write itself carries RWF_DSYNC.
    Dsync,
    /// A sync is linked behind it.
    LinkedSync,
}

/// A ring for one write at a time.
pub(super) struct OneWrite {
    ring: IoUring,
    durable: Durable,
}

impl OneWrite {
    /// Fails where the kernel does not let this process have a ring.
    pub(super) fn new(durable: Durable) -> io::Result<Self> {
        Ok(Self { ring: IoUring::new(4)?, durable })
    }

    /// Returns once `block` is durable at `offset`.
    pub(super) fn write(&mut self, file: &File, block: &[u8], offset: u64) -> io::Result<()> {
        let fd = types::Fd(file.as_raw_fd());
        let len = u32::try_from(block.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let write = opcode::Write::new(fd, block.as_ptr(), len).offset(offset);
        let entries = match self.durable {
            Durable::Dsync => vec![write.rw_flags(RWF_DSYNC).build()],
            Durable::LinkedSync => vec![
                write.build().flags(squeue::Flags::IO_LINK),
                opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            ],
        };
        // SAFETY: the entries point to `file` and `block`, which outlive this call, and it does not return before every
        // one of them has completed: `submit_and_wait` is repeated until all completions are there, and gives up only
        // on errors after which nothing was submitted.
        unsafe { self.ring.submission().push_multiple(&entries) }.map_err(io::Error::other)?;
        let mut left = entries.len();
        let mut result = Ok(());
        while left > 0 {
            match self.ring.submit_and_wait(left) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            for completion in self.ring.completion() {
                left -= 1;
                if completion.result() < 0 && result.is_ok() {
                    result = Err(io::Error::from_raw_os_error(-completion.result()));
                }
            }
        }
        result
    }
}
