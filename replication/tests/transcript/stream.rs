//! A sender and a receiver with a wire between them and a log that any multiple of 8 may cut. Unless held, whatever is asked
//! for is done at once; the transcript shows what is said and what the standby does to its log.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_replication::Ended;
use seawall_replication::message::{
    CREDIT_DEFAULT, Data, Fetch, Message, PROTOCOL_VERSIONS, Positions, StandbyName, Status,
};
use seawall_replication::receiver::{self, LocalFacts, LocalLog, Receiver, ReceiverConfig};
use seawall_replication::sender::{self, Check, LogState, ReadOutcome, Sender, SenderConfig};
use seawall_wal::{
    Chain, ClusterId, LogBytes, Lsn, NodeId, Position, SegmentSize, TimelineHistory, TimelineId, TimelineNonce,
    Timestamp,
};

use super::{Command, World};

const SIZE: SegmentSize = SegmentSize::MIN;
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct StreamWorld {
    started: Instant,
    now: Instant,
    log: LogState,
    check: Check,
    /// Where the upstream's log is damaged.
    damaged: Option<Lsn>,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    cluster: u8,
    node: u8,
    local: LocalLog,
    to_upstream: VecDeque<Message>,
    to_standby: VecDeque<Message>,
    cut: bool,
    doing: VecDeque<receiver::Action>,
    held: Vec<receiver::Action>,
    hold_writes: bool,
    hold_flushes: bool,
    told: Vec<String>,
}

fn first() -> TimelineHistory {
    TimelineHistory::first(TimelineNonce::from_bytes([1; 16]))
}

fn position(lsn: Lsn) -> Position {
    Position { lsn, chain: Chain(lsn.offset()) }
}

fn fork(history: &TimelineHistory, fork: Lsn, nonce: u8) -> TimelineHistory {
    let id = history.current().id.next();
    history.forked(id, TimelineNonce::from_bytes([nonce; 16]), position(fork), SIZE).unwrap()
}

