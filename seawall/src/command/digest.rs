//! `seawall digest`: a hash over everything a database holds at an LSN.

use std::time::Duration;

use clap::Args;
use seawall_wal::Lsn;

use super::Context;
use super::open;
use crate::client::Client;
use crate::failure::Failure;
use crate::http::api::DigestDocument;
use crate::kv;
use crate::output::{Table, human_bytes};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Ask the running node at this address, http://host:port, instead of opening the data directory
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// At a moment that can still be read, instead of now
    #[arg(long, value_name = "LSN")]
    at: Option<Lsn>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let digest: DigestDocument = match &arguments.url {
        Some(url) => {
            let query = arguments.at.map(|lsn| format!("?lsn={lsn}")).unwrap_or_default();
            Client::new(url)?.get_within(&format!("/v1/digest{query}"), Duration::from_secs(600))?
        }
        None => {
            let db = open(&context.settings()?.config)?;
            let digest = kv::digest(&db, arguments.at)?;
            db.close()?;
            digest
        }
    };
    context.output.document(&digest, |out| {
        writeln!(out, "{} at {}", digest.digest, digest.lsn)?;
        let mut table = Table::new(&["KEYSPACE", "KEYS", "SIZE", "DIGEST"]);
        for keyspace in &digest.keyspaces {
            table.row([
                keyspace.name.clone(),
                keyspace.entries.to_string(),
                human_bytes(keyspace.bytes),
                keyspace.digest.clone(),
            ]);
        }
        if digest.keyspaces.is_empty() { Ok(()) } else { table.write(out) }
    })
}
