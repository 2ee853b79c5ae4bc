//! A record that is suspected: its strikes, and when and how it is tried again.

use std::time::{Duration, Instant};

use super::broker_doubt::BrokerDoubt;
use super::pace::{SPACING, back_off};
use super::{RecordPlace, TopicKey};
use crate::northbound::reason_code::Cause;

/// Between two trials of a record that is not answered.
const SILENT_SPACING: Duration = Duration::from_secs(60);
/// Strikes in a row, without others being sent, that condemn like confirmed ones.
const LONELY_STRIKES: u8 = 4;
/// Refusals by PUBACK with others of the same topic taken in between that condemn.
const SAME_TOPIC_STRIKES: u8 = 10;

/// How a suspect is to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Among others: an answer names its record.
    Among,
    /// With nothing else in flight: a close names nobody.
    Alone,
    /// With nothing else in flight, after a pause: rates and silence.
    Quiet,
}

/// A suspected record.
#[derive(Debug)]
pub struct Suspect {
    pub place: RecordPlace,
    pub topic: TopicKey,
    pub cause: Cause,
    /// Send number of its last refusal.
    pub since: u64,
    /// A reading on another topic, sent after `since`, was taken.
    pub evidence: bool,
    /// A reading on the same topic, sent after `since`, was taken.
    same: bool,
    /// The last strike waits to be confirmed.
    pending: bool,
    pub confirmed: u8,
    /// Strikes in a row of which only the first had evidence.
    lonely: u8,
    same_strikes: u8,
    pub tries: u32,
    tried_at: Instant,
    pub due: Instant,
    pub in_flight: bool,
    /// The broker closed the connection right after it had refused it.
    pub closes: bool,
    /// Put on trial for its topic, and not refused yet.
    pub fresh: bool,
    /// Whether it was the only newcomer refused between two that were taken; `None`: not known yet.
    pub singled_out: Option<bool>,
    /// Sent back to its place in the order once: not tried out of it until refused again.
    pub in_order: bool,
    pub was_in_order: bool,
}

impl Suspect {
    /// Refused under the number `since`, by which a reading on another topic was taken already or
    /// not.
    pub fn new(
        now: Instant,
        place: RecordPlace,
        topic: TopicKey,
        cause: Cause,
        since: u64,
        evidence: bool,
    ) -> Suspect {
        Suspect {
            place,
            topic,
            cause,
            since,
            evidence,
            same: false,
            pending: false,
            confirmed: 0,
            lonely: 0,
            same_strikes: 0,
            tries: 0,
            tried_at: now,
            due: if evidence { now } else { now + SPACING },
            in_flight: false,
            closes: false,
            fresh: false,
            singled_out: None,
            in_order: false,
            was_in_order: false,
        }
    }

    /// Put on trial for its topic, which was refused under the number `since`, at `due`.
    /// `closes`: the broker closes the connection over such records.
    pub fn of_topic(self, due: Instant, closes: bool) -> Suspect {
        Suspect { due, closes, fresh: true, singled_out: Some(false), ..self }
    }

    /// How it is to be tried.
    pub fn manner(&self) -> Manner {
        match self.cause {
            Cause::Closed => Manner::Alone,
            cause if cause.is_quota() => Manner::Quiet,
            // It would take those with it that are sent beside it.
            _ if self.closes => Manner::Alone,
            _ => Manner::Among,
        }
    }

    /// When it is to be tried, unless it is in flight or comes in its order. Before `retry_at` only
    /// with evidence.
    pub fn due_at(&self, retry_at: Instant) -> Option<Instant> {
        if self.in_flight || self.in_order {
            return None;
        }
        let judged = self.evidence || (self.lonely > 0 && !self.cause.is_quota());
        Some(if judged { self.due } else { self.due.max(retry_at) })
    }

    /// It was sent.
    pub fn note_sent(&mut self, now: Instant) {
        self.in_flight = true;
        self.tried_at = now;
    }

    /// Another reading, on `topic`, that was sent after its last refusal was taken.
    pub fn handle_other_taken(&mut self, now: Instant, topic: TopicKey) {
        if self.topic == topic {
            self.same = true;
            return;
        }
        if std::mem::take(&mut self.pending) {
            self.confirmed += 1;
        }
        if !self.evidence {
            self.evidence = true;
            self.lonely = 0;
            // A trial that is not answered holds a small window up for as long as its answer is
            // waited for.
            let spacing = if self.cause == Cause::Silent { SILENT_SPACING } else { SPACING };
            self.due = self.due.min(self.tried_at + spacing).max(now);
        }
    }

    /// It is not only the suspects that are refused: the last strike counts for nothing.
    pub fn void_strike(&mut self) {
        self.pending = false;
        self.lonely = 0;
    }

    /// It was refused again, under the number `serial`.
    pub fn strike(&mut self, now: Instant, serial: u64, cause: Cause, broker: &mut BrokerDoubt) {
        // A newcomer was refused since a reading was taken: it may be the broker.
        let fair = broker.row() == 0;
        self.in_flight = false;
        self.closes = false; // that shows a little later
        self.fresh = false;
        self.in_order = false;
        self.cause = cause;
        self.since = serial;
        self.tries = self.tries.saturating_add(1);
        let by_answer = matches!(cause, Cause::Code(_)) && !cause.is_quota();
        if std::mem::take(&mut self.same) && by_answer {
            self.same_strikes += 1;
        }
        if !fair {
            self.lonely = 0;
        } else if std::mem::take(&mut self.evidence) {
            self.pending = true;
            self.lonely = 1;
        } else if self.lonely > 0 {
            self.lonely = self.lonely.saturating_add(1);
        }
        if self.lonely > 0 && !cause.is_quota() {
            self.due = now + back_off(u32::from(self.lonely) - 1);
        } else {
            self.due = now + back_off(self.tries - 1);
            broker.space_retries(now);
        }
    }

    /// Whether no strike in a row had evidence.
    pub fn is_unproven(&self) -> bool {
        self.lonely == 0
    }

    /// Whether strikes in a row condemn it, no others having been sent, where `more` are needed.
    /// What no timer sends again is not condemned without a witness.
    pub fn has_lonely_strikes(&self, more: u8) -> bool {
        self.lonely >= LONELY_STRIKES + more && !self.cause.is_quota() && !self.cause.is_definitive()
    }

    /// Whether refusals with others of its topic taken in between condemn it.
    pub fn has_same_topic_strikes(&self, more: u8) -> bool {
        self.same_strikes >= SAME_TOPIC_STRIKES + more
    }
}
