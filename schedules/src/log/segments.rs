//! Segments that end while others append, and room that has to be waited for.

use std::sync::Arc;

use seawall_wal::storage::{Fault, FaultyOperation};
use seawall_wal::{Error, Log, LogMode, RecordKind, Threads, Ticket};

use super::bench::{Bench, LARGE, committers};

const ENOSPC: i32 = 28;

fn large(committer: u8, number: u8) -> Vec<u8> {
    let mut payload = vec![committer + 1; LARGE - 700];
    payload[0] = number;
    payload
}

/// Three records fill a segment, and there are six; each committer's are in its order, and all are there when the log is
/// opened again.
pub(crate) fn rotation_keeps_the_order_and_loses_nothing() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    let (known, shared) = (bench.clone(), Arc::clone(&log));
    committers(3, move |committer| {
        let tickets: Vec<(Ticket, Vec<u8>)> = (0..2)
            .map(|number| {
                let payload = large(committer, number);
                (shared.append(RecordKind::Commit, &payload).expect("there is room"), payload)
            })
            .collect();
        assert!(tickets[0].0.lsn() < tickets[1].0.lsn());
        assert!(tickets[0].0.time() < tickets[1].0.time());
        for (ticket, payload) in &tickets {
            let lsn = ticket.wait().expect("nothing failed");
            known.assert_durable(lsn, payload);
        }
    });
    close(log);
    let (again, payloads) = bench.open_with(LogMode::Append, Threads::Inline);
    assert_eq!(payloads.len(), 6);
    for committer in 0..3 {
        let own: Vec<u8> =
            payloads.iter().filter(|payload| payload[1] == committer + 1).map(|payload| payload[0]).collect();
        assert_eq!(own, [0, 1], "the records of committer {committer}");
    }
    drop(again);
}

/// More than the buffer takes is appended before anybody waits.
pub(crate) fn appends_wait_for_room_and_go_on() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    let (known, shared) = (bench.clone(), Arc::clone(&log));
    committers(2, move |committer| {
        let append = |number| shared.append(RecordKind::Commit, &large(committer, number)).expect("there will be room");
        let tickets = [append(0), append(1)];
        let lsn = tickets[1].wait().expect("nothing failed");
        known.assert_durable(lsn, &large(committer, 1));
        assert!(tickets[0].is_flushed(), "what comes before is flushed before");
    });
    close(log);
}

/// The disk is full when the second segment is made, and is not when it is tried again.
pub(crate) fn a_segment_that_cannot_be_had_at_first_is_had_later() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    // A spare is made under one name and gets its own by a renaming.
    bench.faulty.fail(FaultyOperation::Rename, 0, Fault::Error(ENOSPC));
    let shared = Arc::clone(&log);
    committers(2, move |committer| {
        for number in 0..2 {
            loop {
                match shared.append(RecordKind::Commit, &large(committer, number)) {
                    Ok(ticket) => {
                        let _ = ticket.wait().expect("nothing failed");
                        break;
                    }
                    Err(Error::DiskFull { .. }) => shuttle::thread::yield_now(),
                    Err(other) => panic!("nothing else failed: {other}"),
                }
            }
        }
    });
    close(log);
    assert_eq!(bench.open_with(LogMode::Append, Threads::Inline).1.len(), 4);
}

fn close(log: Arc<Log>) {
    Arc::into_inner(log).expect("nobody else has it").close().expect("nothing failed");
}
