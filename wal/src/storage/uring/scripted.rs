//! A ring without a kernel: it answers late, in any order, in parts, or not at all, as a seed says, and keeps its bytes on a
//! medium whose faults lie in fixed places, so that POSIX calls meet the same ones.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::DEPTH;
use super::ring::{Completion, Link, Request, Ring};

/// What lies behind a file.
#[derive(Default)]
pub(super) struct Medium {
    pub(super) bytes: Vec<u8>,
    /// What survives power loss.
    pub(super) durable: Vec<u8>,
    /// Bytes that cannot be written, and why. They can be read.
    pub(super) bad: BTreeMap<usize, i32>,
    /// Nobody moves bytes across these places at once.
    pub(super) stops: BTreeSet<usize>,
    /// Whoever begins here is interrupted, once.
    pub(super) signals: BTreeSet<usize>,
    /// Whether the next sync is interrupted before it begins.
    pub(super) sync_signal: bool,
    /// Why the next sync fails, if it does.
    pub(super) sync_fails: Option<i32>,
    has_sync_failed: bool,
    /// Syncs that were asked for after one had failed.
    pub(super) syncs_after_failure: u32,
}

impl Medium {
    pub(super) fn of(len: usize) -> Self {
        Self { bytes: vec![0; len], durable: vec![0; len], ..Self::default() }
    }

    /// Bytes moved, or an error's number.
    pub(super) fn read(&mut self, offset: usize, buffer: &mut [u8]) -> Result<usize, i32> {
        let len = self.moved(offset, buffer.len())?;
        buffer[..len].copy_from_slice(&self.bytes[offset..offset + len]);
        Ok(len)
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8], durable: bool) -> Result<usize, i32> {
        let len = self.moved(offset, bytes.len())?;
        let len = match self.bad.range(offset..offset + len).next() {
            Some((place, errno)) if *place == offset => return Err(*errno),
            Some((place, _)) => place - offset,
            None => len,
        };
        self.bytes[offset..offset + len].copy_from_slice(&bytes[..len]);
        if durable {
            self.begin_sync()?;
            self.durable[offset..offset + len].copy_from_slice(&bytes[..len]);
        }
        Ok(len)
    }

    pub(super) fn sync(&mut self) -> Result<(), i32> {
        if std::mem::take(&mut self.sync_signal) {
            return Err(libc::EINTR);
        }
        self.begin_sync()?;
        self.durable.clone_from(&self.bytes);
        Ok(())
    }

    fn begin_sync(&mut self) -> Result<(), i32> {
        self.syncs_after_failure += u32::from(self.has_sync_failed);
        let fails = self.sync_fails.take();
        self.has_sync_failed |= fails.is_some();
        fails.map_or(Ok(()), Err)
    }

    fn moved(&mut self, offset: usize, len: usize) -> Result<usize, i32> {
        if self.signals.remove(&offset) {
            return Err(libc::EINTR);
        }
        let end = (offset + len).min(self.bytes.len());
        let stop = self.stops.range(offset + 1..).next().copied().unwrap_or(usize::MAX);
        Ok(end.min(stop).saturating_sub(offset))
    }
}

/// What the kernel has taken: a request, and the one that is linked behind it.
struct Taken {
    first: (Request, u64),
    linked: Option<(Request, u64)>,
}

/// The ring. It panics where a real one would end the process, and if it is dropped with something in flight.
pub(super) struct ScriptedRing {
    medium: Rc<RefCell<Medium>>,
    random: SmallRng,
    /// Kernels differ in it.
    does_a_short_write_break_a_link: bool,
    queue: VecDeque<(Request, Link, u64)>,
    under_way: Vec<Taken>,
    completed: Vec<Completion>,
}

impl ScriptedRing {
    pub(super) fn new(medium: &Rc<RefCell<Medium>>, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        Self {
            medium: Rc::clone(medium),
            does_a_short_write_break_a_link: random.random_bool(0.5),
            random,
            queue: VecDeque::new(),
            under_way: Vec::new(),
            completed: Vec::new(),
        }
    }

