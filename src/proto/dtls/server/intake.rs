//! From a record to the handshake or session it is for.

use std::time::{Duration, Instant};

use super::handshake::{Expect, FINISHED, FINISHED_LENGTH, Handshake};
use super::negotiation::{self, Fatal, HelloPrefix};
use super::protection::{Closed, EPOCH, Opened};
use super::replay::Window;
use super::resume::Verdict;
use super::session::{Peer, Stage};
use super::wire::{self, Incoming, TLS12_CID};
use super::{Common, ServerEngine, alert};
use crate::proto::Route;
use crate::proto::dtls::cookie;
use crate::proto::dtls::engine::{CloseCause, SessionId, Sink};
use crate::proto::dtls::failure::HandshakeFailure;
use crate::proto::dtls::hello::ClientHello;
use crate::proto::dtls::record::{self, HandshakeFragment};
use crate::proto::dtls::registry::{Occupants, PeerAddress};

/// For so long a handshake may disprove an unauthenticated alert by going on.
const ALERT_GRACE: Duration = Duration::from_secs(5);
/// For so long a good Finished may come after one that did not open.
const FORGERY_GRACE: Duration = Duration::from_secs(2);
/// An address begins at most one handshake in so long.
const RESTART_GAP: Duration = Duration::from_millis(200);
/// Most zeros a Finished with a connection id may be padded with.
const PADDING_MAX: usize = 64;
/// The longest record kept for when there are keys.
const EARLY_MAX: usize = 160;

impl ServerEngine {
    /// Takes one record of a datagram.
    pub(super) fn handle_record(
        &mut self,
        now: Instant,
        route: &Route,
        record: &Incoming<'_>,
        sink: &mut dyn Sink,
    ) {
        match (record.epoch, record.content_type) {
            (EPOCH, TLS12_CID) => self.handle_named(now, route, record, sink),
            (EPOCH, record::ALERT | record::HANDSHAKE | record::APPLICATION_DATA) => {
                self.handle_unnamed(now, route, record, sink);
            }
            (0, record::HANDSHAKE) => match record::handshake_fragments(record.fragment) {
                Some(fragments) => {
                    for fragment in fragments {
                        match fragment.message_type {
                            record::CLIENT_HELLO => self.handle_hello(now, route, record, &fragment, sink),
                            _ => self.handle_message(now, route, &fragment, sink),
                        }
                    }
                }
                None => self.counters.records_refused += 1,
            },
            // The epoch in a record that opens says the same.
            (0, record::CHANGE_CIPHER_SPEC) => {}
            (0, record::ALERT) => self.handle_plain_alert(now, route, record),
            _ => self.counters.records_refused += 1,
        }
    }

    /// A protected record with a connection id: that finds its session, wherever it came from.
    fn handle_named(&mut self, now: Instant, route: &Route, record: &Incoming<'_>, sink: &mut dyn Sink) {
        let found = record.cid.as_ref().and_then(|cid| self.cids.get(cid).copied());
        let Some((session, peer)) = found.and_then(|found| Some((found, self.registry.get_mut(found)?)))
        else {
            self.counters.records_refused += 1;
            return;
        };
        match peer.stage {
            Stage::Session(_) => {
                if let Err(closed) = self.open(now, route, session, record, sink) {
                    self.discard(now, session, closed, sink);
                }
            }
            // A handshake is finished where it was begun.
            Stage::Handshake(_) if PeerAddress::from(&peer.route) == PeerAddress::from(route) => {
                self.handle_protected(now, session, record, sink);
            }
            Stage::Handshake(_) => self.counters.records_refused += 1,
        }
    }

