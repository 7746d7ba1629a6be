//! `seawall bench disk`: what a disk can do before it is trusted with a log. Methods take turns, round after round, and
//! medians are printed, so that a noisy neighbour harms all of them alike; the log's own commits stand beside the plain
//! method as ratios.

mod log;
mod methods;
#[cfg(target_os = "linux")]
mod uring;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use seawall_wal::storage::{Disk, Storage};
use serde::Serialize;

use super::device::{Device, device};
use super::scratch::Scratch;
use super::{Context, median};
use crate::failure::{Failure, Kind};
use crate::output::{Table, human_bytes, human_count, human_seconds};
use log::{Bandwidth, Committers};
use methods::{Bench, Method};

/// Rounds of which the median is taken.
const ROUNDS: usize = 5;

#[derive(Args, Debug)]
pub(in crate::command) struct Arguments {
    /// A directory on the disk; files made in it are removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// About how long, in all
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    device: Device,
    /// Which way bulk reads and writes went.
    io_path: String,
    rounds: usize,
    block_bytes: usize,
    /// Durable writes a second of the plain method: F.
    f_per_second: f64,
    /// 4 KiB, durable, one after the other.
    writes: Vec<Figure>,
    sequential_write_bytes_per_second: f64,
    sequential_read_bytes_per_second: f64,
    /// The log's own.
    commits: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    name: String,
    description: String,
    /// None where the method is not to be had; `error` says why.
    per_second: Option<f64>,
    ratio_to_f: Option<f64>,
    /// Least and greatest of the rounds.
    spread: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let scratch = Scratch::new(&arguments.dir)?;
    if context.output == crate::output::Output::Text {
        context.output.note(format!("measuring for about {} s in {}", arguments.seconds, arguments.dir.display()));
    }
    let slices = ROUNDS * (Method::ALL.len() + Committers::ALL.len());
    let slice = Duration::from_secs_f64(f64::from(arguments.seconds) / slices as f64);
    let measured = measure(&arguments.dir, &scratch.path, slice)?;
    context.output.document(&measured, |out| write(out, &measured))
}

fn measure(dir: &Path, scratch: &Path, slice: Duration) -> Result<Measured, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Kind::Failed, format!("cannot measure: {error}"));
    let mut benches = Method::ALL.map(|method| (method, Bench::new(scratch, method), Vec::new()));
    let log = log::open(&scratch.join("wal")).map_err(|error| failed(&error))?;
    let mut commits = Committers::ALL.map(|committers| (committers, Vec::new()));
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (_, bench, rates) in &mut benches {
            if let Ok(ready) = bench {
                match ready.run(slice) {
                    Ok(rate) => rates.push(rate.per_second),
                    Err(error) => *bench = Err(error),
                }
            }
        }
        for (committers, rates) in &mut commits {
            rates.push(log::commits(&log, *committers, slice).map_err(|error| failed(&error))?);
        }
        let Bandwidth { write, read } = log::bandwidth(&scratch.join("bulk")).map_err(|error| failed(&error))?;
        writes.push(write);
        reads.push(read);
    }
    log.close().map_err(|error| failed(&error))?;
    let plain = benches.iter().find(|(method, ..)| *method == Method::Plain);
    let f = plain.map_or(0.0, |(.., rates)| median(rates));
    let writes_figures = benches.into_iter().map(|(method, bench, rates)| {
        let error = bench.err().map(|error| error.to_string());
        figure(method.name().to_owned(), method.description().to_owned(), &rates, f, error)
    });
    Ok(Measured {
        device: device(dir),
        io_path: Disk::new().io_path().to_string(),
        rounds: ROUNDS,
        block_bytes: seawall_wal::storage::BLOCK_SIZE,
        f_per_second: f,
        writes: writes_figures.collect(),
        sequential_write_bytes_per_second: median(&writes),
        sequential_read_bytes_per_second: median(&reads),
        commits: commits
            .into_iter()
            .map(|(committers, rates)| figure(committers.name(), committers.description(), &rates, f, None))
            .collect(),
    })
}

/// The plain method alone, for those who compare something else with it.
pub(super) struct PlainWrites(Bench);

impl PlainWrites {
    pub(super) fn new(scratch: &Path) -> io::Result<Self> {
        Bench::new(scratch, Method::Plain).map(Self)
    }

    /// F, measured for as long as `slice`.
    pub(super) fn per_second(&mut self, slice: Duration) -> io::Result<f64> {
        Ok(self.0.run(slice)?.per_second)
    }
}

fn figure(name: String, description: String, rates: &[f64], f: f64, error: Option<String>) -> Figure {
    let measured = error.is_none() && !rates.is_empty();
    let spread = [rates.iter().copied().fold(f64::MAX, f64::min), rates.iter().copied().fold(0.0, f64::max)];
    Figure {
        name,
        description,
        per_second: measured.then(|| median(rates)),
        ratio_to_f: (measured && f > 0.0).then(|| median(rates) / f),
        spread: measured.then_some(spread),
        error,
    }
}

fn write(out: &mut dyn Write, measured: &Measured) -> io::Result<()> {
    measured.device.write(out)?;
    writeln!(out, "bulk I/O    {}", measured.io_path)?;
    writeln!(out, "\n4 KiB made durable, one after the other; medians of {} rounds", measured.rounds)?;
    figures(out, &measured.writes, true)?;
    let (write, read) = (measured.sequential_write_bytes_per_second, measured.sequential_read_bytes_per_second);
    writeln!(out, "\nsequential  write {}/s, read {}/s", human_bytes(write as u64), human_bytes(read as u64))?;
    writeln!(out, "\nthe log: 128 bytes a commit, each durable before it is answered")?;
    figures(out, &measured.commits, false)
}

fn figures(out: &mut dyn Write, figures: &[Figure], latency: bool) -> io::Result<()> {
    let mut table = Table::new(&["", "PER SECOND", "LEAST..MOST", "x F", if latency { "EACH" } else { "" }]);
    for figure in figures {
        let Some((rate, ratio, [least, most])) = figure
            .per_second
            .zip(figure.ratio_to_f)
            .zip(figure.spread)
            .map(|((rate, ratio), spread)| (rate, ratio, spread))
        else {
            table.row([figure.description.clone(), figure.error.clone().unwrap_or_default()]);
            continue;
        };
        let each = if latency { human_seconds(1.0 / rate.max(0.001)) } else { String::new() };
        let spread = format!("{}..{}", human_count(least), human_count(most));
        table.row([figure.description.clone(), human_count(rate), spread, format!("{ratio:.2}"), each]);
    }
    table.write(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_measured_or_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        let measured = measure(dir.path(), &scratch.path, Duration::from_millis(5)).unwrap();
        assert_eq!(measured.writes.len(), Method::ALL.len());
        for figure in measured.writes.iter().chain(&measured.commits) {
            assert!(figure.error.is_some() || figure.per_second.is_some_and(|rate| rate > 0.0), "{}", figure.name);
        }
        assert!(measured.f_per_second > 0.0);
        assert!(measured.sequential_write_bytes_per_second > 0.0 && measured.sequential_read_bytes_per_second > 0.0);
        drop(scratch);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "files were left behind");
    }
}
