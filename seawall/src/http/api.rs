//! The documents of the HTTP API. Sizes end in `_bytes`, durations in `_seconds`, totals in `_total`; positions are
//! LSNs as text, times RFC 3339 in UTC. Fields may be added, never changed or removed: readers ignore what they do not
//! know.

use std::fmt;

use seawall_wal::Lsn;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An LSN as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LsnText(pub Lsn);

impl From<Lsn> for LsnText {
    fn from(lsn: Lsn) -> Self {
        Self(lsn)
    }
}

impl fmt::Display for LsnText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for LsnText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LsnText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Takes writes, feeds standbys.
    Primary,
    /// Follows.
    Standby,
    /// Alone.
    #[default]
    Standalone,
    /// A restored copy that has not been promoted.
    Restored,
}

impl NodeRole {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Standalone => "standalone",
            Self::Restored => "restored",
        }
    }
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Not there yet, or its database is not: `state_detail` says what is waited for.
    Starting,
    /// What its role says.
    #[default]
    Running,
    /// Reads only: restored, or a primary that does not know yet whether it still is one. `state_detail` says which.
    ReadOnly,
    /// Another node took over; nothing is written any more.
    Fenced,
    /// On its way down.
    Draining,
    /// An error ended it; `state_detail` says which.
    Failed,
}

impl NodeState {
    /// Every state there is.
    pub const ALL: [Self; 6] =
        [Self::Starting, Self::Running, Self::ReadOnly, Self::Fenced, Self::Draining, Self::Failed];

    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::ReadOnly => "read_only",
            Self::Fenced => "fenced",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}

/// A distance behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// Bytes of log.
    #[serde(rename = "lag_bytes")]
    pub bytes: u64,
    /// In the primary's time.
    #[serde(rename = "lag_seconds")]
    pub seconds: f64,
}

/// `GET /v1/replication/status`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its id; empty, as what else is its database's, while it has no database.
    pub node: String,
    /// Whose data it holds.
    pub cluster: String,
    /// Of the program.
    pub version: String,
    /// What it is.
    pub role: NodeRole,
    /// What it is doing.
    pub state: NodeState,
    /// More about that.
    pub state_detail: Option<String>,
    /// The timeline its log ends on, from 1; 0 while it has no database.
    pub timeline: u32,
    /// Since it started.
    pub uptime_seconds: f64,
    /// Which way bulk reads and writes go: `io_uring` or `posix`.
    pub io_path: String,
    /// Where its log is.
    pub log: LogStatus,
    /// How the log was found at start.
    pub recovery: RecoveryStatus,
    /// Whom it follows.
    pub upstream: Option<UpstreamStatus>,
    /// Its archive.
    pub archive: Option<ArchiveStatus>,
    /// What holds ingestion back.
    pub throttle: ThrottleStatus,
    /// The newest base backup it knows of.
    pub last_backup: Option<BackupSummary>,
    /// What is damaged here and not repaired yet, with the names of the files. It is not served.
    pub damages: Vec<String>,
    /// Why no write is let in now, if there is no use in waiting: the disk is full, what makes room fails, or no other copy
    /// of what is damaged helps.
    pub writes_refused: Option<String>,
    /// What fails of writing memtables out and merging tables, each with the reason. It is tried again every few seconds.
    pub background_failures: Vec<String>,
}

/// Positions of a node's log: `oldest <= replay`, `visible <= flush <= write <= end`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogStatus {
    /// The oldest position that can be read here.
    pub oldest: LsnText,
    /// Where the last record ends.
    pub end: LsnText,
    /// With the operating system.
    pub write: LsnText,
    /// Survives power loss.
    pub flush: LsnText,
    /// Applied and flushed.
    pub replay: LsnText,
    /// What default reads see.
    pub visible: LsnText,
    /// Commit time of the last record applied.
    pub last_commit_time: Option<String>,
    /// How long the write and sync of the log that is under way has taken so far; 0 if there is none.
    pub flush_underway_seconds: f64,
    /// How a group of commits is written and made durable: the usual way, or what was measured to be faster here.
    pub durable_write: String,
}

/// What recovery decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecoveryStatus {
    /// `open`, `cut`.
    pub verdict: String,
    /// More about that, if there is more.
    pub detail: Option<String>,
    /// Records replayed.
    pub records: u64,
    /// It took.
    pub duration_seconds: f64,
}

