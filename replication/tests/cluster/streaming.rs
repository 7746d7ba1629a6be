//! A standby follows, falls behind, comes back, and is told good-bye.

use std::time::{Duration, Instant};

use seawall_engine::CommitLevel;
use seawall_replication::driver::{ClientState, NodeConfirmations, RegistryConfig, StandbyState};

use super::node::{
    Primary, assert_same, client_config, follow, make_standby, open_standby, put, start, until, until_status,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_made_from_nothing_becomes_equal_and_stays_so() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    primary.put(0, 2_000);
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.db.sync().unwrap()).await;
    // More than one segment of 64 KiB, and while it follows live.
    let lsn = primary.put(1_000, 4_000);
    assert!(lsn.offset() > 3 * 65_536);
    assert_same(&standby, &primary.db, lsn).await;
    let status = client.status().borrow().clone();
    assert_eq!((status.state, status.primary.as_str()), (ClientState::Streaming, "http://db"));
    until("the primary knows", || primary.registry.report()[0].positions.replay == lsn).await;
    let report = &primary.registry.report()[0];
    assert_eq!(
        (report.state, report.lag.replay.bytes, report.lag.replay.time),
        (StandbyState::Streaming, 0, Duration::ZERO)
    );
    // A standby refuses writes and says where they go.
    let refused = standby.existing_keyspace("k").unwrap().insert("a", "b").unwrap_err();
    assert!(refused.to_string().contains("http://db"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_comes_back_by_itself_after_either_side_was_gone() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let port = primary.server.address().port();
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.put(0, 300)).await;
    // The primary's port goes away while commits go on.
    let Primary { db, server, registry } = primary;
    drop((server, registry));
    until_status(&client, "it notices", |status| matches!(status.state, ClientState::Waiting { .. })).await;
    put(&db, 300, 900);
    let primary = Primary::over(db, RegistryConfig::default(), port).await;
    assert_same(&standby, &primary.db, primary.put(900, 1_000)).await;
    // The standby's process goes away.
    client.stop().await.unwrap();
    standby.close().unwrap();
    let lsn = primary.put(1_000, 1_500);
    let standby = open_standby(folders[1].path());
    let _client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, lsn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_feeds_another() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    primary.put(0, 500);
    let middle = make_standby(folders[1].path(), &primary.address()).await;
    let _first = follow(&middle, "middle", &primary.address());
    let middle = Primary::over(middle, RegistryConfig::default(), 0).await;
    let last = make_standby(folders[2].path(), &middle.address()).await;
    let _second = follow(&last, "last", &middle.address());
    assert_same(&last, &primary.db, primary.put(500, 1_500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_commit_crosses_in_pieces() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary_db = seawall_engine::Db::builder(folders[0].path()).open().unwrap();
    let primary = Primary::over(primary_db, RegistryConfig::default(), 0).await;
    let keyspace = primary.db.keyspace("k").unwrap();
    keyspace.insert("large", vec![7; 15 << 20]).unwrap();
    keyspace.insert("small", "x").unwrap();
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let _client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.db.sync().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_standby_has_the_log_at_once_and_shows_it_later() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    primary.put(0, 100);
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    // Much longer than flushing takes on a busy machine.
    let delay = Duration::from_secs(4);
    let config = client_config(&standby, "s", Some(&primary.address()));
    let client = start(seawall_replication::driver::ClientConfig { delay: Some(delay), ..config }, &standby, None);
    assert_same(&standby, &primary.db, primary.db.sync().unwrap()).await;
    let written = Instant::now();
    let lsn = primary.put(100, 200);
    until("it is on the standby's disk", || standby.log().flushed().value() >= lsn).await;
    assert!(written.elapsed() < delay, "flushing is not delayed");
    assert!(standby.visible() < lsn);
    // While it is late, the primary sees how late it is.
    tokio::time::sleep(delay / 2).await;
    let lag = primary.registry.report()[0].lag;
    assert!(lag.replay.bytes > 0 && lag.flush.bytes == 0, "{lag:?}");
    assert_same(&standby, &primary.db, lsn).await;
    assert!(written.elapsed() >= delay, "{:?}", written.elapsed());
    // Without the delay it applies what is left and goes on.
    client.stop().await.unwrap();
    let _client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.put(200, 300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_waits_until_the_last_byte_is_on_the_standbys_disk() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = follow(&standby, "s", &primary.address());
    until_status(&client, "it follows", |status| status.state == ClientState::Streaming).await;
    let lsn = primary.put(0, 2_000);
    primary.server.drain(Duration::from_secs(10)).await.unwrap();
    assert!(standby.log().flushed().value() >= lsn);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_levels_answer_when_enough_standbys_have_it_and_never_before() {
    use seawall_engine::Error;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let policy = Some("any 1 (s, t)".parse().unwrap());
    let primary = Primary::start(folders[0].path(), RegistryConfig { policy, ..RegistryConfig::default() }).await;
    let confirmations = std::sync::Arc::new(NodeConfirmations::new(primary.registry.clone()));
    primary.db.set_confirmations(Some(confirmations));
    let wait = |level, patience| {
        let mut batch = primary.db.batch();
        batch.put(&primary.db.keyspace("k").unwrap(), "key", "value");
        batch.commit_ticket_with(level).unwrap().wait_until(Instant::now() + patience)
    };
    // Those that cannot be answered need no patience, and those that can have all they need.
    let commit = |level| wait(level, Duration::from_millis(300));
    let commit_patiently = |level| wait(level, Duration::from_secs(20));
    assert!(matches!(commit(CommitLevel::RemoteFlush(1)), Err(Error::Indeterminate { .. })));
    assert!(matches!(commit(CommitLevel::RemoteFlush(3)), Err(Error::LevelUnavailable { .. })));
    assert!(matches!(commit(CommitLevel::Archived), Err(Error::LevelUnavailable { .. })));
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = follow(&standby, "s", &primary.address());
    until_status(&client, "it follows", |status| status.state == ClientState::Streaming).await;
    for level in [CommitLevel::RemoteWrite(1), CommitLevel::RemoteFlush(1), CommitLevel::RemoteReplay(1)] {
        let lsn = tokio::task::block_in_place(|| commit_patiently(level)).unwrap().lsn;
        assert!(standby.log().end().lsn >= lsn, "{level}");
        if level != CommitLevel::RemoteWrite(1) {
            assert!(standby.log().flushed().value() >= lsn, "{level}");
        }
    }
    assert!(matches!(
        tokio::task::block_in_place(|| commit(CommitLevel::RemoteFlush(2))),
        Err(Error::Indeterminate { .. })
    ));
}
