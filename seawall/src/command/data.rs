//! What the verbs that read and write share: which keyspace, how bytes are written, and whether a directory or a running
//! node is meant.

use std::time::Duration;

use clap::Args;
use seawall_engine::Db;

use super::{Context, open};
use crate::client::Client;
use crate::config::Level;
use crate::entry::{Encoding, percent_encode};
use crate::failure::{Failure, Kind};
use crate::kv::{DEFAULT_KEYSPACE, Ttl};

/// Bytes of a path that a node takes, with room for what else is in a request's head. The longest key has twice as many.
const PATH_BYTES_MAX: usize = 32 << 10;

/// Which data.
#[derive(Args, Debug)]
pub(super) struct Place {
    /// Ask the running node at this address, http://host:port, instead of opening the data directory
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// The keyspace
    #[arg(long, short, value_name = "NAME", default_value = DEFAULT_KEYSPACE)]
    pub(super) keyspace: String,
}

/// How keys and values are written here.
#[derive(Args, Debug)]
pub(super) struct Written {
    /// How keys and values are written: text, hex or base64
    #[arg(long, value_name = "ENCODING", default_value = "text")]
    pub(super) encoding: Encoding,
}

/// How a write is done.
#[derive(Args, Debug)]
pub(super) struct WriteLevel {
    /// What to wait for: buffered, local, remote_write(k), remote_flush(k), remote_replay(k), archived
    #[arg(long, value_name = "LEVEL")]
    pub(super) level: Option<Level>,
}

/// A database, here or there.
pub(super) enum Data {
    /// The data directory, open and locked.
    Directory(Db),
    /// A running node.
    Node(Client),
}

impl Place {
    pub(super) fn open(&self, context: &Context) -> Result<Data, Failure> {
        match &self.url {
            Some(url) => Client::new(url).map(Data::Node),
            None => open(&context.settings()?.config).map(Data::Directory),
        }
    }

    /// Of the keyspace.
    pub(super) fn path(&self) -> String {
        format!("/v1/kv/{}", percent_encode(self.keyspace.as_bytes()))
    }

    /// Of a key in it; none if the key is too long for the address of a request.
    pub(super) fn key_path(&self, key: &[u8]) -> Option<String> {
        Some(format!("{}/{}", self.path(), percent_encode(key))).filter(|path| path.len() <= PATH_BYTES_MAX)
    }
}

impl Written {
    pub(super) fn decode(&self, name: &str, text: &str) -> Result<Vec<u8>, Failure> {
        self.encoding.decode(text).map_err(|why| Failure::new(Kind::Usage, format!("{name} `{text}` {why}")))
    }
}

impl WriteLevel {
    /// As a query of a path, with a time to live if there is one.
    pub(super) fn query(&self, ttl: Option<Ttl>) -> String {
        let level = self.level.map(|level| format!("level={level}"));
        // Without a space, which a query cannot have.
        let ttl = ttl.map(|ttl| format!("ttl={}us", Duration::from(ttl).as_micros()));
        let fields: Vec<_> = level.into_iter().chain(ttl).collect();
        if fields.is_empty() { String::new() } else { format!("?{}", fields.join("&")) }
    }
}
