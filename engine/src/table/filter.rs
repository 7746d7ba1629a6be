//! The filter of a table: says "certainly not here" for most keys that are not. A blocked Bloom filter, one cache line
//! per question, at 10 bits per key about one wrong "perhaps" in a hundred.

use xxhash_rust::xxh3::xxh3_64;

const BLOCK_LEN: usize = 64;
const BITS_PER_KEY: usize = 10;
const BITS_SET: u32 = 7;
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What the filter knows of a key.
pub(crate) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The filter of keys with these hashes: its bytes and its number of blocks.
pub(crate) fn build(hashes: &[u64]) -> (Vec<u8>, u32) {
    let blocks = (hashes.len() * BITS_PER_KEY).div_ceil(BLOCK_LEN * 8).max(1);
    let mut bytes = vec![0; blocks * BLOCK_LEN];
    for hash in hashes {
        let block = &mut bytes[block_of(*hash, blocks) * BLOCK_LEN..][..BLOCK_LEN];
        bits_of(*hash).for_each(|bit| block[bit / 8] |= 1 << (bit % 8));
    }
    (bytes, u32::try_from(blocks).expect("a table has fewer than 2^32 keys"))
}

/// Whether a key with this hash may be among them.
pub(crate) fn may_contain(filter: &[u8], hash: u64) -> bool {
    let block = &filter[block_of(hash, filter.len() / BLOCK_LEN) * BLOCK_LEN..][..BLOCK_LEN];
    bits_of(hash).all(|bit| block[bit / 8] & 1 << (bit % 8) != 0)
}

/// Whether bytes have the shape of a filter of so many blocks.
pub(crate) fn is_filter(bytes: &[u8], blocks: u32) -> bool {
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

    #[test]
    fn no_key_is_denied_and_few_strangers_pass() {
        let hashes: Vec<u64> = (0..20_000_u32).map(|key| hash(&key.to_le_bytes())).collect();
        let (filter, blocks) = build(&hashes);
        assert!(is_filter(&filter, blocks));
        assert!(hashes.iter().all(|hash| may_contain(&filter, *hash)));
        let strangers = (100_000..200_000_u32).filter(|key| may_contain(&filter, hash(&key.to_le_bytes()))).count();
        assert!(strangers < 2_000, "{strangers} of 100000");
    }

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
