//! The guarantees of the journal: on a disk in memory with power cuts, and on real ones.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests may touch the machine")]

mod bad_disk;
mod bounds;
mod crash;
mod damage;
mod disk;
mod failing;
#[path = "../support/faults.rs"]
mod faults;
mod harness;
mod hostile;
mod model;
mod reading;
mod real;
mod waiting;
