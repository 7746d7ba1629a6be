//! Damage of a primary's log is its own affair: neither its archiver nor a standby takes it for another history. What comes after
//! it waits until it is repaired, and then goes on by itself.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use seawall::backup::backup::BackupOptions;
use seawall::backup::restore::{RestoreOptions, RestoreTarget};
use seawall::node::{Node, NodeOptions, Role, State};
use seawall::replication::driver::ClientState;

use crate::nodes::{BYTE, PATIENCE, SEGMENT, SIZE, archive, flip, free, listening, wait};

/// A primary that asks this peer for a copy of what is damaged.
fn primary(folder: &Path, listen: SocketAddr, peer: SocketAddr) -> NodeOptions {
    NodeOptions { repair_from: vec![peer.to_string()], assume_primary: true, ..listening(folder, "primary", listen) }
}

fn standby(folder: &Path, name: &str, listen: SocketAddr, upstream: SocketAddr) -> Node {
    let role = Role::Standby { upstreams: vec![upstream.to_string()] };
    Node::start(NodeOptions { role, ..listening(folder, name, listen) }).unwrap()
}

/// Writes until the log ends beyond this byte.
fn fill_to(node: &Node, end: u64) {
    let keyspace = node.db().unwrap().keyspace("numbers").unwrap();
    while node.db().unwrap().log().end().lsn.offset() <= end {
        let number = node.db().unwrap().log().end().lsn.offset();
        keyspace.insert(format!("{number:016}"), vec![number as u8; 700]).unwrap();
    }
}

/// Of the primary's log, below its checkpoint, so that opening does not read it.
fn damage(folder: &Path) {
    let path = folder.join(format!("primary/wal/00000001-{SEGMENT:016x}.wal"));
    flip(&path, BYTE);
}

fn follows(standby: &Node, primary: &Node) -> bool {
    standby.db().unwrap().visible() >= primary.db().unwrap().visible()
}

fn digest(db: &seawall::Db) -> String {
    db.snapshot().unwrap().digest().unwrap().to_string()
}

#[test]
fn a_primary_whose_archive_lags_behind_damage_stays_primary_and_all_is_archived_once_it_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let (listen, peer) = (free(), free());
    let start = || {
        let archive = archive(folder.path());
        Node::start(NodeOptions { archive, ..primary(folder.path(), listen, peer) }).unwrap()
    };
    let node = start();
    fill_to(&node, SIZE / 2);
    wait("there is an archive", || node.archiver().is_some());
    node.create_backup(&BackupOptions::default()).unwrap();
    node.stop(PATIENCE).unwrap();
    // All the rest is in the log and in tables, and not in the archive, whose folder of log is another's for a while.
    let [chunks, away] = ["wal", "away"].map(|name| folder.path().join("archive").join(name));
    std::fs::rename(&chunks, &away).unwrap();
    std::fs::write(&chunks, "in the way").unwrap();
    let node = start();
    let following = standby(folder.path(), "standby", peer, listen);
    fill_to(&node, (SEGMENT + 3) * SIZE);
    wait("the standby has it all", || follows(&following, &node));
    node.db().unwrap().flush().unwrap();
    let archived = node.archiver().map_or(0, |status| status.archived.lsn.offset());
    assert!(archived < SEGMENT * SIZE, "{archived}");
    assert!(node.stop(Duration::from_secs(1)).unwrap().archive_bytes > 2 * SIZE);
    std::fs::remove_file(&chunks).unwrap();
    std::fs::rename(&away, &chunks).unwrap();
    damage(folder.path());

    let node = start();
    let ended = || matches!(node.state().0, State::Fenced | State::Failed);
    wait("all is archived", || {
        assert!(!ended(), "{:?}", node.state());
        node.archiver().is_some_and(|status| status.archived.lsn >= node.db().unwrap().log().flushed().value())
    });
    assert_eq!(std::fs::read_dir(folder.path().join("primary/wal/cut")).unwrap().count(), 1, "it was repaired");
    fill_to(&node, (SEGMENT + 4) * SIZE);
    wait("what is written is archived and replicated", || {
        node.archiver().is_some_and(|status| status.archived.lsn >= node.db().unwrap().log().flushed().value())
            && follows(&following, &node)
    });
    assert_eq!(node.state(), (State::Running, String::new()));
    assert!(node.replication_address().is_some());
    let (archive, restored) = (node.archive("restore").unwrap(), folder.path().join("restored"));
    node.runtime().block_on(async {
        let plan = archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
        archive.restore(&plan, &restored, &RestoreOptions::default()).await.unwrap();
    });
    let copy = seawall::Db::open(&restored).unwrap();
    assert_eq!(digest(&copy), digest(&node.db().unwrap()));
    copy.close().unwrap();
    following.stop(PATIENCE).unwrap();
    node.stop(PATIENCE).unwrap();
}

#[test]
fn a_standby_whose_position_lies_behind_damage_of_the_primary_is_not_told_that_it_diverged() {
    let folder = tempfile::tempdir().unwrap();
    let (listen, behind_at, whole_at) = (free(), free(), free());
    let start = || Node::start(primary(folder.path(), listen, whole_at)).unwrap();
    let behind = || standby(folder.path(), "behind", behind_at, listen);
    let whole = || standby(folder.path(), "whole", whole_at, listen);
    let node = start();
    let standbys = (behind(), whole());
    fill_to(&node, SEGMENT * SIZE + BYTE + 10_000);
    wait("both have it all", || follows(&standbys.0, &node) && follows(&standbys.1, &node));
    standbys.0.stop(PATIENCE).unwrap();
    fill_to(&node, (SEGMENT + 2) * SIZE);
    wait("the other has the rest", || follows(&standbys.1, &node));
    standbys.1.stop(PATIENCE).unwrap();
    node.db().unwrap().flush().unwrap();
    node.stop(Duration::from_secs(1)).unwrap();
    damage(folder.path());

    // Nobody who has a copy answers yet.
    let (node, behind) = (start(), behind());
    let state = || behind.following().map(|following| following.status.state);
    wait(
        "it is told to wait",
        || matches!(state(), Some(ClientState::Waiting { why, .. }) if why.contains("not serving now")),
    );
    assert_eq!(node.db().unwrap().damages().len(), 1, "{:?}", node.db().unwrap().damages());
    let whole = whole();
    wait("it is repaired", || {
        assert!(!matches!(state(), Some(ClientState::Diverged { .. })), "{:?}", state());
        node.db().unwrap().damages().is_empty()
    });
    fill_to(&node, (SEGMENT + 3) * SIZE);
    wait("both stream on", || follows(&behind, &node) && follows(&whole, &node));
    assert_eq!(digest(&behind.db().unwrap()), digest(&node.db().unwrap()));
    assert_eq!(node.state(), (State::Running, String::new()));
    for node in [behind, whole, node] {
        node.stop(PATIENCE).unwrap();
    }
}
