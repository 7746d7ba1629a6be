//! One block: its frame with the checksum that covers its address, and where its raw bytes are once they are checked.
//! What the bytes mean is said by those who know the block's kind.

use std::ops::Range;
use std::sync::Arc;

use seawall_wal::storage::Mapping;

use super::Codec;
use crate::codec::{Put, len_u32};
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};

/// Bytes before a block's stored bytes.
pub(crate) const FRAME_LEN: usize = 20;
/// No data block is larger when decompressed: one entry of the largest batch, and what stands around it.
const DATA_RAW_MAX: usize = 17 << 20;
/// The fast end: more costs more than it saves on blocks of this size.
const ZSTD_LEVEL: i32 = 1;

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockKind {
    Data = 1,
    Filter = 2,
    Root = 3,
    Properties = 4,
    RangeDeletes = 5,
    Leaf = 6,
}

/// Frames `raw` for the place `offset`, compressed if asked to and if that saves an eighth. Says also how it was stored.
pub(crate) fn seal(
    kind: BlockKind,
    keyspace: KeyspaceId,
    offset: u64,
    raw: &[u8],
    count: u32,
    codec: Codec,
) -> (Vec<u8>, Codec) {
    let compressed = match codec {
        Codec::None => None,
        Codec::Zstd => zstd::bulk::compress(raw, ZSTD_LEVEL).ok(),
    };
    let compressed = compressed.filter(|compressed| compressed.len() < raw.len() - raw.len() / 8);
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
    (block, codec)
}

fn checksum(offset: u64, keyspace: KeyspaceId, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&keyspace.0.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// The raw bytes of a block that was checked. Clones share them.
#[derive(Clone)]
pub(crate) enum Block {
    /// Where they lie in the map.
    Mapped(Arc<Mapping>, Range<usize>),
    /// In memory, behind so many bytes that do not belong to them.
    Held(Arc<Vec<u8>>, usize),
}

impl Block {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map, range) => &map[range.clone()],
            Self::Held(bytes, skip) => &bytes[*skip..],
        }
    }

    /// Whether its raw bytes are the file's.
    pub(super) fn is_as_stored(&self) -> bool {
        match self {
            Self::Mapped(..) => true,
            Self::Held(_, skip) => *skip == FRAME_LEN,
        }
    }

    /// Whether it is read without a disk. What was read once may have been forgotten by the kernel since.
    pub(super) fn is_in_memory(&self) -> bool {
        match self {
            Self::Mapped(map, range) => map.is_resident(range.clone()),
            Self::Held(..) => true,
        }
    }

    /// Bytes of memory it costs to keep it.
    pub(super) fn weight(&self) -> u64 {
        let heap = match self {
            Self::Mapped(..) => 0,
            Self::Held(bytes, _) => bytes.len(),
        };
        (heap + 128) as u64
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
) -> Result<(Block, u32), &'static str> {
    let start = usize::try_from(offset).map_err(|_| "its place is outside the file")?;
    let rest = map.get(start..).ok_or("its place is outside the file")?;
    let frame = Frame::check(rest, keyspace, kind, offset)?;
    if len.is_some_and(|len| len != FRAME_LEN + frame.stored_len) {
        return Err("it is not the block expected there");
    }
    let range = start + FRAME_LEN..start + FRAME_LEN + frame.stored_len;
    let block = match frame.decompress(&map[range.clone()])? {
        Some(raw) => Block::Held(Arc::new(raw), 0),
        None => Block::Mapped(Arc::clone(map), range),
    };
    Ok((block, frame.count))
}

/// As [`open`], of a block whose `bytes` were read from `offset`.
pub(crate) fn open_read(
    bytes: Vec<u8>,
    keyspace: KeyspaceId,
    kind: BlockKind,
    offset: u64,
) -> Result<(Block, u32), &'static str> {
    let frame = Frame::check(&bytes, keyspace, kind, offset)?;
    if bytes.len() != FRAME_LEN + frame.stored_len {
        return Err("it is not the block expected there");
    }
    let block = match frame.decompress(&bytes[FRAME_LEN..])? {
        Some(raw) => Block::Held(Arc::new(raw), 0),
        None => Block::Held(Arc::new(bytes), FRAME_LEN),
    };
    Ok((block, frame.count))
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
        if checksum(offset, keyspace, checked) != crc && !planted(Mutant::BlocksNotChecked) {
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
