//! What a log is opened with.

use std::time::Duration;

use crate::identity::{ClusterId, NodeId};
use crate::lsn::SegmentSize;

/// What a log needs to know, fixed while it is open.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Whose log.
    pub cluster: ClusterId,
    /// Which node.
    pub node: NodeId,
    /// As chosen when the cluster was made.
    pub segment_size: SegmentSize,
    /// Bytes of records that may wait for a flush; appends beyond it wait. At least one largest record.
    pub buffer_bytes_max: usize,
    /// Bytes of the newest flushed log to keep in memory once [`Log::keep_recent`](crate::Log::keep_recent) asks for it.
    pub recent_bytes_max: usize,
    /// How long an append without a deadline of its own waits for room: in the buffer, or for the next segment.
    pub stall_timeout: Duration,
    /// Whether threads prepare segments and flush for those who do not wait themselves. Without them (for tests that
    /// need one order of events) preparation happens in `append`, and only a waiting thread flushes.
    pub threads: Threads,
}

/// See [`LogOptions::threads`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// A flusher and a preparer.
    Background,
    /// None.
    Inline,
}

impl LogOptions {
    /// For a node of a cluster, with 64 MiB segments and a 64 MiB buffer.
    pub fn new(cluster: ClusterId, node: NodeId) -> Self {
        Self {
            cluster,
            node,
            segment_size: SegmentSize::DEFAULT,
            buffer_bytes_max: 64 << 20,
            recent_bytes_max: 16 << 20,
            stall_timeout: Duration::from_secs(30),
            threads: Threads::Background,
        }
    }
}
