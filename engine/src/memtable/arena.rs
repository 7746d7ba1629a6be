//! The memory of one set of memtables: the records and nodes in it, and the links between them. It comes in chunks
//! (`chunk`) that are filled from front to back and go back as a whole. All that is unsafe about memtables is in these two.
//!
//! # Why it is sound
//!
//! - Memory is handed out once, by the [`Allocator`] of an arena, of which there is one at a time, and nothing is taken
//!   back before the arena goes.
//! - A record never changes. All that changes in a node is atomic.
//! - A link leads to nothing or to something whole in the arena it belongs to, *at every moment*: it is set with
//!   `Release` after what it leads to was written, and followed with `Acquire`. So it can be followed even by a reader
//!   who finds out later that what it read around the link was torn.
//! - One rule is not in the types, and is why all this is private to `memtable`: a link or a [`Kept`] record is used
//!   only with the arena it belongs to, which whoever has it holds. [`super::tree`] asserts it where it sets links.

#![allow(unsafe_code)]

use std::alloc::Layout;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use seawall_wal::Lsn;
use seawall_wal::sync::{Mutex, MutexGuard};

use super::chunk::{ALIGN, Chunk, ChunkPool};
use super::sync::{AtomicPtr, Ordering, Written, order};
use crate::race::Mutant;
use crate::table::{Content, EntryRef};

/// What is larger than this part of a chunk gets memory of its own, so that little is lost at the end of a chunk.
const LARGE_PART: usize = 4;

/// So many cache lines behind a record's first are prefetched: the whole of most records.
const LINES_AHEAD: usize = 3;

/// The memory of one set of memtables.
pub(super) struct Arena {
    pool: Arc<ChunkPool>,
    filling: Mutex<Filling>,
    taken: AtomicU64,
}

/// Which memory there is, and how much of it is used.
#[derive(Default)]
struct Filling {
    /// All but the last one are full.
    chunks: Vec<Chunk>,
    /// Of the last chunk. `used <= chunk_bytes`.
    used: usize,
    large: Vec<Chunk>,
    large_bytes: usize,
}

impl Arena {
    pub(super) fn new(pool: Arc<ChunkPool>) -> Self {
        Self { pool, filling: Mutex::default(), taken: AtomicU64::new(0) }
    }

    /// Waits for whoever else allocates.
    pub(super) fn allocator(&self) -> Allocator<'_> {
        Allocator { arena: self, filling: self.filling.lock() }
    }

    /// Bytes in use, with what is lost between and behind things.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// A record of this arena that was kept.
    pub(super) fn recall(&self, kept: Kept) -> Record<'_> {
        Record { header: kept.0, arena: PhantomData }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.pool.give_back(&mut self.filling.get_mut().chunks);
    }
}

/// The right to put things into an arena.
pub(super) struct Allocator<'a> {
    arena: &'a Arena,
    filling: MutexGuard<'a, Filling>,
}

impl<'a> Allocator<'a> {
    pub(super) fn is_of(&self, arena: &Arena) -> bool {
        ptr::eq(self.arena, arena)
    }

    /// Puts a version into the arena.
    pub(super) fn record(&mut self, version: EntryRef<'_>) -> Record<'a> {
        let EntryRef { key, lsn, content } = version;
        let (head, tail) = content.parts();
        let head = head.bytes();
        let key_len = u16::try_from(key.len()).expect("keys are at most 65535 bytes long");
        let value_len = u32::try_from(head.len() + tail.len()).expect("a value fits into a payload of the log");
        let bytes = size_of::<RecordHeader>() + key.len() + head.len() + tail.len();
        let start = self.take(Layout::from_size_align(bytes, align_of::<RecordHeader>()).expect("it fits into memory"));
        let header = start.cast::<RecordHeader>();
        // SAFETY: `take` gave so many bytes, aligned for the header, to nobody else; the four parts follow each other
        // within them, and are not part of what is copied.
        unsafe {
            header.write(RecordHeader {
                written: Written::new(),
                lsn: lsn.offset(),
                value_len,
                key_len,
                kind: content.kind(),
            });
            let rest = start.add(size_of::<RecordHeader>()).as_ptr();
            ptr::copy_nonoverlapping(key.as_ptr(), rest, key.len());
            ptr::copy_nonoverlapping(head.as_ptr(), rest.add(key.len()), head.len());
            ptr::copy_nonoverlapping(tail.as_ptr(), rest.add(key.len() + head.len()), tail.len());
        }
        Record { header, arena: PhantomData }
    }

    /// Puts something into the arena that needs no drop.
    pub(super) fn place<T: Sync>(&mut self, thing: T) -> &'a T {
        const { assert!(!std::mem::needs_drop::<T>(), "an arena drops nothing") };
        let place = self.take(Layout::new::<T>()).cast::<T>();
        // SAFETY: `take` gave memory of this layout to nobody else, and it stays while the arena does.
        unsafe {
            place.write(thing);
            place.as_ref()
        }
    }

