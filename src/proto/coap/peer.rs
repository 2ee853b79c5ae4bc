//! All peers by number, bounded in bytes; a peer is removed when nothing was received from it for
//! EXCHANGE_LIFETIME.
//!
//! Each peer has one entry in a heap, with a time not later than its oldest exchange. So the oldest
//! exchange of all is found without updating the heap for every datagram: an entry is compared with
//! its peer, and corrected, when it is popped. The same heap drives expiry, which runs every 8
//! seconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::time::Instant;

use super::PeerId;
use super::deduplication::Remembered;
use super::fold::fold;
use super::reliability::{EXCHANGE_LIFETIME_TICKS, MessageIds, Queue, Tick};

/// Bytes of a peer without its exchanges: its entries in the table (at three quarters load) and in
/// the heap.
pub(super) const PEER_BYTES: usize = size_of::<(PeerId, Peer)>() * 4 / 3 + size_of::<(Tick, PeerId)>();
/// Bytes that may be sent to an unproven peer for each byte received from it; unused credit is kept
/// up to [`CREDIT_MAX`].
const AMPLIFICATION_MAX: u32 = 3;
const CREDIT_MAX: u32 = 1 << 20;
/// How long an address counts as proven after an Echo option.
const PROOF_TICKS: u32 = EXCHANGE_LIFETIME_TICKS;
/// Expiry runs at multiples of this.
const SWEEP_TICKS: u32 = 8 * Tick::PER_SECOND;

/// The state of one peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) remembered: Remembered,
    pub(super) ids: MessageIds,
    pub(super) queue: Queue,
    pub(super) credit: Credit,
    /// The number of its unanswered requests and unacknowledged responses.
    pub(super) open: u16,
    heard: Tick,
    /// The time of its heap entry.
    due: Tick,
}

/// What may be sent to a plain UDP peer (RFC 7252 §11.3, RFC 9175 §2.4 no. 3).
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// Bytes that may still be sent while the address is not proven.
    bytes: u32,
    /// The last tick at which its address counts as proven by an Echo option; 0: it was not.
    proven_until: u32,
}

impl Credit {
    /// A request of this many bytes was received. While the address is proven nothing is earned,
    /// because nothing is spent.
    pub(super) fn earn(&mut self, bytes: usize) {
        if self.is_proven() {
            return;
        }
        let earned = (bytes as u32).saturating_mul(AMPLIFICATION_MAX);
        self.bytes = self.bytes.saturating_add(earned).min(CREDIT_MAX);
    }

    /// The peer has shown a value that was sent to its address.
    pub(super) fn prove(&mut self, now: Tick) {
        *self = Credit { bytes: 0, proven_until: now.plus(PROOF_TICKS).0 };
    }

    /// Ends the proof if its time is over.
    pub(super) fn expire(&mut self, now: Tick) {
        if self.proven_until < now.0 {
            self.proven_until = 0;
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven_until > 0
    }

    /// Bytes that may be sent while the address is not proven.
    pub(super) fn room(&self) -> usize {
        self.bytes as usize
    }

    /// Takes the bytes of a datagram to be sent; `false` if there are too few.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let rest = self.bytes.checked_sub(bytes as u32);
        self.bytes = rest.unwrap_or(self.bytes);
        rest.is_some()
    }
}

/// All peers of one kind (proven or not).
#[derive(Debug)]
pub(super) struct Peers {
    map: HashMap<PeerId, Peer, PeerHash>,
    order: BinaryHeap<Reverse<(Tick, PeerId)>>,
    /// Bytes of exchanges and stored responses; the peers themselves are `map.len() * PEER_BYTES`.
    account: usize,
    bytes_max: usize,
    seed: u64,
}

