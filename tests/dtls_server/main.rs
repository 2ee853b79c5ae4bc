//! The DTLS server of our own: against a client of the tests' own in virtual time, and against real
//! peers.

mod amplification;
mod chains;
mod client;
mod flood;
mod forgery;
mod handshake;
mod holders;
mod lapses;
mod limit;
mod lossy;
mod moving;
mod order;
mod peer;
mod refusal;
mod resuming;
mod world;
