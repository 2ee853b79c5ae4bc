//! Whether this machine has an address, by what its interfaces have. Pure; the shell lists them.

use std::net::{IpAddr, SocketAddr};

/// One address of an interface that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The address.
    pub address: IpAddr,
    /// The bits of its network, IPv4 alone.
    pub netmask: Option<IpAddr>,
    /// Where all of that network are reached, IPv4 alone.
    pub broadcast: Option<IpAddr>,
    /// The zone of a link-local address (RFC 4007); 0: none.
    pub scope: u32,
    /// It is a loopback interface.
    pub is_loopback: bool,
}

impl Interface {
    /// Whether what is sent to this address arrives here. Of a loopback interface's network each
    /// address does, as 127.0.0.2 does (RFC 1122 §3.2.1.3).
    fn takes(&self, ip: IpAddr, scope: u32) -> bool {
        if self.address == ip {
            return scope == 0 || self.scope == 0 || self.scope == scope;
        }
        if self.broadcast == Some(ip) {
            return true;
        }
        match (self.is_loopback, self.address, self.netmask, ip) {
            (true, IpAddr::V4(own), Some(IpAddr::V4(mask)), IpAddr::V4(other)) => {
                own.to_bits() & mask.to_bits() == other.to_bits() & mask.to_bits()
            }
            _ => false,
        }
    }
}

/// Whether nothing sent to this address can arrive, as no interface has it. Of all addresses, and
/// of groups, that is not said.
pub fn is_absent(interfaces: &[Interface], local: SocketAddr) -> bool {
    let scope = match local {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(of) => of.scope_id(),
    };
    let ip = local.ip().to_canonical();
    !ip.is_unspecified() && !ip.is_multicast() && !interfaces.iter().any(|one| one.takes(ip, scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(address: &str, netmask: Option<&str>, scope: u32) -> Interface {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let is_loopback = ip(address).is_loopback();
        Interface { address: ip(address), netmask: netmask.map(ip), broadcast: None, scope, is_loopback }
    }

    #[test]
    fn an_address_is_absent_unless_an_interface_or_the_loopback_network_has_it() {
        let ethernet = interface("192.0.2.7", Some("255.255.255.0"), 0);
        let machine = [
            interface("127.0.0.1", Some("255.0.0.0"), 0),
            interface("::1", None, 0),
            Interface { broadcast: "192.0.2.255".parse().ok(), ..ethernet },
            interface("fe80::7", None, 2),
        ];
        for (local, expected) in [
            ("127.0.0.1:5684", false),
            ("127.0.0.77:5684", false),
            ("192.0.2.7:5684", false),
            ("192.0.2.255:5683", false),
            ("192.0.2.8:5684", true),
            ("[::ffff:192.0.2.7]:5684", false),
            ("0.0.0.0:5684", false),
            ("[::]:5684", false),
            ("224.0.1.187:5683", false),
            ("[::1]:5684", false),
            ("[2001:db8::1]:5684", true),
            ("[fe80::7%2]:5684", false),
            ("[fe80::7%3]:5684", true),
        ] {
            let local: SocketAddr = local.parse().expect("an address");
            assert_eq!(is_absent(&machine, local), expected, "{local}");
        }
        assert!(is_absent(&[], "127.0.0.1:5684".parse().expect("an address")), "lo is down");
    }
}
