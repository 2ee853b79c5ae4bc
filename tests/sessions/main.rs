//! The store of DTLS sessions: on a disk in memory that loses power at any operation, on a real
//! one, and with the engine that fills it.

mod crash;
mod daemon;
mod damage;
mod hostile;
mod life;
mod many;
mod real;
