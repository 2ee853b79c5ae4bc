//! One publish onto the output: the next record of a lane, a suspect, a message of the gateway's
//! own, or a reading of a `qos = 0` rule.

use std::time::{Duration, Instant};

use super::Publisher;
use super::outlet::PACED_TICK;
use crate::clock::Moment;
use crate::message::Lane;
use crate::northbound::flight::Sent;
use crate::northbound::lane::{Purpose, State};
use crate::northbound::outbox::{Next, Outbox};
use crate::northbound::own::Own;
use crate::northbound::publication::{self, Fit, Remaining, Terms};
use crate::northbound::reason_code::{self, Cause};
use crate::northbound::retained::{Coming, NewestRetained};
use crate::northbound::settled::DeviceKey;
use crate::northbound::suspicion::{RecordPlace, TopicKey};

/// Records older than this are backlog and paced.
pub const BACKLOG_AGE_MS: u64 = 60_000;
/// When to look again for what the disk reads for another purpose; its wake-up comes sooner.
const PENDING_TICK: Duration = Duration::from_millis(100);

/// A lane without a budget left is looked at again so soon: its clock may be set meanwhile.
const BUDGET_TICK: Duration = Duration::from_secs(60);

/// What came of sending a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A record was appended.
    Sent,
    /// A record was read and decided on without being sent, or was known already.
    Decided,
    /// The lane may not or cannot go on now.
    Dry,
    /// The lane has nothing more.
    Empty,
}

/// All that one publish needs.
pub(super) struct Sender<'a, O> {
    pub publisher: &'a mut Publisher,
    pub moment: &'a Moment,
    pub terms: Terms,
    /// The number the next PINGREQ would have.
    pub next_ping: u64,
    pub outbox: &'a mut O,
    pub own: &'a mut Own,
    pub out: &'a mut Vec<u8>,
}

