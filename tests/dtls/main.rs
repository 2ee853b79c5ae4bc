//! The DTLS engine against clients in the same process, over virtual time, and against real peers.

mod client;
mod forgery;
mod handshake;
mod limit;
mod link;
mod lossy;

mod peer;
