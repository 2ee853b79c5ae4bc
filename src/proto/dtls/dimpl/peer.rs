//! One `dimpl` instance with a panic guard, and additional state.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::dimpl::{Config, CryptoError, CryptoOperation, Dtls, Error, Output, SecurityError};

use super::provider;
use super::resolver::Claim;
use crate::proto::Route;
use crate::proto::dtls::cookie::COOKIE;
use crate::proto::dtls::engine::{PeerIdentity, Sink};
use crate::proto::dtls::failure::{HandshakeFailure, HandshakeStep};
use crate::proto::dtls::handshake_type;
use crate::proto::dtls::hello::ClientHello;
use crate::proto::dtls::record::{self, Record};

/// Timeout of a handshake; `dimpl` itself gives up after 40 s.
const LIFETIME: Duration = Duration::from_secs(60);
/// Most bytes passed to one handshake: many times the need of a lossy link.
const BUDGET: usize = 32 * 1024;

/// A handshake or a session.
pub(super) struct Peer {
    dtls: Dtls,
    /// The route to its address.
    pub route: Route,
    /// The client random of its hello.
    pub random: [u8; 32],
    /// The `message_seq` of its hello with the cookie.
    pub message_sequence: u16,
    /// When the handshake began or the session was established.
    pub since: Instant,
    pub stage: Stage,
}

pub(super) enum Stage {
    Handshake(Box<Handshake>),
    Session(PeerIdentity),
}

/// An output of an instance.
pub(super) enum Event<'b> {
    Transmit(&'b [u8]),
    Connected,
    Data(&'b [u8]),
    /// The close_notify of the peer was received and answered.
    Closed,
    /// Nothing of interest.
    Other,
    /// No more output before this time.
    Idle(Instant),
}

/// Why an instance cannot continue.
#[derive(Debug)]
pub(super) enum Trouble {
    /// An authentic fatal alert.
    Alert(u8),
    /// An error of `dimpl`.
    Engine(Error),
    /// `dimpl` panicked.
    Panic,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        match error {
            Error::SecurityError(SecurityError::FatalAlert { description }) => Trouble::Alert(description),
            error => Trouble::Engine(error),
        }
    }
}

/// `dimpl` has assertions about network input. A failed one must end only one session. After a
/// panic the instance is not called again.
fn guarded<R>(call: impl FnOnce() -> R) -> Result<R, Trouble> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Trouble::Panic)
}

impl Peer {
    /// Begins a handshake with a hello whose cookie is valid. Then [`Peer::poll`] until idle.
    ///
    /// The instance uses its own cookies and counts messages from the first hello. So it first gets
    /// the hello without the cookie, and its HelloVerifyRequest is dropped; when it verifies the
    /// returned cookie, [`provider::with_cookie`] makes the cookie valid. This happens before
    /// anything enters the transcript.
    pub fn begin(
        config: &Arc<Config>,
        now: Instant,
        route: Route,
        message_sequence: u16,
        hello: &ClientHello<'_>,
        cookie: &[u8; COOKIE],
        record: Record<'_>,
    ) -> Result<Peer, (Handshake, Trouble)> {
        let handshake = Handshake::new(now);
        let Ok(dtls) = guarded(|| Dtls::new_12_psk(config.clone(), now)) else {
            return Err((handshake, Trouble::Panic));
        };
        let stage = Stage::Handshake(Box::new(handshake));
        let random = *hello.random;
        let mut peer = Peer { dtls, route, random, message_sequence, since: now, stage };
        let mut begin = || {
            let first = hello.without_cookie();
            for sequence in 0..message_sequence {
                let message = record::handshake_message(handshake_type::CLIENT_HELLO, sequence, &first);
                peer.feed(now, &record::plain_record(record::HANDSHAKE, sequence.into(), &message))?;
                let mut request = [0; 256];
                while !matches!(peer.poll(&mut request)?, Event::Idle(_)) {}
            }
            provider::with_cookie(cookie, || peer.feed(now, record.bytes))
        };
        match begin() {
            Ok(()) => Ok(peer),
            Err(trouble) => Err((Handshake::new(now), trouble)),
        }
    }

    /// Handles one record. Then [`Peer::poll`] until idle.
    pub fn feed(&mut self, now: Instant, record: &[u8]) -> Result<(), Trouble> {
        // The clock first, always: it seeds the randoms and dates the answer.
        guarded(|| self.dtls.handle_timeout(now).and_then(|()| self.dtls.handle_packet(record)))??;
        Ok(())
    }

    /// Handles timers. Then [`Peer::poll`] until idle.
    pub fn tick(&mut self, now: Instant) -> Result<(), Trouble> {
        guarded(|| self.dtls.handle_timeout(now))??;
        Ok(())
    }

    /// Sends plaintext in one record. Then [`Peer::poll`] until idle before the next call, because
    /// queued output is sent in one datagram.
    pub fn send(&mut self, plaintext: &[u8]) -> Result<(), Trouble> {
        guarded(|| self.dtls.send_application_data(plaintext))??;
        Ok(())
    }

