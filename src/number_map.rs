//! Maps by numbers that this process gave out itself, for what is looked up many times a message.
//!
//! The hash is one multiplication, without a seed: no peer may choose a key, nor a part of one.
//! Keys that come from outside belong into a [`HashMap`] of the standard library.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by numbers of this process.
pub(crate) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// The hasher of a [`NumberMap`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct NumberHasher(u64);

/// Two odd numbers with about as many ones as zeros; the first is 2^64 by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const START: u64 = 0xbf58_476d_1ce4_e5b9;

impl Default for NumberHasher {
    fn default() -> NumberHasher {
        NumberHasher(START)
    }
}

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number) * u128::from(FACTOR);
        self.0 = (product as u64 ^ (product >> 64) as u64).rotate_left(23);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, Hash};

    /// How many of 4,096 places, and of the 128 tags of a place, are taken by these keys.
    fn spread<K: Hash>(keys: impl Iterator<Item = K>) -> (usize, usize) {
        let hasher = BuildHasherDefault::<NumberHasher>::default();
        let (mut places, mut tags) = (HashSet::new(), HashSet::new());
        for key in keys {
            let hash = hasher.hash_one(key);
            places.insert(hash & 4_095);
            tags.insert(hash >> 57);
        }
        (places.len(), tags.len())
    }

    #[test]
    fn numbers_in_a_row_and_pairs_of_them_spread_over_a_map() {
        // Of 4,096 random places 63 in 100 are taken.
        let even = |(places, tags): (usize, usize)| places > 1_800 && tags > 120;
        assert!(even(spread(0..4_096_u64)));
        assert!(even(spread((0..4_096_u64).map(|number| number << 32))));
        assert!(even(spread((0..4_096_u32).map(|number| (number % 64, number / 64)))));
        assert!(even(spread((0..4_096_u64).map(|number| (3_isize, 7_u64, number)))));
        assert!(even(spread((0..4_096_u64).map(|number| (3_isize, number % 100, 1_000 + number / 100)))));
    }
}
