//! `seawall put`: a value from the command line, a file or standard input under a key.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::Method;

use super::Context;
use super::data::{Data, Place, WriteLevel, Written};
use crate::client::Client;
use crate::entry::Entry;
use crate::failure::{Failure, Kind};
use crate::http::api::BatchRequest;
use crate::kv::{self, Operations, Ttl, WriteOptions};

/// For a node's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// No batch is larger.
const VALUE_BYTES_MAX: u64 = 16 << 20;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The key
    key: String,
    /// The value
    #[arg(required_unless_present = "file")]
    value: Option<String>,
    /// Read the value, byte for byte, from a file; `-` is standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "value")]
    file: Option<PathBuf>,
    /// How long the value stays, for example 30m; for ever if not given
    #[arg(long, value_name = "DURATION")]
    ttl: Option<Ttl>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    written: Written,
    #[command(flatten)]
    level: WriteLevel,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let key = arguments.written.decode("the key", &arguments.key)?;
    let value = match (&arguments.value, &arguments.file) {
        (Some(value), _) => arguments.written.decode("the value", value)?,
        (None, Some(path)) => read(path)?,
        (None, None) => return Err(Failure::new(Kind::Usage, "there is no value")),
    };
    write(&arguments.place, &arguments.level, arguments.ttl, vec![(key, Some(value.into()))], context)
}

/// Commits one operation, here or there, and says where it went.
pub(super) fn write(
    place: &Place,
    level: &WriteLevel,
    ttl: Option<Ttl>,
    operations: Operations,
    context: &Context,
) -> Result<(), Failure> {
    let written = match place.open(context)? {
        Data::Directory(db) => {
            let options =
                WriteOptions { level: level.level.unwrap_or_default().0, deadline: None, ttl: ttl.map(Duration::from) };
            let written = kv::write(&db, &place.keyspace, operations, options)?;
            db.close()?;
            written
        }
        Data::Node(node) => {
            let [(key, value)] = &operations[..] else {
                return Err(Failure::new(Kind::Failed, "one operation at a time"));
            };
            send(&node, place, &level.query(ttl), key, value.clone())?
        }
    };
    context.output.document(&written, |out| writeln!(out, "{}", written.lsn))
}

/// Has a node put a value under a key, or remove the key: as it is, or in a batch if the key is too long for an address.
pub(super) fn send(
    node: &Client,
    place: &Place,
    query: &str,
    key: &[u8],
    value: Option<Bytes>,
) -> Result<kv::Written, Failure> {
    let Some(path) = place.key_path(key) else {
        let entry = value.map_or_else(|| Entry::of_key(key), |value| Entry::new(key, &value));
        let batch = BatchRequest { operations: vec![entry] };
        return node.post(&format!("{}{query}", place.path()), &batch, ANSWER_TIMEOUT);
    };
    let method = if value.is_some() { Method::PUT } else { Method::DELETE };
    let answer = node.bytes(method, &format!("{path}{query}"), value, ANSWER_TIMEOUT)?;
    serde_json::from_slice(&answer).map_err(|error| Failure::new(Kind::Failed, error))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::new(Kind::Failed, format!("cannot read {}: {error}", path.display()));
    let reader: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    let mut value = Vec::new();
    reader.take(VALUE_BYTES_MAX + 1).read_to_end(&mut value).map_err(failed)?;
    if value.len() as u64 > VALUE_BYTES_MAX {
        let message = format!("{} has more than {VALUE_BYTES_MAX} bytes, which no write may have", path.display());
        return Err(Failure::new(Kind::TooLarge, message));
    }
    Ok(value)
}

/// For a key that is to be removed.
pub(super) fn removal(key: Vec<u8>) -> Operations {
    vec![(key, None::<Bytes>)]
}
