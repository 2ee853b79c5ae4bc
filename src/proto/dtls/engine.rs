//! The seam between DTLS and everything above it: [`Engine`] takes datagrams, [`Sink`] is told what
//! came of them.
//!
//! An engine calls its sink while it works, so that plaintext is handed on without a copy or a
//! queue. A sink must not call the engine back; answers are sent after the round.
//!
//! [`ServerEngine`](super::ServerEngine) does all of it. `DimplEngine` has pre-shared keys only: no
//! connection ids (RFC 9146), and so no [`Sink::moved`]; no certificates, export or import, which
//! have defaults here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Keyring;
use super::alert::Alert;
use super::failure::{FAILURE_KINDS, FailureKind, HandshakeFailure};
use super::server::export::{ImportError, Origin, Purpose, StoreKey};
use super::server::{CertificateIdentity, Certificates, Clock};
use crate::proto::{Holder, Route};

/// Names one session for as long as the process runs; never used twice. Below 2^62, so that
/// [`Peer`](crate::proto::address::Peer) packs it with its kind into 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Who the handshake proved the peer to be.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerIdentity {
    /// The PSK identity (RFC 4279 §5), bytes as sent.
    Psk(Box<[u8]>),
    /// A certificate that leads to one of our anchors, and whose key the peer has.
    Certificate(Arc<CertificateIdentity>),
    /// A raw public key we know (RFC 7250): SHA-256 of its DER SubjectPublicKeyInfo.
    RawPublicKey(Box<[u8; 32]>),
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

/// How much an engine may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sessions; default 10,000. One more replaces the longest idle of the same [`Holder`],
    /// else the longest idle of all if that was idle for [`Limits::active`]; otherwise it is
    /// refused.
    pub sessions: usize,
    /// A session that had an authentic record within this time is not replaced by one of another
    /// holder; default 1 h.
    pub active: Duration,
    /// Handshakes a [`Holder`] may complete in a minute; default 120. The burst is the same, or
    /// twice its `max_sessions` if that is more.
    pub completed_per_minute: u32,
    /// Most handshakes under way; default 1,024. The oldest goes first. They are counted from the
    /// moment the peer has shown that it receives at its address.
    pub half_open: usize,
    /// Most handshakes under way from one source (IPv4 address or IPv6 /64); default 512. A hello
    /// beyond it is not answered, unless it comes from where a session is.
    pub half_open_per_source: usize,
    /// Handshakes one source may begin at once; default 512. One that is completed does not count.
    /// A hello beyond it is not answered; see [`throttle`](super::throttle).
    pub handshakes_burst: u32,
    /// How many more it may begin each second; default 32.
    pub handshakes_per_second: u32,
    /// Burst of public-key operations for one source, each about the cost of a P-256 signature;
    /// default 1,024. Those of completed handshakes do not count. Beyond it a ClientHello is
    /// dropped, and the client's retransmission tries again; see [`throttle`](super::throttle).
    pub work_burst: u32,
    /// How many of these are added each second; default 64.
    pub work_per_second: u32,
    /// How many hellos without a valid cookie are answered each second, in all; default 20,000,
    /// which is also the burst. Others are dropped, so that a flood leaves time for the sessions.
    /// Hellos with a valid cookie do not count.
    pub hellos_per_second: u32,
    /// The same for one source (IPv4 address or IPv6 /64); default 4,000.
    pub hellos_per_source: u32,
    /// A session without an authentic record for so long is closed; default 24 h, which devices
    /// that report once a day survive by a little.
    pub idle: Duration,
}

