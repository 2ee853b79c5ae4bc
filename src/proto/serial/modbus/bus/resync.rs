//! How a line is brought in step again whose answers are late.
//!
//! ```text
//!  suspected, or out of step ──> probe ──its answer is the first──────────────> in step
//!              ^                   │ another's comes
//!              │                   v
//!              │                 drain: an address that no unit has, until nothing comes
//!              │                   v
//!              │                 measure: probes, until the first one's answer comes
//!              │                   │          │ none before it
//!              │ more are kept     │          └────────────────────────────────> in step
//!              └───────────────────┤ as many as can be reckoned with
//!                                  └───────────────────────────────────────────> exactly so late
//! ```
//!
//! * Nothing is polled, written or published meanwhile: which request an answer is for,
//!   nothing shows.
//! * A line that is out of step is silent first, for longer than any answer takes. What comes
//!   then is kept by the gateway, in order, and is handed on at once with the next requests.
//! * The *probe* reads something whose answer, which may be an exception, is no poll's
//!   ([`Probe`]), of a unit that answers. It alone proves anything: how many come before it is
//!   how late the line is.
//! * Each request to an address that no unit has takes one answer that is kept, and adds none:
//!   so they *drain* the gateway. That it hands on nothing to them shows nothing: it may not
//!   know the address, or a unit may have it after all. So what is left is *measured*
//!   afterwards.
//! * Silence is no proof, as what is asked may be kept in its turn. But after some in a row to
//!   units none of which ever answered a probe, nothing is left: what is kept would have come.
//! * The same is tried where late answers can be reckoned with, but are kept or make readings
//!   undecided: if it is in vain, the line is read as before, as late as was measured.
//! * What an earlier process asked for may be kept, too. So where values could be exchanged,
//!   the first answer of all is not used: the unit that it came from is sent a probe. Its
//!   silence ends that: what is kept would have come in its place.
//! * A gateway that neither drops what it keeps nor hands it on to such requests stays late.
//!   It is put to the test again after a silence that becomes longer each time.

use std::time::{Duration, Instant};

use super::super::fault::Medium;
use super::super::frame;
use super::super::pdu::{Answer, Shape};
use super::super::write::Written;
use super::probe::{DRAIN, Probe, Whose};
use super::{Bus, Event, Line, RESYNC_EVERY, Unit};

/// Answers that are taken from a gateway in one go. If more come, the address has a unit after
/// all.
const DRAIN_MAX: u32 = 64;
/// Probes of one turn; more than that many late are not counted.
const PROBES_MAX: usize = 64;
/// After so many probes without an answer in a row nothing is kept.
const SILENT_MAX: u32 = 3;
/// The longest silence between two tries.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// The addresses that a unit may have; the highest that none has is asked to drain a gateway.
const ADDRESS_MAX: u8 = 247;

/// A line that is out of step, or may be.
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
    /// Probes in a row without an answer.
    silent: u32,
    /// Answers can be told from others by reading more than once: if it is in vain, that goes
    /// on.
    is_readable: bool,
    /// Nothing shows yet that it is late: writes wait.
    is_quick: bool,
    /// Nor was anything used until now: this unit sent the first answer, and is asked once.
    first: Option<usize>,
    /// The same as the first answer came again: a copy of it, or one that is kept.
    is_copied: bool,
}

