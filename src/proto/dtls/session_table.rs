//! Which address has which sessions, and who must go when room is short. Every step is O(1).
//!
//! An entry is a handshake ([`Phase::HalfOpen`]) until its peer has proven its identity, then a
//! session ([`Phase::Live`]). An address may have one of each: a live session ends only when
//! another has proven itself from the same address. Both phases are bounded ([`Limits`]).
//!
//! | no room for | result |
//! |---|---|
//! | a handshake | the oldest handshake is dropped |
//! | a session of a holder that has `max_sessions` | the longest idle session of that holder is closed |
//! | a session, in all | the longest idle session of the same holder is closed; if it has none, the longest idle of all, if that was idle for [`Limits::active`]; otherwise the new one is refused |
//!
//! So one key, however often it is used, displaces only its own sessions. The rate at which a
//! holder completes handshakes is limited, too. Only a proven identity counts; a claimed one does
//! not.
//!
//! A third phase, [`Phase::Farewell`], is for sessions of an earlier process that cannot be
//! resumed: they are found like sessions, are counted apart, and have the same bound.
//!
//! Handshakes are entered only for peers that have shown that they receive at their address
//! ([`cookie`](super::cookie)), so a spoofed hello displaces nothing.
//!
//! The table holds values of any engine; it keeps no time of its own and closes nothing: it
//! hands back what must go, and the engine says goodbye.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::engine::{Limits, SessionId};
use super::peer_address::PeerAddress;
use super::throttle::{Party, Pool, Throttle};
use crate::proto::Holder;
use crate::slots::{Key, NONE, Slots};

/// Times are sums with it; none may overflow.
const IDLE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How much is known of an entry's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Its address is proven.
    HalfOpen = 0,
    /// Its identity is proven.
    Live = 1,
    /// A session of an earlier process that cannot be resumed.
    Farewell = 2,
}

impl Phase {
    /// The place of an address that it takes.
    fn place(self) -> usize {
        (self as usize).min(Phase::Live as usize)
    }
}

/// The entries of one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupants {
    /// The handshake under way.
    pub half_open: Option<SessionId>,
    /// The session, or one that cannot be resumed.
    pub live: Option<SessionId>,
}

/// [`Occupants`] as kept: their slots. What stands in a slot is at the address it is found by, or
/// it is not found by it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Places([u32; 2]);

impl Default for Places {
    fn default() -> Self {
        Places([NONE; 2])
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
    /// Another session of the same holder took its place.
    Displaced,
}

/// Whose tokens a handshake takes and gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payer {
    source: IpAddr,
    /// The port, where there was a session when the handshake began.
    port: Option<u16>,
}

impl Payer {
    fn new(address: &PeerAddress, is_known: bool) -> Payer {
        Payer { source: address.source(), port: is_known.then(|| address.port()) }
    }

    fn party(self, pool: Pool) -> Party {
        Party { source: self.source, port: self.port, pool }
    }
}

/// A verification of a cookie that was allowed.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The bucket it was taken from; `None`: that of all.
    own: Option<Party>,
    source: IpAddr,
}

/// Too many handshakes of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceBusy;

/// Why there is no place for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// Its holder completed too many handshakes within the last minute.
    TooOften,
    /// The table is full of active sessions.
    Full,
}

/// See the module.
pub struct SessionTable<T> {
    limits: Limits,
    slots: Slots<Entry<T>>,
    addresses: HashMap<PeerAddress, Places>,
    /// Half-open entries by source.
    sources: HashMap<IpAddr, u32>,
    throttle: Throttle,
    queues: [Queue; 3],
    holders: HashMap<u64, Held>,
    /// The instant from which this table counts milliseconds.
    epoch: Option<Instant>,
}

/// The sessions and the rate of one holder.
#[derive(Clone, Copy)]
struct Held {
    /// One of its entries; [`NONE`] if it has none.
    head: u32,
    count: u32,
    /// When its bucket of completed handshakes is full again, in milliseconds since the epoch.
    full: u64,
}

