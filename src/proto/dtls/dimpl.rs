//! [`Engine`] by the `dimpl` crate: TLS_PSK_WITH_AES_128_CCM_8 with extended master secret.
//!
//! An instance of `dimpl` is one connection without an address; this module adds the rest:
//!
//! * It parses the record headers and passes an instance only records that are valid in its state,
//!   one at a time. `dimpl` treats some forgeable datagrams as fatal (a plaintext alert or a bad
//!   record during the handshake), queues others, and discards a whole datagram for one bad record
//!   in it.
//!
//!   | record | passed to |
//!   |---|---|
//!   | ClientHello with a valid cookie | the handshake with its random, else a new one |
//!   | plaintext ClientKeyExchange | the handshake, else the session, for its Finished |
//!   | plaintext ChangeCipherSpec | the handshake |
//!   | plaintext alert | recorded; the handshake has 5 s to disprove it |
//!   | protected, with the length of a Finished | the handshake, if it has keys |
//!   | protected alert or data | the session |
//!   | any other | dropped |
//!
//! * Its cookie is stateless ([`cookie`](super::cookie)). `dimpl` would keep 8 kB for a hello with
//!   a spoofed address, and retransmit HelloVerifyRequest. [`peer::Peer::begin`] puts an instance
//!   into the state after its own HelloVerifyRequest.
//! * After every change an instance is polled until idle, so that no two messages share a datagram.
//! * It reports the cause of a failed handshake and sends the client an alert, which `dimpl` does
//!   not. The client cannot distinguish an unknown identity from a wrong key (RFC 4279 §2).
//! * Only handshakes have timers; a session only has its place in the idle queue.
//! * A panic in `dimpl` ends only that session or handshake, and is counted.

mod intake;
mod outcome;
mod peer;
mod provider;
mod resolver;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use self::peer::{Peer, Stage};
use self::resolver::Resolver;
use super::cookie::CookieKey;
use super::engine::{
    CloseCause, Counters, Engine, Limits, PeerIdentity, SendError, SessionId, SessionInfo, Sink,
};
use super::failure::HandshakeFailure;
use super::record;
use super::session_table::{Phase, SessionTable};
use super::{Keyring, suite};
use crate::proto::Route;

/// Buffer size for one output of an instance, in bytes. With a smaller one `dimpl` stops
/// permanently.
const SCRATCH: usize = 64 * 1024;

/// An [`Engine`] that uses the `dimpl` crate.
pub struct DimplEngine {
    config: Arc<::dimpl::Config>,
    resolver: Arc<Resolver>,
    cookie_key: CookieKey,
    table: SessionTable<Box<Peer>>,
    /// When each handshake wants [`DimplEngine::tick`].
    deadlines: BTreeSet<(Instant, SessionId)>,
    scratch: Box<[u8]>,
    /// Whether the current datagram was already answered with a HelloVerifyRequest.
    is_answered: bool,
    counters: Counters,
}

/// The cryptography failed its self-test; DTLS cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupError(String);

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DTLS cannot be set up: {}", self.0)
    }
}

impl std::error::Error for SetupError {}

impl DimplEngine {
    /// An engine without sessions. `secret` is the key of the cookies: random bytes, new for each
    /// process.
    ///
    /// # Errors
    /// [`SetupError`], which depends only on the machine.
    pub fn new(
        now: Instant,
        limits: Limits,
        keyring: Keyring,
        secret: &[u8; 32],
    ) -> Result<DimplEngine, SetupError> {
        let resolver = Arc::new(Resolver::new(keyring));
        let config = ::dimpl::Config::builder()
            .with_psk_server(None, resolver.clone())
            .dtls12_cipher_suites(&[::dimpl::crypto::Dtls12CipherSuite::PSK_AES128_CCM_8])
            .dtls13_cipher_suites(&[])
            .with_crypto_provider(provider::provider())
            // Handshakes are drained record by record; what waits in one is out of order or forged.
            .max_queue_rx(8)
            .build()
            .map_err(|error| SetupError(error.to_string()))?;
        Ok(DimplEngine {
            config: Arc::new(config),
            resolver,
            cookie_key: CookieKey::new(now, secret),
            table: SessionTable::new(limits),
            deadlines: BTreeSet::new(),
            scratch: vec![0; SCRATCH].into(),
            is_answered: false,
            counters: Counters::default(),
        })
    }

