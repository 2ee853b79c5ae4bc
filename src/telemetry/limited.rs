//! Limits the log lines that the network can cause: a number of lines per kind and interval, then
//! one line with the count of the rest.
//!
//! Pure: `now` is an argument. The kinds are constants of the program (an enum or `&'static str`),
//! or of the configuration (a port), never a device or an address, so that their number is
//! bounded. Within a kind, each source address has a share.
//!
//! | state of a kind | event | next state and result |
//! |---|---|---|
//! | quiet | `permit` | open: yes, window starts |
//! | open, below the burst | `permit` | open: yes |
//! | open, burst used up | `permit` | open: no, counted |
//! | open, window over | `poll_event` | quiet, `Suppressed` if any were counted |

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Lines of a source address that pass in a window regardless of other sources.
pub const SHARE: u32 = 2;

/// The limit of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Lines of one kind that pass in [`Settings::interval`]; 0 passes none and only counts.
    pub burst: u32,
    /// Length of a window; it begins with the first line of the kind.
    pub interval: Duration,
}

impl Default for Settings {
    /// 10 lines of a kind in 30 s: enough for diagnosis, and few enough for an SD card.
    fn default() -> Settings {
        Settings { burst: 10, interval: Duration::from_secs(30) }
    }
}

/// Counts lines by kind and decides which pass.
#[derive(Debug)]
pub struct Limiter<K> {
    settings: Settings,
    windows: Vec<Window<K>>,
}

#[derive(Debug)]
struct Window<K> {
    kind: K,
    ends: Instant,
    passed: u32,
    suppressed: u64,
    /// The lines that passed for each source address; at most two bursts of them.
    shares: Vec<(IpAddr, u32)>,
}

/// The suppressed lines of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed<K> {
    /// Their kind.
    pub kind: K,
    /// Their number, at least 1.
    pub count: u64,
}

impl<K: PartialEq> Limiter<K> {
    /// A limiter without open windows.
    pub fn new(settings: Settings) -> Limiter<K> {
        Limiter { settings, windows: Vec::new() }
    }

    /// Whether a line of `kind` may be written now. A suppressed line is counted.
    ///
    /// A window that is over but not polled yet continues to count, so that no line is lost by the
    /// order of calls.
    pub fn permit(&mut self, now: Instant, kind: K) -> bool {
        self.permit_for(now, kind, None)
    }

    /// As [`Limiter::permit`], for a line caused by `source`. When the burst is exhausted, the same
    /// number of further lines passes for sources with fewer than [`SHARE`] lines, so that one
    /// source does not hide all others.
    pub fn permit_from(&mut self, now: Instant, kind: K, source: IpAddr) -> bool {
        self.permit_for(now, kind, Some(source))
    }

    fn permit_for(&mut self, now: Instant, kind: K, source: Option<IpAddr>) -> bool {
        let window = match self.windows.iter_mut().find(|window| window.kind == kind) {
            Some(window) => {
                if now >= window.ends && window.suppressed == 0 {
                    *window = Window::open(kind, now, self.settings.interval);
                }
                window
            }
            None => {
                self.windows.push(Window::open(kind, now, self.settings.interval));
                let last = self.windows.len() - 1;
                &mut self.windows[last]
            }
        };
        let share = source.map(|source| (source, window.shares.iter().position(|(of, _)| *of == source)));
        let had = share.and_then(|(_, at)| window.shares.get(at?)).map_or(0, |(_, had)| *had);
        let burst = self.settings.burst;
        let is_rare = source.is_some() && had < SHARE && window.passed < burst.saturating_mul(2);
        let passes = window.passed < burst || is_rare;
        if passes {
            window.passed += 1;
            match share {
                Some((_, Some(at))) => window.shares[at].1 += 1,
                Some((source, None)) => window.shares.push((source, 1)),
                None => {}
            }
        } else {
            window.suppressed += 1;
        }
        passes
    }

    /// When [`Limiter::poll_event`] has the next event; `None` if no line is suppressed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.windows.iter().filter(|window| window.suppressed > 0).map(|window| window.ends).min()
    }

    /// The count of the next window that is over. Call it until `None`, at
    /// [`Limiter::poll_timeout`] or more often.
    pub fn poll_event(&mut self, now: Instant) -> Option<Suppressed<K>> {
        let mut at = 0;
        while at < self.windows.len() {
            if now < self.windows[at].ends {
                at += 1;
                continue;
            }
            let over = self.windows.swap_remove(at);
            if over.suppressed > 0 {
                return Some(Suppressed { kind: over.kind, count: over.suppressed });
            }
        }
        None
    }
}

