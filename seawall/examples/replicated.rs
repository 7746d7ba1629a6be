//! A primary and a standby in one process: commits that wait for the standby's disk, a lag ceiling that holds ingestion
//! back when the standby is gone, and a read on the standby.

use std::time::{Duration, Instant};

use seawall::node::{Node, NodeOptions, Role};
use seawall::replication::throttle::{Bound, Limits};
use seawall::{CommitLevel, Error};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let ceiling = 64 << 20;

    let primary = Node::start(NodeOptions {
        replication_listen: Some("127.0.0.1:0".parse()?),
        synchronous: Some("any 1 (standby)".parse()?),
        required: vec!["standby".parse()?],
        // From half of it on ingestion is slowed, at 64 MiB of lag it pauses.
        limits: Limits { standby_bytes: Some(Bound { target: ceiling / 2, ceiling }), ..Limits::default() },
        admission_wait: Duration::from_millis(200),
        ..NodeOptions::new("primary".parse()?, folder.path().join("primary"))
    })?;
    let upstream = primary.replication_address().expect("it listens").to_string();
    let standby = Node::start(NodeOptions {
        role: Role::Standby { upstreams: vec![upstream] },
        ..NodeOptions::new("standby".parse()?, folder.path().join("standby"))
    })?;

    let db = primary.db()?;
    let accounts = db.keyspace("accounts")?;
    let mut batch = db.batch();
    batch.put(&accounts, "ann", "100").put(&accounts, "bob", "20");
    let commit = batch.commit_with(CommitLevel::RemoteFlush(1))?;
    println!("committed at {}, on the standby's disk", commit.lsn);

    let replica = standby.db()?;
    replica.wait_visible(commit.lsn, Instant::now() + Duration::from_secs(10))?;
    let ann = replica.existing_keyspace("accounts")?.get("ann")?;
    println!("ann has {} on the standby", String::from_utf8_lossy(&ann.expect("it was committed")));
    let refused = replica.existing_keyspace("accounts")?.insert("ann", "0").expect_err("a standby takes no writes");
    println!("writing there: {refused}");

    // Without the standby, ingestion goes on up to the ceiling, and then waits.
    drop(replica);
    standby.stop(Duration::from_secs(5))?;
    let value = vec![7; 1 << 20];
    let held_back = (0..1000u32).find_map(|number| accounts.insert(number.to_string(), &value).err());
    match held_back {
        Some(Error::Backpressure(why)) => println!("held back: {why}"),
        other => return Err(format!("expected backpressure, got {other:?}").into()),
    }
    let lag = primary.standbys()[0].lag.flush.bytes;
    assert!(lag <= ceiling, "never more than the ceiling: {lag}");
    println!("the standby lacks {lag} bytes, the ceiling is {ceiling}");

    drop((accounts, db));
    let remaining = primary.stop(Duration::from_millis(500))?;
    println!("stopped; {remaining}");
    Ok(())
}
