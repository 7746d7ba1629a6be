//! The control file: which manifest, history and role are current, and how far the log was flushed. Two copies in one
//! file, each whole or detected; one owner in memory. What the fields are for is decided elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::{Access, File, Storage, read_exact_at, replace_file, write_all_at};
use seawall_wal::sync::Mutex;
use seawall_wal::{
    Chain, ClusterId, Lsn, NodeId, Position, SegmentSize, TIMELINES_MAX, TimelineEntry, TimelineHistory, TimelineId,
    TimelineNonce, Timestamp,
};

use crate::codec::{Put, Reader, Truncated, len_u16, len_u32};
use crate::error::{Error, Result, at};
use crate::mutant::{Mutant, planted};

/// The version this code writes, and the newest it reads.
pub const CONTROL_VERSION: u32 = 1;
/// The file's name in a data directory.
pub const CONTROL_NAME: &str = "control";
/// The longest text a role carries, in bytes.
pub const ROLE_TEXT_LEN_MAX: usize = 1024;

const MAGIC: [u8; 8] = *b"SEAWCTRL";
const SLOT_SIZE: usize = 256 << 10;
/// Magic, CRC, version, length: what a slot of any version has.
const PREFIX_LEN: usize = 20;
const TIMELINE_LEN: usize = 44;

const _: () = assert!(PREFIX_LEN + 116 + ROLE_TEXT_LEN_MAX + TIMELINES_MAX * TIMELINE_LEN <= SLOT_SIZE);

/// What a node is allowed to do with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It may take writes.
    Normal,
    /// A restored copy: read-only until it is promoted.
    ReadOnlyRestored {
        /// Restored up to here.
        at: Lsn,
        /// The time of the last commit restored.
        time: Timestamp,
        /// Where it came from, for people; at most 1024 bytes.
        from: String,
    },
    /// It receives another node's log.
    Standby,
}

/// What the control file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Whose data this is.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Of every segment.
    pub segment_size: SegmentSize,
    /// The timelines this data went through.
    pub history: TimelineHistory,
    /// Everything in the log before it was flushed here. `redo <= watermark`.
    pub watermark: Lsn,
    /// Whether the log was flushed to its end and nothing happened since.
    pub clean_shutdown: bool,
    /// Which manifest is current.
    pub manifest_number: u64,
    /// BLAKE3 of that manifest.
    pub manifest_digest: [u8; 32],
    /// What the node may do.
    pub role: Role,
}

impl Control {
    fn encode(&self, sequence: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4096);
        bytes.put(&MAGIC);
        bytes.put_u32(0);
        bytes.put_u32(CONTROL_VERSION);
        bytes.put_u32(0);
        bytes.put_u32(self.segment_size.bytes());
        bytes.put_u64(sequence);
        bytes.put(&self.cluster.to_bytes());
        bytes.put(&self.node.to_bytes());
        bytes.put_u64(self.watermark.offset());
        bytes.put_u64(self.manifest_number);
        bytes.put(&self.manifest_digest);
        bytes.put_u8(u8::from(self.clean_shutdown));
        let (role, lsn, time, text) = match &self.role {
            Role::Normal => (1, Lsn::ZERO, Timestamp(0), ""),
            Role::ReadOnlyRestored { at, time, from } => (2, *at, *time, from.as_str()),
            Role::Standby => (3, Lsn::ZERO, Timestamp(0), ""),
        };
        bytes.put_u8(role);
        bytes.put_u16(len_u16(text.len()));
        bytes.put_u32(len_u32(self.history.entries().len()));
        bytes.put_u64(lsn.offset());
        bytes.put_u64(time.0);
        bytes.put(text.as_bytes());
        for entry in self.history.entries() {
            bytes.put_u32(entry.id.0);
            bytes.put(&entry.nonce.to_bytes());
            bytes.put_u64(entry.fork.lsn.offset());
            bytes.put_u64(entry.fork.chain.0);
            bytes.put_u64(entry.begin.offset());
        }
        assert!(bytes.len() <= SLOT_SIZE, "the bounds of history and text keep a control file in its slot");
        let len = len_u32(bytes.len());
        bytes[16..20].copy_from_slice(&len.to_le_bytes());
        let crc = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// What one slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum UnverifiedSlot {
    Whole { sequence: u64, control: Box<Control> },
    TooNew(u32),
    Damaged(&'static str),
}

impl UnverifiedSlot {
    fn parse(slot: &[u8]) -> Self {
        if slot.get(..8) != Some(&MAGIC) {
            return Self::Damaged("its magic is wrong");
        }
        let field = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("four bytes"));
        let len = field(16) as usize;
        let checked = |len| crc32fast::hash(&slot[12..len]) == field(8) || planted(Mutant::ControlNotChecked);
        if !(PREFIX_LEN..=slot.len()).contains(&len) || !checked(len) {
            return Self::Damaged("its checksum does not match");
        }
        if field(12) != CONTROL_VERSION {
            return Self::TooNew(field(12));
        }
        match Self::parse_body(&slot[PREFIX_LEN..len]) {
            Ok(Ok((sequence, control))) => Self::Whole { sequence, control: Box::new(control) },
            Ok(Err(why)) => Self::Damaged(why),
            Err(Truncated) => Self::Damaged("it ends too early"),
        }
    }

