//! How a line is brought in step again that may be later than can be reckoned with.
//!
//! ```text
//!  out of step ──silence: what is under way has come──> probe ──own answer, or none──> in step
//!      ^                                                 │  ^
//!      │                                 another's comes │  │ none is left
//!      └──────── another's came again ───────────────────┴──┴── drain: an address that no unit has
//! ```
//!
//! * Nothing is polled, written or published meanwhile: which request an answer is for, nothing
//!   shows.
//! * The silence is longer than any answer takes. What comes then is kept by the gateway, in order,
//!   and is handed on at once with the next requests.
//! * The *probe* reads something with a function that no read of the line has, of a unit that
//!   answers. So its answer, which may be an exception, is no poll's; that it comes shows that
//!   nothing was kept before it. The same shows if nothing comes: what is kept would have.
//! * If a poll's answer comes in its place, the line is late. Each request to an address that no
//!   unit has takes one answer that is kept, and adds none: so they *drain* the gateway, until one
//!   has no answer. Then the probe shows whether that was all.
//! * An address that answers has a unit, of which this gateway does not know: what was sent to it
//!   adds answers like those to the probe, which then show nothing. So nothing is asked any more,
//!   and nothing published, until the port is opened again.
//! * The same is tried where late answers can be reckoned with, but are kept or make readings
//!   undecided: if it is in vain, the line is read as before.
//! * A gateway that neither drops what it keeps nor hands it on to such requests stays late. It is
//!   put to the test again after a silence that becomes longer each time.

use std::time::{Duration, Instant};

use super::super::frame;
use super::super::pdu::{Answer, Request, Table};
use super::super::write::Written;
use super::{Bus, Event, Line, RESYNC_EVERY, Unit};

/// Answers that are taken from a gateway in one go. If more come, the address has a unit after all.
const DRAIN_MAX: u32 = 64;
/// The longest silence between two tries.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// The addresses that a unit may have; the highest that none has is asked to drain a gateway.
const ADDRESS_MAX: u8 = 247;
/// Of a line whose polls use all functions, the registers that a probe reads: as many as no poll.
const QUANTITIES: std::ops::RangeInclusive<u16> = 1..=125;

/// A line that is out of step.
#[derive(Debug)]
pub(super) struct Resync {
    /// When the next request is sent.
    at: Instant,
    /// The silence before the next try.
    wait: Duration,
    step: Step,
    /// Answers that were taken in this try.
    pulled: u32,
    tries: u32,
    /// Probes whose answers have not come.
    probes: usize,
    /// Answers can be told from others by reading more than once: if it is in vain, that goes on.
    is_readable: bool,
    /// No probe can show anything: for this port, it is over.
    is_stuck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Probe,
    Drain,
    /// The gateway was drained.
    ProbeAgain,
}

/// A request of it that is outstanding.
#[derive(Debug)]
pub(super) struct Sent {
    address: u8,
    request: Request,
    /// An exception can be no poll's.
    is_function_free: bool,
    deadline: Instant,
    /// Bytes came that are no frame.
    pub(super) unframed: usize,
}

impl Sent {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Own,
    /// As its own, but an exception, which a gateway may send, too.
    OwnException,
    Others,
    Nothing,
    /// It cannot be read.
    Damaged,
}

/// Why a write is not carried out.
const OUT_OF_STEP: &str = "answers come later than can be reckoned with, and nothing shows whose they are";

impl Bus {
    /// Whether answers come later than can be reckoned with, so that none is used.
    pub fn is_out_of_step(&self) -> bool {
        self.relay.is_out_of_step()
    }

    /// More answers may still come than can be reckoned with.
    pub(super) fn lose_step(&mut self, now: Instant) {
        self.relay.lose_step();
        self.await_resync(now, false);
        for (unit, of) in self.units.iter_mut().enumerate() {
            if of.lose_step() {
                self.events.push_back(Event::OutOfStep { unit });
            }
        }
    }

    /// Answers may be late, and can be reckoned with: the line is brought in step all the same.
    pub(super) fn try_resync(&mut self, now: Instant) {
        self.await_resync(now, true);
    }

