//! The subscription to update hints: wanted where newer firmware is looked for, and left out for a
//! while where the broker closes the connection over it. Where the subscription to commands has the
//! topic, too, there is no other one: where two match, a broker may send a message twice (MQTT 5.0
//! §3.3.4), and a command at QoS 0 could not be told from the copy of one.

use std::time::{Duration, Instant};

use crate::northbound::reason_code;
use crate::northbound::strikes::Strikes;

/// It is left out for so long,
const LEFT_OUT: Duration = Duration::from_secs(3600);
/// after so many closes over it.
const STRIKES: u8 = 2;

/// What is known of it, and whether a hint came.
#[derive(Debug)]
pub struct UpdateHint {
    topic: Option<String>,
    strikes: Strikes,
    refused: Option<u8>,
    /// It was not answered, on the last connection that it was tried on.
    silent: bool,
    /// The session that the broker keeps may have the subscription.
    is_kept: bool,
    came: bool,
}

impl UpdateHint {
    /// On `topic`; `None`: it is not wanted.
    pub fn new(topic: Option<String>) -> UpdateHint {
        UpdateHint {
            topic,
            strikes: Strikes::new(STRIKES, LEFT_OUT),
            refused: None,
            silent: false,
            is_kept: true,
            came: false,
        }
    }

    /// What to subscribe to on this connection.
    pub fn wanted(&self, now: Instant) -> Option<&str> {
        self.topic.as_deref().filter(|_| !self.strikes.is_left_out(now))
    }

    /// It is subscribed to on this connection.
    pub fn handle_subscribed(&mut self) {
        self.is_kept = true;
    }

    /// Hints come by the subscription to commands.
    pub fn handle_brought(&mut self) {
        (self.refused, self.silent) = (None, false);
    }

    /// What to unsubscribe from where the subscription to commands brings hints.
    pub fn kept(&mut self, session_present: bool) -> Option<&str> {
        self.is_kept &= session_present;
        self.topic.as_deref().filter(|_| self.is_kept)
    }

    /// The broker has unsubscribed it.
    pub fn handle_left(&mut self) {
        self.is_kept = false;
    }

    /// The broker answered. Whether it refused.
    pub fn handle_answer(&mut self, code: u8) -> bool {
        self.strikes.clear();
        self.silent = false;
        let refused = reason_code::is_refusal(code);
        self.refused = refused.then_some(code);
        refused
    }

    /// The broker has not answered it in time.
    pub fn handle_silence(&mut self) {
        self.silent = true;
    }

    /// Where hints come; `None`: they are not wanted.
    pub fn topic(&self) -> Option<&str> {
        self.topic.as_deref()
    }

    /// Whether the broker left it without an answer.
    pub fn is_unanswered(&self) -> bool {
        self.silent
    }

    /// The broker closed the connection over it, or so it seems. Whether it is left out from now
    /// on.
    pub fn strike(&mut self, now: Instant) -> bool {
        self.strikes.strike(now)
    }

    /// A message came on `topic`: whatever it says, it is one hint.
    pub fn handle_message(&mut self, topic: &str) {
        self.came |= self.topic.as_deref() == Some(topic);
    }

    /// Whether a hint came since this was asked last.
    pub fn take(&mut self) -> bool {
        std::mem::take(&mut self.came)
    }

    /// What the broker does instead of accepting it.
    pub fn left_out(&self, now: Instant) -> Option<String> {
        if self.strikes.is_left_out(now) {
            return Some("the broker closes the connection over it".to_owned());
        }
        let code = self.refused?;
        Some(format!("the broker refuses it: {} (0x{code:02x})", reason_code::text(code)))
    }
}
