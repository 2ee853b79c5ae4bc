//! Time for all stages: monotonic instants are arguments; wall time always comes with a verdict on
//! whether it is trusted.
//!
//! A board without a clock battery boots in 1970, or in 2036 after a bad NTP response. So no record
//! expires, and no certificate is refused, by a wall clock that is not trusted. It imports only
//! [`message`](crate::message).
//!
//! | module | content |
//! |---|---|
//! | [`judge`] | the verdict: trusted, in doubt, or not; and the floor |
//! | [`chain`] | the time at which an upstream certificate chain is verified, and what that proves about the clock |
//! | [`saved`] | the state kept across restarts |

pub mod chain;
#[cfg(test)]
pub(crate) mod fixed;
pub mod judge;
pub mod saved;

use std::time::{Duration, Instant};

use chain::ChainValidity;
use serde::{Deserialize, Serialize};

/// A day, in milliseconds: the deviation from the expected time beyond which a clock is in doubt.
pub const DAY_MS: u64 = 86_400_000;

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The time from whole seconds.
    pub const fn from_secs(seconds: u64) -> UnixTime {
        UnixTime(seconds.saturating_mul(1000))
    }

    /// The time in whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }
}

impl std::fmt::Display for UnixTime {
    /// Formats as RFC 3339 with milliseconds, in UTC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = std::time::UNIX_EPOCH + Duration::from_millis(self.0.min(253_402_300_799_999));
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

/// One reading of every clock, taken together by the shell and passed to the cores.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The monotonic time for timeouts. It does not advance during suspend.
    pub now: Instant,
    /// `CLOCK_BOOTTIME` in milliseconds: for the age of records within one boot.
    pub boottime_ms: u64,
    /// Wall time, if it is trusted; see [`judge`].
    pub wall: Option<UnixTime>,
    /// The time from which wall times may be compared with [`Moment::wall`]: since then the clock
    /// has not jumped, or both sides of the jump are proven. `None`: no wall time may be compared,
    /// and none is stored.
    pub ages_from: Option<UnixTime>,
}

impl Moment {
    /// The time of receipt for a reading received at this moment.
    pub fn stamp(&self) -> crate::message::Stamp {
        let wall = self.wall.filter(|_| self.ages_from.is_some());
        crate::message::Stamp { boottime_ms: self.boottime_ms, wall_ms: wall.map(|t| t.0) }
    }
}

/// The system's wall clock with the verdict on it.
pub trait WallClock: Send + Sync {
    /// The time of the clock, trusted or not.
    fn raw(&self) -> UnixTime;

    /// Whether [`WallClock::raw`] may be trusted now.
    fn trusted(&self) -> bool;

    /// A time that has certainly passed; see [`judge`].
    fn floor(&self) -> UnixTime;

    /// The time of the clock, if trusted.
    fn wall(&self) -> Option<UnixTime> {
        self.trusted().then(|| self.raw())
    }

    /// The time of the clock, if it is synchronised but in doubt; a chain that is valid at that
    /// time proves it.
    fn doubted(&self) -> Option<UnixTime> {
        None
    }

    /// Whether a chain that is valid, but not at [`WallClock::wall`], refutes the clock, because so
    /// far only the kernel reports it as correct.
    fn is_refutable(&self) -> bool {
        false
    }

    /// Evaluates the evidence of an upstream chain. Call it after the peer has proved possession of
    /// its key.
    fn learn(&self, chain: ChainValidity) {
        let _ = chain;
    }
}