impl StreamWorld {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            now,
            log: LogState { flush: Lsn::ZERO, oldest: Lsn::ZERO, history: first(), is_open: true },
            check: Check::Agrees,
            damaged: None,
            sender: None,
            receiver: None,
            cluster: 1,
            node: 2,
            local: LocalLog { position: Position::ZERO, positions: Positions::default(), history: first() },
            to_upstream: VecDeque::new(),
            to_standby: VecDeque::new(),
            cut: false,
            doing: VecDeque::new(),
            held: Vec::new(),
            hold_writes: false,
            hold_flushes: false,
            told: Vec::new(),
        }
    }

    fn tell(&mut self, line: impl Into<String>) {
        self.told.push(line.into());
    }

    fn connect(&mut self) {
        let config = SenderConfig {
            cluster: ClusterId::from_bytes([1; 16]),
            node: NodeId::from_bytes([1; 16]),
            segment_size: SIZE,
            timeout: TIMEOUT,
            handshake_timeout: TIMEOUT,
            primary: "db:7400".to_owned(),
        };
        self.sender = Some(Sender::new(config, self.log.clone(), self.now));
        let config = ReceiverConfig {
            cluster: ClusterId::from_bytes([self.cluster; 16]),
            node: NodeId::from_bytes([self.node; 16]),
            name: StandbyName::new("s").unwrap(),
            segment_size: SIZE,
            credit: CREDIT_DEFAULT,
            handshake_timeout: TIMEOUT,
        };
        self.receiver = Some(Receiver::new(config, self.local.clone(), LocalFacts::default()));
        self.to_upstream.clear();
        self.to_standby.clear();
        self.doing.clear();
        self.held.clear();
        self.standby(receiver::Event::Connected);
    }

    /// Somebody connects who is no standby.
    fn connect_fetcher(&mut self) {
        self.connect();
        self.receiver = None;
        self.doing.clear();
    }

    fn upstream(&mut self, event: sender::Event) {
        let Some(sender) = &mut self.sender else { return };
        let wall = Timestamp((self.now - self.started).as_micros() as u64);
        for action in sender.handle(event, self.now, wall) {
            match action {
                sender::Action::Send(message) => self.to_standby.push_back(message),
                sender::Action::Check { .. } => {
                    let check = self.check.clone();
                    self.upstream(sender::Event::Checked(check));
                }
                sender::Action::Read { from, bytes_max } => {
                    let outcome = self.read(from, bytes_max);
                    self.upstream(sender::Event::Read(outcome));
                }
                sender::Action::Joined | sender::Action::Progress(_) => {}
                sender::Action::LostPlace { name, position } => {
                    self.tell(format!("upstream: {name} lost its place at {position}"));
                }
                sender::Action::Superseded(history) => {
                    self.tell(format!("upstream: superseded by timeline {}", history.current().id));
                }
                sender::Action::Close(why) => self.tell(format!("upstream: closes ({why})")),
            }
        }
    }

    fn read(&self, from: Lsn, bytes_max: usize) -> ReadOutcome {
        if from < self.log.oldest {
            return ReadOutcome::Removed { oldest: self.log.oldest };
        }
        let start = self.log.history.next_byte(from);
        let timeline = self.log.history.of_segment(SIZE.segment_of(start), SIZE).id;
        let end = self.log.flush.min(SIZE.end_of(SIZE.segment_of(start))).min(self.log.history.end_of(timeline));
        let len = end.distance_from(start).min(bytes_max as u64) as usize;
        if len == 0 {
            return ReadOutcome::Nothing;
        }
        if let Some(at) = self.damaged.filter(|at| (start..start.advance(len as u64)).contains(at)) {
            return ReadOutcome::Failed(format!("the record at {at} does not match its checksum"));
        }
        ReadOutcome::Group(LogBytes { timeline, start, bytes: vec![0; len] })
    }

    fn standby(&mut self, event: receiver::Event) {
        let Some(receiver) = &mut self.receiver else { return };
        self.doing.extend(receiver.handle(event, self.now));
    }

    /// Does what the standby's machine asked for, in order.
    fn act(&mut self, action: receiver::Action) {
        match action {
            receiver::Action::Write(_) if self.hold_writes => self.held.push(action),
            receiver::Action::Flush if self.hold_flushes => self.held.push(action),
            receiver::Action::Send(message) => self.to_upstream.push_back(message),
            receiver::Action::Joined { primary, .. } => self.tell(format!("standby: joined, writes go to {primary}")),
            receiver::Action::Follow(history) => {
                self.tell(format!("standby: follows timeline {}", history.current().id));
                self.local.history = history;
            }
            receiver::Action::Write(log) => {
                self.tell(format!("standby: writes {}..{} of timeline {}", log.start, log.end(), log.timeline));
                self.local.position = position(log.end());
                self.local.positions.write = log.end();
                self.standby(receiver::Event::Written(self.local.position));
                self.standby(receiver::Event::Applied(log.end()));
            }
            receiver::Action::Flush => {
                let flushed = self.local.positions.write;
                self.local.positions.flush = flushed;
                self.local.positions.replay = flushed;
                self.standby(receiver::Event::Flushed(flushed));
            }
            receiver::Action::Close(why) => {
                self.tell(format!("standby: closes ({why})"));
                if let Ended::Refused(refusal) = why {
                    let again = if refusal.may_pass() { "tries again" } else { "needs somebody's help" };
                    self.tell(format!("standby: {again}"));
                }
            }
        }
    }

    /// Delivers until both are quiet.
    fn settle(&mut self) {
        loop {
            if let Some(action) = self.doing.pop_front() {
                self.act(action);
            } else if let Some(message) = self.to_upstream.pop_front() {
                self.tell(format!("standby -> {message}"));
                if !self.cut {
                    self.upstream(sender::Event::Received(message));
                }
            } else if let Some(message) = self.to_standby.pop_front() {
                self.tell(format!("upstream -> {message}"));
                if !self.cut {
                    self.standby(receiver::Event::Received(message));
                }
            } else {
                return;
            }
        }
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.settle();
            let deadlines =
                [self.sender.as_ref().and_then(Sender::deadline), self.receiver.as_ref().and_then(Receiver::deadline)];
            let Some(next) = deadlines.into_iter().flatten().min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.tell(format!("after {:?}:", self.now - self.started));
            self.upstream(sender::Event::Tick);
            self.standby(receiver::Event::Tick);
        }
        self.now = end;
    }

    fn say(&mut self, command: &Command) {
        let number = |key: &str, default: u64| command.get(key).unwrap_or(default);
        match command.word(1) {
            "data" => {
                let bytes = Bytes::from(vec![0; number("bytes", 8) as usize]);
                let data = Data {
                    timeline: TimelineId(number("timeline", 1) as u32),
                    group_start: command.need("group"),
                    group_len: number("of", bytes.len() as u64) as u32,
                    offset: number("offset", 0) as u32,
                    flush: self.log.flush,
                    time: Timestamp(0),
                    bytes,
                };
                self.to_standby.push_back(Message::Data(data));
            }
            "status" => {
                let positions = Positions {
                    write: command.need("write"),
                    flush: command.need("flush"),
                    replay: command.need("replay"),
                };
                self.to_upstream.push_back(Message::Status(Status { positions, ..Status::default() }));
            }
            "fetch" => {
                let (lowest, highest) = PROTOCOL_VERSIONS;
                let fetch = Fetch {
                    versions: (lowest, number("version", highest.into()) as u16),
                    log_format: 1,
                    segment_size: SegmentSize::new(number("size", SIZE.bytes().into()) as u32).unwrap(),
                    cluster: ClusterId::from_bytes([number("cluster", 1) as u8; 16]),
                    timeline: TimelineId(number("timeline", 1) as u32),
                    from: command.need("from"),
                };
                self.to_upstream.push_back(Message::Fetch(fetch));
            }
            "credit" => {
                let credit = Message::Credit(command.need("limit"));
                if command.word(0) == "upstream" { &mut self.to_standby } else { &mut self.to_upstream }
                    .push_back(credit);
            }
            word => panic!("nobody can say `{word}`"),
        }
    }
}

