//! Every rule between settings, in one place. Types have checked each value alone; here is what must hold among them,
//! and what would be dangerous to start with.

use std::net::ToSocketAddrs;

use seawall_engine::format::KEYSPACE_NAME_LEN_MAX;
use seawall_replication::message::StandbyName;
use seawall_wal::SegmentSize;

use super::{Config, Role};

/// A rule that does not hold.
pub(super) struct Broken {
    /// The setting that has to change.
    pub(super) key: String,
    /// Continues "`key` ...".
    pub(super) message: String,
}

pub(super) fn validate(config: &Config) -> Result<(), Broken> {
    node(config)?;
    log(config)?;
    keyspaces(config)?;
    listeners(config)?;
    archive(config)?;
    backpressure(config)?;
    logging(config)?;
    positive(config)
}

fn broken(key: impl Into<String>, message: impl Into<String>) -> Result<(), Broken> {
    Err(Broken { key: key.into(), message: message.into() })
}

fn node(config: &Config) -> Result<(), Broken> {
    if let Err(error) = StandbyName::new(&config.node_name()) {
        return broken("node.name", format!("gives the name `{}`: {error}", config.node_name()));
    }
    if config.node.data_dir.as_os_str().is_empty() {
        return broken("node.data_dir", "must name a directory");
    }
    match (config.node.role, config.replication.upstream.is_empty()) {
        (Role::Standby, true) if config.archive.url.is_empty() => broken(
            "replication.upstream",
            "must be set to host:port, or archive.url to a repository: a standby follows one of them",
        ),
        (Role::Standalone | Role::Primary, false) => broken(
            "replication.upstream",
            format!(
                "is set, but node.role is \"{}\", which follows nobody; unset it, or set node.role = \"standby\"",
                if config.node.role == Role::Primary { "primary" } else { "standalone" }
            ),
        ),
        (Role::Standalone, _) if config.replication.listen.is_some() => broken(
            "replication.listen",
            "is set, but node.role is \"standalone\", which has no standbys; set node.role = \"primary\"",
        ),
        (Role::Standalone, _) if !config.replication.repair_from.is_empty() => broken(
            "replication.repair_from",
            "is set, but node.role is \"standalone\": no other node has its log; set node.role = \"primary\"",
        ),
        _ => names(config),
    }
}

/// The other nodes that are named, with the setting that names them.
fn peers(config: &Config) -> impl Iterator<Item = (&'static str, &str)> {
    let upstreams = config.replication.upstreams().map(|peer| ("replication.upstream", peer));
    upstreams.chain(config.replication.repair_from().map(|peer| ("replication.repair_from", peer)))
}

fn names(config: &Config) -> Result<(), Broken> {
    for name in &config.replication.required {
        if let Err(error) = StandbyName::new(name) {
            return broken("replication.required", format!("has the name `{name}`: {error}"));
        }
    }
    for (key, peer) in peers(config) {
        let port = peer.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        if !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return broken(key, format!("is `{peer}`; expected host:port, several with commas between"));
        }
    }
    Ok(())
}

fn log(config: &Config) -> Result<(), Broken> {
    let size = u32::try_from(config.log.segment_size.0).ok().and_then(SegmentSize::new);
    if size.is_none() {
        let message = format!("is {}; it must be a power of two from 64KiB to 1GiB", config.log.segment_size);
        return broken("log.segment_size", message);
    }
    Ok(())
}

fn keyspaces(config: &Config) -> Result<(), Broken> {
    let possible = |name: &str| (1..=KEYSPACE_NAME_LEN_MAX).contains(&name.len());
    match config.keyspace.keys().find(|name| !possible(name)) {
        Some(name) => broken(
            format!("keyspace.{name}.tuning"),
            format!("is for no keyspace: a name has 1 to {KEYSPACE_NAME_LEN_MAX} bytes, this one has {}", name.len()),
        ),
        None => Ok(()),
    }
}

/// Until peers and clients are authenticated and encrypted, only this machine may talk to a node unless somebody spells
/// out that anybody may.
fn listeners(config: &Config) -> Result<(), Broken> {
    let exposed = |address: Option<std::net::SocketAddr>| address.filter(|address| !address.ip().is_loopback());
    if let Some(address) = exposed(config.http.listen)
        && !config.http.insecure_plaintext
    {
        return broken(
            "http.listen",
            format!(
                "is {address}, where anybody who can connect could read, write and promote, in the clear; listen on a \
                 loopback address behind a proxy, or set http.insecure_plaintext = true on a network you trust"
            ),
        );
    }
    if let Some(address) = exposed(config.replication.listen)
        && !config.replication.insecure_plaintext
    {
        return broken(
            "replication.listen",
            format!(
                "is {address}, where anybody who can connect could copy all data, in the clear; listen on a loopback \
                 address behind a tunnel, or set replication.insecure_plaintext = true on a network you trust"
            ),
        );
    }
    let away = peers(config).find(|(_, peer)| leaves_this_machine(peer));
    if let Some((key, away)) = away.filter(|_| !config.replication.insecure_plaintext) {
        return broken(
            key,
            format!(
                "is {}, another machine, to which replication runs in the clear; use a tunnel that ends at a loopback \
                 address, or set replication.insecure_plaintext = true on a network you trust",
                away
            ),
        );
    }
    Ok(())
}

