//! Outgoing messages: Message IDs that are not reused too early, and retransmission of confirmable
//! messages (RFC 7252 §4.2, §4.4, §4.7, §4.8).
//!
//! At most one confirmable message per peer is outstanding (NSTART = 1); the others wait in a queue
//! linked through [`Transmissions`]. After the first transmission and MAX_RETRANSMIT more, each
//! with twice the timeout, all messages to the peer are given up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::PeerId;
use super::fold::fold;
use super::message::MessageId;
use super::tally::Tally;
use crate::slots::{Key, Slots};
use crate::splitmix::SplitMix64;

/// Least timeout of the first transmission; the largest is 1.5 times this (ACK_RANDOM_FACTOR, RFC
/// 7252 §4.8).
pub const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Most retransmissions of a confirmable message (RFC 7252 §4.8).
pub const MAX_RETRANSMIT: u8 = 4;
/// Time in which a Message ID must not be reused and a duplicate may arrive (RFC 7252 §4.8.2).
pub const EXCHANGE_LIFETIME: Duration = Duration::from_secs(247);
/// [`EXCHANGE_LIFETIME`] for non-confirmable messages (RFC 7252 §4.8.2).
pub const NON_LIFETIME: Duration = Duration::from_secs(145);
/// Time from the first transmission of a confirmable message until its sender gives up (RFC 7252
/// §4.8.2).
pub const MAX_TRANSMIT_WAIT: Duration = Duration::from_secs(93);

pub(super) const EXCHANGE_LIFETIME_TICKS: u32 = EXCHANGE_LIFETIME.as_secs() as u32 * Tick::PER_SECOND;
pub(super) const NON_LIFETIME_TICKS: u32 = NON_LIFETIME.as_secs() as u32 * Tick::PER_SECOND;

/// Quarter seconds since the epoch of the endpoint: 4 bytes, which overflow after 34 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    pub(super) const PER_SECOND: u32 = 4;
    const LENGTH: Duration = Duration::from_millis(250);

    pub(super) fn at(epoch: Instant, now: Instant) -> Tick {
        let passed = now.saturating_duration_since(epoch);
        let quarters = passed.subsec_millis() / 250;
        let seconds = u32::try_from(passed.as_secs()).unwrap_or(u32::MAX);
        Tick(seconds.saturating_mul(Self::PER_SECOND).saturating_add(quarters))
    }

    /// The first moment at which this many ticks have passed.
    pub(super) fn instant(self, epoch: Instant) -> Instant {
        epoch + Self::LENGTH * self.0
    }

    /// Ticks from `self` until `now`.
    pub(super) fn age(self, now: Tick) -> u32 {
        now.0.saturating_sub(self.0)
    }

    pub(super) fn plus(self, ticks: u32) -> Tick {
        Tick(self.0.saturating_add(ticks))
    }
}

/// Gives out the Message IDs of our own messages to one peer, in sequence.
///
/// A Message ID is not reused within EXCHANGE_LIFETIME, because at most half of all are allocated
/// in that time. The first one advances with the clock by 264 a second, so a peer that was removed
/// and returns does not get recent ones either, unless it was sent more messages than that.
#[derive(Debug)]
pub(super) struct MessageIds {
    next: u16,
    given: u16,
    span: Tick,
}

impl MessageIds {
    const PER_SPAN: u16 = 1 << 15;
    const PER_TICK: u32 = (1 << 16) / EXCHANGE_LIFETIME_TICKS;

    pub(super) fn new(seed: u64, peer: PeerId, now: Tick) -> MessageIds {
        let start = fold(seed, u128::from(peer.0)) as u32;
        MessageIds {
            next: start.wrapping_add(now.0.wrapping_mul(Self::PER_TICK)) as u16,
            given: 0,
            span: now,
        }
    }

    /// The next Message ID; `None` if this peer was sent 32,768 messages within EXCHANGE_LIFETIME
    /// (247 s).
    pub(super) fn allocate(&mut self, now: Tick) -> Option<MessageId> {
        if self.span.age(now) > EXCHANGE_LIFETIME_TICKS {
            (self.span, self.given) = (now, 0);
        }
        if self.given == Self::PER_SPAN {
            return None;
        }
        self.given += 1;
        let id = MessageId(self.next);
        self.next = self.next.wrapping_add(1);
        Some(id)
    }
}

