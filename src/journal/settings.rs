//! What the journal is told by configuration, already validated.

use std::path::PathBuf;
use std::time::Duration;

/// Most bytes of the rejected store: places in its file are 32 bits wide.
pub const REJECTED_BYTES_MAX: u64 = 1 << 30;

/// Where the journal lives and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its directory, `{state-dir}/journal`.
    pub directory: PathBuf,
    /// `[journal] max-bytes`: all of it on disk, spare segments and the rejected store included;
    /// default 256 MiB, at least 8 MiB.
    pub max_bytes: u64,
    /// `[journal] commit-interval`: least time between the starts of two commits; default 10 ms,
    /// `0 ..= 1 s`.
    pub commit_interval: Duration,
    /// `[journal] segment-bytes`; default 4 MiB, `64 KiB ..= 64 MiB`, a multiple of 4,096.
    pub segment_bytes: u32,
    /// By [`Lane::index`](crate::message::Lane::index).
    pub lanes: [LaneSettings; 2],
    /// `[journal] rejected-max-bytes`: what the broker refused for good; default 16 MiB, at most
    /// [`REJECTED_BYTES_MAX`]. Full stops the lane.
    pub rejected_max_bytes: u64,
}

/// One lane's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneSettings {
    /// `[lane.X] max-bytes`: bytes on disk; default 192 MiB for normal, 40 MiB for high.
    pub max_bytes: u64,
    /// `[lane.X] when-full`.
    pub when_full: WhenFull,
}

/// What a full lane does with a new record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuses it: the device hears 5.03 and can keep it.
    Refuse,
    /// Gives up its oldest records, counted and named.
    DropOldest,
}
