//! The daemon: wiring, and all that is neither protocol nor policy.
//!
//! | module | what |
//! |---|---|
//! | [`hub`] | what happens to a datagram, a completion, a deadline |
//! | [`run`] | start, the tasks round the hub, stop |
//! | [`outbox`] | the journal as the uplink wants to see it |
//! | [`link`] | the uplink as the rest of the daemon holds it |
//! | [`control`] | what the control socket is answered |
//! | [`gateway_status`] | the gateway's retained status |
//! | `engine` | which DTLS engine there is |
//! | `dtls_sink` | what the DTLS engine reports |
//! | `reading_store` | the journal as the pipeline wants to see it |
//! | `sessions` | the sessions as `status` shows them |
//! | [`reload`] | a new configuration, taken over whole or not at all |
//! | [`rejected`] | what the broker refused for good |
//! | [`keeping`] | DTLS sessions from one process to the next |
//! | [`serial`] | the serial ports: a task each |
//! | [`units`] | what happens on a Modbus bus, in the log |
//! | [`report`] | what was found when the journal was opened |
//! | [`fleets`] | the devices of fleets from one process to the next |
//! | [`state`] | what is wrong in the state directory |
//! | [`clock`] | the system's clocks and whether to believe them |
//! | [`notify`] | what systemd is told |
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod clock;
pub mod control;
mod dtls_sink;
mod engine;
pub mod fleets;
pub mod gateway_status;
pub mod hub;
pub mod keeping;
pub mod learned;
pub mod link;
pub mod notify;
pub mod outbox;
mod reading_store;
pub mod rejected;
pub mod reload;
pub mod report;
pub mod run;
pub mod serial;
mod sessions;
pub mod state;
pub mod units;
