//! Which blocks of a table, or records of a blob file, were checked since it was opened. A bit says something about bytes that never change, so that
//! it is read and set without any order; two threads may check the same block.

use std::sync::atomic::{AtomicU64, Ordering};

/// One bit per block.
#[derive(Debug)]
pub(crate) struct Checked {
    words: Box<[AtomicU64]>,
}

impl Checked {
    /// None of so many blocks.
    pub(crate) fn none(blocks: usize) -> Self {
        Self { words: (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    #[inline]
    pub(crate) fn has(&self, block: usize) -> bool {
        self.words[block / 64].load(Ordering::Relaxed) & 1 << (block % 64) != 0
    }

    pub(crate) fn set(&self, block: usize) {
        self.words[block / 64].fetch_or(1 << (block % 64), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_has_its_own_bit() {
        let checked = Checked::none(130);
        for block in [0, 63, 64, 129] {
            assert!(!checked.has(block));
            checked.set(block);
        }
        assert_eq!((0..130).filter(|block| checked.has(*block)).collect::<Vec<_>>(), [0, 63, 64, 129]);
    }
}
