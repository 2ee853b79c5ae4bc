//! How many connections that are not identified there may be: in all, and of one network.
//!
//! A stranger costs memory and, with TLS, a signature. One network (an IPv4 address, 64 bits of an
//! IPv6 one) has at most [`PENDING_PER_NETWORK`] at once and [`RATE`] a second, so that it neither
//! takes the places of others nor the processor. Programs on this machine have no such share: they
//! could take the processor anyway.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

/// Most unidentified connections.
pub const PENDING_MAX: usize = 512;
/// Most of them from one network.
pub const PENDING_PER_NETWORK: u32 = 32;
/// New connections of one network a second.
pub const RATE: u32 = 20;
/// New connections of one network at once.
pub const BURST: u32 = 60;
/// Most networks that are remembered; beyond, those without a connection are forgotten.
const NETWORKS_MAX: usize = 1_024;

struct Network {
    pending: u32,
    tokens: f64,
    since: Instant,
}

/// The unidentified connections.
#[derive(Default)]
pub struct Admission {
    pending: usize,
    networks: HashMap<IpAddr, Network>,
}

impl Admission {
    /// Whether a new connection may stay. [`Admission::release`] is called once it is identified or
    /// closed.
    pub fn admit(&mut self, now: Instant, address: Option<IpAddr>) -> bool {
        if self.pending >= PENDING_MAX {
            return false;
        }
        if let Some(network) = network(address) {
            if self.networks.len() >= NETWORKS_MAX && !self.networks.contains_key(&network) {
                self.networks.retain(|_, known| known.pending > 0);
            }
            let fresh = || Network { pending: 0, tokens: f64::from(BURST), since: now };
            let known = self.networks.entry(network).or_insert_with(fresh);
            let elapsed = now.saturating_duration_since(known.since).as_secs_f64();
            known.tokens = (known.tokens + elapsed * f64::from(RATE)).min(f64::from(BURST));
            known.since = now;
            if known.tokens < 1.0 || known.pending >= PENDING_PER_NETWORK {
                return false;
            }
            known.tokens -= 1.0;
            known.pending += 1;
        }
        self.pending += 1;
        true
    }

    /// A connection that was admitted is identified, or closed.
    pub fn release(&mut self, address: Option<IpAddr>) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(known) = network(address).and_then(|network| self.networks.get_mut(&network)) {
            known.pending = known.pending.saturating_sub(1);
        }
    }
}

/// The network of an address that is not on this machine.
pub(super) fn network(address: Option<IpAddr>) -> Option<IpAddr> {
    match address?.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V6(v6) => Some(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64))),
        v4 => Some(v4),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn admitted(admission: &mut Admission, now: Instant, address: &str, tries: u32) -> u32 {
        let address: Option<IpAddr> = address.parse().ok();
        (0..tries).filter(|_| admission.admit(now, address)).count() as u32
    }

    #[test]
    fn one_network_takes_neither_all_places_nor_the_processor() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        assert_eq!(admitted(&mut admission, now, "2001:db8::1", 1_000), PENDING_PER_NETWORK);
        assert_eq!(admitted(&mut admission, now, "2001:db8::2", 1), 0, "the same network");
        assert_eq!(admitted(&mut admission, now, "192.0.2.1", 1), 1, "another one");
        for _ in 0..PENDING_PER_NETWORK {
            admission.release("2001:db8::1".parse().ok());
        }
        let rest = BURST - PENDING_PER_NETWORK;
        assert_eq!(admitted(&mut admission, now, "2001:db8::1", 1_000), rest);
        for _ in 0..rest {
            admission.release("2001:db8::1".parse().ok());
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(admitted(&mut admission, later, "2001:db8::1", 1_000), RATE);
    }

    #[test]
    fn programs_of_this_machine_share_the_places_of_all() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        assert_eq!(admitted(&mut admission, now, "127.0.0.1", 10_000), PENDING_MAX as u32);
        assert!(!admission.admit(now, None));
        admission.release(None);
        assert!(admission.admit(now, None));
    }

    #[test]
    fn networks_are_forgotten_when_there_are_too_many() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        for number in 0..10_000u32 {
            let address = Some(IpAddr::V4(number.into()));
            assert!(admission.admit(now, address));
            admission.release(address);
            assert!(admission.networks.len() <= NETWORKS_MAX);
        }
    }
}
