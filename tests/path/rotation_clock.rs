//! A clock that jumps while a certificate is due: nothing is lost, and no jump leaves the gateway
//! without a certificate that works.

use std::time::{Duration, Instant};

use tombolo_test_support::kernel::Kernel;
use tombolo_test_support::wait_for;

use super::rotation::{Plan, certificate, let_a_second_pass, site_run_by, until_connected_and_confirmed};
use super::{Site, binary};

const YEAR: i64 = 365;

fn orders(site: &Site) -> usize {
    let text = std::fs::read_to_string(site.folder.join("est/requests.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.contains("simpleenroll") || line.contains("simplereenroll")).count()
}

fn is_trusted(site: &Site) -> bool {
    site.daemon.status()["clock"]["trusted"] == true
}

/// Some rounds of the renewal pass; a reading is acknowledged, and the connection stands.
fn serves_on(site: &Site, name: &str) {
    let begun = Instant::now();
    wait_for("some rounds", || begun.elapsed() > Duration::from_millis(3_500));
    let said = site.post(&["-e", name], "t/env");
    assert!(said.contains("2.04"), "{name}: {said}");
    wait_for("the reading", || {
        site.arrived("tombolo/gw/door-7/up/t/env").iter().any(|fields| fields[1] == name)
    });
    assert_eq!(site.daemon.status()["upstream"]["connected"], true, "{name}");
}

#[test]
fn a_clock_that_jumps_while_a_certificate_is_due_costs_neither_the_connection_nor_the_renewal() {
    let plan = Plan { upstream: "certificate = \"uplink\"", ..Plan::default() };
    let mut kernel = None;
    let (site, _est) = site_run_by("jumps", &plan, "kernel", |folder| {
        kernel.insert(Kernel::new(folder, 0)).wrap(folder, binary())
    });
    let mut kernel = kernel.expect("it was made");
    until_connected_and_confirmed(&site.daemon);
    wait_for("a trusted clock", || is_trusted(&site));
    let first = certificate(&site.daemon)["serial"].clone();
    let of_first = orders(&site);

    // To 1976, and nobody vouches for it: nothing is due, and nothing has expired.
    kernel.synchronise(false);
    kernel.step(-50 * YEAR);
    wait_for("no trusted clock", || !is_trusted(&site));
    serves_on(&site, "in-1976");
    let held = certificate(&site.daemon);
    assert_eq!((&held["state"], &held["serial"]), (&"valid".into(), &first), "{held}");
    // As far ahead, when it would have expired long ago.
    kernel.step(70 * YEAR);
    serves_on(&site, "in-2046");
    let held = certificate(&site.daemon);
    assert_eq!((&held["state"], &held["serial"]), (&"valid".into(), &first), "{held}");
    assert_eq!(orders(&site), of_first);

    // Back, and asleep across the due time: renewed when it wakes.
    kernel.step(-20 * YEAR);
    kernel.synchronise(true);
    wait_for("a trusted clock", || is_trusted(&site));
    let_a_second_pass();
    kernel.pass(Duration::from_secs(48 * 60));
    wait_for("the next certificate", || certificate(&site.daemon)["serial"] != first);
    until_connected_and_confirmed(&site.daemon);
    serves_on(&site, "awake");

    // A time server that lies by 20 years, while the next one is due, and then does not.
    let second = certificate(&site.daemon)["serial"].clone();
    kernel.step(20 * YEAR);
    serves_on(&site, "lied-to");
    kernel.step(-20 * YEAR);
    serves_on(&site, "told-the-truth");
    until_connected_and_confirmed(&site.daemon);
    let_a_second_pass();
    let (code, text) = site.daemon.command(&["cert", "renew", "uplink", "--wait"]);
    assert_eq!(code, 0, "{text}");
    assert_ne!(certificate(&site.daemon)["serial"], second);
    until_connected_and_confirmed(&site.daemon);
    assert_eq!(site.daemon.status()["journal"]["lost"], 0);
}
