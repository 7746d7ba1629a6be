//! `seawall serve`: runs a node until it is told to stop. Its options are settings with shorter names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use sd_notify::NotifyState;
use seawall_replication::message::StandbyName;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::http::{Server, Settings};
use crate::node::{ArchiveOptions, Node, NodeOptions, Role, State};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// What it is to be [default: node.role; standby with --upstream, primary with --listen]
    #[arg(long, value_enum)]
    role: Option<RoleName>,
    /// Its name among its peers: node.name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Whom to follow: replication.upstream
    #[arg(long, value_name = "HOST:PORT")]
    upstream: Option<String>,
    /// Where standbys may connect: replication.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where the HTTP API is: http.listen
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Repository of log and backups: archive.url
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// Take writes at once after a restart, without asking archive and standbys whether another node was promoted
    #[arg(long)]
    assume_primary: bool,
    /// Stop when the process that started this one ends
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    Primary,
    Standby,
    Standalone,
}

impl Arguments {
    /// As settings, with the option each comes from.
    fn settings(&self) -> Vec<(String, &'static str, toml::Value)> {
        let role = match (self.role, &self.upstream, self.listen) {
            (Some(RoleName::Primary), ..) => Some(("--role", "primary")),
            (Some(RoleName::Standby), ..) => Some(("--role", "standby")),
            (Some(RoleName::Standalone), ..) => Some(("--role", "standalone")),
            (None, Some(_), _) => Some(("--upstream", "standby")),
            (None, None, Some(_)) => Some(("--listen", "primary")),
            (None, None, None) => None,
        };
        let mut settings = Vec::new();
        let mut add = |option: &str, key, value: Option<String>| {
            settings.extend(value.map(|value| (option.to_owned(), key, value.into())));
        };
        let (option, role) = role.map_or(("--role", None), |(option, role)| (option, Some(role.to_owned())));
        add(option, "node.role", role);
        add("--name", "node.name", self.name.clone());
        add("--upstream", "replication.upstream", self.upstream.clone());
        add("--listen", "replication.listen", self.listen.map(|address| address.to_string()));
        add("--http", "http.listen", self.http.map(|address| address.to_string()));
        add("--archive", "archive.url", self.archive.clone());
        settings
    }
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    if arguments.die_with_parent {
        let asked = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        asked.map_err(|error| Failure::new(Kind::Failed, format!("cannot follow this process's parent: {error}")))?;
    }
    let config = context.settings_with(arguments.settings())?.config;
    crate::logging::start(&config.logging)?;
    serve(&config, arguments.assume_primary)
}