impl<O: Outbox> Sender<'_, O> {
    pub fn now(&self) -> Instant {
        self.moment.now
    }

    /// Sends the next record of a lane in its order, or, as `trial`, a suspect by its sequence.
    pub fn send_record(&mut self, index: usize, trial: Option<u64>) -> Step {
        let now = self.moment.now;
        let purpose = trial.map_or(Purpose::Flow, Purpose::Trial);
        if !self.seek(index, trial, purpose) {
            return Step::Dry;
        }
        let Publisher { outlet, records, turns, pace, retained, budget, .. } = &mut *self.publisher;
        let lane = &mut records.lanes[index];
        let next = self.outbox.next(lane.lane());
        let was_pending = lane.is_pending(purpose);
        lane.note_pending(now, purpose, matches!(next, Next::Pending));
        // Trials that wait for the disk, one after the other, leave the lane to the others in
        // between.
        turns.flow_first |= was_pending && trial.is_some();
        let mut record = match next {
            Next::Empty => {
                lane.handle_empty();
                lane.backlog = false;
                return Step::Empty;
            }
            Next::Pending => return Step::Dry,
            Next::Record(record) => record,
        };
        let topic = TopicKey::of(record.content.topic);
        let sequence = record.sequence;
        let place = lane.place(sequence);
        let admitted = lane.admit(record.id, topic);
        let to_be_sent = match trial {
            Some(wanted) => wanted == sequence && lane.entry(sequence).is_some(),
            None => admitted.is_some(),
        };
        if !to_be_sent {
            return Step::Decided;
        }
        if let Some(entry) = lane.entry_mut(sequence) {
            entry.device = match (record.content.test, record.content.reply) {
                (_, Some(_)) if record.content.query.is_some() => DeviceKey::PART,
                (_, Some(_)) => DeviceKey::REPLY,
                (true, None) => DeviceKey::NOBODY,
                (false, None) => DeviceKey::of(record.content.device),
            };
        }
        if let Some(reply) = &mut record.content.reply {
            let bytes = record.content.topic.len() + record.content.payload.len();
            if records.give_up_unsent(now, place, (topic, record.content.topic), bytes) {
                return Step::Decided;
            }
            let is_bare = records.lanes[index].entry(sequence).is_some_and(|entry| entry.bare);
            if is_bare && !record.content.payload.is_empty() {
                (record.content.payload, reply.partial) = (&[], true);
            }
            let bytes = record.content.topic.len() + record.content.payload.len();
            records.outcomes.note_sent(topic, record.content.topic, bytes);
        }
        let lane = &mut records.lanes[index];
        if trial.is_none() && records.suspicion.is_gated(topic) {
            records.hold_back(now, place, topic, outlet.flight.serial());
            return Step::Decided;
        }
        let (serial, was_held) =
            lane.entry(sequence).map_or((0, false), |entry| (entry.serial, entry.held_from > 0));
        let remaining = publication::remaining(&record.content, record.same_boot, self.moment);
        if remaining == Remaining::Expired {
            lane.set(sequence, State::Lost);
            records.suspicion.forget(place);
            return Step::Decided;
        }
        if record.content.retain {
            let coming = match (record.original, serial) {
                (Some(_), _) => Coming::Late,
                _ if trial.is_some() => Coming::Late,
                (None, 0) if !was_held => Coming::First,
                (None, _) => Coming::Again,
            };
            // Of an earlier opening of the journal: whatever came in between is not known.
            let same_run = record.original.is_none_or(|original| original.run == record.id.run);
            let received = if record.same_boot && same_run { record.content.received.boottime_ms } else { 0 };
            let retained = retained.get_or_insert_with(|| NewestRetained::new(self.moment.boottime_ms));
            record.content.retain = retained.may_retain(topic, received, coming);
        }
        let packet_id = outlet.packet_id();
        let before = self.out.len();
        let pushed =
            outlet.encoder.push_record(self.out, &self.terms, packet_id, &record, remaining, self.moment);
        let Ok(fit) = pushed else {
            return self.refuse_too_large(place, trial.is_some());
        };
        if let Some(entry) = lane.entry_mut(sequence) {
            entry.cut_at = (fit == Fit::Cut).then_some(self.terms.packet_limit);
        }
        outlet.note_sent(now, self.out.len() - before);
        budget.borrow_mut().take(lane.lane(), self.out.len() - before);
        if trial.is_none() {
            let age = publication::age_ms(record.content.received, record.same_boot, self.moment);
            // Stored in an earlier boot and of unknown age: certainly not fresh.
            lane.backlog = age.is_none_or(|age| age > BACKLOG_AGE_MS);
            if lane.backlog {
                pace.take();
            }
        }
        let (serial, state) = match packet_id {
            Some(id) => (outlet.flight.send(now, id, Sent::Record(index, sequence)), State::Sent),
            None => (outlet.flight.next_serial(), State::SentBefore(self.next_ping)),
        };
        lane.note_sent(sequence, state, serial);
        if let Some(original) = record.original {
            records.note_retried(place, original);
        }
        if record.content.reply.is_none() {
            records.taken.note_sent(now, topic, &record.content);
        }
        records.counters.sent += 1;
        if !records.suspicion.is_idle() {
            records.suspicion.name(topic, record.content.topic);
            records.suspicion.note_sent(now, place);
        }
        Step::Sent
    }

    /// Moves the journal's reading position to what is to be sent, if the lane may be read now.
    fn seek(&mut self, index: usize, trial: Option<u64>, purpose: Purpose) -> bool {
        let now = self.moment.now;
        let Publisher { outlet, records, pace, budget, .. } = &mut *self.publisher;
        let lane = &mut records.lanes[index];
        if !lane.may_send(now) {
            return false;
        }
        let budget = budget.borrow();
        if !budget.allows(lane.lane()) {
            outlet.wake(now + budget.left(self.moment).clamp(PACED_TICK, BUDGET_TICK));
            return false;
        }
        if !lane.may_read(now, purpose) {
            outlet.wake(now + PENDING_TICK);
            return false;
        }
        if let Some(sequence) = trial {
            lane.seek(self.outbox, sequence);
            return true;
        }
        if lane.is_full(usize::from(outlet.window)) {
            records.tell_blocked(index, outlet.window);
            return false;
        }
        records.note_unblocked(index);
        let lane = &mut records.lanes[index];
        if lane.backlog && !pace.allows(now) {
            outlet.wake(pace.ready_at().max(now + PACED_TICK));
            return false;
        }
        lane.align(self.outbox);
        true
    }

    /// It is longer than this connection's Maximum Packet Size: that may be a mistake of the
    /// broker's, which is judged like any other refusal, though nothing was sent.
    fn refuse_too_large(&mut self, place: RecordPlace, trial: bool) -> Step {
        let now = self.moment.now;
        let Publisher { outlet, records, .. } = &mut *self.publisher;
        let serial = outlet.flight.next_serial();
        let lane = &mut records.lanes[place.lane];
        lane.note_sent(place.sequence, State::Unsent, serial);
        if let Some(entry) = lane.entry(place.sequence).copied() {
            records.refuse_answered(now, place, &entry, Cause::Code(reason_code::PACKET_TOO_LARGE));
        }
        // Where everything is too large newcomers wait, as they do for a broker that refuses
        // everything.
        match records.suspicion.newcomers_wait_until(now) {
            Some(until) if !trial => {
                outlet.wake(until);
                Step::Dry
            }
            _ => Step::Decided,
        }
    }

    /// Sends the next own message that is due, if there is one.
    pub fn send_own(&mut self) -> bool {
        let now = self.moment.now;
        loop {
            let Some(due) = self.own.next(now) else {
                return false;
            };
            let outlet = &mut self.publisher.outlet;
            let packet_id = outlet.packet_id();
            let before = self.out.len();
            let pushed = outlet.encoder.push_own(
                self.out,
                &self.terms,
                packet_id,
                due.topic,
                due.retain(),
                due.payload,
            );
            let (key, topic, version) = (due.key.clone(), due.topic.to_owned(), due.version);
            if pushed.is_ok() {
                outlet.note_sent(now, self.out.len() - before);
            }
            let sent = Sent::Own { key, topic, version };
            match (pushed, packet_id) {
                (Ok(()), Some(id)) => {
                    outlet.flight.send(now, id, sent);
                    return true;
                }
                (Ok(()), None) => {
                    self.publisher.settle_own(now, self.outbox, self.own, sent, reason_code::SUCCESS);
                    return true;
                }
                (Err(_), _) => {
                    let code = reason_code::PACKET_TOO_LARGE;
                    self.publisher.settle_own(now, self.outbox, self.own, sent, code);
                }
            }
        }
    }

    /// Sends readings of `qos = 0` rules, at most `limit`, as long as the output is shorter than
    /// `room`. How many.
    pub fn send_volatile(&mut self, room: usize, limit: usize) -> usize {
        let now = self.moment.now;
        let Publisher { outlet, records, ring, volatile_doubt, budget, .. } = &mut *self.publisher;
        if ring.is_empty() {
            return 0;
        }
        let mut budget = budget.borrow_mut();
        // They are in no lane; they count for the one that waits.
        if volatile_doubt.is_paused(now) || !budget.allows(Lane::Normal) {
            ring.clear();
            return 0;
        }
        let mut packets = 0;
        while self.out.len() < room && packets < limit && outlet.may_send_now(now) {
            let Some(content) = ring.front() else {
                break;
            };
            let before = self.out.len();
            let expired = publication::remaining(&content, true, self.moment) == Remaining::Expired;
            if !expired && outlet.encoder.push_volatile(self.out, &self.terms, &content, self.moment).is_ok()
            {
                packets += 1;
                outlet.rate.take(self.out.len() - before);
                budget.take(Lane::Normal, self.out.len() - before);
            } else {
                ring.note_dropped();
            }
            ring.pop();
        }
        if packets > 0 {
            records.counters.volatile_sent += packets as u64;
            volatile_doubt.note_sent(now);
        }
        packets
    }
}
