//! What a directory lies on: device, file system, mount options, kernel, as the kernel tells it. Nothing here fails: what
//! cannot be found out is left empty.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

/// Where figures come from.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Device {
    /// As given, without links.
    pub(super) dir: String,
    /// `/dev/vda`, `tmpfs`.
    pub(super) device: String,
    /// As the device calls itself.
    pub(super) model: String,
    /// Whether it says that it turns.
    pub(super) rotational: Option<bool>,
    /// `write back` means that it has a cache that a flush must empty.
    pub(super) write_cache: String,
    /// `ext4`.
    pub(super) filesystem: String,
    /// Of the mount and of the file system.
    pub(super) mount_options: String,
    /// Its release.
    pub(super) kernel: String,
    /// Of this machine, as far as this process may use them.
    pub(super) cpus: usize,
}

impl Device {
    /// For people to read.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let turns = if self.rotational == Some(true) { ", rotating" } else { "" };
        let cache = if self.write_cache.is_empty() { String::new() } else { format!(", {}", self.write_cache) };
        let model = if self.model.is_empty() { String::new() } else { format!(" ({})", self.model) };
        writeln!(out, "directory   {}", self.dir)?;
        writeln!(out, "device      {}{model}{turns}{cache}", self.device)?;
        writeln!(out, "filesystem  {} ({})", self.filesystem, self.mount_options)?;
        writeln!(out, "kernel      {}, {} cpus", self.kernel, self.cpus)
    }
}

pub(super) fn device(dir: &Path) -> Device {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut device = Device {
        dir: fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string(),
        kernel: read(String::from("/proc/sys/kernel/osrelease")),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        ..Device::default()
    };
    let Ok(number) = fs::metadata(dir).map(|metadata| metadata.dev()) else { return device };
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let mounts = read(String::from("/proc/self/mountinfo"));
    if let Some(mount) = mounts.lines().rev().find_map(|line| mount(line, &format!("{major}:{minor}"))) {
        (device.filesystem, device.device, device.mount_options) = mount;
    }
    // A partition's queue is its disk's.
    let block = format!("/sys/dev/block/{major}:{minor}");
    let queue = if Path::new(&format!("{block}/queue")).exists() { block.clone() } else { format!("{block}/..") };
    device.write_cache = read(format!("{queue}/queue/write_cache"));
    device.rotational = match read(format!("{queue}/queue/rotational")).as_str() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    };
    device.model = read(format!("{queue}/device/model"));
    device
}

/// File system, source and options of a line of mountinfo, if it is about this device.
fn mount(line: &str, number: &str) -> Option<(String, String, String)> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let mut after = after.split(' ');
    if before.get(2) != Some(&number) {
        return None;
    }
    let (kind, source) = (after.next()?.to_owned(), after.next()?.to_owned());
    let mut options: Vec<&str> = before.get(5)?.split(',').collect();
    for option in after.next().unwrap_or_default().split(',') {
        if !options.contains(&option) {
            options.push(option);
        }
    }
    Some((kind, source, options.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_device() {
        let line = "24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,data=ordered";
        let found = mount(line, "254:0").unwrap();
        assert_eq!(found, ("ext4".into(), "/dev/vda".into(), "rw,relatime,data=ordered".into()));
        assert_eq!(mount(line, "254:1"), None);
        assert_eq!(mount("nonsense", "254:0"), None);
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_file_system() {
        let device = device(Path::new("/"));
        assert!(!device.kernel.is_empty() && !device.filesystem.is_empty(), "{device:?}");
        assert!(device.cpus > 0);
    }
}
