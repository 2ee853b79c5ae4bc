//! A stream of frames on a port: each is a reading of the port's own device, or a CoAP message of
//! the node on the line. A device that must be asked is asked here, and only its answers are
//! readings.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::delivery::Delivery;
use super::legibility::{Cause, Fault, Illegible, Legibility};
use super::pending::Bounds;
use super::settings::{Duty, Line, Port};
use super::taker::{Taker, Verdict};
use crate::message::Stamp;
use crate::proto::serial::framing::{self, Decoder, Framing};
use crate::proto::serial::modbus::frame::Speed;
use crate::proto::serial::poll::{self, Poller};
use crate::proto::serial::reading::{Room, Unreadable};
use crate::proto::serial::slipmux;
use crate::proto::serial::writer::{self, Role, Sent, Writer};

/// A frame that answers no command: the reason under which it is counted.
pub(super) const LATE_ANSWER: &str = "late or surplus answer to a command";
/// So long a command waits for the end of a message that has begun: some lines are two wires.
const PATIENCE: Duration = Duration::from_secs(1);

/// The protocol state of a port whose bytes are frames.
#[derive(Debug)]
pub(super) struct Stream {
    decoder: Decoder,
    room: Room,
    pub(super) delivery: Delivery,
    /// Complete frames that were no reading, by reason.
    unreadable: BTreeMap<&'static str, u64>,
    poller: Option<Poller>,
    writing: Option<Writing>,
    /// It is not its turn on a line with others.
    is_held: bool,
    /// Of a line on which nothing is asked.
    legibility: Legibility,
    /// Why the last answer of a device that is asked was no reading, if it was none.
    fault: Option<Fault>,
}

/// The commands of a device that takes some.
#[derive(Debug)]
struct Writing {
    writer: Writer,
    line: Line,
    /// The device is asked first if it is due: questions asked when the last command was over.
    asked_before: Option<u64>,
}

impl Stream {
    pub(super) fn new(framing: &framing::Settings, port: u32, now: Instant) -> Stream {
        Stream {
            decoder: Decoder::new(framing, now),
            room: Room::default(),
            delivery: Delivery::new(port, 0, Bounds::default()),
            unreadable: BTreeMap::new(),
            poller: None,
            writing: None,
            is_held: false,
            fault: None,
            legibility: Legibility::new(match framing.framing {
                Framing::Fixed(size) => size,
                Framing::Length(header) => header.longest().min(framing.max_frame),
                _ => framing.max_frame,
            }),
        }
    }

    /// The device is asked.
    pub(super) fn asked(
        mut self,
        framing: &framing::Settings,
        asked: Option<&poll::Settings>,
        now: Instant,
    ) -> Stream {
        self.poller =
            asked.map(|asked| Poller::new(asked.clone(), as_frame(framing, &asked.question, now), now));
        self
    }

    /// The device takes commands.
    pub(super) fn written(mut self, write: Option<&writer::Settings>, line: Line) -> Stream {
        // A device that is asked may answer questions alike: these are told apart by who was asked.
        let is_asked = self.poller.is_some();
        let writer = write.map(|write| Writer::new(write.clone(), is_asked));
        self.writing = writer.map(|writer| Writing { writer, line, asked_before: None });
        self
    }

    /// Takes a command, and says whether it is taken: one at a time is.
    pub(super) fn write(&mut self, now: Instant, command: writer::Command, within: Duration) -> bool {
        self.writing.as_mut().is_some_and(|writing| writing.writer.write(now, command, within))
    }

    /// What became of a command.
    pub(super) fn poll_sent(&mut self) -> Option<(u64, Sent)> {
        let writing = self.writing.as_mut()?;
        let sent = writing.writer.poll_sent()?;
        writing.asked_before = self.poller.as_ref().map(|poller| poller.counters().questions);
        Some(sent)
    }

    /// Gives up the command that is under way.
    pub(super) fn interrupt_write(&mut self) {
        self.writing.iter_mut().for_each(|writing| writing.writer.line_down());
    }

    /// Whether what was sent last may be sent a second time.
    pub(super) fn is_repeatable(&self) -> bool {
        self.writing.is_none()
    }

