//! One lane's records between being read from the journal and being released to it.
//!
//! ```text
//! read ──> Unsent ──> Sent ──taken──> done ─────────────────────────────┐
//!             ^         │                                               │
//!             ├─────────┤ closed, unanswered, too much for now          │ in sequence order:
//!             │         └─refused──> Suspect ──condemned──> Rejected ───┼─> release / reject / expire
//!             └── acquitted, opened ────┘ Waiting ─────────────^        │
//!          expired ──────────────────────────────────────────> Lost ────┘
//! ```
//!
//! Records are answered in any order and leave in sequence order. What is done waits as ranges of
//! sequences, so that one record that takes long to judge costs no memory for all that pass it; up
//! to [`AHEAD_MAX`] of them, because after a crash they come again. What must be sent again is read
//! again: the lane moves the journal's reading position to the oldest record to be sent, and back
//! to where it had come when there is none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::reason_code::Cause;
use super::settled::DeviceKey;
use super::suspicion::{RecordPlace, TopicKey};
use crate::message::{Lane, RecordId};

/// First wait of a lane whose rejected record finds no room.
const STOP_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait.
const STOP_LONGEST: Duration = Duration::from_secs(300);
/// For so long one waits for what the disk reads for another.
const PENDING_MAX: Duration = Duration::from_secs(2);
/// How far reading goes ahead of the oldest record that has not left.
pub const AHEAD_MAX: u64 = 65_536;
/// Records held that are neither done nor in flight, at most.
pub const HELD_MAX: usize = 4096;

/// How far a record has come. What is taken is not here any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To be sent (again), in its turn.
    Unsent,
    /// Sent at QoS 1, its PUBACK awaited.
    Sent,
    /// Sent at QoS 0 before the PINGREQ of that number.
    SentBefore(u64),
    /// Held back until it is tried again, out of its turn.
    Suspect,
    /// Held back because another record on its topic is suspected.
    Waiting,
    /// To be set aside.
    Rejected(Cause),
    /// Its time is over.
    Lost,
}

/// A record on its way.
#[derive(Clone, Copy, Debug)]
pub struct LaneEntry {
    /// Its id; the number in it is its sequence.
    pub id: RecordId,
    /// Its topic.
    pub topic: TopicKey,
    /// Its device, once it was to be sent.
    pub device: DeviceKey,
    /// Under which number it was sent last; 0 = never.
    pub serial: u64,
    /// How far it has come.
    pub state: State,
    /// The number given out last when it was held back for its topic.
    pub held_from: u64,
    /// Whether it is back to being a suspect when the connection goes.
    pub suspect: bool,
    /// How often it stayed unanswered while others were answered.
    pub silences: u8,
    /// How often it was too much for now.
    pub throttled: u8,
    /// The reply to a command that is sent without its payload: with it, it was too large.
    pub bare: bool,
    /// It was sent with a part of its payload, within this Maximum Packet Size.
    pub cut_at: Option<usize>,
}

impl LaneEntry {
    fn sequence(&self) -> u64 {
        self.id.sequence
    }

    fn is_sent(&self) -> bool {
        matches!(self.state, State::Sent | State::SentBefore(_))
    }
}

/// What happened to records that left otherwise than by being released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Moved to the rejected store.
    Rejected {
        /// Which.
        id: RecordId,
        /// Why.
        cause: Cause,
    },
    /// The outcome of a command, given up because the broker refused it.
    GivenUp {
        /// Which.
        id: RecordId,
        /// Why.
        cause: Cause,
    },
    /// Given up because it expired.
    Expired {
        /// Which.
        id: RecordId,
    },
    /// The rejected store has no room: the lane stops for so long.
    RejectedFull {
        /// Until the next try.
        wait: Duration,
    },
}