impl World for StreamWorld {
    fn run(&mut self, command: &Command) -> Vec<String> {
        match command.verb.as_str() {
            "upstream" => {
                self.log.flush = command.need("flush");
                self.log.oldest = command.get("oldest").unwrap_or(self.log.oldest);
                if let Some(at) = command.get("fork") {
                    self.log.history = fork(&first(), at, 2);
                }
            }
            "standby" => {
                let at = command.need("at");
                self.cluster = command.get("cluster").unwrap_or(self.cluster);
                self.node = command.get("node").unwrap_or(self.node);
                let chain = command.get("chain").map_or(position(at).chain, Chain);
                let positions = Positions::all(at);
                let history =
                    command.get("fork").map_or(first(), |at| fork(&first(), at, command.get("nonce").unwrap_or(2)));
                self.local = LocalLog { position: Position { lsn: at, chain }, positions, history };
            }
            "chain" => self.check = if command.word(0) == "differs" { Check::Differs } else { Check::Agrees },
            "connect" => {
                self.connect();
                self.cut = command.words.iter().any(|word| word == "lost");
            }
            "flush" => {
                self.log.flush = command.word(0).parse().unwrap();
                self.upstream(sender::Event::Flushed(self.log.flush));
            }
            "damage" => self.damaged = Some(command.word(0).parse().unwrap()),
            "fetcher" => self.connect_fetcher(),
            "close" => self.log.is_open = false,
            "recycle" => self.log.oldest = command.word(0).parse().unwrap(),
            "promote" => {
                self.log.history = fork(&self.log.history, command.word(0).parse().unwrap(), 2);
                self.upstream(sender::Event::History(self.log.history.clone()));
            }
            "drain" => self.upstream(sender::Event::Drain),
            "cut" => self.cut = true,
            "hold" if command.word(0) == "writes" => self.hold_writes = true,
            "hold" => self.hold_flushes = true,
            "release" => {
                (self.hold_writes, self.hold_flushes) = (false, false);
                self.doing.extend(std::mem::take(&mut self.held));
            }
            "fail" => self.standby(receiver::Event::Failed(command.words.join(" "))),
            "say" => self.say(command),
            "wait" => self.wait(Duration::from_secs(command.word(0).parse().unwrap())),
            verb => panic!("unknown command `{verb}`"),
        }
        self.settle();
        std::mem::take(&mut self.told)
    }
}