impl Resync {
    fn new(at: Instant, wait: Duration) -> Resync {
        Resync {
            at,
            wait,
            step: Step::Probe,
            pulled: 0,
            tries: 0,
            silent: 0,
            is_readable: true,
            is_quick: false,
            first: None,
            is_copied: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Probe,
    Drain,
    /// The gateway was drained, as far as it can be.
    Measure,
}

/// A request of it that is outstanding.
#[derive(Debug)]
pub(super) struct Sent {
    address: u8,
    probe: Probe,
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
    Others,
    /// An exception that may be its own.
    Unclear,
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
        self.tell_out_of_step();
        self.await_resync(now, false);
    }

    fn tell_out_of_step(&mut self) {
        self.relay.lose_step();
        for (unit, of) in self.units.iter_mut().enumerate() {
            if of.lose_step() {
                self.events.push_back(Event::OutOfStep { unit });
            }
        }
    }

    /// Where no reading can be told from others', or some answers are kept, the line is
    /// brought in step, if the gateway can be.
    pub(super) fn care_for_step(&mut self, now: Instant, is_undecided: bool) {
        let is_late = is_undecided && self.relay.late() > 0 || self.relay.is_kept_late(now);
        if is_late && self.may_resync(now) {
            self.await_resync(now, true);
        }
    }

    fn may_resync(&self, now: Instant) -> bool {
        self.resync.is_none() && self.resync_again.is_none_or(|again| now >= again)
    }

    /// Others' answers came in place of so many requests in a row, and no answer was used.
    pub(super) fn note_in_place(&mut self, now: Instant) {
        self.in_place += 1;
        if self.in_place < IN_PLACE_MAX || self.resync.is_some() {
            return;
        }
        self.in_place = 0;
        if self.may_resync(now) {
            self.await_resync(now, true);
        } else if self.relay.late() > 1 {
            // It was tried, and they cannot be told from others either.
            self.lose_step(now);
        }
    }

    fn await_resync(&mut self, now: Instant, is_readable: bool) {
        self.current = None;
        let wait = self.longest_rest();
        self.resync = Some(Resync { is_readable, ..Resync::new(now + wait, wait) });
        self.classes.begin();
        self.end_write_out_of_step();
    }

    /// Answers that were given up are over by time, and the line answers: whether any of them
    /// is kept is put to the proof at once, and with it whether what was not forgotten may be.
    pub(super) fn await_proof(&mut self, now: Instant) {
        let wait = self.longest_rest();
        self.current = None;
        self.resync = Some(Resync { is_quick: true, ..Resync::new(now, wait) });
        self.classes.begin();
    }

    /// The same, if something wants it and no poll is under way.
    pub(super) fn begin_proof(&mut self, now: Instant) {
        if self.current.is_none() && self.may_resync(now) && self.relay.wants_proof() {
            self.await_proof(now);
        }
    }

    /// Whether the first answer of all is put to the proof: a gateway may have kept those to the
    /// requests of an earlier process, and some reads have answers of one length.
    pub(super) fn wants_first_proof(&mut self) -> bool {
        if !std::mem::take(&mut self.is_fresh) || self.medium == Medium::Line || self.resync.is_some() {
            return false;
        }
        let shapes: Vec<Shape> = self.units.iter().flat_map(Unit::shapes).collect();
        shapes.iter().enumerate().any(|(at, shape)| shapes[..at].contains(shape))
    }

    /// It came from this unit, and is not used. If that is silent now, nothing is kept.
    pub(super) fn await_first_proof(
        &mut self,
        now: Instant,
        index: usize,
        asked: Instant,
        answer: Answer<'_>,
    ) {
        if let Some(unit) = self.units.get_mut(index) {
            unit.count_unused(now, asked, answer);
            unit.turn_again();
        }
        self.await_proof(now);
        if let Some(resync) = &mut self.resync {
            resync.first = Some(index);
        }
    }

    /// The connection is closed. In place of the answer to a probe that is as a silence, and the
    /// first proof is not had then.
    pub(super) fn resync_closed(&mut self) {
        let is_probed = matches!(self.line, Line::Resyncing(_));
        let Some(resync) = &mut self.resync else { return };
        resync.silent = if is_probed { resync.silent + 1 } else { 0 };
        if is_probed && resync.first.is_some() {
            self.resync = None;
        }
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
            let wait = if resync.is_quick { Duration::ZERO } else { wait.max(resync.wait) };
            (resync.at, resync.step, resync.pulled) = (now + wait, Step::Probe, 0);
            let is_shown = resync.silent >= SILENT_MAX;
            self.classes.begin();
            if is_shown {
                self.show_nothing(now);
            }
        } else if self.relay.is_out_of_step() {
            self.lose_step(now);
        }
    }

