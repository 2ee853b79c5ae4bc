//! Assigns each record to its handshake or session.

use std::time::{Duration, Instant};

use super::amplification::AMPLIFICATION;
use super::handshake::{Expect, FINISHED_LENGTH, Handshake};
use super::negotiation::{self, Agreement, Fatal, HelloPrefix};
use super::protection::{Closed, EPOCH, Opened};
use super::reassembly::Message;
use super::replay::Window;
use super::resume::{PING, Verdict};
use super::session::{Peer, Stage};
use super::wire::{self, Incoming, TLS12_CID};
use super::{Common, ServerEngine, alert};
use crate::proto::Route;
use crate::proto::dtls::engine::{CloseCause, SessionId, Sink};
use crate::proto::dtls::failure::HandshakeFailure;
use crate::proto::dtls::hello::ClientHello;
use crate::proto::dtls::peer_address::PeerAddress;
use crate::proto::dtls::record::{self, HandshakeFragment};
use crate::proto::dtls::session_table::Occupants;
use crate::proto::dtls::{cookie, handshake_type};

/// Time in which a handshake can continue and so disprove an unauthenticated alert.
const ALERT_GRACE: Duration = Duration::from_secs(5);
/// Time in which a valid Finished may arrive after one that could not be decrypted.
const FORGERY_GRACE: Duration = Duration::from_secs(2);
/// Least time between two handshakes of one address.
const RESTART_GAP: Duration = Duration::from_millis(200);
/// Most zeros a Finished with a connection id may be padded with.
const PADDING_MAX: usize = 64;
/// Longest record kept until there are keys.
const EARLY_MAX: usize = 160;

