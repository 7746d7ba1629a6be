//! Keeps a standby fed: follows the upstream while it can, and turns to the archive or a base backup when the planner says
//! so, without anybody's help. It ends only when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seawall_wal::{ClusterId, Lsn, NodeId, SegmentSize, SegmentSource};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep_until, timeout};

use super::archive;
use super::client_status::{ClientState, ClientStatus};
use super::conversation::{Moved, Side, Wire};
use super::flow::Hands;
use super::socket::{connect, prepare};
use super::target::{BaseBackups, StandbyTarget};
use crate::backoff::{self, Attempts};
use crate::ended::Ended;
use crate::error::{Error, Result};
use crate::feed::{Coverage, Feed, Goal, Sources, Standing, next_feed};
use crate::message::{CREDIT_DEFAULT, Refusal, StandbyName};
use crate::receiver::{Action, Event, LocalFacts, LocalLog, Receiver, ReceiverConfig};
use crate::standing::{Relation, relate};

/// How a standby is fed.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The upstream, `host:port`. Without one the archive alone feeds this node.
    pub upstream: Option<String>,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// What the operator calls it.
    pub name: StandbyName,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// Bytes of log it takes before granting more; at least 17 MiB.
    pub credit: u64,
    /// Connecting, and each answer of a handshake, takes at most so long.
    pub connect_timeout: Duration,
    /// How often the archive is looked at while there is nothing else.
    pub archive_poll: Duration,
    /// Applies log so much later than it was written.
    pub delay: Option<Duration>,
    /// Rebuild this node from a base backup by itself if its log has diverged. Without it the node stands still and says so.
    pub rebuild_diverged: bool,
}

impl ClientConfig {
    /// With a credit of 32 MiB, a connect timeout of 10 s and an archive poll of 1 s.
    pub fn new(cluster: ClusterId, node: NodeId, name: StandbyName, segment_size: SegmentSize) -> Self {
        Self {
            upstream: None,
            cluster,
            node,
            name,
            segment_size,
            credit: CREDIT_DEFAULT,
            connect_timeout: Duration::from_secs(10),
            archive_poll: Duration::from_secs(1),
            delay: None,
            rebuild_diverged: false,
        }
    }
}

/// A standby's client. Dropping it stops it without waiting.
pub struct StandbyClient {
    control: Arc<Control>,
    status: watch::Receiver<ClientStatus>,
    running: Option<JoinHandle<Arc<dyn StandbyTarget>>>,
}

#[derive(Debug, Default)]
struct Control {
    stopping: AtomicBool,
    /// Something changed: stop, or try again at once.
    nudged: Notify,
}

impl StandbyClient {
    /// Starts feeding `target`. Runs on the current tokio runtime.
    pub fn start(
        config: ClientConfig,
        target: Arc<dyn StandbyTarget>,
        archive: Option<Arc<dyn SegmentSource>>,
        backups: Option<Arc<dyn BaseBackups>>,
    ) -> Self {
        let control = Arc::new(Control::default());
        let initial = ClientStatus { positions: target.positions(), ..ClientStatus::default() };
        let (told, status) = watch::channel(initial);
        let feeding = Feeding {
            config,
            target,
            archive,
            backups,
            control: control.clone(),
            told,
            attempts: Attempts::default(),
            lacking: None,
            fetched: Arc::new(AtomicU64::new(0)),
        };
        Self { control, status, running: Some(tokio::spawn(feeding.run())) }
    }

    /// What it is doing; changes can be awaited.
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
        self.status.clone()
    }

    /// Does not wait any longer before the next attempt.
    pub fn reconnect(&self) {
        self.control.nudged.notify_one();
    }

    /// Leaves the upstream. When it returns, nothing is written to the target any more; the target may have been replaced
    /// by a base backup meanwhile.
    pub async fn stop(mut self) -> Result<Arc<dyn StandbyTarget>> {
        self.control.stopping.store(true, Ordering::SeqCst);
        self.control.nudged.notify_one();
        let running = self.running.take().expect("it is stopped once");
        running.await.map_err(|_| Error::Stopped("the standby's client"))
    }
}

impl std::fmt::Debug for StandbyClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandbyClient").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

impl Drop for StandbyClient {
    fn drop(&mut self) {
        self.control.stopping.store(true, Ordering::SeqCst);
        self.control.nudged.notify_one();
    }
}

