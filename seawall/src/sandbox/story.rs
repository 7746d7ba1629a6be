//! The story: ingestion, a standby that dies and comes back through the archive, a standby that freezes until ingestion
//! pauses, an accident and the restore to the moment before it, and a failover with an old primary that returns.
//! Each chapter ends with checks; the last one compares everything.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::api::Api;
use super::feeder::{Feeder, Oracle};
use super::process::NodeProcess;
use super::report::Report;
use super::sampler::Sampler;
use super::{Archive, Options};
use crate::entry::Entry;
use crate::failure::{Failure, Kind};
use crate::http::api::{BatchRequest, NodeState, NodeStatus, ThrottleMode};

const KEYSPACE: &str = "files";
/// The standby that counts, and the one that does not.
const REQUIRED: &str = "standby-a";
const OTHER: &str = "standby-b";
/// Small enough that a minute's log is many segments.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Bytes of log the required standby may lack.
const CEILING_BYTES: u64 = 32 << 20;
const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(90);

/// Everything that is running, and what is known of it.
pub(super) struct Story<'a> {
    options: &'a Options,
    folder: PathBuf,
    archive: Archive,
    runtime: &'a Runtime,
    binary: PathBuf,
    primary: NodeProcess,
    required: NodeProcess,
    other: NodeProcess,
    feeder: Feeder,
    oracle: Oracle,
    report: Report,
}

/// What a stretch of ingestion did.
#[derive(Clone, Copy, Debug, Default)]
struct Ingested {
    bytes: u64,
    records: u64,
    took: Duration,
}

