//! Devices in a network namespace of their own, behind a link on which the kernel drops a tenth of
//! the datagrams each way: what is acknowledged is delivered, readings up and commands down.
//!
//! `tests/run loss` — needs root, `iproute2`, `nftables`, and a kernel with network namespaces,
//! veth and nftables (`NF_TABLES_NETDEV`, `NETFILTER_EGRESS`, `NFT_NUMGEN`).

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use super::Site;
use super::commands::{BROKER, Device, RULES, exchange_both_ways, subscribed};

/// Of each device, each way.
const COUNT: usize = 20;

/// Drops at the device's end of the link: on its way out behind the socket, so that no program is
/// told, and on its way in before anything reads it.
const RULESET: &str = r#"table netdev loss {
    chain up {
        type filter hook egress device "eth0" priority 0
        meta l4proto udp numgen random mod 100 < 10 counter drop
    }
    chain down {
        type filter hook ingress device "eth0" priority 0
        meta l4proto udp numgen random mod 100 < 10 counter drop
    }
}
"#;

/// A network namespace, and a link to it. Both end with it.
struct Namespace {
    name: String,
    /// The host's end.
    address: Ipv4Addr,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Namespace {
    /// Its addresses are a block of four out of 198.18.0.0/15, which is for tests (RFC 2544).
    fn new() -> Namespace {
        let process = std::process::id();
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + process % (1 << 15) * 4;
        let (address, device) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        let (name, link) = (format!("tombolo-{process}"), format!("tb{process}"));
        ip(&format!("netns add {name}"));
        let namespace = Namespace { name, address };
        let name = &namespace.name;
        ip(&format!("link add {link} type veth peer name eth0 netns {name}"));
        ip(&format!("address add {address}/30 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {name} address add {device}/30 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        let mut nft = namespace.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(RULESET.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft does not take {RULESET}");
        namespace
    }

    /// This program in it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Datagrams that were dropped on their way up, and down.
    fn dropped(&self) -> [usize; 2] {
        ["up", "down"].map(|chain| {
            let output =
                self.command("nft").args(["list", "chain", "netdev", "loss", chain]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let count = text.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next());
            count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{chain}: {text}"))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

#[test]
#[ignore = "it needs root and nftables: tests/run loss"]
fn over_a_namespace_link_that_loses_a_tenth_what_is_acknowledged_is_delivered_in_both_directions() {
    let namespace = Namespace::new();
    let mut rules = RULES.replace("always-awake = true", "always-awake = true\nmessages = 100");
    let doors = ["door-7", "door-8", "door-9"];
    for door in &doors[1..] {
        rules += &format!("[device.{door}]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\n");
    }
    let listen = format!("listen = [\"{}:", namespace.address);
    let mut site =
        Site::build("namespace-link", &rules, BROKER, |text| text.replace("listen = [\"127.0.0.1:", &listen));
    site.daemon.coaps.set_ip(namespace.address.into());
    subscribed(&site);
    let in_namespace = || namespace.command(&Device::python());
    let mut devices = doors.map(|door| Device::start_by(in_namespace(), &site, door, site.daemon.coaps));
    exchange_both_ways(&site, &mut devices, COUNT);
    let [up, down] = namespace.dropped();
    println!("{up} datagrams dropped on their way up, {down} on their way down");
    assert!(up > 0 && down > 0, "the link loses nothing");
}
