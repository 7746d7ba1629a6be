//! A ring and POSIX calls as partners, whatever a kernel answers: the same bytes, the same answers, and never a sync after one
//! that failed. `SEAWALL_RING_SEEDS` says how many workloads there are.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::answer::Direction;
use super::group::{Group, Part};
use super::scripted::{Medium, ScriptedRing};
use super::*;
use crate::storage::{
    Access, AfterWrite, Disk, DurableWrite, File as StorageFile, Mapping, ReadRequest, Storage, WriteRequest,
};

/// The file's bytes; reads go beyond it.
const LEN: usize = 16 << 10;

/// What is asked of both.
#[derive(Clone, Debug)]
enum Work {
    Read(Vec<Range<usize>>),
    Write(Vec<(usize, Vec<u8>)>, AfterWrite),
    WriteDurably(usize, Vec<u8>, DurableWrite),
}

/// What it came to: bytes read, or an error.
type Answer = Result<Vec<Vec<u8>>, (io::ErrorKind, Option<i32>)>;

fn answer(result: io::Result<()>, bytes: Vec<Vec<u8>>) -> Answer {
    result.map(|()| bytes).map_err(|error| (error.kind(), error.raw_os_error()))
}

/// A medium that is asked by calls.
struct ByCalls(Mutex<Medium>);

