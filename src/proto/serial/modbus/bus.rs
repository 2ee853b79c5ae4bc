//! The master of a bus: one request at a time, each unit with its own period, and a failing unit
//! does not delay the others.
//!
//! ```text
//!  down ──line_up──> idle ──a unit is due, the line is quiet──> waiting ──answer, time-out, damage──> idle
//!    ^─────────────────────────── line_down, at any time ─────────────────────────────────────────────┘
//! ```
//!
//! * A failed unit is not polled for a back-off time that doubles up to a maximum. Then it is
//!   polled when its timeout delays no other unit; if that is not possible for one of its periods,
//!   it is polled after every unit that is due. So failing units cost the others at most one
//!   timeout per cycle. A unit that was up has one retry in its turn first: on a line that loses a
//!   tenth of the answers it would be read half as often otherwise.
//! * A response is accepted only from the requested unit, with the requested function and length
//!   and a valid checksum. Other frames are ignored while the timeout runs (MODBUS over Serial Line
//!   V1.02 §2.4.1). `unit` describes how late responses are detected.
//! * It has no clock, port or random source: `now` and a seed are arguments, bytes and events are
//!   the output.

mod probe;
mod resync;
mod write;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use super::super::State;
use super::doubt::Trust;
use super::fault::Lost;
pub use super::fault::{Failing, Failure, Medium};
use super::frame::{self, Found, Receiver};
use super::haste::Haste;
use super::learn::{LINE_PAUSES, Learned, Obstacle, PAUSES};
pub use super::misfit::Misfit;
use super::pdu::{Answer, Exception, Request, Shape};
use super::relay::Relay;
use super::settings::Settings;
pub use super::unit::Counters;
use super::unit::{News, Progress, Purpose, Unit};
use crate::splitmix::SplitMix64;

/// Most queued events; no further request is sent until they are collected.
const EVENTS_MAX: usize = 256;
/// A unit that may sleep is asked again after such a part of the time in which it may answer.
const KNOCK: u32 = 4;
/// Time after the last byte at which a complete but invalid response is given up; longer than the
/// latency of adapters (16 ms).
const SETTLE: Duration = Duration::from_millis(50);
/// After so many exceptions of a unit in a row none is taken for one of a gateway that gave up.
const REFUSALS_MAX: u8 = 3;
/// At most so often a doubt that lasts is put to the test by a probe: seldom enough for the answer
/// to one to be over before the next one, however late.
const STEP_EVERY: Duration = Duration::from_secs(10);
/// After so many readings in a row that were withheld it is found out whether the line is late; and
/// not again before so long, or so long if that was in vain.
const UNDECIDED: u32 = 6;
const RESYNC_EVERY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));

/// An event for the shell. Units are indices into [`Settings::units`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A unit has a reading to publish: JSON, at its path.
    Reading {
        /// The unit.
        unit: usize,
        /// One JSON object.
        payload: Vec<u8>,
    },
    /// A unit's values arrive now, and did not before.
    Up {
        /// The unit.
        unit: usize,
    },
    /// A unit answers, but none of its values arrives.
    Degraded {
        /// Which.
        unit: usize,
    },
    /// It was found out that a unit wants to be asked otherwise than planned:
    /// [`Bus::learned`].
    Learned {
        /// Which.
        unit: usize,
    },
    /// A unit has not answered three times in a row.
    Down {
        /// The unit.
        unit: usize,
        /// The failure of the third request.
        failure: Failure,
    },
    /// A request failed.
    Failed {
        /// The unit.
        unit: usize,
        /// The failure.
        failure: Failure,
        /// Consecutive failures, including this one.
        failures: u32,
    },
    /// A unit refuses to have a register read, or does not answer for it; its readings, if any,
    /// come without it. Told once, until it has been read.
    Refused {
        /// The unit.
        unit: usize,
        /// The register, as an index into [`Unit::registers`](super::settings::Unit::registers).
        register: usize,
        /// Why.
        why: Obstacle,
    },
    /// A unit answered with another function or length than was asked for; the answer was not used.
    Misfit {
        /// Which.
        unit: usize,
        /// The function code of the answer; above 127 it is an exception.
        function: u8,
        /// The function code of the request.
        asked_function: u8,
        /// Bytes of data it answered with.
        bytes: usize,
        /// Bytes of data that were asked for.
        asked: usize,
        /// `answer-bytes` of a register takes such an answer, and it is no late one.
        is_configurable: bool,
    },
    /// The answers of a unit name another one. They are used, as the transaction identifier of
    /// Modbus TCP says which request they answer. Told once for each other unit.
    Named {
        /// The unit.
        unit: usize,
        /// The address that its answers name.
        other: u8,
    },
    /// More answers to earlier requests may come on the line than can be reckoned with: none is
    /// used, and nothing published, until it is in step again.
    OutOfStep {
        /// Which unit was up.
        unit: usize,
    },
    /// A response came after the timeout and was not used: the timeout is too short for this unit.
    Late {
        /// The unit.
        unit: usize,
        /// The time since its request.
        after: Duration,
    },
}

/// The master of one bus.
#[derive(Debug)]
pub struct Bus {
    settings: Settings,
    units: Vec<Unit>,
    line: Line,
    receiver: Receiver,
    sent: Vec<u8>,
    to_send: bool,
    events: VecDeque<Event>,
    /// The earliest time of the next request: the silence between frames.
    quiet_at: Instant,
    /// When the line was last used, for the pauses of units.
    used_at: Instant,
    /// When the last answer of any unit came.
    answered_at: Option<Instant>,
    /// When the bytes that nobody asked for began.
    babble: Instant,
    /// When the last unexpected byte came.
    heard: Instant,
    begun: Option<Instant>,
    /// The unit whose poll is in progress.
    current: Option<usize>,
    clock: Instant,
    random: SplitMix64,
    strangers: u64,
    /// Requests of another master.
    rivals: u64,
    /// Another master asked this unit, at this time, and was not answered yet.
    rival: Option<(u8, Instant)>,
    medium: Medium,
    relay: Relay,
    haste: Haste,
    /// When a unit was last asked for a probe to end a doubt of the line.
    stepped_at: Option<Instant>,
    /// For so long nothing is asked once the port is open.
    still: Duration,
    writes: write::Writes,
    /// The line is later than can be reckoned with.
    resync: Option<resync::Resync>,
    /// It is not found out again before, where the line is not known to be.
    resync_again: Option<Instant>,
    /// The probes by which it is.
    classes: probe::Classes,
    /// So often in a row another's answer came in place of one, and none was used.
    in_place: u32,
    /// Nothing was used since the first opening: what was asked for before it may be kept.
    is_fresh: bool,
}

