//! A disk in memory that can lose power: at a crash any subset of the unsynced sectors is lost, unsynced directory
//! operations are lost from some point on, and nothing else. It can also keep a journal of all operations, so that a
//! test can stand at every point of a run and look at every state a crash there could leave. A sync that fails loses some of
//! what it was for, as a kernel does that marks pages clean which it could not write: they are read as they were written,
//! the device has the old ones, and no later sync brings them there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Access, BLOCK_SIZE, File, IoPath, Mapping, SECTOR_SIZE, Storage};
use crate::sync::Mutex;

/// What a crash does with one unsynced thing. The test decides each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashChoice {
    /// A sector that was written `versions` times since the last sync: 0 keeps the old one, `n` the n-th version.
    Sector {
        /// How many unsynced versions there are.
        versions: usize,
    },
    /// A folder with `operations` unsynced operations: the first so many of them survive.
    Directory {
        /// How many unsynced operations there are.
        operations: usize,
    },
    /// A file whose length changed without a sync: 0 keeps the old length, 1 the new one.
    Length,
}

/// One thing that happened to the disk.
#[derive(Clone)]
pub enum JournalEntry {
    /// A file came into being under a path.
    Create(PathBuf, usize),
    /// Bytes were written to a file.
    Write(usize, u64, Vec<u8>),
    /// A file's length was set.
    SetLen(usize, u64),
    /// A file was synced.
    Sync(usize),
    /// A sync of a file failed; the number says what of it reached the device.
    FailedSync(usize, u64),
    /// A file got a new name.
    Rename(PathBuf, PathBuf),
    /// A file got a second name.
    Link(PathBuf, PathBuf),
    /// A name was removed.
    Remove(PathBuf),
    /// A folder was synced.
    SyncDir(PathBuf),
    /// Something the test wants to remember at this point, such as an acknowledged LSN.
    Mark(u64),
}

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// Bytes of a file, shared by all disks and versions that have them, with their digest once somebody asked for it.
struct Block {
    bytes: [u8; BLOCK_SIZE],
    digest: OnceLock<u64>,
}

#[derive(Clone, Default)]
struct Content {
    blocks: Vec<Arc<Block>>,
    len: u64,
}

#[derive(Clone, Default)]
struct Node {
    current: Content,
    durable: Content,
    /// Versions of each sector written since the last sync, oldest first.
    pending: BTreeMap<u64, Vec<[u8; SECTOR_SIZE]>>,
    /// Sectors that a failed sync did not bring to the device and that were not written since: `current` is what the kernel
    /// remembers of them, `durable` what the device has. None of them is pending.
    dropped: BTreeSet<u64>,
}

#[derive(Clone)]
enum DirectoryOperation {
    Set(String, usize),
    Unset(String),
    Rename(String, String),
}

#[derive(Clone, Default)]
struct Directory {
    current: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<DirectoryOperation>,
}

#[derive(Clone, Default)]
struct State {
    nodes: Vec<Node>,
    directories: BTreeMap<PathBuf, Directory>,
    locks: BTreeMap<PathBuf, ()>,
    journal: Option<Vec<JournalEntry>>,
    capacity: Option<u64>,
    salts: Option<SmallRng>,
    /// From which it follows what failed syncs lose.
    luck: u64,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts to keep a journal of all operations.
    pub fn keep_journal(&self) {
        self.state.lock().journal = Some(Vec::new());
    }

