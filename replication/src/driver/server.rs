//! Feeds standbys: accepts connections, holds the conversation with each through a [`Sender`], reads the log for it on
//! threads that may block, and keeps the registry up to date. Bounded in connections, in memory for each, and in the time
//! any peer may take.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_wal::{Clock as _, SystemClock};
use seawall_wal::{
    ClusterId, Error as WalError, Lsn, NodeId, Position, SealedSegments, SegmentSize, TimelineHistory, Timestamp,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep_until, timeout};

use super::conversation::{Moved, Side, Wire};
use super::registry::{ConnectionId, Registry};
use super::socket::prepare;
use crate::ended::Ended;
use crate::error::{Error, Result};
use crate::message::{GROUP_BYTES_MAX, Refusal, StandbyName};
use crate::sender::{Action, Check, Event, LogState, ReadOutcome, Sender, SenderConfig};
use seawall_wal::LogOwner;

/// How a node feeds standbys.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// What standbys are told about where writes go; empty if unknown.
    pub primary: String,
    /// After so much silence a standby is given up; it also has so long for a frame it began.
    pub timeout: Duration,
    /// A connection has so long to introduce itself.
    pub handshake_timeout: Duration,
    /// Connections at a time.
    pub peers_max: usize,
}

impl ServerConfig {
    /// With a timeout of 10 s and at most 64 standbys.
    pub fn new(listen: SocketAddr, cluster: ClusterId, node: NodeId, segment_size: SegmentSize) -> Self {
        let timeout = Duration::from_secs(10);
        let primary = String::new();
        Self { listen, cluster, node, segment_size, primary, timeout, handshake_timeout: timeout, peers_max: 64 }
    }
}

/// A node's replication port. Dropping it closes every connection.
#[derive(Debug)]
pub struct ReplicationServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    /// Closed when the last connection has ended.
    gone: mpsc::Receiver<()>,
    phase: watch::Sender<Phase>,
}

/// What the log looks like to everybody at once: never a flush LSN without the history that explains it.
#[derive(Clone, Debug)]
struct News {
    flush: Lsn,
    history: Arc<TimelineHistory>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Stopped,
}

/// What is given at a port.
enum Service {
    /// The log, to standbys, and to who repairs a segment.
    Log { owner: Arc<dyn LogOwner>, registry: Arc<Registry> },
    /// Of a log that is not open, what is sealed, to who repairs a segment.
    Sealed(SealedSegments),
}

struct Shared {
    config: ServerConfig,
    service: Service,
    news: watch::Receiver<News>,
    phase: watch::Receiver<Phase>,
    peers: Arc<Semaphore>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A queue beyond this many bytes is drained before more log is read.
const QUEUE_BYTES: usize = 2 << 20;
/// A refused or ended connection has so long to take the last message.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl ReplicationServer {
    /// Starts listening. Runs on the current tokio runtime.
    pub async fn start(config: ServerConfig, owner: Arc<dyn LogOwner>, registry: Arc<Registry>) -> Result<Self> {
        Self::listen(config, Service::Log { owner, registry }).await
    }

    /// Starts listening for a node whose log is not open: who repairs a segment gets those that are sealed, and everybody else is
    /// asked to come back.
    pub async fn start_sealed(config: ServerConfig, segments: SealedSegments) -> Result<Self> {
        Self::listen(config, Service::Sealed(segments)).await
    }