    fn parse_body(body: &[u8]) -> Result<Result<(u64, Control), &'static str>, Truncated> {
        let mut reader = Reader::new(body);
        let Some(segment_size) = SegmentSize::new(reader.u32()?) else {
            return Ok(Err("its segment size is impossible"));
        };
        let sequence = reader.u64()?;
        let cluster = ClusterId::from_bytes(reader.array()?);
        let node = NodeId::from_bytes(reader.array()?);
        let watermark = Lsn::new(reader.u64()?);
        let manifest_number = reader.u64()?;
        let manifest_digest = reader.array()?;
        let clean_shutdown = reader.u8()? == 1;
        let role = reader.u8()?;
        let text_len = reader.u16()? as usize;
        let timelines = reader.u32()? as usize;
        let role_lsn = Lsn::new(reader.u64()?);
        let role_time = Timestamp(reader.u64()?);
        if text_len > ROLE_TEXT_LEN_MAX || timelines > TIMELINES_MAX {
            return Ok(Err("a length is impossible"));
        }
        let Ok(text) = std::str::from_utf8(reader.bytes(text_len)?) else {
            return Ok(Err("its text is not UTF-8"));
        };
        let role = match role {
            1 => Role::Normal,
            2 => Role::ReadOnlyRestored { at: role_lsn, time: role_time, from: text.to_owned() },
            3 => Role::Standby,
            _ => return Ok(Err("its role is unknown")),
        };
        let mut entries = Vec::with_capacity(timelines);
        for _ in 0..timelines {
            entries.push(TimelineEntry {
                id: TimelineId(reader.u32()?),
                nonce: TimelineNonce::from_bytes(reader.array()?),
                fork: Position { lsn: Lsn::new(reader.u64()?), chain: Chain(reader.u64()?) },
                begin: Lsn::new(reader.u64()?),
            });
        }
        let Ok(history) = TimelineHistory::from_entries(entries, segment_size) else {
            return Ok(Err("its history is impossible"));
        };
        if !reader.is_empty() {
            return Ok(Err("bytes follow its history"));
        }
        let control = Control {
            cluster,
            node,
            segment_size,
            history,
            watermark,
            clean_shutdown,
            manifest_number,
            manifest_digest,
            role,
        };
        Ok(Ok((sequence, control)))
    }
}

/// A copy of the control file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSlot {
    /// 0 or 1.
    pub slot: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The open control file, its only owner.
#[derive(Debug)]
pub struct ControlFile {
    path: PathBuf,
    file: FileHandle,
    state: Mutex<State>,
}

struct FileHandle(Arc<dyn File>);

impl std::fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("File")
    }
}

#[derive(Debug)]
struct State {
    control: Control,
    sequence: u64,
    /// The slot to write next: never the only newest valid one.
    next: usize,
    /// Whether both slots are whole and differ in the watermark at most.
    settled: bool,
}

impl ControlFile {
    /// Makes the file, wholly or not at all.
    pub fn create(storage: &dyn Storage, folder: &Path, control: Control) -> Result<Self> {
        let path = folder.join(CONTROL_NAME);
        let mut bytes = control.encode(1);
        bytes.resize(SLOT_SIZE, 0);
        bytes.extend_from_within(..);
        replace_file(storage, &path, &bytes).map_err(at("write", &path))?;
        let file = FileHandle(storage.open(&path, Access::Write).map_err(at("open", &path))?);
        Ok(Self { path, file, state: Mutex::new(State { control, sequence: 1, next: 0, settled: true }) })
    }

    /// Opens the file of `folder`, and says which copy is damaged. `None` if there is no file.
    pub fn open(storage: &dyn Storage, folder: &Path) -> Result<Option<(Self, Vec<DamagedSlot>)>> {
        let path = folder.join(CONTROL_NAME);
        let file = match storage.open(&path, Access::Write) {
            Ok(file) => FileHandle(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("open", &path)(error)),
        };
        let (state, damaged) = read_slots(&*file.0, &path)?;
        Ok(Some((Self { path, file, state: Mutex::new(state) }, damaged)))
    }