#[derive(Debug)]
enum Line {
    Down,
    Idle,
    Waiting(Exchange),
    /// A request is outstanding that is to show whether the line is in step.
    Resyncing(resync::Sent),
}

#[derive(Debug)]
struct Exchange {
    unit: usize,
    purpose: Purpose,
    request: Request,
    asked: Instant,
    deadline: Instant,
    /// Set if enough bytes came without a response: when the request is given up unless more bytes
    /// come.
    settled: Option<Instant>,
    /// Whether the echo of the request is expected first.
    echo: bool,
    /// The unit answered something else.
    misfit: bool,
    /// A frame of this address came, which nothing was asked of.
    foreign: Option<u8>,
    /// A frame of this other unit came that may be a late one.
    other: Option<u8>,
    /// An answer came with the number of no request.
    misnumbered: bool,
    /// So many bytes came that are no frame, beside those in the receiver.
    unframed: usize,
    /// What the gateway at the port said of it.
    gateway: Option<Exception>,
    /// Another master asked the same unit meanwhile.
    is_intruded: bool,
    /// It was answered with this exception, and the data is waited for.
    deferred: Option<Exception>,
    /// If nothing has come until then, it is sent once more; and whether it was.
    knock: Option<Instant>,
    is_knocked: bool,
    /// A late answer came in place of the answer.
    is_late: bool,
    /// The answer to the request before, of another unit, came in its place.
    is_displaced: bool,
    /// The shape of the last frame that came in its place and is no answer to it.
    in_place: Option<Shape>,
    /// It belongs to a write, and not to a poll.
    of_write: bool,
    /// An answer that may be the copy of an earlier one: it is used if nothing else comes.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    data: Vec<u8>,
    /// The last one behind it that is no copy, as far as is known: it may be one of an answer that
    /// was still to come.
    other: Option<Vec<u8>>,
    /// When the last of them came, and until when nothing more may come then.
    at: Instant,
    quiet_at: Option<Instant>,
    deadline: Instant,
}

impl Held {
    fn until(&self) -> Instant {
        self.quiet_at.map_or(self.deadline, |at| at.min(self.deadline))
    }
}

impl Exchange {
    /// A request that goes out now.
    fn new(unit: usize, purpose: Purpose, request: Request, now: Instant, deadline: Instant) -> Exchange {
        Exchange {
            unit,
            purpose,
            request,
            asked: now,
            deadline,
            settled: None,
            echo: false,
            misfit: false,
            foreign: None,
            other: None,
            misnumbered: false,
            unframed: 0,
            gateway: None,
            is_intruded: false,
            deferred: None,
            knock: None,
            is_knocked: false,
            is_late: false,
            is_displaced: false,
            in_place: None,
            of_write: false,
            held: None,
        }
    }
}

impl Bus {
    /// A bus whose port is not open yet. `seed` is the seed of the jitter.
    pub fn new(mut settings: Settings, now: Instant, seed: u64) -> Bus {
        let units = std::mem::take(&mut settings.units);
        let mut relay = Relay::default();
        relay.set_shared(units.len() > 1);
        Bus {
            settings,
            units: units.into_iter().map(|unit| Unit::new(unit, now)).collect(),
            line: Line::Down,
            receiver: Receiver::default(),
            sent: Vec::new(),
            to_send: false,
            events: VecDeque::new(),
            quiet_at: now,
            used_at: now,
            answered_at: None,
            babble: now,
            heard: now,
            begun: None,
            current: None,
            clock: now,
            random: SplitMix64::new(seed),
            strangers: 0,
            rivals: 0,
            rival: None,
            medium: Medium::Line,
            relay,
            haste: Haste::default(),
            stepped_at: None,
            still: Duration::ZERO,
            writes: write::Writes::default(),
            resync: None,
            resync_again: None,
            classes: probe::Classes::default(),
            in_place: 0,
            is_fresh: true,
        }
    }

    /// Answers say which request they answer, as those of Modbus TCP do: those to earlier requests
    /// come by [`Bus::handle_late`]. To be called before the port is open.
    pub fn answers_are_numbered(&mut self) {
        self.medium = Medium::Header;
        self.relay.set_gateway();
        self.relay.set_shared(self.units.len() > 1);
        self.units.iter_mut().for_each(Unit::set_numbered);
    }

    /// Says what is between, for the reasons that are given.
    pub fn is_behind(&mut self, medium: Medium) {
        self.medium = medium;
        if medium != Medium::Line {
            self.relay.set_gateway();
        }
    }

    /// Takes over what was learned of a unit before, by its device id; before the port is open.
    pub fn recall(&mut self, now: Instant, learned: impl Fn(&super::settings::Unit) -> Option<Learned>) {
        for unit in &mut self.units {
            if let Some(learned) = learned(&unit.settings) {
                unit.recall(&learned, now);
            }
        }
    }

    /// Forgets what was learned of a unit, so that it is asked as configured again. Whether there
    /// was anything.
    pub fn relearn(&mut self, now: Instant, unit: usize) -> bool {
        self.tick(now);
        if self.current == Some(unit) && matches!(self.line, Line::Idle) {
            self.current = None;
        }
        let is_waiting =
            matches!(&self.line, Line::Waiting(exchange) if exchange.unit == unit && !exchange.of_write);
        if is_waiting {
            // Its answer, if it still comes, is a late one.
            self.give_up(now);
        }
        self.units.get_mut(unit).is_some_and(|unit| unit.relearn(now))
    }

    /// How a unit fails, if its last request failed.
    pub fn failing(&self, unit: usize) -> Option<Failing> {
        let failing = self.units.get(unit)?.failing()?;
        let is_behind = failing.is_behind || self.relay.is_behind();
        Some(Failing { medium: self.medium, is_behind, ..failing })
    }

    /// The `pause` to set for the bus, if this unit is silent and may have been asked too soon
    /// after an answer on the line: the shortest after which any of the units ever answered, in
    /// whole twentieths of a second, if that is longer than what is found out.
    pub fn rest_advised(&self, unit: usize) -> Option<Duration> {
        let (found_out, longest) = LINE_PAUSES;
        let soonest = self.units.iter().filter_map(Unit::soonest_on_line).min()?;
        let is_it = soonest > found_out && soonest <= longest;
        let ms = u64::try_from(soonest.as_millis().div_ceil(50) * 50).ok()?;
        (is_it && self.units.get(unit)?.may_want_rest(soonest)).then_some(Duration::from_millis(ms))
    }

    /// What was learned of a unit.
    pub fn learned(&self, unit: usize) -> Option<Learned> {
        Some(self.units.get(unit)?.learned())
    }

