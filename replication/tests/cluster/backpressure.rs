//! Standbys that fall behind, vanish or stand still, and what that does to commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seawall_engine::{Db, Error};
use seawall_replication::driver::{NodeAdmission, RegistryConfig, StandbyState};
use seawall_replication::message::StandbyName;
use seawall_replication::throttle::{Bound, Limits, Mode};
use seawall_wal::Lsn;

use super::node::{Primary, assert_same, follow, key_of, make_standby, until};

const CEILING: u64 = 400_000;

fn limited(required: &[&str]) -> RegistryConfig {
    let limits = Limits { standby_bytes: Some(Bound { target: 200_000, ceiling: CEILING }), ..Limits::default() };
    limits.validate(super::node::SIZE).unwrap();
    RegistryConfig {
        required: required.iter().map(|name| StandbyName::new(name).unwrap()).collect(),
        limits,
        admission_timeout: Some(Duration::from_millis(200)),
        leave_after: Duration::from_millis(500),
        ..RegistryConfig::default()
    }
}

async fn primary(folder: &std::path::Path, config: RegistryConfig) -> Primary {
    let primary = Primary::start(folder, config).await;
    primary.db.set_admission(Some(Arc::new(NodeAdmission::new(primary.registry.clone()))));
    primary.db.keyspace("k").unwrap();
    primary
}

