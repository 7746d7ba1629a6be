//! The real program on real file systems, ext4 and XFS in images: power cuts, a disk that fills up, a file system that
//! becomes read-only, a disk beneath that does not take a block. Everything it acknowledged is there afterwards, and what it
//! says is of use to an operator.
//!
//! They need root, loop devices and FUSE, and skip with a line where these are missing. How many of them there are is set by
//! `SEAWALL_EXT4_CUTS`, `SEAWALL_XFS_CUTS`, `SEAWALL_LONE_SECTORS`, `SEAWALL_FULL_DISKS`, `SEAWALL_READ_ONLY_TURNS` and
//! `SEAWALL_REFUSED_WRITES`; figures are printed with `--nocapture`.
#![cfg(target_os = "linux")]

mod failed_sync;
mod full_disk;
mod plug;
mod power_cuts;
mod read_only;

/// ext4 needs little; XFS is not made smaller than 300 MiB.
const EXT4_BYTES: u64 = 64 << 20;
const XFS_BYTES: u64 = 320 << 20;

/// A number from the environment, or the one for every day.
fn how_many(variable: &str, usual: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(usual, |number| number.parse().unwrap_or_else(|_| panic!("{variable}={number} is not a number")))
}
