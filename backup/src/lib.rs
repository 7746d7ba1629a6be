//! Seawall's archive, base backups and point-in-time restore.
//!
//! A [`repository`] is a bucket or a directory; an [`Archive`] is one that belongs to a cluster, with objects as described
//! in [`format`](mod@format). An [`Archiver`] follows a database's log into it; [`Archive::create_backup`] adds the tables of
//! a checkpoint; [`Archive::plan_restore`] and [`Archive::restore`] make a database of any moment since;
//! [`Archive::verify`] says whether they could. Standbys are fed from it through [`ArchiveSource`] and [`ArchiveTables`], and
//! promotions are decided in it through [`ArchiveAuthority`].
//!
//! ```no_run
//! use seawall_backup::repository::RepositoryConfig;
//! use seawall_backup::{Archive, RestoreOptions, RestoreTarget};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let archive = Archive::open(RepositoryConfig::parse("s3://backups/prod?region=eu-central-1")?.open().await?).await?;
//! let target: RestoreTarget = "2026-11-21T08:15:00Z".parse()?;
//! let plan = archive.plan_restore(&target, None).await?;
//! println!("{} objects, up to {}", plan.objects(), plan.target);
//! archive.restore(&plan, "restored".as_ref(), &RestoreOptions::default()).await?;
//! # Ok(())
//! # }
//! ```

pub mod archive;
pub mod archiver;
pub mod backup;
mod error;
pub mod fence;
pub mod files;
pub mod format;
pub mod log_index;
pub mod mutant;
pub mod progress;
pub mod repository;
pub mod restore;
#[cfg(feature = "s3-server")]
pub mod s3_server;
pub mod source;
pub mod timelines;
pub mod verify;

pub use archive::Archive;
pub use archiver::{Archiver, ArchiverConfig, ArchiverProgress, ArchiverState, ArchiverStatus, Gaps};
pub use backup::BackupOptions;
pub use error::{Error, Result};
pub use fence::FenceRequest;
pub use files::ArchiveTables;
pub use restore::{RestoreOptions, RestorePlan, RestoreTarget};
pub use source::ArchiveSource;
pub use timelines::ArchiveAuthority;
pub use verify::{VerifyDepth, VerifyOptions, VerifyReport};
