//! The interface between DTLS and the layers above: [`Engine`] handles datagrams, [`Sink`] receives
//! the results.
//!
//! An engine calls its sink while it handles a datagram, so that plaintext is passed on without a
//! copy or a queue. A sink must not call the engine; responses are sent after the round.
//!
//! [`ServerEngine`](super::ServerEngine) implements all of it. The `dimpl` engine has only PSK
//! identities, no connection ids (so it never calls [`Sink::moved`]), and does not export or import
//! sessions; the default methods of [`Engine`] and [`Sink`] cover these cases.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Keyring;
use super::alert::Alert;
use super::failure::{FAILURE_KINDS, FailureKind, HandshakeFailure};
use super::server::export::{ImportError, Origin, Purpose, StoreKey};
use super::server::{CertificateIdentity, Certificates, Clock};
use crate::proto::{Holder, Route};

/// Identifies one session within the process; never reused. Below 2^62, so that
/// [`Peer`](crate::proto::address::Peer) packs it with its kind into 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// The identity that the handshake proved.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerIdentity {
    /// The PSK identity (RFC 4279 §5), bytes as sent.
    Psk(Box<[u8]>),
    /// A certificate with a valid path to a configured anchor; the peer has proved possession of
    /// its key.
    Certificate(Arc<CertificateIdentity>),
    /// A configured raw public key (RFC 7250): SHA-256 of its DER SubjectPublicKeyInfo.
    RawPublicKey(Box<[u8; 32]>),
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerIdentity::Psk(identity) => write!(f, "{}", identity.escape_ascii()),
            PeerIdentity::Certificate(identity) => write!(f, "{identity}"),
            PeerIdentity::RawPublicKey(hash) => {
                f.write_str("sha256:")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerIdentity::Psk(identity) => write!(f, "Psk(\"{}\")", identity.escape_ascii()),
            PeerIdentity::Certificate(identity) => write!(f, "{identity:?}"),
            PeerIdentity::RawPublicKey(hash) => {
                f.write_str("RawPublicKey(")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(")")
            }
        }
    }
}

/// Limits of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sessions; default 10,000. A further one replaces the session with the longest idle time
    /// of the same [`Holder`], else that of all if it was idle for [`Limits::active`]; otherwise it
    /// is refused.
    pub sessions: usize,
    /// A session that had an authentic record within this time is not replaced by one of another
    /// holder; default 1 h.
    pub active: Duration,
    /// Most handshakes in progress; default 1,024. A further one replaces the oldest. They count
    /// from the valid cookie on, which proves the peer's address.
    pub half_open: usize,
    /// Most handshakes in progress from one source (IPv4 address or IPv6 /64); default 512. A hello
    /// beyond it is not answered, unless it comes from the address of a session.
    pub half_open_per_source: usize,
    /// Burst of handshakes that one source may begin; default 512. A completed handshake does not
    /// count. A hello beyond it is not answered; see [`throttle`](super::throttle).
    pub handshakes_burst: u32,
    /// Handshakes per second that one source may begin in addition; default 32.
    pub handshakes_per_second: u32,
    /// Burst of public-key operations for one source, each about the cost of a P-256 signature;
    /// default 1,024. Completed handshakes do not count. Beyond it a ClientHello is dropped, and
    /// the client's retransmission tries again; see [`throttle`](super::throttle).
    pub work_burst: u32,
    /// Public-key operations per second in addition; default 64.
    pub work_per_second: u32,
    /// Hellos without a valid cookie that are answered per second, in all; default 20,000, which is
    /// also the burst. Others are dropped, so that a flood leaves CPU time for the sessions. Hellos
    /// with a valid cookie do not count.
    pub hellos_per_second: u32,
    /// As `hellos_per_second`, for one source (IPv4 address or IPv6 /64); default 4,000.
    pub hellos_per_source: u32,
    /// A session without an authentic record for this time is closed; default 24 h.
    pub idle: Duration,
}

