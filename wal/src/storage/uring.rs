//! Groups of reads or writes through io_uring, all in flight at once, with the results of the same POSIX calls.
//! A ring is taken from a small pool for the length of one group, so callers on any thread may use it.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};
use parking_lot::Mutex;

use super::{AfterWrite, ReadRequest, WriteRequest};

/// Operations in flight in one ring. Depth 4 already saturates bulk transfers; small reads gain up to 32.
const DEPTH: u32 = 64;
/// Rings kept when no group uses them.
const IDLE_MAX: usize = 4;

/// The pool.
pub(super) struct Rings {
    idle: Mutex<Vec<IoUring>>,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rings")
    }
}

/// One operation of a group and how far it has come.
struct Part {
    pointer: *mut u8,
    len: usize,
    offset: u64,
    done: usize,
}

/// How one write is made durable.
#[derive(Clone, Copy)]
pub(super) enum Durable {
    /// The write carries RWF_DSYNC.
    Dsync,
    /// A sync is linked behind the write.
    LinkedSync,
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

impl Rings {
    /// A pool, if the kernel lets this process have a ring that can do what is needed.
    pub(super) fn probe() -> io::Result<Self> {
        let ring = IoUring::new(DEPTH)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring lacks read, write or fsync"));
        }
        Ok(Self { idle: Mutex::new(vec![ring]) })
    }

