//! What the uplink is told by configuration, already validated.

use std::path::PathBuf;
use std::time::Duration;

use super::jwt::JwtSettings;
use super::revocation::RevocationSettings;
use super::wire::Version;
use crate::message::Name;

/// How long the session of a connection beside the gateway's is kept: long enough for the gateway
/// to take it over again.
const SESSION_BESIDE: Duration = Duration::from_secs(120);

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

    /// Whether a broker may know the gateway by something else than its client id, and take a
    /// connection with another one for the same (mosquitto: `use_username_as_clientid`).
    pub fn may_be_bound(&self) -> bool {
        let certificate = self.tls.as_ref().is_some_and(|tls| tls.identity.is_some());
        self.username.is_some() || self.jwt.is_some() || certificate
    }

    /// For how long the session of a connection beside the gateway's, with another client id, is
    /// kept; `None`: it begins anew, and is not. A broker that knows the gateway by its account has
    /// one session for both: a clean start would lose the commands that wait there.
    pub fn session_beside(&self, version: Version) -> Option<Duration> {
        let is_shared = self.may_be_bound() && !self.commands.is_empty() && version == Version::V5;
        is_shared.then_some(SESSION_BESIDE)
    }

    /// Whether these differ from the others in nothing but where files are: then it is the same
    /// account at the same broker, and the connection that stands need not be given up to try them.
    /// A certificate that the gateway keeps itself is no such file.
    pub fn is_same_but_for_files(&self, other: &Settings) -> bool {
        self.without_paths() == other.without_paths()
    }

    /// The same, with the files of the other; the identity only where `before`, by which these were
    /// made, names another one: the one in use may be a copy that the gateway keeps.
    pub fn with_files_of(&self, before: &Settings, other: &Settings) -> Settings {
        let mut settings = self.clone();
        settings.password_file.clone_from(&other.password_file);
        settings.jwt.clone_from(&other.jwt);
        if let (Some(tls), Some(was), Some(is)) = (&mut settings.tls, &before.tls, &other.tls) {
            tls.ca_file.clone_from(&is.ca_file);
            tls.revocation.file.clone_from(&is.revocation.file);
            if was.names_other_pair(is) {
                tls.identity.clone_from(&is.identity);
                tls.key_password.clone_from(&is.key_password);
            }
        }
        settings
    }

    fn without_paths(&self) -> Settings {
        let mut settings = self.clone();
        let hide = |path: &mut Option<PathBuf>| {
            if let Some(path) = path {
                *path = PathBuf::new();
            }
        };
        hide(&mut settings.password_file);
        if let Some(jwt) = &mut settings.jwt {
            jwt.key_file = PathBuf::new();
        }
        if let Some(tls) = &mut settings.tls {
            let is_kept_here = tls.is_kept_here();
            hide(&mut tls.ca_file);
            hide(&mut tls.revocation.file);
            hide(&mut tls.key_password);
            if let Some((certificate, key)) = tls.identity.as_mut().filter(|_| !is_kept_here) {
                (*certificate, *key) = Default::default();
            }
        }
        settings
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
    /// Whether the others name another certificate, key or password of it.
    pub fn names_other_pair(&self, other: &TlsSettings) -> bool {
        (&self.identity, &self.key_password) != (&other.identity, &other.key_password)
    }

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
