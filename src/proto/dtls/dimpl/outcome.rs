//! Passes the output of an instance to the sink; handles timers, and the end of handshakes and
//! sessions.

use std::time::Instant;

use super::DimplEngine;
use super::peer::{Event, Peer, Stage, Trouble};
use crate::proto::Route;
use crate::proto::dtls::engine::{CloseCause, SessionId, Sink};
use crate::proto::dtls::failure::HandshakeFailure;
use crate::proto::dtls::peer_address::PeerAddress;
use crate::proto::dtls::session_table::{NoPlace, Phase, Reason, Removed};
use crate::proto::dtls::{alert, record};

impl DimplEngine {
    /// Polls an instance until idle. Returns whether there was any authentic output.
    pub(super) fn drain(&mut self, now: Instant, session: SessionId, sink: &mut dyn Sink) -> bool {
        let mut authentic = false;
        while let Some(peer) = self.table.get_mut(session) {
            match peer.poll(&mut self.scratch) {
                Ok(Event::Transmit(datagram)) => {
                    sink.transmit(&peer.route, datagram);
                    if let Some(handshake) = peer.handshake_mut() {
                        handshake.note_sent(datagram);
                    }
                }
                Ok(Event::Data(plaintext)) => {
                    authentic = true;
                    self.counters.records_received += 1;
                    sink.data(session, plaintext);
                }
                Ok(Event::Connected) => self.establish(now, session, sink),
                Ok(Event::Closed) => {
                    self.end(now, session, CloseCause::Peer, sink);
                    return true;
                }
                Ok(Event::Other) => {}
                Ok(Event::Idle(deadline)) => {
                    if let Some(handshake) = peer.handshake_mut() {
                        let deadline = handshake.next_deadline(now, deadline);
                        self.arm(session, deadline);
                    }
                    break;
                }
                Err(trouble) => {
                    match peer.stage {
                        Stage::Handshake(_) => self.fail_for(now, session, trouble, sink),
                        Stage::Session(_) => self.end(now, session, CloseCause::Fault, sink),
                    }
                    break;
                }
            }
        }
        authentic
    }

    fn establish(&mut self, now: Instant, session: SessionId, sink: &mut dyn Sink) {
        self.disarm(session);
        let Some(peer) = self.table.get_mut(session) else { return };
        let Some(identity) = peer.establish(now) else {
            // dimpl never completes a handshake whose identity did not resolve.
            return self.fail(session, HandshakeFailure::Fault, sink);
        };
        let route = peer.route;
        let replaces = self.table.occupants(&PeerAddress::from(&route)).live.is_some();
        let Some(holder) = sink.claim(&identity) else {
            return self.refuse(now, session, HandshakeFailure::NoDevice(Box::new(identity)), sink);
        };
        if let Err(no_place) = self.table.place(now, holder, replaces) {
            let failure = match no_place {
                NoPlace::TooOften => HandshakeFailure::TooOften(Box::new(identity)),
                NoPlace::Full => HandshakeFailure::TableFull(Box::new(identity)),
            };
            return self.refuse(now, session, failure, sink);
        }
        self.counters.handshakes_completed += 1;
        for displaced in self.table.establish(now, session, holder) {
            self.dismiss(now, displaced, sink);
        }
        sink.connected(session, &route, &identity);
    }

    /// Refuses a session whose handshake is complete for the client, with a close_notify.
    fn refuse(&mut self, now: Instant, session: SessionId, failure: HandshakeFailure, sink: &mut dyn Sink) {
        let Some(mut peer) = self.table.remove(session) else { return };
        peer.say_goodbye(now, &mut self.scratch, sink);
        self.report(&peer.route, &failure, None, sink);
    }

    /// Ends an entry that the registry removed to make room.
    pub(super) fn dismiss(&mut self, now: Instant, removed: Removed<Box<Peer>>, sink: &mut dyn Sink) {
        let Removed { session, phase, reason, value: mut peer } = removed;
        if let Some(deadline) = peer.deadline() {
            self.deadlines.remove(&(deadline, session));
        }
        match (phase, reason) {
            (Phase::Live, Reason::Replaced) => sink.closed(session, CloseCause::Replaced),
            (Phase::Live, Reason::Room) => {
                self.counters.sessions_evicted += 1;
                peer.say_goodbye(now, &mut self.scratch, sink);
                sink.closed(session, CloseCause::Evicted);
            }
            (Phase::Live, Reason::Displaced) => {
                self.counters.sessions_displaced += 1;
                peer.say_goodbye(now, &mut self.scratch, sink);
                sink.closed(session, CloseCause::Displaced);
            }
            // This engine resumes no sessions.
            (Phase::Farewell, _) => {}
            (Phase::HalfOpen, Reason::Replaced) => self.counters.handshakes_restarted += 1,
            (Phase::HalfOpen, Reason::Room | Reason::Displaced) => {
                self.report(&peer.route, &HandshakeFailure::Reaped, None, sink);
            }
        }
    }

