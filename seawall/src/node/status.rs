//! A node as its HTTP API shows it.

use std::time::Duration;

use seawall_backup::backup::{BackupOptions, BackupProgress};
use seawall_backup::format::documents::BackupManifest;
use seawall_backup::{ArchiverState, ArchiverStatus};
use seawall_engine::{Db, Role as DataRole};
use seawall_replication::driver::{ClientState, StandbyReport, StandbyState};
use seawall_replication::message::IoPath;
use seawall_replication::throttle::Mode;
use seawall_wal::Timestamp;
use seawall_wal::recovery::Verdict;

use super::{Following, Node, Role, State};
use crate::failure::{Failure, Kind, chain};
use crate::http::HttpNode;
use crate::http::api::{
    ArchiveStatus, BackupEvent, BackupRequest, BackupSummary, Lag, LogStatus, NodeRole, NodeState, NodeStatus,
    PromoteRequest, Promoted, RecoveryStatus, ReplicaStatus, StageStatus, ThrottleMode, ThrottleStatus, UpstreamStatus,
};
use crate::kv::rfc3339;
use crate::node::PromoteOptions;

impl HttpNode for Node {
    fn db(&self) -> Result<Db, Failure> {
        Ok(Self::db(self)?)
    }

    fn status(&self) -> NodeStatus {
        let (state, detail) = self.state();
        let db = Self::db(self).ok();
        let node = NodeStatus {
            name: self.options().name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: self.http_role(db.as_ref()),
            state: match state {
                State::Starting => NodeState::Starting,
                State::Running => NodeState::Running,
                State::ReadOnly => NodeState::ReadOnly,
                State::Fenced => NodeState::Fenced,
                State::Draining => NodeState::Draining,
                State::Failed => NodeState::Failed,
            },
            state_detail: Some(detail).filter(|detail| !detail.is_empty()),
            uptime_seconds: self.uptime().as_secs_f64(),
            ..NodeStatus::default()
        };
        let Some(db) = db else { return node };
        let stats = db.stats();
        let following = self.following();
        let upstream = following.as_ref().map(|following| self.upstream_status(&db, following));
        NodeStatus {
            node: db.node().to_string(),
            cluster: db.cluster().to_string(),
            timeline: db.history().current().id.0,
            io_path: stats.io_path.to_string(),
            log: LogStatus::of(&stats, db.log().oldest()),
            recovery: RecoveryStatus { duration_seconds: self.opening().as_secs_f64(), ..recovery_status(&db) },
            upstream,
            archive: self.archive_status(&db),
            throttle: self.throttle_status(),
            last_backup: self.last_backup().map(|manifest| backup_summary(&manifest)),
            damages: db.damages().iter().map(|damage| super::repair::described(&db, damage)).collect(),
            writes_refused: stats.writes_refused.map(|error| chain(&error)),
            background_failures: stats
                .background_failures
                .iter()
                .map(|(work, error)| format!("{work} fails: {}", chain(error)))
                .collect(),
            ..node
        }
    }

    fn replicas(&self) -> Vec<ReplicaStatus> {
        let synchronous = self.options().synchronous.as_ref();
        let counts = |report: &StandbyReport| synchronous.is_some_and(|policy| policy.names().contains(&report.name));
        self.standbys().iter().map(|report| replica_status(report, counts(report))).collect()
    }

    fn promote(&self, request: &PromoteRequest) -> Result<Promoted, Failure> {
        let options = PromoteOptions { unfenced: request.unfenced, lag_bytes_max: request.max_lag_bytes };
        let promotion = Self::promote(self, options)?;
        let entry = promotion.history.current();
        Ok(Promoted {
            timeline: entry.id.0,
            fork: entry.fork.lsn.into(),
            begin: entry.begin.into(),
            fenced: promotion.fenced,
        })
    }

