//! Which address has which sessions, and who must go when room is short. Every step is O(1).
//!
//! An entry is a handshake ([`Phase::HalfOpen`]) until its peer has proven its identity, then a session
//! ([`Phase::Live`]). An address may have one of each: a live session ends only when another has proven
//! itself from the same address. Both phases are bounded ([`Limits`]); where one is full, the entry
//! that was touched longest ago must go.
//!
//! Handshakes are entered only for peers that have shown that they receive at their address
//! ([`cookie`](super::cookie)), so a spoofed hello displaces nothing.
//!
//! The registry holds values of any engine; it keeps no time of its own and closes nothing: it hands
//! back what must go, and the engine says goodbye.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::engine::{Limits, SessionId};
use super::throttle::{Party, Throttle};
use crate::proto::Route;

/// No slot.
const NONE: u32 = u32::MAX;
/// Ids keep their top bit clear ([`SessionId`]).
const GENERATIONS: u32 = 0x7fff_ffff;

/// Times are sums with it; none may overflow.
const IDLE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A peer as the network shows it: its address, and the socket of ours it came to. As bytes, since there are
/// two of each peer: address 16 (IPv4 mapped into IPv6), port 2, socket 2, scope 4.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerAddress([u8; 24]);

impl PeerAddress {
    /// Fixed bytes, different for different addresses.
    pub fn to_bytes(&self) -> [u8; 24] {
        self.0
    }

    fn port(&self) -> u16 {
        u16::from_be_bytes([self.0[16], self.0[17]])
    }

    /// Who is held to answer for a handshake: an IPv4 address, or the /64 an IPv6 host can choose from.
    fn source(&self) -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.0[..16]);
        match Ipv6Addr::from(octets).to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & (u128::MAX << 64);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            v4 => v4,
        }
    }
}

impl From<&Route> for PeerAddress {
    /// Without the flow label, which is of the packet, not of the peer.
    fn from(route: &Route) -> PeerAddress {
        let (ip, scope) = match route.remote {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..18].copy_from_slice(&route.remote.port().to_be_bytes());
        bytes[18..20].copy_from_slice(&route.socket.to_be_bytes());
        bytes[20..].copy_from_slice(&scope.to_be_bytes());
        PeerAddress(bytes)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerAddress({}…, port {})", self.source(), self.port())
    }
}

/// How much is known of an entry's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    /// Its address is proven.
    HalfOpen = 0,
    /// Its identity is proven.
    Live = 1,
}

/// The entries of one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupants {
    /// The handshake under way.
    pub half_open: Option<SessionId>,
    /// The session.
    pub live: Option<SessionId>,
}

/// [`Occupants`] as kept: 0, which is no id, for none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Places([u64; 2]);

impl Places {
    fn get(self, phase: Phase) -> Option<SessionId> {
        Some(self.0[phase as usize]).filter(|id| *id != 0).map(SessionId)
    }

    fn set(&mut self, phase: Phase, session: Option<SessionId>) {
        self.0[phase as usize] = session.map_or(0, |session| session.0);
    }
}

/// An entry that had to go.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed<T> {
    /// The id it had.
    pub session: SessionId,
    /// What it was.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
    /// What it held.
    pub value: T,
}

/// Why an entry had to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another entry of the same address took its place.
    Replaced,
    /// A limit was reached.
    Room,
}

/// Too many handshakes of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceBusy;

/// See the module.
pub struct Registry<T> {
    limits: Limits,
    slots: Vec<Slot<T>>,
    vacant: u32,
    addresses: HashMap<PeerAddress, Places>,
    /// Half-open entries by source.
    sources: HashMap<IpAddr, u32>,
    throttle: Throttle,
    queues: [Queue; 2],
}

struct Slot<T> {
    generation: u32,
    /// The place in its phase's queue; `next` also links the vacant slots.
    previous: u32,
    next: u32,
    entry: Option<Entry<T>>,
}

struct Entry<T> {
    address: PeerAddress,
    phase: Phase,
    since: Instant,
    value: T,
}

