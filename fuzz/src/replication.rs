//! A message of each kind, for targets that change them.

use bytes::Bytes;
use seawall_replication::message::{
    Bye, ByeReason, CREDIT_DEFAULT, Data, Fetch, Hello, Identity, IoPath, Keepalive, Message, PROTOCOL_VERSIONS,
    Positions, Refusal, StandbyName, Status, Welcome,
};
use seawall_wal::{
    Chain, ClusterId, Lsn, NodeId, Position, SegmentSize, TimelineHistory, TimelineId, TimelineNonce, Timestamp,
};

/// Of every segment.
pub const SIZE: SegmentSize = SegmentSize::MIN;
/// Whose log is sent.
pub const CLUSTER: ClusterId = ClusterId::from_bytes([3; 16]);
/// The standby.
pub const STANDBY: NodeId = NodeId::from_bytes([4; 16]);
/// The upstream.
pub const UPSTREAM: NodeId = NodeId::from_bytes([5; 16]);

/// Where the second timeline leaves the first.
pub const FORK: Position = Position { lsn: Lsn::new(70_000), chain: Chain(7) };

/// Two timelines.
///
/// # Panics
/// Never: the history is a good one.
pub fn history() -> TimelineHistory {
    let first = TimelineHistory::first(TimelineNonce::from_bytes([1; 16]));
    first.forked(TimelineId(2), TimelineNonce::from_bytes([2; 16]), FORK, SIZE).expect("it continues the first")
}

/// How a standby introduces itself that stands at the fork.
///
/// # Panics
/// Never: the name is a good one.
pub fn hello() -> Message {
    Message::Hello(Hello {
        versions: PROTOCOL_VERSIONS,
        log_format: 1,
        segment_size: SIZE,
        cluster: CLUSTER,
        node: STANDBY,
        position: FORK,
        credit: CREDIT_DEFAULT,
        name: StandbyName::new("east-1").expect("a good name"),
        history: history(),
    })
}

/// How it is answered.
pub fn welcome() -> Message {
    Message::Welcome(Welcome {
        version: 1,
        node: UPSTREAM,
        flush: Lsn::new(200_000),
        oldest: Lsn::new(65_536),
        start: Lsn::new(131_072),
        timeout_ms: 10_000,
        primary: "http://db:7400".to_owned(),
        history: history(),
    })
}

/// What comes then: a group of ten bytes in one piece.
pub fn data() -> Message {
    Message::Data(Data {
        timeline: TimelineId(2),
        group_start: Lsn::new(131_072),
        group_len: 10,
        offset: 0,
        flush: Lsn::new(200_000),
        time: Timestamp(9),
        bytes: Bytes::from_static(b"0123456789"),
    })
}

/// What a node asks that repairs the segment in which the second timeline begins.
pub fn fetch() -> Message {
    Message::Fetch(Fetch {
        versions: PROTOCOL_VERSIONS,
        log_format: 1,
        segment_size: SIZE,
        cluster: CLUSTER,
        timeline: TimelineId(2),
        from: Lsn::new(131_072),
    })
}

/// One of each kind.
pub fn messages() -> Vec<Message> {
    vec![
        hello(),
        welcome(),
        data(),
        Message::Refuse(Refusal::Diverged { common: FORK, history: Box::new(history()) }),
        Message::History(history()),
        Message::Keepalive(Keepalive { flush: Lsn::new(1), time: Timestamp(2), reply: true }),
        Message::Status(Status {
            positions: Positions { write: FORK.lsn, flush: Lsn::new(2), replay: Lsn::new(1) },
            disk_free: Some(7),
            apply_rate: 8,
            echo: Timestamp(9),
            corruption: true,
            io_path: IoPath::IoUring,
        }),
        Message::Credit(2 * CREDIT_DEFAULT),
        Message::Bye(Bye { reason: ByeReason::ShuttingDown, text: "so long".to_owned() }),
        Message::Identify((1, 2)),
        Message::Identity(Identity {
            versions: (1, 2),
            log_format: 1,
            segment_size: SIZE,
            cluster: CLUSTER,
            node: UPSTREAM,
            oldest: Lsn::ZERO,
            flush: Lsn::new(200_000),
            history: history(),
        }),
        fetch(),
    ]
}
