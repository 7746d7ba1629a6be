//! Slots: durable promises to keep log reachable for a standby that is away. Here are the promises themselves, their file's
//! content and what they pin; who writes the file and who recycles segments is decided elsewhere.
//!
//! The file: magic `SEAWSLOT`, version u32 = 2, count u32, then per slot name (length u16, bytes), restart LSN u64, created LSN
//! u64, last seen u64 (microseconds since 1970-01-01 UTC), who was fed u8 (0 nobody, 1 somebody, 2 a node), that node 16 bytes and
//! what it confirmed LSN u64 (both 0 unless it is known); last a CRC-32 of everything before it. Little-endian. Version 1, which is
//! read too, does not say who was fed: somebody.

use std::time::Duration;

use seawall_wal::{Lsn, NodeId, Timestamp};

use crate::message::{NAME_LEN_MAX, StandbyName};
use crate::wire::{Malformed, Reader, Writer};

/// Slots a node keeps at most.
pub const SLOTS_MAX: usize = 256;

const MAGIC: [u8; 8] = *b"SEAWSLOT";
const VERSION: u32 = 2;
const VERSION_WITHOUT_NODES: u32 = 1;

const HEAD_LEN: usize = 16;
const CRC_LEN: usize = 4;
/// Name length, restart LSN, created LSN and last seen; who was fed, that node and what it confirmed.
const SLOT_LEN_WITHOUT_NAME: usize = 2 + 3 * 8 + 1 + 16 + 8;

/// Bytes a slot file has at most.
pub const SLOT_FILE_LEN_MAX: usize = HEAD_LEN + SLOTS_MAX * (SLOT_LEN_WITHOUT_NAME + NAME_LEN_MAX) + CRC_LEN;

/// One standby's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Whose.
    pub name: StandbyName,
    /// What it confirmed as flushed, so what it asks for next.
    pub restart: Lsn,
    /// The flush LSN here when the slot was made: a standby never seen lags from here.
    pub created: Lsn,
    /// When it last confirmed anything, by this node's clock.
    pub last_seen: Timestamp,
    /// Who was fed under the name. While a primary does not know whether it was replaced this may be forgotten, and is never
    /// learned.
    pub fed: Fed,
}

/// Who was fed under a slot's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// Nobody yet.
    Nobody,
    /// Somebody; it is not known who.
    Somebody,
    /// This node.
    Node {
        /// Which.
        node: NodeId,
        /// What it confirmed as flushed.
        confirmed: Lsn,
    },
}

impl Fed {
    /// Whether a node whose log ends at `position` is the one that was fed, and has all that it confirmed.
    pub fn is(self, node: NodeId, position: Lsn) -> bool {
        matches!(self, Self::Node { node: fed, confirmed } if fed == node && confirmed <= position)
    }
}

/// All slots of a node, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    slots: Vec<Slot>,
}

/// How long and how far slots may hold log that is not archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotCaps {
    /// Bytes behind the flush LSN a slot may pin.
    pub bytes_max: u64,
    /// Time since a slot was last seen after which it pins nothing.
    pub idle_max: Duration,
}

impl Default for SlotCaps {
    /// 8 GiB and a day. Finite on purpose: an endless default is how disks fill.
    fn default() -> Self {
        Self { bytes_max: 8 << 30, idle_max: Duration::from_secs(24 * 3600) }
    }
}

/// What a slot holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Local log from here on.
    From(Lsn),
    /// Nothing: everything it needs is in the archive.
    Archived,
    /// Nothing any more: it exceeded a cap. The standby heals through the planner.
    Lapsed(Lapse),
}

/// Which cap a slot exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// It would pin more bytes than allowed.
    Bytes,
    /// It was not seen for too long.
    Idle,
}

impl Slot {
    /// What it holds back on a node whose log is flushed to `flush` and archived to `archived` (if there is an archive).
    pub fn hold(&self, flush: Lsn, archived: Option<Lsn>, now: Timestamp, caps: &SlotCaps) -> Hold {
        let idle = Duration::from_micros(now.micros_since(self.last_seen));
        match archived {
            Some(archived) if self.restart < archived => Hold::Archived,
            _ if idle > caps.idle_max => Hold::Lapsed(Lapse::Idle),
            _ if flush.distance_from(self.restart) > caps.bytes_max => Hold::Lapsed(Lapse::Bytes),
            _ => Hold::From(self.restart),
        }
    }
}

