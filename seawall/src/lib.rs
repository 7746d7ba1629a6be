//! Durable, ordered, embeddable key-value engine with replicas, backups and point-in-time restore built in.
#[cfg(feature = "cli")]
pub mod config;
#[cfg(feature = "cli")]
pub mod entry;
#[cfg(feature = "cli")]
pub mod failure;
#[cfg(feature = "cli")]
pub mod input;
#[cfg(feature = "cli")]
pub mod kv;
#[cfg(feature = "cli")]
pub mod output;
