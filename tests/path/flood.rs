//! Floods through the whole daemon: spoofed hellos, garbage, handshakes with wrong keys, while devices report.
//!
//! What must hold: every confirmable reading of a live device is acknowledged within its retransmissions, what
//! was acknowledged arrives, and afterwards nothing of the flood is left but the counts. How fast that goes
//! is asserted nowhere.
//!
//! `TOMBOLO_FLOOD_SECONDS=60` makes the second test a long one: four threads, two of which send as fast as they can for so
//! long, with the figures printed at its end (`--nocapture`).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, Config, ECDHE_PSK_CCM8};
use super::device::Device;
use super::support::{resident_kb, wait_for, wait_within};
use super::{KEY, Site};

/// Live devices, and the readings each sends while the flood lasts.
const DEVICES: usize = 4;

/// What an attacker sends, by turns.
struct Attacker {
    socket: UdpSocket,
    gateway: SocketAddr,
    sent: u64,
    state: u64,
}

impl Attacker {
    fn new(gateway: SocketAddr, number: u64) -> Attacker {
        // Another source than the devices', as it is in the field: all of 127/8 is ours here.
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 9, 9, 9), 0)).expect("an address of 127/8");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        Attacker { socket, gateway, sent: 0, state: number * 2 + 1 }
    }

    fn chance(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    fn send(&mut self, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, self.gateway);
        self.sent += 1;
    }

    /// Hellos whose answers nobody hears, none like another.
    fn spoofed_hellos(&mut self, count: usize) {
        let mut hello = Client::new(Config::psk("door-7", "x")).start(Instant::now()).remove(0);
        for _ in 0..count {
            hello[30..38].copy_from_slice(&self.chance().to_be_bytes());
            self.send(&hello);
        }
    }

    fn garbage(&mut self) {
        let length = 1 + self.chance() as usize % 200;
        let mut bytes: Vec<u8> = (0..length).map(|_| self.chance() as u8).collect();
        // Half of it begins like a record.
        if self.chance().is_multiple_of(2) {
            let head = [20 + self.chance() as u8 % 7, 0xfe, 0xfd, 0, self.chance() as u8 % 2];
            bytes.splice(0..0, head);
        }
        self.send(&bytes);
    }

    /// A handshake with a wrong key, from the first hello to the Finished, from a port of its own.
    fn wrong_key(&mut self, suite: u16) {
        let config = Config { suites: vec![suite], ..Config::psk("door-7", "not-the-key") };
        let fresh = Attacker::new(self.gateway, self.chance());
        let socket = std::mem::replace(&mut self.socket, fresh.socket);
        drop(socket);
        let mut client = Client::new(config);
        let mut out = client.start(Instant::now());
        let mut buffer = [0; 4_096];
        // Hello, hello with cookie, Finished. Whether anybody answers is the gateway's business.
        for _ in 0..3 {
            for datagram in std::mem::take(&mut out) {
                self.send(&datagram);
            }
            let Ok((length, _)) = self.socket.recv_from(&mut buffer) else { return };
            out = client.handle_datagram(Instant::now(), &buffer[..length]);
        }
    }
}

/// Everything at once; then what is left of it.
struct Flood {
    sent: u64,
    wrong_keys: u64,
    posted: u64,
    repeated: u64,
}

