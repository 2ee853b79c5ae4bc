//! Frames separated by pauses: bytes without a pause between them are one frame.
//!
//! USB adapters and the kernel deliver bytes in batches, so pauses below about 20 ms may differ
//! from those on the wire. [`GAP_MIN`] is the smallest configurable pause; the 3.5 characters of
//! Modbus RTU are handled in [`modbus`](super::super::modbus).

use std::time::Duration;

/// Shortest configurable pause.
pub const GAP_MIN: Duration = Duration::from_millis(2);
/// Longest configurable pause.
pub const GAP_MAX: Duration = Duration::from_secs(60);
/// Default pause.
pub const GAP_DEFAULT: Duration = Duration::from_millis(50);
