//! A blocked Bloom filter: one cache line per question, at 10 bits per key about one wrong "perhaps" in a hundred. Made
//! quickly, for tables that are soon merged into others.

use seawall_wal::end_turn;

use super::TURN_KEYS;

const BLOCK_LEN: usize = 64;
const BITS_PER_KEY: usize = 10;
const BITS_SET: u32 = 7;
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// The filter of keys with these hashes: its bytes and its number of blocks.
pub(super) fn build(hashes: &[u64]) -> (Vec<u8>, usize) {
    let blocks = (hashes.len() * BITS_PER_KEY).div_ceil(BLOCK_LEN * 8).max(1);
    let mut bytes = vec![0; blocks * BLOCK_LEN];
    for hashes in hashes.chunks(TURN_KEYS) {
        for hash in hashes {
            let block = &mut bytes[block_of(*hash, blocks) * BLOCK_LEN..][..BLOCK_LEN];
            bits_of(*hash).for_each(|bit| block[bit / 8] |= 1 << (bit % 8));
        }
        end_turn();
    }
    (bytes, blocks)
}

/// Whether a key with this hash may be among them.
pub(super) fn may_contain(filter: &[u8], hash: u64) -> bool {
    let block = &filter[block_of(hash, filter.len() / BLOCK_LEN) * BLOCK_LEN..][..BLOCK_LEN];
    bits_of(hash).all(|bit| block[bit / 8] & 1 << (bit % 8) != 0)
}

/// Whether bytes have the shape of a filter of so many blocks.
pub(super) fn is_bloom(bytes: &[u8], blocks: u32) -> bool {
    blocks > 0 && bytes.len() == blocks as usize * BLOCK_LEN
}

fn block_of(hash: u64, blocks: usize) -> usize {
    (((hash >> 32) * blocks as u64) >> 32) as usize
}

fn bits_of(hash: u64) -> impl Iterator<Item = usize> {
    let spread = hash.wrapping_mul(SPREAD);
    (0..BITS_SET).map(move |bit| (spread >> (9 * bit) & 511) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::filter::hash;

    #[test]
    fn the_bits_are_those_of_the_format() {
        // h = XXH3-64(""), the published test value; one block.
        let h = 0x2D06_8005_38D3_94C2_u64;
        assert_eq!(hash(b""), h);
        let (filter, _) = build(&[h]);
        let g = h.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for i in 0..7 {
            let bit = (g >> (9 * i) & 511) as usize;
            assert_ne!(filter[bit / 8] & 1 << (bit % 8), 0);
        }
        assert!(filter.iter().map(|byte| byte.count_ones()).sum::<u32>() <= 7);
    }
}
