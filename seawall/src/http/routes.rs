//! The paths of the API, each declared once in [`ROUTES`], and what each asks of the node. Work that may block runs on
//! the blocking threads, at most as many pieces at a time as there may be connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::HttpNode;
use super::api::{
    BackupEvent, BackupRequest, Backups, BatchRequest, Keyspaces, NodeState, NodeStats, Problem, Replicas,
};
use super::body::{self, Answer};
use super::metrics;
use super::readiness::{LagMax, readiness};
use super::server::Counters;
use crate::config::{Level, Size, Span};
use crate::entry::percent_decode;
use crate::failure::{Failure, Kind};
use crate::kv::{self, Scan, Ttl, WriteOptions};

/// A path of the API: method, pattern, what it does.
pub type Route = (&'static str, &'static str, &'static str);

/// Every path there is.
pub const ROUTES: [Route; 17] = [
    ("GET", "/", "this list"),
    ("GET", "/healthz", "200 unless the node has failed"),
    (
        "GET",
        "/readyz",
        "200 while the node does what its role says and is not far behind; ?max_lag=10s&max_lag_bytes=1MiB",
    ),
    ("GET", "/metrics", "Prometheus text"),
    ("GET", "/v1/stats", "figures of log and engine"),
    ("GET", "/v1/replication/status", "role, timeline, positions, lag, archive, throttle"),
    ("GET", "/v1/replication/replicas", "the standbys, with positions and lag by stage"),
    ("GET", "/v1/kv", "the keyspaces"),
    (
        "GET",
        "/v1/kv/{keyspace}",
        "a page of entries in order; ?prefix=&start=&after=&end=&limit=&reverse=true&keys_only=true",
    ),
    ("POST", "/v1/kv/{keyspace}", "writes that take effect together; ?level=remote_flush(1)&timeout=5s&ttl=30m"),
    ("GET", "/v1/kv/{keyspace}/{key}", "the value, byte for byte"),
    ("PUT", "/v1/kv/{keyspace}/{key}", "puts the body under the key, for ever or for a time; ?level=&timeout=&ttl=30m"),
    ("DELETE", "/v1/kv/{keyspace}/{key}", "removes the key; ?level=&timeout="),
    ("GET", "/v1/digest", "a hash over everything; ?lsn=0/1A2B3C4D for a moment that can still be read"),
    ("POST", "/v1/promote", "makes this node the primary of a new timeline"),
    ("GET", "/v1/backups", "the base backups in the archive"),
    ("POST", "/v1/backups", "makes a base backup; answers with lines of progress, then a summary or an error"),
];

/// Paths whose work grows with the data may take this many times as long as others.
const LONG_PATHS: [&str; 2] = ["/v1/digest", "/v1/promote"];
const LONG_FACTOR: u32 = 10;

/// How long a request to `path` may take, where most may take `timeout`.
pub(super) fn timeout_of(path: &str, timeout: Duration) -> Duration {
    if LONG_PATHS.contains(&path) { timeout * LONG_FACTOR } else { timeout }
}

/// Between the moment a write gives up and the moment its request does, so that the answer can still say where it is.
const ANSWER_MARGIN: Duration = Duration::from_millis(250);
/// Entries of a page if the request does not say.
const PAGE_ENTRIES_DEFAULT: usize = 1000;
/// A long operation says that it is alive at least this often.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// And at most this often.
const LINES_APART: Duration = Duration::from_millis(100);

pub(super) struct Router {
    node: Arc<dyn HttpNode>,
    counters: Arc<Counters>,
    write: WriteOptions,
    ready: LagMax,
    /// Pieces of blocking work.
    jobs: Arc<Semaphore>,
}

impl Router {
    pub(super) fn new(
        node: Arc<dyn HttpNode>,
        counters: Arc<Counters>,
        write: WriteOptions,
        ready: LagMax,
        jobs_max: usize,
    ) -> Self {
        Self { node, counters, write, ready, jobs: Arc::new(Semaphore::new(jobs_max)) }
    }

    /// Answers a request. `paid` stands for the memory of `body` and is held as long as anything uses it.
    pub(super) async fn route(
        &self,
        head: &Parts,
        body: Bytes,
        deadline: Instant,
        paid: OwnedSemaphorePermit,
    ) -> Result<Response<Answer>, Failure> {
        let query = Query::parse(head.uri.query().unwrap_or_default())?;
        let path = head.uri.path();
        let work = Work { router: self, body, deadline, paid };
        match (&head.method, path) {
            (&Method::GET, "/") => Ok(body::bytes(StatusCode::OK, "text/plain; charset=utf-8", listing())),
            (&Method::GET, "/healthz") => work.health().await,
            (&Method::GET, "/readyz") => work.ready(&query).await,
            (&Method::GET, "/metrics") => work.metrics().await,
            (&Method::GET, "/v1/stats") => work.stats().await,
            (&Method::GET, "/v1/replication/status") => work.document(|node| Ok(node.status())).await,
            (&Method::GET, "/v1/replication/replicas") => {
                work.document(|node| Ok(Replicas { replicas: node.replicas() })).await
            }
            (&Method::GET, "/v1/kv") => work.document(|node| Ok(Keyspaces { keyspaces: node.db()?.keyspaces() })).await,
            (&Method::GET, "/v1/digest") => {
                query.only(&["lsn"])?;
                let lsn = query.parsed("lsn")?;
                work.document(move |node| kv::digest(&node.db()?, lsn)).await
            }
            (&Method::POST, "/v1/promote") => work.promote().await,
            (&Method::GET, "/v1/backups") => work.document(|node| Ok(Backups { backups: node.backups()? })).await,
            (&Method::POST, "/v1/backups") => work.backup().await,
            (method, path) => match path.strip_prefix("/v1/kv/") {
                Some(rest) => work.kv(method, rest, &query).await,
                None => Err(unknown(method, path)),
            },
        }
    }
}

fn listing() -> String {
    ROUTES.iter().map(|(method, path, what)| format!("{method:<6} {path:<27} {what}\n")).collect()
}

fn unknown(method: &Method, path: &str) -> Failure {
    let other: Vec<&str> = ROUTES.iter().filter(|(_, known, _)| *known == path).map(|(method, ..)| *method).collect();
    let message = match other.is_empty() {
        true => format!("there is no {path} here"),
        false => format!("{path} does not take {method}, but {}", other.join(" and ")),
    };
    Failure::new(Kind::NotFound, message).hint("GET / lists every path")
}

/// A request on its way.
struct Work<'a> {
    router: &'a Router,
    body: Bytes,
    deadline: Instant,
    paid: OwnedSemaphorePermit,
}

