//! The bytes of an HTTP connection, to a real server over a database in memory: request lines, paths, queries, headers, and
//! bodies in JSON. Whatever comes is answered in HTTP or not at all; nothing that is answered with success was a bug.

#![no_main]

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use seawall::config::{Config, Sources};
use seawall::failure::{Failure, Kind};
use seawall::http::api::{
    BackupEvent, BackupRequest, BackupSummary, NodeStatus, PromoteRequest, Promoted, ReplicaStatus,
};
use seawall::http::fuzzing::Door;
use seawall::http::{HttpNode, Settings};
use seawall::{Background, Db, Lsn, SegmentSize};
use seawall_wal::storage::MemoryDisk;

/// A database whose log has become so long makes room for a new one.
const LOG_MAX: Lsn = Lsn::new(1 << 20);

/// A node that is a database.
struct Node(Db);

impl HttpNode for Node {
    fn db(&self) -> Result<Db, Failure> {
        Ok(self.0.clone())
    }

    fn status(&self) -> NodeStatus {
        NodeStatus::default()
    }

    fn replicas(&self) -> Vec<ReplicaStatus> {
        Vec::new()
    }

    fn promote(&self, _: &PromoteRequest) -> Result<Promoted, Failure> {
        Ok(Promoted::default())
    }

    fn create_backup(
        &self,
        request: &BackupRequest,
        progress: &mut dyn FnMut(BackupEvent),
    ) -> Result<BackupSummary, Failure> {
        progress(BackupEvent::Progress { stage: String::from("tables"), bytes_done: 1, bytes_total: 2 });
        Ok(BackupSummary { label: request.label.clone(), ..BackupSummary::default() })
    }

    fn backups(&self) -> Result<Vec<BackupSummary>, Failure> {
        Err(Failure::new(Kind::Usage, "there is no archive"))
    }
}

/// A server and its database.
struct Served {
    db: Db,
    door: Door,
}

impl Served {
    fn start() -> Self {
        let builder = Db::builder(Path::new("/data")).storage(Arc::new(MemoryDisk::new()));
        let builder = builder.segment_size(SegmentSize::MIN).memtable_bytes(1 << 20).cache_bytes(1 << 20);
        let db = builder.background(Background::Inline).open().expect("memory");
        let keyspace = db.keyspace("users").expect("memory");
        for key in ["ann", "bob", "with space", "\u{e9}"] {
            keyspace.insert(key, "value").expect("memory");
        }
        let sources = Sources { file: Some("/dev/null".into()), ..Sources::default() };
        let mut config = Config::load(&sources).expect("the defaults are good").config;
        config.http.body_max = "64KiB".parse().expect("a size");
        let settings = Settings::new(&config.http, seawall::CommitLevel::Local);
        let door = Door::new(Arc::new(Node(db.clone())), settings).expect("a runtime can be had");
        Self { db, door }
    }
}

thread_local! {
    static SERVED: RefCell<Option<Served>> = const { RefCell::new(None) };
}

fuzz_target!(
    init: seawall_fuzz::begin(seeds()),
    |input: &[u8]| {
        SERVED.with_borrow_mut(|served| {
            if served.as_ref().is_some_and(|served| served.db.stats().end > LOG_MAX) {
                *served = None;
            }
            let answer = served.get_or_insert_with(Served::start).door.talk(input);
            if answer.is_empty() {
                return;
            }
            let text = String::from_utf8_lossy(&answer);
            assert!(text.starts_with("HTTP/1."), "{text}");
            // A panic on a thread of the runtime is answered with these words.
            assert!(!text.contains("the request met a bug"), "{text}");
        });
    }
);

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
    let send = |method: &str, path: &str, body: &str| {
        let len = body.len();
        let head = "Host: localhost\r\nContent-Type: application/json\r\nConnection: close";
        format!("{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {len}\r\n\r\n{body}").into_bytes()
    };
    let entries = r#"{"operations":[{"key":"a","value":"1"},{"key_base64":"/w==","value_base64":"AA=="},{"key":"b"}]}"#;
    vec![
        ("list", get("/")),
        ("ready", get("/readyz?max_lag=10s&max_lag_bytes=1MiB")),
        ("metrics", get("/metrics")),
        ("status", get("/v1/replication/status")),
        ("digest", get("/v1/digest?lsn=0/1A2B3C4D")),
        ("scan", get("/v1/kv/users?prefix=a&start=a&end=z&limit=2&reverse=true&keys_only=true")),
        ("value", get("/v1/kv/users/with%20space")),
        ("batch", send("POST", "/v1/kv/users?level=local&timeout=5s&ttl=30m", entries)),
        ("put", send("PUT", "/v1/kv/new/%00%ff?level=remote_flush(1)", "value")),
        ("delete", send("DELETE", "/v1/kv/users/ann", "")),
        ("promote", send("POST", "/v1/promote", r#"{"unfenced":true,"max_lag_bytes":7}"#)),
        ("backup", send("POST", "/v1/backups", r#"{"label":"nightly","digest":true}"#)),
        ("two", [get("/healthz"), get("/v1/kv")].concat()),
        (
            "chunked",
            b"POST /v1/kv/users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                      Transfer-Encoding: chunked\r\n\r\n11\r\n{\"operations\":[]}\r\n0\r\n\r\n"
                .to_vec(),
        ),
    ]
}
