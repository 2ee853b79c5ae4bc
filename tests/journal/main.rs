//! The journal against its promise: on a disk that loses power anywhere, and on real ones.
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
#[path = "../support/readings.rs"]
mod readings;
mod real;
mod waiting;
