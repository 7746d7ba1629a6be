//! Chunks of log and fences: their *about*, the walk that proves their records, and the comparison of two of them.

use bytes::Bytes;
use seawall_wal::format::{RECORD_HEADER_SIZE, SEGMENT_HEADER_SIZE, SegmentHeader, UnverifiedSegmentHeader};
use seawall_wal::{
    Chain, ClusterId, LogBytes, Lsn, NodeId, Position, Record, SegmentSize, TimelineId, TimelineNonce, Timestamp,
};

use super::envelope::{ABOUT_LEN, Envelope, Head, Kind, ObjectDamage, check_place, get_array, get_u32, get_u64};

/// What a chunk or fence says of itself; readable without its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkAbout {
    /// Of which timeline.
    pub timeline: TimelineId,
    /// Tells it from another timeline of the same number.
    pub nonce: TimelineNonce,
    /// Where its first byte lies; the key's.
    pub start: Lsn,
    /// Where its last record ends; the next chunk's key. `start < end`, or equal for a fence.
    pub end: Lsn,
    /// Before its first record.
    pub chain_before: Chain,
    /// After its last record.
    pub chain_after: Chain,
    /// Of its segment.
    pub salt: u64,
    /// Of its first record.
    pub first_time: Timestamp,
    /// Of its last record. `first_time <= last_time`.
    pub last_time: Timestamp,
    /// Of the cluster.
    pub segment_size: SegmentSize,
    /// How many there are.
    pub records: u32,
    /// Who archived it, or fenced.
    pub node: NodeId,
    /// Everything before was known to be archived when it was uploaded. `confirmed <= start`.
    pub confirmed: Lsn,
}

/// Log that proved itself, with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What it says of itself, found true.
    pub about: ChunkAbout,
    /// The log.
    pub bytes: Bytes,
}

/// What stands under a chunk's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkObject {
    /// More log.
    Chunk(Chunk),
    /// The timeline's end.
    Fence {
        /// Where, by whom, when.
        about: ChunkAbout,
        /// Who fenced, for people.
        by: String,
    },
}

/// How a chunk found under a key compares with the local log from the same place on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// As far as both reach they are the same: one history.
    Agrees,
    /// They differ: two histories.
    Differs {
        /// The first byte that differs.
        at: Lsn,
    },
}

/// What is common to all chunks of one archiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkOrigin {
    /// Whose log.
    pub cluster: ClusterId,
    /// Of every segment.
    pub segment_size: SegmentSize,
    /// The timeline's nonce.
    pub nonce: TimelineNonce,
    /// Who archives.
    pub node: NodeId,
}

impl Chunk {
    /// Describes local log that continues `before`. `salt` is the segment's, for log that starts inside one.
    pub fn of_log(origin: &ChunkOrigin, log: LogBytes, before: Chain, salt: Option<u64>) -> Result<Self, ObjectDamage> {
        let end = log.end();
        let LogBytes { timeline, start, bytes } = log;
        let walked = walk(&bytes, start, salt, origin.segment_size, before, |_| {})?;
        if let Some(header) = &walked.header {
            check_header(header, origin.cluster, timeline, origin.nonce, start, before)?;
        }
        let about = ChunkAbout {
            timeline,
            nonce: origin.nonce,
            start,
            end,
            chain_before: before,
            chain_after: walked.chain,
            salt: walked.salt,
            first_time: walked.first_time,
            last_time: walked.last_time,
            segment_size: origin.segment_size,
            records: walked.records,
            node: origin.node,
            confirmed: Lsn::ZERO,
        };
        Ok(Chunk { about, bytes: bytes.into() })
    }

    /// The object to store.
    pub fn encode(&self, cluster: ClusterId) -> Bytes {
        let about = self.about.encode();
        let timeline = self.about.timeline;
        Envelope { kind: Kind::Chunk, cluster, timeline, about, plaintext: self.bytes.clone() }.encode()
    }

