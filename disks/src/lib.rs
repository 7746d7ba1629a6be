//! Disks that fail, for tests of the real program: what the in-memory disk of `seawall-wal` is for code that runs in the
//! test's own process.

#[cfg(target_os = "linux")]
pub mod fuse;
#[cfg(target_os = "linux")]
pub mod image;
#[cfg(target_os = "linux")]
pub mod refusal;
