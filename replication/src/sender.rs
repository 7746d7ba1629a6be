//! One standby as its upstream sees it: events and the time in, actions out. It decides whether the standby may be fed, what
//! is sent next and when silence has lasted too long. Sockets, the log and the table of standbys are `driver`'s business.
//! Who is no standby and only fetches log for a repair is answered in `fetch`.

mod fetch;

use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_wal::{ClusterId, LogBytes, Lsn, NodeId, Position, SegmentSize, TimelineHistory, Timestamp};

use crate::ended::Ended;
use crate::error::ProtocolError;
use crate::frame::DATA_BYTES_MAX;
use crate::message::{
    Data, GROUP_BYTES_MAX, Hello, Identity, Keepalive, Message, PROTOCOL_VERSIONS, Positions, Refusal, StandbyName,
    Status, Welcome,
};
use crate::standing::{Relation, relate};

use fetch::Fetching;

/// What a sender needs to know for its whole life.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// Whose log is sent.
    pub cluster: ClusterId,
    /// The sending node.
    pub node: NodeId,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// After so much silence the standby is given up.
    pub timeout: Duration,
    /// A connection has so long to introduce itself.
    pub handshake_timeout: Duration,
    /// Where writes go; empty if unknown.
    pub primary: String,
}

/// The upstream's log at this moment.
#[derive(Clone, Debug)]
pub struct LogState {
    /// Up to here it is durable and may be sent.
    pub flush: Lsn,
    /// The oldest position it can be read from.
    pub oldest: Lsn,
    /// Its history.
    pub history: TimelineHistory,
    /// Whether it is open. One that is not, because its node waits for a repair itself, is for who repairs a segment; how far it
    /// was flushed nobody knows yet, so what is not given may be there after all.
    pub is_open: bool,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The standby said something.
    Received(Message),
    /// The log was flushed further.
    Flushed(Lsn),
    /// The log follows a new history.
    History(TimelineHistory),
    /// The answer to [`Action::Check`].
    Checked(Check),
    /// The answer to [`Action::Read`].
    Read(ReadOutcome),
    /// Time passed.
    Tick,
    /// The node shuts down: send what is flushed, then leave.
    Drain,
    /// Leave at once.
    Stop(&'static str),
}

/// Whether a standby that introduced itself may be fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The chain at its position is ours, and there is room for it.
    Agrees,
    /// At its position our log has another chain, or no record ends there.
    Differs,
    /// For another reason it may not.
    Refuse(Refusal),
}

/// What reading the log gave.
#[derive(Clone, Debug)]
pub enum ReadOutcome {
    /// Whole records from the position asked for on.
    Group(LogBytes),
    /// Nothing is flushed beyond it.
    Nothing,
    /// It was recycled.
    Removed {
        /// What can still be read.
        oldest: Lsn,
    },
    /// The log could not be read; nothing unverified is sent.
    Failed(String),
}

/// Something is to be done, in this order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send this.
    Send(Message),
    /// Compare the chain at the standby's position with the log's, take its name; answer with [`Event::Checked`].
    Check {
        /// What the operator calls it.
        name: StandbyName,
        /// Itself.
        node: NodeId,
        /// The end of its log.
        position: Position,
    },
    /// Read whole records from this position on, about so many bytes; answer with [`Event::Read`].
    Read {
        /// An end of a record.
        from: Lsn,
        /// About so many bytes.
        bytes_max: usize,
    },
    /// It joined: from now on it is a standby of this node.
    Joined,
    /// It reported.
    Progress(Status),
    /// What it needs next is no longer here: it has lost its place in this log.
    LostPlace {
        /// What the operator calls it.
        name: StandbyName,
        /// The end of its log.
        position: Lsn,
    },
    /// A newer timeline than ours exists: somebody was promoted.
    Superseded(TimelineHistory),
    /// The conversation is over; everything sent before is still to be delivered.
    Close(Ended),
}