/// Attacks until `enough` says so for each attacker, with the live devices reporting all the while.
fn flood(site: &Site, attackers: u64, enough: impl Fn(&Attacker, u64, Instant) -> bool + Sync) -> Flood {
    let gateway = site.daemon.coaps;
    let (over, sent, wrong_keys) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (posted, repeated) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let devices: Vec<_> = (0..DEVICES)
            .map(|number| {
                let id = format!("live-{number}");
                let cid = number.is_multiple_of(2).then(|| vec![number as u8]);
                let config = Config { cid, ..Config::psk(&id, KEY) };
                Device::connect(gateway, config).expect("a session before the flood")
            })
            .collect();
        let (over, posted, repeated) = (&over, &posted, &repeated);
        let live: Vec<_> = devices
            .into_iter()
            .enumerate()
            .map(|(number, mut device)| {
                scope.spawn(move || {
                    let mut readings = 0;
                    while !over.load(Ordering::Relaxed) || readings < 20 {
                        readings += 1;
                        let reading = format!("{number}-{readings}");
                        assert!(device.post("t/live", reading.as_bytes()), "{reading} is not acknowledged");
                    }
                    posted.fetch_add(readings, Ordering::Relaxed);
                    repeated.fetch_add(device.repeated.into(), Ordering::Relaxed);
                })
            })
            .collect();
        let (enough, sent, wrong_keys) = (&enough, &sent, &wrong_keys);
        let attacks: Vec<_> = (0..attackers)
            .map(|number| {
                scope.spawn(move || {
                    let mut attacker = Attacker::new(gateway, number);
                    let (mut handshakes, began) = (0, Instant::now());
                    while !enough(&attacker, handshakes, began) {
                        attacker.spoofed_hellos(30);
                        for _ in 0..10 {
                            attacker.garbage();
                        }
                        // Who waits for answers does not saturate anything: only every other one does.
                        if number.is_multiple_of(2) {
                            attacker.wrong_key([0xc0a8, ECDHE_PSK_CCM8][handshakes as usize % 2]);
                            handshakes += 1;
                        }
                    }
                    sent.fetch_add(attacker.sent, Ordering::Relaxed);
                    wrong_keys.fetch_add(handshakes, Ordering::Relaxed);
                })
            })
            .collect();
        for attack in attacks {
            attack.join().expect("an attacker");
        }
        over.store(true, Ordering::Relaxed);
        for device in live {
            device.join().expect("a device loses nothing");
        }
    });
    Flood {
        sent: sent.into_inner(),
        wrong_keys: wrong_keys.into_inner(),
        posted: posted.into_inner(),
        repeated: repeated.into_inner(),
    }
}

fn site(name: &str) -> Site {
    let devices: String = (0..DEVICES)
        .map(|n| format!("[device.live-{n}]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\n"))
        .collect();
    Site::new(name, &devices)
}

/// The devices lost nothing, and of the flood only the counts are left.
fn check(site: &Site, flood: &Flood) {
    let arrived = || -> usize {
        let topics = (0..DEVICES).map(|n| format!("tombolo/gw/live-{n}/up/t/live"));
        topics
            .map(|topic| {
                let mut payloads: Vec<String> =
                    site.arrived(&topic).into_iter().map(|fields| fields[1].clone()).collect();
                payloads.sort_unstable();
                payloads.dedup();
                payloads.len()
            })
            .sum()
    };
    wait_for("all that was acknowledged", || arrived() as u64 == flood.posted);
    let status = site.daemon.status();
    assert_eq!(status["devices"]["sessions"], DEVICES, "the sessions are those of the devices");
    let counters = &status["counters"];
    let number = |name: &str| counters[name].as_u64().unwrap_or_else(|| panic!("no counter {name}"));
    assert_eq!(number("tombolo_dtls_closed_sessions_total"), 0, "no session was lost");
    assert_eq!(number("tombolo_dtls_faulty_sessions_total"), 0);
    assert!(
        number("tombolo_dtls_sent_cookies_total") > 0 && number("tombolo_dtls_refused_records_total") > 0
    );
    assert!(number("tombolo_dtls_begun_handshakes_total") <= DEVICES as u64 + flood.wrong_keys);
    // A handshake whose Finished did not open is given up after 2 s, one that was left half way after 60.
    let long = Duration::from_secs(150);
    wait_within(long, "no handshake under way", || site.daemon.status()["devices"]["half_open"] == 0);
}

#[test]
fn live_devices_lose_nothing_in_a_flood_and_nothing_of_it_is_left() {
    let site = site("flood");
    // 2,000 datagrams or more each, one of them 50 handshakes with wrong keys besides.
    let flood = flood(&site, 2, |attacker, _, _| attacker.sent >= 2_000);
    check(&site, &flood);
}

#[test]
fn a_flood_as_fast_as_two_attackers_can_for_as_long_as_asked_for() {
    let seconds = std::env::var("TOMBOLO_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let site = site("long-flood");
    let before = resident_kb(site.daemon.pid());
    let flood = flood(&site, 4, |_, _, began| began.elapsed() >= Duration::from_secs(seconds));
    let after = resident_kb(site.daemon.pid());
    let counters = site.daemon.status()["counters"].clone();
    println!(
        "{seconds} s: {} datagrams and {} handshakes with wrong keys sent; {} readings acknowledged, {} repeated; \
         resident {before} kB before, {after} kB after; limited {}, cookies {}, begun {}, failed {}",
        flood.sent,
        flood.wrong_keys,
        flood.posted,
        flood.repeated,
        counters["tombolo_dtls_limited_hellos_total"],
        counters["tombolo_dtls_sent_cookies_total"],
        counters["tombolo_dtls_begun_handshakes_total"],
        counters["tombolo_dtls_failed_handshakes_total"],
    );
    check(&site, &flood);
}
