//! DTLS 1.2 as a server: datagrams in; plaintext of known devices, datagrams and named failures
//! out.
//!
//! What the rest of the path sees is [`Engine`] and [`Sink`]: sessions have our own id, never an
//! address, and come with the identity their handshake proved. One engine holds the sessions of all
//! peers. Behind the trait stand [`ServerEngine`], which is our own, and, with the feature `dimpl`,
//! `DimplEngine`; whatever stands there has to keep these rules:
//!
//! * One bad datagram never ends a live session, whoever sent it and from wherever.
//! * A ClientHello from the address of a live session starts a second, *shadow* handshake. The live
//!   session stays until the shadow has proven its identity. So a device that rebooted on the same
//!   port comes back at once, and a spoofed hello ends nothing.
//! * An address that has not shown that it receives makes us keep nothing. What proven ones can
//!   make us keep is bounded; see [`Limits`].
//! * A handshake that fails is reported with a cause a person can act on ([`HandshakeFailure`]).
//!
//! The pieces: [`record`] and [`hello`] read the wire (RFC 6347 §4, RFC 5246 §7.4.1.2),
//! [`session_table`] knows which address has which sessions and who must go when room is short,
//! [`throttle`] how often one may begin, [`cookie`] proves a [`peer_address`], [`credential`] holds
//! the pre-shared keys, [`failure`] names what went wrong; [`alert`], [`handshake_type`] and
//! [`suite`] are the code spaces.

pub mod alert;
pub mod cookie;
pub mod credential;
#[cfg(feature = "dimpl")]
mod dimpl;
pub mod engine;
pub mod failure;
pub mod handshake_type;
pub mod hello;
pub mod peer_address;
pub mod record;
pub mod server;
pub mod session_table;
pub mod suite;
pub mod throttle;

pub use self::credential::Keyring;
#[cfg(feature = "dimpl")]
pub use self::dimpl::DimplEngine;
pub use self::engine::{
    CloseCause, Counters, Engine, Limits, PeerIdentity, Policy, SendError, SessionId, SessionInfo, Sink,
};
pub use self::failure::{FailureKind, HandshakeFailure, HandshakeStep};
pub use self::server::{CertificateIdentity, ServerEngine};