impl Work<'_> {
    /// Runs `work` on a blocking thread. A request that is given up does not end its work, so what the work uses is
    /// held by the work, not by the request.
    async fn blocking<T: Send + 'static>(
        self,
        work: impl FnOnce(&dyn HttpNode) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let job = self.router.jobs.clone().acquire_owned().await;
        let job = job.map_err(|_| Failure::new(Kind::Unavailable, "the server is stopping"))?;
        let (node, held) = (self.router.node.clone(), (job, self.paid));
        let done = tokio::task::spawn_blocking(move || {
            let _held = held;
            work(&*node)
        });
        done.await.unwrap_or_else(|_| Err(Failure::new(Kind::Failed, "the request met a bug; the node's log has more")))
    }

    async fn document<T: serde::Serialize + Send + 'static>(
        self,
        work: impl FnOnce(&dyn HttpNode) -> Result<T, Failure> + Send + 'static,
    ) -> Result<Response<Answer>, Failure> {
        Ok(body::json(StatusCode::OK, &self.blocking(work).await?))
    }

    async fn health(self) -> Result<Response<Answer>, Failure> {
        let status = self.blocking(|node| Ok(node.status())).await?;
        match status.state {
            NodeState::Failed => {
                let detail = status.state_detail.unwrap_or_default();
                Err(Failure::new(Kind::Unavailable, format!("the node has failed: {detail}")))
            }
            _ => Ok(body::bytes(StatusCode::OK, "text/plain", "ok\n")),
        }
    }

    async fn ready(self, query: &Query) -> Result<Response<Answer>, Failure> {
        let time = query.parsed::<Span>("max_lag")?.map_or(self.router.ready.time, |span| span.0);
        let bytes = query.parsed::<Size>("max_lag_bytes")?.map(|size| size.0);
        query.only(&["max_lag", "max_lag_bytes"])?;
        let status = self.blocking(|node| Ok(node.status())).await?;
        let answer = readiness(&status, LagMax { time, bytes });
        if answer.ready {
            return Ok(body::json(StatusCode::OK, &answer));
        }
        let mut problem = Problem::from(&Failure::new(Kind::Unavailable, answer.reasons.join("; ")));
        problem.title = String::from("not ready");
        problem.reasons = answer.reasons;
        Ok(body::problem(&problem))
    }

    async fn metrics(self) -> Result<Response<Answer>, Failure> {
        let counters = self.router.counters.clone();
        let page = self.blocking(move |node| {
            Ok(metrics::render(&node.status(), &node.replicas(), stats(node, &counters).ok().as_ref()))
        });
        Ok(body::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page.await?))
    }

    async fn stats(self) -> Result<Response<Answer>, Failure> {
        let counters = self.router.counters.clone();
        self.document(move |node| stats(node, &counters)).await
    }

    async fn promote(self) -> Result<Response<Answer>, Failure> {
        let request = parsed(&self.body)?;
        tracing::info!(?request, "promotion asked for over HTTP");
        self.document(move |node| node.promote(&request)).await
    }

    /// Starts a backup and answers with lines; the backup goes on if nobody reads them.
    async fn backup(self) -> Result<Response<Answer>, Failure> {
        let request: BackupRequest = parsed(&self.body)?;
        tracing::info!(?request, "backup asked for over HTTP");
        let job = self.router.jobs.clone().try_acquire_owned();
        let job = job.map_err(|_| Failure::new(Kind::Unavailable, "the server is busy; try again in a while"))?;
        let starting = BackupEvent::Progress { stage: String::from("starting"), bytes_done: 0, bytes_total: 0 };
        let (events, newest) = watch::channel(starting);
        let (lines, answer) = mpsc::channel(1);
        let (node, paid) = (self.router.node.clone(), self.paid);
        tokio::task::spawn_blocking(move || {
            let _held = (job, paid);
            let progress = &mut |event| drop(events.send_replace(event));
            let last = match node.create_backup(&request, progress) {
                Ok(summary) => BackupEvent::Summary(summary),
                Err(failure) => BackupEvent::Error(Problem::from(&failure)),
            };
            events.send_replace(last);
        });
        tokio::spawn(write_lines(newest, lines));
        Ok(body::lines(answer))
    }

    async fn kv(self, method: &Method, rest: &str, query: &Query) -> Result<Response<Answer>, Failure> {
        let wrong = |message: String| Failure::new(Kind::Usage, message);
        let (keyspace, key) = match rest.split_once('/') {
            Some((keyspace, key)) => (keyspace, Some(percent_decode(key).map_err(wrong)?)),
            None => (rest, None),
        };
        let keyspace = percent_decode(keyspace).map_err(wrong)?;
        let keyspace = String::from_utf8(keyspace).map_err(|_| wrong(String::from("a keyspace's name is UTF-8")))?;
        match (method, key) {
            (&Method::GET, None) => {
                let scan = query.scan()?;
                self.document(move |node| kv::scan(&node.db()?, &keyspace, &scan)).await
            }
            (&Method::GET, Some(key)) => {
                query.only(&[])?;
                let value = self.blocking(move |node| kv::get(&node.db()?, &keyspace, &key)).await?;
                let value = value.ok_or_else(|| Failure::new(Kind::NotFound, "there is no such key"))?;
                Ok(body::bytes(StatusCode::OK, "application/octet-stream", value))
            }
            (&Method::POST, None) => {
                let request: BatchRequest = parsed(&self.body)?;
                let operations = operations(&request)?;
                self.write(keyspace, operations, query).await
            }
            (&Method::PUT, Some(key)) => {
                let value = self.body.clone();
                self.write(keyspace, vec![(key, Some(value))], query).await
            }
            (&Method::DELETE, Some(key)) => self.write(keyspace, vec![(key, None)], query).await,
            (method, key) => {
                Err(unknown(method, if key.is_some() { "/v1/kv/{keyspace}/{key}" } else { "/v1/kv/{keyspace}" }))
            }
        }
    }

    async fn write(
        self,
        keyspace: String,
        operations: kv::Operations,
        query: &Query,
    ) -> Result<Response<Answer>, Failure> {
        let puts = operations.iter().any(|(_, value)| value.is_some());
        query.only(if puts { &["level", "timeout", "ttl"] } else { &["level", "timeout"] })?;
        let level = query.parsed::<Level>("level")?.map_or(self.router.write.level, |level| level.0);
        let latest = self.deadline.checked_sub(ANSWER_MARGIN).unwrap_or(self.deadline);
        let deadline = match query.parsed::<Span>("timeout")? {
            Some(timeout) => latest.min(Instant::now() + timeout.0),
            None => latest,
        };
        let ttl = query.parsed::<Ttl>("ttl")?.map(Duration::from);
        let options = WriteOptions { level, deadline: Some(deadline), ttl };
        self.document(move |node| kv::write(&node.db()?, &keyspace, operations, options)).await
    }
}

