//! `seawall bench`: measures what a node would live on.

use clap::Subcommand;

use super::{Context, bench_disk};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What a disk can do: synced writes by each method, bandwidth, and the log's own commits beside them
    Disk(bench_disk::Arguments),
}

pub(super) fn run(verb: &Verb, context: &Context) -> Result<(), Failure> {
    match verb {
        Verb::Disk(arguments) => bench_disk::run(arguments, context),
    }
}