impl<K> Window<K> {
    fn open(kind: K, now: Instant, interval: Duration) -> Window<K> {
        Window { kind, ends: now + interval, passed: 0, suppressed: 0, shares: Vec::new() }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter() -> (Limiter<&'static str>, Instant) {
        (Limiter::new(Settings { burst: 3, interval: 10 * SECOND }), Instant::now())
    }

    #[test]
    fn one_source_does_not_hide_the_others() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Settings { burst: 10, interval: 10 * SECOND });
        let source = |n: u8| IpAddr::from([192, 0, 2, n]);
        assert_eq!((0..100).filter(|_| limiter.permit_from(start, "x", source(1))).count(), 10);
        assert_eq!((0..100).filter(|_| limiter.permit_from(start, "x", source(2))).count(), 2);
        assert_eq!((3..100).filter(|n| limiter.permit_from(start, "x", source(*n))).count(), 8);
        assert!(!limiter.permit(start, "x"));
        let suppressed = Suppressed { kind: "x", count: 90 + 98 + 89 + 1 };
        assert_eq!(limiter.poll_event(start + 10 * SECOND), Some(suppressed));
        assert!(limiter.permit_from(start + 10 * SECOND, "x", source(1)));
    }

    #[test]
    fn a_flood_of_one_kind_gives_a_few_lines_and_one_count() {
        let (mut limiter, start) = limiter();
        let passed =
            (0..1000).filter(|ms| limiter.permit(start + Duration::from_millis(*ms), "handshake")).count();
        assert_eq!(passed, 3);
        assert_eq!(limiter.poll_event(start + 9 * SECOND), None);
        assert_eq!(limiter.poll_timeout(), Some(start + 10 * SECOND));
        let counted = limiter.poll_event(start + 10 * SECOND);
        assert_eq!(counted, Some(Suppressed { kind: "handshake", count: 997 }));
        assert_eq!(limiter.poll_event(start + 10 * SECOND), None);
        assert_eq!(limiter.poll_timeout(), None);
    }

    #[test]
    fn kinds_do_not_take_each_others_room() {
        let (mut limiter, now) = limiter();
        for _ in 0..10 {
            limiter.permit(now, "a");
        }
        assert!(limiter.permit(now, "b"));
    }

    #[test]
    fn a_quiet_interval_lets_lines_through_again() {
        let (mut limiter, start) = limiter();
        for _ in 0..3 {
            assert!(limiter.permit(start, "a"));
        }
        assert!(limiter.permit(start + 10 * SECOND, "a"));
        assert_eq!(limiter.poll_event(start + 20 * SECOND), None);
    }

    #[test]
    fn a_count_not_yet_polled_is_not_lost_to_the_next_line() {
        let (mut limiter, start) = limiter();
        for _ in 0..4 {
            limiter.permit(start, "a");
        }
        assert!(!limiter.permit(start + 11 * SECOND, "a"));
        assert_eq!(limiter.poll_event(start + 11 * SECOND), Some(Suppressed { kind: "a", count: 2 }));
        assert!(limiter.permit(start + 11 * SECOND, "a"));
    }

    proptest! {
        #[test]
        fn every_line_either_passes_or_is_counted(
            burst in 0u32..4,
            steps in proptest::collection::vec((0u8..3, 0u64..4000, any::<bool>()), 0..200),
        ) {
            let mut limiter = Limiter::new(Settings { burst, interval: 5 * SECOND });
            let mut now = Instant::now();
            let (mut passed, mut counted) = (0, 0);
            for (kind, ms, poll) in &steps {
                now += Duration::from_millis(*ms);
                if *poll {
                    while let Some(event) = limiter.poll_event(now) {
                        counted += event.count;
                    }
                }
                passed += u64::from(limiter.permit(now, *kind));
            }
            while let Some(event) = limiter.poll_event(now + 5 * SECOND) {
                counted += event.count;
            }
            prop_assert_eq!(passed + counted, steps.len() as u64);
            prop_assert_eq!(limiter.poll_timeout(), None);
        }
    }
}
