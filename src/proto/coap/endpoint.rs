//! The endpoint: datagrams in, requests out; responses in, datagrams out.
//!
//! | input | action |
//! |---|---|
//! | version ≠ 1, shorter than 4 bytes, a malformed NON, ACK or RST | ignored (RFC 7252 §3, §4.3) |
//! | a malformed CON, a ping, a CON response to no request of ours | Reset (§4.2, §4.3) |
//! | a duplicate | the stored response, the empty ACK again, or nothing (§4.5) |
//! | unknown critical option | CON: 4.02 with the option number; NON: Reset (§5.4.1) |
//! | a proxy option / unknown method / `..` in the path | 5.05 / 4.05 / 4.00 |
//! | more unanswered requests than the limit of the peer or its holder | 4.29 + Max-Age 1 |
//! | more unanswered requests than the limit of the endpoint | 5.03 + Max-Age 1 |
//! | a block of a body | 2.31, 4.08, 4.13 + Size1, 5.03 + Max-Age (RFC 7959); the first is judged by the caller |
//! | any other request | handed up, once |
//! | a request whose response is too large for an unproven peer | handed up; smaller blocks with Echo, or 4.01 with Echo (RFC 9175 §2.4) |
//! | a non-confirmable notification of a relation that is not known, of a proven peer | Reset (RFC 7641 §3.6) |
//!
//! A response in time is piggybacked on the acknowledgement (§5.2.1). After
//! [`Settings::acknowledge_after`] an empty acknowledgement is sent, and the response follows as a
//! separate confirmable message (§5.2.2). Exception: a peer that suppresses 2.xx (RFC 7967) reads
//! the acknowledgement as success, so for it the acknowledgement waits for the response. A
//! non-confirmable request gets a non-confirmable response (§5.2.3).
//!
//! The submodules are `receive` (datagrams), `answer` (responses), [`client`] (requests of ours)
//! and `sender` (encoding).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::PeerId;
use super::block::Assemblies;
use super::echo::EchoKey;
use super::exchange::{Exchange, Exchanges};
use super::outbox::Outbox;
use super::peer::Peers;
use super::reliability::{Due, Tick, Transmissions};
use crate::splitmix::SplitMix64;

mod answer;
pub mod client;
mod receive;
mod sender;

/// Most events kept for [`Endpoint::poll_event`].
const EVENTS_MAX: usize = 256;
/// Plain UDP peers, whose source addresses may be forged, get one in this many of every limit.
const UNPROVEN_SHARE: usize = 8;

/// Limits and timeouts of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time until a confirmable request without a response gets an empty acknowledgement; default 1
    /// s, which is below ACK_TIMEOUT.
    pub acknowledge_after: Duration,
    /// Bytes for all peers and their remembered exchanges, without spare capacity; default 8 MiB.
    pub memory: usize,
    /// Most unanswered requests and unacknowledged responses per peer; `1..=32`, default 24. Beyond
    /// it a request is answered 4.29. The limit of a holder is this times its `max_sessions`, and
    /// at most an eighth of [`Settings::pending`].
    pub pending_per_peer: u16,
    /// Most unanswered requests and unacknowledged responses in all; default 16,384, at most 2^24.
    /// Beyond it a request is answered 5.03.
    pub pending: usize,
    /// Largest request body in bytes; default 64 KiB. A larger one is answered 4.13.
    pub body: usize,
    /// Bytes for all incomplete request bodies; default 4 MiB.
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

/// An event for the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer reset a separate response: it no longer knows the request.
    Reset(PeerId),
    /// The number of separate responses given up: the first was sent five times without
    /// acknowledgement, the others waited behind it.
    Unacknowledged(PeerId, u16),
}

