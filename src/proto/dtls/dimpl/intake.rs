//! Assigns each record to an instance, and filters the records that its state allows.

use std::time::{Duration, Instant};

use super::DimplEngine;
use super::peer::{Handshake, Peer, Trouble};
use crate::proto::Route;
use crate::proto::dtls::engine::{CloseCause, SessionId, Sink};
use crate::proto::dtls::failure::{HandshakeFailure, HandshakeStep};
use crate::proto::dtls::hello::ClientHello;
use crate::proto::dtls::peer_address::PeerAddress;
use crate::proto::dtls::record::{self, HandshakeFragment, Record};
use crate::proto::dtls::session_table::Occupants;
use crate::proto::dtls::{alert, cookie, handshake_type, suite};

/// Explicit nonce and tag of a CCM_8 record (RFC 6655 §3, RFC 6655 §4).
const PROTECTION: usize = 8 + 8;
/// A protected Finished: message header and verify_data (RFC 5246 §7.4.9).
const FINISHED: usize = record::HANDSHAKE_HEADER + 12 + PROTECTION;
/// Longest plaintext handshake message accepted. Hellos have 60 to 600 bytes, with post-quantum key
/// shares for DTLS 1.3 up to 1,800.
const MESSAGE_MAX: usize = 4 * 1024;
/// A hello is its client's first message or, with a cookie, its second; a client that was sent
/// stale requests may be a little further.
const HELLO_SEQUENCE_MAX: u16 = 3;
/// Time in which a handshake can continue and so disprove an unauthenticated alert.
const ALERT_GRACE: Duration = Duration::from_secs(5);

impl DimplEngine {
    /// Handles one record of a datagram.
    pub(super) fn handle_record(
        &mut self,
        now: Instant,
        route: &Route,
        record: Record<'_>,
        sink: &mut dyn Sink,
    ) {
        let address = PeerAddress::from(route);
        let occupants = self.table.occupants(&address);
        let length = record.fragment().len();
        match (record.epoch, record.content_type) {
            (1, record::APPLICATION_DATA | record::ALERT)
                if (PROTECTION..=PROTECTION + record::PLAINTEXT_MAX).contains(&length) =>
            {
                match occupants.live {
                    Some(session) => self.handle_protected(now, route, session, record, sink),
                    None => self.counters.records_refused += 1,
                }
            }
            (0, record::HANDSHAKE) => {
                let messages = record::handshake_fragments(record.fragment());
                match messages.as_deref() {
                    Some([hello]) if hello.message_type == handshake_type::CLIENT_HELLO => {
                        self.handle_hello(now, route, occupants, record, hello, sink);
                    }
                    Some([exchange]) if exchange.message_type == handshake_type::CLIENT_KEY_EXCHANGE => {
                        self.handle_key_exchange(now, occupants, record, exchange, sink);
                    }
                    _ => self.counters.records_refused += 1,
                }
            }
            (0, record::CHANGE_CIPHER_SPEC) if record.fragment() == [1] => {
                self.for_handshake(now, occupants.half_open, record, sink, |handshake| {
                    // One may overtake the key exchange; more only fill dimpl's queue.
                    handshake.step == HandshakeStep::Finished
                        || !std::mem::replace(&mut handshake.cipher_change_early, true)
                });
            }
            (1, record::HANDSHAKE) if length == FINISHED => {
                self.for_handshake(now, occupants.half_open, record, sink, |handshake| {
                    handshake.step == HandshakeStep::Finished
                });
            }
            (0, record::ALERT) => self.handle_plain_alert(now, occupants, record),
            _ => self.counters.records_refused += 1,
        }
    }

    /// Handles a protected record, which is authentic if it can be decrypted.
    fn handle_protected(
        &mut self,
        now: Instant,
        route: &Route,
        session: SessionId,
        record: Record<'_>,
        sink: &mut dyn Sink,
    ) {
        let Some(peer) = self.table.get_mut(session) else { return };
        if let Err(trouble) = peer.feed(now, record.bytes) {
            let cause = match trouble {
                Trouble::Alert(description) => CloseCause::PeerAlert(description),
                _ => CloseCause::Fault,
            };
            return self.end(now, session, cause, sink);
        }
        if self.drain(now, session, sink) {
            self.table.touch(now, session);
            if let Some(peer) = self.table.get_mut(session) {
                peer.route = *route;
            }
        } else {
            self.counters.records_discarded += 1;
        }
    }

