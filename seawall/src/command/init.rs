//! `seawall init`: an empty database. `serve` makes one too where there is none; this is for those who want to see the
//! cluster's id, or to choose it, before anything runs.

use clap::Args;
use seawall_engine::{Create, Db};
use seawall_wal::ClusterId;
use serde::Serialize;

use super::{Context, sized};
use crate::failure::Failure;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The cluster's id, 32 hex digits [default: random]
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
}

#[derive(Serialize)]
struct Made {
    data_dir: String,
    cluster: String,
    node: String,
    segment_size_bytes: u32,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let config = context.settings()?.config;
    let dir = &config.node.data_dir;
    let builder = Db::builder(dir).create(Create::Always).segment_size(config.log.segment_size());
    let builder = match arguments.cluster {
        Some(cluster) => builder.cluster(cluster),
        None => builder,
    };
    let db = sized(builder, &config).open()?;
    let made = Made {
        data_dir: dir.display().to_string(),
        cluster: db.cluster().to_string(),
        node: db.node().to_string(),
        segment_size_bytes: config.log.segment_size().bytes(),
    };
    db.close()?;
    context
        .output
        .document(&made, |out| writeln!(out, "made {} (cluster {}, node {})", made.data_dir, made.cluster, made.node))
}
