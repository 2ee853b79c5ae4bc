//! A stream of frames on a port: each is a reading of the port's own device, or a CoAP message of
//! the node on the line. A device that must be asked is asked here, and only its answers are
//! readings.

use std::time::Instant;

use super::counters::Counters;
use super::delivery::Delivery;
use super::legibility::{Cause, Illegible, Legibility};
use super::pending::Bounds;
use super::settings::{Duty, Port};
use super::taker::{Taker, Verdict};
use crate::message::Stamp;
use crate::proto::serial::framing::{self, Decoder, Framing};
use crate::proto::serial::poll::{self, Poller};
use crate::proto::serial::reading::{Room, Unreadable};
use crate::proto::serial::slipmux;

/// The protocol state of a port whose bytes are frames.
#[derive(Debug)]
pub(super) struct Stream {
    decoder: Decoder,
    room: Room,
    pub(super) delivery: Delivery,
    unreadable: u64,
    poller: Option<Poller>,
    /// Of a line on which nothing is asked.
    legibility: Legibility,
}

impl Stream {
    pub(super) fn new(
        framing: &framing::Settings,
        asked: Option<&poll::Settings>,
        port: u32,
        now: Instant,
    ) -> Stream {
        let poller =
            asked.map(|asked| Poller::new(asked.clone(), as_frame(framing, &asked.question, now), now));
        Stream {
            decoder: Decoder::new(framing, now),
            room: Room::default(),
            delivery: Delivery::new(port, 0, Bounds::default()),
            unreadable: 0,
            poller,
            legibility: Legibility::new(match framing.framing {
                Framing::Fixed(size) => size,
                _ => framing.max_frame,
            }),
        }
    }

    pub(super) fn reopen(&mut self, now: Instant) {
        self.decoder.reopen(now);
        if let Some(poller) = &mut self.poller {
            // An answer that comes at once is whole; what came before is not asked for.
            self.decoder.clear();
            poller.line_up(now);
        }
    }

    /// What is news of it is told at the next occasion.
    pub(super) fn closed(&mut self, now: Instant) {
        if let Some(poller) = &mut self.poller {
            poller.line_down(now);
        }
    }

    /// Takes over the uncommitted readings of its predecessor, and what may still come.
    pub(super) fn adopt(&mut self, before: &mut Stream, now: Instant) {
        self.delivery.adopt(&mut before.delivery, now);
        if let (Some(own), Some(other)) = (&mut self.poller, &mut before.poller) {
            own.adopt(other, now);
        }
    }

    /// Why nothing that comes can be read, if it is so; a device that is asked has a state instead.
    pub(super) fn illegible(&self) -> Option<&Illegible> {
        self.legibility.illegible()
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
        self.poller.as_mut().is_some_and(|poller| poller.poll_transmit(buffer))
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            framing: self.decoder.counters(),
            readings: self.delivery.readings(),
            unreadable: self.unreadable,
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
        let stripped = self.poller.as_mut().map(|poller| poller.strip_echo(bytes));
        let bytes = stripped.as_deref().unwrap_or(bytes);
        self.decode(now, stamp, port, taker, bytes, |decoder, sink| decoder.handle_bytes(now, bytes, sink));
        if let Some(poller) = self.poller.as_mut().filter(|_| self.decoder.is_within()) {
            poller.handle_part(now, self.decoder.poll_timeout());
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, stamp: Stamp, port: &Port, taker: &mut dyn Taker) {
        self.decode(now, stamp, port, taker, &[], |decoder, sink| decoder.handle_timeout(now, sink));
        if let Some(poller) = &mut self.poller {
            if poller.handle_timeout(now) {
                self.decoder.clear();
                let _ = self.decoder.take_bad();
            }
            tell(poller, taker);
        }
        self.delivery.handle_timeout(now, port.name.as_str(), taker);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let poller = self.poller.as_ref().and_then(Poller::poll_timeout);
        [self.decoder.poll_timeout(), self.delivery.poll_timeout(), poller].into_iter().flatten().min()
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
        let Stream { decoder, room, delivery, unreadable, poller, legibility } = self;
        let (bad, good) = (decoder.counters().bad, decoder.counters().good);
        let is_asked = poller.is_some();
        let was_illegible = legibility.illegible().is_some();
        let mut gave = false;
        match &port.duty {
            Duty::Readings { extractor, .. } => feed(decoder, &mut |frame| {
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
                        legibility.handle_reading();
                        let _: Verdict = delivery.offer(now, port.name.as_str(), &reading, stamp, taker);
                    }
                    Err(why) => {
                        *unreadable += 1;
                        if !is_asked {
                            legibility.handle_frames(now, 1, Cause::Unreadable(why), frame);
                        }
                        taker.unreadable(why);
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
                    *unreadable += 1;
                    legibility.handle_frames(now, 1, Cause::Unreadable(Unreadable::Broken), frame);
                    taker.unreadable(Unreadable::Broken);
                }
            }),
            // Such a port has no stream.
            Duty::Modbus(_) => {}
        }
        if let Some((why, begun)) = self.decoder.take_bad() {
            // Which came first is not known; a reading shows that the line can be read.
            if !is_asked && !gave {
                let frames = self.decoder.counters().bad.saturating_sub(bad).max(1);
                self.legibility.handle_frames(now, frames, Cause::Bad(why), &begun);
            }
            taker.dropped(why, &begun);
        }
        let is_endless = (bad, good) == (self.decoder.counters().bad, self.decoder.counters().good);
        if is_endless && !bytes.is_empty() && !is_asked {
            self.legibility.handle_endless(now, bytes);
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
            tell(poller, taker);
        }
    }
}

fn tell(poller: &mut Poller, taker: &mut dyn Taker) {
    while let Some(event) = poller.poll_event() {
        taker.asked(event);
    }
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