/// Judged by what is written; a name other than `localhost` is another machine.
fn leaves_this_machine(address: &str) -> bool {
    if address.is_empty() {
        return false;
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    match host {
        "localhost" => false,
        _ if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err() => true,
        _ => !address.to_socket_addrs().is_ok_and(|mut found| found.all(|found| found.ip().is_loopback())),
    }
}

fn archive(config: &Config) -> Result<(), Broken> {
    let archive = &config.archive;
    match archive.location() {
        Err(error) => return broken("archive.url", format!("cannot be used: {error}")),
        Ok(None) if !archive.endpoint.is_empty() => {
            return broken(
                "archive.endpoint",
                "is set, but archive.url is not; set archive.url = \"s3://bucket/prefix\"",
            );
        }
        Ok(_) => {}
    }
    let http = ["http://", "https://"];
    if !archive.endpoint.is_empty() && !http.iter().any(|scheme| archive.endpoint.starts_with(scheme)) {
        return broken("archive.endpoint", format!("is `{}`; it starts with http:// or https://", archive.endpoint));
    }
    match (archive.access_key_file.is_empty(), archive.secret_key_file.is_empty()) {
        (false, true) => broken("archive.secret_key_file", "must be set too: archive.access_key_file is"),
        (true, false) => broken("archive.access_key_file", "must be set too: archive.secret_key_file is"),
        _ => Ok(()),
    }
}

fn backpressure(config: &Config) -> Result<(), Broken> {
    use seawall_replication::throttle::{InvalidLimit, Reason};
    let ratio = config.backpressure.target_ratio;
    if !(0.05..=0.95).contains(&ratio) {
        return broken("backpressure.target_ratio", format!("is {ratio}; it must lie between 0.05 and 0.95"));
    }
    let key = |reason: &Reason| match reason {
        Reason::StandbyLagBytes => "backpressure.max_replication_lag_bytes",
        Reason::StandbyLagTime => "backpressure.max_replication_lag_seconds",
        Reason::ArchiveLagBytes => "backpressure.max_archive_lag_bytes",
        Reason::ArchiveLagTime => "backpressure.max_archive_lag_seconds",
        Reason::DiskSpace => "backpressure.wal_disk_free_min",
        Reason::MemtableDebt | Reason::CommitTooLarge => "backpressure.target_ratio",
    };
    match config.backpressure.limits().validate(config.log.segment_size()) {
        Ok(()) => Ok(()),
        Err(error @ (InvalidLimit::Inverted { reason } | InvalidLimit::TooTight { reason, .. })) => {
            broken(key(&reason), format!("cannot work: {error}"))
        }
    }
}

fn logging(config: &Config) -> Result<(), Broken> {
    match tracing_subscriber::EnvFilter::try_new(&config.logging.level) {
        Ok(_) => Ok(()),
        Err(error) => broken("logging.level", format!("is `{}`: {error}", config.logging.level)),
    }
}

/// What would never end, or never begin, at zero.
fn positive(config: &Config) -> Result<(), Broken> {
    let spans = [
        ("http.header_timeout", config.http.header_timeout),
        ("http.request_timeout", config.http.request_timeout),
        ("replication.timeout", config.replication.timeout),
        ("archive.interval", config.archive.interval),
    ];
    if let Some((key, _)) = spans.into_iter().find(|(_, span)| span.0.is_zero()) {
        return broken(key, "must be longer than 0s");
    }
    let counts = [
        ("http.connections_max", config.http.connections_max as u64),
        ("http.body_max", config.http.body_max.0),
        ("replication.standbys_max", config.replication.standbys_max as u64),
        ("log.buffer_max", config.log.buffer_max.0),
        ("engine.memtable_size", config.engine.memtable_size.0),
    ];
    match counts.into_iter().find(|(_, count)| *count == 0) {
        Some((key, _)) => broken(key, "must be greater than 0"),
        None => Ok(()),
    }
}
