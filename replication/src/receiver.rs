//! The standby's side of the conversation: events and the time in, actions out. It introduces the node, checks that what
//! comes continues its log, puts groups together within a bound, and reports how far they got. Connecting, writing and
//! deciding where to turn after a refusal are `driver`'s business.

mod assembly;

use std::time::{Duration, Instant};

use seawall_wal::{ClusterId, LogBytes, Lsn, NodeId, Position, SegmentSize, TimelineHistory, Timestamp};

use crate::ended::Ended;
use crate::error::ProtocolError;
use crate::message::{
    Bye, ByeReason, CREDIT_DEFAULT, Data, GROUP_BYTES_MAX, Hello, IoPath, Message, PROTOCOL_VERSIONS, Positions,
    Refusal, StandbyName, Status, Welcome,
};
use crate::mutant::{Mutant, planted};
use crate::standing::{Relation, relate};
pub(crate) use assembly::Assembly;

/// What a receiver needs to know for its whole life.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// The cluster this node belongs to.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// What the operator calls it.
    pub name: StandbyName,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// Bytes of log it takes before granting more; see [`CREDIT_DEFAULT`].
    pub credit: u64,
    /// The upstream has so long to answer the introduction.
    pub handshake_timeout: Duration,
}

/// Where this node stands when it connects.
#[derive(Clone, Debug)]
pub struct LocalLog {
    /// The end of its log.
    pub position: Position,
    /// How far it is on disk and applied. `write` is the end of the log.
    pub positions: Positions,
    /// Its history.
    pub history: TimelineHistory,
}

/// What it tells the upstream beside positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalFacts {
    /// Free bytes on the log's disk.
    pub disk_free: Option<u64>,
    /// Bytes of log applied per second lately.
    pub apply_rate: u64,
    /// Whether it found damage in its own data.
    pub corruption: bool,
    /// How it writes.
    pub io_path: IoPath,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The connection stands.
    Connected,
    /// The upstream said something.
    Received(Message),
    /// A group was checked and written; the log ends here now.
    Written(Position),
    /// The log is durable up to here.
    Flushed(Lsn),
    /// Readers see everything up to here.
    Applied(Lsn),
    /// What the node measured.
    Facts(LocalFacts),
    /// Writing, flushing or applying failed.
    Failed(String),
    /// Time passed.
    Tick,
    /// Leave.
    Stop(&'static str),
}

/// Something is to be done, in this order; writes and follows in the order of their actions, flushes beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Send(Message),
    /// The upstream took us; it is the one named here.
    Joined {
        /// The upstream.
        upstream: NodeId,
        /// Where writes go; empty if unknown.
        primary: String,
    },
    /// From now on the log follows this history, which continues ours.
    Follow(TimelineHistory),
    /// Check and write these records, and apply them; answer with [`Event::Written`] and [`Event::Applied`].
    Write(LogBytes),
    /// Make what was written durable; answer with [`Event::Flushed`]. Only one is asked for at a time.
    Flush,
    /// The conversation is over; everything sent before is still to be delivered.
    Close(Ended),
}

/// The conversation with the upstream.
#[derive(Debug)]
pub struct Receiver {
    config: ReceiverConfig,
    history: TimelineHistory,
    /// The end of the log, and its chain.
    position: Position,
    /// `replay <= flush <= write`, as far as this node knows.
    positions: Positions,
    /// What `applied` was told, which may run ahead of flush.
    applied: Lsn,
    flushing: bool,
    facts: LocalFacts,
    upstream: Option<UpstreamSeen>,
    state: State,
}

/// What the upstream last said about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamSeen {
    /// Its flush LSN.
    pub flush: Lsn,
    /// Its clock.
    pub time: Timestamp,
    /// When it was heard, by our clock.
    pub heard: Instant,
}

#[derive(Debug)]
enum State {
    Connecting,
    AwaitingWelcome { until: Instant },
    Streaming(Box<Streaming>),
    Closed,
}

