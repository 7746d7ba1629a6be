//! Groups of reads or writes through io_uring, all in flight at once, with the results of the same POSIX calls.
//! A ring is taken from a small pool for the length of one group, so callers on any thread may use it.

#![allow(unsafe_code)]

mod answer;
mod group;
mod ring;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode};
use parking_lot::Mutex;

use answer::Direction;
use group::{Group, Part, enter};
use ring::Ring as _;

use super::{AfterWrite, ReadRequest, WriteRequest};

/// Operations in flight in one ring. Depth 4 already saturates bulk transfers; small reads gain up to 32.
const DEPTH: u32 = 64;
/// Rings kept when no group uses them.
const IDLE_MAX: usize = 4;

/// The pool.
pub(super) struct Rings {
    idle: Mutex<Vec<IoUring>>,
    make: fn() -> io::Result<IoUring>,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rings")
    }
}

/// How one write is made durable.
#[derive(Clone, Copy)]
pub(super) enum Durable {
    /// The write carries RWF_DSYNC.
    Dsync,
    /// A sync is linked behind the write.
    LinkedSync,
}

impl Rings {
    /// A pool, if the kernel lets this process have a ring that can do what is needed.
    pub(super) fn probe() -> io::Result<Self> {
        let mut ring = make()?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring lacks read, write or fsync"));
        }
        try_out(&mut ring)?;
        Ok(Self { idle: Mutex::new(vec![ring]), make })
    }

    /// `None`, with nothing done, if no ring can be had; so for the others.
    pub(super) fn read(&self, file: &File, reads: &mut [ReadRequest<'_>]) -> Option<io::Result<()>> {
        let part = |read: &mut ReadRequest<'_>| Part {
            pointer: read.buffer.as_mut_ptr(),
            len: read.buffer.len(),
            done: 0,
            offset: read.offset,
        };
        let mut parts: Vec<Part> = reads.iter_mut().map(part).collect();
        self.with_ring(file, |mut group| group.transfer(&mut parts, Direction::Read))
    }

    pub(super) fn write(&self, file: &File, writes: &[WriteRequest<'_>], then: AfterWrite) -> Option<io::Result<()>> {
        let mut parts: Vec<Part> = writes.iter().map(|write| part_of(write.bytes, write.offset)).collect();
        self.with_ring(file, |mut group| {
            group.transfer(&mut parts, Direction::Write)?;
            match then {
                AfterWrite::Nothing => Ok(()),
                AfterWrite::SyncData => group.sync(),
            }
        })
    }

    /// One write that is durable when this returns.
    pub(super) fn write_durable(
        &self,
        file: &File,
        bytes: &[u8],
        offset: u64,
        durable: Durable,
    ) -> Option<io::Result<()>> {
        self.with_ring(file, |mut group| match durable {
            Durable::Dsync => group.write_dsync(part_of(bytes, offset)),
            Durable::LinkedSync => group.write_then_sync(part_of(bytes, offset)),
        })
    }

    /// A ring is given back only after its group has fully completed, also when it failed.
    fn with_ring(
        &self,
        file: &File,
        work: impl FnOnce(Group<'_, IoUring>) -> io::Result<()>,
    ) -> Option<io::Result<()>> {
        let idle = self.idle.lock().pop();
        let made = || (self.make)().inspect_err(|error| tracing::debug!(%error, "no ring just now; using POSIX calls"));
        let mut ring = match idle {
            Some(ring) => ring,
            None => made().ok()?,
        };
        let result = work(Group { ring: &mut ring, file: file.as_raw_fd() });
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(ring);
        }
        Some(result)
    }
}

fn make() -> io::Result<IoUring> {
    IoUring::new(DEPTH)
}

/// Does nothing by way of the ring: some who may make one may not use it.
fn try_out(ring: &mut IoUring) -> io::Result<()> {
    // SAFETY: it names neither file nor memory.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    assert!(pushed.is_ok(), "there is room in a new ring");
    while ring.take_completed().is_none() {
        enter(ring)?;
    }
    Ok(())
}

/// Who has it written keeps the bytes until that is over.
fn part_of(bytes: &[u8], offset: u64) -> Part {
    Part { pointer: bytes.as_ptr().cast_mut(), len: bytes.len(), done: 0, offset }
}
