//! Disks that fail while others wait for them.

use std::sync::Arc;

use seawall_wal::storage::{Fault, FaultyOperation};
use seawall_wal::{Error, Lsn, RecordKind, Result, Ticket};
use shuttle::future::block_on;

use super::bench::{Bench, committers, payload};

const EIO: i32 = 5;

/// The second sync of the log fails, whoever asks for it.
pub(crate) fn a_failed_sync_is_told_to_all_who_wait_and_all_who_come_later() {
    let bench = Bench::new();
    bench.faulty.fail_under(&Bench::segment(0), FaultyOperation::Sync, 1, Fault::Error(EIO));
    let log = Arc::new(bench.open());
    let (known, told) = (bench.clone(), Arc::clone(&log));
    let answers = committers(3, move |committer| {
        let mut answers = Vec::new();
        for number in 0..2 {
            let payload = payload(committer, number);
            let ticket = match told.append(RecordKind::Commit, &payload) {
                Ok(ticket) => ticket,
                Err(error) => {
                    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
                    continue;
                }
            };
            let lsn = ticket.lsn();
            match wait(ticket, committer) {
                Ok(_) => known.assert_durable(lsn, &payload),
                Err(error) => assert!(matches!(error, Error::Poisoned { .. }), "{error}"),
            }
            answers.push(lsn);
        }
        answers
    });
    // The first group may have held all of them: then this one is in the second.
    let last = log.append(RecordKind::Commit, &payload(9, 9)).and_then(|ticket| ticket.wait());
    let flushed = log.flushed().value();
    assert!(last.is_ok() || matches!(last, Err(Error::Poisoned { .. })), "{last:?}");
    if flushed < answers.into_iter().flatten().max().unwrap_or(Lsn::ZERO) {
        assert!(log.poisoned().is_some(), "what was not flushed was given up");
    }
    if log.poisoned().is_some() {
        let late = log.append(RecordKind::Commit, b"late").map(drop);
        assert!(matches!(late, Err(Error::Poisoned { .. })), "it takes nothing more");
        assert!(matches!(log.flush(), Err(Error::Poisoned { .. }) | Ok(_)));
        assert_eq!(log.flushed().value(), flushed, "nothing is flushed any more");
    }
}

fn wait(ticket: Ticket, committer: u8) -> Result<Lsn> {
    match committer {
        0 => block_on(ticket),
        _ => ticket.wait(),
    }
}
