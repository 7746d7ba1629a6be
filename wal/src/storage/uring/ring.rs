//! The seam between what is asked of a ring and the kernel: the real ring, and in tests one that answers by a script.

use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, opcode, squeue, types};

use super::DEPTH;

/// One operation on a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Read {
        to: *mut u8,
        len: u32,
        offset: u64,
    },
    Write {
        from: *const u8,
        len: u32,
        offset: u64,
        /// Whether it is done only when the bytes survive power loss.
        durable: bool,
    },
    Sync,
}

/// Whether the request after it waits for it, and is not begun if it is not done wholly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    None,
    Next,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    /// As given with the request.
    pub(super) number: u64,
    /// Bytes moved, or an error as a negative number.
    pub(super) result: i32,
}

/// Takes requests and says what became of them, in any order.
pub(super) trait Ring {
    /// Queues a request; at most [`DEPTH`] are not completed at a time. The file and the memory named in it stay where they
    /// are until it is completed.
    fn push(&mut self, file: RawFd, request: Request, link: Link, number: u64);

    /// Hands what is queued to the kernel and waits until something is completed.
    ///
    /// # Errors
    /// If the kernel did not take it or did not wait. Requests that it took before are on their way.
    fn enter(&mut self) -> io::Result<()>;

    /// Requests that the kernel has not taken.
    fn queued(&mut self) -> usize;

    /// Whether there is a completion to take.
    fn has_completed(&mut self) -> bool;

    /// Takes a completion.
    fn take_completed(&mut self) -> Option<Completion>;

    /// Ends the process: operations may be on their way, and memory that the kernel still writes to cannot be given back.
    fn abandon(&self, error: &io::Error) -> !;
}

impl Ring for IoUring {
    fn push(&mut self, file: RawFd, request: Request, link: Link, number: u64) {
        const RWF_DSYNC: i32 = 0x2;
        let fd = types::Fd(file);
        let entry = match request {
            Request::Read { to, len, offset } => opcode::Read::new(fd, to, len).offset(offset).build(),
            Request::Write { from, len, offset, durable } => {
                let write = opcode::Write::new(fd, from, len).offset(offset);
                if durable { write.rw_flags(RWF_DSYNC).build() } else { write.build() }
            }
            Request::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        let flags = if link == Link::Next { squeue::Flags::IO_LINK } else { squeue::Flags::empty() };
        let entry = entry.flags(flags).user_data(number);
        // SAFETY: the trait's promise: file and memory are there until the completion was taken.
        let pushed = unsafe { self.submission().push(&entry) };
        assert!(pushed.is_ok(), "at most {DEPTH} operations are in flight in a queue of {DEPTH}");
    }

    fn enter(&mut self) -> io::Result<()> {
        self.submit_and_wait(1).map(drop)
    }

    fn queued(&mut self) -> usize {
        self.submission().len()
    }

    fn has_completed(&mut self) -> bool {
        !self.completion().is_empty()
    }

    fn take_completed(&mut self) -> Option<Completion> {
        let entry = self.completion().next()?;
        Some(Completion { number: entry.user_data(), result: entry.result() })
    }

    fn abandon(&self, error: &io::Error) -> ! {
        tracing::error!(%error, "io_uring_enter fails with operations in flight; stopping");
        std::process::abort();
    }
}
