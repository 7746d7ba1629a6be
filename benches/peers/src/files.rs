//! Folders as a whole: copied, and put out of the page cache.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{Advice, fadvise};

/// Copies a folder with all in it, to where nothing is, and makes the copy durable.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to);
        let copied = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &copied)?;
        } else {
            fs::copy(entry.path(), &copied)?;
            File::open(&copied)?.sync_all()?;
        }
    }
    Ok(())
}

/// Makes the kernel forget what it remembers of the files in a folder, so that they are read from the disk. Nobody may
/// have them mapped. Needs no privilege, and leaves others' files alone.
pub(crate) fn forget(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget(&entry.path())?;
        } else {
            let file = File::open(entry.path())?;
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_everything_and_survives_being_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "bytes").unwrap();
        copy(&dir.path().join("a"), &dir.path().join("c")).unwrap();
        forget(&dir.path().join("c")).unwrap();
        assert_eq!(fs::read(dir.path().join("c/b/file")).unwrap(), b"bytes");
    }
}
