//! When a port is opened: at once, and then retried without a limit.
//!
//! ```text
//!            ┌──────── due ────────┐
//!  Waiting ──┘  opened: Open ──────│─ lost ──> Waiting
//!     ^         failed ────────────┘              (100 ms, doubled up to 500 ms)
//!     └─────────────────────────────────────────────────┘
//! ```
//!
//! The longest pause is [`RETRY_MAX`] for every error, because an adapter that was replugged first
//! lacks its permissions and is busy for a moment. A port that fails directly after opening does
//! not restart with short pauses.

use std::time::{Duration, Instant};

/// The pause after the first failure.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
pub const RETRY_MAX: Duration = Duration::from_millis(500);
/// Time for which a port must be open to count as stable; after it, pauses are short again.
pub const STABLE: Duration = Duration::from_secs(5);

/// Time for which a port must be open so that its closing is told again.
pub const SETTLED: Duration = Duration::from_secs(60);
/// So often in a row its openings and closings are told within that time.
pub const FLAPS_TOLD: u32 = 3;
/// So often it may be closed before anything was received until it is opened less and less often.
const MUTE_AFTER: u32 = 6;
/// The longest pause of such a port.
pub const RETRY_MUTE_MAX: Duration = Duration::from_secs(10);

/// The link state of one port.
#[derive(Debug)]
pub struct Link {
    state: State,
    since: Instant,
    pause: Duration,
    reason: Option<String>,
    opened: u64,
    lost: u64,
    /// Times in a row that it was closed within [`SETTLED`] of its opening.
    flaps: u32,
    /// Something was received since it was opened.
    heard: bool,
    /// Times in a row that it was closed before anything was received.
    mute: u32,
}

/// The state of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Closed; the port is opened at this time.
    Waiting(Instant),
    /// The shell is opening it.
    Opening,
    /// Open.
    Open,
}

impl Link {
    /// A port that is opened at once.
    pub fn new(now: Instant) -> Link {
        Link {
            state: State::Waiting(now),
            since: now,
            pause: RETRY_FIRST,
            reason: None,
            opened: 0,
            lost: 0,
            flaps: 0,
            heard: false,
            mute: 0,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// When the port was last opened or closed.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The error of the last attempt, if it is not open.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The number of times that it was opened, and that it failed while open.
    pub fn counts(&self) -> (u64, u64) {
        (self.opened, self.lost)
    }

    /// Something was received.
    pub fn handle_received(&mut self) {
        (self.heard, self.mute) = (true, 0);
    }

    /// So often in a row it was closed soon after it was opened; beyond [`FLAPS_TOLD`] the shell is
    /// silent about it.
    pub fn flaps(&self) -> u32 {
        self.flaps
    }

    /// Whether the shell must open it now; changes the state to [`State::Opening`].
    pub fn poll_open(&mut self, now: Instant) -> bool {
        match self.state {
            State::Waiting(at) if at <= now => {
                self.state = State::Opening;
                true
            }
            _ => false,
        }
    }

    /// When [`Link::poll_open`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting(at) => Some(at),
            State::Opening | State::Open => None,
        }
    }

    /// The port was opened.
    pub fn handle_opened(&mut self, now: Instant) {
        self.state = State::Open;
        self.since = now;
        self.reason = None;
        self.opened += 1;
        self.heard = false;
    }

    /// The port could not be opened, or failed. Returns whether the reason is new.
    pub fn handle_failure(&mut self, now: Instant, reason: &str) -> bool {
        if self.is_open() {
            self.lost += 1;
            let open = now.saturating_duration_since(self.since);
            if open >= STABLE {
                self.pause = RETRY_FIRST;
            }
            self.flaps = if open < SETTLED { self.flaps.saturating_add(1) } else { 0 };
            self.mute = if open < STABLE && !self.heard { self.mute.saturating_add(1) } else { 0 };
            self.since = now;
        }
        let news = self.reason.as_deref() != Some(reason);
        if news {
            self.reason = Some(reason.to_owned());
        }
        // One that is closed at once, again and again, is not there.
        let mute = self.mute.saturating_sub(MUTE_AFTER).min(10);
        let pause = if mute > 0 { (RETRY_MAX * 2u32.pow(mute)).min(RETRY_MUTE_MAX) } else { self.pause };
        self.state = State::Waiting(now + pause);
        self.pause = (self.pause * 2).min(RETRY_MAX);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_missing_is_looked_for_for_ever_at_least_twice_a_second() {
        let mut now = Instant::now();
        let mut link = Link::new(now);
        let mut pauses = Vec::new();
        for round in 0..10_000 {
            assert!(link.poll_open(now));
            assert!(!link.poll_open(now));
            assert_eq!(link.handle_failure(now, "no such file"), round == 0);
            let at = link.poll_timeout().unwrap();
            pauses.push(at - now);
            assert!(!link.poll_open(at - Duration::from_millis(1)));
            now = at;
        }
        assert_eq!(pauses[..5], [100, 200, 400, 500, 500].map(Duration::from_millis));
        assert!(pauses[5..].iter().all(|pause| *pause == RETRY_MAX));
    }

    #[test]
    fn a_port_that_worked_is_opened_again_soon_and_one_that_flaps_is_not() {
        let start = Instant::now();
        let mut link = Link::new(start);
        assert!(link.poll_open(start));
        link.handle_opened(start);
        assert_eq!((link.poll_timeout(), link.reason()), (None, None));
        let mut now = start + STABLE;
        assert!(link.handle_failure(now, "unplugged"));
        assert_eq!(link.poll_timeout(), Some(now + RETRY_FIRST));
        for _ in 0..6 {
            now = link.poll_timeout().unwrap();
            assert!(link.poll_open(now));
            link.handle_opened(now);
            assert!(link.handle_failure(now, "hung up"));
        }
        assert_eq!(link.poll_timeout(), Some(now + RETRY_MAX));
        assert_eq!(link.counts(), (7, 7));
    }

    #[test]
    fn a_port_that_is_closed_at_once_is_opened_less_and_less_often_until_something_comes() {
        let mut now = Instant::now();
        let mut link = Link::new(now);
        let mut flap = |link: &mut Link, hears: bool| {
            assert!(link.poll_open(now));
            link.handle_opened(now);
            if hears {
                link.handle_received();
            }
            link.handle_failure(now, "closed");
            let pause = link.poll_timeout().unwrap() - now;
            now += pause;
            pause
        };
        let pauses: Vec<Duration> = (0..20).map(|_| flap(&mut link, false)).collect();
        assert!(pauses[..6].iter().all(|pause| *pause <= RETRY_MAX), "{pauses:?}");
        assert!(pauses.is_sorted() && pauses[19] == RETRY_MUTE_MAX, "{pauses:?}");
        assert!(link.flaps() > FLAPS_TOLD);
        assert_eq!(flap(&mut link, true), RETRY_MAX);
    }
}
