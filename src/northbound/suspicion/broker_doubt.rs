//! What is suspected of the broker itself: that it refuses everything, has too much, or refuses at
//! random. Then newcomers pause, suspects are only tried again, and more strikes are needed.

use std::time::{Duration, Instant};

use super::pace::back_off;

/// More strikes for each record that was refused among others and taken afterwards, and for how
/// many of these.
const STRIKES_FOR_WHIMS: f64 = 3.0;
const WHIMS_MAX: f64 = 10.0;
/// After so long such a record counts half.
const WHIMS_FADE: Duration = Duration::from_secs(300);
/// Newcomers refused in a row, none taken in between, from which on the broker is at fault.
const MASS: u32 = 8;
/// For so long nothing was taken: what was concluded of topics meanwhile may be the broker's fault.
const LONG: Duration = Duration::from_secs(10);
/// Between newcomers while the broker refuses everything, at first;
const FIRST_PAUSE: Duration = Duration::from_millis(125);
/// at most.
const NEWCOMER_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a reading that was taken puts an end to.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Newcomers had been refused.
    pub row: bool,
    /// So many that the broker refused everything.
    pub mass: bool,
    /// For long nothing had been taken.
    pub long: bool,
}

/// How the broker behaves.
#[derive(Debug)]
pub struct BrokerDoubt {
    /// Newcomers refused since a reading was taken.
    row: u32,
    /// Since when none was taken, if one was refused.
    nothing_taken_since: Option<Instant>,
    /// Records that were refused among others and taken afterwards, faded; and when that was
    /// reckoned.
    whims: (f64, Instant),
    pause_until: Option<Instant>,
    /// Pauses since a reading was taken, and newcomers refused since the last of them.
    pauses: u32,
    since_pause: u32,
    throttles: u32,
    retry_step: u32,
    retry_at: Instant,
}

impl BrokerDoubt {
    /// Nothing is suspected.
    pub fn new(now: Instant) -> BrokerDoubt {
        BrokerDoubt {
            row: 0,
            nothing_taken_since: None,
            whims: (0.0, now),
            pause_until: None,
            pauses: 0,
            since_pause: 0,
            throttles: 0,
            retry_step: 0,
            retry_at: now,
        }
    }

    /// A reading was taken.
    pub fn handle_taken(&mut self, now: Instant) -> Ended {
        let long = self.nothing_taken_since.is_some_and(|since| now.saturating_duration_since(since) >= LONG);
        let ended = Ended { row: self.row > 0, mass: self.is_at_fault(), long };
        self.row = 0;
        (self.pauses, self.since_pause) = (0, 0);
        self.nothing_taken_since = None;
        self.pause_until = None;
        self.throttles = 0;
        self.retry_step = 0;
        self.retry_at = now;
        ended
    }

    /// A newcomer was refused: after enough of them all pause. A few go after each pause, because
    /// where most are refused for themselves one of them is taken; what was in flight when it began
    /// does not make it longer.
    pub fn handle_refused(&mut self, now: Instant) {
        self.row = self.row.saturating_add(1);
        self.nothing_taken_since.get_or_insert(now);
        if self.row < MASS || self.pause_until.is_some_and(|until| now < until) {
            return;
        }
        self.since_pause += 1;
        if self.pauses == 0 || self.since_pause >= MASS || self.pauses > 8 {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16)).min(NEWCOMER_PAUSE_MAX);
            self.pause_until = Some(now + pause);
            (self.pauses, self.since_pause) = (self.pauses + 1, 0);
        }
    }

    /// It had too much for now, and nothing is to be sent for a while: longer each time, until a
    /// reading is taken.
    pub fn handle_throttled(&mut self, now: Instant) -> Option<Duration> {
        self.nothing_taken_since.get_or_insert(now);
        if self.pause_until.is_some_and(|until| now < until) {
            return None;
        }
        let pause = back_off(self.throttles);
        self.throttles += 1;
        self.pause_until = Some(now + pause);
        Some(pause)
    }

    /// A new connection: perhaps the broker is another, or has changed.
    pub fn handle_open(&mut self, now: Instant) {
        (self.retry_step, self.retry_at, self.pause_until) = (0, now, None);
    }

    /// Nothing that was refused is left: whether the broker takes readings is to be found out anew.
    pub fn forgive(&mut self) {
        if self.throttles == 0 {
            (self.row, self.nothing_taken_since) = (0, None);
        }
    }

    /// A pause that is over is.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.pause_until.is_some_and(|until| now >= until) {
            self.pause_until = None;
        }
    }

    /// A suspect was refused with nothing taken in between: the next one waits, longer each time.
    pub fn space_retries(&mut self, now: Instant) {
        self.retry_at = now + back_off(self.retry_step);
        self.retry_step += 1;
    }

    /// Until then suspects wait that were not tried against others.
    pub fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// So many records that had been refused among others were taken.
    pub fn note_whims(&mut self, now: Instant, more: f64) {
        let whims = (self.faded_whims(now) + more).min(WHIMS_MAX);
        self.whims = (whims, now);
    }

    fn faded_whims(&self, now: Instant) -> f64 {
        let (whims, at) = self.whims;
        let passed = now.saturating_duration_since(at).as_secs_f64();
        whims * 0.5f64.powf(passed / WHIMS_FADE.as_secs_f64())
    }

    /// Strikes needed beyond the ordinary, because the broker is not credible.
    pub fn more_needed(&self, now: Instant) -> u8 {
        (self.faded_whims(now) * STRIKES_FOR_WHIMS) as u8
    }

    /// Whether so many newcomers were refused in a row that it is the broker.
    pub fn is_at_fault(&self) -> bool {
        self.row >= MASS
    }

    /// Newcomers refused since a reading was taken.
    pub fn row(&self) -> u32 {
        self.row
    }

    /// Pauses for too much since a reading was taken.
    pub fn throttles(&self) -> u32 {
        self.throttles
    }

    /// Since when no reading was taken though some were refused.
    pub fn nothing_taken_since(&self) -> Option<Instant> {
        self.nothing_taken_since
    }

    /// Until when no newcomer is to be sent.
    pub fn pause_until(&self) -> Option<Instant> {
        self.pause_until
    }
}