/// One lane's records on their way.
pub struct LaneState {
    lane: Lane,
    /// What is not done, by sequence.
    entries: VecDeque<LaneEntry>,
    /// What is done behind the oldest that is not, as ranges, both ends included.
    done: VecDeque<(u64, u64)>,
    /// Where the journal stands: the next record it hands out has this sequence or a greater one.
    position: Option<u64>,
    /// Behind the newest record ever handed out.
    frontier: u64,
    unsent: usize,
    /// No record before this one is to be sent in its turn.
    unsent_from: u64,
    in_flight: usize,
    /// The last records were older than a minute: reading on is paced.
    pub backlog: bool,
    stopped_until: Option<Instant>,
    stops: u32,
    vanished: Vec<u64>,
    /// What the journal reads from disk for this lane, and since when.
    pending: Option<(Purpose, Instant)>,
}

/// What a record is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be sent in its turn.
    Flow,
    /// To be tried, out of its turn.
    Trial(u64),
}

impl LaneState {
    /// An empty one.
    pub fn new(lane: Lane) -> LaneState {
        LaneState {
            lane,
            entries: VecDeque::new(),
            done: VecDeque::new(),
            position: None,
            frontier: 0,
            unsent: 0,
            unsent_from: 0,
            in_flight: 0,
            backlog: false,
            stopped_until: None,
            stops: 0,
            vanished: Vec::new(),
            pending: None,
        }
    }

    /// Whether the lane may be read for this. While the disk reads for one, another would move the
    /// position and have it read again, and both would wait for ever.
    pub fn may_read(&self, now: Instant, purpose: Purpose) -> bool {
        self.pending.is_none_or(|(other, since)| other == purpose || now >= since + PENDING_MAX)
    }

    /// Whether it waits for the disk to read for this.
    pub fn is_pending(&self, purpose: Purpose) -> bool {
        self.pending.is_some_and(|(other, _)| other == purpose)
    }

    /// The journal answered [`Next::Pending`](super::outbox::Next::Pending), or something else.
    pub fn note_pending(&mut self, now: Instant, purpose: Purpose, pending: bool) {
        self.pending = match self.pending {
            _ if !pending => None,
            Some((other, since)) if other == purpose && now < since + PENDING_MAX => Some((other, since)),
            _ => Some((purpose, now)),
        };
    }

    /// Which lane.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// A record's place.
    pub fn place(&self, sequence: u64) -> RecordPlace {
        RecordPlace { lane: self.lane.index(), sequence }
    }

    /// Records sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The records sent and not answered, oldest first.
    pub fn sent(&self) -> impl Iterator<Item = &LaneEntry> {
        self.entries.iter().filter(|entry| entry.is_sent())
    }

    /// Whether so many records are held that no new one is to be read. Those to be sent again are
    /// read again all the same.
    pub fn is_full(&self, window: usize) -> bool {
        let oldest = self.entries.front().map_or(self.frontier, LaneEntry::sequence);
        self.unsent == 0
            && (self.entries.len() - self.in_flight >= HELD_MAX.max(window)
                || self.frontier.saturating_sub(oldest) >= AHEAD_MAX.max(2 * window as u64))
    }

    /// Whether a record may be read and sent at `now`.
    pub fn may_send(&mut self, now: Instant) -> bool {
        if self.stopped_until.is_some_and(|until| now >= until) {
            self.stopped_until = None;
        }
        self.stopped_until.is_none()
    }

    /// Until when the lane is stopped because a rejected record finds no room.
    pub fn stopped_until(&self) -> Option<Instant> {
        self.stopped_until
    }

    fn find(&self, sequence: u64) -> Option<usize> {
        // Most often it is what was read last, or what is answered next.
        if self.entries.back()?.sequence() == sequence {
            return Some(self.entries.len() - 1);
        }
        if self.entries.front()?.sequence() == sequence {
            return Some(0);
        }
        self.entries.binary_search_by(|entry| entry.sequence().cmp(&sequence)).ok()
    }

    /// The record of that sequence, while it is neither done nor gone.
    pub fn entry(&self, sequence: u64) -> Option<&LaneEntry> {
        self.entries.get(self.find(sequence)?)
    }