    /// Its log, as the log's own traits hand it around.
    pub fn to_log(&self) -> LogBytes {
        LogBytes { timeline: self.about.timeline, start: self.about.start, bytes: self.bytes.to_vec() }
    }

    /// Each record in order.
    pub fn for_each_record(&self, seen: impl FnMut(&Record<'_>)) {
        let about = &self.about;
        walk(&self.bytes, about.start, Some(about.salt), about.segment_size, about.chain_before, seen)
            .expect("a chunk's records were proven when it was made");
    }

    /// Compares with local log that starts somewhere inside, as far as both reach.
    pub fn compare(&self, local: &LogBytes) -> Agreement {
        let offset = local.start.distance_from(self.about.start) as usize;
        let theirs = self.bytes.get(offset..).unwrap_or_default();
        match theirs.iter().zip(&local.bytes).position(|(theirs, ours)| theirs != ours) {
            None => Agreement::Agrees,
            Some(at) => Agreement::Differs { at: local.start.advance(at as u64) },
        }
    }

    /// The log after a position inside, or before the first record; `None` if no record ends there with that chain.
    pub fn after(&self, position: Position) -> Option<LogBytes> {
        let about = &self.about;
        let mut found = position == Position { lsn: about.start, chain: about.chain_before };
        self.for_each_record(|record| found |= record.position() == position);
        let offset = position.lsn.distance_from(about.start) as usize;
        let bytes = self.bytes.get(offset..).filter(|bytes| found && !bytes.is_empty())?.to_vec();
        Some(LogBytes { timeline: about.timeline, start: position.lsn, bytes })
    }

    /// The log from the byte at `start` on, which must be where a record, or the chunk, begins.
    pub fn log_from(&self, start: Lsn) -> Option<LogBytes> {
        let about = &self.about;
        let mut begins = start == about.start;
        self.for_each_record(|record| begins |= record.lsn == start);
        let offset = start.distance_from(about.start) as usize;
        let bytes = self.bytes.get(offset..).filter(|bytes| begins && !bytes.is_empty())?.to_vec();
        Some(LogBytes { timeline: about.timeline, start, bytes })
    }

    /// The log from `start` up to the end of the last record at or before `end`, of which there must be one.
    pub fn cut_at(&self, end: Lsn) -> Option<LogBytes> {
        let mut last = None;
        self.for_each_record(|record| {
            if record.lsn <= end {
                last = Some(record.lsn);
            }
        });
        let len = last?.distance_from(self.about.start) as usize;
        Some(LogBytes { timeline: self.about.timeline, start: self.about.start, bytes: self.bytes[..len].to_vec() })
    }
}

impl ChunkAbout {
    /// A fence at a position.
    pub fn fence(origin: &ChunkOrigin, timeline: TimelineId, at: Position, now: Timestamp) -> Self {
        ChunkAbout {
            timeline,
            nonce: origin.nonce,
            start: at.lsn,
            end: at.lsn,
            chain_before: at.chain,
            chain_after: at.chain,
            salt: 0,
            first_time: now,
            last_time: now,
            segment_size: origin.segment_size,
            records: 0,
            node: origin.node,
            confirmed: at.lsn,
        }
    }

    /// The position after it.
    pub fn end_position(&self) -> Position {
        Position { lsn: self.end, chain: self.chain_after }
    }

    /// Reads and checks the head of the object under the key of `timeline` and `start`: `true` if it is a fence.
    pub fn parse_head(
        object: &[u8],
        cluster: ClusterId,
        timeline: TimelineId,
        start: Lsn,
    ) -> Result<(Self, bool), ObjectDamage> {
        let head = Head::parse(object)?;
        check_place(head.cluster, head.timeline, cluster, timeline)?;
        Self::check(head.kind, timeline, start, &head.about, head.plaintext_len)
    }

