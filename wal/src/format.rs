#![doc = include_str!("../FORMAT.md")]
//!
//! # In this module
//!
//! Encoding and checking of segment headers and records, without any I/O. Bytes become a header or a record only by
//! proving themselves; what to do about bytes that do not is `recovery`'s business.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::clock::Timestamp;
use crate::identity::{ClusterId, NodeId, TimelineId, TimelineNonce};
use crate::lsn::{Lsn, SegmentNumber, SegmentSize};
use crate::mutant::{Mutant, planted};
use crate::storage::SECTOR_SIZE;

/// The version this code writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes at the start of each segment.
pub const SEGMENT_HEADER_SIZE: usize = 512;
/// Bytes before each payload.
pub const RECORD_HEADER_SIZE: usize = 48;
/// Records start at multiples of this.
pub const RECORD_ALIGNMENT: usize = 8;
/// No record, header included, is larger, whatever the segment size.
pub const RECORD_SIZE_MAX: usize = 16 << 20;

const MAGIC: [u8; 8] = *b"SEAWALL\x01";

const _: () = assert!(SEGMENT_HEADER_SIZE == SECTOR_SIZE);
const _: () = assert!(RECORD_HEADER_SIZE.is_multiple_of(RECORD_ALIGNMENT));
const _: () = assert!(SEGMENT_HEADER_SIZE.is_multiple_of(RECORD_ALIGNMENT));

/// The running hash in each record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chain(pub u64);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The end of a record and the chain there. It names one history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The exclusive end of a record.
    pub lsn: Lsn,
    /// The chain of that record.
    pub chain: Chain,
}

impl Position {
    /// Before the first record of a cluster.
    pub const ZERO: Self = Self { lsn: Lsn::ZERO, chain: Chain(0) };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (chain {})", self.lsn, self.chain)
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// One batch of operations.
    Commit = 1,
    /// Zeros to the end of the segment.
    Pad = 2,
    /// Nothing but its time.
    Time = 3,
    /// A keyspace is created or dropped.
    Keyspace = 4,
    /// Reserved.
    MemtableRotate = 5,
    /// Reserved.
    Checkpoint = 6,
    /// The first record of a timeline begun by promotion.
    Promotion = 7,
    /// A named position to restore to.
    RestorePoint = 8,
    /// Reserved.
    Blob = 9,
}

impl RecordKind {
    /// The kind stored as `value`.
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Commit,
            2 => Self::Pad,
            3 => Self::Time,
            4 => Self::Keyspace,
            5 => Self::MemtableRotate,
            6 => Self::Checkpoint,
            7 => Self::Promotion,
            8 => Self::RestorePoint,
            9 => Self::Blob,
            _ => return None,
        })
    }
}

/// The largest payload a record of this cluster can carry.
pub const fn payload_len_max(size: SegmentSize) -> usize {
    let quarter = size.bytes() as usize / 4;
    (if quarter < RECORD_SIZE_MAX { quarter } else { RECORD_SIZE_MAX }) - RECORD_HEADER_SIZE
}

/// Where the extent of a record ends that starts at `start` and has so long a payload: aligned, and including a
/// remainder of the segment that could not hold another header.
///
/// For S = 65536, a record at 65400 with a payload of 40 bytes: 65400 + 48 + 40 = 65488, a multiple of 8, and
/// 65536 - 65488 = 48 bytes remain, enough for a header. With a payload of 41 it would end at 65496, 40 bytes remain,
/// and the extent goes on to 65536.
pub fn record_end(start: Lsn, payload_len: usize, size: SegmentSize) -> Lsn {
    let len = (RECORD_HEADER_SIZE + payload_len).next_multiple_of(RECORD_ALIGNMENT) as u64;
    let end = start.advance(len);
    let boundary = size.boundary_at_or_after(end);
    if boundary.distance_from(end) < RECORD_HEADER_SIZE as u64 { boundary } else { end }
}

