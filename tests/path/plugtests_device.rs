//! The cases of the ETSI plugtest CoAP#4 in which the gateway is the client
//! (docs/coap-conformance.md): its commands are requests to a device that serves, libcoap or
//! aiocoap.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tombolo_test_support::wait_for;

use super::commands::{BROKER, Device, RULES, request, subscribed};
use super::lossy_link::LossyLink;
use super::observe::body;
use super::plugtests::{assert_shows, first, messages, value};
use super::{KEY, Site};

/// An application on libcoap that serves on the session which it opened.
pub struct Libcoap {
    child: Child,
    output: PathBuf,
}

impl Libcoap {
    pub fn start(site: &Site) -> Libcoap {
        let output = site.folder.join("libcoap.out");
        let (host, port) = (site.daemon.coaps.ip().to_string(), site.daemon.coaps.port().to_string());
        let child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path/libcoap_device.py"))
            .args([&host, &port, "door-7", KEY])
            .arg(site.folder.join("libcoap.txt"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&output).unwrap())
            .stderr(std::fs::File::create(site.folder.join("libcoap.err")).unwrap())
            .spawn()
            .unwrap();
        wait_for("its reading", || !site.arrived("tombolo/gw/door-7/up/t/hello").is_empty());
        Libcoap { child, output }
    }

    pub fn messages(&self) -> Vec<String> {
        messages(&String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()))
    }
}

impl Drop for Libcoap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The arguments of a command with this method.
fn with<'a>(method: &'a str, payload: &'a str) -> Vec<&'a str> {
    let content: &[&str] = match payload {
        "" => &["-n"],
        payload => &["-m", payload, "-D", "publish", "content-type", "text/plain"],
    };
    [content, &["-D", "publish", "user-property", "method", method]].concat()
}

#[test]
fn td_coap_core_01_to_04_10_13_and_block_02_03_04_05_libcoap_is_asked() {
    let site = Site::with_broker("plugtest-libcoap", RULES, BROKER);
    subscribed(&site);
    let device = Libcoap::start(&site);
    for (case, method, payload, code) in [
        ("CORE_01", "GET", "", "2.05"),
        ("CORE_02", "DELETE", "", "2.02"),
        ("CORE_03", "PUT", "40", "2.04"),
        ("CORE_04", "POST", "40", "2.04"),
    ] {
        let seen = device.messages().len();
        let answer = request(&site, "seg1/seg2/seg3", &with(method, payload));
        assert!(answer.contains(&format!("status:{code}")), "{case}: {answer}");
        assert_eq!(method == "GET", answer.trim_end().ends_with("|seg1/seg2/seg3"), "{case}: {answer}");
        let seen = device.messages().split_off(seen);
        let (asks, answers) = (format!("t:CON c:{method} "), format!("t:ACK c:{code}"));
        let asked = first(&seen, &[&asks, "Uri-Path:seg1, Uri-Path:seg2, Uri-Path:seg3"]);
        let answered = first(&seen, &[&answers]);
        let token = |message: &str| message.split(['{', '}']).nth(1).unwrap().to_owned();
        assert_eq!(token(asked).len(), 8, "CORE_10: {asked}");
        assert_eq!((token(asked), value(asked, " i")), (token(answered), value(answered, " i")), "{case}");
        assert_eq!(asked.contains("Content-Format:text/plain"), !payload.is_empty(), "{case}: {asked}");
    }

    let long: String = (0..1_000).map(|number| format!("{number:03} ")).collect();
    let answer = request(&site, "long", &with("GET", ""));
    assert!(answer.trim_end().ends_with(long.trim_end()) && !answer.contains("partial"), "{answer}");
    let seen = device.messages();
    assert!(!first(&seen, &["c:GET", "Uri-Path:long"]).contains("Block2"), "BLOCK_02: {seen:?}");
    assert_shows(
        "BLOCK_02",
        &seen,
        &[
            &["t:ACK c:2.05", "Block2:0/M/1024"],
            &["t:CON c:GET", "Uri-Path:long", "Block2:1/_/1024"],
            &["t:ACK c:2.05", "Block2:1/M/1024"],
            &["t:CON c:GET", "Uri-Path:long", "Block2:3/_/1024"],
            &["t:ACK c:2.05", "Block2:3/_/1024"],
        ],
    );
    let large = body(3_000);
    for (case, method, path) in [("BLOCK_03", "PUT", "update"), ("BLOCK_04", "POST", "create")] {
        let answer = request(&site, path, &with(method, &large));
        assert!(answer.contains("status:2.04"), "{case}: {answer}");
        let asks = format!("t:CON c:{method} ");
        assert_shows(
            case,
            &device.messages(),
            &[
                &[&asks, "Block1:0/M/1024", "Size1:3000", "Request-Tag:"],
                &["t:ACK c:2.31", "Block1:0/M/1024"],
                &[&asks, "Block1:1/M/1024"],
                &["t:ACK c:2.31", "Block1:1/M/1024"],
                &[&asks, "Block1:2/_/1024"],
                &["t:ACK c:2.04"],
            ],
        );
        let log = std::fs::read_to_string(site.folder.join("libcoap.txt")).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, large.as_bytes());
        let digest = tombolo::hex::format_hex(&digest.as_ref()[..8]);
        assert!(log.contains(&format!("{method} {path} 3000 {digest}\n")), "{case}: {log}");
    }
    // The answer to a POST is its first block: asking for the next one could run the command again.
    let answer = request(&site, "both", &with("POST", &large));
    assert!(answer.contains("status:2.04") && answer.contains("partial:true"), "BLOCK_05: {answer}");
    assert!(answer.trim_end().ends_with(long[..1_024].trim_end()), "BLOCK_05: {answer}");
    let log = std::fs::read_to_string(site.folder.join("libcoap.txt")).unwrap();
    assert_eq!(log.matches("POST both").count(), 1, "BLOCK_05: {log}");
}

