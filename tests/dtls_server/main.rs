//! The DTLS server of our own: against a client of the tests' own in virtual time, and against real peers.

mod client;
mod forgery;
mod handshake;
mod limit;
mod lossy;
mod moving;
mod order;
mod peer;
mod refusal;
mod resuming;
mod world;