    fn await_resync(&mut self, now: Instant, is_readable: bool) {
        self.current = None;
        let wait = self.longest_rest();
        let step = Step::Probe;
        self.resync = Some(Resync {
            at: now + wait,
            wait,
            step,
            pulled: 0,
            tries: 0,
            probes: 0,
            is_readable,
            is_stuck: false,
        });
        self.end_write_out_of_step();
    }

    fn end_write_out_of_step(&mut self) {
        self.refuse_write(|is_sent| match is_sent {
            true => Written::Timeout(OUT_OF_STEP.into()),
            false => Written::Unasked(OUT_OF_STEP.into()),
        });
    }

    /// No answer takes longer.
    fn longest_rest(&self) -> Duration {
        self.units.iter().map(|unit| unit.rest()).max().unwrap_or_default()
    }

    /// The port is open again: what was kept meanwhile may come.
    pub(super) fn resync_opened(&mut self, now: Instant) {
        let wait = self.longest_rest();
        if let Some(resync) = &mut self.resync {
            (resync.at, resync.step, resync.pulled) = (now + wait.max(resync.wait), Step::Probe, 0);
            (resync.probes, resync.is_stuck) = (0, false);
        } else if self.relay.is_out_of_step() {
            self.lose_step(now);
        }
    }

    /// When something is to be done on an idle line that is out of step.
    pub(super) fn next_resync(&self) -> Option<Instant> {
        let Resync { at, is_stuck, .. } = self.resync.as_ref()?;
        let at = if self.has_write() { self.clock } else { (!is_stuck).then_some(*at)? };
        Some(at.max(self.open_at()))
    }

    /// Sends the next request, if the line is out of step: whether it is.
    pub(super) fn begin_resync(&mut self, now: Instant) -> bool {
        let Some(Resync { at, step, tries, is_stuck, .. }) = self.resync else { return false };
        self.end_write_out_of_step();
        if is_stuck || now < at {
            return true;
        }
        let address = match step {
            Step::Drain => self.empty_address(tries),
            Step::Probe | Step::ProbeAgain => self.probed_address(tries),
        };
        let Some((address, (request, is_function_free))) = address.zip(self.resync_request()) else {
            // There is no address, or no read, that tells anything.
            return self.resync_later(now);
        };
        frame::encode(address, &request, &mut self.sent);
        self.to_send = true;
        self.receiver.clear();
        self.rival = None;
        self.begun = Some(now);
        let timeout = self.units.iter().map(|unit| unit.timeout()).max().unwrap_or(self.settings.timeout);
        let length = 11 + usize::from(request.answer().length);
        let deadline = now + timeout + self.settings.speed.characters(length);
        if let Some(resync) = self.resync.as_mut().filter(|_| step != Step::Drain) {
            resync.probes += 1;
        }
        self.line = Line::Resyncing(Sent { address, request, is_function_free, deadline, unframed: 0 });
        true
    }

    /// A read whose answer is no poll's, and whether its exception is none, too.
    fn resync_request(&self) -> Option<(Request, bool)> {
        let registers = || self.units.iter().flat_map(|unit| &unit.settings.registers);
        let is_free = |table: &Table| registers().all(|register| register.table != *table);
        let tables = [Table::Input, Table::Holding, Table::Discrete, Table::Coil];
        if let Some(table) = tables.into_iter().find(is_free)
            && let Ok(request) = Request::read(table, 0, 1)
        {
            return Some((request, true));
        }
        let is_polled = |request: &Request| {
            let shape = request.answer();
            self.units.iter().any(|unit| unit.asks(shape))
        };
        let reads = QUANTITIES.rev().filter_map(|quantity| Request::read(Table::Holding, 0, quantity).ok());
        reads.into_iter().find(|request| !is_polled(request)).map(|request| (request, false))
    }

    /// A unit that answers.
    fn probed_address(&self, tries: u32) -> Option<u8> {
        let live: Vec<&Unit> = self.units.iter().filter(|unit| unit.failures == 0).collect();
        let of: Vec<&Unit> = if live.is_empty() { self.units.iter().collect() } else { live };
        Some(of.get(tries as usize % of.len().max(1))?.settings.address)
    }

