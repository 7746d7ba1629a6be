//! Seawall's write-ahead log: bytes, positions, durability. It knows no keys and no network.
//!
//! A [`Log`] is appended to with group commit, or receives another node's bytes verbatim; either way a position in it,
//! an [`Lsn`], means the same byte on every node. What lies on disk is described in [`mod@format`].

pub mod clock;
mod crowd;
mod damage;
mod error;
mod flush;
pub mod format;
mod handover;
mod identity;
mod kept;
mod log;
mod lsn;
pub mod mutant;
mod open;
mod options;
mod panic;
mod probe;
pub mod race;
mod reader;
mod receive;
mod recent;
pub mod recovery;
mod repair;
pub mod retention;
mod scan;
mod schedule;
mod sealed;
mod segment;
mod source;
mod stats;
pub mod storage;
#[doc(hidden)]
pub mod sync;
mod ticket;
mod timeline;
mod watch;

pub use clock::{Clock, SystemClock, Timestamp};
pub use error::{Error, Result};
pub use format::{Chain, Position, Record, RecordHeader, RecordKind};
pub use identity::{ClusterId, NodeId, ParseIdentityError, TimelineId, TimelineNonce};
pub use log::{Log, LogMode, LogOwner};
pub use lsn::{Lsn, ParseLsnError, SegmentNumber, SegmentSize};
pub use open::OpenAt;
pub use options::{LogOptions, Threads};
pub use panic::caught;
pub use reader::LogReader;
pub use recovery::Recovery;
pub use repair::{Damage, LogPlace, Repaired};
pub use schedule::{ask_for_short_turns, end_turn, give_way, has_short_turns};
pub use sealed::SealedSegments;
pub use segment::SegmentId;
pub use source::{FenceOutcome, LogBytes, LogConsumer, SegmentSource, TimelineAuthority, TimelineClaim};
pub use stats::LogStats;
pub use ticket::Ticket;
pub use timeline::{InvalidHistory, TIMELINES_MAX, TimelineEntry, TimelineHistory};
pub use watch::{LsnWatch, Reached};
