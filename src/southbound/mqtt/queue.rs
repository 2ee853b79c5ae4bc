//! Messages of QoS 1 and 2 on their way to one client: those that wait, and those that it has not
//! acknowledged. They outlive its connection with its session.
//!
//! | | is sent | ends |
//! |---|---|---|
//! | waiting | when fewer than [`IN_FLIGHT_MAX`], or the client's Receive Maximum, are in flight | in flight; or dropped, the oldest first, when there are too many |
//! | in flight | again at the next connection, in order, with DUP (MQTT 5.0 §4.4) | acknowledged; of QoS 2: received |
//! | received (PUBREC) | PUBREL, and again at the next connection | PUBCOMP |
//!
//! **Bounds.** `max-queued` messages and [`QUEUED_BYTES_MAX`] bytes a session. The oldest gives
//! way: what is shown on a dashboard is the newest. Each that is dropped is counted.

use std::collections::VecDeque;
use std::sync::Arc;

/// Most messages that a client has not acknowledged.
pub const IN_FLIGHT_MAX: usize = 20;
/// Most bytes of messages of one session.
pub const QUEUED_BYTES_MAX: usize = 256 << 10;

/// The highest packet id of a queued message. Commands have those above, so that neither takes an
/// id of the other, whichever is sent first on a connection.
pub(super) const QUEUED_ID_MAX: u16 = 0x7FFF;

/// A message as the bus carries it; shared by all who wait for it.
pub(super) type Shared = Arc<[u8]>;

/// How the next one is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// For the first time; if with QoS 2, [`Queue::note_exactly_once`] has to know.
    First,
    /// It was sent on an earlier connection.
    Again { exactly_once: bool },
    /// Only PUBREL: the client has the message.
    Release,
}

/// A message that was sent.
#[derive(Debug)]
struct InFlight {
    id: u16,
    /// Empty when the client has it.
    message: Shared,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// QoS 1: PUBACK has not come.
    AtLeastOnce,
    /// QoS 2: PUBREC has not come.
    ExactlyOnce,
    /// PUBCOMP has not come.
    Released,
}

/// The messages of one session.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Shared>,
    in_flight: VecDeque<InFlight>,
    /// Of those in flight, the last so many are to be sent again on this connection.
    again: usize,
    bytes: usize,
    last_id: u16,
}

