//! The settings of the journal, already validated.

use std::path::PathBuf;
use std::time::Duration;

/// Largest size of the rejected store in bytes: offsets in its file have 32 bits.
pub const REJECTED_BYTES_MAX: u64 = 1 << 30;

/// The default of a lane's `device-share`, in percent.
pub const DEVICE_SHARE: u8 = 50;

/// The directory and the limits of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its directory, `{state-dir}/journal`.
    pub directory: PathBuf,
    /// `[journal] max-bytes`: bytes on disk, with spare segments and the rejected store; default
    /// 256 MiB, at least 8 MiB.
    pub max_bytes: u64,
    /// `[journal] commit-interval`: least time between the starts of two commits; default 10 ms,
    /// `0 ..= 1 s`.
    pub commit_interval: Duration,
    /// `[journal] segment-bytes`; default 4 MiB, `64 KiB ..= 64 MiB`, a multiple of 4,096.
    pub segment_bytes: u32,
    /// The lanes, by [`Lane::index`](crate::message::Lane::index).
    pub lanes: [LaneSettings; 2],
    /// `[journal] rejected-max-bytes`: bytes for records that the broker refused permanently;
    /// default 16 MiB, at most [`REJECTED_BYTES_MAX`]. A full store stops the lane.
    pub rejected_max_bytes: u64,
}

/// The limits of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneSettings {
    /// `[lane.X] max-bytes`: bytes on disk; default 192 MiB for normal, 40 MiB for high.
    pub max_bytes: u64,
    /// `[lane.X] when-full`: what a full lane does.
    pub when_full: WhenFull,
    /// `[lane.X] device-share`: percent of `max_bytes` that the records of one device may take,
    /// `1 ..= 100`; default [`DEVICE_SHARE`].
    pub device_share: u8,
}

/// What a full lane does with a new record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuses it: the device gets 5.03 and can keep it.
    Refuse,
    /// Drops the oldest records, which are counted and reported as lost.
    DropOldest,
}