struct Entry<T> {
    address: PeerAddress,
    phase: Phase,
    /// Whether a session was at its address when its handshake began.
    is_known: bool,
    since: Instant,
    value: T,
    /// Its neighbours in the queue of its phase.
    previous: u32,
    next: u32,
    holder: u64,
    /// Its neighbours in the ring of its holder; [`NONE`] for both: it is in no ring.
    before: u32,
    after: u32,
}

impl<T> Entry<T> {
    fn new(address: PeerAddress, phase: Phase, since: Instant, value: T) -> Entry<T> {
        let [previous, next, before, after] = [NONE; 4];
        Entry { address, phase, is_known: false, since, value, previous, next, holder: 0, before, after }
    }

    fn payer(&self) -> Payer {
        Payer::new(&self.address, self.is_known)
    }
}

/// The entries of one phase, the one longest untouched first.
#[derive(Clone, Copy)]
struct Queue {
    head: u32,
    tail: u32,
    length: usize,
}

impl<T> SessionTable<T> {
    /// An empty table. Limits of 0 count as 1, an idle time of more than ten years as ten years.
    pub fn new(limits: Limits) -> SessionTable<T> {
        SessionTable {
            limits: Limits {
                sessions: limits.sessions.max(1),
                half_open: limits.half_open.max(1),
                half_open_per_source: limits.half_open_per_source.max(1),
                idle: limits.idle.min(IDLE_MAX),
                ..limits
            },
            throttle: Throttle::new(&limits),
            slots: Slots::default(),
            addresses: HashMap::new(),
            sources: HashMap::new(),
            queues: [Queue { head: NONE, tail: NONE, length: 0 }; 3],
            holders: HashMap::new(),
            epoch: None,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The entries of an address.
    pub fn occupants(&self, address: &PeerAddress) -> Occupants {
        let Places([half_open, live]) = self.addresses.get(address).copied().unwrap_or_default();
        Occupants { half_open: self.id(half_open), live: self.id(live) }
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
            let (session, entry) = (self.id(next)?, self.slots.at(next)?);
            next = entry.next;
            Some((session, &entry.value))
        })
    }

    /// Whose tokens a handshake from `address` takes.
    pub fn payer(&self, address: &PeerAddress) -> Payer {
        Payer::new(address, self.occupants(address).live.is_some())
    }

    /// Whose tokens a handshake that was entered took, whatever has changed at its address since.
    pub fn payer_of(&self, session: SessionId) -> Option<Payer> {
        self.entry(session).map(Entry::payer)
    }

    /// Whether a handshake may be begun: to be asked before anything is spent on it. It counts
    /// unless it is completed.
    ///
    /// # Errors
    /// [`SourceBusy`]: too many were begun of late.
    pub fn admit(&mut self, now: Instant, payer: Payer) -> Result<(), SourceBusy> {
        if self.throttle.take(now, payer.party(Pool::Handshakes), 1) { Ok(()) } else { Err(SourceBusy) }
    }

    /// A handshake was not begun after all.
    pub fn readmit(&mut self, now: Instant, payer: Payer) {
        self.throttle.give_back(now, payer.party(Pool::Handshakes), 1);
    }

    /// Counts public-key operations for a handshake.
    ///
    /// # Errors
    /// [`SourceBusy`]: the budget is used up.
    pub fn charge(&mut self, now: Instant, payer: Payer, work: u32) -> Result<(), SourceBusy> {
        if work == 0 || self.throttle.take(now, payer.party(Pool::Work), work) {
            Ok(())
        } else {
            Err(SourceBusy)
        }
    }

    /// Gives operations back: they were not done, or the handshake was completed.
    pub fn refund(&mut self, now: Instant, payer: Payer, work: u32) {
        self.throttle.give_back(now, payer.party(Pool::Work), work);
    }

    /// Whether to answer a hello without a valid cookie from `address`.
    pub fn hears(&mut self, now: Instant, address: &PeerAddress) -> bool {
        // The address of a session or handshake has a few more of its own, whatever the flood.
        let known = self.occupants(address) != Occupants::default();
        let own = Party { source: address.source(), port: Some(address.port()), pool: Pool::Hellos };
        (known && self.throttle.take(now, own, 1)) || self.throttle.take_hello(now, address.source())
    }

