//! What a commit may cost the allocator, counted by the allocator itself.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Waker};

use seawall_wal::storage::Disk;
use seawall_wal::{
    ClusterId, Log, LogMode, LogOptions, Lsn, NodeId, OpenAt, Position, RecordKind, SystemClock, TimelineHistory,
    TimelineNonce, Timestamp,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_thousand_commits_that_wait_together_allocate_nothing_each() {
    const COMMITS: usize = 1024;
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions::new(ClusterId::random(), NodeId::random());
    let at = OpenAt {
        history: TimelineHistory::first(TimelineNonce::random()),
        start: Position::ZERO,
        time_floor: Timestamp(0),
        watermark: Lsn::ZERO,
    };
    let (storage, clock) = (Arc::new(Disk::new()), Arc::new(SystemClock));
    let (log, _) =
        Log::open::<seawall_wal::Error>(storage, clock, dir.path(), options, &at, LogMode::Append, |_| Ok(())).unwrap();
    let mut tickets = Vec::with_capacity(COMMITS);
    let mut round = || {
        let before = (ALLOCATIONS.load(Relaxed), log.stats().flushes);
        for _ in 0..COMMITS {
            tickets.push(log.append(RecordKind::Commit, &[7; 96]).unwrap());
        }
        for ticket in &mut tickets {
            let mut context = Context::from_waker(Waker::noop());
            let _ = pin!(ticket).poll(&mut context);
        }
        log.flush().unwrap();
        assert!(tickets.iter().all(|ticket| ticket.is_flushed()));
        tickets.clear();
        (ALLOCATIONS.load(Relaxed) - before.0, log.stats().flushes - before.1)
    };
    // The first rounds make the buffers and lists that go round from then on.
    for _ in 0..3 {
        round();
    }
    let rounds: Vec<_> = (0..20).map(|_| round()).collect();
    let (allocations, flushes) = rounds.iter().fold((0, 0), |sum, round| (sum.0 + round.0, sum.1 + round.1));
    println!("{allocations} allocations in {flushes} flushes of {} commits", 20 * COMMITS);
    assert!(allocations < 20 * COMMITS / 20, "{rounds:?}");
}