    /// Closes a session.
    pub(super) fn end(&mut self, now: Instant, session: SessionId, cause: CloseCause, sink: &mut dyn Sink) {
        let Some(mut peer) = self.table.remove(session) else { return };
        match cause {
            CloseCause::Idle => self.counters.sessions_idle += 1,
            CloseCause::CredentialChanged => self.counters.sessions_revoked += 1,
            CloseCause::Fault => self.counters.faults += 1,
            _ => {}
        }
        if matches!(cause, CloseCause::Idle | CloseCause::CredentialChanged | CloseCause::Requested) {
            peer.say_goodbye(now, &mut self.scratch, sink);
        }
        sink.closed(session, cause);
    }

    pub(super) fn fail_for(
        &mut self,
        now: Instant,
        session: SessionId,
        trouble: Trouble,
        sink: &mut dyn Sink,
    ) {
        let Some(handshake) = self.table.get_mut(session).and_then(|peer| peer.handshake_mut()) else {
            return self.end(now, session, CloseCause::Fault, sink);
        };
        let failure = handshake.failure(trouble);
        self.fail(session, failure, sink);
    }

    /// Ends a handshake.
    pub(super) fn fail(&mut self, session: SessionId, failure: HandshakeFailure, sink: &mut dyn Sink) {
        self.disarm(session);
        let Some(peer) = self.table.remove(session) else { return };
        self.counters.faults += u64::from(failure == HandshakeFailure::Fault);
        self.report(&peer.route, &failure, peer.handshake().map(|handshake| handshake.next_sequence), sink);
    }

    /// Reports why a handshake failed, and sends the client an alert in the plaintext record with
    /// this number.
    pub(super) fn report(
        &mut self,
        route: &Route,
        failure: &HandshakeFailure,
        sequence: Option<u64>,
        sink: &mut dyn Sink,
    ) {
        let description = match failure {
            HandshakeFailure::UnknownIdentity(_) | HandshakeFailure::WrongKey(_) => {
                Some(alert::DECRYPT_ERROR)
            }
            HandshakeFailure::UnsupportedVersion(_) => Some(alert::PROTOCOL_VERSION),
            HandshakeFailure::Fault => Some(alert::INTERNAL_ERROR),
            HandshakeFailure::TimedOut { .. } | HandshakeFailure::PeerAlert { .. } => None,
            _ => Some(alert::HANDSHAKE_FAILURE),
        };
        if let (Some(sequence), Some(description)) = (sequence, description) {
            sink.transmit(route, &record::fatal_alert(sequence, description));
        }
        self.counters.handshakes_failed[failure.kind() as usize] += 1;
        sink.failed(route, failure);
    }

    /// Handles the timer of a handshake.
    pub(super) fn tick(&mut self, now: Instant, session: SessionId, sink: &mut dyn Sink) {
        let Some(peer) = self.table.get_mut(session) else { return };
        let Some(handshake) = peer.handshake_mut() else { return };
        if let Some((description, give_up)) = handshake.alert
            && now >= give_up
        {
            let failure = handshake.gave_up(description);
            return self.fail(session, failure, sink);
        }
        if now >= handshake.end {
            let failure = handshake.timed_out();
            return self.fail(session, failure, sink);
        }
        match peer.tick(now) {
            Ok(()) => {
                self.drain(now, session, sink);
            }
            Err(trouble) => self.fail_for(now, session, trouble, sink),
        }
    }

    pub(super) fn arm(&mut self, session: SessionId, deadline: Instant) {
        let Some(handshake) = self.table.get_mut(session).and_then(|peer| peer.handshake_mut()) else {
            return;
        };
        let before = std::mem::replace(&mut handshake.deadline, deadline);
        if before != deadline || !self.deadlines.contains(&(deadline, session)) {
            self.deadlines.remove(&(before, session));
            self.deadlines.insert((deadline, session));
        }
    }

    fn disarm(&mut self, session: SessionId) {
        if let Some(deadline) = self.table.get(session).and_then(|peer| peer.deadline()) {
            self.deadlines.remove(&(deadline, session));
        }
    }
}
