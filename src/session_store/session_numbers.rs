//! Which session has which number in the store, and what the store has to be told.

use std::collections::HashMap;

use super::{Batch, Number};
use crate::proto::dtls::SessionId;

/// See the module. One for each process; it forgets what has ended.
#[derive(Debug)]
pub struct SessionNumbers {
    numbers: HashMap<SessionId, Number>,
    next: Number,
    batch: Batch,
}

impl SessionNumbers {
    /// For a store in which `next` is the first free number.
    pub fn new(next: Number) -> SessionNumbers {
        SessionNumbers { numbers: HashMap::new(), next, batch: Batch::default() }
    }

    /// A session of the store was taken over.
    pub fn restored(&mut self, session: SessionId, number: Number) {
        self.numbers.insert(session, number);
    }

    /// A session of the store was not taken over: it goes.
    pub fn refused(&mut self, number: Number) {
        self.batch.end(number);
    }

    /// A session to be stored. One that cannot be gets no number.
    pub fn established(&mut self, session: SessionId, sealed: Vec<u8>) {
        self.closed(session);
        if self.batch.establish(self.next, sealed) {
            self.numbers.insert(session, self.next);
            self.next += 1;
        }
    }

    /// A session is over. One that is not stored is ignored.
    pub fn closed(&mut self, session: SessionId) {
        if let Some(number) = self.numbers.remove(&session) {
            self.batch.end(number);
        }
    }

    /// The number of a session.
    pub fn number(&self, session: SessionId) -> Option<Number> {
        self.numbers.get(&session).copied()
    }

    /// What there is to be told since the last call.
    pub fn batch(&mut self) -> Option<&mut Batch> {
        if self.batch.is_empty() { None } else { Some(&mut self.batch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_before_it_was_told_is_never_told() {
        let mut numbers = SessionNumbers::new(5);
        numbers.established(SessionId(1), vec![1]);
        numbers.established(SessionId(2), vec![2]);
        numbers.closed(SessionId(1));
        let told = std::mem::take(numbers.batch().unwrap());
        assert_eq!(told, Batch { ended: [].into(), established: [(6, vec![2])].into() });
        assert!(numbers.batch().is_none());
        numbers.closed(SessionId(2));
        numbers.closed(SessionId(2));
        assert_eq!(*numbers.batch().unwrap(), Batch { ended: [6].into(), established: [].into() });
    }

    #[test]
    fn what_cannot_be_stored_has_no_number() {
        let mut numbers = SessionNumbers::new(5);
        numbers.established(SessionId(1), vec![7; crate::session_store::frame::CONTENT_MAX + 1]);
        numbers.established(SessionId(2), vec![2]);
        assert_eq!((numbers.number(SessionId(1)), numbers.number(SessionId(2))), (None, Some(5)));
        let told = std::mem::take(numbers.batch().unwrap());
        assert_eq!(told, Batch { ended: [].into(), established: [(5, vec![2])].into() });
        numbers.closed(SessionId(1));
        assert!(numbers.batch().is_none());
    }

    #[test]
    fn what_was_taken_over_keeps_its_number_and_what_was_refused_goes() {
        let mut numbers = SessionNumbers::new(9);
        numbers.restored(SessionId(1), 3);
        numbers.refused(4);
        numbers.closed(SessionId(1));
        assert_eq!(*numbers.batch().unwrap(), Batch { ended: [3, 4].into(), established: [].into() });
        assert_eq!(numbers.number(SessionId(1)), None);
    }
}