    fn take(&mut self, layout: Layout) -> NonNull<u8> {
        assert!(layout.align() <= ALIGN, "chunks are aligned to {ALIGN} bytes");
        let chunk_bytes = self.arena.pool.chunk_bytes();
        let filling = &mut *self.filling;
        let start = if layout.size() > chunk_bytes / LARGE_PART {
            let chunk = Chunk::new(layout.size());
            let start = chunk.start();
            filling.large_bytes += chunk.bytes();
            filling.large.push(chunk);
            start
        } else {
            let mut at = filling.used.next_multiple_of(layout.align());
            if filling.chunks.is_empty() || at + layout.size() > chunk_bytes {
                filling.chunks.push(self.arena.pool.take());
                at = 0;
            }
            filling.used = at + layout.size();
            let chunk = &filling.chunks[filling.chunks.len() - 1];
            // SAFETY: `at <= used <= chunk_bytes`, which is the size of the chunk.
            unsafe { chunk.start().add(at) }
        };
        let full = filling.chunks.len().saturating_sub(1) * chunk_bytes;
        self.arena.taken.store((full + filling.used + filling.large_bytes) as u64, Ordering::Relaxed);
        start
    }
}

/// The key follows it, and what the content is stored in.
#[repr(C)]
struct RecordHeader {
    written: Written,
    lsn: u64,
    value_len: u32,
    key_len: u16,
    /// Of the content.
    kind: u8,
}

/// A version in an arena. It never changes.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    /// May be used for the key and the value behind it too.
    header: NonNull<RecordHeader>,
    arena: PhantomData<&'a Arena>,
}

impl<'a> Record<'a> {
    fn header(self) -> &'a RecordHeader {
        // SAFETY: it was written before anyone got this, never changes, and stays while the arena does.
        let header = unsafe { self.header.as_ref() };
        header.written.read();
        header
    }

    pub(super) fn lsn(self) -> Lsn {
        Lsn::new(self.header().lsn)
    }

    pub(super) fn key(self) -> &'a [u8] {
        self.part(0, self.header().key_len as usize)
    }

    pub(super) fn content(self) -> Content<'a> {
        let header = self.header();
        let stored = self.part(header.key_len as usize, header.value_len as usize);
        Content::parse(header.kind, stored, &[]).expect("it was stored as a content")
    }

    fn part(self, at: usize, len: usize) -> &'a [u8] {
        // SAFETY: the callers ask for the key or what follows it, which were written behind the header.
        unsafe { slice::from_raw_parts(self.header.cast::<u8>().add(size_of::<RecordHeader>() + at).as_ptr(), len) }
    }

    /// Has the processor bring the key and the beginning of the value near while it waits for the header, which alone says
    /// where they end.
    pub(super) fn prefetch(self) {
        // For other processors the language has no way to say it yet.
        #[cfg(target_arch = "x86_64")]
        for line in 1..=LINES_AHEAD {
            let address = self.header.as_ptr().cast::<i8>().wrapping_add(line * ALIGN);
            // SAFETY: a prefetch of an address that cannot be read does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
        }
    }

    /// Whether it is the same one, not just an equal one.
    pub(super) fn is(self, other: Self) -> bool {
        self.header == other.header
    }

    pub(super) fn keep(self) -> Kept {
        Kept(self.header)
    }
}

/// A record without its arena, for those who hold the arena in another way.
#[derive(Clone, Copy)]
pub(super) struct Kept(NonNull<RecordHeader>);

// SAFETY: a record never changes.
unsafe impl Send for Kept {}
// SAFETY: as before.
unsafe impl Sync for Kept {}

/// Leads to a record, or nowhere.
pub(super) struct RecordLink(AtomicPtr<RecordHeader>);

impl RecordLink {
    pub(super) fn new(target: Option<Record<'_>>) -> Self {
        Self(AtomicPtr::new(target.map_or(ptr::null_mut(), |record| record.header.as_ptr())))
    }

    pub(super) fn get(&self) -> Option<Record<'_>> {
        NonNull::new(self.0.load(order(Ordering::Acquire, Mutant::LinkNotAcquired)))
            .map(|header| Record { header, arena: PhantomData })
    }

    pub(super) fn set(&self, target: Option<Record<'_>>) {
        self.0.store(
            target.map_or(ptr::null_mut(), |record| record.header.as_ptr()),
            order(Ordering::Release, Mutant::RecordNotReleased),
        );
    }
}

/// Leads to something else that was [placed](Allocator::place), or nowhere.
pub(super) struct Link<T>(AtomicPtr<T>);

impl<T> Link<T> {
    pub(super) fn new(target: Option<&T>) -> Self {
        Self(AtomicPtr::new(target.map_or(ptr::null_mut(), |target| ptr::from_ref(target).cast_mut())))
    }

    pub(super) fn get(&self) -> Option<&T> {
        // SAFETY: it is null or came from a reference into the arena, which whoever holds this link holds.
        unsafe { self.0.load(order(Ordering::Acquire, Mutant::LinkNotAcquired)).as_ref() }
    }

    pub(super) fn set(&self, target: &T) {
        self.0.store(ptr::from_ref(target).cast_mut(), order(Ordering::Release, Mutant::NodeNotReleased));
    }
}
