//! One block: its frame with the checksum that covers its address, and the sorted entries of data and index blocks.
//! A block's bytes are walked once when it is read, so that using its entries cannot fail.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use seawall_wal::Lsn;
use seawall_wal::storage::Mapping;

use super::content::{Content, EntryRef};
use super::version_order;
use crate::codec::{Put, len_u16, len_u32};
use crate::format::KeyspaceId;

/// Bytes before a block's stored bytes.
pub(crate) const FRAME_LEN: usize = 20;
/// A data block closes when it has about so many bytes.
pub(crate) const BLOCK_TARGET: usize = 16 << 10;
/// No data block is larger when decompressed: one entry of the largest batch, and what stands around it.
const DATA_RAW_MAX: usize = 17 << 20;
/// Key length, kind, version, value length.
const ENTRY_HEADER_LEN: usize = 2 + 1 + 8 + 4;

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockKind {
    Data = 1,
    Filter = 2,
    Index = 3,
    Properties = 4,
    RangeDeletes = 5,
}

/// How a block's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Codec {
    None = 0,
    Zstd = 1,
}

/// Frames `raw` for the place `offset`, compressed if asked to and if that saves an eighth.
pub(crate) fn seal(
    kind: BlockKind,
    keyspace: KeyspaceId,
    offset: u64,
    raw: &[u8],
    count: u32,
    zstd_level: Option<i32>,
) -> Vec<u8> {
    let compressed = zstd_level
        .and_then(|level| zstd::bulk::compress(raw, level).ok())
        .filter(|compressed| compressed.len() < raw.len() - raw.len() / 8);
    let (codec, stored) = match &compressed {
        Some(compressed) => (Codec::Zstd, compressed.as_slice()),
        None => (Codec::None, raw),
    };
    let mut block = Vec::with_capacity(FRAME_LEN + stored.len());
    block.put_u32(0);
    block.put_u32(len_u32(stored.len()));
    block.put_u32(len_u32(raw.len()));
    block.put_u8(codec as u8);
    block.put_u8(kind as u8);
    block.put_u16(0);
    block.put_u32(count);
    block.put(stored);
    let crc = checksum(offset, keyspace, &block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
    block
}

fn checksum(offset: u64, keyspace: KeyspaceId, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&keyspace.0.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A block's bytes, verified: where they lie in the map, decompressed, or as they were read, the frame in front.
pub(crate) enum Body {
    Mapped(Arc<Mapping>, Range<usize>),
    Owned(Vec<u8>),
    Framed(Vec<u8>),
}

impl Body {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map, range) => &map[range.clone()],
            Self::Owned(bytes) => bytes,
            Self::Framed(bytes) => &bytes[FRAME_LEN..],
        }
    }

    /// Bytes of heap it holds.
    fn heap(&self) -> usize {
        match self {
            Self::Mapped(..) => 0,
            Self::Owned(bytes) | Self::Framed(bytes) => bytes.len(),
        }
    }
}

/// Opens the block of this kind at `offset`: checks it, decompresses it, and gives its number of entries.
/// With `len` the frame must have exactly that length.
pub(crate) fn open(
    map: &Arc<Mapping>,
    keyspace: KeyspaceId,
    kind: BlockKind,
    offset: u64,
    len: Option<usize>,
) -> Result<(Body, u32), &'static str> {
    let start = usize::try_from(offset).map_err(|_| "its place is outside the file")?;
    let rest = map.get(start..).ok_or("its place is outside the file")?;
    let frame = Frame::check(rest, keyspace, kind, offset)?;
    if len.is_some_and(|len| len != FRAME_LEN + frame.stored_len) {
        return Err("it is not the block expected there");
    }
    let range = start + FRAME_LEN..start + FRAME_LEN + frame.stored_len;
    let body = match frame.decompress(&map[range.clone()])? {
        Some(raw) => Body::Owned(raw),
        None => Body::Mapped(Arc::clone(map), range),
    };
    Ok((body, frame.count))
}

/// As [`open`], of a block whose `bytes` were read from `offset`.
pub(crate) fn open_read(
    bytes: Vec<u8>,
    keyspace: KeyspaceId,
    kind: BlockKind,
    offset: u64,
) -> Result<(Body, u32), &'static str> {
    let frame = Frame::check(&bytes, keyspace, kind, offset)?;
    if bytes.len() != FRAME_LEN + frame.stored_len {
        return Err("it is not the block expected there");
    }
    let body = match frame.decompress(&bytes[FRAME_LEN..])? {
        Some(raw) => Body::Owned(raw),
        None => Body::Framed(bytes),
    };
    Ok((body, frame.count))
}

/// What the bytes before a block say, which match its checksum.
struct Frame {
    stored_len: usize,
    raw_len: usize,
    codec: u8,
    count: u32,
}