/// A segment's first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log this is.
    pub cluster: ClusterId,
    /// The timeline's nonce.
    pub nonce: TimelineNonce,
    /// The timeline.
    pub timeline: TimelineId,
    /// The cluster's segment size.
    pub size: SegmentSize,
    /// Which segment.
    pub segment: SegmentNumber,
    /// Goes into every record's header CRC.
    pub salt: u64,
    /// Where the records before this segment end, and their chain.
    pub previous: Position,
    /// The primary that made it.
    pub writer: NodeId,
    /// When.
    pub created: Timestamp,
}

impl SegmentHeader {
    /// Its stored form.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_SIZE] {
        let mut bytes = [0; SEGMENT_HEADER_SIZE];
        bytes[..8].copy_from_slice(&MAGIC);
        put_u32(&mut bytes, 8, FORMAT_VERSION);
        bytes[16..32].copy_from_slice(&self.cluster.to_bytes());
        bytes[32..48].copy_from_slice(&self.nonce.to_bytes());
        put_u32(&mut bytes, 48, self.timeline.0);
        put_u32(&mut bytes, 52, self.size.bytes());
        put_u64(&mut bytes, 56, self.segment.0);
        put_u64(&mut bytes, 64, self.salt);
        put_u64(&mut bytes, 72, self.previous.lsn.offset());
        put_u64(&mut bytes, 80, self.previous.chain.0);
        bytes[88..104].copy_from_slice(&self.writer.to_bytes());
        put_u64(&mut bytes, 104, self.created.0);
        let crc = crc32fast::hash(&bytes[16..]);
        put_u32(&mut bytes, 12, crc);
        bytes
    }

    /// Where its first record starts.
    pub fn first_record(&self) -> Lsn {
        self.size.start_of(self.segment).advance(SEGMENT_HEADER_SIZE as u64)
    }
}

/// What the first sector of a segment file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnverifiedSegmentHeader {
    /// All zero: named and durable, but not begun.
    Prepared,
    /// Whole and of a version we know; not yet compared with what is expected here.
    Parsed(SegmentHeader),
    /// Of a version we do not know.
    TooNew(u32),
    /// Neither zero nor whole.
    Unreadable,
}

impl UnverifiedSegmentHeader {
    /// Reads a first sector.
    pub fn parse(bytes: &[u8; SEGMENT_HEADER_SIZE]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Prepared;
        }
        let (version, crc) = (get_u32(bytes, 8), get_u32(bytes, 12));
        let is_first_version = crc == crc32fast::hash(&bytes[16..]);
        let is_later_version = crc == later_header_crc(bytes) || planted(Mutant::VersionNotChecked) && is_first_version;
        if bytes[..8] != MAGIC || !is_first_version && !is_later_version {
            return Self::Unreadable;
        }
        if version > FORMAT_VERSION && is_later_version {
            return Self::TooNew(version);
        }
        if version != FORMAT_VERSION || !is_first_version {
            return Self::Unreadable;
        }
        let segment = SegmentNumber(get_u64(bytes, 56));
        let Some(size) = SegmentSize::new(get_u32(bytes, 52)).filter(|size| size.reaches(segment)) else {
            return Self::Unreadable;
        };
        Self::Parsed(SegmentHeader {
            cluster: ClusterId::from_bytes(get_array(bytes, 16)),
            nonce: TimelineNonce::from_bytes(get_array(bytes, 32)),
            timeline: TimelineId(get_u32(bytes, 48)),
            size,
            segment,
            salt: get_u64(bytes, 64),
            previous: Position { lsn: Lsn::new(get_u64(bytes, 72)), chain: Chain(get_u64(bytes, 80)) },
            writer: NodeId::from_bytes(get_array(bytes, 88)),
            created: Timestamp(get_u64(bytes, 104)),
        })
    }
}

/// A record's header, verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of payload.
    pub payload_len: usize,
    /// Where the record starts.
    pub start: Lsn,
    /// The chain including this record.
    pub chain: Chain,
    /// The writer's flush LSN when the record was made.
    pub flush_stamp: Lsn,
    /// When it was committed.
    pub time: Timestamp,
    /// CRC-32 of the payload.
    pub payload_crc: u32,
    /// What it says.
    pub kind: RecordKind,
}

