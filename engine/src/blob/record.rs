//! One value in a blob file with whose it is, and what a table says of where it lies.

use std::ops::Range;

use seawall_wal::Lsn;

use crate::codec::{Put, len_u16, len_u32};
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};

/// Bytes before the key of a record.
pub(super) const FRAME_LEN: usize = 20;
/// Bytes of a reference in a table.
pub(crate) const REFERENCE_LEN: usize = 28;

/// Where a value lies, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Which of the blob files that the table lists.
    pub(crate) blob: u32,
    /// Of the record.
    pub(crate) offset: u64,
    /// Of the value, in bytes.
    pub(crate) len: u32,
    /// Of the record.
    pub(crate) crc: u32,
    /// In microseconds since 1970; 0 if it does not end.
    pub(crate) expiry: u64,
}

impl Reference {
    pub(crate) fn encode(&self) -> [u8; REFERENCE_LEN] {
        let mut bytes = [0; REFERENCE_LEN];
        bytes[..4].copy_from_slice(&self.blob.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.crc.to_le_bytes());
        bytes[20..].copy_from_slice(&self.expiry.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8; REFERENCE_LEN]) -> Self {
        let four = |at: usize| std::array::from_fn(|index| bytes[at + index]);
        let eight = |at: usize| std::array::from_fn(|index| bytes[at + index]);
        Self {
            blob: u32::from_le_bytes(four(0)),
            offset: u64::from_le_bytes(eight(4)),
            len: u32::from_le_bytes(four(12)),
            crc: u32::from_le_bytes(four(16)),
            expiry: u64::from_le_bytes(eight(20)),
        }
    }
}

/// What stands before the value in a record for the place `offset`, and the record's checksum.
pub(super) fn head(keyspace: KeyspaceId, offset: u64, key: &[u8], lsn: Lsn, value: &[u8]) -> (Vec<u8>, u32) {
    let mut head = Vec::with_capacity(FRAME_LEN + key.len());
    head.put_u32(0);
    head.put_u32(len_u32(value.len()));
    head.put_u64(lsn.offset());
    head.put_u16(len_u16(key.len()));
    head.put_u16(0);
    head.put(key);
    let crc = checksum(keyspace, offset, &[&head[4..], value]);
    head[..4].copy_from_slice(&crc.to_le_bytes());
    (head, crc)
}

fn checksum(keyspace: KeyspaceId, offset: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&keyspace.0.to_le_bytes());
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// A record in a file.
pub(super) struct Record {
    pub(super) crc: u32,
    /// Where the value lies in the file.
    pub(super) value: Range<usize>,
}

/// The record at `offset` of a file's records, checked against its own checksum unless it was before.
pub(super) fn open(file: &[u8], keyspace: KeyspaceId, offset: u64, was_checked: bool) -> Result<Record, &'static str> {
    let start = usize::try_from(offset).map_err(|_| "its place is outside the file")?;
    let rest = file.get(start..).ok_or("its place is outside the file")?;
    let frame = rest.first_chunk::<FRAME_LEN>().ok_or("its place is outside the file")?;
    let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| frame[at + index]));
    let (crc, value_len) = (four(0), four(4) as usize);
    let key_len = usize::from(u16::from_le_bytes([frame[16], frame[17]]));
    let len = FRAME_LEN + key_len + value_len;
    let checked = rest.get(4..len).ok_or("it is longer than the file")?;
    if !was_checked && checksum(keyspace, offset, &[checked]) != crc && !planted(Mutant::BlobValuesNotChecked) {
        return Err("its checksum does not match");
    }
    if frame[18..] != [0, 0] {
        return Err("it is no record");
    }
    Ok(Record { crc, value: start + FRAME_LEN + key_len..start + len })
}

/// Where the value lies that a table refers to, in a record that was checked before or is checked now.
pub(super) fn find(
    file: &[u8],
    keyspace: KeyspaceId,
    at: &Reference,
    was_checked: bool,
) -> Result<Range<usize>, &'static str> {
    let Record { crc, value } = open(file, keyspace, at.offset, was_checked)?;
    if (crc, value.len()) != (at.crc, at.len as usize) && !planted(Mutant::BlobValuesNotChecked) {
        return Err("it is not the record that the table refers to");
    }
    Ok(value)
}
