//! Where the files lie: in the directory that was named, or in a file system made for the purpose in a file, because
//! file systems with a journal treat a growing log very differently from those without. Only root may make one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

/// A file system to measure on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Leg {
    /// The one of the directory
    Here,
    /// ext4 with a journal, in a file
    Ext4,
    /// XFS, in a file
    Xfs,
}

/// Of the file that holds a file system, of which what is never written takes no room. In 6 GiB the recovery row did not fit.
const IMAGE_BYTES: u64 = 16 << 30;

/// A leg that is there.
pub(crate) enum Prepared {
    /// Measure in this directory.
    Ready(Ground),
    /// It cannot be had, and why.
    Skipped(String),
}

/// A directory to measure in; cleaned up when dropped.
pub(crate) struct Ground {
    pub(crate) dir: PathBuf,
    // Unmounted before the folder that holds image and mount point is removed.
    _mount: Option<Mount>,
    _folder: tempfile::TempDir,
}

impl Leg {
    /// Makes it in `dir`.
    pub(crate) fn prepare(self, dir: &Path) -> Result<Prepared> {
        let folder = tempfile::Builder::new().prefix("seawall-peers-").tempdir_in(dir)?;
        let make: &[&str] = match self {
            Self::Here => {
                let dir = folder.path().to_owned();
                return Ok(Prepared::Ready(Ground { dir, _mount: None, _folder: folder }));
            }
            // Nothing is left for later, which would be written behind a measurement's back.
            Self::Ext4 => &["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Self::Xfs => &["mkfs.xfs", "-q", "-f"],
        };
        if !rustix::process::geteuid().is_root() {
            return Ok(Prepared::Skipped(String::from("only root can mount")));
        }
        match Mount::make(folder.path(), make) {
            Ok(mount) => Ok(Prepared::Ready(Ground { dir: mount.point.clone(), _mount: Some(mount), _folder: folder })),
            Err(error) => Ok(Prepared::Skipped(format!("{error:#}"))),
        }
    }
}

/// A file system in a file, mounted.
struct Mount {
    point: PathBuf,
    device: String,
    is_mounted: bool,
}

impl Mount {
    fn make(folder: &Path, make: &[&str]) -> Result<Self> {
        let image = folder.join("image");
        // Really written: blocks that the file system below would have to find would be measured too.
        let file = File::create_new(&image)?;
        let zeros = vec![0; 4 << 20];
        for offset in (0..IMAGE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        run(make.iter().copied().chain([path(&image)?]))?;
        let device = run(["losetup", "--find", "--show", "--direct-io=on", path(&image)?])?.trim().to_owned();
        let mut mount = Self { point: folder.join("mount"), device, is_mounted: false };
        fs::create_dir(&mount.point)?;
        run(["mount", &mount.device, path(&mount.point)?])?;
        mount.is_mounted = true;
        Ok(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = match (self.is_mounted, path(&self.point)) {
            (true, Ok(point)) => run(["umount", point]),
            _ => Ok(String::new()),
        };
        let detached = run(["losetup", "--detach", &self.device]);
        for error in [unmounted.err(), detached.err()].into_iter().flatten() {
            eprintln!("warning: {error:#}");
        }
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not text")
}

/// Runs a program to its end; what it printed, or what it complained about.
fn run<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let mut words = words.into_iter();
    let program = words.next().context("no program")?;
    let output = Command::new(program).args(words).output().with_context(|| format!("cannot run {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{program}: {complaint}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leg_here_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let Prepared::Ready(ground) = Leg::Here.prepare(dir.path()).unwrap() else { panic!("it is always there") };
        assert!(ground.dir.starts_with(dir.path()) && ground.dir.is_dir());
        drop(ground);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_program_that_fails_is_named() {
        let error = run(["ls", "/nonexistent/at/all"]).unwrap_err();
        assert!(error.to_string().starts_with("ls: "), "{error}");
    }
}
