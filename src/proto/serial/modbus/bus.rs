//! The master of a bus: one request at a time, each unit in its own rhythm, and none that keeps the
//! others waiting.
//!
//! ```text
//!  down ──line_up──> idle ──a unit is due, the line is quiet──> waiting ──answer, time-out, damage──> idle
//!    ^─────────────────────────── line_down, at any time ─────────────────────────────────────────────┘
//! ```
//!
//! * A unit that has failed is left alone for a time that doubles up to a bound. It gets its turn
//!   where its time-out makes no other unit late; if there is no such place for a whole period of
//!   it, then once each unit that is due was asked. So units without an answer cost the others one
//!   time-out a cycle at most.
//! * An answer is taken only from the unit asked, with the function and the length asked for, and a
//!   right checksum. What else comes is stepped over while the time-out runs on (MODBUS over Serial
//!   Line V1.02 §2.4.1). How late answers are told from the present one, see `unit`.
//! * No clock, no port, no chance: `now` and a seed come in, bytes and events go out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::frame::{self, Found, Receiver};
use super::pdu::{Answer, Exception, Request};
use super::settings::Settings;
pub use super::unit::{Counters, State};
use super::unit::{Progress, Purpose, Refusal, Unit};
use crate::splitmix::SplitMix64;

/// Nothing more is asked while so many events wait to be collected.
const EVENTS_MAX: usize = 256;
/// So long after the last byte a complete but wrong answer is given up; longer than adapters hold
/// bytes back (16 ms).
const SETTLE: Duration = Duration::from_millis(50);

/// Why a request had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing came from it.
    Silent,
    /// Bytes came that are no frame: an answer damaged by noise, or noise alone.
    Damaged,
}

/// What the shell is told. Units are numbered as in [`Settings::units`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A unit has a reading to publish: JSON, at its path.
    Reading {
        /// Whose.
        unit: usize,
        /// One JSON object.
        payload: Vec<u8>,
    },
    /// A unit answers now, and did not before.
    Up {
        /// Which.
        unit: usize,
    },
    /// A unit has not answered three times in a row.
    Down {
        /// Which.
        unit: usize,
        /// The third time.
        failure: Failure,
    },
    /// A request had no answer.
    Failed {
        /// Whose.
        unit: usize,
        /// How.
        failure: Failure,
        /// In a row, this one counted.
        failures: u32,
    },
    /// A unit refuses to have a register read; its readings come without it. Told once, until it
    /// has been read.
    Refused {
        /// Which unit.
        unit: usize,
        /// Which of its registers, as an index into
        /// [`Unit::registers`](super::settings::Unit::registers).
        register: usize,
        /// Why.
        exception: Exception,
    },
    /// An answer came after its time and was not used: the time-out is too short for this unit.
    Late {
        /// Whose.
        unit: usize,
        /// After its request.
        after: Duration,
    },
}

/// The master.
#[derive(Debug)]
pub struct Bus {
    settings: Settings,
    units: Vec<Unit>,
    line: Line,
    receiver: Receiver,
    sent: Vec<u8>,
    to_send: bool,
    events: VecDeque<Event>,
    /// Not before this is anything sent: silence between frames.
    quiet_at: Instant,
    /// When the bytes that nobody asked for began.
    babble: Instant,
    /// When the last of them came.
    heard: Instant,
    begun: Option<Instant>,
    /// Whose poll goes on.
    current: Option<usize>,
    clock: Instant,
    random: SplitMix64,
    strangers: u64,
}

#[derive(Debug)]
enum Line {
    Down,
    Idle,
    Waiting(Exchange),
}

#[derive(Debug)]
struct Exchange {
    unit: usize,
    purpose: Purpose,
    request: Request,
    asked: Instant,
    deadline: Instant,
    /// Enough bytes came, none of them the answer: given up then unless more come.
    settled: Option<Instant>,
    /// The echo has to come first.
    echo: bool,
}

