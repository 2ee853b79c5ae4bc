//! Serial lines: framing of a byte stream, readings from frames, and the link state of a port.
//!
//! | module | content |
//! |---|---|
//! | [`framing`] | bytes to frames and back |
//! | [`checksum`] | checksums of frames |
//! | [`poll`] | questions to a device that must be asked |
//! | [`reading`] | a frame's payload to path, format and bytes |
//! | [`charset`], [`json`] | bytes to characters, and JSON that all consumers read alike |
//! | [`slipmux`] | CoAP in SLIP frames |
//! | `lateness` | how long the answers of a device are waited for, when they come late |
//! | [`link`] | when to open and reopen a port |
//! | [`idle`] | connections that a converter gives up when they are idle |
//! | [`modbus`] | Modbus RTU master |

pub mod charset;
pub mod checksum;
pub mod framing;
pub mod idle;
pub mod json;
mod lateness;
pub mod link;
pub mod modbus;
pub mod poll;
pub mod reading;
pub mod slipmux;
pub mod writer;

use std::time::Duration;

/// The longest wait for an answer that is learned, in time-outs and at all.
const WAIT_MAX: (u32, Duration) = (4, Duration::from_secs(60));

/// The longest that an answer is waited for where `timeout` is configured, if late answers show
/// that the device takes longer; never shorter than that.
pub fn wait_max(timeout: Duration) -> Duration {
    let (times, longest) = WAIT_MAX;
    (timeout * times).min(longest).max(timeout)
}

/// The time-out to set, in milliseconds, where answers come so late: half as long again, in whole
/// tenths of a second, and at most what can be set.
pub fn timeout_advised_ms(late: Duration) -> u64 {
    let tenths = late.mul_f64(1.5).min(WAIT_MAX.1).as_millis().div_ceil(100);
    u64::try_from(tenths * 100).unwrap_or(u64::MAX)
}

/// Whether a device that is asked answers: a Modbus unit, or one that is sent a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not asked yet, or gave no value yet.
    Unknown,
    /// A value has arrived since it last failed three times.
    Up,
    /// It answers, but none of its values arrives.
    Degraded,
    /// Three requests in a row had no answer.
    Down,
}

impl State {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::Degraded => "degraded",
            State::Down => "down",
        }
    }
}