impl<'a> Story<'a> {
    /// Makes folders and settings; nothing runs yet.
    pub(super) fn new(
        options: &'a Options,
        folder: &Path,
        archive: Archive,
        runtime: &'a Runtime,
    ) -> Result<Self, Failure> {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe().map_err(|error| failed("this program's path", &error))?,
        };
        let node = |name: &str| {
            NodeProcess::new(&binary, &folder.join(name), name).map_err(|error| failed("a node's folder", &error))
        };
        let (primary, required, other) = (node("primary")?, node(REQUIRED)?, node(OTHER)?);
        let feeder = Feeder::open(options.input.as_deref(), options.limit_bytes)?;
        let (folder, binary) = (folder.to_owned(), binary.clone());
        let (oracle, report) = (Oracle::default(), Report::new());
        Ok(Self { options, folder, archive, runtime, binary, primary, required, other, feeder, oracle, report })
    }

    /// Tells it all.
    pub(super) fn tell(&mut self) -> Result<Report, Failure> {
        let started = Instant::now();
        self.start_nodes()?;
        let sampler = Sampler::start(self.api(&self.primary), REQUIRED);
        self.ingest_everything()?;
        self.lose_a_standby()?;
        self.freeze_the_required_standby(&sampler)?;
        self.restore_to_before_the_accident()?;
        self.figures_of(&sampler);
        drop(sampler);
        self.fail_over()?;
        self.compare_everything()?;
        self.report.figure("sandbox_seconds", round(started.elapsed().as_secs_f64()));
        if let Some(server) = &self.archive.server {
            let counters = server.counters();
            self.report.figure("s3_requests", counters.requests());
            self.report.figure("s3_requests_put", counters.put);
            self.report.figure("s3_requests_get", counters.get);
            self.report.figure("s3_requests_list", counters.list);
            self.report.figure("s3_bytes_in", counters.bytes_in);
            self.report.figure("s3_bytes_out", counters.bytes_out);
        }
        Ok(self.report.clone())
    }

    /// Leaves everything running until Ctrl-C.
    pub(super) fn keep_running(&self) {
        eprintln!("\nstill running; Ctrl-C ends it");
        for node in [&self.required, &self.other, &self.primary] {
            eprintln!("  {:<10} http://{}  {}", node.name, node.http, node.folder.display());
        }
        if let Some(server) = &self.archive.server {
            eprintln!("  {:<10} {}", "s3", server.endpoint());
        }
        let _ = self.runtime.block_on(tokio::signal::ctrl_c());
    }

    fn start_nodes(&mut self) -> Result<(), Failure> {
        eprintln!(
            "starting a primary, two standbys and {}",
            match self.archive.server {
                Some(_) => "an embedded S3 server",
                None => "an archive in the given S3 store",
            }
        );
        let common = format!(
            "[log]\nsegment_size = \"4MiB\"\n\n[engine]\nmemtable_size = \"8MiB\"\n\n{}\n\
             [backpressure]\nmax_replication_lag_bytes = {CEILING_BYTES}\nmax_replication_lag_seconds = 60\n\
             wait_max = \"2s\"\nwal_disk_free_min = \"64MiB\"\n",
            self.archive.settings
        );
        let policy = format!("required = [\"{REQUIRED}\"]\nsynchronous = \"any 1 ({REQUIRED})\"\ntimeout = \"4s\"\n");
        let configured = self.primary.configure("primary", &policy, &common);
        configured.map_err(|error| failed("writing settings", &error))?;
        self.start(Who::Primary)?;
        let upstreams =
            format!("upstream = \"{}, {}\"\ntimeout = \"4s\"\n", self.primary.replication, self.required.replication);
        // Once promoted it has no standby it must wait for.
        let configured = self.required.configure("standby", &upstreams, &common);
        configured.map_err(|error| failed("writing settings", &error))?;
        let delayed = format!("{upstreams}apply_delay = \"{}ms\"\n", self.options.delay.as_millis());
        let configured = self.other.configure("standby", &delayed, &common);
        configured.map_err(|error| failed("writing settings", &error))?;
        self.start(Who::Required)?;
        self.start(Who::Other)?;
        let status = self.api(&self.required).status()?;
        self.report.figure("standby_io_path", status.io_path);
        self.wait_until("both standbys stream", |story| {
            let replicas = story.api(&story.primary).replicas()?.replicas;
            Ok(replicas.iter().filter(|replica| replica.state == "streaming").count() == 2)
        })
    }

    /// Chapter 1.
    fn ingest_everything(&mut self) -> Result<(), Failure> {
        eprintln!("\n1. ingest {} at full speed", self.feeder.path().display());
        let first_round = |story: &Self, _: u64| story.feeder.round() == 0;
        let ingested = self.ingest(true, first_round)?;
        let rate = ingested.bytes as f64 / ingested.took.as_secs_f64() / f64::from(1 << 20);
        self.report.figure("ingest_records", ingested.records);
        self.report.figure("ingest_bytes", ingested.bytes);
        self.report.figure("ingest_mib_per_second", round(rate));
        self.report.figure("ingest_records_per_second", round(ingested.records as f64 / ingested.took.as_secs_f64()));
        self.report.figure("input_left_out", self.feeder.skipped());
        self.wait_for_standbys()?;
        self.check_digests("digests_after_ingest", &[Who::Primary, Who::Required, Who::Other])
    }

    /// Chapter 2.
    fn lose_a_standby(&mut self) -> Result<(), Failure> {
        eprintln!("\n2. kill -9 {OTHER}, recycle the log it misses, start it again");
        self.other.kill().map_err(|error| failed("killing a standby", &error))?;
        let lost_at = self.status(Who::Primary)?.log.flush.0;
        let until = Instant::now() + PATIENCE;
        loop {
            self.ingest(false, |_, bytes| bytes < 3 * SEGMENT_BYTES)?;
            let oldest = self.status(Who::Primary)?.log.oldest.0;
            if oldest > lost_at {
                let detail = format!("the primary's log starts at {oldest}, the standby stopped at about {lost_at}");
                self.report.check("missed_log_recycled", true, detail);
                break;
            }
            if Instant::now() > until {
                let detail = format!("the primary still holds log from {oldest}, the standby stopped at {lost_at}");
                self.report.check("missed_log_recycled", false, detail);
                break;
            }
        }
        let started = Instant::now();
        self.start(Who::Other)?;
        self.wait_for_standbys()?;
        self.report.figure("rejoin_seconds", round(started.elapsed().as_secs_f64()));
        let fetched = self.status(Who::Other)?.upstream.map_or(0, |upstream| upstream.archive_bytes_total);
        self.report.check(
            "rejoined_through_archive",
            fetched > 0,
            format!("{fetched} bytes of log came from the archive"),
        );
        Ok(())
    }

    /// Chapter 3.
    fn freeze_the_required_standby(&mut self, sampler: &Sampler) -> Result<(), Failure> {
        eprintln!("\n3. freeze {REQUIRED} until ingestion pauses, then thaw it");
        self.required.freeze().map_err(|error| failed("freezing a standby", &error))?;
        // What was on its way when it froze may still be acknowledged by its kernel's buffers; then nothing more is.
        std::thread::sleep(Duration::from_millis(300));
        let flushed = self.flush_of(REQUIRED)?;
        let thawed = AtomicBool::new(false);
        let end_while_frozen = AtomicU64::new(0);
        let frozen = Instant::now();
        let story = &*self;
        let ingested = std::thread::scope(|scope| {
            let director = scope.spawn(|| {
                let paused = story.wait_until("ingestion pauses", |story| {
                    let status = story.status(Who::Primary)?;
                    end_while_frozen.fetch_max(status.log.end.0.offset(), Ordering::Relaxed);
                    let because = status.throttle.subject.is_some_and(|subject| subject.contains(REQUIRED));
                    Ok(status.throttle.mode == ThrottleMode::Paused && because)
                });
                if paused.is_ok() {
                    std::thread::sleep(Duration::from_secs(3));
                }
                let end = story.status(Who::Primary).map(|status| status.log.end.0.offset()).unwrap_or(0);
                end_while_frozen.fetch_max(end, Ordering::Relaxed);
                let awake = story.required.thaw().map_err(|error| failed("thawing a standby", &error));
                thawed.store(true, Ordering::Relaxed);
                paused.and(awake)
            });
            // Far more than fits under the ceiling, and on until some was written after the thaw.
            let until = frozen + PATIENCE;
            let more = |_: &Self, bytes: u64| {
                (!thawed.load(Ordering::Relaxed) || bytes < 2 * CEILING_BYTES) && Instant::now() < until
            };
            let ingested = story.ingest(false, more);
            director.join().expect("the director does not panic").and(ingested)
        });
        let ingested = ingested?;
        let beyond = end_while_frozen.load(Ordering::Relaxed).saturating_sub(flushed);
        let detail = format!("{beyond} bytes beyond what {REQUIRED} had flushed, ceiling {CEILING_BYTES}");
        self.report.check("nothing_admitted_past_ceiling", beyond > 0 && beyond <= CEILING_BYTES, detail);
        let seen = sampler.seen();
        let (longest, detail) = match seen.pause_because_of(REQUIRED) {
            Some((longest, (reason, subject))) => {
                (longest, format!("{:.1} s because of {reason} ({subject})", longest.as_secs_f64()))
            }
            None => (Duration::ZERO, format!("never because of {REQUIRED}")),
        };
        self.report.check("ingestion_paused", longest >= Duration::from_secs(2), detail);
        let detail =
            format!("{} more records were acknowledged in {:.1} s", ingested.records, ingested.took.as_secs_f64());
        self.report.check("ingestion_resumed", ingested.bytes >= 2 * CEILING_BYTES, detail);
        self.wait_for_standbys()?;
        self.check_digests("digests_after_thaw", &[Who::Primary, Who::Required, Who::Other])
    }

    /// Chapter 4.
    fn restore_to_before_the_accident(&mut self) -> Result<(), Failure> {
        eprintln!("\n4. base backup, more writes, an accident, and a restore to the instant before it");
        let primary = self.api(&self.primary);
        let started = Instant::now();
        let backup = primary.backup("sandbox")?;
        self.report.figure("backup_seconds", round(started.elapsed().as_secs_f64()));
        self.report.figure("backup_bytes", backup.size_bytes);
        self.ingest(false, |_, bytes| bytes < 2 * SEGMENT_BYTES)?;
        let before = primary.digest(None)?;
        let (prefix, keys) = self.oracle.largest_prefix();
        for part in keys.chunks(1000) {
            let operations = part.iter().map(|key| Entry::of_key(key)).collect();
            primary.write(KEYSPACE, &BatchRequest { operations }, "local", Duration::from_secs(10))?;
        }
        self.oracle.deleted(&keys);
        eprintln!("  deleted {} keys under {}", keys.len(), String::from_utf8_lossy(&prefix));
        self.ingest(false, |_, bytes| bytes < SEGMENT_BYTES / 4)?;
        let after = self.status(Who::Primary)?.log.flush.0;
        self.wait_until("the archive has it all", |story| {
            Ok(story.status(Who::Primary)?.archive.is_some_and(|archive| archive.archived.0 >= after))
        })?;
        let target = self.folder.join("restored");
        let lsn = before.lsn.to_string();
        let started = Instant::now();
        let settings = self.primary.settings();
        self.command(&[
            "restore",
            "--config",
            &settings.display().to_string(),
            "--to",
            &lsn,
            &target.display().to_string(),
        ])?;
        self.report.figure("restore_seconds", round(started.elapsed().as_secs_f64()));
        let digest = self.command(&["--json", "digest", "--data-dir", &target.display().to_string()])?;
        let digest: serde_json::Value = serde_json::from_str(digest.trim()).unwrap_or_default();
        let found = digest["digest"].as_str().unwrap_or("nothing");
        let same = found == before.digest && digest["lsn"].as_str() == Some(&*lsn);
        let detail = format!("at {lsn}: {found}, noted before the accident: {}", before.digest);
        self.report.check("restored_equals_before_accident", same && !keys.is_empty(), detail);
        Ok(())
    }

    /// Chapter 5.
    fn fail_over(&mut self) -> Result<(), Failure> {
        eprintln!("\n5. kill -9 the primary, promote {REQUIRED}, let the old primary return");
        self.wait_for_standbys()?;
        // Now only writes that the standby confirmed count as acknowledged, and the primary dies among them.
        let stop = AtomicBool::new(false);
        let last_words = std::thread::scope(|scope| {
            let story = &*self;
            let writer = scope.spawn(|| {
                let primary = story.api(&story.primary);
                let (mut acknowledged, mut unknown) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let batch = story.feeder.next_batch()?;
                    match primary.write(KEYSPACE, &batch.request, "remote_flush(1)", Duration::from_secs(5)) {
                        Ok(_) => {
                            acknowledged += batch.hashes.len();
                            story.oracle.acknowledged(batch.hashes);
                        }
                        Err(_) => unknown += batch.hashes.len(),
                    }
                }
                Ok::<_, Failure>((acknowledged, unknown))
            });
            std::thread::sleep(Duration::from_millis(1500));
            let killed = story.primary.kill_by_pid().map_err(|error| failed("killing the primary", &error));
            stop.store(true, Ordering::Relaxed);
            killed.and(writer.join().expect("the writer does not panic"))
        });
        let (acknowledged, unknown) = last_words?;
        self.primary.kill().map_err(|error| failed("killing the primary", &error))?;
        let started = Instant::now();
        let promoted = self.api(&self.required).promote()?;
        self.report.figure("promote_seconds", round(started.elapsed().as_secs_f64()));
        let detail = format!("timeline {} forks at {}, fenced: {}", promoted.timeline, promoted.fork, promoted.fenced);
        self.report.check("promoted_and_fenced", promoted.timeline == 2 && promoted.fenced, detail);
        let detail =
            format!("{acknowledged} records acknowledged by a standby up to the kill, {unknown} without an answer");
        self.report.check("writes_before_the_kill", acknowledged > 0, detail);
        self.ingest_to(Who::Required, false, |_, bytes| bytes < SEGMENT_BYTES)?;
        self.start(Who::Primary)?;
        self.wait_until("the old primary knows that it was superseded", |story| {
            let status = story.status(Who::Primary)?;
            Ok(matches!(status.state, NodeState::Fenced) || status.role == crate::http::api::NodeRole::Standby)
        })?;
        let status = self.status(Who::Primary)?;
        let batch = BatchRequest { operations: vec![Entry::new(b"from the old primary", b"must not be")] };
        let refused = self.api(&self.primary).write(KEYSPACE, &batch, "local", Duration::from_secs(2));
        let detail = match &refused {
            Ok(written) => format!("it acknowledged a write at {}", written.lsn),
            Err(failure) => format!("{:?}: {} ({failure})", status.state, status.state_detail.unwrap_or_default()),
        };
        let kind = if status.state == NodeState::Fenced { Kind::Fenced } else { Kind::ReadOnly };
        let fenced = refused.is_err_and(|failure| failure.kind == kind);
        self.report.check("old_primary_refuses_writes", fenced, detail);
        Ok(())
    }

    fn compare_everything(&mut self) -> Result<(), Failure> {
        eprintln!("\ncomparing");
        let end = self.status(Who::Required)?.log.flush.0;
        self.wait_until("the other standby follows the new primary", |story| {
            Ok(story.status(Who::Other)?.log.replay.0 >= end)
        })?;
        self.check_digests("digests_at_the_end", &[Who::Required, Who::Other])?;
        let promoted = self.api(&self.required);
        let difference = self.oracle.compare(promoted.scan_all(KEYSPACE))?;
        let detail = format!(
            "{} acknowledged, {} there: {} missing, {} wrong, {} never answered",
            self.oracle.len(),
            difference.seen,
            difference.missing,
            difference.wrong,
            difference.unexpected
        );
        let complete = difference.missing == 0 && difference.wrong == 0 && !self.oracle.is_empty();
        self.report.check("nothing_acknowledged_is_missing", complete, detail);
        Ok(())
    }

    fn figures_of(&mut self, sampler: &Sampler) {
        let seen = sampler.seen();
        for (name, samples) in &seen.lag_seconds {
            let figures = match name.as_str() {
                REQUIRED => ["lag_seconds_p50_a", "lag_seconds_p99_a", "lag_seconds_max_a"],
                _ => ["lag_seconds_p50_b", "lag_seconds_p99_b", "lag_seconds_max_b"],
            };
            for (figure, part) in figures.into_iter().zip([0.5, 0.99, 1.0]) {
                self.report.figure(figure, samples.percentile(part).map(round));
            }
        }
        let archive = &seen.archive_lag_seconds;
        self.report.figure("rpo_seconds_p50", archive.percentile(0.5).map(round));
        self.report.figure("rpo_seconds_p99", archive.percentile(0.99).map(round));
        self.report.figure("rpo_seconds_max", archive.max().map(round));
        self.report.figure("pause_seconds_max", round(seen.pause_max().as_secs_f64()));
        self.report.figure("required_lag_bytes_max", seen.required_lag_bytes_max);
        let within = seen.required_lag_bytes_max <= CEILING_BYTES;
        let detail = format!(
            "at most {} bytes in {} samples, ceiling {CEILING_BYTES}",
            seen.required_lag_bytes_max,
            archive.len()
        );
        self.report.check("lag_within_ceiling", within && !archive.is_empty(), detail);
    }

    /// Writes batches while `more` says so (given the bytes of this stretch), from several threads.
    fn ingest(&self, live: bool, more: impl Fn(&Self, u64) -> bool + Sync) -> Result<Ingested, Failure> {
        self.ingest_to(Who::Primary, live, more)
    }

    fn ingest_to(&self, to: Who, live: bool, more: impl Fn(&Self, u64) -> bool + Sync) -> Result<Ingested, Failure> {
        let (bytes, records) = (AtomicU64::new(0), AtomicU64::new(0));
        let started = Instant::now();
        let result: Result<(), Failure> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|_| {
                    scope.spawn(|| {
                        let api = self.api(self.node(to));
                        while more(self, bytes.load(Ordering::Relaxed)) {
                            let batch = self.feeder.next_batch()?;
                            self.write(&api, &batch.request)?;
                            bytes.fetch_add(batch.bytes, Ordering::Relaxed);
                            records.fetch_add(batch.hashes.len() as u64, Ordering::Relaxed);
                            self.oracle.acknowledged(batch.hashes);
                        }
                        Ok(())
                    })
                })
                .collect();
            let mut shown = Instant::now();
            while live && writers.iter().any(|writer| !writer.is_finished()) {
                std::thread::sleep(Duration::from_millis(50));
                if shown.elapsed() >= Duration::from_secs(1) {
                    shown = Instant::now();
                    self.show_progress(bytes.load(Ordering::Relaxed), records.load(Ordering::Relaxed), started);
                }
            }
            writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
        });
        result?;
        Ok(Ingested { bytes: bytes.into_inner(), records: records.into_inner(), took: started.elapsed() })
    }

    /// Commits a batch, however long ingestion is held back.
    fn write(&self, api: &Api, batch: &BatchRequest) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            match api.write(KEYSPACE, batch, "local", Duration::from_secs(2)) {
                Ok(_) => return Ok(()),
                Err(failure) if failure.kind == Kind::Backpressure && Instant::now() < until => {
                    let pause = failure.retry_after_seconds.unwrap_or(0.1).clamp(0.01, 1.0);
                    std::thread::sleep(Duration::from_secs_f64(pause));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn show_progress(&self, bytes: u64, records: u64, started: Instant) {
        let rate = bytes as f64 / started.elapsed().as_secs_f64() / f64::from(1 << 20);
        let lags = self.api(&self.primary).replicas().map(|replicas| {
            let lag = |replica: &crate::http::api::ReplicaStatus| {
                format!(
                    "{} {:.1} MiB / {:.2} s",
                    replica.name,
                    replica.replay.lag.bytes as f64 / f64::from(1 << 20),
                    replica.replay.lag.seconds
                )
            };
            replicas.replicas.iter().map(lag).collect::<Vec<_>>().join(", ")
        });
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        eprintln!("  {records} records, {mebibytes:.0} MiB, {rate:.1} MiB/s; lag: {}", lags.unwrap_or_default());
    }

    /// Every node's digest at one LSN that all of them show.
    fn check_digests(&mut self, name: &'static str, nodes: &[Who]) -> Result<(), Failure> {
        let first = self.api(self.node(nodes[0])).digest(None)?;
        let lsn = first.lsn.to_string();
        let mut equal = true;
        let mut detail = format!("at {lsn}: {}", &first.digest[..16.min(first.digest.len())]);
        for who in &nodes[1..] {
            self.wait_until("a standby shows it", |story| Ok(story.status(*who)?.log.visible.0 >= first.lsn.0))?;
            let digest = self.api(self.node(*who)).digest(Some(&lsn))?;
            equal &= digest.digest == first.digest && digest.lsn == first.lsn;
            detail.push_str(&format!(", {} {}", self.node(*who).name, &digest.digest[..16.min(digest.digest.len())]));
        }
        self.report.check(name, equal, detail);
        Ok(())
    }

    fn wait_for_standbys(&self) -> Result<(), Failure> {
        let end = self.status(Who::Primary)?.log.flush.0;
        self.wait_until("both standbys have caught up", |story| {
            let there = |who| Ok::<_, Failure>(story.status(who)?.log.replay.0 >= end);
            Ok(there(Who::Required)? && there(Who::Other)?)
        })
    }

    fn flush_of(&self, standby: &str) -> Result<u64, Failure> {
        let replicas = self.api(&self.primary).replicas()?.replicas;
        let replica = replicas.iter().find(|replica| replica.name == standby);
        let replica =
            replica.ok_or_else(|| Failure::new(Kind::Failed, format!("the primary does not know {standby}")))?;
        Ok(replica.flush.lsn.0.offset())
    }

    fn start(&mut self, who: Who) -> Result<(), Failure> {
        let environment: Vec<(String, String)> = self.archive.environment.clone();
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let node = match who {
            Who::Primary => &mut self.primary,
            Who::Required => &mut self.required,
            Who::Other => &mut self.other,
        };
        node.start(&environment).map_err(|error| failed("starting a node", &error))?;
        let until = Instant::now() + Duration::from_secs(30);
        let api = Api::new(node.http);
        while api.status().is_err() {
            if let Err(status) = node.is_running() {
                let message = format!("{} ended at once ({status}):\n{}", node.name, node.last_words());
                return Err(Failure::new(Kind::Failed, message));
            }
            if Instant::now() > until {
                let message = format!("{} does not answer:\n{}", node.name, node.last_words());
                return Err(Failure::new(Kind::Failed, message));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn wait_until(&self, what: &str, mut reached: impl FnMut(&Self) -> Result<bool, Failure>) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < until {
            match reached(self) {
                Ok(true) => return Ok(()),
                Ok(false) => last.clear(),
                Err(failure) => last = format!(" ({failure})"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(Failure::new(Kind::Failed, format!("waited {} s in vain until {what}{last}", PATIENCE.as_secs())))
    }

    /// Runs this program with other arguments and gives what it printed.
    fn command(&self, arguments: &[&str]) -> Result<String, Failure> {
        let environment = self.archive.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let output = Command::new(&self.binary).args(arguments).envs(environment).output();
        let output = output.map_err(|error| failed("running a command", &error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = format!("seawall {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        Err(Failure::new(Kind::Failed, message))
    }

    fn status(&self, who: Who) -> Result<NodeStatus, Failure> {
        self.api(self.node(who)).status()
    }

    fn api(&self, node: &NodeProcess) -> Api {
        Api::new(node.http)
    }

    fn node(&self, who: Who) -> &NodeProcess {
        match who {
            Who::Primary => &self.primary,
            Who::Required => &self.required,
            Who::Other => &self.other,
        }
    }
}

/// Which node: by the part it plays at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Primary,
    Required,
    Other,
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Kind::Failed, format!("{what}: {error}"))
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
