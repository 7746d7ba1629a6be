//! Seawall's write-ahead log: bytes, positions, durability. It knows no keys and no network.
//!
//! A [`Log`] is appended to with group commit, or receives another node's bytes verbatim; either way a position in it,
//! an [`Lsn`], means the same byte on every node. What lies on disk is described in [`format`].

pub mod clock;
mod error;
pub mod format;
mod identity;
mod lsn;
mod source;
pub mod storage;
mod timeline;

pub use clock::{Clock, SystemClock, Timestamp};
pub use error::{Error, Result};
pub use format::{Chain, Position, Record, RecordHeader, RecordKind};
pub use identity::{ClusterId, NodeId, ParseIdentityError, TimelineId, TimelineNonce};
pub use lsn::{Lsn, ParseLsnError, SegmentNumber, SegmentSize};
pub use source::{FenceOutcome, LogBytes, LogConsumer, SegmentSource, TimelineAuthority, TimelineClaim};
pub use timeline::{InvalidHistory, TIMELINES_MAX, TimelineEntry, TimelineHistory};
