//! Seawall's archive, base backups and point-in-time restore.

pub mod archive;
pub mod archiver;
pub mod backup;
mod error;
pub mod fence;
pub mod files;
pub mod format;
pub mod log_index;
pub mod progress;
pub mod repository;
pub mod restore;
#[cfg(feature = "s3-server")]
pub mod s3_server;
pub mod source;
pub mod timelines;
pub mod verify;

pub use archive::Archive;
pub use archiver::{Archiver, ArchiverConfig, ArchiverProgress, ArchiverState, ArchiverStatus, Gaps, LogOwner};
pub use backup::BackupOptions;
pub use error::{Error, Result};
pub use fence::FenceRequest;
pub use files::ArchiveTables;
pub use restore::{RestoreOptions, RestorePlan, RestoreTarget};
pub use source::ArchiveSource;
pub use timelines::ArchiveAuthority;
pub use verify::{VerifyDepth, VerifyOptions, VerifyReport};