    fn create_backup(
        &self,
        request: &BackupRequest,
        progress: &mut dyn FnMut(BackupEvent),
    ) -> Result<BackupSummary, Failure> {
        let (told, heard) = std::sync::mpsc::sync_channel::<BackupProgress>(64);
        let options = BackupOptions {
            label: request.label.clone().unwrap_or_default(),
            digest: request.digest,
            // A listener that is slow misses some.
            progress: Some(std::sync::Arc::new(move |at: &BackupProgress| {
                let _ = told.try_send(*at);
            })),
            ..BackupOptions::default()
        };
        let report = std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                let report = Self::create_backup(self, &options);
                drop(options);
                report
            });
            while let Ok(at) = heard.recv() {
                progress(BackupEvent::Progress {
                    stage: "uploading".to_owned(),
                    bytes_done: at.bytes_done,
                    bytes_total: at.bytes,
                });
            }
            working.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        })?;
        Ok(BackupSummary { uploaded_bytes: report.bytes_sent, ..backup_summary(&report.manifest) })
    }

    fn backups(&self) -> Result<Vec<BackupSummary>, Failure> {
        let archive = self.archive("list base backups")?;
        let backups = self.runtime().block_on(archive.backups()).map_err(super::Error::from)?;
        Ok(backups
            .into_iter()
            .filter_map(|(_, manifest)| manifest.ok())
            .map(|manifest| backup_summary(&manifest))
            .collect())
    }
}

impl Node {
    /// Without a database it is what it was told to be.
    fn http_role(&self, db: Option<&Db>) -> NodeRole {
        let alone = self.options().replication_listen.is_none() && self.options().archive.is_none();
        match (&self.options().role, db.map(Db::role)) {
            (_, Some(DataRole::ReadOnlyRestored { .. })) => NodeRole::Restored,
            (_, Some(DataRole::Standby)) | (Role::Standby { .. }, None) => NodeRole::Standby,
            (Role::Primary, _) if alone => NodeRole::Standalone,
            (_, Some(DataRole::Normal)) | (Role::Primary, None) => NodeRole::Primary,
        }
    }

    fn upstream_status(&self, db: &Db, following: &Following) -> UpstreamStatus {
        let status = &following.status;
        let (state, feed) = match &status.state {
            ClientState::Connecting => ("connecting", "stream"),
            ClientState::Streaming => ("streaming", "stream"),
            ClientState::FromArchive => ("catching_up", "archive"),
            ClientState::BaseBackup { .. } => ("catching_up", "base_backup"),
            ClientState::Waiting { .. } | ClientState::Diverged { .. } | ClientState::Refused { .. } => {
                ("waiting", "none")
            }
            ClientState::Stopped => ("stopped", "none"),
        };
        // What the upstream has it may not have said, but it has at least what it has let go.
        let upstream_has = status.lost_place.map_or(status.upstream_flush, |begin| begin.max(status.upstream_flush));
        let behind = db.history().bytes_between(status.positions.replay, upstream_has);
        let seconds = match (behind, status.heard) {
            (0, Some(heard)) if status.state == ClientState::Streaming => Duration::ZERO.min(heard.elapsed()),
            (_, Some(heard)) => heard.elapsed(),
            (_, None) => self.uptime(),
        };
        UpstreamStatus {
            address: following.upstream.clone(),
            state: state.to_owned(),
            feed: feed.to_owned(),
            lag: Lag { bytes: behind, seconds: seconds.as_secs_f64() },
            last_contact_seconds: status.heard.map(|heard| heard.elapsed().as_secs_f64()),
            reconnects_total: following.reconnects,
            last_error: status.last_error.clone(),
            lost_place: status.lost_place.map(Into::into),
            archive_bytes_total: status.archive_bytes,
            base_backups_total: status.base_backups,
        }
    }

