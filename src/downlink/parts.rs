//! An answer that is larger than a message may be, in numbered parts. Pure.
//!
//! Each part has properties that say which it is and what all of them make, so that a consumer can
//! begin with any of them: `part` (`1..=parts`), `parts`, `size` in bytes and `sha256` of the
//! whole.
//! They are kept as a query (`part=1&parts=3&…`) on their way through the journal.

use crate::hex::format_hex;

/// Bytes of a part; the last one may have fewer. In base64 with its envelope it has 44 KiB, which
/// brokers of all clouds take.
pub const PART_BYTES: u64 = 32 << 10;
/// Largest whole, in bytes: 32 parts.
pub const SIZE_MAX: u64 = 1 << 20;

/// A whole of `1..=`[`SIZE_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Bytes.
    pub size: u64,
    /// Of all of them.
    pub sha256: [u8; 32],
}

/// Where in the whole a part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From which byte.
    pub offset: u64,
    /// How many.
    pub length: usize,
    /// Its properties.
    pub properties: String,
}

impl Whole {
    /// In how many parts; at least one.
    pub fn count(&self) -> u64 {
        self.size.div_ceil(PART_BYTES).max(1)
    }

    /// All parts in their order.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let (size, count, digest) = (self.size, self.count(), format_hex(&self.sha256));
        (0..count).map(move |index| {
            let offset = index * PART_BYTES;
            let length = size.saturating_sub(offset).min(PART_BYTES);
            Part {
                offset,
                length: usize::try_from(length).unwrap_or(0),
                properties: format!("part={}&parts={count}&size={size}&sha256={digest}", index + 1),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::PATH_MAX;

    #[test]
    fn parts_follow_each_other_and_make_the_whole() {
        for size in [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, SIZE_MAX] {
            let whole = Whole { size, sha256: [0xff; 32] };
            let mut next = 0;
            for part in whole.parts() {
                assert_eq!(part.offset, next);
                assert!((1..=PART_BYTES).contains(&(part.length as u64)));
                next += part.length as u64;
            }
            assert_eq!(next, size);
            assert_eq!(whole.parts().count() as u64, whole.count());
        }
    }

    #[test]
    fn the_properties_of_each_part_fit_the_record_of_its_reply() {
        let whole = Whole { size: SIZE_MAX, sha256: [0xff; 32] };
        let first = whole.parts().next().unwrap().properties;
        assert!(first.starts_with("part=1&parts=32&size=1048576&sha256=ffff"), "{first}");
        for part in whole.parts() {
            assert!("support-bundle".len() + 1 + part.properties.len() <= PATH_MAX);
        }
    }
}
