//! Closes sessions whose certificates have expired or are no longer valid, and sessions of the
//! maximum age.
//!
//! | check | when |
//! |---|---|
//! | the credential, with the whole certification path | a handshake completes; a reload; an import |
//! | the earliest notAfter of the path | the same, and when the clock reaches it |
//! | `max_session_lifetime` | when the oldest session reaches it |
//!
//! The time is the current time if the clock is trusted, else a time that has certainly passed; a
//! certificate that expired before that has certainly expired.
//!
//! There is no state per session. Only the earliest possible deadline is stored; when it is
//! reached, all sessions are checked.

use std::time::{Duration, Instant};

use super::certificate::Lapse;
use super::session::Session;
use super::{Clock, ServerEngine, Settings, Trust};
use crate::clock::UnixTime;
use crate::proto::dtls::engine::{CloseCause, PeerIdentity, SessionId, Sink};
use crate::proto::dtls::session_table::Phase;

/// Not after the earliest notAfter of any session.
#[derive(Default)]
pub(super) struct Review {
    /// Of the certificates of all sessions.
    expiry: Option<UnixTime>,
    /// The oldest session's handshake.
    oldest: Option<Instant>,
    /// The last time anything happened.
    now: Option<Instant>,
}

impl Review {
    /// A session was established at that time; its certification path ends at `ends`.
    pub fn note(&mut self, now: Instant, established: Instant, ends: Option<UnixTime>) {
        self.now = Some(now);
        self.oldest = Some(self.oldest.map_or(established, |before| before.min(established)));
        if let Some(ends) = ends {
            self.expiry = Some(self.expiry.map_or(ends, |before| before.min(ends)));
        }
    }

    /// When [`ServerEngine::review`] must be called next.
    pub fn deadline(&self, settings: &Settings, clock: Clock) -> Option<Instant> {
        let too_old = settings.max_session_lifetime.and_then(|lifetime| self.oldest?.checked_add(lifetime));
        let expired = self.now.filter(|_| self.expiry.is_some_and(|expiry| has_passed(expiry, clock)));
        too_old.into_iter().chain(expired).min()
    }
}

fn has_passed(expiry: UnixTime, clock: Clock) -> bool {
    expiry.as_secs() < clock.time.as_secs()
}

impl Trust {
    /// Whether an identity that was verified is still valid.
    pub(super) fn believes(&self, identity: &PeerIdentity, clock: Clock) -> Result<(), Lapse> {
        match identity {
            PeerIdentity::Psk(_) => Ok(()),
            PeerIdentity::RawPublicKey(hash) if self.knows(hash) => Ok(()),
            PeerIdentity::RawPublicKey(_) => Err(Lapse::AnchorRemoved),
            PeerIdentity::Certificate(identity) => self.holds(identity, clock),
        }
    }

    /// The earliest notAfter of the certificates of an identity's path.
    pub(super) fn end_of(&self, identity: &PeerIdentity) -> Option<UnixTime> {
        match identity {
            PeerIdentity::Certificate(identity) => self.ends(identity),
            _ => None,
        }
    }
}

impl Lapse {
    fn cause(self) -> CloseCause {
        match self {
            Lapse::Expired => CloseCause::Expired,
            Lapse::Revoked | Lapse::AnchorRemoved | Lapse::NoPath => CloseCause::CredentialChanged,
        }
    }
}

impl ServerEngine {
    /// Closes the sessions that are due.
    pub(super) fn review(&mut self, now: Instant, sink: &mut dyn Sink) {
        self.review.now = Some(now);
        let deadline = self.review.deadline(&self.common.settings, self.common.clock);
        if deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        let lifetime = self.common.settings.max_session_lifetime;
        let (trust, clock) = (self.common.certificates.trust.clone(), self.common.clock);
        let is_over = |session: &Session| {
            if trust.end_of(&session.identity).is_some_and(|end| has_passed(end, clock)) {
                Some(CloseCause::Expired)
            } else if lifetime.is_some_and(|lifetime| is_past(session.established, lifetime, now)) {
                Some(CloseCause::TooOld)
            } else {
                None
            }
        };
        self.end_all(now, is_over, sink);
    }

    /// Checks the credentials of all sessions again.
    pub(super) fn judge_all(&mut self, now: Instant, sink: &mut dyn Sink) {
        let (trust, clock) = (self.common.certificates.trust.clone(), self.common.clock);
        self.end_all(now, |session| trust.believes(&session.identity, clock).err().map(Lapse::cause), sink);
    }

    /// Closes the sessions that are due, and computes the next deadline.
    fn end_all(
        &mut self,
        now: Instant,
        is_over: impl Fn(&Session) -> Option<CloseCause>,
        sink: &mut dyn Sink,
    ) {
        let mut review = Review { now: Some(now), ..Review::default() };
        let mut over: Vec<(SessionId, CloseCause)> = Vec::new();
        for (id, peer) in self.table.iter(Phase::Live) {
            let Some(session) = peer.session() else { continue };
            match is_over(session) {
                Some(cause) => over.push((id, cause)),
                None => {
                    let end = self.common.certificates.trust.end_of(&session.identity);
                    review.note(now, session.established, end);
                }
            }
        }
        self.review = review;
        for (session, cause) in over {
            self.end(now, session, cause, sink);
        }
    }
}

fn is_past(established: Instant, lifetime: Duration, now: Instant) -> bool {
    established.checked_add(lifetime).is_some_and(|end| end <= now)
}