    /// A protected record without a connection id: for the session of its address, else its handshake.
    fn handle_unnamed(&mut self, now: Instant, route: &Route, record: &Incoming<'_>, sink: &mut dyn Sink) {
        let Occupants { half_open, live } = self.registry.occupants(&PeerAddress::from(route));
        let live = live.filter(|live| {
            self.registry
                .get(*live)
                .and_then(|peer| peer.session())
                .is_some_and(|held| held.own_cid.is_none())
        });
        let half_open = half_open.filter(|half_open| {
            self.registry.get(*half_open).is_some_and(|peer| match &peer.stage {
                Stage::Handshake(handshake) => {
                    handshake.running.as_ref().is_some_and(|running| running.own_cid.is_none())
                }
                Stage::Session(_) => false,
            })
        });
        let closed = match live {
            Some(live) => match self.open(now, route, live, record, sink) {
                Ok(()) => return,
                Err(closed) => Some((live, closed)),
            },
            None => None,
        };
        match (half_open, closed) {
            (Some(half_open), _) => self.handle_protected(now, half_open, record, sink),
            (None, Some((live, closed))) => self.discard(now, live, closed, sink),
            (None, None) => self.counters.records_refused += 1,
        }
    }

    /// Opens a record of a session and does what it says.
    fn open(
        &mut self,
        now: Instant,
        route: &Route,
        session: SessionId,
        record: &Incoming<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Closed> {
        let held = self.registry.get_mut(session).and_then(|peer| peer.session_mut()).ok_or(Closed::Bad)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let opened = held.protection.open(record, &mut scratch);
        if let Ok(opened) = &opened {
            self.handle_opened(now, route, session, record, opened, &scratch[..opened.length], sink);
        }
        self.scratch = scratch;
        opened.map(|_| ())
    }

    #[expect(clippy::too_many_arguments, reason = "one record and all that is known of it")]
    fn handle_opened(
        &mut self,
        now: Instant,
        route: &Route,
        session: SessionId,
        record: &Incoming<'_>,
        opened: &Opened,
        plaintext: &[u8],
        sink: &mut dyn Sink,
    ) {
        let Some(peer) = self.registry.get_mut(session) else { return };
        let Stage::Session(held) = &mut peer.stage else { return };
        if plaintext.len() > usize::from(held.limit) {
            // RFC 6066 §4: longer than agreed. Dropped like any record that is not valid (RFC 6347 §4.1.2.7).
            self.counters.records_discarded += 1;
            return;
        }
        let mut proven = false;
        if let Some(doubt) = &mut held.doubt
            && opened.content_type != record::ALERT
        {
            self.counters.records_discarded += 1;
            match doubt.judge(plaintext, opened.newest) {
                Verdict::Proven => {
                    held.doubt = None;
                    held.protection.window = Window::closed_below(held.protection.window.next());
                    proven = true;
                }
                Verdict::Ping(ping) => {
                    // To where the record came from: the device may have moved, and it is shorter than that.
                    let route = *route;
                    return self.send_protected(session, &route, record::APPLICATION_DATA, &ping, sink);
                }
                Verdict::Silent => return,
            }
        }
        // Only what is newer than all before shows where the peer is; a copy of an old record, sent from
        // elsewhere, must not (RFC 9146 §6).
        if opened.newest && held.doubt.is_none() {
            if PeerAddress::from(&peer.route) == PeerAddress::from(route) {
                peer.route = *route;
                held.earn(record.bytes.len());
            } else {
                peer.route = *route;
                held.credit = Some(0);
                held.earn(record.bytes.len());
                self.counters.sessions_moved += 1;
                self.registry.relocate(session, PeerAddress::from(route));
                sink.moved(session, route);
            }
        }
        self.registry.touch(now, session);
        let Some(held) = self.registry.get_mut(session).and_then(|peer| peer.session_mut()) else { return };
        match (opened.content_type, plaintext) {
            _ if proven => {}
            (record::APPLICATION_DATA, []) => {}
            (record::APPLICATION_DATA, data) => {
                held.finished = None;
                self.counters.records_received += 1;
                sink.data(session, data);
            }
            (record::ALERT, [_, alert::CLOSE_NOTIFY]) => self.end(now, session, CloseCause::Peer, sink),
            (record::ALERT, [alert::FATAL, description]) => {
                self.end(now, session, CloseCause::PeerAlert(*description), sink);
            }
            // Our last flight was lost.
            (record::HANDSHAKE, [FINISHED, ..]) => self.send_finished(session, sink),
            (record::HANDSHAKE, [record::CLIENT_HELLO, ..]) => {
                let refusal = [alert::WARNING, alert::NO_RENEGOTIATION];
                let Some(route) = self.registry.get(session).map(|peer| peer.route) else { return };
                self.send_protected(session, &route, record::ALERT, &refusal, sink);
            }
            _ => {}
        }
    }

    /// A record of a session did not open.
    fn discard(&mut self, now: Instant, session: SessionId, closed: Closed, sink: &mut dyn Sink) {
        self.counters.records_discarded += 1;
        let Some(held) = self.registry.get(session).and_then(|peer| peer.session()) else { return };
        let most = self.common.settings.forgeries.unwrap_or(held.suite.aead.failures_max());
        if closed == Closed::Bad && held.protection.failures >= most {
            self.end(now, session, CloseCause::Forgery, sink);
        }
    }

    /// A protected record for a handshake: its Finished, or nothing.
    fn handle_protected(
        &mut self,
        now: Instant,
        session: SessionId,
        record: &Incoming<'_>,
        sink: &mut dyn Sink,
    ) {
        let Some(peer) = self.registry.get_mut(session) else { return };
        let route = peer.route;
        let Some(handshake) = peer.handshake() else { return };
        if handshake.expect != Expect::Finished {
            if record.bytes.len() <= EARLY_MAX {
                handshake.early = Some(record.bytes.into());
            }
            return;
        }
        let Some(running) = &mut handshake.running else { return };
        let overhead = running.agreement.suite.aead.overhead();
        let Some(protection) = &mut running.protection else { return };
        let opened = protection.open(record, &mut self.scratch);
        let plaintext = opened.as_ref().map(|opened| (opened.content_type, &self.scratch[..opened.length]));
        match plaintext {
            Ok((record::HANDSHAKE, message)) => {
                if let Some(finished) = handshake.finish(message) {
                    return self.establish(now, session, finished, sink);
                }
            }
            Ok((record::ALERT, [alert::FATAL, description] | [description @ alert::CLOSE_NOTIFY, _])) => {
                let failure =
                    HandshakeFailure::PeerAlert { description: *description, step: handshake.expect.step() };
                return self.fail(session, None, &failure, sink);
            }
            Ok(_) => return,
            Err(Closed::Replay) => return,
            Err(Closed::Bad) => {
                // Only what can be a Finished speaks about the key.
                let padding = if record.cid.is_some() { 1..=1 + PADDING_MAX } else { 0..=0 };
                let length = record.fragment.len().checked_sub(overhead + FINISHED_LENGTH);
                if !length.is_some_and(|more| padding.contains(&more)) {
                    self.counters.records_discarded += 1;
                    return;
                }
            }
        }
        self.counters.records_discarded += 1;
        if handshake.suspect.is_none() {
            handshake.suspect = Some(now + FORGERY_GRACE);
            let alert = record::fatal_alert(handshake.record_sequence, alert::DECRYPT_ERROR);
            handshake.record_sequence += 1;
            sink.transmit(&route, &alert);
            self.arm(session);
        }
    }

    /// A ClientHello, or a part of one.
    fn handle_hello(
        &mut self,
        now: Instant,
        route: &Route,
        record: &Incoming<'_>,
        fragment: &HandshakeFragment<'_>,
        sink: &mut dyn Sink,
    ) {
        let address = PeerAddress::from(route);
        let occupants = self.registry.occupants(&address);
        if !self.registry.hears(now, &occupants) {
            self.counters.hellos_shed += 1;
            return;
        }
        let prefix = if fragment.offset == 0 { HelloPrefix::read(fragment) } else { None };
        if let Some(session) = occupants.half_open
            && let Some(handshake) = self.registry.get_mut(session).and_then(|peer| peer.handshake())
            && handshake.hello_sequence == fragment.message_sequence
            && prefix.as_ref().is_none_or(|prefix| *prefix.random == handshake.random)
        {
            match handshake.expect {
                Expect::Hello => return self.continue_hello(now, session, fragment, sink),
                // Its own flight: ours was lost.
                _ if fragment.offset == 0 && handshake.timer.is_asked(now) => {
                    return self.send_flight(session, sink);
                }
                _ => return,
            }
        }
        let Some(prefix) = prefix else {
            self.counters.records_refused += 1;
            return;
        };
        // Judged by what a first fragment shows, so that a hello in pieces needs no memory of ours either.
        let key = &self.cookie_key;
        let whole = Some(fragment).filter(|fragment| fragment.is_whole());
        let whole = whole.and_then(|fragment| ClientHello::parse(fragment.body));
        let rest = whole.as_ref().map(|hello| hello.repeated()[1]);
        let is_good = key.is_start_good(now, &address, prefix.bound, prefix.cookie)
            && rest.is_none_or(|rest| key.is_rest_good(now, &address, prefix.bound, rest, prefix.cookie));
        if !is_good {
            let mut body = record::VERSION_1_0.to_be_bytes().to_vec();
            body.push(cookie::COOKIE as u8);
            body.extend(key.make_halves(now, &address, prefix.bound, rest));
            let message =
                record::handshake_message(record::HELLO_VERIFY_REQUEST, fragment.message_sequence, &body);
            self.counters.cookies_sent += 1;
            // RFC 6347 §4.2.1: in a record with the number of the hello's.
            return sink.transmit(route, &record::plain_record(record::HANDSHAKE, record.sequence, &message));
        }
        // A late duplicate would begin a shadow handshake in which the client's other duplicates then fail.
        // Only for so long as its cookie is good: a device without entropy may use the same random again
        // after a restart.
        let live = occupants.live.and_then(|live| self.registry.get(live)).and_then(|peer| peer.session());
        if live.is_some_and(|live| {
            prefix.random.starts_with(&live.random) && now < live.established + cookie::LIFETIME
        }) {
            self.counters.records_refused += 1;
            return;
        }
        // Each costs a key pair and a signature of ours; a client that means it does not begin again so soon.
        let since = occupants.half_open.and_then(|half_open| self.registry.since(half_open));
        if since.is_some_and(|since| now < since + RESTART_GAP) || self.registry.admit(now, &address).is_err()
        {
            self.counters.hellos_over_limit += 1;
            return;
        }
        self.counters.handshakes_begun += 1;
        self.counters.handshakes_shadow += u64::from(occupants.live.is_some());
        let mut handshake = Handshake::new(now, *prefix.random, fragment.message_sequence, record.sequence);
        let begun = begin(&mut handshake, now, fragment, &mut self.common, |_| true);
        if let Err(Fatal { alert, failure }) = begun {
            return self.report(route, &failure, Some((record.sequence, alert)), sink);
        }
        let own_cid = handshake.running.as_ref().and_then(|running| running.own_cid);
        let peer = Box::new(Peer { route: *route, stage: Stage::Handshake(Box::new(handshake)) });
        let Ok((session, displaced)) = self.registry.open(now, address, peer) else {
            self.counters.hellos_over_limit += 1;
            return;
        };
        if let Some(displaced) = displaced {
            self.dismiss(displaced, sink);
        }
        if let Some(cid) = own_cid {
            self.cids.insert(cid, session);
        }
        self.send_flight(session, sink);
    }

    /// Another part of a hello whose first part had a good cookie.
    fn continue_hello(
        &mut self,
        now: Instant,
        session: SessionId,
        fragment: &HandshakeFragment<'_>,
        sink: &mut dyn Sink,
    ) {
        let Some(peer) = self.registry.get_mut(session) else { return };
        let address = PeerAddress::from(&peer.route);
        let Some(handshake) = peer.handshake() else { return };
        let key = &self.cookie_key;
        // Its first half was good when the first piece came; that was less than a handshake's lifetime ago.
        let then = handshake.begun;
        let judge = |hello: &ClientHello<'_>| {
            let [start, rest] = hello.repeated();
            key.is_rest_good(then, &address, start, rest, hello.cookie)
        };
        match begin(handshake, now, fragment, &mut self.common, judge) {
            Ok(()) => {
                if let Some(cid) = handshake.running.as_ref().and_then(|running| running.own_cid) {
                    self.cids.insert(cid, session);
                }
                self.send_flight(session, sink);
            }
            Err(Fatal { alert, failure }) => self.fail(session, Some(alert), &failure, sink),
        }
    }

