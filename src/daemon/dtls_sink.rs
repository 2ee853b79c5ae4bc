//! What the DTLS engine reports: handed to the CoAP side, counted and logged.
//!
//! The engine calls back while it works, so the sink borrows the parts of the hub beside the engine
//! for the time of one call.

use std::fmt::Display;
use std::time::Instant;

use super::line_kind::LineKind;
use super::reading_store::Readings;
use super::tracer::Tracer;
use crate::clock::Moment;
use crate::config::scalar::format_psk_identity;
use crate::control::tail::{FailedHandshake, Tail};
use crate::gate::Unidentified;
use crate::proto::address::Peer;
use crate::proto::dtls::{CloseCause, HandshakeFailure, PeerIdentity, SessionId, Sink};
use crate::proto::{Holder, Route};
use crate::southbound::coap;
use crate::southbound::coap::io::Outgoing;
use crate::southbound::coap::stray::Mistake;
use crate::telemetry::counters::Counter;
use crate::telemetry::limited::Limiter;

/// Longest part of a claimed identity that `tail` shows, in bytes.
const IDENTITY_SHOWN: usize = 128;

/// What has been reported and is to be followed up later.
#[derive(Debug, Default)]
pub struct Reports {
    /// Sessions of an earlier process are being taken over.
    pub restoring: bool,
    /// Sessions established in this round.
    pub established: Vec<SessionId>,
    /// Sessions closed in this round.
    pub closed: Vec<SessionId>,
    /// When a device was last refused because the table of sessions is full.
    pub full: Option<Instant>,
    /// Why the gate refused the last identity the engine asked about; taken when the engine reports
    /// the failure.
    unclaimed: Option<Unidentified>,
}

/// The parts of the hub that the engine's reports concern.
pub struct DtlsSink<'h> {
    /// When the round began.
    pub moment: Moment,
    /// The gate and all behind it.
    pub pipeline: &'h mut Readings,
    /// The CoAP side.
    pub coap: &'h mut coap::Intake,
    /// Datagrams to be sent.
    pub outgoing: &'h mut Outgoing,
    /// What is to be followed up.
    pub reports: &'h mut Reports,
    /// Failed handshakes are shown there.
    pub tail: &'h Tail,
    /// Decrypted messages are shown there.
    pub tracer: Tracer<'h>,
    /// Where the datagram at hand came from.
    pub route: Option<Route>,
    /// Whether a line may be written.
    pub limiter: &'h mut Limiter<LineKind>,
}

impl DtlsSink<'_> {
    /// Notes a datagram that cannot be served; logs it once an hour for each source address.
    pub fn stray(&mut self, route: &Route, mistake: Mistake) {
        // A dual-stack socket shows IPv4 addresses as IPv4-mapped IPv6 addresses.
        let source = route.remote.ip().to_canonical();
        if self.coap.strays.note(self.moment.now, source, mistake) {
            log::warn!(peer:% = route.remote, reason = mistake.advice(); "datagrams of this source cannot be served");
        }
    }

    /// Shows a failed handshake in `tail`, as often as it may be logged.
    fn show_failed(
        &self,
        route: &Route,
        identity: &[u8],
        proven: Option<&PeerIdentity>,
        reason: &dyn Display,
    ) {
        // One that is no text is shown as it is configured.
        let claimed = format_psk_identity(identity.get(..IDENTITY_SHOWN).unwrap_or(identity));
        let shown: Option<&dyn Display> = match proven {
            Some(PeerIdentity::Certificate(certificate)) => Some(certificate),
            _ if identity.is_empty() => None,
            _ => Some(&claimed),
        };
        let gate = &self.pipeline.gate;
        let device = proven.and_then(|identity| gate.recognise(identity));
        let device = device.or_else(|| gate.identify_psk(identity)).and_then(|device| gate.id(device));
        self.tail.push_failure(&FailedHandshake {
            received: self.moment.wall,
            boottime_ms: self.moment.boottime_ms,
            peer: route.remote,
            identity: shown,
            device: device.map(|id| id.as_str()),
            reason,
        });
    }

    /// An identity was proven that is of no device.
    fn unidentified(&mut self, route: &Route, identity: &PeerIdentity, reason: &Unidentified) {
        self.pipeline.counters.count(Counter::HandshakesUnknownIdentity);
        let source = route.remote.ip().to_canonical();
        if !self.limiter.permit_from(self.moment.now, LineKind::Handshake, source) {
            return;
        }
        self.show_failed(route, psk(identity), Some(identity), reason);
        let peer = route.remote;
        match identity {
            PeerIdentity::Certificate(certificate) => {
                log::warn!(peer:% = peer, reason:% = reason, certificate:% = certificate, audit = "refused"; "certificate of no device");
            }
            other => {
                log::warn!(peer:% = peer, reason:% = reason, identity:% = other, audit = "refused"; "identity of no device")
            }
        }
    }
}

