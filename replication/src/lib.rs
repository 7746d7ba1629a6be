//! Seawall's replication: the log to standbys, flow control, promotion.
//!
//! What decides is pure: [`sender`] and [`receiver`] hold the conversation without sockets or clocks, [`feed`] plans where
//! log comes from, [`throttle`] how fast commits may enter, [`quorum`] what is confirmed, [`promotion`] and [`standing`]
//! whose history is the true one. The conversation itself is described in [`message`].

pub mod backoff;
pub mod driver;
mod ended;
mod error;
pub mod feed;
pub mod frame;
pub mod lag;
pub mod message;
pub mod mutant;
pub mod promotion;
pub mod quorum;
pub mod receiver;
pub mod sender;
pub mod slot;
pub mod standing;
pub mod throttle;
mod wire;

pub use ended::Ended;
pub use error::{Error, ProtocolError, Result};
pub use wire::Malformed;