    /// The journal so far.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.state.lock().journal.clone().unwrap_or_default()
    }

    /// Puts a mark into the journal.
    pub fn mark(&self, value: u64) {
        self.state.lock().log(|| JournalEntry::Mark(value));
    }

    /// Makes one journalled operation happen on this disk.
    pub fn replay(&self, entry: &JournalEntry) {
        let mut state = self.state.lock();
        match entry {
            JournalEntry::Create(path, node) => {
                let made = state.create(path).expect("a journalled create succeeds again");
                assert_eq!(made, *node, "a journal is replayed from its beginning");
            }
            JournalEntry::Write(node, offset, bytes) => state.nodes[*node].write(*offset, bytes),
            JournalEntry::SetLen(node, len) => state.nodes[*node].set_len(*len),
            JournalEntry::Sync(node) => state.nodes[*node].sync(),
            JournalEntry::FailedSync(node, luck) => state.nodes[*node].fail_sync(*luck),
            JournalEntry::Rename(from, to) => state.rename(from, to).expect("a journalled rename succeeds again"),
            JournalEntry::Link(from, to) => state.link(from, to).expect("a journalled link succeeds again"),
            JournalEntry::Remove(path) => state.remove(path).expect("a journalled remove succeeds again"),
            JournalEntry::SyncDir(path) => state.directory(path).sync(),
            JournalEntry::Mark(_) => {}
        }
    }

    /// The disk as it is after a power loss now, each unsynced thing decided by `choose` (which answers with a number
    /// up to the one in the choice): folders first, then what is in the files that have a name afterwards. This disk goes
    /// on untouched. Locks are gone.
    pub fn crashed(&self, mut choose: impl FnMut(CrashChoice) -> usize) -> Self {
        let state = self.state.lock();
        let mut left = State { capacity: state.capacity, ..State::default() };
        let mut named = vec![false; state.nodes.len()];
        for (path, directory) in &state.directories {
            let directory = directory.crashed(&mut choose);
            directory.current.values().for_each(|node| named[*node] = true);
            left.directories.insert(path.clone(), directory);
        }
        // What has no name keeps its number, so that a journal can go on from here.
        let nodes = state.nodes.iter().zip(named);
        left.nodes =
            nodes.map(|(node, named)| if named { node.crashed(&mut choose) } else { Node::default() }).collect();
        Self { state: Arc::new(Mutex::new(left)) }
    }

    /// A digest of every file's name and bytes, as read now. Two disks that hold the same have the same.
    pub fn image(&self) -> u64 {
        let state = self.state.lock();
        let mut digest = Xxh3::new();
        for (path, directory) in &state.directories {
            digest.update(path.as_os_str().as_encoded_bytes());
            for (name, node) in &directory.current {
                let content = &state.nodes[*node].current;
                digest.update(name.as_bytes());
                digest.update(&content.len.to_le_bytes());
                content.blocks.iter().for_each(|block| digest.update(&block.digest().to_le_bytes()));
            }
        }
        digest.digest()
    }

    /// The disk after a power loss that loses everything unsynced.
    pub fn crashed_losing_all(&self) -> Self {
        self.crashed(|_| 0)
    }

    /// A disk of so many bytes; writes beyond fail as on a full one.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = Some(bytes);
    }

    /// Makes the salts of new segments, and what failed syncs lose, follow from `seed`, so that the same work leaves the same
    /// bytes. Each seed is for one
    /// history: a segment that is begun again after a crash must get another salt.
    pub fn seed_salts(&self, seed: u64) {
        let mut state = self.state.lock();
        (state.salts, state.luck) = (Some(SmallRng::seed_from_u64(seed)), seed);
    }

    /// Flips one bit of a file where it rests, as decay does.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        let mut state = self.state.lock();
        let node = state.find(path).expect("the file exists");
        let node = &mut state.nodes[node];
        let mut byte = [0];
        node.current.read(offset, &mut byte);
        byte[0] ^= 1 << bit;
        node.current.write(offset, &byte);
        node.durable.write(offset, &byte);
    }

    /// A second disk with the same content, for a test that goes two ways.
    pub fn duplicate(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.locks.clear();
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryDisk")
    }
}