    /// When something is to be done on an idle line that is out of step.
    pub(super) fn next_resync(&self) -> Option<Instant> {
        let Resync { at, is_quick, .. } = self.resync.as_ref()?;
        if self.has_write() && !is_quick {
            // It is refused at once.
            return Some(self.clock.max(self.open_at()));
        }
        Some(self.open_for_all().max(*at))
    }

    /// When any unit may be asked. Where a line wants a silence after an answer, a probe that
    /// comes sooner is missed, and so is the poll after it.
    fn open_for_all(&self) -> Instant {
        self.units.iter().map(|unit| self.open_for(unit)).fold(self.open_at(), Instant::max)
    }

    /// Sends the next request, if the line is out of step: whether it is.
    pub(super) fn begin_resync(&mut self, now: Instant) -> bool {
        let Some(Resync { at, step, tries, silent, is_quick, first, .. }) = self.resync else { return false };
        if !is_quick {
            self.end_write_out_of_step();
        }
        if now < at.max(self.open_for_all()) {
            return true;
        }
        let of = match step {
            Step::Drain => self.empty_address(tries).map(|address| (address, None)),
            Step::Probe | Step::Measure => {
                let first = first.and_then(|first| self.units.get(first));
                let unit = first.or_else(|| self.probed_unit(tries.wrapping_add(silent)));
                unit.map(|unit| (unit.settings.address, Some(unit)))
            }
        };
        let class = if step == Step::Drain { DRAIN } else { self.classes.turn() };
        let probe =
            of.and_then(|(address, unit)| Some((address, self.classes.probe(class, &self.units, unit)?)));
        let Some((address, probe)) = probe else {
            // There is no address, or no read, that tells anything.
            match step {
                Step::Drain => self.measure(now),
                Step::Probe | Step::Measure => self.show_nothing(now),
            }
            return true;
        };
        frame::encode(address, &probe.request, &mut self.sent);
        self.to_send = true;
        self.receiver.clear();
        self.rival = None;
        self.begun = Some(now);
        let asked = |(at, unit): (usize, &Unit)| first.is_none_or(|of| of == at).then(|| unit.timeout());
        let timeouts = self.units.iter().enumerate().filter_map(asked);
        let timeout = timeouts.max().unwrap_or(self.settings.timeout);
        let length = 11 + usize::from(probe.request.answer().length);
        // The first proof is had once: a gateway that waits for a unit longer than a timeout would
        // be late by the polls that come meanwhile.
        let patience = first.map_or(timeout, |_| self.longest_rest().max(timeout));
        let deadline = now + patience + self.settings.speed.characters(length);
        match step {
            Step::Drain => self.classes.note_other(),
            Step::Probe | Step::Measure => self.classes.note_sent(now),
        }
        self.line = Line::Resyncing(Sent { address, probe, deadline, unframed: 0 });
        true
    }

