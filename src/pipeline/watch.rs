//! Readings on their way to disk, as `tail` will show them.
//!
//! A commit completes lane by lane, so completions come in another order than the readings were
//! taken, and the tickets of readings that were not kept are among them. Each is therefore found by
//! its ticket. While nobody watches, a few are kept all the same, so that `tail` has something to
//! show when it begins; they are filled into memory that is used again.

use std::collections::hash_map::Entry;

use crate::message::{Content, Method, RecordId};
use crate::number_map::NumberMap;
use crate::proto::address::Ticket;

/// Most readings kept while somebody watches; beyond it they are not shown.
const MAX: usize = 4096;
/// Most readings kept while nobody does: the first of each commit, if it has more.
const RECENT_MAX: usize = 32;
/// Bytes of a payload that are kept.
pub const PREVIEW_BYTES: usize = 64;

/// Which readings are kept to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// None.
    Nobody,
    /// A few, for whoever may ask later.
    Recent,
    /// All, as far as there is room.
    All,
}

/// What `tail` shows of a reading once it is on disk.
#[derive(Debug)]
pub struct Watched {
    /// Its record.
    pub id: RecordId,
    /// Device id.
    pub device: String,
    /// In the device's space.
    pub path: String,
    /// The query of the request; empty = it had none.
    pub query: String,
    /// Where it goes.
    pub topic: String,
    /// How.
    pub method: Method,
    /// Of payload.
    pub bytes: usize,
    /// The first [`PREVIEW_BYTES`] of the payload.
    pub preview: Vec<u8>,
}

impl Default for Watched {
    fn default() -> Watched {
        Watched {
            id: RecordId { run: 0, sequence: 0 },
            device: String::new(),
            path: String::new(),
            query: String::new(),
            topic: String::new(),
            method: Method::Post,
            bytes: 0,
            preview: Vec::new(),
        }
    }
}

impl Watched {
    fn fill(&mut self, id: RecordId, content: &Content<'_>) {
        (self.id, self.method, self.bytes) = (id, content.method, content.payload.len());
        for (text, with) in [
            (&mut self.device, content.device),
            (&mut self.path, content.path),
            (&mut self.query, content.query.unwrap_or_default()),
            (&mut self.topic, content.topic),
        ] {
            text.clear();
            text.push_str(with);
        }
        self.preview.clear();
        self.preview.extend(content.payload.iter().take(PREVIEW_BYTES));
    }
}

/// The readings not completed yet, by ticket. Bounded by [`MAX`]; every one of them leaves with its
/// completion.
#[derive(Debug, Default)]
pub(super) struct Waiting(NumberMap<Ticket, Box<Watched>>);

impl Waiting {
    /// Keeps a reading, in what `spare` gives, until its ticket completes. A ticket that waits
    /// already keeps what it has.
    pub(super) fn keep(
        &mut self,
        attention: Attention,
        ticket: Ticket,
        id: RecordId,
        content: &Content<'_>,
        spare: impl FnOnce() -> Box<Watched>,
    ) {
        let room = match attention {
            Attention::Nobody => 0,
            Attention::Recent => RECENT_MAX,
            Attention::All => MAX,
        };
        if self.0.len() >= room {
            return;
        }
        if let Entry::Vacant(place) = self.0.entry(ticket) {
            let mut watched = spare();
            watched.fill(id, content);
            place.insert(watched);
        }
    }

    /// The reading of a ticket that completed, if it is on disk; one that is not is forgotten.
    pub(super) fn completed(&mut self, ticket: Ticket, stored: bool) -> Option<Box<Watched>> {
        // Under load most readings are not kept, and need no look-up where none is.
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
            test: false,
            reply: None,
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
                Attention::All,
                ticket(count),
                id(count.into()),
                &content(if count % 2 == 0 { "normal" } else { "high" }),
                Box::default,
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
            waiting.keep(Attention::Recent, ticket(count), id(1), &content("t"), Box::default);
        }
        assert_eq!(waiting.0.len(), RECENT_MAX);
        for count in 0..2 * MAX as u32 {
            waiting.keep(Attention::All, ticket(count), id(1), &content("t"), Box::default);
            waiting.keep(Attention::Nobody, ticket(count), id(1), &content("t"), Box::default);
        }
        assert_eq!(waiting.0.len(), MAX);
        for count in 0..2 * MAX as u32 {
            assert!(waiting.completed(ticket(count), false).is_none());
        }
        waiting.keep(Attention::All, ticket(7), id(7), &content("t"), Box::default);
        assert!(waiting.completed(ticket(7), true).is_some() && waiting.completed(ticket(7), true).is_none());
    }
}
