//! A node's HTTP API as the sandbox uses it: blocking calls with a deadline each, and typed documents.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::failure::{Failure, Kind};
use crate::http::api::{BackupEvent, BackupSummary, BatchRequest, DigestDocument, NodeStatus, Problem, Promoted, Replicas};
use crate::kv::Written;

/// One node's API.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    runtime: Handle,
}

impl Api {
    /// Of the node at `address`. Calls must not come from the runtime's own threads.
    pub fn new(address: SocketAddr, runtime: Handle) -> Self {
        Self { address, runtime }
    }

    /// `GET /v1/replication/status`
    pub fn status(&self) -> Result<NodeStatus, Failure> {
        self.json(Method::GET, "/v1/replication/status", None, Duration::from_secs(5))
    }

    /// `GET /v1/replication/replicas`
    pub fn replicas(&self) -> Result<Replicas, Failure> {
        self.json(Method::GET, "/v1/replication/replicas", None, Duration::from_secs(5))
    }

    /// Commits a batch, waiting for admission and for `level` at most about `wait`.
    pub fn write(&self, keyspace: &str, batch: &BatchRequest, level: &str, wait: Duration) -> Result<Written, Failure> {
        let path = format!("/v1/kv/{keyspace}?level={level}&timeout={}ms", wait.as_millis());
        let body = serde_json::to_vec(batch).expect("a batch is plain JSON");
        self.json(Method::POST, &path, Some(body), wait + Duration::from_secs(5))
    }

    /// The value of a key.
    pub fn get(&self, keyspace: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let path = format!("/v1/kv/{keyspace}/{}", crate::entry::percent_encode(key));
        match self.call(Method::GET, &path, None, Duration::from_secs(10)) {
            Ok(value) => Ok(Some(value)),
            Err(failure) if failure.kind == Kind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The digest of the state at an LSN that is still readable, or now.
    pub fn digest(&self, lsn: Option<&str>) -> Result<DigestDocument, Failure> {
        let path = lsn.map_or_else(|| "/v1/digest".to_owned(), |lsn| format!("/v1/digest?lsn={lsn}"));
        self.json(Method::GET, &path, None, Duration::from_secs(120))
    }

    /// Makes a base backup and waits for it.
    pub fn backup(&self, label: &str) -> Result<BackupSummary, Failure> {
        let body = serde_json::json!({ "label": label }).to_string().into_bytes();
        let lines = self.call(Method::POST, "/v1/backups", Some(body), Duration::from_secs(300))?;
        let last = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
        match parse(last)? {
            BackupEvent::Summary(summary) => Ok(summary),
            BackupEvent::Error(problem) => Err(problem.into()),
            BackupEvent::Progress { stage, .. } => Err(Failure::new(Kind::Failed, format!("the backup ended while {stage}"))),
        }
    }

    /// Makes the node the primary of a new timeline.
    pub fn promote(&self) -> Result<Promoted, Failure> {
        self.json(Method::POST, "/v1/promote", Some(b"{}".to_vec()), Duration::from_secs(60))
    }

    fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<T, Failure> {
        parse(&self.call(method, path, body, deadline)?)
    }

    fn call(&self, method: Method, path: &str, body: Option<Vec<u8>>, deadline: Duration) -> Result<Vec<u8>, Failure> {
        let call = async {
            match tokio::time::timeout(deadline, exchange(self.address, method, path, body)).await {
                Ok(answer) => answer,
                Err(_) => Err(Failure::new(Kind::Unreachable, format!("{} does not answer {path}", self.address))),
            }
        };
        self.runtime.block_on(call)
    }
}

async fn exchange(address: SocketAddr, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Vec<u8>, Failure> {
    let unreachable = |error: &dyn std::fmt::Display| Failure::new(Kind::Unreachable, format!("{address}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    // Ends with the exchange: nothing else holds the connection.
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", address.to_string());
    let request = match &body {
        Some(_) => request.header("content-type", "application/json"),
        None => request,
    };
    let request = request.body(Full::from(body.unwrap_or_default())).expect("the parts are valid");
    let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| unreachable(&error))?.to_bytes();
    drop(sender);
    connection.abort();
    if status.is_success() {
        return Ok(body.to_vec());
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(problem.into()),
        Err(_) => Err(Failure::new(Kind::Failed, format!("{address} answered {status}"))),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::new(Kind::Failed, format!("an answer makes no sense: {error}")))
}
