//! Length-prefixed frames: a header of so many bytes, in it a number that says how long the frame
//! is.
//!
//! ```text
//! | offset bytes | 1, 2 or 4 bytes of length | payload … | checksum |
//! ```
//!
//! The number counts the bytes behind it, checksum included, less `adjust`: 0 where it counts just
//! them, 2 where it does not count a 2-byte checksum, −2 where it counts itself too. The payload is
//! what follows the number, without the checksum: what stands before the number (a sync byte, an
//! address) is passed over; the checksum covers it.

use super::EncodeError;

/// Most bytes before the length.
pub const OFFSET_MAX: usize = 16;

/// Where the length is and what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the number: 1, 2 or 4.
    pub width: Width,
    /// The lowest byte comes first.
    pub little_endian: bool,
    /// Bytes before it, `0..=16`.
    pub offset: usize,
    /// Bytes behind the number that it does not count; negative where it counts bytes before them.
    /// `-64..=64`.
    pub adjust: i32,
}

/// How many bytes the number has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One.
    One,
    /// Two.
    Two,
    /// Four.
    Four,
}

impl Width {
    /// Its bytes.
    pub fn bytes(self) -> usize {
        match self {
            Width::One => 1,
            Width::Two => 2,
            Width::Four => 4,
        }
    }
}

/// How long a frame is, as far as its beginning tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// The number is not there yet.
    Unknown,
    /// So many bytes in all.
    Known(usize),
    /// The number makes no sense.
    Impossible,
}

impl Header {
    fn end(&self) -> usize {
        self.offset + self.width.bytes()
    }

    pub(super) fn frame_size(&self, bytes: &[u8]) -> Size {
        let Some(field) = bytes.get(self.offset..self.end()) else { return Size::Unknown };
        let join = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let number =
            if self.little_endian { field.iter().rev().fold(0, join) } else { field.iter().fold(0, join) };
        // At most 32 bits, so the sum stays within 64.
        let behind = i64::try_from(number).unwrap_or(i64::MAX).saturating_add(i64::from(self.adjust));
        match usize::try_from(behind).ok().and_then(|behind| behind.checked_add(self.end())) {
            Some(size) if behind > 0 => Size::Known(size),
            _ => Size::Impossible,
        }
    }

    /// What follows the number, in a frame whose checksum was taken off.
    pub(super) fn payload<'f>(&self, body: &'f [u8]) -> Option<&'f [u8]> {
        body.get(self.end()..)
    }

    /// Writes the header of a payload of so many bytes; bytes before the length are zero.
    pub(super) fn write(
        &self,
        payload: usize,
        checksum: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let behind = i64::try_from(payload + checksum).map_err(|_| EncodeError::TooLong)?;
        let number = u64::try_from(behind - i64::from(self.adjust)).map_err(|_| EncodeError::TooLong)?;
        let width = self.width.bytes();
        if number >> (8 * width) != 0 {
            return Err(EncodeError::TooLong);
        }
        out.resize(out.len() + self.offset, 0);
        if self.little_endian {
            out.extend_from_slice(&number.to_le_bytes()[..width]);
        } else {
            out.extend_from_slice(&number.to_be_bytes()[8 - width..]);
        }
        Ok(())
    }
}
