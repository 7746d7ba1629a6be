#![doc = include_str!("../PROTOCOL.md")]
//!
//! # In this module
//!
//! The messages as types, and how they become frames and back. Who may say what when is `sender`'s and `receiver`'s
//! business.

mod codec;
mod name;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use seawall_wal::{ClusterId, Lsn, NodeId, Position, SegmentSize, TimelineHistory, TimelineId, Timestamp};

pub use name::{InvalidName, NAME_LEN_MAX, StandbyName};

/// The lowest and highest protocol version spoken here.
pub const PROTOCOL_VERSIONS: (u16, u16) = (1, 1);
/// No group of records is larger: the largest record, a segment header, and the read that found it.
pub const GROUP_BYTES_MAX: usize = 17 << 20;
/// Bytes of log a standby takes before it grants more, unless told otherwise.
pub const CREDIT_DEFAULT: u64 = 32 << 20;

const _: () = assert!(GROUP_BYTES_MAX >= seawall_wal::format::RECORD_SIZE_MAX + (1 << 20));
const _: () = assert!(CREDIT_DEFAULT >= GROUP_BYTES_MAX as u64);

/// What is said on a replication connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The standby introduces itself.
    Hello(Hello),
    /// It is accepted.
    Welcome(Welcome),
    /// It is not, or no longer.
    Refuse(Refusal),
    /// Log.
    Data(Data),
    /// The upstream follows a new history.
    History(TimelineHistory),
    /// The upstream is alive.
    Keepalive(Keepalive),
    /// Where the standby stands.
    Status(Status),
    /// The sum of group bytes the standby takes on this connection.
    Credit(u64),
    /// The last message.
    Bye(Bye),
    /// A node without data asks who this is; these are the lowest and highest version it speaks.
    Identify((u16, u16)),
    /// The answer.
    Identity(Identity),
    /// A node that repairs asks for log.
    Fetch(Fetch),
}

/// What a node whose copy of the log is damaged asks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Lowest and highest protocol version it speaks.
    pub versions: (u16, u16),
    /// The log format it reads.
    pub log_format: u32,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The timeline of the segment.
    pub timeline: TimelineId,
    /// The start of a segment, or where the last answer ended.
    pub from: Lsn,
}

/// Who an upstream is, for a node that is to become its standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Lowest and highest protocol version it speaks.
    pub versions: (u16, u16),
    /// The log format it writes.
    pub log_format: u32,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub node: NodeId,
    /// The oldest position it can send from. An empty standby can follow it by log alone if this is 0.
    pub oldest: Lsn,
    /// Up to here its log is durable.
    pub flush: Lsn,
    /// Its history.
    pub history: TimelineHistory,
}

impl Message {
    /// Its type's name, for errors.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Welcome(_) => "Welcome",
            Self::Refuse(_) => "Refuse",
            Self::Data(_) => "Data",
            Self::History(_) => "History",
            Self::Keepalive(_) => "Keepalive",
            Self::Status(_) => "Status",
            Self::Credit(_) => "Credit",
            Self::Bye(_) => "Bye",
            Self::Identify(_) => "Identify",
            Self::Identity(_) => "Identity",
            Self::Fetch(_) => "Fetch",
        }
    }
}

/// A standby's introduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest protocol version it speaks.
    pub versions: (u16, u16),
    /// The log format it reads.
    pub log_format: u32,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub node: NodeId,
    /// The end of its log.
    pub position: Position,
    /// Bytes of Data it takes before it grants more; at least [`GROUP_BYTES_MAX`].
    pub credit: u64,
    /// What the operator calls it.
    pub name: StandbyName,
    /// The timelines its log has gone through.
    pub history: TimelineHistory,
}

/// An upstream's answer to a standby it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version spoken from here on.
    pub version: u16,
    /// The upstream.
    pub node: NodeId,
    /// Up to here its log is durable.
    pub flush: Lsn,
    /// The oldest position it can send from.
    pub oldest: Lsn,
    /// The first byte it will send.
    pub start: Lsn,
    /// After this many milliseconds of silence either side gives up.
    pub timeout_ms: u32,
    /// Where writes go; empty if unknown.
    pub primary: String,
    /// Its history.
    pub history: TimelineHistory,
}

/// Why an upstream does not serve a standby.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No version in common.
    #[error(
        "the upstream speaks protocol versions {lowest} to {highest}, this node speaks others; upgrade the older one"
    )]
    Version {
        /// Its lowest.
        lowest: u16,
        /// Its highest.
        highest: u16,
    },
    /// The upstream belongs to another cluster.
    #[error("the upstream belongs to another cluster; check the address")]
    WrongCluster,
    /// The upstream's segments have another size, or its log a format it cannot send to this standby.
    #[error("the upstream's log has another format (its segments have {segment_size} bytes)")]
    Format {
        /// Its segment size in bytes.
        segment_size: u32,
    },
    /// The log asked for has been recycled.
    #[error("the upstream's log starts at {oldest}; what this standby needs is no longer there")]
    Removed {
        /// The oldest position it can send from.
        oldest: Lsn,
    },
    /// The standby's log goes on where the upstream's history forked.
    #[error("this node's log differs from the upstream's after {common}; it must rewind or be rebuilt")]
    Diverged {
        /// The last position both have gone through, as far as is known.
        common: Position,
        /// The upstream's history.
        history: Box<TimelineHistory>,
    },
    /// The standby has flushed more than the upstream.
    #[error("this node's log is ahead of the upstream, whose log ends at {flush}")]
    Ahead {
        /// The upstream's flush LSN.
        flush: Lsn,
    },
    /// The standby knows of a newer timeline.
    #[error(
        "the upstream is on timeline {current}, older than the one this node follows; it is the one that is behind"
    )]
    OlderTimeline {
        /// The upstream's timeline.
        current: TimelineId,
    },
    /// The name is taken.
    #[error(
        "a standby of this name is connected already, or the upstream is this very node; give each node its own name"
    )]
    NameTaken,
    /// Too many standbys.
    #[error("the upstream has no room for another standby")]
    NoRoom,
    /// The upstream is starting, stopping or not allowed to send.
    #[error("the upstream is not serving now")]
    NotServing,
}

