//! A password that expires, such as a token: the connection is replaced before.
//!
//! Time is monotonic, which does not advance during suspend: then the broker may end the connection
//! first.

use std::time::{Duration, Instant};

use crate::northbound::jwt::RENEW_AT;

/// So long before its expiry by our clock the broker's may have come to it.
const EARLY: Duration = Duration::from_secs(60);

/// When the password of this connection is to be replaced, and when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordLife {
    renew_at: Instant,
    expires_at: Instant,
}

impl PasswordLife {
    /// Of a password that was made at `now` and serves for `life`.
    pub fn new(now: Instant, life: Duration) -> PasswordLife {
        PasswordLife { renew_at: now + life * RENEW_AT / 100, expires_at: now + life }
    }

    /// When the connection is to be replaced.
    pub fn renew_at(&self) -> Instant {
        self.renew_at
    }

    /// Whether an end of the connection at `now` is that of the password.
    pub fn is_over(&self, now: Instant) -> bool {
        now + EARLY >= self.expires_at
    }
}
