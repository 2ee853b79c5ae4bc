//! A pause between frames: whatever comes without one belongs together.
//!
//! Over USB and through a kernel that batches, pauses under some 20 ms are not seen as they were on
//! the wire, so [`GAP_MIN`] is what can be asked for; Modbus RTU's 3.5 characters are for its own
//! core.

use std::time::Duration;

/// Shortest pause that may be asked for.
pub const GAP_MIN: Duration = Duration::from_millis(2);
/// Longest pause that may be asked for.
pub const GAP_MAX: Duration = Duration::from_secs(60);
/// The pause unless another is asked for.
pub const GAP_DEFAULT: Duration = Duration::from_millis(50);
