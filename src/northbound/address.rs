//! Which of a host's addresses to try, and when the next: Happy Eyeballs (RFC 8305), without I/O.
//!
//! Families alternate, beginning with the one the resolver puts first (§4); an address that failed
//! behind TCP (at TLS, or at MQTT) goes to the end. Attempts overlap: while one has not answered
//! for 250 ms the next begins (§5), and a failure starts the next at once; each has 10 s. What RFC
//! 8305 §3 says of asking for AAAA and A apart is the system resolver's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between the beginnings of two attempts (RFC 8305 §5, Connection Attempt Delay).
const DELAY: Duration = Duration::from_millis(250);
/// What one address may take to answer.
pub const WITHIN: Duration = Duration::from_secs(10);
/// Most addresses tried in one attempt.
pub const ADDRESSES_MAX: usize = 8;

/// Puts addresses into the order they are tried in; those in `avoid` last.
pub fn order(found: &[SocketAddr], avoid: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !all.contains(address) {
            all.push(*address);
        }
    }
    let first_is_v6 = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        all.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut mixed = Vec::new();
    while let Some(address) = first.pop_front() {
        mixed.push(address);
        mixed.extend(second.pop_front());
    }
    mixed.extend(second);
    // Cut only after mixing, so that neither family falls away.
    mixed.truncate(ADDRESSES_MAX);
    mixed.sort_by_key(|address| avoid.contains(address));
    mixed
}

/// A race of connection attempts.
#[derive(Debug)]
pub struct Race {
    waiting: VecDeque<SocketAddr>,
    /// Begun and not ended, and when.
    running: Vec<(SocketAddr, Instant)>,
    last_begun: Option<Instant>,
}

impl Race {
    /// Of these addresses, in this order.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Race {
        Race { waiting: addresses.into_iter().collect(), running: Vec::new(), last_begun: None }
    }

    /// The next address to begin with at `now`, if one is due. It counts as begun.
    pub fn poll_begin(&mut self, now: Instant) -> Option<SocketAddr> {
        if !self.running.is_empty() && self.last_begun.is_some_and(|at| now < at + DELAY) {
            return None;
        }
        let address = self.waiting.pop_front()?;
        self.running.push((address, now));
        self.last_begun = Some(now);
        Some(address)
    }

    /// An attempt failed: the next may begin at once.
    pub fn handle_failed(&mut self, address: SocketAddr) {
        self.running.retain(|(running, _)| *running != address);
        self.last_begun = None;
    }

    /// An attempt whose time is over at `now`: to be given up. It counts as failed.
    pub fn poll_overdue(&mut self, now: Instant) -> Option<SocketAddr> {
        let (address, _) = *self.running.iter().find(|(_, begun)| now >= *begun + WITHIN)?;
        self.handle_failed(address);
        Some(address)
    }

    /// Whether every address has failed.
    pub fn is_lost(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// What is left when `winner` has connected: the others, in their order.
    pub fn others(self, winner: SocketAddr) -> Vec<SocketAddr> {
        let running = self.running.into_iter().map(|(address, _)| address);
        running.filter(|address| *address != winner).chain(self.waiting).collect()
    }

    /// When the next begins, or one is overdue.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = (!self.waiting.is_empty()).then_some(self.last_begun).flatten().map(|at| at + DELAY);
        self.running.iter().map(|(_, begun)| *begun + WITHIN).chain(next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 8883))
    }

    fn v6(last: u16) -> SocketAddr {
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 8883))
    }

    #[test]
    fn families_alternate_and_what_failed_behind_tcp_goes_last() {
        let found = [v6(1), v6(2), v6(1), v4(1), v4(2), v4(3)];
        assert_eq!(order(&found, &[]), [v6(1), v4(1), v6(2), v4(2), v4(3)]);
        assert_eq!(order(&found, &[v6(1), v4(2)]), [v4(1), v6(2), v4(3), v6(1), v4(2)]);
        let many: Vec<_> = (1..20).map(v6).chain([v4(1)]).collect();
        assert!(order(&many, &[]).contains(&v4(1)));
    }

    #[test]
    fn a_dead_address_costs_a_quarter_of_a_second() {
        let start = Instant::now();
        let mut race = Race::new([v6(1), v4(1)]);
        assert_eq!(race.poll_begin(start), Some(v6(1)));
        assert_eq!(race.poll_begin(start), None);
        assert_eq!(race.poll_timeout(), Some(start + DELAY));
        assert_eq!(race.poll_begin(start + DELAY), Some(v4(1)));
        assert_eq!(race.others(v4(1)), [v6(1)]);
    }

    #[test]
    fn a_refusal_begins_the_next_at_once_and_silence_is_given_up() {
        let start = Instant::now();
        let mut race = Race::new([v6(1), v4(1), v4(2)]);
        race.poll_begin(start);
        race.handle_failed(v6(1));
        assert_eq!(race.poll_begin(start), Some(v4(1)));
        assert_eq!(race.poll_begin(start + DELAY), Some(v4(2)));
        assert_eq!(race.poll_timeout(), Some(start + WITHIN));
        assert_eq!(race.poll_overdue(start + WITHIN), Some(v4(1)));
        assert_eq!(race.poll_overdue(start + WITHIN), None);
        assert!(!race.is_lost());
        race.handle_failed(v4(2));
        assert!(race.is_lost());
        assert_eq!(race.poll_timeout(), None);
    }
}
