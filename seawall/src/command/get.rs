//! `seawall get`: the value of a key, byte for byte.

use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::Context;
use super::data::{Data, Place, Written};
use crate::entry::Entry;
use crate::failure::{Failure, Kind};
use crate::kv;
use crate::output::Output;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The key
    key: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    written: Written,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let key = arguments.written.decode("the key", &arguments.key)?;
    let value = match arguments.place.open(context)? {
        Data::Directory(db) => {
            let value = kv::get(&db, &arguments.place.keyspace, &key)?;
            db.close()?;
            value.ok_or_else(|| Failure::new(Kind::NotFound, "there is no such key"))?
        }
        Data::Node(node) => {
            let path = arguments.place.key_path(&key).ok_or_else(|| {
                let message = format!("the key has {} bytes, too many for the address of a request", key.len());
                let hint = "find it in what `seawall export` writes, or stop the node and name its directory";
                Failure::new(Kind::TooLarge, message).hint(hint)
            })?;
            node.bytes(Method::GET, &path, None, Duration::from_secs(60))?
        }
    };
    match context.output {
        Output::Json => context.output.document(&Entry::new(&key, &value), |_| Ok(())),
        Output::Text => context.output.bytes(&arguments.written.encoding.encode(&value)),
    }
}
