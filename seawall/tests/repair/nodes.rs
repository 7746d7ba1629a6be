//! Nodes on loopback and in temporary folders, and the damage that is done to their files.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use seawall::SegmentSize;
use seawall::backup::repository::RepositoryConfig;
use seawall::node::{ArchiveOptions, NodeOptions};

/// How long something may take on a busy machine before it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Of a segment of the log.
pub(crate) const SIZE: u64 = 64 << 10;
/// A segment in the middle, and a byte in it.
pub(crate) const SEGMENT: u64 = 2;
pub(crate) const BYTE: u64 = 30_000;

/// An address nobody listens at, and which no connection takes for itself: those are given higher ports.
pub(crate) fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let candidates = std::iter::repeat_with(|| {
        let number = std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        SocketAddr::from(([127, 0, 0, 1], 20_000 + (number % 12_000) as u16))
    });
    candidates.take(1_000).find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

pub(crate) fn listening(folder: &Path, name: &str, listen: SocketAddr) -> NodeOptions {
    NodeOptions {
        segment_size: SegmentSize::MIN,
        replication_listen: Some(listen),
        replication_timeout: Duration::from_secs(2),
        ..NodeOptions::new(name.parse().unwrap(), folder.join(name))
    }
}

/// An archive in the folder, without which nothing is written.
pub(crate) fn archive(folder: &Path) -> Option<ArchiveOptions> {
    let repository = RepositoryConfig::parse(&format!("file://{}", folder.join("archive").display())).unwrap();
    Some(ArchiveOptions { repository, interval: Duration::from_millis(100), required: true })
}

pub(crate) fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One bit of a file, on the disk as well.
pub(crate) fn flip(file: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
    file.sync_all().unwrap();
}
