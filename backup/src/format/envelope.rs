//! The head that every object has, and the way from stored bytes to proven plaintext.

use bytes::{Bytes, BytesMut};
use seawall_wal::{ClusterId, TimelineId};

use crate::mutant::{Mutant, planted};

/// The version this code writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes before *about*.
pub const HEAD_LEN: usize = 128;
/// Bytes of *about*, for the kinds that have one.
pub const ABOUT_LEN: usize = 104;
/// Head and *about* of a chunk or fence: what a ranged read asks for.
pub const CHUNK_HEAD_LEN: usize = HEAD_LEN + ABOUT_LEN;

const MAGIC: [u8; 8] = *b"SEAWARC\x01";
const CODEC_NONE: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// Below this, compressing costs more than it saves.
const COMPRESS_FROM: usize = 512;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Whose repository it is.
    Cluster = 1,
    /// A claimed timeline.
    Timeline = 2,
    /// Log.
    Chunk = 3,
    /// The end of a timeline's log.
    Fence = 4,
    /// A timeline's cursor.
    Frontier = 5,
    /// Part of a table file.
    Piece = 6,
    /// A base backup's manifest.
    Backup = 7,
}

impl Kind {
    /// The largest plaintext of this kind, in bytes.
    pub const fn plaintext_len_max(self) -> usize {
        match self {
            Kind::Cluster | Kind::Frontier => 3 << 10,
            Kind::Timeline => (2 << 20) - 1024,
            // A chunk can always hold a record of the largest size and a segment header.
            Kind::Chunk => (16 << 20) + 4096,
            Kind::Fence => 256,
            Kind::Piece => 8 << 20,
            Kind::Backup => 63 << 20,
        }
    }

    /// The largest object of this kind, in bytes. Incompressible plaintext is stored as it is.
    pub const fn object_len_max(self) -> u64 {
        (CHUNK_HEAD_LEN + self.plaintext_len_max()) as u64
    }

    const fn about_len(self) -> usize {
        match self {
            Kind::Chunk | Kind::Fence => ABOUT_LEN,
            _ => 0,
        }
    }

    const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Kind::Cluster,
            2 => Kind::Timeline,
            3 => Kind::Chunk,
            4 => Kind::Fence,
            5 => Kind::Frontier,
            6 => Kind::Piece,
            7 => Kind::Backup,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Cluster => "cluster object",
            Kind::Timeline => "timeline object",
            Kind::Chunk => "chunk of log",
            Kind::Fence => "fence",
            Kind::Frontier => "frontier object",
            Kind::Piece => "piece of a file",
            Kind::Backup => "backup manifest",
        })
    }
}

/// An object as it is before it is stored, or after it has proven itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub cluster: ClusterId,
    /// Of which timeline; `TimelineId(0)` where it has none.
    pub timeline: TimelineId,
    /// The fixed part of a chunk or fence; zero for other kinds.
    pub about: [u8; ABOUT_LEN],
    /// The contents.
    pub plaintext: Bytes,
}

/// A head that has proven itself, without what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What the object is.
    pub kind: Kind,
    /// Whose it is.
    pub cluster: ClusterId,
    /// Of which timeline.
    pub timeline: TimelineId,
    /// The fixed part of a chunk or fence.
    pub about: [u8; ABOUT_LEN],
    /// Bytes of plaintext.
    pub plaintext_len: usize,
    /// Bytes after *about*.
    pub stored_len: usize,
    digest: [u8; 32],
    codec: u8,
}

