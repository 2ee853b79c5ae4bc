//! Which record goes next, when it may be released, what the broker's answer means for it.
//!
//! Invariants:
//! * No more QoS 1 publishes await their answer than the window: the least of Receive Maximum, `max-in-flight` and 65,000.
//! * A record is released only when the broker answered it below 0x80, and in sequence order within its lane.
//! * While both lanes wait, `high` gets three of four places. Records older than a minute are paced.
//! * Towards a broker without QoS 1, what was sent counts as taken when a PINGREQ sent after it is answered.
//!
//! | the broker's answer | what follows |
//! |---|---|
//! | below 0x80 | released |
//! | 0x87, 0x90, 0x95, 0x99; or the record is over its Maximum Packet Size | `rejected` |
//! | any other refusal | the lane stops, 1 s to 5 min, then one record at a time until one is taken |
//! | closes the connection, three times with the same oldest record | that record is sent alone; closed once more: `rejected` |

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lane::{Departure, LaneState, State};
use super::outbox::{Loss, Next, Outbox};
use super::own::{Class, Key, Own};
use super::pace::Pace;
use super::publication::{self, Encoder, Remaining, Terms};
use super::session::{Limits, PUBLISH_ID_MAX};
use super::volatile::Ring;
use super::wire::{Acknowledgement, Version};
use crate::clock::Moment;
use crate::message::{Content, Lane, RecordId};

/// Records older than this are backlog and paced.
pub const BACKLOG_AGE_MS: u64 = 60_000;
/// Output is filled up to here, then written.
pub const FILL_BYTES: usize = 48 * 1024;
/// Records read from the journal in one fill at most, so that mass expiry does not hold the thread.
const READS_MAX: usize = 4096;
/// Least time until a paced lane is looked at again.
const PACED_TICK: Duration = Duration::from_millis(5);
/// A volatile reading sent so shortly before a close may be its cause.
const VOLATILE_SUSPICIOUS: Duration = Duration::from_secs(5);
/// How long volatile readings are dropped once suspected.
const VOLATILE_PAUSE: Duration = Duration::from_secs(300);
const STRIKES: u8 = super::lane::STRIKES;

/// What the publisher reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record was moved to the rejected store.
    Rejected {
        /// Its lane.
        lane: Lane,
        /// Which.
        id: RecordId,
        /// The reason code, or [`super::outbox::POISON`].
        code: u8,
    },
    /// The broker refused a record for now; its lane waits.
    LaneStopped {
        /// Which lane.
        lane: Lane,
        /// The reason code.
        code: u8,
        /// For how long.
        wait: Duration,
    },
    /// A record must be rejected and there is no room for it; its lane waits.
    RejectedFull {
        /// Which lane.
        lane: Lane,
        /// For how long.
        wait: Duration,
    },
    /// A record of this lane comes down to being sent alone: the broker closed the connection thrice over it.
    SentAlone {
        /// Which lane.
        lane: Lane,
    },
    /// The broker refused a message of the gateway's own, for good.
    OwnRefused {
        /// Its topic.
        topic: String,
        /// The reason code.
        code: u8,
    },
    /// The broker closes the connection over the gateway's own messages: they pause for an hour.
    OwnPaused {
        /// Which.
        class: Class,
    },
    /// The broker closes the connection after readings of `qos = 0` rules: these are dropped for five minutes.
    VolatilePaused,
}

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Stored records sent, repeats included.
    pub sent: u64,
    /// Stored records the broker acknowledged.
    pub acknowledged: u64,
    /// Stored records moved to the rejected store.
    pub rejected: u64,
    /// Stored records that expired.
    pub expired: u64,
    /// Readings of `qos = 0` rules sent.
    pub volatile_sent: u64,
    /// Answers to nothing we sent.
    pub unknown_answers: u64,
}

/// What a fill did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Packets appended.
    pub packets: usize,
    /// More could have been appended but for the size of the output.
    pub more: bool,
    /// A PINGREQ is to follow, numbered as was said to [`Publisher::fill`].
    pub ping: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Lane(usize, u64),
    Own { key: Key, topic: String, version: u64 },
}