/// The conversation with one standby.
#[derive(Debug)]
pub struct Sender {
    config: SenderConfig,
    log: LogState,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitingHello { until: Instant },
    AwaitingCheck { hello: Box<Hello>, start: Lsn, until: Instant },
    Streaming(Box<Streaming>),
    Fetching(Fetching),
    Closed,
}

#[derive(Debug)]
struct Streaming {
    /// Where the next group is read from: the end of the last one.
    next: Lsn,
    /// A read is under way.
    reading: bool,
    /// A group that was read and does not fit into the credit yet.
    held: Option<LogBytes>,
    inflight: Inflight,
    /// `replay <= flush <= write <= next`.
    confirmed: Positions,
    heard: Instant,
    spoke: Instant,
    /// An answer was asked for and has not come.
    asked: bool,
    draining: bool,
}

/// Bytes of groups sent against bytes granted.
#[derive(Debug)]
struct Inflight {
    sent: u64,
    granted: u64,
}

/// About so much log is read at once.
const READ_BYTES: usize = 1 << 20;

const _: () = assert!(READ_BYTES <= DATA_BYTES_MAX && READ_BYTES < GROUP_BYTES_MAX);

impl Sender {
    /// For a connection that was just accepted.
    pub fn new(config: SenderConfig, log: LogState, now: Instant) -> Self {
        let until = now + config.handshake_timeout;
        Self { config, log, state: State::AwaitingHello { until } }
    }

