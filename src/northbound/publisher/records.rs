//! The records on their way, and what the broker's answers mean for them: the
//! [lanes](crate::northbound::lane), the [suspicion](crate::northbound::suspicion), and how far the
//! window is used.
//!
//! The *credit* is how many may be in flight: one after a close that may be about a record, or
//! after the broker refused everything, and one more with each answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::connection_end::THROTTLES;
use super::outcomes::Outcomes;
use super::outlet::Outlet;
use super::progress::Progress;
use super::report::{Counters, Event, HeldRecord, Skip};
use crate::message::{Lane, RecordId};
use crate::northbound::lane::{Departure, LaneEntry, LaneState, State};
use crate::northbound::outbox::{Next, Outbox};
use crate::northbound::reason_code::{self, Cause};
use crate::northbound::settled::{DeviceKey, Settled, Verdict};
use crate::northbound::suspicion::{RecordPlace, Ruling, SuspectView, Suspicion, TopicKey};
use crate::northbound::taken::TakenTopics;

/// While nothing was taken for so long, a refusal is no progress.
const NOTHING_TAKEN: Duration = Duration::from_secs(30);
/// Records retried that are remembered, to tell when the broker has taken them.
const RETRIED_MAX: usize = 1024;
/// Bytes from which the outcome of a command may be too large for a broker.
const LARGE_OUTCOME: usize = 1024;
/// Verdicts kept for who follows them; a round of the shell brings no more than a window.
const SETTLED_MAX: usize = 65_536;

/// The records read from the journal that have not left it.
pub struct Records {
    pub(super) lanes: [LaneState; 2],
    pub(super) suspicion: Suspicion,
    pub(super) progress: Progress,
    pub(super) credit: u16,
    /// Records retried, by their places now: the ids they had.
    retried: BTreeMap<(usize, u64), RecordId>,
    /// Records wait that found no room among the suspects.
    overflowed: bool,
    /// Of each lane, whether it was told what it waits for.
    blocked_told: [bool; 2],
    pub(super) events: VecDeque<Event>,
    pub(super) counters: Counters,
    /// Examples of what was taken on this connection.
    pub(super) taken: TakenTopics,
    /// Outcomes of commands that were refused.
    pub(super) outcomes: Outcomes,
    /// What became of records, while somebody follows it.
    settled: Option<Vec<Settled>>,
}

impl Records {
    /// None was read yet.
    pub fn new(now: Instant) -> Records {
        Records {
            lanes: Lane::ALL.map(LaneState::new),
            suspicion: Suspicion::new(now),
            progress: Progress::new(now),
            credit: u16::MAX,
            retried: BTreeMap::new(),
            overflowed: false,
            blocked_told: [false; 2],
            events: VecDeque::new(),
            counters: Counters::default(),
            taken: TakenTopics::default(),
            outcomes: Outcomes::default(),
            settled: None,
        }
    }

    /// Gives what became of records since the last call for the empty `with`; from the first call
    /// on it is kept.
    pub fn swap_settled(&mut self, with: Vec<Settled>) -> Vec<Settled> {
        self.settled.replace(with).unwrap_or_default()
    }

    fn note_settled(&mut self, lane: Lane, id: RecordId, device: Option<DeviceKey>, verdict: Verdict) {
        if let Some(settled) = self.settled.as_mut().filter(|settled| settled.len() < SETTLED_MAX) {
            settled.push(Settled { lane, id, device, verdict });
        }
    }

    /// A connection is there; `afresh`: perhaps to a broker that has changed.
    pub fn handle_open(&mut self, now: Instant, afresh: bool) {
        self.suspicion.handle_open(now, afresh);
        self.progress.handle_open(now);
    }

    /// It is gone: what was in flight is to be sent again.
    pub fn handle_closed(&mut self) {
        for lane in &mut self.lanes {
            lane.handle_closed();
        }
        self.suspicion.handle_closed();
    }

