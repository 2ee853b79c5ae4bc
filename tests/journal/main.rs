//! The guarantees of the journal: on a disk in memory with power cuts, and on real ones.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests may touch the machine")]

mod bad_disk;
mod bounds;
mod crash;
mod damage;
mod failing;
mod hostile;
mod model;
mod reading;
mod real;
mod waiting;
