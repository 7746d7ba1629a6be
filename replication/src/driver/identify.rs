//! Asks an upstream who it is: what a node without data needs before it can become its standby.

use std::sync::Arc;
use std::time::Duration;

use seawall_wal::SegmentSize;
use tokio::time::timeout;

use super::conversation::{Moved, Side, Wire};
use super::socket::{connect, prepare};
use crate::error::{Error, ProtocolError, Result};
use crate::message::{Identity, Message, PROTOCOL_VERSIONS};

/// The identity of the node that feeds standbys at `upstream`, `host:port`.
pub async fn identify(upstream: &str, within: Duration) -> Result<Identity> {
    let stream = connect(upstream, within).await?;
    prepare(&stream).map_err(|source| Error::Network {
        operation: "prepare",
        peer: upstream.to_owned(),
        source: Arc::new(source),
    })?;
    // An identity brings its own segment size, so the one given here is never used.
    let mut wire = Wire::open(stream, upstream, Side::Standby, SegmentSize::DEFAULT, within);
    wire.send(&Message::Identify(PROTOCOL_VERSIONS));
    let answer = async {
        loop {
            if let Moved::Received(message) = wire.moved().await? {
                return Ok::<_, Error>(message);
            }
        }
    };
    let late = Error::TimedOut { peer: upstream.to_owned(), what: "say who it is", after: within };
    match timeout(within, answer).await.map_err(|_| late)?? {
        Message::Identity(identity) => Ok(identity),
        Message::Bye(bye) => Err(Error::Closed { peer: upstream.to_owned(), text: bye.text }),
        message => Err(Error::Protocol {
            peer: upstream.to_owned(),
            source: ProtocolError::Unexpected { message: message.name(), state: "asking who it is" },
        }),
    }
}