    /// Whether to verify the cookie of a hello from `address`. Each verification counts, unless the
    /// cookie is valid.
    pub fn looks(&mut self, now: Instant, address: &PeerAddress) -> Option<Look> {
        // The address of a session or handshake has a few of its own, whatever the flood.
        let known = self.occupants(address) != Occupants::default();
        let own = Party { source: address.source(), port: Some(address.port()), pool: Pool::Looks };
        if known && self.throttle.take(now, own, 1) {
            Some(Look { own: Some(own), source: own.source })
        } else {
            self.throttle.take_look(now, own.source).then_some(Look { own: None, source: own.source })
        }
    }

    /// The cookie was valid.
    pub fn has_looked(&mut self, now: Instant, look: Look) {
        match look.own {
            Some(own) => self.throttle.give_back(now, own, 1),
            None => self.throttle.give_back_look(now, look.source),
        }
    }

    /// Whether [`SessionTable::open`] has a place for a handshake from `address`.
    ///
    /// # Errors
    /// [`SourceBusy`]: its source has as many as it may.
    pub fn has_room(&self, address: &PeerAddress) -> Result<(), SourceBusy> {
        let source = self.sources.get(&address.source()).copied().unwrap_or(0);
        // A device with a session that restarted has one place beside it, whoever shares its
        // address. So has an address with a handshake, which the new one replaces.
        let has_place = self.occupants(address) != Occupants::default();
        if has_place || (source as usize) < self.limits.half_open_per_source {
            Ok(())
        } else {
            Err(SourceBusy)
        }
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
        self.has_room(&address)?;
        let mut displaced = None;
        let Occupants { half_open, live } = self.occupants(&address);
        if let Some(same) = half_open {
            displaced = self.take(same, Reason::Replaced);
        } else if self.count(Phase::HalfOpen) >= self.limits.half_open {
            displaced = self.oldest(Phase::HalfOpen).and_then(|oldest| self.take(oldest, Reason::Room));
        }
        let entry = Entry::new(address, Phase::HalfOpen, now, value);
        let key = self.slots.insert(Entry { is_known: live.is_some(), ..entry });
        self.enqueue(key.index, Phase::HalfOpen);
        self.addresses.entry(address).or_default().0[Phase::HalfOpen.place()] = key.index;
        *self.sources.entry(address.source()).or_default() += 1;
        Ok((id_of(key), displaced))
    }

    /// Counts a completed handshake of `holder`, and checks that there is room for its session.
    /// `replaces`: it will replace the session at its address.
    ///
    /// # Errors
    /// [`NoPlace`]
    pub fn place(&mut self, now: Instant, holder: Holder, replaces: bool) -> Result<(), NoPlace> {
        let epoch = *self.epoch.get_or_insert(now);
        let now_ms = now.saturating_duration_since(epoch).as_millis() as u64;
        if self.holders.len() > 2 * self.count(Phase::Live) + 1_024 {
            self.holders.retain(|_, held| held.count > 0 || held.full > now_ms);
        }
        let per_minute = holder.max_handshakes.max(1);
        let burst = u64::from(per_minute.max(holder.max_sessions.saturating_mul(2)));
        let every = (60_000 / u64::from(per_minute)).max(1);
        let held = self.holders.entry(holder.number).or_insert(Held { head: NONE, count: 0, full: 0 });
        // If the burst is smaller than before, it applies at once.
        let full = held.full.clamp(now_ms, now_ms + burst * every) + every;
        if full - now_ms > burst * every {
            return Err(NoPlace::TooOften);
        }
        held.full = full;
        let has_own = replaces || held.count > 0;
        if has_own || self.count(Phase::Live) < self.limits.sessions {
            return Ok(());
        }
        let since = self.oldest(Phase::Live).and_then(|oldest| self.since(oldest));
        if since.is_some_and(|since| since + self.limits.active.min(IDLE_MAX) <= now) {
            Ok(())
        } else {
            Err(NoPlace::Full)
        }
    }

