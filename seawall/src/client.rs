//! Asking a running node: the other end of `http`, for commands. One connection a request, every wait bounded, answers
//! bounded in size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::failure::{Failure, Kind};
use crate::http::api::{BackupEvent, BackupSummary, Problem};

/// To establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer, unless the caller says otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// For the next line of an answer that comes in lines; the server sends one every few seconds.
const LINE_TIMEOUT: Duration = Duration::from_secs(60);
/// Of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Asks one node.
#[derive(Debug)]
pub struct Client {
    /// `host:port`.
    authority: String,
    runtime: Runtime,
}

impl Client {
    /// Of `http://host:port`. Contacts nobody yet.
    pub fn new(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::new(Kind::Usage, format!("`{url}` {why}")).hint("expected http://host:port");
        let rest = url.strip_prefix("http://").ok_or_else(|| wrong("does not begin with http://"))?;
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            return Err(wrong("names more than a host and a port"));
        }
        let authority = match authority.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => authority.to_owned(),
            Some((_, end)) if !end.ends_with(']') => return Err(wrong("has a port that is none")),
            _ => format!("{authority}:80"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| Failure::new(Kind::Failed, format!("cannot start a runtime: {error}")))?;
        Ok(Self { authority, runtime })
    }

    /// The answer to a GET, read as JSON.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(&self.bytes(Method::GET, path, None, ANSWER_TIMEOUT)?)
    }

    /// As [`get`](Self::get), for what may take `limit`.
    pub fn get_within<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, Failure> {
        self.json(&self.bytes(Method::GET, path, None, limit)?)
    }

    /// The answer to a POST of JSON.
    pub fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B, limit: Duration) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::new(Kind::Failed, error))?;
        self.json(&self.bytes(Method::POST, path, Some(body.into()), limit)?)
    }

    /// The answer to any request, as it is.
    pub fn bytes(&self, method: Method, path: &str, body: Option<Bytes>, limit: Duration) -> Result<Bytes, Failure> {
        self.runtime.block_on(async {
            match timeout(limit, self.exchange(method, path, body)).await {
                Ok(answer) => answer,
                Err(_) => Err(self.unreachable(format!("no answer within {limit:?}"))),
            }
        })
    }

    /// Makes a base backup, handing on what the node says about its progress.
    pub fn backup<B: Serialize>(
        &self,
        request: &B,
        mut progress: impl FnMut(&str, u64, u64),
    ) -> Result<BackupSummary, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| Failure::new(Kind::Failed, error))?;
        self.runtime.block_on(async {
            let answer = timeout(LINE_TIMEOUT, self.send(Method::POST, "/v1/backups", Some(body.into()))).await;
            let answer = answer.map_err(|_| self.unreachable("no answer"))??;
            if !answer.status().is_success() {
                return Err(self.problem(&collect(answer, self).await?));
            }
            let mut body = answer.into_body();
            let mut pending = Vec::new();
            loop {
                let frame = timeout(LINE_TIMEOUT, body.frame()).await;
                let frame = frame.map_err(|_| self.unreachable("it stopped saying how far the backup is"))?;
                let Some(frame) = frame else {
                    return Err(Failure::new(
                        Kind::Indeterminate,
                        "the node went away before it said how the backup ended",
                    )
                    .hint("`seawall backup list` shows whether it was finished"));
                };
                let frame = frame.map_err(|error| self.unreachable(error))?;
                pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                if pending.len() > ANSWER_BYTES_MAX {
                    return Err(self.unreachable("a line without end"));
                }
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    match self.json(&line)? {
                        BackupEvent::Progress { stage, bytes_done, bytes_total } => {
                            progress(&stage, bytes_done, bytes_total);
                        }
                        BackupEvent::Summary(summary) => return Ok(summary),
                        BackupEvent::Error(problem) => return Err(problem.into()),
                    }
                }
            }
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, Failure> {
        let answer = self.send(method, path, body).await?;
        let ok = answer.status().is_success();
        let bytes = collect(answer, self).await?;
        if ok { Ok(bytes) } else { Err(self.problem(&bytes)) }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Response<Incoming>, Failure> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await;
        let stream = stream.map_err(|_| self.unreachable("no connection within 5 s"))?;
        let stream = stream.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        // Ends with the exchange: nothing else holds the connection.
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        *request.uri_mut() = path.parse().map_err(|error| Failure::new(Kind::Usage, format!("{path}: {error}")))?;
        let json = method == Method::POST;
        *request.method_mut() = method;
        let host = HeaderValue::from_str(&self.authority);
        let host = host.map_err(|_| Failure::new(Kind::Usage, format!("`{}` is not a host", self.authority)))?;
        request.headers_mut().insert(HOST, host);
        if json {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        sender.send_request(request).await.map_err(|error| self.unreachable(error))
    }

    fn json<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(bytes).map_err(|error| {
            let message = format!("http://{} gave an answer that is not understood: {error}", self.authority);
            Failure::new(Kind::Failed, message).hint("is it a seawall node of this version?")
        })
    }

    fn problem(&self, bytes: &[u8]) -> Failure {
        match self.json::<Problem>(bytes) {
            Ok(problem) => problem.into(),
            Err(failure) => failure,
        }
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> Failure {
        Failure::new(Kind::Unreachable, format!("no node answers at http://{}: {why}", self.authority))
            .hint("`seawall serve` runs one; --url says where it is")
    }
}

async fn collect(answer: Response<Incoming>, client: &Client) -> Result<Bytes, Failure> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| client.unreachable(error))?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_and_a_port() {
        for (url, authority) in [
            ("http://db1:7700", "db1:7700"),
            ("http://[::1]:1/", "[::1]:1"),
            ("http://db1", "db1:80"),
            ("http://[::1]", "[::1]:80"),
        ] {
            assert_eq!(Client::new(url).unwrap().authority, authority);
        }
        for url in ["https://db1", "db1:7700", "http://", "http://db1/v1", "http://db1:x", "http://a@b"] {
            assert_eq!(Client::new(url).unwrap_err().kind, Kind::Usage, "{url}");
        }
    }

    #[test]
    fn nobody_there_is_said_with_the_address() {
        let failure = Client::new("http://127.0.0.1:1").unwrap().get::<Problem>("/").unwrap_err();
        assert_eq!(failure.kind, Kind::Unreachable);
        assert!(failure.message.starts_with("no node answers at http://127.0.0.1:1: "), "{failure}");
    }
}
