//! Files and folders by their numbers, with the rules of a file system: what is there already, what is not, what is full.
//! It knows no faults but those of power.

use std::collections::{BTreeMap, BTreeSet};

use super::content::{Cached, Content, View};
use super::directory::{Directory, NodeId};
use super::loss::Survivors;

/// The folder everything is in. Its number never changes.
pub(super) const ROOT: NodeId = 1;
/// Bytes of files, unless a test says otherwise.
const CAPACITY: u64 = 1 << 30;

/// What an operation ends with: the number of an error as the kernel has it.
pub(super) type Errno = i32;

/// What is known of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) node: NodeId,
    pub(super) is_folder: bool,
    pub(super) len: u64,
    pub(super) links: u32,
}

#[derive(Clone, Debug)]
struct Node {
    body: Body,
    /// The last path it was given, below the root.
    path: String,
    /// How often it is open.
    opened: u32,
}

#[derive(Clone, Debug)]
enum Body {
    File(Content),
    Folder(Directory),
}

/// All files and folders.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    /// No node had this number or a greater one.
    next: NodeId,
    capacity: u64,
    /// So many sectors are lost or kept as one.
    sectors_at_once: usize,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node { body: Body::Folder(Directory::default()), path: String::new(), opened: 0 };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, capacity: CAPACITY, sectors_at_once: 1 }
    }

    /// Has what another tree has, often the same one before. No number is used again.
    pub(super) fn become_again(&mut self, other: &Self) {
        *self = Self { next: self.next.max(other.next), ..other.clone() };
    }

    /// Removes everything. No number is used again, so that nothing the kernel remembers is taken for what comes.
    pub(super) fn erase(&mut self) {
        *self = Self { next: self.next, ..Self::new() };
    }

    /// The last path a node was given, for those who aim and those who read what happened.
    pub(super) fn path(&self, node: NodeId) -> &str {
        self.nodes.get(&node).map_or("", |node| &node.path)
    }

    /// The path of a name in a folder.
    pub(super) fn path_in(&self, folder: NodeId, name: &str) -> String {
        match self.path(folder) {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        }
    }

    /// The node of a path below the root.
    pub(super) fn find(&self, path: &str) -> Result<NodeId, Errno> {
        path.split('/').try_fold(ROOT, |folder, name| self.lookup(folder, name))
    }

    pub(super) fn lookup(&self, folder: NodeId, name: &str) -> Result<NodeId, Errno> {
        self.folder(folder)?.get(name).ok_or(libc::ENOENT)
    }

    pub(super) fn attributes(&self, node: NodeId) -> Result<Attributes, Errno> {
        let (is_folder, len) = match &self.node(node)?.body {
            Body::File(content) => (false, content.len() as u64),
            Body::Folder(_) => (true, 0),
        };
        let links = self.folders().flat_map(Directory::names).filter(|(_, named)| *named == node).count() as u32;
        Ok(Attributes { node, is_folder, len, links: if is_folder { 2 } else { links } })
    }

    /// Names and numbers in a folder, and whether they are folders.
    pub(super) fn list(&self, folder: NodeId) -> Result<Vec<(String, NodeId, bool)>, Errno> {
        let is_folder = |node| matches!(self.nodes.get(&node), Some(Node { body: Body::Folder(_), .. }));
        Ok(self.folder(folder)?.names().map(|(name, node)| (name.to_owned(), node, is_folder(node))).collect())
    }

    pub(super) fn create_file(&mut self, folder: NodeId, name: &str) -> Result<NodeId, Errno> {
        self.create(folder, name, Body::File(Content::default()))
    }

    pub(super) fn create_folder(&mut self, folder: NodeId, name: &str) -> Result<NodeId, Errno> {
        self.create(folder, name, Body::Folder(Directory::default()))
    }

    fn create(&mut self, folder: NodeId, name: &str, body: Body) -> Result<NodeId, Errno> {
        if self.lookup(folder, name).is_ok() {
            return Err(libc::EEXIST);
        }
        if self.free() == 0 {
            return Err(libc::ENOSPC);
        }
        let (node, path) = (self.next, self.path_in(folder, name));
        self.folder_mut(folder)?.add(name, node);
        self.nodes.insert(node, Node { body, path, opened: 0 });
        self.next += 1;
        Ok(node)
    }

    pub(super) fn link(&mut self, node: NodeId, folder: NodeId, name: &str) -> Result<(), Errno> {
        self.file(node)?;
        if self.lookup(folder, name).is_ok() {
            return Err(libc::EEXIST);
        }
        let path = self.path_in(folder, name);
        self.folder_mut(folder)?.add(name, node);
        self.node_mut(node)?.path = path;
        Ok(())
    }

    /// Within one folder; a rename into another one is refused as between two file systems.
    pub(super) fn rename(&mut self, from: (NodeId, &str), to: (NodeId, &str)) -> Result<(), Errno> {
        let node = self.lookup(from.0, from.1)?;
        if from.0 != to.0 {
            return Err(libc::EXDEV);
        }
        match self.lookup(to.0, to.1) {
            // Two names of one file: nothing happens.
            Ok(replaced) if replaced == node => return Ok(()),
            Ok(replaced) if self.folder(replaced).is_ok() => return Err(libc::EISDIR),
            _ => {}
        }
        let path = self.path_in(to.0, to.1);
        self.folder_mut(from.0)?.rename(from.1, to.1, node);
        self.node_mut(node)?.path = path;
        Ok(())
    }

    pub(super) fn remove_file(&mut self, folder: NodeId, name: &str) -> Result<(), Errno> {
        self.file(self.lookup(folder, name)?)?;
        self.folder_mut(folder)?.remove(name);
        self.sweep();
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, folder: NodeId, name: &str) -> Result<(), Errno> {
        if !self.folder(self.lookup(folder, name)?)?.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.folder_mut(folder)?.remove(name);
        Ok(())
    }

    pub(super) fn open(&mut self, node: NodeId) -> Result<(), Errno> {
        self.node_mut(node)?.opened += 1;
        Ok(())
    }

    /// Of a node that is not there any more this may come late.
    pub(super) fn close(&mut self, node: NodeId) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.opened = node.opened.saturating_sub(1);
        }
        self.sweep();
    }

    pub(super) fn read(&self, node: NodeId, offset: u64, len: usize, view: View) -> Result<Vec<u8>, Errno> {
        Ok(self.file(node)?.read(place(offset)?, len, view))
    }

    /// How many bytes were written: fewer than given where the disk is full before them all.
    pub(super) fn write(&mut self, node: NodeId, offset: u64, bytes: &[u8], durably: bool) -> Result<usize, Errno> {
        let (at, free) = (place(offset)?, self.free());
        let file = self.file_mut(node)?;
        let room = file.len().saturating_add(usize::try_from(free).map_err(|_| libc::EFBIG)?).saturating_sub(at);
        let bytes = match bytes.len().min(room) {
            0 if !bytes.is_empty() => return Err(libc::ENOSPC),
            len => &bytes[..len],
        };
        if durably {
            file.write_durably(at, bytes)
        } else {
            file.write(at, bytes)
        }
        Ok(bytes.len())
    }

    pub(super) fn set_len(&mut self, node: NodeId, len: u64) -> Result<(), Errno> {
        let (len, free) = (place(len)?, self.free());
        let file = self.file_mut(node)?;
        if len.saturating_sub(file.len()) as u64 > free {
            return Err(libc::ENOSPC);
        }
        file.set_len(len);
        Ok(())
    }

    /// Of a file or a folder.
    pub(super) fn sync(&mut self, node: NodeId) -> Result<(), Errno> {
        match &mut self.node_mut(node)?.body {
            Body::File(content) => content.sync(),
            Body::Folder(directory) => directory.sync(),
        }
        self.sweep();
        Ok(())
    }

    /// A sync of a file that fails.
    pub(super) fn fail_sync(&mut self, node: NodeId, cached: Cached) -> Result<(), Errno> {
        self.file_mut(node)?.fail_sync(cached);
        Ok(())
    }

    pub(super) fn flip(&mut self, path: &str, byte: usize, bit: u32) -> Result<(), Errno> {
        let node = self.find(path)?;
        if self.file_mut(node)?.flip(byte, bit) { Ok(()) } else { Err(libc::EINVAL) }
    }

    /// Afterwards every node but the root has another number, so that what the kernel remembers of the old ones is worth
    /// nothing.
    pub(super) fn lose_power(&mut self, loss: super::PowerLoss) {
        let mut survivors = Survivors::of(loss);
        for node in self.nodes.values_mut() {
            node.opened = 0;
            match &mut node.body {
                Body::File(content) => content.lose_power(&mut survivors, self.sectors_at_once),
                Body::Folder(directory) => directory.lose_power(&mut survivors),
            }
        }
        self.sweep();
        let first = self.next;
        let numbers: BTreeMap<NodeId, NodeId> =
            self.nodes.keys().zip(first..).map(|(old, new)| (*old, if *old == ROOT { ROOT } else { new })).collect();
        self.next = first + numbers.len() as u64;
        for (old, mut node) in std::mem::take(&mut self.nodes) {
            if let Body::Folder(directory) = &mut node.body {
                directory.renumber(|node| numbers[&node]);
            }
            self.nodes.insert(numbers[&old], node);
        }
        self.name_paths();
    }

    /// Of how many things a power loss decides whether they survive.
    pub(super) fn unsynced(&self) -> usize {
        let unsynced = |node: &Node| match &node.body {
            Body::File(content) => content.unsynced(self.sectors_at_once),
            Body::Folder(directory) => directory.unsynced(),
        };
        self.nodes.values().map(unsynced).sum()
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn set_sectors_at_once(&mut self, sectors: usize) {
        assert!(sectors > 0, "something is written");
        self.sectors_at_once = sectors;
    }

    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    /// Bytes for which there is room.
    pub(super) fn free(&self) -> u64 {
        let files = self.nodes.values().filter_map(|node| match &node.body {
            Body::File(content) => Some(content.len() as u64),
            Body::Folder(_) => None,
        });
        self.capacity.saturating_sub(files.sum())
    }

    /// Lets go of what has no name, can get none by a power loss, and is not open.
    fn sweep(&mut self) {
        loop {
            let mut needed: BTreeSet<NodeId> = self.folders().flat_map(Directory::referred).collect();
            needed.insert(ROOT);
            let before = self.nodes.len();
            self.nodes.retain(|number, node| needed.contains(number) || node.opened > 0);
            if self.nodes.len() == before {
                return;
            }
        }
    }

    /// Gives every node the path it has.
    fn name_paths(&mut self) {
        let mut folders = vec![(ROOT, String::new())];
        while let Some((folder, path)) = folders.pop() {
            let names = self.list(folder).unwrap_or_default();
            if let Some(node) = self.nodes.get_mut(&folder) {
                node.path = path;
            }
            for (name, node, is_folder) in names {
                let path = self.path_in(folder, &name);
                if is_folder {
                    folders.push((node, path));
                } else if let Some(node) = self.nodes.get_mut(&node) {
                    node.path = path;
                }
            }
        }
    }

    fn node(&self, node: NodeId) -> Result<&Node, Errno> {
        self.nodes.get(&node).ok_or(libc::ESTALE)
    }

    fn node_mut(&mut self, node: NodeId) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&node).ok_or(libc::ESTALE)
    }

    fn folders(&self) -> impl Iterator<Item = &Directory> {
        self.nodes.values().filter_map(|node| match &node.body {
            Body::Folder(directory) => Some(directory),
            Body::File(_) => None,
        })
    }

    fn folder(&self, node: NodeId) -> Result<&Directory, Errno> {
        match &self.node(node)?.body {
            Body::Folder(directory) => Ok(directory),
            Body::File(_) => Err(libc::ENOTDIR),
        }
    }

    fn folder_mut(&mut self, node: NodeId) -> Result<&mut Directory, Errno> {
        match &mut self.node_mut(node)?.body {
            Body::Folder(directory) => Ok(directory),
            Body::File(_) => Err(libc::ENOTDIR),
        }
    }

    fn file(&self, node: NodeId) -> Result<&Content, Errno> {
        match &self.node(node)?.body {
            Body::File(content) => Ok(content),
            Body::Folder(_) => Err(libc::EISDIR),
        }
    }

    fn file_mut(&mut self, node: NodeId) -> Result<&mut Content, Errno> {
        match &mut self.node_mut(node)?.body {
            Body::File(content) => Ok(content),
            Body::Folder(_) => Err(libc::EISDIR),
        }
    }
}