    /// Makes a handshake a session; [`SessionTable::place`] must have allowed it. Returns what it
    /// replaces: the session at that address, those its holder has too many of, or the longest idle
    /// of all.
    pub fn establish(&mut self, now: Instant, session: SessionId, holder: Holder) -> Vec<Removed<T>> {
        let mut gone = Vec::new();
        let index = index_of(session);
        let Some(entry) = self.entry_mut(session).filter(|entry| entry.phase == Phase::HalfOpen) else {
            return gone;
        };
        entry.phase = Phase::Live;
        entry.since = now;
        let (address, payer) = (entry.address, entry.payer());
        self.dequeue(index, Phase::HalfOpen);
        self.enqueue(index, Phase::Live);
        self.release_source(&address);
        let old = self.occupants(&address).live;
        let places = self.addresses.entry(address).or_default();
        places.0 = [NONE, index];
        self.throttle.give_back(now, payer.party(Pool::Handshakes), 1);
        gone.extend(old.and_then(|old| self.take(old, Reason::Replaced)));
        self.join(index, holder.number);
        self.trim(index, holder, &mut gone);
        gone
    }

    /// Enters a session of an earlier process, last active at `since`. It displaces only others of
    /// its holder; the caller must have checked that there is room. The order of entry is the order
    /// of idleness.
    pub fn adopt(
        &mut self,
        since: Instant,
        address: PeerAddress,
        holder: Holder,
        value: T,
    ) -> (SessionId, Vec<Removed<T>>) {
        let mut gone = Vec::new();
        let session = self.insert(since, address, Phase::Live, value);
        self.join(index_of(session), holder.number);
        self.trim(index_of(session), holder, &mut gone);
        (session, gone)
    }

    /// Enters a session of an earlier process that cannot be resumed, last active at `since`;
    /// `None` if there are too many.
    pub fn part(&mut self, since: Instant, address: PeerAddress, value: T) -> Option<SessionId> {
        let is_full = self.count(Phase::Farewell) >= self.limits.sessions;
        (!is_full).then(|| self.insert(since, address, Phase::Farewell, value))
    }

    fn insert(&mut self, since: Instant, address: PeerAddress, phase: Phase, value: T) -> SessionId {
        let newest = self.id(self.queues[phase as usize].tail).and_then(|tail| self.since(tail));
        let since = newest.map_or(since, |newest| newest.max(since));
        let key = self.slots.insert(Entry::new(address, phase, since, value));
        self.enqueue(key.index, phase);
        self.settle(address, id_of(key));
        id_of(key)
    }

    /// How many sessions a holder has.
    pub fn held(&self, holder: u64) -> usize {
        self.holders.get(&holder).map_or(0, |held| held.count as usize)
    }

    /// Removes the sessions its holder has too many of, and those there are too many of in all,
    /// except `index`, the newest.
    fn trim(&mut self, index: u32, holder: Holder, gone: &mut Vec<Removed<T>>) {
        let most = holder.max_sessions.max(1) as usize;
        let over = self.held(holder.number).saturating_sub(most);
        match over {
            0 => {}
            1 => {
                let other = self.longest_idle(holder.number, index);
                gone.extend(other.and_then(|other| self.take(other, Reason::Displaced)));
            }
            // `max_sessions` was lowered: all at once, looking at each of its sessions once.
            _ => {
                let mut others: Vec<(Instant, u32)> = self.ring(holder.number).collect();
                others.retain(|(_, at)| *at != index);
                others.sort_unstable();
                for (_, at) in others.into_iter().take(over) {
                    let other = self.id(at);
                    gone.extend(other.and_then(|other| self.take(other, Reason::Displaced)));
                }
            }
        }
        while self.count(Phase::Live) > self.limits.sessions {
            let own = self.longest_idle(holder.number, index).map(|own| (own, Reason::Displaced));
            let Some((other, reason)) = own.or_else(|| Some((self.oldest(Phase::Live)?, Reason::Room)))
            else {
                break;
            };
            gone.extend(self.take(other, reason));
        }
    }

    /// The longest idle session of a holder, except `but`.
    fn longest_idle(&self, holder: u64, but: u32) -> Option<SessionId> {
        let others = self.ring(holder).filter(|(_, at)| *at != but);
        others.min_by_key(|(since, _)| *since).and_then(|(_, at)| self.id(at))
    }

