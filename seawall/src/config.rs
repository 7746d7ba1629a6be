//! A node's settings: one documented TOML text, `config/defaults.toml`, is at once the defaults, the reference and the
//! list of what exists. This file says what each value is; `layers` lays file, environment and command line over the
//! defaults, `validate` holds every rule between values. Nothing here opens, binds or connects.

mod layers;
#[cfg(test)]
mod tests;
mod validate;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use seawall_backup::repository::{ConfigError as RepositoryUrlError, RepositoryConfig};
use seawall_engine::CommitLevel;
use seawall_replication::quorum::QuorumPolicy;
use seawall_replication::throttle::{Bound, Limits};
use seawall_wal::SegmentSize;
use serde::{Deserialize, Serialize};

use layers::Layers;
pub use layers::Origin;
pub use values::{Size, Span};

/// The documented defaults, which `seawall config defaults` prints.
pub const DEFAULTS: &str = include_str!("config/defaults.toml");

/// Where settings are read from if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/seawall/seawall.toml";

/// Why settings cannot be used. Each names where the wrong value stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {message}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        message: String,
    },
    /// Not TOML, or not an assignment.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser says.
        message: String,
    },
    /// There is no such key.
    #[error("{origin}: unknown key `{key}`{}", match nearest { Some(nearest) => format!("; did you mean `{nearest}`?"), None => String::from("; `seawall config defaults` prints every key") })]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// As written.
        key: String,
        /// The known key most like it.
        nearest: Option<String>,
    },
    /// A value is not of the kind its key takes.
    #[error("{origin}: `{key}` = {value}: {message}")]
    Value {
        /// Where.
        origin: Origin,
        /// `section.key`.
        key: String,
        /// As written.
        value: String,
        /// What was expected.
        message: String,
    },
    /// Values that each would do do not go together.
    #[error("{origin}: `{key}` {message}")]
    Rule {
        /// Where the value that has to change stands.
        origin: Origin,
        /// `section.key`.
        key: String,
        /// What must hold, and what to do.
        message: String,
    },
}

/// All settings of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who it is.
    pub node: NodeSection,
    /// Its HTTP API.
    pub http: HttpSection,
    /// Standbys and upstream.
    pub replication: ReplicationSection,
    /// Its log.
    pub log: LogSection,
    /// Its tables.
    pub engine: EngineSection,
    /// Single keyspaces, by name.
    #[serde(default)]
    pub keyspace: BTreeMap<String, KeyspaceSection>,
    /// Its archive.
    pub archive: ArchiveSection,
    /// When ingestion is held back.
    pub backpressure: BackpressureSection,
    /// How it stops.
    pub shutdown: ShutdownSection,
    /// What it says.
    pub logging: LoggingSection,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Empty means the host's name: see [`Config::node_name`].
    pub name: String,
    /// Log, tables, control file.
    pub data_dir: PathBuf,
    /// What it is to be.
    pub role: Role,
    /// Whose data; empty if the data directory or the archive says so.
    pub cluster: String,
}

/// What a node is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes, feeds standbys.
    Primary,
    /// Follows.
    Standby,
    /// Alone.
    Standalone,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSection {
    /// None serves nothing.
    #[serde(with = "values::optional")]
    pub listen: Option<SocketAddr>,
    /// Allows an address that is not loopback.
    pub insecure_plaintext: bool,
    /// Further names allowed in the Host header.
    pub hosts: Vec<String>,
    /// At a time.
    pub connections_max: usize,
    /// For a request's head.
    pub header_timeout: Span,
    /// For a whole request.
    pub request_timeout: Span,
    /// Of a request.
    pub body_max: Size,
    /// Up to which the node is ready.
    pub ready_lag_max: Span,
}

/// `[replication]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationSection {
    /// None takes no standbys.
    #[serde(with = "values::optional")]
    pub listen: Option<SocketAddr>,
    /// `host:port`, several with commas between, or empty.
    pub upstream: String,
    /// The same, of those who may have what is damaged here.
    pub repair_from: String,
    /// Allows addresses that are not loopback.
    pub insecure_plaintext: bool,
    /// Of silence.
    pub timeout: Span,
    /// At a time.
    pub standbys_max: usize,
    /// Whose confirmations count.
    #[serde(with = "values::optional")]
    pub synchronous: Option<QuorumPolicy>,
    /// Whose lag holds ingestion back.
    pub required: Vec<String>,
    /// Of writes over HTTP that name none.
    #[serde(with = "values::text")]
    pub commit_level: Level,
    /// Of a standby.
    pub apply_delay: Span,
}

impl ReplicationSection {
    /// The upstreams, in the order in which they are tried.
    pub fn upstreams(&self) -> impl Iterator<Item = &str> {
        addresses(&self.upstream)
    }

    /// Those asked for what is damaged, in this order.
    pub fn repair_from(&self) -> impl Iterator<Item = &str> {
        addresses(&self.repair_from)
    }
}