impl Bus {
    /// A bus whose port is not open yet. `seed` decides the jitter.
    pub fn new(mut settings: Settings, now: Instant, seed: u64) -> Bus {
        let units = std::mem::take(&mut settings.units);
        Bus {
            settings,
            units: units.into_iter().map(|unit| Unit::new(unit, now)).collect(),
            line: Line::Down,
            receiver: Receiver::default(),
            sent: Vec::new(),
            to_send: false,
            events: VecDeque::new(),
            quiet_at: now,
            babble: now,
            heard: now,
            begun: None,
            current: None,
            clock: now,
            random: SplitMix64::new(seed),
            strangers: 0,
        }
    }

    /// The port is open: all units are due.
    pub fn line_up(&mut self, now: Instant) {
        self.tick(now);
        self.line = Line::Idle;
        self.current = None;
        self.to_send = false;
        self.begun = None;
        self.receiver.clear();
        self.quiet_at = now + self.gap();
        self.babble = now;
        self.units.iter_mut().for_each(|unit| unit.start(now));
    }

    /// The port is gone: nothing is asked, and no unit is blamed.
    pub fn line_down(&mut self, now: Instant) {
        self.tick(now);
        self.line = Line::Down;
        self.current = None;
        self.to_send = false;
        self.receiver.clear();
    }

