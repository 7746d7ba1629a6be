//! `seawall torture plug`: writes on a disk until its plug is pulled, and looks at what is there when it is back.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use seawall_torture::Wrong;
use seawall_torture::plug::{Error, Plug, Said, Unfit};
use seawall_wal::storage::DurableWrite;
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
    /// What is written: the same number every time, or it is refused
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many commit at a time: the same number every time, or it is refused
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// How the log is written [default: as the log chooses, when it has written much]
    #[arg(long, value_name = "WAY", value_parser = way_parser())]
    write_by: Option<DurableWrite>,
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
        write_by: arguments.write_by,
        commits: arguments.commits.unwrap_or(u64::MAX),
        time: arguments.time,
    };
    let outcome = plug.run(|said| context.output.note(words(said))).map_err(failed)?;
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

/// The ways of writing, by their names.
fn way_parser() -> impl TypedValueParser<Value = DurableWrite> {
    let by_name =
        |name: String| DurableWrite::ALL.into_iter().find(|way| way.name() == name).expect("it is one of them");
    PossibleValuesParser::new(DurableWrite::ALL.map(DurableWrite::name)).map(by_name)
}

fn words(said: Said) -> String {
    match said {
        Said::LineCut { bytes } => format!(
            "the last line of the file of what was acknowledged is torn, and its {bytes} bytes are cut off: nobody was told of that commit"
        ),
        Said::Checked { acknowledged, found, cut_bytes } => {
            let cut = match cut_bytes {
                0 => String::new(),
                bytes => format!("; at the end of the log {bytes} bytes were no whole record, and are cut off"),
            };
            format!("checked: {acknowledged} commits were acknowledged before, {found} are there, none is lost{cut}")
        }
        Said::Acknowledged(commits) => format!("{commits} commits acknowledged"),
    }
}

fn failed(error: Error) -> Failure {
    let words = error.to_string();
    match error {
        Error::Wrong { wrong, .. } => Failure::new(Kind::VerificationFailed, words).hint(match wrong {
            Wrong::Lost { .. } => {
                "if the directory is on the disk it was on before, keep it and the file as they are, and report it: this must never happen"
            }
            Wrong::Invented { .. } => {
                "if the file is an older copy, or its own disk lost its end, begin anew with an empty directory and a new file on a disk whose plug stays in; else keep both as they are, and report it: this must never happen"
            }
            _ => "keep the directory and the file as they are, and report it: this must never happen",
        }),
        Error::Unfit { unfit, .. } => Failure::new(Kind::Usage, words).hint(match unfit {
            Unfit::OtherStories { seed, writers } => {
                format!("give --seed {seed} --writers {writers}, as when the file was begun")
            }
            _ => "give the file that was begun with this directory; without it nothing can be said of what is there: begin anew with an empty directory and a new file".to_owned(),
        }),
        Error::NoRing { .. } => Failure::new(Kind::Failed, words)
            .hint(format!("choose {} or {}", DurableWrite::ThenSync, DurableWrite::Dsync)),
        Error::Engine { error, .. } => Failure::from(error),
        Error::Acknowledged { .. } => Failure::new(Kind::Failed, words),
    }
}