    fn archive_status(&self, db: &Db) -> Option<ArchiveStatus> {
        let options = self.options().archive.as_ref()?;
        let url = options.repository.to_string();
        if let Some((error, since)) = self.archive_error() {
            // Nothing is known to be archived, so everything since the start is at stake.
            let bytes = db.log().flushed().value().distance_from(db.log().oldest());
            let lag = Lag { bytes, seconds: since.as_secs_f64() };
            let state = "failing".to_owned();
            return Some(ArchiveStatus { url, state, lag, last_error: Some(error), ..ArchiveStatus::default() });
        }
        let Some(status) = self.archiver() else {
            return Some(ArchiveStatus { url, state: "reading".to_owned(), ..ArchiveStatus::default() });
        };
        let ArchiverStatus { state, archived, lag_bytes, lag, chunks, bytes_stored, retries, .. } = status;
        let (name, last_error) = match state {
            ArchiverState::Starting => ("starting", None),
            ArchiverState::Archiving if lag_bytes == 0 => ("idle", None),
            ArchiverState::Archiving => ("uploading", None),
            ArchiverState::Failing { error, .. } => ("failing", Some(error)),
            ArchiverState::Fenced { error } => ("fenced", Some(error)),
            ArchiverState::Ended { error } => ("failed", Some(error)),
            ArchiverState::Stopped => ("stopped", None),
        };
        Some(ArchiveStatus {
            url,
            state: name.to_owned(),
            archived: archived.lsn.into(),
            lag: Lag { bytes: lag_bytes, seconds: lag.as_secs_f64() },
            conditional_writes: self.can_fence(),
            uploaded_bytes_total: bytes_stored,
            requests_total: chunks + retries,
            failures_total: retries,
            last_error,
        })
    }

    fn throttle_status(&self) -> ThrottleStatus {
        let Some(report) = self.throttle() else { return ThrottleStatus::default() };
        let counters = report.counters;
        let mut status = ThrottleStatus {
            admitted_total: counters.admitted,
            refused_total: counters.refused,
            pauses_total: counters.pauses,
            paused_seconds_total: counters.paused.as_secs_f64(),
            pause_seconds_max: counters.pause_max.as_secs_f64(),
            ..ThrottleStatus::default()
        };
        let limit = match report.mode {
            Mode::Free => return status,
            Mode::Limited(limit) => {
                status.mode = ThrottleMode::Limited;
                limit
            }
            Mode::Paused(limit) => {
                status.mode = ThrottleMode::Paused;
                limit
            }
        };
        status.allowed_bytes_per_second = Some(limit.allowed);
        status.reason = Some(limit.reason.to_string());
        status.subject = Some(limit.subject.to_string());
        status.pressure = limit.pressure;
        status
    }
}

fn recovery_status(db: &Db) -> RecoveryStatus {
    let recovery = db.recovery();
    let verdict = match recovery.verdict {
        Verdict::Open => "open",
        Verdict::Cut => "cut",
        Verdict::Halt(_) => "halt",
    };
    let cut = recovery.cut_to.distance_from(recovery.end.lsn);
    let detail = (cut > 0).then(|| match &recovery.kept {
        Some(kept) => format!("{cut} bytes beyond {} were cut and are kept in {}", recovery.end.lsn, kept.display()),
        None => format!("{cut} bytes beyond {} were cut", recovery.end.lsn),
    });
    RecoveryStatus { verdict: verdict.to_owned(), detail, records: recovery.records, ..RecoveryStatus::default() }
}

