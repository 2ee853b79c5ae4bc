//! Strikes against something that goes along with the readings and may be what the broker closes
//! the connection over: a class of the gateway's own messages, the readings of `qos = 0` rules, the
//! subscription. After enough strikes it is left out for a while, then tried again.
//!
//! One close proves nothing: brokers and load balancers are restarted. So the count begins anew
//! whenever the thing was answered ([`Strikes::clear`]).

use std::time::{Duration, Instant};

/// The strikes against one thing.
#[derive(Clone, Copy, Debug)]
pub struct Strikes {
    limit: u8,
    left_out_for: Duration,
    count: u8,
    left_out_until: Option<Instant>,
}

impl Strikes {
    /// The thing is left out for `left_out_for` at its `limit`th strike, `1..`.
    pub const fn new(limit: u8, left_out_for: Duration) -> Strikes {
        Strikes { limit, left_out_for, count: 0, left_out_until: None }
    }

    /// The connection was lost over it, or so it seems. Whether it is left out from now on.
    pub fn strike(&mut self, now: Instant) -> bool {
        self.count += 1;
        let is_last = self.count >= self.limit;
        if is_last {
            self.leave_out(now);
        }
        is_last
    }

    /// It was answered: the next strike is the first. If it is left out, it stays so.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// It is left out from now on, whatever its strikes.
    pub fn leave_out(&mut self, now: Instant) {
        self.count = 0;
        self.left_out_until = Some(now + self.left_out_for);
    }

    /// It is tried again, even before its time.
    pub fn take_up(&mut self) {
        self.left_out_until = None;
    }

    /// Whether it is left out at `now`.
    pub fn is_left_out(&self, now: Instant) -> bool {
        self.left_out_until.is_some_and(|until| now < until)
    }

    /// Until when it is left out, or was, unless it was taken up since.
    pub fn left_out_until(&self) -> Option<Instant> {
        self.left_out_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_last_strike_leaves_it_out_for_its_time_and_the_count_begins_anew() {
        let now = Instant::now();
        let mut strikes = Strikes::new(3, HOUR);
        for _ in 0..2 {
            assert!(!strikes.strike(now) && !strikes.strike(now) && !strikes.is_left_out(now + 2 * HOUR));
            assert!(strikes.strike(now));
            assert!(strikes.is_left_out(now) && !strikes.is_left_out(now + HOUR));
        }
        strikes.take_up();
        assert!(!strikes.is_left_out(now) && strikes.left_out_until().is_none());
    }

    #[test]
    fn an_answer_in_between_voids_the_strikes_before_it_but_ends_no_pause() {
        let now = Instant::now();
        let mut strikes = Strikes::new(2, HOUR);
        for _ in 0..10 {
            assert!(!strikes.strike(now));
            strikes.clear();
        }
        strikes.leave_out(now);
        strikes.clear();
        assert!(strikes.is_left_out(now));
    }
}
