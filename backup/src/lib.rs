//! Seawall's archive, base backups and point-in-time restore.

pub mod archive;
pub mod archiver;
mod error;
pub mod fence;
pub mod format;
pub mod log_index;
pub mod repository;
#[cfg(feature = "s3-server")]
pub mod s3_server;
pub mod timelines;

pub use archive::Archive;
pub use archiver::{Archiver, ArchiverConfig, ArchiverProgress, ArchiverState, ArchiverStatus, Gaps, LogOwner};
pub use error::{Error, Result};
pub use fence::FenceRequest;
pub use timelines::ArchiveAuthority;
