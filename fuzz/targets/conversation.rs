//! Both sides of a replication connection, each with a peer that says anything in any order. Messages are of the right kinds
//! with bodies that were changed; what the node itself does - writing, flushing, reading - happens as it is asked for.
//! Neither side panics, asks for more memory than the credit it gave, or acts after it has closed.

#![no_main]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use seawall_fuzz::replication::{
    CLUSTER, FORK, SIZE, STANDBY, UPSTREAM, data, fetch, hello, history, messages, welcome,
};
use seawall_fuzz::{Edit, Script};
use seawall_replication::frame::FrameHeader;
use seawall_replication::message::{CREDIT_DEFAULT, Data, Message, Positions, StandbyName};
use seawall_replication::receiver::{self, LocalFacts, LocalLog, Receiver, ReceiverConfig};
use seawall_replication::sender::{self, Check, LogState, ReadOutcome, Sender, SenderConfig};
use seawall_wal::{Chain, LogBytes, Lsn, Position, TimelineId, Timestamp};

/// Events of one input.
const EVENTS_MAX: usize = 64;

fuzz_target!(
    init: seawall_fuzz::begin([
        ("standby", [0_u8, 1, 1, 2, 0, 2, 0, 9, 10, 11, 4, 1, 0, 12, 0xFF].as_slice()),
        ("upstream", &[1, 1, 0, 9, 10, 10, 11, 4, 6, 0, 12, 0xFF]),
        ("fetch", &[1, 2, 10, 4, 6, 0, 2, 12, 0xFF, 0xFF]),
        ("fetch_sealed", &[3, 2, 10, 4, 6, 0, 2, 12, 0xFF, 0xFF]),
        ("changed", &[0, 1, 1, 3, 2, 1, 0, 4, 0, 0, 0, 0xFF, 2, 0]),
    ]),
    |input: &[u8]| {
        let mut script = Script::new(input);
        match script.u8() % 4 {
            1 => upstream(&mut script, true),
            // Of one that waits for a repair itself.
            3 => upstream(&mut script, false),
            _ => standby(&mut script),
        }
    }
);

/// A message of some kind, changed in some places; `None` if it is none any more.
fn message(script: &mut Script<'_>) -> Option<Message> {
    let known = messages();
    let frame = known[usize::from(script.u8()) % known.len()].to_frame();
    let kind = FrameHeader::parse(frame.head.first_chunk()?).ok()?.kind;
    let mut body = [&frame.head[16..], &frame.log].concat();
    for _ in 0..script.u8() % 4 {
        if !body.is_empty() {
            Edit::next(script, body.len()).apply(&mut body);
        }
    }
    if body.len() > kind.body_len_max() {
        return None;
    }
    Message::parse(kind, Bytes::from(body), SIZE).ok()
}

/// A standby, whose upstream is the input.
fn standby(script: &mut Script<'_>) {
    let name = StandbyName::new("east-1").expect("a good name");
    let handshake_timeout = Duration::from_secs(1);
    let config = ReceiverConfig {
        cluster: CLUSTER,
        node: STANDBY,
        name,
        segment_size: SIZE,
        credit: CREDIT_DEFAULT,
        handshake_timeout,
    };
    let local = LocalLog { position: FORK, positions: Positions::all(FORK.lsn), history: history() };
    let mut receiver = Receiver::new(config, local, LocalFacts::default());
    let mut now = Instant::now();
    let mut writing: VecDeque<LogBytes> = VecDeque::new();
    let (mut written, mut next) = (FORK, Lsn::new(131_072));
    let mut events = VecDeque::from([receiver::Event::Connected]);
    for _ in 0..EVENTS_MAX {
        let event = match events.pop_front() {
            Some(event) => event,
            None if script.is_over() => break,
            None => match script.u8() % 16 {
                // A well-behaved upstream, so that what is behind it is reached.
                1 => receiver::Event::Received(welcome()),
                2 => {
                    let len = 1 + usize::from(script.u8());
                    let bytes = Bytes::from(vec![7; len]);
                    let Message::Data(data) = data() else { continue };
                    let group_len = len as u32;
                    receiver::Event::Received(Message::Data(Data { group_start: next, group_len, bytes, ..data }))
                }
                9 => match writing.pop_front() {
                    Some(group) => {
                        written = Position { lsn: group.end(), chain: Chain(9) };
                        receiver::Event::Written(written)
                    }
                    None => continue,
                },
                10 => receiver::Event::Flushed(written.lsn),
                11 => receiver::Event::Applied(written.lsn),
                12 => {
                    now += Duration::from_millis(script.u16().into());
                    receiver::Event::Tick
                }
                13 if script.u8() == 0 => receiver::Event::Failed("the disk".to_owned()),
                14 if script.u8() == 0 => receiver::Event::Stop("enough"),
                _ => match message(script) {
                    Some(message) => receiver::Event::Received(message),
                    None => continue,
                },
            },
        };
        let was_closed = receiver.is_closed();
        let actions = receiver.handle(event, now);
        assert!(!was_closed || actions.is_empty(), "it acts after it has closed: {actions:?}");
        for action in actions {
            match action {
                receiver::Action::Write(group) => {
                    assert!(!group.bytes.is_empty() && group.start >= Lsn::new(131_072));
                    next = group.end();
                    writing.push_back(group);
                }
                receiver::Action::Send(message) => assert!(message.to_frame().len() >= 16),
                _ => {}
            }
        }
        let waiting: usize = writing.iter().map(|group| group.bytes.len()).sum();
        assert!(waiting as u64 <= CREDIT_DEFAULT, "{waiting} bytes wait to be written");
        assert!(receiver.positions().in_order());
        let _ = receiver.deadline();
    }
}