    /// The sessions of a holder: when each was touched last, and its slot.
    fn ring(&self, holder: u64) -> impl Iterator<Item = (Instant, u32)> {
        let held = self.holders.get(&holder);
        let mut at = held.map_or(NONE, |held| held.head);
        (0..held.map_or(0, |held| held.count)).map_while(move |_| {
            let entry = self.slots.at(at)?;
            let found = (entry.since, at);
            at = entry.after;
            Some(found)
        })
    }

    /// Adds an entry to its holder's ring.
    fn join(&mut self, index: u32, holder: u64) {
        let held = self.holders.entry(holder).or_insert(Held { head: NONE, count: 0, full: 0 });
        let head = if held.head == NONE { index } else { held.head };
        (held.head, held.count) = (head, held.count + 1);
        let before =
            if head == index { index } else { self.slots.at(head).map_or(index, |entry| entry.before) };
        for (at, before, after) in
            [(index, Some(before), Some(head)), (before, None, Some(index)), (head, Some(index), None)]
        {
            let Some(entry) = self.slots.at_mut(at) else { continue };
            entry.before = before.unwrap_or(entry.before);
            entry.after = after.unwrap_or(entry.after);
        }
        if let Some(entry) = self.slots.at_mut(index) {
            entry.holder = holder;
        }
    }