fn stats(node: &dyn HttpNode, counters: &Counters) -> Result<NodeStats, Failure> {
    Ok(NodeStats {
        http_requests_total: counters.requests.load(Ordering::Relaxed),
        http_connections: counters.connections.load(Ordering::Relaxed),
        ..NodeStats::of(&node.db()?.stats())
    })
}

fn parsed<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Failure> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| Failure::new(Kind::Usage, format!("the request body: {error}")))
}

fn operations(request: &BatchRequest) -> Result<kv::Operations, Failure> {
    let one = |entry: &crate::entry::Entry| {
        let deletes = entry.value.is_none() && entry.value_base64.is_none();
        Ok((entry.key_bytes()?, if deletes { None } else { Some(Bytes::from(entry.value_bytes()?)) }))
    };
    let all: Result<_, String> = request.operations.iter().map(one).collect();
    all.map_err(|message| Failure::new(Kind::Usage, format!("the request body: {message}")))
}

/// Hands on the newest event as fast as lines are read, and again as a sign of life where there is no newer one.
async fn write_lines(mut newest: watch::Receiver<BackupEvent>, lines: mpsc::Sender<Bytes>) {
    loop {
        let event = newest.borrow_and_update().clone();
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        let over = !matches!(event, BackupEvent::Progress { .. });
        if lines.send(Bytes::from(line)).await.is_err() || over {
            return;
        }
        tokio::time::sleep(LINES_APART).await;
        if let Ok(Err(_)) = tokio::time::timeout(HEARTBEAT, newest.changed()).await {
            let bug = Failure::new(Kind::Failed, "the backup met a bug; the node's log has more");
            let mut line = serde_json::to_vec(&BackupEvent::Error(Problem::from(&bug))).unwrap_or_default();
            line.push(b'\n');
            let _ = lines.send(Bytes::from(line)).await;
            return;
        }
    }
}

