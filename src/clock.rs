//! Time as the stages see it: monotonic instants are arguments; wall time comes only with a verdict
//! on whether it may be trusted.
//!
//! A board without a clock battery boots in 1970, or in 2036 after a bad NTP answer. So nothing
//! here ages, expires or refuses by a wall clock that is not trusted. Imports nothing of ours.
//!
//! | module | what |
//! |---|---|
//! | [`judge`] | the verdict: trusted, in doubt, or not; and the floor |
//! | [`chain`] | at which time an upstream certificate chain is verified, and what it then says about the clock |
//! | [`saved`] | what is kept of it over a restart |

pub mod chain;
pub mod judge;
pub mod saved;

use std::time::{Duration, Instant};

use chain::ChainValidity;

/// A day, in milliseconds: how far a clock may be from where it was expected before it is doubted.
pub const DAY_MS: u64 = 86_400_000;

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// Wall time, only while trusted; see [`judge`].
    pub wall: Option<UnixTime>,
    /// Wall stamps from here on may be compared with [`Moment::wall`]: since then the clock has not
    /// jumped, or both sides of the jump are proven. `None`: no stamp may, and none is made.
    pub ages_from: Option<UnixTime>,
}

impl Moment {
    /// The stamp a reading received at this moment carries.
    pub fn stamp(&self) -> crate::message::Stamp {
        let wall = self.wall.filter(|_| self.ages_from.is_some());
        crate::message::Stamp { boottime_ms: self.boottime_ms, wall_ms: wall.map(|t| t.0) }
    }
}

/// What the system's wall clock says and whether to believe it.
pub trait WallClock: Send + Sync {
    /// The clock as it stands, believed or not.
    fn raw(&self) -> UnixTime;

    /// Whether [`WallClock::raw`] may be trusted now.
    fn trusted(&self) -> bool;

    /// A time that has certainly passed; see [`judge`].
    fn floor(&self) -> UnixTime;

    /// The clock's time, if trusted.
    fn wall(&self) -> Option<UnixTime> {
        self.trusted().then(|| self.raw())
    }

    /// The clock's time, if it is synchronised and doubted: a chain that is valid at it proves it.
    fn doubted(&self) -> Option<UnixTime> {
        None
    }

    /// Whether a chain that is valid, but not at [`WallClock::wall`], speaks against the clock: so
    /// far nothing but the kernel's word speaks for it.
    fn is_refutable(&self) -> bool {
        false
    }

    /// Takes what an upstream chain says, once the peer has proven to have its key.
    fn learn(&self, chain: ChainValidity) {
        let _ = chain;
    }
}