    async fn listen(config: ServerConfig, service: Service) -> Result<Self> {
        let network =
            |operation, source| Error::Network { operation, peer: config.listen.to_string(), source: Arc::new(source) };
        let listener = TcpListener::bind(config.listen).await.map_err(|error| network("listen on", error))?;
        let address = listener.local_addr().map_err(|error| network("listen on", error))?;
        let (news_out, news) = watch::channel(service.news());
        let (phase_out, phase) = watch::channel(Phase::Serving);
        let peers = Arc::new(Semaphore::new(config.peers_max));
        let shared = Arc::new(Shared { config, service, news, phase, peers });
        let (alive, gone) = mpsc::channel(1);
        let tasks = vec![
            tokio::spawn(tell_news(shared.clone(), news_out)),
            tokio::spawn(tick(shared.clone())),
            tokio::spawn(accept(shared.clone(), listener, alive)),
        ];
        match shared.service {
            Service::Log { .. } => tracing::info!(%address, "feeding standbys"),
            Service::Sealed(_) => tracing::info!(%address, "giving sealed segments to nodes that repair theirs"),
        }
        Ok(Self { address, shared, tasks, gone, phase: phase_out })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new standbys, sends every connected one what is flushed by now, makes durable how far each is, and leaves.
    /// At the deadline it leaves anyway, and says who lacks what.
    pub async fn drain(mut self, deadline: Duration) -> std::result::Result<(), Vec<(StandbyName, u64)>> {
        let _ = self.phase.send(Phase::Draining);
        let all_left = timeout(deadline, self.gone.recv()).await.is_ok();
        let Some(registry) = self.shared.service.registry().cloned() else { return Ok(()) };
        let saving = registry.clone();
        if let Ok(Err(error)) = spawn_blocking(move || saving.save_slots()).await {
            tracing::warn!(%error, "slots could not be saved; at the next start standbys seem to have less than they do");
        }
        if all_left {
            return Ok(());
        }
        let lacking = |report: &super::StandbyReport| report.lag.flush.bytes > 0;
        let reports = registry.report().into_iter();
        Err(reports.filter(lacking).map(|report| (report.name, report.lag.flush.bytes)).collect())
    }
}

impl Drop for ReplicationServer {
    fn drop(&mut self) {
        let _ = self.phase.send(Phase::Stopped);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Follows the log and tells everybody. One task waits, however many standbys there are.
async fn tell_news(shared: Arc<Shared>, news: watch::Sender<News>) {
    let Service::Log { owner, registry } = &shared.service else {
        // There is none, and whoever listens is not to believe that this port closes.
        return std::future::pending().await;
    };
    let log = owner.log();
    loop {
        // In this order: a history may be newer than the flush LSN it comes with, never older.
        let flush = log.flushed().value();
        let history = log.history();
        registry.flushed(flush, &history);
        news.send_if_modified(|news| {
            let changed = news.flush != flush || *news.history != history;
            if changed {
                *news = News { flush, history: Arc::new(history) };
            }
            changed
        });
        if log.flushed().reached(flush.advance(1)).await.is_err() {
            // Poisoned or closed. What was flushed is still served; nothing will be added.
            return;
        }
    }
}

async fn tick(shared: Arc<Shared>) {
    let Some(registry) = shared.service.registry() else { return };
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let registry = registry.clone();
        if let Ok(Err(error)) = spawn_blocking(move || registry.tick()).await {
            tracing::warn!(%error, "slots could not be saved; trying again");
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, alive: mpsc::Sender<()>) {
    let mut phase = shared.phase.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => match shared.peers.clone().try_acquire_owned() {
                Ok(place) => {
                    let connection = Connection::new(shared.clone(), peer.to_string());
                    let alive = alive.clone();
                    tokio::spawn(async move {
                        connection.serve(stream, place).await;
                        drop(alive);
                    });
                }
                // Not even a task for those beyond the limit: they find the connection closed.
                Err(_) => tracing::warn!(%peer, peers_max = shared.config.peers_max, "no room for another standby"),
            },
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection: the sender's hands.
struct Connection {
    shared: Arc<Shared>,
    peer: String,
    name: Option<StandbyName>,
    joined: Option<ConnectionId>,
    /// A read asked for that waits until the queue is short.
    wanted: Option<(Lsn, usize)>,
    reading: Option<JoinHandle<ReadOutcome>>,
    checking: Option<JoinHandle<(Check, Option<ConnectionId>)>>,
    ended: Option<Ended>,
    why: String,
}

impl Drop for Connection {
    /// However it ended, the table must not show a standby that is gone.
    fn drop(&mut self) {
        match (&self.name, self.joined) {
            (Some(name), Some(id)) if let Some(registry) = self.shared.service.registry() => {
                registry.left(name, id, &self.why);
            }
            _ => tracing::info!(peer = self.peer, why = self.why, "a connection that was no standby's ended"),
        }
    }
}

impl Connection {
    fn new(shared: Arc<Shared>, peer: String) -> Self {
        let why = "its task ended unexpectedly".to_owned();
        Self { shared, peer, name: None, joined: None, wanted: None, reading: None, checking: None, ended: None, why }
    }

    async fn serve(mut self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        let why = match prepare(&stream) {
            Ok(()) => self.converse(stream).await,
            Err(error) => {
                Err(Error::Network { operation: "prepare", peer: self.peer.clone(), source: Arc::new(error) })
            }
        };
        self.why = match why {
            Ok(ended) => ended.to_string(),
            Err(error) => error.to_string(),
        };
        if let Some(checking) = self.checking.take()
            && let Ok((_, Some(id))) = checking.await
        {
            self.joined = Some(id);
        }
    }

    async fn converse(&mut self, stream: TcpStream) -> Result<Ended> {
        let shared = self.shared.clone();
        let config = &shared.config;
        let mut wire = Wire::open(stream, &self.peer, Side::Upstream, config.segment_size, config.timeout);
        let (mut news, mut phase) = (shared.news.clone(), shared.phase.clone());
        let first = news.borrow_and_update().clone();
        let log = shared.service.log_state(&first);
        let sender_config = SenderConfig {
            cluster: config.cluster,
            node: config.node,
            segment_size: config.segment_size,
            timeout: config.timeout,
            handshake_timeout: config.handshake_timeout,
            primary: config.primary.clone(),
        };
        let mut known = first.history;
        let mut sender = Sender::new(sender_config, log, Instant::now());
        if *phase.borrow_and_update() != Phase::Serving {
            return Ok(Ended::NotWanted("the node stops"));
        }
        while self.ended.is_none() {
            self.start_reading(&wire);
            let deadline = sender.deadline().unwrap_or_else(|| Instant::now() + config.timeout);
            let events = tokio::select! {
                moved = wire.moved() => match moved? {
                    Moved::Received(message) => vec![Event::Received(message)],
                    Moved::Sent => continue,
                },
                outcome = finished(&mut self.reading) => {
                    self.reading = None;
                    vec![Event::Read(outcome.ok_or(Error::Stopped("reading the log"))?)]
                },
                checked = finished(&mut self.checking) => {
                    self.checking = None;
                    let (check, id) = checked.ok_or(Error::Stopped("checking a standby"))?;
                    self.joined = id;
                    vec![Event::Checked(check)]
                },
                changed = news.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::NotWanted("the node stops"));
                    }
                    let news = news.borrow_and_update().clone();
                    let mut events = Vec::new();
                    if !Arc::ptr_eq(&known, &news.history) {
                        known = news.history.clone();
                        events.push(Event::History(TimelineHistory::clone(&known)));
                    }
                    events.push(Event::Flushed(news.flush));
                    events
                },
                _ = phase.changed() => match *phase.borrow_and_update() {
                    Phase::Serving => continue,
                    Phase::Draining => {
                        // Everything flushed by now is to be sent, told of it or not. In this order, as in the news.
                        let newest = shared.service.news();
                        known = newest.history;
                        let history = TimelineHistory::clone(&known);
                        vec![Event::History(history), Event::Flushed(newest.flush), Event::Drain]
                    }
                    Phase::Stopped => vec![Event::Stop("the node stops")],
                },
                () = sleep_until(deadline.into()) => vec![self.look_at_the_clock()],
            };
            for event in events {
                let wall = wall();
                for action in sender.handle(event, Instant::now(), wall) {
                    self.perform(action, &mut wire);
                }
            }
        }
        wire.finish(LAST_WORDS).await;
        Ok(self.ended.take().expect("the loop ended with it"))
    }

    /// A tick; or the end, if a newer connection of the same standby took over.
    fn look_at_the_clock(&self) -> Event {
        let Some(registry) = self.shared.service.registry() else { return Event::Tick };
        match (&self.name, self.joined) {
            (Some(name), Some(id)) if !registry.is_current(name, id) => {
                Event::Stop("a newer connection of this standby took over")
            }
            _ => Event::Tick,
        }
    }

    fn perform(&mut self, action: Action, wire: &mut Wire) {
        match action {
            Action::Send(message) => wire.send(&message),
            Action::Check { name, node, position } => {
                self.name = Some(name.clone());
                let (shared, peer) = (self.shared.clone(), self.peer.clone());
                self.checking = Some(spawn_blocking(move || check(&shared, &name, node, &peer, position)));
            }
            Action::Read { from, bytes_max } => self.wanted = Some((from, bytes_max)),
            Action::Joined => {}
            Action::Progress(status) => {
                if let (Some(name), Some(id), Some(registry)) =
                    (&self.name, self.joined, self.shared.service.registry())
                {
                    registry.progress(name, id, &status);
                }
            }
            Action::LostPlace { name, position } => {
                if let Some(registry) = self.shared.service.registry() {
                    registry.lost_place(&name, position);
                }
            }
            Action::Superseded(history) => {
                let timeline = history.current().id;
                tracing::error!(%timeline, "a standby follows a newer timeline than this node: another node was promoted");
                if let Some(registry) = self.shared.service.registry() {
                    registry.superseded(&history);
                }
            }
            Action::Close(ended) => self.ended = Some(ended),
        }
    }

    /// Reads on a thread that may block, once what was read before is mostly on its way.
    fn start_reading(&mut self, wire: &Wire) {
        if wire.waiting_bytes() > QUEUE_BYTES || self.reading.is_some() {
            return;
        }
        if let Some((from, bytes_max)) = self.wanted.take() {
            let shared = self.shared.clone();
            self.reading = Some(spawn_blocking(move || shared.service.read(from, bytes_max)));
        }
    }
}

/// The result of a task that may be there; `None` if it panicked. Waits for ever if there is none.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    match task {
        Some(task) => task.await.ok(),
        None => std::future::pending().await,
    }
}

