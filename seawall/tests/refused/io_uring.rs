//! A kernel that refuses io_uring, wholly or in part: the node says so, serves the same, and leaves the same bytes as one that
//! has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use seawall_disks::refusal::Call;

use crate::PATIENCE;
use crate::node::{Node, json, ok};

/// What may be refused, and with which error. An old kernel has no such call; a policy does not permit it, or not its use.
const REFUSALS: [(Call, Errno); 3] =
    [(Call::IoUringSetup, Errno::NOSYS), (Call::IoUringSetup, Errno::PERM), (Call::IoUringEnter, Errno::PERM)];

/// Whether this machine grants io_uring, without which there is nothing to compare with.
fn is_granted(path: &str) -> bool {
    if path != "io_uring" {
        println!("io_uring is not granted here: POSIX calls are compared with themselves");
    }
    path == "io_uring"
}

#[test]
fn a_node_that_is_refused_io_uring_says_so_and_its_data_is_the_same_to_one_that_is_not() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folder = tempfile::tempdir().unwrap();
    let with = Node::start(&folder.path().join("granted"), None, &[]);
    let granted = is_granted(&with.io_path());
    with.stop();
    for (number, refused) in REFUSALS.into_iter().enumerate() {
        let data = folder.path().join(number.to_string());
        let node = Node::start(&data, Some(refused), &[]);
        assert_eq!(node.io_path(), "posix", "{refused:?}");
        assert!(node.said.contains("io_uring is not available here; using POSIX calls"), "{refused:?}: {}", node.said);
        ok(&["import", sources.to_str().unwrap(), "--keyspace", "src", "--url", &node.url]);
        let digest = |node: &Node| json(&["digest", "--url", &node.url])["digest"].clone();
        let written = digest(&node);
        node.stop();
        // Turn by turn, each recovers and reads what the other left.
        for refused in [None, Some(refused)] {
            let node = Node::start(&data, refused, &[]);
            assert_eq!(node.io_path(), if refused.is_none() && granted { "io_uring" } else { "posix" });
            assert_eq!(digest(&node), written, "{refused:?}");
            node.stop();
        }
    }
}

#[test]
fn a_standby_with_and_one_without_io_uring_write_the_segments_of_their_primary() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let primary = Node::start(&path("p"), Some(REFUSALS[1]), &["--name", "p", "--listen", "127.0.0.1:0"]);
    let standby =
        |name: &str, refused| Node::start(&path(name), refused, &["--name", name, "--upstream", &primary.replication]);
    let standbys = [standby("with", None), standby("without", Some(REFUSALS[1]))];
    is_granted(&standbys[0].io_path());
    assert_eq!(standbys[1].io_path(), "posix");
    for keyspace in ["a", "b", "c", "d", "e", "f"] {
        ok(&["import", sources.to_str().unwrap(), "--keyspace", keyspace, "--url", &primary.url]);
    }
    // Positions of one length, in order as texts.
    let flushed = |node: &Node| json(&["status", "--url", &node.url])["status"]["log"]["flush"].to_string();
    let (until, wanted) = (Instant::now() + PATIENCE, flushed(&primary));
    while standbys.iter().any(|standby| flushed(standby) < wanted) {
        assert!(Instant::now() < until, "a standby does not get as far as {wanted}");
        std::thread::sleep(Duration::from_millis(20));
    }
    standbys.into_iter().for_each(Node::stop);
    let segments = ["p", "with", "without"].map(|name| sealed(&path(name)));
    assert!(segments[0].len() > 1, "there is more than one sealed segment: {:?}", segments[0].keys());
    assert!(segments[1] == segments[0] && segments[2] == segments[0], "verbatim on every path");
    primary.stop();
}

/// The segments of a node that are written to their end, by name.
fn sealed(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(data.join("wal")).unwrap().map(|entry| entry.unwrap());
    let mut segments: BTreeMap<String, Vec<u8>> = files
        .filter_map(|file| Some((file.file_name().into_string().ok()?, fs::read(file.path()).ok()?)))
        .filter(|(name, bytes)| name.ends_with(".wal") && bytes.iter().any(|byte| *byte != 0))
        .collect();
    segments.pop_last();
    segments
}
