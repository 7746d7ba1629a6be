//! A standby that comes when the primary has let go of the log it needs, and there is no archive: it says so, and never that it
//! is nothing behind.

use std::time::{Duration, Instant};

use seawall::http::HttpNode;
use seawall::http::readiness::{LagMax, readiness};
use seawall::node::{Node, NodeOptions, Role};
use seawall::{Lsn, SegmentSize};

const PATIENCE: Duration = Duration::from_secs(60);

fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_standby_without_a_place_in_its_upstreams_log_is_not_ready_and_lacks_at_least_what_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let options = |name: &str| NodeOptions {
        segment_size: SegmentSize::MIN,
        replication_listen: Some("127.0.0.1:0".parse().unwrap()),
        ..NodeOptions::new(name.parse().unwrap(), folder.path().join(name))
    };
    let primary = Node::start(options("primary")).unwrap();
    let db = primary.db().unwrap();
    let keyspace = db.keyspace("numbers").unwrap();
    for number in 0..400_u32 {
        keyspace.insert(number.to_string(), [7; 700]).unwrap();
    }
    db.flush().unwrap();
    wait("the first segments are recycled", || db.log().oldest() > Lsn::ZERO);

    let upstreams = vec![primary.replication_address().unwrap().to_string()];
    let standby = Node::start(NodeOptions { role: Role::Standby { upstreams }, ..options("standby") }).unwrap();
    wait("it knows", || standby.status().upstream.is_some_and(|upstream| upstream.lost_place.is_some()));
    let status = standby.status();
    let upstream = status.upstream.clone().unwrap();
    assert_eq!(upstream.lost_place.unwrap().0, db.log().oldest());
    assert_eq!(upstream.lag.bytes, db.log().oldest().offset());
    let ready = readiness(&status, LagMax { time: PATIENCE * 10, bytes: None });
    assert!(ready.reasons.iter().any(|reason| reason.contains("has lost its place")), "{ready:?}");
    drop((keyspace, db));
    standby.stop(PATIENCE).unwrap();
    primary.stop(Duration::from_secs(1)).unwrap();
}
