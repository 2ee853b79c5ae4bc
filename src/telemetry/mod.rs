//! What the gateway tells about itself: log lines, counters, and the limit on what the network may
//! make it say.
//!
//! Sits beside the path, not on it. The cores do not log; they return events and errors, and the
//! shells turn those into lines here. Three invariants:
//!
//! * No control character that came from the network reaches a terminal or a log ([`text`]).
//! * Whatever the network can trigger is limited by kind ([`limited`]), and what was left out is
//!   counted.
//! * A counter's name never changes once released ([`counters`]).
//!
//! The format of a line is pure ([`log`]); only [`io`] touches stderr, the journal and the
//! environment.

pub mod counters;
pub mod io;
pub mod limited;
pub mod log;
pub mod text;
