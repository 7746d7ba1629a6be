//! The end of a table's file: where its parts lie, and what it must hold to be the table the manifest names.

use super::{Codec, FOOTER_LEN, FOOTER_MAGIC, TABLE_VERSION, TableMeta};
use crate::codec::{Put, Reader, Truncated};
use crate::file::tail::{self, TAIL_LEN};
use crate::format::KeyspaceId;

/// Where the parts of a table lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    /// 0 if there is none.
    pub(super) root_at: u64,
    /// 0 if there is none.
    pub(super) filter_at: u64,
    pub(super) properties_at: u64,
    /// 0 if there are none.
    pub(super) range_deletes_at: u64,
    /// Data blocks.
    pub(super) blocks: u32,
    pub(super) codec: Codec,
    /// Blob files that entries refer to.
    pub(super) blobs: u32,
    /// Entries that expire, and operands; no more are counted than fit.
    pub(super) expiring: u32,
    pub(super) operands: u32,
}

/// Why bytes are no footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// They are damaged.
    Damaged(&'static str),
    /// They are whole, and of another version.
    Version(u32),
}

impl Footer {
    /// Its stored form, which also says what `meta` does.
    pub(super) fn encode(&self, keyspace: KeyspaceId, meta: &TableMeta) -> Vec<u8> {
        let mut bytes = self.fields(keyspace, meta);
        tail::put(&mut bytes, TABLE_VERSION, &FOOTER_MAGIC);
        debug_assert_eq!(bytes.len(), FOOTER_LEN);
        bytes
    }

    fn fields(&self, keyspace: KeyspaceId, meta: &TableMeta) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_LEN);
        for place in [self.root_at, self.filter_at, self.properties_at, self.range_deletes_at] {
            bytes.put_u64(place);
        }
        for count in [meta.entries, meta.tombstones, meta.range_deletes] {
            bytes.put_u64(count);
        }
        bytes.put_u64(meta.min_lsn.offset());
        bytes.put_u64(meta.max_lsn.offset());
        bytes.put_u64(meta.min_expiry);
        bytes.put_u64(meta.max_expiry);
        bytes.put_u64(meta.size);
        bytes.put_u32(keyspace.0);
        bytes.put_u32(self.blocks);
        bytes.put_u32(self.codec as u32);
        bytes.put_u32(self.blobs);
        bytes.put_u32(self.expiring);
        bytes.put_u32(self.operands);
        bytes
    }

    /// Reads the footer that a file ends with, which must be that of `meta`.
    pub(super) fn parse(file: &[u8], keyspace: KeyspaceId, meta: &TableMeta) -> Result<Self, Unreadable> {
        let version = version(file)?;
        if version != TABLE_VERSION {
            return Err(Unreadable::Version(version));
        }
        let fields = &file[file.len() - FOOTER_LEN..file.len() - TAIL_LEN];
        let footer = Self::places(fields).map_err(|Truncated| Unreadable::Damaged("its footer is too short"))?;
        let footer = footer.ok_or(Unreadable::Damaged("its footer names no known codec"))?;
        if footer.fields(keyspace, meta) != fields {
            return Err(Unreadable::Damaged("its footer is not that of the table in the manifest"));
        }
        Ok(footer)
    }

    pub(super) fn places(fields: &[u8]) -> Result<Option<Self>, Truncated> {
        let (mut places, mut rest) = (Reader::new(fields), Reader::new(&fields[100..]));
        let blocks = rest.u32()?;
        let codec = match rest.u32()? {
            0 => Codec::None,
            1 => Codec::Zstd,
            _ => return Ok(None),
        };
        let (blobs, expiring, operands) = (rest.u32()?, rest.u32()?, rest.u32()?);
        Ok(Some(Self {
            root_at: places.u64()?,
            filter_at: places.u64()?,
            properties_at: places.u64()?,
            range_deletes_at: places.u64()?,
            blocks,
            codec,
            blobs,
            expiring,
            operands,
        }))
    }
}

/// The version of the footer that a file ends with, whose checksum matches.
fn version(file: &[u8]) -> Result<u32, Unreadable> {
    const WRONG: Unreadable = Unreadable::Damaged("its footer does not match its checksum");
    let (version, len) = tail::check(file, &FOOTER_MAGIC).ok_or(WRONG)?;
    if version == TABLE_VERSION && len != FOOTER_LEN {
        return Err(WRONG);
    }
    Ok(version)
}

const _: () = assert!(FOOTER_LEN == TAIL_LEN + 120);

#[cfg(test)]
mod tests {
    use seawall_wal::Lsn;

    use super::*;
    use crate::file::FileHash;

    #[test]
    fn a_footer_of_another_version_is_told_from_a_damaged_one() {
        let meta = TableMeta {
            hash: FileHash::from_bytes([0; 32]),
            size: 1,
            entries: 2,
            tombstones: 1,
            range_deletes: 3,
            min_lsn: Lsn::new(4),
            max_lsn: Lsn::new(5),
            min_expiry: 6,
            max_expiry: 7,
            min_key: Vec::new(),
            max_key: Vec::new(),
            max_key_excluded: false,
        };
        let footer = Footer {
            root_at: 8,
            filter_at: 9,
            properties_at: 10,
            range_deletes_at: 11,
            blocks: 12,
            codec: Codec::Zstd,
            blobs: 14,
            expiring: 15,
            operands: 16,
        };
        let good = footer.encode(KeyspaceId(13), &meta);
        assert_eq!(Footer::parse(&good, KeyspaceId(13), &meta), Ok(footer));
        assert!(matches!(Footer::parse(&good, KeyspaceId(14), &meta), Err(Unreadable::Damaged(_))));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Footer::parse(&bytes, KeyspaceId(13), &meta), Err(Unreadable::Damaged(_))), "bit {bit}");
        }
        // Longer, and newer.
        let mut newer = vec![0xAB; 50];
        newer.extend(good);
        let tail = newer.len() - TAIL_LEN;
        newer[tail..tail + 4].copy_from_slice(&(TABLE_VERSION + 1).to_le_bytes());
        newer[tail + 4..tail + 8].copy_from_slice(&(FOOTER_LEN as u32 + 50).to_le_bytes());
        let crc = crc32fast::hash(&newer[..tail + 8]);
        newer[tail + 8..tail + 12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Footer::parse(&newer, KeyspaceId(13), &meta), Err(Unreadable::Version(TABLE_VERSION + 1)));
    }
}