/// Of a standby.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamStatus {
    /// Whom it follows.
    pub address: String,
    /// `connecting`, `streaming`, `catching_up`, `waiting`.
    pub state: String,
    /// Where its next byte comes from: `stream`, `archive`, `base_backup`.
    pub feed: String,
    /// Of what it shows its readers.
    #[serde(flatten)]
    pub lag: Lag,
    /// Since the upstream was heard of; none if never.
    pub last_contact_seconds: Option<f64>,
    /// Connections made anew.
    pub reconnects_total: u64,
    /// Why the last connection ended.
    pub last_error: Option<String>,
    /// Where the upstream's log begins, if what this node needs next lies before: it has lost its place, and is behind by at
    /// least what is said.
    pub lost_place: Option<LsnText>,
    /// Log fetched from the archive.
    pub archive_bytes_total: u64,
    /// Base backups this node was rebuilt from.
    pub base_backups_total: u64,
}

/// Of a node with an archive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ArchiveStatus {
    /// Without credentials.
    pub url: String,
    /// `idle`, `uploading`, `failing`, `fenced`, `reading`.
    pub state: String,
    /// Confirmed by the store.
    pub archived: LsnText,
    /// Of the archive.
    #[serde(flatten)]
    pub lag: Lag,
    /// Whether the store honours conditional writes, on which fencing rests; none before that is known.
    pub conditional_writes: Option<bool>,
    /// Of log.
    pub uploaded_bytes_total: u64,
    /// To the store.
    pub requests_total: u64,
    /// Requests that failed.
    pub failures_total: u64,
    /// The last failure, while it lasts.
    pub last_error: Option<String>,
}

/// Whether ingestion is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThrottleMode {
    /// It is not.
    #[default]
    Free,
    /// It is slowed.
    Limited,
    /// It waits.
    Paused,
}

impl ThrottleMode {
    /// Every mode there is.
    pub const ALL: [Self; 3] = [Self::Free, Self::Limited, Self::Paused];

    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Limited => "limited",
            Self::Paused => "paused",
        }
    }
}

/// What holds ingestion back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottleStatus {
    /// How.
    pub mode: ThrottleMode,
    /// Which limit binds.
    pub reason: Option<String>,
    /// Who is behind.
    pub subject: Option<String>,
    /// How far between target (0) and ceiling (1).
    pub pressure: f64,
    /// Bytes of log allowed; none without a limit.
    pub allowed_bytes_per_second: Option<f64>,
    /// Commits let in.
    pub admitted_total: u64,
    /// Commits refused.
    pub refused_total: u64,
    /// Pauses begun.
    pub pauses_total: u64,
    /// In pauses, in all.
    pub paused_seconds_total: f64,
    /// The longest pause.
    pub pause_seconds_max: f64,
}

/// One stage of a standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageStatus {
    /// Its position.
    pub lsn: LsnText,
    /// Behind the primary's flushed log.
    #[serde(flatten)]
    pub lag: Lag,
}

/// A standby as its upstream sees it. `GET /v1/replication/replicas` lists them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaStatus {
    /// Its name.
    pub name: String,
    /// `streaming`, `catching_up`, `stalled`, `missing`; `lost_place`: missing, and what it needs next is no longer here.
    pub state: String,
    /// Whether its lag holds ingestion back.
    pub required: bool,
    /// Whether its confirmations count.
    pub synchronous: bool,
    /// Its address, while connected.
    pub address: Option<String>,
    /// Handed to its operating system.
    pub write: StageStatus,
    /// On its disk.
    pub flush: StageStatus,
    /// Shown to its readers.
    pub replay: StageStatus,
    /// Where its next byte comes from.
    pub feed: Option<String>,
    /// Which way it writes.
    pub io_path: Option<String>,
    /// On its log's disk.
    pub disk_free_bytes: Option<u64>,
    /// While it is missing: since it was heard of; none if never.
    pub last_contact_seconds: Option<f64>,
}

/// `GET /v1/replication/replicas`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replicas {
    /// Connected or not.
    pub replicas: Vec<ReplicaStatus>,
}

