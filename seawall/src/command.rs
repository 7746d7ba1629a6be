//! The command tree. One file for each verb under `command/`; what all of them share, the global options and what they
//! lead to, is here.

mod backup;
mod bench;
mod completions;
mod config;
mod data;
mod delete;
mod digest;
mod export;
mod get;
mod import;
mod init;
mod inspect;
mod man;
mod promote;
mod put;
mod restore;
mod sandbox;
mod scan;
mod serve;
mod status;
mod torture;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use seawall_engine::{Create, Db};

use crate::config::{Config, DEFAULT_PATH, Loaded, Sources};
use crate::failure::{EXITS, Failure, Kind};
use crate::output::Output;

/// A durable, ordered key-value engine with replicas, backups and point-in-time restore built in.
#[derive(Debug, Parser)]
#[command(
    name = "seawall",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Debug)]
struct Global {
    /// Print one JSON document; errors too, on standard error
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Settings file [default: /etc/seawall/seawall.toml, if it is there]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SEAWALL_CONFIG",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    config: Option<PathBuf>,
    /// Override a setting: --set http.listen=127.0.0.1:7710
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Global options")]
    set: Vec<String>,
    /// The data directory: short for --set node.data_dir=DIR
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node: primary, standby or standalone
    Serve(serve::Arguments),
    /// Make an empty database in the data directory
    Init(init::Arguments),
    /// How a running node and its standbys are
    Status(status::Arguments),
    /// Print the value of a key
    Get(get::Arguments),
    /// Put a value under a key
    Put(put::Arguments),
    /// Remove a key
    Delete(delete::Arguments),
    /// Print keys and values in order
    Scan(scan::Arguments),
    /// Read records from a directory, JSON lines or CSV
    Import(import::Arguments),
    /// Write a keyspace as JSON lines, CSV or a directory
    Export(export::Arguments),
    /// Make a standby, or a restored copy, the primary of a new timeline
    Promote(promote::Arguments),
    /// Base backups in the archive
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Restore a database from the archive to a moment
    Restore(restore::Arguments),
    /// Print a hash over everything: equal on nodes and copies that are equal
    Digest(digest::Arguments),
    /// Look into a data directory that no node has open
    Inspect(inspect::Arguments),
    /// Settings: check, show, defaults
    #[command(subcommand)]
    Config(config::Verb),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Verb),
    /// Try to make the database lose or damage what it acknowledged
    Torture(torture::Arguments),
    /// Primary, two standbys, an archive, an accident and a restore, on this machine and real input
    Sandbox(sandbox::Arguments),
    /// Print a shell's completions
    Completions(completions::Arguments),
    /// Write manual pages
    #[command(hide = true)]
    Man(man::Arguments),
}

/// What the global options say.
struct Context {
    output: Output,
    file: Option<PathBuf>,
    assignments: Vec<String>,
    data_dir: Option<PathBuf>,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    let parsed = tree().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && json => {
            return Output::Json.failure(&Failure::new(Kind::Usage, error.to_string().trim_end()));
        }
        Err(error) => error.exit(),
    };
    let output = if cli.global.json { Output::Json } else { Output::Text };
    let Global { config: file, set: assignments, data_dir, .. } = cli.global;
    let context = Context { output, file, assignments, data_dir };
    match run(cli.verb, &context) {
        Ok(code) => code,
        Err(failure) => output.failure(&failure),
    }
}

/// The whole tree, with what the derived one cannot know.
pub fn tree() -> clap::Command {
    let exits: Vec<String> = EXITS.iter().map(|exit| format!("  {:>3}  {}", exit.code, exit.meaning)).collect();
    Cli::command().after_help(format!("Exit codes:\n{}", exits.join("\n")))
}

fn run(verb: Verb, context: &Context) -> Result<ExitCode, Failure> {
    let done = match verb {
        Verb::Serve(arguments) => serve::run(&arguments, context),
        Verb::Init(arguments) => init::run(&arguments, context),
        Verb::Status(arguments) => status::run(&arguments, context),
        Verb::Get(arguments) => get::run(&arguments, context),
        Verb::Put(arguments) => put::run(&arguments, context),
        Verb::Delete(arguments) => delete::run(&arguments, context),
        Verb::Scan(arguments) => scan::run(&arguments, context),
        Verb::Import(arguments) => import::run(&arguments, context),
        Verb::Export(arguments) => export::run(&arguments, context),
        Verb::Promote(arguments) => promote::run(&arguments, context),
        Verb::Backup(verb) => backup::run(&verb, context),
        Verb::Restore(arguments) => restore::run(&arguments, context),
        Verb::Digest(arguments) => digest::run(&arguments, context),
        Verb::Inspect(arguments) => inspect::run(&arguments, context),
        Verb::Config(verb) => config::run(&verb, context),
        Verb::Bench(verb) => bench::run(&verb, context),
        Verb::Torture(arguments) => torture::run(&arguments, context),
        Verb::Sandbox(arguments) => return sandbox::run(&arguments, context),
        Verb::Completions(arguments) => completions::run(&arguments),
        Verb::Man(arguments) => man::run(&arguments),
    };
    done.map(|()| ExitCode::SUCCESS)
}

impl Context {
    /// The settings in force.
    fn settings(&self) -> Result<Loaded, Failure> {
        self.settings_with(Vec::new())
    }

    /// As [`settings`](Self::settings), with options of a verb over them.
    fn settings_with(&self, mut options: Vec<(String, &'static str, toml::Value)>) -> Result<Loaded, Failure> {
        if let Some(dir) = &self.data_dir {
            let dir = dir.to_string_lossy().into_owned();
            options.insert(0, (String::from("--data-dir"), "node.data_dir", dir.into()));
        }
        let sources = Sources {
            file: self.file.clone(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            assignments: self.assignments.clone(),
            options,
        };
        Ok(Config::load(&sources)?)
    }

    /// Where settings are read from.
    fn settings_path(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(DEFAULT_PATH))
    }
}

/// Opens the database in the data directory, which must be there, and locks it.
fn open(config: &Config) -> Result<Db, Failure> {
    let builder = Db::builder(&config.node.data_dir).create(Create::Never);
    Ok(sized(builder, config).open()?)
}

/// With the sizes and tunings that the settings name.
fn sized(builder: seawall_engine::Builder, config: &Config) -> seawall_engine::Builder {
    let builder = config.tunings().fold(builder, |builder, (name, tuning)| builder.tune(name, tuning));
    builder
        .log_buffer_bytes(config.log.buffer_max.as_usize())
        .memtable_bytes(config.engine.memtable_size.0)
        .cache_bytes(config.engine.cache_max.0)
}

/// For commands that read the archive themselves.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| Failure::new(Kind::Failed, format!("cannot start a runtime: {error}")))
}

/// The archive the settings name.
async fn open_archive(config: &Config) -> Result<seawall_backup::Archive, Failure> {
    let repository = config.archive.repository().map_err(|error| Failure::new(Kind::Config, error.to_string()))?;
    let Some(repository) = repository else {
        let failure = Failure::new(Kind::Config, "the settings name no archive");
        return Err(failure.hint("set archive.url: --set archive.url=s3://bucket/prefix, or file:///path"));
    };
    let opened = repository.open().await.map_err(crate::node::Error::from)?;
    Ok(seawall_backup::Archive::open(opened).await.map_err(crate::node::Error::from)?)
}
