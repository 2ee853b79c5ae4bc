//! What the uplink is told by configuration, already validated.

use std::path::PathBuf;
use std::time::Duration;

use super::jwt::JwtSettings;
use super::revocation::RevocationSettings;
use crate::message::Name;

/// The one upstream broker and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The gateway's own id.
    pub gateway: Name,
    /// Host name or address out of `url`; resolved anew at each connection.
    pub host: String,
    /// Port out of `url`; default 8883, 1883 without TLS.
    pub port: u16,
    /// `None` only for `mqtt://` with `insecure = true`.
    pub tls: Option<TlsSettings>,
    /// Default: the gateway id.
    pub client_id: String,
    /// A certificate is tried with this client id, beside the connection; `None`: in its place.
    pub probe_client_id: Option<String>,
    /// MQTT user name.
    pub username: Option<String>,
    /// Read at each connection; one trailing line end is dropped.
    pub password_file: Option<PathBuf>,
    /// Tokens made for each connection, instead of a password.
    pub jwt: Option<JwtSettings>,
    /// `auto` tries 5 first.
    pub protocol: Protocol,
    /// Session expiry asked for where commands are wanted; elsewhere it is 0.
    pub session_expiry: Duration,
    /// Default 60 s, `5 s ..= 18 h`.
    pub keep_alive: Duration,
    /// Upper bound of the in-flight window; default 1,000.
    pub max_in_flight: u16,
    /// Records older than 60 s sent per second, above what comes in meanwhile; default 1,000; 0 =
    /// unlimited.
    pub drain_rate: u32,
    /// Publishes a second at most, everything counted; default 0 = unlimited.
    pub max_publish_rate: u32,
    /// Bytes of PUBLISH packets a second at most; default 0 = unlimited.
    pub max_byte_rate: u64,
    /// How long the answer to a publish is waited for at least; default 30 s, `5 s ..= 10 min`.
    pub answer_timeout: Duration,
    /// When a rejected record is tried once more; default 1 h; `None` = never.
    pub retry_rejected: Option<Duration>,
    /// Topics of our own, expanded; `None` = switched off.
    pub topics: OwnTopics,
    /// The filters that commands come by, at most 8; empty: none are wanted, and the session is not
    /// kept.
    pub commands: Vec<String>,
}

impl Settings {
    /// `host:port` as a URL has it: an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Topics the gateway publishes about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTopics {
    /// Retained JSON, also the will.
    pub gateway_status: Option<String>,
    /// Every loss.
    pub loss: Option<String>,
    /// Retained JSON a device; `{device}` is left to fill in.
    pub device_status: Option<String>,
    /// Retained JSON about newer firmware; `None` where nobody looks for it.
    pub update: Option<String>,
    /// Subscribed: a message there has newer firmware looked for.
    pub update_hint: Option<String>,
}

/// The TLS side of the uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The only anchors trusted; `None` = the system's, found by `openssl-probe`.
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the broker's public key (SubjectPublicKeyInfo, RFC 5280 §4.1.2.7). Not empty: a
    /// certificate with one of these keys is accepted, and no CA, name or date is judged.
    pub pins: Vec<[u8; 32]>,
    /// Our certificate chain and its key, both PEM, both or neither.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The file with the password of an encrypted key; one trailing line end is dropped.
    pub key_password: Option<PathBuf>,
    /// ALPN protocols offered, e.g. `x-amzn-mqtt-ca`.
    pub alpn: Vec<String>,
    /// Lowest version accepted.
    pub minimum: TlsVersion,
    /// The revocation lists that the broker's chain is judged by.
    pub revocation: RevocationSettings,
    /// A file of further anchors: those of the EST server, with `trust = "est"`. With it and
    /// without `ca_file` the system's are not trusted.
    pub est_anchors: Option<PathBuf>,
    /// The token that has the key of `identity`, if its file refers to one.
    pub token: Option<TokenSettings>,
}

/// A PKCS #11 token (PKCS #11 3.0 §1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenSettings {
    /// The module, a shared library.
    pub module: PathBuf,
    /// The token's label.
    pub label: String,
    /// The file with the user's PIN; one trailing line end is dropped.
    pub pin_file: PathBuf,
    /// Where a PIN that was refused is marked, so that it is never tried again.
    pub mark_folder: PathBuf,
}

impl TlsSettings {
    /// Whether chain and key are in one file that the gateway itself keeps.
    pub fn is_kept_here(&self) -> bool {
        self.identity
            .as_ref()
            .is_some_and(|(certificate, key)| certificate == key && certificate.ends_with("current.pem"))
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246
    V1_2,
    /// RFC 8446
    V1_3,
}

/// Which MQTT is spoken upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// 5, and 3.1.1 where the broker cannot.
    Auto,
    /// MQTT 5.0 only.
    V5,
    /// MQTT 3.1.1 only.
    V3_1_1,
}
