//! Whether what the gateway publishes of itself comes back by its subscription: a broker may accept
//! a subscription and deliver nothing by it, as to an account that may not read.
//!
//! ```text
//! idle ──published, subscribed──> sent ──acknowledged──> awaited ──10 s──> published once more
//!   ^                               │                       │                    │ 10 s
//!   └────── any message by it ──────┴───────────────────────┴──────────── missing┘
//! ```
//!
//! One that is lost alone is no sign: it has QoS 0. While it is missing it is published again every
//! 5 min, so that the end of it is noticed.

use std::time::{Duration, Instant};

/// How long an echo may take, behind the acknowledgement.
pub const ECHO_WITHIN: Duration = Duration::from_secs(10);
/// How often it is tried while it is missing.
const AGAIN: Duration = Duration::from_secs(300);

/// What is known of the echo on this subscription.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo {
    subscribed: bool,
    /// Something was published whose acknowledgement is not there yet.
    sent: bool,
    /// Until when its echo may come.
    due_at: Option<Instant>,
    /// Echoes that did not come one after the other.
    absent: u32,
    /// When it is published again, while it is missing.
    again_at: Option<Instant>,
}

impl Echo {
    /// The broker accepted the subscription, and delivers what it has retained.
    pub fn handle_subscribed(&mut self, retained: bool) {
        self.subscribed = true;
        self.sent |= retained;
    }

    /// The broker refused it, or is not asked for it.
    pub fn handle_refused(&mut self) {
        *self = Echo::default();
    }

    /// The status is published.
    pub fn handle_published(&mut self) {
        self.sent |= self.subscribed && self.due_at.is_none();
    }

    /// The broker has acknowledged all that was published.
    pub fn handle_heard(&mut self, now: Instant) {
        if std::mem::take(&mut self.sent) {
            self.due_at.get_or_insert(now + ECHO_WITHIN);
        }
    }

    /// A message came by the subscription.
    pub fn handle_message(&mut self) {
        *self = Echo { subscribed: self.subscribed, ..Echo::default() };
    }

    /// The connection is gone. What is missing stays so until another one shows it.
    pub fn handle_closed(&mut self) {
        *self = Echo { absent: self.absent, ..Echo::default() };
    }

    /// Whether the status is to be published once more.
    pub fn take_due(&mut self, now: Instant) -> bool {
        if self.due_at.take_if(|at| now >= *at).is_some() {
            self.absent = self.absent.saturating_add(1);
            self.again_at = self.is_missing().then(|| now + AGAIN);
            return !self.is_missing();
        }
        self.again_at.take_if(|at| now >= *at).is_some()
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due_at.into_iter().chain(self.again_at).min()
    }

    /// Whether two did not come, one after the other.
    pub fn is_missing(&self) -> bool {
        self.absent > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_echoes_that_do_not_come_are_missing_until_one_comes() {
        let begin = Instant::now();
        let mut echo = Echo::default();
        echo.handle_subscribed(true);
        assert_eq!(echo.poll_timeout(), None, "nothing is acknowledged yet");
        echo.handle_heard(begin);
        assert_eq!(echo.poll_timeout(), Some(begin + ECHO_WITHIN));
        assert!(!echo.take_due(begin + ECHO_WITHIN / 2));
        assert!(echo.take_due(begin + ECHO_WITHIN) && !echo.is_missing(), "it is published once more");
        echo.handle_published();
        echo.handle_heard(begin + ECHO_WITHIN);
        assert!(!echo.take_due(begin + 2 * ECHO_WITHIN) && echo.is_missing());
        // It is tried again now and then.
        assert_eq!(echo.poll_timeout(), Some(begin + 2 * ECHO_WITHIN + AGAIN));
        assert!(echo.take_due(begin + 2 * ECHO_WITHIN + AGAIN));
        echo.handle_message();
        assert!(!echo.is_missing() && echo.poll_timeout().is_none());
    }

    #[test]
    fn one_that_is_lost_alone_and_one_without_a_subscription_are_no_sign() {
        let begin = Instant::now();
        let mut echo = Echo::default();
        echo.handle_published();
        echo.handle_heard(begin);
        assert_eq!(echo.poll_timeout(), None, "nobody subscribed");
        echo.handle_subscribed(true);
        echo.handle_heard(begin);
        assert!(echo.take_due(begin + ECHO_WITHIN));
        echo.handle_published();
        echo.handle_message();
        echo.handle_heard(begin + ECHO_WITHIN);
        assert!(!echo.is_missing() && echo.poll_timeout().is_none());
    }

    #[test]
    fn what_is_missing_stays_so_over_a_reconnect_and_ends_with_a_refusal() {
        let begin = Instant::now();
        let mut echo = Echo { absent: 2, ..Echo::default() };
        echo.handle_closed();
        assert!(echo.is_missing() && echo.poll_timeout().is_none());
        echo.handle_subscribed(true);
        echo.handle_heard(begin);
        assert!(!echo.take_due(begin + ECHO_WITHIN) && echo.is_missing());
        echo.handle_refused();
        assert!(!echo.is_missing());
    }
}
