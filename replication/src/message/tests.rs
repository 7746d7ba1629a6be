//! Every message survives its wire form, and no cut or padded body is taken for a message.

use seawall_wal::{Chain, TimelineNonce};

use super::*;
use crate::frame::{FRAME_HEADER_SIZE, FrameHeader};
use crate::wire::Malformed;

const SIZE: SegmentSize = SegmentSize::MIN;

fn history() -> TimelineHistory {
    let fork = Position { lsn: Lsn::new(70_000), chain: Chain(7) };
    TimelineHistory::first(TimelineNonce::from_bytes([1; 16]))
        .forked(TimelineId(2), TimelineNonce::from_bytes([2; 16]), fork, SIZE)
        .unwrap()
}

fn messages() -> Vec<Message> {
    let position = Position { lsn: Lsn::new(70_000), chain: Chain(7) };
    let refusals = [
        Refusal::Version { lowest: 2, highest: 3 },
        Refusal::WrongCluster,
        Refusal::Format { segment_size: 65536 },
        Refusal::Removed { oldest: Lsn::new(5) },
        Refusal::Diverged { common: position, history: Box::new(history()) },
        Refusal::Ahead { flush: Lsn::new(6) },
        Refusal::OlderTimeline { current: TimelineId(4) },
        Refusal::NameTaken,
        Refusal::NoRoom,
        Refusal::NotServing,
    ];
    let mut messages = vec![
        Message::Hello(Hello {
            versions: PROTOCOL_VERSIONS,
            log_format: 1,
            segment_size: SIZE,
            cluster: ClusterId::from_bytes([3; 16]),
            node: NodeId::from_bytes([4; 16]),
            position,
            credit: CREDIT_DEFAULT,
            name: StandbyName::new("east-1").unwrap(),
            history: history(),
        }),
        Message::Welcome(Welcome {
            version: 1,
            node: NodeId::from_bytes([5; 16]),
            flush: Lsn::new(200_000),
            oldest: Lsn::new(65_536),
            start: Lsn::new(131_072),
            timeout_ms: 10_000,
            primary: "http://db:7400".to_owned(),
            history: history(),
        }),
        Message::Data(Data {
            timeline: TimelineId(2),
            group_start: Lsn::new(131_072),
            group_len: 10,
            offset: 4,
            flush: Lsn::new(200_000),
            time: Timestamp(9),
            bytes: Bytes::from_static(b"abcdef"),
        }),
        Message::History(history()),
        Message::Keepalive(Keepalive { flush: Lsn::new(1), time: Timestamp(2), reply: true }),
        Message::Status(Status {
            positions: Positions { write: Lsn::new(3), flush: Lsn::new(2), replay: Lsn::new(1) },
            disk_free: Some(7),
            apply_rate: 8,
            echo: Timestamp(9),
            corruption: true,
            io_path: IoPath::IoUring,
        }),
        Message::Status(Status::default()),
        Message::Credit(99),
        Message::Identify((1, 2)),
        Message::Identity(Identity {
            versions: (1, 2),
            log_format: 1,
            segment_size: SIZE,
            cluster: ClusterId::from_bytes([3; 16]),
            node: NodeId::from_bytes([4; 16]),
            oldest: Lsn::ZERO,
            flush: Lsn::new(200_000),
            history: history(),
        }),
        Message::Fetch(Fetch {
            versions: PROTOCOL_VERSIONS,
            log_format: 1,
            segment_size: SIZE,
            cluster: ClusterId::from_bytes([3; 16]),
            timeline: TimelineId(2),
            from: Lsn::new(131_072),
        }),
    ];
    messages.extend(refusals.into_iter().map(Message::Refuse));
    for reason in [
        ByeReason::Drained,
        ByeReason::ShuttingDown,
        ByeReason::NotWanted,
        ByeReason::Protocol,
        ByeReason::Timeout,
        ByeReason::Storage,
    ] {
        messages.push(Message::Bye(Bye { reason, text: "so long".to_owned() }));
    }
    messages
}

