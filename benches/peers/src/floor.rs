//! F, the figure everything durable is compared with: 4 KiB written and synced, one after the other, over a file that was
//! written before. A store that syncs once for each commit and does nothing else reaches it with one thread.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::load::Work;

const BLOCK_BYTES: usize = 4096;
const FILE_BYTES: u64 = 64 << 20;

/// The file that F is measured on.
pub(crate) struct Floor {
    path: PathBuf,
    file: File,
    offset: u64,
}

impl Floor {
    /// Writes the file, in `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let path = dir.join("floor");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        Ok(Self { path, file, offset: 0 })
    }

    /// Writes and syncs for as long as `slice`, through the page cache as fio does by default.
    pub(crate) fn run(&mut self, slice: Duration) -> Result<Work> {
        let started = Instant::now();
        let mut block = [0x5E; BLOCK_BYTES];
        let mut latencies = Vec::new();
        let mut before = started;
        while before - started < slice {
            // Blocks that differ, so that nothing on the way finds a shortcut.
            block[..8].copy_from_slice(&(latencies.len() as u64).to_le_bytes());
            self.file.write_all_at(&block, self.offset)?;
            self.file.sync_data()?;
            self.offset = (self.offset + BLOCK_BYTES as u64) % FILE_BYTES;
            let after = Instant::now();
            latencies.push((after - before).as_nanos() as u64);
            before = after;
        }
        Ok(Work { operations: latencies.len() as u64, seconds: started.elapsed().as_secs_f64(), latencies })
    }

    /// What fio says of the same file, if there is a fio.
    pub(crate) fn fio(&self, slice: Duration) -> Option<f64> {
        let mut fio = Command::new("fio");
        fio.arg(format!("--filename={}", self.path.display()))
            .arg(format!("--size={FILE_BYTES}"))
            .arg(format!("--runtime={}ms", slice.as_millis()))
            .args(["--name=floor", "--rw=write", "--bs=4k", "--fdatasync=1", "--ioengine=psync", "--time_based"])
            // Over what is there, as our own loop does: a growing file would measure the file system's journal.
            .args(["--overwrite=1", "--output-format=json"]);
        let output = fio.output().ok().filter(|output| output.status.success())?;
        writes_per_second(&String::from_utf8_lossy(&output.stdout))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The rate in fio's report, before which it may print notes.
fn writes_per_second(report: &str) -> Option<f64> {
    let report: serde_json::Value = serde_json::from_str(&report[report.find('{')?..]).ok()?;
    report.pointer("/jobs/0/write/iops")?.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_of_the_floor_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut floor = Floor::new(dir.path()).unwrap();
        let work = floor.run(Duration::from_millis(20)).unwrap();
        assert!(work.operations > 0 && work.latencies.len() as u64 == work.operations);
        assert_eq!(floor.offset, work.operations * BLOCK_BYTES as u64 % FILE_BYTES);
    }

    #[test]
    fn fio_reports_after_its_notes() {
        let report = "note: overwriting\n{\"jobs\": [{\"write\": {\"iops\": 11380.5}}]}";
        assert_eq!(writes_per_second(report), Some(11380.5));
        assert_eq!(writes_per_second("fio: no such engine"), None);
    }
}
