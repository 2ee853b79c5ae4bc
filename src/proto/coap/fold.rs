//! The mixing step of the fingerprints, the hash table of peers and the Message IDs.

/// Multiplies the halves and folds the product.
pub(super) fn fold(mark: u64, word: u128) -> u64 {
    let low = word as u64 ^ mark ^ 0x9e37_79b9_7f4a_7c15;
    let high = (word >> 64) as u64 ^ mark.rotate_left(29) ^ 0xd6e8_feb8_6659_fd93;
    let product = u128::from(low) * u128::from(high);
    (product as u64 ^ (product >> 64) as u64) ^ mark.rotate_left(17)
}