/// The part of a path after `?`.
struct Query {
    pairs: Vec<(String, Vec<u8>)>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, Failure> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode(value).map_err(|message| Failure::new(Kind::Usage, message))?;
            Ok((name.to_owned(), value))
        };
        let pairs: Result<_, Failure> = text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        Ok(Self { pairs: pairs? })
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.bytes(name) else { return Ok(None) };
        let text = String::from_utf8_lossy(value);
        let value = text.parse().map(Some);
        value.map_err(|error| Failure::new(Kind::Usage, format!("?{name}={text}: {error}")))
    }

    fn only(&self, known: &[&str]) -> Result<(), Failure> {
        match self.pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) if known.is_empty() => {
                Err(Failure::new(Kind::Usage, format!("?{name} is not known here; nothing is")))
            }
            Some((name, _)) => {
                Err(Failure::new(Kind::Usage, format!("?{name} is not known here; {} are", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    fn scan(&self) -> Result<Scan, Failure> {
        self.only(&["prefix", "start", "after", "end", "limit", "reverse", "keys_only"])?;
        let owned = |name| self.bytes(name).map(<[u8]>::to_vec);
        Ok(Scan {
            prefix: owned("prefix").unwrap_or_default(),
            start: owned("start"),
            after: owned("after"),
            end: owned("end"),
            limit: self.parsed("limit")?.unwrap_or(PAGE_ENTRIES_DEFAULT),
            reverse: self.parsed("reverse")?.unwrap_or(false),
            keys_only: self.parsed("keys_only")?.unwrap_or(false),
        })
    }
}
