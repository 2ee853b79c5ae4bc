//! The store of DTLS sessions on a disk in memory.

pub mod harness;
pub mod hostile;
