//! Frames of one size. Without a checksum only a pause ([`super::IDLE`]) tells where one begins;
//! with one, every place is tried until it fits.

/// Smallest frame that may be asked for, in bytes, checksum included.
pub const SIZE_MIN: usize = 1;