fn addresses(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|address| !address.is_empty())
}

/// A commit level as settings and requests write it: `local`, `remote_flush(1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level(pub CommitLevel);

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        type Remote = (&'static str, fn(u8) -> CommitLevel);
        let remote: [Remote; 3] = [
            ("remote_write", CommitLevel::RemoteWrite),
            ("remote_flush", CommitLevel::RemoteFlush),
            ("remote_replay", CommitLevel::RemoteReplay),
        ];
        let level = match text {
            "buffered" => Some(CommitLevel::Buffered),
            "local" => Some(CommitLevel::Local),
            "archived" => Some(CommitLevel::Archived),
            _ => remote.iter().find_map(|(name, level)| {
                let count = text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
                count.parse().ok().filter(|count| *count > 0).map(level)
            }),
        };
        level.map(Self).ok_or_else(|| {
            String::from(
                "not a commit level: buffered, local, remote_write(k), remote_flush(k), remote_replay(k) or archived",
            )
        })
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// Of a cluster that is to be made.
    pub segment_size: Size,
    /// Waiting for a flush.
    pub buffer_max: Size,
}

impl LogSection {
    /// The segment size, which validation has checked.
    pub fn segment_size(&self) -> SegmentSize {
        u32::try_from(self.segment_size.0).ok().and_then(SegmentSize::new).unwrap_or(SegmentSize::DEFAULT)
    }
}

/// `[engine]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    /// Gathered before they are written into tables.
    pub memtable_size: Size,
    /// Blocks of tables.
    pub cache_max: Size,
}

/// `[keyspace.<name>]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyspaceSection {
    /// What it is mostly used for.
    pub tuning: Tuning,
}

/// What a keyspace is mostly used for, as settings write it: see [`seawall_engine::Tuning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tuning {
    /// Nothing in particular.
    Balanced,
    /// Written much and read little.
    WriteHeavy,
    /// Read much and written little.
    ReadHeavy,
    /// Its values are large.
    LargeValues,
}

impl From<Tuning> for seawall_engine::Tuning {
    fn from(tuning: Tuning) -> Self {
        match tuning {
            Tuning::Balanced => Self::Balanced,
            Tuning::WriteHeavy => Self::WriteHeavy,
            Tuning::ReadHeavy => Self::ReadHeavy,
            Tuning::LargeValues => Self::LargeValues,
        }
    }
}

/// `[archive]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSection {
    /// Empty is none.
    pub url: String,
    /// Empty is AWS.
    pub endpoint: String,
    /// Empty asks the environment.
    pub region: String,
    /// Bucket in the path.
    pub force_path_style: bool,
    /// Empty is the AWS chain.
    pub access_key_file: String,
    /// Empty is the AWS chain.
    pub secret_key_file: String,
    /// Between uploads of new log.
    pub interval: Span,
    /// Whether its lag counts.
    pub required: bool,
    /// While it fails.
    pub on_failure: OnFailure,
}

/// What happens to ingestion while a required archive fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Writes wait.
    Block,
}

/// Why the archive's settings lead to no repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveSettingsError {
    /// The url cannot be used.
    #[error(transparent)]
    Url(#[from] RepositoryUrlError),
    /// A credential file cannot be read.
    #[error("cannot read {key} {path}: {source}")]
    Credentials {
        /// `archive.access_key_file` or `archive.secret_key_file`.
        key: &'static str,
        /// As set.
        path: String,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl ArchiveSection {
    /// The repository these settings describe, with credentials read from their files; none if there is no archive.
    pub fn repository(&self) -> Result<Option<RepositoryConfig>, ArchiveSettingsError> {
        let Some(mut repository) = self.location()? else { return Ok(None) };
        let read = |key, path: &str| {
            let text = std::fs::read_to_string(path);
            text.map(|text| text.trim().to_owned()).map_err(|source| ArchiveSettingsError::Credentials {
                key,
                path: path.to_owned(),
                source,
            })
        };
        if !self.access_key_file.is_empty() {
            let access_key = read("archive.access_key_file", &self.access_key_file)?;
            let secret_key = read("archive.secret_key_file", &self.secret_key_file)?;
            repository = repository.with_credentials(access_key, secret_key);
        }
        Ok(Some(repository))
    }

    /// The repository without its credentials.
    fn location(&self) -> Result<Option<RepositoryConfig>, RepositoryUrlError> {
        if self.url.is_empty() {
            return Ok(None);
        }
        let mut repository = RepositoryConfig::parse(&self.url)?;
        if !self.endpoint.is_empty() {
            repository = repository.with_endpoint(&self.endpoint);
        }
        if !self.region.is_empty() {
            repository = repository.with_region(&self.region);
        }
        if self.force_path_style
            && let Some(options) = repository.s3_options_mut()
        {
            options.path_style = true;
        }
        Ok(Some(repository))
    }
}

/// `[backpressure]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackpressureSection {
    /// 0 is no limit.
    pub max_replication_lag_seconds: u64,
    /// 0 is no limit.
    pub max_replication_lag_bytes: Size,
    /// 0 is no limit.
    pub max_archive_lag_seconds: u64,
    /// 0 is no limit.
    pub max_archive_lag_bytes: Size,
    /// Share of a ceiling.
    pub target_ratio: f64,
    /// Free bytes.
    pub wal_disk_free_min: Size,
    /// Of a write that is held back.
    pub wait_max: Span,
}

impl BackpressureSection {
    /// What the throttle enforces.
    pub fn limits(&self) -> Limits {
        let bytes = |ceiling: Size| {
            let target = (ceiling.0 as f64 * self.target_ratio) as u64;
            (ceiling.0 > 0).then_some(Bound { target, ceiling: ceiling.0 })
        };
        let time = |seconds: u64| {
            let ceiling = Duration::from_secs(seconds);
            (seconds > 0).then(|| Bound { target: ceiling.mul_f64(self.target_ratio), ceiling })
        };
        Limits {
            standby_bytes: bytes(self.max_replication_lag_bytes),
            standby_time: time(self.max_replication_lag_seconds),
            archive_bytes: bytes(self.max_archive_lag_bytes),
            archive_time: time(self.max_archive_lag_seconds),
            disk_free: (self.wal_disk_free_min.0 > 0).then_some(Bound {
                target: self.wal_disk_free_min.0.saturating_mul(2),
                ceiling: self.wal_disk_free_min.0,
            }),
            debt: None,
        }
    }
}

/// `[shutdown]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownSection {
    /// For standbys and archive.
    pub drain_timeout: Span,
}

