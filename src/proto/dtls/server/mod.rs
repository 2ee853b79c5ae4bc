//! The DTLS 1.2 server of this crate, for constrained devices (RFC 6347, RFC 7252 §9, RFC 7925). It
//! implements [`Engine`]. **Not audited.**
//!
//! Pre-shared keys with and without ECDHE, certificates and raw public keys with ECDHE_ECDSA;
//! CCM_8, CCM, GCM and ChaCha20-Poly1305; connection ids; extended master secret if offered;
//! sessions that survive a restart. No renegotiation, resumption or compression, and no suites with
//! RSA or CBC.
//!
//! From the wire inwards:
//!
//! * `wire` parses datagrams; `intake` assigns records to handshakes and sessions; `outcome` ends
//!   them.
//! * `negotiation` selects the parameters from a hello; `handshake` performs the rest, with
//!   `reassembly` and `flight` for its messages and `schedule` for its keys. [`outline`] checks the
//!   structure of a chain before any signature, `certificate` verifies the rest, `certification` is
//!   the stored path, and `name` parses names; [`bundle`] parses configured files.
//! * `protection` encrypts and decrypts records with an `aead`, `replay` detects replayed records,
//!   `session` is the state of a session.
//! * [`export`] and `resume` restore sessions after a restart; `review` closes expired ones.
//!
//! The effect of a record, by the state of its address:
//!
//! | record | no session | handshake in progress | session |
//! |---|---|---|---|
//! | plaintext ClientHello | cookie, or a handshake | the flight again, or another handshake | a shadow handshake |
//! | other plaintext message | nothing | the next step | nothing |
//! | plaintext alert | nothing | fails it after 5 s, unless it continues | nothing |
//! | ChangeCipherSpec | nothing | nothing | nothing |
//! | protected, authentic | – | Finished: a session | data, alert; Finished: the server's Finished again |
//! | protected, not authentic | nothing | with the length of a Finished: one alert | is counted |
//!
//! Amplification: an address that is not validated gets at most one HelloVerifyRequest per
//! datagram, which is not longer than the datagram. A new address of a session gets at most three
//! times the bytes received from it, until it is validated.
//!
//! Random values come from the seed given to [`ServerEngine::new`]; only for ECDHE keys and ECDSA
//! signatures aws-lc-rs uses its own generator.

mod aead;
mod amplification;
pub mod bundle;
mod certificate;
mod certification;
mod chance;
pub mod export;
mod flight;
mod handshake;
mod identity;
mod intake;
mod name;
mod negotiation;
mod outcome;
pub mod outline;
mod protection;
mod reassembly;
mod replay;
mod resume;
mod review;
mod revocation;
mod schedule;
mod session;
mod suites;
mod wire;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

pub use self::certificate::{Certificates, Clock, CredentialError, ServerKey, Trust};
use self::certification::Paths;
use self::chance::Chance;
use self::export::{ImportError, Origin, Purpose, StoreKey};
pub use self::identity::CertificateIdentity;
use self::identity::Issuers;
pub use self::name::{DistinguishedName, NameError};
use self::review::Review;
pub use self::revocation::{ListOutline, ListPolicy, RevocationLists};
use self::session::{Peer, Stage};
use self::suites::KeyExchange;
pub use self::suites::names as suite_names;
use self::wire::Cid;
use super::cookie::CookieKey;
use super::engine::{
    CloseCause, Counters, Engine, Limits, PeerIdentity, Policy, SendError, SessionId, SessionInfo, Sink,
};
use super::failure::HandshakeFailure;
use super::peer_address::PeerAddress;
use super::record;
use super::session_table::{Phase, SessionTable};
use super::{Keyring, alert};
use crate::clock::UnixTime;
use crate::proto::Route;

