use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;
use seawall_wal::SegmentSize;
use seawall_wal::storage::MemoryDisk;

use crate::{Admission, Background, Backpressure, CommitLevel, Db, Error, Permit};

/// Keeps the first who asks waiting, between the transaction's first look and its append.
#[derive(Debug)]
struct Doorkeeper(Mutex<Option<(Sender<()>, Receiver<()>)>>);

impl Admission for Doorkeeper {
    fn admit(&self, _: u64, _: Option<Instant>) -> Result<Permit, Backpressure> {
        let first = self.0.lock().take();
        if let Some((asked, go_on)) = first {
            asked.send(()).expect("the test waits for this");
            go_on.recv().expect("the test lets it in");
        }
        Ok(Permit::free())
    }
}

#[test]
fn what_is_in_the_log_and_waits_to_be_applied_conflicts() {
    let builder = Db::builder("/d").storage(Arc::new(MemoryDisk::new())).segment_size(SegmentSize::MIN);
    let db = builder.background(Background::Inline).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("a", "1").unwrap();
    let mut transaction = db.transaction().unwrap();
    let seen = transaction.get(&keys, "a").unwrap().unwrap();
    transaction.put(&keys, "b", seen).unwrap();
    let ((asked, asks), (go_on, goes_on)) = (channel(), channel());
    db.set_admission(Some(Arc::new(Doorkeeper(Mutex::new(Some((asked, goes_on)))))));
    let outcome = thread::scope(|scope| {
        let committing = scope.spawn(|| transaction.commit());
        asks.recv().unwrap();
        // While somebody has the right to apply, others' commits are appended and wait.
        let applier = db.core().pending.applier();
        let mut batch = db.batch();
        batch.put(&keys, "a", "2");
        batch.commit_with(CommitLevel::Buffered).unwrap();
        go_on.send(()).unwrap();
        drop(applier);
        committing.join().unwrap()
    });
    assert!(matches!(outcome, Err(Error::Conflict { .. })), "{outcome:?}");
}