    pub(super) fn read(&self, file: &File, reads: &mut [ReadRequest<'_>]) -> io::Result<()> {
        let mut parts: Vec<Part> = reads
            .iter_mut()
            .map(|read| Part {
                pointer: read.buffer.as_mut_ptr(),
                len: read.buffer.len(),
                offset: read.offset,
                done: 0,
            })
            .collect();
        self.with_ring(|ring| transfer(ring, file, &mut parts, Direction::Read))
    }

    pub(super) fn write(&self, file: &File, writes: &[WriteRequest<'_>], then: AfterWrite) -> io::Result<()> {
        let mut parts: Vec<Part> = writes
            .iter()
            .map(|write| Part {
                pointer: write.bytes.as_ptr().cast_mut(),
                len: write.bytes.len(),
                offset: write.offset,
                done: 0,
            })
            .collect();
        self.with_ring(|ring| {
            transfer(ring, file, &mut parts, Direction::Write)?;
            match then {
                AfterWrite::Nothing => Ok(()),
                AfterWrite::SyncData => sync(ring, file),
            }
        })
    }

    /// One write that is durable when this returns.
    pub(super) fn write_durable(&self, file: &File, bytes: &[u8], offset: u64, durable: Durable) -> io::Result<()> {
        self.with_ring(|ring| match durable {
            Durable::Dsync => write_dsync(ring, file, bytes, offset),
            Durable::LinkedSync => write_then_sync(ring, file, bytes, offset),
        })
    }

    /// A ring is given back only after its group has fully completed, also when it failed.
    fn with_ring(&self, work: impl FnOnce(&mut IoUring) -> io::Result<()>) -> io::Result<()> {
        let taken = self.idle.lock().pop();
        let mut ring = match taken {
            Some(ring) => ring,
            None => IoUring::new(DEPTH)?,
        };
        let result = work(&mut ring);
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(ring);
        }
        result
    }
}

/// Runs all parts to their end. Returns the first error, but only after nothing is in flight any more:
/// the kernel must not hold a pointer into memory that the caller gets back.
fn transfer(ring: &mut IoUring, file: &File, parts: &mut [Part], direction: Direction) -> io::Result<()> {
    let fd = types::Fd(file.as_raw_fd());
    let mut waiting: Vec<usize> = (0..parts.len()).rev().filter(|index| parts[*index].len > 0).collect();
    let mut in_flight = 0;
    let mut failure: Option<io::Error> = None;
    while in_flight > 0 || (failure.is_none() && !waiting.is_empty()) {
        while failure.is_none() && in_flight < DEPTH as usize {
            let Some(index) = waiting.pop() else { break };
            let part = &parts[index];
            // An operation moves at most 1 GiB, so the length fits the kernel's 32 bits.
            let len = (part.len - part.done).min(1 << 30) as u32;
            let offset = part.offset + part.done as u64;
            // SAFETY: `done <= len`, so the pointer stays inside the caller's slice, which outlives this function
            // because nothing is in flight when it returns.
            let pointer = unsafe { part.pointer.add(part.done) };
            let entry = match direction {
                Direction::Read => opcode::Read::new(fd, pointer, len).offset(offset).build(),
                Direction::Write => opcode::Write::new(fd, pointer, len).offset(offset).build(),
            };
            push(ring, entry.user_data(index as u64));
            in_flight += 1;
        }
        wait_for_one(ring);
        let completed: Vec<(u64, i32)> = ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (index, result) in completed {
            in_flight -= 1;
            let part = &mut parts[index as usize];
            match usize::try_from(result) {
                Ok(0) => {
                    failure.get_or_insert_with(|| match direction {
                        Direction::Read => io::ErrorKind::UnexpectedEof.into(),
                        Direction::Write => io::ErrorKind::WriteZero.into(),
                    });
                }
                Ok(count) => {
                    part.done += count;
                    if part.done < part.len {
                        waiting.push(index as usize);
                    }
                }
                Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => waiting.push(index as usize),
                Err(_) => {
                    failure.get_or_insert_with(|| io::Error::from_raw_os_error(-result));
                }
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

fn sync(ring: &mut IoUring, file: &File) -> io::Result<()> {
    push(ring, sync_entry(file));
    outcome(await_one(ring)).map(drop)
}

fn sync_entry(file: &File) -> squeue::Entry {
    opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build()
}

fn write_dsync(ring: &mut IoUring, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    const RWF_DSYNC: i32 = 0x2;
    let mut done = 0;
    while done < bytes.len() {
        push(ring, write_entry(file, &bytes[done..], offset + done as u64).rw_flags(RWF_DSYNC).build());
        match outcome(await_one(ring)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if is_passing(&error) => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_then_sync(ring: &mut IoUring, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    const WRITE: u64 = 1;
    push(ring, write_entry(file, bytes, offset).build().flags(squeue::Flags::IO_LINK).user_data(WRITE));
    push(ring, sync_entry(file));
    let (mut written, mut synced) = (None, None);
    while written.is_none() || synced.is_none() {
        wait_for_one(ring);
        for entry in ring.completion() {
            let outcome = outcome(entry.result());
            if entry.user_data() == WRITE { written = Some(outcome) } else { synced = Some(outcome) }
        }
    }
    let (written, synced) = (written.expect("it was awaited"), synced.expect("it was awaited"));
    match written {
        Ok(count) if count == bytes.len() => synced.map(drop),
        // A short write breaks the link, and the sync behind it was cancelled: the rest is done in two steps.
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => write_rest(ring, file, bytes, offset, count),
        Err(error) if is_passing(&error) => write_rest(ring, file, bytes, offset, 0),
        Err(error) => Err(error),
    }
}

fn write_rest(ring: &mut IoUring, file: &File, bytes: &[u8], offset: u64, done: usize) -> io::Result<()> {
    let part = Part { pointer: bytes.as_ptr().cast_mut(), len: bytes.len(), offset, done };
    transfer(ring, file, &mut [part], Direction::Write)?;
    sync(ring, file)
}

/// At most 1 GiB of `bytes`; who uses it keeps them until the operation has completed.
fn write_entry(file: &File, bytes: &[u8], offset: u64) -> opcode::Write {
    let len = bytes.len().min(1 << 30) as u32;
    opcode::Write::new(types::Fd(file.as_raw_fd()), bytes.as_ptr(), len).offset(offset)
}

fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// The result of the only operation in flight.
fn await_one(ring: &mut IoUring) -> i32 {
    loop {
        wait_for_one(ring);
        if let Some(entry) = ring.completion().next() {
            return entry.result();
        }
    }
}

fn push(ring: &mut IoUring, entry: squeue::Entry) {
    // SAFETY: the file descriptor and the memory named by the entry outlive its completion (see `transfer`).
    unsafe { ring.submission().push(&entry) }.expect("at most DEPTH operations are in flight in a queue of DEPTH");
}

/// Hands submissions to the kernel and blocks until a completion is there.
/// An error here is about the ring, not about a transfer: operations may be in flight, so all that can be done is to
/// ask again, and to stop the process rather than return memory the kernel may still write to.
fn wait_for_one(ring: &mut IoUring) {
    let mut failures = 0;
    while let Err(error) = ring.submit_and_wait(1) {
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // Short of kernel memory or completions to collect: completions may be there, let the caller take them.
            Some(libc::EBUSY) if !ring.completion().is_empty() => return,
            Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM) if failures < 1000 => {
                failures += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            _ => {
                tracing::error!(%error, "io_uring_enter fails with operations in flight; stopping");
                std::process::abort();
            }
        }
    }
}
