//! Which record goes next, when it may be released, what the broker's answer means for it.
//!
//! Invariants:
//! * No more QoS 1 publishes await their answer than the window: the least of Receive Maximum,
//!   `max-in-flight` and 65,000.
//! * A record leaves its lane only when the broker answered it below 0x80, when it is set aside in
//!   the rejected store, or when it has expired; in sequence order within its lane.
//! * While both lanes wait, `high` gets three of four places. Records older than a minute are
//!   paced.
//! * Everything that is published counts for the [rate](super::rate); readings count for the
//!   [budget](super::budget) of their lane's day.
//! * Suspects hold at most half the window.
//! * Towards a broker without QoS 1, what was sent counts as taken when a PINGREQ sent after it is
//!   answered.
//!
//! | what the broker does with a record | what follows |
//! |---|---|
//! | answers below 0x80 | released |
//! | 0x93, 0x96, 0x97 | the rate is lowered, the record sent again in its order, all wait 1 s to 5 min until something is taken; the third time, a [suspect](super::suspicion) |
//! | any other refusal | a suspect: held back, the others flow |
//! | closes the connection shortly after a refusal | that was the reason: what is in flight is sent again, and what was refused tried alone |
//! | closes the connection, more than one in flight | sent again one by one, then ever more at once |
//! | closes the connection, this one alone in flight | a suspect |
//! | does not answer within the [patience](super::flight) | the connection is replaced, the rate lowered, what is unanswered sent again; the second time, a suspect |
//! | announces a Maximum Packet Size below its length | like a refusal with 0x95, unsent |
//!
//! | file | what it decides |
//! |---|---|
//! | `fill`, `turns`, `solo` | who goes next, whose turn it is, what goes alone |
//! | `send` | one publish |
//! | `outlet` | what the connection lets out, and when |
//! | `records`, `progress` | what an answer means for a record; what is taken at all |
//! | `connection_end` | what the end of a connection means for what was in flight |
//! | `own_doubt`, `volatile_doubt` | whether own messages and readings of `qos = 0` rules wait |
//! | `report` | what is reported |

mod connection_end;
mod fill;
mod outcomes;
mod outlet;
mod own_doubt;
mod progress;
mod records;
mod report;
mod send;
mod solo;
mod turns;
mod volatile_doubt;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

pub use self::connection_end::{Aftermath, ConnectionEnd};
pub use self::fill::FILL_BYTES;
pub use self::outcomes::{CutOutcomes, RefusedOutcomes, UNNAMED_MAX};
pub use self::records::Records;
pub use self::report::{Counters, Event, Filled, HeldRecord, Hold, Skip};

use self::connection_end::Judge;
use self::fill::Fill;
use self::outlet::Outlet;
use self::own_doubt::OwnDoubt;
use self::send::Sender;
use self::solo::Solo;
use self::turns::Turns;
use self::volatile_doubt::VolatileDoubt;
use super::budget::Budget;
use super::flight::Sent;
use super::loss_report::LossReports;
use super::outbox::Outbox;
use super::own::{Class, Own};
use super::pace::{Ingest, Pace};
use super::reason_code::{self, Cause};
use super::retained::NewestRetained;
use super::session::Limits;
use super::settings::Settings;
use super::settled::Settled;
use super::suspicion::RecordPlace;
use super::volatile::Ring;
use super::wire::{Acknowledgement, Version};
use crate::clock::Moment;
use crate::message::{Content, Lane, RecordId};

/// The publishing half of the uplink.
pub struct Publisher {
    outlet: Outlet,
    records: Records,
    turns: Turns,
    solo: Solo,
    pace: Pace,
    ingest: [Ingest; 2],
    retained: Option<NewestRetained>,
    ring: Ring,
    volatile_doubt: VolatileDoubt,
    own_doubt: OwnDoubt,
    losses: LossReports,
    hold: Hold,
    /// Shared with the publisher that takes the place of this one.
    budget: Rc<RefCell<Budget>>,
}

impl Publisher {
    /// Without a connection yet.
    pub fn new(now: Instant, settings: &Settings) -> Publisher {
        Publisher {
            outlet: Outlet::new(now, settings),
            records: Records::new(now),
            turns: Turns::default(),
            solo: Solo::default(),
            pace: Pace::new(now, settings.drain_rate),
            ingest: Default::default(),
            retained: None,
            ring: Ring::default(),
            volatile_doubt: VolatileDoubt::default(),
            own_doubt: OwnDoubt::default(),
            losses: LossReports::new(settings.gateway.as_str(), settings.topics.loss.clone()),
            hold: Hold::Nothing,
            budget: Rc::default(),
        }
    }

