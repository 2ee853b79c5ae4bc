//! The public face: datagrams in, requests out; responses in, datagrams out.
//!
//! | what comes | what is done |
//! |---|---|
//! | version ≠ 1, shorter than 4 bytes, a broken NON/ACK/RST | nothing (RFC 7252 §3, §4.3) |
//! | a broken CON, a ping, a CON response to nothing | Reset (§4.2, §4.3) |
//! | a duplicate | the stored answer, the empty ACK again, or nothing (§4.5) |
//! | unknown critical option | CON: 4.02 and which; NON: Reset (§5.4.1) |
//! | a proxy option / unknown method / `..` in the path | 5.05 / 4.05 / 4.00 |
//! | more unanswered requests than a peer, or its holder, may have | 4.29 + Max-Age 1 |
//! | more than all may have | 5.03 + Max-Age 1 |
//! | a block of a body | 2.31, 4.08, 4.13 + Size1, 5.03 + Max-Age (RFC 7959) |
//! | any other request | handed up, once |
//!
//! A response in time rides on the acknowledgement. After [`Settings::acknowledge_after`] the
//! acknowledgement goes out empty and the response later as a confirmable message of its own
//! (§5.2.2) — unless the peer wants no 2.xx: then it takes the acknowledgement for one, so that
//! waits for the response. A non-confirmable request gets a non-confirmable response (§5.2.3).
//!
//! Receiving is in `receive`, answering in `answer`, writing in `sender`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::PeerId;
use super::block::Assemblies;
use super::exchange::{Exchange, Exchanges};
use super::outbox::Outbox;
use super::peer::Peers;
use super::reliability::{Due, Tick, Transmissions};
use crate::splitmix::SplitMix64;

mod answer;
mod receive;
mod sender;

/// Most events kept for [`Endpoint::poll_event`].
const EVENTS_MAX: usize = 256;
/// Plain UDP peers, whose addresses may be forged, get this share of every bound: one in so many.
const UNPROVEN_SHARE: usize = 8;

/// What an endpoint may use, and when it stops waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// When a confirmable request without a response yet is acknowledged; default 1 s, below
    /// ACK_TIMEOUT.
    pub acknowledge_after: Duration,
    /// Bytes for all peers and what is remembered of them, room to grow not counted; default 8 MiB.
    pub memory: usize,
    /// Unanswered requests one peer may have, answers it has not acknowledged among them; `1..=32`,
    /// default 24. More are 4.29. A holder may have that many times its `max_sessions`, and an
    /// eighth of all at most.
    pub pending_per_peer: u16,
    /// Unanswered requests and unacknowledged answers in all; default 16,384, at most 2^24. More
    /// are 5.03.
    pub pending: usize,
    /// Largest request body in bytes; default 64 KiB. Larger is 4.13.
    pub body: usize,
    /// Bytes for all request bodies under way; default 4 MiB.
    pub bodies: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            acknowledge_after: Duration::from_secs(1),
            memory: 8 << 20,
            pending_per_peer: 24,
            pending: 16_384,
            body: 64 << 10,
            bodies: 4 << 20,
        }
    }
}

/// What the shell may want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A response of its own was reset by the peer: it no longer knows the request.
    Reset(PeerId),
    /// Responses were sent five times, or waited behind such a one, and never acknowledged: how
    /// many.
    Unacknowledged(PeerId, u16),
}

/// How often each thing happened since the endpoint began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that came.
    pub received: u64,
    /// Requests handed up.
    pub requests: u64,
    /// Datagrams that were not messages.
    pub malformed: u64,
    /// Messages that belong to nothing here.
    pub unexpected: u64,
    /// Pings.
    pub pings: u64,
    /// Requests that came again.
    pub duplicates: u64,
    /// Requests with a remembered Message ID and other bytes: the peer began anew.
    pub restarted: u64,
    /// Requests refused here: options, method, blocks.
    pub refused: u64,
    /// Requests refused because too many were unanswered.
    pub overloaded: u64,
    /// Blocks taken in that were not the last.
    pub blocks: u64,
    /// Empty acknowledgements because the response took too long.
    pub late: u64,
    /// Our messages sent again.
    pub retransmitted: u64,
    /// Our messages given up.
    pub unacknowledged: u64,
    /// Requests nobody answered within 247 s.
    pub abandoned: u64,
    /// Exchanges forgotten early for want of memory.
    pub forgotten: u64,
    /// Datagrams not sent: to an unproven peer that had its share, or beyond all Message IDs.
    pub withheld: u64,
}

