//! An S3 server over real HTTP with a directory behind it: SigV4, atomic conditional writes, ranges, listings. The
//! sandbox's archive lives in one, and tests meet the real SDK through it.
//!
//! Objects survive a restart of the process, not a power cut: nothing is synced. Objects are whole; multipart uploads,
//! versions and lifecycle rules, which Seawall never uses, are answered `NotImplemented`. An index of all keys is kept
//! in memory.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

mod counters;
#[cfg(any(test, feature = "testing"))]
mod faults;
mod objects;
mod service;

pub use counters::{CounterSnapshot, S3Counters};
#[cfg(any(test, feature = "testing"))]
pub use faults::{ServerFault, ServerFaults};
pub use objects::OpenError;

/// A client that has not sent its whole request head by then is cut off; so is an idle connection.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections served at once; later ones wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// Longest wait for running requests when stopping.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);

/// A running server. Dropping it stops it at once; [`stop`](S3Server::stop) lets running requests end.
pub struct S3Server {
    addr: SocketAddr,
    objects: Arc<objects::Objects>,
    counters: Arc<S3Counters>,
    #[cfg(any(test, feature = "testing"))]
    faults: Arc<ServerFaults>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// Its address cannot be used.
    #[error("cannot listen on {addr}; choose another address or port")]
    Listen {
        /// As asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl S3Server {
    /// Serves the objects under `dir`, created if missing, to whoever signs with this key. Port 0 picks a free one.
    pub async fn start(
        dir: impl AsRef<Path>,
        access_key: &str,
        secret_key: &str,
        addr: SocketAddr,
    ) -> Result<Self, StartError> {
        let dir = dir.as_ref().to_owned();
        let objects = tokio::task::spawn_blocking(move || objects::Objects::open(&dir)).await;
        let objects = Arc::new(objects.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?);
        let listen = |source| StartError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let counters = Arc::new(S3Counters::default());
        #[cfg(any(test, feature = "testing"))]
        let faults = Arc::new(ServerFaults::default());
        let service = service::Service {
            objects: objects.clone(),
            counters: counters.clone(),
            #[cfg(any(test, feature = "testing"))]
            faults: faults.clone(),
        };
        let mut builder = S3ServiceBuilder::new(service);
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, builder.build(), stopped));
        Ok(S3Server {
            addr,
            objects,
            counters,
            #[cfg(any(test, feature = "testing"))]
            faults,
            stop: Some(stop),
            serving,
        })
    }

    /// Base url for clients, which must use path style.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests and bytes so far.
    pub fn counters(&self) -> CounterSnapshot {
        self.counters.snapshot()
    }

    /// Makes a bucket, unless it exists.
    pub fn create_bucket(&self, name: &str) -> io::Result<()> {
        self.objects.create_bucket(name).map(drop)
    }

    /// What goes wrong from now on.
    #[cfg(any(test, feature = "testing"))]
    pub fn faults(&self) -> &ServerFaults {
        &self.faults
    }

    /// Stops accepting, lets running requests end (for up to five seconds), and returns when the port is free.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.serving).await;
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service, mut stopped: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Aborts every connection when dropped.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    // Not the auto builder: its sniffing of the HTTP version waits for ever.
                    let connection = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_READ_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service.clone());
                    let watched = graceful.watch(connection);
                    connections.spawn(async move {
                        if let Err(error) = watched.await {
                            tracing::debug!(%error, "connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: pausing lets connections end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(STOP_WAIT_MAX, graceful.shutdown()).await;
}