    /// Bytes came from the port.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        self.tick(now);
        for part in bytes.chunks(64) {
            match &mut self.line {
                Line::Down => {}
                Line::Idle => self.overhear(now, part),
                Line::Waiting(_) => {
                    self.receiver.push(part);
                    self.examine(now, false);
                }
            }
        }
    }

    /// Time has passed: to be called when [`Bus::poll_timeout`] says so, and harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        if let Line::Waiting(exchange) = &self.line
            && (now >= exchange.deadline || exchange.settled.is_some_and(|settled| now >= settled))
        {
            self.examine(now, true);
            self.give_up(now);
        }
        self.begin(now);
    }

    /// When [`Bus::handle_timeout`] has something to do; `None` while the port is down.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.line {
            Line::Down => None,
            Line::Waiting(exchange) => {
                Some(exchange.settled.map_or(exchange.deadline, |settled| settled.min(exchange.deadline)))
            }
            Line::Idle if self.events.len() >= EVENTS_MAX => None,
            Line::Idle => Some(self.next_begin()?.max(self.open_at())),
        }
    }

    /// What to write to the port, whole; clears `buffer` and fills it in. `false`: nothing now.
    pub fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        if !std::mem::take(&mut self.to_send) {
            return false;
        }
        buffer.extend_from_slice(&self.sent);
        true
    }

    /// What has happened, in order. At 256 uncollected ones nothing more is asked.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The last reading of this unit was not taken over: its next one is published even if nothing
    /// has changed.
    pub fn forget_published(&mut self, unit: usize) {
        if let Some(unit) = self.units.get_mut(unit) {
            unit.forget_published();
        }
    }

    /// Whether a unit answers.
    pub fn state(&self, unit: usize) -> Option<State> {
        Some(self.units.get(unit)?.state)
    }

    /// What has happened with a unit.
    pub fn counters(&self, unit: usize) -> Option<Counters> {
        Some(self.units.get(unit)?.counters)
    }

    /// What a unit was set up with.
    pub fn unit(&self, unit: usize) -> Option<&super::settings::Unit> {
        Some(&self.units.get(unit)?.settings)
    }

    /// How many units there are.
    pub fn unit_count(&self) -> usize {
        self.units.len()
    }

    /// Whole frames from nobody who was asked: another master, or a unit that is not configured.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    /// Bytes that belonged to no frame.
    pub fn noise(&self) -> u64 {
        self.receiver.noise()
    }

    // --- the line
    // ---------------------------------------------------------------------------------------------

    fn tick(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
    }

    fn gap(&self) -> Duration {
        self.settings.speed.gap() + self.settings.pause
    }

    /// When the line may be used again.
    fn open_at(&self) -> Instant {
        let paced = self.begun.map(|begun| begun + self.settings.interval);
        paced.map_or(self.quiet_at, |paced| paced.max(self.quiet_at))
    }

    /// Bytes that nobody asked for: waits until they end, but not longer than a time-out, for a
    /// line may never be quiet.
    fn overhear(&mut self, now: Instant, bytes: &[u8]) {
        if now >= self.heard + self.gap() {
            self.babble = now;
        }
        self.heard = now;
        let quiet = (now + self.gap()).min(self.babble + self.settings.timeout);
        self.quiet_at = self.quiet_at.max(quiet);
        self.receiver.push(bytes);
        let (units, events, strangers) = (&mut self.units, &mut self.events, &mut self.strangers);
        self.receiver.overhear(|frame| stray(now, frame, units, events, strangers));
    }

    /// Looks whether the answer has come; `last`: nothing more will.
    fn examine(&mut self, now: Instant, last: bool) {
        // Taken out, so that an answer in it can be handed on.
        let mut receiver = std::mem::take(&mut self.receiver);
        if let Some((unit, purpose, answer)) = self.search(now, last, &mut receiver) {
            self.answered(now, unit, purpose, answer);
            receiver.clear();
        }
        self.receiver = receiver;
    }

    fn search<'r>(
        &mut self,
        now: Instant,
        last: bool,
        receiver: &'r mut Receiver,
    ) -> Option<(usize, Purpose, Answer<'r>)> {
        let Line::Waiting(exchange) = &mut self.line else { return None };
        // A read is never answered with itself, but a write is; so there the owner has to say
        // whether the line echoes.
        if exchange.echo || exchange.request.function() <= 4 {
            match receiver.strip_echo(&self.sent) {
                None if exchange.echo && !last => return None,
                None => {}
                Some(_) => exchange.echo = false,
            }
        }
        let address = self.units.get(exchange.unit)?.settings.address;
        let (units, events, strangers) = (&mut self.units, &mut self.events, &mut self.strangers);
        let found = receiver.answer(address, &exchange.request, last, |frame| {
            stray(now, frame, units, events, strangers);
        });
        match found {
            Found::Answer(answer) => Some((exchange.unit, exchange.purpose, answer)),
            Found::Nothing { complete } => {
                exchange.settled = complete.then(|| now + SETTLE.max(2 * self.settings.speed.gap()));
                None
            }
        }
    }

    fn answered(&mut self, now: Instant, index: usize, purpose: Purpose, answer: Answer<'_>) {
        self.release(now);
        let Some(unit) = self.units.get_mut(index) else { return };
        let mut refusals = Vec::new();
        let (progress, came_up) = unit.answered(purpose, answer, &mut refusals);
        if came_up {
            self.events.push_back(Event::Up { unit: index });
        }
        for Refusal { register, exception } in refusals {
            self.events.push_back(Event::Refused { unit: index, register, exception });
        }
        if progress == Progress::Done {
            self.current = None;
            let mut payload = Vec::new();
            let jitter = self.random.up_to(unit.settings.jitter);
            if unit.complete(now, jitter, &mut payload) {
                self.events.push_back(Event::Reading { unit: index, payload });
            }
        }
    }

    /// The line is free again after its silence.
    fn release(&mut self, now: Instant) {
        self.line = Line::Idle;
        self.quiet_at = now + self.gap();
        self.babble = now;
    }

    /// The answer did not come, if it is still waited for.
    fn give_up(&mut self, now: Instant) {
        let Line::Waiting(exchange) = &self.line else { return };
        let failure = if self.receiver.has_noise() { Failure::Damaged } else { Failure::Silent };
        let (index, asked, shape) = (exchange.unit, exchange.asked, exchange.request.answer());
        self.release(now);
        self.current = None;
        self.receiver.clear();
        let Some(unit) = self.units.get_mut(index) else { return };
        match failure {
            Failure::Silent => unit.counters.silent += 1,
            Failure::Damaged => unit.counters.damaged += 1,
        }
        let doubled =
            2u32.checked_pow(unit.failures).and_then(|factor| self.settings.backoff.checked_mul(factor));
        let backoff = doubled.unwrap_or(self.settings.backoff_max).min(self.settings.backoff_max);
        let went_down = unit.failed(now, asked, shape, backoff);
        let failures = unit.failures;
        self.events.push_back(Event::Failed { unit: index, failure, failures });
        if went_down {
            self.events.push_back(Event::Down { unit: index, failure });
        }
    }

    // --- whose turn it is
    // -------------------------------------------------------------------------------------

    /// Asks the next unit, if one is due and the line is free.
    fn begin(&mut self, now: Instant) {
        if !matches!(self.line, Line::Idle) || now < self.open_at() || self.events.len() >= EVENTS_MAX {
            return;
        }
        let Some(index) = self.choose(now) else { return };
        let Some((purpose, request)) = self.units[index].next_request() else {
            // Nothing can be asked of it.
            self.units[index].schedule(now, Duration::ZERO);
            self.current = None;
            return;
        };
        if self.units[index].failures > 0 {
            self.units.iter_mut().for_each(|unit| unit.served = false);
        }
        let deadline = now + self.cost(&request);
        let unit = &mut self.units[index];
        unit.served = true;
        unit.counters.requests += 1;
        frame::encode(unit.settings.address, &request, &mut self.sent);
        self.to_send = true;
        self.receiver.clear();
        self.begun = Some(now);
        self.current = Some(index);
        let echo = self.settings.echo;
        self.line = Line::Waiting(Exchange {
            unit: index,
            purpose,
            request,
            asked: now,
            deadline,
            settled: None,
            echo,
        });
    }

    /// How long a request without an answer occupies the line.
    fn cost(&self, request: &Request) -> Duration {
        let sent = if request.function() > 6 { frame::FRAME_MAX } else { 8 };
        self.settings.timeout
            + self.settings.speed.characters(sent + 3 + usize::from(request.answer().length))
    }

    /// How long the probe of a unit that does not answer occupies the line.
    fn probe_cost(&self, unit: &Unit) -> Duration {
        unit.next_request().map_or(self.settings.timeout, |(_, request)| self.cost(&request)) + self.gap()
    }

    /// When the next answering unit is due.
    fn next_live(&self) -> Option<Instant> {
        self.units.iter().filter(|unit| unit.failures == 0).map(|unit| unit.due).min()
    }

    fn choose(&self, now: Instant) -> Option<usize> {
        if self.current.is_some() {
            return self.current;
        }
        let due = |dead: bool| {
            let units = self.units.iter().enumerate();
            units.filter(move |(_, unit)| (unit.failures > 0) == dead && unit.due <= now)
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

    /// When a unit can be asked next, the line being free.
    fn next_begin(&self) -> Option<Instant> {
        if self.current.is_some() {
            return Some(self.open_at());
        }
        let live = self.next_live();
        let dead = self.units.iter().filter(|unit| unit.failures > 0).map(|unit| {
            let at = unit.due.max(self.open_at()).max(self.clock);
            if live.is_none_or(|live| live >= at + self.probe_cost(unit)) {
                at
            } else {
                at.max(unit.due + unit.settings.period)
            }
        });
        dead.chain(live).min()
    }
}

/// A frame that is not the answer waited for.
fn stray(
    now: Instant,
    frame: frame::Frame<'_>,
    units: &mut [Unit],
    events: &mut VecDeque<Event>,
    strangers: &mut u64,
) {
    let sender = units.iter_mut().enumerate().find(|(_, unit)| unit.settings.address == frame.unit);
    match sender.and_then(|(index, unit)| Some((index, unit.late(now, frame.pdu)?))) {
        Some((unit, after)) => events.push_back(Event::Late { unit, after }),
        None => *strangers += 1,
    }
}