    /// Reads what the control file of `folder` says, without opening it for writing. `None` if there is no file.
    pub fn read(storage: &dyn Storage, folder: &Path) -> Result<Option<(Control, Vec<DamagedSlot>)>> {
        let path = folder.join(CONTROL_NAME);
        match storage.open(&path, Access::Read) {
            Ok(file) => read_slots(&*file, &path).map(|(state, damaged)| Some((state.control, damaged))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("open", &path)(error)),
        }
    }

    /// Whether no file is where this one was opened: somebody removed the folder, or moved it.
    pub(crate) fn is_gone(&self, storage: &dyn Storage) -> bool {
        storage.open(&self.path, Access::Read).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    /// What it says now.
    pub fn get(&self) -> Control {
        self.state.lock().control.clone()
    }

    /// Looks at what it says now.
    pub fn with<T>(&self, look: impl FnOnce(&Control) -> T) -> T {
        look(&self.state.lock().control)
    }

    /// Changes it, durably in both copies when this returns. If it fails, either the old or the new state is found
    /// at the next open, and memory keeps the old: the caller must not rely on either.
    pub fn update(&self, change: impl FnOnce(&mut Control)) -> Result<()> {
        let mut state = self.state.lock();
        let mut control = state.control.clone();
        change(&mut control);
        state.settled = false;
        self.write(&mut state, &control)?;
        if !planted(Mutant::ControlUpdatedOnce) {
            self.write(&mut state, &control)?;
        }
        state.settled = true;
        state.control = control;
        Ok(())
    }

    /// Makes both copies agree, if an earlier run left them different: an update that was interrupted, or damage. Before
    /// that nothing may be removed that only the current copy does without.
    pub fn settle(&self) -> Result<()> {
        if self.state.lock().settled { Ok(()) } else { self.update(|_| {}) }
    }

    /// Raises the watermark, durably in one copy when this returns. A lower value is ignored: what was flushed stays so.
    pub fn raise_watermark(&self, watermark: Lsn) -> Result<()> {
        let mut state = self.state.lock();
        if watermark <= state.control.watermark {
            return Ok(());
        }
        let control = Control { watermark, ..state.control.clone() };
        self.write(&mut state, &control)?;
        state.control = control;
        Ok(())
    }

    fn write(&self, state: &mut State, control: &Control) -> Result<()> {
        let sequence = state.sequence + 1;
        let offset = (state.next * SLOT_SIZE) as u64;
        write_all_at(&*self.file.0, &control.encode(sequence), offset).map_err(at("write", &self.path))?;
        if !planted(Mutant::ControlNotSynced) {
            self.file.0.sync_data().map_err(at("sync", &self.path))?;
        }
        // Only now is this slot the newest; after a failure the same slot is written again, never the good one.
        state.sequence = sequence;
        state.next = 1 - state.next;
        Ok(())
    }
}

fn read_slots(file: &dyn File, path: &Path) -> Result<(State, Vec<DamagedSlot>)> {
    let len = file.len().map_err(at("read", path))?.min(2 * SLOT_SIZE as u64) as usize;
    let mut bytes = vec![0; len];
    read_exact_at(file, &mut bytes, 0).map_err(at("read", path))?;
    bytes.resize(2 * SLOT_SIZE, 0);
    choose([UnverifiedSlot::parse(&bytes[..SLOT_SIZE]), UnverifiedSlot::parse(&bytes[SLOT_SIZE..])], path)
}

fn choose(slots: [UnverifiedSlot; 2], path: &Path) -> Result<(State, Vec<DamagedSlot>)> {
    let mut newest: Option<State> = None;
    let mut damaged = Vec::new();
    let mut settled = true;
    for (slot, content) in slots.into_iter().enumerate() {
        match content {
            // Newer than this build in one slot means that a newer build has run here.
            UnverifiedSlot::TooNew(version) => {
                return Err(Error::TooNew { path: path.to_owned(), version, supported: CONTROL_VERSION });
            }
            UnverifiedSlot::Damaged(why) => damaged.push(DamagedSlot { slot, why }),
            UnverifiedSlot::Whole { sequence, control } => {
                if let Some(other) = &newest {
                    settled = Control { watermark: other.control.watermark, ..*control.clone() } == other.control;
                }
                if newest.as_ref().is_none_or(|state| sequence > state.sequence) {
                    newest = Some(State { control: *control, sequence, next: 1 - slot, settled: false });
                }
            }
        }
    }
    match newest {
        Some(state) => Ok((State { settled: settled && damaged.is_empty(), ..state }, damaged)),
        None => Err(Error::CorruptControl { path: path.to_owned(), why: damaged[0].why }),
    }
}

#[cfg(test)]
mod tests;