/// Commits until it is refused; says why and how far the log got.
fn write_until_refused(db: &Db) -> (String, Lsn) {
    let keyspace = db.keyspace("k").unwrap();
    for key in 0_u32..10_000 {
        match keyspace.insert(key_of(key), [7; 1_000]) {
            Ok(_) => {}
            Err(Error::Backpressure(backpressure)) => return (backpressure.to_string(), db.log().end().lsn),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("10 MB were let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_standby_that_vanished_stops_writes_at_the_ceiling_and_lets_them_go_on_when_it_is_back() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = primary(folders[0].path(), limited(&["s"])).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.put(0, 50)).await;
    client.stop().await.unwrap();
    until("it is missed", || primary.registry.report()[0].state == StandbyState::Missing).await;
    let confirmed = standby.log().flushed().value();
    let db = primary.db.clone();
    let (why, end) = tokio::task::spawn_blocking(move || write_until_refused(&db)).await.unwrap();
    assert!(why.contains("standby lag in bytes") && why.contains("(s)"), "{why}");
    assert!(end.distance_from(confirmed) <= CEILING, "{end} is more than the ceiling beyond {confirmed}");
    // A required standby is never left behind, however long it is away.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let report = &primary.registry.report()[0];
    assert!(report.counted && report.lag.flush.bytes > 0 && report.lag.flush.time > Duration::from_secs(1));
    assert!(!matches!(primary.registry.throttle().mode, Mode::Free));
    let _client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.db.log().flushed().value()).await;
    let db = primary.db.clone();
    let lsn = tokio::task::spawn_blocking(move || super::node::put(&db, 0, 100)).await.unwrap();
    assert_same(&standby, &primary.db, lsn).await;
    assert_eq!(primary.registry.throttle().mode, Mode::Free);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_not_required_is_left_behind_after_its_timeout() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = primary(folders[0].path(), limited(&[])).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.put(0, 50)).await;
    until("it counts", || primary.registry.report()[0].counted).await;
    client.stop().await.unwrap();
    until("it counts no more", || !primary.registry.report()[0].counted).await;
    let db = primary.db.clone();
    let lsn = tokio::task::spawn_blocking(move || {
        let keyspace = db.keyspace("k").unwrap();
        for key in 0..1_000 {
            keyspace.insert(key_of(key), [7; 1_000]).unwrap();
        }
        db.sync().unwrap()
    });
    let lsn = lsn.await.unwrap();
    assert!(lsn.offset() > 2 * CEILING);
    // It is still a standby, and counts again once it has caught up.
    let _client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, lsn).await;
    until("it counts again", || primary.registry.report()[0].counted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_the_ceiling_is_never_passed_while_a_standby_comes_and_goes() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = primary(folders[0].path(), limited(&["s"])).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let committed = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4_u32)
        .map(|writer| {
            let (db, stop, committed) = (primary.db.clone(), stop.clone(), committed.clone());
            std::thread::spawn(move || {
                let keyspace = db.keyspace("k").unwrap();
                let mut key = writer;
                while !stop.load(Ordering::Relaxed) {
                    match keyspace.insert(key_of(key), [7; 700]) {
                        Ok(_) => drop(committed.fetch_add(1, Ordering::Relaxed)),
                        Err(Error::Backpressure(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                    key += 4;
                }
            })
        })
        .collect();
    let ended = Instant::now() + Duration::from_secs(4);
    while Instant::now() < ended {
        let client = follow(&standby, "s", &primary.address());
        for _ in 0..40 {
            // In this order: what the standby has can only grow until the end is looked at.
            let confirmed = standby.log().flushed().value();
            let end = primary.db.log().end().lsn;
            assert!(end.distance_from(confirmed) <= CEILING + 200_000, "{end} against {confirmed}");
            let told = primary.registry.report()[0].positions.flush;
            assert!(told <= standby.log().flushed().value(), "nothing is confirmed that is not there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.stop().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let confirmed = standby.log().flushed().value();
        assert!(primary.db.log().end().lsn.distance_from(confirmed) <= CEILING);
    }
    stop.store(true, Ordering::Relaxed);
    let _client = follow(&standby, "s", &primary.address());
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert!(committed.load(Ordering::Relaxed) > 1_000, "{committed:?} commits entered");
    assert_same(&standby, &primary.db, primary.db.sync().unwrap()).await;
}

/// A primary that is killed again and again within its first second kept no slot, and recycled what its standby needed.
#[test]
fn a_slot_is_durable_before_the_standby_counts_on_it() {
    use seawall_replication::driver::{Registry, SlotFile};
    use seawall_wal::storage::Disk;
    use seawall_wal::{Lsn, NodeId, SystemClock};
    let folder = tempfile::tempdir().unwrap();
    let db = Db::builder(folder.path()).segment_size(super::node::SIZE).open().unwrap();
    let file = || SlotFile::in_folder(Arc::new(Disk::posix()), folder.path());
    let (name, node) = ("s".parse().unwrap(), NodeId::random());
    let end = super::node::put(&db, 0, 100);
    let earlier = Lsn::new(end.offset() / 2);
    // Nothing but the standby's coming happens to each of them. The last one finds the standby with less than it had.
    for (position, kept) in [(end, end), (end, end), (earlier, earlier)] {
        let registry = Registry::open(limited(&[]), Arc::new(db.clone()), Arc::new(SystemClock), Some(file())).unwrap();
        registry.join(&name, node, "127.0.0.1:1", position).unwrap();
        let saved = file().load().unwrap();
        assert_eq!(saved.get(&name).map(|slot| slot.restart), Some(kept));
        assert_eq!(registry.holders(None)[0].from, kept);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_outlives_the_process_and_a_required_standby_still_counts_from_it() {
    use seawall_replication::driver::{Registry, SlotFile};
    use seawall_wal::SystemClock;
    use seawall_wal::storage::Disk;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let db = Db::builder(folders[0].path()).segment_size(super::node::SIZE).open().unwrap();
    let open = || {
        let file = SlotFile::in_folder(Arc::new(Disk::posix()), folders[0].path());
        Registry::open(limited(&["s"]), Arc::new(db.clone()), Arc::new(SystemClock), Some(file))
    };
    let registry = open().unwrap();
    let server = seawall_replication::driver::ServerConfig::new(
        ([127, 0, 0, 1], 0).into(),
        db.cluster(),
        db.node(),
        super::node::SIZE,
    );
    let server = seawall_replication::driver::ReplicationServer::start(server, Arc::new(db.clone()), registry.clone());
    let server = server.await.unwrap();
    let standby = make_standby(folders[1].path(), &server.address().to_string()).await;
    let client = follow(&standby, "s", &server.address().to_string());
    let confirmed = super::node::put(&db, 0, 100);
    until("it is confirmed", || registry.report()[0].positions.flush == confirmed).await;
    client.stop().await.unwrap();
    registry.tick().unwrap();
    drop((server, registry));
    super::node::put(&db, 100, 200);

    let registry = open().unwrap();
    let report = &registry.report()[0];
    assert_eq!((report.state, report.positions.flush), (StandbyState::Missing, confirmed));
    assert!(report.lag.flush.bytes > 0 && report.counted);
    let holders = registry.holders(None);
    assert_eq!((holders.len(), holders[0].from), (1, confirmed), "its log is kept");
    assert!(registry.holders(Some(confirmed.advance(8))).is_empty(), "unless the archive has it");

    // A damaged slot file is not guessed at.
    drop(registry);
    std::fs::write(folders[0].path().join("slots"), b"SEAWSLOTnonsense").unwrap();
    assert!(open().unwrap_err().to_string().contains("slots cannot be used"));
}