/// The entries of one phase, the one longest untouched first.
#[derive(Clone, Copy)]
struct Queue {
    head: u32,
    tail: u32,
    length: usize,
}

impl<T> Registry<T> {
    /// An empty registry. Limits of 0 count as 1, an idle time of more than ten years as ten years.
    pub fn new(limits: Limits) -> Registry<T> {
        Registry {
            limits: Limits {
                sessions: limits.sessions.max(1),
                half_open: limits.half_open.max(1),
                half_open_per_source: limits.half_open_per_source.max(1),
                idle: limits.idle.min(IDLE_MAX),
                ..limits
            },
            throttle: Throttle::new(&limits),
            slots: Vec::new(),
            vacant: NONE,
            addresses: HashMap::new(),
            sources: HashMap::new(),
            queues: [Queue { head: NONE, tail: NONE, length: 0 }; 2],
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The entries of an address.
    pub fn occupants(&self, address: &PeerAddress) -> Occupants {
        let places = self.addresses.get(address).copied().unwrap_or_default();
        Occupants { half_open: places.get(Phase::HalfOpen), live: places.get(Phase::Live) }
    }

    /// What an entry holds.
    pub fn get(&self, session: SessionId) -> Option<&T> {
        self.entry(session).map(|entry| &entry.value)
    }

    /// What an entry holds.
    pub fn get_mut(&mut self, session: SessionId) -> Option<&mut T> {
        self.entry_mut(session).map(|entry| &mut entry.value)
    }

    /// An entry's phase.
    pub fn phase(&self, session: SessionId) -> Option<Phase> {
        self.entry(session).map(|entry| entry.phase)
    }

    /// When an entry reached its phase, or was touched last.
    pub fn since(&self, session: SessionId) -> Option<Instant> {
        self.entry(session).map(|entry| entry.since)
    }

    /// How many entries are in a phase.
    pub fn count(&self, phase: Phase) -> usize {
        self.queues[phase as usize].length
    }

    /// The entry of a phase that was touched longest ago.
    pub fn oldest(&self, phase: Phase) -> Option<SessionId> {
        self.id(self.queues[phase as usize].head)
    }

    /// The entries of a phase, the one touched longest ago first.
    pub fn iter(&self, phase: Phase) -> impl Iterator<Item = (SessionId, &T)> {
        let mut next = self.queues[phase as usize].head;
        std::iter::from_fn(move || {
            let slot = self.slots.get(next as usize)?;
            let session = self.id(next)?;
            next = slot.next;
            slot.entry.as_ref().map(|entry| (session, &entry.value))
        })
    }

    /// Whether a handshake may be begun from `address`: to be asked before anything is spent on it. It counts
    /// unless it is completed.
    ///
    /// # Errors
    /// [`SourceBusy`]: too many were begun there of late.
    pub fn admit(&mut self, now: Instant, address: &PeerAddress) -> Result<(), SourceBusy> {
        let port = self.occupants(address).live.map(|_| address.port());
        let party = Party { source: address.source(), port };
        if self.throttle.take(now, party) { Ok(()) } else { Err(SourceBusy) }
    }

    /// Whether a hello is to be looked at, which has come from an address with these occupants.
    pub fn hears(&mut self, now: Instant, occupants: &Occupants) -> bool {
        *occupants != Occupants::default() || self.throttle.take_hello(now)
    }

    /// Enters a handshake. Displaces the one of the same address, or the oldest where there are too
    /// many.
    ///
    /// # Errors
    /// [`SourceBusy`]: nothing was entered.
    pub fn open(
        &mut self,
        now: Instant,
        address: PeerAddress,
        value: T,
    ) -> Result<(SessionId, Option<Removed<T>>), SourceBusy> {
        let mut displaced = None;
        let Occupants { half_open, live } = self.occupants(&address);
        if let Some(same) = half_open {
            displaced = self.take(same, Reason::Replaced);
        } else {
            let source = self.sources.get(&address.source()).copied().unwrap_or(0);
            // A device with a session that restarted has one place beside it, whoever shares its address.
            if live.is_none() && source as usize >= self.limits.half_open_per_source {
                return Err(SourceBusy);
            }
            if self.count(Phase::HalfOpen) >= self.limits.half_open {
                displaced = self.oldest(Phase::HalfOpen).and_then(|oldest| self.take(oldest, Reason::Room));
            }
        }
        let index = self.vacate();
        let slot = &mut self.slots[index as usize];
        slot.entry = Some(Entry { address, phase: Phase::HalfOpen, since: now, value });
        let session = id_of(index, slot.generation);
        self.enqueue(index, Phase::HalfOpen);
        self.addresses.entry(address).or_default().set(Phase::HalfOpen, Some(session));
        *self.sources.entry(address.source()).or_default() += 1;
        Ok((session, displaced))
    }

    /// The identity of a handshake's peer is proven: it is a session now. Displaces the live session
    /// of that address, or the longest idle one where there are too many.
    pub fn establish(&mut self, now: Instant, session: SessionId) -> Option<Removed<T>> {
        let entry = self.entry_mut(session).filter(|entry| entry.phase == Phase::HalfOpen)?;
        entry.phase = Phase::Live;
        entry.since = now;
        let address = entry.address;
        let index = index_of(session);
        self.dequeue(index, Phase::HalfOpen);
        self.enqueue(index, Phase::Live);
        self.release_source(&address);
        let places = self.addresses.entry(address).or_default();
        let old = places.get(Phase::Live);
        places.set(Phase::HalfOpen, None);
        places.set(Phase::Live, Some(session));
        let party = Party { source: address.source(), port: old.map(|_| address.port()) };
        self.throttle.give_back(now, party);
        if let Some(old) = old {
            return self.take(old, Reason::Replaced);
        }
        if self.count(Phase::Live) > self.limits.sessions {
            return self.oldest(Phase::Live).and_then(|oldest| self.take(oldest, Reason::Room));
        }
        None
    }

    /// Enters a session of an earlier process, last touched at `since`. It displaces nobody; whether there is
    /// room is the caller's to see to. Where another is less idle already, it counts as no more idle than that.
    pub fn adopt(&mut self, since: Instant, address: PeerAddress, value: T) -> SessionId {
        let newest = self.id(self.queues[Phase::Live as usize].tail).and_then(|tail| self.since(tail));
        let since = newest.map_or(since, |newest| newest.max(since));
        let index = self.vacate();
        let slot = &mut self.slots[index as usize];
        slot.entry = Some(Entry { address, phase: Phase::Live, since, value });
        let session = id_of(index, slot.generation);
        self.enqueue(index, Phase::Live);
        self.settle(address, session);
        session
    }

    /// An authentic record came: the entry is the least idle of its phase.
    pub fn touch(&mut self, now: Instant, session: SessionId) {
        let Some(entry) = self.entry_mut(session) else { return };
        entry.since = now;
        let phase = entry.phase;
        let index = index_of(session);
        if self.queues[phase as usize].tail != index {
            self.dequeue(index, phase);
            self.enqueue(index, phase);
        }
    }

    /// A live entry's peer is at another address now. It does not displace who is there: then it is found
    /// by its id alone.
    pub fn relocate(&mut self, session: SessionId, address: PeerAddress) {
        self.detach(session);
        let Some(entry) = self.entry_mut(session).filter(|entry| entry.phase == Phase::Live) else { return };
        entry.address = address;
        self.settle(address, session);
    }

    /// A live entry is no longer found by its address, only by its id.
    pub fn detach(&mut self, session: SessionId) {
        let Some(entry) = self.entry(session).filter(|entry| entry.phase == Phase::Live) else { return };
        let address = entry.address;
        self.leave(&address, Phase::Live, session);
    }

    /// A live entry is found by its address, unless another is there.
    fn settle(&mut self, address: PeerAddress, session: SessionId) {
        let places = self.addresses.entry(address).or_default();
        if places.get(Phase::Live).is_none() {
            places.set(Phase::Live, Some(session));
        }
    }

    /// An entry is not found by its address any more.
    fn leave(&mut self, address: &PeerAddress, phase: Phase, session: SessionId) {
        let Some(places) = self.addresses.get_mut(address) else { return };
        if places.get(phase) == Some(session) {
            places.set(phase, None);
            if *places == Places::default() {
                self.addresses.remove(address);
            }
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, session: SessionId) -> Option<T> {
        self.take(session, Reason::Replaced).map(|removed| removed.value)
    }

    fn take(&mut self, session: SessionId, reason: Reason) -> Option<Removed<T>> {
        let index = index_of(session);
        let slot =
            self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation(session))?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation % GENERATIONS + 1;
        self.dequeue(index, entry.phase);
        self.slots[index as usize].next = self.vacant;
        self.vacant = index;
        if entry.phase != Phase::Live {
            self.release_source(&entry.address);
        }
        self.leave(&entry.address, entry.phase, session);
        Some(Removed { session, phase: entry.phase, reason, value: entry.value })
    }

    fn release_source(&mut self, address: &PeerAddress) {
        let source = address.source();
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// A slot without an entry.
    fn vacate(&mut self) -> u32 {
        if let Some(slot) = self.slots.get(self.vacant as usize) {
            return std::mem::replace(&mut self.vacant, slot.next);
        }
        // Sessions and half-open handshakes are limited far below 2^32.
        let index = u32::try_from(self.slots.len()).unwrap_or(NONE);
        if self.slots.len() == self.slots.capacity() {
            // By an eighth: twice as many would mostly stay empty.
            self.slots.reserve_exact(self.slots.len() / 8 + 16);
        }
        self.slots.push(Slot { generation: 1, previous: NONE, next: NONE, entry: None });
        index
    }

    fn enqueue(&mut self, index: u32, phase: Phase) {
        let queue = &mut self.queues[phase as usize];
        let tail = std::mem::replace(&mut queue.tail, index);
        queue.length += 1;
        match self.slots.get_mut(tail as usize) {
            Some(slot) => slot.next = index,
            None => queue.head = index,
        }
        let slot = &mut self.slots[index as usize];
        (slot.previous, slot.next) = (tail, NONE);
    }

    fn dequeue(&mut self, index: u32, phase: Phase) {
        let Slot { previous, next, .. } = self.slots[index as usize];
        let queue = &mut self.queues[phase as usize];
        queue.length -= 1;
        match self.slots.get_mut(previous as usize) {
            Some(slot) => slot.next = next,
            None => queue.head = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(slot) => slot.previous = previous,
            None => queue.tail = previous,
        }
    }

    fn entry(&self, session: SessionId) -> Option<&Entry<T>> {
        let slot = self.slots.get(index_of(session) as usize)?;
        slot.entry.as_ref().filter(|_| slot.generation == generation(session))
    }

    fn entry_mut(&mut self, session: SessionId) -> Option<&mut Entry<T>> {
        let slot = self.slots.get_mut(index_of(session) as usize)?;
        slot.entry.as_mut().filter(|_| slot.generation == generation(session))
    }

    fn id(&self, index: u32) -> Option<SessionId> {
        self.slots.get(index as usize).map(|slot| id_of(index, slot.generation))
    }
}

fn id_of(index: u32, generation: u32) -> SessionId {
    SessionId(u64::from(generation) << 32 | u64::from(index))
}

fn index_of(session: SessionId) -> u32 {
    session.0 as u32
}

fn generation(session: SessionId) -> u32 {
    (session.0 >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> PeerAddress {
        PeerAddress::from(&Route { remote: ([192, 0, 2, 1], port).into(), local: None, socket: 0 })
    }

    fn limits(sessions: usize, half_open: usize, half_open_per_source: usize) -> Limits {
        let limits = Limits::new(sessions, half_open, Duration::from_secs(60));
        Limits { half_open_per_source, ..limits }
    }

    fn live(registry: &mut Registry<u16>, now: Instant, port: u16) -> (SessionId, Option<Removed<u16>>) {
        let (session, displaced) = registry.open(now, address(port), port).unwrap();
        assert!(displaced.is_none());
        let displaced = registry.establish(now, session);
        (session, displaced)
    }

    #[test]
    fn a_live_session_stays_until_its_shadow_is_live_too() {
        let now = Instant::now();
        let mut registry = Registry::new(limits(10, 10, 10));
        let (old, _) = live(&mut registry, now, 1);
        let (shadow, displaced) = registry.open(now, address(1), 2).unwrap();
        assert!(displaced.is_none());
        assert_eq!(registry.occupants(&address(1)), Occupants { half_open: Some(shadow), live: Some(old) });
        let displaced = registry.establish(now, shadow).unwrap();
        assert_eq!((displaced.session, displaced.reason), (old, Reason::Replaced));
        assert_eq!(registry.occupants(&address(1)), Occupants { half_open: None, live: Some(shadow) });
        assert_eq!(registry.get(old), None);
    }

    #[test]
    fn a_handshake_displaces_that_of_its_address_or_the_oldest() {
        let now = Instant::now();
        let mut registry = Registry::new(limits(10, 3, 10));
        let (first, _) = registry.open(now, address(1), 1).unwrap();
        let (second, displaced) = registry.open(now, address(1), 2).unwrap();
        assert_eq!(displaced.map(|d| (d.session, d.reason)), Some((first, Reason::Replaced)));
        registry.open(now, address(2), 2).unwrap();
        registry.open(now, address(3), 3).unwrap();
        let (_, displaced) = registry.open(now, address(4), 4).unwrap();
        assert_eq!(displaced.map(|d| (d.session, d.reason)), Some((second, Reason::Room)));
        assert_eq!(registry.count(Phase::HalfOpen), 3);
        assert_eq!(registry.occupants(&address(1)), Occupants::default());
    }

    #[test]
    fn the_longest_idle_session_is_evicted() {
        let now = Instant::now();
        let mut registry = Registry::new(limits(2, 10, 10));
        let (one, _) = live(&mut registry, now, 1);
        let (two, _) = live(&mut registry, now, 2);
        registry.touch(now + Duration::from_secs(1), one);
        assert_eq!(registry.oldest(Phase::Live), Some(two));
        let (three, displaced) = live(&mut registry, now, 3);
        assert_eq!(displaced.map(|d| (d.session, d.reason)), Some((two, Reason::Room)));
        let left: Vec<_> = registry.iter(Phase::Live).collect();
        assert_eq!(left, [(one, &1), (three, &3)]);
    }

    #[test]
    fn one_source_cannot_take_all_handshakes() {
        let now = Instant::now();
        let mut registry = Registry::new(limits(10, 10, 2));
        let (first, _) = registry.open(now, address(1), 1).unwrap();
        registry.open(now, address(2), 2).unwrap();
        assert_eq!(registry.open(now, address(3), 3), Err(SourceBusy));
        registry.establish(now, first);
        assert!(registry.open(now, address(3), 3).is_ok());
        let other = PeerAddress::from(&Route { remote: ([192, 0, 2, 2], 1).into(), local: None, socket: 0 });
        assert!(registry.open(now, other, 4).is_ok());
    }

    #[test]
    fn a_slot_used_again_has_another_id() {
        let now = Instant::now();
        let mut registry = Registry::new(limits(10, 10, 10));
        let (old, _) = registry.open(now, address(1), 1).unwrap();
        assert_eq!(registry.remove(old), Some(1));
        assert_eq!(registry.remove(old), None);
        let (new, _) = registry.open(now, address(1), 2).unwrap();
        assert_ne!(old, new);
        assert_eq!((registry.get(old), registry.get(new)), (None, Some(&2)));
        assert_eq!(new.0 >> 63, 0);
    }

    #[test]
    fn a_session_that_moves_displaces_nobody() {
        let now = Instant::now();
        let mut registry = Registry::new(limits(10, 10, 10));
        let (neighbour, _) = live(&mut registry, now, 1);
        let (mover, _) = live(&mut registry, now, 2);
        registry.relocate(mover, address(1));
        assert_eq!(registry.occupants(&address(1)).live, Some(neighbour));
        assert_eq!(registry.occupants(&address(2)), Occupants::default());
        registry.relocate(mover, address(3));
        assert_eq!(registry.occupants(&address(3)).live, Some(mover));
        assert_eq!(registry.remove(mover), Some(2));
        assert_eq!(registry.occupants(&address(3)), Occupants::default());
        assert_eq!(registry.occupants(&address(1)).live, Some(neighbour));
    }

    /// Against a list that does everything the slow way.
    #[test]
    fn random_histories_agree_with_a_list() {
        let start = Instant::now();
        for seed in 0..50u64 {
            let mut state = seed * 2 + 1;
            let mut chance = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let (sessions, half_open) = (1 + chance(6) as usize, 1 + chance(6) as usize);
            let mut registry = Registry::new(limits(sessions, half_open, 100));
            let mut list: Vec<(SessionId, u16, Phase)> = Vec::new();
            for step in 0..400 {
                let now = start + Duration::from_millis(step);
                let port = chance(8) as u16;
                let pick = (!list.is_empty()).then(|| list[chance(list.len() as u64) as usize]);
                let of =
                    |list: &[(SessionId, u16, Phase)], phase| list.iter().filter(|e| e.2 == phase).count();
                match (chance(5), pick) {
                    (0 | 1, _) => {
                        let same = list.iter().position(|e| e.1 == port && e.2 == Phase::HalfOpen);
                        let full = of(&list, Phase::HalfOpen) >= half_open;
                        let oldest = list.iter().position(|e| full && e.2 == Phase::HalfOpen);
                        let gone = same.or(oldest).map(|at| list.remove(at).0);
                        let (session, displaced) = registry.open(now, address(port), port).unwrap();
                        assert_eq!(displaced.map(|d| d.session), gone);
                        list.push((session, port, Phase::HalfOpen));
                    }
                    (2, Some((session, port, Phase::HalfOpen))) => {
                        let displaced = registry.establish(now, session);
                        let same = list.iter().position(|e| e.1 == port && e.2 == Phase::Live);
                        let mut gone = same.map(|at| list.remove(at).0);
                        list.retain(|e| e.0 != session);
                        list.push((session, port, Phase::Live));
                        if of(&list, Phase::Live) > sessions {
                            let oldest = list.iter().position(|e| e.2 == Phase::Live).unwrap();
                            gone = Some(list.remove(oldest).0);
                        }
                        assert_eq!(displaced.map(|d| d.session), gone);
                    }
                    (2 | 3, Some((session, ..))) => {
                        registry.touch(now, session);
                        let at = list.iter().position(|e| e.0 == session).unwrap();
                        let entry = list.remove(at);
                        list.push(entry);
                    }
                    (_, Some((session, port, _))) => {
                        assert_eq!(registry.remove(session), Some(port));
                        list.retain(|e| e.0 != session);
                    }
                    _ => {}
                }
                for phase in [Phase::HalfOpen, Phase::Live] {
                    let expected: Vec<_> =
                        list.iter().filter(|e| e.2 == phase).map(|e| (e.0, &e.1)).collect();
                    assert_eq!(registry.iter(phase).collect::<Vec<_>>(), expected);
                    assert_eq!(registry.count(phase), expected.len());
                }
                let sources = registry.sources.values().sum::<u32>() as usize;
                assert_eq!(sources, of(&list, Phase::HalfOpen));
                let mut ports: Vec<_> = list.iter().map(|e| e.1).collect();
                ports.sort_unstable();
                ports.dedup();
                assert_eq!(registry.addresses.len(), ports.len());
            }
        }
    }
}