/// `[logging]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggingSection {
    /// Level or filter.
    pub level: String,
    /// Of lines.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text for a terminal or journald, else JSON.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What is laid over the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist; without one [`DEFAULT_PATH`] is read if it is there.
    pub file: Option<PathBuf>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// `section.key=value`.
    pub assignments: Vec<String>,
    /// Options with a name of their own: the option, its key, its value as TOML would have it.
    pub options: Vec<(String, &'static str, toml::Value)>,
}

/// Settings in force, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Origin by `section.key`.
    pub origins: BTreeMap<String, Origin>,
}

impl Config {
    /// Lays `sources` over the defaults and checks the result.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let mut layers = Layers::new(defaults());
        if let Some((path, text)) = read(sources.file.as_deref())? {
            layers.file(&path, &text)?;
        }
        layers.environment(sources.environment.iter().cloned())?;
        sources.assignments.iter().try_for_each(|assignment| layers.assignment(assignment))?;
        for (option, key, value) in &sources.options {
            layers.set(key, value.clone(), Origin::Argument(option.clone()))?;
        }
        let config = typed(&layers)?;
        validate::validate(&config).map_err(|broken| ConfigError::Rule {
            origin: layers.origin(&broken.key).clone(),
            key: broken.key,
            message: broken.message,
        })?;
        Ok(Loaded { config, origins: layers.origins() })
    }

    /// What keyspaces are mostly used for, by name; those that nothing is said of are left out.
    pub fn tunings(&self) -> impl Iterator<Item = (String, seawall_engine::Tuning)> {
        self.keyspace.iter().map(|(name, section)| (name.clone(), section.tuning.into()))
    }

    /// The node's name: as set, else the host's.
    pub fn node_name(&self) -> String {
        if !self.node.name.is_empty() {
            return self.node.name.clone();
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if host.is_empty() { String::from("seawall") } else { host }
    }
}

/// Whether there is such a key: one of [`keys`], or one that a keyspace may have, such as `keyspace.users.tuning`.
pub fn knows(key: &str) -> bool {
    Layers::new(defaults()).knows(key)
}

/// Every `section.key` that has a default.
pub fn keys() -> Vec<String> {
    Layers::new(defaults()).keys().map(str::to_owned).collect()
}

fn defaults() -> toml::Table {
    DEFAULTS.parse().expect("the defaults are TOML, which a test checks")
}

fn read(file: Option<&Path>) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let path = file.unwrap_or(Path::new(DEFAULT_PATH));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_owned(), text))),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ConfigError::Unreadable { path: path.to_owned(), message: error.to_string() }),
    }
}

/// Makes settings of the layers. If that fails, finds the value that is to blame: the first one that spoils the defaults.
fn typed(layers: &Layers) -> Result<Config, ConfigError> {
    let whole = match layers.table().try_into::<Config>() {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    for key in layers.keys() {
        let mut table = defaults();
        layers::insert(&mut table, key, layers.value(key).clone());
        if let Err(error) = table.try_into::<Config>() {
            return Err(ConfigError::Value {
                origin: layers.origin(key).clone(),
                key: key.to_owned(),
                value: layers.value(key).to_string(),
                message: error.message().to_owned(),
            });
        }
    }
    Err(ConfigError::Syntax { origin: Origin::Default, message: whole.to_string() })
}
