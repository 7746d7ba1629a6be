//! Those who pass the log on while it grows, and a log that grows by what others pass on.

use std::sync::Arc;

use seawall_wal::{Error, Log, LogMode, Lsn, RecordKind, Threads};
use shuttle::thread;

use super::bench::{Bench, append, committers, payload};

const RECORDS: usize = 4;

fn end_of(payloads: &[Vec<u8>]) -> bool {
    payloads.len() == RECORDS
}

/// One reads records, from memory or from the disk, while two append.
pub(crate) fn who_follows_the_log_reads_every_record_once() {
    let bench = Bench::new();
    let log = Arc::new(bench.open());
    log.keep_recent();
    let start = log.end();
    let followed = Arc::clone(&log);
    let reader = thread::spawn(move || {
        let (mut reader, mut found) = (followed.reader(start), Vec::new());
        while !end_of(&found) {
            while let Some(record) = reader.next_record().expect("what is flushed can be read") {
                found.push(record.payload.to_vec());
            }
            let at = reader.position().lsn;
            if !end_of(&found) {
                followed.flushed().wait_for(Lsn::new(at.offset() + 1), None).expect("more comes");
            }
        }
        found
    });
    committers(2, move |committer| {
        for number in 0..2 {
            let _ = append(&log, &payload(committer, number)).wait().expect("nothing failed");
        }
    });
    let found = reader.join().expect("it ends");
    for committer in 0..2 {
        let own: Vec<_> = found.iter().filter(|found| found[0] == committer + 1).cloned().collect();
        assert_eq!(own, [payload(committer, 0), payload(committer, 1)]);
    }
}

/// It receives what its primary flushed, and acknowledges it from another thread.
pub(crate) fn a_standby_has_what_it_acknowledged() {
    let (there, here) = (Bench::new(), Bench::new());
    let primary = there.open();
    let payloads: Vec<_> = (0..RECORDS as u8).map(|number| payload(0, number)).collect();
    let ends: Vec<Lsn> = payloads.iter().map(|payload| append(&primary, payload).lsn()).collect();
    primary.flush().expect("nothing failed");
    let standby = Arc::new(here.open_with(LogMode::Receive, Threads::Background).0);
    let (receiving, last) = (Arc::clone(&standby), ends[RECORDS - 1]);
    let receiver = thread::spawn(move || receive(&receiving, &primary, last));
    let (waiting, known) = (Arc::clone(&standby), here.clone());
    let waiter = thread::spawn(move || {
        for (lsn, payload) in ends.iter().zip(&payloads) {
            waiting.flushed().wait_for(*lsn, None).expect("nothing failed");
            known.assert_durable(*lsn, payload);
        }
    });
    while standby.flush_received().expect("nothing failed") < last {
        thread::yield_now();
    }
    receiver.join().expect("it ends");
    waiter.join().expect("it ends");
}

fn receive(standby: &Log, primary: &Log, last: Lsn) {
    while standby.end().lsn < last {
        let bytes = primary.read(standby.end().lsn, 1).expect("what is flushed can be read").expect("there is more");
        let received = standby.receive::<Error>(&bytes, |record| {
            assert!(matches!(record.header.kind, RecordKind::Commit));
            Ok(())
        });
        received.expect("it continues the log");
    }
}