impl Peers {
    pub(super) fn new(bytes_max: usize, seed: u64) -> Peers {
        Peers {
            map: HashMap::with_hasher(PeerHash { seed }),
            order: BinaryHeap::new(),
            account: 0,
            bytes_max,
            seed,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// The accounted bytes of all peers.
    pub(super) fn bytes(&self) -> usize {
        self.account + self.map.len() * PEER_BYTES
    }

    /// Whether the peers exceed their limit.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// The peer, added if it is unknown, and the account for its changes.
    #[inline]
    pub(super) fn meet(&mut self, id: PeerId, now: Tick) -> (&mut Peer, &mut usize) {
        let order = &mut self.order;
        let seed = self.seed;
        let peer = self.map.entry(id).or_insert_with(|| {
            order.push(Reverse((now, id)));
            Peer {
                remembered: Remembered::default(),
                ids: MessageIds::new(seed, id, now),
                queue: Queue::default(),
                credit: Credit::default(),
                open: 0,
                heard: now,
                due: now,
            }
        });
        peer.heard = now;
        (peer, &mut self.account)
    }

    /// The peer, if it is known, and the account for its changes.
    #[inline]
    pub(super) fn get(&mut self, id: PeerId) -> Option<(&mut Peer, &mut usize)> {
        self.map.get_mut(&id).map(|peer| (peer, &mut self.account))
    }

    /// Removes a peer; the caller must clear its exchanges.
    pub(super) fn remove(&mut self, id: PeerId) -> Option<(Peer, &mut usize)> {
        let peer = self.map.remove(&id)?;
        if self.order.len() > 64 + 2 * self.map.len() {
            let map = &self.map;
            self.order.retain(|Reverse((due, id))| map.get(id).is_some_and(|peer| peer.due == *due));
        }
        Some((peer, &mut self.account))
    }

    /// Drops the oldest exchanges over all peers until the limit is met; returns how many. Pending
    /// exchanges are not dropped.
    pub(super) fn make_room(&mut self, now: Tick) -> u64 {
        let mut forgotten = 0;
        // Each iteration frees memory or reschedules a peer with only pending exchanges; there may
        // be many of those, so the number of iterations is bounded.
        for _ in 0..64 {
            if !self.is_over() {
                break;
            }
            let Some(id) = self.pop_oldest(now) else { break };
            let Some(peer) = self.map.get_mut(&id) else { continue };
            let due = if peer.remembered.drop_oldest_answered(&mut self.account) {
                forgotten += 1;
                peer.remembered.oldest().unwrap_or(peer.heard)
            } else {
                now
            };
            if peer.remembered.is_empty() && peer.open == 0 {
                self.map.remove(&id);
                continue;
            }
            peer.due = due;
            self.order.push(Reverse((due, id)));
        }
        forgotten
    }

    /// Drops expired exchanges; calls `abandoned` with the index of each request that was never
    /// answered.
    pub(super) fn expire(&mut self, now: Tick, mut abandoned: impl FnMut(PeerId, u32)) {
        while self.next_due().is_some_and(|due| due.age(now) > EXCHANGE_LIFETIME_TICKS) {
            let Some(id) = self.pop_oldest(now) else { break };
            let Some(peer) = self.map.get_mut(&id) else { continue };
            let open = &mut peer.open;
            peer.remembered.expire(now, &mut self.account, |index| {
                *open = open.saturating_sub(1);
                abandoned(id, index);
            });
            if peer.remembered.is_empty() && peer.open == 0 && peer.heard.age(now) > EXCHANGE_LIFETIME_TICKS {
                self.map.remove(&id);
                continue;
            }
            // Never older than the entry just popped, so that the loop ends.
            let due = peer.remembered.oldest().unwrap_or(peer.heard);
            peer.due = if due.age(now) > EXCHANGE_LIFETIME_TICKS { now } else { due };
            self.order.push(Reverse((peer.due, id)));
        }
        if self.map.capacity() > 64 && self.map.len() * 4 < self.map.capacity() {
            self.map.shrink_to(self.map.len() * 2);
            self.order.shrink_to(self.map.len() * 2);
        }
    }

    /// When [`Peers::expire`] should be called next.
    pub(super) fn sweep_due(&self) -> Option<Tick> {
        let due = self.next_due()?.plus(EXCHANGE_LIFETIME_TICKS + 1);
        Some(Tick(due.0.div_ceil(SWEEP_TICKS).saturating_mul(SWEEP_TICKS)))
    }

    pub(super) fn sweep_deadline(&self, epoch: Instant) -> Option<Instant> {
        self.sweep_due().map(|tick| tick.instant(epoch))
    }

    fn next_due(&self) -> Option<Tick> {
        self.order.peek().map(|Reverse((due, _))| *due)
    }

    /// Pops the peer with the oldest exchange; the caller must push its entry again.
    fn pop_oldest(&mut self, now: Tick) -> Option<PeerId> {
        while let Some(Reverse((due, id))) = self.order.pop() {
            let Some(peer) = self.map.get_mut(&id).filter(|peer| peer.due == due) else { continue };
            match peer.remembered.oldest().filter(|oldest| *oldest > due && *oldest < now) {
                // Its oldest exchange was dropped since: correct the entry.
                Some(oldest) => {
                    peer.due = oldest;
                    self.order.push(Reverse((oldest, id)));
                }
                None => return Some(id),
            }
        }
        None
    }
}

/// A seeded hasher, so that a peer cannot choose colliding numbers. It hashes only 64-bit peer
/// numbers.
#[derive(Clone, Debug)]
struct PeerHash {
    seed: u64,
}

impl BuildHasher for PeerHash {
    type Hasher = PeerHasher;

    fn build_hasher(&self) -> PeerHasher {
        PeerHasher(self.seed)
    }
}

struct PeerHasher(u64);

impl Hasher for PeerHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = fold(self.0, u128::from(number));
    }
}

