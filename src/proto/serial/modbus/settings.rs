//! The settings of a bus: its timing, its units and their register maps, already validated.

use std::time::Duration;

use super::change::Publish;
use super::frame::Speed;
use super::map::Register;
use super::plan::Limits;
use crate::message::Name;

/// One bus: a serial port with one or more units.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The speed of the line, for silences and the duration of frames.
    pub speed: Speed,
    /// How long a line that is never quiet is waited for; default 1 s.
    pub timeout: Duration,
    /// From the beginning of a request to that of the next, at least; default none.
    pub interval: Duration,
    /// Back-off of a unit after its first failure, doubled with every further one; default 1 s.
    pub backoff: Duration,
    /// Longest back-off; default 60 s.
    pub backoff_max: Duration,
    /// Whether the adapter receives its own transmissions. For reads the echo is detected anyway;
    /// for writes it cannot be.
    pub echo: bool,
    /// Frames are sent as hexadecimal digits (Modbus ASCII); default: as bytes (RTU).
    pub ascii: bool,
    /// Answers of Modbus TCP do not say which request they answer: the peer does not copy the
    /// transaction identifier; default no.
    pub is_unnumbered: bool,
    /// The units on the bus, with unique addresses.
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

/// One unit on the bus, which is a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// The id of its device.
    pub id: Name,
    /// Its address on the bus; `1..=255`, of which the standard reserves 248 and above.
    pub address: u8,
    /// The path of its readings within the device; a valid [`Path`](crate::message::Path). Default
    /// `data`.
    pub path: String,
    /// Interval of polls; default 10 s.
    pub period: Duration,
    /// Each poll is delayed by a random time up to this, so that buses do not poll in step; default
    /// none.
    pub jitter: Duration,
    /// Which readings are published; default all.
    pub publish: Publish,
    /// Its registers; at least one, none longer than `limits`.
    pub registers: Vec<Register>,
    /// Limits for grouping registers into requests.
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

    /// An upper bound of the length of its readings in bytes, which its role's `max-payload` must
    /// allow.
    pub fn payload_max(&self) -> usize {
        let field = |register: &Register| {
            let value = match register.kind {
                // A byte can become an escape of six bytes.
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