impl Slots {
    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// The slot of this name.
    pub fn get(&self, name: &StandbyName) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.name == *name)
    }

    /// Makes a slot if there is none of its name. False if there is no room.
    pub fn ensure(&mut self, name: &StandbyName, restart: Lsn, flush: Lsn, now: Timestamp) -> bool {
        match self.slots.binary_search_by(|slot| slot.name.cmp(name)) {
            Ok(_) => true,
            Err(_) if self.slots.len() == SLOTS_MAX => false,
            Err(index) => {
                let slot = Slot { name: name.clone(), restart, created: flush, last_seen: now, fed: Fed::Nobody };
                self.slots.insert(index, slot);
                true
            }
        }
    }

    /// The standby confirmed `flush`. A slot never steps back, except to a standby that was rebuilt at `flush`.
    pub fn advance(&mut self, name: &StandbyName, flush: Lsn, now: Timestamp) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == *name) {
            slot.restart = slot.restart.max(flush);
            slot.last_seen = now;
        }
    }

    /// The standby came back at `position`, perhaps before what it once confirmed.
    pub fn rejoin(&mut self, name: &StandbyName, position: Lsn, now: Timestamp) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == *name) {
            slot.restart = position;
            slot.last_seen = now;
        }
    }

    /// Says who was fed.
    pub fn set_fed(&mut self, name: &StandbyName, fed: Fed) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == *name) {
            slot.fed = fed;
        }
    }

    /// Forgets a standby. False if there was none of this name.
    pub fn drop_slot(&mut self, name: &StandbyName) -> bool {
        let before = self.slots.len();
        self.slots.retain(|slot| slot.name != *name);
        self.slots.len() < before
    }

    /// The content of the slot file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&MAGIC).u32(VERSION).u32(self.slots.len().try_into().expect("at most 256 slots"));
        for slot in &self.slots {
            out.text(slot.name.as_str(), NAME_LEN_MAX).lsn(slot.restart).lsn(slot.created).u64(slot.last_seen.0);
            let (kind, node, confirmed) = match slot.fed {
                Fed::Nobody => (0, [0; 16], Lsn::ZERO),
                Fed::Somebody => (1, [0; 16], Lsn::ZERO),
                Fed::Node { node, confirmed } => (2, node.to_bytes(), confirmed),
            };
            out.u8(kind).bytes(&node).lsn(confirmed);
        }
        let crc = crc32fast::hash(&out.0);
        out.u32(crc);
        out.0
    }

    /// Reads the content of a slot file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed::Short("checksum"))?;
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return Err(Malformed::Value("checksum"));
        }
        let mut reader = Reader::new(content);
        if reader.array("magic")? != MAGIC {
            return Err(Malformed::Value("magic"));
        }
        let version = reader.u32("version")?;
        if version != VERSION && version != VERSION_WITHOUT_NODES {
            return Err(Malformed::Value("version"));
        }
        let count = reader.u32("count")? as usize;
        if count > SLOTS_MAX {
            return Err(Malformed::Value("count"));
        }
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            slots.push(Slot {
                name: StandbyName::new(reader.text(NAME_LEN_MAX, "name")?).map_err(|_| Malformed::Value("name"))?,
                restart: reader.lsn("restart LSN")?,
                created: reader.lsn("created LSN")?,
                last_seen: Timestamp(reader.u64("last seen")?),
                fed: match version {
                    VERSION_WITHOUT_NODES => Fed::Somebody,
                    _ => parse_fed(&mut reader)?,
                },
            });
        }
        reader.end()?;
        if slots.windows(2).any(|pair| pair[0].name >= pair[1].name) {
            return Err(Malformed::Value("order of names"));
        }
        Ok(Self { slots })
    }
}

