//! What can be chosen when a database is opened, and how it is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_wal::storage::{Disk, Storage};
use seawall_wal::{Clock, ClusterId, NodeId, SegmentSize, SystemClock};

use crate::compaction::{Shape, Tuning};
use crate::db::Db;
use crate::error::Result;

/// Whether a directory without a database gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// If there is none yet.
    IfMissing,
    /// Never: [`crate::Error::NotFound`].
    Never,
    /// Always: [`crate::Error::NotEmpty`] if there is one.
    Always,
}

/// How the node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenAs {
    /// As the control file says: a normal node writes; a standby and a restored copy do not.
    Recorded,
    /// As a standby, from now on: it receives another node's log.
    Standby,
}

/// Who keeps the log short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRetention {
    /// The engine lets go of what its own tables hold already.
    Engine,
    /// Somebody who knows of standbys and archives, through [`Db::recycle_log`].
    Node,
}

/// Whether threads write memtables out, merge tables and flush the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// They do.
    Threads,
    /// Whoever commits does it, so that everything happens in one order. For tests.
    Inline,
}

/// Threads that one merge uses at once, if not set, where there are as many cores.
const MERGE_THREADS_MAX: usize = 4;

/// Opens a database with other than the usual settings.
#[derive(Clone, Debug)]
#[must_use = "a builder opens nothing until `open`"]
pub struct Builder {
    pub(crate) path: PathBuf,
    pub(crate) storage: Option<Arc<dyn Storage>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) node: Option<NodeId>,
    pub(crate) segment_size: Option<SegmentSize>,
    pub(crate) create: Create,
    pub(crate) open_as: OpenAs,
    pub(crate) retention: LogRetention,
    pub(crate) background: Background,
    pub(crate) log_buffer_bytes: usize,
    pub(crate) memtable_bytes: u64,
    pub(crate) frozen_max: usize,
    pub(crate) cache_bytes: u64,
    pub(crate) stall_timeout: Duration,
    pub(crate) shape: Shape,
    pub(crate) tuned: BTreeMap<String, Tuning>,
    pub(crate) merge_threads: usize,
}

impl Builder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            storage: None,
            clock: Arc::new(SystemClock),
            cluster: None,
            node: None,
            segment_size: None,
            create: Create::IfMissing,
            open_as: OpenAs::Recorded,
            retention: LogRetention::Engine,
            background: Background::Threads,
            log_buffer_bytes: 64 << 20,
            memtable_bytes: 64 << 20,
            frozen_max: 4,
            cache_bytes: 256 << 20,
            stall_timeout: Duration::from_secs(30),
            shape: Shape {
                level0_tables: 8,
                level1_bytes: 256 << 20,
                table_bytes: 32 << 20,
                blob_least: Some(4 << 10),
            },
            tuned: BTreeMap::new(),
            merge_threads: std::thread::available_parallelism().map_or(1, usize::from).min(MERGE_THREADS_MAX),
        }
    }

    /// Where files live; the real disk if not set.
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Where commit times come from; the system's clock if not set.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The cluster: given to a new database, demanded of an existing one. Random for a new one if not set.
    pub fn cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// The node's id for a new database; random if not set.
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Size of the log's segments: given to a new database, demanded of an existing one. 64 MiB if not set.
    pub fn segment_size(mut self, size: SegmentSize) -> Self {
        self.segment_size = Some(size);
        self
    }

    /// Whether an empty directory gets a database; [`Create::IfMissing`] if not set.
    pub fn create(mut self, create: Create) -> Self {
        self.create = create;
        self
    }

    /// How the node takes part; as recorded if not set.
    pub fn open_as(mut self, open_as: OpenAs) -> Self {
        self.open_as = open_as;
        self
    }

    /// Who keeps the log short; the engine if not set.
    pub fn log_retention(mut self, retention: LogRetention) -> Self {
        self.retention = retention;
        self
    }

    /// Whether threads work in the background; they do if not set.
    pub fn background(mut self, background: Background) -> Self {
        self.background = background;
        self
    }

    /// Bytes of log that may wait for a flush; 64 MiB if not set.
    pub fn log_buffer_bytes(mut self, bytes: usize) -> Self {
        self.log_buffer_bytes = bytes;
        self
    }

    /// Bytes of memtables that are written out together; 64 MiB if not set. As many as five times this are in memory;
    /// as much as this once is kept for the next ones when they are written out.
    pub fn memtable_bytes(mut self, bytes: u64) -> Self {
        self.memtable_bytes = bytes.max(1);
        self
    }

    /// Bytes of table blocks kept in memory; 256 MiB if not set.
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// How long a commit without a deadline waits for memory before [`crate::Error::Backpressure`], and closing for a write of
    /// the log before [`crate::Error::Stalled`]; 30 s if not set.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// Bytes from which on a value lies in a blob file, beside the tables, so that merges do not write it again and again;
    /// 4 KiB if not set, and a quarter of it in keyspaces for [large values](Tuning::LargeValues). `None` keeps all values in
    /// tables. It is asked for at each opening, decides about what is written from then on, and may differ between nodes.
    pub fn blob_bytes(mut self, least: Option<usize>) -> Self {
        self.shape.blob_least = least.map(|least| least.max(1));
        self
    }

    /// Bytes of one table and of one blob file, 32 MiB if not set, and of level 1, eight times that.
    pub fn table_bytes(mut self, bytes: u64) -> Self {
        self.shape.table_bytes = bytes.max(1);
        self.shape.level1_bytes = bytes.max(1).saturating_mul(8);
        self
    }

    /// Threads that one merge may use at once, at least 1; as many as there are cores, at most 4, if not set. Without
    /// [`Background::Threads`] it is one.
    pub fn merge_threads(mut self, threads: usize) -> Self {
        self.merge_threads = threads.max(1);
        self
    }

    /// What the keyspace `name` is mostly used for, whether it exists yet or not; [`Tuning::Balanced`] if not set. It is
    /// asked for at each opening and may differ between nodes.
    ///
    /// ```no_run
    /// use seawall_engine::{Db, Tuning};
    /// let db = Db::builder("data").tune("events", Tuning::WriteHeavy).tune("users", Tuning::ReadHeavy).open()?;
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    pub fn tune(mut self, name: impl Into<String>, tuning: Tuning) -> Self {
        self.tuned.insert(name.into(), tuning);
        self
    }

    /// Opens the database.
    ///
    /// # Errors
    /// [`crate::Error::Locked`], [`crate::Error::Incomplete`], [`crate::Error::Mismatch`] and the `Corrupt` ones say what
    /// stands in the way; none of them changes anything.
    pub fn open(self) -> Result<Db> {
        crate::open::open(self)
    }

    pub(crate) fn storage_or_disk(&self) -> Arc<dyn Storage> {
        self.storage.clone().unwrap_or_else(|| Arc::new(Disk::new()))
    }
}
