//! The newest part of the flushed log in memory, for those who pass it on: standbys that keep up and the archiver never
//! read the disk. It costs nothing before somebody asks for it, and never more than its ring.

use std::ops::Range;

use crate::lsn::Lsn;
use crate::sync::RwLock;

/// Bytes copied while the ring is locked; the flusher waits for no more than that.
const COPY_BYTES: usize = 64 << 10;

/// The ring, once somebody wants it.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    ring: RwLock<Option<Ring>>,
}

struct Ring {
    /// The byte at LSN x lies at x modulo the length.
    bytes: Box<[u8]>,
    /// What it holds. `end - start <= bytes.len()`.
    start: Lsn,
    end: Lsn,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} to {})", self.start, self.end)
    }
}

impl Recent {
    /// Keeps so many bytes from now on. Who asks later gets what is kept already.
    pub(crate) fn keep(&self, bytes: usize) {
        let mut ring = self.ring.write();
        if ring.is_none() && bytes > 0 {
            let bytes = vec![0; bytes].into_boxed_slice();
            *ring = Some(Ring { bytes, start: Lsn::ZERO, end: Lsn::ZERO });
        }
    }

    /// Adds flushed bytes. What does not follow on what is there replaces it.
    pub(crate) fn push(&self, start: Lsn, bytes: &[u8]) {
        if self.ring.read().is_none() {
            return;
        }
        if let Some(ring) = &mut *self.ring.write() {
            ring.push(start, bytes);
        }
    }

    /// Fills `buffer` with the log from `start` on, if all of it is here.
    pub(crate) fn read(&self, start: Lsn, buffer: &mut [u8]) -> bool {
        buffer.chunks_mut(COPY_BYTES).enumerate().all(|(index, piece)| {
            let start = start.advance((index * COPY_BYTES) as u64);
            self.ring.read().as_ref().is_some_and(|ring| ring.read(start, piece))
        })
    }
}

impl Ring {
    fn push(&mut self, start: Lsn, bytes: &[u8]) {
        if start != self.end {
            (self.start, self.end) = (start, start);
        }
        // Of more than fits, the newest.
        let skipped = bytes.len().saturating_sub(self.bytes.len());
        let (from, end) = (start.advance(skipped as u64), start.advance(bytes.len() as u64));
        // What is overwritten is given up first.
        self.end = end;
        self.start = self.start.max(Lsn::new(end.offset().saturating_sub(self.bytes.len() as u64)));
        let (first, second) = self.places(from, bytes.len() - skipped);
        let (left, right) = bytes[skipped..].split_at(first.len());
        self.bytes[first].copy_from_slice(left);
        self.bytes[second].copy_from_slice(right);
    }

    fn read(&self, start: Lsn, buffer: &mut [u8]) -> bool {
        if start < self.start || start.advance(buffer.len() as u64) > self.end {
            return false;
        }
        let (first, second) = self.places(start, buffer.len());
        let (left, right) = buffer.split_at_mut(first.len());
        left.copy_from_slice(&self.bytes[first]);
        right.copy_from_slice(&self.bytes[second]);
        true
    }

    /// Where `len` bytes from `start` on lie: up to the ring's end, and from its beginning.
    fn places(&self, start: Lsn, len: usize) -> (Range<usize>, Range<usize>) {
        let at = (start.offset() % self.bytes.len() as u64) as usize;
        let before_end = len.min(self.bytes.len() - at);
        (at..at + before_end, 0..len - before_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(from: u64, len: usize) -> Vec<u8> {
        (from..from + len as u64).map(|offset| (offset * 31 % 251) as u8).collect()
    }

    #[test]
    fn it_gives_the_newest_bytes_and_nothing_else() {
        let recent = Recent::default();
        let mut buffer = vec![0; 10];
        recent.push(Lsn::new(0), &log(0, 100));
        assert!(!recent.read(Lsn::new(0), &mut buffer), "nobody asked for it");
        recent.keep(1000);
        let mut end = 100;
        for len in [1, 999, 1000, 7, 400, 2500, 3] {
            recent.push(Lsn::new(end), &log(end, len));
            end += len as u64;
            let oldest = end.saturating_sub(1000).max(100);
            for (start, len) in [(oldest, end - oldest), (end - 1, 1), (oldest, 1), ((oldest + end) / 2, 3)] {
                let mut buffer = vec![0; (len.min(end - start)) as usize];
                assert!(recent.read(Lsn::new(start), &mut buffer), "{start} of {oldest}..{end}");
                assert_eq!(buffer, log(start, buffer.len()));
            }
            assert!(!recent.read(Lsn::new(oldest - 1), &mut buffer[..1]));
            assert!(!recent.read(Lsn::new(end), &mut buffer[..1]));
            assert!(!recent.read(Lsn::new(end - 1), &mut buffer[..2]));
        }
    }

    #[test]
    fn after_a_void_it_begins_anew() {
        let recent = Recent::default();
        recent.keep(1000);
        recent.push(Lsn::new(0), &log(0, 500));
        recent.push(Lsn::new(600), &log(600, 100));
        let mut buffer = vec![0; 100];
        assert!(!recent.read(Lsn::new(450), &mut buffer[..50]), "nobody reads across a void");
        assert!(recent.read(Lsn::new(600), &mut buffer));
        assert_eq!(buffer, log(600, 100));
    }
}
