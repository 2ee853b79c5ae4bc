//! Transfers that ended within EXCHANGE_LIFETIME, so that a late block of one is not taken for a
//! block of a newer transfer to the same resource.
//!
//! A block of an ended transfer can come as long as a message can be on its way: the one that an
//! abandoned transfer would have gone on with, one that the network delayed or doubled, or the last
//! block of a complete body, sent again because its response was lost. Without a Request-Tag,
//! Tokens and Message IDs tell whose it is:
//!
//! | evidence | the block is |
//! |---|---|
//! | the Token that all blocks of an ended transfer had, not that of the present one | late |
//! | the Message IDs show that it was sent before block 0 of the present one | late |
//! | its Token or its Message ID follows the present transfer | taken |
//! | none, at the place where an abandoned transfer would have gone on | late, once |
//! | none, elsewhere | taken |
//!
//! [`PER_PEER`] transfers of one peer are remembered; complete ones are forgotten first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::reliability::EXCHANGE_LIFETIME;
use super::{Holder, PeerId};

/// Most ended transfers of one peer.
const PER_PEER: usize = 16;
/// Most ended transfers in all, of about 80 bytes each.
const ENDED_MAX: usize = 16_384;
/// Expired ones are looked for at most so often.
const SWEEP: Duration = Duration::from_secs(30);
/// A client that counts its Message IDs (RFC 7252 §4.4) sends at most so many other messages
/// between two blocks.
const IDS_BETWEEN_MAX: u16 = 1024;

/// What the blocks of a transfer had in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    /// The Message IDs of its first and its last block.
    pub(super) first_id: u16,
    pub(super) last_id: u16,
    /// The hash of its first block's Token.
    pub(super) token: u64,
    /// Whether all its blocks had that Token.
    pub(super) one_token: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    place: u64,
    holder: u64,
    trace: Trace,
    /// Where the block belongs that may still be on the way; `None` if the body was complete.
    awaited: Option<usize>,
    /// Nothing of it comes any more.
    until: Instant,
}

/// Whose block it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Newer,
    Older,
    Unknown,
}

fn follows(id: u16, before: u16) -> bool {
    (1..=IDS_BETWEEN_MAX).contains(&id.wrapping_sub(before))
}

impl Ended {
    /// Whether a block is the present transfer's, or its own, late.
    fn origin(&self, present: &Trace, message_id: u16, token: u64) -> Origin {
        let own = &self.trace;
        if present.token != own.token {
            if token == present.token {
                return Origin::Newer;
            }
            if token == own.token && own.one_token && present.one_token {
                return Origin::Older;
            }
        }
        // Only of a client that counts its Message IDs they say in which order it sent.
        if follows(present.first_id, own.last_id) {
            if follows(message_id, present.last_id) {
                return Origin::Newer;
            }
            if follows(present.first_id, message_id) {
                return Origin::Older;
            }
        }
        // Block 0 of the present transfer came late itself.
        if follows(own.first_id, present.first_id) && follows(message_id, own.last_id) {
            return Origin::Older;
        }
        Origin::Unknown
    }
}

/// The ended transfers of all peers.
#[derive(Debug, Default)]
pub(super) struct EndedTransfers {
    /// Each list is in the order of ending, the newest last.
    of_peers: HashMap<PeerId, Vec<Ended>>,
    count: usize,
    /// When expired ones are dropped next.
    sweep: Option<Instant>,
}

impl EndedTransfers {
    /// Remembers a transfer that ended. `awaited`: the length of its body, in bytes, if it was not
    /// complete.
    pub(super) fn remember(
        &mut self,
        now: Instant,
        at: (PeerId, u64),
        holder: u64,
        trace: Trace,
        awaited: Option<usize>,
    ) {
        let until = now + EXCHANGE_LIFETIME;
        if self.count >= ENDED_MAX {
            self.make_room(now, holder);
        }
        let ended = self.of_peers.entry(at.0).or_default();
        let before = ended.len();
        ended.retain(|one| one.until > now);
        if ended.len() >= PER_PEER {
            ended.remove(ended.iter().position(|one| one.awaited.is_none()).unwrap_or(0));
        }
        ended.push(Ended { place: at.1, holder, trace, awaited, until });
        self.count = self.count + ended.len() - before;
        self.sweep.get_or_insert(until);
    }

