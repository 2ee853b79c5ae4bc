//! Establishes sessions, ends handshakes and sessions, and reports the results.

use std::time::Instant;

use super::certificate::Lapse;
use super::handshake::FINISHED_LENGTH;
use super::session::{Peer, Session, Stage};
use super::{Common, FAILED_MAX, ServerEngine, alert};
use crate::proto::dtls::engine::{CloseCause, PeerIdentity, SessionId, Sink};
use crate::proto::dtls::failure::HandshakeFailure;
use crate::proto::dtls::peer_address::PeerAddress;
use crate::proto::dtls::record;
use crate::proto::dtls::session_table::{NoPlace, Phase, Reason, Removed};
use crate::proto::{Holder, Route};

impl ServerEngine {
    /// Sends the server's flight and sets the next deadline.
    pub(super) fn send_flight(&mut self, session: SessionId, sink: &mut dyn Sink) {
        let mtu = self.common.settings.mtu;
        if let Some(peer) = self.table.get_mut(session) {
            let route = peer.route;
            if let Some(handshake) = peer.handshake() {
                handshake.transmit(mtu, |datagram| sink.transmit(&route, datagram));
            }
        }
        self.arm(session);
    }

    /// Sends one protected record. `is_there`: `route` is the session's own address, so that its
    /// credit applies.
    pub(super) fn send_protected(
        &mut self,
        session: SessionId,
        route: &Route,
        content_type: u8,
        plaintext: &[u8],
        is_there: bool,
        sink: &mut dyn Sink,
    ) {
        let Some(held) = self.table.get_mut(session).and_then(|peer| peer.session_mut()) else { return };
        if is_there && !held.spend(held.size_of(plaintext.len())) {
            return;
        }
        self.outgoing.clear();
        let chance = &mut self.common.chance;
        let sealed =
            held.protection.seal(&mut self.outgoing, content_type, &held.peer_cid, plaintext, chance);
        if sealed.is_some() {
            sink.transmit(route, &self.outgoing);
        }
    }

    /// Sends ChangeCipherSpec and Finished, as long as the client may need them.
    pub(super) fn send_finished(&mut self, session: SessionId, sink: &mut dyn Sink) {
        let Some(peer) = self.table.get_mut(session) else { return };
        let Stage::Session(held) = &mut peer.stage else { return };
        let Some(finished) = held.finished.clone() else { return };
        let change = record::plain_record(record::CHANGE_CIPHER_SPEC, held.record_sequence, &[1]);
        // Repeated on request, but no record number wraps, and an unproven address gets no more
        // than its credit.
        let is_last = held.record_sequence >= (1 << 48) - 1;
        if is_last || !held.spend(change.len() + held.size_of(finished.len())) {
            return;
        }
        held.record_sequence += 1;
        self.outgoing.clear();
        self.outgoing.extend(change);
        let chance = &mut self.common.chance;
        let sealed = held.protection.seal(
            &mut self.outgoing,
            record::HANDSHAKE,
            &held.peer_cid,
            &finished[..],
            chance,
        );
        if sealed.is_some() {
            sink.transmit(&peer.route, &self.outgoing);
        }
    }

    /// The client has proved its identity: the handshake becomes a session if its credential is
    /// still valid, the identity is a device's, and there is room for it.
    pub(super) fn establish(
        &mut self,
        now: Instant,
        session: SessionId,
        finished: [u8; FINISHED_LENGTH],
        sink: &mut dyn Sink,
    ) {
        let Some(peer) = self.table.get_mut(session) else { return };
        let route = peer.route;
        let Some(running) = peer.handshake().and_then(|handshake| handshake.running.as_ref()) else { return };
        let (identity, is_known) = (running.identity.clone(), running.is_known);
        // An unknown identity cannot get here, since its key is a decoy.
        let Some(identity) = identity.filter(|_| is_known) else {
            return self.fail(now, session, Some(alert::INTERNAL_ERROR), &HandshakeFailure::Fault, sink);
        };
        let address = PeerAddress::from(&route);
        // Another device with a connection id may be at this address: it is found by its connection
        // id, and stays.
        let old = self.table.occupants(&address).live;
        let held = old.and_then(|old| self.table.get(old)).and_then(|peer| peer.session());
        let stays = held.is_some_and(|held| held.own_cid.is_some() && held.identity != identity);
        let holder = match self.admit(now, &identity, held.is_some() && !stays, sink) {
            Ok(holder) => holder,
            Err((alert, failure)) => return self.fail(now, session, Some(alert), &failure, sink),
        };
        if let Some(old) = old.filter(|_| stays) {
            self.table.detach(old);
        }
        self.disarm(session);
        let Some(peer) = self.table.get_mut(session) else { return };
        let Some(handshake) = peer.handshake() else { return };
        let mut random = [0; 8];
        random.copy_from_slice(&handshake.random[..8]);
        let (record_sequence, work) = (handshake.record_sequence, handshake.work);
        let parts =
            handshake.running.take().and_then(|mut running| Some((running.protection.take()?, running)));
        let Some((protection, running)) = parts else {
            return self.fail(now, session, Some(alert::INTERNAL_ERROR), &HandshakeFailure::Fault, sink);
        };
        let limit = running.limit() as u16;
        peer.stage = Stage::Session(Session {
            protection,
            suite: running.agreement.suite,
            extended_master_secret: running.agreement.extended_master_secret,
            own_cid: running.own_cid,
            peer_cid: running.agreement.peer_cid.unwrap_or_default(),
            identity: identity.clone(),
            limit,
            established: now,
            random,
            record_sequence,
            finished: Some(Box::new(finished)),
            credit: None,
            doubt: None,
        });
        self.counters.handshakes_completed += 1;
        self.review.note(now, now, self.common.certificates.trust.end_of(&identity));
        self.send_finished(session, sink);
        if let Some(payer) = self.table.payer_of(session) {
            self.table.refund(now, payer, work);
        }
        for displaced in self.table.establish(now, session, holder) {
            self.dismiss(now, displaced, sink);
        }
        sink.connected(session, &route, &identity);
    }

