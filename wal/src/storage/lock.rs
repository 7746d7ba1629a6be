//! The lock on a file by which processes keep out of each other's way.

use std::fs::{File, TryLockError};
use std::io;
use std::time::{Duration, Instant};

/// Who waits looks so often.
const LOOK: Duration = Duration::from_millis(2);

/// An exclusive, advisory lock on a file (flock(2)), until it is dropped or the process ends.
///
/// It is let go of by name and not by closing the file: a child that another thread is about to start has a copy of every
/// file from its fork to its exec, and would hold the lock that long. A child that goes on without exec must not drop its copy.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Takes the lock. `WouldBlock` if somebody else has it.
    pub fn try_new(file: File) -> io::Result<Self> {
        Self::within(file, Duration::ZERO)
    }

    /// Takes the lock, and waits for it while somebody else has it. `WouldBlock` if that lasts longer than `patience`.
    pub fn within(file: File, patience: Duration) -> io::Result<Self> {
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(FileLock(file)),
                Err(TryLockError::WouldBlock) if started.elapsed() < patience => std::thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // If it fails, closing does it.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn open(folder: &TempDir) -> File {
        File::create(folder.path().join("LOCK")).unwrap()
    }

    /// A folder with a lock that is held.
    fn locked() -> (TempDir, FileLock) {
        let folder = tempfile::tempdir().unwrap();
        let lock = FileLock::try_new(open(&folder)).unwrap();
        (folder, lock)
    }

    #[test]
    fn it_is_let_go_of_though_a_child_that_is_being_started_has_a_copy_of_the_file() {
        let (folder, lock) = locked();
        let open = || open(&folder);
        assert_eq!(FileLock::try_new(open()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let as_in_a_child = lock.0.try_clone().unwrap();
        drop(lock);
        FileLock::try_new(open()).unwrap();
        drop(as_in_a_child);
    }

    #[test]
    fn who_is_patient_gets_it_when_it_is_let_go_of() {
        let (folder, lock) = locked();
        let open = || open(&folder);
        let patience = Duration::from_millis(20);
        let started = Instant::now();
        assert_eq!(FileLock::within(open(), patience).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(started.elapsed() >= patience);
        let file = open();
        let waiting = std::thread::spawn(|| FileLock::within(file, Duration::from_secs(60)));
        std::thread::sleep(patience);
        assert!(!waiting.is_finished());
        drop(lock);
        waiting.join().unwrap().unwrap();
    }
}
