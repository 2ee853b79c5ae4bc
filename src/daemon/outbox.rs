//! The journal as the uplink wants to see it. The two do not know each other; here they meet.

use crate::journal::{self, Journal};
use crate::message::{Lane, RecordId};
use crate::northbound::reason_code::Cause;
use crate::northbound::{Loss, Next, Outbox, Record, RejectedFull};

impl Outbox for Journal {
    fn next(&mut self, lane: Lane) -> Next<'_> {
        match Journal::next(self, lane) {
            journal::Next::Record(stored) => Next::Record(Record {
                id: stored.id,
                sequence: stored.sequence,
                original: stored.original,
                same_boot: stored.same_boot,
                content: stored.content,
            }),
            journal::Next::Empty => Next::Empty,
            journal::Next::Pending => Next::Pending,
        }
    }

    fn rewind(&mut self, lane: Lane) {
        Journal::rewind(self, lane);
    }

    fn seek(&mut self, lane: Lane, sequence: u64) {
        Journal::seek(self, lane, sequence);
    }

    fn newest(&self, lane: Lane) -> u64 {
        Journal::newest(self, lane)
    }

    fn release(&mut self, lane: Lane, sequence: u64) {
        Journal::release(self, lane, sequence);
    }

    fn reject(&mut self, lane: Lane, sequence: u64, cause: Cause) -> Result<(), RejectedFull> {
        // Full, or the disk does not take it: either way the record stays and the lane waits.
        Journal::reject(self, lane, sequence, cause.to_byte()).map_err(|_| RejectedFull)
    }

    fn expire(&mut self, lane: Lane, sequence: u64) {
        Journal::lose(self, lane, sequence, journal::LossCause::Expired);
    }

    fn published_id(&self, lane: Lane, id: RecordId) -> RecordId {
        Journal::published_id(self, lane, id)
    }

    fn loss(&mut self, lane: Lane, index: usize) -> Option<Loss> {
        let report = Journal::loss(self, lane, index)?;
        Some(Loss {
            lane: report.lane,
            number: report.number,
            cause: report.cause.as_str(),
            count: report.count,
            first: report.first,
            last: report.last,
        })
    }

    fn loss_reported(&mut self, lane: Lane, number: u64, count: u64) {
        Journal::loss_published(self, lane, number, count);
    }
}
