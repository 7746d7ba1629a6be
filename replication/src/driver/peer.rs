//! Another node as a source of log, for the repair of a damaged segment: asked group by group over one connection, which is
//! made when it is needed. Every wait has an end. Errors tell a peer that cannot help from one that does not answer now.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use seawall_wal::{
    ClusterId, Error as WalError, LogBytes, Lsn, SegmentSize, SegmentSource, TimelineHistory, TimelineId,
};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::conversation::{Moved, Side, Wire};
use super::identify::identify;
use super::socket::{connect, prepare};
use crate::error::{Error, ProtocolError, Result};
use crate::frame::DATA_BYTES_MAX;
use crate::message::{Bye, ByeReason, Data, Fetch, Identity, Message, PROTOCOL_VERSIONS, Refusal};
use crate::receiver::Assembly;

/// A node that listens for standbys, as the log's [`SegmentSource`], for threads that may block. One segment is fetched
/// from it at a time, from its start on.
#[derive(Debug)]
pub struct PeerSource {
    address: String,
    name: String,
    cluster: ClusterId,
    segment_size: SegmentSize,
    patience: Duration,
    runtime: Handle,
    asked: Mutex<Option<Asked>>,
}

/// A connection over which log was fetched.
struct Asked {
    wire: Wire,
    /// Where the last answer ended.
    next: Lsn,
    /// The rest of the segment must have come by then.
    until: Instant,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "asked up to {}", self.next)
    }
}

/// Why there is no log.
enum NoLog {
    Failed(Error),
    Refused(Refusal),
    Left(Bye),
}

impl From<Error> for NoLog {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl PeerSource {
    /// The node at `address`, `host:port`, which must be of this cluster. It has `patience` for a connection and for each
    /// message. `runtime` does the waiting; the methods must not be called from its own threads.
    pub fn new(
        address: &str,
        cluster: ClusterId,
        segment_size: SegmentSize,
        patience: Duration,
        runtime: Handle,
    ) -> Self {
        let (address, name) = (address.to_owned(), format!("the peer {address}"));
        Self { address, name, cluster, segment_size, patience, runtime, asked: Mutex::default() }
    }

    async fn ask(&self, asked: Option<Asked>, timeline: TimelineId, from: Lsn) -> Result<(Asked, LogBytes), NoLog> {
        let mut asked = match asked {
            Some(asked) => asked,
            None => self.connect(from).await?,
        };
        if from == self.segment_size.start_of(self.segment_size.segment_of(from)) {
            let frames = self.segment_size.bytes().div_ceil(DATA_BYTES_MAX as u32);
            asked.until = Instant::now() + self.patience * (1 + frames);
        }
        asked.wire.send(&Message::Fetch(Fetch {
            versions: PROTOCOL_VERSIONS,
            log_format: seawall_wal::format::FORMAT_VERSION,
            segment_size: self.segment_size,
            cluster: self.cluster,
            timeline,
            from,
        }));
        let mut group = Assembly::default();
        loop {
            let piece = match self.message(&mut asked).await? {
                Message::Data(piece) => piece,
                Message::Refuse(refusal) => return Err(NoLog::Refused(refusal)),
                Message::Bye(bye) => return Err(NoLog::Left(bye)),
                message => {
                    let (message, state) = (message.name(), "the answer to a fetch was awaited");
                    return Err(self.broken(ProtocolError::Unexpected { message, state }));
                }
            };
            self.check(&piece, timeline, from)?;
            if let Some(log) = group.add(piece).map_err(|error| self.broken(error))? {
                asked.next = log.end();
                return Ok((asked, log));
            }
        }
    }

    async fn connect(&self, from: Lsn) -> Result<Asked, NoLog> {
        let stream = connect(&self.address, self.patience).await?;
        prepare(&stream).map_err(|source| Error::Network {
            operation: "prepare",
            peer: self.address.clone(),
            source: std::sync::Arc::new(source),
        })?;
        let wire = Wire::open(stream, &self.address, Side::Standby, self.segment_size, self.patience);
        Ok(Asked { wire, next: from, until: Instant::now() + self.patience })
    }