    /// An address that no unit has.
    fn empty_address(&self, tries: u32) -> Option<u8> {
        let is_empty = |address: &u8| self.units.iter().all(|unit| unit.settings.address != *address);
        (1..=ADDRESS_MAX).rev().filter(is_empty).nth(tries as usize % 8)
    }

    /// Bytes came to such a request.
    pub(super) fn hear_resync(&mut self, now: Instant, bytes: &[u8]) {
        self.receiver.push(bytes);
        let Line::Resyncing(sent) = &self.line else { return };
        let mut came = None;
        self.receiver.overhear(|frame| {
            if frame.is_request || came.is_some() {
                return;
            }
            let answer = sent.request.parse_answer(frame.pdu);
            let is_exception = matches!(answer, Ok(Answer::Exception(_)));
            let is_own = frame.unit == sent.address
                && match answer {
                    Ok(Answer::Exception(exception)) if exception.is_of_gateway() => {
                        came = Some(Came::Nothing);
                        return;
                    }
                    Ok(Answer::Exception(_)) => sent.is_function_free,
                    Ok(_) => true,
                    Err(_) => false,
                };
            came = Some(match (is_own, is_exception) {
                (true, true) => Came::OwnException,
                (true, false) => Came::Own,
                (false, _) => Came::Others,
            });
        });
        if let Some(came) = came {
            self.resync_came(now, came);
        }
    }

    /// Nothing more comes to it.
    pub(super) fn resync_timed_out(&mut self, now: Instant) {
        let Line::Resyncing(sent) = &self.line else { return };
        let is_silent = !self.receiver.has_noise() && sent.unframed == 0;
        self.resync_came(now, if is_silent { Came::Nothing } else { Came::Damaged });
    }

    fn resync_came(&mut self, now: Instant, came: Came) {
        self.receiver.clear();
        self.release(now);
        let Some(resync) = &mut self.resync else { return };
        resync.at = now;
        let is_of_probe = matches!(came, Came::Own | Came::OwnException) && resync.probes > 0;
        // Of several probes, it is that to the first.
        resync.probes -= usize::from(is_of_probe);
        if came == Came::Own && resync.step == Step::Drain && !is_of_probe {
            self.lose_step(now);
            if let Some(resync) = &mut self.resync {
                resync.is_stuck = true;
            }
            return;
        }
        match (resync.step, came) {
            // What is left are answers to probes, which may come later.
            (Step::Probe | Step::ProbeAgain, Came::Own | Came::OwnException | Came::Nothing) => {
                let (probes, until) = (resync.probes, now + resync.wait);
                self.resynced(now, probes, until)
            }
            (Step::Probe, Came::Others) => (resync.step, resync.pulled) = (Step::Drain, 0),
            (Step::Drain, Came::Own | Came::OwnException | Came::Others) if resync.pulled < DRAIN_MAX => {
                resync.pulled += 1;
            }
            (Step::Drain, Came::Nothing) => resync.step = Step::ProbeAgain,
            (Step::ProbeAgain, Came::Others)
            | (Step::Drain, Came::Own | Came::OwnException | Came::Others)
            | (_, Came::Damaged) => {
                self.resync_later(now);
            }
        }
    }

    /// It was in vain.
    fn resync_later(&mut self, now: Instant) -> bool {
        let Some(resync) = &mut self.resync else { return false };
        resync.wait = (2 * resync.wait).min(WAIT_MAX.max(resync.wait));
        (resync.at, resync.step) = (now + resync.wait, Step::Probe);
        resync.tries = resync.tries.wrapping_add(1);
        if resync.is_readable {
            (self.resync, self.resync_again) = (None, Some(now + RESYNC_EVERY.1));
        }
        true
    }

    fn resynced(&mut self, now: Instant, probes: usize, until: Instant) {
        (self.resync, self.resync_again) = (None, Some(now + RESYNC_EVERY.0));
        self.relay.resynced(now, probes, until);
        self.units.iter_mut().for_each(|unit| unit.resynced(now));
    }

    /// What a peer of Modbus TCP sent that is no frame.
    pub(super) fn note_resync_unframed(&mut self, bytes: usize) {
        if let Line::Resyncing(sent) = &mut self.line {
            sent.unframed = bytes;
        }
    }
}
