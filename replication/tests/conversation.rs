//! A sender and a receiver under every order of events proptest can think of: what arrives is what was sent, nothing is
//! confirmed that is not there, and a slow standby costs no more memory than it granted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use seawall_replication::message::{GROUP_BYTES_MAX, Message, Positions, StandbyName};
use seawall_replication::receiver::{self, LocalFacts, LocalLog, Receiver, ReceiverConfig};
use seawall_replication::sender::{self, Check, LogState, ReadOutcome, Sender, SenderConfig};
use seawall_wal::{
    Chain, ClusterId, LogBytes, Lsn, NodeId, Position, SegmentSize, TimelineHistory, TimelineNonce, Timestamp,
};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const CREDIT: u64 = GROUP_BYTES_MAX as u64;
const TIMEOUT: Duration = Duration::from_secs(10);

/// The byte that every log has at a place.
fn byte_at(lsn: u64) -> u8 {
    (lsn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

struct World {
    now: Instant,
    history: TimelineHistory,
    flush: Lsn,
    /// Bytes the next read returns at most, for large records.
    group: usize,
    sender: Sender,
    receiver: Receiver,
    to_upstream: VecDeque<Message>,
    to_standby: VecDeque<Message>,
    reads: VecDeque<Lsn>,
    writes: VecDeque<LogBytes>,
    flushes: usize,
    end: Lsn,
    durable: Lsn,
    confirmed: Positions,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let history = TimelineHistory::first(TimelineNonce::from_bytes([1; 16]));
        let cluster = ClusterId::from_bytes([1; 16]);
        let config = SenderConfig {
            cluster,
            node: NodeId::from_bytes([1; 16]),
            segment_size: SIZE,
            timeout: TIMEOUT,
            handshake_timeout: TIMEOUT,
            primary: String::new(),
        };
        let log = LogState { flush: Lsn::ZERO, oldest: Lsn::ZERO, history: history.clone(), is_open: true };
        let sender = Sender::new(config, log, now);
        let config = ReceiverConfig {
            cluster,
            node: NodeId::from_bytes([2; 16]),
            name: StandbyName::new("s").unwrap(),
            segment_size: SIZE,
            credit: CREDIT,
            handshake_timeout: TIMEOUT,
        };
        let local = LocalLog { position: Position::ZERO, positions: Positions::default(), history: history.clone() };
        let mut world = Self {
            now,
            history,
            flush: Lsn::ZERO,
            group: 1 << 20,
            sender,
            receiver: Receiver::new(config, local, LocalFacts::default()),
            to_upstream: VecDeque::new(),
            to_standby: VecDeque::new(),
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            flushes: 0,
            end: Lsn::ZERO,
            durable: Lsn::ZERO,
            confirmed: Positions::default(),
        };
        world.standby(receiver::Event::Connected);
        world
    }

    fn upstream(&mut self, event: sender::Event) {
        for action in self.sender.handle(event, self.now, Timestamp(1)) {
            match action {
                sender::Action::Send(message) => self.to_standby.push_back(message),
                sender::Action::Check { .. } => self.upstream(sender::Event::Checked(Check::Agrees)),
                sender::Action::Read { from, .. } => self.reads.push_back(from),
                sender::Action::Progress(status) => {
                    assert!(status.positions.not_behind(&self.confirmed), "confirmations never step back");
                    assert!(status.positions.flush <= self.durable, "nothing is confirmed that is not on disk");
                    self.confirmed = status.positions;
                }
                sender::Action::Joined => {}
                sender::Action::LostPlace { .. } | sender::Action::Superseded(_) | sender::Action::Close(_) => {
                    panic!("{action:?}")
                }
            }
        }
    }

    fn standby(&mut self, event: receiver::Event) {
        for action in self.receiver.handle(event, self.now) {
            match action {
                receiver::Action::Send(message) => self.to_upstream.push_back(message),
                receiver::Action::Write(log) => self.writes.push_back(log),
                receiver::Action::Flush => self.flushes += 1,
                receiver::Action::Joined { .. } => {}
                receiver::Action::Follow(_) | receiver::Action::Close(_) => panic!("{action:?}"),
            }
        }
        assert!(self.flushes <= 1, "one flush at a time");
    }

    /// Does one of the things that are waiting to be done. False if there was none of that kind.
    fn step(&mut self, kind: usize) -> bool {
        match kind {
            0 => self.to_upstream.pop_front().map(|message| self.upstream(sender::Event::Received(message))).is_some(),
            1 => self.to_standby.pop_front().map(|message| self.standby(receiver::Event::Received(message))).is_some(),
            2 => self.reads.pop_front().map(|from| self.read(from)).is_some(),
            3 => self.writes.pop_front().map(|log| self.write(&log)).is_some(),
            _ if self.flushes > 0 => {
                self.flushes -= 1;
                self.durable = self.end;
                self.standby(receiver::Event::Flushed(self.end));
                true
            }
            _ => false,
        }
    }

    fn read(&mut self, from: Lsn) {
        let end = self.flush.min(SIZE.end_of(SIZE.segment_of(from)));
        let len = end.distance_from(from).min(self.group as u64);
        let outcome = if len == 0 {
            ReadOutcome::Nothing
        } else {
            let bytes = self.pattern(from, len);
            ReadOutcome::Group(LogBytes { timeline: self.history.current().id, start: from, bytes })
        };
        self.upstream(sender::Event::Read(outcome));
    }

    /// Zeros with a byte here and there that tells its place.
    fn pattern(&self, from: Lsn, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        for index in (0..len).step_by(509) {
            bytes[index as usize] = byte_at(from.offset() + index);
        }
        bytes
    }

    fn write(&mut self, log: &LogBytes) {
        assert_eq!(log.start, self.end, "groups come in order, without holes");
        for (index, byte) in log.bytes.iter().enumerate().step_by(509) {
            assert_eq!(*byte, byte_at(log.start.offset() + index as u64));
        }
        self.end = log.end();
        self.standby(receiver::Event::Written(Position { lsn: self.end, chain: Chain(1) }));
        self.standby(receiver::Event::Applied(self.end));
    }

    /// Bytes of log that are somewhere between the two logs.
    fn in_memory(&self) -> u64 {
        let on_the_way = self.to_standby.iter().map(|message| match message {
            Message::Data(data) => data.bytes.len() as u64,
            _ => 0,
        });
        on_the_way.sum::<u64>() + self.writes.iter().map(|log| log.bytes.len() as u64).sum::<u64>()
    }
}

/// Once, the standby granted only in halves of its credit: after one of five, a group of sixteen MiB waited for ever.
#[test]
fn a_large_group_after_a_small_one_finds_credit() {
    let mut world = World::new();
    for (group, flush) in [(5 << 20, 5 << 20), (16 << 20, 21 << 20)] {
        world.group = group;
        world.flush = Lsn::new(flush);
        world.upstream(sender::Event::Flushed(world.flush));
        while (0..5).any(|kind| world.step(kind)) {}
        assert_eq!(world.confirmed, Positions::all(world.flush));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_arrives_is_what_was_sent_within_the_credit(
        turns in proptest::collection::vec((0..7_usize, 1..6_000_u64), 1..120),
        group in prop_oneof![Just(64 << 10), Just(1 << 20), Just(5 << 20), Just(16 << 20)],
    ) {
        let mut world = World::new();
        world.group = group;
        for (kind, amount) in turns {
            match kind {
                5 | 6 => {
                    world.flush = world.flush.advance(amount << 10);
                    world.upstream(sender::Event::Flushed(world.flush));
                }
                kind => drop(world.step(kind)),
            }
            prop_assert!(world.in_memory() <= CREDIT, "{} bytes under way", world.in_memory());
        }
        while (0..5).any(|kind| world.step(kind)) {
            prop_assert!(world.in_memory() <= CREDIT);
        }
        prop_assert_eq!(world.end, world.flush);
        prop_assert_eq!(world.confirmed, Positions::all(world.flush));
    }
}
