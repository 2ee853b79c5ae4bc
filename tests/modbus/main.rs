//! Modbus RTU: the core in virtual time against units made up here, and for real against pymodbus
//! on a pseudo-terminal.
#![cfg(feature = "modbus")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests may touch the machine")]

mod closed;
mod converter;
mod decoder;
mod doubt;
mod gateway;
mod kept;
mod late;
mod line;
mod map;
mod noise;
mod peer;
mod reasons;
mod remembered;
mod schedule;
mod silence;
mod straggler;
mod support;
mod template;
mod validation;
mod write;