    /// A message of the client's second flight, or a part of one.
    fn handle_message(
        &mut self,
        now: Instant,
        route: &Route,
        fragment: &HandshakeFragment<'_>,
        sink: &mut dyn Sink,
    ) {
        let found = self.registry.occupants(&PeerAddress::from(route)).half_open;
        let found = found.and_then(|session| Some((session, self.registry.get_mut(session)?.handshake()?)));
        let Some((session, handshake)) = found.filter(|(_, handshake)| handshake.expect != Expect::Hello)
        else {
            self.counters.records_refused += 1;
            return;
        };
        if handshake.messages.insert(fragment).is_err() {
            let failure = HandshakeFailure::Protocol("its messages are longer than 16 kB".into());
            return self.fail(session, Some(alert::HANDSHAKE_FAILURE), &failure, sink);
        }
        while let Some(message) = handshake.messages.next() {
            if let Err(Fatal { alert, failure }) = handshake.take(&message, &mut self.common) {
                return self.fail(session, Some(alert), &failure, sink);
            }
        }
        let early = if handshake.expect == Expect::Finished { handshake.early.take() } else { None };
        self.arm(session);
        if let Some(early) = early
            && let Some(record) = wire::next_record(&mut &early[..])
        {
            self.handle_protected(now, session, &record, sink);
        }
    }

