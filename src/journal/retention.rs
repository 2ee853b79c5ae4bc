//! The limit of a lane and the action of a full one. Pure decisions, which the lane applies.

use super::segment::{Layout, SEGMENT_MAX, SEGMENT_MIN};
use super::settings::{LaneSettings, Settings, WhenFull};

/// The decision for a lane that needs another segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take a segment.
    Take,
    /// Drop the oldest segment to make room.
    DropOldest,
    /// Refuse records.
    Refuse,
}

/// Decides about one more segment of `size` bytes for a lane whose files have `used` bytes in all.
pub fn decide(bounds: &LaneSettings, used: u64, size: u32) -> Decision {
    if used + u64::from(size) <= bounds.max_bytes {
        Decision::Take
    } else if bounds.when_full == WhenFull::DropOldest {
        Decision::DropOldest
    } else {
        Decision::Refuse
    }
}

/// The layout of segments: as configured, but small enough for four per lane, so that a small lane
/// can rotate.
pub fn layout(settings: &Settings) -> Layout {
    let least = settings.lanes.iter().map(|lane| lane.max_bytes / 4).min().unwrap_or_default();
    let wanted = u64::from(settings.segment_bytes).min(least);
    let size = wanted.clamp(u64::from(SEGMENT_MIN), u64::from(SEGMENT_MAX)) as u32 / 4096 * 4096;
    // The size is clamped and rounded down to a multiple of 4,096, and the limits are multiples
    // too.
    Layout::new(size).expect("the size is a valid one")
}

/// Most spare segments: what `max-bytes` leaves apart from the lanes, at least the reserve, at most
/// eight.
pub fn spares(settings: &Settings, layout: Layout) -> usize {
    let lanes: u64 = settings.lanes.iter().map(|lane| lane.max_bytes).sum();
    let left = settings.max_bytes.saturating_sub(lanes).saturating_sub(settings.rejected_max_bytes);
    (left / u64::from(layout.size)).clamp(1, 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn settings(segment_bytes: u32, normal: u64) -> Settings {
        let lane = |max_bytes| LaneSettings { max_bytes, when_full: WhenFull::Refuse, device_share: 100 };
        Settings {
            directory: "x".into(),
            max_bytes: 256 << 20,
            commit_interval: Duration::ZERO,
            segment_bytes,
            lanes: [lane(40 << 20), lane(normal)],
            rejected_max_bytes: 16 << 20,
        }
    }

    #[test]
    fn a_small_lane_gets_small_segments() {
        assert_eq!(layout(&settings(4 << 20, 192 << 20)).size, 4 << 20);
        assert_eq!(layout(&settings(4 << 20, 1 << 20)).size, 256 << 10);
        assert_eq!(layout(&settings(4 << 20, 1)).size, SEGMENT_MIN);
    }

    #[test]
    fn the_defaults_leave_two_spares() {
        let settings = settings(4 << 20, 192 << 20);
        assert_eq!(spares(&settings, layout(&settings)), 2);
    }

    #[test]
    fn a_full_lane_does_as_configured() {
        let mut bounds = LaneSettings { max_bytes: 300_000, when_full: WhenFull::Refuse, device_share: 100 };
        assert_eq!(decide(&bounds, 200_000, 65_536), Decision::Take);
        assert_eq!(decide(&bounds, 240_000, 65_536), Decision::Refuse);
        bounds.when_full = WhenFull::DropOldest;
        assert_eq!(decide(&bounds, 240_000, 65_536), Decision::DropOldest);
    }
}