    fn info<'a>(&'a self, session: SessionId, peer: &'a Peer) -> Option<SessionInfo<'a>> {
        let Stage::Session(identity) = &peer.stage else { return None };
        Some(SessionInfo {
            session,
            route: &peer.route,
            identity,
            suite: suite::Name(suite::PSK_WITH_AES_128_CCM_8).as_str().unwrap_or_default(),
            extended_master_secret: true,
            connection_id: false,
            established: peer.since,
            last_seen: self.table.since(session)?,
        })
    }
}

impl Engine for DimplEngine {
    fn handle_datagram(&mut self, now: Instant, route: Route, datagram: &mut [u8], sink: &mut dyn Sink) {
        self.counters.datagrams += 1;
        self.is_answered = false;
        for record in record::records(datagram) {
            match record {
                Some(record) => self.handle_record(now, &route, record, sink),
                None => self.counters.records_refused += 1,
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
        while let Some(session) = self.table.oldest(Phase::Live)
            && self.table.since(session).is_some_and(|since| since + self.table.limits().idle <= now)
        {
            self.end(now, session, CloseCause::Idle, sink);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let handshake = self.deadlines.first().map(|(deadline, _)| *deadline);
        let longest_idle = self.table.oldest(Phase::Live).and_then(|oldest| self.table.since(oldest));
        let idle = longest_idle.map(|since| since + self.table.limits().idle);
        [handshake, idle].into_iter().flatten().min()
    }

    fn send(
        &mut self,
        now: Instant,
        session: SessionId,
        plaintext: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), SendError> {
        if plaintext.len() > record::PLAINTEXT_MAX {
            return Err(SendError::TooLarge);
        }
        let peer = self
            .table
            .get_mut(session)
            .filter(|peer| matches!(peer.stage, Stage::Session(_)))
            .ok_or(SendError::UnknownSession)?;
        if peer.send(plaintext).is_err() {
            self.end(now, session, CloseCause::Fault, sink);
            return Err(SendError::Fault);
        }
        self.counters.records_sent += 1;
        self.drain(now, session, sink);
        Ok(())
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
        while let Some(session) = self.table.oldest(Phase::HalfOpen) {
            self.table.remove(session);
        }
        self.deadlines.clear();
    }

    fn replace_keyring(&mut self, now: Instant, keyring: Keyring, sink: &mut dyn Sink) {
        let before = self.resolver.replace(keyring.clone());
        let stale: Vec<SessionId> = self
            .table
            .iter(Phase::Live)
            .filter(|(_, peer)| match &peer.stage {
                Stage::Session(PeerIdentity::Psk(identity)) => !before.agrees(&keyring, identity),
                Stage::Session(_) | Stage::Handshake(_) => false,
            })
            .map(|(session, _)| session)
            .collect();
        for session in stale {
            self.end(now, session, CloseCause::CredentialChanged, sink);
        }
        let stale: Vec<(SessionId, Box<[u8]>)> = self
            .table
            .iter(Phase::HalfOpen)
            .filter_map(|(session, peer)| {
                let claim = peer.handshake()?.claim.as_ref().filter(|claim| claim.known)?;
                (!before.agrees(&keyring, &claim.identity)).then(|| (session, claim.identity.clone()))
            })
            .collect();
        for (session, identity) in stale {
            self.fail(session, HandshakeFailure::CredentialChanged(identity), sink);
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
