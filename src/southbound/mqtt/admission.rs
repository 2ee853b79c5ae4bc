//! How many connections that are not identified there may be: in all, and of one network.
//!
//! A stranger costs memory and, with TLS, a signature. One network (an IPv4 address, 64 bits of an
//! IPv6 one) has at most [`PENDING_PER_NETWORK`] at once and [`RATE`] a second, so that it neither
//! takes the places of others nor the processor. Programs on this machine are one network without
//! such a share: they could take the processor anyway.
//!
//! Where all places are taken, the newest gets the place of the oldest of the network that has
//! most: connections that stay silent keep nobody out, from wherever they come.

use std::collections::{BTreeMap, HashMap};
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

/// A new connection that may stay until it is identified or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its number, for [`Admission::release`].
    pub number: u64,
    /// The one that has to be closed for it.
    pub displaced: Option<u64>,
}

/// The unidentified connections.
#[derive(Default)]
pub struct Admission {
    next: u64,
    /// Each with its network; `None`: on this machine.
    pending: BTreeMap<u64, Option<IpAddr>>,
    local: u32,
    networks: HashMap<IpAddr, Network>,
}

impl Admission {
    /// Whether a new connection may stay.
    pub fn admit(&mut self, now: Instant, address: Option<IpAddr>) -> Option<Admitted> {
        let network = network(address);
        if let Some(network) = network {
            if self.networks.len() >= NETWORKS_MAX && !self.networks.contains_key(&network) {
                self.networks.retain(|_, known| known.pending > 0);
            }
            let fresh = || Network { pending: 0, tokens: f64::from(BURST), since: now };
            let known = self.networks.entry(network).or_insert_with(fresh);
            let elapsed = now.saturating_duration_since(known.since).as_secs_f64();
            known.tokens = (known.tokens + elapsed * f64::from(RATE)).min(f64::from(BURST));
            known.since = now;
            if known.tokens < 1.0 || known.pending >= PENDING_PER_NETWORK {
                return None;
            }
            known.tokens -= 1.0;
        }
        let displaced = if self.pending.len() >= PENDING_MAX { self.most_of_one_network() } else { None };
        if let Some(number) = displaced {
            self.release(number);
        }
        let number = self.next;
        self.next += 1;
        self.pending.insert(number, network);
        *self.count(network) += 1;
        Some(Admitted { number, displaced })
    }

    /// A connection that was admitted is identified, or closed. It may be told twice.
    pub fn release(&mut self, number: u64) {
        if let Some(network) = self.pending.remove(&number) {
            let count = self.count(network);
            *count = count.saturating_sub(1);
        }
    }

    /// The oldest connection of the network that has most, or of one of those.
    fn most_of_one_network(&self) -> Option<u64> {
        let count = |network: &Option<IpAddr>| match network {
            Some(network) => self.networks.get(network).map_or(0, |known| known.pending),
            None => self.local,
        };
        let all = self.pending.iter().map(|(number, network)| (count(network), *number));
        all.max_by_key(|(count, number)| (*count, std::cmp::Reverse(*number))).map(|(_, number)| number)
    }

    fn count(&mut self, network: Option<IpAddr>) -> &mut u32 {
        match network.and_then(|network| self.networks.get_mut(&network)) {
            Some(known) => &mut known.pending,
            None => &mut self.local,
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

    fn admitted(admission: &mut Admission, now: Instant, address: &str, tries: u32) -> Vec<Admitted> {
        let address: Option<IpAddr> = address.parse().ok();
        (0..tries).filter_map(|_| admission.admit(now, address)).collect()
    }

    #[test]
    fn one_network_takes_neither_all_places_nor_the_processor() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let first = admitted(&mut admission, now, "2001:db8::1", 1_000);
        assert_eq!(first.len(), PENDING_PER_NETWORK as usize);
        assert_eq!(admitted(&mut admission, now, "2001:db8::2", 1), [], "the same network");
        assert_eq!(admitted(&mut admission, now, "192.0.2.1", 1).len(), 1, "another one");
        first.iter().for_each(|connection| admission.release(connection.number));
        let rest = admitted(&mut admission, now, "2001:db8::1", 1_000);
        assert_eq!(rest.len(), (BURST - PENDING_PER_NETWORK) as usize);
        rest.iter().for_each(|connection| admission.release(connection.number));
        let later = now + Duration::from_secs(1);
        assert_eq!(admitted(&mut admission, later, "2001:db8::1", 1_000).len(), RATE as usize);
    }

    #[test]
    fn silent_connections_of_many_networks_or_of_this_machine_keep_nobody_out() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let silent: Vec<Admitted> = (1..=16u32)
            .flat_map(|network| admitted(&mut admission, now, &format!("192.0.2.{network}"), 32))
            .collect();
        assert_eq!(silent.len(), PENDING_MAX);
        // A program of this machine, and a device of another network.
        for (address, oldest) in [("127.0.0.1", 0), ("198.51.100.1", 32)] {
            let new = admission.admit(now, address.parse().ok()).expect("a place");
            assert_eq!(new.displaced, Some(silent[oldest].number), "{address}");
            admission.release(new.number);
            admission.release(silent[oldest].number);
            // Somebody takes the place that is free.
            admission.admit(now, "203.0.113.1".parse().ok()).expect("a place");
        }
        let (mut admission, now) = (Admission::default(), Instant::now());
        let local = admitted(&mut admission, now, "127.0.0.1", 10_000);
        assert_eq!(local.iter().filter(|new| new.displaced.is_none()).count(), PENDING_MAX);
        let device = admission.admit(now, "198.51.100.1".parse().ok()).expect("a place");
        assert_eq!(device.displaced, Some(local[10_000 - PENDING_MAX].number));
        // The programs displace each other, and not the device.
        let more = admitted(&mut admission, now, "127.0.0.1", 10_000);
        assert!(more.iter().all(|new| new.displaced.is_some_and(|number| number != device.number)));
        assert_eq!((admission.pending.len(), admission.local as usize), (PENDING_MAX, PENDING_MAX - 1));
    }

    #[test]
    fn networks_are_forgotten_when_there_are_too_many() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        for number in 0..10_000u32 {
            let new = admission.admit(now, Some(IpAddr::V4((number + 1).into()))).expect("a place");
            admission.release(new.number);
            assert!(admission.networks.len() <= NETWORKS_MAX);
        }
    }
}