impl Refusal {
    /// Whether trying the same upstream again soon can succeed without anybody's doing.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Removed { .. } | Self::Ahead { .. } | Self::NameTaken | Self::NoRoom | Self::NotServing)
    }
}

/// A piece of a group of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// The timeline of the group.
    pub timeline: TimelineId,
    /// Where the group starts.
    pub group_start: Lsn,
    /// Bytes of the whole group, at most [`GROUP_BYTES_MAX`].
    pub group_len: u32,
    /// Where in the group these bytes belong.
    pub offset: u32,
    /// The upstream's flush LSN, at or beyond the group's end.
    pub flush: Lsn,
    /// The upstream's wall clock.
    pub time: Timestamp,
    /// Log; never empty.
    pub bytes: Bytes,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// The upstream's flush LSN.
    pub flush: Lsn,
    /// The upstream's wall clock.
    pub time: Timestamp,
    /// Whether it wants to hear a status now.
    pub reply: bool,
}

/// How far a standby is. `replay <= flush <= write`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Handed to its operating system.
    pub write: Lsn,
    /// Survives a power loss there.
    pub flush: Lsn,
    /// Shown to its readers.
    pub replay: Lsn,
}

impl Positions {
    /// All three at one place.
    pub const fn all(lsn: Lsn) -> Self {
        Self { write: lsn, flush: lsn, replay: lsn }
    }

    /// Whether they stand in their order.
    pub fn in_order(&self) -> bool {
        self.replay <= self.flush && self.flush <= self.write
    }

    /// Whether none of them is behind `earlier`.
    pub fn not_behind(&self, earlier: &Self) -> bool {
        self.write >= earlier.write && self.flush >= earlier.flush && self.replay >= earlier.replay
    }
}

/// How a standby writes its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IoPath {
    /// It did not say.
    #[default]
    Unknown,
    /// Through io_uring.
    IoUring,
    /// Through plain system calls.
    Posix,
}

/// A standby's report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How far it is.
    pub positions: Positions,
    /// Free bytes on its log's disk, if known.
    pub disk_free: Option<u64>,
    /// Bytes of log per second it has applied lately.
    pub apply_rate: u64,
    /// The upstream's clock in the newest message it has seen.
    pub echo: Timestamp,
    /// Whether it found damage in its own data.
    pub corruption: bool,
    /// How it writes.
    pub io_path: IoPath,
}

/// Why a side leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ByeReason {
    /// It shuts down, and everything flushed was sent and confirmed.
    Drained,
    /// It shuts down while something is unconfirmed.
    ShuttingDown,
    /// The connection is no longer wanted.
    NotWanted,
    /// The other side broke the protocol.
    Protocol,
    /// The other side was silent for too long.
    Timeout,
    /// Its own disk failed.
    Storage,
}

/// The last message of a side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bye {
    /// Why.
    pub reason: ByeReason,
    /// What a person reads.
    pub text: String,
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write={} flush={} replay={}", self.write, self.flush, self.replay)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(hello) => {
                let timeline = hello.history.current().id;
                write!(f, "Hello {} at {} timeline={timeline}", hello.name, hello.position.lsn)
            }
            Self::Welcome(welcome) => {
                let timeline = welcome.history.current().id;
                write!(f, "Welcome start={} flush={} timeline={timeline}", welcome.start, welcome.flush)
            }
            Self::Refuse(refusal) => write!(f, "Refuse: {refusal}"),
            Self::Data(data) => {
                let (start, end) = (data.offset as usize, data.offset as usize + data.bytes.len());
                write!(f, "Data timeline={} group={}", data.timeline, data.group_start)?;
                write!(f, " bytes={start}..{end} of {} flush={}", data.group_len, data.flush)
            }
            Self::History(history) => {
                let newest = history.current();
                write!(f, "History timeline={} fork={} begin={}", newest.id, newest.fork.lsn, newest.begin)
            }
            Self::Keepalive(keepalive) => {
                write!(f, "Keepalive flush={}{}", keepalive.flush, if keepalive.reply { " reply" } else { "" })
            }
            Self::Status(status) => write!(f, "Status {}", status.positions),
            Self::Credit(limit) => write!(f, "Credit {limit}"),
            Self::Bye(bye) => write!(f, "Bye {:?}: {}", bye.reason, bye.text),
            Self::Identify(_) => write!(f, "Identify"),
            Self::Identity(identity) => write!(f, "Identity cluster={} flush={}", identity.cluster, identity.flush),
            Self::Fetch(fetch) => write!(f, "Fetch timeline={} from={}", fetch.timeline, fetch.from),
        }
    }
}