    /// Takes an event and says what is to be done. `wall` is this node's clock, for the standby to echo.
    pub fn handle(&mut self, event: Event, now: Instant, wall: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Flushed(lsn) => self.log.flush = self.log.flush.max(lsn),
            Event::History(history) => self.follow_history(history, &mut actions),
            Event::Received(message) => self.received(message, now, &mut actions),
            Event::Checked(check) => self.checked(check, now, &mut actions),
            Event::Read(outcome) => match &self.state {
                State::Fetching(_) => self.answer_fetch(outcome, now, wall, &mut actions),
                _ => self.read(outcome, &mut actions),
            },
            Event::Tick => {}
            Event::Drain => self.drain(&mut actions),
            Event::Stop(why) => self.close(Ended::NotWanted(why), &mut actions),
        }
        self.pump(wall, &mut actions);
        self.watch_time(now, wall, &mut actions);
        if let State::Streaming(streaming) = &mut self.state
            && actions.iter().any(|action| matches!(action, Action::Send(_)))
        {
            streaming.spoke = now;
        }
        actions
    }

    /// When [`Event::Tick`] is due even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let timeout = self.config.timeout;
        match &self.state {
            State::AwaitingHello { until } | State::AwaitingCheck { until, .. } => Some(*until),
            State::Streaming(streaming) if streaming.asked => {
                Some((streaming.heard + timeout).min(streaming.spoke + timeout / 2))
            }
            State::Streaming(streaming) => Some(streaming.heard.min(streaming.spoke) + timeout / 2),
            State::Fetching(fetching) => Some(fetching.until),
            State::Closed => None,
        }
    }

    /// Whether the conversation is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    fn received(&mut self, message: Message, now: Instant, actions: &mut Vec<Action>) {
        let state = match (&mut self.state, message) {
            (State::Closed, _) => return,
            (_, Message::Bye(bye)) => return self.close(Ended::Left(bye), actions),
            (State::AwaitingHello { until }, Message::Hello(hello)) => {
                let until = *until;
                return self.hello(hello, until, actions);
            }
            (State::AwaitingHello { .. }, Message::Identify(_)) => {
                actions.push(Action::Send(Message::Identity(self.identity())));
                return self.close(Ended::NotWanted("it only asked who this is"), actions);
            }
            (State::AwaitingHello { .. }, Message::Fetch(fetch)) => return self.fetch(None, fetch, now, actions),
            (State::Fetching(fetching), Message::Fetch(fetch)) if !fetching.is_reading() => {
                let next = fetching.next;
                return self.fetch(next, fetch, now, actions);
            }
            (State::Streaming(streaming), Message::Status(status)) => {
                (streaming.heard, streaming.asked) = (now, false);
                if let Err(error) = streaming.confirm(status.positions) {
                    return self.close(error.into(), actions);
                }
                actions.push(Action::Progress(status));
                return self.leave_if_drained(actions);
            }
            (State::Streaming(streaming), Message::Credit(granted)) => {
                (streaming.heard, streaming.asked) = (now, false);
                streaming.inflight.granted = streaming.inflight.granted.max(granted);
                return;
            }
            (State::AwaitingHello { .. }, message) => (message, "an introduction was awaited"),
            (State::AwaitingCheck { .. }, message) => (message, "the introduction was being checked"),
            (State::Streaming(_), message) => (message, "streaming"),
            (State::Fetching(fetching), message) => (message, fetching.doing()),
        };
        let error = ProtocolError::Unexpected { message: state.0.name(), state: state.1 };
        self.close(error.into(), actions);
    }

    fn identity(&self) -> Identity {
        Identity {
            versions: PROTOCOL_VERSIONS,
            log_format: seawall_wal::format::FORMAT_VERSION,
            segment_size: self.config.segment_size,
            cluster: self.config.cluster,
            node: self.config.node,
            oldest: self.log.oldest,
            flush: self.log.flush,
            history: self.log.history.clone(),
        }
    }

    fn hello(&mut self, hello: Hello, until: Instant, actions: &mut Vec<Action>) {
        if !self.log.is_open {
            return self.refuse(Refusal::NotServing, actions);
        }
        match self.judge(&hello, actions) {
            Err(refusal) => self.refuse(refusal, actions),
            Ok(start) => {
                let (name, node, position) = (hello.name.clone(), hello.node, hello.position);
                actions.push(Action::Check { name, node, position });
                self.state = State::AwaitingCheck { hello: Box::new(hello), start, until };
            }
        }
    }

    /// Whether a standby may be fed, as far as what it says about itself tells; and from which byte on.
    fn judge(&self, hello: &Hello, actions: &mut Vec<Action>) -> Result<Lsn, Refusal> {
        let (lowest, highest) = PROTOCOL_VERSIONS;
        if hello.versions.0 > highest || hello.versions.1 < lowest {
            return Err(Refusal::Version { lowest, highest });
        }
        if hello.cluster != self.config.cluster {
            return Err(Refusal::WrongCluster);
        }
        let segment_size = self.config.segment_size;
        if hello.segment_size != segment_size || hello.log_format < seawall_wal::format::FORMAT_VERSION {
            return Err(Refusal::Format { segment_size: segment_size.bytes() });
        }
        if hello.node == self.config.node {
            return Err(Refusal::NameTaken);
        }
        let history = || Box::new(self.log.history.clone());
        let start = match relate(&hello.history, hello.position, &self.log.history) {
            Relation::Follows { start } => start,
            Relation::Diverged { common } => return Err(Refusal::Diverged { common, history: history() }),
            Relation::UpstreamBehind { current } => {
                actions.push(Action::Superseded(hello.history.clone()));
                return Err(Refusal::OlderTimeline { current });
            }
            Relation::Unrelated => return Err(Refusal::Diverged { common: Position::ZERO, history: history() }),
        };
        if hello.position.lsn > self.log.flush {
            return Err(Refusal::Ahead { flush: self.log.flush });
        }
        if hello.position.lsn < self.log.oldest {
            actions.push(Action::LostPlace { name: hello.name.clone(), position: hello.position.lsn });
            return Err(Refusal::Removed { oldest: self.log.oldest });
        }
        Ok(start)
    }

    fn checked(&mut self, check: Check, now: Instant, actions: &mut Vec<Action>) {
        let State::AwaitingCheck { hello, start, .. } = &self.state else {
            return;
        };
        match check {
            Check::Refuse(refusal) => self.refuse(refusal, actions),
            Check::Differs => {
                // The timelines agree and the bytes do not; all that is sure is where this timeline began.
                let common = self.log.history.of_position(hello.position.lsn).fork;
                let history = Box::new(self.log.history.clone());
                self.refuse(Refusal::Diverged { common, history }, actions);
            }
            Check::Agrees => {
                let (_, version) = (hello.versions.0, hello.versions.1.min(PROTOCOL_VERSIONS.1));
                let welcome = Welcome {
                    version,
                    node: self.config.node,
                    flush: self.log.flush,
                    oldest: self.log.oldest,
                    start: *start,
                    timeout_ms: self.config.timeout.as_millis().try_into().unwrap_or(u32::MAX),
                    primary: self.config.primary.clone(),
                    history: self.log.history.clone(),
                };
                let streaming = Streaming {
                    next: hello.position.lsn,
                    reading: false,
                    held: None,
                    inflight: Inflight { sent: 0, granted: hello.credit },
                    confirmed: Positions { write: hello.position.lsn, flush: Lsn::ZERO, replay: Lsn::ZERO },
                    heard: now,
                    spoke: now,
                    asked: false,
                    draining: false,
                };
                actions.extend([Action::Send(Message::Welcome(welcome)), Action::Joined]);
                self.state = State::Streaming(Box::new(streaming));
            }
        }
    }

    fn follow_history(&mut self, history: TimelineHistory, actions: &mut Vec<Action>) {
        let position = match &self.state {
            State::Streaming(streaming) => streaming.next,
            _ => Lsn::ZERO,
        };
        let forked_behind = self.log.history.common_end(&history).is_none_or(|common| position > common);
        if forked_behind {
            let fork = history.current().fork;
            let refusal = Refusal::Diverged { common: fork, history: Box::new(history.clone()) };
            self.log.history = history;
            return self.refuse(refusal, actions);
        }
        if matches!(self.state, State::Streaming(_)) && history != self.log.history {
            actions.push(Action::Send(Message::History(history.clone())));
        }
        self.log.history = history;
    }

    fn read(&mut self, outcome: ReadOutcome, actions: &mut Vec<Action>) {
        let State::Streaming(streaming) = &mut self.state else {
            return;
        };
        assert!(streaming.reading, "a read came back that was not asked for");
        streaming.reading = false;
        match outcome {
            ReadOutcome::Group(group) => {
                assert!(group.bytes.len() <= GROUP_BYTES_MAX, "a group of {} bytes was read", group.bytes.len());
                if group.start != self.log.history.next_byte(streaming.next) {
                    // The log follows a history we have not been told of yet. The standby comes back in a moment.
                    return self.refuse(Refusal::NotServing, actions);
                }
                // Reading gives flushed bytes only, perhaps flushed since we were last told.
                self.log.flush = self.log.flush.max(group.end());
                streaming.held = Some(group);
            }
            ReadOutcome::Nothing => {}
            ReadOutcome::Removed { oldest } => self.refuse(Refusal::Removed { oldest }, actions),
            ReadOutcome::Failed(why) => self.close(Ended::Storage(why), actions),
        }
    }

    /// Sends what may be sent and asks for what comes next.
    fn pump(&mut self, wall: Timestamp, actions: &mut Vec<Action>) {
        let State::Streaming(streaming) = &mut self.state else {
            return;
        };
        if streaming.held.as_ref().is_some_and(|group| streaming.inflight.has_room(group)) {
            let group = streaming.held.take().expect("checked above");
            streaming.inflight.sent += group.bytes.len() as u64;
            streaming.next = group.end();
            let flush = self.log.flush;
            assert!(streaming.next <= flush, "only flushed bytes are sent");
            actions.extend(pieces(group, flush, wall).map(|data| Action::Send(Message::Data(data))));
        }
        let waiting = self.log.history.next_byte(streaming.next) < self.log.flush;
        if waiting && !streaming.reading && streaming.held.is_none() {
            streaming.reading = true;
            actions.push(Action::Read { from: streaming.next, bytes_max: READ_BYTES });
        }
    }

    fn drain(&mut self, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Streaming(streaming) => {
                streaming.draining = true;
                self.leave_if_drained(actions);
            }
            State::Closed => {}
            State::AwaitingHello { .. } | State::AwaitingCheck { .. } | State::Fetching(_) => {
                self.refuse(Refusal::NotServing, actions);
            }
        }
    }

    fn leave_if_drained(&mut self, actions: &mut Vec<Action>) {
        if let State::Streaming(streaming) = &self.state
            && streaming.draining
            && self.log.history.bytes_between(streaming.confirmed.flush, self.log.flush) == 0
        {
            self.close(Ended::Drained, actions);
        }
    }

    fn watch_time(&mut self, now: Instant, wall: Timestamp, actions: &mut Vec<Action>) {
        let timeout = self.config.timeout;
        let streaming = match &mut self.state {
            State::AwaitingHello { until } | State::AwaitingCheck { until, .. } => {
                if now >= *until {
                    self.close(Ended::Silent(self.config.handshake_timeout), actions);
                }
                return;
            }
            State::Fetching(fetching) => {
                if now >= fetching.until {
                    self.close(Ended::Silent(timeout), actions);
                }
                return;
            }
            State::Streaming(streaming) => streaming,
            State::Closed => return,
        };
        let silent = now.saturating_duration_since(streaming.heard);
        if silent >= timeout {
            return self.close(Ended::Silent(timeout), actions);
        }
        let ask = silent >= timeout / 2 && !streaming.asked;
        if ask || now.saturating_duration_since(streaming.spoke) >= timeout / 2 {
            streaming.asked |= ask;
            let keepalive = Keepalive { flush: self.log.flush, time: wall, reply: ask };
            actions.push(Action::Send(Message::Keepalive(keepalive)));
        }
    }

    fn refuse(&mut self, refusal: Refusal, actions: &mut Vec<Action>) {
        if self.is_closed() {
            return;
        }
        actions.push(Action::Send(Message::Refuse(refusal.clone())));
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

impl Streaming {
    fn confirm(&mut self, positions: Positions) -> Result<(), ProtocolError> {
        let impossible = |stage, reported, limit, expected| {
            Err(ProtocolError::ImpossiblePosition { stage, reported, limit, expected })
        };
        if positions.write > self.next {
            return impossible("write", positions.write, "what was sent ends at", self.next);
        }
        let Positions { write, flush, replay } = self.confirmed;
        let stages = [
            ("write", positions.write, write),
            ("flush", positions.flush, flush),
            ("replay", positions.replay, replay),
        ];
        for (stage, reported, before) in stages {
            if reported < before {
                return impossible(stage, reported, "it had reported", before);
            }
        }
        assert!(positions.in_order(), "parsing checked the order");
        self.confirmed = positions;
        Ok(())
    }
}

impl Inflight {
    fn has_room(&self, group: &LogBytes) -> bool {
        self.sent + group.bytes.len() as u64 <= self.granted
    }
}

/// A group in pieces of at most a frame's size. The bytes are shared, not copied.
fn pieces(group: LogBytes, flush: Lsn, time: Timestamp) -> impl Iterator<Item = Data> {
    let (timeline, group_start) = (group.timeline, group.start);
    let group_len = u32::try_from(group.bytes.len()).expect("a group is at most 17 MiB");
    let all = Bytes::from(group.bytes);
    (0..all.len()).step_by(DATA_BYTES_MAX).map(move |offset| {
        let bytes = all.slice(offset..all.len().min(offset + DATA_BYTES_MAX));
        let offset = u32::try_from(offset).expect("a group is at most 17 MiB");
        Data { timeline, group_start, group_len, offset, flush, time, bytes }
    })
}