    /// There are other devices on the line.
    pub(super) fn share(&mut self) {
        self.is_held = true;
        self.poller.iter_mut().for_each(Poller::share);
    }

    /// Whether it must wait for its turn.
    pub(super) fn hold(&mut self, now: Instant, is_held: bool) {
        self.is_held = is_held;
        let is_writing = self.is_writing(now);
        self.poller.iter_mut().for_each(|poller| poller.hold(is_held || is_writing));
    }

    fn is_writing(&self, now: Instant) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.writer.is_busy(now))
    }

    /// How it stands among those on the same line; `None` if nothing is asked here.
    pub(super) fn turn(&self, now: Instant) -> Option<poll::Turn> {
        let turn = self.poller.as_ref()?.turn();
        if self.is_writing(now) {
            return Some(poll::Turn { is_busy: true, due: None, ..turn });
        }
        let wanted = self.may_write(now).then(|| self.ready_since()).flatten();
        Some(poll::Turn { due: turn.due.map(|due| wanted.map_or(due, |since| since.min(due))), ..turn })
    }

    fn ready_since(&self) -> Option<Instant> {
        self.writing.as_ref().and_then(|writing| writing.writer.ready_since())
    }

    /// Whether a command that is ready may go out, once it is this device's turn: no message is
    /// under way, no question is outstanding, and the device was asked since the last command if
    /// it is due.
    fn may_write(&self, now: Instant) -> bool {
        let Some(writing) = &self.writing else { return false };
        let Some(since) = writing.writer.ready_since().filter(|since| *since <= now) else { return false };
        if self.decoder.is_within() && now < since + PATIENCE {
            return false;
        }
        let Some(poller) = &self.poller else { return true };
        let turn = poller.turn();
        let Some(due) = turn.due else { return false };
        let is_open = turn.opens_at.is_none_or(|at| at <= now);
        let is_owed = writing.writer.is_answered() && !poller.still_to_come(now).is_zero();
        let is_polled = writing.asked_before.is_none_or(|before| poller.counters().questions > before);
        is_open && !is_owed && (is_polled || due > now)
    }

    /// Begins a command, if one is ready and may.
    fn begin_write(&mut self, now: Instant) {
        let may = !self.is_held && self.may_write(now);
        if let Some(Writing { writer, line, .. }) = self.writing.as_mut().filter(|_| may) {
            let characters = writer.frame_length().unwrap_or_default();
            // Start, data, parity and stop bits are twelve at most.
            let speed = Speed { baud: line.baud, bits: 12 };
            writer.begin(now, speed.characters(characters));
        }
        self.hold(now, self.is_held);
    }

    pub(super) fn reopen(&mut self, now: Instant) {
        self.decoder.reopen(now);
        self.decoder.watch(now);
        if let Some(poller) = &mut self.poller {
            // An answer that comes at once is whole; what came before is not asked for.
            self.decoder.clear();
            poller.line_up(now);
        }
        self.hold(now, self.is_held);
    }

    /// The port is closed next: what is whole counts.
    pub(super) fn closing(&mut self, now: Instant, stamp: Stamp, port: &Port, taker: &mut dyn Taker) {
        self.decode(now, stamp, port, taker, &[], |decoder, sink| {
            decoder.cut(now);
            decoder.handle_timeout(now, sink);
        });
    }

    /// What is news of it is told at the next occasion.
    pub(super) fn closed(&mut self, now: Instant) {
        self.interrupt_write();
        self.decoder.cut(now);
        if let Some(poller) = &mut self.poller {
            poller.line_down(now);
        }
    }

    /// Takes over the uncommitted readings of its predecessor, and what may still come.
    pub(super) fn adopt(&mut self, before: &mut Stream, now: Instant) {
        self.delivery.adopt(&mut before.delivery, now);
        self.decoder.follow(&before.decoder);
        if let (Some(own), Some(other)) = (&mut self.poller, &mut before.poller) {
            own.adopt(other, now);
        }
    }

    /// Why nothing that comes can be read, if it is so; a device that is asked has a state instead.
    pub(super) fn illegible(&self) -> Option<&Illegible> {
        self.legibility.illegible()
    }

    /// Why the last answer of a device that is asked was no reading.
    pub(super) fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Complete frames that were no reading, by reason.
    pub(super) fn unreadable(&self) -> &BTreeMap<&'static str, u64> {
        &self.unreadable
    }

    /// The questions, if there are any.
    pub(super) fn poller(&self) -> Option<&Poller> {
        self.poller.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn poller_mut(&mut self) -> Option<&mut Poller> {
        self.poller.as_mut()
    }

    pub(super) fn poll_transmit(&mut self, buffer: &mut Vec<u8>) -> bool {
        if self.writing.as_mut().is_some_and(|writing| writing.writer.poll_transmit(buffer)) {
            return true;
        }
        self.poller.as_mut().is_some_and(|poller| poller.poll_transmit(buffer))
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            framing: self.decoder.counters(),
            readings: self.delivery.readings(),
            unreadable: self.unreadable.values().sum(),
            rivals: 0,
            refused: self.delivery.refused(),
            lost: self.delivery.lost(),
        }
    }

    pub(super) fn handle_bytes(
        &mut self,
        now: Instant,
        stamp: Stamp,
        bytes: &[u8],
        port: &Port,
        taker: &mut dyn Taker,
    ) {
        if self.poller.as_ref().is_some_and(Poller::is_waking) {
            return;
        }
        let stripped = self.poller.as_mut().map(|poller| poller.strip_echo(bytes));
        let bytes = stripped.as_deref().unwrap_or(bytes);
        self.decode(now, stamp, port, taker, bytes, |decoder, sink| decoder.handle_bytes(now, bytes, sink));
        self.decoder.looked(now);
        if let Some(poller) = self.poller.as_mut().filter(|_| self.decoder.is_within()) {
            poller.handle_part(now, self.decoder.poll_timeout());
        }
        // A command may be over, and the device is asked again.
        self.hold(now, self.is_held);
    }

    /// Bytes that are read now have waited for so long at most, however long the line was silent.
    pub(super) fn handle_wait(&mut self, now: Instant, waited: Duration) {
        self.decoder.woken(now, waited);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, stamp: Stamp, port: &Port, taker: &mut dyn Taker) {
        // The shell has read what waited.
        self.decode(now, stamp, port, taker, &[], |decoder, sink| decoder.handle_timeout(now, sink));
        self.decoder.looked(now);
        self.writing.iter_mut().for_each(|writing| writing.writer.handle_timeout(now));
        self.begin_write(now);
        if let Some(poller) = &mut self.poller {
            if poller.handle_timeout(now) {
                self.decoder.clear();
                if let Some((why, begun)) = self.decoder.take_bad() {
                    taker.dropped(why, &begun);
                    self.fault = Some(Fault::new(Cause::Bad(why), &begun));
                }
            }
            tell(poller, self.fault.as_ref(), taker);
        }
        self.delivery.handle_timeout(now, port.name.as_str(), taker);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let poller = self.poller.as_ref().and_then(Poller::poll_timeout);
        let writer = self.writing.as_ref().and_then(|writing| writing.writer.poll_timeout());
        let decoder = [self.decoder.poll_timeout(), self.decoder.poll_look()];
        let own = [self.delivery.poll_timeout(), poller, writer, self.next_write()];
        decoder.into_iter().chain(own).flatten().min()
    }

    /// When a command that is ready may go out, as far as that is known; with a question or an
    /// answer before it, what is heard of those is the occasion.
    fn next_write(&self) -> Option<Instant> {
        let since = self.ready_since().filter(|_| !self.is_held)?;
        let within = if self.decoder.is_within() { since + PATIENCE } else { since };
        let Some(poller) = &self.poller else { return Some(within) };
        let turn = poller.turn();
        turn.due?;
        let at = turn.opens_at.map_or(within, |at| at.max(within));
        self.may_write(at).then_some(at)
    }

    fn decode(
        &mut self,
        now: Instant,
        stamp: Stamp,
        port: &Port,
        taker: &mut dyn Taker,
        bytes: &[u8],
        feed: impl FnOnce(&mut Decoder, &mut dyn FnMut(&[u8])),
    ) {
        let Stream { decoder, room, delivery, unreadable, poller, writing, legibility, fault, .. } = self;
        let (bad, before) = (decoder.counters().bad, ended(&decoder.counters()));
        let is_asked = poller.is_some();
        let was_illegible = legibility.illegible().is_some();
        let mut gave = false;
        match &port.duty {
            Duty::Readings { extractor, .. } => feed(decoder, &mut |frame| {
                let role = writing.as_mut().map(|writing| writing.writer.handle_frame(now, frame));
                if let Some(role @ (Role::Command | Role::Late)) = role {
                    if role == Role::Late {
                        *unreadable.entry(LATE_ANSWER).or_default() += 1;
                    }
                    gave = true;
                    legibility.handle_reading();
                    return;
                }
                if poller.as_mut().is_some_and(|poller| !poller.handle_frame(now, frame)) {
                    return;
                }
                let read = extractor.read(frame, room);
                if let Some(poller) = poller {
                    poller.handle_reading(read.is_ok());
                }
                match read {
                    Ok(reading) => {
                        gave = true;
                        *fault = None;
                        legibility.handle_reading();
                        let _: Verdict = delivery.offer(now, port.name.as_str(), &reading, stamp, taker);
                    }
                    Err(why) => {
                        *unreadable.entry(why.as_str()).or_default() += 1;
                        match is_asked {
                            true => *fault = Some(Fault::new(Cause::Unreadable(why), frame)),
                            false => legibility.handle_frames(now, 1, Cause::Unreadable(why), frame),
                        }
                        taker.unreadable(why, shown(frame));
                    }
                }
            }),
            Duty::Slipmux { .. } => feed(decoder, &mut |frame| match slipmux::decode(frame) {
                Ok(decoded) => {
                    gave = true;
                    legibility.handle_reading();
                    // The others are used only by `serial trace`.
                    if let slipmux::Frame::Coap(message) = decoded {
                        taker.message(message);
                    }
                }
                Err(slipmux::Broken) => {
                    *unreadable.entry(Unreadable::Broken.as_str()).or_default() += 1;
                    legibility.handle_frames(now, 1, Cause::Unreadable(Unreadable::Broken), frame);
                    taker.unreadable(Unreadable::Broken, shown(frame));
                }
            }),
            // Such a port has no stream.
            Duty::Modbus(..) => {}
        }
        if let Some((why, begun)) = self.decoder.take_bad() {
            // Which came first is not known; a reading shows that the line can be read.
            if is_asked && !gave {
                self.fault = Some(Fault::new(Cause::Bad(why), &begun));
            } else if !gave {
                let frames = self.decoder.counters().bad.saturating_sub(bad).max(1);
                self.legibility.handle_frames(now, frames, Cause::Bad(why), &begun);
            }
            taker.dropped(why, &begun);
        }
        let is_endless = before == ended(&self.decoder.counters());
        if is_endless && !bytes.is_empty() && !is_asked {
            self.legibility.handle_endless(now, bytes, self.decoder.awaited_silence());
        }
        let is_illegible = self.legibility.illegible().is_some();
        if is_illegible != was_illegible {
            taker.legible(!is_illegible);
        }
        let was_bad = self.decoder.counters().bad > bad;
        if let Some(poller) = &mut self.poller {
            if was_bad {
                poller.handle_damage();
            }
            tell(poller, self.fault.as_ref(), taker);
        }
    }
}

fn tell(poller: &mut Poller, fault: Option<&Fault>, taker: &mut dyn Taker) {
    while let Some(event) = poller.poll_event() {
        taker.asked(event, fault);
    }
}

/// Frames that came to an end, good or not.
fn ended(counters: &framing::Counters) -> u64 {
    counters.good + counters.bad + counters.early + counters.first
}

/// The first bytes of a frame.
fn shown(frame: &[u8]) -> &[u8] {
    &frame[..frame.len().min(framing::SHOWN_MAX)]
}

/// The question as the framing reads it, if it is one frame: so an echo of it looks.
fn as_frame(framing: &framing::Settings, question: &[u8], now: Instant) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(framing, now);
    decoder.clear();
    let mut frames = Vec::new();
    decoder.handle_bytes(now, question, &mut |frame| frames.push(frame.to_vec()));
    while let Some(at) = decoder.poll_timeout() {
        decoder.handle_timeout(at, &mut |frame| frames.push(frame.to_vec()));
    }
    frames.into_iter().next()
}
