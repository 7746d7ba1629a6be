//! The range deletes of a table: stored in a block of their own, all read at once. What they mean to a reader is not
//! decided here.

use std::cmp::Ordering;

use seawall_wal::Lsn;

use crate::codec::{Put, Reader, Truncated, len_u32};
use crate::format::{KEY_END_LEN_MAX, KEY_LEN_MAX};

/// All versions older than `lsn` of the keys `start <= key < end` are gone. `start < end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeDelete {
    pub(crate) start: Box<[u8]>,
    /// May be one byte longer than a key: what follows the longest key needs that.
    pub(crate) end: Box<[u8]>,
    pub(crate) lsn: Lsn,
}

impl RangeDelete {
    /// By start, newer ones first. No two of a table are equal in it.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        self.start.cmp(&other.start).then(other.lsn.cmp(&self.lsn)).then(self.end.cmp(&other.end))
    }

    /// Bytes it is stored in.
    pub(super) fn stored_len(&self) -> usize {
        4 + 4 + 8 + self.start.len() + self.end.len()
    }

    fn is_possible(&self) -> bool {
        self.start < self.end && self.start.len() <= KEY_LEN_MAX && self.end.len() <= KEY_END_LEN_MAX
    }
}

/// The bytes of a block of range deletes, which are in order.
pub(super) fn encode(deletes: &[RangeDelete]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(deletes.iter().map(RangeDelete::stored_len).sum());
    for delete in deletes {
        bytes.put_u32(len_u32(delete.start.len()));
        bytes.put_u32(len_u32(delete.end.len()));
        bytes.put_u64(delete.lsn.offset());
        bytes.put(&delete.start);
        bytes.put(&delete.end);
    }
    bytes
}

/// Reads a block of so many range deletes.
pub(super) fn parse(bytes: &[u8], count: u32) -> Result<Box<[RangeDelete]>, &'static str> {
    let mut reader = Reader::new(bytes);
    let mut deletes: Vec<RangeDelete> = Vec::new();
    for _ in 0..count {
        let delete = parse_one(&mut reader).map_err(|Truncated| "a range delete is longer than it")?;
        if !delete.is_possible() || deletes.last().is_some_and(|last| last.order(&delete).is_ge()) {
            return Err("its range deletes are out of order");
        }
        deletes.push(delete);
    }
    if !reader.is_empty() {
        return Err("bytes follow its last range delete");
    }
    Ok(deletes.into())
}

fn parse_one(reader: &mut Reader<'_>) -> Result<RangeDelete, Truncated> {
    let (start_len, end_len) = (reader.u32()? as usize, reader.u32()? as usize);
    let lsn = Lsn::new(reader.u64()?);
    Ok(RangeDelete { start: reader.bytes(start_len)?.into(), end: reader.bytes(end_len)?.into(), lsn })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_or_is_all_there_is() {
        let delete =
            |start: &[u8], end: &[u8], lsn| RangeDelete { start: start.into(), end: end.into(), lsn: Lsn::new(lsn) };
        let deletes = [delete(b"", b"b", 7), delete(b"a", b"c", 9), delete(b"a", b"b", 3), delete(b"a", b"d", 3)];
        let good = encode(&deletes);
        assert_eq!(&*parse(&good, 4).unwrap(), deletes);
        assert!(parse(&good, 3).is_err() && parse(&good, 5).is_err());
        let mut refused = 0;
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                match parse(&bytes, 4) {
                    Ok(parsed) => assert_eq!(encode(&parsed), bytes),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > good.len());
        for wrong in [delete(b"b", b"b", 1), delete(b"c", b"b", 1), delete(b"b", &vec![b'x'; 65_537], 1)] {
            assert!(parse(&encode(&[wrong]), 1).is_err());
        }
    }
}