impl Frame {
    /// Checks the block that `bytes` begin with.
    fn check(bytes: &[u8], keyspace: KeyspaceId, kind: BlockKind, offset: u64) -> Result<Self, &'static str> {
        let frame = bytes.get(..FRAME_LEN).ok_or("its place is outside the file")?;
        let field = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
        let (crc, stored_len, raw_len, count) = (field(0), field(4) as usize, field(8) as usize, field(16));
        let checked = bytes.get(4..FRAME_LEN + stored_len).ok_or("it is longer than the file")?;
        if checksum(offset, keyspace, checked) != crc {
            return Err("its checksum does not match");
        }
        if frame[13] != kind as u8 || frame[14..16] != [0, 0] {
            return Err("it is not the block expected there");
        }
        Ok(Self { stored_len, raw_len, codec: frame[12], count })
    }

    /// The raw bytes, or `None` if they are the stored ones.
    fn decompress(&self, stored: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
        match self.codec {
            codec if codec == Codec::None as u8 && self.raw_len == self.stored_len => Ok(None),
            codec if codec == Codec::Zstd as u8 && self.raw_len <= DATA_RAW_MAX => {
                let raw = zstd::bulk::decompress(stored, self.raw_len).map_err(|_| "it does not decompress")?;
                if raw.len() != self.raw_len {
                    return Err("it does not have the length it says");
                }
                Ok(Some(raw))
            }
            _ => Err("its codec or length is unknown"),
        }
    }
}

/// The entries of a data or index block.
pub(crate) struct Block {
    body: Body,
    count: usize,
    /// Where the offsets start in the body.
    offsets: usize,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} entries)", self.count)
    }
}

impl Block {
    /// Checks that the body is so many entries in order.
    pub(crate) fn new(body: Body, count: u32) -> Result<Self, &'static str> {
        let bytes = body.bytes();
        let count = count as usize;
        let offsets = count.checked_mul(4).and_then(|len| bytes.len().checked_sub(len));
        let offsets = offsets.ok_or("its number of entries is impossible")?;
        let mut at = 0;
        let mut previous: Option<EntryRef<'_>> = None;
        for index in 0..count {
            if offset_of(bytes, offsets, index) != at {
                return Err("its offsets are wrong");
            }
            let (entry, end) = parse_entry(&bytes[..offsets], at).ok_or("an entry is longer than it")?;
            let rising = previous.is_none_or(|p| version_order((p.key, p.lsn), (entry.key, entry.lsn)).is_lt());
            if !rising {
                return Err("its entries are out of order");
            }
            previous = Some(entry);
            at = end;
        }
        if at != offsets {
            return Err("bytes follow its last entry");
        }
        Ok(Self { body, count, offsets })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn entry(&self, index: usize) -> EntryRef<'_> {
        assert!(index < self.count, "an entry of the block");
        let bytes = self.body.bytes();
        let at = offset_of(bytes, self.offsets, index);
        parse_entry(&bytes[..self.offsets], at).expect("the block was checked").0
    }

    /// The first entry at or after `(key, lsn)` in the order of versions; `len()` if there is none.
    pub(crate) fn lower_bound(&self, key: &[u8], lsn: Lsn) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entry(middle);
            if version_order((entry.key, entry.lsn), (key, lsn)).is_lt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Bytes of memory it costs to keep it.
    pub(crate) fn weight(&self) -> u64 {
        (self.body.heap() + 128) as u64
    }
}

fn offset_of(bytes: &[u8], offsets: usize, index: usize) -> usize {
    let at = offsets + index * 4;
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn parse_entry(bytes: &[u8], at: usize) -> Option<(EntryRef<'_>, usize)> {
    let header = bytes.get(at..)?.first_chunk::<ENTRY_HEADER_LEN>()?;
    let key_len = u16::from_le_bytes([header[0], header[1]]) as usize;
    let lsn = u64::from_le_bytes(header[3..11].try_into().expect("eight bytes"));
    let value_len = u32::from_le_bytes(header[11..15].try_into().expect("four bytes")) as usize;
    let key_at = at + ENTRY_HEADER_LEN;
    let key = bytes.get(key_at..key_at + key_len)?;
    let value = bytes.get(key_at + key_len..key_at + key_len + value_len)?;
    let content = Content::parse(header[2], value)?;
    Some((EntryRef { key, lsn: Lsn::new(lsn), content }, key_at + key_len + value_len))
}

/// Gathers entries in order.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    bytes: Vec<u8>,
    offsets: Vec<u32>,
}

impl BlockBuilder {
    pub(crate) fn push(&mut self, entry: EntryRef<'_>) {
        self.offsets.push(len_u32(self.bytes.len()));
        self.bytes.put_u16(len_u16(entry.key.len()));
        self.bytes.put_u8(entry.content.kind());
        self.bytes.put_u64(entry.lsn.offset());
        self.bytes.put_u32(len_u32(entry.content.stored_len()));
        self.bytes.put(entry.key);
        entry.content.store(&mut self.bytes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes it would have if it were closed now.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.offsets.len() * 4
    }

    /// Its raw bytes and number of entries; the builder is empty again.
    pub(crate) fn take(&mut self) -> (Vec<u8>, u32) {
        let mut raw = std::mem::take(&mut self.bytes);
        let count = len_u32(self.offsets.len());
        for offset in self.offsets.drain(..) {
            raw.put_u32(offset);
        }
        (raw, count)
    }
}
