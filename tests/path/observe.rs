//! What the broker has for a device: fetched, observed, and notified over its session.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tombolo_test_support::wait_for;

use super::{KEY, Site};

const RULES: &str = r#"
[role.sensor.mailbox]
always-awake = true
[role.sensor.downlink.all]
topic = "{prefix}/{device}/down/#"
path = "{rest}"
[role.sensor.downlink.state]
topic = "{prefix}/{device}/down/state/+"
path = "state/{1}"
deliver = "observe"
[role.sensor.downlink.request]
topic = "{prefix}/{device}/down/run/+"
path = "run/{1}"
deliver = "request"
"#;

pub const BROKER: &str = "log_type subscribe\n";

fn site(name: &str) -> Site {
    let site = Site::with_broker(name, RULES, BROKER);
    wait_for("the subscription", || {
        let log = std::fs::read_to_string(site.folder.join("mosquitto.log")).unwrap_or_default();
        site.daemon.status()["upstream"]["connected"] == true && log.contains("tombolo/gw/+/down/#")
    });
    site
}

pub fn publish(site: &Site, path: &str, payload: &str, arguments: &[&str]) {
    let topic = format!("tombolo/gw/door-7/down/{path}");
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &site.broker.plain_port.to_string(), "-V", "5", "-q", "2"])
        .args(["-t", &topic, "-m", payload])
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success());
}

pub fn taken(site: &Site, count: u64) {
    wait_for("the commands to be taken", || {
        site.daemon.status()["counters"]["tombolo_downlink_taken_commands_total"] == count
    });
}

/// GETs with libcoap's client: code and payload are in what it says.
fn get(site: &Site, arguments: &[&str], path: &str) -> String {
    let all = [&["-m", "get"], arguments].concat();
    site.coap_client("coap-client-openssl", "door-7", KEY, &all, path)
}

/// An option's value as libcoap prints it.
fn option<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let answer = text.lines().rev().find(|line| line.contains("t:ACK c:2."))?;
    answer.split_once(&format!("{name}:"))?.1.split([',', ' ']).next()
}

/// aiocoap, observing.
pub struct Observer {
    child: Child,
    log: PathBuf,
}

impl Observer {
    fn start(site: &Site, paths: &[&str]) -> Observer {
        Observer::start_at(site, site.daemon.coaps, paths)
    }