    fn check(
        kind: Kind,
        timeline: TimelineId,
        start: Lsn,
        about: &[u8; ABOUT_LEN],
        plaintext_len: usize,
    ) -> Result<(Self, bool), ObjectDamage> {
        let about = Self::decode(timeline, about)?;
        // The key came from whoever filled the repository.
        let fits = about.start == start
            && about.start.is_reachable()
            && about.confirmed <= about.start
            && match kind {
                Kind::Chunk => {
                    about.records > 0
                        && about.start < about.end
                        && about.first_time <= about.last_time
                        && about.end.distance_from(about.start) == plaintext_len as u64
                        && about.end <= about.segment_size.end_of(about.segment_size.segment_of(about.start))
                }
                Kind::Fence => {
                    about.records == 0 && about.start == about.end && about.chain_before == about.chain_after
                }
                found => return Err(ObjectDamage::Kind { found }),
            };
        if fits { Ok((about, kind == Kind::Fence)) } else { Err(ObjectDamage::Place) }
    }

    fn encode(&self) -> [u8; ABOUT_LEN] {
        let mut bytes = [0; ABOUT_LEN];
        bytes[0..16].copy_from_slice(&self.nonce.to_bytes());
        for (at, value) in [
            (16, self.start.offset()),
            (24, self.end.offset()),
            (32, self.chain_before.0),
            (40, self.chain_after.0),
            (48, self.salt),
            (56, self.first_time.0),
            (64, self.last_time.0),
        ] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[72..76].copy_from_slice(&self.segment_size.bytes().to_le_bytes());
        bytes[76..80].copy_from_slice(&self.records.to_le_bytes());
        bytes[80..96].copy_from_slice(&self.node.to_bytes());
        bytes[96..104].copy_from_slice(&self.confirmed.offset().to_le_bytes());
        bytes
    }

    fn decode(timeline: TimelineId, bytes: &[u8; ABOUT_LEN]) -> Result<Self, ObjectDamage> {
        Ok(ChunkAbout {
            timeline,
            nonce: TimelineNonce::from_bytes(get_array(bytes, 0)),
            start: Lsn::new(get_u64(bytes, 16)),
            end: Lsn::new(get_u64(bytes, 24)),
            chain_before: Chain(get_u64(bytes, 32)),
            chain_after: Chain(get_u64(bytes, 40)),
            salt: get_u64(bytes, 48),
            first_time: Timestamp(get_u64(bytes, 56)),
            last_time: Timestamp(get_u64(bytes, 64)),
            segment_size: SegmentSize::new(get_u32(bytes, 72)).ok_or(ObjectDamage::Head)?,
            records: get_u32(bytes, 76),
            node: NodeId::from_bytes(get_array(bytes, 80)),
            confirmed: Lsn::new(get_u64(bytes, 96)),
        })
    }
}

impl ChunkObject {
    /// Proves the object under the key of `timeline` and `start`: envelope, place, and every record of the log.
    pub fn decode(object: &Bytes, cluster: ClusterId, timeline: TimelineId, start: Lsn) -> Result<Self, ObjectDamage> {
        let envelope = Envelope::decode(object)?;
        check_place(envelope.cluster, envelope.timeline, cluster, timeline)?;
        let (about, fence) =
            ChunkAbout::check(envelope.kind, timeline, start, &envelope.about, envelope.plaintext.len())?;
        if fence {
            let by = String::from_utf8_lossy(&envelope.plaintext).into_owned();
            return Ok(ChunkObject::Fence { about, by });
        }
        let bytes = envelope.plaintext;
        let walked = walk(&bytes, start, Some(about.salt), about.segment_size, about.chain_before, |_| {})?;
        let told = (about.chain_after, about.salt, about.records, about.first_time, about.last_time);
        if told != (walked.chain, walked.salt, walked.records, walked.first_time, walked.last_time) {
            return Err(senseless("its description does not match its records"));
        }
        if let Some(header) = &walked.header {
            check_header(header, cluster, timeline, about.nonce, start, about.chain_before)?;
        }
        Ok(ChunkObject::Chunk(Chunk { about, bytes }))
    }

