//! Whether the process was there all the time to read what came on a line.
//!
//! Where only pauses divide messages, bytes that waited for a process that stood still are no
//! message: the pauses between them were not seen. While a message is under way a timer says
//! whether it did. A silent line has no timer, as it would wake the process again and again for
//! nothing; there this says so. A process that waits for events is there: the kernel wakes it with
//! the first byte. It is not while one task holds the thread, nor while it is stopped.
//!
//! ```text
//!  waits for events ──woken──> runs: from one turn of a task to the next ──> waits for events
//!                                 └─ longer than any should take: what waits now, or is read in
//!                                    the run behind this one, may have waited for so long
//! ```

use std::time::{Duration, Instant};

/// Shorter turns are those of any busy machine.
const NOTED: Duration = Duration::from_millis(10);

/// What the thread did since it last waited for events.
#[derive(Clone, Copy, Debug)]
pub struct Awake {
    /// When the present turn began.
    turn: Instant,
    /// The longest turn of this run and of the one before.
    longest: Duration,
    before: Duration,
}

impl Awake {
    /// At the start.
    pub fn new(now: Instant) -> Awake {
        Awake { turn: now, longest: Duration::ZERO, before: Duration::ZERO }
    }

    /// The thread begins to wait for events.
    pub fn parks(&mut self, now: Instant) {
        self.turns(now);
    }

    /// Events came.
    pub fn woken(&mut self, now: Instant) {
        self.turn = now;
        self.before = std::mem::take(&mut self.longest);
    }

    /// A task has done a part of its work.
    pub fn turns(&mut self, now: Instant) {
        let turn = now.saturating_duration_since(self.turn);
        self.turn = now;
        if turn >= NOTED {
            self.longest = self.longest.max(turn);
        }
    }

    /// The process was stopped for so long.
    pub fn stood(&mut self, time: Duration) {
        self.longest = self.longest.max(time);
    }

    /// Bytes that are read now have waited for so long at most.
    pub fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.turn).max(self.longest).max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_thread_that_waits_for_events_or_makes_short_turns_is_there() {
        let start = Instant::now();
        let mut awake = Awake::new(start);
        awake.parks(start + ms(1));
        let woken = start + ms(60_000);
        awake.woken(woken);
        assert_eq!(awake.waited(woken + ms(2)), ms(2));
        for turn in 1..100 {
            awake.turns(woken + ms(5 * turn));
        }
        assert_eq!(awake.waited(woken + ms(500)), ms(5));
    }

    #[test]
    fn what_is_read_in_a_long_turn_or_behind_one_may_have_waited() {
        let start = Instant::now();
        let mut awake = Awake::new(start);
        awake.woken(start);
        assert_eq!(awake.waited(start + ms(80)), ms(80));
        awake.turns(start + ms(80));
        assert_eq!(awake.waited(start + ms(82)), ms(80));
        awake.parks(start + ms(83));
        awake.woken(start + ms(83));
        assert_eq!(awake.waited(start + ms(84)), ms(80));
        awake.parks(start + ms(85));
        awake.woken(start + ms(200));
        assert_eq!(awake.waited(start + ms(201)), ms(1));
        awake.stood(ms(700));
        awake.woken(start + ms(202));
        assert_eq!(awake.waited(start + ms(202)), ms(700));
    }
}