    /// The holder of a session with this identity, if there may be one. Called last, because the
    /// credential may have been revoked since it was verified.
    fn admit(
        &mut self,
        now: Instant,
        identity: &PeerIdentity,
        replaces: bool,
        sink: &mut dyn Sink,
    ) -> Result<Holder, (u8, HandshakeFailure)> {
        let Common { certificates, clock, .. } = &self.common;
        certificates.trust.believes(identity, *clock).map_err(|lapse| {
            let (alert, why) = match lapse {
                Lapse::Revoked => (alert::CERTIFICATE_REVOKED, "it was revoked meanwhile"),
                Lapse::Expired => (alert::CERTIFICATE_EXPIRED, "it expired meanwhile"),
                Lapse::AnchorRemoved | Lapse::NoPath => (alert::UNKNOWN_CA, "its CA was removed meanwhile"),
            };
            match identity {
                PeerIdentity::Certificate(certificate) => {
                    (alert, HandshakeFailure::Certificate(format!("{why}; it is {certificate}").into()))
                }
                _ => (
                    alert::HANDSHAKE_FAILURE,
                    HandshakeFailure::Certificate("its key was removed meanwhile".into()),
                ),
            }
        })?;
        let boxed = || Box::new(identity.clone());
        let holder = sink.claim(identity).ok_or_else(|| {
            // access_denied is for certificates only (RFC 7925 §6).
            let alert = match identity {
                PeerIdentity::Certificate(_) => alert::ACCESS_DENIED,
                _ => alert::HANDSHAKE_FAILURE,
            };
            (alert, HandshakeFailure::NoDevice(boxed()))
        })?;
        self.table.place(now, holder, replaces).map_err(|no_place| {
            let failure = match no_place {
                NoPlace::TooOften => HandshakeFailure::TooOften(boxed()),
                NoPlace::Full => HandshakeFailure::TableFull(boxed()),
            };
            (alert::INTERNAL_ERROR, failure)
        })?;
        Ok(holder)
    }

    /// Removes an entry with all references to it.
    pub(super) fn remove(&mut self, session: SessionId) -> Option<Box<Peer>> {
        self.disarm(session);
        let peer = self.table.remove(session)?;
        self.forget_cid(&peer);
        Some(peer)
    }

    fn forget_cid(&mut self, peer: &Peer) {
        if let Some(cid) = peer.own_cid() {
            self.cids.remove(&cid);
        }
    }

    /// Ends an entry that the registry removed to make room.
    pub(super) fn dismiss(&mut self, now: Instant, removed: Removed<Box<Peer>>, sink: &mut dyn Sink) {
        let Removed { session, phase, reason, value: mut peer } = removed;
        if let Some(handshake) = peer.handshake() {
            self.deadlines.remove(&(handshake.deadline, session));
        }
        self.forget_cid(&peer);
        match (phase, reason) {
            (Phase::Live, Reason::Replaced) => sink.closed(session, CloseCause::Replaced),
            (Phase::Live, Reason::Room) => {
                self.counters.sessions_evicted += 1;
                self.say_goodbye(&mut peer, sink);
                sink.closed(session, CloseCause::Evicted);
            }
            (Phase::Live, Reason::Displaced) => {
                self.counters.sessions_displaced += 1;
                self.say_goodbye(&mut peer, sink);
                sink.closed(session, CloseCause::Displaced);
            }
            (Phase::Farewell, _) => {
                if let Stage::Farewell(farewell) = &peer.stage
                    && !farewell.is_told
                {
                    sink.closed(session, CloseCause::Replaced);
                }
            }
            (Phase::HalfOpen, Reason::Replaced) => self.counters.handshakes_restarted += 1,
            (Phase::HalfOpen, Reason::Room | Reason::Displaced) => {
                self.report(now, &peer.route, &HandshakeFailure::Reaped, None, sink);
            }
        }
    }

