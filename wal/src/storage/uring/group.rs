//! How groups of operations are driven through a ring until they are done: the same meaning as the POSIX calls, all in
//! flight at once. What an answer means is decided in `answer`.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use super::DEPTH;
use super::answer::{Chain, Direction, Entry, Left, Moved, after_chain, after_entry_failed, after_moving, after_sync};
use super::ring::{Completion, Link, Request, Ring};

/// How often in a row the kernel may say that it lacks something before that is an error, a moment apart.
const BUSY_MAX: u32 = 1000;
const MOMENT: Duration = Duration::from_millis(1);
/// An operation moves at most 1 GiB, so that its length fits the kernel's 32 bits.
const MOVE_MAX: usize = 1 << 30;

/// One read or write of a group and how far it has come.
pub(super) struct Part {
    pub(super) pointer: *mut u8,
    /// `done <= len`, both within the caller's memory.
    pub(super) len: usize,
    pub(super) done: usize,
    /// Of the first byte, in the file.
    pub(super) offset: u64,
}

impl Part {
    /// What is left of it.
    fn request(&self, direction: Direction, durable: bool) -> Request {
        // SAFETY: `done <= len`, so the pointer stays inside the caller's slice, which outlives the group: nothing is in
        // flight when a group returns.
        let pointer = unsafe { self.pointer.add(self.done) };
        let len = (self.len - self.done).min(MOVE_MAX) as u32;
        let offset = self.offset + self.done as u64;
        match direction {
            Direction::Read => Request::Read { to: pointer, len, offset },
            Direction::Write => Request::Write { from: pointer, len, offset, durable },
        }
    }
}

/// A file and the ring that its group goes through.
pub(super) struct Group<'a, R> {
    pub(super) ring: &'a mut R,
    pub(super) file: RawFd,
}

impl<R: Ring> Group<'_, R> {
    /// Moves all parts to their end. Returns the first error, but only after nothing is in flight any more: the kernel must
    /// not hold a pointer into memory that the caller gets back.
    pub(super) fn transfer(&mut self, parts: &mut [Part], direction: Direction) -> io::Result<()> {
        self.transfer_by(parts, direction, false)
    }

    /// Writes one part so that it survives power loss.
    pub(super) fn write_dsync(&mut self, part: Part) -> io::Result<()> {
        self.transfer_by(&mut [part], Direction::Write, true).map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => io::ErrorKind::Unsupported.into(),
            _ => error,
        })
    }

    /// Writes one part, with a sync linked behind the write.
    pub(super) fn write_then_sync(&mut self, mut part: Part) -> io::Result<()> {
        const WRITE: u64 = 0;
        const SYNC: u64 = 1;
        if part.len == 0 {
            return self.sync();
        }
        self.ring.push(self.file, part.request(Direction::Write, false), Link::Next, WRITE);
        self.ring.push(self.file, Request::Sync, Link::None, SYNC);
        let (mut results, mut chain) = ([None; 2], Chain::Linked);
        while results.contains(&None) {
            self.wait();
            if self.ring.queued() == 1 {
                chain = Chain::Split;
            }
            while let Some(Completion { number, result }) = self.ring.take_completed() {
                results[number as usize] = Some(result);
            }
        }
        let [written, synced] = results.map(|result| result.expect("both were awaited"));
        match after_chain(written, synced, part.len, chain)? {
            Left::Nothing => Ok(()),
            Left::Sync => self.sync(),
            Left::WriteFrom(done) => {
                part.done = done;
                self.transfer(&mut [part], Direction::Write)?;
                self.sync()
            }
        }
    }

    /// Makes what was written survive power loss.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        loop {
            self.ring.push(self.file, Request::Sync, Link::None, 0);
            if after_sync(self.await_only().result)? {
                return Ok(());
            }
        }
    }

    fn transfer_by(&mut self, parts: &mut [Part], direction: Direction, durable: bool) -> io::Result<()> {
        let mut waiting: Vec<usize> = (0..parts.len()).rev().filter(|index| parts[*index].len > 0).collect();
        let (mut in_flight, mut busy) = (0, Busy::default());
        let mut failure: Option<io::Error> = None;
        while in_flight > 0 || (failure.is_none() && !waiting.is_empty()) {
            while failure.is_none() && in_flight < DEPTH as usize {
                let Some(index) = waiting.pop() else { break };
                let request = parts[index].request(direction, durable);
                self.ring.push(self.file, request, Link::None, index as u64);
                in_flight += 1;
            }
            self.wait();
            while let Some(Completion { number, result }) = self.ring.take_completed() {
                in_flight -= 1;
                let index = number as usize;
                let part = &mut parts[index];
                match after_moving(result, direction) {
                    Moved::Bytes(count) => {
                        busy = Busy::default();
                        part.done += count;
                        if part.done < part.len {
                            waiting.push(index);
                        }
                    }
                    Moved::Interrupted => waiting.push(index),
                    Moved::Busy if busy.goes_on() => waiting.push(index),
                    Moved::Busy => {
                        failure.get_or_insert_with(|| io::Error::from_raw_os_error(libc::EAGAIN));
                    }
                    Moved::Failed(error) => {
                        failure.get_or_insert(error);
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// The completion of the only operation in flight.
    fn await_only(&mut self) -> Completion {
        loop {
            self.wait();
            if let Some(completion) = self.ring.take_completed() {
                return completion;
            }
        }
    }

    fn wait(&mut self) {
        if let Err(error) = enter(self.ring) {
            self.ring.abandon(&error);
        }
    }
}

/// Hands what is queued to the kernel, and waits; there may be no completion when it returns.
///
/// # Errors
/// If asking again is of no use: the kernel refuses, or was short of something for too long.
pub(super) fn enter(ring: &mut impl Ring) -> io::Result<()> {
    let mut busy = Busy::default();
    while let Err(error) = ring.enter() {
        match after_entry_failed(error.raw_os_error(), ring.has_completed()) {
            Entry::Again => {}
            Entry::Collect => return Ok(()),
            Entry::Later if busy.goes_on() => {}
            Entry::Later | Entry::Abandon => return Err(error),
        }
    }
    Ok(())
}

/// How long the kernel has been short of something.
#[derive(Default)]
struct Busy {
    times: u32,
}

impl Busy {
    /// Waits a moment; whether it is worth asking again.
    fn goes_on(&mut self) -> bool {
        self.times += 1;
        if self.times <= BUSY_MAX {
            std::thread::sleep(MOMENT);
        }
        self.times <= BUSY_MAX
    }
}
