//! The end of a log while others wait.

use std::sync::Arc;

use seawall_wal::storage::{Fault, FaultyOperation};
use seawall_wal::{Error, Log, Lsn, Result, Ticket};
use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle};

use super::bench::{Bench, append, payload};

const EIO: i32 = 5;

struct Waiting {
    answer: JoinHandle<Result<Lsn>>,
    lsn: Lsn,
    payload: Vec<u8>,
}

/// Three records, before anything is flushed: one is waited for by a thread, one by a task, one by nobody.
fn waiting(log: &Log) -> [Waiting; 2] {
    let tickets = [0, 1, 2].map(|committer| append(log, &payload(committer, 0)));
    let wait = |committer: u8, ticket: Ticket, wait: fn(Ticket) -> Result<Lsn>| Waiting {
        lsn: ticket.lsn(),
        answer: thread::spawn(move || wait(ticket)),
        payload: payload(committer, 0),
    };
    let [first, second, _] = tickets;
    [wait(0, first, |ticket| ticket.wait()), wait(1, second, block_on)]
}

/// It flushes before it ends, so that each answer is the good one.
pub(crate) fn closing_ends_and_everybody_gets_an_answer() {
    let bench = Bench::new();
    let log = bench.open();
    let waits = waiting(&log);
    let end = log.end().lsn;
    assert!(log.close().expect("nothing failed") >= end);
    bench.assert_durable(end, &payload(2, 0));
    for Waiting { answer, lsn, payload } in waits {
        assert!(answer.join().expect("it ends").expect("what was appended before is flushed") >= lsn);
        bench.assert_durable(lsn, &payload);
    }
}

/// Its last flush fails.
pub(crate) fn closing_a_log_that_failed_ends_and_everybody_gets_an_answer() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    bench.faulty.fail_under(&Bench::segment(0), FaultyOperation::Sync, 0, Fault::Error(EIO));
    let waits = waiting(&log);
    let closed = Arc::into_inner(log).expect("nobody else has it").close();
    assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
    for Waiting { answer, lsn, payload } in waits {
        match answer.join().expect("it ends") {
            Ok(_) => bench.assert_durable(lsn, &payload),
            Err(error) => assert!(matches!(error, Error::Poisoned { .. }), "{error}"),
        }
    }
}