    /// Takes the first so many, each with what is linked behind it if that is among them.
    fn take(&mut self, count: usize) {
        let mut taken = self.queue.drain(..count);
        while let Some((request, link, number)) = taken.next() {
            let linked = if link == Link::Next { taken.next() } else { None };
            self.under_way
                .push(Taken { first: (request, number), linked: linked.map(|(request, _, number)| (request, number)) });
        }
    }

    fn complete(&mut self, taken: &Taken) {
        let (request, number) = taken.first;
        let (result, whole) = self.perform(request);
        self.completed.push(Completion { number, result });
        let Some((request, number)) = taken.linked else { return };
        let broken = result < 0 || (!whole && self.does_a_short_write_break_a_link);
        let result = if broken { -libc::ECANCELED } else { self.perform(request).0 };
        self.completed.push(Completion { number, result });
    }

    /// The result, and whether everything was done that was asked for.
    #[allow(unsafe_code)]
    fn perform(&mut self, request: Request) -> (i32, bool) {
        let medium = &mut *self.medium.borrow_mut();
        let (len, result) = match request {
            Request::Read { to, len, offset } => {
                // SAFETY: the memory is there until the completion was taken, and nobody else uses it meanwhile.
                let buffer = unsafe { std::slice::from_raw_parts_mut(to, len as usize) };
                (len as usize, medium.read(offset as usize, buffer))
            }
            Request::Write { from, len, offset, durable } => {
                // SAFETY: the memory is there until the completion was taken, and nobody changes it meanwhile.
                let bytes = unsafe { std::slice::from_raw_parts(from, len as usize) };
                (len as usize, medium.write(offset as usize, bytes, durable))
            }
            Request::Sync => (0, medium.sync().map(|()| 0)),
        };
        match result {
            Ok(count) => (count as i32, count == len),
            // A kernel that lacks something says so instead.
            Err(libc::EINTR) if !matches!(request, Request::Sync) && self.random.random_bool(0.2) => {
                (-libc::EAGAIN, false)
            }
            Err(errno) => (-errno, false),
        }
    }
}

impl Ring for ScriptedRing {
    fn push(&mut self, _: RawFd, request: Request, link: Link, number: u64) {
        self.queue.push_back((request, link, number));
        assert!(self.queue.len() + self.under_way.len() <= DEPTH as usize, "no more than the queue holds");
    }

    fn enter(&mut self) -> io::Result<()> {
        if self.random.random_bool(0.1) {
            let often = [libc::EINTR; 8];
            let errors = [libc::EBUSY, libc::EAGAIN, libc::ENOMEM].into_iter().chain(often);
            let errno = errors.collect::<Vec<_>>()[self.random.random_range(0..11)];
            return Err(io::Error::from_raw_os_error(errno));
        }
        let queued = self.queue.len();
        if queued > 0 && self.random.random_bool(0.1) {
            // Some of them: then the kernel does not wait.
            let count = self.random.random_range(1..=queued);
            self.take(count);
            if count < queued {
                return Ok(());
            }
        } else {
            self.take(queued);
        }
        assert!(!self.under_way.is_empty() || !self.completed.is_empty(), "who waits for nothing waits for ever");
        self.under_way.shuffle(&mut self.random);
        let least = usize::from(self.completed.is_empty());
        let count = self.random.random_range(least..=self.under_way.len());
        for taken in self.under_way.split_off(self.under_way.len() - count) {
            self.complete(&taken);
        }
        self.completed.shuffle(&mut self.random);
        Ok(())
    }

    fn queued(&mut self) -> usize {
        self.queue.len()
    }

    fn has_completed(&mut self) -> bool {
        !self.completed.is_empty()
    }

    fn take_completed(&mut self) -> Option<Completion> {
        self.completed.pop()
    }

    fn abandon(&self, error: &io::Error) -> ! {
        panic!("the ring was abandoned: {error}")
    }
}

impl Drop for ScriptedRing {
    fn drop(&mut self) {
        let idle = self.queue.is_empty() && self.under_way.is_empty() && self.completed.is_empty();
        assert!(idle || std::thread::panicking(), "the kernel still has memory that its owner has back");
    }
}
