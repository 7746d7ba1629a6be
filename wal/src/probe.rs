//! Which way of writing durably is the fastest here: devices and kernels differ by more than twice either way, so that it
//! is measured. Not at once, since most who open a log write little, but when a log has flushed so often that it matters.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::storage::{Access, AlignedBuffer, BLOCK_SIZE, DurableWrite, File, Storage, write_all_at};

/// Flushes after which it is worth asking.
pub(crate) const AFTER_FLUSHES: u64 = 1000;
/// How long it may take, in all.
const BUDGET: Duration = Duration::from_millis(50);
/// Writes by each way that are enough to compare.
const ROUNDS_MIN: usize = 8;
/// Blocks that are written over, one after the other.
const BLOCKS: usize = 32;
/// A way must take less than so many percent of the time of the simpler one: what is closer is noise.
const PERCENT_MAX: u32 = 90;
/// As above, of a way through a ring. It must gain more, for it loses more: its completion goes through a kernel thread,
/// which on a busy machine waits for its turn, however short a slice the one who waits for it was given.
const PERCENT_MAX_RING: u32 = 75;

/// How a log is written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// As somebody wants it, whatever is fastest.
    pub(crate) given: Option<DurableWrite>,
    /// The fastest, as far as is known.
    pub(crate) found: DurableWrite,
}

impl Way {
    /// From now on.
    pub(crate) fn now(self) -> DurableWrite {
        self.given.unwrap_or(self.found)
    }
}

/// Times the ways a storage knows, in turns, in a file of its own at `path`, which is removed again. `go_on` is asked
/// between writes.
///
/// # Errors
/// If the file cannot be made or written. What the probe meets says nothing about the log.
pub(crate) fn fastest_way(storage: &dyn Storage, path: &Path, go_on: impl Fn() -> bool) -> io::Result<DurableWrite> {
    let measured = measure(storage, path, go_on);
    let removed = storage.remove(path);
    let times = measured?;
    removed?;
    let chosen = choose(&times);
    tracing::info!(%chosen, ?times, "how the log is written");
    Ok(chosen)
}

fn measure(storage: &dyn Storage, path: &Path, go_on: impl Fn() -> bool) -> io::Result<Vec<(DurableWrite, Duration)>> {
    storage.open(path, Access::CreateNew)?;
    let file = storage.open(path, Access::WriteDirect)?;
    write_all_at(&*file, &AlignedBuffer::zeroed(BLOCKS * BLOCK_SIZE), 0)?;
    file.sync_data()?;
    let block = AlignedBuffer::zeroed(BLOCK_SIZE);
    let mut times: Vec<(DurableWrite, Vec<Duration>)> = Vec::new();
    for way in DurableWrite::ALL {
        match timed(&*file, &block, 0, way) {
            // The first write by each way is not counted: it pays for what is made once.
            Ok(_) => times.push((way, Vec::new())),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => return Err(error),
        }
    }
    let started = Instant::now();
    let mut offsets = (0..BLOCKS).map(|block| (block * BLOCK_SIZE) as u64).cycle();
    let mut rounds = 0;
    while go_on() && (rounds < ROUNDS_MIN || started.elapsed() < BUDGET) {
        for (way, times) in &mut times {
            let offset = offsets.next().unwrap_or_default();
            times.push(timed(&*file, &block, offset, *way)?);
        }
        rounds += 1;
    }
    if rounds < ROUNDS_MIN {
        return Ok(Vec::new());
    }
    Ok(times.into_iter().filter_map(|(way, times)| Some((way, median(times)?))).collect())
}

