//! Durable, ordered, embeddable key-value engine with replicas, backups and point-in-time restore built in.
#[cfg(feature = "cli")]
pub mod config;
