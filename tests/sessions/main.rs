//! The store of DTLS sessions: on a disk in memory that loses power at any operation, on a real one, and with the
//! engine that fills it.

mod crash;
mod damage;
mod harness;
mod real;

#[path = "../journal/disk.rs"]
#[allow(dead_code)]
mod disk;