impl Limits {
    /// Limits with half of `half_open` for each source, and defaults for the rest.
    pub fn new(sessions: usize, half_open: usize, idle: Duration) -> Limits {
        Limits {
            sessions,
            active: Duration::from_secs(60 * 60),
            half_open,
            half_open_per_source: half_open.div_ceil(2),
            handshakes_burst: 512,
            handshakes_per_second: 32,
            work_burst: 1_024,
            work_per_second: 64,
            hellos_per_second: 20_000,
            hellos_per_source: 4_000,
            idle,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::new(10_000, 1_024, Duration::from_secs(24 * 60 * 60))
    }
}

/// The handshake policy. It may change while the engine runs, and then applies to new handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Most bytes of UDP payload in a datagram of a handshake, `200..=16384`; default 1,200, which
    /// fits every IPv6 path. Application data is sent in one datagram of any size.
    pub mtu: usize,
    /// Whether a client must offer the extended master secret (RFC 7627 §5.3); default false,
    /// because many deployed devices do not.
    pub require_extended_master_secret: bool,
    /// Whether clients that offer it get a connection id (RFC 9146); default true. Existing
    /// sessions keep theirs.
    pub connection_id: bool,
    /// A session is closed this long after its handshake; default never. Applies to existing
    /// sessions, too.
    pub max_session_lifetime: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            mtu: 1_200,
            require_extended_master_secret: false,
            connection_id: true,
            max_session_lifetime: None,
        }
    }
}

/// Why a session was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The peer sent close_notify.
    Peer,
    /// The peer sent this fatal alert (RFC 5246 §7.2).
    PeerAlert(u8),
    /// A new handshake from the same address was completed: the device restarted.
    Replaced,
    /// No authentic record for [`Limits::idle`].
    Idle,
    /// The table was full, and this session had the longest idle time.
    Evicted,
    /// Its device opened more than `max_sessions`, and this session had the longest idle time.
    Displaced,
    /// Its key was removed or changed, a certificate of its path was revoked, or its CA was
    /// removed.
    CredentialChanged,
    /// A certificate of its path has expired.
    Expired,
    /// It reached [`Policy::max_session_lifetime`], or its record numbers are exhausted.
    TooOld,
    /// A session of an earlier process that could not be resumed; its device was sent a fatal
    /// alert.
    Farewell,
    /// Too many records failed authentication, so a forgery would become likely.
    Forgery,
    /// The caller closed it.
    Requested,
    /// A defect of the engine; report it.
    Fault,
}

impl CloseCause {
    /// A constant text for logs and counters.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseCause::Peer => "closed by the peer",
            CloseCause::PeerAlert(_) => "fatal alert from the peer",
            CloseCause::Replaced => "replaced by a new handshake",
            CloseCause::Idle => "idle",
            CloseCause::Evicted => "evicted",
            CloseCause::Displaced => "displaced by another of its device",
            CloseCause::CredentialChanged => "its key or certificate was changed, removed or revoked",
            CloseCause::Expired => "certificate expired",
            CloseCause::TooOld => "max-session-lifetime",
            CloseCause::Farewell => "not taken over, device told so",
            CloseCause::Forgery => "too many forged records",
            CloseCause::Requested => "closed",
            CloseCause::Fault => "fault",
        }
    }
}

impl fmt::Display for CloseCause {
    /// [`CloseCause::as_str`], with the alert's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            CloseCause::PeerAlert(description) => write!(f, ": {}", Alert(*description)),
            _ => Ok(()),
        }
    }
}

/// Why plaintext was not sent. Nothing was transmitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No such session (any more).
    UnknownSession,
    /// More than 2^14 bytes (RFC 5246 §6.2.1), or than the peer's maximum fragment length (RFC 6066
    /// §4).
    TooLarge,
    /// The new address of the session is not validated, and its amplification limit is reached. It
    /// counts as a lost datagram; a retransmission may pass later.
    Unproven,
    /// A defect; the session was closed with [`CloseCause::Fault`].
    Fault,
}

/// A session, for `status`.
#[derive(Clone, Copy, Debug)]
pub struct SessionInfo<'a> {
    /// Its id.
    pub session: SessionId,
    /// The route of its last authentic record.
    pub route: &'a Route,
    /// The proven identity.
    pub identity: &'a PeerIdentity,
    /// IANA name of the cipher suite.
    pub suite: &'static str,
    /// Whether it has the extended master secret (RFC 7627).
    pub extended_master_secret: bool,
    /// Whether it has a connection id (RFC 9146).
    pub connection_id: bool,
    /// When the handshake was completed.
    pub established: Instant,
    /// When the last authentic record came.
    pub last_seen: Instant,
}