/// An upstream, whose standby is the input.
fn upstream(script: &mut Script<'_>, is_open: bool) {
    let second = Duration::from_secs(1);
    let config = SenderConfig {
        cluster: CLUSTER,
        node: UPSTREAM,
        segment_size: SIZE,
        timeout: 10 * second,
        handshake_timeout: second,
        primary: String::new(),
    };
    let log = LogState { flush: Lsn::new(140_000), oldest: Lsn::ZERO, history: history(), is_open };
    let mut now = Instant::now();
    let mut sender = Sender::new(config, log, now);
    let mut reading: Option<Lsn> = None;
    let mut checking = false;
    let (mut granted, mut fetching) = (CREDIT_DEFAULT, false);
    let mut sent = 0;
    for _ in 0..EVENTS_MAX {
        if script.is_over() {
            break;
        }
        let event = match script.u8() % 16 {
            1 => sender::Event::Received(hello()),
            2 => sender::Event::Received(fetch()),
            9 if std::mem::take(&mut checking) => {
                sender::Event::Checked(if script.u8() == 0xFF { Check::Differs } else { Check::Agrees })
            }
            10 => match reading.take() {
                Some(from) => {
                    let start = history().next_byte(from);
                    let bytes = vec![7; 1 + usize::from(script.u16())];
                    let timeline = history().of_segment(SIZE.segment_of(start), SIZE).id;
                    sender::Event::Read(match script.u8() {
                        0xFF => ReadOutcome::Nothing,
                        0xFE => ReadOutcome::Removed { oldest: Lsn::new(script.u32().into()) },
                        _ => ReadOutcome::Group(LogBytes { timeline, start, bytes }),
                    })
                }
                None => continue,
            },
            11 => sender::Event::Flushed(Lsn::new(140_000 + u64::from(script.u16()))),
            12 => {
                now += Duration::from_millis(script.u16().into());
                sender::Event::Tick
            }
            13 => sender::Event::Drain,
            14 => {
                let fork = Position { lsn: Lsn::new(131_072 + u64::from(script.u16())), chain: Chain(1) };
                let nonce = seawall_wal::TimelineNonce::from_bytes([3; 16]);
                let newer = history().forked(TimelineId(3), nonce, fork, SIZE);
                sender::Event::History(newer.expect("it continues ours"))
            }
            _ => match message(script) {
                Some(message) => sender::Event::Received(message),
                None => continue,
            },
        };
        match &event {
            sender::Event::Received(Message::Credit(more)) => granted = granted.max(*more),
            sender::Event::Received(Message::Hello(hello)) => granted = granted.max(hello.credit),
            // Who fetches grants one group by asking for it.
            sender::Event::Received(Message::Fetch(_)) => fetching = true,
            sender::Event::Read(ReadOutcome::Group(group)) if fetching => granted += group.bytes.len() as u64,
            _ => {}
        }
        let was_closed = sender.is_closed();
        let actions = sender.handle(event, now, Timestamp(1));
        assert!(!was_closed || actions.is_empty(), "it acts after it has closed: {actions:?}");
        for action in actions {
            match action {
                sender::Action::Read { from, bytes_max } => {
                    assert!(reading.is_none() && bytes_max > 0, "two reads at a time");
                    reading = Some(from);
                }
                sender::Action::Check { .. } => checking = true,
                sender::Action::Send(Message::Data(data)) => sent += data.bytes.len() as u64,
                sender::Action::Progress(status) => assert!(status.positions.in_order()),
                _ => {}
            }
        }
        assert!(is_open || fetching || sent == 0, "nobody follows a log that is not open");
        assert!(sent <= granted, "{sent} bytes were sent where {granted} were granted");
        let _ = sender.deadline();
    }
}