/// Counters since the endpoint was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams received.
    pub received: u64,
    /// Requests handed up.
    pub requests: u64,
    /// Datagrams that are not CoAP messages.
    pub malformed: u64,
    /// Acknowledgements, resets and responses that match no outstanding message.
    pub unexpected: u64,
    /// Pings.
    pub pings: u64,
    /// Duplicate requests.
    pub duplicates: u64,
    /// Requests with a remembered Message ID and different content: the peer has restarted.
    pub restarted: u64,
    /// Requests refused by the endpoint: options, method, blocks.
    pub refused: u64,
    /// Requests refused because too many were unanswered.
    pub overloaded: u64,
    /// Blocks accepted that were not the last of their body.
    pub blocks: u64,
    /// Empty acknowledgements sent because the response was late.
    pub late: u64,
    /// Confirmable responses retransmitted.
    pub retransmitted: u64,
    /// Confirmable responses given up.
    pub unacknowledged: u64,
    /// Requests not answered within EXCHANGE_LIFETIME (247 s).
    pub abandoned: u64,
    /// Exchanges dropped before their lifetime because of the memory limit.
    pub forgotten: u64,
    /// Responses to plain peers that carried an Echo option.
    pub echo_sent: u64,
    /// Requests whose Echo option has proven the address of a plain peer.
    pub echoed: u64,
    /// Datagrams not sent: the amplification limit of an unproven peer was reached, or its Message
    /// IDs were used up.
    pub withheld: u64,
}

/// A CoAP endpoint for all peers, server and client (RFC 7252), without socket, clock or
/// randomness.
///
/// The shell hands in every datagram, drains [`Endpoint::poll_transmit`] after each round, and
/// calls [`Endpoint::handle_timeout`] when [`Endpoint::poll_timeout`] has come. `now` never goes
/// back.
#[derive(Debug)]
pub struct Endpoint {
    settings: Settings,
    seed: u64,
    /// Without it no plain peer can prove its address.
    echo: Option<EchoKey>,
    /// The origin of [`Tick`]: the first `now`.
    epoch: Option<Instant>,
    /// Proven peers, unproven peers.
    sides: [Side; 2],
    exchanges: Exchanges,
    transmissions: Transmissions,
    outbox: Outbox,
    requests: client::Requests,
    /// Resets for notifications that nobody expects, in this tick.
    resets: (Tick, u32),
    events: VecDeque<Event>,
    counters: Counters,
}

/// The state that is separate for proven and unproven peers.
#[derive(Debug)]
struct Side {
    peers: Peers,
    assemblies: Assemblies,
}

impl Endpoint {
    /// An endpoint without peers. `seed` must be random and new for each run: Message IDs and
    /// hashes are derived from it.
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
            echo: None,
            epoch: None,
            exchanges: Exchanges::default(),
            transmissions: Transmissions::new(SplitMix64::new(seed)),
            outbox: Outbox::default(),
            requests: client::Requests::default(),
            resets: (Tick(0), 0),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Lets plain UDP peers prove their addresses by the Echo option (RFC 9175). `secret` must be
    /// random and new for each run, and independent of the seed, which Message IDs show in part.
    pub fn with_echo(self, secret: &[u8; 32]) -> Endpoint {
        Endpoint { echo: Some(EchoKey::new(secret)), ..self }
    }

    /// Handles due timers: empty acknowledgements, retransmissions, expiry. Early and late calls
    /// are allowed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let tick = self.tick(now);
        self.acknowledge_late(now);
        self.requests.end_late_rests(now);
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

    /// When to call [`Endpoint::handle_timeout`] next; `None` if no timer is set.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let epoch = self.epoch?;
        let [proven, unproven] = &self.sides;
        [
            self.exchanges.deadline(),
            self.transmissions.deadline(),
            self.requests.rests_deadline(),
            proven.peers.sweep_deadline(epoch),
            unproven.peers.sweep_deadline(epoch),
            proven.assemblies.deadline(),
            unproven.assemblies.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Replaces the content of `buffer` with the next datagram to send and returns its destination.
    pub fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> Option<PeerId> {
        self.outbox.pop(buffer)
    }

    /// The next event. At most 256 are queued; further events are only counted.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Removes a peer and its requests after its session was closed. Its exchanges become stale.
    pub fn forget(&mut self, peer: PeerId) {
        self.requests.end_all(peer, &client::Outcome::Gone, false);
        let side = &mut self.sides[usize::from(peer.is_unproven())];
        side.assemblies.forget(peer);
        let Some((mut gone, account)) = side.peers.remove(peer) else { return };
        for index in gone.remembered.clear(account) {
            self.exchanges.at(index, peer).and_then(|key| self.exchanges.close(key));
        }
        self.transmissions.clear(&mut gone.queue);
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The number of peers heard within EXCHANGE_LIFETIME.
    pub fn peer_count(&self) -> usize {
        self.sides.iter().map(|side| side.peers.len()).sum()
    }

    /// The number of requests handed up and not yet answered.
    pub fn pending_count(&self) -> usize {
        self.exchanges.len()
    }

    /// Bytes used by peers, remembered exchanges and stored responses.
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
