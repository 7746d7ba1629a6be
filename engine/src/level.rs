//! What a commit waits for and what it must pass: commit levels, and the two traits through which a node with standbys
//! and an archive takes part. The engine alone knows `Buffered` and `Local` and lets everything in.

use std::fmt;
use std::task::Waker;
use std::time::{Duration, Instant};

use seawall_wal::Lsn;

use crate::error::Result;

/// How safe a commit must be before it is answered. Levels govern answers, not visibility.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CommitLevel {
    /// In memory and on its way to the disk. A crash can lose it, never a part of it, and never it but not a later one.
    Buffered,
    /// Survives power loss of this node.
    #[default]
    Local,
    /// `Local`, and this many standbys have received it.
    RemoteWrite(u8),
    /// `Local`, and this many standbys have it on disk.
    RemoteFlush(u8),
    /// `Local`, and this many standbys show it to their readers.
    RemoteReplay(u8),
    /// `Local`, and the archive confirmed it.
    Archived,
}

impl fmt::Display for CommitLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffered => f.write_str("buffered"),
            Self::Local => f.write_str("local"),
            Self::RemoteWrite(count) => write!(f, "remote_write({count})"),
            Self::RemoteFlush(count) => write!(f, "remote_flush({count})"),
            Self::RemoteReplay(count) => write!(f, "remote_replay({count})"),
            Self::Archived => f.write_str("archived"),
        }
    }
}

/// Whoever knows how far standbys and the archive are. The node installs it.
pub trait Confirmations: Send + Sync + fmt::Debug {
    /// Returns when `lsn` is confirmed at `level`. [`crate::Error::Indeterminate`] when the deadline passes first,
    /// [`crate::Error::LevelUnavailable`] when the configuration cannot confirm the level at all.
    fn wait(&self, lsn: Lsn, level: CommitLevel, deadline: Option<Instant>) -> Result<()>;

    /// Up to where everything is confirmed at `level`.
    fn confirmed(&self, level: CommitLevel) -> Result<Lsn>;

    /// Whether `lsn` is confirmed at `level`; if not, `waker` is woken when that may have changed.
    fn poll(&self, lsn: Lsn, level: CommitLevel, waker: &Waker) -> Result<bool>;
}

/// Whoever decides whether a commit may enter the log now. Asked before any log is allocated; no lock is held.
pub trait Admission: Send + Sync + fmt::Debug {
    /// Lets `bytes` of log in, waiting at most until `deadline` (its own default if there is none).
    fn admit(&self, bytes: u64, deadline: Option<Instant>) -> Result<Permit, Backpressure>;
}

/// Leave to append. It is dropped as soon as the record is in the log, or will not be.
#[derive(Default)]
pub struct Permit {
    _reservation: Option<Box<dyn Send>>,
}

impl Permit {
    /// With nothing reserved.
    pub fn free() -> Self {
        Self::default()
    }

    /// Holds `reservation` until it is dropped.
    pub fn holding(reservation: impl Send + 'static) -> Self {
        Self { _reservation: Some(Box::new(reservation)) }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

/// A commit was not let in. Nothing was written; try again after a while.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not admitted: {reason} ({subject}); try again in {} ms", retry_after.as_millis())]
pub struct Backpressure {
    /// Which limit was met, in words: `replication lag`, `archive lag`, `log disk`, `memtables`.
    pub reason: String,
    /// Who or what is behind: a standby's name, `archive`, a path.
    pub subject: String,
    /// When it makes sense to try again.
    pub retry_after: Duration,
}
