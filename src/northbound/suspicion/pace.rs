//! How far apart trials are.

use std::time::Duration;

/// Between two trials of one record, or of one topic.
pub const SPACING: Duration = Duration::from_secs(1);
/// Between two trials while nothing is taken, at most.
pub const RETRY_MAX: Duration = Duration::from_secs(300);

/// How long the `step`th repetition waits, counted from 0.
pub fn back_off(step: u32) -> Duration {
    SPACING.saturating_mul(1 << step.min(16)).min(RETRY_MAX)
}
