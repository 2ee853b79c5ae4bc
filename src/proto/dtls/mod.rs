//! A DTLS 1.2 server: datagrams in; plaintext of known devices, datagrams and failures out.
//!
//! The interface is [`Engine`] and [`Sink`]: a session has an id that is independent of its
//! address, and the identity that its handshake proved. One engine has the sessions of all peers.
//! The implementations are [`ServerEngine`] and, with the feature `dimpl`, `DimplEngine`. An
//! implementation must keep these rules:
//!
//! * An invalid datagram never closes a session, regardless of its sender and address.
//! * A ClientHello from the address of a live session starts a second, *shadow* handshake. The
//!   session stays open until the shadow handshake has proved its identity. So a device that
//!   rebooted on the same port can reconnect at once, and a spoofed hello closes nothing.
//! * An address that is not validated causes no state. The state caused by validated ones is
//!   bounded; see [`Limits`].
//! * A failed handshake is reported with an actionable cause ([`HandshakeFailure`]).
//!
//! The pieces: [`record`] and [`hello`] parse the wire format (RFC 6347 §4, RFC 5246 §7.4.1.2),
//! [`session_table`] maps addresses to sessions and selects sessions to replace, [`throttle`]
//! limits handshake rates, [`cookie`] validates a [`peer_address`], [`credential`] has the
//! pre-shared keys, [`failure`] the causes of failed handshakes; [`alert`], [`handshake_type`] and
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
