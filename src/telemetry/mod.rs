//! Telemetry: log lines, counters, and the limit on log lines that the network causes.
//!
//! The cores do not log; they return events and errors, and the shells turn these into log lines.
//! Invariants:
//!
//! * No control character from the network reaches a terminal or a log ([`text`]).
//! * Log lines that the network can trigger are limited per kind ([`limited`]), and suppressed ones
//!   are counted.
//! * The name of a released counter never changes ([`counters`]).
//!
//! Formatting is pure ([`log`]); only [`io`] accesses stderr, the journal and the environment.

pub mod charset;
pub mod counters;
pub mod hint;
pub mod io;
pub mod limited;
pub mod log;
pub mod text;
