//! The subscription to the gateway's own status while it is suspected of bringing the connection
//! down: some brokers close a connection over a SUBSCRIBE that they do not allow.

use std::time::{Duration, Instant};

use crate::northbound::reason_code;
use crate::northbound::strikes::Strikes;

/// It is left out for so long,
const LEFT_OUT: Duration = Duration::from_secs(3600);
/// after so many closes over it, others standing without it.
const STRIKES: u8 = 2;

/// What is known of it.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionDoubt {
    strikes: Strikes,
    /// Left out until the connection has shown that it stands without it; then tried once more.
    until_it_stands: bool,
    refused: Option<u8>,
    /// It was not answered, on the last connection that it was tried on.
    silent: bool,
}

impl Default for SubscriptionDoubt {
    fn default() -> SubscriptionDoubt {
        SubscriptionDoubt {
            strikes: Strikes::new(STRIKES, LEFT_OUT),
            until_it_stands: false,
            refused: None,
            silent: false,
        }
    }
}

impl SubscriptionDoubt {
    /// The broker closed the connection over it, or so it seems. Whether it is left out from now
    /// on.
    pub fn strike(&mut self, now: Instant) -> bool {
        let left_out = self.strikes.strike(now);
        self.until_it_stands = !left_out;
        self.silent = false;
        if left_out {
            self.refused = None;
        }
        left_out
    }

    /// The broker answered it. Whether it refused.
    pub fn handle_answer(&mut self, code: u8) -> bool {
        let refused = reason_code::is_refusal(code);
        *self = SubscriptionDoubt { refused: refused.then_some(code), ..SubscriptionDoubt::default() };
        refused
    }

    /// The broker has not answered it in time.
    pub fn handle_silence(&mut self) {
        self.silent = true;
    }

    /// Whether the broker left it without an answer.
    pub fn is_unanswered(&self) -> bool {
        self.silent
    }

    /// It is tried on this connection.
    pub fn take_up(&mut self) {
        self.strikes.take_up();
    }

    /// The connection has stood without it for long enough.
    pub fn handle_stood(&mut self) {
        self.until_it_stands = false;
    }

    /// Whether the next connection goes without it, at first or at all.
    pub fn is_left_out(&self, now: Instant) -> bool {
        self.until_it_stands || self.strikes.is_left_out(now)
    }

    /// When it is to be tried on this connection, which stands from `stands_at` on.
    pub fn due_at(&self, stands_at: Instant) -> Option<Instant> {
        self.until_it_stands.then_some(stands_at).into_iter().chain(self.strikes.left_out_until()).max()
    }

    /// What the broker does instead of accepting it.
    pub fn left_out(&self, now: Instant) -> Option<String> {
        if self.strikes.is_left_out(now) {
            return Some("the broker closes the connection over it".to_owned());
        }
        let code = self.refused?;
        let text = reason_code::text(code);
        Some(format!("the broker refuses it: {text} (0x{code:02x})"))
    }
}