    fn handle_hello(
        &mut self,
        now: Instant,
        route: &Route,
        occupants: Occupants,
        record: Record<'_>,
        message: &HandshakeFragment<'_>,
        sink: &mut dyn Sink,
    ) {
        // A hello in fragments would have to be kept before its sender has proven anything.
        let hello = Some(message)
            .filter(|message| message.is_whole() && message.length <= MESSAGE_MAX)
            .filter(|message| message.message_sequence <= HELLO_SEQUENCE_MAX)
            .and_then(|message| ClientHello::parse(message.body));
        let Some(hello) = hello else { return self.counters.records_refused += 1 };
        let address = PeerAddress::from(route);
        let look = if hello.cookie.is_empty() { None } else { self.table.looks(now, &address) };
        let cookie = look.and_then(|look| Some((self.cookie_key.check(now, &address, &hello)?, look)));
        let Some((cookie, look)) = cookie else {
            // At most one for each datagram; it is shorter than any ClientHello.
            if std::mem::replace(&mut self.is_answered, true) {
                return self.counters.records_refused += 1;
            }
            if !self.table.hears(now, &address) {
                return self.counters.hellos_shed += 1;
            }
            let sequence = message.message_sequence;
            let request = self.cookie_key.hello_verify_request(now, &address, &hello, sequence);
            self.counters.cookies_sent += 1;
            return sink.transmit(route, &request);
        };
        self.table.has_looked(now, look);
        let same = |peer: Option<&Box<Peer>>| peer.is_some_and(|peer| peer.random == *hello.random);
        if let Some(session) = occupants.half_open
            && same(self.table.get(session))
        {
            return self.for_handshake(now, Some(session), record, sink, |_| true);
        }
        // A late duplicate would begin a shadow handshake in which the client's other duplicates
        // then fail. Only for so long as its cookie is good: a device without entropy may use the
        // same random again after a restart.
        if let Some(live) = occupants.live.and_then(|live| self.table.get(live))
            && live.random == *hello.random
            && now < live.since + cookie::LIFETIME
        {
            return self.counters.records_refused += 1;
        }
        if self.table.has_room(&address).is_err()
            || self.table.admit(now, self.table.payer(&address)).is_err()
        {
            return self.counters.hellos_over_limit += 1;
        }
        self.counters.handshakes_begun += 1;
        self.counters.handshakes_shadow += u64::from(occupants.live.is_some());
        if let Some(failure) = refusal(&hello) {
            let sequence = message.message_sequence.into();
            return self.report(route, &failure, Some(sequence), sink);
        }
        let begun = Peer::begin(&self.config, now, *route, message.message_sequence, &hello, &cookie, record);
        let peer = match begun {
            Ok(peer) => Box::new(peer),
            Err((handshake, trouble)) => {
                let failure = handshake.failure(trouble);
                self.counters.faults += u64::from(failure == HandshakeFailure::Fault);
                return self.report(route, &failure, Some(message.message_sequence.into()), sink);
            }
        };
        let Ok((session, displaced)) = self.table.open(now, address, peer) else {
            self.counters.hellos_over_limit += 1;
            return;
        };
        if let Some(displaced) = displaced {
            self.dismiss(now, displaced, sink);
        }
        self.drain(now, session, sink);
        let handshake = self.table.get(session).and_then(|peer| peer.handshake());
        if handshake.is_some_and(|handshake| handshake.next_sequence == 0) {
            // No ServerHello was sent: dimpl silently drops a hello it cannot parse.
            self.fail(session, HandshakeFailure::Protocol("its hello cannot be read".into()), sink);
        }
    }

    fn handle_key_exchange(
        &mut self,
        now: Instant,
        occupants: Occupants,
        record: Record<'_>,
        message: &HandshakeFragment<'_>,
        sink: &mut dyn Sink,
    ) {
        let found = occupants.half_open.or(occupants.live);
        let found = found.and_then(|session| Some((session, self.table.get_mut(session)?)));
        // Another number is from another time; dimpl would keep it and stumble over it.
        let found = found.filter(|(_, peer)| message.message_sequence == peer.message_sequence + 1);
        let Some((session, peer)) = found.filter(|_| message.length <= MESSAGE_MAX) else {
            return self.counters.records_refused += 1;
        };
        if peer.handshake().is_some() {
            return self.for_handshake(now, Some(session), record, sink, |_| true);
        }
        // The last flight was lost: dimpl retransmits it until the first data arrive.
        match peer.feed(now, record.bytes) {
            Ok(()) => {
                self.drain(now, session, sink);
            }
            Err(_) => self.end(now, session, CloseCause::Fault, sink),
        }
    }

    fn handle_plain_alert(&mut self, now: Instant, occupants: Occupants, record: Record<'_>) {
        self.counters.records_refused += 1;
        let Some(proven) = occupants.half_open else { return };
        let Some(handshake) = self.table.get_mut(proven).and_then(|peer| peer.handshake_mut()) else {
            return;
        };
        if let [alert::FATAL, description] = record.fragment()
            && handshake.alert.is_none()
        {
            let give_up = now + ALERT_GRACE;
            handshake.alert = Some((*description, give_up));
            let deadline = handshake.deadline.min(give_up);
            self.arm(proven, deadline);
        }
    }

    /// Passes a record to its handshake, and handles the result.
    fn for_handshake(
        &mut self,
        now: Instant,
        session: Option<SessionId>,
        record: Record<'_>,
        sink: &mut dyn Sink,
        wants: impl FnOnce(&mut Handshake) -> bool,
    ) {
        let found = session.and_then(|session| Some((session, self.table.get_mut(session)?)));
        let Some((session, peer)) = found else {
            self.counters.records_refused += 1;
            return;
        };
        let wanted = peer
            .handshake_mut()
            .is_some_and(|handshake| wants(handshake) && handshake.spend(record.bytes.len()));
        if !wanted {
            self.counters.records_refused += 1;
            return;
        }
        let fed = peer.feed(now, record.bytes);
        if let (Some(claim), Some(handshake)) = (self.resolver.take_claim(), peer.handshake_mut()) {
            handshake.claim = Some(claim);
            handshake.step = HandshakeStep::Finished;
        }
        match fed {
            Ok(()) => {
                self.drain(now, session, sink);
            }
            Err(trouble) => self.fail_for(now, session, trouble, sink),
        }
    }
}

/// Why a hello cannot lead to a session, if that follows from its content.
fn refusal(hello: &ClientHello<'_>) -> Option<HandshakeFailure> {
    if hello.version != record::VERSION_1_2 {
        return Some(HandshakeFailure::UnsupportedVersion(hello.version));
    }
    if !hello.suites().any(|suite| suite == suite::PSK_WITH_AES_128_CCM_8) {
        let offered = hello.suites().collect();
        return Some(HandshakeFailure::NoSharedCipherSuite { offered, missing: None });
    }
    (!hello.extended_master_secret).then_some(HandshakeFailure::NoExtendedMasterSecret)
}