#[cfg(test)]
mod tests {
    use super::super::deduplication::{Answer, ENTRY_BYTES, Entry};
    use super::super::message::MessageId;
    use super::*;

    fn hear(peers: &mut Peers, peer: u64, id: u16, at: Tick, answer: Answer) {
        let (peer, account) = peers.meet(PeerId(peer), at);
        let entry =
            Entry { arrived: at, fingerprint: 0, message_id: MessageId(id), confirmable: true, answer };
        assert!(peer.remembered.push(entry, account));
    }

    fn remembers(peers: &mut Peers, peer: u64, id: u16, now: Tick) -> bool {
        peers.get(PeerId(peer)).is_some_and(|(peer, _)| peer.remembered.find(MessageId(id), now).is_some())
    }

    #[test]
    fn five_thousand_peers_with_full_memories_cost_a_few_megabytes() {
        const { assert!(5_000 * (PEER_BYTES + 32 * ENTRY_BYTES) < 7 << 20) };
    }

    #[test]
    fn the_oldest_exchange_of_all_goes_first_and_pending_ones_never() {
        let mut peers = Peers::new(3 * PEER_BYTES + 7 * ENTRY_BYTES, 1);
        hear(&mut peers, 1, 10, Tick(1), Answer::Pending(5));
        hear(&mut peers, 2, 20, Tick(2), Answer::Silent);
        hear(&mut peers, 2, 29, Tick(2), Answer::Pending(6));
        hear(&mut peers, 3, 30, Tick(3), Answer::Silent);
        hear(&mut peers, 2, 21, Tick(4), Answer::Silent);
        hear(&mut peers, 1, 11, Tick(5), Answer::Silent);
        hear(&mut peers, 3, 31, Tick(6), Answer::Silent);
        assert_eq!(peers.make_room(Tick(6)), 0);
        for (at, gone) in [(7, (2, 20)), (8, (3, 30)), (9, (2, 21)), (10, (1, 11))] {
            assert!(remembers(&mut peers, gone.0, gone.1, Tick(at)));
            hear(&mut peers, 1, 100 + at as u16, Tick(at), Answer::Silent);
            assert!(peers.make_room(Tick(at)) <= 1);
            assert!(!remembers(&mut peers, gone.0, gone.1, Tick(at)), "{gone:?} goes at {at}");
        }
        assert!(remembers(&mut peers, 1, 10, Tick(11)) && remembers(&mut peers, 2, 29, Tick(11)));
    }

    #[test]
    fn after_247_seconds_nothing_is_left() {
        let mut peers = Peers::new(1 << 20, 1);
        for peer in 0..1_000 {
            hear(&mut peers, peer, 1, Tick(peer as u32), Answer::Silent);
        }
        hear(&mut peers, 5, 2, Tick(1_000), Answer::Pending(9));
        let mut now = Tick(991);
        let mut abandoned = Vec::new();
        while let Some(due) = peers.sweep_due() {
            assert!(due > now, "each sweep ends, and the next is later");
            now = due;
            peers.expire(now, |_, index| abandoned.push(index));
        }
        assert_eq!((peers.len(), peers.bytes(), abandoned), (0, 0, vec![9]));
        assert!(now.0 < 1_000 + EXCHANGE_LIFETIME_TICKS * 2 + 2 * SWEEP_TICKS);
    }

    #[test]
    fn peers_that_come_and_go_leave_no_trail_in_the_heap() {
        let mut peers = Peers::new(1 << 20, 1);
        for peer in 0..100_000 {
            hear(&mut peers, peer, 1, Tick(0), Answer::Silent);
            let (mut gone, account) = peers.remove(PeerId(peer)).unwrap();
            gone.remembered.clear(account).count();
        }
        assert_eq!(peers.bytes(), 0);
        assert!(peers.order.len() < 100);
    }
}
