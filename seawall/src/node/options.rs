//! What a node is told when it starts. Programs fill it in; the command fills it in from its settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use seawall_backup::repository::RepositoryConfig;
use seawall_engine::Tuning;
use seawall_replication::message::StandbyName;
use seawall_replication::quorum::QuorumPolicy;
use seawall_replication::throttle::Limits;
use seawall_wal::{ClusterId, SegmentSize};

/// What a node is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes; feeds standbys and the archive.
    Primary,
    /// Follows the first of these that lets it, `host:port` each. Without any it follows the archive alone.
    Standby {
        /// In the order in which they are tried.
        upstreams: Vec<String>,
    },
}

/// Where the log is archived.
#[derive(Clone, Debug)]
pub struct ArchiveOptions {
    /// The repository.
    pub repository: RepositoryConfig,
    /// New log is uploaded at least this often.
    pub interval: Duration,
    /// Whether its lag holds ingestion back.
    pub required: bool,
}

/// All options of a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name among its peers: 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub name: StandbyName,
    /// Log, tables, control file.
    pub data_dir: PathBuf,
    /// What it is to be.
    pub role: Role,
    /// The cluster: given to a new database, demanded of an existing one. A new primary makes one if not set; a new standby
    /// asks the archive.
    pub cluster: Option<ClusterId>,
    /// Of a new cluster's log.
    pub segment_size: SegmentSize,
    /// Bytes of log that may wait for a flush.
    pub log_buffer_bytes: usize,
    /// Bytes of memtables written out together.
    pub memtable_bytes: u64,
    /// Bytes of table blocks in memory.
    pub cache_bytes: u64,
    /// What keyspaces are mostly used for, by name; others are balanced.
    pub tunings: BTreeMap<String, Tuning>,
    /// Where standbys may connect; port 0 picks a free one.
    pub replication_listen: Option<SocketAddr>,
    /// Nodes that may have what is damaged of this one's log, `host:port` each, where they listen for standbys. In the order in
    /// which they are asked; a standby asks its upstreams after them.
    pub repair_from: Vec<String>,
    /// Where this node takes writes when it is primary, for the messages of nodes that do not.
    pub advertise: String,
    /// Silence after which a peer is given up.
    pub replication_timeout: Duration,
    /// Standbys that may be connected at a time.
    pub standbys_max: usize,
    /// Whose confirmations count for remote commit levels.
    pub synchronous: Option<QuorumPolicy>,
    /// Standbys whose lag always holds ingestion back.
    pub required: Vec<StandbyName>,
    /// When ingestion is held back.
    pub limits: Limits,
    /// A commit without a deadline waits this long for admission.
    pub admission_wait: Duration,
    /// A standby applies the log this much later than it was committed.
    pub apply_delay: Duration,
    /// The archive.
    pub archive: Option<ArchiveOptions>,
    /// Take writes without having asked whether a newer timeline exists.
    pub assume_primary: bool,
}

impl NodeOptions {
    /// A primary without standbys, archive and limits.
    pub fn new(name: StandbyName, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            name,
            data_dir: data_dir.into(),
            role: Role::Primary,
            cluster: None,
            segment_size: SegmentSize::DEFAULT,
            log_buffer_bytes: 64 << 20,
            memtable_bytes: 64 << 20,
            cache_bytes: 256 << 20,
            tunings: BTreeMap::new(),
            replication_listen: None,
            repair_from: Vec::new(),
            advertise: String::new(),
            replication_timeout: Duration::from_secs(10),
            standbys_max: 16,
            synchronous: None,
            required: Vec::new(),
            limits: Limits::default(),
            admission_wait: Duration::from_secs(10),
            apply_delay: Duration::ZERO,
            archive: None,
            assume_primary: false,
        }
    }
}
