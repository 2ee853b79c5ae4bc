//! One lane's records between being read from the journal and being released to it.
//!
//! ```text
//! read ──> Unsent ──> Sent ──PUBACK < 0x80──> Done ──────┐
//!             ^        │ └──refused for good──> Rejected ─┤ in sequence order:
//!             └────────┘ refused for now, or closed       ├─> release / reject / expire
//!          expired ────────────────────────────> Lost ────┘
//! ```
//!
//! Records are answered in any order and leave in sequence order. After a rewind the journal hands out
//! again what is still held here; the cursor tells what is known already.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::outbox::{Outbox, POISON};
use crate::message::{Lane, RecordId};

/// First wait of a lane the broker refuses for now.
const STOP_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait.
const STOP_LONGEST: Duration = Duration::from_secs(300);
/// So many disconnects with the same oldest record put it under suspicion.
pub const STRIKES: u8 = 3;

/// How far a record has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To be sent (again).
    Unsent,
    /// Sent at QoS 1, its PUBACK awaited.
    Sent,
    /// Sent at QoS 0 before the PINGREQ of that number.
    SentBefore(u64),
    /// The broker has it, or it vanished from the journal.
    Done,
    /// The broker will never take it.
    Rejected(u8),
    /// Its time is over.
    Lost,
}

struct Entry {
    sequence: u64,
    id: RecordId,
    state: State,
}

/// What happened to records that left otherwise than by being released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Moved to the rejected store.
    Rejected {
        /// Which.
        id: RecordId,
        /// Why.
        code: u8,
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
    entries: VecDeque<Entry>,
    /// After a rewind: the first entry the journal has not handed out again.
    cursor: Option<usize>,
    in_flight: usize,
    /// The last records were older than a minute: reading on is paced.
    pub backlog: bool,
    stopped_until: Option<Instant>,
    stops: u32,
    /// After a stop one record at a time, until one is taken.
    trial: bool,
    suspect: Option<u64>,
    strikes: u8,
    /// Up to here records are sent one at a time: one of them brings the connection down.
    careful_until: Option<u64>,
}

impl LaneState {
    /// An empty one.
    pub fn new(lane: Lane) -> LaneState {
        LaneState {
            lane,
            entries: VecDeque::new(),
            cursor: None,
            in_flight: 0,
            backlog: false,
            stopped_until: None,
            stops: 0,
            trial: false,
            suspect: None,
            strikes: 0,
            careful_until: None,
        }
    }

    /// Which lane.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Records sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether so many records are held that no new one is to be read; those held already are read again all the same.
    pub fn is_full(&self, bound: usize) -> bool {
        self.cursor.is_none() && self.entries.len() >= bound + self.in_flight
    }

    /// Whether a record may be read and sent at `now`.
    pub fn may_send(&mut self, now: Instant) -> bool {
        if self.stopped_until.is_some_and(|until| now >= until) {
            self.stopped_until = None;
        }
        self.stopped_until.is_none() && !(self.trial && self.in_flight > 0)
    }

    /// Until when the lane is stopped.
    pub fn stopped_until(&self) -> Option<Instant> {
        self.stopped_until
    }

    /// What the journal handed out stands at `sequence`: where it is held now, if it is to be sent.
    pub fn admit(&mut self, sequence: u64, id: RecordId) -> Option<usize> {
        let Some(mut cursor) = self.cursor else {
            if self.entries.back().is_some_and(|last| last.sequence >= sequence) {
                return None;
            }
            self.entries.push_back(Entry { sequence, id, state: State::Unsent });
            return Some(self.entries.len() - 1);
        };
        while let Some(entry) = self.entries.get_mut(cursor).filter(|entry| entry.sequence < sequence) {
            if entry.state == State::Unsent {
                entry.state = State::Done; // the journal let go of it meanwhile
            }
            cursor += 1;
        }
        let known =
            self.entries.get(cursor).filter(|entry| entry.sequence == sequence).map(|entry| entry.state);
        let index = cursor;
        if known.is_none() {
            self.entries.insert(index, Entry { sequence, id, state: State::Unsent });
        }
        self.cursor = (index + 1 < self.entries.len()).then_some(index + 1);
        (known.unwrap_or(State::Unsent) == State::Unsent).then_some(index)
    }

