//! Connections: how many, how long, how much. Every wait here has an end, so a silent or slow client costs a slot for a
//! bounded time and a bounded number of bytes. What requests mean is `routes`' business.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::HttpNode;
use super::api::Problem;
use super::body::{self, Answer};
use super::guard::Guard;
use super::patience::Patient;
use super::readiness::LagMax;
use super::routes::{Router, timeout_of};
use crate::config::HttpSection;
use crate::failure::{Failure, Kind};
use crate::kv::WriteOptions;

/// A request's head may have this many bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// And this many fields.
const HEADERS_MAX: usize = 64;
/// Request bodies held at a time, in units of the largest one.
const BODIES_MAX: usize = 8;
/// For telling a client that there is no room.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// So much of its head is waited for before.
const REFUSED_HEAD_BYTES_MAX: usize = 8 << 10;
/// Clients told so at a time; others are just cut off.
const REFUSALS_MAX: usize = 32;

/// Limits of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names allowed in the Host header on loopback, besides the usual ones.
    pub hosts: Vec<String>,
    /// At a time.
    pub connections_max: usize,
    /// To send a request's head; a connection that waits for its next request is closed after it, too.
    pub header_timeout: Duration,
    /// For a whole request.
    pub request_timeout: Duration,
    /// Of a request.
    pub body_max: usize,
    /// For `/readyz`, if the request does not say.
    pub ready_lag_max: Duration,
    /// For writes that do not say.
    pub write: WriteOptions,
}

impl Settings {
    /// From `[http]`; `level` is that of writes that name none.
    pub fn new(http: &HttpSection, level: seawall_engine::CommitLevel) -> Self {
        Self {
            hosts: http.hosts.clone(),
            connections_max: http.connections_max,
            header_timeout: http.header_timeout.0,
            request_timeout: http.request_timeout.0,
            body_max: http.body_max.as_usize(),
            ready_lag_max: http.ready_lag_max.0,
            write: WriteOptions { level, deadline: None, ttl: None },
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    connections: Arc<Semaphore>,
    connections_max: usize,
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) router: Router,
    guard: Guard,
    /// Bodies being read or worked on, in KiB.
    bodies: Arc<Semaphore>,
    pub(super) counters: Arc<Counters>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) connections: AtomicU64,
}

impl Shared {
    /// For connections to an address.
    pub(super) fn new(node: Arc<dyn HttpNode>, address: IpAddr, settings: Settings) -> Self {
        let counters = Arc::new(Counters::default());
        let ready = LagMax { time: settings.ready_lag_max, bytes: None };
        Self {
            router: Router::new(node, counters.clone(), settings.write, ready, settings.connections_max),
            guard: Guard::new(address, &settings.hosts),
            bodies: Arc::new(Semaphore::new(BODIES_MAX * kib(settings.body_max) as usize)),
            counters,
            settings,
        }
    }
}

impl Server {
    /// Serves `node` on a bound listener, from now on. Must be called on a runtime.
    pub fn start(listener: TcpListener, node: Arc<dyn HttpNode>, settings: Settings) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let connections = Arc::new(Semaphore::new(settings.connections_max));
        let connections_max = settings.connections_max;
        let shared = Arc::new(Shared::new(node, address.ip(), settings));
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, shared, connections.clone(), stopped));
        Ok(Self { address, stop, accepting, connections, connections_max })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets requests under way finish until `patience` is over, and cuts off the rest.
    pub async fn stop(self, patience: Duration) {
        let _ = self.stop.send(true);
        self.accepting.abort();
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(patience, self.connections.acquire_many(all)).await;
        // The connections that are left end with the sender: see `serve`.
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
) {
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to come back.
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = connections.clone().try_acquire_owned() else {
            if let Ok(turn) = refusals.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream)).await;
                    drop(turn);
                });
            }
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (shared, stopped) = (shared.clone(), stopped.clone());
        tokio::spawn(async move {
            shared.counters.connections.fetch_add(1, Ordering::Relaxed);
            serve(stream, &shared, stopped).await;
            shared.counters.connections.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
        });
    }
}

/// There is no slot for this client; it is told so, and given a moment to read it.
async fn refuse(mut stream: TcpStream) {
    // Before its request is there an answer would not be one to it.
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < REFUSED_HEAD_BYTES_MAX {
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => head.extend_from_slice(&piece[..count]),
            _ => return,
        }
    }
    drop(head);
    let mut failure = Failure::new(Kind::Unavailable, "too many connections; try again in a while");
    failure.retry_after_seconds = Some(1.0);
    let body = serde_json::to_string(&Problem::from(&failure)).unwrap_or_default();
    let head = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-type: application/problem+json\r\n\
                connection: close\r\n";
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        // Closing with bytes unread would reset the connection under the answer.
        while stream.read(&mut piece).await.is_ok_and(|count| count > 0) {}
    }
}

pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let io = TokioIo::new(Patient::new(stream, shared.settings.request_timeout));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.settings.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service_fn(|request| answer(request, shared.clone())));
    let mut connection = std::pin::pin!(connection);
    let asked = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.changed() => None,
    };
    let ended = match asked {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                // The server itself is gone, and with it the time for finishing.
                _ = stopped.changed() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Answer>, Infallible> {
    shared.counters.requests.fetch_add(1, Ordering::Relaxed);
    let timeout = timeout_of(request.uri().path(), shared.settings.request_timeout);
    let answered = tokio::time::timeout(timeout, respond(request, &shared)).await;
    Ok(match answered {
        Ok(Ok(response)) => response,
        Ok(Err(failure)) => body::failure(&failure),
        Err(_) => {
            let message = format!("not done within {timeout:?}; whether a write took effect is unknown");
            let mut response = body::failure(&Failure::new(Kind::Indeterminate, message));
            response.headers_mut().insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
            response
        }
    })
}

async fn respond(request: Request<Incoming>, shared: &Arc<Shared>) -> Result<Response<Answer>, Failure> {
    let (head, incoming) = request.into_parts();
    shared.guard.check(&head.method, head.version, &head.headers)?;
    let max = shared.settings.body_max;
    let too_large = || Failure::new(Kind::TooLarge, format!("a request body may have {max} bytes (http.body_max)"));
    let hint = hyper::body::Body::size_hint(&incoming);
    let size = hint.upper().unwrap_or(max as u64).max(hint.lower());
    if size > max as u64 {
        return Err(too_large());
    }
    // What is read is paid for first; it is given back once the answer is made.
    let permits = kib(size as usize);
    let paid = shared.bodies.clone().acquire_many_owned(permits).await;
    let paid = paid.map_err(|_| Failure::new(Kind::Unavailable, "the server is stopping"))?;
    let body = match http_body_util::BodyExt::collect(http_body_util::Limited::new(incoming, max)).await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Err(error) => return Err(Failure::new(Kind::Usage, format!("the request body broke off: {error}"))),
    };
    let deadline = std::time::Instant::now() + shared.settings.request_timeout;
    shared.router.route(&head, body, deadline, paid).await
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4)
}
