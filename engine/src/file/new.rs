//! A file in the making: bytes are added, written a step at a time and digested on the way. Its final name is given by
//! the store, so that a name is never given and taken away at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::end_turn;
use seawall_wal::storage::{Access, File, Storage, write_all_at};

use super::FileHash;
use crate::error::{Result, at};

/// Bytes written at once.
const BUFFER_LEN: usize = 1 << 20;

/// A file in the making. Dropped before it is [done](Self::done), it is removed.
pub(crate) struct NewFile {
    temporary: Temporary,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    /// Bytes given to the file; the buffer follows.
    written: u64,
    digest: blake3::Hasher,
}

impl NewFile {
    /// The file `path`, which must not exist.
    pub(crate) fn create(storage: Arc<dyn Storage>, path: &Path) -> Result<Self> {
        let file = storage.open(path, Access::CreateNew).map_err(at("create", path))?;
        let temporary = Temporary { storage, path: path.to_owned(), named: false };
        Ok(Self { temporary, file, buffer: Vec::new(), written: 0, digest: blake3::Hasher::new() })
    }

    /// Where the next byte goes.
    pub(crate) fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_LEN { self.write() } else { Ok(()) }
    }

    /// Adds a few zeros.
    pub(crate) fn pad(&mut self, zeros: usize) {
        self.buffer.resize(self.buffer.len() + zeros, 0);
    }

    fn write(&mut self) -> Result<()> {
        self.digest.update(&self.buffer);
        write_all_at(&*self.file, &self.buffer, self.written).map_err(at("write", &self.temporary.path))?;
        end_turn();
        // A step at a time, so that no flush of the log waits behind a whole file.
        self.file.hand_over(self.written, self.buffer.len() as u64);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes what was added survive power loss; the name does not yet.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.write()?;
        self.file.sync_data().map_err(at("sync", &self.temporary.path))
    }

    /// Nothing more comes: gives the digest of all bytes and the temporary name. It was synced before.
    pub(crate) fn done(mut self) -> Result<(FileHash, Temporary)> {
        self.write()?;
        Ok((FileHash::from_bytes(*self.digest.finalize().as_bytes()), self.temporary))
    }
}

/// The name of a file that has no other yet. Dropped before it is [renamed](Self::rename), the file is removed.
#[derive(Debug)]
pub(crate) struct Temporary {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    named: bool,
}

impl Temporary {
    /// Gives the file its name.
    pub(crate) fn rename(mut self, to: &Path) -> Result<()> {
        self.storage.rename(&self.path, to).map_err(at("rename", &self.path))?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.named {
            // What cannot be removed now is removed at the next open.
            let _ = self.storage.remove(&self.path);
        }
    }
}