struct Feeding {
    config: ClientConfig,
    target: Arc<dyn StandbyTarget>,
    archive: Option<Arc<dyn SegmentSource>>,
    backups: Option<Arc<dyn BaseBackups>>,
    control: Arc<Control>,
    told: watch::Sender<ClientStatus>,
    attempts: Attempts,
    /// The oldest position the upstream still has, if it refused for that.
    lacking: Option<Lsn>,
    fetched: Arc<AtomicU64>,
}

/// What to do after a step.
enum Next {
    /// Go on at once.
    Again,
    /// Wait, longer each time.
    Wait(String),
    /// Wait, as long as one ever waits: nothing will change by itself.
    WaitLong(ClientState),
}

impl Feeding {
    async fn run(mut self) -> Arc<dyn StandbyTarget> {
        while !self.stopping() {
            let next = self.step().await;
            if self.stopping() {
                break;
            }
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Wait(why)) => self.wait(why).await,
                Ok(Next::WaitLong(state)) => {
                    if let ClientState::Refused { why } | ClientState::Diverged { why, .. } = &state {
                        tracing::error!(why, "this standby does not follow until somebody changes something");
                        self.told.send_modify(|status| status.last_error = Some(why.clone()));
                    }
                    self.told.send_modify(|status| status.state = state);
                    self.pause(Instant::now() + backoff::DELAY_MAX).await;
                }
                Err(error) => self.wait(error.to_string()).await,
            }
        }
        self.told.send_modify(|status| status.state = ClientState::Stopped);
        self.target
    }

    /// One attempt at one source.
    async fn step(&mut self) -> Result<Next> {
        let position = self.target.position().lsn;
        let upstream = self.config.upstream.clone().filter(|_| self.lacking.is_none_or(|oldest| position >= oldest));
        let Some(upstream) = upstream else {
            // Its log goes on growing, so where it ends now does not matter.
            let known = self.lacking.map(|oldest| Coverage { from: oldest, to: Lsn::MAX });
            return self.look_elsewhere(known, "the upstream no longer has the log this node needs").await;
        };
        match self.follow(&upstream).await {
            Ok(ended) => self.after(&upstream, ended).await,
            // The upstream is away. The archive may still be ahead of us.
            Err(error) => self.look_elsewhere(None, &error.to_string()).await,
        }
    }

    async fn after(&mut self, upstream: &str, ended: Ended) -> Result<Next> {
        let refusal = match ended {
            Ended::Refused(refusal) => refusal,
            Ended::Storage(why) => return Ok(Next::Wait(why)),
            ended => return self.look_elsewhere(None, &format!("{upstream}: {ended}")).await,
        };
        let why = Error::Refused { upstream: upstream.to_owned(), refusal: refusal.clone() }.to_string();
        match refusal {
            // It has log before and behind what this node needs, and lacks that: it may be repaired.
            Refusal::Removed { oldest } if oldest <= self.target.position().lsn => Ok(Next::Wait(why)),
            Refusal::Removed { oldest } => {
                self.lacking = Some(oldest);
                self.told.send_modify(|status| status.lost_place = Some(oldest));
                tracing::warn!(upstream, %oldest, "the upstream no longer has the log this node needs; looking elsewhere");
                Ok(Next::Again)
            }
            Refusal::Diverged { common, .. } => self.diverged(common.lsn, why).await,
            refusal if refusal.may_pass() => Ok(Next::Wait(why)),
            _ => Ok(Next::WaitLong(ClientState::Refused { why })),
        }
    }

    /// Asks the planner what else there is, and does it.
    async fn look_elsewhere(&mut self, upstream: Option<Coverage>, why: &str) -> Result<Next> {
        if self.stopping() {
            // An archive that does not answer takes its time.
            return Ok(Next::Again);
        }
        if self.archive.is_none() && self.backups.is_none() {
            self.lacking = None;
            return Ok(Next::Wait(why.to_owned()));
        }
        if let Some(next) = self.follow_archived_history().await? {
            return Ok(next);
        }
        let standing = Standing::At(self.target.position().lsn);
        match self.plan(standing, upstream).await? {
            Feed::Archive { from, to } => {
                let before = self.target.position().lsn;
                self.fetch(to).await?;
                if self.target.position().lsn > before {
                    self.attempts.went_well();
                    return Ok(Next::Again);
                }
                let tried = "the archive covers it by its own account, but gave nothing there".to_owned();
                Ok(Next::Wait(Error::NoFeed { from, tried }.to_string()))
            }
            Feed::BaseBackup(offer) => self.install(offer).await,
            // It is reachable again as far as we know; the next attempt will tell.
            Feed::Stream { .. } => {
                self.lacking = None;
                Ok(Next::Wait(why.to_owned()))
            }
            Feed::Arrived => Ok(Next::Wait(why.to_owned())),
            Feed::Wait { missing, .. } if upstream.is_some() => {
                self.lacking = None;
                let tried = format!("{why}; the archive and its base backups do not lead there either");
                Ok(Next::Wait(Error::NoFeed { from: missing, tried }.to_string()))
            }
            Feed::Wait { .. } if self.config.upstream.is_none() => {
                // What an archive says it covers may be seconds old; what lies beyond is found by asking for it.
                let before = self.target.position().lsn;
                self.fetch(Lsn::MAX).await?;
                if self.target.position().lsn > before {
                    self.attempts.went_well();
                    return Ok(Next::Again);
                }
                self.pause(Instant::now() + self.config.archive_poll).await;
                Ok(Next::Again)
            }
            Feed::Wait { .. } => Ok(Next::Wait(why.to_owned())),
        }
    }

    /// Before anything is taken from the archive: whose history is it? `Some` if it cannot be followed.
    async fn follow_archived_history(&mut self) -> Result<Option<Next>> {
        let Some(archive) = self.archive.clone() else { return Ok(None) };
        let Some(newest) = blocking(move || Ok(archive.history()?)).await? else { return Ok(None) };
        let (ours, position) = (self.target.history(), self.target.position());
        match relate(&ours, position, &newest) {
            Relation::Follows { .. } if newest != ours => {
                let target = self.target.clone();
                blocking(move || target.follow(&newest)).await?;
                Ok(None)
            }
            // Ours is the newer, or the same.
            Relation::Follows { .. } | Relation::UpstreamBehind { .. } => Ok(None),
            Relation::Diverged { common } => {
                let why = Error::Diverged { common: common.lsn }.to_string();
                self.diverged(common.lsn, why).await.map(Some)
            }
            Relation::Unrelated => {
                let why = "the archive holds another history than this node's; check its address".to_owned();
                Ok(Some(Next::WaitLong(ClientState::Refused { why })))
            }
        }
    }

    async fn diverged(&mut self, common: Lsn, why: String) -> Result<Next> {
        if !self.config.rebuild_diverged || self.backups.is_none() {
            tracing::error!(%common, why, "this node's log has diverged; it does not follow until somebody decides");
            return Ok(Next::WaitLong(ClientState::Diverged { common, why }));
        }
        match self.plan(Standing::Nothing, None).await? {
            Feed::BaseBackup(offer) => self.install(offer).await,
            _ => Ok(Next::WaitLong(ClientState::Diverged { common, why })),
        }
    }

    async fn plan(&self, standing: Standing, upstream: Option<Coverage>) -> Result<Feed> {
        let (archive, backups, target) = (self.archive.clone(), self.backups.clone(), self.target.clone());
        blocking(move || {
            let history = match (standing, &archive) {
                (Standing::Nothing, Some(archive)) => archive.history()?.unwrap_or_else(|| target.history()),
                _ => target.history(),
            };
            let backups = backups.as_ref().map(|backups| backups.offers()).transpose()?.unwrap_or_default();
            let from = match standing {
                Standing::At(at) => at,
                Standing::Nothing => backups.iter().map(|offer| offer.redo).max().unwrap_or(Lsn::ZERO),
            };
            let covered = |at| match &archive {
                Some(archive) => archive::coverage(&**archive, &history, at),
                None => Ok(None),
            };
            let mut coverage = covered(from)?;
            if coverage.is_none_or(|coverage| coverage.from > from) {
                // Nothing leads on from where we stand: what counts is the log after the newest backup.
                let newest = backups.iter().map(|offer| offer.redo).max();
                coverage = newest.map(covered).transpose()?.flatten().or(coverage);
            }
            let sources = Sources { upstream, archive: coverage, backups };
            Ok(next_feed(standing, Goal::Live, &sources, &history))
        })
        .await
    }

    async fn fetch(&mut self, to: Lsn) -> Result<()> {
        let archive = self.archive.clone().expect("the planner found it");
        tracing::debug!(from = %self.target.position().lsn, %to, "fetching log from {}", archive.name());
        self.told.send_modify(|status| status.state = ClientState::FromArchive);
        let (target, control, fetched) = (self.target.clone(), self.control.clone(), self.fetched.clone());
        let done = spawn_blocking(move || archive::fetch(&archive, &*target, to, &control.stopping, &fetched));
        let done = self.while_telling(done).await;
        self.tell_positions();
        done
    }

    /// Waits for a long step and keeps the status fresh meanwhile.
    async fn while_telling(&self, mut step: JoinHandle<Result<()>>) -> Result<()> {
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                done = &mut step => return done.map_err(|_| Error::Stopped("fetching from the archive"))?,
                _ = tick.tick() => self.tell_positions(),
            }
        }
    }

    async fn install(&mut self, offer: crate::feed::BackupOffer) -> Result<Next> {
        let backups = self.backups.clone().expect("the planner found it");
        if self.stopping() {
            // It may take hours.
            return Ok(Next::Again);
        }
        tracing::warn!(backup = offer.id, redo = %offer.redo, "rebuilding this standby from a base backup");
        self.told.send_modify(|status| status.state = ClientState::BaseBackup { id: offer.id.clone() });
        self.target = blocking(move || backups.install(&offer)).await?;
        self.attempts.went_well();
        self.lacking = None;
        self.told.send_modify(|status| {
            status.base_backups += 1;
            status.lost_place = None;
        });
        self.tell_positions();
        Ok(Next::Again)
    }

    /// Follows the upstream until the conversation ends.
    async fn follow(&mut self, upstream: &str) -> Result<Ended> {
        self.attempts.connecting();
        self.told.send_modify(|status| status.state = ClientState::Connecting);
        let stream = tokio::select! {
            connected = connect(upstream, self.config.connect_timeout) => connected?,
            () = self.stopped() => return Err(Error::Stopped("the standby's client")),
        };
        let network =
            |source| Error::Network { operation: "prepare", peer: upstream.to_owned(), source: Arc::new(source) };
        prepare(&stream).map_err(network)?;
        let patience = self.config.connect_timeout;
        let mut wire = Wire::open(stream, upstream, Side::Standby, self.config.segment_size, patience);
        let (done, mut events) = mpsc::unbounded_channel();
        let mut hands = Hands::start(&self.target, self.config.delay, &done)?;
        let ended = self.converse(&mut wire, &mut hands, &done, &mut events).await;
        // First the threads: what they still write is written before anybody asks where the log ends. What they wrote is
        // made durable even though nobody is there to hear of it.
        let target = self.target.clone();
        blocking(move || {
            hands.finish()?;
            target.flush().map(drop)
        })
        .await?;
        wire.finish(Duration::from_secs(2)).await;
        self.tell_positions();
        ended
    }

    async fn converse(
        &mut self,
        wire: &mut Wire,
        hands: &mut Hands,
        done: &mpsc::UnboundedSender<Event>,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Result<Ended> {
        let config = ReceiverConfig {
            cluster: self.config.cluster,
            node: self.config.node,
            name: self.config.name.clone(),
            segment_size: self.config.segment_size,
            credit: self.config.credit,
            handshake_timeout: self.config.connect_timeout,
        };
        let target = self.target.clone();
        let (local, facts) = blocking(move || {
            let local =
                LocalLog { position: target.position(), positions: target.positions(), history: target.history() };
            Ok((local, target.facts()))
        })
        .await?;
        let mut rate = WriteRate::new(local.position.lsn);
        let mut receiver = Receiver::new(config, local, facts);
        let mut queue = vec![Event::Connected];
        let mut facts_due = Instant::now() + FACTS_EVERY;
        loop {
            for event in queue.drain(..) {
                hands.done(&event);
                for action in receiver.handle(event, Instant::now()) {
                    if let Some(ended) = self.perform(action, wire, hands) {
                        return Ok(ended);
                    }
                }
            }
            self.tell(&receiver, rate.rate);
            let deadline = [receiver.deadline(), hands.deadline(), Some(facts_due)].into_iter().flatten().min();
            let deadline = deadline.expect("facts are always due some time");
            tokio::select! {
                moved = wire.moved() => match moved? {
                    Moved::Received(message) => {
                        self.attempts.heard(Instant::now());
                        queue.push(Event::Received(message));
                    }
                    Moved::Sent => {}
                },
                Some(event) = events.recv() => queue.push(event),
                () = self.control.nudged.notified() => if self.stopping() {
                    queue.push(Event::Stop("the standby stops"));
                },
                () = sleep_until(deadline.into()) => {
                    hands.apply_due();
                    if Instant::now() >= facts_due {
                        facts_due = Instant::now() + FACTS_EVERY;
                        rate.observe(receiver.positions().write);
                        let (target, done, apply_rate) = (self.target.clone(), done.clone(), rate.rate);
                        // Not waited for: a slow disk must not keep us from speaking.
                        spawn_blocking(move || done.send(Event::Facts(LocalFacts { apply_rate, ..target.facts() })));
                    }
                    queue.push(Event::Tick);
                }
            }
        }
    }

    fn perform(&mut self, action: Action, wire: &mut Wire, hands: &mut Hands) -> Option<Ended> {
        match action {
            Action::Send(message) => wire.send(&message),
            Action::Joined { upstream, primary } => {
                tracing::info!(%upstream, primary, "following the upstream");
                self.attempts.joined(Instant::now());
                self.lacking = None;
                self.target.set_primary(&primary);
                self.told.send_modify(|status| {
                    status.state = ClientState::Streaming;
                    (status.primary, status.lost_place) = (primary, None);
                });
            }
            Action::Follow(history) => hands.follow(history),
            Action::Write(log) => hands.write(log),
            Action::Flush => hands.flush(),
            Action::Close(ended) => return Some(ended),
        }
        None
    }

    async fn wait(&mut self, why: String) {
        let delay = self.attempts.failed(rand::random());
        let (until, attempts) = (Instant::now() + delay, self.attempts.count());
        tracing::warn!(why, ?delay, attempts, "this standby is not fed; trying again");
        self.told.send_modify(|status| {
            status.last_error = Some(why.clone());
            status.attempts = attempts;
            status.state = ClientState::Waiting { why, until };
        });
        self.pause(until).await;
    }

    /// Waits, but not for one who was nudged.
    async fn pause(&self, until: Instant) {
        if !self.stopping() {
            let _ = timeout(until.saturating_duration_since(Instant::now()), self.control.nudged.notified()).await;
        }
    }

    /// Returns once it is to stop.
    async fn stopped(&self) {
        while !self.stopping() {
            self.control.nudged.notified().await;
        }
    }

    fn stopping(&self) -> bool {
        self.control.stopping.load(Ordering::SeqCst)
    }

    fn tell(&self, receiver: &Receiver, write_rate: u64) {
        self.told.send_if_modified(|status| {
            let positions = receiver.positions();
            let upstream = receiver.upstream();
            let attempts = self.attempts.count();
            let changed = status.positions != positions
                || status.attempts != attempts
                || upstream.is_some_and(|upstream| status.heard != Some(upstream.heard))
                || status.write_rate != write_rate;
            status.positions = positions;
            (status.write_rate, status.attempts) = (write_rate, attempts);
            if let Some(upstream) = upstream {
                status.upstream_flush = status.upstream_flush.max(upstream.flush);
                status.heard = Some(upstream.heard);
            }
            changed
        });
    }

    fn tell_positions(&self) {
        let positions = self.target.positions();
        let archive_bytes = self.fetched.load(Ordering::Relaxed);
        self.told.send_modify(|status| (status.positions, status.archive_bytes) = (positions, archive_bytes));
    }
}

/// How often the node's own figures are sent.
const FACTS_EVERY: Duration = Duration::from_secs(1);

/// Bytes written per second, smoothed over a few seconds.
struct WriteRate {
    at: Instant,
    lsn: Lsn,
    rate: u64,
}

impl WriteRate {
    fn new(lsn: Lsn) -> Self {
        Self { at: Instant::now(), lsn, rate: 0 }
    }

    fn observe(&mut self, lsn: Lsn) {
        let elapsed = self.at.elapsed().as_secs_f64().max(0.001);
        let now = lsn.distance_from(self.lsn) as f64 / elapsed;
        self.rate = (self.rate as f64 * 0.5 + now * 0.5) as u64;
        (self.at, self.lsn) = (Instant::now(), lsn);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|_| Error::Stopped("work that may block"))?
}