impl Sink for DtlsSink<'_> {
    fn transmit(&mut self, route: &Route, datagram: &[u8]) {
        self.outgoing.push(route, datagram);
    }

    fn claim(&mut self, identity: &PeerIdentity) -> Option<Holder> {
        self.reports.unclaimed = None;
        match self.pipeline.gate.identify(self.moment.now, identity) {
            Ok(device) => self.pipeline.gate.holder(device),
            Err(unidentified) => {
                self.reports.unclaimed = Some(unidentified);
                None
            }
        }
    }

    fn unknown_session(&mut self, route: &Route) {
        self.stray(route, Mistake::UnknownSession);
    }

    fn connected(&mut self, session: SessionId, route: &Route, identity: &PeerIdentity) {
        let restoring = self.reports.restoring;
        if restoring {
            self.pipeline.counters.count(Counter::SessionsRestored);
        } else {
            self.pipeline.counters.count(Counter::HandshakesCompleted);
            self.reports.established.push(session);
        }
        let now = self.moment.now;
        let device = match self.coap.handle_connected(now, session, identity, self.pipeline) {
            Ok(device) => device,
            Err(unidentified) => {
                // A pre-shared key is in the keyring for a device only: there, this is a reload in
                // between.
                self.pipeline.counters.count(Counter::SessionsClosed);
                return self.unidentified(route, identity, &unidentified);
            }
        };
        if restoring {
            // That it was there once does not mean that it is there now.
            return;
        }
        self.pipeline.gate.seen(now, device);
        self.coap.note_contact(now, Peer::Session(session), device);
        if let Some(id) = self.pipeline.gate.id(device) {
            log::debug!(device = id.as_str(), peer:% = route.remote, session = session.0; "session established");
        }
    }

    fn data(&mut self, session: SessionId, plaintext: &[u8]) {
        if self.tracer.traffic.is_watched()
            && let Some(device) = self.coap.session_device(session)
        {
            let peer = self.route.map(|route| route.remote);
            self.tracer.show(&self.pipeline.gate, device, "in", peer, plaintext);
        }
        self.coap.handle_session_data(&self.moment, session, plaintext, self.pipeline);
    }

    fn closed(&mut self, session: SessionId, cause: CloseCause) {
        self.reports.closed.push(session);
        // One of an earlier process that could not be resumed was never counted as completed or
        // restored.
        let Some(device) = self.coap.handle_closed(session) else { return };
        self.pipeline.counters.count(Counter::SessionsClosed);
        let Some(id) = self.pipeline.gate.id(device) else { return };
        match cause {
            CloseCause::CredentialChanged => {
                if self.limiter.permit(self.moment.now, LineKind::Withdrawn) {
                    log::info!(device = id.as_str(), session = session.0, reason:% = cause, audit = "withdrawn"; "session ended");
                }
            }
            _ => log::debug!(device = id.as_str(), session = session.0, reason:% = cause; "session ended"),
        }
    }

    fn failed(&mut self, route: &Route, failure: &HandshakeFailure) {
        let now = self.moment.now;
        self.pipeline.counters.count(Counter::HandshakesFailed);
        if matches!(failure, HandshakeFailure::TableFull(_)) {
            self.reports.full = Some(now);
        }
        if let HandshakeFailure::TooOften(identity) = failure
            && let Some(device) = self.pipeline.gate.recognise(identity)
        {
            self.pipeline.gate.note_too_often(now, device);
        }
        if let (HandshakeFailure::NoDevice(identity), Some(reason)) = (failure, self.reports.unclaimed.take())
        {
            return self.unidentified(route, identity, &reason);
        }
        let peer = route.remote;
        let source = peer.ip().to_canonical();
        if let HandshakeFailure::NoSharedCipherSuite { missing: Some(_), .. } = failure {
            if self.coap.strays.note(now, source, Mistake::NotConfigured) {
                self.show_failed(route, b"", None, failure);
                log::warn!(peer:% = peer, reason:% = failure; "handshake failed");
            }
            return;
        }
        if self.limiter.permit_from(now, LineKind::Handshake, source) {
            self.show_failed(route, failure.identity().unwrap_or_default(), failure.proven(), failure);
            let gate = &self.pipeline.gate;
            let proven = failure.proven().and_then(|identity| gate.recognise(identity));
            let claimed = || failure.identity().and_then(|identity| gate.identify_psk(identity));
            match proven.or_else(claimed) {
                Some(device) => {
                    let id = gate.id(device).map_or("", |id| id.as_str());
                    log::warn!(device = id, peer:% = peer, reason:% = failure, audit = "refused"; "handshake failed");
                }
                None => log::warn!(peer:% = peer, reason:% = failure, audit = "refused"; "handshake failed"),
            }
        }
    }

    fn moved(&mut self, session: SessionId, route: &Route) {
        let Some(device) = self.coap.handle_moved(session) else { return };
        self.pipeline.gate.seen(self.moment.now, device);
        if let Some(id) = self.pipeline.gate.id(device) {
            log::debug!(device = id.as_str(), peer:% = route.remote, session = session.0; "session moved");
        }
    }
}

/// The identity of a pre-shared key; empty for any other.
fn psk(identity: &PeerIdentity) -> &[u8] {
    match identity {
        PeerIdentity::Psk(identity) => identity,
        _ => b"",
    }
}