/// Why bytes are not the record expected at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotARecord {
    /// The header does not check out.
    Header,
    /// The header is whole, the payload is not.
    Payload,
    /// The record is whole in itself but does not continue the chain.
    Chain,
    /// The record is whole, but its flags are unknown to this version.
    Unknown,
}

impl RecordHeader {
    /// Makes the header of a record that continues `previous`, with its chain.
    pub fn chained(
        previous: Chain,
        start: Lsn,
        kind: RecordKind,
        payload_len: usize,
        payload_crc: u32,
        flush_stamp: Lsn,
        time: Timestamp,
    ) -> Self {
        let mut header = Self { payload_len, start, chain: Chain(0), flush_stamp, time, payload_crc, kind };
        header.chain = chain_after(previous, &header.encode_unsealed());
        header
    }

    /// Its stored form in a segment with this salt.
    pub fn encode(&self, salt: u64) -> [u8; RECORD_HEADER_SIZE] {
        let mut bytes = self.encode_unsealed();
        let crc = header_crc(salt, &bytes);
        put_u32(&mut bytes, 0, crc);
        bytes
    }

    fn encode_unsealed(&self) -> [u8; RECORD_HEADER_SIZE] {
        let mut bytes = [0; RECORD_HEADER_SIZE];
        put_u32(&mut bytes, 4, self.payload_len.try_into().expect("a payload is at most 16 MiB"));
        put_u64(&mut bytes, 8, self.start.offset());
        put_u64(&mut bytes, 16, self.chain.0);
        put_u64(&mut bytes, 24, self.flush_stamp.offset());
        put_u64(&mut bytes, 32, self.time.0);
        put_u32(&mut bytes, 40, self.payload_crc);
        bytes[44] = self.kind as u8;
        bytes
    }

    /// Reads the header at `start`, checking everything but the chain and the payload. Allocates nothing.
    pub fn parse(bytes: &[u8], start: Lsn, salt: u64, size: SegmentSize) -> Result<Self, NotARecord> {
        let bytes: &[u8; RECORD_HEADER_SIZE] =
            bytes.get(..RECORD_HEADER_SIZE).and_then(|bytes| bytes.try_into().ok()).ok_or(NotARecord::Header)?;
        // The position is the cheapest test, and scanning for records asks it millions of times.
        if get_u64(bytes, 8) != start.offset() || header_crc(salt, bytes) != get_u32(bytes, 0) {
            return Err(NotARecord::Header);
        }
        let payload_len = get_u32(bytes, 4) as usize;
        let kind = RecordKind::from_u8(bytes[44]);
        let (Some(kind), 0, 0, 0) = (kind, bytes[45], bytes[46], bytes[47]) else {
            return Err(NotARecord::Unknown);
        };
        if !start.is_reachable() {
            return Err(NotARecord::Header);
        }
        let segment_end = size.end_of(size.segment_of(start));
        let too_long = payload_len > payload_len_max(size) || record_end(start, payload_len, size) > segment_end;
        if too_long && !planted(Mutant::UnboundedLength) {
            return Err(NotARecord::Header);
        }
        Ok(Self {
            payload_len,
            start,
            chain: Chain(get_u64(bytes, 16)),
            flush_stamp: Lsn::new(get_u64(bytes, 24)),
            time: Timestamp(get_u64(bytes, 32)),
            payload_crc: get_u32(bytes, 40),
            kind,
        })
    }

    /// Whether this record continues `previous`.
    pub fn continues(&self, previous: Chain) -> bool {
        chain_after(previous, &self.encode_unsealed()) == self.chain || planted(Mutant::ChainIgnored)
    }

    /// Where its extent ends, which is its LSN.
    pub fn end(&self, size: SegmentSize) -> Lsn {
        record_end(self.start, self.payload_len, size)
    }
}

