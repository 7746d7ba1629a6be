//! The device under a directory, as the kernel tells it, and how often it was told to flush: the proof that a durable
//! write was one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What a directory lies on. What cannot be found out is left empty.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Device {
    /// `vda`; the whole disk if the file system is on a partition.
    pub(crate) name: String,
    pub(crate) model: String,
    /// `write back` has a cache that a flush must empty; with `write through` the kernel sends no flushes.
    pub(crate) write_cache: String,
    pub(crate) filesystem: String,
    pub(crate) mount_options: String,
    /// Whether the file system has a journal that says how often it commits.
    pub(crate) journal: bool,
    #[serde(skip)]
    stat: Option<PathBuf>,
    #[serde(skip)]
    journal_info: Option<PathBuf>,
}

/// Counted since the machine started, or the file system was mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Flushes the device has completed.
    pub(crate) flushes: Option<u64>,
    /// Bytes read from the device.
    pub(crate) bytes_read: Option<u64>,
    /// Transactions the journal has committed.
    pub(crate) journal_commits: Option<u64>,
}

impl Device {
    /// Of the file system that holds `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut device = Self::default();
        let Ok(number) = fs::metadata(dir).map(|metadata| metadata.dev()) else { return device };
        let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
        let mounts = read("/proc/self/mountinfo");
        if let Some(mount) = mounts.lines().rev().find_map(|line| mount(line, &number)) {
            (device.filesystem, device.mount_options) = mount;
        }
        let Ok(block) = fs::canonicalize(format!("/sys/dev/block/{number}")) else { return device };
        // The journal is named after the partition, the queue belongs to the disk.
        device.journal_info = journal_info(&block);
        device.journal = device.journal_info.is_some();
        let disk = match (block.join("partition").exists(), block.parent()) {
            (true, Some(disk)) => disk.to_owned(),
            _ => block,
        };
        device.name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
        device.model = read(disk.join("device/model"));
        device.write_cache = read(disk.join("queue/write_cache"));
        device.stat = Some(disk.join("stat"));
        device
    }

    /// As of now.
    pub(crate) fn counters(&self) -> Counters {
        let stat = self.stat.as_ref().map(read).unwrap_or_default();
        Counters {
            flushes: flushes(&stat),
            bytes_read: bytes_read(&stat),
            journal_commits: self.journal_info.as_ref().and_then(|path| journal_commits(&read(path))),
        }
    }

    /// Whether the kernel passes flushes on to it, so that they can be counted.
    pub(crate) fn is_told_to_flush(&self) -> bool {
        self.stat.is_some() && self.write_cache == "write back"
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// File system and options of a line of mountinfo, if it is about this device.
fn mount(line: &str, number: &str) -> Option<(String, String)> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    if before.get(2) != Some(&number) {
        return None;
    }
    let after: Vec<&str> = after.split(' ').collect();
    let mut options: Vec<&str> = before.get(5)?.split(',').collect();
    let of_filesystem = after.get(2)?.split(',').filter(|option| !before[5].split(',').any(|known| known == *option));
    options.extend(of_filesystem);
    Some((after.first()?.to_string(), options.join(",")))
}

/// Where the journal of the file system on a block device counts: `/proc/fs/jbd2/vda1-8/info`.
fn journal_info(block: &Path) -> Option<PathBuf> {
    let name = block.file_name()?.to_string_lossy().into_owned();
    let journals = fs::read_dir("/proc/fs/jbd2").ok()?.flatten();
    let ours = |folder: &fs::DirEntry| {
        let folder = folder.file_name().to_string_lossy().into_owned();
        folder == name || folder.rsplit_once('-').is_some_and(|(device, _)| device == name)
    };
    let mut ours = journals.filter(ours);
    ours.next().map(|folder| folder.path().join("info"))
}

/// The sixteenth field of a block device's `stat`.
fn flushes(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(15)?.parse().ok()
}

/// The third field counts sectors, of 512 bytes whatever the device's own are.
fn bytes_read(stat: &str) -> Option<u64> {
    let sectors: u64 = stat.split_whitespace().nth(2)?.parse().ok()?;
    Some(sectors * 512)
}

/// `41 transactions (40 requested), each up to 8192 blocks` and averages below.
fn journal_commits(info: &str) -> Option<u64> {
    info.split_once(" transactions")?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_the_sixteenth_field() {
        let stat = "  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 1234 17";
        assert_eq!((flushes(stat), bytes_read(stat)), (Some(1234), Some(3 * 512)));
        assert_eq!(flushes("1 2 3"), None, "a kernel that does not count them");
    }

    #[test]
    fn the_journal_says_its_commits_first() {
        assert_eq!(journal_commits("41 transactions (40 requested), each up to 8192 blocks\naverage:"), Some(41));
        assert_eq!(journal_commits(""), None);
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        let line = "24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,data=ordered";
        assert_eq!(mount(line, "254:0"), Some(("ext4".into(), "rw,relatime,data=ordered".into())));
        assert_eq!(mount(line, "254:1"), None);
    }
}