    /// The same, to be changed; not its state, which is [`LaneState::set`]'s.
    pub fn entry_mut(&mut self, sequence: u64) -> Option<&mut LaneEntry> {
        let index = self.find(sequence)?;
        self.entries.get_mut(index)
    }

    /// Sets a record's state. Whether it is there.
    pub fn set(&mut self, sequence: u64, state: State) -> bool {
        let Some(index) = self.find(sequence) else { return false };
        self.set_at(index, state);
        true
    }

    fn set_at(&mut self, index: usize, state: State) {
        let entry = &mut self.entries[index];
        self.unsent -= usize::from(entry.state == State::Unsent);
        self.in_flight -= usize::from(entry.is_sent());
        entry.state = state;
        self.in_flight += usize::from(entry.is_sent());
        if state == State::Unsent {
            self.unsent += 1;
            self.unsent_from = self.unsent_from.min(entry.sequence());
        }
    }

    /// A record was sent, under this number.
    pub fn note_sent(&mut self, sequence: u64, state: State, serial: u64) {
        if let Some(index) = self.find(sequence) {
            self.set_at(index, state);
            self.entries[index].serial = serial;
        }
    }

    /// The broker has it.
    pub fn take(&mut self, sequence: u64) {
        if let Some(index) = self.find(sequence) {
            self.set_at(index, State::Lost); // out of all counts
            self.entries.remove(index);
            self.note_done(sequence);
        }
    }

    fn note_done(&mut self, sequence: u64) {
        let index = self.done.partition_point(|(_, last)| *last < sequence);
        let joins_before = index > 0 && self.done[index - 1].1 + 1 == sequence;
        let joins_behind = self.done.get(index).is_some_and(|(first, _)| *first == sequence + 1);
        match (joins_before, joins_behind) {
            (true, true) => {
                self.done[index - 1].1 = self.done[index].1;
                self.done.remove(index);
            }
            (true, false) => self.done[index - 1].1 = sequence,
            (false, true) => self.done[index].0 = sequence,
            (false, false) => self.done.insert(index, (sequence, sequence)),
        }
    }

    fn is_done(&self, sequence: u64) -> bool {
        let index = self.done.partition_point(|(_, last)| *last < sequence);
        self.done.get(index).is_some_and(|(first, _)| *first <= sequence)
    }

    /// The oldest record to be sent in its turn that was handed out before.
    fn oldest_unsent(&mut self) -> Option<u64> {
        if self.unsent == 0 {
            self.unsent_from = self.frontier;
            return None;
        }
        let from = self.entries.partition_point(|entry| entry.sequence() < self.unsent_from);
        let found = self.entries.range(from..).find(|entry| entry.state == State::Unsent)?;
        self.unsent_from = found.sequence();
        Some(found.sequence())
    }

    /// Moves the journal's reading position to the next record in order.
    pub fn align(&mut self, outbox: &mut impl Outbox) {
        let target = self.oldest_unsent().unwrap_or(self.frontier);
        self.seek(outbox, target);
    }

    /// Moves the journal's reading position to that record, which was handed out before.
    pub fn seek(&mut self, outbox: &mut impl Outbox, target: u64) {
        match self.position {
            Some(position) if position == target => {}
            None if target == 0 || target == self.frontier && self.entries.is_empty() => {
                // Whatever an uplink before this one has read.
                outbox.rewind(self.lane);
                self.position = Some(target);
            }
            _ => {
                outbox.seek(self.lane, target);
                self.position = Some(target);
            }
        }
    }