    /// The gateway is at this address for it.
    pub fn start_at(site: &Site, gateway: SocketAddr, paths: &[&str]) -> Observer {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
        assert!(python.exists(), "tests/run peers builds it");
        let log = site.folder.join("observer.txt");
        let child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path/aiocoap_observer.py"))
            .args([&format!("coaps://{gateway}"), "door-7", KEY])
            .arg(&log)
            .args(paths)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(site.folder.join("observer.err")).unwrap())
            .spawn()
            .unwrap();
        let observer = Observer { child, log };
        wait_for("the registrations", || observer.lines().len() == paths.len());
        observer
    }

    /// GETs one block; how many bytes it has.
    fn fetch(&mut self, path: &str, number: u32) -> usize {
        let of_path = |observer: &Observer| {
            let lines = observer.lines().into_iter().filter(|line| line[0] == format!("block:{path}"));
            lines.collect::<Vec<_>>()
        };
        let before = of_path(self).len();
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "block {path} {number}").unwrap();
        wait_for("the block", || of_path(self).len() > before);
        of_path(self)[before][3].parse().unwrap()
    }

    /// Path, code, Observe, length, hash, text.
    fn lines(&self) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
    }

    pub fn texts(&self, path: &str) -> Vec<String> {
        let of_path = self.lines().into_iter().filter(|line| line[0] == path);
        of_path.map(|line| line.last().cloned().unwrap_or_default()).collect()
    }

    /// The sequence numbers of a path rise.
    pub fn check_order(&self, path: &str) {
        let lines = self.lines();
        let numbers: Vec<u32> =
            lines.iter().filter(|line| line[0] == path).filter_map(|line| line[2].parse().ok()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_device_fetches_the_newest_message_as_often_as_it_likes_until_it_expires() {
    let site = site("fetch");
    assert!(get(&site, &[], "set/level").contains("4.04"), "there is none");
    publish(&site, "set/level", "40", &["-D", "publish", "content-type", "text/plain"]);
    publish(&site, "set/level", "41", &["-D", "publish", "content-type", "text/plain"]);
    publish(&site, "run/once", "1", &[]);
    taken(&site, 3);
    wait_for("it to be there", || get(&site, &[], "set/level").contains("41"));
    let first = get(&site, &["-v", "7"], "set/level");
    assert!(first.contains("2.05") && first.contains("41"), "{first}");
    let etag = option(&first, "ETag").expect("an ETag").trim_start_matches("0x").to_owned();
    let max_age: u32 = option(&first, "Max-Age").expect("a Max-Age").parse().unwrap();
    assert!((600_000..=604_800).contains(&max_age), "seven days: {max_age}");
    let again = get(&site, &["-v", "7", "-O", &format!("4,0x{etag}")], "set/level");
    assert!(again.contains("2.03") && option(&again, "ETag").is_some(), "{again}");
    assert!(get(&site, &[], "set/level").contains("41"), "it is not consumed");
    assert!(get(&site, &["-A", "60"], "set/level").contains("4.06"), "it is no CBOR");
    assert!(get(&site, &[], "run/once").contains("4.04"), "only as a request");
    assert!(get(&site, &[], "set/level?x=1").contains("4.02"), "a query");
    assert!(get(&site, &[], "time").contains("2.05"), "the time");
    publish(&site, "soon", "1", &["-D", "publish", "message-expiry-interval", "3"]);
    wait_for("it to be there", || get(&site, &[], "soon").contains("2.05"));
    wait_for("it to expire", || get(&site, &[], "soon").contains("4.04"));
    publish(&site, "set/level", "", &["-D", "publish", "user-property", "method", "DELETE"]);
    wait_for("it to be deleted", || get(&site, &[], "set/level").contains("4.04"));
}

#[test]
fn a_message_is_there_after_the_gateway_was_killed() {
    let mut site = site("fetch-kill");
    publish(&site, "state/mode", "eco", &[]);
    wait_for("it to be there", || get(&site, &[], "state/mode").contains("eco"));
    let before = get(&site, &["-v", "7"], "state/mode");
    for _ in 0..2 {
        site.daemon.kill();
        site.daemon.resume();
        let after = get(&site, &["-v", "7"], "state/mode");
        assert!(after.contains("eco"), "{after}");
        assert_eq!(option(&after, "ETag"), option(&before, "ETag"));
    }
}

#[test]
fn a_message_larger_than_a_block_is_fetched_block_by_block_and_in_the_size_that_is_asked_for() {
    let site = site("fetch-blocks");
    let body: String = (0..10_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    publish(&site, "config", &body, &[]);
    wait_for("it to be there", || get(&site, &[], "config").contains("2.05"));
    for size in ["16", "64", "512", "1024"] {
        let file = site.folder.join(&format!("body-{size}"));
        let output = get(&site, &["-b", size, "-o", &file.display().to_string()], "config");
        assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), body, "{size}: {output}");
    }
}

/// libcoap's client, which observes a path and writes what it gets into the file.
fn observing(site: &Site, path: &str) -> (Child, PathBuf) {
    let file = site.folder.join("observed");
    let child = Command::new("coap-client-openssl")
        .args(["-u", "door-7", "-k", KEY, "-m", "get", "-s", "60", "-w", "-o"])
        .arg(&file)
        .arg(format!("coaps://{}/{path}", site.daemon.coaps))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the registration", || {
        site.daemon.status()["counters"]["tombolo_downlink_observe_registrations_total"] == 1
    });
    (child, file)
}

