//! Seawall's archive, base backups and point-in-time restore.

pub mod repository;
#[cfg(feature = "s3-server")]
pub mod s3_server;
