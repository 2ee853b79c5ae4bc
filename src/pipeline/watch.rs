//! Readings on their way to disk, as `tail` will show them: kept only while somebody watches.
//!
//! A commit completes lane by lane, so completions come in another order than the readings were
//! taken, and the tickets of readings that were not kept are among them. Each is therefore found by
//! its ticket.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::message::{Content, Method, RecordId};
use crate::proto::address::Ticket;

/// Most readings kept; beyond it they are not shown.
const MAX: usize = 4096;

/// What `tail` shows of a reading once it is on disk.
#[derive(Debug)]
pub struct Watched {
    /// Its record.
    pub id: RecordId,
    /// Device id.
    pub device: String,
    /// In the device's space.
    pub path: String,
    /// Where it goes.
    pub topic: String,
    /// How.
    pub method: Method,
    /// Of payload.
    pub bytes: usize,
}

/// The readings not completed yet, by ticket. Bounded by [`MAX`]; every one of them leaves with its
/// completion.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<Ticket, Watched>);

impl Waiting {
    /// Keeps a reading until its ticket completes. A ticket that waits already keeps what it has.
    pub(super) fn keep(&mut self, ticket: Ticket, id: RecordId, content: &Content<'_>) {
        if self.0.len() >= MAX {
            return;
        }
        if let Entry::Vacant(place) = self.0.entry(ticket) {
            place.insert(Watched {
                id,
                device: content.device.to_owned(),
                path: content.path.to_owned(),
                topic: content.topic.to_owned(),
                method: content.method,
                bytes: content.payload.len(),
            });
        }
    }

    /// The reading of a ticket that completed, if it is on disk; one that is not is forgotten.
    pub(super) fn completed(&mut self, ticket: Ticket, stored: bool) -> Option<Watched> {
        // Nobody watches: the usual case, and no look-up.
        if self.0.is_empty() {
            return None;
        }
        self.0.remove(&ticket).filter(|_| stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ContentFormat, Envelope, Stamp};
    use crate::proto::address::SerialTicket;

    fn content(path: &str) -> Content<'_> {
        Content {
            device: "door-7",
            path,
            query: None,
            topic: "t",
            method: Method::Post,
            content_format: None::<ContentFormat>,
            retain: false,
            envelope: Envelope::None,
            expires_s: None,
            received: Stamp { boottime_ms: 1, wall_ms: None },
            payload: b"1",
        }
    }

    fn ticket(count: u32) -> Ticket {
        Ticket::Serial(SerialTicket { port: 0, delivery: 0, count })
    }

    fn id(sequence: u64) -> RecordId {
        RecordId { run: 1, sequence }
    }

    #[test]
    fn each_reading_is_found_in_whatever_order_the_lanes_complete() {
        let mut waiting = Waiting::default();
        // Two lanes in turn; then one lane completes whole before the other.
        for count in 0..10 {
            waiting.keep(
                ticket(count),
                id(count.into()),
                &content(if count % 2 == 0 { "normal" } else { "high" }),
            );
        }
        let order = (0..10).filter(|count| count % 2 == 1).chain((0..10).filter(|count| count % 2 == 0));
        for count in order {
            // One that was taken before anybody watched is among them.
            assert!(waiting.completed(ticket(count + 100), true).is_none());
            let shown = waiting.completed(ticket(count), true).expect("it waits");
            assert_eq!(shown.id, id(count.into()));
            assert_eq!(shown.path, if count % 2 == 0 { "normal" } else { "high" });
        }
        assert!(waiting.0.is_empty());
    }

    #[test]
    fn what_is_not_stored_is_forgotten_and_there_are_never_more_than_the_bound() {
        let mut waiting = Waiting::default();
        for count in 0..2 * MAX as u32 {
            waiting.keep(ticket(count), id(1), &content("t"));
        }
        assert_eq!(waiting.0.len(), MAX);
        for count in 0..2 * MAX as u32 {
            assert!(waiting.completed(ticket(count), false).is_none());
        }
        waiting.keep(ticket(7), id(7), &content("t"));
        assert!(waiting.completed(ticket(7), true).is_some() && waiting.completed(ticket(7), true).is_none());
    }
}