    /// Counts what is published, from now on, and says what may be.
    pub fn set_budget(&mut self, budget: Rc<RefCell<Budget>>) {
        self.budget = budget;
    }

    /// What is published today, and may be.
    pub fn budget(&self) -> &RefCell<Budget> {
        &self.budget
    }

    /// The connection may be used from now on, within `limits`. `afresh`: perhaps the broker has
    /// changed; it was not a refusal that the one before was closed over.
    pub fn handle_open(&mut self, now: Instant, version: Version, limits: &Limits, afresh: bool) {
        self.outlet.open(now, version, limits);
        self.records.handle_open(now, afresh);
        let proves = version == Version::V5 && limits.at_least_once;
        self.records.taken.handle_open(proves);
        self.turns.flow_ran_dry = false;
        self.solo.reset();
    }

    /// Whether there is a connection.
    pub fn is_open(&self) -> bool {
        self.outlet.terms().is_some()
    }

    /// Whether the gateway's own messages wait until the connection has shown that it stands
    /// without them.
    pub fn holds_own(&self) -> bool {
        self.own_doubt.until_it_stands
    }

    /// Whether a reading was taken on this connection, or refused while others are taken.
    pub fn has_progress(&self, now: Instant) -> bool {
        self.records.has_progress(now)
    }

    /// Whether no reading was answered on this connection, and one waits for its answer longest.
    pub fn hangs_on_a_record(&self, now: Instant) -> bool {
        !self.has_progress(now) && self.outlet.flight.oldest().and_then(Sent::place).is_some()
    }

    /// When the connection stands: readings were taken on it, or it has lasted.
    pub fn stands_at(&self) -> Instant {
        self.records.progress.stands_at()
    }

    /// The connection is gone.
    pub fn handle_closed(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        own: &mut Own,
        end: ConnectionEnd,
    ) -> Aftermath {
        let mut aftermath = Aftermath { progress: self.has_progress(now), ..Aftermath::default() };
        if self.is_open() {
            aftermath.own = self.records.in_flight() == 0 && own.in_flight() == 1;
            let mut judge = Judge { now, publisher: &mut *self, own, trial: false, refusal: false };
            aftermath.suspicious = judge.judge(end);
            (aftermath.trial, aftermath.refusal) = (judge.trial, judge.refusal);
        }
        self.records.handle_closed();
        self.outlet.close();
        own.handle_closed();
        self.records.obey(now);
        self.records.settle(now, outbox);
        self.solo.reset();
        aftermath
    }

    /// Holds back, or lets go.
    pub fn hold(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// When the answer to the oldest publish is overdue: then the connection is to be replaced.
    pub fn overdue_at(&self) -> Option<Instant> {
        self.outlet.terms()?;
        self.outlet.flight.overdue_at()
    }

    /// Since when the oldest publish waits for its answer.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.outlet.terms()?;
        self.outlet.flight.waiting_since()
    }

    /// Puts a reading of a `qos = 0` rule into the ring.
    pub fn push_volatile(&mut self, content: &Content<'_>) {
        self.ring.push(content);
    }

    /// Appends as many publishes as the window, the rate and [`FILL_BYTES`] allow. `next_ping` is
    /// the number the next PINGREQ would have.
    pub fn fill(
        &mut self,
        moment: &Moment,
        outbox: &mut impl Outbox,
        own: &mut Own,
        out: &mut Vec<u8>,
        next_ping: u64,
    ) -> Filled {
        let Some(terms) = self.outlet.terms() else { return Filled::default() };
        let send = Sender { publisher: self, moment, terms, next_ping, outbox, own, out };
        Fill { send, filled: Filled::default() }.run()
    }

    fn has_place(&self) -> bool {
        self.outlet.has_place(self.records.in_flight())
    }

    /// How many may be in flight.
    fn places(&self) -> usize {
        usize::from(self.outlet.window.min(self.records.credit))
    }