    /// How many are sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.lanes.iter().map(LaneState::in_flight).sum()
    }

    /// Those sent and not answered.
    pub fn sent(&self) -> Vec<(RecordPlace, LaneEntry)> {
        let of = |lane: &LaneState| lane.sent().map(|e| (lane.place(e.id.sequence), *e)).collect::<Vec<_>>();
        self.lanes.iter().flat_map(of).collect()
    }

    /// Whether a reading was taken on this connection, or refused while others are taken.
    pub fn has_progress(&self, now: Instant) -> bool {
        self.progress.taken_here > 0 || (self.progress.refused_at.is_some() && self.others_are_taken(now))
    }

    /// Whether readings were taken lately, as far as any were sent.
    fn others_are_taken(&self, now: Instant) -> bool {
        self.suspicion.nothing_taken_since().is_none_or(|since| now < since + NOTHING_TAKEN)
    }

    /// The lane and id of a record.
    pub fn identify(&self, place: RecordPlace) -> Option<(Lane, RecordId)> {
        let lane = &self.lanes[place.lane];
        Some((lane.lane(), lane.entry(place.sequence)?.id))
    }

    /// Its topic.
    pub fn topic(&self, place: RecordPlace) -> Option<TopicKey> {
        Some(self.lanes[place.lane].entry(place.sequence)?.topic)
    }

    /// It stayed unanswered once more.
    pub fn note_silent(&mut self, place: RecordPlace) -> Option<LaneEntry> {
        let entry = self.lanes[place.lane].entry_mut(place.sequence)?;
        entry.silences = entry.silences.saturating_add(1);
        Some(*entry)
    }

    /// It was too much once more.
    pub fn note_throttled(&mut self, place: RecordPlace) {
        if let Some(entry) = self.lanes[place.lane].entry_mut(place.sequence) {
            entry.throttled += 1;
        }
    }

    /// A record that was rejected before, under the id `original`, was sent.
    pub fn note_retried(&mut self, place: RecordPlace, original: RecordId) {
        if self.retried.len() < RETRIED_MAX {
            self.retried.insert((place.lane, place.sequence), original);
        }
    }

    /// A record on a topic whose newcomers wait. `serial` is the send number given out last.
    pub fn hold_back(&mut self, now: Instant, place: RecordPlace, topic: TopicKey, serial: u64) {
        let lane = &mut self.lanes[place.lane];
        let suspect = if self.suspicion.is_suspect(place) {
            self.suspicion.hold(place);
            true
        } else {
            !self.suspicion.has_defendant(topic) && self.suspicion.accuse(now, place, topic)
        };
        lane.set(place.sequence, if suspect { State::Suspect } else { State::Waiting });
        if let Some(entry) = lane.entry_mut(place.sequence) {
            entry.suspect = suspect;
            entry.held_from = serial;
        }
    }

    /// Does with records what the suspicion says.
    pub fn obey(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            while let Some(place) = lane.poll_vanished() {
                self.suspicion.forget(place);
            }
        }
        while let Some(ruling) = self.suspicion.poll_ruling() {
            match ruling {
                Ruling::Release(place) => {
                    let lane = &mut self.lanes[place.lane];
                    if lane.entry(place.sequence).is_some_and(|entry| entry.state == State::Suspect) {
                        lane.set(place.sequence, State::Unsent);
                    }
                    if let Some(entry) = lane.entry_mut(place.sequence) {
                        entry.suspect = false;
                    }
                }
                Ruling::Condemn(place, cause) => {
                    let entry = self.lanes[place.lane].entry(place.sequence).copied();
                    match entry.filter(|entry| entry.device.is_reply()) {
                        Some(entry) => self.condemn_outcome(now, place, &entry, cause),
                        None => drop(self.lanes[place.lane].set(place.sequence, State::Rejected(cause))),
                    }
                }
                Ruling::Open(topic) => {
                    self.lanes.iter_mut().for_each(|lane| lane.set_waiting(topic, u64::MAX, State::Unsent));
                }
                Ruling::CondemnWaiting(topic, cause, serial) => {
                    let state = State::Rejected(cause);
                    self.lanes.iter_mut().for_each(|lane| lane.set_waiting(topic, serial, state));
                }
                Ruling::Promote(topic, newest) => self.promote(now, topic, newest),
                Ruling::Resume => self.credit = 1,
            }
        }
        if self.overflowed && self.suspicion.has_room() {
            self.overflowed = false;
            let suspicion = &self.suspicion;
            self.lanes.iter_mut().for_each(|lane| lane.release_waiting(|topic| suspicion.is_gated(topic)));
        }
    }

    fn promote(&mut self, now: Instant, topic: TopicKey, newest: bool) {
        let waits = |lane: &LaneState| Some(lane.place(lane.waiting(topic, newest)?));
        let Some(place) = self.lanes.iter().find_map(waits) else { return };
        if self.suspicion.accuse(now, place, topic) {
            let lane = &mut self.lanes[place.lane];
            lane.set(place.sequence, State::Suspect);
            if let Some(entry) = lane.entry_mut(place.sequence) {
                entry.suspect = true;
            }
        }
    }

    /// The broker answered the record sent at `sent_at` under the number `serial` with `code`.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        outlet: &mut Outlet,
        place: RecordPlace,
        (serial, sent_at): (u64, Instant),
        code: u8,
    ) {
        let Some(entry) = self.lanes[place.lane].entry(place.sequence).copied() else { return };
        let cause = Cause::Code(code);
        if !reason_code::is_refusal(code) {
            self.take(now, outlet, place, entry.topic, serial);
        } else if !matches!(entry.state, State::Sent | State::SentBefore(_)) {
            // Set aside by its owner meanwhile; that stays.
        } else if cause.is_quota() {
            self.throttle(now, outlet, place, &entry, code, sent_at);
        } else {
            self.refuse_answered(now, place, &entry, cause);
        }
    }

    /// The record is refused by a reason code that is about what it is. An outcome of a command is
    /// given up: its topic is mostly its receiver's choice, so it accuses nobody, and must not take
    /// the room of readings. Where readings are refused as well it is not about the outcome.
    pub fn refuse_answered(&mut self, now: Instant, place: RecordPlace, entry: &LaneEntry, cause: Cause) {
        if !entry.device.is_reply() || self.suspicion.nothing_taken_since().is_some() {
            return self.refuse(now, place, entry, cause, false);
        }
        // Some brokers close the connection over it as well.
        self.progress.handle_refused_outcome(now);
        if cause == Cause::Code(reason_code::PACKET_TOO_LARGE) && self.send_bare(place, entry) {
            self.suspicion.forget(place);
            return;
        }
        self.give_up(now, place, entry.topic, cause);
        self.suspicion.forget(place);
    }

    /// The suspicion condemned the outcome of a command. One of some size over which the broker
    /// closes the connection may be too large for it: MQTT 3.1.1 has no other way to say so.
    fn condemn_outcome(&mut self, now: Instant, place: RecordPlace, entry: &LaneEntry, cause: Cause) {
        let is_large = self.outcomes.sent_bytes(entry.topic) >= LARGE_OUTCOME;
        if cause == Cause::Closed && is_large && self.send_bare(place, entry) {
            self.outcomes.note_closing(now, entry.topic);
            return;
        }
        self.give_up(now, place, entry.topic, cause);
        if cause == Cause::Closed {
            self.outcomes.note_closing(now, entry.topic);
        }
    }

    /// Has the outcome of a command sent once more without its payload, which is too large for the
    /// broker, so that at least its status is known. Not a part: it is nothing but its payload.
    fn send_bare(&mut self, place: RecordPlace, entry: &LaneEntry) -> bool {
        if entry.device != DeviceKey::REPLY || entry.bare || !self.outcomes.has_payload(entry.topic) {
            return false;
        }
        self.outcomes.note_too_large(entry.topic);
        let lane = &mut self.lanes[place.lane];
        lane.set(place.sequence, State::Unsent);
        if let Some(entry) = lane.entry_mut(place.sequence) {
            (entry.bare, entry.suspect) = (true, false);
        }
        true
    }

    /// The broker took the outcome of a command without some of its payload; `limit`: its Maximum
    /// Packet Size, if it has told one.
    fn note_cut(&mut self, now: Instant, topic: TopicKey, limit: Option<usize>) {
        self.counters.cut_outcomes += 1;
        let told = self.outcomes.note_cut(now, topic, limit);
        self.events.extend(told.map(|topic| Event::OutcomeCut { topic, limit }));
    }

    /// The broker has closed the connection over outcomes on this topic of this size, or a smaller
    /// one: whether this one is given up unsent. Where it was for the size, one that has more than
    /// its payload goes without it.
    pub fn give_up_unsent(
        &mut self,
        now: Instant,
        place: RecordPlace,
        (topic, text): (TopicKey, &str),
        bytes: usize,
    ) -> bool {
        let Some((cause, from)) = self.outcomes.closed_over(now, topic) else { return false };
        let entry = self.lanes[place.lane].entry(place.sequence).copied();
        let Some(entry) = entry else { return false };
        if bytes < from || (entry.bare && text.len() < from) {
            return false;
        }
        self.outcomes.note_sent(topic, text, bytes);
        if text.len() < from && self.send_bare(place, &entry) {
            return false;
        }
        self.give_up(now, place, topic, cause);
        self.suspicion.forget(place);
        true
    }

    /// The outcome of a command is not sent again.
    fn give_up(&mut self, now: Instant, place: RecordPlace, topic: TopicKey, cause: Cause) {
        self.lanes[place.lane].set(place.sequence, State::Rejected(cause));
        let told = self.outcomes.note_refused(now, topic, cause);
        self.events.extend(told.map(|topic| Event::OutcomeRefused { topic, cause }));
    }

    /// All PINGREQs up to `ping` are answered: a broker without QoS 1 has read what was sent
    /// before.
    pub fn handle_ping_answered(&mut self, now: Instant, outlet: &mut Outlet, ping: u64) {
        let mut answered = Vec::new();
        for index in 0..self.lanes.len() {
            self.lanes[index].answered_by_ping(ping, &mut answered);
            for entry in answered.drain(..) {
                let place = self.lanes[index].place(entry.id.sequence);
                self.take(now, outlet, place, entry.topic, entry.serial);
            }
        }
    }

    fn take(&mut self, now: Instant, outlet: &mut Outlet, place: RecordPlace, topic: TopicKey, serial: u64) {
        self.counters.acknowledged += 1;
        self.progress.handle_taken(now, topic);
        self.taken.handle_taken(now, topic);
        let lane = &self.lanes[place.lane];
        let lane_name = lane.lane();
        if let Some(LaneEntry { id, device, bare, cut_at, .. }) = lane.entry(place.sequence).copied() {
            if device.is_reply() {
                self.outcomes.note_taken(topic);
            }
            if bare || cut_at.is_some() {
                self.note_cut(now, topic, cut_at.filter(|_| !bare));
            }
            let id = self.retried.get(&(place.lane, place.sequence)).copied().unwrap_or(id);
            self.note_settled(lane_name, id, Some(device), Verdict::Delivered);
        }
        self.lanes[place.lane].take(place.sequence);
        self.credit = self.credit.saturating_add(1);
        outlet.rate.handle_taken(now);
        self.suspicion.handle_taken(now, place, topic, serial);
        if !self.retried.is_empty()
            && let Some(original) = self.retried.remove(&(place.lane, place.sequence))
        {
            self.events.push_back(Event::Recovered { original });
        }
    }

    fn throttle(
        &mut self,
        now: Instant,
        outlet: &mut Outlet,
        place: RecordPlace,
        entry: &LaneEntry,
        code: u8,
        sent_at: Instant,
    ) {
        let cause = Cause::Code(code);
        // Too much on a few topics while everything is taken on others is a bound of these topics.
        let is_of_topic = self.progress.is_quota_of_topic(entry.topic);
        if !entry.suspect && !is_of_topic {
            self.complain(now, outlet, sent_at, cause);
        }
        let throttled = entry.throttled.saturating_add(1);
        if let Some(entry) = self.lanes[place.lane].entry_mut(place.sequence) {
            entry.throttled = throttled;
        }
        if entry.suspect || throttled >= THROTTLES {
            self.refuse(now, place, entry, cause, is_of_topic);
        } else {
            self.lanes[place.lane].set(place.sequence, State::Unsent);
        }
        if entry.suspect || is_of_topic {
            return; // tried alone, or in its own time: the others do not pause for it
        }
        if let Some(wait) = self.suspicion.handle_throttled(now) {
            self.credit = self.credit.min(outlet.window) / 2;
            if self.suspicion.throttles() > 1 {
                self.events.push_back(Event::Throttled { code, wait });
                self.credit = 1;
            }
            self.credit = self.credit.max(1);
        }
    }

    /// The broker complained of what was sent at `sent_at`, or dropped it.
    pub fn complain(&mut self, now: Instant, outlet: &mut Outlet, sent_at: Instant, cause: Cause) {
        if outlet.rate.handle_complaint(now, sent_at) {
            self.counters.rate_lowered += 1;
            let limit = outlet.rate.lowered_to().unwrap_or_default().round() as u32;
            self.events.push_back(Event::RateLowered { cause, limit });
        }
    }

    /// The record may be at fault. `of_topic`: others are taken meanwhile, and nothing of its
    /// topic.
    pub fn refuse(
        &mut self,
        now: Instant,
        place: RecordPlace,
        entry: &LaneEntry,
        cause: Cause,
        of_topic: bool,
    ) {
        self.taken.handle_refused(entry.topic);
        if matches!(cause, Cause::Code(_)) {
            self.progress.handle_refused(now, place, entry.topic);
        }
        let known = self.suspicion.is_suspect(place);
        let held = self.suspicion.handle_refused(now, place, entry.topic, entry.serial, cause, of_topic);
        let lane = &mut self.lanes[place.lane];
        // One that finds no room among the suspects would come again at once in its order, before
        // all others.
        self.overflowed |= !held;
        lane.set(place.sequence, if held { State::Suspect } else { State::Waiting });
        if let Some(entry) = lane.entry_mut(place.sequence) {
            entry.suspect = held;
        }
        if held && !known {
            let lane = lane.lane();
            self.events.push_back(Event::Suspected { lane, id: entry.id, cause });
            self.note_settled(lane, entry.id, Some(entry.device), Verdict::HeldBack(cause));
        }
        if self.suspicion.is_brokers_fault() {
            self.credit = 1;
        }
    }

    /// Lets go of what is decided, in order.
    pub fn settle(&mut self, now: Instant, outbox: &mut impl Outbox) {
        let (events, counters, retried) = (&mut self.events, &mut self.counters, &mut self.retried);
        let mut settled = self.settled.as_mut().filter(|settled| settled.len() < SETTLED_MAX);
        for lane in &mut self.lanes {
            lane.settle(now, outbox, |lane, departure| match departure {
                Departure::Rejected { id, cause } => {
                    retried.remove(&(lane.index(), id.sequence));
                    match cause {
                        Cause::Skipped => counters.skipped += 1,
                        _ => counters.rejected += 1,
                    }
                    events.push_back(Event::Rejected { lane, id, cause });
                    let verdict = Verdict::Rejected(cause);
                    settled.iter_mut().for_each(|all| all.push(Settled { lane, id, device: None, verdict }));
                }
                Departure::GivenUp { id, cause } => {
                    retried.remove(&(lane.index(), id.sequence));
                    counters.refused_outcomes += 1;
                    let verdict = Verdict::Rejected(cause);
                    settled.iter_mut().for_each(|all| all.push(Settled { lane, id, device: None, verdict }));
                }
                Departure::Expired { id } => {
                    counters.expired += 1;
                    let verdict = Verdict::Expired;
                    settled.iter_mut().for_each(|all| all.push(Settled { lane, id, device: None, verdict }));
                }
                Departure::RejectedFull { wait } => events.push_back(Event::RejectedFull { lane, wait }),
            });
        }
    }

    /// Sets a record aside because its owner says so.
    pub fn skip(&mut self, now: Instant, outbox: &mut impl Outbox, id: RecordId) -> Skip {
        let mut answer = Skip::NotFound;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if lane.oldest().is_none() {
                lane.align(outbox);
                match outbox.next(lane.lane()) {
                    Next::Record(record) => drop(lane.admit(record.id, TopicKey::of(record.content.topic))),
                    Next::Empty => lane.handle_empty(),
                    Next::Pending => answer = Skip::BeingRead,
                }
            }
            if lane.entry(id.sequence).is_some_and(|entry| entry.id == id) {
                let place = lane.place(id.sequence);
                lane.set(id.sequence, State::Rejected(Cause::Skipped));
                self.suspicion.forget(place);
                self.obey(now);
                self.settle(now, outbox);
                return Skip::Done;
            }
        }
        answer
    }

    /// A lane takes no more until its oldest record is decided: told once.
    pub(super) fn tell_blocked(&mut self, index: usize, window: u16) {
        let lane = self.lanes[index].lane();
        if let Some(id) = self.blocked_by(lane, window)
            && !std::mem::replace(&mut self.blocked_told[index], true)
        {
            self.events.push_back(Event::Blocked { lane, id });
        }
    }

    /// It takes more again.
    pub(super) fn note_unblocked(&mut self, index: usize) {
        self.blocked_told[index] = false;
    }

    /// The oldest record of a lane that takes no more, at this window, until that one is decided.
    pub fn blocked_by(&self, lane: Lane, window: u16) -> Option<RecordId> {
        let lane = &self.lanes[lane.index()];
        let held =
            |entry: &&LaneEntry| matches!(entry.state, State::Suspect | State::Waiting) || entry.suspect;
        lane.oldest().filter(held).filter(|_| lane.is_full(usize::from(window))).map(|entry| entry.id)
    }

    /// Until when a lane is stopped because a rejected record finds no room.
    pub fn stopped_until(&self, lane: Lane) -> Option<Instant> {
        self.lanes[lane.index()].stopped_until()
    }

    /// Examples of the readings that the broker took on this connection.
    pub fn taken(&self) -> &TakenTopics {
        &self.taken
    }

    /// Outcomes of commands that were refused lately.
    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// When the broker took a reading last, over all connections.
    pub fn taken_at(&self) -> Option<Instant> {
        self.progress.taken_at
    }

    /// Since when no reading was taken although the broker refused some, and until when all wait,
    /// if they do.
    pub fn nothing_taken(&self, now: Instant) -> Option<(Instant, Option<Instant>)> {
        let since = self.suspicion.nothing_taken_since()?;
        Some((since, self.suspicion.newcomers_wait_until(now)))
    }

    /// How many records of a lane are held back: suspected, or on a topic that is.
    pub fn held_back(&self, lane: Lane) -> usize {
        if self.suspicion.is_idle() { 0 } else { self.lanes[lane.index()].held() }
    }

    /// How many records of a lane the broker has that stay there behind one that is not decided.
    pub fn delivered_behind(&self, lane: Lane) -> u64 {
        self.lanes[lane.index()].delivered_behind()
    }

    /// How many records are suspected.
    pub fn suspect_count(&self) -> usize {
        self.suspicion.len()
    }

    /// The suspects, at most `limit`.
    pub fn suspects(&self, limit: usize) -> Vec<HeldRecord> {
        let held = |view: SuspectView| {
            let lane = &self.lanes[view.place.lane];
            let id = lane.entry(view.place.sequence)?.id;
            let SuspectView { topic, cause, tries, .. } = view;
            Some(HeldRecord { lane: lane.lane(), id, topic, cause, tries })
        };
        self.suspicion.view(limit).into_iter().filter_map(held).collect()
    }
}
