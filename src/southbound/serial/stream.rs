//! A stream of frames on a port: each is a reading of the port's own device, or a CoAP message of
//! the node on the line.

use std::time::Instant;

use super::counters::Counters;
use super::delivery::Delivery;
use super::pending::Bounds;
use super::settings::{Duty, Port};
use super::taker::{Taker, Verdict};
use crate::message::Stamp;
use crate::proto::serial::framing::{self, Decoder};
use crate::proto::serial::reading::{Room, Unreadable};
use crate::proto::serial::slipmux;

/// The protocol state of a port whose bytes are frames.
#[derive(Debug)]
pub(super) struct Stream {
    decoder: Decoder,
    room: Room,
    pub(super) delivery: Delivery,
    unreadable: u64,
}

impl Stream {
    pub(super) fn new(framing: &framing::Settings, port: u32, now: Instant) -> Stream {
        Stream {
            decoder: Decoder::new(framing, now),
            room: Room::default(),
            delivery: Delivery::new(port, 0, Bounds::default()),
            unreadable: 0,
        }
    }

    pub(super) fn reopen(&mut self, now: Instant) {
        self.decoder.reopen(now);
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            framing: self.decoder.counters(),
            readings: self.delivery.readings(),
            unreadable: self.unreadable,
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
        self.decode(now, stamp, port, taker, |decoder, sink| decoder.handle_bytes(now, bytes, sink));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, stamp: Stamp, port: &Port, taker: &mut dyn Taker) {
        self.decode(now, stamp, port, taker, |decoder, sink| decoder.handle_timeout(now, sink));
        self.delivery.handle_timeout(now, port.name.as_str(), taker);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.decoder.poll_timeout(), self.delivery.poll_timeout()].into_iter().flatten().min()
    }

    fn decode(
        &mut self,
        now: Instant,
        stamp: Stamp,
        port: &Port,
        taker: &mut dyn Taker,
        feed: impl FnOnce(&mut Decoder, &mut dyn FnMut(&[u8])),
    ) {
        let Stream { decoder, room, delivery, unreadable } = self;
        match &port.duty {
            Duty::Readings { extractor, .. } => {
                feed(decoder, &mut |frame| match extractor.read(frame, room) {
                    Ok(reading) => {
                        let _: Verdict = delivery.offer(now, port.name.as_str(), &reading, stamp, taker);
                    }
                    Err(why) => {
                        *unreadable += 1;
                        taker.unreadable(why);
                    }
                })
            }
            Duty::Slipmux { .. } => feed(decoder, &mut |frame| match slipmux::decode(frame) {
                Ok(slipmux::Frame::Coap(message)) => taker.message(message),
                // Used only by `serial trace`.
                Ok(slipmux::Frame::Diagnostic(_) | slipmux::Frame::Packet(_)) => {}
                Err(slipmux::Broken) => {
                    *unreadable += 1;
                    taker.unreadable(Unreadable::Broken);
                }
            }),
            // Such a port has no stream.
            Duty::Modbus(_) => {}
        }
        if let Some((why, bytes)) = self.decoder.take_bad() {
            taker.dropped(why, &bytes);
        }
    }
}
