//! The state of a session, and the entry of a peer.

use std::time::Instant;

use super::amplification::AMPLIFICATION;
use super::handshake::{FINISHED_LENGTH, Handshake};
use super::protection::Protection;
use super::resume::Doubt;
use super::suites::Suite;
use super::wire::Cid;
use crate::proto::Route;
use crate::proto::dtls::engine::PeerIdentity;
use crate::proto::dtls::record::HEADER;

/// A handshake or a session, and where it is.
pub(super) struct Peer {
    pub route: Route,
    pub stage: Stage,
}

pub(super) enum Stage {
    Handshake(Box<Handshake>),
    Session(Session),
    Farewell(Box<Farewell>),
}

impl Peer {
    pub fn handshake(&mut self) -> Option<&mut Handshake> {
        match &mut self.stage {
            Stage::Handshake(handshake) => Some(handshake),
            Stage::Session(_) | Stage::Farewell(_) => None,
        }
    }

    /// The connection id in records to the server.
    pub fn own_cid(&self) -> Option<Cid> {
        match &self.stage {
            Stage::Handshake(handshake) => handshake.running.as_ref().and_then(|running| running.own_cid),
            Stage::Session(held) => held.own_cid,
            Stage::Farewell(farewell) => farewell.own_cid,
        }
    }

    pub fn session(&self) -> Option<&Session> {
        match &self.stage {
            Stage::Session(session) => Some(session),
            Stage::Handshake(_) | Stage::Farewell(_) => None,
        }
    }

    pub fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.stage {
            Stage::Session(session) => Some(session),
            Stage::Handshake(_) | Stage::Farewell(_) => None,
        }
    }
}

/// A session of an earlier process that cannot be restored. Each record of its device is answered
/// with a fatal alert, because earlier alerts may have been lost, or sent to an attacker that
/// replays records.
pub(super) struct Farewell {
    pub protection: Protection,
    pub own_cid: Option<Cid>,
    pub peer_cid: Box<[u8]>,
    /// Whether the alert may be sent only to the address the session had.
    pub is_unproven: bool,
    /// Whether an alert was sent.
    pub is_answered: bool,
    /// Whether an alert was sent to a validated address; then the session counts as closed.
    pub is_told: bool,
}

impl Farewell {
    pub fn of(session: Session) -> Farewell {
        let Session { protection, own_cid, peer_cid, credit, .. } = session;
        let is_unproven = credit.is_some();
        Farewell { protection, own_cid, peer_cid, is_unproven, is_answered: false, is_told: false }
    }
}

/// The state of a session.
pub(super) struct Session {
    pub protection: Protection,
    pub suite: Suite,
    pub extended_master_secret: bool,
    /// The connection id in records to the server, if negotiated.
    pub own_cid: Option<Cid>,
    /// The connection id in records to the peer; empty if there is none.
    pub peer_cid: Box<[u8]>,
    pub identity: PeerIdentity,
    /// Most plaintext in one sent record.
    pub limit: u16,
    pub established: Instant,
    /// The first bytes of the client random, which identify a late duplicate of its hello.
    pub random: [u8; 8],
    /// The next number of epoch 0.
    pub record_sequence: u64,
    /// The server's Finished, until the first data show that it was received.
    pub finished: Option<Box<[u8; FINISHED_LENGTH]>>,
    /// Bytes that may still be sent to a new address that is not validated.
    pub credit: Option<u32>,
    /// Set for a restored session until the peer has proved that it is present.
    pub doubt: Option<Box<Doubt>>,
}

impl Session {
    /// Adds credit for an authentic record from the current address.
    pub fn earn(&mut self, bytes: usize) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add((AMPLIFICATION * bytes) as u32);
        }
    }

    /// The size in bytes of a record with `plaintext` bytes of content.
    pub fn size_of(&self, plaintext: usize) -> usize {
        let inner = plaintext + usize::from(!self.peer_cid.is_empty());
        HEADER + self.peer_cid.len() + self.suite.aead.overhead() + inner
    }

    /// Whether a datagram of this size may be sent to the current address; if so, takes the credit.
    pub fn spend(&mut self, bytes: usize) -> bool {
        match &mut self.credit {
            None => true,
            Some(credit) => match credit.checked_sub(bytes as u32) {
                Some(left) => {
                    *credit = left;
                    true
                }
                None => false,
            },
        }
    }
}
