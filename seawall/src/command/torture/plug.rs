//! `seawall torture plug`: writes on a disk until its plug is pulled, and looks at what is there when it is back.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use seawall_torture::plug::{Error, Plug};
use serde::Serialize;

use super::Context;
use crate::failure::{Failure, Kind};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The database, on the disk whose plug is pulled; made if it is not there
    dir: PathBuf,
    /// What was acknowledged, on a disk whose plug is not pulled; made if it is not there
    #[arg(long, value_name = "FILE")]
    acknowledged: PathBuf,
    /// What is written: the same number every time
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many commit at a time: the same number every time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// Each writer stops after so many commits [default: none does]
    #[arg(long)]
    commits: Option<u64>,
    /// All stop after this time
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    time: Duration,
}

#[derive(Serialize)]
struct Report {
    acknowledged_before: u64,
    found: u64,
    acknowledged: u64,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let plug = Plug {
        dir: arguments.dir.clone(),
        acknowledged: arguments.acknowledged.clone(),
        seed: arguments.seed,
        writers: arguments.writers,
        commits: arguments.commits.unwrap_or(u64::MAX),
        time: arguments.time,
    };
    let outcome = plug.run().map_err(|error| match error {
        Error::Wrong { .. } => Failure::new(Kind::VerificationFailed, error.to_string())
            .hint("keep the directory and the file as they are, and report it: this must never happen"),
        Error::Engine { error, .. } => Failure::from(error),
        Error::Acknowledged { .. } => Failure::new(Kind::Failed, error.to_string()),
    })?;
    let report = Report {
        acknowledged_before: outcome.acknowledged_before,
        found: outcome.found,
        acknowledged: outcome.acknowledged,
    };
    context.output.document(&report, |out| {
        let Report { acknowledged_before, found, acknowledged, .. } = report;
        writeln!(out, "{acknowledged_before} commits were acknowledged before, {found} are there; {acknowledged} acknowledged since")
    })
}
