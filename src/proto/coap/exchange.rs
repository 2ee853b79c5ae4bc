//! Requests that were handed up and are not answered yet (RFC 7252 §4.4, §5.2).
//!
//! Confirmable requests are in a list in order of arrival until their empty acknowledgement is due.
//! All have the same delay, so the first in the list is due next. A request leaves the list when it
//! is answered, acknowledged or dropped.

use std::fmt;
use std::time::Instant;

use super::PeerId;
use super::block::Block;
use super::message::{MessageId, Token};
use super::option::NoResponse;
use super::request::Method;
use super::tally::Tally;
use crate::slots::{Key, Slots};

/// Identifies a request that awaits its response: 16 bytes, `Copy`. A
/// [`Ticket`](crate::proto::address::Ticket) packs it.
///
/// It becomes stale when the request is answered, the peer is removed, or EXCHANGE_LIFETIME (247 s)
/// has passed. A response to a stale exchange is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exchange {
    peer: PeerId,
    key: Key,
}

impl Exchange {
    /// Bits of an index: an endpoint has at most 2^24 exchanges at once.
    pub(in crate::proto) const INDEX_BITS: u32 = 24;

    /// Rebuilds an exchange from the values of [`Exchange::parts`].
    pub(in crate::proto) fn from_parts(peer: PeerId, index: u32, generation: u32) -> Exchange {
        Exchange { peer, key: Key { index, generation } }
    }

    /// The peer, and the index and generation of its slot; the index is below
    /// 2^[`Exchange::INDEX_BITS`].
    pub(in crate::proto) fn parts(self) -> (PeerId, u32, u32) {
        (self.peer, self.key.index, self.key.generation)
    }

    pub(super) fn new(peer: PeerId, key: Key) -> Exchange {
        Exchange { peer, key }
    }

    pub(super) fn key(self) -> Key {
        self.key
    }

    /// The peer that sent the request.
    pub fn peer(self) -> PeerId {
        self.peer
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}/{}.{}", self.peer.0, self.key.index, self.key.generation)
    }
}

/// The fields of a request that its response needs.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) peer: PeerId,
    /// The number of its holder.
    pub(super) holder: u64,
    pub(super) message_id: MessageId,
    pub(super) token: Token,
    pub(super) method: Method,
    pub(super) confirmable: bool,
    /// Whether the empty acknowledgement was sent, so that the response is separate.
    pub(super) acknowledged: bool,
    pub(super) no_response: NoResponse,
    pub(super) block1: Option<Block>,
    pub(super) block2: Option<Block>,
    pub(super) wants_size2: bool,
}

#[derive(Debug)]
struct Waiting {
    pending: Pending,
    /// Its neighbours in the list of requests to acknowledge.
    acknowledge: Option<Links>,
}

#[derive(Debug)]
struct Links {
    deadline: Instant,
    before: Option<Key>,
    after: Option<Key>,
}

/// All requests handed up and not answered.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    slots: Slots<Waiting>,
    held: Tally,
    first: Option<Key>,
    last: Option<Key>,
}

impl Exchanges {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The number of requests of this holder.
    pub(super) fn held(&self, holder: u64) -> usize {
        self.held.count(holder)
    }

    /// Adds a request; `acknowledge_at` must not be before that of any other.
    pub(super) fn open(&mut self, pending: Pending, acknowledge_at: Option<Instant>) -> Key {
        let before = self.last;
        let links = acknowledge_at.map(|deadline| Links { deadline, before, after: None });
        self.held.add(pending.holder);
        let key = self.slots.insert(Waiting { pending, acknowledge: links });
        if acknowledge_at.is_some() {
            match before.and_then(|before| self.links(before)) {
                Some(links) => links.after = Some(key),
                None => self.first = Some(key),
            }
            self.last = Some(key);
        }
        key
    }

    /// Removes a request; `None` for a stale key.
    pub(super) fn close(&mut self, key: Key) -> Option<Pending> {
        self.unlink(key);
        let pending = self.slots.remove(key)?.pending;
        self.held.subtract(pending.holder);
        Some(pending)
    }

    /// The key of the request at `index`, if it belongs to `peer`.
    pub(super) fn at(&self, index: u32, peer: PeerId) -> Option<Key> {
        let key = self.slots.key_at(index)?;
        (self.slots.get(key)?.pending.peer == peer).then_some(key)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Pending> {
        self.slots.get(key).map(|waiting| &waiting.pending)
    }

    /// When the next empty acknowledgement is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = self.slots.get(self.first?)?;
        first.acknowledge.as_ref().map(|links| links.deadline)
    }

    /// The next request whose empty acknowledgement is due; marks it as acknowledged.
    pub(super) fn poll_acknowledgement(&mut self, now: Instant) -> Option<&Pending> {
        let key = self.first?;
        if self.deadline()? > now {
            return None;
        }
        self.unlink(key);
        let pending = &mut self.slots.get_mut(key)?.pending;
        pending.acknowledged = true;
        Some(pending)
    }

    fn links(&mut self, key: Key) -> Option<&mut Links> {
        self.slots.get_mut(key)?.acknowledge.as_mut()
    }

    fn unlink(&mut self, key: Key) {
        let Some(links) = self.slots.get_mut(key).and_then(|waiting| waiting.acknowledge.take()) else {
            return;
        };
        match links.before.and_then(|before| self.links(before)) {
            Some(before) => before.after = links.after,
            None => self.first = links.after,
        }
        match links.after.and_then(|after| self.links(after)) {
            Some(after) => after.before = links.before,
            None => self.last = links.before,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pending(id: u16) -> Pending {
        Pending {
            peer: PeerId(1),
            holder: 7,
            message_id: MessageId(id),
            token: Token::default(),
            method: Method::Post,
            confirmable: true,
            acknowledged: false,
            no_response: NoResponse::default(),
            block1: None,
            block2: None,
            wants_size2: false,
        }
    }

    #[test]
    fn acknowledgements_come_due_in_order_whoever_left_in_between() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut exchanges = Exchanges::default();
        let keys: Vec<_> = (0..6u16).map(|id| exchanges.open(pending(id), Some(at(id.into())))).collect();
        let quiet = exchanges.open(pending(9), None);
        for gone in [0, 3, 5] {
            assert!(exchanges.close(keys[gone]).is_some());
            assert!(exchanges.close(keys[gone]).is_none());
        }
        assert_eq!(exchanges.deadline(), Some(at(1)));
        assert!(exchanges.poll_acknowledgement(at(0)).is_none());
        let mut due = Vec::new();
        while let Some(pending) = exchanges.poll_acknowledgement(at(100)) {
            due.push(pending.message_id.0);
        }
        assert_eq!(due, [1, 2, 4]);
        assert_eq!(exchanges.deadline(), None);
        let key = exchanges.open(pending(7), Some(at(200)));
        assert_eq!(exchanges.deadline(), Some(at(200)));
        assert!(exchanges.close(key).is_some() && exchanges.close(quiet).is_some());
        assert!(exchanges.close(keys[1]).is_some_and(|p| p.acknowledged));
        assert_eq!((exchanges.len(), exchanges.held(7), exchanges.held(8)), (2, 2, 0));
    }

    #[test]
    fn an_exchange_survives_being_taken_apart() {
        assert_eq!(size_of::<Exchange>(), 16);
        let exchange = Exchange::new(PeerId(u64::MAX - 1), Key { index: 77, generation: u32::MAX });
        let (peer, index, generation) = exchange.parts();
        assert_eq!(Exchange::from_parts(peer, index, generation), exchange);
    }
}