#[derive(Debug)]
struct Streaming {
    timeout: Duration,
    assembly: Assembly,
    /// Where the groups received so far end. `position.lsn <= received`.
    received: Lsn,
    /// Sum of bytes of groups begun; never beyond what was granted.
    begun: u64,
    /// Sum of bytes of groups written.
    taken: u64,
    granted: u64,
    /// Groups handed over to be written, in order.
    writing: std::collections::VecDeque<u64>,
    heard: Instant,
    spoke: Instant,
    reported: Option<Status>,
}

impl Receiver {
    /// For a connection that is being made.
    ///
    /// # Panics
    /// If the credit cannot hold one group.
    pub fn new(config: ReceiverConfig, local: LocalLog, facts: LocalFacts) -> Self {
        assert!(config.credit >= GROUP_BYTES_MAX as u64, "the credit must hold one group");
        let applied = local.positions.replay;
        let LocalLog { position, positions, history } = local;
        let upstream = None;
        Self {
            config,
            history,
            position,
            positions,
            applied,
            flushing: false,
            facts,
            upstream,
            state: State::Connecting,
        }
    }

    /// Takes an event and says what is to be done.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Connected => self.introduce(now, &mut actions),
            Event::Received(message) => self.received(message, now, &mut actions),
            Event::Written(position) => self.written(position, &mut actions),
            Event::Flushed(lsn) => self.flushed(lsn, &mut actions),
            Event::Applied(lsn) => self.applied = self.applied.max(lsn),
            Event::Facts(facts) => self.facts = facts,
            Event::Failed(why) => self.close(Ended::Storage(why), &mut actions),
            Event::Tick => {}
            Event::Stop(why) => self.close(Ended::NotWanted(why), &mut actions),
        }
        self.positions.replay = self.applied.min(self.positions.flush);
        assert!(self.positions.in_order(), "{}", self.positions);
        self.report_progress(&mut actions);
        self.watch_time(now, &mut actions);
        if let State::Streaming(streaming) = &mut self.state
            && actions.iter().any(|action| matches!(action, Action::Send(_)))
        {
            streaming.spoke = now;
        }
        actions
    }

    /// When [`Event::Tick`] is due even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::AwaitingWelcome { until } => Some(*until),
            State::Streaming(streaming) => {
                Some((streaming.heard + streaming.timeout).min(streaming.spoke + streaming.timeout / 2))
            }
            State::Connecting | State::Closed => None,
        }
    }

    /// How far this node is.
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// What the upstream last said about itself.
    pub fn upstream(&self) -> Option<UpstreamSeen> {
        self.upstream
    }

    /// Whether the conversation is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    fn introduce(&mut self, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Send(Message::Hello(Hello {
            versions: PROTOCOL_VERSIONS,
            log_format: seawall_wal::format::FORMAT_VERSION,
            segment_size: self.config.segment_size,
            cluster: self.config.cluster,
            node: self.config.node,
            position: self.position,
            credit: self.config.credit,
            name: self.config.name.clone(),
            history: self.history.clone(),
        })));
        self.state = State::AwaitingWelcome { until: now + self.config.handshake_timeout };
    }

    fn received(&mut self, message: Message, now: Instant, actions: &mut Vec<Action>) {
        let (message, state) = match (&mut self.state, message) {
            (State::Closed, _) => return,
            (_, Message::Bye(bye)) => return self.close(Ended::Left(bye), actions),
            (State::AwaitingWelcome { .. } | State::Streaming(_), Message::Refuse(refusal)) => {
                return self.close(Ended::Refused(refusal), actions);
            }
            (State::AwaitingWelcome { .. }, Message::Welcome(welcome)) => return self.welcomed(welcome, now, actions),
            (State::Streaming(streaming), message) => {
                streaming.heard = now;
                match message {
                    Message::Data(data) => return self.data(data, now, actions),
                    Message::History(history) => return self.new_history(history, actions),
                    Message::Keepalive(keepalive) => {
                        self.saw(keepalive.flush, keepalive.time, now);
                        if keepalive.reply {
                            self.report(actions);
                        }
                        return;
                    }
                    message => (message, "streaming"),
                }
            }
            (State::Connecting, message) => (message, "connecting"),
            (State::AwaitingWelcome { .. }, message) => (message, "an answer to the introduction was awaited"),
        };
        self.close(ProtocolError::Unexpected { message: message.name(), state }.into(), actions);
    }

    fn welcomed(&mut self, welcome: Welcome, now: Instant, actions: &mut Vec<Action>) {
        let start = match relate(&self.history, self.position, &welcome.history) {
            Relation::Follows { start } => start,
            Relation::Diverged { common } => {
                // It should have refused us; whoever says it, our log is not a prefix of its.
                let history = Box::new(welcome.history);
                return self.turn_away(Refusal::Diverged { common, history }, actions);
            }
            Relation::UpstreamBehind { current } => {
                return self.turn_away(Refusal::OlderTimeline { current }, actions);
            }
            Relation::Unrelated => {
                let ours = self.history.current().id;
                return self.close(ProtocolError::ForeignHistory { ours }.into(), actions);
            }
        };
        let ours = welcome.history.of_segment(self.config.segment_size.segment_of(start), self.config.segment_size);
        if welcome.start != start {
            let error = ProtocolError::OutOfPlace {
                timeline: welcome.history.current().id,
                start: welcome.start,
                expected: start,
                expected_timeline: ours.id,
            };
            return self.close(error.into(), actions);
        }
        let (lowest, highest) = PROTOCOL_VERSIONS;
        if welcome.version < lowest || welcome.version > highest {
            return self.turn_away(Refusal::Version { lowest: welcome.version, highest: welcome.version }, actions);
        }
        self.saw(welcome.flush, Timestamp::default(), now);
        let streaming = Streaming {
            timeout: Duration::from_millis(welcome.timeout_ms.into()).clamp(TIMEOUT_MIN, TIMEOUT_MAX),
            assembly: Assembly::default(),
            received: self.position.lsn,
            begun: 0,
            taken: 0,
            granted: self.config.credit,
            writing: std::collections::VecDeque::new(),
            heard: now,
            spoke: now,
            reported: None,
        };
        self.state = State::Streaming(Box::new(streaming));
        actions.push(Action::Joined { upstream: welcome.node, primary: welcome.primary });
        if welcome.history != self.history {
            self.history = welcome.history;
            actions.push(Action::Follow(self.history.clone()));
        }
        // A log that was open before may hold bytes that were written and never flushed.
        if self.positions.flush < self.positions.write {
            self.flush(actions);
        }
        self.report(actions);
    }

    fn data(&mut self, data: Data, now: Instant, actions: &mut Vec<Action>) {
        self.saw(data.flush, data.time, now);
        let size = self.config.segment_size;
        let State::Streaming(streaming) = &mut self.state else {
            return;
        };
        if data.offset == 0 && streaming.assembly.is_empty() {
            let expected = self.history.next_byte(streaming.received);
            let timeline = self.history.of_segment(size.segment_of(expected), size);
            let end = data.group_start.advance(data.group_len.into());
            let in_segment = size.segment_of(data.group_start) == size.segment_of(Lsn::new(end.offset() - 1));
            let in_place = data.group_start == expected && data.timeline == timeline.id && in_segment;
            if !in_place || end > self.history.end_of(timeline.id) {
                let error = ProtocolError::OutOfPlace {
                    timeline: data.timeline,
                    start: data.group_start,
                    expected,
                    expected_timeline: timeline.id,
                };
                return self.close(error.into(), actions);
            }
            streaming.begun += u64::from(data.group_len);
            if streaming.begun > streaming.granted {
                let error = ProtocolError::OverCredit { sent: streaming.begun, limit: streaming.granted };
                return self.close(error.into(), actions);
            }
        }
        match streaming.assembly.add(data) {
            Err(error) => self.close(error.into(), actions),
            Ok(None) => {}
            Ok(Some(group)) => {
                streaming.received = group.end();
                streaming.writing.push_back(group.bytes.len() as u64);
                actions.push(Action::Write(group));
            }
        }
    }

    fn new_history(&mut self, history: TimelineHistory, actions: &mut Vec<Action>) {
        let State::Streaming(streaming) = &self.state else {
            return;
        };
        let continues = self.history.common_end(&history).is_some_and(|common| streaming.received <= common)
            && history.current().id >= self.history.current().id;
        if !continues || !streaming.assembly.is_empty() {
            let ours = self.history.current().id;
            return self.close(ProtocolError::ForeignHistory { ours }.into(), actions);
        }
        if history != self.history {
            self.history = history;
            actions.push(Action::Follow(self.history.clone()));
        }
    }

    fn written(&mut self, position: Position, actions: &mut Vec<Action>) {
        self.position = position;
        self.positions.write = self.positions.write.max(position.lsn);
        if planted(Mutant::WrittenReportedAsFlushed) {
            self.positions.flush = self.positions.write;
        }
        if let State::Streaming(streaming) = &mut self.state {
            streaming.taken += streaming.writing.pop_front().expect("only groups handed over are written");
            // Granting in halves keeps the stream going without a message for every group; but the upstream must
            // never be left with less than the next group may need, or both would wait for ever.
            let grant = streaming.taken + self.config.credit;
            let unused = streaming.granted - streaming.begun;
            if grant >= streaming.granted + self.config.credit / 2 || unused < GROUP_BYTES_MAX as u64 {
                streaming.granted = grant;
                actions.push(Action::Send(Message::Credit(grant)));
            }
        }
        self.flush(actions);
    }

    fn flush(&mut self, actions: &mut Vec<Action>) {
        if !self.flushing && !self.is_closed() {
            self.flushing = true;
            actions.push(Action::Flush);
        }
    }

    fn flushed(&mut self, lsn: Lsn, actions: &mut Vec<Action>) {
        self.flushing = false;
        // A flush beside writes may cover more than was reported as written yet.
        self.positions.write = self.positions.write.max(lsn);
        self.positions.flush = self.positions.flush.max(lsn);
        if self.positions.flush < self.positions.write {
            self.flush(actions);
        }
    }

    fn report_progress(&mut self, actions: &mut Vec<Action>) {
        let status = self.status();
        if let State::Streaming(streaming) = &self.state
            && streaming.reported.is_none_or(|reported| {
                reported.positions != status.positions || (!reported.corruption && status.corruption)
            })
        {
            self.report(actions);
        }
    }

    fn report(&mut self, actions: &mut Vec<Action>) {
        let status = self.status();
        if let State::Streaming(streaming) = &mut self.state {
            streaming.reported = Some(status);
            actions.push(Action::Send(Message::Status(status)));
        }
    }

    fn status(&self) -> Status {
        let LocalFacts { disk_free, apply_rate, corruption, io_path } = self.facts;
        let echo = self.upstream.map_or(Timestamp::default(), |upstream| upstream.time);
        Status { positions: self.positions, disk_free, apply_rate, echo, corruption, io_path }
    }

    fn saw(&mut self, flush: Lsn, time: Timestamp, heard: Instant) {
        self.upstream = Some(UpstreamSeen { flush, time, heard });
    }

    fn watch_time(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match &self.state {
            State::AwaitingWelcome { until } if now >= *until => {
                self.close(Ended::Silent(self.config.handshake_timeout), actions);
            }
            State::Streaming(streaming) => {
                let timeout = streaming.timeout;
                if now.saturating_duration_since(streaming.heard) >= timeout {
                    self.close(Ended::Silent(timeout), actions);
                } else if now.saturating_duration_since(streaming.spoke) >= timeout / 2 {
                    self.report(actions);
                }
            }
            State::Connecting | State::AwaitingWelcome { .. } | State::Closed => {}
        }
    }

    /// The upstream took us and should not have: it hears why.
    fn turn_away(&mut self, refusal: Refusal, actions: &mut Vec<Action>) {
        let bye = Bye { reason: ByeReason::NotWanted, text: refusal.to_string() };
        actions.push(Action::Send(Message::Bye(bye)));
        self.close(Ended::Refused(refusal), actions);
    }

    fn close(&mut self, why: Ended, actions: &mut Vec<Action>) {
        if self.is_closed() {
            return;
        }
        actions.extend(why.bye().map(|bye| Action::Send(Message::Bye(bye))));
        actions.push(Action::Close(why));
        self.state = State::Closed;
    }
}

/// Whatever an upstream says, its silence is noticed between these.
const TIMEOUT_MIN: Duration = Duration::from_millis(50);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

const _: () = assert!(CREDIT_DEFAULT >= GROUP_BYTES_MAX as u64);
