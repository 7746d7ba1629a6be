//! What a standby's client is doing, for people and metrics.

use std::time::Instant;

use seawall_wal::Lsn;

use crate::message::Positions;

/// What it is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientState {
    /// Connecting, or about to.
    #[default]
    Connecting,
    /// Following the upstream's live log.
    Streaming,
    /// Fetching from the archive what the upstream does not have, or because it is away.
    FromArchive,
    /// Being rebuilt from a base backup.
    BaseBackup {
        /// Which.
        id: String,
    },
    /// Waiting before the next attempt.
    Waiting {
        /// What went wrong last.
        why: String,
        /// When it tries again.
        until: Instant,
    },
    /// This node's log is not a prefix of the cluster's history; it does not follow until somebody decides.
    Diverged {
        /// The last common position.
        common: Lsn,
        /// Why, in words.
        why: String,
    },
    /// The upstream cannot serve this node before somebody changed something. It is asked again from time to time.
    Refused {
        /// Why, in words.
        why: String,
    },
    /// It was stopped.
    Stopped,
}

/// A standby's view of itself and its upstream.
#[derive(Clone, Debug, Default)]
pub struct ClientStatus {
    /// What it is doing.
    pub state: ClientState,
    /// How far this node is.
    pub positions: Positions,
    /// The furthest flush LSN an upstream told.
    pub upstream_flush: Lsn,
    /// Where the upstream's log begins, if that is beyond the end of this node's: until something else leads there, or it is
    /// rebuilt, this node has no place in it.
    pub lost_place: Option<Lsn>,
    /// When the upstream was last heard.
    pub heard: Option<Instant>,
    /// Where writes go; empty if unknown.
    pub primary: String,
    /// Bytes of log written per second lately.
    pub write_rate: u64,
    /// Attempts since it was last fed for a while.
    pub attempts: u32,
    /// Bytes fetched from the archive since start.
    pub archive_bytes: u64,
    /// Base backups installed since start.
    pub base_backups: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}