    /// A unit that answers.
    fn probed_unit(&self, tries: u32) -> Option<&Unit> {
        let live: Vec<&Unit> = self.units.iter().filter(|unit| unit.failures == 0).collect();
        let is_sure = |unit: &&Unit| self.classes.is_answered(unit.settings.address);
        let sure: Vec<&Unit> = live.iter().copied().filter(is_sure).collect();
        let live = if sure.is_empty() { live } else { sure };
        let of: Vec<&Unit> = if live.is_empty() { self.units.iter().collect() } else { live };
        of.get(tries as usize % of.len().max(1)).copied()
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
        let (mut came, units, classes) = (None, &mut self.units, &mut self.classes);
        let mut resync = self.resync.as_mut();
        self.receiver.overhear(|frame| {
            if frame.is_request || came.is_some() {
                return;
            }
            if let Some(resync) = &mut resync
                && let Some(first) = resync.first.and_then(|first| units.get(first))
                && first.settings.address == frame.unit
                && first.resembles(now, frame.pdu)
            {
                // What comes behind it tells.
                resync.is_copied = true;
                return;
            }
            // That to a probe of another unit may come in its place.
            let is_ours =
                frame.unit == sent.address || units.iter().any(|unit| unit.settings.address == frame.unit);
            if is_ours {
                classes.note_came(units, frame.pdu);
            }
            // It may come more than once, as others do.
            if let Ok(Answer::Data(data)) = sent.probe.request.parse_answer(frame.pdu)
                && let Some(unit) = units.iter_mut().find(|unit| unit.settings.address == frame.unit)
            {
                unit.note_taken(now, &sent.probe.request, data);
            }
            came = Some(match sent.probe.whose(frame.pdu) {
                Whose::Probes if is_ours => Came::Own,
                Whose::Unclear if is_ours => Came::Unclear,
                Whose::Gateways => Came::Nothing,
                Whose::Probes | Whose::Unclear | Whose::Others => Came::Others,
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
        let Line::Resyncing(Sent { address, .. }) = self.line else { return };
        self.receiver.clear();
        self.release(now);
        if matches!(came, Came::Own | Came::Others | Came::Unclear) {
            self.answered_at = Some(now);
        }
        let Some(resync) = &mut self.resync else { return };
        let is_kept = resync.is_copied && matches!(came, Came::Nothing | Came::Damaged);
        let came = if is_kept { Came::Others } else { came };
        if resync.first.is_some() && matches!(came, Came::Nothing | Came::Damaged) {
            // What is kept would have come, and until more is known reads are sent twice.
            self.resync = None;
            return;
        }
        resync.at = now;
        resync.silent = if came == Came::Nothing { resync.silent + 1 } else { 0 };
        match (resync.step, came) {
            (_, Came::Damaged) => self.resync_later(now),
            (Step::Drain, Came::Others) if resync.pulled < DRAIN_MAX => resync.pulled += 1,
            // Nothing comes, or a unit that nobody knows has the address: what came before its
            // answers has come.
            (Step::Drain, _) => self.measure(now),
            (_, Came::Own) => {
                let late = self.classes.came(address);
                self.judge(now, late);
            }
            (_, Came::Unclear) => {
                self.classes.refuse();
                resync.silent = 0;
            }
            (_, Came::Nothing) if resync.silent >= SILENT_MAX => self.show_nothing(now),
            (_, Came::Nothing) => {}
            (Step::Probe, Came::Others) => self.drain(now),
            (Step::Measure, Came::Others) => {
                if self.classes.sent() >= PROBES_MAX {
                    self.judge(now, PROBES_MAX);
                }
            }
        }
    }

    /// The line is late: what is kept is taken from the gateway.
    fn drain(&mut self, now: Instant) {
        let is_readable = self.relay.is_within() && !self.relay.is_out_of_step();
        if !is_readable && !self.relay.is_out_of_step() {
            self.tell_out_of_step();
        }
        if let Some(resync) = &mut self.resync {
            (resync.at, resync.step, resync.pulled) = (now, Step::Drain, 0);
            resync.is_readable = is_readable;
            (resync.first, resync.is_copied) = (None, false);
            if std::mem::take(&mut resync.is_quick) {
                // What is under way comes first.
                (resync.at, resync.step) = (now + resync.wait, Step::Probe);
                self.classes.begin();
            }
        }
        self.end_write_out_of_step();
    }

    fn measure(&mut self, now: Instant) {
        self.classes.begin();
        if let Some(resync) = &mut self.resync {
            (resync.at, resync.step, resync.silent) = (now, Step::Measure, 0);
        }
    }

    /// It was measured how late the line is.
    fn judge(&mut self, now: Instant, late: usize) {
        let Some(resync) = &self.resync else { return };
        let until = now + resync.wait;
        let outstanding = self.classes.outstanding(now.checked_sub(self.longest_rest()));
        match (resync.step, late) {
            (_, 0) if resync.is_quick => {
                if resync.first.is_some() {
                    self.classes.forget_answered();
                }
                self.resync = None;
                self.relay.proved(now);
                self.relay.leave(now, outstanding, until);
            }
            // What a unit took long for comes later than what it was asked after that.
            (_, 0) => self.resynced(now, outstanding, until, RESYNC_EVERY.0),
            (Step::Probe | Step::Drain, _) => self.drain(now),
            (Step::Measure, _) if self.relay.may_be_late_by(late + outstanding) => {
                self.resynced(now, late + outstanding, until, RESYNC_EVERY.1);
            }
            (Step::Measure, _) => {
                if !self.relay.is_out_of_step() {
                    self.tell_out_of_step();
                }
                self.resync_later(now);
            }
        }
    }

    /// Units that answer are silent to probes: what is kept would have come.
    fn show_nothing(&mut self, now: Instant) {
        if self.resync.take_if(|resync| resync.first.is_some()).is_some() {
            // There is no read that tells anything.
            return;
        }
        let Some(resync) = self.resync.as_ref() else { return };
        let is_sure = |unit: &Unit| unit.failures == 0 && self.classes.is_answered(unit.settings.address);
        if resync.silent > 0 && self.units.iter().any(is_sure) {
            // One that answers these is silent now: the gateway may keep what it answered.
            if !self.relay.is_out_of_step() {
                self.tell_out_of_step();
            }
            return self.resync_later(now);
        }
        let until = now + resync.wait;
        // Those that were asked before the silence may be under way as well.
        let left = self.all_outstanding(now).max(SILENT_MAX as usize);
        if resync.is_quick || resync.is_readable && resync.step == Step::Probe {
            // What is over by time is over then.
            self.relay.proved(now);
            (self.resync, self.resync_again) = (None, Some(now + RESYNC_EVERY.1));
        } else if self.relay.may_be_late_by(left) {
            self.resynced(now, left, until, RESYNC_EVERY.0);
        } else {
            self.resync_later(now);
        }
    }

    /// So many answers to probes may be under way.
    fn all_outstanding(&self, now: Instant) -> usize {
        self.classes.all_outstanding(now.checked_sub(self.longest_rest()))
    }

    /// It was in vain.
    fn resync_later(&mut self, now: Instant) {
        let Some(resync) = &mut self.resync else { return };
        let wait = resync.wait;
        resync.wait = (2 * resync.wait).min(WAIT_MAX.max(resync.wait));
        (resync.at, resync.step) = (now + resync.wait, Step::Probe);
        resync.tries = resync.tries.wrapping_add(1);
        (resync.is_quick, resync.silent) = (false, 0);
        self.classes.begin();
        if !self.relay.is_out_of_step() {
            let until = now + wait;
            (self.resync, self.resync_again) = (None, Some(now + RESYNC_EVERY.1));
            self.relay.leave(now, self.all_outstanding(now), until);
        }
    }

    fn resynced(&mut self, now: Instant, left: usize, until: Instant, again: Duration) {
        (self.resync, self.resync_again) = (None, Some(now + again));
        self.in_place = 0;
        let was_lost = self.relay.is_out_of_step();
        self.relay.resynced(now, left, until);
        self.units.iter_mut().for_each(|unit| unit.resynced(now, was_lost));
    }

    /// What a peer of Modbus TCP sent that is no frame.
    pub(super) fn note_resync_unframed(&mut self, bytes: usize) {
        if let Line::Resyncing(sent) = &mut self.line {
            sent.unframed = bytes;
        }
    }
}

/// Answers to others in place of so many in a row, after which it is found out how late the
/// line is.
const IN_PLACE_MAX: u32 = 8;