/// Why an object is not what its key says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectDamage {
    /// Not one of ours at all.
    #[error("it is not an object of Seawall")]
    NotAnObject,
    /// It is not there, and something that is there needs it.
    #[error("it is missing")]
    Missing,
    /// Written by a newer Seawall.
    #[error("its format version is {version}, this build reads up to {FORMAT_VERSION}; use a newer build")]
    TooNew {
        /// Its version.
        version: u32,
    },
    /// Bytes are missing, or there are too many.
    #[error("it has {found} bytes instead of {expected}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The head is damaged.
    #[error("its head is damaged")]
    Head,
    /// The contents are damaged.
    #[error("its contents do not match their digest")]
    Digest,
    /// Something else is stored under this key.
    #[error("it is a {found}")]
    Kind {
        /// What it is.
        found: Kind,
    },
    /// It was moved here from another cluster's repository.
    #[error("it belongs to cluster {found}")]
    Cluster {
        /// Whose it is.
        found: ClusterId,
    },
    /// It was moved here from another key.
    #[error("it belongs under another key")]
    Place,
    /// It uses something this version does not have.
    #[error("it is encrypted or stored in a way this build does not know")]
    Unsupported,
    /// The contents prove their digest and still make no sense.
    #[error("its contents make no sense: {why}")]
    Contents {
        /// What is wrong.
        why: String,
    },
}

impl Envelope {
    /// The object's bytes, compressed if that makes them fewer.
    ///
    /// # Panics
    /// If the plaintext is larger than its kind allows: writers cut it before.
    pub fn encode(&self) -> Bytes {
        assert!(self.plaintext.len() <= self.kind.plaintext_len_max(), "a {} is too large", self.kind);
        let about = &self.about[..self.kind.about_len()];
        let (codec, compressed) = match compress(&self.plaintext) {
            Some(compressed) => (CODEC_ZSTD, Some(compressed)),
            None => (CODEC_NONE, None),
        };
        let stored = compressed.as_deref().unwrap_or(&self.plaintext);
        let mut object = BytesMut::with_capacity(HEAD_LEN + about.len() + stored.len());
        object.resize(HEAD_LEN + about.len(), 0);
        object[0..8].copy_from_slice(&MAGIC);
        object[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        object[16] = self.kind as u8;
        object[17] = codec;
        object[20..24].copy_from_slice(&self.timeline.0.to_le_bytes());
        object[24..40].copy_from_slice(&self.cluster.to_bytes());
        object[44..48].copy_from_slice(&(about.len() as u32).to_le_bytes());
        object[72..80].copy_from_slice(&(self.plaintext.len() as u64).to_le_bytes());
        object[80..88].copy_from_slice(&(stored.len() as u64).to_le_bytes());
        object[88..120].copy_from_slice(blake3::hash(&self.plaintext).as_bytes());
        object[HEAD_LEN..].copy_from_slice(about);
        let crc = crc32fast::hash(&object[16..]);
        object[12..16].copy_from_slice(&crc.to_le_bytes());
        object.extend_from_slice(stored);
        object.freeze()
    }

    /// Proves an object: head, lengths, digest. Whether it is the one its key says is for [`check`](Self::check).
    pub fn decode(object: &Bytes) -> Result<Self, ObjectDamage> {
        let head = Head::parse(object)?;
        if object.len() as u64 != head.object_len() {
            return Err(ObjectDamage::Length { found: object.len() as u64, expected: head.object_len() });
        }
        let stored = object.slice(HEAD_LEN + head.kind.about_len()..);
        let plaintext = match head.codec {
            CODEC_NONE => stored,
            _ => decompress(&stored, head.plaintext_len)?,
        };
        let same = || blake3::hash(&plaintext).as_bytes() == &head.digest || planted(Mutant::DigestsNotCompared);
        if plaintext.len() != head.plaintext_len || !same() {
            return Err(ObjectDamage::Digest);
        }
        Ok(Envelope { kind: head.kind, cluster: head.cluster, timeline: head.timeline, about: head.about, plaintext })
    }

    /// Whether it is what is expected where it was found.
    pub fn check(&self, kind: Kind, cluster: ClusterId, timeline: TimelineId) -> Result<(), ObjectDamage> {
        if self.kind != kind {
            return Err(ObjectDamage::Kind { found: self.kind });
        }
        check_place(self.cluster, self.timeline, cluster, timeline)
    }
}

impl Head {
    /// Bytes that the whole object has.
    pub fn object_len(&self) -> u64 {
        (HEAD_LEN + self.kind.about_len() + self.stored_len) as u64
    }