/// The confirmable messages of one peer that are not acknowledged: the first is outstanding, the
/// others wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) first: Option<Key>,
    last: Option<Key>,
}

/// All confirmable messages not yet acknowledged.
#[derive(Debug)]
pub(super) struct Transmissions {
    slots: Slots<Transmission>,
    held: Tally,
    timers: BinaryHeap<Reverse<(Instant, Key)>>,
    random: SplitMix64,
    /// Emptied buffers, to be filled again.
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Transmission {
    pub(super) peer: PeerId,
    /// The number of its holder.
    holder: u64,
    pub(super) message_id: MessageId,
    pub(super) datagram: Vec<u8>,
    /// When the current transmission times out; `None` while the message waits behind another.
    deadline: Option<Instant>,
    timeout: Duration,
    attempts: u8,
    next: Option<Key>,
}

/// The action for a timeout.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Retransmit the message.
    Again(Key),
    /// The peer did not acknowledge; give up all messages to it.
    GivenUp(PeerId),
}

impl Transmissions {
    pub(super) fn new(random: SplitMix64) -> Transmissions {
        let (slots, held) = (Slots::default(), Tally::default());
        Transmissions { slots, held, timers: BinaryHeap::new(), random, spare: Vec::new() }
    }

    /// Queues a message after the others of its peer. Returns whether it is the first, which must
    /// be sent now.
    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        queue: &mut Queue,
        (peer, holder): (PeerId, u64),
        message_id: MessageId,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Key> {
        let mut datagram = self.spare.pop().unwrap_or_default();
        write(&mut datagram);
        let timeout = ACK_TIMEOUT + self.random.up_to(ACK_TIMEOUT / 2);
        self.held.add(holder);
        let key = self.slots.insert(Transmission {
            peer,
            holder,
            message_id,
            datagram,
            deadline: None,
            timeout,
            attempts: 0,
            next: None,
        });
        match queue.last.replace(key).and_then(|last| self.slots.get_mut(last)) {
            Some(last) => {
                last.next = Some(key);
                None
            }
            None => {
                queue.first = Some(key);
                self.arm(now, key);
                Some(key)
            }
        }
    }

    /// Removes the first message of a peer's queue. Returns the next one, which must be sent now.
    pub(super) fn finish_first(&mut self, now: Instant, queue: &mut Queue) -> Option<Key> {
        let next = queue.first.and_then(|first| self.remove(first)).and_then(|done| done.next);
        queue.first = next;
        if next.is_none() {
            queue.last = None;
        }
        self.settle();
        next.inspect(|&key| self.arm(now, key))
    }

    /// Removes all messages of a queue; returns how many.
    pub(super) fn clear(&mut self, queue: &mut Queue) -> u16 {
        let mut given_up = 0;
        let mut next = queue.first.take();
        queue.last = None;
        while let Some(done) = next.and_then(|key| self.remove(key)) {
            given_up += 1;
            next = done.next;
        }
        self.settle();
        given_up
    }

    /// The number of messages, including waiting ones.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The number of messages to peers of this holder.
    pub(super) fn held(&self, holder: u64) -> usize {
        self.held.count(holder)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Transmission> {
        self.slots.get(key)
    }

    /// The next timeout; the next deadline of the message is set.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<Due> {
        let &Reverse((deadline, key)) = self.timers.peek()?;
        if deadline > now {
            return None;
        }
        self.timers.pop();
        self.settle();
        // `settle` leaves only valid timers.
        let transmission = self.slots.get_mut(key)?;
        if transmission.attempts > MAX_RETRANSMIT {
            return Some(Due::GivenUp(transmission.peer));
        }
        transmission.timeout *= 2;
        self.arm(now, key);
        Some(Due::Again(key))
    }

