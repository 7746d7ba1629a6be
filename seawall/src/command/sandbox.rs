//! `seawall sandbox`: the whole system on this machine, on real input, with faults, and a proof at the end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Context;
use crate::config::Size;
use crate::failure::{Failure, Kind};
use crate::sandbox::Options;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Bytes of input at most
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    limit: Size,
    /// A directory, a .jsonl or a .csv file [default: the sources cargo has downloaded]
    #[arg(long, value_name = "PATH")]
    input: Option<PathBuf>,
    /// Use this S3 store instead of one of its own: ENDPOINT/BUCKET, credentials from AWS_* variables
    #[arg(long, value_name = "ENDPOINT/BUCKET")]
    s3: Option<String>,
    /// Leave everything running at the end, and say where
    #[arg(long)]
    keep: bool,
    /// Let one standby apply the log this many milliseconds late
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    delay: u64,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<ExitCode, Failure> {
    let report = crate::sandbox::run(&Options {
        input: arguments.input.clone(),
        limit_bytes: arguments.limit.0,
        s3: arguments.s3.clone(),
        delay: Duration::from_millis(arguments.delay),
        keep: arguments.keep,
        binary: None,
    })?;
    context.output.document(&report, |out| out.write_all(report.text().as_bytes()))?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(Kind::VerificationFailed.exit_code()) })
}
