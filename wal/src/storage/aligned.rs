//! A byte buffer whose first byte is block-aligned in memory, as direct I/O demands.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::BLOCK_SIZE;

/// Bytes whose address is a multiple of [`BLOCK_SIZE`]. Only [`reserve`](Self::reserve) makes it larger.
pub struct AlignedBuffer {
    // Never grown after creation, so `start` stays right.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer that can hold `capacity` bytes, rounded up to whole blocks.
    pub fn with_capacity(capacity: usize) -> Self {
        let bytes = vec![0; capacity.next_multiple_of(BLOCK_SIZE) + BLOCK_SIZE];
        let start = bytes.as_ptr().align_offset(BLOCK_SIZE);
        assert!(start < BLOCK_SIZE, "a byte pointer can always be aligned");
        Self { bytes, start, len: 0 }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::with_capacity(len);
        buffer.resize(len);
        buffer
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.bytes.len() - BLOCK_SIZE
    }

    /// Makes room for `more` bytes beyond the length, moving the content if it must.
    pub fn reserve(&mut self, more: usize) {
        let needed = self.len + more;
        if needed > self.capacity() {
            let mut larger = Self::with_capacity(needed.max(2 * self.capacity()));
            larger.extend_from_slice(self);
            *self = larger;
        }
    }

    /// Forgets the content.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Changes the length; new bytes are zero.
    ///
    /// # Panics
    /// If `len` exceeds the capacity.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes exceed the buffer's {}", self.capacity());
        if len > self.len {
            self.bytes[self.start + self.len..self.start + len].fill(0);
        }
        self.len = len;
    }

    /// Adds bytes at the end.
    ///
    /// # Panics
    /// If they exceed the capacity.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        assert!(end <= self.capacity(), "{end} bytes exceed the buffer's {}", self.capacity());
        self.bytes[self.start + self.len..self.start + end].copy_from_slice(bytes);
        self.len = end;
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} of {} bytes)", self.len, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_starts_on_a_block_and_grows_with_zeros() {
        let mut buffer = AlignedBuffer::with_capacity(5000);
        assert_eq!(buffer.capacity(), 8192);
        buffer.extend_from_slice(&[7; 10]);
        assert_eq!(buffer.as_ptr().align_offset(BLOCK_SIZE), 0);
        buffer.resize(4);
        buffer.resize(12);
        assert_eq!(&buffer[..], &[7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
