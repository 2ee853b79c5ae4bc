//! DTLS sessions that outlive the daemon: where their sealed bytes are kept.
//!
//! docs/session-store.md has the format and what a crash leaves. What is sealed is the engine's
//! ([`export`](crate::proto::dtls::server::export)); here it is bytes under a number.
//!
//! * [`frame`] is what stands in the file, [`log`] the file as a whole, over a [`storage`] that can
//!   be a disk in memory; [`handover`] is what one process leaves for the next within one boot.
//! * [`Batch`] is what the path has for the next commit; [`session_numbers`] remembers which
//!   session has which number.
//! * [`io`] has the directory, its lock, its key and the thread that writes;
//!   [`persistence`](io::persistence) takes the sessions from the engine and gives them back.
//!
//! Nothing kept here is worth waiting for: every fault costs handshakes, and nothing else.

pub mod frame;
pub mod handover;
pub mod io;
pub mod log;
pub mod session_numbers;
pub mod storage;

use std::collections::{BTreeMap, BTreeSet};

/// A session's number in the store. Never used twice in one log.
pub type Number = u64;

/// A session as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub number: Number,
    /// The run it was written in, counted from 1.
    pub run: u32,
    /// `1..=4096` bytes, sealed.
    pub sealed: Vec<u8>,
}

/// What is to be committed next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Sessions that are over.
    pub ended: BTreeSet<Number>,
    /// Sessions that are new.
    pub established: BTreeMap<Number, Vec<u8>>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.established.is_empty()
    }

    /// Takes a session up. False: it cannot be stored, being empty or longer than
    /// [`frame::CONTENT_MAX`].
    pub fn establish(&mut self, number: Number, sealed: Vec<u8>) -> bool {
        let fits = (1..=frame::CONTENT_MAX).contains(&sealed.len());
        if fits {
            self.established.insert(number, sealed);
        }
        fits
    }

    /// A session is over. One that has not been written yet never will be.
    pub fn end(&mut self, number: Number) {
        if self.established.remove(&number).is_none() {
            self.ended.insert(number);
        }
    }
}

impl Batch {
    /// Adds what came later.
    pub fn merge(&mut self, later: &mut Batch) {
        for number in std::mem::take(&mut later.ended) {
            self.end(number);
        }
        self.established.append(&mut later.established);
    }
}
