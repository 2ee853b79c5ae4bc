//! An answer that is larger than a message may be, in numbered parts. Pure.
//!
//! Each part has properties that say which it is and what all of them make, so that a consumer can
//! begin with any of them: `part` (`1..=parts`), `parts`, `size` in bytes and `sha256` of the
//! whole.
//! They are kept as a query (`part=1&parts=3&…`) on their way through the journal.

use crate::hex::format_hex;

/// Bytes of a part, unless smaller ones are asked for; the last one can have fewer. In base64 with
/// its envelope it has 44 KiB, which brokers of all clouds take.
pub const PART_BYTES: u64 = 32 << 10;
/// Least bytes of a part: 1,024 of them make the largest whole.
pub const PART_MIN: u64 = 1 << 10;
/// Largest whole, in bytes: 32 parts, or more that are smaller.
pub const SIZE_MAX: u64 = 1 << 20;
/// What a PUBLISH with a part has beside the part, its topic and the correlation data, in bytes at
/// most: headers, properties or envelope.
pub const ENVELOPE_MAX: u64 = 512;

/// Bytes of a part for a broker that takes packets of `limit` bytes, where topic and correlation
/// data have `around`; `wrapped`: in base64. [`PART_MIN`]`..=`[`PART_BYTES`].
///
/// # Errors
/// The packets are too small; the least limit that is not.
pub fn part_bytes(limit: Option<u32>, around: usize, wrapped: bool) -> Result<u64, u64> {
    let Some(limit) = limit else { return Ok(PART_BYTES) };
    let around = ENVELOPE_MAX + around as u64;
    let room = u64::from(limit).saturating_sub(around);
    let room = if wrapped { room / 4 * 3 } else { room };
    if room < PART_MIN {
        let least = if wrapped { PART_MIN.div_ceil(3) * 4 } else { PART_MIN };
        return Err(least + around);
    }
    Ok(room.min(PART_BYTES))
}

/// A whole of `1..=`[`SIZE_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Bytes.
    pub size: u64,
    /// Of all of them.
    pub sha256: [u8; 32],
    /// Bytes of a part: [`PART_MIN`]`..=`[`PART_BYTES`].
    pub part_bytes: u64,
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
        self.size.div_ceil(self.part_bytes.max(1)).max(1)
    }

    /// All parts in their order.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let (size, count, digest) = (self.size, self.count(), format_hex(&self.sha256));
        let part_bytes = self.part_bytes;
        (0..count).map(move |index| {
            let offset = index * part_bytes;
            let length = size.saturating_sub(offset).min(part_bytes);
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

    const WHOLE: Whole = Whole { size: SIZE_MAX, sha256: [0xff; 32], part_bytes: PART_BYTES };

    #[test]
    fn parts_follow_each_other_and_make_the_whole() {
        for part_bytes in [PART_MIN, PART_MIN + 1, PART_BYTES] {
            for size in [1, part_bytes - 1, part_bytes, part_bytes + 1, SIZE_MAX] {
                let whole = Whole { size, part_bytes, ..WHOLE };
                let mut next = 0;
                for part in whole.parts() {
                    assert_eq!(part.offset, next);
                    assert!((1..=part_bytes).contains(&(part.length as u64)));
                    next += part.length as u64;
                }
                assert_eq!(next, size);
                assert_eq!(whole.parts().count() as u64, whole.count());
            }
        }
    }

    #[test]
    fn the_properties_of_each_part_fit_the_record_of_its_reply() {
        let first = WHOLE.parts().next().unwrap().properties;
        assert!(first.starts_with("part=1&parts=32&size=1048576&sha256=ffff"), "{first}");
        for part in (Whole { part_bytes: PART_MIN, ..WHOLE }).parts() {
            assert!("support-bundle".len() + 1 + part.properties.len() <= PATH_MAX);
        }
    }

    #[test]
    fn a_part_has_the_room_that_the_broker_leaves() {
        assert_eq!(part_bytes(None, 100, true), Ok(PART_BYTES));
        assert_eq!(part_bytes(Some(128 << 10), 100, true), Ok(PART_BYTES));
        assert_eq!(part_bytes(Some(10_000), 100, false), Ok(10_000 - 612));
        assert_eq!(part_bytes(Some(10_000), 100, true), Ok((10_000 - 612) / 4 * 3));
        for wrapped in [false, true] {
            let least = part_bytes(Some(1_000), 100, wrapped).unwrap_err();
            assert_eq!(part_bytes(Some(least as u32), 100, wrapped).map(|it| it >= PART_MIN), Ok(true));
            assert!(part_bytes(Some(least as u32 - 4), 100, wrapped).is_err());
        }
    }
}
