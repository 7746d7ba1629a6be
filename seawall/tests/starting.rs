//! A node that cannot open its data before somebody helps: who looks after it sees what it waits for, nobody is served meanwhile,
//! and those who wait for it in turn are helped.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use seawall::SegmentSize;
use seawall::client::Client;
use seawall::failure::Kind;
use seawall::http::api::{NodeRole, NodeState, NodeStatus};
use seawall::node::{Node, NodeOptions, Role};

const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(10);
/// Of a segment of the log.
const SIZE: u64 = 64 << 10;
/// A segment in the middle, and a byte in it.
const SEGMENT: u64 = 2;
const BYTE: u64 = 30_000;

/// Addresses nobody listens at, and which no connection takes for itself: those are given higher ports.
fn free<const COUNT: usize>() -> [SocketAddr; COUNT] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut candidates = std::iter::repeat_with(|| {
        let number = std::process::id().wrapping_mul(41).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        SocketAddr::from(([127, 0, 0, 1], 10_000 + (number % 10_000) as u16))
    })
    .take(1_000);
    std::array::from_fn(|_| candidates.find(|address| TcpListener::bind(address).is_ok()).expect("a free port"))
}

fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn options(folder: &Path, name: &str, listen: SocketAddr) -> NodeOptions {
    NodeOptions {
        segment_size: SegmentSize::MIN,
        replication_listen: Some(listen),
        replication_timeout: Duration::from_secs(2),
        assume_primary: true,
        ..NodeOptions::new(name.parse().unwrap(), folder.join(name))
    }
}

fn standby(folder: &Path, listen: SocketAddr, primary: SocketAddr) -> Node {
    let role = Role::Standby { upstreams: vec![primary.to_string()] };
    Node::start(NodeOptions { role, ..options(folder, "standby", listen) }).unwrap()
}

/// A primary's log of several segments, and a standby's; both nodes are stopped.
fn stopped_pair(folder: &Path, [primary_listens, standby_listens]: [SocketAddr; 2]) {
    let primary = Node::start(options(folder, "primary", primary_listens)).unwrap();
    let standby = standby(folder, standby_listens, primary_listens);
    let keyspace = primary.db().unwrap().keyspace("numbers").unwrap();
    for number in 0..400_u32 {
        keyspace.insert(number.to_string(), [7; 700]).unwrap();
    }
    drop(keyspace);
    let end = primary.db().unwrap().visible();
    assert!(end.offset() > (SEGMENT + 2) * SIZE);
    wait("the standby has it all", || standby.db().unwrap().visible() >= end);
    primary.stop(PATIENCE).unwrap();
    standby.stop(PATIENCE).unwrap();
}

/// Another bit in a node's segment.
fn damage(folder: &Path, name: &str, segment: u64) {
    let segment = folder.join(name).join(format!("wal/00000001-{segment:016x}.wal"));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, BYTE).unwrap();
    file.write_all_at(&[byte[0] ^ 4], BYTE).unwrap();
    file.sync_all().unwrap();
}

/// A process that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn seawall() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(["--config", "/dev/null"]).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn a_node_that_waits_for_a_repair_says_so_over_http_and_is_not_ready_until_it_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let [http, primary_listens, standby_listens] = free();
    stopped_pair(folder.path(), [primary_listens, standby_listens]);
    damage(folder.path(), "primary", SEGMENT);
    let mut serve = seawall();
    serve.args(["serve", "--role", "primary", "--name", "primary", "--assume-primary", "--die-with-parent"]);
    serve.args(["--http", &http.to_string(), "--listen", &primary_listens.to_string()]);
    serve.args(["--set", &format!("replication.repair_from={standby_listens}")]);
    let _serving = Process(serve.arg("--data-dir").arg(folder.path().join("primary")).spawn().unwrap());
    let client = Client::new(&format!("http://{http}")).unwrap();
    let ask = |path: &str| client.bytes(Method::GET, path, None, ANSWER);
    let status = || client.get_within::<NodeStatus>("/v1/replication/status", ANSWER);

    wait("it says that it waits", || status().is_ok_and(|status| status.state_detail.is_some_and(names_the_segment)));
    let seen = status().unwrap();
    assert_eq!((seen.state, seen.role, seen.timeline), (NodeState::Starting, NodeRole::Primary, 0));
    assert_eq!(ask("/healthz").unwrap(), "ok\n", "a restart would not help it");
    let unready = ask("/readyz").unwrap_err();
    assert_eq!(unready.kind, Kind::Unavailable);
    assert!(unready.message.starts_with("the node is starting") && names_the_segment(unready.message.clone()));
    let refused = ask("/v1/kv/numbers/1").unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable);
    assert!(names_the_segment(refused.message.clone()), "{}", refused.message);
    let metrics = String::from_utf8(ask("/metrics").unwrap().to_vec()).unwrap();
    assert!(metrics.contains("seawall_node_state{state=\"starting\"} 1\n"), "{metrics}");
    let shown = seawall().args(["status", "--url", &format!("http://{http}")]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.starts_with("primary: primary, starting (") && names_the_segment(shown.clone()), "{shown}");

    let standby = standby(folder.path(), standby_listens, primary_listens);
    wait("it is ready", || ask("/readyz").is_ok());
    assert_eq!(ask("/v1/kv/numbers/1").unwrap(), [7; 700].as_slice());
    assert_eq!(status().unwrap().state, NodeState::Running);
    standby.stop(PATIENCE).unwrap();
}

#[test]
fn two_nodes_that_each_need_a_segment_of_the_other_start_together() {
    let folder = tempfile::tempdir().unwrap();
    let [primary_listens, standby_listens] = free();
    stopped_pair(folder.path(), [primary_listens, standby_listens]);
    damage(folder.path(), "primary", SEGMENT);
    damage(folder.path(), "standby", SEGMENT + 1);
    let repair_from = vec![standby_listens.to_string()];
    let primary = NodeOptions { repair_from, ..options(folder.path(), "primary", primary_listens) };
    let (primary, standby) = std::thread::scope(|scope| {
        let primary = scope.spawn(|| Node::start(primary).unwrap());
        let standby = scope.spawn(|| standby(folder.path(), standby_listens, primary_listens));
        (primary.join().unwrap(), standby.join().unwrap())
    });
    for segment in [SEGMENT, SEGMENT + 1] {
        let of =
            |name| std::fs::read(folder.path().join(name).join(format!("wal/00000001-{segment:016x}.wal"))).unwrap();
        assert!(of("primary") == of("standby"), "segment {segment} is the same again");
    }
    primary.db().unwrap().keyspace("more").unwrap().insert("a", "b").unwrap();
    wait("the standby follows", || standby.db().unwrap().visible() >= primary.db().unwrap().visible());
    standby.stop(PATIENCE).unwrap();
    primary.stop(PATIENCE).unwrap();
}

fn names_the_segment(words: String) -> bool {
    words.contains(&format!("segment {SEGMENT} "))
}