    /// Sets the state of what [`LaneState::admit`] just gave a place.
    pub fn set(&mut self, index: usize, state: State) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.state = state;
            if matches!(state, State::Sent | State::SentBefore(_)) {
                self.in_flight += 1;
            }
        }
    }

    fn find(&mut self, sequence: u64) -> Option<&mut Entry> {
        let index = self.entries.binary_search_by(|entry| entry.sequence.cmp(&sequence)).ok()?;
        self.entries.get_mut(index)
    }

    /// The broker answered what was sent from `sequence`: with success, or with a refusal for good.
    pub fn answer(&mut self, sequence: u64, refusal: Option<u8>) {
        let Some(entry) = self.find(sequence).filter(|entry| entry.state == State::Sent) else {
            return;
        };
        entry.state = refusal.map_or(State::Done, State::Rejected);
        self.in_flight -= 1;
        self.note_taken(sequence, refusal.is_none());
    }

    fn note_taken(&mut self, sequence: u64, success: bool) {
        if self.stopped_until.is_none() {
            // Answers to what was sent before a stop say nothing about whether it is over.
            self.trial = false;
            if success {
                self.stops = 0;
            }
        }
        if self.suspect == Some(sequence) {
            self.suspect = None;
            self.strikes = 0;
        }
        if self.careful_until.is_some_and(|until| sequence >= until) {
            self.careful_until = None;
        }
    }

    /// The broker refused for now: the lane stops and begins again at this record. How long, if it was not stopped yet.
    pub fn refuse_for_now(
        &mut self,
        now: Instant,
        sequence: u64,
        outbox: &mut impl Outbox,
    ) -> Option<Duration> {
        let entry = self.find(sequence).filter(|entry| entry.state == State::Sent)?;
        entry.state = State::Unsent;
        self.in_flight -= 1;
        if self.suspect == Some(sequence) {
            // It was answered: whatever closed the connection, this was not it.
            self.suspect = None;
            self.strikes = 0;
        }
        self.rewind(outbox);
        self.stop(now)
    }

    fn stop(&mut self, now: Instant) -> Option<Duration> {
        if self.stopped_until.is_some_and(|until| now < until) {
            return None;
        }
        let wait = STOP_FIRST.saturating_mul(1 << self.stops.min(20)).min(STOP_LONGEST);
        self.stops = self.stops.saturating_add(1);
        self.stopped_until = Some(now + wait);
        self.trial = true;
        Some(wait)
    }

    /// Everything sent at QoS 0 before the PINGREQ numbered `ping` was read by the broker.
    pub fn handle_ping_answered(&mut self, ping: u64) {
        let mut last = None;
        for entry in &mut self.entries {
            if matches!(entry.state, State::SentBefore(before) if before <= ping) {
                entry.state = State::Done;
                self.in_flight -= 1;
                last = Some(entry.sequence);
            }
        }
        if let Some(sequence) = last {
            self.suspect = self.suspect.filter(|suspect| *suspect > sequence);
            if self.suspect.is_none() {
                self.strikes = 0;
            }
            self.note_taken(sequence, true);
        }
    }

    fn rewind(&mut self, outbox: &mut impl Outbox) {
        outbox.rewind(self.lane);
        self.cursor = (!self.entries.is_empty()).then_some(0);
    }

    /// The connection is gone: what was not answered is to be sent again.
    pub fn handle_closed(&mut self, outbox: &mut impl Outbox) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::Sent | State::SentBefore(_)) {
                entry.state = State::Unsent;
            }
        }
        self.in_flight = 0;
        self.backlog = false;
        self.rewind(outbox);
    }

    /// The broker closed the connection: notes what was oldest in flight, before [`LaneState::handle_closed`].
    /// `alone`: nothing else was. Whether that settles the matter: it is to be rejected.
    pub fn strike(&mut self, alone: bool) -> bool {
        let sent = |entry: &&Entry| matches!(entry.state, State::Sent | State::SentBefore(_));
        let Some(sequence) = self.entries.iter().find(sent).map(|entry| entry.sequence) else {
            return false;
        };
        if self.suspect != Some(sequence) {
            self.suspect = Some(sequence);
            // One at a time, it was in flight at all the disconnects that led here.
            self.strikes = if alone { STRIKES } else { 1 };
            return false;
        }
        if alone && self.strikes >= STRIKES {
            if let Some(entry) = self.find(sequence) {
                entry.state = State::Rejected(POISON);
                self.in_flight -= 1;
            }
            self.suspect = None;
            self.strikes = 0;
            return true;
        }
        self.strikes = self.strikes.saturating_add(1);
        if self.strikes == STRIKES {
            let last = self.entries.iter().rev().find(sent).map(|entry| entry.sequence);
            self.careful_until = self.careful_until.max(last);
        }
        false
    }

    /// Whether this lane's records are to be sent one at a time, with nothing else.
    pub fn wants_alone(&self) -> bool {
        (self.strikes >= STRIKES || self.careful_until.is_some()) && self.stopped_until.is_none()
    }

    /// Nothing stands where the suspect stood: no suspicion is left.
    pub fn acquit(&mut self) {
        self.suspect = None;
        self.strikes = 0;
        self.careful_until = None;
    }

    /// Lets go of the oldest entries that are decided, in order. `depart` hears of those not released.
    pub fn settle(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        mut depart: impl FnMut(Lane, Departure),
    ) {
        let lane = self.lane;
        let mut release = None;
        let mut gone = 0;
        // What the journal has not handed out again since a rewind waits for that.
        let handed_out = self.cursor.unwrap_or(self.entries.len());
        while let Some(entry) = self.entries.front().filter(|_| gone < handed_out) {
            let (sequence, id) = (entry.sequence, entry.id);
            match entry.state {
                State::Done => release = Some(sequence),
                State::Rejected(_) if self.stopped_until.is_some_and(|until| now < until) => break,
                State::Rejected(code) => {
                    if let Some(before) = release.take() {
                        outbox.release(lane, before);
                    }
                    if outbox.reject(lane, sequence, code).is_err() {
                        if let Some(wait) = self.stop(now) {
                            depart(lane, Departure::RejectedFull { wait });
                        }
                        break;
                    }
                    depart(lane, Departure::Rejected { id, code });
                }
                State::Lost => {
                    if let Some(before) = release.take() {
                        outbox.release(lane, before);
                    }
                    outbox.expire(lane, sequence);
                    depart(lane, Departure::Expired { id });
                }
                State::Unsent | State::Sent | State::SentBefore(_) => break,
            }
            self.entries.pop_front();
            gone += 1;
        }
        if let Some(sequence) = release {
            outbox.release(lane, sequence);
        }
        self.cursor =
            self.cursor.map(|cursor| cursor.saturating_sub(gone)).filter(|c| *c < self.entries.len());
    }
}
