//! Frames: lengths and checksums around messages. A frame header proves itself before anything is read or allocated
//! because of it. What the body means is `message`'s business.

use bytes::Bytes;

/// Bytes before each body.
pub const FRAME_HEADER_SIZE: usize = 16;
/// No body of a handshake or history message is larger.
pub const HISTORY_BODY_MAX: usize = 256 << 10;
/// Log bytes in one Data frame at most.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// Bytes before the log in the body of a Data frame.
pub const DATA_HEAD_SIZE: usize = 36;

const SMALL_BODY_MAX: usize = 64;
const BYE_BODY_MAX: usize = 1 << 10;

const _: () = assert!(crate::wire::HISTORY_ENTRY_SIZE * seawall_wal::TIMELINES_MAX + (8 << 10) <= HISTORY_BODY_MAX);

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// The standby introduces itself.
    Hello = 1,
    /// It is accepted.
    Welcome = 2,
    /// It is not, or no longer.
    Refuse = 3,
    /// Log.
    Data = 4,
    /// The upstream follows a new history.
    History = 5,
    /// The upstream is alive.
    Keepalive = 6,
    /// Where the standby stands.
    Status = 7,
    /// How much log the standby takes.
    Credit = 8,
    /// The last frame.
    Bye = 9,
    /// A node without data asks who this is.
    Identify = 10,
    /// The answer.
    Identity = 11,
    /// A node that repairs asks for log.
    Fetch = 12,
}

impl FrameType {
    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Refuse,
            4 => Self::Data,
            5 => Self::History,
            6 => Self::Keepalive,
            7 => Self::Status,
            8 => Self::Credit,
            9 => Self::Bye,
            10 => Self::Identify,
            11 => Self::Identity,
            12 => Self::Fetch,
            _ => return None,
        })
    }

    /// The largest body of this type.
    pub const fn body_len_max(self) -> usize {
        match self {
            Self::Hello | Self::Welcome | Self::Refuse | Self::History | Self::Identity => HISTORY_BODY_MAX,
            Self::Data => DATA_HEAD_SIZE + DATA_BYTES_MAX,
            Self::Keepalive | Self::Status | Self::Credit | Self::Identify | Self::Fetch => SMALL_BODY_MAX,
            Self::Bye => BYE_BODY_MAX,
        }
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAFrame {
    /// The header's checksum does not match: not our protocol, or damage on the way.
    #[error("the peer does not speak the Seawall replication protocol, or the connection damages bytes")]
    Garbage,
    /// The header is whole, but of a type this version does not know.
    #[error("frame type {0} is unknown")]
    UnknownType(u8),
    /// The body is larger than its type allows.
    #[error("a {kind:?} frame of {len} bytes exceeds its limit of {max}")]
    TooLong {
        /// Its type.
        kind: FrameType,
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        max: usize,
    },
    /// The body's checksum does not match.
    #[error("a {0:?} frame was damaged on the way")]
    Damaged(FrameType),
}

/// A frame header that has proved itself; its body has not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: FrameType,
    /// Bytes of body, within the type's limit.
    pub body_len: usize,
    body_crc: u32,
}

impl FrameHeader {
    /// Reads a header.
    pub fn parse(bytes: &[u8; FRAME_HEADER_SIZE]) -> Result<Self, NotAFrame> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if crc32fast::hash(&bytes[..12]) != u32_at(12) || bytes[5..8] != [0; 3] {
            return Err(NotAFrame::Garbage);
        }
        let kind = FrameType::from_u8(bytes[4]).ok_or(NotAFrame::UnknownType(bytes[4]))?;
        let (len, max) = (u32_at(0), kind.body_len_max());
        if len as usize > max {
            return Err(NotAFrame::TooLong { kind, len, max });
        }
        Ok(Self { kind, body_len: len as usize, body_crc: u32_at(8) })
    }

    /// Checks the body that belongs to this header.
    pub fn check(&self, body: &[u8]) -> Result<(), NotAFrame> {
        if crc32fast::hash(body) == self.body_crc { Ok(()) } else { Err(NotAFrame::Damaged(self.kind)) }
    }
}

/// A frame ready to be sent: the small part first, then log bytes that are shared, not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Frame header and the part of the body that is not log.
    pub head: Bytes,
    /// Log; empty in all but Data frames.
    pub log: Bytes,
}

impl Frame {
    /// Seals a body given in two parts.
    ///
    /// # Panics
    /// If the body exceeds its type's limit, which the messages' own limits prevent.
    pub fn seal(kind: FrameType, part: &[u8], log: Bytes) -> Self {
        let len = part.len() + log.len();
        assert!(len <= kind.body_len_max(), "a {kind:?} of {len} bytes was about to be sent");
        let mut body_crc = crc32fast::Hasher::new();
        body_crc.update(part);
        body_crc.update(&log);
        let mut head = Vec::with_capacity(FRAME_HEADER_SIZE + part.len());
        head.extend_from_slice(&u32::try_from(len).expect("limits are below 4 GiB").to_le_bytes());
        head.extend_from_slice(&[kind as u8, 0, 0, 0]);
        head.extend_from_slice(&body_crc.finalize().to_le_bytes());
        head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
        head.extend_from_slice(part);
        Self { head: head.into(), log }
    }

    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.head.len() + self.log.len()
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(frame: &Frame) -> Vec<u8> {
        [frame.head.as_ref(), frame.log.as_ref()].concat()
    }

    #[test]
    fn a_frame_is_read_back() {
        let bytes = wire(&Frame::seal(FrameType::Data, &[7; DATA_HEAD_SIZE], Bytes::from_static(b"log")));
        let (header, body) = bytes.split_at(FRAME_HEADER_SIZE);
        let header = FrameHeader::parse(header.try_into().unwrap()).unwrap();
        assert_eq!((header.kind, header.body_len), (FrameType::Data, DATA_HEAD_SIZE + 3));
        header.check(body).unwrap();
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = wire(&Frame::seal(FrameType::Status, &[1, 2, 3], Bytes::new()));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (header, body) = damaged.split_at(FRAME_HEADER_SIZE);
            let noticed = match FrameHeader::parse(header.try_into().unwrap()) {
                Err(NotAFrame::Garbage) => true,
                Ok(header) => header.check(body) == Err(NotAFrame::Damaged(FrameType::Status)),
                Err(_) => false,
            };
            assert!(noticed, "bit {bit}");
        }
    }

    #[test]
    fn an_oversized_body_is_refused_by_its_header() {
        for (kind, len) in [(FrameType::Data, DATA_BYTES_MAX + DATA_HEAD_SIZE + 1), (FrameType::Status, 65)] {
            let mut header = [0; FRAME_HEADER_SIZE];
            header[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
            header[4] = kind as u8;
            let crc = crc32fast::hash(&header[..12]);
            header[12..].copy_from_slice(&crc.to_le_bytes());
            assert!(matches!(FrameHeader::parse(&header), Err(NotAFrame::TooLong { .. })));
        }
    }

    #[test]
    fn another_protocol_is_garbage() {
        assert_eq!(FrameHeader::parse(b"GET / HTTP/1.1\r\n"), Err(NotAFrame::Garbage));
    }
}
