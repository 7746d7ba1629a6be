//! The same keys and values for every store: 16 bytes of key, spread over the key space, and 112 bytes of value that do
//! not compress.

/// Bytes of a key.
pub(crate) const KEY_LEN: usize = 16;
/// Bytes of a value.
pub(crate) const VALUE_LEN: usize = 112;

/// A key.
pub(crate) type Key = [u8; KEY_LEN];
/// A value.
pub(crate) type Value = [u8; VALUE_LEN];
/// What is put.
pub(crate) type Pair = (Key, Value);

/// The key with a number: distinct for each, and neighbours in number are far apart in order.
pub(crate) fn key(number: u64) -> Key {
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut key = [0; KEY_LEN];
    for (place, byte) in key.iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(spread >> (60 - 4 * place) & 15) as usize];
    }
    key
}

/// The value with a number: it begins with the number, so that a read can be checked.
pub(crate) fn value(number: u64) -> Value {
    let mut random = Random::new(number);
    let mut value = [0; VALUE_LEN];
    let (first, rest) = value.split_at_mut(8);
    first.copy_from_slice(&number.to_le_bytes());
    for chunk in rest.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    value
}

/// Key and value with a number.
pub(crate) fn pair(number: u64) -> Pair {
    (key(number), value(number))
}

/// The number a value was made of. Reading it is what a get costs beyond finding it.
pub(crate) fn mark(value: &[u8]) -> u64 {
    value.first_chunk().map_or(u64::MAX, |first| u64::from_le_bytes(*first))
}

/// So many keys of those below `keys`, in no order.
pub(crate) fn random_keys(keys: u64, count: usize, seed: u64) -> Vec<Key> {
    let mut random = Random::new(seed);
    (0..count).map(|_| key(random.below(keys))).collect()
}

/// Numbers that repeat from run to run: a counter behind a mixing function. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// The same seed, the same numbers.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed ^ 0x5EA3_A11D_1CE5_0DDE }
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed ^ (mixed >> 32)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 to 1, 1 not included.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_distinct_and_spread() {
        let keys: BTreeSet<_> = (0..1000).map(key).collect();
        assert_eq!(keys.len(), 1000);
        assert_eq!(keys.iter().map(|key| key[0]).collect::<BTreeSet<_>>().len(), 16);
    }

    #[test]
    fn a_value_says_its_number() {
        assert_eq!(mark(&value(77)), 77);
        assert_ne!(value(77)[8..], value(78)[8..]);
        assert_eq!(mark(b""), u64::MAX);
    }

    #[test]
    fn random_numbers_are_even_and_repeat() {
        let mut random = Random::new(1);
        let mean = (0..10_000).map(|_| random.unit()).sum::<f64>() / 10_000.0;
        assert!((0.48..0.52).contains(&mean), "{mean}");
        assert_eq!(random_keys(50, 20, 3), random_keys(50, 20, 3));
        assert!((0..1000).all(|_| random.below(7) < 7));
    }
}