impl Service {
    fn registry(&self) -> Option<&Arc<Registry>> {
        match self {
            Self::Log { registry, .. } => Some(registry),
            Self::Sealed(_) => None,
        }
    }

    fn news(&self) -> News {
        match self {
            Self::Log { owner, .. } => {
                let log = owner.log();
                // In this order: see `tell_news`.
                News { flush: log.flushed().value(), history: Arc::new(log.history()) }
            }
            Self::Sealed(segments) => News { flush: Lsn::ZERO, history: Arc::new(segments.history.clone()) },
        }
    }

    fn log_state(&self, news: &News) -> LogState {
        let (oldest, is_open) = match self {
            Self::Log { owner, .. } => (owner.log().oldest(), true),
            Self::Sealed(_) => (Lsn::ZERO, false),
        };
        LogState { flush: news.flush, oldest, history: TimelineHistory::clone(&news.history), is_open }
    }

    fn read(&self, from: Lsn, bytes_max: usize) -> ReadOutcome {
        let read = match self {
            Self::Log { owner, .. } => owner.log().read(from, bytes_max),
            Self::Sealed(segments) => segments.read(from, bytes_max),
        };
        match read {
            Ok(Some(group)) if group.bytes.len() > GROUP_BYTES_MAX => {
                let len = group.bytes.len();
                ReadOutcome::Failed(format!("a group of {len} bytes at {from} is larger than any may be"))
            }
            Ok(Some(group)) => ReadOutcome::Group(group),
            Ok(None) => ReadOutcome::Nothing,
            Err(WalError::Removed { oldest, .. }) => ReadOutcome::Removed { oldest },
            Err(error) => ReadOutcome::Failed(error.to_string()),
        }
    }
}

/// Compares the chain at the standby's position with ours, and gives it a place in the table.
fn check(shared: &Shared, name: &StandbyName, node: NodeId, peer: &str, at: Position) -> (Check, Option<ConnectionId>) {
    let Service::Log { owner, registry } = &shared.service else {
        return (Check::Refuse(Refusal::NotServing), None);
    };
    let log = owner.log();
    match log.position_at(at.lsn) {
        Ok(Some(ours)) if ours == at => log.keep_recent(),
        Ok(None) if at.lsn < log.oldest() => return (Check::Refuse(Refusal::Removed { oldest: log.oldest() }), None),
        Ok(_) => return (Check::Differs, None),
        Err(WalError::Removed { oldest, .. }) => return (Check::Refuse(Refusal::Removed { oldest }), None),
        Err(error) => {
            tracing::error!(%error, standby = %name, "the log could not be read to compare it with a standby's");
            return (Check::Refuse(Refusal::NotServing), None);
        }
    }
    match registry.join(name, node, peer, at.lsn) {
        Ok(id) => (Check::Agrees, Some(id)),
        Err(refusal) => (Check::Refuse(refusal), None),
    }
}

fn wall() -> Timestamp {
    SystemClock.now()
}