    /// The next message.
    async fn message(&self, asked: &mut Asked) -> Result<Message, NoLog> {
        let within = self.patience.min(asked.until.saturating_duration_since(Instant::now()));
        let received = async {
            loop {
                if let Moved::Received(message) = asked.wire.moved().await? {
                    return Ok::<_, Error>(message);
                }
            }
        };
        let late = |_| Error::TimedOut { peer: self.address.clone(), what: "answer a fetch", after: self.patience };
        Ok(timeout(within, received).await.map_err(late)??)
    }

    /// A piece of the answer, before any of it is kept: it is of what was asked for, and fits into its segment.
    fn check(&self, piece: &Data, timeline: TimelineId, from: Lsn) -> Result<(), NoLog> {
        let room = self.segment_size.end_of(self.segment_size.segment_of(from)).distance_from(from);
        if piece.timeline == timeline && piece.group_start == from && u64::from(piece.group_len) <= room {
            return Ok(());
        }
        Err(self.broken(ProtocolError::OutOfPlace {
            timeline: piece.timeline,
            start: piece.group_start,
            expected: from,
            expected_timeline: timeline,
        }))
    }

    fn broken(&self, source: ProtocolError) -> NoLog {
        NoLog::Failed(Error::Protocol { peer: self.address.clone(), source })
    }

    /// Who it says it is, if that is who it should be.
    fn identity(&self) -> seawall_wal::Result<Identity> {
        let found = self.runtime.block_on(identify(&self.address, self.patience));
        let identity = found.map_err(|error| self.failed(Lsn::ZERO, &error))?;
        match identity.cluster == self.cluster && identity.segment_size == self.segment_size {
            true => Ok(identity),
            false => Err(WalError::WrongCluster { found: identity.cluster, expected: self.cluster }),
        }
    }

    fn cannot(&self, at: Lsn, why: String) -> WalError {
        WalError::Source { source_name: self.name.clone(), at, why }
    }

    fn silent(&self, at: Lsn, why: String) -> WalError {
        WalError::SourceSilent { source_name: self.name.clone(), at, why }
    }

    fn failed(&self, at: Lsn, error: &Error) -> WalError {
        match error {
            Error::Protocol { source, .. } => self.cannot(at, source.to_string()),
            error => self.silent(at, error.to_string()),
        }
    }
}

impl SegmentSource for PeerSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn coverage(&self, timeline: TimelineId) -> seawall_wal::Result<Option<(Lsn, Lsn)>> {
        let Identity { oldest, flush, history, .. } = self.identity()?;
        let Some(entry) = history.find(timeline) else { return Ok(None) };
        let (from, to) = (oldest.max(entry.begin), flush.min(history.end_of(timeline)));
        Ok((from < to).then_some((from, to)))
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> seawall_wal::Result<Option<LogBytes>> {
        let mut kept = self.asked.lock();
        let asked = kept.take().filter(|asked| asked.next == from);
        match self.runtime.block_on(self.ask(asked, timeline, from)) {
            Ok((asked, log)) => {
                *kept = Some(asked);
                Ok(Some(log))
            }
            Err(NoLog::Refused(Refusal::Removed { .. } | Refusal::Ahead { .. })) => Ok(None),
            Err(NoLog::Refused(refusal @ (Refusal::NotServing | Refusal::NoRoom))) => {
                Err(self.silent(from, refusal.to_string()))
            }
            Err(NoLog::Refused(Refusal::Diverged { common, .. })) => {
                Err(self.cannot(from, format!("its log there is of another timeline; they part at {}", common.lsn)))
            }
            Err(NoLog::Refused(refusal)) => Err(self.cannot(from, refusal.to_string())),
            Err(NoLog::Left(Bye { reason: ByeReason::Storage | ByeReason::Protocol, text })) => {
                Err(self.cannot(from, format!("it says that {text}")))
            }
            Err(NoLog::Left(bye)) => Err(self.silent(from, bye.text)),
            Err(NoLog::Failed(error)) => Err(self.failed(from, &error)),
        }
    }

    fn history(&self) -> seawall_wal::Result<Option<TimelineHistory>> {
        self.identity().map(|identity| Some(identity.history))
    }
}