    fn say_goodbye(&mut self, peer: &mut Peer, sink: &mut dyn Sink) {
        let Stage::Session(held) = &mut peer.stage else { return };
        self.outgoing.clear();
        let goodbye = [alert::WARNING, alert::CLOSE_NOTIFY];
        let chance = &mut self.common.chance;
        let sealed =
            held.protection.seal(&mut self.outgoing, record::ALERT, &held.peer_cid, &goodbye, chance);
        if sealed.is_some() && held.spend(self.outgoing.len()) {
            sink.transmit(&peer.route, &self.outgoing);
        }
    }

    /// Closes a session.
    pub(super) fn end(&mut self, _now: Instant, session: SessionId, cause: CloseCause, sink: &mut dyn Sink) {
        let Some(mut peer) = self.remove(session) else { return };
        if let Stage::Farewell(farewell) = &peer.stage {
            if !farewell.is_told {
                sink.closed(session, cause);
            }
            return;
        }
        match cause {
            CloseCause::Idle => self.counters.sessions_idle += 1,
            CloseCause::CredentialChanged => self.counters.sessions_revoked += 1,
            CloseCause::Expired => self.counters.sessions_expired += 1,
            CloseCause::TooOld => self.counters.sessions_too_old += 1,
            CloseCause::Forgery => self.counters.sessions_forged += 1,
            CloseCause::Fault => self.counters.faults += 1,
            _ => {}
        }
        // RFC 5246 §7.2.1: a close_notify is answered with one.
        if !matches!(cause, CloseCause::PeerAlert(_) | CloseCause::Replaced | CloseCause::Fault) {
            self.say_goodbye(&mut peer, sink);
        }
        sink.closed(session, cause);
    }

    /// Ends a handshake, with an alert if `alert` is set.
    pub(super) fn fail(
        &mut self,
        now: Instant,
        session: SessionId,
        alert: Option<u8>,
        failure: &HandshakeFailure,
        sink: &mut dyn Sink,
    ) {
        let Some(mut peer) = self.remove(session) else { return };
        self.counters.faults += u64::from(*failure == HandshakeFailure::Fault);
        let sequence = peer.handshake().map_or(0, |handshake| handshake.record_sequence);
        self.report(now, &peer.route, failure, alert.map(|alert| (sequence, alert)), sink);
    }

    /// Reports why a handshake failed, and sends the client an alert in the plaintext record with
    /// this number.
    pub(super) fn report(
        &mut self,
        now: Instant,
        route: &Route,
        failure: &HandshakeFailure,
        alert: Option<(u64, u8)>,
        sink: &mut dyn Sink,
    ) {
        if let Some((sequence, description)) = alert {
            sink.transmit(route, &record::fatal_alert(sequence, description));
        }
        self.counters.handshakes_failed[failure.kind() as usize] += 1;
        if self.failed.len() >= FAILED_MAX {
            self.failed.pop_front();
        }
        self.failed.push_back((PeerAddress::from(route), now));
        sink.failed(route, failure);
    }

    /// Handles the timer of a handshake.
    pub(super) fn tick(&mut self, now: Instant, session: SessionId, sink: &mut dyn Sink) {
        let Some(handshake) = self.table.get_mut(session).and_then(|peer| peer.handshake()) else {
            return;
        };
        let failure = match (handshake.alert, handshake.suspect) {
            (Some((description, believed)), _) if believed <= now => Some(handshake.gave_up(description)),
            // The alert was already sent.
            (_, Some(believed)) if believed <= now => Some(handshake.wrong_key()),
            _ if handshake.end <= now => Some(handshake.timed_out()),
            _ => None,
        };
        if let Some(failure) = failure {
            return self.fail(now, session, None, &failure, sink);
        }
        match handshake.timer.is_due(now) {
            true => self.send_flight(session, sink),
            false => self.arm(session),
        }
    }

    /// Updates the deadline of a handshake.
    pub(super) fn arm(&mut self, session: SessionId) {
        let Some(handshake) = self.table.get_mut(session).and_then(|peer| peer.handshake()) else {
            return;
        };
        self.deadlines.remove(&(handshake.deadline, session));
        handshake.deadline = handshake.next_deadline();
        self.deadlines.insert((handshake.deadline, session));
    }

    fn disarm(&mut self, session: SessionId) {
        if let Some(handshake) = self.table.get_mut(session).and_then(|peer| peer.handshake()) {
            self.deadlines.remove(&(handshake.deadline, session));
        }
    }
}