fn parse_fed(reader: &mut Reader<'_>) -> Result<Fed, Malformed> {
    let (kind, node, confirmed) = (reader.u8("who was fed")?, reader.node()?, reader.lsn("confirmed LSN")?);
    let is_nothing = node.to_bytes() == [0; 16] && confirmed == Lsn::ZERO;
    match kind {
        0 if is_nothing => Ok(Fed::Nobody),
        1 if is_nothing => Ok(Fed::Somebody),
        2 => Ok(Fed::Node { node, confirmed }),
        _ => Err(Malformed::Value("who was fed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> Slots {
        let mut slots = Slots::default();
        for (name, restart) in [("b", 200), ("a", 100)] {
            assert!(slots.ensure(&StandbyName::new(name).unwrap(), Lsn::new(restart), Lsn::new(500), Timestamp(7)));
        }
        let fed = Fed::Node { node: NodeId::from_bytes(*b"sixteen of bytes"), confirmed: Lsn::new(150) };
        slots.set_fed(&StandbyName::new("b").unwrap(), fed);
        slots
    }

    #[test]
    fn slots_survive_their_file() {
        assert_eq!(Slots::parse(&slots().encode()), Ok(slots()));
        assert_eq!(Slots::parse(&Slots::default().encode()), Ok(Slots::default()));
    }

    #[test]
    fn a_slot_file_of_version_1_is_still_read() {
        let mut without_nodes = slots();
        without_nodes.slots.iter_mut().for_each(|slot| slot.fed = Fed::Somebody);
        assert_eq!(Slots::parse(include_bytes!("../tests/fixtures/v1/slots")), Ok(without_nodes));
    }

    #[test]
    fn a_slot_file_of_version_2_is_what_it_was() {
        let file = include_bytes!("../tests/fixtures/v2/slots");
        assert_eq!(Slots::parse(file), Ok(slots()));
        assert_eq!(slots().encode(), file);
    }

    #[test]
    fn every_flipped_bit_of_the_file_is_noticed() {
        let bytes = slots().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Slots::parse(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_said_of_nobody_is_nothing() {
        let file = slots().encode();
        let of_a = 16 + 2 + 1 + 24;
        for (byte, value) in [(0, 3), (1, 1), (17, 1)] {
            let mut changed = file[..file.len() - 4].to_vec();
            changed[of_a + byte] = value;
            let crc = crc32fast::hash(&changed).to_le_bytes();
            changed.extend(crc);
            assert_eq!(Slots::parse(&changed), Err(Malformed::Value("who was fed")), "{byte}");
        }
    }

    #[test]
    fn a_slot_pins_only_what_is_not_archived() {
        let slots = slots();
        let slot = slots.get(&StandbyName::new("a").unwrap()).unwrap();
        let caps = SlotCaps { bytes_max: 1_000, idle_max: Duration::from_secs(1) };
        let hold = |flush, archived: Option<u64>, now| {
            slot.hold(Lsn::new(flush), archived.map(Lsn::new), Timestamp(now), &caps)
        };
        assert_eq!(hold(500, None, 8), Hold::From(Lsn::new(100)));
        assert_eq!(hold(500, Some(100), 8), Hold::From(Lsn::new(100)));
        assert_eq!(hold(500, Some(101), 8), Hold::Archived);
        assert_eq!(hold(1_101, None, 8), Hold::Lapsed(Lapse::Bytes));
        assert_eq!(hold(500, None, 2_000_000), Hold::Lapsed(Lapse::Idle));
    }

    #[test]
    fn the_number_of_slots_is_bounded() {
        let mut slots = Slots::default();
        for index in 0..SLOTS_MAX {
            assert!(slots.ensure(&StandbyName::new(&format!("s{index}")).unwrap(), Lsn::ZERO, Lsn::ZERO, Timestamp(0)));
        }
        let one_more = StandbyName::new("more").unwrap();
        assert!(!slots.ensure(&one_more, Lsn::ZERO, Lsn::ZERO, Timestamp(0)));
        assert!(slots.drop_slot(&StandbyName::new("s0").unwrap()));
        assert!(slots.ensure(&one_more, Lsn::ZERO, Lsn::ZERO, Timestamp(0)));
        assert!(slots.encode().len() <= SLOT_FILE_LEN_MAX);
    }
}