    /// What it says of itself.
    pub fn about(&self) -> &ChunkAbout {
        match self {
            ChunkObject::Chunk(chunk) => &chunk.about,
            ChunkObject::Fence { about, .. } => about,
        }
    }
}

/// The object that ends a timeline.
pub fn encode_fence(about: &ChunkAbout, cluster: ClusterId, by: &str) -> Bytes {
    let mut len = by.len().min(Kind::Fence.plaintext_len_max());
    while !by.is_char_boundary(len) {
        len -= 1;
    }
    let plaintext = Bytes::copy_from_slice(&by.as_bytes()[..len]);
    Envelope { kind: Kind::Fence, cluster, timeline: about.timeline, about: about.encode(), plaintext }.encode()
}

struct Walked {
    header: Option<SegmentHeader>,
    salt: u64,
    chain: Chain,
    records: u32,
    first_time: Timestamp,
    last_time: Timestamp,
}

/// Proves that bytes are whole records of one segment that continue `before`, times rising.
fn walk(
    bytes: &[u8],
    start: Lsn,
    salt: Option<u64>,
    size: SegmentSize,
    before: Chain,
    mut seen: impl FnMut(&Record<'_>),
) -> Result<Walked, ObjectDamage> {
    let (header, salt, head_len) = if size.offset_in_segment(start) == 0 {
        let sector =
            bytes.first_chunk::<SEGMENT_HEADER_SIZE>().ok_or_else(|| senseless("its segment's header is cut"))?;
        match UnverifiedSegmentHeader::parse(sector) {
            UnverifiedSegmentHeader::Parsed(header) => (Some(header), header.salt, SEGMENT_HEADER_SIZE),
            UnverifiedSegmentHeader::TooNew(version) => return Err(ObjectDamage::TooNew { version }),
            _ => return Err(senseless("its segment's header is damaged")),
        }
    } else {
        (None, salt.ok_or_else(|| senseless("its segment's salt is not known"))?, 0)
    };
    let mut walked =
        Walked { header, salt, chain: before, records: 0, first_time: Timestamp(0), last_time: Timestamp(0) };
    let (mut rest, mut at) = (&bytes[head_len..], start.advance(head_len as u64));
    while !rest.is_empty() {
        let record = Record::parse(rest, at, salt, size).map_err(|_| senseless("one of its records is damaged"))?;
        let extent = record.lsn.distance_from(at) as usize;
        if extent > rest.len() || extent < RECORD_HEADER_SIZE {
            return Err(senseless("its last record is not whole"));
        }
        if !record.header.continues(walked.chain) {
            return Err(senseless("one of its records does not continue the chain"));
        }
        if walked.records > 0 && record.header.time <= walked.last_time {
            return Err(senseless("its times do not rise"));
        }
        if walked.records == 0 {
            walked.first_time = record.header.time;
        }
        walked.last_time = record.header.time;
        walked.chain = record.header.chain;
        walked.records += 1;
        seen(&record);
        (rest, at) = (&rest[extent..], record.lsn);
    }
    if walked.records == 0 {
        return Err(senseless("it holds no record"));
    }
    Ok(walked)
}

fn check_header(
    header: &SegmentHeader,
    cluster: ClusterId,
    timeline: TimelineId,
    nonce: TimelineNonce,
    start: Lsn,
    before: Chain,
) -> Result<(), ObjectDamage> {
    if header.cluster != cluster {
        return Err(ObjectDamage::Cluster { found: header.cluster });
    }
    let place = header.size.start_of(header.segment) == start && header.timeline == timeline && header.nonce == nonce;
    if !place || header.previous.chain != before {
        return Err(senseless("its segment's header belongs elsewhere"));
    }
    Ok(())
}

fn senseless(why: &str) -> ObjectDamage {
    ObjectDamage::Contents { why: why.to_owned() }
}

#[cfg(test)]
pub(crate) mod tests {
    use seawall_wal::format::{RecordHeader, payload_crc};
    use seawall_wal::{RecordKind, SegmentNumber};

    use super::super::envelope::CHUNK_HEAD_LEN;
    use super::*;

    pub(crate) const SIZE: SegmentSize = SegmentSize::MIN;
    pub(crate) const TIMELINE: TimelineId = TimelineId(1);

    pub(crate) fn origin() -> ChunkOrigin {
        ChunkOrigin {
            cluster: ClusterId::from_bytes([1; 16]),
            segment_size: SIZE,
            nonce: TimelineNonce::from_bytes([2; 16]),
            node: NodeId::from_bytes([3; 16]),
        }
    }

    /// The first segment's beginning with `count` records of 100 bytes; what they say depends on `seed`.
    pub(crate) fn log(count: usize, seed: u8) -> LogBytes {
        let origin = origin();
        let header = SegmentHeader {
            cluster: origin.cluster,
            nonce: origin.nonce,
            timeline: TIMELINE,
            size: SIZE,
            segment: SegmentNumber(0),
            salt: 77,
            previous: Position::ZERO,
            writer: origin.node,
            created: Timestamp(1),
        };
        let mut bytes = header.encode().to_vec();
        let (mut at, mut chain) = (header.first_record(), Chain(0));
        for n in 0..count {
            let payload = [seed.wrapping_add(n as u8); 100];
            let crc = payload_crc(&payload);
            let time = Timestamp(1000 + n as u64);
            let record = RecordHeader::chained(chain, at, RecordKind::Commit, payload.len(), crc, Lsn::ZERO, time);
            bytes.extend_from_slice(&record.encode(77));
            bytes.extend_from_slice(&payload);
            (at, chain) = (record.end(SIZE), record.chain);
            bytes.resize(at.offset() as usize, 0);
        }
        LogBytes { timeline: TIMELINE, start: Lsn::ZERO, bytes }
    }

    fn decode(object: &Bytes, start: Lsn) -> Result<ChunkObject, ObjectDamage> {
        ChunkObject::decode(object, origin().cluster, TIMELINE, start)
    }

    #[test]
    fn log_becomes_chunks_and_the_same_log_again() {
        let whole = log(5, 0);
        let first = Chunk::of_log(&origin(), log(3, 0), Chain(0), None).unwrap();
        assert_eq!(
            (first.about.records, first.about.first_time, first.about.last_time),
            (3, Timestamp(1000), Timestamp(1002))
        );
        let rest = whole.bytes[first.bytes.len()..].to_vec();
        let rest = LogBytes { timeline: TIMELINE, start: first.about.end, bytes: rest };
        let second = Chunk::of_log(&origin(), rest, first.about.chain_after, Some(77)).unwrap();
        assert_eq!((second.about.start, second.about.records), (first.about.end, 2));
        let mut again = vec![];
        for chunk in [first, second] {
            let object = chunk.encode(origin().cluster);
            assert_eq!(decode(&object, chunk.about.start).unwrap(), ChunkObject::Chunk(chunk.clone()));
            let head = ChunkAbout::parse_head(&object[..CHUNK_HEAD_LEN], origin().cluster, TIMELINE, chunk.about.start)
                .unwrap();
            assert_eq!(head, (chunk.about, false));
            again.extend_from_slice(&chunk.bytes);
        }
        assert_eq!(again, whole.bytes);
    }

    #[test]
    fn log_that_does_not_continue_or_is_not_whole_is_refused() {
        let first = Chunk::of_log(&origin(), log(3, 0), Chain(0), None).unwrap();
        let tail = |from: usize, to: usize| {
            let bytes = log(5, 0).bytes[from..to].to_vec();
            LogBytes { timeline: TIMELINE, start: Lsn::new(from as u64), bytes }
        };
        let (from, to) = (first.bytes.len(), log(5, 0).bytes.len());
        let of = |log, chain, salt| Chunk::of_log(&origin(), log, chain, salt).unwrap_err().to_string();
        assert!(of(tail(from, to), Chain(1), Some(77)).contains("chain"));
        assert!(of(tail(from, to), first.about.chain_after, Some(78)).contains("damaged"));
        assert!(of(tail(from, to), first.about.chain_after, None).contains("salt"));
        assert!(of(tail(from, to - 8), first.about.chain_after, Some(77)).contains("damaged"));
        assert!(of(log(0, 0), Chain(0), None).contains("no record"));
        let other = ChunkOrigin { cluster: ClusterId::from_bytes([9; 16]), ..origin() };
        assert!(matches!(Chunk::of_log(&other, log(1, 0), Chain(0), None), Err(ObjectDamage::Cluster { .. })));
    }

    #[test]
    fn a_chunk_moved_to_another_key_is_found_out() {
        let object = Chunk::of_log(&origin(), log(3, 0), Chain(0), None).unwrap().encode(origin().cluster);
        assert_eq!(decode(&object, Lsn::new(8)), Err(ObjectDamage::Place));
        let elsewhere = ChunkObject::decode(&object, origin().cluster, TimelineId(2), Lsn::ZERO);
        assert_eq!(elsewhere, Err(ObjectDamage::Place));
        let foreign = ChunkObject::decode(&object, ClusterId::from_bytes([9; 16]), TIMELINE, Lsn::ZERO);
        assert_eq!(foreign, Err(ObjectDamage::Cluster { found: origin().cluster }));
    }

    #[test]
    fn a_chunk_under_the_key_of_a_place_that_no_log_reaches_is_refused() {
        let chunk = Chunk::of_log(&origin(), log(3, 0), Chain(0), None).unwrap();
        let len = chunk.about.end.offset();
        for start in [Lsn::new(u64::MAX - len), Lsn::new(u64::MAX - (1 << 16) + 1)] {
            let about = ChunkAbout { start, end: Lsn::new(start.offset().saturating_add(len)), ..chunk.about };
            let object = Chunk { about, bytes: chunk.bytes.clone() }.encode(origin().cluster);
            assert_eq!(decode(&object, start), Err(ObjectDamage::Place));
        }
    }

    #[test]
    fn histories_agree_as_far_as_both_reach_or_differ_somewhere() {
        let chunk = Chunk::of_log(&origin(), log(3, 0), Chain(0), None).unwrap();
        for local in [log(2, 0), log(3, 0), log(5, 0)] {
            assert_eq!(chunk.compare(&local), Agreement::Agrees);
        }
        // The payloads of the first records differ, so their headers do, and the CRC comes first.
        assert_eq!(chunk.compare(&log(3, 1)), Agreement::Differs { at: Lsn::new(512) });
    }

    #[test]
    fn log_is_cut_at_the_last_record_that_ends_at_or_before_the_target() {
        let chunk = Chunk::of_log(&origin(), log(3, 0), Chain(0), None).unwrap();
        let two = log(2, 0);
        assert_eq!(chunk.cut_at(two.end()), Some(two.clone()));
        assert_eq!(chunk.cut_at(two.end().advance(7)), Some(two));
        assert_eq!(chunk.cut_at(Lsn::new(600)), None);
        assert_eq!(chunk.cut_at(Lsn::MAX).unwrap().bytes, chunk.bytes);
    }

    #[test]
    fn a_fence_reads_back_and_is_no_chunk() {
        let at = Position { lsn: Lsn::new(1160), chain: Chain(9) };
        let about = ChunkAbout::fence(&origin(), TIMELINE, at, Timestamp(5));
        let long = "ü".repeat(200);
        let object = encode_fence(&about, origin().cluster, &long);
        let ChunkObject::Fence { about: read, by } = decode(&object, at.lsn).unwrap() else { panic!("not a fence") };
        assert_eq!((read, by.len()), (about, 256));
        assert_eq!(read.end_position(), at);
        assert!(ChunkAbout::parse_head(&object[..CHUNK_HEAD_LEN], origin().cluster, TIMELINE, at.lsn).unwrap().1);
    }
}
