//! The settings of the CoAP side, already validated.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::reported::Report;
use crate::message::Name;
use crate::proto::dtls::Policy;
use crate::proto::dtls::server::Certificates;

/// Listen addresses, limits and credentials of the CoAP side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `coaps` addresses; default `[::]:5684`. Empty = no DTLS.
    pub listen: Vec<SocketAddr>,
    /// Plain CoAP addresses and the one device of all their senders; default none.
    pub insecure: Option<(Vec<SocketAddr>, Name)>,
    /// Most DTLS sessions; default 10,000. A further one replaces the session with the longest idle
    /// time if that is at least an hour; otherwise it is refused.
    pub max_sessions: usize,
    /// Most handshakes in progress; default 1,024. A further one replaces the oldest.
    pub max_half_open: usize,
    /// A session without a record for this time is closed; default 24 h.
    pub idle_timeout: std::time::Duration,
    /// The trust anchors and the server's credentials for certificates and raw public keys; default
    /// none.
    pub certificates: Certificates,
    /// The files of the server's certificate and its key, where another program renews them;
    /// default none.
    pub certificate_files: Option<(PathBuf, PathBuf)>,
    /// Whether sessions survive a restart; default true. The engine must support it.
    pub persist_sessions: bool,
    /// The DTLS engine; default [`EngineKind::Tombolo`].
    pub engine: EngineKind,
    /// The handshake policy; a reload applies it to new handshakes.
    pub policy: Policy,
    /// Which readings report the version of the device's firmware, by role; default none.
    pub reports: BTreeMap<Name, Report>,
}

/// The DTLS engine (docs/decisions/0011).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// [`ServerEngine`](crate::proto::dtls::ServerEngine), the engine of this crate.
    #[default]
    Tombolo,
    /// The `dimpl` crate.
    Dimpl,
}

impl EngineKind {
    /// The error for [`EngineKind::Dimpl`] in a program built without it.
    pub const NO_DIMPL: &str = "this program was built without the engine \"dimpl\"";
    /// Whether this program was built with [`EngineKind::Dimpl`].
    pub const HAS_DIMPL: bool = cfg!(feature = "dimpl");

    /// The name in the configuration and in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            EngineKind::Tombolo => "tombolo",
            EngineKind::Dimpl => "dimpl",
        }
    }
}