#[test]
fn td_coap_core_09_11_18_19_aiocoap_answers_late_and_names_what_it_made() {
    let site = Site::with_broker("plugtest-aiocoap", RULES, BROKER);
    subscribed(&site);
    let device = Device::start(&site);
    let answer = request(&site, "slow", &with("GET", ""));
    assert!(answer.contains("status:2.05") && answer.trim_end().ends_with("|at last"), "CORE_09: {answer}");
    // Where it was made is not told: the location is elective, and MQTT has no place for it.
    let answer = request(&site, "made", &with("POST", "1"));
    assert!(answer.contains("status:2.01") && answer.trim_end().ends_with("|there"), "CORE_18: {answer}");
    assert!(!answer.contains("location"), "CORE_19: {answer}");
    let answer = request(&site, "set/level", &with("PUT", "40"));
    assert!(answer.contains("status:2.04"), "CORE_03: {answer}");
    let answer = request(&site, "set/level", &with("DELETE", ""));
    assert!(answer.contains("status:2.02"), "CORE_02: {answer}");
    let runs = ["GET slow ", "POST made 1", "PUT set/level 40", "DELETE set/level "];
    assert_eq!(device.runs(), runs);
}

#[test]
fn td_coap_core_15_16_each_message_to_and_from_aiocoap_is_lost_once_and_nothing_runs_twice() {
    let site = Site::with_broker("plugtest-aiocoap-lossy", RULES, BROKER);
    subscribed(&site);
    let link = LossyLink::named(site.daemon.coaps);
    let device = Device::start_at(&site, link.address);
    for (number, (case, path, up, down)) in [
        ("CORE_15: the request is lost", "set/level", &[][..], &[0][..]),
        ("CORE_15: the response is lost", "set/level", &[0], &[]),
        ("CORE_16: the request is lost", "slow", &[], &[0]),
        ("CORE_16: its acknowledgement is lost", "slow", &[0], &[]),
        ("CORE_16: the response is lost", "slow", &[1], &[]),
        ("CORE_16: the acknowledgement of the response is lost", "slow", &[], &[1]),
    ]
    .into_iter()
    .enumerate()
    {
        link.lose(up, down);
        let answer = request(&site, path, &["-m", &number.to_string()]);
        assert!(answer.contains("status:2.04"), "{case}: {answer}");
        assert_eq!(path == "slow", answer.trim_end().ends_with("|at last"), "{case}: {answer}");
        wait_for(case, || link.lost() == number + 1);
        let runs = device.runs();
        assert_eq!(runs.last(), Some(&format!("PUT {path} {number}")), "{case}");
        assert_eq!(runs.len(), number + 1, "{case}: {runs:?}");
    }
}
