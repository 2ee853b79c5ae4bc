//! The gateway's own messages while they are suspected of bringing the connection down.

/// How they are sent meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnDoubt {
    /// They are sent one by one, with nothing else.
    pub solo: bool,
    /// They wait until the connection has shown that it stands without them.
    pub until_it_stands: bool,
}

impl OwnDoubt {
    /// One of them was alone in flight when the connection was lost, or stayed unanswered.
    /// `pauses`: its class is left out from now on, so that the others need not wait.
    pub fn handle_strike(&mut self, pauses: bool) {
        self.solo = true;
        self.until_it_stands = !pauses;
    }

    /// Whether they may not go with others.
    pub fn holds_back(&self) -> bool {
        self.until_it_stands || self.solo
    }
}
