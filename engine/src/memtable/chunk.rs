//! The chunks of memory that arenas are made of, and the pool through which they go round. Chunks of large memtables are
//! huge pages where the system has them: versions lie anywhere in memory, and with small pages each one looked at costs a
//! walk through the page tables as well.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use seawall_wal::sync::{Mutex, OnceLock};

use super::ahead::Ahead;

/// The size of chunks: a part of what memtables may take, so that the last one, which is not full, is little of it.
const CHUNKS_PER_MEMTABLE: u64 = 32;
const CHUNK_BYTES_MIN: u64 = 16 << 10;
const CHUNK_BYTES_MAX: u64 = HUGE_PAGE as u64;
/// Of most processors. Where it is another size, chunks are as good as others.
const HUGE_PAGE: usize = 2 << 20;
/// No page is smaller.
const PAGE: usize = 4096;
/// Of a cache line.
pub(super) const ALIGN: usize = 64;

/// Memory, not initialised.
pub(super) struct Chunk {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its memory, which no thread has to do with in particular.
unsafe impl Send for Chunk {}

impl Chunk {
    pub(super) fn new(bytes: usize) -> Self {
        assert!(bytes > 0, "a chunk has a size");
        let layout = Self::layout(bytes);
        let start = match bytes {
            HUGE_PAGE => map_huge_page(),
            // SAFETY: the size is not zero.
            _ => NonNull::new(unsafe { alloc(layout) }),
        };
        Self { start: start.unwrap_or_else(|| handle_alloc_error(layout)), bytes }
    }

    /// Has the system give all its pages now.
    pub(super) fn touch(&mut self) {
        for at in (0..self.bytes).step_by(PAGE) {
            // SAFETY: the byte is the chunk's, which nobody else has yet.
            unsafe { self.start.add(at).write_volatile(0) };
        }
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, ALIGN).expect("chunks are far smaller than the address space")
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        match self.bytes {
            // SAFETY: it was mapped with this size, and is unmapped once.
            HUGE_PAGE => unsafe { unmap(self.start.as_ptr(), HUGE_PAGE) },
            // SAFETY: it was allocated with this layout, and is freed once.
            bytes => unsafe { dealloc(self.start.as_ptr(), Self::layout(bytes)) },
        }
    }
}

/// Maps memory that can be one page, and asks for that. Should the system have none, it is many small ones.
fn map_huge_page() -> Option<NonNull<u8>> {
    // SAFETY: the memory is new. Of twice as much as is needed, all but the part that is aligned is given back.
    unsafe {
        let flags = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let mapped = mmap_anonymous(ptr::null_mut(), 2 * HUGE_PAGE, flags.0, flags.1).ok()?.cast::<u8>();
        let before = mapped.align_offset(HUGE_PAGE);
        let start = mapped.add(before);
        unmap(mapped, before);
        unmap(start.add(HUGE_PAGE), HUGE_PAGE - before);
        #[cfg(target_os = "linux")]
        let _ = rustix::mm::madvise(start.cast(), HUGE_PAGE, rustix::mm::Advice::LinuxHugepage);
        NonNull::new(start)
    }
}

/// # Safety
/// Nobody uses these bytes, which were mapped.
unsafe fn unmap(start: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: as above. It can fail where a process has too many mappings; untouched bytes that stay take no memory.
        let _ = unsafe { munmap(start.cast(), bytes) };
    }
}

/// Chunks that were in use and will be again: the operating system gave their pages already, and that is most of what
/// fresh memory costs. It keeps at most what one set of memtables takes, and is emptied before anything is allocated,
/// so that memtables and pool together take no more than memtables alone could, and what is got ahead.
pub(crate) struct ChunkPool {
    chunk_bytes: usize,
    kept_max: usize,
    kept: Mutex<Vec<Chunk>>,
    threads: bool,
    /// Since huge pages were asked for first.
    ahead: OnceLock<Ahead>,
}

impl fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkPool({} of {} chunks)", self.kept.lock().len(), self.kept_max)
    }
}

impl ChunkPool {
    /// For sets of memtables of so many bytes each. With `threads`, huge pages are got ahead by one.
    pub(crate) fn new(memtable_bytes: u64, threads: bool) -> Self {
        let chunk_bytes = (memtable_bytes / CHUNKS_PER_MEMTABLE).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let kept_max = usize::try_from(memtable_bytes / chunk_bytes).unwrap_or(usize::MAX);
        let chunk_bytes = (chunk_bytes as usize).next_multiple_of(ALIGN);
        Self { chunk_bytes, kept_max, kept: Mutex::default(), threads, ahead: OnceLock::new() }
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> u64 {
        (self.kept.lock().len() * self.chunk_bytes) as u64
    }

    /// How many bytes of memtables it is for.
    pub(super) fn memtable_bytes(&self) -> u64 {
        (self.kept_max * self.chunk_bytes) as u64
    }

    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    pub(super) fn take(&self) -> Chunk {
        let kept = self.kept.lock().pop();
        kept.or_else(|| self.ahead()?.take()).unwrap_or_else(|| Chunk::new(self.chunk_bytes))
    }

    fn ahead(&self) -> Option<&Ahead> {
        let worth_it = self.threads && self.chunk_bytes == HUGE_PAGE;
        worth_it.then(|| self.ahead.get_or_init(|| Ahead::start(self.chunk_bytes)))
    }

    pub(super) fn give_back(&self, chunks: &mut Vec<Chunk>) {
        let mut kept = self.kept.lock();
        let room = self.kept_max.saturating_sub(kept.len()).min(chunks.len());
        kept.extend(chunks.drain(..room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_large_memtables_lie_as_huge_pages_do_and_are_used_to_their_end() {
        let pool = ChunkPool::new(64 << 20, true);
        let chunks = [pool.take(), pool.take(), pool.take()];
        for (number, chunk) in chunks.iter().enumerate() {
            assert_eq!(chunk.bytes(), 2 << 20);
            assert_eq!(chunk.start().addr().get() % (2 << 20), 0);
            // SAFETY: so many bytes are the chunk's.
            unsafe { chunk.start().write_bytes(number as u8 + 1, chunk.bytes()) };
        }
        for (number, chunk) in chunks.iter().enumerate() {
            for at in [0, chunk.bytes() - 1] {
                // SAFETY: it was written above.
                assert_eq!(unsafe { chunk.start().add(at).read() }, number as u8 + 1);
            }
        }
    }

    #[test]
    fn huge_pages_that_were_got_ahead_are_the_ones_that_are_used() {
        let without = [ChunkPool::new(64 << 20, false), ChunkPool::new(1 << 20, true)];
        without.iter().for_each(|pool| drop(pool.take()));
        assert!(without.iter().all(|pool| pool.ahead.get().is_none()), "no thread, and none for small chunks");
        let pool = ChunkPool::new(64 << 20, true);
        drop(pool.take());
        let ahead = pool.ahead.get().expect("it began with the first one");
        ahead.await_ready();
        let next = ahead.next_start();
        assert_eq!(Some(pool.take().start().addr()), next);
    }
}