    /// Proves the head of an object, of which at least head and *about* must be there.
    pub fn parse(object: &[u8]) -> Result<Self, ObjectDamage> {
        if object.len() < HEAD_LEN {
            return Err(if object.starts_with(&MAGIC) {
                ObjectDamage::Length { found: object.len() as u64, expected: HEAD_LEN as u64 }
            } else {
                ObjectDamage::NotAnObject
            });
        }
        if object[0..8] != MAGIC {
            return Err(ObjectDamage::NotAnObject);
        }
        let about_len = match get_u32(object, 44) {
            0 => 0,
            len if len == ABOUT_LEN as u32 => ABOUT_LEN,
            _ => return Err(ObjectDamage::Head),
        };
        let version = get_u32(object, 8);
        let covered = object
            .get(16..HEAD_LEN + about_len)
            .ok_or(ObjectDamage::Length { found: object.len() as u64, expected: (HEAD_LEN + about_len) as u64 })?;
        if crc32fast::hash(covered) != get_u32(object, 12) {
            return Err(ObjectDamage::Head);
        }
        if version != FORMAT_VERSION {
            // The version is not covered; 0 was never written.
            return Err(if version == 0 { ObjectDamage::Head } else { ObjectDamage::TooNew { version } });
        }
        let kind = Kind::from_u8(object[16]).ok_or(ObjectDamage::Unsupported)?;
        let codec = object[17];
        let unused = [&object[18..20], &object[40..44], &object[48..72], &object[120..128]];
        if codec > CODEC_ZSTD || unused.iter().any(|bytes| bytes.iter().any(|byte| *byte != 0)) {
            return Err(ObjectDamage::Unsupported);
        }
        if about_len != kind.about_len() {
            return Err(ObjectDamage::Head);
        }
        let len = |at| usize::try_from(get_u64(object, at)).ok().filter(|len| *len <= kind.plaintext_len_max());
        let (Some(plaintext_len), Some(stored_len)) = (len(72), len(80)) else {
            return Err(ObjectDamage::Head);
        };
        let mut about = [0; ABOUT_LEN];
        about[..about_len].copy_from_slice(&object[HEAD_LEN..HEAD_LEN + about_len]);
        Ok(Head {
            kind,
            cluster: ClusterId::from_bytes(get_array(object, 24)),
            timeline: TimelineId(get_u32(object, 20)),
            about,
            plaintext_len,
            stored_len,
            digest: get_array(object, 88),
            codec,
        })
    }
}

pub(crate) fn check_place(
    found: ClusterId,
    found_timeline: TimelineId,
    cluster: ClusterId,
    timeline: TimelineId,
) -> Result<(), ObjectDamage> {
    if found != cluster {
        return Err(ObjectDamage::Cluster { found });
    }
    if found_timeline != timeline {
        return Err(ObjectDamage::Place);
    }
    Ok(())
}

/// `None` if compression does not pay.
fn compress(plaintext: &[u8]) -> Option<Vec<u8>> {
    if plaintext.len() < COMPRESS_FROM {
        return None;
    }
    let compressed = zstd::bulk::compress(plaintext, zstd::DEFAULT_COMPRESSION_LEVEL).ok()?;
    (compressed.len() < plaintext.len()).then_some(compressed)
}

/// Never gives out, nor allocates, more than the declared length, which the head has bounded.
fn decompress(stored: &[u8], plaintext_len: usize) -> Result<Bytes, ObjectDamage> {
    zstd::bulk::decompress(stored, plaintext_len).map(Bytes::from).map_err(|_| ObjectDamage::Digest)
}

pub(crate) fn get_array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has the array's length")
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get_array(bytes, at))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get_array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(kind: Kind, len: usize) -> Envelope {
        let mut about = [0; ABOUT_LEN];
        about[..kind.about_len()].fill(7);
        Envelope {
            kind,
            cluster: ClusterId::from_bytes([5; 16]),
            timeline: TimelineId(3),
            about,
            plaintext: (0..len).map(|n| (n / 7) as u8).collect(),
        }
    }

    #[test]
    fn every_kind_reads_back_compressed_or_not() {
        for kind in [Kind::Cluster, Kind::Timeline, Kind::Chunk, Kind::Fence, Kind::Frontier, Kind::Piece, Kind::Backup]
        {
            for len in [0, 1, 200, 2000.min(kind.plaintext_len_max())] {
                let envelope = envelope(kind, len);
                let object = envelope.encode();
                assert!(object.len() as u64 <= kind.object_len_max());
                assert_eq!(Envelope::decode(&object).unwrap(), envelope);
                assert_eq!(Head::parse(&object).unwrap().plaintext_len, len);
            }
        }
        assert!(envelope(Kind::Chunk, 100_000).encode().len() < 30_000, "compressible contents are compressed");
    }

    #[test]
    fn every_flipped_bit_is_found_or_changes_nothing_and_every_cut_is_found() {
        for kind in [Kind::Chunk, Kind::Frontier] {
            for len in [100, 700] {
                let envelope = envelope(kind, len);
                let object = envelope.encode();
                // A few bits of a zstd frame can be flipped and it still says the same; of plain bytes none can.
                let mut harmless = 0;
                for bit in 0..object.len() * 8 {
                    let mut damaged = object.to_vec();
                    damaged[bit / 8] ^= 1 << (bit % 8);
                    match Envelope::decode(&damaged.into()) {
                        Err(_) => {}
                        Ok(decoded) => {
                            assert_eq!(decoded, envelope, "{kind}, bit {bit}");
                            harmless += 1;
                        }
                    }
                }
                let compressed = object[17] == CODEC_ZSTD;
                assert!(harmless == 0 || compressed && harmless < 32, "{harmless} flips were not noticed");
                for len in 0..object.len() {
                    assert!(Envelope::decode(&object.slice(..len)).is_err(), "{kind} cut at {len}");
                }
                let mut longer = object.to_vec();
                longer.push(0);
                assert!(matches!(Envelope::decode(&longer.into()), Err(ObjectDamage::Length { .. })));
            }
        }
    }

    fn reseal(object: &mut [u8]) {
        let about_len = get_u32(object, 44) as usize;
        let crc = crc32fast::hash(&object[16..HEAD_LEN + about_len]);
        object[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn declared_lengths_beyond_the_kinds_bound_are_refused_before_allocation() {
        let mut object = envelope(Kind::Frontier, 2000).encode().to_vec();
        object[72..80].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        reseal(&mut object);
        assert_eq!(Envelope::decode(&object.into()), Err(ObjectDamage::Head));
    }

    #[test]
    fn a_bomb_stops_at_its_declared_length() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        let mut object = envelope(Kind::Frontier, 2000).encode().to_vec();
        object.truncate(HEAD_LEN);
        object[80..88].copy_from_slice(&(bomb.len() as u64).to_le_bytes());
        reseal(&mut object);
        object.extend_from_slice(&bomb);
        let error = Envelope::decode(&object.into()).unwrap_err();
        assert!(matches!(error, ObjectDamage::Digest | ObjectDamage::Head), "{error:?}");
    }

    #[test]
    fn newer_foreign_and_misplaced_objects_are_told_apart() {
        let good = envelope(Kind::Frontier, 10);
        let mut newer = good.encode().to_vec();
        newer[8] = 2;
        assert_eq!(Envelope::decode(&newer.into()), Err(ObjectDamage::TooNew { version: 2 }));
        let mut encrypted = good.encode().to_vec();
        encrypted[18] = 1;
        reseal(&mut encrypted);
        assert_eq!(Envelope::decode(&encrypted.into()), Err(ObjectDamage::Unsupported));
        assert_eq!(Envelope::decode(&Bytes::from(vec![b'x'; 300])), Err(ObjectDamage::NotAnObject));
        let (cluster, other) = (good.cluster, ClusterId::from_bytes([6; 16]));
        assert_eq!(good.check(Kind::Backup, cluster, TimelineId(3)), Err(ObjectDamage::Kind { found: Kind::Frontier }));
        assert_eq!(good.check(Kind::Frontier, other, TimelineId(3)), Err(ObjectDamage::Cluster { found: cluster }));
        assert_eq!(good.check(Kind::Frontier, cluster, TimelineId(4)), Err(ObjectDamage::Place));
        good.check(Kind::Frontier, cluster, TimelineId(3)).unwrap();
    }
}
