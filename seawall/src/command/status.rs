//! `seawall status`: how a running node is, and its standbys.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::Context;
use crate::client::Client;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::http::api::{NodeStatus, ReplicaStatus, Replicas, StageStatus, ThrottleMode};
use crate::output::{Table, human_bytes, human_seconds};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The node, http://host:port [default: http.listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

#[derive(Serialize)]
struct Status {
    status: NodeStatus,
    replicas: Vec<ReplicaStatus>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let node = node(arguments.url.as_deref(), context)?;
    let status: NodeStatus = node.get("/v1/replication/status")?;
    let Replicas { replicas } = node.get("/v1/replication/replicas")?;
    let both = Status { status, replicas };
    context.output.document(&both, |out| write(out, &both.status, &both.replicas))
}

/// The node at `url`, or the one that these settings would run.
pub(super) fn node(url: Option<&str>, context: &Context) -> Result<Client, Failure> {
    match url {
        Some(url) => Client::new(url),
        None => Client::new(&own_url(&context.settings()?.config)?),
    }
}

fn own_url(config: &Config) -> Result<String, Failure> {
    let mut address = config.http.listen.ok_or_else(|| {
        Failure::new(Kind::Usage, "http.listen is not set, so it is unknown where the node answers").hint("use --url")
    })?;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Ok(format!("http://{address}"))
}

fn write(out: &mut dyn Write, status: &NodeStatus, replicas: &[ReplicaStatus]) -> io::Result<()> {
    let detail = status.state_detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let (role, state) = (status.role.name(), status.state.name().replace('_', "-"));
    writeln!(out, "{}: {role}, {state}{detail}, up {}", status.name, human_seconds(status.uptime_seconds))?;
    if status.timeline == 0 {
        return writeln!(out, "log:       there is no database now");
    }
    let log = &status.log;
    writeln!(out, "log:       timeline {}, flushed to {}, shown to {}", status.timeline, log.flush, log.visible)?;
    writeln!(out, "           kept from {}, {}, written by {}", log.oldest, status.io_path, log.durable_write)?;
    if let Some(upstream) = &status.upstream {
        let lag = format!("{} and {} behind", human_bytes(upstream.lag.bytes), human_seconds(upstream.lag.seconds));
        writeln!(out, "upstream:  {}, {} from {}, {lag}", upstream.address, upstream.state, upstream.feed)?;
        if let Some(begin) = upstream.lost_place {
            writeln!(out, "           its place is lost: the log there begins at {begin}, and more may be missing")?;
        }
        if let Some(error) = &upstream.last_error {
            writeln!(out, "           {error}")?;
        }
    }
    if let Some(archive) = &status.archive {
        let lag = format!("{} and {} behind", human_bytes(archive.lag.bytes), human_seconds(archive.lag.seconds));
        writeln!(out, "archive:   {}, {}, has {}, {lag}", archive.url, archive.state, archive.archived)?;
        if archive.conditional_writes == Some(false) {
            writeln!(out, "           the store ignores conditional writes: nothing can be fenced through it")?;
        }
        if let Some(error) = &archive.last_error {
            writeln!(out, "           {error}")?;
        }
    }
    let throttle = &status.throttle;
    match throttle.mode {
        ThrottleMode::Free => writeln!(out, "ingestion: free")?,
        mode => {
            let reason = throttle.reason.as_deref().unwrap_or("?");
            let subject = throttle.subject.as_deref().unwrap_or("?");
            writeln!(out, "ingestion: {} because of {reason} of {subject}", mode.name())?;
        }
    }
    if let Some(refused) = &status.writes_refused {
        writeln!(out, "writes:    stand still: {refused}")?;
    }
    for damage in &status.damages {
        writeln!(out, "damage:    {damage}; not served until it is repaired")?;
    }
    for failure in &status.background_failures {
        writeln!(out, "disk:      {failure}; it is tried again")?;
    }
    if let Some(backup) = &status.last_backup {
        writeln!(out, "backup:    {}, finished {}", backup.id, backup.stop_time)?;
    }
    if replicas.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&["STANDBY", "STATE", "COUNTS", "WRITE", "FLUSH", "REPLAY", "LAST HEARD"]);
    for replica in replicas {
        let counts = match (replica.required, replica.synchronous) {
            (true, true) => "required, synchronous",
            (true, false) => "required",
            (false, true) => "synchronous",
            (false, false) => "-",
        };
        let stage =
            |stage: &StageStatus| format!("-{} -{}", human_bytes(stage.lag.bytes), human_seconds(stage.lag.seconds));
        let heard = match (&replica.address, replica.last_contact_seconds) {
            (Some(_), _) => String::from("connected"),
            (None, Some(seconds)) => format!("{} ago", human_seconds(seconds)),
            (None, None) => String::from("never"),
        };
        table.row([
            replica.name.clone(),
            replica.state.clone(),
            counts.to_owned(),
            stage(&replica.write),
            stage(&replica.flush),
            stage(&replica.replay),
            heard,
        ]);
    }
    table.write(out)
}
