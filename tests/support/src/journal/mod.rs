//! The journal on a disk in memory.

pub mod disk;
pub mod harness;
pub mod hostile;
