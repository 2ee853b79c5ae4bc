//! What a command carries: its format, its method, its time; and how `tail` shows it.

use std::fs::File;
use std::process::{Command, Stdio};

use serde_json::Value;
use tombolo_test_support::wait_for;

use super::commands::{BROKER, Device, RULES, request, subscribed};
use super::plugtests_device::Libcoap;
use super::{Site, binary};

fn publish(site: &Site, path: &str, payload: &str, arguments: &[&str]) {
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &site.broker.plain_port.to_string(), "-V", "5", "-q", "2"])
        .args(["-t", &format!("tombolo/gw/door-7/down/{path}"), "-m", payload])
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_command_that_the_mailbox_held_too_long_expires_and_its_outcome_says_so() {
    let rules = RULES.replace("always-awake = true", "expires = \"1s\"");
    let site = Site::with_broker("forms-expired", &rules, BROKER);
    subscribed(&site);
    // A longer expiry of the message does not count, a shorter one does.
    let long = ["-D", "publish", "message-expiry-interval", "900"];
    publish(&site, "set/level", "40", &long);
    let topic = "tombolo/gw/door-7/reply/set/level";
    wait_for("the outcome", || !site.arrived(topic).is_empty());
    let outcome = &site.arrived(topic)[0];
    assert!(outcome[3].contains("status:expired"), "{outcome:?}");
    let (code, text) = site.daemon.command(&["mailbox", "list", "--json"]);
    assert_eq!((code, text.trim()), (0, ""), "it is not held any more");
    // The device that comes later is sent nothing of it.
    let device = Device::start(&site);
    let counters = || site.daemon.status()["counters"].clone();
    wait_for("the counters", || counters()["tombolo_downlink_expired_commands_total"] == 1);
    assert!(device.runs().is_empty(), "{:?}", device.runs());
}

#[test]
fn the_format_of_a_command_reaches_the_device_by_number_and_by_media_type_from_broker_and_operator() {
    let site = Site::with_broker("forms-format", RULES, BROKER);
    subscribed(&site);
    let device = Libcoap::start(&site);
    let property = |name, value| ["-m", "1", "-D", "publish", name, value];
    let numbered = [&["-m", "1"][..], &["-D", "publish", "user-property", "content-format", "110"]].concat();
    // The user property goes before the content type.
    let both = [&numbered[..], &["-D", "publish", "content-type", "application/json"]].concat();
    let said: [(&str, &[&str], &str); 4] = [
        ("set/number", &numbered, "senml+json"),
        ("set/both", &both, "senml+json"),
        ("set/type", &property("content-type", "application/json"), "application/json"),
        ("set/none", &["-m", "1"], ""),
    ];
    let format_of = |path: &str| {
        let last = path.rsplit('/').next().unwrap();
        let messages = device.messages();
        let came = messages.iter().find(|message| message.contains(&format!("Uri-Path:{last}")));
        let came = came.unwrap_or_else(|| panic!("{path} in {messages:?}"));
        came.split_once("Content-Format:").map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    };
    for (path, arguments, format) in said {
        let answer = request(&site, path, arguments);
        assert!(answer.contains("status:2.04"), "{answer}");
        let came = format_of(path);
        assert!(came.contains(format) && came.is_empty() == format.is_empty(), "{path}: {came:?}");
    }
    let wrong = ["-m", "1", "-D", "publish", "user-property", "content-format", "text"];
    let answer = request(&site, "set/wrong", &wrong);
    assert!(answer.contains("status:refused") && answer.contains("is no content format"), "{answer}");
    for (path, given, format) in
        [("set/fifty", "50", "application/json"), ("set/cbor", "application/cbor", "application/cbor")]
    {
        let (code, text) = site.daemon.command(&["send", "door-7", path, "1", "--content-format", given]);
        assert_eq!(code, 0, "{text}");
        assert!(format_of(path).contains(format), "{path}: {:?}", format_of(path));
    }
    let (code, text) = site.daemon.command(&["send", "door-7", "set/x", "1", "--content-format", "no/such"]);
    assert!(code != 0 && text.contains("is no content format"), "{text}");
}

#[test]
fn fetch_patch_and_ipatch_reach_the_device_with_their_payloads() {
    let site = Site::with_broker("forms-methods", RULES, BROKER);
    subscribed(&site);
    let device = Device::start(&site);
    for (method, status) in [("FETCH", "2.04"), ("PATCH", "2.04"), ("iPATCH", "2.04")] {
        let asked = ["-m", "20", "-D", "publish", "user-property", "method", method];
        let answer = request(&site, "set/level", &asked);
        assert!(answer.contains(&format!("status:{status}")), "{method}: {answer}");
        let lower = method.to_lowercase();
        let (code, text) = site.daemon.command(&["send", "door-7", "set/level", "21", "--method", &lower]);
        assert!(code == 0 && text.contains(status), "{method}: {text}");
    }
    let runs: Vec<String> = device.runs().iter().map(|run| run.to_uppercase()).collect();
    let expected = ["FETCH", "PATCH", "IPATCH"]
        .into_iter()
        .flat_map(|method| [20, 21].map(|value| format!("{method} SET/LEVEL {value}")));
    assert_eq!(runs, expected.collect::<Vec<_>>());
}

#[test]
fn tail_shows_a_command_when_it_is_taken_sent_and_ended() {
    let site = Site::with_broker("forms-tail", RULES, BROKER);
    subscribed(&site);
    let _device = Device::start(&site);
    let start = |name: &str, more: &[&str]| {
        Command::new(binary())
            .arg("--config")
            .arg(site.daemon.config())
            .args(["tail", "door-7"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(File::create(site.folder.join(name)).expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts")
    };
    let mut tails = [start("tail.json", &["--json"]), start("tail.txt", &[])];
    wait_for("both", || site.daemon.log().matches("tail begins").count() == 2);
    let answer = request(&site, "set/level", &["-m", "40"]);
    assert!(answer.contains("status:2.04"), "{answer}");
    let read = |name: &str| std::fs::read_to_string(site.folder.join(name)).unwrap_or_default();
    let ended = |name: &str| read(name).replace('_', " ").contains("command ended");
    wait_for("the end of it", || ended("tail.json") && ended("tail.txt"));
    for tail in &mut tails {
        let _ = tail.kill();
        let _ = tail.wait();
    }
    let items = read("tail.json");
    let items: Vec<Value> = items.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let is_command =
        |item: &&Value| item["outcome"].as_str().is_some_and(|outcome| outcome.starts_with("command_"));
    let items: Vec<&Value> = items.iter().filter(is_command).collect();
    let steps: Vec<[&str; 4]> = items
        .iter()
        .map(|item| ["outcome", "method", "path", "code"].map(|key| item[key].as_str().unwrap_or("")))
        .collect();
    assert_eq!(
        steps,
        [
            ["command_taken", "PUT", "set/level", ""],
            ["command_sent", "PUT", "set/level", ""],
            ["command_ended", "", "set/level", "2.04"],
        ]
    );
    assert_eq!((&items[0]["device"], &items[0]["payload"]), (&"door-7".into(), &"40".into()), "{items:?}");
    let text = read("tail.txt");
    let lines =
        ["door-7 ← PUT set/level command taken 2 B \"40\"", "command sent 2 B", "command ended 2.04 0 B"];
    let mut rest = text.lines();
    for words in lines {
        assert!(rest.any(|line| line.contains(words)), "no {words:?} in {text}");
    }
}
