//! Durable, ordered, embeddable key-value engine with replicas, backups and point-in-time restore built in.
//!
//! ```no_run
//! let db = seawall::Db::open("data")?;
//! let users = db.keyspace("users")?;
//! users.insert("ann", "1")?;
//! assert_eq!(users.get("ann")?.as_deref(), Some(&b"1"[..]));
//! # Ok::<(), seawall::Error>(())
//! ```
//!
//! [`Db`] alone is a local store without an async runtime: `default-features = false`. The feature `node` adds replicas
//! and archive, `s3` archives in S3, `http` settings and the HTTP API, and `cli`, on by default, the `seawall` command.

pub use bytes::Bytes;
pub use seawall_engine::{
    Admission, Background, Backpressure, Batch, BlobStats, Builder, BulkLoad, CacheStats, Commit, CommitLevel,
    CommitTicket, Confirmations, Create, Db, Error, Keyspace, KeyspaceDigest, KeyspaceId, LevelStats, LogRetention,
    MergeOperator, OpenAs, Permit, PinnedCheckpoint, Range, Refusal, Result, Role, Snapshot, StateDigest, StateFile,
    Stats, Transaction, TransactionRange, Tuning, WaitCounts,
};
pub use seawall_wal::storage::IoPath;
pub use seawall_wal::{
    Clock, ClusterId, LogStats, Lsn, NodeId, Position, Recovery, SegmentSize, SystemClock, TimelineId, Timestamp,
};
#[cfg(feature = "node")]
pub use {seawall_backup as backup, seawall_replication as replication};

#[cfg(feature = "cli")]
pub mod client;
#[cfg(feature = "cli")]
pub mod command;
#[cfg(feature = "http")]
pub mod config;
#[cfg(feature = "http")]
pub mod entry;
#[cfg(feature = "http")]
pub mod failure;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "cli")]
pub mod input;
#[cfg(feature = "http")]
pub mod kv;
#[cfg(feature = "cli")]
mod logging;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub use node::Node;
#[cfg(feature = "cli")]
pub mod output;
#[cfg(feature = "cli")]
pub mod sandbox;
