//! What a bus is told: its timing, its units and their register maps, already validated.

use std::time::Duration;

use super::change::Publish;
use super::frame::Speed;
use super::map::Register;
use super::plan::Limits;
use crate::message::Name;

/// One bus: a serial port with one or more units behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How fast characters go; for the silences and for how long frames take.
    pub speed: Speed,
    /// How long a line that is never quiet is waited for; default 1 s.
    pub timeout: Duration,
    /// From the beginning of a request to that of the next, at least; default none.
    pub interval: Duration,
    /// How long a unit is left alone after it has failed once; doubles with every further failure;
    /// default 1 s.
    pub backoff: Duration,
    /// The longest it is left alone; default 60 s.
    pub backoff_max: Duration,
    /// The adapter hears what it sends. Reads are told from their echo anyway; writes are not.
    pub echo: bool,
    /// Who is on the bus; addresses differ.
    pub units: Vec<Unit>,
}

impl Settings {
    /// Default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// Default of `backoff`.
    pub const BACKOFF: Duration = Duration::from_secs(1);
    /// Default of `backoff_max`.
    pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
}

/// One unit on the bus: a device of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// The device it is.
    pub id: Name,
    /// Its address on the bus; `1..=255`, of which the standard reserves 248 and above.
    pub address: u8,
    /// Where its readings appear in its own space; a valid [`Path`](crate::message::Path). Default
    /// `data`.
    pub path: String,
    /// From one poll to the next; default 10 s.
    pub period: Duration,
    /// Each poll is late by a random time up to this, so that buses do not beat in step; default
    /// none.
    pub jitter: Duration,
    /// Which readings are published; default all.
    pub publish: Publish,
    /// What is read; at least one, none beyond `limits` alone.
    pub registers: Vec<Register>,
    /// How registers are put together into requests.
    pub limits: Limits,
    /// How long it may think before its answer begins; default 1 s. What frames take on the wire
    /// comes on top.
    pub timeout: Duration,
    /// Silence before each request to it, beyond the 3.5 characters of the standard; default that
    /// of the bus.
    pub pause: Duration,
}

impl Unit {
    /// Default of `path`.
    pub const PATH: &str = "data";
    /// Default of `period`.
    pub const PERIOD: Duration = Duration::from_secs(10);

    /// An upper bound of its readings' length in bytes: what its role's `max-payload` has to let
    /// pass.
    pub fn payload_max(&self) -> usize {
        let field = |register: &Register| {
            let value = match register.kind {
                // A byte can become six as an escape.
                super::map::Kind::String(registers) => 12 * usize::from(registers) + 2,
                super::map::Kind::Bool(_) => 5,
                _ if !register.bits.is_empty() => {
                    2 + register.bits.iter().map(|(_, name)| 6 * name.len() + 9).sum::<usize>()
                }
                _ => register.names.iter().map(|(_, name)| 6 * name.len() + 2).max().unwrap_or(0).max(24),
            };
            6 * register.name.len() + 4 + value
        };
        2 + self.registers.iter().map(field).sum::<usize>()
    }
}