/// A whole record at the head of some bytes.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// What it carries.
    pub payload: &'a [u8],
    /// Its LSN: where its extent ends.
    pub lsn: Lsn,
}

impl<'a> Record<'a> {
    /// Reads the record at `start` from `bytes`, which begin there; everything is checked but the chain.
    /// `bytes` may end before the record does: that is [`NotARecord::Payload`].
    pub fn parse(bytes: &'a [u8], start: Lsn, salt: u64, size: SegmentSize) -> Result<Self, NotARecord> {
        let header = RecordHeader::parse(bytes, start, salt, size)?;
        Self::with_header(header, &bytes[RECORD_HEADER_SIZE..], size)
    }

    /// As [`parse`](Self::parse), for a header that was read already; `rest` begins behind it.
    pub(crate) fn with_header(header: RecordHeader, rest: &'a [u8], size: SegmentSize) -> Result<Self, NotARecord> {
        let payload = rest.get(..header.payload_len).ok_or(NotARecord::Payload)?;
        if payload_crc(payload) != header.payload_crc {
            return Err(NotARecord::Payload);
        }
        Ok(Self { header, payload, lsn: header.end(size) })
    }

    /// The position after this record.
    pub fn position(&self) -> Position {
        Position { lsn: self.lsn, chain: self.header.chain }
    }
}

/// The checksum of a payload; 0 for an empty one.
pub fn payload_crc(payload: &[u8]) -> u32 {
    crc32fast::hash(payload)
}

/// The checksum of a segment's header in versions after the first: it covers the version too.
fn later_header_crc(bytes: &[u8; SEGMENT_HEADER_SIZE]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[8..12]);
    crc.update(&bytes[16..]);
    crc.finalize()
}

fn header_crc(salt: u64, bytes: &[u8; RECORD_HEADER_SIZE]) -> u32 {
    if planted(Mutant::NoSalt) {
        return crc32fast::hash(&bytes[4..]);
    }
    // In one piece: two short ones take several times as long.
    let mut covered = [0; size_of::<u64>() + RECORD_HEADER_SIZE - 4];
    covered[..8].copy_from_slice(&salt.to_le_bytes());
    covered[8..].copy_from_slice(&bytes[4..]);
    crc32fast::hash(&covered)
}