    /// When [`Transmissions::poll_due`] should be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((deadline, _))| *deadline)
    }

    fn arm(&mut self, now: Instant, key: Key) {
        if let Some(transmission) = self.slots.get_mut(key) {
            let deadline = now + transmission.timeout;
            transmission.attempts += 1;
            transmission.deadline = Some(deadline);
            self.timers.push(Reverse((deadline, key)));
        }
    }

    fn remove(&mut self, key: Key) -> Option<Transmission> {
        let mut done = self.slots.remove(key)?;
        self.held.subtract(done.holder);
        if self.spare.len() < 64 {
            let mut buffer = std::mem::take(&mut done.datagram);
            buffer.clear();
            self.spare.push(buffer);
        }
        Some(done)
    }

    /// Removes timers of messages that are gone: those at the front always, all of them if they are
    /// the majority.
    fn settle(&mut self) {
        let slots = &self.slots;
        let valid = |&Reverse((deadline, key)): &Reverse<(Instant, Key)>| {
            slots.get(key).is_some_and(|t| t.deadline == Some(deadline))
        };
        while self.timers.peek().is_some_and(|timer| !valid(timer)) {
            self.timers.pop();
        }
        if self.timers.len() > 64 + 2 * slots.len() {
            self.timers.retain(valid);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    #[test]
    fn no_message_id_recurs_within_247_seconds() {
        let mut ids = MessageIds::new(1, PeerId(1), Tick(0));
        let mut last = vec![None; 1 << 16];
        let mut given = 0;
        for tick in 0..20_000 {
            for _ in 0..100 {
                let Some(id) = ids.allocate(Tick(tick)) else { break };
                let before: Option<u32> = last[usize::from(id.0)].replace(tick);
                assert!(before.is_none_or(|before| tick - before > EXCHANGE_LIFETIME_TICKS));
                given += 1;
            }
        }
        assert!(given > 600_000);
    }

    #[test]
    fn a_forgotten_peer_that_comes_back_gets_no_recent_ids() {
        let mut last = vec![None; 1 << 16];
        for tick in 0..5_000 {
            let mut ids = MessageIds::new(1, PeerId(1), Tick(tick));
            for _ in 0..66 {
                let id = ids.allocate(Tick(tick)).unwrap();
                let before: Option<u32> = last[usize::from(id.0)].replace(tick);
                assert!(before.is_none_or(|before| tick - before >= EXCHANGE_LIFETIME_TICKS));
            }
        }
    }

    #[test]
    fn attempts_wait_two_to_three_seconds_and_then_twice_as_long_each() {
        for seed in 0..100 {
            let start = Instant::now();
            let (mut sent, mut queue) = (Transmissions::new(SplitMix64::new(seed)), Queue::default());
            let key = sent.enqueue(start, &mut queue, (PeerId(1), 1), MessageId(1), |_| {}).unwrap();
            let mut waits = Vec::new();
            let mut now = start;
            loop {
                let deadline = sent.deadline().unwrap();
                waits.push((deadline - now).as_secs_f64());
                now = deadline;
                match sent.poll_due(now) {
                    Some(Due::Again(again)) => assert_eq!(again, key),
                    due => break assert_eq!(due, Some(Due::GivenUp(PeerId(1)))),
                }
            }
            assert_eq!(waits.len(), 5);
            assert!((2.0..=3.0).contains(&waits[0]), "{waits:?}");
            assert!(waits.windows(2).all(|w| (w[1] / w[0] - 2.0).abs() < 1e-6), "{waits:?}");
            assert!(now - start <= MAX_TRANSMIT_WAIT);
        }
    }

    #[test]
    fn one_message_is_outstanding_and_the_others_wait_in_order() {
        let now = Instant::now();
        let (mut sent, mut queue) = (Transmissions::new(SplitMix64::new(1)), Queue::default());
        let mut add = |sent: &mut Transmissions, id| {
            sent.enqueue(now, &mut queue, (PeerId(1), 1), MessageId(id), |_| {})
        };
        let first = add(&mut sent, 1).unwrap();
        assert_eq!((add(&mut sent, 2), add(&mut sent, 3)), (None, None));
        assert_eq!(queue.first, Some(first));
        let second = sent.finish_first(now, &mut queue).unwrap();
        assert_eq!(sent.get(second).unwrap().message_id, MessageId(2));
        assert_eq!(sent.clear(&mut queue), 2);
        assert_eq!((sent.deadline(), sent.slots.len(), sent.held(1)), (None, 0, 0));
    }
}
