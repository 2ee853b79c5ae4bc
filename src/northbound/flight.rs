//! Publishes sent at QoS 1 and not answered: their packet ids, in which order they went, and when
//! an answer is overdue.
//!
//! **The timer.** A broker answers publishes in the order they came (MQTT 5.0 §4.6), so the oldest
//! unanswered one is the next to be answered. It is overdue when it has been the oldest, and in
//! flight, for the patience: 30 s by default, and never less than four times what an answer is
//! expected to take (RFC 6298's estimate), at most ten minutes. A broker that is slow but goes on
//! answering is waited for; one that drops a publish is noticed although it answers those behind.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::own::Key;
use super::suspicion::RecordPlace;

/// The longest patience, however slow the broker was.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// What was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A record, by its lane's index and its sequence.
    Record(usize, u64),
    /// A message of the gateway's own.
    Own {
        /// Which.
        key: Key,
        /// Where it went.
        topic: String,
        /// Which setting of it.
        version: u64,
    },
}

impl Sent {
    /// Where the record is; `None`: it is a message of the gateway's own.
    pub fn place(&self) -> Option<RecordPlace> {
        match self {
            Sent::Record(lane, sequence) => Some(RecordPlace { lane: *lane, sequence: *sequence }),
            Sent::Own { .. } => None,
        }
    }
}

struct Slot {
    sent: Option<Sent>,
    serial: u64,
    at: Instant,
}

/// How long answers take: smoothed round trip and its variation (RFC 6298 §2).
#[derive(Clone, Copy, Debug, Default)]
struct RoundTrip(Option<(Duration, Duration)>);

impl RoundTrip {
    fn measure(&mut self, sample: Duration) {
        self.0 = Some(match self.0 {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => {
                let off = smoothed.abs_diff(sample);
                (smoothed * 7 / 8 + sample / 8, variation * 3 / 4 + off / 4)
            }
        });
    }

    fn expected(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |(smoothed, variation)| smoothed + 4 * variation)
    }
}

/// The publishes in flight.
pub struct Flight {
    slots: Vec<Slot>,
    free: VecDeque<u16>,
    /// Packet ids in the order they were sent, with their send numbers; answered ones fall out at
    /// the front.
    order: VecDeque<(u16, u64)>,
    serial: u64,
    newest_answered: u64,
    /// Since when the oldest is the oldest.
    oldest_since: Instant,
    round_trip: RoundTrip,
    patience: Duration,
}

impl Flight {
    /// Nothing is in flight. `patience`: the least time an answer is waited for.
    pub fn new(now: Instant, patience: Duration) -> Flight {
        Flight {
            slots: Vec::new(),
            free: VecDeque::new(),
            order: VecDeque::new(),
            serial: 0,
            newest_answered: 0,
            oldest_since: now,
            round_trip: RoundTrip::default(),
            patience,
        }
    }

    /// A connection is there on which so many publishes may await their answers: `1..=65,000`.
    pub fn open(&mut self, now: Instant, window: u16) {
        self.close();
        self.slots.resize_with(usize::from(window), || Slot { sent: None, serial: 0, at: now });
        self.free.extend(1..=window);
    }

    /// The connection is gone, and with it what was in flight.
    pub fn close(&mut self) {
        self.slots.clear();
        self.free.clear();
        self.order.clear();
    }

    /// The number of the next reading or message sent; they are numbered over all connections.
    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The number given out last.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The packet id the next publish gets, if there is a place.
    pub fn free_id(&self) -> Option<u16> {
        self.free.front().copied()
    }

    /// How many are in flight.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A publish was sent with the id [`Flight::free_id`] gave; its send number.
    pub fn send(&mut self, now: Instant, id: u16, sent: Sent) -> u64 {
        let serial = self.next_serial();
        if self.is_empty() {
            self.oldest_since = now;
            self.order.clear();
        }
        self.free.pop_front();
        if let Some(slot) = self.slots.get_mut(usize::from(id) - 1) {
            *slot = Slot { sent: Some(sent), serial, at: now };
        }
        self.order.push_back((id, serial));
        serial
    }