impl ServerEngine {
    /// Handles one record of a datagram.
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
                            handshake_type::CLIENT_HELLO => {
                                self.handle_hello(now, route, record, &fragment, sink)
                            }
                            _ => self.handle_message(now, route, &fragment, sink),
                        }
                    }
                }
                None => self.counters.records_refused += 1,
            },
            // The epoch of an authentic record contains the same information.
            (0, record::CHANGE_CIPHER_SPEC) => {}
            (0, record::ALERT) => self.handle_plain_alert(now, route, record),
            _ => self.counters.records_refused += 1,
        }
    }

    /// Handles a protected record with a connection id, which identifies its session regardless of
    /// the address.
    fn handle_named(&mut self, now: Instant, route: &Route, record: &Incoming<'_>, sink: &mut dyn Sink) {
        let found = record.cid.as_ref().and_then(|cid| self.cids.get(cid).copied());
        let Some((session, peer)) = found.and_then(|found| Some((found, self.table.get_mut(found)?))) else {
            self.counters.records_refused += 1;
            return self.tell_unknown(now, route, sink);
        };
        match peer.stage {
            Stage::Farewell(_) => self.bid_farewell(session, route, record, sink),
            Stage::Session(_) => {
                if let Err(closed) = self.open(now, route, session, record, sink) {
                    self.discard(now, session, closed, sink);
                }
            }
            // A handshake must finish at the address where it began.
            Stage::Handshake(_) if PeerAddress::from(&peer.route) == PeerAddress::from(route) => {
                self.handle_protected(now, session, record, sink);
            }
            Stage::Handshake(_) => self.counters.records_refused += 1,
        }
    }

    /// Handles a protected record without a connection id: for the session of its address, else its
    /// handshake.
    fn handle_unnamed(&mut self, now: Instant, route: &Route, record: &Incoming<'_>, sink: &mut dyn Sink) {
        let Occupants { half_open, live } = self.table.occupants(&PeerAddress::from(route));
        let without_cid = |id: &SessionId| self.table.get(*id).filter(|peer| peer.own_cid().is_none());
        let is_over =
            |id: &SessionId| without_cid(id).is_some_and(|peer| matches!(peer.stage, Stage::Farewell(_)));
        let over = live.filter(is_over);
        let session = live.filter(|id| without_cid(id).is_some_and(|peer| peer.session().is_some()));
        let half_open = half_open.filter(|id| {
            without_cid(id).is_some_and(|peer| match &peer.stage {
                Stage::Handshake(handshake) => handshake.running.is_some(),
                Stage::Session(_) | Stage::Farewell(_) => false,
            })
        });
        let closed = match session {
            Some(live) => match self.open(now, route, live, record, sink) {
                Ok(()) => return,
                Err(closed) => Some((live, closed)),
            },
            None => None,
        };
        match (half_open, closed) {
            (Some(half_open), _) => self.handle_protected(now, half_open, record, sink),
            (None, Some((live, closed))) => self.discard(now, live, closed, sink),
            (None, None) => match over {
                Some(over) => self.bid_farewell(over, route, record, sink),
                None => {
                    self.counters.records_refused += 1;
                    if live.is_none() {
                        self.tell_unknown(now, route, sink);
                    }
                }
            },
        }
    }

    /// Handles a record of a session that cannot be restored: if it is authentic, it is answered
    /// with the alert.
    fn bid_farewell(
        &mut self,
        session: SessionId,
        route: &Route,
        record: &Incoming<'_>,
        sink: &mut dyn Sink,
    ) {
        let Some(peer) = self.table.get_mut(session) else { return };
        let is_there = PeerAddress::from(&peer.route) == PeerAddress::from(route);
        let Stage::Farewell(farewell) = &mut peer.stage else { return };
        self.counters.records_discarded += 1;
        let opened = farewell.protection.open(record, &mut self.scratch);
        // At most one alert for each record of the device, also if the record is replayed.
        if !opened.is_ok_and(|opened| opened.newest && opened.content_type != record::ALERT) {
            return;
        }
        self.outgoing.clear();
        let chance = &mut self.common.chance;
        let sealed = farewell.protection.seal_farewell(
            &mut self.outgoing,
            &farewell.peer_cid,
            alert::INTERNAL_ERROR,
            chance,
        );
        // A new address does not prove that the device receives there.
        let is_proven = is_there && !farewell.is_unproven;
        if sealed.is_none() || !(is_proven || self.outgoing.len() <= AMPLIFICATION * record.bytes.len()) {
            return;
        }
        let is_first = !std::mem::replace(&mut farewell.is_answered, true);
        // An alert to another address may not have reached the device, so the session must be kept
        // for the next restart.
        let is_news = is_proven && !std::mem::replace(&mut farewell.is_told, true);
        self.counters.sessions_farewell += u64::from(is_first);
        sink.transmit(route, &self.outgoing);
        if is_news {
            sink.closed(session, CloseCause::Farewell);
        }
    }

    /// Decrypts a record of a session and handles its content.
    fn open(
        &mut self,
        now: Instant,
        route: &Route,
        session: SessionId,
        record: &Incoming<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Closed> {
        let held = self.table.get_mut(session).and_then(|peer| peer.session_mut()).ok_or(Closed::Bad)?;
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
        let Some(peer) = self.table.get_mut(session) else { return };
        let Stage::Session(held) = &mut peer.stage else { return };
        if plaintext.len() > usize::from(held.limit) {
            // RFC 6066 §4: longer than agreed. Dropped like any record that is not valid (RFC 6347
            // §4.1.2.7).
            self.counters.records_discarded += 1;
            return;
        }
        let mut proven = false;
        let (address, ping_size) = (PeerAddress::from(route), held.size_of(PING));
        let is_there = PeerAddress::from(&peer.route) == address;
        if let Some(doubt) = &mut held.doubt
            && opened.content_type != record::ALERT
        {
            self.counters.records_discarded += 1;
            let received = record.bytes.len();
            match doubt.judge(plaintext, opened.newest) {
                Verdict::Proven => {
                    held.doubt = None;
                    held.protection.window = Window::closed_below(held.protection.window.next());
                    proven = true;
                }
                // Sent to the source address of the record, because the device's address may have
                // changed.
                Verdict::Ping(_) if !is_there && !doubt.affords(address, received, ping_size) => return,
                Verdict::Ping(ping) => {
                    if is_there {
                        held.earn(received);
                    }
                    let (route, data) = (*route, record::APPLICATION_DATA);
                    return self.send_protected(session, &route, data, &ping, is_there, sink);
                }
                Verdict::Silent => return,
            }
        }
        // Only a record newer than all before updates the address; a replayed record from another
        // address must not (RFC 9146 §6).
        if opened.newest && held.doubt.is_none() {
            peer.route = *route;
            if is_there {
                held.earn(record.bytes.len());
            } else {
                held.credit = Some(0);
                held.earn(record.bytes.len());
                self.counters.sessions_moved += 1;
                self.table.relocate(session, address);
                sink.moved(session, route);
            }
        }
        self.table.touch(now, session);
        let Some(held) = self.table.get_mut(session).and_then(|peer| peer.session_mut()) else { return };
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
            (record::HANDSHAKE, [handshake_type::FINISHED, ..]) => self.send_finished(session, sink),
            (record::HANDSHAKE, [handshake_type::CLIENT_HELLO, ..]) => {
                let refusal = [alert::WARNING, alert::NO_RENEGOTIATION];
                let Some(route) = self.table.get(session).map(|peer| peer.route) else { return };
                self.send_protected(session, &route, record::ALERT, &refusal, true, sink);
            }
            _ => {}
        }
    }

    /// Handles a record of a session that failed authentication.
    fn discard(&mut self, now: Instant, session: SessionId, closed: Closed, sink: &mut dyn Sink) {
        self.counters.records_discarded += 1;
        let Some(held) = self.table.get(session).and_then(|peer| peer.session()) else { return };
        let most = self.common.settings.forgeries.unwrap_or(held.suite.aead.failures_max());
        if closed == Closed::Bad && held.protection.failures >= most {
            self.end(now, session, CloseCause::Forgery, sink);
        }
    }

    /// Handles a protected record for a handshake, which can only be its Finished.
    fn handle_protected(
        &mut self,
        now: Instant,
        session: SessionId,
        record: &Incoming<'_>,
        sink: &mut dyn Sink,
    ) {
        let Some(peer) = self.table.get_mut(session) else { return };
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
            Ok((record::ALERT, [alert::FATAL, description] | [_, description @ alert::CLOSE_NOTIFY])) => {
                let failure = handshake.gave_up(*description);
                return self.fail(now, session, None, &failure, sink);
            }
            Ok(_) => return,
            Err(Closed::Replay) => return,
            Err(Closed::Bad) => {
                // Only a record with the length of a Finished is evidence about the key.
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

    /// Handles a ClientHello or a fragment of one.
    fn handle_hello(
        &mut self,
        now: Instant,
        route: &Route,
        record: &Incoming<'_>,
        fragment: &HandshakeFragment<'_>,
        sink: &mut dyn Sink,
    ) {
        let address = PeerAddress::from(route);
        let occupants = self.table.occupants(&address);
        let prefix = if fragment.offset == 0 { HelloPrefix::read(fragment) } else { None };
        if let Some(session) = occupants.half_open
            && let Some(handshake) = self.table.get_mut(session).and_then(|peer| peer.handshake())
            && handshake.hello_sequence == fragment.message_sequence
        {
            let is_same = prefix
                .as_ref()
                .map(|prefix| *prefix.random == handshake.random && prefix.cookie == handshake.cookie);
            match (handshake.expect, is_same) {
                (Expect::Hello, None | Some(true)) => {
                    return self.continue_hello(now, session, fragment, sink);
                }
                // A later fragment of a message that is already complete.
                (_, None) => return,
                // The client repeats its flight because the server's was lost. The flight is
                // repeated only for the same cookie.
                (_, Some(true)) => {
                    if handshake.timer.is_asked(now) {
                        self.send_flight(session, sink);
                    }
                    return;
                }
                (_, Some(false)) => {}
            }
        }
        let Some(prefix) = prefix else {
            self.counters.records_refused += 1;
            return;
        };
        // The cookie is verified from the first fragment, so that a fragmented hello causes no
        // state either.
        let key = &self.cookie_key;
        let whole = || {
            let whole = Some(fragment).filter(|fragment| fragment.is_whole());
            whole.and_then(|fragment| ClientHello::parse(fragment.body)).map(|hello| hello.repeated()[1])
        };
        let cookie = <[u8; cookie::COOKIE]>::try_from(prefix.cookie).ok();
        let look = cookie.and_then(|cookie| Some((cookie, self.table.looks(now, &address)?)));
        let look = look.filter(|(cookie, _)| {
            key.is_start_good(now, &address, prefix.bound, cookie)
                && whole().is_none_or(|rest| key.is_rest_good(now, &address, prefix.bound, rest, cookie))
        });
        let Some((cookie, look)) = look else {
            return self.request_cookie(now, route, record, fragment, &prefix, whole(), sink);
        };
        self.table.has_looked(now, look);
        // A late duplicate would begin a shadow handshake in which the client's other duplicates
        // then fail. Only for so long as its cookie is good: a device without entropy may use the
        // same random again after a restart.
        let live = occupants.live.and_then(|live| self.table.get(live)).and_then(|peer| peer.session());
        if live.is_some_and(|live| {
            prefix.random.starts_with(&live.random) && now < live.established + cookie::LIFETIME
        }) {
            self.counters.records_refused += 1;
            return;
        }
        // Each costs a key pair and a signature of ours; a client that means it does not begin
        // again so soon.
        let since = occupants.half_open.and_then(|half_open| self.table.since(half_open));
        let payer = self.table.payer(&address);
        if since.is_some_and(|since| now < since + RESTART_GAP)
            || self.table.has_room(&address).is_err()
            || self.table.admit(now, payer).is_err()
        {
            self.counters.hellos_over_limit += 1;
            return;
        }
        if !Handshake::fits(fragment.message_sequence, record.sequence) {
            let what = "its hello's number leaves none for the answer";
            let Fatal { alert, failure } = Fatal::protocol(alert::ILLEGAL_PARAMETER, what);
            return self.report(now, route, &failure, Some((record.sequence, alert)), sink);
        }
        let mut handshake =
            Handshake::new(now, *prefix.random, cookie, fragment.message_sequence, record.sequence);
        let proposal = propose(&mut handshake, fragment, &self.common, |_| true);
        // Charged in full at once: charged step by step, handshakes under way could leave no budget
        // to complete any.
        if self.table.charge(now, payer, handshake.work).is_err() {
            // The client's repetition may find more.
            self.table.readmit(now, payer);
            self.counters.work_over_limit += 1;
            return;
        }
        self.counters.handshakes_begun += 1;
        self.counters.handshakes_shadow += u64::from(occupants.live.is_some());
        let begun = proposal.and_then(|proposal| match proposal {
            Some((hello, agreement)) => handshake.run(now, &hello, agreement, &mut self.common),
            None => Ok(()),
        });
        if let Err(Fatal { alert, failure }) = begun {
            return self.report(now, route, &failure, Some((record.sequence, alert)), sink);
        }
        let own_cid = handshake.running.as_ref().and_then(|running| running.own_cid);
        let peer = Box::new(Peer { route: *route, stage: Stage::Handshake(Box::new(handshake)) });
        let Ok((session, displaced)) = self.table.open(now, address, peer) else {
            self.counters.hellos_over_limit += 1;
            return;
        };
        if let Some(displaced) = displaced {
            self.dismiss(now, displaced, sink);
        }
        if let Some(cid) = own_cid {
            self.cids.insert(cid, session);
        }
        self.send_flight(session, sink);
    }

    /// Answers a hello without a valid cookie: at most one HelloVerifyRequest for a datagram, never
    /// longer than that.
    #[expect(clippy::too_many_arguments, reason = "one record and all that is known of it")]
    fn request_cookie(
        &mut self,
        now: Instant,
        route: &Route,
        record: &Incoming<'_>,
        fragment: &HandshakeFragment<'_>,
        prefix: &HelloPrefix<'_>,
        rest: Option<&[u8]>,
        sink: &mut dyn Sink,
    ) {
        if self.question.is_answered {
            self.counters.records_refused += 1;
            return;
        }
        let address = PeerAddress::from(route);
        if !self.table.hears(now, &address) {
            self.counters.hellos_shed += 1;
            return;
        }
        let mut body = record::VERSION_1_0.to_be_bytes().to_vec();
        body.push(cookie::COOKIE as u8);
        body.extend(self.cookie_key.make_halves(now, &address, prefix.bound, rest));
        let message =
            record::handshake_message(handshake_type::HELLO_VERIFY_REQUEST, fragment.message_sequence, &body);
        // RFC 6347 §4.2.1: the record number of the hello.
        let answer = record::plain_record(record::HANDSHAKE, record.sequence, &message);
        if answer.len() > self.question.bytes {
            self.counters.records_refused += 1;
            return;
        }
        self.question.is_answered = true;
        self.counters.cookies_sent += 1;
        sink.transmit(route, &answer);
    }

    /// Handles a further fragment of a hello whose first fragment had a valid cookie.
    fn continue_hello(
        &mut self,
        now: Instant,
        session: SessionId,
        fragment: &HandshakeFragment<'_>,
        sink: &mut dyn Sink,
    ) {
        let Some(address) = self.table.get(session).map(|peer| PeerAddress::from(&peer.route)) else {
            return;
        };
        let Some(payer) = self.table.payer_of(session) else { return };
        let Some(handshake) = self.table.get_mut(session).and_then(|peer| peer.handshake()) else {
            return;
        };
        let key = &self.cookie_key;
        // Its first half was valid when the first fragment arrived, less than the handshake timeout
        // ago.
        let then = handshake.begun;
        let judge = |hello: &ClientHello<'_>| {
            let [start, rest] = hello.repeated();
            key.is_rest_good(then, &address, start, rest, hello.cookie)
        };
        let (hello, agreement) = match propose(handshake, fragment, &self.common, judge) {
            Ok(Some(proposal)) => proposal,
            Ok(None) => return self.arm(session),
            Err(Fatal { alert, failure }) => return self.fail(now, session, Some(alert), &failure, sink),
        };
        let work = handshake.work;
        if self.table.charge(now, payer, work).is_err() {
            // The client's repetition begins it again, and may find more.
            self.table.readmit(now, payer);
            self.counters.work_over_limit += 1;
            self.remove(session);
            return;
        }
        let Some(handshake) = self.table.get_mut(session).and_then(|peer| peer.handshake()) else {
            return;
        };
        match handshake.run(now, &hello, agreement, &mut self.common) {
            Ok(()) => {
                if let Some(cid) = handshake.running.as_ref().and_then(|running| running.own_cid) {
                    self.cids.insert(cid, session);
                }
                self.send_flight(session, sink);
            }
            Err(Fatal { alert, failure }) => self.fail(now, session, Some(alert), &failure, sink),
        }
    }

    /// Handles a message of the client's second flight, or a fragment of one.
    fn handle_message(
        &mut self,
        now: Instant,
        route: &Route,
        fragment: &HandshakeFragment<'_>,
        sink: &mut dyn Sink,
    ) {
        let found = self.table.occupants(&PeerAddress::from(route)).half_open;
        let found = found.and_then(|session| Some((session, self.table.get_mut(session)?.handshake()?)));
        let Some((session, handshake)) = found.filter(|(_, handshake)| handshake.expect != Expect::Hello)
        else {
            self.counters.records_refused += 1;
            return;
        };
        if handshake.messages.insert(fragment).is_err() {
            let failure = HandshakeFailure::Protocol("its messages are longer than 16 kB".into());
            return self.fail(now, session, Some(alert::HANDSHAKE_FAILURE), &failure, sink);
        }
        while let Some(message) = handshake.messages.next() {
            if let Err(Fatal { alert, failure }) = handshake.take(&message, &mut self.common) {
                return self.fail(now, session, Some(alert), &failure, sink);
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
        let found = self.table.occupants(&PeerAddress::from(route)).half_open;
        let found = found.and_then(|session| Some((session, self.table.get_mut(session)?.handshake()?)));
        if let Some((session, handshake)) = found
            && let [alert::FATAL, description] | [_, description @ alert::CLOSE_NOTIFY] = record.fragment
            && handshake.alert.is_none()
        {
            handshake.alert = Some((*description, now + ALERT_GRACE));
            self.arm(session);
        }
    }
}

/// Adds a fragment to a hello. If the hello is complete, negotiates it and sets its cost; nothing
/// is charged yet.
fn propose(
    handshake: &mut Handshake,
    fragment: &HandshakeFragment<'_>,
    common: &Common,
    may_be: impl FnOnce(&ClientHello<'_>) -> bool,
) -> Result<Option<(Message, Agreement)>, Fatal> {
    let too_long = |_| Fatal::protocol(alert::HANDSHAKE_FAILURE, "its hello is longer than 16 kB");
    handshake.messages.insert(fragment).map_err(too_long)?;
    let Some(message) = handshake.messages.next() else { return Ok(None) };
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
    handshake.work = common.work(agreement.suite.exchange);
    Ok(Some((message, agreement)))
}
