//! Reading and writing of the fixed-width little-endian parts that messages and the slot file are made of.
//! Which parts make which message is `message`'s business.

use seawall_wal::{
    Chain, ClusterId, Lsn, NodeId, Position, SegmentSize, TIMELINES_MAX, TimelineEntry, TimelineHistory, TimelineId,
    TimelineNonce,
};

/// Why a body does not hold what its type promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("it ends within its {0}")]
    Short(&'static str),
    /// It goes on after its last part.
    #[error("it has {0} bytes too many")]
    Long(usize),
    /// A part has a value it cannot have.
    #[error("its {0} has a value it cannot have")]
    Value(&'static str),
}

/// Takes parts off the front of a body.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (part, rest) = self.0.split_at_checked(len).ok_or(Malformed::Short(what))?;
        self.0 = rest;
        Ok(part)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        Ok(self.bytes(N, what)?.try_into().expect("the part has the array's length"))
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value(what)),
        }
    }

    pub(crate) fn lsn(&mut self, what: &'static str) -> Result<Lsn, Malformed> {
        self.u64(what).map(Lsn::new)
    }

    pub(crate) fn position(&mut self, what: &'static str) -> Result<Position, Malformed> {
        Ok(Position { lsn: self.lsn(what)?, chain: Chain(self.u64(what)?) })
    }

    pub(crate) fn cluster(&mut self) -> Result<ClusterId, Malformed> {
        self.array("cluster").map(ClusterId::from_bytes)
    }

    pub(crate) fn node(&mut self) -> Result<NodeId, Malformed> {
        self.array("node").map(NodeId::from_bytes)
    }

    pub(crate) fn text(&mut self, len_max: usize, what: &'static str) -> Result<&'a str, Malformed> {
        let len = usize::from(self.u16(what)?);
        if len > len_max {
            return Err(Malformed::Value(what));
        }
        std::str::from_utf8(self.bytes(len, what)?).map_err(|_| Malformed::Value(what))
    }

    pub(crate) fn history(&mut self, size: SegmentSize) -> Result<TimelineHistory, Malformed> {
        let count = self.u32("history")? as usize;
        if count == 0 || count > TIMELINES_MAX || count * HISTORY_ENTRY_SIZE > self.0.len() {
            return Err(Malformed::Value("history"));
        }
        let entries = (0..count).map(|_| {
            Ok(TimelineEntry {
                id: TimelineId(self.u32("history")?),
                nonce: TimelineNonce::from_bytes(self.array("history")?),
                fork: self.position("history")?,
                begin: self.lsn("history")?,
            })
        });
        let entries = entries.collect::<Result<Vec<_>, Malformed>>()?;
        TimelineHistory::from_entries(entries, size).map_err(|_| Malformed::Value("history"))
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Long(self.0.len())) }
    }
}

/// Bytes one timeline takes in a history.
pub(crate) const HISTORY_ENTRY_SIZE: usize = 4 + 16 + 16 + 8;

/// Appends parts to a body.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn lsn(&mut self, lsn: Lsn) -> &mut Self {
        self.u64(lsn.offset())
    }

    pub(crate) fn position(&mut self, position: Position) -> &mut Self {
        self.lsn(position.lsn).u64(position.chain.0)
    }

    /// Writes as much of `text` as fits into `len_max` bytes, cut at a character.
    pub(crate) fn text(&mut self, text: &str, len_max: usize) -> &mut Self {
        let text = &text[..text.floor_char_boundary(len_max)];
        self.u16(text.len().try_into().expect("texts are limited to less than 64 KiB")).bytes(text.as_bytes())
    }

    pub(crate) fn history(&mut self, history: &TimelineHistory) -> &mut Self {
        let entries = history.entries();
        self.u32(entries.len().try_into().expect("a history has at most 4096 timelines"));
        for entry in entries {
            self.u32(entry.id.0).bytes(&entry.nonce.to_bytes()).position(entry.fork).lsn(entry.begin);
        }
        self
    }
}
