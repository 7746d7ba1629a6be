//! The metrics page: Prometheus text, written from the documents of the API. Every metric is declared once, in
//! [`METRICS`]; a name that is not there cannot be written. Names carry base units, totals end in `_total`.

use std::fmt::Write;

use super::api::{NodeRole, NodeState, NodeStats, NodeStatus, ReplicaStatus, StageStatus, ThrottleMode};

/// A metric: name, type, help.
pub type Metric = (&'static str, &'static str, &'static str);

/// Every metric there is.
pub const METRICS: &[Metric] = &[
    ("seawall_build_info", "gauge", "1, with the version as a label."),
    ("seawall_node_info", "gauge", "1, with name, role, cluster, I/O path and way of durable writes as labels."),
    ("seawall_node_state", "gauge", "1 for the state the node is in, 0 for the others."),
    ("seawall_uptime_seconds", "gauge", "Since the node started."),
    ("seawall_timeline", "gauge", "The timeline the log ends on."),
    ("seawall_log_end_bytes", "gauge", "Where the last record ends: an LSN as a number."),
    ("seawall_log_write_bytes", "gauge", "The log up to here is with the operating system: an LSN as a number."),
    ("seawall_log_flush_bytes", "gauge", "The log up to here survives power loss: an LSN as a number."),
    ("seawall_log_replay_bytes", "gauge", "The log up to here is applied and flushed: an LSN as a number."),
    ("seawall_log_oldest_bytes", "gauge", "The oldest log kept here: an LSN as a number."),
    ("seawall_log_records_total", "counter", "Records appended or received."),
    ("seawall_log_bytes_total", "counter", "Bytes of log appended or received."),
    ("seawall_log_flushes_total", "counter", "Syncs of the log."),
    ("seawall_log_flush_seconds_total", "counter", "Time in writes and syncs of the log."),
    ("seawall_log_flush_seconds_max", "gauge", "The longest write or sync of the log since start."),
    ("seawall_log_flush_underway_seconds", "gauge", "How long the write or sync under way has taken so far, else 0."),
    ("seawall_recovery_seconds", "gauge", "How long recovery took at start."),
    ("seawall_recovery_records", "gauge", "Records replayed at start."),
    ("seawall_memtable_bytes", "gauge", "Writes in memory that are not in tables yet."),
    ("seawall_memtables_waiting", "gauge", "Sets of memtables that wait to be written into tables."),
    ("seawall_table_files", "gauge", "Tables, by level."),
    ("seawall_table_bytes", "gauge", "Bytes of tables, by level."),
    ("seawall_blob_files", "gauge", "Files of large values, which tables refer to."),
    ("seawall_blob_bytes", "gauge", "Bytes of them."),
    ("seawall_blob_value_bytes", "gauge", "Bytes of the values in them."),
    ("seawall_blob_live_bytes", "gauge", "Bytes of those of the values that are needed; the rest goes with merges."),
    ("seawall_cache_bytes", "gauge", "Blocks of tables held in memory."),
    ("seawall_cache_hits_total", "counter", "Blocks found in memory."),
    ("seawall_cache_misses_total", "counter", "Blocks read from tables."),
    ("seawall_flushes_total", "counter", "Sets of memtables written into tables."),
    ("seawall_compactions_total", "counter", "Merges of tables."),
    ("seawall_compaction_moves_total", "counter", "Tables that went down a level as they were."),
    ("seawall_compaction_read_bytes_total", "counter", "Bytes of tables that merges read, by level."),
    ("seawall_compaction_written_bytes_total", "counter", "Bytes written into tables, by level; 0 is from memory."),
    ("seawall_compaction_debt_bytes", "gauge", "Bytes that levels have beyond what they may."),
    ("seawall_stalls_total", "counter", "Commits that were stopped until there was memory."),
    ("seawall_stall_seconds_total", "counter", "Time commits were stopped."),
    ("seawall_stall_seconds_max", "gauge", "The longest time a commit was stopped or slowed at once since start."),
    ("seawall_slowdowns_total", "counter", "Commits slowed because too much waits to be written and merged."),
    ("seawall_slowdown_seconds_total", "counter", "Time commits were slowed."),
    ("seawall_snapshots", "gauge", "Snapshots held."),
    ("seawall_disk_full", "gauge", "1 while writes stand still for want of room."),
    (
        "seawall_writes_refused",
        "gauge",
        "1 while no write is let in: no room, what makes room fails, damage, or the log has ended; status says why.",
    ),
    ("seawall_damages", "gauge", "Segments and files that are damaged and not repaired yet; status names them."),
    (
        "seawall_background_failures",
        "gauge",
        "How many fail of writing memtables out and merging tables; status says why.",
    ),
    ("seawall_replica_connected", "gauge", "1 while the standby is connected, 0 while it is missing."),
    ("seawall_replica_lag_bytes", "gauge", "Bytes of log a standby lacks, by stage: write, flush, replay."),
    ("seawall_replica_lag_seconds", "gauge", "Age of the oldest log a standby lacks, by stage."),
    ("seawall_upstream_lag_bytes", "gauge", "Bytes of the upstream's log that this standby does not show yet."),
    ("seawall_upstream_lag_seconds", "gauge", "How far behind the primary this standby is."),
    ("seawall_upstream_last_contact_seconds", "gauge", "Since the upstream was heard of."),
    ("seawall_upstream_reconnects_total", "counter", "Connections to the upstream made anew."),
    ("seawall_archive_lag_bytes", "gauge", "Bytes of flushed log the archive lacks."),
    ("seawall_archive_lag_seconds", "gauge", "Age of the oldest log the archive lacks: what a disaster would lose."),
    ("seawall_archive_uploaded_bytes_total", "counter", "Bytes uploaded to the archive."),
    ("seawall_archive_requests_total", "counter", "Requests to the archive."),
    ("seawall_archive_failures_total", "counter", "Requests to the archive that failed."),
    (
        "seawall_archive_conditional_writes",
        "gauge",
        "1 if the store honours conditional writes, on which fencing rests.",
    ),
    ("seawall_throttle_mode", "gauge", "1 for the mode ingestion is in, with reason and subject, 0 for the others."),
    ("seawall_throttle_pressure_ratio", "gauge", "How far between target (0) and ceiling (1)."),
    ("seawall_throttle_paused_seconds_total", "counter", "Time ingestion was paused."),
    ("seawall_commits_refused_total", "counter", "Commits refused because somebody is too far behind."),
    ("seawall_last_backup_timestamp_seconds", "gauge", "When the newest base backup was finished."),
    ("seawall_http_requests_total", "counter", "HTTP requests answered."),
];

/// The page. A node that has no database has no figures of one: nothing stands where nothing is known.
pub fn render(status: &NodeStatus, replicas: &[ReplicaStatus], stats: Option<&NodeStats>) -> String {
    let mut page = Page { text: String::with_capacity(8 << 10), declared: 0 };
    node(&mut page, status);
    let Some(stats) = stats else { return page.text };
    log(&mut page, status, stats);
    engine(&mut page, status, stats);
    standbys(&mut page, replicas);
    upstream_and_archive(&mut page, status);
    throttle_and_rest(&mut page, status, stats);
    page.text
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Samples in the order of [`METRICS`], each metric's after its head.
struct Page {
    text: String,
    /// How many of [`METRICS`] have been passed.
    declared: usize,
}

impl Page {
    fn one(&mut self, name: &str, value: impl Into<f64>) {
        self.samples(name, [(&[][..], value.into())]);
    }

    fn samples<'a>(&mut self, name: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        let place = METRICS[self.declared..].iter().position(|(metric, ..)| *metric == name);
        let place =
            place.unwrap_or_else(|| panic!("the metric {name} is not declared, or not in the order of METRICS"));
        self.declared += place;
        let (_, kind, help) = METRICS[self.declared];
        let mut head = false;
        for (labels, value) in samples {
            if !head {
                let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
                head = true;
            }
            self.text.push_str(name);
            if !labels.is_empty() {
                let labels = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
                let _ = write!(self.text, "{{{}}}", labels.collect::<Vec<_>>().join(","));
            }
            let _ = writeln!(self.text, " {value}");
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn flag(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

fn node(page: &mut Page, status: &NodeStatus) {
    page.samples("seawall_build_info", [(&[("version", &*status.version)][..], 1.0)]);
    let labels = [
        ("name", &*status.name),
        ("role", status.role.name()),
        ("cluster", &*status.cluster),
        ("io_path", &*status.io_path),
        ("durable_write", &*status.log.durable_write),
    ];
    page.samples("seawall_node_info", [(&labels[..], 1.0)]);
    let states = NodeState::ALL.map(|state| ([("state", state.name())], flag(state == status.state)));
    page.samples("seawall_node_state", states.iter().map(|(labels, value)| (&labels[..], *value)));
    page.one("seawall_uptime_seconds", status.uptime_seconds);
}

fn log(page: &mut Page, status: &NodeStatus, stats: &NodeStats) {
    let positions = &status.log;
    page.one("seawall_timeline", status.timeline);
    for (name, lsn) in [
        ("seawall_log_end_bytes", positions.end),
        ("seawall_log_write_bytes", positions.write),
        ("seawall_log_flush_bytes", positions.flush),
        ("seawall_log_replay_bytes", positions.replay),
        ("seawall_log_oldest_bytes", positions.oldest),
    ] {
        page.one(name, lsn.0.offset() as f64);
    }
    page.one("seawall_log_records_total", stats.log_records_total as f64);
    page.one("seawall_log_bytes_total", stats.log_bytes_total as f64);
    page.one("seawall_log_flushes_total", stats.log_flushes_total as f64);
    page.one("seawall_log_flush_seconds_total", stats.log_flush_seconds_total);
    page.one("seawall_log_flush_seconds_max", stats.log_flush_seconds_max);
    page.one("seawall_log_flush_underway_seconds", status.log.flush_underway_seconds);
    page.one("seawall_recovery_seconds", status.recovery.duration_seconds);
    page.one("seawall_recovery_records", status.recovery.records as f64);
}

fn engine(page: &mut Page, status: &NodeStatus, stats: &NodeStats) {
    page.one("seawall_memtable_bytes", stats.memtable_bytes as f64);
    page.one("seawall_memtables_waiting", stats.memtables_waiting as f64);
    let levels: Vec<String> = (0..stats.levels.len()).map(|level| level.to_string()).collect();
    let labels: Vec<[(&str, &str); 1]> = levels.iter().map(|level| [("level", &**level)]).collect();
    let by_level = |value: fn(&super::api::LevelStats) -> u64| {
        labels.iter().zip(&stats.levels).map(move |(labels, level)| (&labels[..], value(level) as f64))
    };
    page.samples("seawall_table_files", by_level(|level| level.tables));
    page.samples("seawall_table_bytes", by_level(|level| level.bytes));
    page.one("seawall_blob_files", stats.blobs.files as f64);
    page.one("seawall_blob_bytes", stats.blobs.bytes as f64);
    page.one("seawall_blob_value_bytes", stats.blobs.value_bytes as f64);
    page.one("seawall_blob_live_bytes", stats.blobs.live_bytes as f64);
    page.one("seawall_cache_bytes", stats.cache_bytes as f64);
    page.one("seawall_cache_hits_total", stats.cache_hits_total as f64);
    page.one("seawall_cache_misses_total", stats.cache_misses_total as f64);
    page.one("seawall_flushes_total", stats.flushes_total as f64);
    page.one("seawall_compactions_total", stats.compactions_total as f64);
    page.one("seawall_compaction_moves_total", stats.compaction_moves_total as f64);
    page.samples("seawall_compaction_read_bytes_total", by_level(|level| level.read_bytes_total));
    page.samples("seawall_compaction_written_bytes_total", by_level(|level| level.written_bytes_total));
    page.one("seawall_compaction_debt_bytes", stats.compaction_debt_bytes as f64);
    page.one("seawall_stalls_total", stats.stalls_total as f64);
    page.one("seawall_stall_seconds_total", stats.stall_seconds_total);
    page.one("seawall_stall_seconds_max", stats.stall_seconds_max);
    page.one("seawall_slowdowns_total", stats.slowdowns_total as f64);
    page.one("seawall_slowdown_seconds_total", stats.slowdown_seconds_total);
    page.one("seawall_snapshots", stats.snapshots as f64);
    page.one("seawall_disk_full", flag(stats.disk_full));
    page.one("seawall_writes_refused", flag(status.writes_refused.is_some()));
    page.one("seawall_damages", status.damages.len() as f64);
    page.one("seawall_background_failures", status.background_failures.len() as f64);
}

fn standbys(page: &mut Page, replicas: &[ReplicaStatus]) {
    let names: Vec<[(&str, &str); 1]> = replicas.iter().map(|replica| [("replica", &*replica.name)]).collect();
    let each = |value: fn(&ReplicaStatus) -> f64| {
        names.iter().zip(replicas).map(move |(labels, replica)| (&labels[..], value(replica)))
    };
    page.samples("seawall_replica_connected", each(|replica| flag(replica.address.is_some())));
    type Stage = (&'static str, fn(&ReplicaStatus) -> StageStatus);
    let stages: [Stage; 3] = [("write", |r| r.write), ("flush", |r| r.flush), ("replay", |r| r.replay)];
    let pairs = || replicas.iter().flat_map(|replica| stages.iter().map(move |stage| (replica, stage)));
    let labels: Vec<[(&str, &str); 2]> =
        pairs().map(|(replica, (stage, _))| [("replica", &*replica.name), ("stage", *stage)]).collect();
    let by_stage = |value: fn(StageStatus) -> f64| {
        labels.iter().zip(pairs()).map(move |(labels, (replica, (_, stage)))| (&labels[..], value(stage(replica))))
    };
    page.samples("seawall_replica_lag_bytes", by_stage(|stage| stage.lag.bytes as f64));
    page.samples("seawall_replica_lag_seconds", by_stage(|stage| stage.lag.seconds));
}

fn upstream_and_archive(page: &mut Page, status: &NodeStatus) {
    if let Some(upstream) = &status.upstream
        && status.role == NodeRole::Standby
    {
        page.one("seawall_upstream_lag_bytes", upstream.lag.bytes as f64);
        page.one("seawall_upstream_lag_seconds", upstream.lag.seconds);
        if let Some(seconds) = upstream.last_contact_seconds {
            page.one("seawall_upstream_last_contact_seconds", seconds);
        }
        page.one("seawall_upstream_reconnects_total", upstream.reconnects_total as f64);
    }
    if let Some(archive) = &status.archive {
        page.one("seawall_archive_lag_bytes", archive.lag.bytes as f64);
        page.one("seawall_archive_lag_seconds", archive.lag.seconds);
        page.one("seawall_archive_uploaded_bytes_total", archive.uploaded_bytes_total as f64);
        page.one("seawall_archive_requests_total", archive.requests_total as f64);
        page.one("seawall_archive_failures_total", archive.failures_total as f64);
        if let Some(honoured) = archive.conditional_writes {
            page.one("seawall_archive_conditional_writes", flag(honoured));
        }
    }
}

fn throttle_and_rest(page: &mut Page, status: &NodeStatus, stats: &NodeStats) {
    let throttle = &status.throttle;
    let modes = ThrottleMode::ALL.map(|mode| {
        let current = mode == throttle.mode;
        let text = |text: &'_ Option<String>| if current { text.clone().unwrap_or_default() } else { String::new() };
        (mode.name(), text(&throttle.reason), text(&throttle.subject), flag(current))
    });
    let labels = modes.each_ref().map(|(mode, reason, subject, _)| {
        [("mode", *mode), ("reason", reason.as_str()), ("subject", subject.as_str())]
    });
    let samples = labels.iter().zip(&modes).map(|(labels, (.., value))| (&labels[..], *value));
    page.samples("seawall_throttle_mode", samples);
    page.one("seawall_throttle_pressure_ratio", throttle.pressure);
    page.one("seawall_throttle_paused_seconds_total", throttle.paused_seconds_total);
    page.one("seawall_commits_refused_total", throttle.refused_total as f64);
    let finished = status.last_backup.as_ref().and_then(|backup| backup.stop_time.parse::<jiff::Timestamp>().ok());
    if let Some(time) = finished {
        page.one("seawall_last_backup_timestamp_seconds", time.as_microsecond() as f64 / 1e6);
    }
    page.one("seawall_http_requests_total", stats.http_requests_total as f64);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::api::{ArchiveStatus, BackupSummary, LevelStats, UpstreamStatus};
    use super::*;

    fn everything() -> String {
        let status = NodeStatus {
            name: String::from("a \"quoted\" name"),
            role: NodeRole::Standby,
            upstream: Some(UpstreamStatus { last_contact_seconds: Some(0.5), ..UpstreamStatus::default() }),
            archive: Some(ArchiveStatus { conditional_writes: Some(true), ..ArchiveStatus::default() }),
            last_backup: Some(BackupSummary { stop_time: String::from("2026-11-21T08:00:00Z"), ..Default::default() }),
            ..NodeStatus::default()
        };
        let replicas = ["s1", "s2"].map(|name| ReplicaStatus { name: name.to_owned(), ..ReplicaStatus::default() });
        let stats = NodeStats { levels: vec![LevelStats::default(); 2], ..NodeStats::default() };
        render(&status, &replicas, Some(&stats))
    }

    #[test]
    fn every_declared_metric_appears_once_with_help_and_type() {
        let page = everything();
        for (name, kind, help) in METRICS {
            assert_eq!(page.matches(&format!("# HELP {name} {help}\n")).count(), 1, "{name}");
            assert_eq!(page.matches(&format!("# TYPE {name} {kind}\n")).count(), 1, "{name}");
        }
        assert_eq!(page.matches("# TYPE").count(), METRICS.len());
    }

    #[test]
    fn a_node_without_a_database_says_its_state_and_nothing_it_does_not_know() {
        let status = NodeStatus { state: NodeState::Starting, ..NodeStatus::default() };
        let page = render(&status, &[], None);
        assert!(page.contains("seawall_node_state{state=\"starting\"} 1\n"), "{page}");
        for unknown in ["seawall_timeline", "seawall_log_", "seawall_table_", "seawall_damages"] {
            assert!(!page.contains(unknown), "{page}");
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        let names: HashSet<_> = METRICS.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), METRICS.len());
        for (name, kind, help) in METRICS {
            assert!(name.starts_with("seawall_") && help.ends_with('.'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
        }
    }

    #[test]
    fn samples_are_well_formed_and_labels_escaped() {
        let page = everything();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            assert!(!name.contains('{') || name.ends_with('}'), "{line}");
        }
        assert!(page.contains("name=\"a \\\"quoted\\\" name\""));
        assert!(page.contains("seawall_replica_lag_seconds{replica=\"s2\",stage=\"replay\"} 0\n"));
        assert!(page.contains("seawall_last_backup_timestamp_seconds 1795248000\n"), "{page}");
    }
}
