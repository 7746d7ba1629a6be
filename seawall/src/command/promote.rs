//! `seawall promote`: asks a running node to become the primary of a new timeline. How that is done is the node's.

use std::time::Duration;

use clap::Args;

use super::Context;
use super::status::node;
use crate::config::Size;
use crate::failure::Failure;
use crate::http::api::{PromoteRequest, Promoted};

/// Fetching what the archive has of the old timeline may take its time.
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The node, http://host:port [default: http.listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Without fencing the old primary through the archive: make sure yourself that it is stopped
    #[arg(long)]
    unfenced: bool,
    /// Refuse if more of the old primary's log than this is missing here
    #[arg(long, value_name = "SIZE")]
    max_lag_bytes: Option<Size>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let node = node(arguments.url.as_deref(), context)?;
    let max_lag_bytes = arguments.max_lag_bytes.map(|size| size.0);
    let request = PromoteRequest { unfenced: arguments.unfenced, max_lag_bytes };
    let promoted: Promoted = node.post("/v1/promote", &request, PROMOTE_TIMEOUT)?;
    context.output.document(&promoted, |out| {
        let fenced = if promoted.fenced { "the old timeline is fenced" } else { "the old primary is NOT fenced" };
        writeln!(out, "primary of timeline {}, forked at {}; {fenced}", promoted.timeline, promoted.fork)
    })
}
