//! The store of DTLS sessions: on a disk in memory that loses power at any operation, on a real
//! one, and with the engine that fills it.

mod crash;
mod daemon;
mod damage;
mod harness;
mod hostile;
mod life;
mod many;
mod real;

#[path = "../journal/disk.rs"]
#[allow(dead_code)]
mod disk;

#[path = "../dtls_server/client.rs"]
#[allow(dead_code)]
mod client;

#[path = "../dtls_server/world.rs"]
#[allow(dead_code)]
mod world;

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/faults.rs"]
mod faults_library;