    fn handle_plain_alert(&mut self, now: Instant, route: &Route, record: &Incoming<'_>) {
        self.counters.records_refused += 1;
        let found = self.registry.occupants(&PeerAddress::from(route)).half_open;
        let found = found.and_then(|session| Some((session, self.registry.get_mut(session)?.handshake()?)));
        if let Some((session, handshake)) = found
            && let [alert::FATAL, description] | [_, description @ alert::CLOSE_NOTIFY] = record.fragment
            && handshake.alert.is_none()
        {
            handshake.alert = Some((*description, now + ALERT_GRACE));
            self.arm(session);
        }
    }
}

/// Adds a part to a hello; if that makes it whole, agrees and makes our flight.
fn begin(
    handshake: &mut Handshake,
    now: Instant,
    fragment: &HandshakeFragment<'_>,
    common: &mut Common,
    may_be: impl FnOnce(&ClientHello<'_>) -> bool,
) -> Result<(), Fatal> {
    let too_long = |_| Fatal::protocol(alert::HANDSHAKE_FAILURE, "its hello is longer than 16 kB");
    handshake.messages.insert(fragment).map_err(too_long)?;
    let Some(message) = handshake.messages.next() else { return Ok(()) };
    let hello = ClientHello::parse(&message.body)
        .ok_or_else(|| Fatal::protocol(alert::DECODE_ERROR, "its hello cannot be read"))?;
    if !may_be(&hello) {
        return Err(Fatal::protocol(
            alert::ILLEGAL_PARAMETER,
            "its hello is another than the one its cookie is for",
        ));
    }
    let has_keys = !common.keyring.is_empty();
    let agreement = negotiation::negotiate(&hello, &common.settings, has_keys, &common.certificates)?;
    handshake.run(now, &message, agreement, common)
}
