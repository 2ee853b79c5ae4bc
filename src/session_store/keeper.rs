//! Which session has which number in the store, and what the store has to be told.

use std::collections::HashMap;

use super::{Batch, Number};
use crate::proto::dtls::SessionId;

/// See the module. One for each process; it forgets what has ended.
#[derive(Debug)]
pub struct Keeper {
    numbers: HashMap<SessionId, Number>,
    next: Number,
    batch: Batch,
}

impl Keeper {
    /// For a store in which `next` is the first free number.
    pub fn new(next: Number) -> Keeper {
        Keeper { numbers: HashMap::new(), next, batch: Batch::default() }
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
        let mut keeper = Keeper::new(5);
        keeper.established(SessionId(1), vec![1]);
        keeper.established(SessionId(2), vec![2]);
        keeper.closed(SessionId(1));
        let told = std::mem::take(keeper.batch().unwrap());
        assert_eq!(told, Batch { ended: [].into(), established: [(6, vec![2])].into() });
        assert!(keeper.batch().is_none());
        keeper.closed(SessionId(2));
        keeper.closed(SessionId(2));
        assert_eq!(*keeper.batch().unwrap(), Batch { ended: [6].into(), established: [].into() });
    }

    #[test]
    fn what_cannot_be_stored_has_no_number() {
        let mut keeper = Keeper::new(5);
        keeper.established(SessionId(1), vec![7; crate::session_store::frame::CONTENT_MAX + 1]);
        keeper.established(SessionId(2), vec![2]);
        assert_eq!((keeper.number(SessionId(1)), keeper.number(SessionId(2))), (None, Some(5)));
        let told = std::mem::take(keeper.batch().unwrap());
        assert_eq!(told, Batch { ended: [].into(), established: [(5, vec![2])].into() });
        keeper.closed(SessionId(1));
        assert!(keeper.batch().is_none());
    }

    #[test]
    fn what_was_taken_over_keeps_its_number_and_what_was_refused_goes() {
        let mut keeper = Keeper::new(9);
        keeper.restored(SessionId(1), 3);
        keeper.refused(4);
        keeper.closed(SessionId(1));
        assert_eq!(*keeper.batch().unwrap(), Batch { ended: [3, 4].into(), established: [].into() });
        assert_eq!(keeper.number(SessionId(1)), None);
    }
}
