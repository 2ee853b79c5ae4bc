//! Time as the stages see it: monotonic instants are arguments; wall time comes only with a verdict on whether it may be trusted.
//!
//! A board without a clock battery boots in 1970, or in 2036 after a bad NTP answer. So nothing here
//! ages, expires or refuses by a wall clock that is not trusted. Imports nothing of ours.

use std::time::{Duration, Instant};

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// From whole seconds.
    pub const fn from_secs(seconds: u64) -> UnixTime {
        UnixTime(seconds.saturating_mul(1000))
    }

    /// Whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }
}

impl std::fmt::Display for UnixTime {
    /// RFC 3339 with milliseconds, in UTC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = std::time::UNIX_EPOCH + Duration::from_millis(self.0.min(253_402_300_799_999));
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

/// One reading of every clock, taken together by the shell and handed to the cores.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For time-outs. Does not count suspended time.
    pub now: Instant,
    /// `CLOCK_BOOTTIME` in milliseconds: for the age of records within one boot.
    pub boottime_ms: u64,
    /// Wall time, only while trusted: the kernel says it is synchronised, or the owner said `[clock] trust = "always"`.
    pub wall: Option<UnixTime>,
}

impl Moment {
    /// The stamp a reading received at this moment carries.
    pub fn stamp(&self) -> crate::message::Stamp {
        crate::message::Stamp { boottime_ms: self.boottime_ms, wall_ms: self.wall.map(|t| t.0) }
    }
}

/// What the system's wall clock says and whether to believe it.
pub trait WallClock: Send + Sync {
    /// The clock as it stands, believed or not.
    fn raw(&self) -> UnixTime;
    /// Whether [`WallClock::raw`] may be trusted now.
    fn trusted(&self) -> bool;
    /// A time that has certainly passed: the latest of build date, last trusted time saved, and now if trusted.
    fn floor(&self) -> UnixTime;

    /// The clock's time, if trusted.
    fn wall(&self) -> Option<UnixTime> {
        self.trusted().then(|| self.raw())
    }
}