impl Storage for MemoryDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let node = match (access, state.find(path)) {
            (Access::CreateNew, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Access::CreateNew, None) => {
                let node = state.create(path)?;
                state.log(|| JournalEntry::Create(path.to_owned(), node));
                node
            }
            (_, Some(node)) => node,
            (_, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(MemoryFile { disk: self.clone(), node, access }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.state.lock().directories.entry(path.to_owned()).or_default();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.rename(from, to)?;
        state.log(|| JournalEntry::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.link(from, to)?;
        state.log(|| JournalEntry::Link(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.remove(path)?;
        state.log(|| JournalEntry::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let directory = state.directories.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(directory.current.keys().cloned().collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.directory(path).sync();
        state.log(|| JournalEntry::SyncDir(path.to_owned()));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        struct Guard(MemoryDisk, PathBuf);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.state.lock().locks.remove(&self.1);
            }
        }
        match self.state.lock().locks.insert(path.to_owned(), ()) {
            None => Ok(Box::new(Guard(self.clone(), path.to_owned()))),
            Some(()) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }

    fn io_path(&self) -> IoPath {
        IoPath::Memory
    }

    fn salt(&self) -> u64 {
        match &mut self.state.lock().salts {
            Some(salts) => salts.next_u64(),
            None => rand::random(),
        }
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    node: usize,
    access: Access,
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state.lock();
        let content = &state.nodes[self.node].current;
        let count = buffer.len().min(content.len.saturating_sub(offset) as usize);
        content.read(offset, &mut buffer[..count]);
        if matches!(self.access, Access::ReadDirect | Access::WriteDirect) {
            state.nodes[self.node].read_dropped(offset, &mut buffer[..count]);
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if matches!(self.access, Access::Read | Access::ReadDirect) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.disk.state.lock();
        let growth = (offset + bytes.len() as u64).saturating_sub(state.nodes[self.node].current.len);
        if state.capacity.is_some_and(|capacity| growth > 0 && state.used() + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.nodes[self.node].write(offset, bytes);
        state.log(|| JournalEntry::Write(self.node, offset, bytes.to_owned()));
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.nodes[self.node].sync();
        state.log(|| JournalEntry::Sync(self.node));
        Ok(())
    }

    fn fail_sync(&self) {
        let mut state = self.disk.state.lock();
        state.luck = SmallRng::seed_from_u64(state.luck ^ self.node as u64).next_u64();
        let luck = state.luck;
        state.nodes[self.node].fail_sync(luck);
        state.log(|| JournalEntry::FailedSync(self.node, luck));
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().nodes[self.node].current.len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.nodes[self.node].set_len(len);
        state.log(|| JournalEntry::SetLen(self.node, len));
        Ok(())
    }

    fn map(&self) -> io::Result<Mapping> {
        let state = self.disk.state.lock();
        let content = &state.nodes[self.node].current;
        let mut bytes = vec![0; content.len as usize];
        content.read(0, &mut bytes);
        Ok(Mapping::Owned(bytes))
    }
}

impl State {
    fn log(&mut self, entry: impl FnOnce() -> JournalEntry) {
        if let Some(journal) = &mut self.journal {
            journal.push(entry());
        }
    }

    fn used(&self) -> u64 {
        self.nodes.iter().map(|node| node.current.len).sum()
    }

    fn directory(&mut self, path: &Path) -> &mut Directory {
        self.directories.entry(path.to_owned()).or_default()
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let (folder, name) = split(path).ok()?;
        self.directories.get(folder)?.current.get(name).copied()
    }

    fn create(&mut self, path: &Path) -> io::Result<usize> {
        let (folder, name) = split(path)?;
        let node = self.nodes.len();
        self.nodes.push(Node::default());
        self.directory(folder).apply(DirectoryOperation::Set(name.to_owned(), node));
        Ok(node)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let ((folder, old), (other, new)) = (split(from)?, split(to)?);
        assert_eq!(folder, other, "renames stay in one folder");
        self.find(from).ok_or(io::ErrorKind::NotFound)?;
        self.directory(folder).apply(DirectoryOperation::Rename(old.to_owned(), new.to_owned()));
        Ok(())
    }

    fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from).ok_or(io::ErrorKind::NotFound)?;
        if self.find(to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (folder, name) = split(to)?;
        self.directory(folder).apply(DirectoryOperation::Set(name.to_owned(), node));
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path).ok_or(io::ErrorKind::NotFound)?;
        let (folder, name) = split(path)?;
        self.directory(folder).apply(DirectoryOperation::Unset(name.to_owned()));
        Ok(())
    }
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok((path.parent().ok_or(io::ErrorKind::InvalidInput)?, name))
}

impl Directory {
    fn apply(&mut self, operation: DirectoryOperation) {
        operation.apply(&mut self.current);
        self.pending.push(operation);
    }

    fn sync(&mut self) {
        self.durable = self.current.clone();
        self.pending.clear();
    }

    fn crashed(&self, choose: &mut impl FnMut(CrashChoice) -> usize) -> Self {
        let operations = self.pending.len();
        let keep = if operations == 0 { 0 } else { choose(CrashChoice::Directory { operations }) };
        let mut entries = self.durable.clone();
        self.pending[..keep].iter().for_each(|operation| operation.apply(&mut entries));
        Self { current: entries.clone(), durable: entries, pending: Vec::new() }
    }
}

impl DirectoryOperation {
    fn apply(&self, entries: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, node) => {
                entries.insert(name.clone(), *node);
            }
            Self::Unset(name) => {
                entries.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = entries.remove(from) {
                    entries.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Node {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.current.write(offset, bytes);
        let end = offset + bytes.len() as u64;
        for sector in offset / SECTOR_SIZE as u64..end.div_ceil(SECTOR_SIZE as u64) {
            let mut image = [0; SECTOR_SIZE];
            let start = sector * SECTOR_SIZE as u64;
            let count = (self.current.len - start).min(SECTOR_SIZE as u64) as usize;
            self.current.read(start, &mut image[..count]);
            self.dropped.remove(&sector);
            self.pending.entry(sector).or_default().push(image);
        }
    }

    fn set_len(&mut self, len: u64) {
        self.current.set_len(len);
        self.dropped.retain(|sector| sector * (SECTOR_SIZE as u64) < len);
    }

    fn sync(&mut self) {
        self.pending.clear();
        let mut synced = self.current.clone();
        for sector in &self.dropped {
            synced.write_sector(*sector, &self.durable.sector(*sector));
        }
        self.durable = synced;
    }

    /// Of some failed syncs nothing reaches the device, of some all, of others any version of each sector by chance.
    fn fail_sync(&mut self, luck: u64) {
        let mut chance = SmallRng::seed_from_u64(luck);
        let way = chance.random_range(0..3);
        for (sector, versions) in std::mem::take(&mut self.pending) {
            let reached = match way {
                0 => 0,
                1 => versions.len(),
                _ => chance.random_range(0..=versions.len()),
            };
            // What made the file longer is lost: its new length is not there yet.
            let is_within = sector * SECTOR_SIZE as u64 + SECTOR_SIZE as u64 <= self.durable.len;
            if let Some(image) = reached.checked_sub(1).map(|index| versions[index]).filter(|_| is_within) {
                self.durable.write_sector(sector, &image);
            }
            if reached < versions.len() || !is_within {
                self.dropped.insert(sector);
            }
        }
    }

    /// Puts what the device has of dropped sectors into bytes that were read at `offset`.
    fn read_dropped(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + buffer.len() as u64;
        for sector in self.dropped.range(offset / SECTOR_SIZE as u64..end.div_ceil(SECTOR_SIZE as u64)) {
            let start = sector * SECTOR_SIZE as u64;
            let (from, to) = (start.max(offset), (start + SECTOR_SIZE as u64).min(end));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&self.durable.sector(*sector)[(from - start) as usize..(to - start) as usize]);
        }
    }

    fn crashed(&self, choose: &mut impl FnMut(CrashChoice) -> usize) -> Self {
        let (old, new) = (self.durable.len, self.current.len);
        let len = if old != new && choose(CrashChoice::Length) == 1 { new } else { old };
        let mut content = self.durable.clone();
        content.set_len(len);
        for (sector, versions) in &self.pending {
            let offset = sector * SECTOR_SIZE as u64;
            if offset >= len {
                continue;
            }
            let keep = choose(CrashChoice::Sector { versions: versions.len() });
            if let Some(bytes) = keep.checked_sub(1).map(|index| versions[index]) {
                let end = (len - offset).min(SECTOR_SIZE as u64) as usize;
                content.write(offset, &bytes[..end]);
            }
        }
        Self { current: content.clone(), durable: content, ..Self::default() }
    }
}

impl Block {
    fn new(bytes: [u8; BLOCK_SIZE]) -> Arc<Self> {
        Arc::new(Self { bytes, digest: OnceLock::new() })
    }

    /// Its bytes to be changed, of this file alone.
    fn change(block: &mut Arc<Self>) -> &mut [u8; BLOCK_SIZE] {
        if Arc::get_mut(block).is_none() {
            *block = Self::new(block.bytes);
        }
        let block = Arc::get_mut(block).expect("nobody else has the copy");
        block.digest = OnceLock::new();
        &mut block.bytes
    }

    fn digest(&self) -> u64 {
        *self.digest.get_or_init(|| xxh3_64(&self.bytes))
    }
}

impl Content {
    fn set_len(&mut self, len: u64) {
        if len < self.len && !len.is_multiple_of(BLOCK_SIZE as u64) {
            let block = &mut self.blocks[(len / BLOCK_SIZE as u64) as usize];
            Block::change(block)[(len % BLOCK_SIZE as u64) as usize..].fill(0);
        }
        let blocks = len.div_ceil(BLOCK_SIZE as u64) as usize;
        if blocks != self.blocks.len() {
            self.blocks.resize(blocks, Block::new([0; BLOCK_SIZE]));
        }
        self.len = len;
    }

    /// A sector; zeros beyond the end.
    fn sector(&self, sector: u64) -> [u8; SECTOR_SIZE] {
        let (mut image, start) = ([0; SECTOR_SIZE], sector * SECTOR_SIZE as u64);
        let count = self.len.saturating_sub(start).min(SECTOR_SIZE as u64) as usize;
        self.read(start, &mut image[..count]);
        image
    }

    /// Writes what of a sector lies before the end.
    fn write_sector(&mut self, sector: u64, image: &[u8; SECTOR_SIZE]) {
        let start = sector * SECTOR_SIZE as u64;
        let count = self.len.saturating_sub(start).min(SECTOR_SIZE as u64) as usize;
        if count > 0 {
            self.write(start, &image[..count]);
        }
    }

    fn read(&self, mut offset: u64, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let within = (offset % BLOCK_SIZE as u64) as usize;
            let count = buffer.len().min(BLOCK_SIZE - within);
            let block = &self.blocks[(offset / BLOCK_SIZE as u64) as usize];
            buffer[..count].copy_from_slice(&block.bytes[within..within + count]);
            buffer = &mut buffer[count..];
            offset += count as u64;
        }
    }

    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if end > self.len {
            self.set_len(end);
        }
        while !bytes.is_empty() {
            let within = (offset % BLOCK_SIZE as u64) as usize;
            let count = bytes.len().min(BLOCK_SIZE - within);
            let block = &mut self.blocks[(offset / BLOCK_SIZE as u64) as usize];
            Block::change(block)[within..within + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            offset += count as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with_file() -> (MemoryDisk, Arc<dyn File>) {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let file = disk.open(Path::new("/d/a"), Access::CreateNew).unwrap();
        (disk, file)
    }

    fn content(disk: &MemoryDisk, path: &str) -> Option<Vec<u8>> {
        disk.open(Path::new(path), Access::Read).ok().map(|file| file.map().unwrap().to_vec())
    }

    #[test]
    fn unsynced_sectors_are_lost_one_by_one() {
        let (disk, file) = disk_with_file();
        file.write_at(&[1; 1024], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[2; 1024], 0).unwrap();
        let mut first = true;
        let crashed = disk.crashed(|choice| {
            assert_eq!(choice, CrashChoice::Sector { versions: 1 });
            usize::from(!std::mem::take(&mut first))
        });
        let expected: Vec<u8> = [[1; 512], [2; 512]].concat();
        assert_eq!(content(&crashed, "/d/a"), Some(expected));
        assert_eq!(content(&disk.crashed_losing_all(), "/d/a"), Some(vec![1; 1024]));
    }

    #[test]
    fn what_a_failed_sync_dropped_is_read_by_who_asks_the_kernel_and_no_later_sync_makes_it_durable() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..30 {
            let (disk, file) = disk_with_file();
            file.write_at(&[1; 2048], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            disk.seed_salts(seed);
            let base = disk.duplicate();
            disk.keep_journal();
            file.write_at(&[2; 2048], 0).unwrap();
            file.fail_sync();
            let read = |access| {
                let mut bytes = [0; 2048];
                disk.open(Path::new("/d/a"), access).unwrap().read_at(&mut bytes, 0).unwrap();
                bytes.to_vec()
            };
            let device = read(Access::ReadDirect);
            assert_eq!(read(Access::Read), [2; 2048], "the kernel remembers what was written");
            for _ in 0..2 {
                assert_eq!(content(&disk.crashed_losing_all(), "/d/a").unwrap(), device);
                assert_eq!(content(&disk.crashed(|_| 1), "/d/a").unwrap(), device, "nothing is pending any more");
                disk.journal().iter().for_each(|entry| base.replay(entry));
                assert_eq!(content(&base.crashed_losing_all(), "/d/a").unwrap(), device);
                file.sync_data().unwrap();
            }
            outcomes.insert(device.chunks(SECTOR_SIZE).map(|sector| sector[0]).collect::<Vec<_>>());
            file.write_at(&[3; 512], 512).unwrap();
            file.sync_data().unwrap();
            let expected = [&device[..512], &[3; 512], &device[1024..]].concat();
            assert_eq!(content(&disk.crashed_losing_all(), "/d/a").unwrap(), expected, "what is written again is");
        }
        assert!(outcomes.len() > 4, "{outcomes:?}");
        assert!(outcomes.contains(&vec![1; 4]) && outcomes.contains(&vec![2; 4]), "{outcomes:?}");
    }

    #[test]
    fn a_file_whose_folder_was_not_synced_is_gone() {
        let (disk, file) = disk_with_file();
        file.write_at(b"x", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(content(&disk.crashed_losing_all(), "/d/a"), None);
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        assert_eq!(content(&disk.crashed_losing_all(), "/d/a"), Some(b"x".to_vec()));
        let kept = disk.crashed(|_| 1);
        assert_eq!(content(&kept, "/d/b"), Some(b"x".to_vec()));
        assert_eq!(content(&kept, "/d/a"), None);
    }

    #[test]
    fn disks_with_the_same_files_have_the_same_image() {
        let (disk, file) = disk_with_file();
        disk.sync_dir(Path::new("/d")).unwrap();
        let empty = disk.image();
        file.write_at(&[7; 5000], 0).unwrap();
        let written = disk.image();
        assert_ne!(empty, written);
        assert_eq!(disk.crashed_losing_all().image(), empty);
        assert_eq!(disk.crashed(|_| 1).image(), written);
        let copy = disk.duplicate();
        copy.flip_bit(Path::new("/d/a"), 4999, 0);
        assert_ne!(copy.image(), written, "the last byte counts");
        copy.flip_bit(Path::new("/d/a"), 4999, 0);
        assert_eq!(copy.image(), written);
        copy.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        assert_ne!(copy.image(), written, "the name counts");
    }

    #[test]
    fn a_replayed_journal_gives_the_same_disk() {
        let (disk, _) = disk_with_file();
        let disk = { disk.crashed_losing_all() };
        disk.keep_journal();
        let file = disk.open(Path::new("/d/f"), Access::CreateNew).unwrap();
        file.write_at(&[9; 700], 100).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.mark(5);
        let again = MemoryDisk::new();
        again.create_dir_all(Path::new("/d")).unwrap();
        // The first disk had one file before its journal began.
        again.open(Path::new("/d/a"), Access::CreateNew).unwrap();
        disk.journal().iter().for_each(|entry| again.replay(entry));
        assert_eq!(content(&again.crashed_losing_all(), "/d/f"), content(&disk, "/d/f"));
    }
}
