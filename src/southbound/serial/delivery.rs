//! One device's readings on their way to disk: offered, kept while they cannot be taken, offered again, counted.
//!
//! Each device of a port has its own, so that one over its quota keeps no other waiting.

use std::time::{Duration, Instant};

use super::pending::{Bounds, Held, Pending};
use super::port::{Taker, Verdict};
use crate::gate::stage::Received;
use crate::message::{Method, Path, Stamp};
use crate::proto::serial::reading::Reading;

/// How long to wait before what the journal did not take is offered again.
pub const OFFER_AGAIN: Duration = Duration::from_millis(250);
/// The lowest bits of a ticket count the readings of one delivery; the 8 above them are its number in its port.
const COUNT_BITS: u32 = 24;

/// One device's readings that are not committed.
#[derive(Debug)]
pub struct Delivery {
    pending: Pending,
    /// Above the lowest [`COUNT_BITS`] of all its tickets.
    space: u128,
    last: u32,
    again_at: Option<Instant>,
    readings: u64,
    refused: u64,
}

impl Delivery {
    /// The `number`th of a port, whose tickets have `space` above their lowest 32 bits.
    pub fn new(space: u128, number: u8, bounds: Bounds) -> Delivery {
        Delivery {
            pending: Pending::new(bounds),
            space: space | u128::from(number) << COUNT_BITS,
            last: 0,
            again_at: None,
            readings: 0,
            refused: 0,
        }
    }

    /// Which of its port a ticket is of.
    pub fn number_of(ticket: u128) -> u8 {
        (ticket >> COUNT_BITS) as u8
    }

    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// Readings that no rule or quota allowed.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Readings lost because the journal did not take them for too long.
    pub fn lost(&self) -> u64 {
        self.pending.lost()
    }

    /// Readings in memory: waiting for the journal, and on their way to disk.
    pub fn pending(&self) -> (usize, usize) {
        self.pending.counts()
    }

    /// Goes on with what its predecessor had not stored.
    pub fn adopt(&mut self, predecessor: &mut Delivery, now: Instant) {
        let bounds = self.pending.bounds();
        self.pending.adopt(std::mem::replace(&mut predecessor.pending, Pending::new(bounds)));
        if !self.pending.is_clear() {
            self.again_at = Some(now);
        }
    }

    /// When [`Delivery::handle_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.again_at
    }

    /// Offers a new reading, behind those that wait. [`Verdict::Unavailable`]: it waits too.
    pub fn offer(
        &mut self,
        now: Instant,
        device: &str,
        reading: &Reading<'_>,
        stamp: Stamp,
        taker: &mut dyn Taker,
    ) -> Verdict {
        let verdict = if self.pending.is_clear() {
            let ticket = self.ticket();
            let verdict = taker.take(device, ticket, received(reading, stamp));
            if verdict == Verdict::Taken {
                self.pending.hold(ticket, Held::of(reading, stamp));
            }
            verdict
        } else {
            Verdict::Unavailable
        };
        match verdict {
            Verdict::Taken => {}
            Verdict::Passed => self.readings += 1,
            Verdict::Refused | Verdict::OverQuota => self.refused += 1,
            Verdict::Unavailable => {
                self.pending.wait(Held::of(reading, stamp));
                self.again_at.get_or_insert(now + OFFER_AGAIN);
            }
        }
        verdict
    }

    /// Offers again what waits, if it is time. Whether one that waited was refused for good.
    pub fn handle_timeout(&mut self, now: Instant, device: &str, taker: &mut dyn Taker) -> bool {
        if self.again_at.is_none_or(|at| at > now) {
            return false;
        }
        self.again_at = None;
        let refused = self.refused;
        while let Some(held) = self.pending.first() {
            let Ok(path) = Path::parse(&held.path) else {
                // It was parsed before it was held.
                self.pending.first_gone();
                continue;
            };
            let reading = Reading { path, content_format: held.content_format, payload: &held.payload };
            self.last = self.last.wrapping_add(1);
            let ticket = ticket(self.space, self.last);
            match taker.take(device, ticket, received(&reading, held.stamp)) {
                Verdict::Taken => self.pending.first_taken(ticket),
                Verdict::Passed => {
                    self.readings += 1;
                    self.pending.first_gone();
                }
                Verdict::Refused => {
                    self.refused += 1;
                    self.pending.first_gone();
                }
                // Once let in, it keeps its claim: what comes after an outage comes at the quota's pace.
                Verdict::OverQuota | Verdict::Unavailable => {
                    self.again_at = Some(now + OFFER_AGAIN);
                    break;
                }
            }
        }
        self.refused > refused
    }

    /// A reading under this ticket is on disk, or could not be put there.
    pub fn handle_completion(&mut self, now: Instant, ticket: u128, stored: bool) {
        self.pending.complete(ticket, stored);
        if stored {
            self.readings += 1;
        } else if !self.pending.is_clear() && self.again_at.is_none() {
            self.again_at = Some(now + OFFER_AGAIN);
        }
    }

    fn ticket(&mut self) -> u128 {
        self.last = self.last.wrapping_add(1);
        ticket(self.space, self.last)
    }
}

fn ticket(space: u128, count: u32) -> u128 {
    space | u128::from(count & ((1 << COUNT_BITS) - 1))
}

fn received<'a>(reading: &Reading<'a>, stamp: Stamp) -> Received<'a> {
    Received {
        path: reading.path,
        method: Method::Post,
        payload: reading.payload,
        content_format: reading.content_format,
        // It came whole; the larger limit holds for frames that a single datagram could not carry.
        blockwise: reading.payload.len() > 1024,
        stamp,
    }
}