/// A place in a file, if files can be so long.
fn place(offset: u64) -> Result<usize, Errno> {
    if offset > CAPACITY { Err(libc::EFBIG) } else { usize::try_from(offset).map_err(|_| libc::EFBIG) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::PowerLoss;

    #[test]
    fn a_file_survives_with_its_bytes_and_every_folder_above_it_synced() {
        let mut tree = Tree::new();
        let folder = tree.create_folder(ROOT, "folder").unwrap();
        let file = tree.create_file(folder, "file").unwrap();
        tree.write(file, 0, b"bytes", false).unwrap();
        tree.sync(file).unwrap();
        tree.sync(folder).unwrap();
        tree.lose_power(PowerLoss::NothingKept);
        assert_eq!(tree.find("folder").unwrap_err(), libc::ENOENT, "the folder's own name was not synced");
        assert_eq!(tree.nodes.len(), 1, "nothing is kept that has no name");

        let folder = tree.create_folder(ROOT, "folder").unwrap();
        let file = tree.create_file(folder, "file").unwrap();
        tree.write(file, 0, b"bytes", false).unwrap();
        tree.sync(ROOT).unwrap();
        tree.sync(folder).unwrap();
        tree.lose_power(PowerLoss::NothingKept);
        let found = tree.find("folder/file").unwrap();
        assert_eq!(tree.attributes(found).unwrap().len, 0, "its bytes were not synced");
        assert!(found != file && tree.read(file, 0, 1, View::Cache).is_err(), "the old number means nothing");
    }

    #[test]
    fn a_second_name_is_as_good_as_the_first() {
        let mut tree = Tree::new();
        let file = tree.create_file(ROOT, "one").unwrap();
        tree.write(file, 0, b"bytes", true).unwrap();
        tree.link(file, ROOT, "two").unwrap();
        assert_eq!(tree.attributes(file).unwrap().links, 2);
        assert_eq!(tree.link(file, ROOT, "two").unwrap_err(), libc::EEXIST);
        tree.remove_file(ROOT, "one").unwrap();
        tree.sync(ROOT).unwrap();
        tree.lose_power(PowerLoss::NothingKept);
        assert!(tree.find("one").is_err());
        assert_eq!(tree.read(tree.find("two").unwrap(), 0, 9, View::Cache).unwrap(), b"bytes");
    }

    #[test]
    fn a_removed_file_is_there_for_who_has_it_open() {
        let mut tree = Tree::new();
        let file = tree.create_file(ROOT, "file").unwrap();
        tree.open(file).unwrap();
        tree.write(file, 0, b"bytes", false).unwrap();
        tree.sync(ROOT).unwrap();
        tree.remove_file(ROOT, "file").unwrap();
        tree.sync(ROOT).unwrap();
        assert_eq!(tree.read(file, 0, 5, View::Cache).unwrap(), b"bytes");
        tree.close(file);
        assert_eq!(tree.read(file, 0, 5, View::Cache).unwrap_err(), libc::ESTALE);
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let mut tree = Tree::new();
        tree.set_capacity(10);
        let file = tree.create_file(ROOT, "file").unwrap();
        assert_eq!(tree.write(file, 0, &[1; 8], false), Ok(8));
        assert_eq!(tree.write(file, 8, &[1; 8], false), Ok(2));
        assert_eq!(tree.write(file, 10, &[1; 8], false), Err(libc::ENOSPC));
        assert_eq!(tree.write(file, 0, &[2; 10], false), Ok(10), "what has its place needs no more");
        assert_eq!((tree.set_len(file, 11), tree.create_file(ROOT, "other")), (Err(libc::ENOSPC), Err(libc::ENOSPC)));
        tree.set_capacity(20);
        assert_eq!(tree.set_len(file, 20), Ok(()));
    }
}
