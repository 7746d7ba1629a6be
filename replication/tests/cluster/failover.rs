//! A standby takes over; the others follow it, and the old primary is told.

use parking_lot::Mutex;
use seawall_engine::Db;
use seawall_replication::Error;
use seawall_replication::driver::{ClientState, PromotionActs, RegistryConfig, promote};
use seawall_replication::promotion::{Candidate, PromotionRequest};
use seawall_wal::{
    FenceOutcome, LogBytes, Lsn, Position, TimelineClaim, TimelineHistory, TimelineId, TimelineNonce, Timestamp,
};

use super::node::{Primary, SIZE, assert_same, follow, key_of, make_standby, open_standby, put, until, until_status};

/// A node that promotes itself, with an archive that is only a fence and a claim.
#[derive(Debug)]
struct Acts {
    db: Db,
    archived: Mutex<Vec<LogBytes>>,
    fence: Mutex<Option<Lsn>>,
    newest: Mutex<Option<TimelineHistory>>,
}

impl Acts {
    fn new(db: &Db) -> Self {
        Self { db: db.clone(), archived: Mutex::default(), fence: Mutex::default(), newest: Mutex::default() }
    }

    fn candidate(&self, upstream_flush: Lsn) -> Candidate {
        Candidate {
            history: self.db.history(),
            position: self.db.log().end(),
            last_time: self.db.log().last_time(),
            segment_size: SIZE,
            upstream_flush,
        }
    }
}

impl PromotionActs for Acts {
    fn newest(&self) -> seawall_wal::Result<Option<TimelineHistory>> {
        Ok(self.newest.lock().clone())
    }

    fn fetch(&self, _: TimelineId, from: Lsn) -> seawall_wal::Result<Option<LogBytes>> {
        Ok(self.archived.lock().iter().find(|piece| piece.start == from).cloned())
    }

    fn apply(&self, log: &LogBytes) -> Result<Position, Error> {
        let position = self.db.receive(log).unwrap();
        self.db.flush_received().unwrap();
        Ok(position)
    }

    fn archive(&self, _: TimelineId, to: Position) -> seawall_wal::Result<Lsn> {
        Ok(to.lsn)
    }

    fn fence(&self, _: TimelineId, _: TimelineNonce, at: Position) -> seawall_wal::Result<FenceOutcome> {
        *self.fence.lock() = Some(at.lsn);
        Ok(FenceOutcome::Fenced(at.lsn))
    }

    fn claim(&self, _: &TimelineClaim, history: &TimelineHistory) -> seawall_wal::Result<()> {
        *self.newest.lock() = Some(history.clone());
        Ok(())
    }

    fn begin(&self, history: &TimelineHistory) -> Result<(), Error> {
        self.db.promote(history).unwrap();
        Ok(())
    }
}

fn request(archive: bool) -> PromotionRequest {
    PromotionRequest {
        node: "b".to_owned(),
        archive,
        unfenced: !archive,
        lag_bytes_max: None,
        nonce: TimelineNonce::random(),
        now: Timestamp(u64::MAX / 2),
    }
}

async fn promoted(db: &Db, archive: bool) {
    let acts = Acts::new(db);
    let candidate = acts.candidate(Lsn::ZERO);
    tokio::task::spawn_blocking(move || promote(candidate, request(archive), &acts)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_is_followed_past_the_void_and_the_old_primary_learns() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let old = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let b = make_standby(folders[1].path(), &old.address()).await;
    let c = make_standby(folders[2].path(), &old.address()).await;
    let (b_client, c_client) = (follow(&b, "b", &old.address()), follow(&c, "c", &old.address()));
    let lsn = old.put(0, 500);
    assert_same(&b, &old.db, lsn).await;
    assert_same(&c, &old.db, lsn).await;
    b_client.stop().await.unwrap();
    c_client.stop().await.unwrap();

    promoted(&b, true).await;
    let new = Primary::over(b, RegistryConfig::default(), 0).await;
    let c_client = follow(&c, "c", &new.address());
    let lsn = new.put(500, 1_000);
    assert_same(&c, &new.db, lsn).await;
    assert_eq!(c.history().current().id, TimelineId(2));

    // Pointed at the old primary again, it takes not a byte, and the old primary learns that it is history.
    c_client.stop().await.unwrap();
    let before = c.log().end();
    old.put(2_000, 2_100);
    let c_client = follow(&c, "c", &old.address());
    let status =
        until_status(&c_client, "it refuses", |status| matches!(status.state, ClientState::Refused { .. })).await;
    let ClientState::Refused { why } = status.state else { unreachable!() };
    assert!(why.contains("older than the one this node follows"), "{why}");
    assert_eq!(c.log().end(), before);
    let superseded = old.registry.watch_superseded().borrow().clone();
    assert_eq!(superseded.unwrap().current().id, TimelineId(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_with_nothing_of_its_own_becomes_a_standby() {
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let old = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let b = make_standby(folders[1].path(), &old.address()).await;
    let client = follow(&b, "b", &old.address());
    assert_same(&b, &old.db, old.put(0, 300)).await;
    client.stop().await.unwrap();
    let Primary { db, server, registry } = old;
    drop((server, registry));
    db.close().unwrap();
    promoted(&b, true).await;
    let new = Primary::over(b, RegistryConfig::default(), 0).await;
    let lsn = new.put(300, 600);
    let old = open_standby(folders[0].path());
    let _client = follow(&old, "a", &new.address());
    assert_same(&old, &new.db, lsn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_with_commits_nobody_received_is_told_and_keeps_them() {
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let old = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let b = make_standby(folders[1].path(), &old.address()).await;
    let client = follow(&b, "b", &old.address());
    assert_same(&b, &old.db, old.put(0, 300)).await;
    client.stop().await.unwrap();
    let Primary { db, server, registry } = old;
    drop((server, registry));
    put(&db, 5_000, 5_010);
    db.close().unwrap();
    promoted(&b, true).await;
    let fork = b.history().current().fork.lsn;
    let new = Primary::over(b, RegistryConfig::default(), 0).await;
    new.put(300, 600);
    let old = open_standby(folders[0].path());
    let end = old.log().end();
    assert!(end.lsn > fork);
    let client = follow(&old, "a", &new.address());
    let status =
        until_status(&client, "it is told", |status| matches!(status.state, ClientState::Diverged { .. })).await;
    let ClientState::Diverged { common, why } = status.state else { unreachable!() };
    assert_eq!(common, fork);
    assert!(why.contains("must rewind or be rebuilt"), "{why}");
    assert_eq!(old.log().end(), end, "its own commits are still there");
    assert_eq!(&*old.existing_keyspace("k").unwrap().get(key_of(5_009)).unwrap().unwrap(), b"value 5009");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cascading_standby_that_is_promoted_takes_its_standbys_with_it() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let old = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let middle = make_standby(folders[1].path(), &old.address()).await;
    let middle_client = follow(&middle, "middle", &old.address());
    let middle = Primary::over(middle, RegistryConfig::default(), 0).await;
    let last = make_standby(folders[2].path(), &middle.address()).await;
    let last_client = follow(&last, "last", &middle.address());
    assert_same(&last, &old.db, old.put(0, 300)).await;
    middle_client.stop().await.unwrap();
    promoted(&middle.db, false).await;
    let lsn = middle.put(300, 600);
    assert_same(&last, &middle.db, lsn).await;
    // It went over on the same connection.
    until("it streams", || last_client.status().borrow().state == ClientState::Streaming).await;
    assert_eq!(middle.registry.report()[0].connects, 1);
}