    /// Rises when something was learned.
    pub fn revision(&self) -> u64 {
        self.units.iter().map(|unit| unit.revision).sum()
    }

    /// The registers of a unit that its readings come without, as indexes, and why.
    pub fn obstacles(&self, unit: usize) -> impl Iterator<Item = (usize, Obstacle)> {
        let refused = self.units.get(unit).map(Unit::refused).unwrap_or_default();
        let registers = self.units.get(unit).map(|unit| &unit.settings.registers[..]).unwrap_or_default();
        let is_refused = |register: usize| refused.iter().any(|refusal| refusal.register == register);
        let scaled = registers
            .iter()
            .enumerate()
            .filter(move |(at, register)| register.exponent.is_some_and(is_refused) && !is_refused(*at));
        let own = refused.iter().map(move |refusal| (refusal.register, self.reason_for(unit, refusal.why)));
        own.chain(scaled.map(|(at, _)| (at, Obstacle::Scale)))
    }

    /// What a register's silence comes from, where the line wants a longer rest.
    fn reason_for(&self, unit: usize, why: Obstacle) -> Obstacle {
        let rest = self.rest_advised(unit).and_then(|rest| u16::try_from(rest.as_millis()).ok());
        match (why, rest) {
            (Obstacle::Silence | Obstacle::Missed, Some(ms)) => Obstacle::Haste(ms),
            _ => why,
        }
    }

    /// For so long an answer to the last request may still come.
    pub fn still_to_come(&self) -> Duration {
        match &self.line {
            Line::Waiting(exchange) => self.units.get(exchange.unit).map(Unit::rest).unwrap_or_default(),
            Line::Down | Line::Idle | Line::Resyncing(_) => Duration::ZERO,
        }
    }

    /// Nothing is asked for so long once the port is open.
    pub fn await_rest(&mut self, still: Duration) {
        self.still = self.still.max(still);
    }

    /// Takes over from the bus of before a reload, by address, what may still come; before the port
    /// is open.
    pub fn adopt(&mut self, before: &mut Bus, now: Instant) {
        // What was to be shown of the line is not shown yet.
        self.is_fresh &= before.is_fresh || before.resync.is_some();
        if !matches!(before.line, Line::Down) {
            before.line_down(now);
        }
        for unit in &mut self.units {
            let is_it = |other: &&Unit| other.settings.address == unit.settings.address;
            if let Some(other) = before.units.iter().find(is_it) {
                unit.adopt(other);
            }
        }
        self.relay.adopt(&before.relay);
    }

    /// The port is open: all units are due, once answers to requests of before have come.
    pub fn line_up(&mut self, now: Instant) {
        self.tick(now);
        self.line = Line::Idle;
        self.current = None;
        self.to_send = false;
        self.begun = None;
        self.rival = None;
        if self.medium != Medium::Header || self.answered_at.is_none() {
            self.relay.opened();
        }
        self.relay.resumed(now);
        self.receiver.clear();
        self.quiet_at = now + self.gap().max(std::mem::take(&mut self.still));
        self.used_at = now;
        self.babble = now;
        self.units.iter_mut().for_each(|unit| unit.start(now));
        self.resync_opened(now);
    }

    /// The port was closed. If a request was outstanding, this is the failure of it; otherwise no
    /// failure is counted, and a poll in progress goes on when the port is open again soon.
    pub fn line_down(&mut self, now: Instant) {
        self.tick(now);
        if matches!(self.line, Line::Waiting(_)) {
            self.lose(now, true);
        } else if let Some(index) = self.current
            && let Some(unit) = self.units.get_mut(index)
        {
            unit.interrupted();
        }
        self.interrupt_write();
        for (unit, of) in self.units.iter_mut().enumerate() {
            if of.is_kept_from_being_asked(now) {
                self.events.push_back(Event::Down { unit, failure: Failure::Closed });
            }
        }
        if !matches!(self.line, Line::Down) {
            self.units.iter_mut().for_each(|unit| unit.closed(now));
            self.relay.closed(now);
        }
        self.resync_closed();
        self.line = Line::Down;
        self.current = None;
        self.to_send = false;
        self.receiver.clear();
    }

