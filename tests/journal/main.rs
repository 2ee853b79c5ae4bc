//! The journal against its promise: on a disk that loses power anywhere, and on real ones.
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
