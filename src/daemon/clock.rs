//! The system's clocks, and the verdict on the wall clock (the shell of [`crate::clock`]).
//!
//! Trusted = the kernel says it is synchronised (`adjtimex`, whoever disciplines it: timesyncd, chrony,
//! ntpd, a PTP daemon), or the owner said `[clock] trust = "always"`. The floor is a time that has
//! certainly passed: the build date, or the last trusted time, saved hourly in the state directory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::libc;
use nix::time::{ClockId, clock_gettime};

use crate::clock::{Moment, UnixTime, WallClock};

/// When this version was made, in seconds since 1970. Set by `SOURCE_DATE_EPOCH` at build time; raised with each release.
pub const BUILD_DATE: UnixTime = UnixTime::from_secs(match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => parse_seconds(text.as_bytes()),
    None => 1_795_305_600,
});

/// How often the floor is written: flash wear of at most 24 small files a day.
const SAVE_EVERY: Duration = Duration::from_secs(3600);

/// The system's clocks.
pub struct SystemClock {
    always: AtomicBool,
    synchronised: AtomicBool,
    floor_ms: AtomicU64,
    file: PathBuf,
}

impl SystemClock {
    /// Reads the saved floor in `state_dir`; without one the build date counts.
    pub fn open(state_dir: &Path, always: bool) -> SystemClock {
        let file = state_dir.join("clock-floor");
        let saved = fs::read_to_string(&file).ok().and_then(|text| parse_floor(&text)).unwrap_or(0);
        let clock = SystemClock {
            always: AtomicBool::new(always),
            synchronised: AtomicBool::new(false),
            floor_ms: AtomicU64::new(saved.max(BUILD_DATE.0)),
            file,
        };
        clock.refresh();
        clock
    }

    /// Whether the owner vouches for the clock.
    pub fn set_always(&self, always: bool) {
        self.always.store(always, Ordering::Relaxed);
    }

    /// Asks the kernel again; raises the floor. Once a second is enough. Returns whether the verdict changed.
    pub fn refresh(&self) -> bool {
        let before = self.trusted();
        self.synchronised.store(kernel_says_synchronised(), Ordering::Relaxed);
        let trusted = self.trusted();
        if trusted {
            self.floor_ms.fetch_max(self.raw().0, Ordering::Relaxed);
        }
        before != trusted
    }

    /// Writes the floor, atomically; to be called every [`SystemClock::save_interval`] and at the end.
    ///
    /// # Errors
    /// What the system said. The floor only ages; the daemon goes on.
    pub fn save(&self) -> std::io::Result<()> {
        if !self.trusted() {
            return Ok(());
        }
        let seconds = self.floor().as_secs();
        let line = format!("{seconds} {:08x}\n", crc32c::crc32c(seconds.to_string().as_bytes()));
        let temporary = self.file.with_extension("new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.file)
    }

    /// How often to save.
    pub fn save_interval() -> Duration {
        SAVE_EVERY
    }

    /// All clocks at once.
    pub fn moment(&self) -> Moment {
        let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| {
            u64::try_from(t.tv_sec()).unwrap_or(0) * 1000
                + u64::try_from(t.tv_nsec()).unwrap_or(0) / 1_000_000
        });
        Moment { now: Instant::now(), boottime_ms: boottime, wall: self.wall() }
    }
}

impl WallClock for SystemClock {
    fn raw(&self) -> UnixTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn trusted(&self) -> bool {
        // A clock before the build date is wrong whoever vouches for it.
        (self.always.load(Ordering::Relaxed) || self.synchronised.load(Ordering::Relaxed))
            && self.raw() >= BUILD_DATE
    }

    fn floor(&self) -> UnixTime {
        UnixTime(self.floor_ms.load(Ordering::Relaxed))
    }
}

fn kernel_says_synchronised() -> bool {
    let mut timex = rtime_clock::adjtime::Timex::new();
    match rtime_clock::adjtime::adjtimex(&mut timex) {
        Ok(_) => timex.0.status & libc::STA_UNSYNC == 0,
        // A sandbox may refuse even reading; timesyncd leaves a mark of its own.
        Err(_) => Path::new("/run/systemd/timesync/synchronized").exists(),
    }
}

fn parse_floor(text: &str) -> Option<u64> {
    let (seconds, sum) = text.trim().split_once(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(seconds.as_bytes()) {
        return None;
    }
    Some(UnixTime::from_secs(seconds.parse().ok()?).0)
}

const fn parse_seconds(text: &[u8]) -> u64 {
    let mut value = 0;
    let mut i = 0;
    while i < text.len() {
        assert!(text[i].is_ascii_digit(), "SOURCE_DATE_EPOCH is whole seconds since 1970");
        value = value * 10 + (text[i] - b'0') as u64;
        i += 1;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_floor_file_counts_for_nothing() {
        assert_eq!(parse_floor("1800000000 00000000"), None);
        assert_eq!(parse_floor("nonsense"), None);
        let good = format!("1800000000 {:08x}\n", crc32c::crc32c(b"1800000000"));
        assert_eq!(parse_floor(&good), Some(1_800_000_000_000));
    }

    #[test]
    fn the_floor_is_never_before_the_build_date() {
        let clock = SystemClock::open(Path::new("/nonexistent"), true);
        assert!(clock.floor() >= BUILD_DATE);
    }
}