    /// Handles received bytes.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        self.tick(now);
        for part in bytes.chunks(64) {
            match &mut self.line {
                Line::Down => {}
                Line::Idle => self.overhear(now, part),
                Line::Resyncing(_) => self.hear_resync(now, part),
                Line::Waiting(_) => {
                    self.receiver.push(part);
                    self.examine(now, false);
                }
            }
        }
    }

    /// A whole frame came that is known not to answer the last request.
    pub fn handle_late(&mut self, now: Instant, frame: &[u8]) {
        self.tick(now);
        if let [unit, pdu @ .., _, _] = frame {
            self.relay.came_late(*unit, pdu);
            let frame = frame::Frame { unit: *unit, pdu, is_request: false };
            if stray(now, frame, None, &mut self.units, &mut self.events, &mut self.strangers)
                && let Some(unit) = self.units.iter_mut().find(|of| of.settings.address == *unit)
            {
                unit.is_copy(now, pdu);
            }
        }
    }

    /// An answer came of the unit of this address, by its number, and named that one.
    pub fn handle_named(&mut self, address: u8, other: u8) {
        let mut units = self.units.iter_mut().enumerate();
        if let Some((unit, of)) = units.find(|(_, unit)| unit.settings.address == address)
            && of.named(other)
        {
            self.events.push_back(Event::Named { unit, other });
        }
    }

    /// The other unit that the last answer of a unit named, if it did.
    pub fn answers_as(&self, unit: usize) -> Option<u8> {
        self.units.get(unit)?.answers_as()
    }

    /// A whole frame came that carries the number of no request.
    pub fn handle_misnumbered(&mut self, now: Instant) {
        self.tick(now);
        self.strangers += 1;
        if let Line::Waiting(exchange) = &mut self.line {
            exchange.misnumbered = true;
        }
    }

    /// So many bytes came since the last request that are no frame, or not yet a whole one, where
    /// the bus is not given the bytes themselves.
    pub fn handle_unframed(&mut self, now: Instant, bytes: usize) {
        self.tick(now);
        if let Line::Waiting(exchange) = &mut self.line {
            exchange.unframed = bytes;
        }
        self.note_resync_unframed(bytes);
    }

    /// Time has passed: to be called when [`Bus::poll_timeout`] says so, and harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        self.knock(now);
        if matches!(&self.line, Line::Waiting(Exchange { held: Some(held), .. }) if now >= held.until()) {
            self.examine(now, true);
            self.take_held(now);
        }
        if let Line::Waiting(exchange) = &self.line
            && (now >= exchange.deadline || exchange.settled.is_some_and(|settled| now >= settled))
        {
            self.examine(now, true);
            self.give_up(now);
        }
        if let Line::Resyncing(sent) = &self.line
            && now >= sent.deadline()
        {
            self.resync_timed_out(now);
        }
        self.begin(now);
    }

    /// When [`Bus::handle_timeout`] must be called next; `None` while the port is closed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.line {
            Line::Down => None,
            Line::Waiting(exchange) => {
                let held = exchange.held.as_ref().map(Held::until);
                let sooner = exchange.settled.into_iter().chain(exchange.knock).chain(held).min();
                Some(sooner.map_or(exchange.deadline, |sooner| sooner.min(exchange.deadline)))
            }
            Line::Resyncing(sent) => Some(sent.deadline()),
            Line::Idle if self.events.len() >= EVENTS_MAX => None,
            Line::Idle if self.resync.is_some() => self.next_resync(),
            Line::Idle => self.next_turn(),
        }
    }

    /// Replaces the content of `buffer` with the next request; returns false if there is none now.
    pub fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        if !std::mem::take(&mut self.to_send) {
            return false;
        }
        buffer.extend_from_slice(&self.sent);
        true
    }

    /// The next event, in order. With 256 queued events no further request is sent.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The last reading of this unit was refused: its next one is published even if it is
    /// unchanged.
    pub fn forget_published(&mut self, unit: usize) {
        if let Some(unit) = self.units.get_mut(unit) {
            unit.forget_published();
        }
    }

    /// The state of a unit.
    pub fn state(&self, unit: usize) -> Option<State> {
        Some(self.units.get(unit)?.state)
    }

    /// The counters of a unit.
    pub fn counters(&self, unit: usize) -> Option<Counters> {
        Some(self.units.get(unit)?.counters)
    }

    /// The settings of a unit.
    pub fn unit(&self, unit: usize) -> Option<&super::settings::Unit> {
        Some(&self.units.get(unit)?.settings)
    }

    /// The number of units.
    pub fn unit_count(&self) -> usize {
        self.units.len()
    }

    /// Unexpected frames: no request was outstanding for that unit. Another master, or a unit that
    /// is not configured, sends them.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    /// Requests of another master that were seen on the line.
    pub fn rivals(&self) -> u64 {
        self.rivals
    }

    /// The silence after each answer on the line that a unit which says that it is busy was found
    /// to want.
    pub fn rest(&self, unit: usize) -> Duration {
        self.units.get(unit).map(|unit| unit.rest.pause()).unwrap_or_default()
    }

    /// Whether a unit's answers come one request late, or those of all units do.
    pub fn is_one_behind(&self, unit: usize) -> bool {
        self.relay.is_behind() || self.units.get(unit).is_some_and(Unit::is_behind)
    }

    /// Whether each read of a unit is sent more than once, and has been for a minute, as nothing
    /// shows that its answers are not those to other requests.
    pub fn is_doubled(&self, unit: usize) -> bool {
        self.units.get(unit).is_some_and(|unit| unit.is_doubled(self.clock))
    }

    /// Frames of a unit that it sent without being asked, since its answers were right last.
    pub fn surplus(&self, unit: usize) -> u64 {
        self.units.get(unit).map_or(0, Unit::surplus)
    }

    /// How often a unit's answers come, and how many copies of them came, if that is no accident.
    pub fn copied(&self, unit: usize) -> Option<(u32, u64)> {
        self.units.get(unit)?.copied()
    }

    /// Bytes that belong to no frame.
    pub fn noise(&self) -> u64 {
        self.receiver.noise()
    }

    // --- the line
    // ---------------------------------------------------------------------------------------------

    fn tick(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
    }

    fn gap(&self) -> Duration {
        self.settings.speed.gap()
    }

    /// When a unit may be asked.
    fn open_for(&self, unit: &Unit) -> Instant {
        let paused = self.used_at + self.settings.speed.gap() + unit.settings.pause;
        let paused = self.answered_at.map_or(paused, |at| paused.max(at + unit.rest.pause()));
        unit.open_at(self.answered_at).map_or(paused, |at| at.max(paused)).max(self.open_at())
    }

    /// When the next request may be sent.
    fn open_at(&self) -> Instant {
        let paced = self.begun.map(|begun| begun + self.settings.interval);
        // What the other master asked for would be taken for an answer to ours.
        let rival = self.rival.map(|(_, at)| at + self.settings.timeout);
        paced.into_iter().chain(rival).fold(self.quiet_at, Instant::max)
    }

    /// Unexpected bytes: waits until they end, but at most one timeout, because a line may never be
    /// quiet.
    fn overhear(&mut self, now: Instant, bytes: &[u8]) {
        if now >= self.heard + self.gap() {
            self.babble = now;
        }
        self.heard = now;
        self.used_at = now.min(self.babble + self.settings.timeout);
        let quiet = (now + self.gap()).min(self.babble + self.settings.timeout);
        self.quiet_at = self.quiet_at.max(quiet);
        self.receiver.push(bytes);
        let (units, events, strangers) = (&mut self.units, &mut self.events, &mut self.strangers);
        let (rival, rivals, relay) = (&mut self.rival, &mut self.rivals, &mut self.relay);
        self.receiver.overhear(|frame| {
            if frame.is_request {
                *rivals += 1;
                let since = rival.map_or(now, |(_, at)| at);
                *rival = Some((frame.unit, since));
            } else if rival.take_if(|(unit, _)| *unit == frame.unit).is_some() {
                // The answer to the other master.
                *strangers += 1;
            } else if stray(now, frame, None, units, events, strangers) {
                left_over(now, frame, units);
            } else if let Some(unit) = units.iter_mut().find(|unit| unit.settings.address == frame.unit) {
                unit.late_by_itself();
                relay.came_late(frame.unit, frame.pdu);
            }
        });
    }

    /// Looks for the response; `last`: no more bytes will come.
    fn examine(&mut self, now: Instant, last: bool) {
        // Taken out, because the response borrows from it.
        let mut receiver = std::mem::take(&mut self.receiver);
        while self.holds(now, last, &mut receiver) {
            receiver.take_answer();
        }
        let answer = self.search(now, last, &mut receiver);
        // A gateway says so of a unit behind it: that is the unit's silence, not its answer.
        if let Some(Answer::Exception(exception)) = answer
            && exception.is_of_gateway()
        {
            if let Line::Waiting(exchange) = &mut self.line {
                exchange.gateway = Some(exception);
            }
            receiver.clear();
            self.receiver = receiver;
            return self.give_up(now);
        }
        // Some units send the data after this exception, without being asked again.
        if let Some(Answer::Exception(exception)) = answer
            && let Line::Waiting(exchange) = &mut self.line
            && exchange.deferred.is_none()
            && !exchange.of_write
            && !last
            && self.units.get(exchange.unit).is_some_and(|unit| unit.may_defer(exception))
        {
            (exchange.deferred, exchange.knock, exchange.settled) = (Some(exception), None, None);
            receiver.clear();
            self.receiver = receiver;
            return;
        }
        if let Some(answer) = answer
            && let Line::Waiting(exchange) = std::mem::replace(&mut self.line, Line::Idle)
        {
            self.answered(now, exchange, answer);
            receiver.clear();
        }
        self.receiver = receiver;
    }

    /// Whether the next answer is held, as it may be the copy of an earlier one.
    fn holds(&mut self, now: Instant, last: bool, receiver: &mut Receiver) -> bool {
        // Where late answers are reckoned with, each read is sent until several agree.
        if self.medium == Medium::Header || self.relay.is_behind() || self.relay.awaits(now) {
            return false;
        }
        let Some(Answer::Data(data)) = self.search(now, last, receiver) else { return false };
        let Line::Waiting(exchange) = &mut self.line else { return false };
        let Some(unit) = self.units.get_mut(exchange.unit) else { return false };
        let may_be_copy = unit.may_be_copy(now, &exchange.request, data);
        let Some(held) = &mut exchange.held else {
            if may_be_copy {
                let (data, deadline) = (data.to_vec(), exchange.deadline);
                exchange.held = Some(Held { data, other: None, at: now, quiet_at: None, deadline });
                (exchange.knock, exchange.settled) = (None, None);
            }
            return may_be_copy;
        };
        let apart = now.saturating_duration_since(std::mem::replace(&mut held.at, now));
        match held.data == data || may_be_copy {
            true => unit.judge_held(now, data, true),
            false => held.other = Some(data.to_vec()),
        }
        if held.other.is_some() {
            held.quiet_at = Some(now + PAUSES[0].max(2 * apart));
        }
        true
    }

    /// Nothing more comes behind an answer that was held: whether there was one.
    fn take_held(&mut self, now: Instant) -> bool {
        let Line::Waiting(exchange) = &mut self.line else { return false };
        let Some(held) = exchange.held.take() else { return false };
        if let Some(unit) = self.units.get_mut(exchange.unit) {
            unit.judge_held(now, &held.data, held.other.is_some());
        }
        if held.quiet_at.is_some_and(|at| now < at) {
            // Its own may be still to come.
            self.lose(now, false);
            return true;
        }
        let Line::Waiting(exchange) = std::mem::replace(&mut self.line, Line::Idle) else { return false };
        self.answered(now, exchange, Answer::Data(held.other.as_ref().unwrap_or(&held.data)));
        self.receiver.clear();
        true
    }

    fn search<'r>(&mut self, now: Instant, last: bool, receiver: &'r mut Receiver) -> Option<Answer<'r>> {
        let Line::Waiting(exchange) = &mut self.line else { return None };
        // The response to a read never equals the request, but that to a write does; so for writes
        // the echo must be configured.
        if exchange.echo || exchange.request.function() <= 4 {
            match receiver.strip_echo(&self.sent) {
                None if exchange.echo && !last => return None,
                None => {}
                Some(is_echo) => {
                    exchange.echo = false;
                    self.writes.note_echo(is_echo);
                }
            }
        }
        let address = self.units.get(exchange.unit)?.settings.address;
        let (units, events, strangers) = (&mut self.units, &mut self.events, &mut self.strangers);
        let (rivals, sent, relay) = (&mut self.rivals, &self.sent, &self.relay);
        let classes = &self.classes;
        let shape = exchange.request.answer();
        let found = receiver.answer(address, &exchange.request, last, |frame| {
            if frame.is_request {
                // Its own echo after noise is none of another master, and what answers the same
                // question answers ours.
                if sent.get(1..6) != Some(frame.pdu) || sent.first() != Some(&frame.unit) {
                    *rivals += 1;
                    exchange.is_intruded |= frame.unit == address;
                }
                return;
            }
            if exchange.is_intruded && frame.unit == address {
                *strangers += 1;
                return;
            }
            let is_displacing = relay.is_displacing(frame.unit, frame.pdu);
            let (bytes, asked) = (frame.pdu.len().saturating_sub(2), usize::from(shape.length) - 2);
            let is_misfit = frame.unit == address
                && frame.pdu.first() == Some(&shape.function)
                && units.get(exchange.unit).is_some_and(|unit| unit.is_as_odd(bytes, asked));
            let asked = (frame.unit != address).then_some(address);
            let is_other = is_misfit || stray(now, frame, asked, units, events, strangers);
            // Nor does it answer for another one, or with another length.
            let mut sender = units.iter_mut().filter(|unit| unit.settings.address == frame.unit);
            let is_in_order = !(is_displacing && relay.is_in_doubt());
            if is_other && is_in_order && sender.any(|unit| unit.is_copy(now, frame.pdu)) {
                return;
            }
            // A unit that answers twice is no converter that is late.
            exchange.is_displaced |= is_displacing && (frame.unit == address || !is_other);
            if frame.unit == address && !is_other {
                exchange.is_late = true;
            }
            let length = u8::try_from(frame.pdu.len()).unwrap_or(u8::MAX);
            exchange.in_place = frame.pdu.first().map(|function| Shape { function: *function, length });
            if frame.unit != address {
                // One that answers its own requests does not answer another's.
                let sender = units.iter().find(|unit| unit.settings.address == frame.unit);
                let is_sure = is_other && sender.is_none_or(|sender| !sender.is_healthy());
                *(if is_sure { &mut exchange.foreign } else { &mut exchange.other }) = Some(frame.unit);
                if is_other {
                    left_over(now, frame, units);
                }
            }
            if is_other && frame.unit == address {
                exchange.misfit = true;
                // Nor is it one of another function that comes late to a probe.
                if exchange.of_write || classes.may_be_late(units, frame.pdu) {
                    return;
                }
                let (bytes, asked) = (frame.pdu.len().saturating_sub(2), usize::from(shape.length) - 2);
                let announced =
                    frame.pdu.get(1).copied().filter(|count| {
                        matches!(frame.pdu.first(), Some(1..=4)) && usize::from(*count) != bytes
                    });
                let function = frame.pdu.first().copied().unwrap_or_default();
                let asked_function = shape.function;
                let may_be_late = relay.may_be_late(now, Shape { function, length });
                let misfit = Misfit { function, asked_function, bytes, asked, announced, may_be_late };
                if let Some(unit) = units.get_mut(exchange.unit) {
                    unit.misfit(misfit);
                }
                let (unit, bytes) = (exchange.unit, announced.map_or(bytes, usize::from));
                let is_configurable = misfit.may_be_configured();
                events.push_back(Event::Misfit {
                    unit,
                    function,
                    asked_function,
                    bytes,
                    asked,
                    is_configurable,
                });
            }
        });
        match found {
            Found::Answer(_) if exchange.is_intruded && exchange.request.function() <= 4 => {
                exchange.settled = exchange.settled.or(Some(now + SETTLE));
                None
            }
            Found::Answer(answer) => Some(answer),
            Found::Nothing { complete } => {
                let is_behind = exchange.is_late && units.get(exchange.unit).is_some_and(Unit::is_behind)
                    || exchange.is_displaced && relay.is_displaced();
                let complete = complete || is_behind || exchange.settled.is_some() && exchange.is_intruded;
                exchange.settled = complete.then(|| now + SETTLE.max(2 * self.settings.speed.gap()));
                None
            }
        }
    }

    fn answered(&mut self, now: Instant, exchange: Exchange, answer: Answer<'_>) {
        // A line that is a port of this machine has no gateway that could say so.
        if let Answer::Exception(exception) = answer
            && self.medium != Medium::Line
            && !exchange.of_write
            && self
                .units
                .get_mut(exchange.unit)
                .is_some_and(|unit| unit.is_given_up_for(exception, &exchange.request))
        {
            self.line = Line::Waiting(Exchange { gateway: Some(exception), ..exchange });
            return self.lose(now, false);
        }
        let exchange = &exchange;
        if let Some(unit) = self.units.get_mut(exchange.unit) {
            // Something else came behind it.
            exchange.held.iter().for_each(|held| unit.judge_held(now, &held.data, true));
            if let Answer::Data(data) = answer {
                unit.note_taken(now, &exchange.request, data);
            }
        }
        self.release(now);
        self.answered_at = Some(now);
        if matches!(answer, Answer::Data(_)) && !exchange.of_write && self.wants_first_proof() {
            return self.await_first_proof(now, exchange.unit, exchange.asked, answer);
        }
        let unit = self.units.get(exchange.unit);
        let is_behind = unit.is_some_and(Unit::is_behind);
        self.relay.note_rest(unit.map(Unit::rest).unwrap_or_default());
        let trust = self.relay.answered(now, answer, is_behind);
        self.in_place = if trust == Trust::Doubtful { self.in_place } else { 0 };
        let is_out_of_step = self.relay.is_out_of_step();
        if is_out_of_step || self.relay.needs_proof() {
            if let Some(unit) = self.units.get_mut(exchange.unit) {
                unit.count_unused(now, exchange.asked, answer);
                unit.counters.withheld += 1;
                unit.turn_again();
            }
            return match is_out_of_step || exchange.of_write {
                true => self.lose_step(now),
                false => self.await_proof(now),
            };
        }
        self.note_open(now, exchange, answer);
        if exchange.of_write {
            return self.write_answered(now, exchange, answer, trust);
        }
        let (index, is_shared) = (exchange.unit, self.units.len() > 1);
        let Some(unit) = self.units.get_mut(index) else { return };
        unit.came(exchange.deferred.is_some(), exchange.is_knocked, exchange.knock.is_some(), answer);
        let silence = unit.silence_on_line();
        let missed = unit.take_missed(&exchange.request, is_shared).filter(|_| self.medium != Medium::Line);
        unit.rest.answered(now, answer, silence);
        for (_, other) in self.units.iter_mut().enumerate().filter(|(at, _)| *at != index) {
            other.rest.other_answered(answer, silence);
        }
        let Some(unit) = self.units.get_mut(index) else { return };
        let mut news = Vec::new();
        let of = (exchange.purpose, &exchange.request, exchange.asked);
        if trust == Trust::Doubtful && self.medium != Medium::Header && unit.is_spared() {
            // Nothing is known of whether it may be asked again at once. A gateway keeps the pauses
            // of its line itself.
            self.quiet_at = self.quiet_at.max(now + PAUSES[0]);
        }
        let was_behind = unit.is_behind();
        unit.note_awaited(self.relay.awaits(now), self.relay.awaits_several());
        let progress = unit.answered(now, of, (answer, trust), self.relay.several(), &mut news);
        if !was_behind && unit.is_behind() {
            // What is late with one unit is so with all, if it goes by the line; whether it does,
            // the answers of the others show.
            self.relay.suspect();
        }
        if progress != Progress::More {
            self.current = None;
        }
        match progress {
            Progress::More => {}
            // Its reads may never be complete: one may be silent for good, and others refused.
            Progress::Wait => self.note_undecided(now, index),
            Progress::Done => self.complete(now, index, &mut news),
            Progress::End => {
                let jitter = self.random.up_to(unit.settings.jitter);
                unit.end_turn(now, jitter);
            }
        }
        self.tell(index, news);
        let soonest = self.units.iter().filter_map(Unit::soonest_on_line).min();
        // A gateway of Modbus TCP keeps the pauses of its line itself.
        if self.medium == Medium::Network && self.haste.answered(silence, missed, soonest) {
            for (unit, of) in self.units.iter_mut().enumerate() {
                if of.rest_on_line(now) {
                    self.events.push_back(Event::Learned { unit });
                }
            }
        }
    }

    /// Of what was answered, more may come: a request that was sent twice has two answers, and some
    /// gateways give up with an exception that units send, too. On a serial port it is the unit's,
    /// and so it is of a unit that sends nothing else.
    fn note_open(&mut self, now: Instant, exchange: &Exchange, answer: Answer<'_>) {
        let Some(unit) = self.units.get_mut(exchange.unit) else { return };
        unit.refusals = match answer {
            Answer::Exception(_) => unit.refusals.saturating_add(1),
            Answer::Data(_) | Answer::Done => 0,
        };
        // Nor is one that refuses what is asked for, once it came again and again for this read.
        let is_proven = |answer| match answer {
            Answer::Exception(exception) => unit.is_proven(exception, &exchange.request),
            Answer::Data(_) | Answer::Done => false,
        };
        let is_given_up = (1..=REFUSALS_MAX).contains(&unit.refusals) && !is_proven(answer);
        if self.medium != Medium::Line && exchange.is_knocked {
            self.relay.sent_twice(now, exchange.asked + unit.rest());
        } else if self.medium != Medium::Line && is_given_up {
            self.relay.may_have_given_up(now, exchange.asked + unit.rest());
        }
    }

    fn complete(&mut self, now: Instant, index: usize, news: &mut Vec<News>) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let mut payload = Vec::new();
        let jitter = self.random.up_to(unit.settings.jitter);
        if unit.complete(now, jitter, &mut payload, news) {
            // What is new of the unit is told before its reading.
            self.tell(index, std::mem::take(news));
            self.events.push_back(Event::Reading { unit: index, payload });
        }
        self.note_undecided(now, index);
    }

    fn note_undecided(&mut self, now: Instant, index: usize) {
        let is_long = self.units.get(index).is_some_and(|unit| unit.undecided() >= UNDECIDED);
        self.care_for_step(now, is_long);
    }

    fn tell(&mut self, unit: usize, news: Vec<News>) {
        for news in news {
            let event = match news {
                News::Up => Event::Up { unit },
                News::Degraded => Event::Degraded { unit },
                News::Refused { register, why } => {
                    Event::Refused { unit, register, why: self.reason_for(unit, why) }
                }
                News::Learned => Event::Learned { unit },
            };
            self.events.push_back(event);
        }
    }

    /// Ends an exchange; the line is free after the silence.
    fn release(&mut self, now: Instant) {
        self.line = Line::Idle;
        self.quiet_at = now + self.gap();
        self.used_at = now;
        self.babble = now;
    }

    /// Gives up the outstanding request, if there is one: an exception that the data did not follow
    /// is its answer.
    fn give_up(&mut self, now: Instant) {
        if self.take_held(now) {
            return;
        }
        if let Line::Waiting(exchange) = &self.line
            && let Some(exception) = exchange.deferred
            && !exchange.is_intruded
            && let Line::Waiting(exchange) = std::mem::replace(&mut self.line, Line::Idle)
        {
            self.answered(now, exchange, Answer::Exception(exception));
            return self.receiver.clear();
        }
        self.lose(now, false);
    }

    /// A unit that sleeps is woken by a request, and answers the next one if that comes soon.
    fn knock(&mut self, now: Instant) {
        let Line::Waiting(exchange) = &mut self.line else { return };
        if exchange.knock.take_if(|at| *at <= now).is_none() || self.receiver.first().is_some() {
            return;
        }
        let is_paced = self.begun.is_none_or(|begun| now >= begun + self.settings.interval);
        let Some(unit) = self.units.get_mut(exchange.unit).filter(|_| is_paced) else { return };
        unit.knocked(&exchange.request, exchange.asked, now);
        self.relay.asked(now, unit.settings.address, &exchange.request);
        self.classes.note_other();
        (exchange.asked, exchange.is_knocked) = (now, true);
        self.begun = Some(now);
        self.to_send = true;
    }

    /// The same; `closed`: because the port was closed.
    fn lose(&mut self, now: Instant, closed: bool) {
        if !matches!(self.line, Line::Waiting(_)) {
            return;
        }
        let Line::Waiting(exchange) = std::mem::replace(&mut self.line, Line::Idle) else { return };
        if exchange.of_write {
            return self.write_lost(now, &exchange, closed);
        }
        let failure = match exchange.gateway {
            Some(exception) => Failure::Gateway(exception),
            None if exchange.is_intruded => Failure::Intruded,
            None if exchange.misfit => Failure::Misfit,
            None if closed => Failure::Closed,
            None if self.receiver.has_noise() || exchange.unframed > 0 => Failure::Damaged,
            None if exchange.misnumbered => Failure::Misnumbered,
            None => {
                // Where the other is known to answer with this one's address, its own is ours.
                let own = self.units.get(exchange.unit).map(|unit| unit.settings.address);
                let is_exchanged = |other: &u8| {
                    let other = self.units.iter().find(|unit| unit.settings.address == *other);
                    own.is_some() && other.and_then(Unit::answers_from) == own
                };
                let sure = exchange.foreign.or(exchange.other.filter(is_exchanged));
                let unit = self.units.get_mut(exchange.unit);
                let address = unit.and_then(|unit| unit.foreign(sure, exchange.other));
                address.map_or(Failure::Silent, Failure::Foreign)
            }
        };
        let index = exchange.unit;
        let Some(unit) = self.units.get_mut(index) else { return };
        let came = failure == Failure::Damaged && exchange.settled.is_some();
        let function = exchange.request.function();
        let (address, bytes) = (unit.settings.address, self.receiver.noise_held().max(exchange.unframed));
        let is_short = bytes > 2 && bytes < 3 + usize::from(exchange.request.answer().length);
        let is_begun = self.receiver.first().is_some_and(|first| [address, function].contains(&first));
        let lost = Lost {
            failure,
            is_part: failure == Failure::Damaged && self.medium != Medium::Header && is_short && is_begun,
            came,
            is_answer: came && self.receiver.begins_with(address, function),
            bytes,
            is_begun: self.receiver.first() == Some(address),
            is_displaced: exchange.is_displaced,
            is_behind: self.relay.is_displaced(),
        };
        let is_there = failure == Failure::Intruded || lost.is_answer;
        let is_in_place = exchange.is_displaced || exchange.is_late || failure == Failure::Misfit;
        // On a serial port, too, where a gateway was seen to be late.
        let gives_up = self.medium.gives_up(failure) || is_in_place && self.relay.late() > 0;
        match gives_up && (self.medium == Medium::Header || !is_there) {
            true if is_in_place => {
                self.relay.took_place(now, exchange.in_place, exchange.asked + unit.rest());
                // Of the two answers to a request that was sent twice one more is on its way.
                if exchange.is_knocked {
                    self.relay.sent_twice(now, exchange.asked + unit.rest());
                }
            }
            // That of a unit which is dead may come, too, and of a request sent twice both.
            true => {
                for _ in 0..1 + u8::from(exchange.is_knocked) {
                    self.relay.gave_up(now, exchange.asked + unit.rest(), unit.failures == 0);
                }
            }
            false => {}
        }
        self.relay.lost(unit.failures == 0 && !is_there, exchange.is_displaced);
        if gives_up && is_in_place {
            self.note_in_place(now);
        }
        let Some(unit) = self.units.get_mut(index) else { return };
        match failure {
            Failure::Silent
            | Failure::Foreign(_)
            | Failure::Closed
            | Failure::Misnumbered
            | Failure::Intruded
            | Failure::OutOfStep
            | Failure::Gateway(_) => unit.counters.silent += 1,
            Failure::Damaged => unit.counters.damaged += 1,
            // Counted when it came.
            Failure::Misfit => {}
        }
        self.release(now);
        self.current = None;
        self.receiver.clear();
        let Some(unit) = self.units.get_mut(index) else { return };
        let doubled =
            2u32.checked_pow(unit.failures).and_then(|factor| self.settings.backoff.checked_mul(factor));
        let backoff = doubled.unwrap_or(self.settings.backoff_max).min(self.settings.backoff_max);
        unit.was_late(exchange.is_late && failure == Failure::Silent);
        let backoff = if failure == Failure::Intruded { SETTLE } else { backoff };
        let of = (exchange.purpose, &exchange.request, exchange.asked);
        let is_complete = unit.failed(now, of, lost, backoff);
        if lost.is_displaced && lost.is_behind && unit.is_sent_again() {
            // Nothing of another unit may come between.
            self.current = Some(index);
        }
        let went_down = unit.has_gone_down();
        let failures = unit.failures;
        self.events.push_back(Event::Failed { unit: index, failure, failures });
        match went_down {
            Some(State::Degraded) => self.events.push_back(Event::Degraded { unit: index }),
            Some(_) => self.events.push_back(Event::Down { unit: index, failure }),
            None => {}
        }
        if is_complete {
            let mut news = Vec::new();
            self.complete(now, index, &mut news);
            self.tell(index, news);
            if let Some(unit) = self.units.get_mut(index) {
                unit.try_again(now + backoff);
            }
        }
    }

    // --- whose turn it is
    // -------------------------------------------------------------------------------------

    /// Sends the next request, if a unit is due and the line is free.
    fn begin(&mut self, now: Instant) {
        if !matches!(self.line, Line::Idle) || now < self.open_at() || self.events.len() >= EVENTS_MAX {
            return;
        }
        self.begin_proof(now);
        if self.begin_resync(now) || self.begin_write(now) {
            return;
        }
        let Some(index) = self.choose(now) else { return };
        if self.current.is_none() {
            let is_soon = self.stepped_at.is_some_and(|at| now.saturating_duration_since(at) < STEP_EVERY);
            let unit = &mut self.units[index];
            if !is_soon && self.relay.is_unsettled(now) && unit.is_doubled(now) && unit.show_step() {
                self.stepped_at = Some(now);
            }
            self.units[index].begin(now);
            self.current = Some(index);
            self.writes.note_poll();
        }
        if self.open_for(&self.units[index]) > now {
            // The line is kept for it: it needs a longer silence than the others.
            return;
        }
        let Some((purpose, request)) = self.units[index].next_request(now) else {
            // Nothing can be asked of it in this turn.
            let jitter = self.random.up_to(self.units[index].settings.jitter);
            self.units[index].end_turn(now, jitter);
            self.current = None;
            return;
        };
        if self.units[index].is_put_off() {
            self.units.iter_mut().for_each(|unit| unit.served = false);
        }
        let deadline = now + self.cost(&self.units[index], &request);
        let unit = &mut self.units[index];
        // Its part of the time, so that it costs the others nothing.
        let part = unit.may_knock(now).then(|| deadline.saturating_duration_since(now) / KNOCK);
        let knock = part.filter(|part| unit.settings.pause < *part).map(|part| now + part);
        unit.sent(now, self.answered_at);
        self.relay.asked(now, unit.settings.address, &request);
        self.classes.note_other();
        frame::encode(unit.settings.address, &request, &mut self.sent);
        self.to_send = true;
        self.receiver.clear();
        self.rival = None;
        self.begun = Some(now);
        self.current = Some(index);
        let echo = self.settings.echo;
        let exchange = Exchange::new(index, purpose, request, now, deadline);
        self.line = Line::Waiting(Exchange { echo, knock, ..exchange });
    }

    /// How long a request without an answer occupies the line.
    fn cost(&self, unit: &Unit, request: &Request) -> Duration {
        let sent = if request.function() > 6 { frame::FRAME_MAX } else { 8 };
        unit.timeout() + self.settings.speed.characters(sent + 3 + usize::from(request.answer().length))
    }

    /// The time for which the probe of a failed unit occupies the line.
    fn probe_cost(&self, unit: &Unit) -> Duration {
        let request = unit.next_request(self.clock);
        request.map_or(unit.timeout(), |(_, request)| self.cost(unit, &request))
            + self.gap()
            + unit.settings.pause
    }

    /// When the next responding unit is due.
    fn next_live(&self) -> Option<Instant> {
        self.units.iter().filter(|unit| !unit.is_put_off()).map(|unit| unit.due).min()
    }

    fn choose(&self, now: Instant) -> Option<usize> {
        if self.current.is_some() {
            return self.current;
        }
        let due = |dead: bool| {
            let units = self.units.iter().enumerate();
            units.filter(move |(_, unit)| unit.is_put_off() == dead && unit.due <= now)
        };
        let first = |units: &mut dyn Iterator<Item = (usize, &Unit)>| {
            units.min_by_key(|(_, unit)| unit.due).map(|(index, _)| index)
        };
        let dead = first(&mut due(true).filter(|(_, unit)| {
            let fits = self.next_live().is_none_or(|live| live >= now + self.probe_cost(unit));
            let starved = now >= unit.due + unit.settings.period && due(false).all(|(_, unit)| unit.served);
            fits || starved
        }));
        dead.or_else(|| first(&mut due(false)))
    }

    /// When the next request can be sent if the line is free.
    fn next_begin(&self) -> Option<Instant> {
        if let Some(unit) = self.current.and_then(|index| self.units.get(index)) {
            return Some(self.open_for(unit));
        }
        let live = self.next_live();
        let dead = self.units.iter().filter(|unit| unit.is_put_off()).map(|unit| {
            let at = unit.due.max(self.open_at()).max(self.clock);
            if live.is_none_or(|live| live >= at + self.probe_cost(unit)) {
                at
            } else {
                at.max(unit.due + unit.settings.period)
            }
        });
        Some(dead.chain(live).min()?.max(self.open_at()))
    }
}

/// A frame came of this address, whose unit was not asked.
fn left_over(now: Instant, frame: frame::Frame<'_>, units: &mut [Unit]) {
    if let Some(unit) = units.iter_mut().find(|unit| unit.settings.address == frame.unit) {
        unit.left_over(now, frame.pdu);
    }
}

/// A frame that is not the answer waited for. Whether nobody knows whose answer it is. `asked`: the
/// other unit that is being asked, if answers do not say which request they answer.
fn stray(
    now: Instant,
    frame: frame::Frame<'_>,
    asked: Option<u8>,
    units: &mut [Unit],
    events: &mut VecDeque<Event>,
    strangers: &mut u64,
) -> bool {
    let sender = units.iter_mut().enumerate().find(|(_, unit)| unit.settings.address == frame.unit);
    let late = |(index, unit): (usize, &mut Unit)| {
        let after = unit.late(now, frame.pdu, asked)?;
        Some((index, after, unit.take_wait_news()))
    };
    match sender.and_then(late) {
        Some((unit, after, is_news)) => {
            events.push_back(Event::Late { unit, after });
            events.extend(is_news.then_some(Event::Learned { unit }));
            false
        }
        None => {
            *strangers += 1;
            true
        }
    }
}
