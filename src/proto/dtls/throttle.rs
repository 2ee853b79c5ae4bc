//! How often a source may begin a handshake: a token bucket each, in bounded memory.
//!
//! A handshake costs us a key pair and a signature; whoever receives at an address can ask for as many as it
//! likes. So a hello with a good cookie takes a token, and a handshake that is completed gives it back: who
//! has a key is not limited, and a hall full of devices behind one address comes back at once.
//!
//! | the hello comes from | bucket | burst | refilled |
//! |---|---|---|---|
//! | an address with a session: a device that restarted | that address and port | 8 | 1 a second |
//! | anywhere else | IPv4 address, or IPv6 /64 | [`Limits::handshakes_burst`] | [`Limits::handshakes_per_second`] |
//!
//! Judging a hello's cookie costs a little too. So of the hellos from where nobody is known only
//! [`Limits::hellos_per_second`] are looked at: a flood of spoofed ones can keep newcomers out, and never takes
//! the time that the sessions need.
//!
//! A device behind the same NAT as an attacker shares its source. Its session is not touched, and if it restarts
//! on its port it is let in by the bucket of its own; only a device without a session has to compete.
//!
//! A bucket is one instant: when it will be full again. What is full is not kept. There are two generations of
//! buckets; when the younger has [`SOURCES`] the older is forgotten, so that whoever has more sources than that
//! is limited by [`Limits::half_open`] alone, and nobody is locked out by it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::engine::Limits;

/// Most buckets of one generation; 56 bytes each.
const SOURCES: usize = 2_048;
/// Handshakes at once from the address of a session, and the time until there is one more.
const OWN: Rate = Rate { burst: 8, every: Duration::from_secs(1) };
/// Times are sums with it; none may overflow.
const FULL_WITHIN_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Whose bucket it is: all of a source, or one address of it that has a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    /// An IPv4 address, or an IPv6 /64.
    pub source: IpAddr,
    /// The port, where there is a session.
    pub port: Option<u16>,
}

#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// See the module.
pub struct Throttle {
    source: Rate,
    hello: Rate,
    /// When as many hellos as may come at once may come again.
    hellos: Option<Instant>,
    /// When a bucket will be full again.
    young: HashMap<Party, Instant>,
    old: HashMap<Party, Instant>,
}

impl Throttle {
    /// All buckets full.
    pub fn new(limits: &Limits) -> Throttle {
        let every = Duration::from_secs(1) / limits.handshakes_per_second.max(1);
        let burst = limits.handshakes_burst.max(1);
        let per_second = limits.hellos_per_second.max(1);
        let hello = Rate { burst: per_second, every: Duration::from_secs(1) / per_second };
        let source = Rate { burst, every };
        Throttle { source, hello, hellos: None, young: HashMap::new(), old: HashMap::new() }
    }

    /// Whether one more hello of a stranger is to be looked at.
    pub fn take_hello(&mut self, now: Instant) -> bool {
        let full = self.hellos.unwrap_or(now).max(now) + self.hello.every;
        let is_free = full - now <= self.hello.every * self.hello.burst;
        if is_free {
            self.hellos = Some(full);
        }
        is_free
    }

    fn rate(&self, party: &Party) -> Rate {
        if party.port.is_some() { OWN } else { self.source }
    }

    /// Takes a token; `false` if there is none.
    pub fn take(&mut self, now: Instant, party: Party) -> bool {
        let Rate { burst, every } = self.rate(&party);
        let known = self.young.get(&party).or_else(|| self.old.get(&party)).copied();
        let full = known.unwrap_or(now).max(now) + every;
        if full - now > (every * burst).min(FULL_WITHIN_MAX) {
            return false;
        }
        if self.young.len() >= SOURCES && !self.young.contains_key(&party) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(party, full);
        true
    }

    /// Gives a token back.
    pub fn give_back(&mut self, now: Instant, party: Party) {
        let every = self.rate(&party).every;
        let generation = if self.young.contains_key(&party) { &mut self.young } else { &mut self.old };
        let Some(full) = generation.get_mut(&party) else { return };
        match full.checked_sub(every).filter(|full| *full > now) {
            Some(sooner) => *full = sooner,
            None => drop(generation.remove(&party)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(n: u32) -> Party {
        Party { source: IpAddr::from(n.to_be_bytes()), port: None }
    }

    fn throttle(burst: u32, per_second: u32) -> Throttle {
        let (handshakes_burst, handshakes_per_second) = (burst, per_second);
        Throttle::new(&Limits { handshakes_burst, handshakes_per_second, ..Limits::default() })
    }

    fn taken(throttle: &mut Throttle, now: Instant, party: Party, of: usize) -> usize {
        (0..of).filter(|_| throttle.take(now, party)).count()
    }

    #[test]
    fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
        let (now, mut throttle) = (Instant::now(), throttle(10, 4));
        assert_eq!(taken(&mut throttle, now, party(1), 100), 10);
        assert_eq!(taken(&mut throttle, now, party(2), 100), 10, "another source has its own");
        assert_eq!(taken(&mut throttle, now + Duration::from_millis(249), party(1), 100), 0);
        assert_eq!(taken(&mut throttle, now + Duration::from_millis(250), party(1), 100), 1);
        assert_eq!(taken(&mut throttle, now + Duration::from_secs(2), party(1), 100), 7);
        assert_eq!(taken(&mut throttle, now + Duration::from_secs(1_000), party(1), 100), 10);
    }

    #[test]
    fn strangers_hellos_are_looked_at_at_their_rate() {
        let limits = Limits { hellos_per_second: 100, ..Limits::default() };
        let (now, mut throttle) = (Instant::now(), Throttle::new(&limits));
        let mut looked_at = |now| (0..1_000).filter(|_| throttle.take_hello(now)).count();
        assert_eq!(looked_at(now), 100);
        assert_eq!(looked_at(now + Duration::from_millis(9)), 0);
        assert_eq!(looked_at(now + Duration::from_millis(10)), 1);
        assert_eq!(looked_at(now + Duration::from_secs(9)), 100);
    }

    #[test]
    fn a_token_that_is_given_back_can_be_taken_again() {
        let (now, mut throttle) = (Instant::now(), throttle(3, 1));
        for _ in 0..100 {
            assert!(throttle.take(now, party(1)));
            throttle.give_back(now, party(1));
        }
        assert!(throttle.young.is_empty() && throttle.old.is_empty(), "what is full is not kept");
        throttle.give_back(now, party(1));
        assert_eq!(taken(&mut throttle, now, party(1), 9), 3, "and never more than the burst");
    }

    #[test]
    fn the_address_of_a_session_has_a_bucket_of_its_own() {
        let (now, mut throttle) = (Instant::now(), throttle(3, 1));
        assert_eq!(taken(&mut throttle, now, party(1), 9), 3);
        let own = Party { port: Some(5_684), ..party(1) };
        assert_eq!(taken(&mut throttle, now, own, 99), 8);
        assert_eq!(taken(&mut throttle, now + Duration::from_secs(2), own, 99), 2);
    }

    #[test]
    fn memory_is_bounded_however_many_sources_come() {
        let (now, mut throttle) = (Instant::now(), throttle(1, 1));
        for n in 0..100_000 {
            assert!(throttle.take(now, party(n)), "a source not seen before is let in");
            assert!(throttle.young.len() <= SOURCES && throttle.old.len() <= SOURCES);
        }
        assert!(!throttle.take(now, party(99_999)));
    }
}