fn body_of(message: &Message) -> (FrameHeader, Bytes) {
    let frame = message.to_frame();
    let bytes = [frame.head.as_ref(), frame.log.as_ref()].concat();
    let header = FrameHeader::parse(bytes[..FRAME_HEADER_SIZE].try_into().unwrap()).unwrap();
    let body = Bytes::copy_from_slice(&bytes[FRAME_HEADER_SIZE..]);
    header.check(&body).unwrap();
    assert_eq!(body.len(), header.body_len);
    (header, body)
}

#[test]
fn every_message_survives_its_wire_form() {
    for message in messages() {
        let (header, body) = body_of(&message);
        assert_eq!(Message::parse(header.kind, body, SIZE), Ok(message));
    }
}

#[test]
fn a_cut_or_padded_body_is_no_message() {
    for message in messages().into_iter().filter(|message| !matches!(message, Message::Data(_))) {
        let (header, body) = body_of(&message);
        for len in 0..body.len() {
            let cut = Message::parse(header.kind, body.slice(..len), SIZE);
            assert!(cut.is_err(), "{message} cut to {len}: {cut:?}");
        }
        let padded = [body.as_ref(), &[0]].concat().into();
        assert!(Message::parse(header.kind, padded, SIZE).is_err(), "{message}");
    }
}

#[test]
fn damaged_bodies_never_panic() {
    for message in messages() {
        let (header, body) = body_of(&message);
        for bit in 0..body.len() * 8 {
            let mut damaged = body.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // A damaged body with a right checksum is a hostile peer: any answer but a panic will do.
            let _ = Message::parse(header.kind, damaged.into(), SIZE);
        }
    }
}

#[test]
fn a_group_may_not_exceed_its_limit_nor_a_piece_its_group() {
    let data = |group_len, offset| {
        Message::Data(Data {
            timeline: TimelineId(1),
            group_start: Lsn::ZERO,
            group_len,
            offset,
            flush: Lsn::ZERO,
            time: Timestamp(0),
            bytes: Bytes::from_static(b"abc"),
        })
    };
    let parse = |message: Message| {
        let (header, body) = body_of(&message);
        Message::parse(header.kind, body, SIZE)
    };
    assert!(parse(data(3, 0)).is_ok());
    assert_eq!(parse(data(3, 1)), Err(Malformed::Value("group length")));
    assert_eq!(parse(data(GROUP_BYTES_MAX as u32 + 1, 0)), Err(Malformed::Value("group length")));
}

#[test]
fn a_history_from_the_end_of_the_number_range_is_refused() {
    let mut body = crate::wire::Writer::default();
    body.u32(2).u32(1).bytes(&[1; 16]).u64(0).u64(0).u64(0);
    body.u32(2).bytes(&[2; 16]).u64(u64::MAX).u64(0).u64(u64::MAX);
    let parsed = Message::parse(crate::frame::FrameType::History, body.0.into(), SIZE);
    assert_eq!(parsed, Err(Malformed::Value("history")));
}

#[test]
fn positions_out_of_order_are_refused() {
    let positions = Positions { write: Lsn::new(1), flush: Lsn::new(2), replay: Lsn::new(0) };
    let (header, body) = body_of(&Message::Status(Status { positions, ..Status::default() }));
    assert_eq!(Message::parse(header.kind, body, SIZE), Err(Malformed::Value("positions")));
}

/// Frames of version 1 as they were when it was frozen. A difference is a change of protocol, not of a test.
#[test]
fn frames_of_version_1_never_change() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/protocol.txt");
    let mut golden = String::new();
    for message in messages() {
        let frame = message.to_frame();
        let bytes = frame.head.iter().chain(&frame.log).map(|byte| format!("{byte:02x}"));
        golden += &format!("{message}\n{}\n\n", bytes.collect::<String>());
    }
    if std::env::var_os("SEAWALL_REWRITE").is_some() {
        std::fs::write(&path, &golden).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), golden);
}