    /// Whether a block that would continue the body at `offset` may be a late one of a transfer
    /// that ended.
    pub(super) fn is_late(
        &mut self,
        now: Instant,
        at: (PeerId, u64),
        present: &Trace,
        offset: usize,
        message_id: u16,
        token: u64,
    ) -> bool {
        let Some(ended) = self.of_peers.get_mut(&at.0) else { return false };
        let mut unknown = None;
        for one in ended.iter_mut().rev().filter(|one| one.place == at.1 && one.until > now) {
            match one.origin(present, message_id, token) {
                Origin::Older => return true,
                Origin::Unknown if unknown.is_none() && one.awaited == Some(offset) => unknown = Some(one),
                Origin::Unknown | Origin::Newer => {}
            }
        }
        // It came, or the client begins anew: that block is expected no more.
        unknown.map(|one| one.awaited = None).is_some()
    }

    /// Forgets those of a peer.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.count -= self.of_peers.remove(&peer).map_or(0, |ended| ended.len());
        if self.of_peers.is_empty() {
            self.sweep = None;
        }
    }

    /// When [`EndedTransfers::expire`] should be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sweep
    }

    /// Drops those of which nothing comes any more.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.sweep.is_some_and(|sweep| sweep <= now) {
            self.retain(|one| one.until > now);
            let next = self.of_peers.values().flatten().map(|one| one.until).min();
            self.sweep = next.map(|next| next.max(now + SWEEP));
        }
    }

    /// Drops expired ones; if there are none, the oldest one of the holder if it has its share, or
    /// else of all.
    fn make_room(&mut self, now: Instant, holder: u64) {
        self.retain(|one| one.until > now);
        if self.count < ENDED_MAX {
            return;
        }
        let share = Holder { number: holder, max_sessions: u32::MAX, max_handshakes: Holder::HANDSHAKES }
            .share(PER_PEER, ENDED_MAX);
        let of_holder = self.of_peers.values().flatten().filter(|one| one.holder == holder).count();
        let all = self.of_peers.iter().flat_map(|(peer, ended)| ended.iter().map(move |one| (*peer, one)));
        let oldest = all
            .filter(|(_, one)| of_holder < share || one.holder == holder)
            .min_by_key(|(_, one)| one.until)
            .map(|(peer, _)| peer);
        if let Some(peer) = oldest
            && let Some(ended) = self.of_peers.get_mut(&peer)
        {
            ended.remove(0);
            self.count -= 1;
            if ended.is_empty() {
                self.of_peers.remove(&peer);
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&Ended) -> bool) {
        self.of_peers.retain(|_, ended| {
            ended.retain(&keep);
            !ended.is_empty()
        });
        self.count = self.of_peers.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    fn trace(id: u16) -> Trace {
        Trace { first_id: id, last_id: id, token: 0, one_token: true }
    }

    #[test]
    fn sixteen_of_a_peer_are_remembered_and_complete_ones_go_first() {
        let now = Instant::now();
        let mut ended = EndedTransfers::default();
        let at = (PeerId(1), 1);
        ended.remember(now, at, 1, trace(0x8000), Some(16));
        for id in 0..100 {
            ended.remember(now, at, 1, trace(id), None);
        }
        assert_eq!((ended.count, ended.of_peers[&at.0].len()), (PER_PEER, PER_PEER));
        // Nothing tells whose block it is, where the abandoned one would have gone on.
        assert!(ended.is_late(now, at, &trace(0x4000), 16, 0xC000, 0));
        assert!(!ended.is_late(now, at, &trace(0x4000), 16, 0xC001, 0), "once");
        assert!(!ended.is_late(now, (at.0, 2), &trace(1000), 16, 5, 0), "another resource");
        assert!(ended.is_late(now, at, &trace(101), 16, 5, 0));
        assert!(!ended.is_late(now + EXCHANGE_LIFETIME, at, &trace(101), 16, 5, 0), "too old");
        ended.expire(now + EXCHANGE_LIFETIME);
        assert_eq!((ended.count, ended.of_peers.len(), ended.deadline()), (0, 0, None));
    }

    #[test]
    fn all_are_bounded_and_a_greedy_holder_pushes_out_its_own() {
        let now = Instant::now();
        let mut ended = EndedTransfers::default();
        ended.remember(now, (PeerId(0), 1), 0, trace(1), Some(16));
        for number in 0..ENDED_MAX as u64 + 500 {
            let at = (PeerId(1 + number / 4), 1);
            ended.remember(now + Duration::from_secs(1), at, 1, trace(number as u16), None);
        }
        assert_eq!(ended.count, ENDED_MAX);
        assert_eq!(ended.count, ended.of_peers.values().map(Vec::len).sum::<usize>());
        assert!(ended.of_peers.contains_key(&PeerId(0)), "a neighbour's older one is still known");
        ended.forget(PeerId(0));
        assert_eq!(ended.count, ENDED_MAX - 1);
    }
}
