//! Messages over a socket. A reading and a writing task each finish a frame they began within a deadline; between frames the
//! state machines judge silence. What waits to be sent is counted, so that nobody fills memory for a slow peer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use seawall_wal::SegmentSize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{Error, ProtocolError, Result};
use crate::frame::{FRAME_HEADER_SIZE, Frame, FrameHeader, FrameType};
use crate::message::Message;

/// Which side of a connection this is, which says what the other may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Upstream,
    Standby,
}

impl Side {
    fn takes(self, kind: FrameType) -> bool {
        use FrameType::{
            Bye, Credit, Data, Fetch, Hello, History, Identify, Identity, Keepalive, Refuse, Status, Welcome,
        };
        match self {
            Self::Upstream => matches!(kind, Hello | Status | Credit | Bye | Identify | Fetch),
            Self::Standby => matches!(kind, Welcome | Refuse | Data | History | Keepalive | Bye | Identity),
        }
    }
}

/// A connection that speaks in messages.
pub(super) struct Wire {
    incoming: mpsc::Receiver<Result<Message>>,
    outgoing: mpsc::Sender<Frame>,
    waiting: VecDeque<Frame>,
    waiting_bytes: usize,
    reading: JoinHandle<()>,
    /// Taken when it was waited for.
    writing: Option<JoinHandle<Result<()>>>,
}

/// Something moved on the wire.
pub(super) enum Moved {
    Received(Message),
    Sent,
}

impl Wire {
    /// Takes over a connection. `peer` is what to call the other side; it has `patience` for each frame it began.
    pub(super) fn open(stream: TcpStream, peer: &str, side: Side, size: SegmentSize, patience: Duration) -> Self {
        let (read, write) = stream.into_split();
        let (received, incoming) = mpsc::channel(1);
        let (outgoing, frames) = mpsc::channel(1);
        let reader = Reader { stream: read, peer: peer.to_owned(), side, size, patience };
        let reading = tokio::spawn(reader.run(received));
        let writing = Some(tokio::spawn(write_frames(write, frames, peer.to_owned(), patience)));
        Self { incoming, outgoing, waiting: VecDeque::new(), waiting_bytes: 0, reading, writing }
    }

    /// Queues a message.
    pub(super) fn send(&mut self, message: &Message) {
        let frame = message.to_frame();
        self.waiting_bytes += frame.len();
        self.waiting.push_back(frame);
    }

    /// Bytes queued and not handed to the socket yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Waits until a message came or a queued one went. Loses nothing if it is dropped before it is done.
    pub(super) async fn moved(&mut self) -> Result<Moved> {
        let message = tokio::select! {
            permit = self.outgoing.reserve(), if !self.waiting.is_empty() => {
                if let Ok(permit) = permit {
                    let frame = self.waiting.pop_front().expect("checked above");
                    self.waiting_bytes -= frame.len();
                    permit.send(frame);
                    return Ok(Moved::Sent);
                }
                None
            }
            message = self.incoming.recv() => Some(message),
        };
        match message {
            Some(Some(message)) => message.map(Moved::Received),
            Some(None) => Err(Error::Stopped("reading")),
            None => Err(self.write_error().await),
        }
    }

    /// Sends what is queued, then closes; gives up after `patience`.
    pub(super) async fn finish(mut self, patience: Duration) {
        let frames = std::mem::take(&mut self.waiting);
        let outgoing = self.outgoing.clone();
        let sent = async move {
            for frame in frames {
                if outgoing.send(frame).await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(patience, sent).await;
        // The writer ends when nobody can send any more; what it holds is still written.
        let (nobody, _) = mpsc::channel(1);
        self.outgoing = nobody;
        if let Some(writing) = self.writing.take() {
            let abort = writing.abort_handle();
            if timeout(patience, writing).await.is_err() {
                abort.abort();
            }
        }
    }

    async fn write_error(&mut self) -> Error {
        let Some(writing) = self.writing.take() else {
            return Error::Stopped("writing");
        };
        match writing.await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => Error::Stopped("writing"),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reading.abort();
        if let Some(writing) = &self.writing {
            writing.abort();
        }
    }
}

struct Reader {
    stream: OwnedReadHalf,
    peer: String,
    side: Side,
    size: SegmentSize,
    patience: Duration,
}

impl Reader {
    async fn run(mut self, received: mpsc::Sender<Result<Message>>) {
        loop {
            let message = self.message().await;
            let last = message.is_err();
            if received.send(message).await.is_err() || last {
                return;
            }
        }
    }

    async fn message(&mut self) -> Result<Message> {
        let mut header = [0; FRAME_HEADER_SIZE];
        // A peer may be silent for as long as the protocol allows; once it begins a frame, it must go on.
        let first = self.stream.read(&mut header[..1]).await;
        if first.map_err(|error| self.network(error))? == 0 {
            return Err(Error::Closed { peer: self.peer.clone(), text: String::new() });
        }
        let patience = self.patience;
        match timeout(patience, self.frame(header)).await {
            Ok(message) => message,
            Err(_) => {
                Err(Error::TimedOut { peer: self.peer.clone(), what: "finish the frame it began", after: patience })
            }
        }
    }

    async fn frame(&mut self, mut header: [u8; FRAME_HEADER_SIZE]) -> Result<Message> {
        self.stream.read_exact(&mut header[1..]).await.map_err(|error| self.network(error))?;
        let header = FrameHeader::parse(&header).map_err(|error| self.protocol(error.into()))?;
        let name = frame_name(header.kind);
        if !self.side.takes(header.kind) {
            let state = match self.side {
                Side::Upstream => "listening to a standby",
                Side::Standby => "listening to an upstream",
            };
            return Err(self.protocol(ProtocolError::Unexpected { message: name, state }));
        }
        let mut body = vec![0; header.body_len];
        self.stream.read_exact(&mut body).await.map_err(|error| self.network(error))?;
        header.check(&body).map_err(|error| self.protocol(error.into()))?;
        Message::parse(header.kind, body.into(), self.size)
            .map_err(|why| self.protocol(ProtocolError::Malformed { kind: name, why }))
    }

    fn network(&self, error: std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return Error::Closed { peer: self.peer.clone(), text: "in the middle of a frame".to_owned() };
        }
        Error::Network { operation: "read from", peer: self.peer.clone(), source: Arc::new(error) }
    }

    fn protocol(&self, source: ProtocolError) -> Error {
        Error::Protocol { peer: self.peer.clone(), source }
    }
}

async fn write_frames(
    mut stream: OwnedWriteHalf,
    mut frames: mpsc::Receiver<Frame>,
    peer: String,
    patience: Duration,
) -> Result<()> {
    while let Some(Frame { head, log }) = frames.recv().await {
        let mut bytes = head.chain(log);
        match timeout(patience, stream.write_all_buf(&mut bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(Error::Network { operation: "write to", peer, source: Arc::new(error) });
            }
            Err(_) => return Err(Error::TimedOut { peer, what: "take a frame", after: patience }),
        }
    }
    let _ = timeout(patience, stream.shutdown()).await;
    Ok(())
}

fn frame_name(kind: FrameType) -> &'static str {
    match kind {
        FrameType::Hello => "Hello",
        FrameType::Welcome => "Welcome",
        FrameType::Refuse => "Refuse",
        FrameType::Data => "Data",
        FrameType::History => "History",
        FrameType::Keepalive => "Keepalive",
        FrameType::Status => "Status",
        FrameType::Credit => "Credit",
        FrameType::Bye => "Bye",
        FrameType::Identify => "Identify",
        FrameType::Identity => "Identity",
        FrameType::Fetch => "Fetch",
    }
}
