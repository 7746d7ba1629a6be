//! A disk that takes no more of the log, under a node that serves: the node has failed, and says so wherever a load balancer, an
//! alert or a service manager looks, for only opening the log again helps.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use seawall_disks::fuse::{Effect, Fault, FuseDisk, Operation};

use crate::PATIENCE;
use crate::node::{Node, json, ok, seawall};

fn refuse_the_log(disk: &FuseDisk, errno: Errno) {
    let fault = Fault::always(&[Operation::Write, Operation::Sync], Effect::Fail(errno.raw_os_error()));
    disk.inject(Fault { path: "/wal/".into(), ..fault });
}

fn assert_says_that_it_has_failed(node: &Node, said: &str) {
    let until = Instant::now() + PATIENCE;
    while node.get("/healthz").0 == 200 {
        assert!(Instant::now() < until, "it is healthy for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
    for (path, code) in [("/healthz", 503), ("/readyz", 503)] {
        let (answered, body) = node.get(path);
        assert!(answered == code && body.contains(said) && body.contains("restart this node"), "{answered}: {body}");
    }
    let status = json(&["status", "--url", &node.url])["status"].clone();
    assert_eq!(status["state"], "failed", "{status}");
    assert!(status["state_detail"].to_string().contains("look after the disk of "), "{status}");
    assert!(status["writes_refused"].to_string().contains(said), "{status}");
    let metrics = node.get("/metrics").1;
    for line in ["seawall_writes_refused 1", "seawall_node_state{state=\"failed\"} 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

#[test]
fn a_node_whose_log_has_ended_has_failed_and_a_restart_brings_it_back() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    disk.set_capacity(1 << 40);
    let data = disk.path().join("data");
    for (turn, (errno, said)) in
        [(Errno::ROFS, "Read-only file system"), (Errno::IO, "Input/output error")].into_iter().enumerate()
    {
        let node = Node::start(&data, None, &[]);
        let (whole, lost) = (format!("whole-{turn}"), format!("lost-{turn}"));
        ok(&["put", &whole, "value", "--url", &node.url]);
        assert_eq!((node.get("/healthz").0, node.get("/readyz").0), (200, 200));
        refuse_the_log(&disk, errno);
        let refused = seawall(&["put", &lost, "value", "--url", &node.url]).output().unwrap();
        assert!(!refused.status.success());
        assert_says_that_it_has_failed(&node, said);
        assert_eq!(ok(&["get", &whole, "--url", &node.url]), "value", "reads go on");
        drop(node);
        disk.heal();
        let node = Node::start(&data, None, &[]);
        assert_eq!(ok(&["get", &whole, "--url", &node.url]), "value");
        ok(&["put", &lost, "again", "--url", &node.url]);
        assert_eq!((node.get("/healthz").0, node.get("/readyz").0), (200, 200));
        node.stop();
    }
}

#[test]
fn a_standby_whose_log_has_ended_has_failed_too() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    disk.set_capacity(1 << 40);
    let folder = tempfile::tempdir().unwrap();
    let primary = Node::start(&folder.path().join("p"), None, &["--name", "p", "--listen", "127.0.0.1:0"]);
    let arguments = ["--name", "s", "--upstream", &primary.replication];
    let standby = Node::start(&disk.path().join("s"), None, &arguments);
    ok(&["put", "before", "value", "--url", &primary.url]);
    let has = |standby: &Node, key: &str| {
        let until = Instant::now() + PATIENCE;
        while !seawall(&["get", key, "--url", &standby.url]).output().unwrap().status.success() {
            assert!(Instant::now() < until, "the standby does not get {key}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    has(&standby, "before");
    assert_eq!(standby.get("/healthz").0, 200);
    refuse_the_log(&disk, Errno::IO);
    ok(&["put", "after", "value", "--url", &primary.url]);
    assert_says_that_it_has_failed(&standby, "Input/output error");
    drop(standby);
    disk.heal();
    let standby = Node::start(&disk.path().join("s"), None, &arguments);
    has(&standby, "after");
    assert_eq!(standby.get("/healthz").0, 200);
    standby.stop();
    primary.stop();
}