/// Runs a node until a signal.
fn serve(config: &Config, assume_primary: bool) -> Result<(), Failure> {
    // Bound first: the node tells its standbys where writes go, and a port of 0 tells nobody.
    let listener = config.http.listen.map(|listen| {
        let bound = std::net::TcpListener::bind(listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        bound.map_err(|error| {
            Failure::new(Kind::Failed, format!("cannot listen on {listen}: {error}"))
                .hint("http.listen, or --http, says where the HTTP API is")
        })
    });
    let listener = listener.transpose()?;
    let advertise = listener.as_ref().map(|(address, _)| format!("http://{address}")).unwrap_or_default();
    let options = NodeOptions { advertise, ..options(config, assume_primary)? };
    let node = Arc::new(Node::new(options)?);
    let http = match listener {
        None => None,
        Some((address, listener)) => {
            let settings = Settings::new(&config.http, config.replication.commit_level.0);
            let started = node.runtime().block_on(async {
                Server::start(tokio::net::TcpListener::from_std(listener)?, node.clone(), settings)
            });
            Some(started.map_err(|error| Failure::new(Kind::Failed, format!("cannot serve on {address}: {error}")))?)
        }
    };
    // Who looks after it sees what it waits for; whoever wants more is answered that it is starting.
    if let Err(error) = node.open() {
        if let Some(http) = http {
            node.runtime().block_on(http.stop(Duration::from_secs(2)));
        }
        drop(wait_for_last(node));
        return Err(error.into());
    }
    let address = http.as_ref().map_or_else(|| "nowhere".to_owned(), |http| http.address().to_string());
    tracing::info!(name = %node.options().name, http = address, replication = ?node.replication_address(), "serving");
    let signal = node.runtime().block_on(run_until_signal(&node));
    tracing::info!(signal, "stopping");
    tell_systemd(&[NotifyState::Stopping]);
    let drain = config.shutdown.drain_timeout.0;
    if let Some(http) = http {
        node.runtime().block_on(http.stop(Duration::from_secs(2)));
    }
    let node = wait_for_last(node)?;
    let (state, detail, is_primary) = (node.state().0, node.state().1, node.is_primary());
    let remaining = node.stop(drain)?;
    if state == State::Fenced {
        // What it holds beyond the fork is nobody's history, and is sent nowhere.
        return Err(Failure::new(Kind::Fenced, format!("stopped; this node was fenced: {detail}"))
            .hint("keep its data until nobody needs what only they have"));
    }
    if remaining.is_nothing() {
        let handed_on = if is_primary { "; everything flushed has reached whoever was to get it" } else { "" };
        tracing::info!("stopped{handed_on}");
        return Ok(());
    }
    Err(Failure::new(Kind::Partial, format!("stopped; not everything was handed on: {remaining}"))
        .hint("nothing is lost: it is in this node's log and is sent when the node is started again"))
}

/// The last request may still hold the node for a moment.
fn wait_for_last(mut node: Arc<Node>) -> Result<Node, Failure> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match Arc::try_unwrap(node) {
            Ok(node) => return Ok(node),
            Err(shared) if Instant::now() < until => node = shared,
            Err(_) => return Err(Failure::new(Kind::Partial, "a request did not end; what is flushed is safe")),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says how the node is to the service manager, and returns the signal that ended it.
async fn run_until_signal(node: &Node) -> &'static str {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return "no signals can be received";
    };
    let watchdog = sd_notify::watchdog_enabled().map(|every| every / 2);
    let mut tick = tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(5)).min(Duration::from_secs(5)));
    let mut ready = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => return "SIGTERM",
            _ = interrupt.recv() => return "SIGINT",
            _ = tick.tick() => {
                let (state, detail) = node.state();
                if state == State::Failed {
                    tell_systemd(&[NotifyState::Status(&format!("failed: {detail}"))]);
                    continue;
                }
                let status = if detail.is_empty() { format!("{state:?}").to_lowercase() } else { detail };
                tell_systemd(&[NotifyState::Status(&status)]);
                if !ready {
                    ready = true;
                    tell_systemd(&[NotifyState::Ready]);
                }
                if watchdog.is_some() {
                    tell_systemd(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// A node's options from its settings.
pub(super) fn options(config: &Config, assume_primary: bool) -> Result<NodeOptions, Failure> {
    let wrong = |message: String| Failure::new(Kind::Config, message);
    let name = |text: &str| text.parse::<StandbyName>().map_err(|error| wrong(format!("the name `{text}`: {error}")));
    let role = match config.node.role {
        crate::config::Role::Standby => {
            Role::Standby { upstreams: config.replication.upstreams().map(str::to_owned).collect() }
        }
        crate::config::Role::Primary | crate::config::Role::Standalone => Role::Primary,
    };
    let cluster = match config.node.cluster.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| wrong(format!("node.cluster: {error}")))?),
    };
    let repository = config.archive.repository().map_err(|error| wrong(error.to_string()))?;
    let archive = repository.map(|repository| ArchiveOptions {
        repository,
        interval: config.archive.interval.0,
        required: config.archive.required,
    });
    Ok(NodeOptions {
        role,
        cluster,
        segment_size: config.log.segment_size(),
        log_buffer_bytes: usize::try_from(config.log.buffer_max.0).unwrap_or(usize::MAX),
        memtable_bytes: config.engine.memtable_size.0,
        cache_bytes: config.engine.cache_max.0,
        tunings: config.tunings().collect(),
        replication_listen: config.replication.listen,
        repair_from: config.replication.repair_from().map(str::to_owned).collect(),
        replication_timeout: config.replication.timeout.0,
        standbys_max: config.replication.standbys_max,
        synchronous: config.replication.synchronous.clone(),
        required: config.replication.required.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
        limits: config.backpressure.limits(),
        admission_wait: config.backpressure.wait_max.0,
        apply_delay: config.replication.apply_delay.0,
        archive,
        assume_primary: assume_primary || config.node.role == crate::config::Role::Standalone,
        ..NodeOptions::new(name(&config.node_name())?, &config.node.data_dir)
    })
}
