//! Writing a blob file: values come in any order, a synced file under a temporary name comes out.

use std::path::Path;
use std::sync::Arc;

use seawall_wal::Lsn;
use seawall_wal::storage::Storage;

use super::{BLOB_VERSION, BlobMeta, FOOTER_LEN, HEADER_LEN, HEADER_MAGIC, file, record};
use crate::codec::Put;
use crate::error::Result;
use crate::file::{FileHash, NewFile, Temporary};
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};

/// A blob file in the making. Dropped unfinished, it removes its file.
pub(crate) struct BlobWriter {
    file: NewFile,
    keyspace: KeyspaceId,
    values: u64,
    bytes: u64,
}

/// A blob file that is whole and synced under a temporary name. Dropped before it is adopted, it is removed.
#[derive(Debug)]
pub(crate) struct FinishedBlob {
    pub(crate) meta: BlobMeta,
    pub(crate) temporary: Temporary,
}

impl BlobWriter {
    /// Starts one in the file `path`, which must not exist.
    pub(crate) fn create(storage: Arc<dyn Storage>, path: &Path, keyspace: KeyspaceId) -> Result<Self> {
        let mut file = NewFile::create(storage, path)?;
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.put(&HEADER_MAGIC);
        header.put_u32(BLOB_VERSION);
        header.put_u32(keyspace.0);
        file.put(&header)?;
        Ok(Self { file, keyspace, values: 0, bytes: 0 })
    }

    /// Adds a value. Gives the offset of its record and the record's checksum.
    pub(crate) fn push(&mut self, key: &[u8], lsn: Lsn, value: &[u8]) -> Result<(u64, u32)> {
        let offset = self.file.position();
        let (head, crc) = record::head(self.keyspace, offset, key, lsn, value);
        self.file.put(&head)?;
        self.file.put(value)?;
        self.values += 1;
        self.bytes += value.len() as u64;
        Ok((offset, crc))
    }

    /// Bytes of the file so far.
    pub(crate) fn size(&self) -> u64 {
        self.file.position()
    }

    /// Ends the file and syncs it. There must be at least one value.
    pub(crate) fn finish(mut self) -> Result<FinishedBlob> {
        assert!(self.values > 0, "a blob file holds something");
        let size = self.size() + FOOTER_LEN as u64;
        let meta = BlobMeta { hash: FileHash::from_bytes([0; 32]), size, values: self.values, bytes: self.bytes };
        self.file.put(&file::footer(self.keyspace, &meta))?;
        if !planted(Mutant::BlobsNotSynced) {
            self.file.sync()?;
        }
        let (hash, temporary) = self.file.done()?;
        Ok(FinishedBlob { meta: BlobMeta { hash, ..meta }, temporary })
    }
}
