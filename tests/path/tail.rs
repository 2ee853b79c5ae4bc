//! `tombolo tail` beside the whole daemon.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::device::Device;
use super::{KEY, Site, binary};
use tombolo_test_support::dtls::client::Config;
use tombolo_test_support::wait_for;

/// `tombolo tail --json`, writing to a file.
struct Tail(Child);

impl Tail {
    fn start(site: &Site) -> Tail {
        let out = File::create(site.folder.join("tail.txt")).expect("tail.txt");
        let child = Command::new(binary())
            .arg("--config")
            .arg(site.daemon.config())
            .args(["tail", "--json"])
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Tail(child)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The paths shown as stored so far.
fn shown(site: &Site) -> BTreeSet<String> {
    let text = std::fs::read_to_string(site.folder.join("tail.txt")).unwrap_or_default();
    let items = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let stored = items.filter(|item| item["outcome"] == "stored" && item["record"].is_string());
    stored.filter_map(|item| Some(item["path"].as_str()?.to_owned())).collect()
}

/// A POST that wants no acknowledgement, to `FIRST/NUMBER`.
fn post(first: &str, number: u16) -> Vec<u8> {
    let [high, low] = (1_000 + number).to_be_bytes();
    let last = number.to_string();
    let mut message = vec![0x52, 2, high, low, high, low, 0xb0 | first.len() as u8];
    message.extend(first.bytes());
    message.push(last.len() as u8);
    message.extend(last.bytes());
    message.extend(b"\xff1");
    message
}

#[test]
fn tail_goes_on_while_readings_of_both_lanes_come_in_turn() {
    let site = Site::new("tail", "");
    let mut device = Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
    let _tail = Tail::start(&site);
    wait_for("the watcher", || device.post("t/first", b"1") && shown(&site).contains("t/first"));
    // Several in one commit, whose lanes are completed one after the other; as many as one device
    // may have under way.
    for round in 0..10 {
        for number in (round * 20)..(round + 1) * 20 {
            device.send(&post(if number % 2 == 0 { "t" } else { "alarm" }, number));
        }
        let last = (round + 1) * 20;
        wait_for("all of the round", || {
            let shown = shown(&site);
            (0..last).all(|number| {
                shown.contains(&format!("{}/{number}", if number % 2 == 0 { "t" } else { "alarm" }))
            })
        });
    }
    assert!(device.post("t/last", b"1"));
    wait_for("the last", || shown(&site).contains("t/last"));
}

#[test]
fn in_a_locale_without_utf_8_the_text_is_ascii_and_json_is_not_changed() {
    let site = Site::new("tail-ascii", "");
    assert!(site.post(&["-e", "21.5 \u{b0}C"], "t/env").contains("2.04"));
    let tail = |locale: &str, json: bool| {
        let mut command = Command::new(binary());
        command.arg("--config").arg(site.daemon.config()).args(["tail", "--last", "1"]);
        if json {
            command.arg("--json");
        }
        command.env("LC_ALL", locale).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        out.read_line(&mut line).expect("UTF-8");
        let _ = child.kill();
        let _ = child.wait();
        line
    };
    let plain = tail("C", false);
    assert!(plain.is_ascii() && plain.contains(" -> ") && plain.contains("\\u{b0}C"), "{plain}");
    assert!(tail("C.UTF-8", false).contains(" \u{2192} "));
    assert_eq!(tail("C", true), tail("C.UTF-8", true));
}

#[test]
fn a_request_whose_path_is_no_path_is_shown_as_a_refusal_with_the_reason() {
    let site = Site::new("tail-malformed", "");
    let mut device = Device::connect(site.daemon.coaps, Config::psk("door-7", KEY)).expect("a session");
    let long = ["t"; 17].join("/");
    for (path, code) in [("t/#", 0x80), (long.as_str(), 0x80), ("rd/x", 0x84)] {
        let answer = device.request(2, path, b"1").expect("an answer");
        assert_eq!(answer[1], code, "{path}");
    }
    let refused = || -> Vec<Value> {
        let mut command = Command::new(binary());
        command.arg("--config").arg(site.daemon.config()).args(["tail", "door-7", "--last", "10", "--json"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        let lines = std::io::BufRead::lines(out).map_while(Result::ok).take(3);
        let items = lines.map(|line| serde_json::from_str(&line).expect("JSON")).collect();
        let _ = child.kill();
        let _ = child.wait();
        items
    };
    let items = refused();
    let shown: Vec<_> = items
        .iter()
        .map(|item| [&item["outcome"], &item["code"], &item["path"], &item["reason"]].map(Value::as_str))
        .collect();
    let row = |code, path, reason| [Some("refused"), Some(code), Some(path), Some(reason)];
    assert_eq!(
        shown,
        [
            row("4.00", "t/#", "malformed: a path segment has '/', '+', '#' or a control character"),
            row("4.00", long.as_str(), "malformed: the path has more than 16 segments"),
            row("4.04", "rd/x", "the path is reserved for the gateway"),
        ]
    );
    assert!(items.iter().all(|item| item["received"].is_string()), "{items:?}");
    let (_, text) = site.daemon.command(&["--json", "device", "show", "door-7"]);
    let device: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(device["refused"], 3, "{device}");
}
