//! Seawall's archive, base backups and point-in-time restore.

pub mod archive;
mod error;
pub mod format;
pub mod repository;
#[cfg(feature = "s3-server")]
pub mod s3_server;
pub mod timelines;

pub use archive::Archive;
pub use error::{Error, Result};
pub use timelines::ArchiveAuthority;
