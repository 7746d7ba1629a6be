//! Nodes of a cluster in one process: real databases, real sockets, short timeouts.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_engine::manifest::Manifest;
use seawall_engine::{Create, Db, Installation, LogRetention, OpenAs, Role};
use seawall_replication::driver::{
    ClientConfig, ClientStatus, Registry, RegistryConfig, ReplicationServer, ServerConfig, StandbyClient, identify,
};
use seawall_replication::message::StandbyName;
use seawall_wal::{Lsn, SegmentSize, SegmentSource, SystemClock};

pub(crate) const SIZE: SegmentSize = SegmentSize::MIN;
pub(crate) const TIMEOUT: Duration = Duration::from_millis(600);

/// A node that takes writes and feeds standbys.
pub(crate) struct Primary {
    pub(crate) db: Db,
    pub(crate) registry: Arc<Registry>,
    pub(crate) server: ReplicationServer,
}

impl Primary {
    pub(crate) async fn start(folder: &Path, config: RegistryConfig) -> Self {
        let db = Db::builder(folder)
            .segment_size(SIZE)
            .log_retention(LogRetention::Node)
            .blob_bytes(Some(10))
            .open()
            .unwrap();
        Self::over(db, config, 0).await
    }

    /// Feeds standbys from a database that is open, on a port or any.
    pub(crate) async fn over(db: Db, config: RegistryConfig, port: u16) -> Self {
        let owner = Arc::new(db.clone());
        let registry = Registry::open(config, owner.clone(), Arc::new(SystemClock), None).unwrap();
        let server = ServerConfig {
            timeout: TIMEOUT,
            handshake_timeout: TIMEOUT,
            peers_max: 8,
            primary: "http://db".to_owned(),
            ..ServerConfig::new(([127, 0, 0, 1], port).into(), db.cluster(), db.node(), db.log().options().segment_size)
        };
        let server = ReplicationServer::start(server, owner, registry.clone()).await.unwrap();
        Self { db, registry, server }
    }

    pub(crate) fn address(&self) -> String {
        self.server.address().to_string()
    }

    pub(crate) fn put(&self, from: u32, to: u32) -> Lsn {
        put(&self.db, from, to)
    }
}

pub(crate) fn key_of(number: u32) -> String {
    format!("{number:08}")
}

/// Commits keys `from..to`, and says where the log ends.
pub(crate) fn put(db: &Db, from: u32, to: u32) -> Lsn {
    let keyspace = db.keyspace("k").unwrap();
    for key in from..to {
        let mut batch = db.batch();
        batch.put(&keyspace, key_of(key), format!("value {key}"));
        // Waited for all at once below; a test has better things to wait for.
        drop(batch.commit_ticket().unwrap());
    }
    db.sync().unwrap()
}

/// Makes an empty standby of the node at `upstream`.
pub(crate) async fn make_standby(folder: &Path, upstream: &str) -> Db {
    let identity = identify(upstream, Duration::from_secs(5)).await.unwrap();
    let builder = Db::builder(folder).segment_size(identity.segment_size).cluster(identity.cluster);
    let manifest = Manifest::empty(identity.cluster).encode();
    Installation::begin(&builder, &manifest, &identity.history).unwrap().finish(Role::Standby).unwrap();
    open_standby(folder)
}

pub(crate) fn open_standby(folder: &Path) -> Db {
    let builder = Db::builder(folder).create(Create::Never).open_as(OpenAs::Standby);
    builder.log_retention(LogRetention::Node).open().unwrap()
}

pub(crate) fn client_config(db: &Db, name: &str, upstream: Option<&str>) -> ClientConfig {
    ClientConfig {
        upstream: upstream.map(str::to_owned),
        connect_timeout: Duration::from_secs(2),
        archive_poll: Duration::from_millis(50),
        ..ClientConfig::new(db.cluster(), db.node(), StandbyName::new(name).unwrap(), db.log().options().segment_size)
    }
}

pub(crate) fn follow(db: &Db, name: &str, upstream: &str) -> StandbyClient {
    start(client_config(db, name, Some(upstream)), db, None)
}

pub(crate) fn start(config: ClientConfig, db: &Db, archive: Option<Arc<dyn SegmentSource>>) -> StandbyClient {
    StandbyClient::start(config, Arc::new(db.clone()), archive, None)
}

/// Waits until something holds; a test that waits longer has failed.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn until_status(
    client: &StandbyClient,
    what: &str,
    holds: impl Fn(&ClientStatus) -> bool,
) -> ClientStatus {
    let mut status = client.status();
    let wait = status.wait_for(|status| holds(status));
    match tokio::time::timeout(Duration::from_secs(20), wait).await {
        Ok(status) => status.unwrap().clone(),
        Err(_) => panic!("{what}: not within 20 s; {:?}", client.status().borrow()),
    }
}

/// Waits until the standby shows everything up to `lsn`, then compares the states and the logs' chains.
pub(crate) async fn assert_same(standby: &Db, primary: &Db, lsn: Lsn) {
    until("the standby shows everything", || standby.visible() >= lsn).await;
    let digest = |db: &Db| db.snapshot_at(lsn).unwrap().digest().unwrap();
    assert_eq!(digest(standby), digest(primary));
    assert_eq!(standby.log().position_at(lsn).unwrap(), primary.log().position_at(lsn).unwrap());
}
