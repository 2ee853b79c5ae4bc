//! Whose turn it is: `high` or `normal`, suspects or the others, the gateway's own messages or
//! readings.

use crate::message::Lane;

/// What the next turn depends on.
#[derive(Debug, Default)]
pub struct Turns {
    /// Counts the places given while both lanes waited.
    count: u8,
    /// A message of our own was sent last.
    pub own_was_last: bool,
    /// A suspect was sent last.
    pub trial_was_last: bool,
    /// The lanes are read for what flows before the next trial.
    pub flow_first: bool,
    /// Nothing more could flow the last time.
    pub flow_ran_dry: bool,
}

impl Turns {
    /// Which lane's turn it is, by [`Lane::index`], among those that are not `dry`: `high` gets
    /// three of four places.
    pub fn choose(&self, dry: [bool; 2]) -> Option<usize> {
        let [high, normal] = [Lane::High.index(), Lane::Normal.index()];
        let preferred = if self.count < 3 { [high, normal] } else { [normal, high] };
        preferred.into_iter().find(|index| !dry[*index])
    }

    /// A record of a lane was sent while these were `dry`.
    pub fn note_sent(&mut self, dry: [bool; 2]) {
        self.trial_was_last = false;
        if dry == [false, false] {
            self.count = (self.count + 1) % 4;
        }
    }
}