fn replica_status(report: &StandbyReport, synchronous: bool) -> ReplicaStatus {
    let stage = |lsn: seawall_wal::Lsn, lag: seawall_replication::lag::Lag| StageStatus {
        lsn: lsn.into(),
        lag: Lag { bytes: lag.bytes, seconds: lag.time.as_secs_f64() },
    };
    let state = match report.state {
        StandbyState::CatchUp => "catching_up",
        StandbyState::Streaming => "streaming",
        StandbyState::Stalled => "stalled",
        StandbyState::Missing => "missing",
        StandbyState::LostPlace => "lost_place",
    };
    let connected = report.is_connected();
    ReplicaStatus {
        name: report.name.to_string(),
        state: state.to_owned(),
        required: report.required,
        synchronous,
        address: connected.then(|| report.address.clone()),
        write: stage(report.positions.write, report.lag.write),
        flush: stage(report.positions.flush, report.lag.flush),
        replay: stage(report.positions.replay, report.lag.replay),
        feed: connected.then(|| "stream".to_owned()),
        io_path: connected.then(|| match report.io_path {
            IoPath::Unknown => "unknown".to_owned(),
            IoPath::IoUring => "io_uring".to_owned(),
            IoPath::Posix => "posix".to_owned(),
        }),
        disk_free_bytes: report.disk_free,
        last_contact_seconds: Some(report.since.as_secs_f64()).filter(|_| !connected),
    }
}

pub(crate) fn backup_summary(manifest: &BackupManifest) -> BackupSummary {
    let time = |time: Timestamp| rfc3339(time);
    BackupSummary {
        id: manifest.id.to_string(),
        label: Some(manifest.label.clone()).filter(|label| !label.is_empty()),
        start_time: time(manifest.started),
        stop_time: time(manifest.finished),
        timeline: manifest.history.current().id.0,
        redo: manifest.redo.lsn.into(),
        stop: manifest.stop.into(),
        size_bytes: manifest.tables.iter().map(|table| table.size).sum::<u64>() + manifest.manifest.size,
        uploaded_bytes: 0,
        digest: manifest.digest.clone(),
    }
}

impl From<super::Error> for Failure {
    fn from(error: super::Error) -> Self {
        use super::Error as E;
        use seawall_replication::promotion::PromotionRefused as R;
        let kind = match &error {
            E::Engine(_) => {
                let E::Engine(error) = error else { unreachable!("it was just matched") };
                return error.into();
            }
            E::NotPromoted(R::Superseded { .. }) | E::Superseded { .. } => Kind::Fenced,
            E::NotPromoted(R::Unreachable { .. }) | E::ArchiveSilent { .. } => Kind::Unreachable,
            E::NoDatabase { .. } => Kind::Unavailable,
            E::WrongData { .. } | E::WrongState { .. } => Kind::ReadOnly,
            E::NoArchive { .. } | E::ClusterUnknown { .. } | E::RepositorySettings(_) => Kind::Config,
            E::Archive(error) => archive_kind(error),
            E::Repository(error) => repository_kind(error),
            E::Log(seawall_wal::Error::Corrupt { .. } | seawall_wal::Error::CorruptRecord { .. })
            | E::Replication(seawall_replication::Error::SlotFile { .. }) => Kind::VerificationFailed,
            _ => Kind::Failed,
        };
        let failure = Self::new(kind, crate::failure::chain(&error));
        match error {
            E::Replication(seawall_replication::Error::Network { operation: "listen on", .. }) => {
                failure.hint("replication.listen, or --listen, says where standbys connect")
            }
            _ => failure,
        }
    }
}

/// The kind of an archive's error.
pub(crate) fn archive_kind(error: &seawall_backup::Error) -> Kind {
    use seawall_backup::Error as E;
    match error {
        E::Repository(error) => repository_kind(error),
        E::Object { .. } | E::Gap { .. } => Kind::VerificationFailed,
        E::Fenced { .. } | E::TimelineTaken { .. } => Kind::Fenced,
        E::NoArchive { .. } | E::NoBackup { .. } | E::UnknownBackup { .. } | E::OutsideArchive { .. } => Kind::NotFound,
        E::Target { .. } => Kind::Usage,
        E::ForeignRepository { .. } | E::SegmentSize { .. } => Kind::Config,
        _ => Kind::Failed,
    }
}

fn repository_kind(error: &seawall_backup::repository::RepositoryError) -> Kind {
    if error.is_not_found() {
        Kind::NotFound
    } else if error.is_transient() {
        Kind::Unreachable
    } else {
        Kind::Failed
    }
}
