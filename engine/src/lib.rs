//! Seawall's state: keyspaces, memtables, tables, snapshots, checkpoints, and the one apply path.
//!
//! [`Db`] is an embedded, ordered key-value store over one write-ahead log. Batches are atomic across keyspaces, reads
//! see what is durable, and everything on disk is described in [`format`](mod@format).
//!
//! # Reading the source
//!
//! - A commit: `batch` gathers, `core` lets it in, appends it to the log and applies it as one step, `commit` waits for it.
//! - Applying: `apply`, the only way records change state; `memtable` and `catalogue` are what they change.
//! - A read: `keyspace` or `snapshot`, at an LSN from `core`, in a `version::View`; `range` and `merge` walk, `multi_get`
//!   reads many keys at once. What the versions of a key say together is `resolve`'s to tell, with `operator` and the time
//!   from `marks`.
//! - Sorted data in bulk: `bulk_load`, which is many large batches.
//! - Both as one: `transaction`, which notes what it reads and has that checked where its writes are appended.
//! - Tables: `flush` and `compaction` make them, `table` is what they are, `blob` what lies beside them, `durable` installs them through `manifest` and
//!   `control`; `worker` runs both, `gate` makes writers wait for them.
//! - A node's business: `open`, `role` (receive, promote), `checkpoint`, `install`, `detach`, `digest`.

mod apply;
mod batch;
mod blob;
mod bulk_load;
mod catalogue;
mod checkpoint;
mod closing;
mod codec;
mod commit;
mod compaction;
pub mod control;
mod core;
mod db;
mod detach;
mod digest;
mod durable;
mod error;
mod file;
mod flush;
pub mod format;
mod gate;
mod install;
mod keyspace;
mod level;
pub mod manifest;
mod marks;
mod memtable;
mod merge;
mod multi_get;
pub mod mutant;
mod open;
mod operator;
mod options;
pub mod payload;
mod pending;
pub mod race;
mod range;
mod range_deletes;
mod repair;
mod resolve;
mod role;
mod snapshot;
mod state;
mod stats;
mod table;
mod transaction;
mod version;
mod worker;

pub use batch::Batch;
pub use blob::BlobMeta;
pub use bulk_load::BulkLoad;
pub use checkpoint::{PinnedCheckpoint, StateFile};
pub use commit::{Commit, CommitTicket};
pub use compaction::Tuning;
pub use control::{Control, DamagedSlot, Role};
pub use db::Db;
pub use digest::{KeyspaceDigest, RangeDigest, StateDigest, differing_ranges};
pub use error::{Error, Result};
pub use file::{FileHash, FileKind};
pub use format::KeyspaceId;
pub use install::{Installation, TableSource};
pub use keyspace::Keyspace;
pub use level::{Admission, Backpressure, CommitLevel, Confirmations, Permit};
pub use operator::MergeOperator;
pub use options::{Background, Builder, Create, LogRetention, OpenAs};
pub use range::Range;
pub use repair::{Copies, Damage, How, Repaired, Tried};
pub use role::Refusal;
pub use snapshot::Snapshot;
pub use stats::{BlobStats, LevelStats, Stats, WaitCounts};
#[cfg(feature = "testing")]
pub use table::fuzzing;
pub use table::{CacheStats, TableMeta};
pub use transaction::{Transaction, TransactionRange};
