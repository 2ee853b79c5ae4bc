//! Floods through the whole daemon: spoofed hellos, garbage, handshakes with wrong keys, and one
//! key that opens session after session, while devices report. The attackers are processes of their
//! own ([`attacker`](super::attacker)).
//!
//! What must hold: every confirmable reading of a live device is acknowledged within its
//! retransmissions, what was acknowledged arrives, and afterwards nothing of the flood is left but
//! the counts. How fast that goes is asserted nowhere.
//!
//! `TOMBOLO_FLOOD_SECONDS=60` makes the second test a long one: four attackers, two of which send
//! as fast as they can for so long, with the figures printed at its end (`--nocapture`).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::attacker::{Attack, Attacker, Done};
use super::device::Device;
use super::{KEY, Site};
use tombolo_test_support::dtls::client::Config;
use tombolo_test_support::{resident_kb, wait_for, wait_within};

/// Live devices, and the readings each sends while the flood lasts.
const DEVICES: usize = 4;

/// Everything at once; then what is left of it.
struct Flood {
    sent: u64,
    wrong_keys: u64,
    posted: u64,
    repeated: u64,
}

/// Has the live devices report while `attack` lasts.
fn with_live_devices(gateway: SocketAddr, attack: impl FnOnce() -> Done) -> Flood {
    let over = AtomicBool::new(false);
    let (posted, repeated) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = thread::scope(|scope| {
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
        let done = attack();
        over.store(true, Ordering::Relaxed);
        for device in live {
            device.join().expect("a device loses nothing");
        }
        done
    });
    Flood {
        sent: done.sent,
        wrong_keys: done.handshakes,
        posted: posted.into_inner(),
        repeated: repeated.into_inner(),
    }
}

/// Attacks by so many, with the live devices reporting all the while.
fn flood(site: &Site, attackers: u64, attack: Attack) -> Flood {
    let gateway = site.daemon.coaps;
    with_live_devices(gateway, || {
        let attackers: Vec<_> =
            (0..attackers).map(|number| Attacker::start(attack, gateway, number)).collect();
        attackers.into_iter().map(Attacker::wait).fold(Done::default(), |all, one| Done {
            sent: all.sent + one.sent,
            handshakes: all.handshakes + one.handshakes,
            sessions: all.sessions + one.sessions,
        })
    })
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
    // A handshake whose Finished did not open is given up after 2 s, one that was left half way
    // after 60.
    let long = Duration::from_secs(150);
    wait_within(long, "no handshake under way", || site.daemon.status()["devices"]["half_open"] == 0);
}

#[test]
fn live_devices_lose_nothing_in_a_flood_and_nothing_of_it_is_left() {
    let site = site("flood");
    // 2,000 datagrams or more each, one of them 50 handshakes with wrong keys besides.
    let flood = flood(&site, 2, Attack::Mixed { datagrams: 2_000, seconds: 0 });
    check(&site, &flood);
}

#[test]
fn a_flood_as_fast_as_two_attackers_can_for_as_long_as_asked_for() {
    let seconds = std::env::var("TOMBOLO_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let site = site("long-flood");
    let before = resident_kb(site.daemon.pid());
    let flood = flood(&site, 4, Attack::Mixed { datagrams: 0, seconds });
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

#[test]
fn newcomers_are_let_in_while_20_000_spoofed_hellos_a_second_come() {
    const NEWCOMERS: u8 = 100;
    let devices: String = (0..NEWCOMERS)
        .map(|n| format!("[device.new-{n}]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\n"))
        .collect();
    let site = Site::new("newcomers", &devices);
    let gateway = site.daemon.coaps;
    let attacker = Attacker::start(Attack::Hellos { per_second: 20_000 }, gateway, 1);
    let counter = |name: &str| site.daemon.status()["counters"][name].as_u64().expect("a counter");
    wait_for("the flood", || counter("tombolo_dtls_sent_cookies_total") > 10_000);
    let began = Instant::now();
    let mut took: Vec<f64> = thread::scope(|scope| {
        let newcomers: Vec<_> = (0..NEWCOMERS)
            .map(|n| {
                scope.spawn(move || {
                    let config = Config::psk(&format!("new-{n}"), KEY);
                    let from = Ipv4Addr::new(127, 2, 0, n + 1);
                    let mut device = Device::connect_from(from, gateway, config).expect("a session");
                    let took = began.elapsed();
                    assert!(device.post("t/new", b"here"));
                    took.as_secs_f64()
                })
            })
            .collect();
        newcomers.into_iter().map(|newcomer| newcomer.join().expect("a newcomer is let in")).collect()
    });
    took.sort_unstable_by(f64::total_cmp);
    let (lasted, done) = (began.elapsed(), attacker.stop());
    println!(
        "{} spoofed hellos, the last {:.2} s beside {NEWCOMERS} newcomers: half of these had a session after {:.2} s, \
         nine of ten after {:.2} s, all after {:.2} s; cookies {}, limited {}",
        done.sent,
        lasted.as_secs_f64(),
        took[49],
        took[89],
        took[99],
        counter("tombolo_dtls_sent_cookies_total"),
        counter("tombolo_dtls_limited_hellos_total"),
    );
    assert_eq!(site.daemon.status()["dtls"]["sessions"], NEWCOMERS);
}

#[test]
fn one_key_takes_no_session_from_the_others() {
    let site = site("one-key");
    let mut sessions = 0;
    let flood = with_live_devices(site.daemon.coaps, || {
        let done = Attacker::start(Attack::Sessions { count: 400 }, site.daemon.coaps, 1).wait();
        sessions = done.sessions;
        done
    });
    let status = site.daemon.status();
    let counters = &status["counters"];
    println!("{} handshakes, {sessions} of them completed; {}", flood.wrong_keys, status["dtls"]);
    // Those of the devices, and the last four of the key's.
    assert_eq!(status["dtls"]["sessions"], DEVICES + 4);
    assert!((120..400).contains(&sessions), "a burst of 120, and two more a second: {sessions}");
    assert_eq!(status["dtls"]["refused_too_often"], 400 - sessions);
    assert_eq!(counters["tombolo_dtls_displaced_sessions_total"], sessions - 4);
    assert_eq!(counters["tombolo_dtls_evicted_sessions_total"], 0);
    assert_eq!(flood.repeated, 0, "no reading had to be sent twice");
    // Every owner of the key is let in again before long.
    wait_for("a session for the key's owner", || {
        Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).is_some()
    });
}
