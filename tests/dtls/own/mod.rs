//! The server of our own, with what only it does.

mod amplification;
mod chains;
mod flood;
mod forgery;
mod handshake;
mod holders;
mod lapses;
mod limit;
mod lossy;
mod moving;
mod order;
mod refusal;
mod resuming;

use tombolo_test_support::dtls::{self, *};

type World = dtls::World;