/// Counters since the start; they never decrease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams handled.
    pub datagrams: u64,
    /// Records dropped before any cryptography: malformed, impossible, plaintext on a live session,
    /// or of no session.
    pub records_refused: u64,
    /// Protected records that failed authentication or were replays.
    pub records_discarded: u64,
    /// Application data records received.
    pub records_received: u64,
    /// Application data records sent.
    pub records_sent: u64,
    /// ClientHellos without a valid cookie, which were answered with a HelloVerifyRequest.
    pub cookies_sent: u64,
    /// Handshakes begun: hellos with a valid cookie.
    pub handshakes_begun: u64,
    /// Of these, handshakes from the address of a session.
    pub handshakes_shadow: u64,
    /// Handshakes completed.
    pub handshakes_completed: u64,
    /// Handshakes that the client replaced by a new one.
    pub handshakes_restarted: u64,
    /// ClientHellos with a valid cookie not answered because of [`Limits::half_open_per_source`],
    /// [`Limits::handshakes_burst`], or another from the same address a moment ago.
    pub hellos_over_limit: u64,
    /// ClientHellos without a valid cookie dropped because of [`Limits::hellos_per_second`] or
    /// [`Limits::hellos_per_source`].
    pub hellos_shed: u64,
    /// ClientHellos dropped because of [`Limits::work_burst`].
    pub work_over_limit: u64,
    /// Failed handshakes by [`FailureKind`]; index with `kind as usize`.
    pub handshakes_failed: [u64; FAILURE_KINDS],
    /// Sessions closed because of [`Limits::sessions`].
    pub sessions_evicted: u64,
    /// Sessions closed because of [`Limits::idle`].
    pub sessions_idle: u64,
    /// Sessions closed because their device opened more than its `max_sessions`.
    pub sessions_displaced: u64,
    /// Sessions closed because their key was removed or changed.
    pub sessions_revoked: u64,
    /// Sessions closed because a certificate of their path expired.
    pub sessions_expired: u64,
    /// Sessions closed because of [`Policy::max_session_lifetime`].
    pub sessions_too_old: u64,
    /// Sessions of an earlier process whose devices were sent a fatal alert.
    pub sessions_farewell: u64,
    /// Sessions closed because too many of their records failed authentication.
    pub sessions_forged: u64,
    /// Changes of the address of a session.
    pub sessions_moved: u64,
    /// Sessions closed because of a defect in the engine. Report it if it is not zero.
    pub faults: u64,
}

impl Counters {
    /// Failed handshakes of one kind.
    pub fn failed(&self, kind: FailureKind) -> u64 {
        self.handshakes_failed[kind as usize]
    }
}

/// The DTLS sessions of all peers.
///
/// `now` must not decrease between calls. Call [`Engine::handle_timeout`] at
/// [`Engine::poll_timeout`]; earlier calls are allowed.
pub trait Engine {
    /// Handles one UDP datagram, which is decrypted in place.
    fn handle_datagram(&mut self, now: Instant, route: Route, datagram: &mut [u8], sink: &mut dyn Sink);

    /// Handles due timers: retransmissions, timeouts, expiry.
    fn handle_timeout(&mut self, now: Instant, sink: &mut dyn Sink);

    /// When [`Engine::handle_timeout`] must be called next. May change with every call; cheap.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Sends `plaintext` (at most 2^14 bytes) as one record in a separate datagram.
    ///
    /// # Errors
    /// [`SendError`].
    fn send(
        &mut self,
        now: Instant,
        session: SessionId,
        plaintext: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), SendError>;

    /// Marks the current address of a session as validated: the peer answered a message that it
    /// could only receive there. The engine lifts the amplification limit of the address.
    fn confirm_address(&mut self, _session: SessionId) {}

    /// Sets the time for verifying certificates. Call it at start, when the verdict on the clock
    /// changes, and about once a second, because the engine uses no other time; before the first
    /// call it is 1970 and not trusted. Sessions whose certificates have expired are closed by the
    /// next [`Engine::handle_timeout`], which is then due at once. An engine without certificates
    /// ignores it.
    fn set_clock(&mut self, _clock: Clock) {}

    /// Sets the handshake policy, as far as the engine supports it.
    fn set_policy(&mut self, _policy: Policy) {}

