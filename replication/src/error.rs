//! What can go wrong while the log moves, by who must act: the peer's version or address, the network, the disk, the operator.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use seawall_wal::{Lsn, TimelineId};

use crate::frame::NotAFrame;
use crate::message::Refusal;
use crate::wire::Malformed;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a peer broke the protocol. Always final for the connection; never for the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] NotAFrame),
    /// A frame whose body is not the message it announces.
    #[error("a {kind} message is malformed: {why}")]
    Malformed {
        /// Its type.
        kind: &'static str,
        /// What is wrong.
        why: Malformed,
    },
    /// A message that has no place in the conversation now.
    #[error("{message} was not expected while {state}")]
    Unexpected {
        /// What came.
        message: &'static str,
        /// What was awaited.
        state: &'static str,
    },
    /// A standby reports a position it cannot have, or one behind its last.
    #[error("the standby reports {stage} {reported}, but {limit} {expected}")]
    ImpossiblePosition {
        /// Which of its positions.
        stage: &'static str,
        /// What it says.
        reported: Lsn,
        /// What it collides with.
        limit: &'static str,
        /// That position.
        expected: Lsn,
    },
    /// Log is asked for from a place that need not be the end of a record.
    #[error("log was asked for from {from}, which is neither the start of a segment nor where the last answer ended")]
    ImpossibleFetch {
        /// The place.
        from: Lsn,
    },
    /// Log that does not start where the last group ended.
    #[error(
        "log of timeline {timeline} at {start} was sent where {expected} of timeline {expected_timeline} comes next"
    )]
    OutOfPlace {
        /// Its timeline.
        timeline: TimelineId,
        /// Where it starts.
        start: Lsn,
        /// What comes next on this node.
        expected: Lsn,
        /// And on which timeline.
        expected_timeline: TimelineId,
    },
    /// A piece of a group that does not continue the piece before it.
    #[error("a piece of the group at {group} does not continue the one before it")]
    TornGroup {
        /// Where the group starts.
        group: Lsn,
    },
    /// More log than was granted.
    #[error("the upstream sent {sent} bytes of log where {limit} were granted")]
    OverCredit {
        /// Bytes it started to send.
        sent: u64,
        /// Bytes granted.
        limit: u64,
    },
    /// A history that does not continue the one known here.
    #[error("the upstream's history does not continue this node's, which is on timeline {ours}")]
    ForeignHistory {
        /// The timeline followed here.
        ours: TimelineId,
    },
}

/// Why replication stopped or an operation of it failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer broke the protocol.
    #[error("{peer}: {source}")]
    Protocol {
        /// Its address or name.
        peer: String,
        /// How.
        #[source]
        source: ProtocolError,
    },
    /// The upstream does not serve this standby.
    #[error("{upstream} refuses this standby: {refusal}")]
    Refused {
        /// Its address.
        upstream: String,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// The network.
    #[error("cannot {operation} {peer}: {source}")]
    Network {
        /// What was tried, as a verb.
        operation: &'static str,
        /// With whom.
        peer: String,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The peer was silent, or took too long over one frame.
    #[error("{peer} did not {what} within {after:?}")]
    TimedOut {
        /// Its address or name.
        peer: String,
        /// What it should have done.
        what: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// The peer closed the connection.
    #[error("{peer} closed the connection{}", if .text.is_empty() { String::new() } else { format!(": {}", .text) })]
    Closed {
        /// Its address or name.
        peer: String,
        /// What it said last.
        text: String,
    },
    /// No source has the log a node needs next.
    #[error("nothing has the log from {from}: {tried}; a base backup or an archive that reaches back would heal this")]
    NoFeed {
        /// What is needed.
        from: Lsn,
        /// What each source covers.
        tried: String,
    },
    /// This node's log and the cluster's differ; following needs a rewind or a rebuild.
    #[error(
        "this node's log goes on after {common} where the cluster's history forked; keep its data, and start it with an empty data directory"
    )]
    Diverged {
        /// The last common position.
        common: Lsn,
    },
    /// A slot file that cannot be used.
    #[error("the slot file {} cannot be used ({why}); remove it and standbys take new slots; but if another node was promoted, start this one as its standby", path.display())]
    SlotFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        why: Malformed,
    },
    /// No room for another slot.
    #[error("there are {max} slots already; drop one that is no longer needed before adding `{name}`")]
    TooManySlots {
        /// The slot asked for.
        name: String,
        /// How many there may be.
        max: usize,
    },
    /// The log failed.
    #[error(transparent)]
    Wal(#[from] seawall_wal::Error),
    /// What the standby's data are kept in failed.
    #[error("cannot {operation}: {why}")]
    Target {
        /// What was tried.
        operation: &'static str,
        /// The answer.
        why: String,
    },
    /// A background task ended unexpectedly.
    #[error("a replication task stopped: {0}")]
    Stopped(&'static str),
}
