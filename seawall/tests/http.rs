//! The HTTP server over real sockets: what each path answers, and that no client can hold it up, fill it or fool it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use seawall::client::Client;
use seawall::config::HttpSection;
use seawall::failure::{Failure, Kind};
use seawall::http::api::{
    BackupEvent, BackupRequest, BackupSummary, NodeState, NodeStatus, PromoteRequest, Promoted, ReplicaStatus,
};
use seawall::http::{HttpNode, ROUTES, Server, Settings};
use seawall::{Clock, Db, Timestamp};

/// A node that is a database and some answers.
struct TestNode {
    db: Db,
    failed: AtomicBool,
    slow: AtomicBool,
}

impl HttpNode for TestNode {
    fn db(&self) -> Result<Db, Failure> {
        Ok(self.db.clone())
    }

    fn status(&self) -> NodeStatus {
        let failed = self.failed.load(Ordering::SeqCst);
        NodeStatus {
            name: String::from("test"),
            state: if failed { NodeState::Failed } else { NodeState::Running },
            state_detail: failed.then(|| String::from("the disk died")),
            ..NodeStatus::default()
        }
    }

    fn replicas(&self) -> Vec<ReplicaStatus> {
        if self.slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(8));
        }
        vec![ReplicaStatus { name: String::from("s1"), ..ReplicaStatus::default() }]
    }

    fn promote(&self, request: &PromoteRequest) -> Result<Promoted, Failure> {
        match request.max_lag_bytes {
            Some(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
            None if !request.unfenced => return Err(Failure::new(Kind::Fenced, "too late").hint("give up")),
            None => {}
        }
        Ok(Promoted { timeline: 2, ..Promoted::default() })
    }

    fn create_backup(
        &self,
        request: &BackupRequest,
        progress: &mut dyn FnMut(BackupEvent),
    ) -> Result<BackupSummary, Failure> {
        progress(BackupEvent::Progress { stage: String::from("tables"), bytes_done: 1, bytes_total: 2 });
        std::thread::sleep(Duration::from_millis(300));
        match &request.label {
            Some(label) if label == "bug" => panic!("a bug for a test"),
            label => Ok(BackupSummary { id: String::from("b1"), label: label.clone(), ..BackupSummary::default() }),
        }
    }

    fn backups(&self) -> Result<Vec<BackupSummary>, Failure> {
        Ok(Vec::new())
    }
}

/// Stands until a test moves it.
#[derive(Debug)]
struct TestClock(AtomicU64);

impl TestClock {
    fn pass(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

struct TestServer {
    clock: Arc<TestClock>,
    address: SocketAddr,
    node: Arc<TestNode>,
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    _dir: tempfile::TempDir,
}

impl TestServer {
    /// With short timeouts and few connections.
    fn start() -> Self {
        Self::with(|http| http)
    }

    fn with(change: impl FnOnce(HttpSection) -> HttpSection) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(AtomicU64::new(1_700_000_000_500_000)));
        let builder = Db::builder(dir.path()).segment_size(seawall::SegmentSize::MIN).clock(clock.clone());
        let db = builder.open().unwrap();
        let node = Arc::new(TestNode { db, failed: AtomicBool::new(false), slow: AtomicBool::new(false) });
        let sources = seawall::config::Sources { file: Some("/dev/null".into()), ..Default::default() };
        let mut config = seawall::config::Config::load(&sources).unwrap().config;
        let http = &mut config.http;
        http.header_timeout = "400ms".parse().unwrap();
        http.request_timeout = "900ms".parse().unwrap();
        http.body_max = "64KiB".parse().unwrap();
        http.connections_max = 8;
        config.http = change(config.http);
        let settings = Settings::new(&config.http, config.replication.commit_level.0);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            Server::start(listener, node.clone(), settings).unwrap()
        });
        Self { clock, address: server.address(), node, runtime, server: Some(server), _dir: dir }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends a request whole and reads the answer to its end.
    fn request(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let head = format!("{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: ");
        stream.write_all(format!("{head}{}\r\n\r\n", body.len()).as_bytes()).unwrap();
        let _ = stream.write_all(body);
        Answer::read(stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), b"")
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        let mut stream = self.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        Answer::read(stream)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop(Duration::from_millis(100)));
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    took: Duration,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let started = Instant::now();
        let mut bytes = Vec::new();
        // A reset after the answer is how a server cuts off a client that is still sending.
        match stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server did not let go"),
            _ => {}
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head, body: bytes[end..].to_vec(), took: started.elapsed() }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