#[test]
fn libcoap_observes_and_is_notified() {
    let site = site("observe-libcoap");
    let (mut child, file) = observing(&site, "state/mode");
    let seen = || std::fs::read_to_string(&file).unwrap_or_default();
    for mode in ["eco", "boost"] {
        publish(&site, "state/mode", mode, &["-D", "publish", "response-topic", "app/seen"]);
        wait_for("the notification", || seen().contains(mode));
    }
    wait_for("both to be told", || {
        site.daemon.status()["counters"]["tombolo_downlink_answered_commands_total"] == 2
    });
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn aiocoap_observes_two_paths_in_order_and_fetches_the_rest_of_a_large_notification() {
    let site = site("observe-aiocoap");
    let observer = Observer::start(&site, &["state/mode", "set/level"]);
    publish(&site, "state/mode", "eco", &[]);
    publish(&site, "set/level", "40", &[]);
    publish(&site, "set/level", "41", &[]);
    wait_for("the notifications", || {
        observer.texts("state/mode") == ["", "eco"] && observer.texts("set/level") == ["", "40", "41"]
    });
    observer.check_order("set/level");
    let told = |path: &str| {
        let arrived = site.arrived(&format!("tombolo/gw/door-7/reply/{path}"));
        arrived.iter().map(|fields| fields[3].clone()).collect::<Vec<_>>()
    };
    wait_for("the outcomes", || told("state/mode").len() == 1 && told("set/level").len() == 2);
    assert!(told("set/level").iter().all(|properties| properties.contains("status:notified")));
    // In blocks.
    let body: String = (0..3_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    publish(&site, "set/level", &body, &[]);
    wait_for("the large one", || {
        observer.lines().iter().any(|line| line[0] == "set/level" && line[3] == "3000")
    });
    publish(&site, "state/mode", "boost", &[]);
    wait_for("the other one", || observer.texts("state/mode") == ["", "eco", "boost"]);
}

/// A message of so many bytes.
pub fn body(bytes: usize) -> String {
    (0..bytes).map(|at| char::from(b'a' + (at % 23) as u8)).collect()
}

/// The status of each outcome on a path, and how far the commands are that have none.
pub fn outcomes(site: &Site, path: &str) -> (Vec<String>, Vec<String>) {
    let (code, text) = site.daemon.command(&["mailbox", "list", "--json"]);
    assert_eq!(code, 0, "{text}");
    let state = |line: &str| {
        let command: serde_json::Value = serde_json::from_str(line).unwrap();
        command["state"].as_str().unwrap().to_owned()
    };
    let arrived = site.arrived(&format!("tombolo/gw/door-7/reply/{path}"));
    (arrived.into_iter().map(|fields| fields[3].clone()).collect(), text.lines().map(state).collect())
}

#[test]
fn a_large_notification_is_notified_with_its_last_block_and_a_fetch_with_its_last_one() {
    let site = site("observe-last-block");
    let mut observer = Observer::start(&site, &["lazy:set/level"]);
    publish(&site, "set/level", &body(3_000), &[]);
    wait_for("the first block", || observer.lines().iter().any(|line| line[3] == "1024"));
    assert_eq!(observer.fetch("set/level", 1), 1_024);
    // Its acknowledgement was before that.
    assert_eq!(outcomes(&site, "set/level"), (vec![], vec!["sent".to_owned()]));
    assert_eq!(observer.fetch("set/level", 2), 952);
    wait_for("the outcome", || outcomes(&site, "set/level").0.len() == 1);
    assert!(outcomes(&site, "set/level").0[0].contains("status:notified"));
    // What nobody observes is fetched.
    publish(&site, "state/mode", &body(2_049), &[]);
    wait_for("it to be held", || outcomes(&site, "state/mode").1 == ["waiting"]);
    assert_eq!(observer.fetch("state/mode", 0), 1_024);
    assert_eq!(observer.fetch("state/mode", 1), 1_024);
    assert_eq!(outcomes(&site, "state/mode"), (vec![], vec!["waiting".to_owned()]));
    assert_eq!(observer.fetch("state/mode", 2), 1);
    wait_for("the outcome", || outcomes(&site, "state/mode").0.len() == 1);
    assert!(outcomes(&site, "state/mode").0[0].contains("status:fetched"));
}

#[test]
fn libcoap_observes_a_large_message_and_fetches_the_rest_of_each_notification() {
    let site = site("observe-libcoap-large");
    let (mut child, file) = observing(&site, "state/config");
    let seen = || std::fs::read_to_string(&file).unwrap_or_default();
    for (count, bytes) in [(1, 10_000), (2, 2_000), (3, 1_024), (4, 10_001)] {
        let body = body(bytes);
        publish(&site, "state/config", &body, &[]);
        wait_for("the outcome", || outcomes(&site, "state/config").0.len() == count);
        assert!(outcomes(&site, "state/config").0[count - 1].contains("status:notified"));
        wait_for("all of it", || seen().lines().last() == Some(&body));
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn an_observation_goes_on_over_a_restart_of_the_gateway_and_its_numbers_rise() {
    let mut site = site("observe-restart");
    let observer = Observer::start(&site, &["state/mode"]);
    let mut expected = vec![String::new()];
    for (value, kill) in [("a", false), ("b", true), ("c", false), ("d", true)] {
        publish(&site, "state/mode", value, &[]);
        expected.push(value.to_owned());
        // One that was acknowledged in the moment of the kill is sent again.
        wait_for("the notification", || {
            let mut texts = observer.texts("state/mode");
            texts.dedup();
            texts == expected
        });
        wait_for("the outcome", || {
            site.arrived("tombolo/gw/door-7/reply/state/mode").len() >= expected.len() - 1
        });
        if kill {
            site.daemon.kill();
        } else {
            site.daemon.stop();
        }
        site.daemon.resume();
        wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    }
    observer.check_order("state/mode");
}

#[test]
fn a_state_waits_for_a_device_that_fetches_it_and_a_newer_one_takes_its_place() {
    let site = site("observe-held");
    for mode in ["eco", "boost"] {
        publish(&site, "state/mode", mode, &[]);
    }
    let told = || site.arrived("tombolo/gw/door-7/reply/state/mode");
    wait_for("the older one to be superseded", || told().len() == 1);
    assert!(told()[0][3].contains("status:superseded"));
    assert!(get(&site, &[], "state/mode").contains("boost"));
    wait_for("the newer one to be fetched", || told().len() == 2);
    assert!(told()[1][3].contains("status:fetched"), "{:?}", told());
}