    /// Takes the broker's answers.
    pub fn handle_acknowledgements(
        &mut self,
        now: Instant,
        outbox: &mut impl Outbox,
        own: &mut Own,
        acknowledgements: &[Acknowledgement],
    ) {
        for &Acknowledgement { packet_id, code } in acknowledgements {
            let Some((sent, serial, sent_at)) = self.outlet.flight.answer(now, packet_id) else {
                self.records.counters.unknown_answers += 1;
                continue;
            };
            match sent {
                Sent::Own { .. } => self.settle_own(now, outbox, own, sent, code),
                Sent::Record(lane, sequence) => {
                    let place = RecordPlace { lane, sequence };
                    self.records.handle_answer(now, &mut self.outlet, place, (serial, sent_at), code);
                }
            }
        }
        self.records.obey(now);
        self.records.settle(now, outbox);
    }

    /// The broker answered an own message with `code`, 0 for success.
    fn settle_own(&mut self, now: Instant, outbox: &mut impl Outbox, own: &mut Own, sent: Sent, code: u8) {
        let Sent::Own { key, topic, version } = sent else { return };
        own.clear_strikes(&key);
        if !reason_code::is_refusal(code) {
            own.settle(&key, version);
            return self.losses.handle_acknowledged(outbox, &key);
        }
        if Cause::Code(code).is_quota() {
            self.records.complain(now, &mut self.outlet, now, Cause::Code(code));
            return own.postpone(now, &key);
        }
        if self.losses.handle_refused(&key) {
            own.settle(&key, version);
            own.pause(now, Class::Loss);
            self.records.events.push_back(Event::OwnRefused { topic, code });
        } else if own.refuse(now, &key, code) {
            self.records.progress.refused_at = Some(now);
            self.records.events.push_back(Event::OwnRefused { topic, code });
        }
    }

    /// All PINGREQs up to `ping` are answered: a broker without QoS 1 has read what was sent
    /// before.
    pub fn handle_ping_answered(&mut self, now: Instant, outbox: &mut impl Outbox, ping: u64) {
        if self.outlet.at_least_once {
            return;
        }
        self.outlet.handle_ping_answered();
        self.records.handle_ping_answered(now, &mut self.outlet, ping);
        self.records.obey(now);
        self.records.settle(now, outbox);
    }

    /// Sets a record aside because its owner says so.
    pub fn skip(&mut self, now: Instant, outbox: &mut impl Outbox, id: RecordId) -> Skip {
        self.records.skip(now, outbox, id)
    }

    /// Publishes sent and not answered, own messages included.
    pub fn in_flight(&self) -> usize {
        self.outlet.in_flight(self.records.in_flight())
    }

    /// Whether every place of the window is taken.
    pub fn is_window_full(&self) -> bool {
        self.is_open() && !self.has_place()
    }

    /// The window of this connection; 0 without one.
    pub fn window(&self) -> u16 {
        if self.is_open() { self.outlet.window } else { 0 }
    }

    /// The records on their way.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The oldest record of a lane that takes no more until that one is decided.
    pub fn blocked_by(&self, lane: Lane) -> Option<RecordId> {
        self.records.blocked_by(lane, self.outlet.window)
    }

    /// Numbers since the start.
    pub fn counters(&self) -> Counters {
        self.records.counters
    }

    /// Readings of `qos = 0` rules dropped since the start.
    pub fn volatile_dropped(&self) -> u64 {
        self.ring.dropped()
    }

    /// Publishes a second, if anything limits them, and whether that is because the broker
    /// complained.
    pub fn rate_limit(&self) -> Option<(f64, bool)> {
        let rate = &self.outlet.rate;
        Some((rate.limit()?, rate.lowered_to().is_some()))
    }

    /// See [`PublishRate::capped_until`](super::rate::PublishRate::capped_until).
    pub fn capped_until(&self, now: Instant) -> Option<(&'static str, Instant)> {
        self.outlet.rate.capped_until(now)
    }

    /// When to fill again, though nothing comes from outside.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.outlet.terms()?;
        let stopped = Lane::ALL.into_iter().filter_map(|lane| self.records.stopped_until(lane));
        stopped.chain(self.outlet.wake_at()).min()
    }

    /// What became of records; see [`Records::swap_settled`].
    pub fn swap_settled(&mut self, with: Vec<Settled>) -> Vec<Settled> {
        self.records.swap_settled(with)
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.records.events.pop_front()
    }
}