/// How an engine behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its limits.
    pub limits: Limits,
    /// [`Policy::mtu`]
    pub mtu: usize,
    /// [`Policy::require_extended_master_secret`]
    pub require_extended_master_secret: bool,
    /// [`Policy::connection_id`]
    pub connection_id: bool,
    /// [`Policy::max_session_lifetime`]
    pub max_session_lifetime: Option<Duration>,
    /// IANA numbers of the allowed suites; default all supported ones.
    pub suites: Option<Box<[u16]>>,
    /// Records failing authentication until a session is closed; default by cipher: 2^24 with tags
    /// of 8 bytes (a forgery then has had a chance of 2^-40), 2^23 with CCM, 2^36 with GCM and
    /// ChaCha20-Poly1305.
    pub forgeries: Option<u64>,
}

impl Settings {
    /// Settings with these limits and policy, and defaults for the rest.
    pub fn new(limits: Limits, policy: Policy) -> Settings {
        Settings {
            limits,
            mtu: policy.mtu,
            require_extended_master_secret: policy.require_extended_master_secret,
            connection_id: policy.connection_id,
            max_session_lifetime: policy.max_session_lifetime,
            suites: None,
            forgeries: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings::new(Limits::default(), Policy::default())
    }
}

/// An MTU within its bounds.
fn allowed(mtu: usize) -> usize {
    mtu.clamp(200, record::PLAINTEXT_MAX)
}

/// State shared by handshakes.
struct Common {
    settings: Settings,
    keyring: Keyring,
    certificates: Certificates,
    clock: Clock,
    /// The secret for decoy keys of unknown identities.
    decoy: Zeroizing<[u8; 32]>,
    chance: Chance,
    issuers: Issuers,
    paths: Paths,
}

impl Common {
    /// The most public-key operations a handshake with this key exchange can take.
    fn work(&self, exchange: KeyExchange) -> u32 {
        let chain = if exchange.has_psk() { 0 } else { self.certificates.trust.work(self.clock.trusted) };
        exchange.work() + chain
    }
}

/// A DTLS 1.2 server; see the module.
pub struct ServerEngine {
    common: Common,
    cookie_key: CookieKey,
    table: SessionTable<Box<Peer>>,
    /// Who our connection ids name.
    cids: HashMap<Cid, SessionId>,
    /// The deadlines of handshakes.
    deadlines: BTreeSet<(Instant, SessionId)>,
    /// Buffer for decrypted records.
    scratch: Vec<u8>,
    /// Buffer for outgoing datagrams.
    outgoing: Vec<u8>,
    /// When the first session has to be checked for expiry.
    review: Review,
    question: Question,
    /// Addresses of recently failed handshakes, whose late records are not reported as of an
    /// unknown session.
    failed: VecDeque<(PeerAddress, Instant)>,
    counters: Counters,
}

/// Most addresses in [`ServerEngine::failed`], and for how long they stay.
const FAILED_MAX: usize = 256;
const FAILED_FOR: Duration = Duration::from_secs(10);

/// The state of the current datagram that limits the answers to an unvalidated address.
#[derive(Clone, Copy, Default)]
struct Question {
    bytes: usize,
    is_answered: bool,
}

impl ServerEngine {
    /// An engine without sessions. `seed` must be 32 cryptographically random bytes, unique for
    /// each process: two processes with one seed and one exported session would repeat a nonce.
    pub fn new(
        now: Instant,
        mut settings: Settings,
        keyring: Keyring,
        certificates: Certificates,
        seed: &[u8; 32],
    ) -> ServerEngine {
        settings.mtu = allowed(settings.mtu);
        ServerEngine {
            table: SessionTable::new(settings.limits),
            cookie_key: CookieKey::new(now, &chance::derive(seed, b"cookie")),
            common: Common {
                settings,
                keyring,
                certificates,
                clock: Clock { time: UnixTime(0), trusted: false },
                decoy: chance::derive(seed, b"decoy"),
                chance: Chance::new(seed, b"chance"),
                issuers: Issuers::default(),
                paths: Paths::default(),
            },
            review: Review::default(),
            question: Question::default(),
            failed: VecDeque::new(),
            cids: HashMap::new(),
            deadlines: BTreeSet::new(),
            scratch: Vec::new(),
            outgoing: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Reports a protected record that belongs to no session.
    fn tell_unknown(&mut self, now: Instant, route: &Route, sink: &mut dyn Sink) {
        let address = PeerAddress::from(route);
        let is_late = |(failed, at): &(PeerAddress, Instant)| *failed == address && now < *at + FAILED_FOR;
        if !self.failed.iter().any(is_late) {
            sink.unknown_session(route);
        }
    }

    fn info<'a>(&'a self, session: SessionId, peer: &'a Peer) -> Option<SessionInfo<'a>> {
        let held = peer.session()?;
        Some(SessionInfo {
            session,
            route: &peer.route,
            identity: &held.identity,
            suite: held.suite.name(),
            extended_master_secret: held.extended_master_secret,
            connection_id: held.own_cid.is_some(),
            established: held.established,
            last_seen: self.table.since(session)?,
        })
    }
}

impl Engine for ServerEngine {
    fn handle_datagram(&mut self, now: Instant, route: Route, datagram: &mut [u8], sink: &mut dyn Sink) {
        self.counters.datagrams += 1;
        self.question = Question { bytes: datagram.len(), is_answered: false };
        let mut rest = &*datagram;
        while !rest.is_empty() {
            match wire::next_record(&mut rest) {
                Some(record) => self.handle_record(now, &route, &record, sink),
                None => {
                    self.counters.records_refused += 1;
                    return;
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, sink: &mut dyn Sink) {
        while let Some((deadline, session)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.tick(now, session, sink);
        }
        let idle = self.table.limits().idle;
        while let Some(session) = self.table.oldest(Phase::Live)
            && self.table.since(session).is_some_and(|since| since + idle <= now)
        {
            self.end(now, session, CloseCause::Idle, sink);
        }
        while let Some(session) = self.table.oldest(Phase::Farewell)
            && self.table.since(session).is_some_and(|since| since + idle <= now)
        {
            self.end(now, session, CloseCause::Idle, sink);
        }
        self.review(now, sink);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let handshake = self.deadlines.first().map(|(deadline, _)| *deadline);
        let idle = self.table.limits().idle;
        let idle = [Phase::Live, Phase::Farewell].into_iter().filter_map(|phase| {
            let since = self.table.oldest(phase).and_then(|oldest| self.table.since(oldest));
            since.map(|since| since + idle)
        });
        let review = self.review.deadline(&self.common.settings, self.common.clock);
        handshake.into_iter().chain(idle).chain(review).min()
    }

    fn send(
        &mut self,
        now: Instant,
        session: SessionId,
        plaintext: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), SendError> {
        let peer = self.table.get_mut(session).ok_or(SendError::UnknownSession)?;
        let Stage::Session(held) = &mut peer.stage else { return Err(SendError::UnknownSession) };
        // With a connection id the content type counts as one byte of the plaintext (RFC 9146 §5).
        let inner = plaintext.len() + usize::from(!held.peer_cid.is_empty());
        if plaintext.len() > usize::from(held.limit) || inner > record::PLAINTEXT_MAX {
            return Err(SendError::TooLarge);
        }
        if held.protection.is_spent() {
            self.end(now, session, CloseCause::TooOld, sink);
            return Err(SendError::UnknownSession);
        }
        if !held.spend(held.size_of(plaintext.len())) {
            return Err(SendError::Unproven);
        }
        self.outgoing.clear();
        let sealed = held.protection.seal(
            &mut self.outgoing,
            record::APPLICATION_DATA,
            &held.peer_cid,
            plaintext,
            &mut self.common.chance,
        );
        if sealed.is_none() {
            self.end(now, session, CloseCause::Fault, sink);
            return Err(SendError::Fault);
        }
        self.counters.records_sent += 1;
        sink.transmit(&peer.route, &self.outgoing);
        Ok(())
    }

    fn confirm_address(&mut self, session: SessionId) {
        if let Some(held) = self.table.get_mut(session).and_then(|peer| peer.session_mut()) {
            held.credit = None;
        }
    }

    fn set_clock(&mut self, clock: Clock) {
        self.common.clock = clock;
    }

    fn set_policy(&mut self, policy: Policy) {
        let settings = &mut self.common.settings;
        settings.mtu = allowed(policy.mtu);
        settings.require_extended_master_secret = policy.require_extended_master_secret;
        settings.connection_id = policy.connection_id;
        settings.max_session_lifetime = policy.max_session_lifetime;
    }

    fn replace_certificates(&mut self, now: Instant, certificates: Certificates, sink: &mut dyn Sink) {
        self.common.certificates = certificates;
        self.judge_all(now, sink);
    }

    fn export(
        &mut self,
        now: Instant,
        key: &StoreKey,
        session: SessionId,
        purpose: Purpose,
    ) -> Option<Vec<u8>> {
        self.export_session(now, key, session, purpose)
    }

    fn import(
        &mut self,
        now: Instant,
        key: &StoreKey,
        sealed: &[u8],
        origin: Origin,
        sink: &mut dyn Sink,
    ) -> Result<SessionId, ImportError> {
        self.import_session(now, key, sealed, origin, sink)
    }

    fn close(&mut self, now: Instant, session: SessionId, sink: &mut dyn Sink) {
        if self.table.phase(session) == Some(Phase::Live) {
            self.end(now, session, CloseCause::Requested, sink);
        }
    }

    fn close_all(&mut self, now: Instant, sink: &mut dyn Sink) {
        while let Some(session) = self.table.oldest(Phase::Live) {
            self.end(now, session, CloseCause::Requested, sink);
        }
        for phase in [Phase::HalfOpen, Phase::Farewell] {
            while let Some(session) = self.table.oldest(phase) {
                self.remove(session);
            }
        }
    }

    fn replace_keyring(&mut self, now: Instant, keyring: Keyring, sink: &mut dyn Sink) {
        let before = std::mem::replace(&mut self.common.keyring, keyring);
        let keyring = &self.common.keyring;
        let stale: Vec<SessionId> = self
            .table
            .iter(Phase::Live)
            .filter(|(_, peer)| match peer.session().map(|session| &session.identity) {
                Some(PeerIdentity::Psk(identity)) => !before.agrees(keyring, identity),
                _ => false,
            })
            .map(|(session, _)| session)
            .collect();
        let half_open: Vec<(SessionId, Box<[u8]>)> = self
            .table
            .iter(Phase::HalfOpen)
            .filter_map(|(session, peer)| {
                let Stage::Handshake(handshake) = &peer.stage else { return None };
                let claim = handshake.claim().filter(|_| handshake.is_known())?;
                (!before.agrees(keyring, claim)).then(|| (session, claim.into()))
            })
            .collect();
        for session in stale {
            self.end(now, session, CloseCause::CredentialChanged, sink);
        }
        for (session, claim) in half_open {
            let failure = HandshakeFailure::CredentialChanged(claim);
            self.fail(now, session, Some(alert::HANDSHAKE_FAILURE), &failure, sink);
        }
    }

    fn session_count(&self) -> usize {
        self.table.count(Phase::Live)
    }

    fn half_open_count(&self) -> usize {
        self.table.count(Phase::HalfOpen)
    }

    fn session(&self, session: SessionId) -> Option<SessionInfo<'_>> {
        self.info(session, self.table.get(session)?)
    }

    fn sessions(&self, visit: &mut dyn FnMut(SessionInfo<'_>)) {
        for (session, peer) in self.table.iter(Phase::Live) {
            if let Some(info) = self.info(session, peer) {
                visit(info);
            }
        }
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