    pub fn poll<'b>(&mut self, scratch: &'b mut [u8]) -> Result<Event<'b>, Trouble> {
        Ok(match guarded(|| self.dtls.poll_output(scratch))? {
            Output::Packet(datagram) => Event::Transmit(datagram),
            Output::ApplicationData(plaintext) => Event::Data(plaintext),
            Output::Connected => Event::Connected,
            Output::CloseNotify => Event::Closed,
            Output::Timeout(deadline) => Event::Idle(deadline),
            // A client that offers use_srtp (RFC 5764) gets it from dimpl, and we the keys: of no
            // use.
            Output::KeyingMaterial(..) => Event::Other,
            // No certificates here, and no output outgrows the scratch buffer.
            _ => return Err(Trouble::Panic),
        })
    }

    /// Sends close_notify. The instance is not used after it.
    pub fn say_goodbye(&mut self, now: Instant, scratch: &mut [u8], sink: &mut dyn Sink) {
        let closed = guarded(|| self.dtls.handle_timeout(now).and_then(|()| self.dtls.close()));
        if !matches!(closed, Ok(Ok(()))) {
            return;
        }
        while let Ok(Event::Transmit(datagram)) = self.poll(scratch) {
            sink.transmit(&self.route, datagram);
        }
    }

    /// Turns a complete handshake into a session; `None` if it has no proven identity.
    pub fn establish(&mut self, now: Instant) -> Option<PeerIdentity> {
        let Stage::Handshake(handshake) = &mut self.stage else { return None };
        let claim = handshake.claim.as_ref().filter(|claim| claim.known)?;
        let identity = PeerIdentity::Psk(claim.identity.clone());
        self.since = now;
        self.stage = Stage::Session(identity.clone());
        Some(identity)
    }

    pub fn handshake(&self) -> Option<&Handshake> {
        match &self.stage {
            Stage::Handshake(handshake) => Some(handshake),
            Stage::Session(_) => None,
        }
    }

    pub fn handshake_mut(&mut self) -> Option<&mut Handshake> {
        match &mut self.stage {
            Stage::Handshake(handshake) => Some(handshake),
            Stage::Session(_) => None,
        }
    }

    /// When a handshake needs [`Peer::tick`] next.
    pub fn deadline(&self) -> Option<Instant> {
        self.handshake().map(|handshake| handshake.deadline)
    }
}

/// State of a handshake, dropped when it ends.
pub(super) struct Handshake {
    /// Its current step.
    pub step: HandshakeStep,
    /// When it needs [`Peer::tick`] next.
    pub deadline: Instant,
    /// When it is given up.
    pub end: Instant,
    /// The identity that the client claims.
    pub claim: Option<Claim>,
    /// A plaintext alert, and when it takes effect.
    pub alert: Option<(u8, Instant)>,
    /// Whether a ChangeCipherSpec came before the key exchange.
    pub cipher_change_early: bool,
    /// The first unused record number of epoch 0; 0 until something was sent.
    pub next_sequence: u64,
    budget: usize,
}

impl Handshake {
    fn new(now: Instant) -> Handshake {
        Handshake {
            step: HandshakeStep::KeyExchange,
            deadline: now,
            end: now + LIFETIME,
            claim: None,
            alert: None,
            cipher_change_early: false,
            next_sequence: 0,
            budget: BUDGET,
        }
    }

    /// Charges a record to the budget. An accepted record disproves an earlier plaintext alert.
    pub fn spend(&mut self, bytes: usize) -> bool {
        self.alert = None;
        let left = self.budget.checked_sub(bytes);
        self.budget = left.unwrap_or(0);
        left.is_some()
    }

    /// Updates the record number from a sent datagram.
    pub fn note_sent(&mut self, datagram: &[u8]) {
        for record in record::records(datagram).flatten().filter(|record| record.epoch == 0) {
            self.next_sequence = self.next_sequence.max(record.sequence + 1);
        }
    }

    /// When to look again, if `dimpl` asks for `wanted`: in the future, and not too far.
    pub fn next_deadline(&self, now: Instant, wanted: Instant) -> Instant {
        let give_up = self.alert.map_or(self.end, |(_, give_up)| self.end.min(give_up));
        wanted.min(give_up).max(now + Duration::from_millis(1))
    }

    /// The failure for a timeout.
    pub fn timed_out(&self) -> HandshakeFailure {
        let identity = self.claim.as_ref().map(|claim| claim.identity.clone());
        HandshakeFailure::TimedOut { step: self.step, identity }
    }

    /// The failure for an alert of the client.
    pub fn gave_up(&self, description: u8) -> HandshakeFailure {
        let identity = self.claim.as_ref().map(|claim| claim.identity.clone());
        HandshakeFailure::PeerAlert { description, step: self.step, identity }
    }

    /// The failure for an error of the instance.
    pub fn failure(&self, trouble: Trouble) -> HandshakeFailure {
        let error = match trouble {
            Trouble::Panic => return HandshakeFailure::Fault,
            Trouble::Alert(description) => {
                return self.gave_up(description);
            }
            Trouble::Engine(error) => error,
        };
        match (error, &self.claim) {
            // The Finished is the first thing made with the key.
            (
                Error::CryptoError(CryptoError::OperationFailed(CryptoOperation::Decrypt))
                | Error::SecurityError(SecurityError::ClientFinishedVerificationFailed),
                Some(claim),
            ) => match claim.known {
                true => HandshakeFailure::WrongKey(claim.identity.clone()),
                false => HandshakeFailure::UnknownIdentity(claim.identity.clone()),
            },
            (Error::Timeout(_), _) => self.timed_out(),
            (error, _) => HandshakeFailure::Protocol(error.to_string().into()),
        }
    }
}
