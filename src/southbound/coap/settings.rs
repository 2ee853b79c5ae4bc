//! What the CoAP side is told by configuration, already validated.

use std::net::SocketAddr;

use crate::message::Name;
use crate::proto::dtls::Policy;
use crate::proto::dtls::server::Certificates;

/// Where CoAP is listened for and what it may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `coaps` addresses; default `[::]:5684`. Empty = no DTLS.
    pub listen: Vec<SocketAddr>,
    /// Plain CoAP addresses and the one device all their senders are; default none.
    pub insecure: Option<(Vec<SocketAddr>, Name)>,
    /// Most DTLS sessions; default 10,000. One more replaces the longest idle, if that was idle for
    /// an hour; otherwise it is refused.
    pub max_sessions: usize,
    /// Most handshakes under way; default 1,024. The oldest goes first.
    pub max_half_open: usize,
    /// A session without a record for so long is ended; default 24 h.
    pub idle_timeout: std::time::Duration,
    /// What devices with certificates or raw public keys are judged by and shown; default nothing.
    pub certificates: Certificates,
    /// Whether sessions survive a restart; default true. The engine has to be able to.
    pub persist_sessions: bool,
    /// What speaks DTLS; default our own.
    pub engine: EngineKind,
    /// How it treats handshakes from now on.
    pub policy: Policy,
}

/// What speaks DTLS (docs/decisions/0011).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// [`ServerEngine`](crate::proto::dtls::ServerEngine), which is our own.
    #[default]
    Tombolo,
    /// The `dimpl` crate.
    Dimpl,
}

impl EngineKind {
    /// Why [`EngineKind::Dimpl`] cannot be had from a program built without it.
    pub const NO_DIMPL: &str = "this program was built without the engine \"dimpl\"";
    /// Whether this program has it.
    pub const HAS_DIMPL: bool = cfg!(feature = "dimpl");

    /// As configuration and `status` spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            EngineKind::Tombolo => "tombolo",
            EngineKind::Dimpl => "dimpl",
        }
    }
}
