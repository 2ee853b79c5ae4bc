//! Frames of fixed size. Without a checksum only a pause ([`super::IDLE`]) marks the beginning of a
//! frame; with a checksum, every position is tried until it matches.

/// Smallest configurable frame, in bytes with the checksum.
pub const SIZE_MIN: usize = 1;