#[test]
fn a_value_is_put_read_scanned_and_deleted_over_http() {
    let server = TestServer::start();
    let value: Vec<u8> = (0..=255).collect();
    let put = server.request("PUT /v1/kv/files/src/a%20b.rs", &value);
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(put.json()["level"], "local");
    assert!(put.json()["lsn"].as_str().unwrap().contains('/'));
    let got = server.get("/v1/kv/files/src%2Fa%20b.rs");
    assert_eq!((got.status, got.body), (200, value));
    let batch = r#"{"operations":[{"key":"b","value":"2"},{"key":"c","value":"3"},{"key":"src/a b.rs"}]}"#;
    assert_eq!(server.post("/v1/kv/files", batch).status, 200);
    let page = server.get("/v1/kv/files?limit=1&reverse=true").json();
    assert_eq!(page["entries"], serde_json::json!([{"key": "c", "value": "3"}]));
    assert_eq!(page["more"], true);
    let page = server.get("/v1/kv/files?after=b&keys_only=true").json();
    assert_eq!(page["entries"], serde_json::json!([{"key": "c"}]));
    assert_eq!(server.request("DELETE /v1/kv/files/c", b"").status, 200);
    assert_eq!(server.get("/v1/kv/files/c").status, 404);
    let digest = server.get("/v1/digest").json();
    assert_eq!((digest["digest"].as_str().unwrap().len(), &digest["keyspaces"][0]["entries"]), (64, &1.into()));
    assert_eq!(server.get("/v1/kv").json()["keyspaces"], serde_json::json!(["files"]));
}