impl Limits {
    /// With half of the handshakes for any one source.
    pub fn new(sessions: usize, half_open: usize, idle: Duration) -> Limits {
        Limits {
            sessions,
            active: Duration::from_secs(60 * 60),
            completed_per_minute: 120,
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

/// How handshakes are treated; may change while the engine runs, and then holds for what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Most bytes of UDP payload in a datagram of a handshake, `200..=16384`; default 1,200, which
    /// any path with IPv6 takes. Data is sent as one datagram, however large.
    pub mtu: usize,
    /// Whether a client must offer the extended master secret (RFC 7627 §5.3); default false, since
    /// many devices in the field do not.
    pub require_extended_master_secret: bool,
    /// Whether clients that offer it get a connection id (RFC 9146); default true. Sessions keep
    /// theirs.
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

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The peer said close_notify.
    Peer,
    /// The peer sent this fatal alert (RFC 5246 §7.2).
    PeerAlert(u8),
    /// A new handshake from the same address was completed: the device restarted.
    Replaced,
    /// No authentic record for [`Limits::idle`].
    Idle,
    /// Room was needed and this was the longest idle.
    Evicted,
    /// Its device opened one more than it may have, and this was the longest idle.
    Displaced,
    /// Its key was removed or changed, a certificate of its path was revoked, or its CA was
    /// removed.
    CredentialChanged,
    /// A certificate of its path has expired.
    Expired,
    /// It reached [`Policy::max_session_lifetime`], or its record numbers are used up.
    TooOld,
    /// A session of an earlier process that could not be resumed; its device was sent a fatal
    /// alert.
    Farewell,
    /// So many records did not open that one might soon be forged.
    Forgery,
    /// The caller asked.
    Requested,
    /// The engine could not go on with it; a defect worth reporting.
    Fault,
}

impl CloseCause {
    /// A constant word.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseCause::Peer => "closed by the peer",
            CloseCause::PeerAlert(_) => "fatal alert from the peer",
            CloseCause::Replaced => "replaced by a new handshake",
            CloseCause::Idle => "idle",
            CloseCause::Evicted => "evicted",
            CloseCause::Displaced => "displaced by another of its device",
            CloseCause::CredentialChanged => "key removed or changed",
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
    /// More than 2^14 bytes (RFC 5246 §6.2.1), or than the peer takes in one record (RFC 6066 §4).
    TooLarge,
    /// The session moved to an address that has not shown that it receives, and that may be sent no
    /// more for now. Like a datagram lost on the way: what is repeated later may pass.
    Unproven,
    /// The engine could not; the session has been closed with [`CloseCause::Fault`].
    Fault,
}

/// What [`Engine`] knows of one session, for `status`.
#[derive(Clone, Copy, Debug)]
pub struct SessionInfo<'a> {
    /// Its id.
    pub session: SessionId,
    /// Where its last authentic record came from.
    pub route: &'a Route,
    /// Who it is.
    pub identity: &'a PeerIdentity,
    /// IANA name of the cipher suite.
    pub suite: &'static str,
    /// Whether its keys are bound to its whole handshake (RFC 7627).
    pub extended_master_secret: bool,
    /// Whether it is found by a connection id, wherever its peer is (RFC 9146).
    pub connection_id: bool,
    /// When the handshake was completed.
    pub established: Instant,
    /// When the last authentic record came.
    pub last_seen: Instant,
}

/// What happened since the start. All only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams taken.
    pub datagrams: u64,
    /// Records dropped before any cryptography: malformed, impossible, plaintext on a live session,
    /// or of no session.
    pub records_refused: u64,
    /// Protected records that did not open or were replays.
    pub records_discarded: u64,
    /// Application data records opened.
    pub records_received: u64,
    /// Application data records sent.
    pub records_sent: u64,
    /// ClientHellos without a valid cookie, which were answered with one and forgotten.
    pub cookies_sent: u64,
    /// Handshakes begun: hellos with a valid cookie.
    pub handshakes_begun: u64,
    /// Of these, the ones from the address of a live session.
    pub handshakes_shadow: u64,
    /// Handshakes completed.
    pub handshakes_completed: u64,
    /// Handshakes that the client left for another of its own.
    pub handshakes_restarted: u64,
    /// ClientHellos with a valid cookie not answered because of [`Limits::half_open_per_source`],
    /// [`Limits::handshakes_burst`], or another from the same address a moment ago.
    pub hellos_over_limit: u64,
    /// ClientHellos without a good cookie dropped because of [`Limits::hellos_per_second`] or
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
    /// Sessions closed because too many of their records did not open.
    pub sessions_forged: u64,
    /// Times a session was found at another address.
    pub sessions_moved: u64,
    /// Times a session was given up because of a defect in the engine. Not zero: report it.
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
/// `now` never goes backwards between calls. When the time that [`Engine::poll_timeout`] gives has
/// come, call [`Engine::handle_timeout`]; earlier calls do no harm.
pub trait Engine {
    /// Takes one UDP datagram. Its bytes may be changed.
    fn handle_datagram(&mut self, now: Instant, route: Route, datagram: &mut [u8], sink: &mut dyn Sink);

    /// Retransmits, gives up, expires what is due at `now`.
    fn handle_timeout(&mut self, now: Instant, sink: &mut dyn Sink);

