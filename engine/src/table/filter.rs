//! The filter of a table: says "certainly not here" for most keys that are not. Which kind, where it lies in its block,
//! and what it knows of a key; the kinds have files of their own.

mod bloom;
mod fuse;

use xxhash_rust::xxh3::xxh3_64;

use self::fuse::{Fuse, SEEDS};
use super::Placement;
use crate::codec::Put;

/// Bytes of a block before the filter itself: with its frame, a cache line.
const HEADER_LEN: usize = 64 - super::block::FRAME_LEN;
/// The filter begins at a multiple of this in the file.
pub(super) const ALIGNMENT: u64 = 64;

/// Keys between two looks at whether somebody waits for the processor.
const TURN_KEYS: usize = 2048;

const BLOOM: u8 = 1;
const FUSE: u8 = 2;

/// What the filter knows of a key.
pub(crate) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The filter of keys with these hashes for a table that goes there: its raw bytes and its number of entries.
pub(super) fn build(hashes: &mut Vec<u64>, placement: Placement) -> (Vec<u8>, u32) {
    let mut raw = Vec::new();
    if placement == Placement::Below {
        let built = Fuse::build(hashes, 0..1).or_else(|| {
            // Keys that hash to the same are one to the filter, and leave each other no place.
            let given = hashes.len();
            hashes.sort_unstable();
            hashes.dedup();
            Fuse::build(hashes, u64::from(hashes.len() == given)..SEEDS)
        });
        if let Some((fuse, bytes)) = built {
            raw.put_u8(FUSE);
            raw.put(&[0; 3]);
            fuse.store(&mut raw);
            raw.resize(HEADER_LEN, 0);
            raw.put(&bytes);
            return (raw, count(hashes.len()));
        }
    }
    let (bytes, blocks) = bloom::build(hashes);
    raw.put_u8(BLOOM);
    raw.resize(HEADER_LEN, 0);
    raw.put(&bytes);
    (raw, count(blocks))
}

fn count(entries: usize) -> u32 {
    u32::try_from(entries).expect("a table has fewer than 2^32 keys")
}

/// How to ask the filter in some raw bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Filter {
    Bloom,
    Fuse(Fuse),
}

impl Filter {
    /// Checks that raw bytes are a filter.
    pub(super) fn check(raw: &[u8], count: u32) -> Result<Self, &'static str> {
        let (header, filter) = raw.split_at_checked(HEADER_LEN).ok_or("its filter is too short")?;
        let (kind, parameters) = (header[0], &header[4..]);
        match (kind, &header[1..4]) {
            (BLOOM, [0, 0, 0]) if bloom::is_bloom(filter, count) && parameters.iter().all(|byte| *byte == 0) => {
                Ok(Self::Bloom)
            }
            (FUSE, [0, 0, 0]) => {
                Fuse::parse(parameters, filter).map(Self::Fuse).ok_or("its filter has the wrong length")
            }
            _ => Err("its filter is of no known kind or has the wrong length"),
        }
    }

    /// Whether a key with this hash may be among those of the filter in the same raw bytes.
    #[inline]
    pub(super) fn may_contain(&self, raw: &[u8], hash: u64) -> bool {
        let filter = &raw[HEADER_LEN..];
        match self {
            Self::Bloom => bloom::may_contain(filter, hash),
            Self::Fuse(fuse) => fuse.may_contain(filter, hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(keys: std::ops::Range<u32>) -> Vec<u64> {
        keys.map(|key| hash(&key.to_le_bytes())).collect()
    }

    #[test]
    fn no_key_is_denied_and_few_strangers_pass() {
        for (placement, few) in [(Placement::Top, 2_000), (Placement::Below, 500)] {
            for keys in [1, 2, 3, 10, 100, 1_000, 20_000] {
                let own = hashes(0..keys);
                let (raw, count) = build(&mut own.clone(), placement);
                let filter = Filter::check(&raw, count).unwrap();
                assert_eq!(matches!(filter, Filter::Fuse(_)), placement == Placement::Below, "{keys} keys");
                assert!(own.iter().all(|hash| filter.may_contain(&raw, *hash)), "{placement:?}, {keys} keys");
                let strangers = hashes(100_000..200_000);
                let passing = strangers.iter().filter(|hash| filter.may_contain(&raw, **hash)).count();
                assert!(passing < few, "{placement:?}, {keys} keys: {passing} of 100000");
            }
        }
    }

    #[test]
    fn hashes_that_are_the_same_are_one() {
        let (raw, count) = build(&mut vec![7; 1000], Placement::Below);
        assert!(Filter::check(&raw, count).unwrap().may_contain(&raw, 7));
    }

    #[test]
    fn the_order_of_hashes_and_how_often_they_come_change_nothing() {
        let once = hashes(0..10_000);
        let mut twice: Vec<u64> = once.iter().rev().chain(&once[..3]).copied().collect();
        assert_eq!(build(&mut twice, Placement::Below), build(&mut once.clone(), Placement::Below));
    }

    #[test]
    fn headers_of_nonsense_are_refused_or_ask_within_the_filter() {
        for placement in [Placement::Top, Placement::Below] {
            let (good, count) = build(&mut hashes(0..1000), placement);
            for at in 0..HEADER_LEN {
                for byte in [0, 1, 2, 0x7f, 0xff] {
                    let mut raw = good.clone();
                    raw[at] = byte;
                    if let Ok(filter) = Filter::check(&raw, count) {
                        let asked = hashes(0..100).iter().filter(|hash| filter.may_contain(&raw, **hash)).count();
                        assert!(asked <= 100);
                    }
                }
            }
            for len in [0, 1, HEADER_LEN, good.len() - 1] {
                assert!(Filter::check(&good[..len], count).is_err(), "{placement:?} cut at {len}");
            }
        }
    }
}
