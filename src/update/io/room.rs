//! What a disk has room for.
#![allow(clippy::useless_conversion, reason = "blocks are counted by fewer bits on 32-bit targets")]

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Bytes that are free there for others than root; `None`: not known.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let about = statvfs(folder).ok()?;
    Some(u64::from(about.blocks_available()).saturating_mul(u64::from(about.fragment_size())))
}

/// Bytes that stay free: `reserve`, less what the journal in that folder has taken of it.
pub fn kept_free(reserve: u64, journal: &Path) -> u64 {
    let entries = std::fs::read_dir(journal).into_iter().flatten().flatten();
    let taken: u64 = entries.filter_map(|entry| entry.metadata().ok()).map(|about| about.len()).sum();
    reserve.saturating_sub(taken)
}