    /// Replaces the server key, anchors, revocation lists and raw public keys. Sessions stay open,
    /// except those whose raw key was removed, or whose certification path has a revoked or expired
    /// certificate or ends at a removed CA. Handshakes in progress are verified with the current
    /// credentials when their certificate arrives, and again when they complete. An engine without
    /// certificates ignores it.
    fn replace_certificates(&mut self, _now: Instant, _certificates: Certificates, _sink: &mut dyn Sink) {}

    /// Exports a sealed session: about 250 bytes. For [`Purpose::Store`] one write is sufficient,
    /// when the session is established. `None` if it cannot be imported later: there is no such
    /// session, or the engine does not support it. A session whose nonces are its record numbers
    /// (ChaCha20-Poly1305) is not handed over, and is stored only so that its device can be sent a
    /// fatal alert.
    fn export(
        &mut self,
        _now: Instant,
        _key: &StoreKey,
        _session: SessionId,
        _purpose: Purpose,
    ) -> Option<Vec<u8>> {
        None
    }

    /// Restores a session of an earlier process; [`Sink::connected`] is called with its new id.
    /// Call it at start, after setting the credentials, with the most recently used session last.
    /// The time between the processes does not count as idle time.
    ///
    /// A session that cannot be resumed has an id as well, but [`Sink::connected`] is not called
    /// and [`Engine::session`] does not know it. The first authentic record of its device is
    /// answered with a fatal alert, so that the device handshakes again; then [`Sink::closed`] is
    /// called with [`CloseCause::Farewell`].
    ///
    /// # Errors
    /// [`ImportError`]. If the session could be decrypted, its device is sent the same alert, as
    /// long as this process runs.
    fn import(
        &mut self,
        _now: Instant,
        _key: &StoreKey,
        _sealed: &[u8],
        _origin: Origin,
        _sink: &mut dyn Sink,
    ) -> Result<SessionId, ImportError> {
        Err(ImportError::Unsupported)
    }

    /// Closes a session with close_notify. An unknown session is ignored.
    fn close(&mut self, now: Instant, session: SessionId, sink: &mut dyn Sink);

    /// Closes all sessions with close_notify, and drops handshakes silently.
    fn close_all(&mut self, now: Instant, sink: &mut dyn Sink);

    /// Replaces the pre-shared keys. Sessions and handshakes whose key was removed or changed are
    /// closed at once.
    fn replace_keyring(&mut self, now: Instant, keyring: Keyring, sink: &mut dyn Sink);

    /// The number of established sessions.
    fn session_count(&self) -> usize;

    /// The number of handshakes in progress.
    fn half_open_count(&self) -> usize;

    /// One session.
    fn session(&self, session: SessionId) -> Option<SessionInfo<'_>>;

    /// Calls `visit` for every session, the longest idle time first.
    fn sessions(&self, visit: &mut dyn FnMut(SessionInfo<'_>));

    /// The counters.
    fn counters(&self) -> &Counters;
}

/// Receives the output of an [`Engine`].
pub trait Sink {
    /// Sends `datagram` to `route`.
    fn transmit(&mut self, route: &Route, datagram: &[u8]);

    /// A peer has proven its identity. Returns the holder its sessions are counted for; `None`
    /// refuses it. Called before a session is established or imported.
    fn claim(&mut self, identity: &PeerIdentity) -> Option<Holder> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        // By default each identity is a separate holder.
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        Some(Holder {
            number: hasher.finish(),
            max_sessions: Holder::SESSIONS,
            max_handshakes: Holder::HANDSHAKES,
        })
    }

    /// A handshake is complete. Comes before the first [`Sink::data`] of the session.
    fn connected(&mut self, session: SessionId, route: &Route, identity: &PeerIdentity);

    /// The content of one application data record.
    fn data(&mut self, session: SessionId, plaintext: &[u8]);

    /// A session was closed; it has no further events.
    fn closed(&mut self, session: SessionId, cause: CloseCause);

    /// A handshake failed. Called only for addresses validated by a cookie; still, any host can
    /// cause it, so log lines need a rate limit.
    fn failed(&mut self, route: &Route, failure: &HandshakeFailure);

    /// An authentic record came from a new address, which is now the address of the session. Only
    /// engines with connection ids call it.
    fn moved(&mut self, _session: SessionId, _route: &Route) {}

    /// A protected record belongs to no session. Its sender may still use a closed session; the
    /// record is not authenticated.
    fn unknown_session(&mut self, _route: &Route) {}
}