impl Queue {
    /// Messages of it.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Whether some were not sent yet.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.again > 0
    }

    /// Bytes of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds one. Returns how many were dropped: of those that wait the oldest, or this one where
    /// all others are in flight.
    pub(super) fn push(&mut self, message: Shared, most: usize) -> u64 {
        self.bytes += message.len();
        self.waiting.push_back(message);
        self.shrink(most, QUEUED_BYTES_MAX)
    }

    /// Drops the oldest that wait until there are no more than so many, and no more bytes. Returns
    /// how many were dropped.
    pub(super) fn shrink(&mut self, most: usize, bytes: usize) -> u64 {
        let mut dropped = 0;
        while self.len() > most || self.bytes > bytes {
            let Some(oldest) = self.waiting.pop_front() else { break };
            self.bytes -= oldest.len();
            dropped += 1;
        }
        dropped
    }

    /// A connection begins: what is in flight is sent again.
    pub(super) fn begin(&mut self) {
        self.again = self.in_flight.len();
    }

    /// The next one to be sent, with its packet id, while fewer than `most` are in flight on this
    /// connection.
    pub(super) fn next(&mut self, most: usize) -> Option<(u16, Shared, Sending)> {
        let sent = self.sent();
        if sent >= most.min(IN_FLIGHT_MAX) {
            return None;
        }
        if self.again > 0 {
            self.again -= 1;
            let InFlight { id, message, stage } = self.in_flight.get(sent)?;
            let sending = match stage {
                Stage::Released => Sending::Release,
                stage => Sending::Again { exactly_once: *stage == Stage::ExactlyOnce },
            };
            return Some((*id, message.clone(), sending));
        }
        let message = self.waiting.pop_front()?;
        let id = self.free_id();
        self.in_flight.push_back(InFlight { id, message: message.clone(), stage: Stage::AtLeastOnce });
        Some((id, message, Sending::First))
    }

    /// The one that [`Queue::next`] gave last goes out with QoS 2.
    pub(super) fn note_exactly_once(&mut self) {
        if let Some(last) = self.in_flight.back_mut() {
            last.stage = Stage::ExactlyOnce;
        }
    }

    /// PUBREC came: the client has the message of this packet id. Returns whether PUBREL is due.
    pub(super) fn receive(&mut self, id: u16) -> bool {
        let Some(known) = self.in_flight.iter_mut().find(|known| known.id == id) else { return false };
        if known.stage == Stage::ExactlyOnce {
            self.bytes -= known.message.len();
            (known.message, known.stage) = (Shared::from([]), Stage::Released);
        }
        known.stage == Stage::Released
    }

    /// Messages that were sent on this connection and are not acknowledged.
    pub(super) fn sent(&self) -> usize {
        self.in_flight.len() - self.again
    }

    /// An id that is not in flight; of those there are few.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = if self.last_id >= QUEUED_ID_MAX { 1 } else { self.last_id + 1 };
            if self.in_flight.iter().all(|known| known.id != self.last_id) {
                return self.last_id;
            }
        }
    }

    /// The client has acknowledged this packet id. Returns whether it was in flight.
    pub(super) fn acknowledge(&mut self, id: u16) -> bool {
        let Some(at) = self.in_flight.iter().position(|known| known.id == id) else { return false };
        if at >= self.in_flight.len() - self.again {
            self.again -= 1;
        }
        if let Some(known) = self.in_flight.remove(at) {
            self.bytes -= known.message.len();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Shared {
        text.as_bytes().into()
    }

    #[test]
    fn the_oldest_that_waits_gives_way_and_what_is_in_flight_stays() {
        let mut queue = Queue::default();
        for text in ["1", "2", "3"] {
            assert_eq!(queue.push(message(text), 3), 0);
        }
        let text = |next: Option<(u16, Shared, Sending)>| {
            let again = |sending| sending != Sending::First;
            next.map(|(id, message, of)| (id, String::from_utf8_lossy(&message).into_owned(), again(of)))
        };
        assert_eq!(text(queue.next(1)), Some((1, "1".to_owned(), false)));
        assert_eq!(queue.next(1), None, "the client takes one at a time");
        assert_eq!(queue.push(message("4"), 3), 1);
        // At a new connection first what was sent before, then the rest.
        queue.begin();
        assert_eq!(text(queue.next(2)), Some((1, "1".to_owned(), true)));
        assert_eq!(text(queue.next(2)), Some((2, "3".to_owned(), false)));
        assert_eq!(queue.next(2), None);
        assert!(queue.acknowledge(1) && !queue.acknowledge(1));
        assert_eq!(text(queue.next(2)), Some((3, "4".to_owned(), false)));
        assert_eq!((queue.len(), queue.bytes()), (2, 2));
        // One that is acknowledged before it was sent again.
        queue.begin();
        assert!(queue.acknowledge(3));
        assert_eq!(text(queue.next(2)), Some((2, "3".to_owned(), true)));
        assert_eq!(queue.next(2), None);
    }

    #[test]
    fn a_message_of_qos_2_is_sent_again_until_it_is_received_and_released_until_that_is_confirmed() {
        let mut queue = Queue::default();
        queue.push(message("one"), 9);
        queue.push(message("two"), 9);
        assert_eq!(queue.next(9).map(|(id, _, sending)| (id, sending)), Some((1, Sending::First)));
        queue.note_exactly_once();
        assert_eq!(queue.next(9).map(|(id, _, sending)| (id, sending)), Some((2, Sending::First)));
        queue.begin();
        let again = |exactly_once| Sending::Again { exactly_once };
        assert_eq!(queue.next(9), Some((1, message("one"), again(true))));
        assert_eq!(queue.next(9), Some((2, message("two"), again(false))));
        assert!(queue.receive(1) && !queue.receive(2) && !queue.receive(3));
        assert_eq!((queue.len(), queue.bytes()), (2, 3), "the client has it: its bytes are not kept");
        queue.begin();
        assert_eq!(queue.next(9), Some((1, message(""), Sending::Release)));
        assert!(queue.acknowledge(1) && queue.acknowledge(2));
        assert_eq!((queue.len(), queue.bytes(), queue.next(9)), (0, 0, None));
    }

    #[test]
    fn bytes_are_bounded_too_and_counted_down() {
        let mut queue = Queue::default();
        let large: Shared = vec![0; 100 << 10].into();
        let dropped: u64 = (0..10).map(|_| queue.push(large.clone(), 1_000)).sum();
        assert_eq!((dropped, queue.len()), (8, 2));
        assert!(queue.bytes() <= QUEUED_BYTES_MAX);
        // One that does not fit beside those in flight is dropped itself.
        while queue.next(9).is_some() {}
        assert_eq!(queue.push(large, 1_000), 1);
        assert!(queue.acknowledge(1) && queue.acknowledge(2));
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }

    #[test]
    fn packet_ids_are_never_zero_and_never_used_twice_at_once() {
        let mut queue = Queue { last_id: QUEUED_ID_MAX - 1, ..Queue::default() };
        for _ in 0..4 {
            queue.push(message("x"), 10);
        }
        let ids: Vec<u16> = std::iter::from_fn(|| queue.next(9)).map(|(id, ..)| id).collect();
        assert_eq!(ids, [QUEUED_ID_MAX, 1, 2, 3]);
        queue.last_id = QUEUED_ID_MAX - 1;
        assert!(queue.acknowledge(1));
        queue.push(message("y"), 10);
        assert_eq!(queue.next(9).map(|(id, ..)| id), Some(1));
    }
}