    /// Removes an entry, already taken out of its slot, from its holder's ring.
    fn part_with(&mut self, index: u32, entry: &Entry<T>) {
        if entry.after == NONE {
            return;
        }
        let Some(held) = self.holders.get_mut(&entry.holder) else { return };
        held.count -= 1;
        if held.head == index {
            held.head = if held.count == 0 { NONE } else { entry.after };
        }
        if let Some(before) = self.slots.at_mut(entry.before) {
            before.after = entry.after;
        }
        if let Some(after) = self.slots.at_mut(entry.after) {
            after.before = entry.before;
        }
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

    /// A live entry's peer is at another address now. It does not displace who is there: then it is
    /// found by its id alone.
    pub fn relocate(&mut self, session: SessionId, address: PeerAddress) {
        self.detach(session);
        let Some(entry) = self.entry_mut(session).filter(|entry| entry.phase == Phase::Live) else { return };
        entry.address = address;
        self.settle(address, session);
    }

    /// An entry that is no handshake is no longer found by its address, only by its id.
    pub fn detach(&mut self, session: SessionId) {
        let Some(entry) = self.entry(session).filter(|entry| entry.phase != Phase::HalfOpen) else { return };
        let (address, phase) = (entry.address, entry.phase);
        self.leave(&address, phase, index_of(session));
    }

    /// An entry that is no handshake is found by its address, unless another is there.
    fn settle(&mut self, address: PeerAddress, session: SessionId) {
        let place = &mut self.addresses.entry(address).or_default().0[Phase::Live.place()];
        if *place == NONE {
            *place = index_of(session);
        }
    }

    /// An entry is not found by its address any more.
    fn leave(&mut self, address: &PeerAddress, phase: Phase, index: u32) {
        let Some(places) = self.addresses.get_mut(address) else { return };
        if places.0[phase.place()] == index {
            places.0[phase.place()] = NONE;
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
        let (index, phase) = (index_of(session), self.phase(session)?);
        self.dequeue(index, phase);
        let entry = self.slots.remove(key(session))?;
        if entry.phase == Phase::HalfOpen {
            self.release_source(&entry.address);
        }
        self.leave(&entry.address, entry.phase, index);
        self.part_with(index, &entry);
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

    fn enqueue(&mut self, index: u32, phase: Phase) {
        let queue = &mut self.queues[phase as usize];
        let tail = std::mem::replace(&mut queue.tail, index);
        queue.length += 1;
        match self.slots.at_mut(tail) {
            Some(entry) => entry.next = index,
            None => queue.head = index,
        }
        if let Some(entry) = self.slots.at_mut(index) {
            (entry.previous, entry.next) = (tail, NONE);
        }
    }

    fn dequeue(&mut self, index: u32, phase: Phase) {
        let Some(&Entry { previous, next, .. }) = self.slots.at(index) else { return };
        let queue = &mut self.queues[phase as usize];
        queue.length -= 1;
        match self.slots.at_mut(previous) {
            Some(entry) => entry.next = next,
            None => queue.head = next,
        }
        match self.slots.at_mut(next) {
            Some(entry) => entry.previous = previous,
            None => queue.tail = previous,
        }
    }

    fn entry(&self, session: SessionId) -> Option<&Entry<T>> {
        self.slots.get(key(session))
    }

    fn entry_mut(&mut self, session: SessionId) -> Option<&mut Entry<T>> {
        self.slots.get_mut(key(session))
    }

    fn id(&self, index: u32) -> Option<SessionId> {
        self.slots.key_at(index).map(id_of)
    }
}

fn id_of(key: Key) -> SessionId {
    SessionId(u64::from(key.generation) << 32 | u64::from(key.index))
}

fn key(session: SessionId) -> Key {
    Key { index: index_of(session), generation: (session.0 >> 32) as u32 }
}

fn index_of(session: SessionId) -> u32 {
    session.0 as u32
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::proto::Route;
    use crate::splitmix::SplitMix64;

    fn address(port: u16) -> PeerAddress {
        PeerAddress::from(&Route { remote: ([192, 0, 2, 1], port).into(), local: None, socket: 0 })
    }

    fn limits(sessions: usize, half_open: usize, half_open_per_source: usize) -> Limits {
        let limits = Limits::new(sessions, half_open, Duration::from_secs(60));
        Limits { half_open_per_source, ..limits }
    }

    fn holder(number: u64) -> Holder {
        Holder { number, max_sessions: 4, max_handshakes: Holder::HANDSHAKES }
    }

    /// A session whose holder has no other.
    fn live(registry: &mut SessionTable<u16>, now: Instant, port: u16) -> (SessionId, Option<Removed<u16>>) {
        live_of(registry, now, port, holder(port.into()))
    }

    fn live_of(
        registry: &mut SessionTable<u16>,
        now: Instant,
        port: u16,
        holder: Holder,
    ) -> (SessionId, Option<Removed<u16>>) {
        let (session, displaced) = registry.open(now, address(port), port).unwrap();
        assert!(displaced.is_none());
        let mut gone = registry.establish(now, session, holder);
        assert!(gone.len() <= 1);
        (session, gone.pop())
    }

    #[test]
    fn a_live_session_stays_until_its_shadow_is_live_too() {
        let now = Instant::now();
        let mut registry = SessionTable::new(limits(10, 10, 10));
        let (old, _) = live(&mut registry, now, 1);
        let (shadow, displaced) = registry.open(now, address(1), 2).unwrap();
        assert!(displaced.is_none());
        assert_eq!(registry.occupants(&address(1)), Occupants { half_open: Some(shadow), live: Some(old) });
        let displaced = registry.establish(now, shadow, holder(9)).pop().unwrap();
        assert_eq!((displaced.session, displaced.reason), (old, Reason::Replaced));
        assert_eq!(registry.occupants(&address(1)), Occupants { half_open: None, live: Some(shadow) });
        assert_eq!(registry.get(old), None);
    }

    #[test]
    fn a_handshake_displaces_that_of_its_address_or_the_oldest() {
        let now = Instant::now();
        let mut registry = SessionTable::new(limits(10, 3, 10));
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
        let mut registry = SessionTable::new(limits(2, 10, 10));
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
        let mut registry = SessionTable::new(limits(10, 10, 2));
        let (first, _) = registry.open(now, address(1), 1).unwrap();
        registry.open(now, address(2), 2).unwrap();
        assert_eq!(registry.open(now, address(3), 3), Err(SourceBusy));
        registry.establish(now, first, holder(1));
        assert!(registry.open(now, address(3), 3).is_ok());
        let other = PeerAddress::from(&Route { remote: ([192, 0, 2, 2], 1).into(), local: None, socket: 0 });
        assert!(registry.open(now, other, 4).is_ok());
    }

    #[test]
    fn a_handshake_gives_its_tokens_back_to_whom_it_took_them_from() {
        let now = Instant::now();
        let limits = Limits { handshakes_burst: 1, work_burst: 4, ..limits(10, 10, 10) };
        let mut registry = SessionTable::new(limits);
        let payer = registry.payer(&address(1));
        assert_eq!((registry.admit(now, payer), registry.charge(now, payer, 4)), (Ok(()), Ok(())));
        let (session, _) = registry.open(now, address(1), 1).unwrap();
        // Meanwhile another session moves to its address.
        let (mover, _) = live(&mut registry, now, 2);
        registry.relocate(mover, address(1));
        assert_ne!(registry.payer(&address(1)), payer);
        assert_eq!(registry.payer_of(session), Some(payer));
        registry.refund(now, payer, 4);
        registry.establish(now, session, holder(1));
        assert_eq!((registry.admit(now, payer), registry.charge(now, payer, 4)), (Ok(()), Ok(())));
    }

    #[test]
    fn a_slot_used_again_has_another_id() {
        let now = Instant::now();
        let mut registry = SessionTable::new(limits(10, 10, 10));
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
        let mut registry = SessionTable::new(limits(10, 10, 10));
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

    #[test]
    fn one_holder_displaces_only_its_own_however_often_it_comes() {
        let mut now = Instant::now();
        let mut registry = SessionTable::new(limits(8, 10, 10));
        let others: Vec<_> = (1..=5).map(|port| live(&mut registry, now, port).0).collect();
        let greedy = Holder { number: 99, max_sessions: 3, max_handshakes: Holder::HANDSHAKES };
        let mut own = VecDeque::new();
        for round in 0..50u16 {
            now += Duration::from_secs(1);
            assert_eq!(registry.place(now, greedy, false), Ok(()));
            let (session, displaced) = live_of(&mut registry, now, 100 + round, greedy);
            own.push_back(session);
            let expected = if own.len() > 3 { own.pop_front() } else { None };
            assert_eq!(
                displaced.as_ref().map(|d| (d.session, d.reason)),
                expected.map(|s| (s, Reason::Displaced))
            );
            // The session used last is kept.
            if round % 5 == 0 {
                now += Duration::from_millis(1);
                registry.touch(now, own[0]);
                own.rotate_left(1);
            }
            assert_eq!(registry.held(99), own.len());
        }
        assert!(others.iter().all(|other| registry.get(*other).is_some()));
        // A lowered limit applies from the next session on.
        let less = Holder { max_sessions: 1, ..greedy };
        let (session, _) = registry.open(now, address(7), 7).unwrap();
        assert_eq!(registry.establish(now, session, less).len(), 3);
        assert_eq!(registry.held(99), 1);
        assert_eq!(registry.remove(session), Some(7));
        assert_eq!(registry.held(99), 0);
    }

    #[test]
    fn a_lowered_limit_closes_the_longest_idle_all_at_once() {
        let start = Instant::now();
        let mut registry = SessionTable::new(limits(6_000, 10, 10));
        let shared = Holder { number: 9, max_sessions: 5_000, max_handshakes: Holder::HANDSHAKES };
        let sessions: Vec<_> = (0..5_000u16)
            .map(|n| live_of(&mut registry, start + Duration::from_millis(n.into()), 1 + n, shared).0)
            .collect();
        let now = start + Duration::from_secs(60);
        registry.touch(now, sessions[0]);
        let (session, _) = registry.open(now, address(9_000), 9_000).unwrap();
        let gone = registry.establish(now, session, Holder { max_sessions: 4, ..shared });
        let expected = sessions[1..4_998].iter().copied();
        assert!(gone.iter().map(|gone| gone.session).eq(expected), "the oldest first");
        assert!(gone.iter().all(|gone| gone.reason == Reason::Displaced));
        let left = [sessions[0], sessions[4_998], sessions[4_999], session];
        assert!(left.iter().all(|left| registry.get(*left).is_some()));
        assert_eq!(registry.held(9), 4);
    }

    #[test]
    fn a_full_table_of_active_sessions_is_not_robbed_for_a_newcomer() {
        let start = Instant::now();
        let mut registry = SessionTable::new(limits(3, 10, 10));
        for port in 1..=3 {
            live(&mut registry, start, port);
        }
        let newcomer = holder(50);
        let hour = Duration::from_secs(3_600);
        assert_eq!(
            registry.place(start + hour - Duration::from_secs(1), newcomer, false),
            Err(NoPlace::Full)
        );
        // It replaces its own session, at whatever address that is.
        assert_eq!(registry.place(start, newcomer, true), Ok(()));
        assert_eq!(registry.place(start, holder(2), false), Ok(()));
        let (_, displaced) = live_of(&mut registry, start, 9, holder(2));
        assert_eq!(displaced.map(|d| (d.value, d.reason)), Some((2, Reason::Displaced)));
        // And one that was idle for an hour.
        assert_eq!(registry.place(start + hour, newcomer, false), Ok(()));
        let (_, displaced) = live_of(&mut registry, start + hour, 10, newcomer);
        assert_eq!(displaced.map(|d| (d.value, d.reason)), Some((1, Reason::Room)));
    }

    #[test]
    fn a_holder_completes_so_many_handshakes_a_minute_and_another_is_not_counted_with_it() {
        let now = Instant::now();
        let mut registry: SessionTable<u16> = SessionTable::new(limits(10, 10, 10));
        let completed = |registry: &mut SessionTable<u16>, at: Instant, holder, of: usize| {
            (0..of).filter(|_| registry.place(at, holder, false).is_ok()).count()
        };
        assert_eq!(completed(&mut registry, now, holder(1), 1_000), 120);
        assert_eq!(completed(&mut registry, now, holder(2), 100), 100);
        assert_eq!(completed(&mut registry, now + Duration::from_millis(499), holder(1), 10), 0);
        assert_eq!(completed(&mut registry, now + Duration::from_secs(5), holder(1), 100), 10);
        // A role may have a lower limit, which counts at once for a device that has used more.
        let slow = Holder { max_handshakes: 10, ..holder(4) };
        assert_eq!(completed(&mut registry, now, slow, 100), 10);
        assert_eq!(completed(&mut registry, now + Duration::from_secs(30), slow, 100), 5);
        let lowered = Holder { max_handshakes: 10, ..holder(2) };
        assert_eq!(completed(&mut registry, now, lowered, 100), 1, "10 less 9 that the 100 before count for");
        assert_eq!(completed(&mut registry, now + Duration::from_secs(6), lowered, 100), 1);
        // All devices with a shared key may come at once.
        let shared = Holder { number: 3, max_sessions: 500, max_handshakes: Holder::HANDSHAKES };
        assert_eq!(completed(&mut registry, now, shared, 5_000), 1_000);
        // Full buckets are not kept.
        for number in 0..100_000 {
            registry.place(now + Duration::from_secs(100 + number), holder(10 + number), false).unwrap();
            assert!(registry.holders.len() <= 1_025 + 2);
        }
    }

    #[test]
    fn a_session_that_is_over_stands_apart() {
        let now = Instant::now();
        let mut registry = SessionTable::new(limits(2, 10, 10));
        let over = registry.part(now, address(1), 1).unwrap();
        registry.part(now, address(2), 2).unwrap();
        assert_eq!(registry.part(now, address(3), 3), None, "as many as sessions");
        assert_eq!((registry.count(Phase::Live), registry.count(Phase::Farewell)), (0, 2));
        assert_eq!(registry.occupants(&address(1)).live, Some(over));
        let (new, displaced) = live(&mut registry, now, 1);
        assert_eq!(displaced.map(|d| (d.session, d.phase)), Some((over, Phase::Farewell)));
        assert_eq!(registry.occupants(&address(1)).live, Some(new));
    }

    /// Against a list that does everything the slow way.
    #[test]
    fn random_histories_agree_with_a_list() {
        let start = Instant::now();
        for seed in 0..50u64 {
            let mut random = SplitMix64::new(seed);
            let mut chance = |below: u64| random.below(below);
            let (sessions, half_open) = (1 + chance(6) as usize, 1 + chance(6) as usize);
            let mut registry = SessionTable::new(limits(sessions, half_open, 100));
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
                        let displaced = registry.establish(now, session, holder(session.0)).pop();
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
