//! The readings of one device until they are committed: offered to the gate and the journal, kept
//! while they cannot be accepted, offered again, and counted.
//!
//! Each device of a port has its own, so that a device over its quota does not delay the others.

use std::time::{Duration, Instant};

use super::pending::{Bounds, Held, Pending};
use super::taker::{Taker, Verdict};
use crate::gate::stage::Received;
use crate::message::{Method, Path, Stamp};
use crate::proto::address::SerialTicket;
use crate::proto::serial::reading::Reading;

/// Time until a reading that was not accepted is offered again.
pub const OFFER_AGAIN: Duration = Duration::from_millis(250);

/// The readings of one device that are not committed.
#[derive(Debug)]
pub struct Delivery {
    pending: Pending,
    /// The ticket of the newest reading; the tickets of older ones have lower counts.
    last: SerialTicket,
    again_at: Option<Instant>,
    readings: u64,
    refused: u64,
}

impl Delivery {
    /// The delivery of device `number` on the port with number `port`.
    pub fn new(port: u32, number: u8, bounds: Bounds) -> Delivery {
        Delivery {
            pending: Pending::new(bounds),
            last: SerialTicket { port, delivery: number, count: 0 },
            again_at: None,
            readings: 0,
            refused: 0,
        }
    }

    /// Readings committed, or passed on by a rule with `qos = 0`.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// Readings that the rules or the quota refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Readings lost because they were not accepted before the buffer was full.
    pub fn lost(&self) -> u64 {
        self.pending.lost()
    }

    /// Of these, those since readings wait without a break; 0 while none waits.
    pub fn losing(&self) -> u64 {
        self.pending.losing()
    }

    /// The number of readings in memory: waiting to be accepted, and accepted but not committed.
    pub fn pending(&self) -> (usize, usize) {
        self.pending.counts()
    }

    /// Takes over the uncommitted readings of its predecessor, after a reload.
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

    /// Offers a new reading, after those that wait. If the verdict is [`Verdict::Unavailable`], it
    /// waits too.
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
                self.pending.hold(ticket.count, Held::of(reading, stamp));
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

    /// Offers the waiting readings again if it is time. Returns whether one of them was refused
    /// finally.
    pub fn handle_timeout(&mut self, now: Instant, device: &str, taker: &mut dyn Taker) -> bool {
        if self.again_at.is_none_or(|at| at > now) {
            return false;
        }
        self.again_at = None;
        let refused = self.refused;
        while let Some(held) = self.pending.first() {
            let Ok(path) = Path::parse(&held.path) else {
                // The path was parsed before the reading was kept.
                self.pending.first_gone();
                continue;
            };
            let reading = Reading { path, content_format: held.content_format, payload: &held.payload };
            self.last.count = self.last.count.wrapping_add(1);
            let ticket = self.last;
            match taker.take(device, ticket, received(&reading, held.stamp)) {
                Verdict::Taken => self.pending.first_taken(ticket.count),
                Verdict::Passed => {
                    self.readings += 1;
                    self.pending.first_gone();
                }
                Verdict::Refused => {
                    self.refused += 1;
                    self.pending.first_gone();
                }
                // A reading that waits is not refused for the quota: after an outage, the backlog
                // is delivered at the rate of the quota.
                Verdict::OverQuota | Verdict::Unavailable => {
                    self.again_at = Some(now + OFFER_AGAIN);
                    break;
                }
            }
        }
        self.refused > refused
    }

    /// The reading with this ticket was committed (`stored`) or could not be.
    pub fn handle_completion(&mut self, now: Instant, ticket: SerialTicket, stored: bool) {
        self.pending.complete(ticket.count, stored);
        if stored {
            self.readings += 1;
        } else if !self.pending.is_clear() && self.again_at.is_none() {
            self.again_at = Some(now + OFFER_AGAIN);
        }
    }

    fn ticket(&mut self) -> SerialTicket {
        self.last.count = self.last.count.wrapping_add(1);
        self.last
    }
}

fn received<'a>(reading: &Reading<'a>, stamp: Stamp) -> Received<'a> {
    Received {
        path: reading.path,
        query: None,
        method: Method::Post,
        payload: reading.payload,
        content_format: reading.content_format,
        // A frame larger than the datagram limit gets the larger limit for block-wise transfers.
        blockwise: reading.payload.len() > 1024,
        stamp,
    }
}