/// Who alone may send, because it is suspected of bringing the connection down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alone {
    Own,
    Lane(usize),
}

/// The publishing half of the uplink.
pub struct Publisher {
    max_in_flight: u16,
    loss_topic: Option<String>,
    lanes: [LaneState; 2],
    /// Counts the places given while both lanes waited.
    turn: u8,
    own_was_last: bool,
    pace: Pace,
    paced_until: Option<Instant>,
    encoder: Encoder,
    ring: Ring,
    volatile_sent_at: Option<Instant>,
    volatile_strikes: u8,
    volatile_paused_until: Option<Instant>,
    own_suspect: Option<(Key, u8)>,
    /// The loss being reported, and of each lane what was reported: number and count.
    reporting: Option<Loss>,
    reported: [Vec<(u64, u64)>; 2],
    gateway: String,
    /// `None` while there is no connection.
    terms: Option<Terms>,
    at_least_once: bool,
    window: u16,
    slots: Vec<Slot>,
    free: VecDeque<u16>,
    ping_outstanding: bool,
    held: bool,
    progress_at: Instant,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Publisher {
    /// Without a connection yet. `loss_topic` `None`: losses are not reported.
    pub fn new(
        now: Instant,
        gateway: &str,
        max_in_flight: u16,
        drain_rate: u32,
        loss_topic: Option<String>,
    ) -> Publisher {
        Publisher {
            max_in_flight: max_in_flight.max(1),
            loss_topic,
            lanes: Lane::ALL.map(LaneState::new),
            turn: 0,
            own_was_last: false,
            pace: Pace::new(now, drain_rate),
            paced_until: None,
            encoder: Encoder::new(gateway),
            ring: Ring::default(),
            volatile_sent_at: None,
            volatile_strikes: 0,
            volatile_paused_until: None,
            own_suspect: None,
            reporting: None,
            reported: Default::default(),
            gateway: gateway.to_owned(),
            terms: None,
            at_least_once: true,
            window: 0,
            slots: Vec::new(),
            free: VecDeque::new(),
            ping_outstanding: false,
            held: false,
            progress_at: now,
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The connection may be used from now on, within `limits`.
    pub fn handle_open(&mut self, version: Version, limits: &Limits) {
        self.terms =
            Some(Terms { version, packet_limit: limits.packet_size as usize, retain: limits.retain });
        self.at_least_once = limits.at_least_once;
        self.window = limits.receive_maximum.min(self.max_in_flight).min(PUBLISH_ID_MAX);
        self.slots.clear();
        self.slots.resize(usize::from(self.window), Slot::Free);
        self.free.clear();
        self.free.extend(1..=self.window);
        self.ping_outstanding = false;
    }

    /// Whether there is a connection.
    pub fn is_open(&self) -> bool {
        self.terms.is_some()
    }

    /// The connection is gone. `by_peer`: the broker closed it, and gave no reason that clears the records in flight.
    /// Whether records or own messages in flight fell under suspicion.
    pub fn handle_closed(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        own: &mut Own,
        by_peer: bool,
    ) -> bool {
        let alone = self.alone();
        let mut suspicious = false;
        if by_peer && self.terms.is_some() {
            self.strike_own(now, own, alone == Some(Alone::Own));
            if self.volatile_sent_at.is_some_and(|at| now < at + VOLATILE_SUSPICIOUS) {
                self.volatile_strikes += 1;
                if self.volatile_strikes >= STRIKES {
                    self.volatile_strikes = 0;
                    self.volatile_paused_until = Some(now + VOLATILE_PAUSE);
                    self.events.push_back(Event::VolatilePaused);
                }
                suspicious = true;
            }
            for (index, lane) in self.lanes.iter_mut().enumerate() {
                suspicious |= lane.in_flight() > 0;
                let wanted = lane.wants_alone();
                lane.strike(alone == Some(Alone::Lane(index)));
                if !wanted && lane.wants_alone() {
                    self.events.push_back(Event::SentAlone { lane: lane.lane() });
                }
            }
            suspicious |= own.in_flight() > 0;
        }
        self.settle(now, outbox);
        for lane in &mut self.lanes {
            lane.handle_closed(outbox);
        }
        own.handle_closed();
        self.terms = None;
        self.slots.clear();
        self.free.clear();
        self.paced_until = None;
        suspicious
    }

    /// Holds all back but one own message at a time, while a connection is being made ready.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Since when nothing was answered though something is in flight.
    pub fn waiting_since(&self) -> Option<Instant> {
        (self.terms.is_some() && self.in_flight() > 0).then_some(self.progress_at)
    }

    fn strike_own(&mut self, now: Instant, own: &mut Own, alone: bool) {
        let in_flight = self.slots.iter().filter_map(|slot| match slot {
            Slot::Own { key, version, .. } => Some((*version, key)),
            _ => None,
        });
        let Some((_, key)) = in_flight.min_by_key(|(version, _)| *version) else {
            return;
        };
        let strikes = match &self.own_suspect {
            Some((suspect, strikes)) if suspect == key => strikes.saturating_add(1),
            _ => 1,
        };
        if strikes > STRIKES && alone {
            self.own_suspect = None;
            if let Some(class) = own.class(key) {
                own.pause(now, class);
                self.events.push_back(Event::OwnPaused { class });
            }
            return;
        }
        self.own_suspect = Some((key.clone(), strikes));
    }

    fn alone(&self) -> Option<Alone> {
        if self.own_suspect.as_ref().is_some_and(|(_, strikes)| *strikes >= STRIKES) {
            return Some(Alone::Own);
        }
        (0..self.lanes.len()).find(|index| self.lanes[*index].wants_alone()).map(Alone::Lane)
    }

    /// Puts a reading of a `qos = 0` rule into the ring.
    pub fn push_volatile(&mut self, content: &Content<'_>) {
        self.ring.push(content);
    }

    /// Appends as many publishes as the window, the pace and [`FILL_BYTES`] allow. `next_ping` is the number the next
    /// PINGREQ would have.
    pub fn fill(
        &mut self,
        moment: &Moment,
        outbox: &mut impl Outbox,
        own: &mut Own,
        out: &mut Vec<u8>,
        next_ping: u64,
    ) -> Filled {
        let mut filled = Filled::default();
        let Some(terms) = self.terms else {
            return filled;
        };
        let now = moment.now;
        self.paced_until = None;
        let mut reads = 0;
        let mut dry = [false; 2];
        let mut own_dry = false;
        let mut undecided = false;
        if self.in_flight() == 0 {
            self.progress_at = now;
        }
        self.settle(now, outbox); // what could not be rejected before
        if self.held {
            if own.in_flight() == 0 && self.has_place() && self.send_own(now, &terms, outbox, own, out) {
                filled.packets += 1;
            }
            return filled;
        }
        self.report_losses(now, outbox, own);
        if self.alone().is_none() {
            filled.packets += self.fill_volatile(moment, &terms, out);
        }
        loop {
            if out.len() >= FILL_BYTES || reads >= READS_MAX {
                filled.more = true;
                break;
            }
            let alone = self.alone();
            if alone.is_some() && self.in_flight() > 0 || !self.has_place() {
                break;
            }
            let own_may = !own_dry && !matches!(alone, Some(Alone::Lane(_)));
            let lanes_may = alone != Some(Alone::Own) && dry != [true, true];
            if own_may && !(self.own_was_last && lanes_may) {
                if self.send_own(now, &terms, outbox, own, out) {
                    filled.packets += 1;
                    self.own_was_last = true;
                } else {
                    own_dry = true;
                    if alone == Some(Alone::Own) {
                        self.own_suspect = None; // nothing stands there any more
                    }
                }
                continue;
            }
            self.own_was_last = false;
            let Some(index) = self.choose(alone, dry) else {
                if own_may {
                    continue;
                }
                break;
            };
            match self.send_next(index, moment, &terms, outbox, out, next_ping) {
                Step::Sent => {
                    filled.packets += 1;
                    self.counters.sent += 1;
                    if dry == [false, false] {
                        self.turn = (self.turn + 1) % 4;
                    }
                }
                Step::Decided => undecided = true,
                Step::Empty => {
                    dry[index] = true;
                    if alone == Some(Alone::Lane(index)) && self.lanes[index].in_flight() == 0 {
                        self.lanes[index].acquit();
                    }
                }
                Step::Dry => dry[index] = true,
            }
            reads += 1;
            if undecided && reads % 256 == 0 {
                undecided = false;
                self.settle(now, outbox);
            }
        }
        if undecided {
            self.settle(now, outbox);
        }
        if !self.at_least_once && !self.ping_outstanding && self.in_flight() > 0 {
            self.ping_outstanding = true;
            filled.ping = true;
        }
        filled
    }

    fn fill_volatile(&mut self, moment: &Moment, terms: &Terms, out: &mut Vec<u8>) -> usize {
        if self.ring.is_empty() {
            return 0;
        }
        if self.volatile_paused_until.is_some_and(|until| moment.now < until) {
            self.ring.clear();
            return 0;
        }
        let mut packets = 0;
        while out.len() < FILL_BYTES / 2 {
            let Some(content) = self.ring.front() else {
                break;
            };
            let expired = publication::remaining(&content, true, moment) == Remaining::Expired;
            if !expired && self.encoder.push_volatile(out, terms, &content, moment).is_ok() {
                packets += 1;
            } else {
                self.ring.note_dropped();
            }
            self.ring.pop();
        }
        if packets > 0 {
            self.counters.volatile_sent += packets as u64;
            self.volatile_sent_at = Some(moment.now);
        }
        packets
    }

    fn has_place(&self) -> bool {
        if self.at_least_once {
            !self.free.is_empty()
        } else {
            !self.ping_outstanding && self.in_flight() < usize::from(self.window)
        }
    }

    /// Which lane's turn it is, among those that may have something.
    fn choose(&self, alone: Option<Alone>, dry: [bool; 2]) -> Option<usize> {
        if let Some(Alone::Lane(index)) = alone {
            return (!dry[index]).then_some(index);
        }
        let [high, normal] = [Lane::High.index(), Lane::Normal.index()];
        let preferred = if self.turn < 3 { [high, normal] } else { [normal, high] };
        preferred.into_iter().find(|index| !dry[*index])
    }

    /// Hands the next loss not yet reported to the own messages, one at a time.
    fn report_losses(&mut self, now: Instant, outbox: &mut impl Outbox, own: &mut Own) {
        if self.reporting.is_some() || own.is_paused(now, Class::Loss) {
            return;
        }
        for lane in Lane::ALL {
            let reported = &mut self.reported[lane.index()];
            let mut index = 0;
            while let Some(loss) = outbox.loss(lane, index) {
                if index == 0 {
                    reported.retain(|(number, _)| *number >= loss.number);
                }
                index += 1;
                if reported.contains(&(loss.number, loss.count)) {
                    continue; // the journal has not got to it yet
                }
                let Some(topic) = &self.loss_topic else {
                    reported.push((loss.number, loss.count));
                    outbox.loss_reported(lane, loss.number, loss.count);
                    continue;
                };
                let payload = publication::loss_payload(&self.gateway, &loss);
                own.report_loss(lane, loss.number, topic, payload);
                self.reporting = Some(loss);
                return;
            }
        }
    }

    fn send_own(
        &mut self,
        now: Instant,
        terms: &Terms,
        outbox: &mut impl Outbox,
        own: &mut Own,
        out: &mut Vec<u8>,
    ) -> bool {
        loop {
            let Some(due) = own.next(now) else {
                return false;
            };
            let packet_id = if self.at_least_once { self.free.front().copied() } else { None };
            let pushed = self.encoder.push_own(out, terms, packet_id, due.topic, due.retain(), due.payload);
            let (key, topic, version) = (due.key.clone(), due.topic.to_owned(), due.version);
            match (pushed, packet_id) {
                (Ok(()), Some(id)) => {
                    self.free.pop_front();
                    self.slots[usize::from(id) - 1] = Slot::Own { key, topic, version };
                    return true;
                }
                (Ok(()), None) => {
                    self.settle_own(now, outbox, own, &key, topic, version, 0);
                    return true;
                }
                (Err(_), _) => self.settle_own(now, outbox, own, &key, topic, version, 0x95),
            }
        }
    }

    /// The broker answered an own message with `code`, 0 for success.
    #[allow(clippy::too_many_arguments)] // what a slot holds, and where it came from
    fn settle_own(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        own: &mut Own,
        key: &Key,
        topic: String,
        version: u64,
        code: u8,
    ) {
        if self.own_suspect.as_ref().is_some_and(|(suspect, _)| suspect == key) {
            self.own_suspect = None;
        }
        match code {
            0..0x80 | 0x87 | 0x90 | 0x95 | 0x99 => own.settle(key, version),
            _ => return own.postpone(now, key),
        }
        if let (Key::Loss(lane, _), Some(loss)) = (key, self.reporting.take()) {
            if code < 0x80 {
                self.reported[lane.index()].push((loss.number, loss.count));
                outbox.loss_reported(*lane, loss.number, loss.count);
            } else {
                // It stays in the journal: perhaps the broker is told to take it one day.
                own.pause(now, Class::Loss);
            }
        }
        if code >= 0x80 {
            self.events.push_back(Event::OwnRefused { topic, code });
        }
    }

    fn send_next(
        &mut self,
        index: usize,
        moment: &Moment,
        terms: &Terms,
        outbox: &mut impl Outbox,
        out: &mut Vec<u8>,
        next_ping: u64,
    ) -> Step {
        let now = moment.now;
        let lane = &mut self.lanes[index];
        let bound = 2 * usize::from(self.window) + 64;
        if !lane.may_send(now) || lane.is_full(bound) {
            return Step::Dry;
        }
        if lane.backlog && !self.pace.allows(now) {
            let ready = self.pace.ready_at().max(now + PACED_TICK);
            self.paced_until = Some(self.paced_until.map_or(ready, |until| until.min(ready)));
            return Step::Dry;
        }
        let packet_id = if self.at_least_once { self.free.front().copied() } else { None };
        let sent = if packet_id.is_some() { State::Sent } else { State::SentBefore(next_ping) };
        let (entry, sequence) = match outbox.next(lane.lane()) {
            Next::Empty => {
                lane.backlog = false;
                return Step::Empty;
            }
            Next::Pending => return Step::Dry,
            Next::Record(record) => {
                let Some(entry) = lane.admit(record.sequence, record.id) else {
                    return Step::Decided;
                };
                let remaining = publication::remaining(&record.content, record.same_boot, moment);
                if remaining == Remaining::Expired {
                    lane.set(entry, State::Lost);
                    return Step::Decided;
                }
                if self.encoder.push_record(out, terms, packet_id, &record, remaining, moment).is_err() {
                    lane.set(entry, State::Rejected(0x95));
                    return Step::Decided;
                }
                let age = publication::age_ms(record.content.received, record.same_boot, moment);
                // Stored in an earlier boot and of unknown age: certainly not fresh.
                lane.backlog = age.is_none_or(|age| age > BACKLOG_AGE_MS);
                if lane.backlog {
                    self.pace.take();
                }
                (entry, record.sequence)
            }
        };
        lane.set(entry, sent);
        if let Some(id) = packet_id {
            self.free.pop_front();
            self.slots[usize::from(id) - 1] = Slot::Lane(index, sequence);
        }
        Step::Sent
    }

    /// Takes the broker's answers.
    pub fn handle_acknowledgements(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        own: &mut Own,
        acknowledgements: &[Acknowledgement],
    ) {
        if !acknowledgements.is_empty() {
            self.progress_at = now;
        }
        for &Acknowledgement { packet_id, code } in acknowledgements {
            let slot = self
                .slots
                .get_mut(usize::from(packet_id).wrapping_sub(1))
                .map_or(Slot::Free, |slot| std::mem::replace(slot, Slot::Free));
            match slot {
                Slot::Free => {
                    self.counters.unknown_answers += 1;
                    continue;
                }
                Slot::Own { key, topic, version } => {
                    self.settle_own(now, outbox, own, &key, topic, version, code);
                }
                Slot::Lane(index, sequence) => match code {
                    0..0x80 => {
                        self.counters.acknowledged += 1;
                        self.lanes[index].answer(sequence, None);
                    }
                    0x87 | 0x90 | 0x95 | 0x99 => self.lanes[index].answer(sequence, Some(code)),
                    _ => {
                        if let Some(wait) = self.lanes[index].refuse_for_now(now, sequence, outbox) {
                            let lane = self.lanes[index].lane();
                            self.events.push_back(Event::LaneStopped { lane, code, wait });
                        }
                    }
                },
            }
            self.free.push_back(packet_id);
        }
        self.settle(now, outbox);
    }

    /// All PINGREQs up to `ping` are answered: a broker without QoS 1 has read what was sent before.
    pub fn handle_ping_answered(&mut self, now: Instant, outbox: &mut impl Outbox, ping: u64) {
        if self.at_least_once {
            return;
        }
        self.ping_outstanding = false;
        self.progress_at = now;
        let before = self.in_flight();
        for lane in &mut self.lanes {
            lane.handle_ping_answered(ping);
        }
        self.counters.acknowledged += (before - self.in_flight()) as u64;
        self.settle(now, outbox);
    }

    fn settle(&mut self, now: Instant, outbox: &mut impl Outbox) {
        let (events, counters) = (&mut self.events, &mut self.counters);
        for lane in &mut self.lanes {
            lane.settle(now, outbox, |lane, departure| match departure {
                Departure::Rejected { id, code } => {
                    counters.rejected += 1;
                    events.push_back(Event::Rejected { lane, id, code });
                }
                Departure::Expired { .. } => counters.expired += 1,
                Departure::RejectedFull { wait } => events.push_back(Event::RejectedFull { lane, wait }),
            });
        }
    }

    /// Publishes sent and not answered, own messages included.
    pub fn in_flight(&self) -> usize {
        let lanes: usize = self.lanes.iter().map(LaneState::in_flight).sum();
        if self.at_least_once { self.slots.len() - self.free.len() } else { lanes }
    }

    /// Whether every place of the window is taken.
    pub fn is_window_full(&self) -> bool {
        self.terms.is_some() && !self.has_place()
    }

    /// The window of this connection; 0 without one.
    pub fn window(&self) -> u16 {
        if self.terms.is_some() { self.window } else { 0 }
    }

    /// Numbers since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Readings of `qos = 0` rules dropped since the start.
    pub fn volatile_dropped(&self) -> u64 {
        self.ring.dropped()
    }

    /// Readings of `qos = 0` rules waiting.
    pub fn volatile_waiting(&self) -> usize {
        self.ring.len()
    }

    /// Until when each lane is stopped.
    pub fn stopped_until(&self, lane: Lane) -> Option<Instant> {
        self.lanes[lane.index()].stopped_until()
    }

    /// When to fill again, though nothing comes from outside.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.terms?;
        let stopped = self.lanes.iter().filter_map(LaneState::stopped_until);
        stopped.chain(self.paced_until).min()
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

enum Step {
    /// A record was appended.
    Sent,
    /// A record was read and decided on without being sent, or was known already.
    Decided,
    /// The lane may not or cannot go on now.
    Dry,
    /// The lane has nothing more.
    Empty,
}
