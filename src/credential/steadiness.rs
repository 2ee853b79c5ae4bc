//! Whether a certificate that came into use serves: a connection with it has lasted. Without I/O.
//!
//! CONNACK alone does not show it. A broker may accept a certificate and close the connection
//! directly afterwards, since it authorises later; may send DISCONNECT; or may accept it with the
//! client id for probes and say nothing to the gateway's own. So until one connection has lasted
//! for [`LASTS`] the certificate before is tried after a while, whatever the reason: first after
//! [`PATIENCE`], then twice as long each time that came to pass, up to [`PATIENCE_MAX`].

use std::time::{Duration, Instant};

/// A connection that lasts for so long shows that the certificate serves.
pub const LASTS: Duration = Duration::from_secs(60);
/// Without such a connection for so long the certificate before is tried.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// The longest of these waits.
pub const PATIENCE_MAX: Duration = Duration::from_secs(6 * 3600);

/// What is known of one certificate.
#[derive(Clone, Debug, Default)]
pub struct Steadiness {
    /// Since when it is in use and has not shown it; `None`: it has, or there is none.
    since: Option<Instant>,
    /// The connection that stands, by its number, and since when.
    run: Option<(u64, Instant)>,
}

impl Steadiness {
    /// One that is in use from now on.
    pub fn new(now: Instant) -> Steadiness {
        Steadiness { since: Some(now), run: None }
    }

    /// One connection has lasted.
    pub fn is_shown(&self) -> bool {
        self.since.is_none()
    }

    /// Takes whether a connection stands, and their number so far. True: a connection with it is
    /// lost that did not last.
    pub fn handle(&mut self, now: Instant, stands: bool, connections: u64) -> bool {
        if self.is_shown() {
            return false;
        }
        let before = self.run;
        self.run = match before {
            _ if !stands => None,
            Some((number, since)) if number == connections => Some((number, since)),
            _ => Some((connections, now)),
        };
        if self.run.is_some_and(|(_, since)| now.saturating_duration_since(since) >= LASTS) {
            *self = Steadiness::default();
            return false;
        }
        before.is_some() && before != self.run
    }

    /// For how long it is in use and none has lasted, where none stands at present.
    pub fn missing_for(&self, now: Instant) -> Option<Duration> {
        self.since.filter(|_| self.run.is_none()).map(|since| now.saturating_duration_since(since))
    }

    /// Whether the one before is to be tried. `returns`: how often one before came into use by
    /// itself lately.
    pub fn is_over(&self, now: Instant, returns: u32) -> bool {
        let patience = PATIENCE.saturating_mul(2u32.saturating_pow(returns.min(16))).min(PATIENCE_MAX);
        self.missing_for(now).is_some_and(|missing| missing >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(of: u64) -> Duration {
        Duration::from_secs(of)
    }

    #[test]
    fn a_connection_that_lasts_a_minute_shows_it_and_those_that_follow_each_other_do_not() {
        let begin = Instant::now();
        let mut steadiness = Steadiness::new(begin);
        for at in 0..900 {
            // Each is another one, though each look finds one.
            let lost = steadiness.handle(begin + second(at), true, at / 30);
            assert_eq!(lost, at > 0 && at % 30 == 0, "{at}");
        }
        assert!(!steadiness.is_shown());
        for at in 900..959 {
            steadiness.handle(begin + second(at), true, 29);
        }
        assert!(steadiness.is_shown());
        assert!(!steadiness.handle(begin + second(960), false, 29), "lost later, it has shown it");
    }

    #[test]
    fn the_wait_is_over_only_without_a_connection_and_doubles_with_each_return() {
        let begin = Instant::now();
        let mut steadiness = Steadiness::new(begin);
        let at = |seconds| begin + second(seconds);
        assert!(!steadiness.is_over(at(299), 0));
        assert!(steadiness.is_over(at(300), 0));
        steadiness.handle(at(310), true, 1);
        assert!(!steadiness.is_over(at(320), 0), "one stands, and may last");
        assert!(steadiness.handle(at(330), false, 1));
        assert!(steadiness.is_over(at(330), 0));
        assert!(!steadiness.is_over(at(599), 1) && steadiness.is_over(at(600), 1));
        assert!(!steadiness.is_over(at(6 * 3600 - 1), 40) && steadiness.is_over(at(6 * 3600), 40));
    }
}
