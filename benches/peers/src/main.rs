//! `seawall-peers`: Seawall and its peers, measured side by side at the same durability. How is in `benches/README.md`;
//! what is asked of Seawall is in `bars`; what each row does is in `rows`.

mod bars;
mod cpu;
mod device;
mod files;
mod floor;
mod histogram;
mod leg;
mod load;
mod mixed;
mod report;
mod rounds;
mod rows;
mod standstill;
mod statistics;
mod store;
mod stores;
mod svg;
mod workload;
mod zipf;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::Device;
use crate::floor::Floor;
use crate::leg::{Ground, Leg, Prepared};
use crate::report::{Header, Report, Row};
use crate::rounds::{Cell, Plan, interleave};
use crate::rows::recovery::{FillArguments, fill_and_wait};
use crate::rows::{Context, Group, Sizes};
use crate::store::Kind;

/// Measures Seawall and its peers side by side
#[derive(Parser, Debug)]
#[command(name = "seawall-peers", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Child>,
    #[command(flatten)]
    arguments: Arguments,
}

/// What it does beside measuring rows.
#[derive(Subcommand, Debug)]
enum Child {
    #[command(hide = true)]
    Fill(FillArguments),
    /// Writers, readers and scans for a long time: latencies, memory, bytes written
    Mixed(mixed::MixedArguments),
}

#[derive(Args, Debug)]
struct Arguments {
    /// A directory on the device to measure; what is made in it is removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The file system to measure on
    #[arg(long, value_enum, default_value_t = Leg::Here)]
    leg: Leg,
    /// Under five minutes: durable puts, gets and recovery only
    #[arg(long)]
    quick: bool,
    /// Only these rows
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "quick")]
    rows: Vec<Group>,
    /// Only these stores
    #[arg(long, value_enum, value_delimiter = ',')]
    stores: Vec<Kind>,
    /// Rounds, with the first, which is dropped
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=100))]
    rounds: u32,
    /// Milliseconds of each figure in each round; 500 if not given, 250 with --quick
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    slice_ms: Option<u64>,
    /// Writes everything, raw figures included, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws durable puts
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Tries of a figure before it is called dirty, and the share of the machine that others may have.
const TRIES: usize = 3;
const OTHERS_MAX: f64 = 0.2;
/// Memory that is touched before anything is measured: a virtual machine's first touch of a page is slow.
const TOUCHED_BYTES: usize = 1 << 30;

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Child::Fill(arguments)) => fill_and_wait(&arguments),
        Some(Child::Mixed(arguments)) => mixed::run(&arguments),
        None => run(&cli.arguments),
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let ground = match arguments.leg.prepare(&arguments.dir)? {
        Prepared::Ready(ground) => ground,
        Prepared::Skipped(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let report = measure(arguments, &ground)?;
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &arguments.svg {
        let Header { date, commit, device, .. } = &report.header;
        let title =
            format!("Durable puts, one pair a commit - {date}, {commit}, {} on {}", device.filesystem, device.name);
        let svg = svg::draw(&report.rows, &title).context("there are no durable puts to draw")?;
        std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, ground: &Ground) -> Result<Report> {
    let slice_ms = arguments.slice_ms.unwrap_or(if arguments.quick { 250 } else { 500 });
    let plan = Plan {
        rounds: arguments.rounds as usize,
        slice: Duration::from_millis(slice_ms),
        tries: TRIES,
        others_max: OTHERS_MAX,
    };
    let device = Device::of(&ground.dir);
    let leg = arguments.leg.to_possible_value().map_or_else(String::new, |leg| leg.get_name().to_owned());
    let mut header = Header::new(leg, device.clone(), &plan);
    let kinds = Kind::all().into_iter().filter(|kind| arguments.stores.is_empty() || arguments.stores.contains(kind));
    let sizes = if arguments.quick { Sizes::QUICK } else { Sizes::FULL };
    let context = Context { dir: ground.dir.clone(), device, plan, kinds: kinds.collect(), sizes };
    touch_memory();
    (header.f_per_second, header.f_fio_per_second) = floor(&context)?;
    let groups = match (arguments.quick, arguments.rows.as_slice()) {
        (true, _) => Group::QUICK.to_vec(),
        (false, []) => Group::value_variants().to_vec(),
        (false, some) => some.to_vec(),
    };
    let mut rows = Vec::new();
    for group in groups {
        let name = group.to_possible_value().map_or_else(String::new, |group| group.get_name().to_owned());
        eprintln!("measuring {name}");
        match group.measure(&context) {
            Ok(measured) => rows.extend(measured),
            Err(error) => rows.push(Row::failed(name, &error)),
        }
    }
    Ok(Report { header, rows })
}

/// F by our own loop, and by fio.
fn floor(context: &Context) -> Result<(Option<f64>, Option<f64>)> {
    let mut floor = Floor::new(&context.dir)?;
    let slice = context.plan.slice;
    let measured = interleave(vec![Cell::durable(bars::FLOOR, || floor.run(slice))], &context.plan, &context.device);
    let ours = measured.first().and_then(rounds::Measured::rate);
    Ok((ours, floor.fio(slice * context.plan.rounds as u32)))
}

fn touch_memory() {
    let mut memory = vec![0_u8; TOUCHED_BYTES];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}
