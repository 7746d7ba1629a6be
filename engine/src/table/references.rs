//! The blob files that a table refers to: what a table in the making takes over from others and writes itself, and how the
//! list of them is stored.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::{Mapping, Storage};

use super::block::{self, BlockKind};
use super::content::{EntryRef, Large};
use super::footer::Footer;
use crate::blob::{BlobFile, BlobPolicy, BlobShare, BlobWriter, FinishedBlob, Reference};
use crate::codec::{Put, Reader, Truncated};
use crate::error::Result;
use crate::file::FileHash;
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};

/// A blob file that an open table refers to.
#[derive(Debug)]
pub(crate) struct BlobUse {
    pub(crate) file: Arc<BlobFile>,
    /// How much of it.
    pub(crate) share: BlobShare,
}

/// A blob file as a table lists it.
pub(super) type Listed = (FileHash, BlobShare);

/// Digest, values, bytes of values.
const LISTED_LEN: usize = 32 + 8 + 8;

/// Appends the list as it is stored.
pub(super) fn put(bytes: &mut Vec<u8>, list: &[Listed]) {
    for (hash, share) in list {
        bytes.put(hash.as_bytes());
        bytes.put_u64(share.values);
        bytes.put_u64(share.bytes);
    }
}

/// The blob files that the properties of a table list.
pub(super) fn open(
    map: &Arc<Mapping>,
    keyspace: KeyspaceId,
    footer: &Footer,
    find: impl Fn(&FileHash) -> Option<Arc<BlobFile>>,
) -> Result<Box<[BlobUse]>, &'static str> {
    if footer.blobs == 0 {
        return Ok(Box::default());
    }
    let (properties, count) = block::open(map, keyspace, BlockKind::Properties, footer.properties_at, None)?;
    let raw = properties.bytes();
    let len = |at: usize| raw.get(at..)?.first_chunk().map(|len| u32::from_le_bytes(*len) as usize);
    let keys = len(0).zip(len(4)).and_then(|(least, end)| (4 + 4 + 1_usize).checked_add(least)?.checked_add(end));
    let list = keys.and_then(|keys| raw.get(keys..)).ok_or("its keys are longer than it")?;
    if count.checked_sub(2) != Some(footer.blobs) {
        return Err("it does not list as many blob files as the footer says");
    }
    let open = |(hash, share)| match find(&hash) {
        Some(file) if file.keyspace() == keyspace => Ok(BlobUse { file, share }),
        _ => Err("it refers to a blob file that the manifest does not have"),
    };
    parse(list, footer.blobs)?.into_iter().map(open).collect()
}

/// Reads a list of so many blob files, with which the bytes end.
pub(super) fn parse(bytes: &[u8], count: u32) -> Result<Vec<Listed>, &'static str> {
    let len = (count as usize).checked_mul(LISTED_LEN).filter(|len| *len == bytes.len());
    len.ok_or("it does not list as many blob files as the footer says")?;
    let mut reader = Reader::new(bytes);
    let mut listed = || {
        let hash = FileHash::from_bytes(reader.array()?);
        Ok((hash, BlobShare { values: reader.u64()?, bytes: reader.u64()? }))
    };
    let list: Result<Vec<Listed>, Truncated> = (0..count).map(|_| listed()).collect();
    let list = list.map_err(|Truncated| "it ends too early")?;
    let mut hashes: Vec<_> = list.iter().map(|(hash, _)| hash).collect();
    hashes.sort_unstable();
    if hashes.windows(2).any(|pair| pair[0] == pair[1]) || list.iter().any(|(_, share)| share.values == 0) {
        return Err("it lists a blob file twice, or in vain");
    }
    Ok(list)
}

/// The blob files of a table in the making, counted in the order in which its entries first refer to them.
pub(super) struct References {
    storage: Arc<dyn Storage>,
    /// Of the table; those of blob files begin with it.
    path: PathBuf,
    keyspace: KeyspaceId,
    policy: BlobPolicy,
    /// Of one that is not finished the digest is not known.
    list: Vec<(Option<FileHash>, BlobShare)>,
    ordinals: HashMap<FileHash, u32>,
    /// The one being written.
    open: Option<(u32, BlobWriter)>,
    finished: Vec<FinishedBlob>,
}

impl References {
    pub(super) fn new(storage: Arc<dyn Storage>, path: &Path, keyspace: KeyspaceId, policy: BlobPolicy) -> Self {
        let path = path.to_owned();
        let (list, ordinals, finished) = (Vec::new(), HashMap::new(), Vec::new());
        Self { storage, path, keyspace, policy, list, ordinals, open: None, finished }
    }

    /// Takes over what another table refers to.
    pub(super) fn keep(&mut self, large: Large<'_>) -> Reference {
        let hash = large.file.meta().hash;
        let blob = *self.ordinals.entry(hash).or_insert_with(|| {
            self.list.push((Some(hash), BlobShare::default()));
            self.list.len() as u32 - 1
        });
        self.list[blob as usize].1.add(BlobShare { values: 1, bytes: large.at.len.into() });
        match planted(Mutant::BlobsNotRenumbered) {
            true => large.at,
            false => Reference { blob, ..large.at },
        }
    }

    /// Puts the value of an entry into a blob file, if it is one that belongs there.
    pub(super) fn move_out(&mut self, entry: &EntryRef<'_>) -> Result<Option<Reference>> {
        let Some(value) = entry.content.value().filter(|value| self.policy.takes(value)) else { return Ok(None) };
        let (blob, writer) = match &mut self.open {
            Some(open) => open,
            none => {
                let blob = self.list.len() as u32;
                let path = self.path.with_extension(format!("{blob}.tmp"));
                let writer = BlobWriter::create(Arc::clone(&self.storage), &path, self.keyspace)?;
                self.list.push((None, BlobShare::default()));
                none.insert((blob, writer))
            }
        };
        let (offset, crc) = writer.push(entry.key, entry.lsn, value)?;
        let (blob, full) = (*blob, writer.size() >= self.policy.file_bytes);
        self.list[blob as usize].1.add(BlobShare { values: 1, bytes: value.len() as u64 });
        if full {
            self.end_file()?;
        }
        let expiry = entry.content.expiry().map_or(0, |expiry| expiry.0);
        Ok(Some(Reference { blob, offset, len: value.len() as u32, crc, expiry }))
    }

    fn end_file(&mut self) -> Result<()> {
        if let Some((blob, writer)) = self.open.take() {
            let finished = writer.finish()?;
            self.list[blob as usize].0 = Some(finished.meta.hash);
            self.finished.push(finished);
        }
        Ok(())
    }

    /// Bytes written to blob files so far.
    pub(super) fn written(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |(_, writer)| writer.size());
        open + self.finished.iter().map(|finished| finished.meta.size).sum::<u64>()
    }

    /// Ends what is being written, and gives the whole list.
    pub(super) fn finish(&mut self) -> Result<Vec<Listed>> {
        self.end_file()?;
        let digest = |(hash, share): &(Option<FileHash>, BlobShare)| (hash.expect("every file was finished"), *share);
        Ok(self.list.iter().map(digest).collect())
    }

    /// The files written, which are the caller's now.
    pub(super) fn hand_over(&mut self) -> Vec<FinishedBlob> {
        std::mem::take(&mut self.finished)
    }
}