fn timed(file: &dyn File, block: &[u8], offset: u64, way: DurableWrite) -> io::Result<Duration> {
    let started = Instant::now();
    file.write_durable(block, offset, way)?;
    Ok(started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// From the simplest way on, the one that is clearly faster than the one chosen so far.
fn choose(medians: &[(DurableWrite, Duration)]) -> DurableWrite {
    let time_of = |wanted| medians.iter().find(|(way, _)| *way == wanted).map(|(_, time)| *time);
    let Some(usual) = time_of(DurableWrite::ThenSync) else { return DurableWrite::ThenSync };
    let faster = |chosen: (DurableWrite, Duration), way: DurableWrite, percent_max: u32| match time_of(way) {
        Some(time) if time * 100 < chosen.1 * percent_max => (way, time),
        _ => chosen,
    };
    let direct = faster((DurableWrite::ThenSync, usual), DurableWrite::Dsync, PERCENT_MAX);
    let ring = [DurableWrite::UringDsync, DurableWrite::UringThenSync];
    // Of two rings the faster one: neither is simpler.
    let ring = ring.into_iter().filter_map(|way| Some((way, time_of(way)?))).min_by_key(|(_, time)| *time);
    ring.map_or(direct, |(way, _)| faster(direct, way, PERCENT_MAX_RING)).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Disk, MemoryDisk};

    #[test]
    fn what_is_fastest_does_not_change_how_somebody_wants_it() {
        let mut way = Way { found: DurableWrite::Dsync, ..Way::default() };
        assert_eq!(way.now(), DurableWrite::Dsync);
        way.given = Some(DurableWrite::UringThenSync);
        way.found = DurableWrite::UringDsync;
        assert_eq!(way.now(), DurableWrite::UringThenSync);
    }

    #[test]
    fn another_way_is_taken_only_if_it_is_clearly_faster() {
        let times = |micros: [u64; 3]| {
            let ways = [DurableWrite::ThenSync, DurableWrite::Dsync, DurableWrite::UringDsync];
            ways.into_iter().zip(micros.map(Duration::from_micros)).collect::<Vec<_>>()
        };
        assert_eq!(choose(&times([100, 91, 95])), DurableWrite::ThenSync);
        assert_eq!(choose(&times([100, 89, 95])), DurableWrite::Dsync);
        assert_eq!(choose(&times([100, 95, 76])), DurableWrite::ThenSync, "a ring must gain a quarter");
        assert_eq!(choose(&times([100, 95, 74])), DurableWrite::UringDsync);
        assert_eq!(choose(&times([4007, 1643, 1500])), DurableWrite::Dsync);
        assert_eq!(choose(&times([4007, 1643, 1100])), DurableWrite::UringDsync);
        assert_eq!(choose(&times([100, 300, 200])), DurableWrite::ThenSync);
        assert_eq!(choose(&[]), DurableWrite::ThenSync);
    }

    #[test]
    fn the_probe_leaves_nothing_behind_and_knows_what_the_storage_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probe");
        fastest_way(&Disk::new(), &path, || true).unwrap();
        assert!(!path.exists());
        assert_eq!(measure(&Disk::posix(), &path, || true).unwrap().len(), 2, "two ways need no ring");
        let memory = MemoryDisk::new();
        memory.create_dir_all(Path::new("/log")).unwrap();
        let path = Path::new("/log/probe");
        assert_eq!(fastest_way(&memory, path, || true).unwrap(), DurableWrite::ThenSync);
        assert!(memory.open(path, Access::Read).is_err());
    }

    #[test]
    fn every_way_writes_what_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, path) = (Disk::new(), dir.path().join("file"));
        drop(disk.open(&path, Access::CreateNew).unwrap());
        let file = disk.open(&path, Access::WriteDirect).unwrap();
        for (number, way) in DurableWrite::ALL.into_iter().enumerate() {
            let mut bytes = AlignedBuffer::zeroed(3 * BLOCK_SIZE);
            bytes.fill(number as u8 + 1);
            let offset = (number * 3 * BLOCK_SIZE) as u64;
            match file.write_durable(&bytes, offset, way) {
                Ok(()) => {
                    let mut read = AlignedBuffer::zeroed(3 * BLOCK_SIZE);
                    crate::storage::read_exact_at(&*file, &mut read, offset).unwrap();
                    assert_eq!(read[..], bytes[..], "{way}");
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{way}: {error}"),
            }
        }
    }
}