fn chain_after(previous: Chain, bytes: &[u8; RECORD_HEADER_SIZE]) -> Chain {
    let mut covered = [0; 12 + 24];
    covered[..12].copy_from_slice(&bytes[4..16]);
    covered[12..].copy_from_slice(&bytes[24..]);
    Chain(xxh3_64_with_seed(&covered, previous.0))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has the array's length")
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get_array(bytes, at))
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get_array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;

    fn record(start: u64, payload: &[u8], salt: u64) -> Vec<u8> {
        let header = RecordHeader::chained(
            Chain(3),
            Lsn::new(start),
            RecordKind::Commit,
            payload.len(),
            payload_crc(payload),
            Lsn::new(start),
            Timestamp(9),
        );
        let mut bytes = header.encode(salt).to_vec();
        bytes.extend_from_slice(payload);
        bytes.resize(header.end(SIZE).distance_from(header.start) as usize, 0);
        bytes
    }

    fn segment_header() -> SegmentHeader {
        SegmentHeader {
            cluster: ClusterId::random(),
            nonce: TimelineNonce::random(),
            timeline: TimelineId(3),
            size: SIZE,
            segment: SegmentNumber(5),
            salt: 1,
            previous: Position { lsn: Lsn::new(5 * 65536), chain: Chain(8) },
            writer: NodeId::random(),
            created: Timestamp(4),
        }
    }

    #[test]
    fn a_record_reads_back_and_continues_its_chain() {
        let bytes = record(512, b"hello", 77);
        let record = Record::parse(&bytes, Lsn::new(512), 77, SIZE).unwrap();
        assert_eq!(record.payload, b"hello");
        assert_eq!(record.lsn, Lsn::new(512 + 56));
        assert!(record.header.continues(Chain(3)));
        assert!(!record.header.continues(Chain(4)));
    }

    #[test]
    fn no_flipped_bit_leaves_a_record_that_continues() {
        let good = record(512, b"hello", 77);
        for bit in 0..(RECORD_HEADER_SIZE + 5) * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let parsed = Record::parse(&bytes, Lsn::new(512), 77, SIZE);
            assert!(parsed.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_segments_salt_and_another_place_do_not_validate() {
        let bytes = record(512, b"hello", 77);
        assert_eq!(Record::parse(&bytes, Lsn::new(512), 78, SIZE).unwrap_err(), NotARecord::Header);
        assert_eq!(Record::parse(&bytes, Lsn::new(520), 77, SIZE).unwrap_err(), NotARecord::Header);
    }

    #[test]
    fn a_record_that_says_it_is_longer_than_its_segment_is_none() {
        let parsed = |start: u64, payload_len: usize| {
            let start = Lsn::new(start);
            let header =
                RecordHeader::chained(Chain(3), start, RecordKind::Commit, payload_len, 0, start, Timestamp(9));
            RecordHeader::parse(&header.encode(77), start, 77, SIZE).map(|header| header.payload_len)
        };
        let most = payload_len_max(SIZE);
        assert_eq!(parsed(512, most), Ok(most));
        for (start, payload_len) in [(512, most + 1), (60_000, 10_000), (512, u32::MAX as usize)] {
            assert_eq!(parsed(start, payload_len), Err(NotARecord::Header), "{payload_len} bytes at {start}");
        }
    }

    #[test]
    fn a_place_that_no_log_reaches_holds_no_record_and_no_segment() {
        let bytes = record(512, b"", 7);
        let good = Record::parse(&bytes, Lsn::new(512), 7, SIZE).unwrap().header;
        for start in [Lsn::REACHABLE_MAX.offset() + 1, u64::MAX - 55] {
            let header = RecordHeader { start: Lsn::new(start), ..good };
            let bytes = header.encode(7);
            assert_eq!(Record::parse(&bytes, Lsn::new(start), 7, SIZE).unwrap_err(), NotARecord::Header);
        }
        for segment in [u64::MAX, 1 << 48] {
            let header = SegmentHeader { segment: SegmentNumber(segment), ..segment_header() };
            assert_eq!(UnverifiedSegmentHeader::parse(&header.encode()), UnverifiedSegmentHeader::Unreadable);
        }
    }

    #[test]
    fn an_extent_takes_a_remainder_too_small_for_a_header() {
        assert_eq!(record_end(Lsn::new(65_400), 40, SIZE), Lsn::new(65_488));
        assert_eq!(record_end(Lsn::new(65_400), 41, SIZE), Lsn::new(65_536));
        assert_eq!(record_end(Lsn::new(512), 0, SIZE), Lsn::new(560));
    }

    #[test]
    fn a_segment_header_reads_back_and_tells_its_states_apart() {
        let header = segment_header();
        let bytes = header.encode();
        assert_eq!(UnverifiedSegmentHeader::parse(&bytes), UnverifiedSegmentHeader::Parsed(header));
        assert_eq!(UnverifiedSegmentHeader::parse(&[0; 512]), UnverifiedSegmentHeader::Prepared);
        let mut newer = bytes;
        put_u32(&mut newer, 8, 2);
        let crc = later_header_crc(&newer);
        put_u32(&mut newer, 12, crc);
        assert_eq!(UnverifiedSegmentHeader::parse(&newer), UnverifiedSegmentHeader::TooNew(2));
        for (whole, version) in [(bytes, 1), (newer, 2)] {
            for bit in 0..512 * 8 {
                let mut damaged = whole;
                damaged[bit / 8] ^= 1 << (bit % 8);
                let parsed = UnverifiedSegmentHeader::parse(&damaged);
                assert_eq!(parsed, UnverifiedSegmentHeader::Unreadable, "bit {bit} of a header of version {version}");
            }
        }
    }
}