/// `GET /v1/stats`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStats {
    /// Records appended or received.
    pub log_records_total: u64,
    /// Bytes of them.
    pub log_bytes_total: u64,
    /// Syncs of the log.
    pub log_flushes_total: u64,
    /// Time in writes and syncs of the log.
    pub log_flush_seconds_total: f64,
    /// The longest of them.
    pub log_flush_seconds_max: f64,
    /// In memory.
    pub memtable_bytes: u64,
    /// Sets of memtables that wait to be written.
    pub memtables_waiting: u64,
    /// Tables by level.
    pub levels: Vec<LevelStats>,
    /// Files of large values.
    pub blobs: BlobStats,
    /// In the block cache.
    pub cache_bytes: u64,
    /// Blocks found in it.
    pub cache_hits_total: u64,
    /// Blocks read from tables.
    pub cache_misses_total: u64,
    /// Sets of memtables written into tables.
    pub flushes_total: u64,
    /// Merges of tables.
    pub compactions_total: u64,
    /// Tables that went down a level as they were.
    pub compaction_moves_total: u64,
    /// What merges have to catch up with.
    pub compaction_debt_bytes: u64,
    /// Bytes written into tables of all levels for each byte written out from memory.
    pub write_amplification: f64,
    /// Commits that were stopped until there was memory.
    pub stalls_total: u64,
    /// How long.
    pub stall_seconds_total: f64,
    /// The longest wait of one that was stopped or slowed.
    pub stall_seconds_max: f64,
    /// Commits that were slowed because too much waits to be written and merged.
    pub slowdowns_total: u64,
    /// How long.
    pub slowdown_seconds_total: f64,
    /// Held now.
    pub snapshots: u64,
    /// Whether writes stand still for want of room.
    pub disk_full: bool,
    /// HTTP requests answered.
    pub http_requests_total: u64,
    /// HTTP connections now.
    pub http_connections: u64,
}

/// Files of large values, which tables refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStats {
    /// How many.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Bytes of the values in them.
    pub value_bytes: u64,
    /// Bytes of those values that are needed; the rest goes with merges.
    pub live_bytes: u64,
}

/// Tables of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelStats {
    /// How many.
    pub tables: u64,
    /// Their size.
    pub bytes: u64,
    /// Versions of keys in them.
    pub entries: u64,
    /// Bytes merges read of them.
    pub read_bytes_total: u64,
    /// Bytes written to them, from memory or by merges.
    pub written_bytes_total: u64,
}

impl NodeStats {
    /// From the database's figures.
    pub fn of(stats: &seawall_engine::Stats) -> Self {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let level = |level: &seawall_engine::LevelStats| LevelStats {
            tables: level.tables,
            bytes: level.bytes,
            entries: level.entries,
            read_bytes_total: level.read_bytes,
            written_bytes_total: level.written_bytes,
        };
        Self {
            log_records_total: stats.log.records,
            log_bytes_total: stats.log.bytes,
            log_flushes_total: stats.log.flushes,
            log_flush_seconds_total: seconds(stats.log.flush_micros),
            log_flush_seconds_max: seconds(stats.log.flush_micros_max),
            memtable_bytes: stats.memtable_bytes,
            memtables_waiting: stats.memtables_frozen as u64,
            levels: stats.levels.iter().map(level).collect(),
            blobs: BlobStats {
                files: stats.blobs.files,
                bytes: stats.blobs.bytes,
                value_bytes: stats.blobs.value_bytes,
                live_bytes: stats.blobs.live_bytes,
            },
            cache_bytes: stats.cache.bytes,
            cache_hits_total: stats.cache.hits,
            cache_misses_total: stats.cache.misses,
            flushes_total: stats.flushes,
            compactions_total: stats.merges,
            compaction_moves_total: stats.moves,
            compaction_debt_bytes: stats.debt_bytes,
            write_amplification: stats.write_amplification(),
            stalls_total: stats.stalls,
            stall_seconds_total: stats.stalled.as_secs_f64(),
            stall_seconds_max: stats.stall_longest.as_secs_f64(),
            slowdowns_total: stats.slowed,
            slowdown_seconds_total: stats.slowed_for.as_secs_f64(),
            snapshots: stats.snapshots as u64,
            disk_full: stats.disk_full,
            http_requests_total: 0,
            http_connections: 0,
        }
    }
}

impl LogStatus {
    /// From the database's figures.
    pub fn of(stats: &seawall_engine::Stats, oldest: Lsn) -> Self {
        Self {
            oldest: oldest.into(),
            end: stats.end.into(),
            write: stats.written.into(),
            flush: stats.flushed.into(),
            replay: stats.applied.min(stats.flushed).into(),
            visible: stats.visible.into(),
            last_commit_time: (stats.last_commit.0 > 0).then(|| crate::kv::rfc3339(stats.last_commit)),
            flush_underway_seconds: stats.log.flush_micros_now as f64 / 1e6,
            durable_write: stats.log.durable_write.to_string(),
        }
    }
}