impl StorageFile for ByCalls {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.lock().read(offset as usize, buffer).map_err(io::Error::from_raw_os_error)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.lock().write(offset as usize, bytes, false).map_err(io::Error::from_raw_os_error)
    }

    fn sync_data(&self) -> io::Result<()> {
        // As the standard library does.
        loop {
            match self.0.lock().sync() {
                Err(libc::EINTR) => {}
                result => return result.map_err(io::Error::from_raw_os_error),
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(LEN as u64)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn map(&self) -> io::Result<Mapping> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn by_calls(file: &ByCalls, work: &Work) -> Answer {
    match work {
        Work::Read(places) => {
            let mut buffers: Vec<Vec<u8>> = places.iter().map(|place| vec![0; place.len()]).collect();
            let requests = buffers.iter_mut().zip(places);
            let mut reads: Vec<_> =
                requests.map(|(buffer, place)| ReadRequest { offset: place.start as u64, buffer }).collect();
            let result = file.read_many(&mut reads);
            answer(result, buffers)
        }
        Work::Write(pieces, then) => {
            let requests = pieces.iter().map(|(at, bytes)| WriteRequest { offset: *at as u64, bytes });
            answer(file.write_many(&requests.collect::<Vec<_>>(), *then), Vec::new())
        }
        Work::WriteDurably(at, bytes, _) => {
            answer(file.write_durable(bytes, *at as u64, DurableWrite::ThenSync), Vec::new())
        }
    }
}

fn by_ring(ring: &mut ScriptedRing, work: &Work) -> Answer {
    let mut group = Group { ring, file: -1 };
    match work {
        Work::Read(places) => {
            let mut buffers: Vec<Vec<u8>> = places.iter().map(|place| vec![0; place.len()]).collect();
            let part = |(buffer, place): (&mut Vec<u8>, &Range<usize>)| Part {
                pointer: buffer.as_mut_ptr(),
                len: buffer.len(),
                done: 0,
                offset: place.start as u64,
            };
            let mut parts: Vec<Part> = buffers.iter_mut().zip(places).map(part).collect();
            let result = group.transfer(&mut parts, Direction::Read);
            answer(result, buffers)
        }
        Work::Write(pieces, then) => {
            let mut parts: Vec<Part> = pieces.iter().map(|(at, bytes)| part_of(bytes, *at as u64)).collect();
            let written = group.transfer(&mut parts, Direction::Write);
            let synced = |()| if *then == AfterWrite::SyncData { group.sync() } else { Ok(()) };
            answer(written.and_then(synced), Vec::new())
        }
        Work::WriteDurably(at, bytes, way) => {
            let part = part_of(bytes, *at as u64);
            let written = match way {
                DurableWrite::UringDsync => group.write_dsync(part),
                _ => group.write_then_sync(part),
            };
            answer(written, Vec::new())
        }
    }
}

/// What is wrong with the disk in one run, so that both partners' first error is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// A byte cannot be written.
    Bad(usize, i32),
    /// A sync of the n-th work that has one fails.
    Sync(usize, i32),
}

const ERRORS: [i32; 4] = [libc::EIO, libc::ENOSPC, libc::EROFS, libc::EDQUOT];

fn trouble(random: &mut SmallRng) -> Trouble {
    let errno = *ERRORS.choose(random).unwrap();
    match random.random_range(0..4) {
        0 => Trouble::None,
        1 => Trouble::Bad(random.random_range(0..LEN), errno),
        _ => Trouble::Sync(random.random_range(0..6), errno),
    }
}

fn works(random: &mut SmallRng, trouble: Trouble) -> Vec<Work> {
    let work = |random: &mut SmallRng| {
        let bytes = |random: &mut SmallRng, len: usize| {
            let mut bytes = vec![0; len];
            random.fill(&mut bytes[..]);
            bytes
        };
        match random.random_range(0..4) {
            0 => {
                let beyond = if trouble == Trouble::None && random.random_bool(0.1) { 600 } else { 0 };
                let place = |_| {
                    let start = random.random_range(0..LEN - 600 + beyond);
                    start..start + random.random_range(0..=600)
                };
                Work::Read((0..40).map(place).collect())
            }
            1 => {
                // Disjoint pieces: the order within a group is nobody's promise. More than are in flight at once, at times.
                let count = random.random_range(1..100);
                let pieces = (0..count).map(|piece| {
                    let (at, room) = (piece * LEN / count, LEN / count);
                    let len = random.random_range(0..=room);
                    (at + random.random_range(0..=room - len), bytes(random, len))
                });
                let pieces = pieces.collect();
                Work::Write(pieces, if random.random() { AfterWrite::SyncData } else { AfterWrite::Nothing })
            }
            _ => {
                let (at, len) = (random.random_range(0..LEN - 2000), random.random_range(1..2000));
                let way = if random.random() { DurableWrite::UringDsync } else { DurableWrite::UringThenSync };
                Work::WriteDurably(at, bytes(random, len), way)
            }
        }
    };
    (0..12).map(|_| work(random)).collect()
}

fn is_durable(work: &Work) -> bool {
    matches!(work, Work::WriteDurably(..) | Work::Write(_, AfterWrite::SyncData))
}

/// Whether everything that this work wrote survives power loss.
fn survives(work: &Work, medium: &Medium) -> bool {
    let there = |at: usize, bytes: &[u8]| medium.durable[at..at + bytes.len()] == *bytes;
    match work {
        Work::Write(pieces, AfterWrite::SyncData) => pieces.iter().all(|(at, bytes)| there(*at, bytes)),
        Work::WriteDurably(at, bytes, _) => there(*at, bytes),
        _ => true,
    }
}

/// How one run ended: the error of both, if there was one.
fn compare(seed: u64) -> Option<(io::ErrorKind, Option<i32>)> {
    let mut random = SmallRng::seed_from_u64(seed);
    let trouble = trouble(&mut random);
    let works = works(&mut random, trouble);
    let medium = || {
        let mut random = random.clone();
        let mut medium = Medium::of(LEN);
        if let Trouble::Bad(place, errno) = trouble {
            medium.bad.insert(place, errno);
        }
        medium.stops = (0..40).map(|_| random.random_range(0..LEN)).collect();
        medium.signals = (0..2000).map(|_| random.random_range(0..LEN)).collect();
        medium
    };
    let (ring_medium, calls) = (Rc::new(RefCell::new(medium())), ByCalls(Mutex::new(medium())));
    let mut ring = ScriptedRing::new(&ring_medium, seed);
    let mut synced = 0;
    for (number, work) in works.iter().enumerate() {
        for medium in [&mut *ring_medium.borrow_mut(), &mut *calls.0.lock()] {
            medium.sync_signal = (seed + number as u64).is_multiple_of(3);
            medium.sync_fails = match trouble {
                Trouble::Sync(nth, errno) if is_durable(work) && nth == synced => Some(errno),
                _ => None,
            };
        }
        synced += usize::from(is_durable(work));
        let (found, expected) = (by_ring(&mut ring, work), by_calls(&calls, work));
        assert!(found == expected, "seed {seed}, {number}: {:?}, not {:?}", found.err(), expected.err());
        let (mut by_ring, mut by_calls) = (ring_medium.borrow_mut(), calls.0.lock());
        assert_eq!(by_ring.syncs_after_failure, 0, "seed {seed}, {number}: a sync after one that failed");
        if let Err(error) = found {
            // Reads change nothing, and all else ends a log.
            if !matches!(work, Work::Read(_)) {
                return Some(error);
            }
        }
        assert!(survives(work, &by_ring), "seed {seed}, {number}: it said that it is durable");
        assert!(by_ring.bytes == by_calls.bytes, "seed {seed}, {number}: other bytes");
        // Places where signals come are met in another order.
        by_ring.signals.clear();
        by_calls.signals.clear();
    }
    None
}

#[test]
fn a_ring_answers_and_leaves_the_bytes_as_posix_calls_do_whatever_the_kernel_says() {
    const SEEDS: u64 = 2_000;
    let seeds = std::env::var("SEAWALL_RING_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let mut ends = std::collections::BTreeMap::<_, u64>::new();
    (0..seeds).for_each(|seed| {
        *ends.entry(compare(seed).map(|(kind, errno)| (errno, format!("{kind:?}")))).or_default() += 1
    });
    println!("{seeds} workloads through a ring and through calls, by their end: {ends:?}");
    for errno in ERRORS {
        assert!(ends.keys().flatten().any(|(number, _)| *number == Some(errno)), "{errno} was met: {ends:?}");
    }
    assert!(ends.contains_key(&None), "some come to their end");
}

#[test]
fn where_no_ring_can_be_had_just_now_posix_calls_do_the_same() {
    let none = || Err(io::Error::from_raw_os_error(libc::EMFILE));
    let disk = Disk::with_rings(Rings { idle: Mutex::default(), make: none });
    let folder = tempfile::tempdir().unwrap();
    let file = disk.open(&folder.path().join("file"), Access::CreateNew).unwrap();
    let (first, second) = ([1; 5000], [2; 5000]);
    let writes = [(0, &first), (5000, &second)].map(|(offset, bytes)| WriteRequest { offset, bytes });
    file.write_many(&writes, AfterWrite::SyncData).unwrap();
    for (at, way) in (10_000..).step_by(5000).zip(DurableWrite::ALL) {
        file.write_durable(&[3; 5000], at, way).unwrap_or_else(|error| panic!("{way}: {error}"));
    }
    let (mut left, mut right) = ([0; 5000], [0; 20_000]);
    let mut reads =
        [ReadRequest { offset: 5000, buffer: &mut left }, ReadRequest { offset: 10_000, buffer: &mut right }];
    file.read_many(&mut reads).unwrap();
    assert!(left == second && right == [3; 20_000]);
}