#[test]
fn what_is_put_for_a_time_is_there_until_the_nodes_time_has_passed_its_end() {
    let server = TestServer::start();
    assert_eq!(server.request("PUT /v1/kv/k/short?ttl=30m", b"v").status, 200);
    assert_eq!(server.request("PUT /v1/kv/k/long?ttl=1h&level=buffered", b"v").status, 200);
    let batch = r#"{"operations":[{"key":"a","value":"1"},{"key":"b","value":"2"},{"key":"gone"}]}"#;
    assert_eq!(server.post("/v1/kv/k?ttl=30m", batch).status, 200);
    assert_eq!(server.request("PUT /v1/kv/k/stays", b"v").status, 200);
    let keys = || {
        let page = server.get("/v1/kv/k?keys_only=true").json();
        let keys = page["entries"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap().to_owned());
        keys.collect::<Vec<_>>()
    };
    server.clock.pass(Duration::from_secs(29 * 60));
    assert_eq!(server.request("PUT /v1/kv/k/now", b"v").status, 200);
    assert_eq!(keys(), ["a", "b", "long", "now", "short", "stays"]);
    assert_eq!(server.get("/v1/kv/k/short").text(), "v");
    // Nobody writes: the node itself says in the log that time has passed.
    server.clock.pass(Duration::from_secs(2 * 60));
    let started = Instant::now();
    while server.get("/v1/kv/k/short").status != 404 {
        assert!(started.elapsed() < Duration::from_secs(20), "the value does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(keys(), ["long", "now", "stays"]);
    // Put anew it stays, as what is put without a time does.
    assert_eq!(server.request("PUT /v1/kv/k/long", b"v").status, 200);
    server.clock.pass(Duration::from_secs(3 * 3600));
    assert_eq!(server.request("PUT /v1/kv/k/now", b"v").status, 200);
    assert_eq!(keys(), ["long", "now", "stays"]);
}

#[test]
fn a_time_that_nothing_can_be_put_for_is_refused_and_nothing_is_written() {
    let server = TestServer::start();
    let batch = r#"{"operations":[{"key":"a","value":"1"}]}"#;
    for (ttl, expected) in [
        ("0s", "?ttl=0s: `0s` is no time for a value to stay; delete the key instead"),
        ("-5m", "?ttl=-5m: `-5m` is not a duration such as \"1s\" or \"500ms\""),
        ("soon", "?ttl=soon: `soon` is not a duration such as \"1s\" or \"500ms\""),
        ("", "?ttl=: `` is not a duration"),
        ("30", "?ttl=30: `30` is not a duration"),
        ("600000years", "is longer than the 2^64 microseconds that a value can be put for; leave it out"),
        ("99999999999999999999999s", "is not a duration"),
    ] {
        let path = format!("/v1/kv/k?ttl={ttl}");
        for answer in [server.request(&format!("PUT /v1/kv/k/a?ttl={ttl}"), b"v"), server.post(&path, batch)] {
            let problem = answer.json();
            assert_eq!((answer.status, problem["kind"].as_str().unwrap()), (400, "usage"), "{ttl}");
            assert!(problem["detail"].as_str().unwrap().contains(expected), "{ttl}: {problem}");
        }
    }
    let answer = server.request("DELETE /v1/kv/k/a?ttl=1s", b"").json();
    assert_eq!(answer["detail"], "?ttl is not known here; level, timeout are");
    assert!(server.node.db.keyspaces().is_empty());
}

#[test]
fn every_declared_path_is_served() {
    let server = TestServer::start();
    assert_eq!(server.request("PUT /v1/kv/keyspace/key", b"v").status, 200);
    for (method, pattern, _) in ROUTES {
        let path = pattern.replace(['{', '}'], "");
        let answer = match method {
            "POST" => server.post(&path, r#"{}"#),
            _ => server.request(&format!("{method} {path}"), b"v"),
        };
        let served = answer.status == 200 || answer.json()["kind"] != "not_found";
        assert!(served, "{method} {pattern}: {}", answer.text());
    }
    let missing = server.get("/v1/nothing");
    assert_eq!((missing.status, missing.json()["hint"].as_str().unwrap()), (404, "GET / lists every path"));
    let wrong = server.request("DELETE /v1/stats", b"").json();
    assert_eq!(wrong["detail"], "/v1/stats does not take DELETE, but GET");
}

#[test]
fn health_readiness_and_metrics_follow_the_node() {
    let server = TestServer::start();
    assert_eq!(server.get("/healthz").text(), "ok\n");
    assert_eq!(server.get("/readyz?max_lag=1s&max_lag_bytes=1MiB").json()["ready"], true);
    let metrics = server.get("/metrics");
    assert!(metrics.head.contains("text/plain; version=0.0.4"));
    assert!(metrics.text().contains("seawall_replica_connected{replica=\"s1\"} 0\n"), "{}", metrics.text());
    server.node.failed.store(true, Ordering::SeqCst);
    assert_eq!(server.get("/healthz").status, 503);
    let ready = server.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.head.contains("application/problem+json"));
    assert_eq!(ready.json()["reasons"], serde_json::json!(["the node is failed: the disk died"]));
}

#[test]
fn a_request_that_makes_no_sense_is_told_why() {
    let server = TestServer::start();
    for (request, status, expected) in [
        ("GET /v1/kv/k?limti=3", 400, "?limti is not known here"),
        ("GET /v1/kv/k?limit=many", 400, "?limit=many"),
        ("PUT /v1/kv/k/a?level=best", 400, "not a commit level"),
        ("PUT /v1/kv/k/a?level=archived", 400, "not available"),
        ("PUT /v1/kv/k/", 400, "at least one byte"),
        ("GET /v1/kv/k/%zz", 400, "two hex digits"),
        ("GET /v1/kv/nowhere/a", 404, "no keyspace `nowhere`"),
    ] {
        let answer = server.request(request, b"");
        assert_eq!(answer.status, status, "{request}: {}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(expected), "{request}: {}", answer.text());
    }
    let answer = server.post("/v1/promote", r#"{"unfenced":true,"force":true}"#);
    assert!(answer.json()["detail"].as_str().unwrap().contains("unknown field `force`"), "{}", answer.text());
    let answer = server.post("/v1/kv/k", r#"{"operations":[{"value":"1"}]}"#);
    assert!(answer.json()["detail"].as_str().unwrap().contains("there is no `key`"), "{}", answer.text());
}

#[test]
fn a_failure_of_the_node_keeps_its_kind_and_hint() {
    let server = TestServer::start();
    let answer = server.post("/v1/promote", "{}");
    assert_eq!(answer.status, 409);
    let problem: seawall::http::api::Problem = serde_json::from_slice(&answer.body).unwrap();
    let failure = Failure::from(problem);
    assert_eq!(failure, Failure::new(Kind::Fenced, "too late").hint("give up"));
}

#[test]
fn a_backup_answers_with_progress_and_then_a_summary_even_after_a_bug() {
    let server = TestServer::start();
    let lines = |label: &str| -> Vec<BackupEvent> {
        let answer = server.post("/v1/backups", &format!(r#"{{"label":"{label}"}}"#));
        assert!(answer.head.contains("application/x-ndjson"));
        let json = answer.text();
        json.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let good = lines("nightly");
    assert!(matches!(good[0], BackupEvent::Progress { .. }), "{good:?}");
    assert!(matches!(good.last(), Some(BackupEvent::Summary(summary)) if summary.id == "b1"), "{good:?}");
    let bad = lines("bug");
    assert!(matches!(bad.last(), Some(BackupEvent::Error(_))), "{bad:?}");
}

#[test]
fn work_that_takes_too_long_is_given_up_and_said_to_be_unknown() {
    let server = TestServer::start();
    server.node.slow.store(true, Ordering::SeqCst);
    let answer = server.get("/v1/replication/replicas");
    assert_eq!((answer.status, answer.json()["kind"].as_str().unwrap()), (504, "indeterminate"));
    assert!(answer.took < Duration::from_secs(7), "{:?}", answer.took);
}

#[test]
fn a_silent_client_is_cut_off() {
    let server = TestServer::start();
    let answer = Answer::read(server.connect());
    assert!(answer.took < Duration::from_secs(15), "{:?}", answer.took);
    // And one that keeps its connection after an answer.
    let mut stream = server.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let answer = Answer::read(stream);
    assert_eq!(answer.status, 200);
    assert!(answer.took < Duration::from_secs(15), "{:?}", answer.took);
}

#[test]
fn a_slow_head_and_a_slow_body_are_cut_off() {
    let server = TestServer::start();
    let trickle = |start: &[u8]| {
        let mut stream = server.connect();
        stream.write_all(start).unwrap();
        let started = Instant::now();
        let mut writer = stream.try_clone().unwrap();
        while started.elapsed() < Duration::from_secs(30) && writer.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        started.elapsed()
    };
    assert!(trickle(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ") < Duration::from_secs(20));
    let put = b"PUT /v1/kv/k/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n";
    assert!(trickle(put) < Duration::from_secs(20));
    assert!(server.node.db.keyspaces().is_empty(), "half a body was written");
}

#[test]
fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let server = TestServer::with(|http| HttpSection { body_max: "8MiB".parse().unwrap(), ..http });
    let keyspace = server.node.db.keyspace("k").unwrap();
    // More than the sockets' buffers hold, in values a batch may have.
    for number in 0..1500 {
        keyspace.insert(format!("{number:04}"), vec![b'x'; 10_000]).unwrap();
    }
    let mut stream = server.connect();
    let started = Instant::now();
    stream.write_all(b"GET /v1/kv/k?limit=1500 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let connections = || server.get("/v1/stats").json()["http_connections"].as_u64().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(connections(), 2, "the client that does not read, and this one");
    while connections() > 1 {
        assert!(started.elapsed() < Duration::from_secs(10), "the client still holds its connection");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_body_beyond_the_limit_is_refused_before_it_is_read_however_it_is_announced() {
    let server = TestServer::start();
    let answer = server.request("PUT /v1/kv/k/large", &vec![b'x'; 65 << 10]);
    assert_eq!((answer.status, answer.json()["kind"].as_str().unwrap()), (413, "too_large"));
    let mut stream = server.connect();
    let head = "PUT /v1/kv/k/large HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..100 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let answer = Answer::read(stream);
    assert!(answer.status == 413 || answer.status == 0, "{answer:?}");
    assert!(server.node.db.keyspaces().is_empty(), "a body beyond the limit was written");
}

#[test]
fn more_clients_than_slots_are_told_to_come_back() {
    let server = TestServer::with(|http| HttpSection { header_timeout: "5s".parse().unwrap(), ..http });
    let held: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let answer = server.get("/healthz");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("application/problem+json") && answer.head.contains("retry-after: 1"), "{answer:?}");
    assert_eq!(answer.json()["detail"], "too many connections; try again in a while");
    // The command's client understands it, whatever it asks for.
    let client = Client::new(&format!("http://{}", server.address)).unwrap();
    let refused = client.get::<serde_json::Value>("/v1/stats").unwrap_err();
    assert_eq!((refused.kind, refused.retry_after_seconds), (Kind::Unavailable, Some(1.0)), "{refused}");
    let put = client.bytes(Method::PUT, "/v1/kv/k/a", Some(vec![7; 60_000].into()), Duration::from_secs(10));
    assert_eq!(put.unwrap_err().kind, Kind::Unavailable);
    drop(held);
    let started = Instant::now();
    while server.get("/healthz").status != 200 {
        assert!(started.elapsed() < Duration::from_secs(20), "slots did not come back");
    }
}

#[test]
fn garbage_and_endless_heads_end_the_connection_and_nothing_else() {
    let server = TestServer::start();
    let mut stream = server.connect();
    stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0xff, b'\r', b'\n', b'\r', b'\n']).unwrap();
    assert!(matches!(Answer::read(stream).status, 0 | 400));
    let mut stream = server.connect();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) && stream.write_all(&[b'a'; 8192]).is_ok() {}
    assert!(started.elapsed() < Duration::from_secs(20), "a head without end was read on");
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_page_of_another_site_gets_nothing() {
    let server = TestServer::start();
    let send = |head: &str| {
        let mut stream = server.connect();
        stream.write_all(format!("{head}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes()).unwrap();
        Answer::read(stream)
    };
    assert_eq!(send("GET /v1/stats HTTP/1.1\r\nHost: evil.example\r\n").status, 400);
    let json = "Content-Type: application/json\r\n";
    let post = format!("POST /v1/promote HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n{json}");
    assert!(send(&post).text().contains("origin"));
    let form = "POST /v1/promote HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    assert!(send(form).text().contains("Content-Type: application/json"));
}

#[test]
fn a_stopping_server_finishes_what_is_under_way_and_cuts_off_the_rest() {
    let mut server = TestServer::with(|http| HttpSection { request_timeout: "20s".parse().unwrap(), ..http });
    let (address, mut idle) = (server.address, server.connect());
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: never finished").unwrap();
    let working = std::thread::spawn({
        let mut stream = server.connect();
        move || {
            let body = r#"{"max_lag_bytes":500}"#;
            let head = "POST /v1/promote HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
            stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
            Answer::read(stream)
        }
    });
    std::thread::sleep(Duration::from_millis(150));
    let started = Instant::now();
    let running = server.server.take().unwrap();
    server.runtime.block_on(running.stop(Duration::from_secs(5)));
    assert!(started.elapsed() < Duration::from_secs(15));
    assert_eq!(working.join().unwrap().status, 200, "a request under way was not finished");
    Answer::read(idle);
    assert!(TcpStream::connect(address).is_err(), "it still listens");
}
