//! What the end of a connection, or silence, says about what was in flight.
//!
//! | in flight at a close | what follows |
//! |---|---|
//! | something was refused just before | that was the reason; a record is then tried alone |
//! | nothing | nothing |
//! | only readings of `qos = 0` rules, sent just before | a strike against these |
//! | one own message | a strike against its class |
//! | one record | it is suspected |
//! | more | they are sent again one by one |
//!
//! Of a silence: the oldest publish and all that were overtaken are dropped for the rate if they
//! are many, and for themselves if they are few, or all on a few topics of which nothing is taken.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Publisher;
use super::progress::DROPPED_FOR_THEMSELVES;
use super::report::Event;
use crate::northbound::flight::Sent;
use crate::northbound::lane::LaneEntry;
use crate::northbound::own::Own;
use crate::northbound::reason_code::Cause;
use crate::northbound::suspicion::{RecordPlace, TopicKey};

/// Times too much, and times unanswered, that make a suspect.
pub const THROTTLES: u8 = 3;
const SILENCES: u8 = 2;

/// How a connection went, as far as it bears on what was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The broker closed it and gave no reason that clears what was in flight.
    Closed,
    /// The broker closed it because it had too much, by this reason code.
    TooMuch(u8),
    /// We gave it up: a publish was not answered.
    Unanswered,
    /// For a reason that says nothing about what was in flight.
    Otherwise,
}

/// What a connection that is gone leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// It was closed while something was in flight that may have been the reason.
    pub suspicious: bool,
    /// Readings were taken on it.
    pub progress: bool,
    /// A message of our own was alone in flight, and so is suspected.
    pub own: bool,
    /// A suspect that was tried was alone in flight.
    pub trial: bool,
    /// A record was refused just before, which is why.
    pub refusal: bool,
}

/// Judges what was in flight.
pub struct Judge<'a> {
    pub now: Instant,
    pub publisher: &'a mut Publisher,
    pub own: &'a mut Own,
    /// The connection was closed over a suspect that was tried.
    pub trial: bool,
    /// The connection was closed because a record was refused just before.
    pub refusal: bool,
}

impl Judge<'_> {
    /// Whether the connection's end may be about something that was in flight.
    pub fn judge(&mut self, end: ConnectionEnd) -> bool {
        match end {
            ConnectionEnd::Closed => self.judge_close(Cause::Closed),
            ConnectionEnd::TooMuch(code) => {
                let cause = Cause::Code(code);
                let Publisher { records, outlet, .. } = &mut *self.publisher;
                let sent_at = outlet.last_sent_at.unwrap_or(self.now);
                records.complain(self.now, outlet, sent_at, cause);
                self.judge_close(cause)
            }
            ConnectionEnd::Unanswered => {
                self.judge_silence();
                false
            }
            ConnectionEnd::Otherwise => false,
        }
    }

    fn judge_close(&mut self, cause: Cause) -> bool {
        let now = self.now;
        let Publisher { records, own_doubt, volatile_doubt, .. } = &mut *self.publisher;
        if records.progress.was_just_refused(now) {
            let refused = records.progress.just_refused(now).filter(|_| cause == Cause::Closed);
            if let Some((place, topic)) = refused {
                self.refusal = true;
                records.suspicion.handle_closed_over(place, topic);
            } else if cause == Cause::Closed && records.progress.was_outcome_just_refused(now) {
                self.refusal = true;
                records.outcomes.note_closed_over(now);
            }
            return true;
        }
        let sent: Vec<(RecordPlace, LaneEntry)> = records.sent();
        let volatile = volatile_doubt.may_be_cause(now);
        match (sent.as_slice(), self.own.in_flight()) {
            ([], 0) if !volatile => return false,
            ([], 0) => {
                // Whatever else it may be, the readings in memory went before it.
                if volatile_doubt.strike(now) {
                    records.events.push_back(Event::VolatilePaused);
                }
            }
            ([], 1) if !volatile => self.strike_own(),
            ([(place, entry)], 0) if !volatile => {
                self.trial = entry.suspect;
                records.credit = 1;
                let own_fault = !cause.is_quota() || entry.suspect || entry.throttled + 1 >= THROTTLES;
                if own_fault {
                    records.refuse(now, *place, entry, cause, false);
                } else {
                    records.note_throttled(*place);
                }
            }
            (_, messages) => {
                records.credit = 1;
                own_doubt.solo |= messages > 0;
            }
        }
        if !sent.is_empty() || self.own.in_flight() > 0 {
            self.publisher.volatile_doubt.be_careful(now);
        }
        true
    }

    /// One message of our own was alone in flight when the connection was closed, or stayed
    /// unanswered.
    fn strike_own(&mut self) {
        let oldest = self.publisher.outlet.flight.oldest().and_then(|sent| match sent {
            Sent::Own { key, .. } => self.own.class(key),
            Sent::Record(..) => None,
        });
        let Some(class) = oldest.or_else(|| self.own.sent_classes().next()) else { return };
        let pauses = self.own.strike(self.now, class);
        self.publisher.own_doubt.handle_strike(pauses);
        if pauses {
            self.publisher.records.events.push_back(Event::OwnPaused { class });
        }
    }

    /// The oldest publish was not answered in time.
    fn judge_silence(&mut self) {
        let now = self.now;
        let Publisher { records, outlet, .. } = &mut *self.publisher;
        let since = outlet.flight.waiting_since().unwrap_or(now);
        let oldest = outlet.flight.oldest().cloned();
        let mut silent: Vec<RecordPlace> = outlet.flight.overtaken().filter_map(Sent::place).collect();
        let dropped = silent.len();
        let oldest_record = oldest.as_ref().and_then(Sent::place);
        if let Some(oldest) = oldest_record.filter(|oldest| !silent.contains(oldest)) {
            silent.push(oldest);
        }
        records.counters.unanswered += 1;
        records.events.push_back(Event::Unanswered {
            record: oldest_record.and_then(|place| records.identify(place)),
            waited: now.saturating_duration_since(since),
            unanswered: records.in_flight(),
        });
        // Where nothing else is answered either it is not about the message.
        if oldest_record.is_none() && oldest.is_some() && records.has_progress(now) {
            self.strike_own();
        }
        // A suspect sent alone after a pause was not dropped for the rate, and neither are a few
        // topics of which nothing is answered while all of others is.
        let quiet = self.publisher.solo.is_record();
        let Publisher { records, outlet, .. } = &mut *self.publisher;
        let topics: BTreeSet<TopicKey> = silent.iter().filter_map(|place| records.topic(*place)).collect();
        let of_topics = records.progress.are_few_and_none_taken(&topics);
        let is_known = |place: &RecordPlace| {
            records.topic(*place).is_some_and(|topic| records.suspicion.is_silent_topic(topic))
        };
        let known = !silent.is_empty() && silent.iter().all(is_known);
        if !quiet && !of_topics && !known {
            records.complain(now, outlet, since, Cause::Silent);
        }
        let for_themselves = of_topics || dropped <= DROPPED_FOR_THEMSELVES || outlet.rate.is_lowest();
        if !for_themselves {
            return;
        }
        for place in silent {
            let Some(entry) = records.note_silent(place) else { continue };
            if entry.suspect || entry.silences >= SILENCES {
                records.refuse(now, place, &entry, Cause::Silent, of_topics);
            }
        }
    }
}
