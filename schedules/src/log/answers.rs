//! Who waits for a record to be flushed, and how it is told.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use seawall_wal::{Error, LogMode, Lsn, LsnWatch, Threads};
use shuttle::future::block_on;
use shuttle::thread;

use super::bench::{Bench, append, committers, payload};

/// Threads that wait, tasks that wait, and threads that wait for what others appended as well.
pub(crate) fn every_committer_is_answered_after_a_sync_of_its_record() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    committers(3, move |committer| {
        for number in 0..2 {
            let payload = payload(committer, number);
            let ticket = append(&log, &payload);
            let lsn = ticket.lsn();
            let flushed = match committer {
                0 => block_on(ticket),
                1 if number == 1 => log.flush(),
                _ => ticket.wait(),
            };
            assert!(flushed.expect("nothing failed") >= lsn);
            bench.assert_durable(lsn, &payload);
        }
    });
}

/// A commit of level `buffered`, and one who waits for its position.
pub(crate) fn a_record_that_nobody_waits_for_is_flushed_when_asked_for() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    committers(2, move |committer| {
        let payload = payload(committer, 0);
        let ticket = append(&log, &payload);
        let lsn = ticket.lsn();
        drop(ticket);
        log.request_flush();
        log.flushed().wait_for(lsn, None).expect("nothing failed");
        bench.assert_durable(lsn, &payload);
    });
}

/// One waits for no time, one for a short time, one for ever.
pub(crate) fn a_wait_with_a_deadline_ends_and_takes_nobodys_answer() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    committers(3, move |committer| {
        let payload = payload(committer, 0);
        let ticket = append(&log, &payload);
        let left = [Duration::ZERO, Duration::from_millis(2), Duration::from_secs(3600)][usize::from(committer)];
        match ticket.wait_until(seawall_wal::sync::now() + left) {
            Ok(lsn) => bench.assert_durable(lsn, &payload),
            Err(Error::TimedOut { lsn }) => {
                assert!(committer < 2, "there was time enough");
                assert_eq!(lsn, ticket.lsn());
                ticket.wait().expect("it is flushed all the same");
                bench.assert_durable(lsn, &payload);
            }
            Err(other) => panic!("nothing failed: {other}"),
        }
    });
}

/// Tasks that give up between tasks that do not.
pub(crate) fn a_ticket_that_is_dropped_takes_nobodys_wake_up() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    committers(3, move |committer| {
        let given_up = append(&log, &payload(committer, 0));
        let payload = payload(committer, 1);
        let ticket = append(&log, &payload);
        let lsn = ticket.lsn();
        {
            let mut given_up = pin!(given_up);
            let _ = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            thread::yield_now();
        }
        block_on(ticket).expect("nothing failed");
        bench.assert_durable(lsn, &payload);
    });
}

/// Where a log has no threads, who waits flushes, one after the other.
pub(crate) fn committers_without_a_flusher_take_turns() {
    let bench = Bench::new();
    let log = Arc::new(bench.open_with(LogMode::Append, Threads::Inline).0);
    committers(3, move |committer| {
        for number in 0..2 {
            let payload = payload(committer, number);
            let lsn = append(&log, &payload).wait().expect("nothing failed");
            bench.assert_durable(lsn, &payload);
        }
    });
}

/// Without a log: two raise it, threads and tasks wait, one of them for what is never reached.
pub(crate) fn a_position_wakes_everybody_it_has_reached() {
    let watch = Arc::new(LsnWatch::new(Lsn::ZERO));
    let waits: Vec<_> = (0..4_u64)
        .map(|waiter| {
            let watch = Arc::clone(&watch);
            thread::spawn(move || {
                let lsn = Lsn::new(1 + waiter);
                let reached = if waiter % 2 == 0 { watch.wait_for(lsn, None) } else { block_on(watch.reached(lsn)) };
                match reached {
                    Ok(at) => assert!(at >= lsn && waiter < 3),
                    Err(error) => assert!(matches!(error, Error::Closed) && waiter == 3),
                }
            })
        })
        .collect();
    let raising = Arc::clone(&watch);
    let raises = thread::spawn(move || raising.advance(Lsn::new(2)));
    watch.advance(Lsn::new(1));
    watch.advance(Lsn::new(3));
    raises.join().expect("it ends");
    let mut waits = waits.into_iter();
    waits.by_ref().take(3).for_each(|wait| wait.join().expect("it was reached"));
    watch.stop(Error::Closed);
    waits.for_each(|wait| wait.join().expect("it was told"));
}
