#![doc = include_str!("../FORMAT.md")]
//!
//! # In this module
//!
//! Encoding and checking, without any I/O. Bytes become an object only by proving themselves.

pub mod chunk;
pub mod documents;
pub mod envelope;
pub mod keys;

pub use chunk::{Agreement, Chunk, ChunkAbout};
pub use documents::{BackupManifest, ClusterDocument, FileEntry, FrontierDocument, TimelineDocument};
pub use envelope::{Envelope, FORMAT_VERSION, Kind, ObjectDamage};
pub use keys::BackupId;