    /// The journal handed out this record. `None`: it is known and not to be sent in its turn; else
    /// whether it is new.
    pub fn admit(&mut self, id: RecordId, topic: TopicKey) -> Option<bool> {
        let sequence = id.sequence;
        self.pass_over(sequence);
        self.position = Some(sequence + 1);
        let index = if sequence >= self.frontier {
            self.frontier = sequence + 1;
            self.entries.len()
        } else if self.is_done(sequence) {
            return None;
        } else {
            match self.entries.binary_search_by(|entry| entry.sequence().cmp(&sequence)) {
                Ok(index) => return (self.entries[index].state == State::Unsent).then_some(false),
                Err(index) => index,
            }
        };
        let entry = LaneEntry {
            id,
            topic,
            device: DeviceKey::default(),
            serial: 0,
            held_from: 0,
            state: State::Unsent,
            suspect: false,
            silences: 0,
            throttled: 0,
            bare: false,
            cut_at: None,
        };
        self.entries.insert(index, entry);
        self.unsent += 1;
        self.unsent_from = self.unsent_from.min(sequence);
        Some(true)
    }

    /// The journal has nothing more at its reading position.
    pub fn handle_empty(&mut self) {
        self.pass_over(self.frontier);
        self.position = self.position.max(Some(self.frontier));
    }

    /// What stood between the reading position and `sequence` has left the journal meanwhile.
    fn pass_over(&mut self, sequence: u64) {
        let Some(position) = self.position else { return };
        if position >= sequence {
            return;
        }
        let first = self.entries.partition_point(|entry| entry.sequence() < position);
        let gone: Vec<u64> = self
            .entries
            .range(first..)
            .take_while(|entry| entry.sequence() < sequence)
            .filter(|entry| matches!(entry.state, State::Unsent | State::Suspect | State::Waiting))
            .map(LaneEntry::sequence)
            .collect();
        for sequence in gone {
            self.take(sequence);
            self.vanished.push(sequence);
        }
    }

    /// A record that has left the journal meanwhile, if there is one not told yet.
    pub fn poll_vanished(&mut self) -> Option<RecordPlace> {
        let sequence = self.vanished.pop()?;
        Some(self.place(sequence))
    }

    /// Everything sent at QoS 0 before the PINGREQ numbered `ping` was read by the broker: those
    /// records, oldest first.
    pub fn answered_by_ping(&self, ping: u64, out: &mut Vec<LaneEntry>) {
        let answered =
            |entry: &&LaneEntry| matches!(entry.state, State::SentBefore(before) if before <= ping);
        out.extend(self.entries.iter().filter(answered));
    }

