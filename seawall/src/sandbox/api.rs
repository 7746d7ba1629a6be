//! A node's HTTP API as the sandbox uses it: typed calls with a deadline each.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::Method;

use crate::client::Client;
use crate::entry::{Entry, percent_encode};
use crate::failure::{Failure, Kind};
use crate::http::api::{
    BackupRequest, BackupSummary, BatchRequest, DigestDocument, NodeStatus, PromoteRequest, Promoted, Replicas,
};
use crate::kv::{Page, Written};

/// One node's API, for one thread.
#[derive(Debug)]
pub struct Api {
    client: Client,
}

impl Api {
    /// Of the node at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            client: Client::new(&format!("http://{address}")).expect("an address makes a url, and a runtime starts"),
        }
    }

    /// `GET /v1/replication/status`
    pub fn status(&self) -> Result<NodeStatus, Failure> {
        self.client.get_within("/v1/replication/status", Duration::from_secs(5))
    }

    /// `GET /v1/replication/replicas`
    pub fn replicas(&self) -> Result<Replicas, Failure> {
        self.client.get_within("/v1/replication/replicas", Duration::from_secs(5))
    }

    /// Commits a batch, waiting for admission and for `level` at most about `wait`.
    pub fn write(&self, keyspace: &str, batch: &BatchRequest, level: &str, wait: Duration) -> Result<Written, Failure> {
        let path = format!("/v1/kv/{keyspace}?level={level}&timeout={}ms", wait.as_millis());
        self.client.post(&path, batch, wait + Duration::from_secs(5))
    }

    /// The value of a key.
    pub fn get(&self, keyspace: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let path = format!("/v1/kv/{keyspace}/{}", percent_encode(key));
        match self.client.bytes(Method::GET, &path, None, Duration::from_secs(10)) {
            Ok(value) => Ok(Some(value.to_vec())),
            Err(failure) if failure.kind == Kind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The digest of the state at an LSN that is still readable, or now.
    pub fn digest(&self, lsn: Option<&str>) -> Result<DigestDocument, Failure> {
        let path = lsn.map_or_else(|| "/v1/digest".to_owned(), |lsn| format!("/v1/digest?lsn={lsn}"));
        self.client.get_within(&path, Duration::from_secs(120))
    }

    /// Makes a base backup and waits for it.
    pub fn backup(&self, label: &str) -> Result<BackupSummary, Failure> {
        let request = BackupRequest { label: Some(label.to_owned()), digest: false };
        self.client.backup(&request, |_, _, _| {})
    }

    /// Makes the node the primary of a new timeline.
    pub fn promote(&self) -> Result<Promoted, Failure> {
        self.client.post("/v1/promote", &PromoteRequest::default(), Duration::from_secs(60))
    }

    /// Every pair of a keyspace, in order, page by page.
    pub fn scan_all(&self, keyspace: &str) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), Failure>> {
        let mut after: Option<Vec<u8>> = None;
        let mut page: std::vec::IntoIter<Entry> = Vec::new().into_iter();
        let mut more = true;
        std::iter::from_fn(move || {
            loop {
                if let Some(entry) = page.next() {
                    let pair = entry.key_bytes().and_then(|key| Ok((key, entry.value_bytes()?)));
                    if let Ok((key, _)) = &pair {
                        after = Some(key.clone());
                    }
                    return Some(pair.map_err(|why| Failure::new(Kind::Failed, why)));
                }
                if !more {
                    return None;
                }
                let from = after.as_ref().map(|key| format!("&after={}", percent_encode(key)));
                let path = format!("/v1/kv/{keyspace}?limit=10000{}", from.unwrap_or_default());
                match self.client.get::<Page>(&path) {
                    Ok(next) => {
                        more = next.more;
                        page = next.entries.into_iter();
                    }
                    Err(failure) => {
                        more = false;
                        return Some(Err(failure));
                    }
                }
            }
        })
    }
}