/// A CoAP server endpoint for all peers (RFC 7252), without socket, clock or randomness.
///
/// The shell hands in every datagram, drains [`Endpoint::poll_transmit`] after each round, and
/// calls [`Endpoint::handle_timeout`] when [`Endpoint::poll_timeout`] has come. `now` never goes
/// back.
#[derive(Debug)]
pub struct Endpoint {
    settings: Settings,
    seed: u64,
    /// When time began: the first `now` seen.
    epoch: Option<Instant>,
    /// Proven peers, unproven peers.
    sides: [Side; 2],
    exchanges: Exchanges,
    transmissions: Transmissions,
    outbox: Outbox,
    events: VecDeque<Event>,
    counters: Counters,
}

/// What is kept apart for proven and unproven peers.
#[derive(Debug)]
struct Side {
    peers: Peers,
    assemblies: Assemblies,
}

impl Endpoint {
    /// An endpoint that has heard of nobody. `seed` is random, fresh for each run: Message IDs and
    /// hashing follow from it.
    pub fn new(settings: Settings, seed: u64) -> Endpoint {
        let mut settings = settings;
        settings.pending_per_peer =
            settings.pending_per_peer.clamp(1, super::deduplication::REMEMBERED_MAX as u16);
        settings.pending = settings.pending.min(1 << Exchange::INDEX_BITS);
        let side = |share: fn(usize) -> usize| Side {
            peers: Peers::new(share(settings.memory), seed),
            assemblies: Assemblies::new(share(settings.bodies), settings.body),
        };
        Endpoint {
            sides: [side(|all| all - all / UNPROVEN_SHARE), side(|all| all / UNPROVEN_SHARE)],
            settings,
            seed,
            epoch: None,
            exchanges: Exchanges::default(),
            transmissions: Transmissions::new(SplitMix64::new(seed)),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Moves time on: empty acknowledgements, retransmissions, forgetting. Early or late calls do
    /// no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let tick = self.tick(now);
        self.acknowledge_late(now);
        while let Some(due) = self.transmissions.poll_due(now) {
            match due {
                Due::Again(key) => {
                    self.counters.retransmitted += 1;
                    self.send_again(key);
                }
                Due::GivenUp(peer) => self.give_up(peer),
            }
        }
        for side in &mut self.sides {
            side.assemblies.expire(now);
            if side.peers.sweep_due().is_none_or(|due| due > tick) {
                continue;
            }
            let (exchanges, counters) = (&mut self.exchanges, &mut self.counters);
            side.peers.expire(tick, |peer, index| {
                counters.abandoned += 1;
                exchanges.at(index, peer).and_then(|key| exchanges.close(key));
            });
        }
    }

    /// When to call [`Endpoint::handle_timeout`] next; `None` when nothing waits for time to pass.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let epoch = self.epoch?;
        let [proven, unproven] = &self.sides;
        [
            self.exchanges.deadline(),
            self.transmissions.deadline(),
            proven.peers.sweep_deadline(epoch),
            unproven.peers.sweep_deadline(epoch),
            proven.assemblies.deadline(),
            unproven.assemblies.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Clears `buffer` and fills in the next datagram to send; to whom.
    pub fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> Option<PeerId> {
        self.outbox.pop(buffer)
    }

    /// The next thing to know of. At most 256 are kept; what comes beyond is only counted.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Forgets a peer and all its requests, because its session ended. Exchanges of it go stale.
    pub fn forget(&mut self, peer: PeerId) {
        let side = &mut self.sides[usize::from(peer.is_unproven())];
        side.assemblies.forget(peer);
        let Some((mut gone, account)) = side.peers.remove(peer) else { return };
        for index in gone.remembered.clear(account) {
            self.exchanges.at(index, peer).and_then(|key| self.exchanges.close(key));
        }
        self.transmissions.clear(&mut gone.queue);
    }

    /// How often each thing happened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Peers heard of in the last minutes.
    pub fn peer_count(&self) -> usize {
        self.sides.iter().map(|side| side.peers.len()).sum()
    }

    /// Requests handed up and not answered.
    pub fn pending_count(&self) -> usize {
        self.exchanges.len()
    }

    /// Bytes that peers, remembered exchanges and stored responses take.
    pub fn memory(&self) -> usize {
        self.sides.iter().map(|side| side.peers.bytes()).sum()
    }

    fn tick(&mut self, now: Instant) -> Tick {
        Tick::at(*self.epoch.get_or_insert(now), now)
    }

    fn event(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }
}