/// `POST /v1/promote`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromoteRequest {
    /// Without fencing the old primary through the archive.
    pub unfenced: bool,
    /// Refuse if more of the old primary's log than this is missing here.
    pub max_lag_bytes: Option<u64>,
}

/// What promotion did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Promoted {
    /// The new timeline.
    pub timeline: u32,
    /// Where it leaves the old one.
    pub fork: LsnText,
    /// Where its first record can begin.
    pub begin: LsnText,
    /// Whether the old primary can be sure not to acknowledge `archived` commits any more.
    pub fenced: bool,
}

/// `POST /v1/backups`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupRequest {
    /// For people.
    pub label: Option<String>,
    /// Whether to compute and record the state's digest.
    pub digest: bool,
}

/// A base backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupSummary {
    /// Sorts by time.
    pub id: String,
    /// For people.
    pub label: Option<String>,
    /// When it was begun.
    pub start_time: String,
    /// When its manifest was written.
    pub stop_time: String,
    /// Of its log.
    pub timeline: u32,
    /// Replay starts here.
    pub redo: LsnText,
    /// Consistent from here on.
    pub stop: LsnText,
    /// Of its tables, shared ones included.
    pub size_bytes: u64,
    /// That had to be uploaded for it.
    pub uploaded_bytes: u64,
    /// Of the state at `stop`, if it was asked for.
    pub digest: Option<String>,
}

/// `GET /v1/backups`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backups {
    /// Oldest first.
    pub backups: Vec<BackupSummary>,
}

/// A line of the answer to `POST /v1/backups`: progress, as it comes, then one summary or one error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BackupEvent {
    /// It goes on. Sent at least every five seconds.
    Progress {
        /// What is being done.
        stage: String,
        /// So far.
        bytes_done: u64,
        /// In all; 0 if not known yet.
        bytes_total: u64,
    },
    /// It is done.
    Summary(BackupSummary),
    /// It failed.
    Error(Problem),
}

/// An error of the API, after RFC 9457.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What happened, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, in a sentence.
    pub detail: String,
    /// What to act on.
    pub kind: crate::failure::Kind,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Of a write whose fate is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<f64>,
    /// Why a node is not ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl From<&crate::failure::Failure> for Problem {
    fn from(failure: &crate::failure::Failure) -> Self {
        Self {
            title: failure.kind.name().replace('_', " "),
            status: failure.kind.http_status(),
            detail: failure.message.clone(),
            kind: failure.kind,
            hint: failure.hint.clone(),
            lsn: failure.lsn.clone(),
            retry_after_seconds: failure.retry_after_seconds,
            reasons: Vec::new(),
        }
    }
}

impl From<Problem> for crate::failure::Failure {
    fn from(problem: Problem) -> Self {
        Self {
            kind: problem.kind,
            message: problem.detail,
            hint: problem.hint,
            lsn: problem.lsn,
            retry_after_seconds: problem.retry_after_seconds,
        }
    }
}

/// `POST /v1/kv/{keyspace}`: operations that take effect together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// In order; the last one on a key wins. An entry without a value deletes.
    pub operations: Vec<crate::entry::Entry>,
}

/// `GET /v1/digest`: a hash over everything at an LSN, the same on every node and in every restored copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestDocument {
    /// As of when.
    pub lsn: LsnText,
    /// Over all keyspaces, in hex.
    pub digest: String,
    /// Each keyspace.
    pub keyspaces: Vec<KeyspaceDigest>,
}

/// A hash over a keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceDigest {
    /// Its name.
    pub name: String,
    /// Keys in it.
    pub entries: u64,
    /// Of keys and values.
    pub bytes: u64,
    /// Over its entries, in hex.
    pub digest: String,
}

impl From<&seawall_engine::StateDigest> for DigestDocument {
    fn from(state: &seawall_engine::StateDigest) -> Self {
        let hex = |root: &[u8; 32]| root.iter().map(|byte| format!("{byte:02x}")).collect();
        let keyspace = |keyspace: &seawall_engine::KeyspaceDigest| KeyspaceDigest {
            name: keyspace.name.clone(),
            entries: keyspace.entries,
            bytes: keyspace.bytes,
            digest: hex(&keyspace.root),
        };
        Self {
            lsn: state.lsn.into(),
            digest: hex(&state.root),
            keyspaces: state.keyspaces.iter().map(keyspace).collect(),
        }
    }
}

/// `GET /v1/kv`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyspaces {
    /// In the order in which they were made.
    pub keyspaces: Vec<String>,
}
