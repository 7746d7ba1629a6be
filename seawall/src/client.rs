//! Asking a running node: the other end of `http`, for commands. One connection a request, every wait bounded, answers
//! bounded in size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::failure::{Failure, Kind};
use crate::http::api::{BackupEvent, BackupSummary, Problem};
use crate::kv::PAGE_BYTES_MAX;

/// To establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer, unless the caller says otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// For the next line of an answer that comes in lines; the server sends one every few seconds.
const LINE_TIMEOUT: Duration = Duration::from_secs(60);
/// Of an answer. The longest is a page of a scan, which goes beyond its bytes by one entry; and six bytes of JSON stand for one
/// where it is a control character.
const ANSWER_BYTES_MAX: usize = 6 * 2 * PAGE_BYTES_MAX + (1 << 20);
/// Characters of what is not ours in a message.
const SHOWN_MAX: usize = 200;

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
                return Err(self.problem(answer.status(), &collect(answer, self).await?));
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
        let status = answer.status();
        let bytes = collect(answer, self).await?;
        if status.is_success() { Ok(bytes) } else { Err(self.problem(status, &bytes)) }
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
        *request.uri_mut() = path.parse().map_err(|error| {
            let shown: String = path.chars().take(SHOWN_MAX).collect();
            Failure::new(Kind::Usage, format!("{shown}, {} bytes, is no address of a request: {error}", path.len()))
        })?;
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

    /// What an answer says that is no success: what the node says, or else what it comes to. Something between may have
    /// answered in its place.
    fn problem(&self, status: StatusCode, bytes: &[u8]) -> Failure {
        if let Ok(problem) = serde_json::from_slice::<Problem>(bytes) {
            return problem.into();
        }
        let kind = match status {
            StatusCode::NOT_FOUND => Kind::NotFound,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                Kind::TooLarge
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Kind::Unavailable,
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Kind::Unreachable,
            _ => Kind::Failed,
        };
        let text = String::from_utf8_lossy(bytes);
        let text: String = text.lines().next().unwrap_or_default().chars().take(SHOWN_MAX).collect();
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        Failure::new(kind, format!("http://{} answers {status}{said}", self.authority))
    }

    fn too_long(&self) -> Failure {
        let message = format!("http://{} gives an answer of more than {ANSWER_BYTES_MAX} bytes", self.authority);
        Failure::new(Kind::TooLarge, message).hint("is it a seawall node of this version?")
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> Failure {
        Failure::new(Kind::Unreachable, format!("no node answers at http://{}: {why}", self.authority))
            .hint("`seawall serve` runs one; --url says where it is")
    }
}

async fn collect(answer: Response<Incoming>, client: &Client) -> Result<Bytes, Failure> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => client.too_long(),
        false => client.unreachable(error),
    })?;
    Ok(body.to_bytes())
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
    fn an_answer_that_is_not_the_nodes_is_judged_by_its_status() {
        let client = Client::new("http://db1").unwrap();
        for (status, body, kind, message) in [
            (
                503,
                "try later\nmuch later",
                Kind::Unavailable,
                "http://db1:80 answers 503 Service Unavailable: try later",
            ),
            (431, "", Kind::TooLarge, "http://db1:80 answers 431 Request Header Fields Too Large"),
            (502, "<html>", Kind::Unreachable, "http://db1:80 answers 502 Bad Gateway: <html>"),
            (500, "", Kind::Failed, "http://db1:80 answers 500 Internal Server Error"),
        ] {
            let failure = client.problem(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!((failure.kind, failure.message.as_str()), (kind, message));
        }
        let long = client.problem(StatusCode::BAD_REQUEST, &[b'x'; 100_000]);
        assert!(long.message.len() < 300, "{long}");
    }

    #[test]
    fn nobody_there_is_said_with_the_address() {
        let failure = Client::new("http://127.0.0.1:1").unwrap().get::<Problem>("/").unwrap_err();
        assert_eq!(failure.kind, Kind::Unreachable);
        assert!(failure.message.starts_with("no node answers at http://127.0.0.1:1: "), "{failure}");
    }
}