    /// The broker answered a publish: what it was, its send number, and when it was sent. `None`:
    /// nothing was sent under that id.
    pub fn answer(&mut self, now: Instant, id: u16) -> Option<(Sent, u64, Instant)> {
        let slot = self.slots.get_mut(usize::from(id).checked_sub(1)?)?;
        let sent = slot.sent.take()?;
        let (serial, at) = (slot.serial, slot.at);
        self.free.push_back(id);
        self.round_trip.measure(now.saturating_duration_since(at));
        self.newest_answered = self.newest_answered.max(serial);
        while let Some((id, serial)) = self.order.front() {
            let slot = &self.slots[usize::from(*id) - 1];
            if slot.sent.is_some() && slot.serial == *serial {
                break;
            }
            self.order.pop_front();
            self.oldest_since = now;
        }
        Some((sent, serial, at))
    }

    /// How long an answer is waited for.
    pub fn patience(&self) -> Duration {
        (4 * self.round_trip.expected()).min(PATIENCE_MAX).max(self.patience)
    }

    /// Since when the oldest publish waits for its answer.
    pub fn waiting_since(&self) -> Option<Instant> {
        let (id, _) = self.order.front().filter(|_| !self.is_empty())?;
        Some(self.slots[usize::from(*id) - 1].at.max(self.oldest_since))
    }

    /// When the answer to the oldest publish is overdue.
    pub fn overdue_at(&self) -> Option<Instant> {
        Some(self.waiting_since()? + self.patience())
    }

    /// The oldest publish in flight.
    pub fn oldest(&self) -> Option<&Sent> {
        let (id, _) = self.order.front()?;
        self.slots[usize::from(*id) - 1].sent.as_ref()
    }

    /// Everything in flight.
    pub fn iter(&self) -> impl Iterator<Item = &Sent> {
        self.slots.iter().filter_map(|slot| slot.sent.as_ref())
    }

    /// What is in flight although something sent later was answered: the broker will not answer it
    /// any more.
    pub fn overtaken(&self) -> impl Iterator<Item = &Sent> {
        let newest = self.newest_answered;
        self.slots.iter().filter(move |slot| slot.serial < newest).filter_map(|slot| slot.sent.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn flight(now: Instant) -> Flight {
        let mut flight = Flight::new(now, PATIENCE);
        flight.open(now, 10);
        flight
    }

    fn send(flight: &mut Flight, now: Instant) -> u16 {
        let id = flight.free_id().unwrap();
        flight.send(now, id, Sent::Record(0, u64::from(id)));
        id
    }

    #[test]
    fn one_left_behind_is_overdue_although_all_others_are_answered() {
        let mut now = Instant::now();
        let mut flight = flight(now);
        let stuck = send(&mut flight, now);
        for _ in 0..20 {
            now += Duration::from_secs(1);
            let id = send(&mut flight, now);
            flight.answer(now, id).unwrap();
        }
        assert_eq!(flight.overdue_at(), Some(now - Duration::from_secs(20) + PATIENCE));
        assert_eq!(flight.overtaken().collect::<Vec<_>>(), [&Sent::Record(0, u64::from(stuck))]);
    }

    #[test]
    fn a_slow_broker_that_goes_on_answering_is_waited_for() {
        let mut now = Instant::now();
        let mut flight = flight(now);
        let ids: Vec<_> = (0..10).map(|_| send(&mut flight, now)).collect();
        for id in ids {
            now += Duration::from_secs(29);
            assert!(flight.overdue_at().unwrap() > now);
            flight.answer(now, id).unwrap();
        }
        assert_eq!(flight.overdue_at(), None);
        // And its answers are expected to take long from now on.
        assert!(flight.patience() > 4 * Duration::from_secs(29), "{:?}", flight.patience());
        assert!(flight.patience() <= PATIENCE_MAX);
    }

    #[test]
    fn quick_answers_do_not_shorten_the_patience() {
        let now = Instant::now();
        let mut flight = flight(now);
        for _ in 0..100 {
            let id = send(&mut flight, now);
            flight.answer(now + Duration::from_millis(1), id).unwrap();
        }
        assert_eq!(flight.patience(), PATIENCE);
        assert!(
            flight.answer(now, 3).is_none()
                && flight.answer(now, 0).is_none()
                && flight.answer(now, 99).is_none()
        );
    }
}