    /// The connection is gone: what was not answered is to be sent again.
    pub fn handle_closed(&mut self) {
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            if entry.is_sent() {
                let state = if entry.suspect { State::Suspect } else { State::Unsent };
                self.set_at(index, state);
            }
        }
        self.backlog = false;
    }

    /// All records on that topic that have waited since before `serial` was sent get this state.
    pub fn set_waiting(&mut self, topic: TopicKey, serial: u64, state: State) {
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            if entry.state == State::Waiting && entry.topic == topic && entry.held_from < serial {
                self.set_at(index, state);
            }
        }
    }

    /// The oldest record on that topic that waits, or the newest.
    pub fn waiting(&self, topic: TopicKey, newest: bool) -> Option<u64> {
        let waits = |entry: &&LaneEntry| entry.state == State::Waiting && entry.topic == topic;
        let found =
            if newest { self.entries.iter().rev().find(waits) } else { self.entries.iter().find(waits) };
        found.map(LaneEntry::sequence)
    }

    /// Records that wait although their topic is not `gated` go back to their order.
    pub fn release_waiting(&mut self, gated: impl Fn(TopicKey) -> bool) {
        for index in 0..self.entries.len() {
            if self.entries[index].state == State::Waiting && !gated(self.entries[index].topic) {
                self.set_at(index, State::Unsent);
            }
        }
    }

    /// How many records the broker has that stay in the lane behind one that is not decided.
    pub fn delivered_behind(&self) -> u64 {
        self.done.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many records are held back, suspected or because their topic is.
    pub fn held(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.state, State::Suspect | State::Waiting)).count()
    }

    /// The oldest record that has not left, if it was handed out.
    pub fn oldest(&self) -> Option<&LaneEntry> {
        self.entries.front()
    }

    fn stop(&mut self, now: Instant) -> Option<Duration> {
        if self.stopped_until.is_some_and(|until| now < until) {
            return None;
        }
        let wait = STOP_FIRST.saturating_mul(1 << self.stops.min(20)).min(STOP_LONGEST);
        self.stops = self.stops.saturating_add(1);
        self.stopped_until = Some(now + wait);
        Some(wait)
    }

    /// Lets go of the oldest records that are decided, in order. `depart` hears of those not
    /// released.
    pub fn settle(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        mut depart: impl FnMut(Lane, Departure),
    ) {
        let lane = self.lane;
        loop {
            let front = self.entries.front().copied();
            if let Some((_, last)) = self.done.front().copied()
                && front.is_none_or(|entry| last < entry.sequence())
            {
                self.done.pop_front();
                outbox.release(lane, last);
                continue;
            }
            let Some(LaneEntry { id, state, device, .. }) = front else { return };
            match state {
                // Where it goes was its receiver's choice: it must not fill what is for readings.
                State::Rejected(cause) if device.is_reply() => {
                    outbox.release(lane, id.sequence);
                    depart(lane, Departure::GivenUp { id, cause });
                }
                State::Rejected(_) if self.stopped_until.is_some_and(|until| now < until) => return,
                State::Rejected(cause) => {
                    if outbox.reject(lane, id.sequence, cause).is_err() {
                        if let Some(wait) = self.stop(now) {
                            depart(lane, Departure::RejectedFull { wait });
                        }
                        return;
                    }
                    (self.stops, self.stopped_until) = (0, None);
                    depart(lane, Departure::Rejected { id, cause });
                }
                State::Lost => {
                    outbox.expire(lane, id.sequence);
                    depart(lane, Departure::Expired { id });
                }
                _ => return,
            }
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> LaneState {
        LaneState::new(Lane::Normal)
    }

    fn id(sequence: u64) -> RecordId {
        RecordId { run: 1, sequence }
    }

    fn topic() -> TopicKey {
        TopicKey::of("a")
    }

    fn sent(count: u64) -> LaneState {
        let mut lane = lane();
        lane.position = Some(1);
        for sequence in 1..=count {
            assert_eq!(lane.admit(id(sequence), topic()), Some(true));
            lane.set(sequence, State::Sent);
        }
        lane
    }

    #[test]
    fn what_is_done_behind_one_that_is_not_is_a_range() {
        let mut lane = sent(1000);
        for sequence in (2..=1000).rev() {
            lane.take(sequence);
        }
        assert_eq!((lane.done.len(), lane.entries.len()), (1, 1));
        assert!(lane.is_done(500) && !lane.is_done(1) && !lane.is_done(1001));
    }

    #[test]
    fn the_oldest_to_be_sent_is_found_again_after_it_moved_back() {
        let mut lane = sent(5);
        assert_eq!(lane.oldest_unsent(), None);
        lane.set(4, State::Unsent);
        assert_eq!(lane.oldest_unsent(), Some(4));
        lane.set(2, State::Unsent);
        assert_eq!(lane.oldest_unsent(), Some(2));
        lane.set(2, State::Sent);
        assert_eq!(lane.oldest_unsent(), Some(4));
        assert_eq!(lane.in_flight(), 4);
    }

    #[test]
    fn what_the_journal_passes_over_has_vanished_unless_it_is_in_flight() {
        let mut lane = sent(4);
        lane.set(1, State::Unsent);
        lane.set(2, State::Suspect);
        lane.position = Some(1);
        assert_eq!(lane.admit(id(4), topic()), None);
        let mut vanished: Vec<_> = std::iter::from_fn(|| lane.poll_vanished()).map(|p| p.sequence).collect();
        vanished.sort_unstable();
        assert_eq!(vanished, [1, 2]);
        assert_eq!(lane.in_flight(), 2);
    }
}
