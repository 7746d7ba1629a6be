//! The chunks of memory that arenas are made of, and the pool through which they go round.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;

use parking_lot::Mutex;

/// The size of chunks: a part of what memtables may take, so that the last one, which is not full, is little of it.
const CHUNKS_PER_MEMTABLE: u64 = 64;
const CHUNK_BYTES_MIN: u64 = 16 << 10;
const CHUNK_BYTES_MAX: u64 = 1 << 20;
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
        let layout = Self::layout(bytes);
        assert!(bytes > 0, "a chunk has a size");
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, bytes }
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
        // SAFETY: it was allocated with this layout, and is freed once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.bytes)) };
    }
}

/// Chunks that were in use and will be again: the operating system gave their pages already, and that is most of what
/// fresh memory costs. It keeps at most what one set of memtables takes, and is emptied before anything is allocated,
/// so that memtables and pool together take no more than memtables alone could.
pub(crate) struct ChunkPool {
    chunk_bytes: usize,
    kept_max: usize,
    kept: Mutex<Vec<Chunk>>,
}

impl fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkPool({} of {} chunks)", self.kept.lock().len(), self.kept_max)
    }
}

impl ChunkPool {
    /// For sets of memtables of so many bytes each.
    pub(crate) fn new(memtable_bytes: u64) -> Self {
        let chunk_bytes = (memtable_bytes / CHUNKS_PER_MEMTABLE).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let kept_max = usize::try_from(memtable_bytes / chunk_bytes).unwrap_or(usize::MAX);
        let chunk_bytes = (chunk_bytes as usize).next_multiple_of(ALIGN);
        Self { chunk_bytes, kept_max, kept: Mutex::default() }
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> u64 {
        (self.kept.lock().len() * self.chunk_bytes) as u64
    }

    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    pub(super) fn take(&self) -> Chunk {
        let kept = self.kept.lock().pop();
        kept.unwrap_or_else(|| Chunk::new(self.chunk_bytes))
    }

    pub(super) fn give_back(&self, chunks: &mut Vec<Chunk>) {
        let mut kept = self.kept.lock();
        let room = self.kept_max.saturating_sub(kept.len()).min(chunks.len());
        kept.extend(chunks.drain(..room));
    }
}