    /// When [`Engine::handle_timeout`] is wanted next. May change with every call; cheap to ask.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Sends `plaintext` (at most 2^14 bytes) as one record in one datagram of its own.
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

    /// The peer has shown that it receives where it is: it answered something that only reached it
    /// there. An engine that limits what it sends to an address a session moved to need do so no
    /// longer.
    fn confirm_address(&mut self, _session: SessionId) {}

    /// Sets the time by which certificates are judged. To be called at start, whenever the verdict
    /// on the clock changes, and about once a second, because certificates are judged by no later
    /// one; before the first call it is 1970 and not trusted. Sessions whose certificates have
    /// expired are closed by the next [`Engine::handle_timeout`], which is then due at once. An
    /// engine without certificates ignores it.
    fn set_clock(&mut self, _clock: Clock) {}

    /// Treats handshakes so from now on, as far as the engine can do otherwise at all.
    fn set_policy(&mut self, _policy: Policy) {}

    /// Takes another key of ours, other anchors, revocation lists, raw keys. Sessions go on, except
    /// those whose raw key is no longer known, or whose certification path has a certificate that
    /// is revoked or expired, or ends at a CA that was removed. Handshakes under way are judged by
    /// the credentials in force when their certificate arrives, and again when they complete. An
    /// engine without certificates ignores it.
    fn replace_certificates(&mut self, _now: Instant, _certificates: Certificates, _sink: &mut dyn Sink) {}

    /// A session, sealed: about 250 bytes. For [`Purpose::Store`] it is worth writing once, when it
    /// is established. `None` if it cannot be imported later: there is no such session, or the
    /// engine does not support it. A session whose nonces are its record numbers
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

    /// Takes over a session of an earlier process; [`Sink::connected`] is called with its new id.
    /// To be called at start, when the credentials are in place; the most recently used should come
    /// last. Time it was away does not count as idle.
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

    /// Ends a session with close_notify. An unknown one is ignored.
    fn close(&mut self, now: Instant, session: SessionId, sink: &mut dyn Sink);

    /// Ends everything: close_notify to every session, handshakes dropped without a word.
    fn close_all(&mut self, now: Instant, sink: &mut dyn Sink);

    /// Takes new credentials. Sessions and handshakes whose key is gone or another are ended at
    /// once.
    fn replace_keyring(&mut self, now: Instant, keyring: Keyring, sink: &mut dyn Sink);

    /// Established sessions.
    fn session_count(&self) -> usize;

    /// Handshakes under way.
    fn half_open_count(&self) -> usize;

    /// One session.
    fn session(&self, session: SessionId) -> Option<SessionInfo<'_>>;

    /// Every session, the longest idle first.
    fn sessions(&self, visit: &mut dyn FnMut(SessionInfo<'_>));

    /// What happened so far.
    fn counters(&self) -> &Counters;
}

/// Where an [`Engine`] puts what it has to say.
pub trait Sink {
    /// Send `datagram` to `route`.
    fn transmit(&mut self, route: &Route, datagram: &[u8]);

    /// A peer has proven its identity. Returns the holder its sessions are counted for; `None`
    /// refuses it. Called before a session is established or imported.
    fn claim(&mut self, identity: &PeerIdentity) -> Option<Holder> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        // Each identity is a holder of its own.
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        Some(Holder { number: hasher.finish(), max_sessions: Holder::SESSIONS })
    }

    /// A handshake is complete. Comes before the first [`Sink::data`] of the session.
    fn connected(&mut self, session: SessionId, route: &Route, identity: &PeerIdentity);

    /// The content of one application data record.
    fn data(&mut self, session: SessionId, plaintext: &[u8]);

    /// A session is over; nothing more comes of it.
    fn closed(&mut self, session: SessionId, cause: CloseCause);

    /// A handshake failed. Only for addresses that have shown that they receive; still, whoever can
    /// reach us can trigger it: limit its rate.
    fn failed(&mut self, route: &Route, failure: &HandshakeFailure);

    /// An authentic record came from a new address; from now on the session is there. Only engines
    /// with connection ids call it.
    fn moved(&mut self, _session: SessionId, _route: &Route) {}

    /// A protected record arrived that belongs to no session. Its sender may still use a session
    /// that is over here; the record is not authenticated.
    fn unknown_session(&mut self, _route: &Route) {}
}
