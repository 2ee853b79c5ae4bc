//! The journal as the pipeline wants to see it: its tickets are packed into the journal's 128 bits.

use std::cell::RefCell;
use std::rc::Rc;

use crate::gate::stage::Mapped;
use crate::journal::{self, Journal, Refused};
use crate::message::RecordId;
use crate::pipeline::{Completion, Pipeline, ReadingStore};
use crate::proto::address::Ticket;

/// The pipeline into the journal.
pub type Readings = Pipeline<Rc<RefCell<Journal>>>;

impl ReadingStore for Rc<RefCell<Journal>> {
    fn append(&mut self, reading: &Mapped<'_>, ticket: Ticket) -> Result<RecordId, Refused> {
        self.borrow_mut().append(reading, journal::Ticket(ticket.pack()))
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        loop {
            let completion = self.borrow_mut().poll_completion()?;
            // All tickets there were packed above.
            if let Some(ticket) = Ticket::unpack(completion.ticket.0) {
                return Some(Completion { ticket, stored: completion.result.is_ok() });
            }
        }
    }
}
