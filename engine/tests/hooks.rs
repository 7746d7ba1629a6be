//! What a node plugs into a database: admission before, confirmation after.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use common::inline;
use parking_lot::{Condvar, Mutex};
use seawall_engine::{Admission, Backpressure, CommitLevel, Confirmations, Error, Permit, Result};
use seawall_wal::Lsn;
use seawall_wal::storage::MemoryDisk;

#[derive(Debug, Default)]
struct Budget {
    left: AtomicU64,
    held: Arc<AtomicUsize>,
}

struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Admission for Budget {
    fn admit(&self, bytes: u64, _: Option<Instant>) -> Result<Permit, Backpressure> {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(bytes));
        match taken {
            Ok(_) => {
                self.held.fetch_add(1, Ordering::SeqCst);
                Ok(Permit::holding(Held(Arc::clone(&self.held))))
            }
            Err(_) => Err(Backpressure {
                reason: String::from("replication lag"),
                subject: String::from("b"),
                retry_after: Duration::from_millis(250),
            }),
        }
    }
}

#[test]
fn a_commit_that_is_not_admitted_leaves_no_trace() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let budget = Arc::new(Budget { left: AtomicU64::new(1_200), ..Budget::default() });
    db.set_admission(Some(budget.clone()));
    keys.insert("a", vec![0; 1_000]).unwrap();
    assert_eq!(budget.held.load(Ordering::SeqCst), 0, "the reservation ends when the record is in the log");
    let end = db.log().end();
    let refused = keys.insert("b", vec![0; 1_000]).unwrap_err();
    assert_eq!(refused.to_string(), "not admitted: replication lag (b); try again in 250 ms");
    assert!(matches!(refused, Error::Backpressure(Backpressure { retry_after, .. }) if retry_after.as_millis() == 250));
    assert_eq!(db.log().end(), end);
    db.append_time().unwrap();
    db.keyspace("internal").unwrap();
    db.drop_keyspace("internal").unwrap();
    db.append_restore_point("before the accident").unwrap();
    db.set_admission(None);
    keys.insert("b", vec![0; 1_000]).unwrap();
}

#[derive(Debug, Default)]
struct Standbys {
    confirmed: Mutex<(Lsn, Vec<Waker>)>,
    changed: Condvar,
}

impl Standbys {
    fn confirm(&self, lsn: Lsn) {
        let mut confirmed = self.confirmed.lock();
        confirmed.0 = lsn;
        confirmed.1.drain(..).for_each(Waker::wake);
        self.changed.notify_all();
    }
}

impl Confirmations for Standbys {
    fn wait(&self, lsn: Lsn, level: CommitLevel, deadline: Option<Instant>) -> Result<()> {
        assert_eq!(level, CommitLevel::RemoteFlush(1));
        let mut confirmed = self.confirmed.lock();
        while confirmed.0 < lsn {
            let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(30));
            if self.changed.wait_until(&mut confirmed, deadline).timed_out() {
                return Err(Error::Indeterminate { lsn, why: "the deadline passed".into() });
            }
        }
        Ok(())
    }

    fn confirmed(&self, _: CommitLevel) -> Result<Lsn> {
        Ok(self.confirmed.lock().0)
    }

    fn poll(&self, lsn: Lsn, _: CommitLevel, waker: &Waker) -> Result<bool> {
        let mut confirmed = self.confirmed.lock();
        confirmed.1.push(waker.clone());
        Ok(confirmed.0 >= lsn)
    }
}

#[test]
fn levels_beyond_local_wait_for_the_node_and_end_in_doubt_not_in_failure() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    let standbys = Arc::new(Standbys::default());
    db.set_confirmations(Some(standbys.clone()));
    let level = CommitLevel::RemoteFlush(1);
    let commit = |key: &str| {
        let mut batch = db.batch();
        batch.put(&keys, key, "v");
        batch
    };
    let mut late = commit("late");
    late.deadline(Instant::now() + Duration::from_millis(30));
    let doubt = late.commit_with(level).unwrap_err();
    let Error::Indeterminate { lsn, .. } = doubt else { panic!("{doubt}") };
    assert!(keys.contains("late").unwrap(), "levels govern answers, not visibility");
    let confirmed = db.snapshot_at_level(level);
    assert!(confirmed.unwrap().get(&keys, "late").unwrap().is_none(), "a reader at the level does not see it yet");
    standbys.confirm(lsn);
    assert!(db.snapshot_at_level(level).unwrap().get(&keys, "late").unwrap().is_some());
    let ticket = commit("threaded").commit_ticket_with(level).unwrap();
    let lsn = ticket.lsn();
    let confirming = {
        let standbys = standbys.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            standbys.confirm(lsn);
        })
    };
    assert_eq!(ticket.wait().unwrap().lsn, lsn);
    confirming.join().unwrap();
    let mut ticket = std::pin::pin!(commit("task").commit_ticket_with(level).unwrap());
    let mut context = std::task::Context::from_waker(Waker::noop());
    db.sync().unwrap();
    assert!(ticket.as_mut().poll(&mut context).is_pending());
    standbys.confirm(Lsn::MAX);
    assert!(matches!(ticket.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(_))));
}
