//! A binary fuse filter (Graf and Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor Filters", 2022) of one byte per
//! place: 9 bits per key, one wrong "perhaps" in 256. Made slower than a Bloom filter, for tables that stay.
//!
//! Three places of each key, in three segments in a row, xored make the key's fingerprint. To make it so, places that only
//! one key has are taken away with that key, again and again; in the reverse order each key then has a place of its own
//! to set.

use std::ops::Range;

use seawall_wal::end_turn;

use super::TURN_KEYS;
use crate::codec::{Put, Reader};

/// Segments a key lies in.
const ARITY: u32 = 3;
const SEGMENT_LEN_MAX: u32 = 1 << 18;
/// Places are too full of some keys under one seed; under this many none has ever been found that are.
pub(super) const SEEDS: u64 = 100;

/// Where the places of a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::table) struct Fuse {
    seed: u64,
    /// A power of two.
    segment_len: u32,
    /// Segments in which a key can have its first place; `ARITY - 1` follow.
    segments: u32,
}

impl Fuse {
    /// The filter of keys with these hashes and its bytes. `None` if none of these seeds will do, or two hashes are the same.
    pub(super) fn build(hashes: &[u64], seeds: Range<u64>) -> Option<(Self, Vec<u8>)> {
        let shape = Self::shape(hashes.len());
        // The seeds are always the same: the same table is the same file.
        seeds.map(|number| Self { seed: mix(number + 1), ..shape }).find_map(|fuse| {
            let bytes = fuse.assign(hashes)?;
            Some((fuse, bytes))
        })
    }

    /// How large segments are, and how many, so that few seeds fail: the paper's formulas.
    fn shape(keys: usize) -> Self {
        let keys = keys.max(2) as f64;
        let segment_len = 1 << ((keys.ln() / 3.33_f64.ln() + 2.25).floor() as u32).min(SEGMENT_LEN_MAX.ilog2());
        let factor = (0.875 + 0.25 * 1e6_f64.ln() / keys.ln()).max(1.125);
        let segments = ((keys * factor).round() as u32).div_ceil(segment_len);
        Self { seed: 0, segment_len, segments: segments.saturating_sub(ARITY - 1).max(1) }
    }

    fn places_len(&self) -> usize {
        (self.segments + ARITY - 1) as usize * self.segment_len as usize
    }

    /// The places of a key and its fingerprint.
    #[inline]
    fn places(&self, hash: u64) -> ([usize; ARITY as usize], u8) {
        let mixed = mix(hash.wrapping_add(self.seed));
        let firsts = u128::from(self.segments) * u128::from(self.segment_len);
        let first = (u128::from(mixed) * firsts) >> 64;
        let (first, len) = (first as usize, self.segment_len as usize);
        let within = |bits: u64| bits as usize & (len - 1);
        let places = [first, (first + len) ^ within(mixed >> 18), (first + 2 * len) ^ within(mixed)];
        (places, (mixed ^ mixed >> 32) as u8)
    }

    /// Whether a key with this hash may be among those of the filter.
    #[inline]
    pub(super) fn may_contain(&self, filter: &[u8], hash: u64) -> bool {
        let (places, fingerprint) = self.places(hash);
        places.iter().fold(fingerprint, |left, place| left ^ filter[*place]) == 0
    }

    /// The bytes that make every key's places its fingerprint, unless some keys leave each other no place.
    fn assign(&self, hashes: &[u64]) -> Option<Vec<u8>> {
        // How many keys have a place, and all their hashes xored: for a single one that is its hash.
        let mut counts = vec![0_u32; self.places_len()];
        let mut xored = vec![0_u64; self.places_len()];
        for hashes in hashes.chunks(TURN_KEYS) {
            for hash in hashes {
                for place in self.places(*hash).0 {
                    counts[place] += 1;
                    xored[place] ^= hash;
                }
            }
            end_turn();
        }
        let mut alone: Vec<usize> = (0..counts.len()).filter(|place| counts[*place] == 1).collect();
        let mut taken = Vec::with_capacity(hashes.len());
        while let Some(place) = alone.pop() {
            if counts[place] != 1 {
                continue;
            }
            let hash = xored[place];
            taken.push((hash, place));
            if taken.len().is_multiple_of(TURN_KEYS) {
                end_turn();
            }
            for other in self.places(hash).0 {
                counts[other] -= 1;
                xored[other] ^= hash;
                if counts[other] == 1 {
                    alone.push(other);
                }
            }
        }
        if taken.len() != hashes.len() {
            return None;
        }
        let mut bytes = vec![0; self.places_len()];
        for taken in taken.rchunks(TURN_KEYS) {
            for (hash, own) in taken.iter().rev() {
                let (places, fingerprint) = self.places(*hash);
                // Its own place is still zero: keys that come later were taken before, from places this one does not have alone.
                bytes[*own] = places.iter().fold(fingerprint, |left, place| left ^ bytes[*place]);
            }
            end_turn();
        }
        Some(bytes)
    }

    /// Appends its parameters.
    pub(super) fn store(&self, bytes: &mut Vec<u8>) {
        bytes.put_u64(self.seed);
        bytes.put_u32(self.segment_len);
        bytes.put_u32(self.segments);
    }

    /// Reads the parameters of a filter with these bytes; zeros follow them.
    pub(super) fn parse(parameters: &[u8], filter: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(parameters);
        let fuse = Self { seed: reader.u64().ok()?, segment_len: reader.u32().ok()?, segments: reader.u32().ok()? };
        let rest = reader.bytes(parameters.len() - 16).ok()?;
        let possible = fuse.segment_len.is_power_of_two()
            && fuse.segment_len <= SEGMENT_LEN_MAX
            && (1..=u32::MAX - ARITY).contains(&fuse.segments)
            && rest.iter().all(|byte| *byte == 0);
        (possible && fuse.places_len() == filter.len()).then_some(fuse)
    }
}

/// The finalizer of MurmurHash3.
#[inline]
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ hash >> 33).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_about_nine_bits_for_each_of_many_keys() {
        let hashes: Vec<u64> = (0..500_000).map(mix).collect();
        let (fuse, bytes) = Fuse::build(&hashes, 0..SEEDS).unwrap();
        assert!(hashes.iter().all(|hash| fuse.may_contain(&bytes, *hash)));
        let bits = bytes.len() as f64 * 8.0 / hashes.len() as f64;
        assert!((9.0..9.5).contains(&bits), "{bits}");
    }

    #[test]
    fn the_places_are_those_of_the_format() {
        // The finalizer's published values for 1 and the golden ratio are not at hand, so it is spelled out here.
        let (h, seed, l, segments) = (0x2D06_8005_38D3_94C2_u64, 3_u64, 64_u64, 5_u64);
        let mut m = h.wrapping_add(seed);
        m ^= m >> 33;
        m = m.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        m ^= m >> 33;
        m = m.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
        m ^= m >> 33;
        let p0 = ((u128::from(m) * u128::from(segments * l)) >> 64) as u64;
        let expected = [p0, (p0 + l) ^ (m >> 18 & (l - 1)), (p0 + 2 * l) ^ (m & (l - 1))];
        let fuse = Fuse { seed, segment_len: l as u32, segments: segments as u32 };
        assert_eq!(fuse.places(h), (expected.map(|place| place as usize), (m ^ m >> 32) as u8));
    }
}
