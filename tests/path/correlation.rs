//! Applications that tell outcomes by their correlation data, and real devices behind the gateway.

use std::process::{Command, Stdio};

use tombolo_test_support::printed;

use super::Site;
use super::commands::{BROKER, Device, RULES, request, subscribed};
use super::plugtests_device::Libcoap;

/// What the application on paho prints: correlation data, status, payload of each outcome.
fn paho(site: &Site, commands: &[&str]) -> Vec<String> {
    let output = Command::new(Device::python())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path/paho_requests.py"))
        .arg(site.broker.plain_port.to_string())
        .args(commands)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}

/// `mosquitto_rr` with these correlation data: they, user properties, and payload of the outcome.
fn rr(site: &Site, path: &str, correlation: &str, more: &[&str]) -> String {
    let own = ["-F", "%D|%P|%p", "-D", "publish", "correlation-data", correlation];
    request(site, path, &[&own[..], more].concat())
}

#[test]
fn paho_and_mosquitto_rr_ask_an_aiocoap_device_and_each_outcome_has_the_correlation_data_of_its_command() {
    let site = Site::with_broker("correlation-aiocoap", RULES, BROKER);
    subscribed(&site);
    let device = Device::start(&site);
    let outcomes = paho(
        &site,
        &[
            // Not UTF-8, with a zero, and one that is a prefix of another.
            "PUT door-7 set/level 00ff80 40",
            "GET door-7 set/level 61",
            "GET door-7 nothing 6162",
            "POST door-7 factory/reset 6163 1",
            "GET door-8 set/level 6164",
        ],
    );
    assert_eq!(outcomes.len(), 5, "{outcomes:?}");
    assert_eq!(outcomes[0], "00ff80 2.04");
    assert_eq!(outcomes[1], "61 2.05 40");
    assert_eq!(outcomes[2], "6162 4.04");
    assert!(
        outcomes[3].starts_with("6163 refused") && outcomes[3].contains("factory denies"),
        "{outcomes:?}"
    );
    assert!(outcomes[4].starts_with("6164 refused"), "{outcomes:?}");
    let answer = rr(&site, "set/level", "job-8", &["-m", "41"]);
    assert!(answer.starts_with("job-8|") && answer.contains("status:2.04"), "{answer}");
    let answer = rr(&site, "set/level", "job-9", &["-n", "-D", "publish", "user-property", "method", "GET"]);
    assert!(answer.starts_with("job-9|") && answer.trim_end().ends_with("|41"), "{answer}");
    let runs = ["PUT set/level 40", "GET set/level ", "GET nothing ", "PUT set/level 41", "GET set/level "];
    assert_eq!(device.runs(), runs);
}

#[test]
fn paho_and_mosquitto_rr_ask_a_libcoap_server_and_each_outcome_has_the_correlation_data_of_its_command() {
    let site = Site::with_broker("correlation-libcoap", RULES, BROKER);
    subscribed(&site);
    let _device = Libcoap::start(&site);
    let outcomes = paho(
        &site,
        &[
            "GET door-7 set/level 00ff80",
            "PUT door-7 set/level 61 40",
            "POST door-7 set/other 6162 41",
            "DELETE door-7 set/level 6163",
            "GET door-7 long 6164",
        ],
    );
    let long: String = (0..1_000).map(|number| format!("{number:03} ")).collect();
    let expected =
        ["00ff80 2.05 set/level", "61 2.04", "6162 2.04", "6163 2.02", &format!("6164 2.05 {}", long.trim())];
    assert_eq!(outcomes, expected);
    let answer = rr(&site, "set/level", "job-8", &["-m", "41"]);
    assert!(answer.starts_with("job-8|") && answer.contains("status:2.04"), "{answer}");
    let get = ["-n", "-D", "publish", "user-property", "method", "GET"];
    let answer = rr(&site, "set/level", "job-9", &get);
    assert!(answer.starts_with("job-9|") && answer.trim_end().ends_with("|set/level"), "{answer}");
}
