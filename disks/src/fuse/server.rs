//! Answers the kernel: each request becomes one operation of the tree. One thread does it, so a disk that has stopped
//! answers nobody.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::content::View;
use super::fault::{Effect, Operation};
use super::shared::Shared;
use super::tree::{Attributes, Tree};

/// The kernel asks again each time: a power loss changes everything.
const NOT_REMEMBERED: Duration = Duration::ZERO;
const BLOCK_LEN: u32 = 4096;
const NAME_LEN_MAX: u32 = 255;
/// Nothing of a file is in the page cache but what is mapped.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;
const ANY_HANDLE: FileHandle = FileHandle(0);

pub(super) struct Server(pub(super) Arc<Shared>);

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Tables are mapped; without it a file that is read directly cannot be.
        config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).map_err(|_| {
            let words = "the FUSE disk needs a kernel that maps files of direct I/O: Linux 6.6 or later";
            io::Error::new(io::ErrorKind::Unsupported, words)
        })
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = utf8(name)
            .and_then(|name| self.0.look(|tree| tree.lookup(parent.0, name).and_then(|node| tree.attributes(node))));
        answer_entry(found, reply);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(self.0.look(|tree| tree.attributes(node.0)), reply);
    }

    /// Only lengths change; owners, modes and times are as they are.
    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = match size {
            Some(len) => self.0.on_node(Operation::SetLen, node.0, |tree, _| tree.set_len(node.0, len)),
            None => Ok(()),
        };
        answer_attributes(changed.and_then(|()| self.0.look(|tree| tree.attributes(node.0))), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.on_name(Operation::Create, parent, name, |tree, name| {
            let node = tree.create_file(parent.0, name)?;
            tree.open(node)?;
            tree.attributes(node)
        });
        match created {
            Ok(file) => reply.created(&NOT_REMEMBERED, &attributes(file), Generation(0), ANY_HANDLE, OPENED),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let created = self.on_name(Operation::CreateFolder, parent, name, |tree, name| {
            let node = tree.create_folder(parent.0, name)?;
            tree.attributes(node)
        });
        answer_entry(created, reply);
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.on_name(Operation::Link, parent, name, |tree, name| {
            tree.link(node.0, parent.0, name)?;
            tree.attributes(node.0)
        });
        answer_entry(linked, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.on_name(Operation::Rename, parent, name, |tree, name| {
            let new_name = utf8(new_name)?;
            match flags {
                flags if flags.is_empty() => {}
                RenameFlags::RENAME_NOREPLACE if tree.lookup(new_parent.0, new_name).is_err() => {}
                RenameFlags::RENAME_NOREPLACE => return Err(libc::EEXIST),
                _ => return Err(libc::EINVAL),
            }
            tree.rename((parent.0, name), (new_parent.0, new_name))
        });
        answer(renamed, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.on_name(Operation::Remove, parent, name, |tree, name| tree.remove_file(parent.0, name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.on_name(Operation::Remove, parent, name, |tree, name| tree.remove_folder(parent.0, name)), reply);
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.on_node(Operation::Open, node.0, |tree, _| tree.open(node.0)) {
            Ok(()) => reply.opened(ANY_HANDLE, OPENED),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.with(|state| state.tree.close(node.0));
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let view = if flags.0 & libc::O_DIRECT == 0 { View::Cache } else { View::Medium };
        let read = self.0.on_node(Operation::Read, node.0, |tree, effect| {
            let len = match effect {
                Some(Effect::Short(len)) => len.max(1).min(size as usize),
                _ => size as usize,
            };
            tree.read(node.0, offset, len, view)
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    /// The kernel passes `RWF_DSYNC` of a write as a flag of the file.
    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let durably = flags.0 & (libc::O_DSYNC | libc::O_SYNC) != 0;
        let written = self.0.on_write(node.0, bytes, |tree, effect| match effect {
            Some(Effect::Short(len)) => tree.write(node.0, offset, &bytes[..len.max(1).min(bytes.len())], durably),
            Some(Effect::Drop(errno, cached)) => {
                tree.write(node.0, offset, bytes, false)?;
                tree.fail_sync(node.0, cached)?;
                Err(errno)
            }
            Some(Effect::Pretend) => tree.write(node.0, offset, bytes, false),
            _ => tree.write(node.0, offset, bytes, durably),
        });
        match written {
            // A request has at most 16 MiB.
            Ok(len) => reply.written(len as u32),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let extended = self.0.on_node(Operation::SetLen, node.0, |tree, _| {
            let end = offset.checked_add(len).filter(|_| mode == 0).ok_or(libc::EOPNOTSUPP)?;
            tree.set_len(node.0, end.max(tree.attributes(node.0)?.len))
        });
        answer(extended, reply);
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.0.on_node(Operation::Sync, node.0, |tree, effect| match effect {
            Some(Effect::Drop(errno, cached)) => tree.fail_sync(node.0, cached).and(Err(errno)),
            Some(Effect::Pretend) => Ok(()),
            _ => tree.sync(node.0),
        });
        answer(synced, reply);
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.0.on_node(Operation::SyncFolder, node.0, |tree, effect| match effect {
            Some(Effect::Pretend) => Ok(()),
            _ => tree.sync(node.0),
        });
        answer(synced, reply);
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.0.on_node(Operation::List, node.0, |tree, _| tree.list(node.0));
        match listed {
            Ok(names) => {
                for (number, (name, node, is_folder)) in (1..).zip(names).skip(offset as usize) {
                    if reply.add(INodeNo(node), number, kind(is_folder), name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block = u64::from(BLOCK_LEN);
        let space = self.0.look(|tree| Ok((tree.capacity() / block, tree.free() / block)));
        match space {
            Ok((all, free)) => reply.statfs(all, free, free, 0, 0, BLOCK_LEN, NAME_LEN_MAX, BLOCK_LEN),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }
}

impl Server {
    fn on_name<T>(
        &self,
        operation: Operation,
        folder: INodeNo,
        name: &OsStr,
        act: impl FnOnce(&mut Tree, &str) -> Result<T, i32>,
    ) -> Result<T, i32> {
        let name = utf8(name)?;
        self.0.on_name(operation, folder.0, name, |tree| act(tree, name))
    }
}

fn utf8(name: &OsStr) -> Result<&str, i32> {
    name.to_str().ok_or(libc::EILSEQ)
}

fn answer(result: Result<(), i32>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn answer_entry(result: Result<Attributes, i32>, reply: ReplyEntry) {
    match result {
        Ok(node) => reply.entry(&NOT_REMEMBERED, &attributes(node), Generation(0)),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn answer_attributes(result: Result<Attributes, i32>, reply: ReplyAttr) {
    match result {
        Ok(node) => reply.attr(&NOT_REMEMBERED, &attributes(node)),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn kind(is_folder: bool) -> FileType {
    if is_folder { FileType::Directory } else { FileType::RegularFile }
}

fn attributes(node: Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(node.node),
        size: node.len,
        blocks: node.len.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(node.is_folder),
        perm: if node.is_folder { 0o700 } else { 0o600 },
        nlink: node.links,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_LEN,
        flags: 0,
    }
}
