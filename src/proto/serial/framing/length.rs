//! Length-prefixed frames: the header contains the length of the frame.
//!
//! ```text
//! | offset bytes | 1, 2 or 4 bytes of length | payload … | checksum |
//! ```
//!
//! The length field counts the bytes after it, with the checksum, minus `adjust`: 0 if it counts
//! exactly these, 2 if it excludes a 2-byte checksum, −2 if it includes a 2-byte length field. The
//! payload is the part between length field and checksum; bytes before the length field (a sync
//! byte, an address) are ignored, but covered by the checksum.

use super::EncodeError;

/// Most bytes before the length.
pub const OFFSET_MAX: usize = 16;

/// Position and meaning of the length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Width of the length field: 1, 2 or 4 bytes.
    pub width: Width,
    /// Whether the low byte comes first.
    pub little_endian: bool,
    /// Bytes before the length field, `0..=16`.
    pub offset: usize,
    /// Bytes after the length field that it does not count; negative if it counts bytes before
    /// them. `-64..=64`.
    pub adjust: i32,
}

/// Width of the length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    One,
    /// Two bytes.
    Two,
    /// Four bytes.
    Four,
}

impl Width {
    /// The width in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Width::One => 1,
            Width::Two => 2,
            Width::Four => 4,
        }
    }
}

/// The length of a frame, as far as known from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// The length field is not complete yet.
    Unknown,
    /// The frame has this many bytes in all.
    Known(usize),
    /// The length is invalid.
    Impossible,
}

impl Header {
    fn end(&self) -> usize {
        self.offset + self.width.bytes()
    }

    /// The longest frame that its field can give, in bytes.
    pub fn longest(&self) -> usize {
        let greatest = (1_u64 << (8 * self.width.bytes())) - 1;
        let behind = i64::try_from(greatest).unwrap_or(i64::MAX).saturating_add(i64::from(self.adjust));
        usize::try_from(behind).unwrap_or(0).saturating_add(self.end())
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

    /// The bytes after the length field, in a frame without its checksum.
    pub(super) fn payload<'f>(&self, body: &'f [u8]) -> Option<&'f [u8]> {
        body.get(self.end()..)
    }

    /// Writes the header for a payload of this length; bytes before the length field are zero.
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
