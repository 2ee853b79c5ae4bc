//! Commands to devices on lines, from a real broker or the operator to pymodbus or a device behind
//! a pseudo-terminal, and their outcomes back.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::asked::Behind;
use crate::modbus::{port, unit};
use crate::{Folder, Site};
use tombolo_test_support::{printed, wait_for};

const RULES: &str = "[role.meter.downlink.all]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
const SETPOINT: &str = "register.setpoint = { address = 0, type = \"i16\", scale = 0.1, unit = \"°C\", writable = true, min = 0.5, \
                        max = 30 }\n";

/// A request with a response topic; what came back: user properties, a bar, and the payload.
fn ask(site: &Site, topic: &str, arguments: &[&str]) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let answer = format!("app/answers/{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let broker = site.broker.plain_port.to_string();
    let output = Command::new("mosquitto_rr")
        .args(["-h", "127.0.0.1", "-p", &broker, "-V", "5", "-q", "2", "-W", "30", "-F", "%P|%p"])
        .args(["-t", &format!("tombolo/gw/{topic}"), "-e", &answer])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("mosquitto_rr runs");
    printed(&output)
}

fn publish(site: &Site, topic: &str, payload: &str) {
    let broker = site.broker.plain_port.to_string();
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker, "-V", "5", "-q", "2", "-m", payload, "-t"])
        .arg(format!("tombolo/gw/{topic}"))
        .status()
        .expect("mosquitto_pub runs");
    assert!(status.success());
}

/// The outcome of a command on the topic of requests, once there is one.
fn outcome(site: &Site, device: &str, id: &str, path: &str) -> Option<Value> {
    let prefix = format!("tombolo/gw/{device}/reply/{id}/{path} ");
    let lines = site.witness.lines();
    let digits = lines.iter().find_map(|line| line.strip_prefix(prefix.as_str()))?.to_owned();
    serde_json::from_slice(&crate::unhex(&digits)).ok()
}

fn wait_until_subscribed(site: &Site) {
    wait_for("the subscription", || {
        let text = std::fs::read_to_string(site.folder.join("mosquitto.log")).unwrap_or_default();
        site.daemon.status()["upstream"]["connected"] == true && text.contains("/down/#")
    });
}

#[test]
fn a_set_point_reaches_a_unit_is_read_back_and_its_outcome_the_reply_topic() {
    let (site, _bus) = crate::modbus::site("write", |folder| {
        let missing = "register.r0.address = 0\nregister.missing = { address = 100, writable = true }\n";
        let coil = "register.valve = { address = 1, table = \"coil\", writable = true }\n\
                    register.mode = { address = 100, values = [\"0=off\", \"7=auto\"], mask = \"00F0\", writable = true }\n";
        RULES.to_owned() + &port(folder) + &unit(12, SETPOINT) + &unit(5, missing) + &unit(1, coil)
    });
    wait_for("readings", || ["u12", "u5", "u1"].iter().all(|id| !site.arrived(id).is_empty()));
    wait_until_subscribed(&site);
    let answer = ask(&site, "u12/down/setpoint", &["-m", "21.5"]);
    assert!(answer.contains("status:2.04") && answer.contains("|{\"setpoint\":21.5}"), "{answer}");
    wait_for("the reading with it", || site.payloads("u12").last().is_some_and(|last| last.contains("21.5")));
    let answer = ask(&site, "u12/down/setpoint", &["-m", "99"]);
    assert!(answer.contains("status:refused") && answer.contains("99 is outside 0.5 to 30 °C"), "{answer}");
    let answer = ask(&site, "u12/down/other", &["-m", "1"]);
    assert!(answer.contains("status:refused") && answer.contains("writable are: setpoint"), "{answer}");
    let answer =
        ask(&site, "u12/down/setpoint", &["-m", "", "-D", "PUBLISH", "user-property", "method", "GET"]);
    assert!(answer.contains("status:refused") && answer.contains("PUT and POST"), "{answer}");
    let answer = ask(&site, "u5/down/missing", &["-m", "1"]);
    assert!(
        answer.contains("status:exception") && answer.contains("exception 2, illegal data address"),
        "{answer}"
    );
    let answer = ask(&site, "u1/down/valve", &["-m", "on"]);
    assert!(answer.contains("status:2.04") && answer.contains("{\"valve\":true}"), "{answer}");
    let answer = ask(&site, "u1/down/mode", &["-m", "auto"]);
    assert!(answer.contains("status:2.04") && answer.contains("{\"mode\":\"auto\"}"), "{answer}");

    // The operator, by the same rules.
    let (code, text) = site.daemon.command(&["send", "u12", "setpoint", "22"]);
    assert!(code == 0 && text.contains("2.04") && text.contains("{\"setpoint\":22}"), "{text}");
    let (code, text) = site.daemon.command(&["send", "u12", "setpoint", "30.1"]);
    assert!(code != 0 && text.contains("outside 0.5 to 30 °C"), "{text}");
    let (code, text) = site.daemon.command(&["send", "u5", "r0", "1"]);
    assert!(code != 0 && text.contains("writable"), "{text}");
    // The rest of the register stays as it was: 4366 with 7 in the mask.
    let status = site.daemon.status();
    let counters = &status["counters"];
    assert_eq!(counters["tombolo_downlink_answered_commands_total"], 5, "{counters}");
}

#[test]
fn a_command_for_a_line_that_is_not_there_waits_and_one_for_a_unit_that_is_silent_is_a_timeout() {
    let rules = RULES.to_owned() + "answer-within = \"10s\"\n";
    let mut bus = None;
    let site = Site::new("write-silent", |folder| {
        bus = Some(crate::modbus::Bus::new(folder.join("bus1")));
        rules + &port(folder) + &unit(12, SETPOINT) + &unit(99, SETPOINT)
    });
    let mut bus = bus.expect("made above");
    wait_until_subscribed(&site);
    publish(&site, "u12/request/1/setpoint", "7");
    wait_for("the command to be kept", || {
        let text = site.daemon.command(&["mailbox", "list", "--json"]).1;
        text.contains("setpoint") && text.contains("\"waiting\"")
    });
    bus.plug_in();
    wait_for("its outcome", || outcome(&site, "u12", "1", "setpoint").is_some());
    let told = outcome(&site, "u12", "1", "setpoint").expect("it is there");
    assert_eq!((&told["status"], &told["json"]), (&json!("2.04"), &json!({"setpoint": 7})), "{told}");
    wait_for("the other to be down", || site.ports()["bus1"]["units"]["u99"]["state"] == "down");
    let answer = ask(&site, "u99/down/setpoint", &["-m", "7"]);
    assert!(answer.contains("status:timeout") && answer.contains("it was not sent"), "{answer}");
}

/// A device that takes `SET n` and answers `OK n`; none while `mute` is 1, twice while it is 2.
fn line(name: &str, more: &str, mute: &Arc<AtomicUsize>) -> (Site, Behind, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut behind = None;
    let site = Site::new(name, |folder: &Folder| {
        let (heard, mute) = (heard.clone(), mute.clone());
        behind = Some(Behind::new(folder, "relay", b'\r', move |command| {
            let text = String::from_utf8_lossy(command).trim().to_owned();
            heard.lock().expect("nobody panics").push(text.clone());
            match text.strip_prefix("SET ") {
                Some(_) if mute.load(Ordering::Relaxed) == 1 => Vec::new(),
                Some(number) if mute.load(Ordering::Relaxed) == 2 => {
                    format!("OK {number}\r\nOK {number}\r\n").into_bytes()
                }
                Some(number) => format!("T=1\r\nOK {number}\r\n").into_bytes(),
                None => b"T=2\r\n".to_vec(),
            }
        }));
        format!(
            "[serial.relay]\nport = \"{}\"\nframing = \"line\"\nline-end = \"cr\"\nrole = \"meter\"\n{more}",
            folder.join("relay").display()
        )
    });
    (site, behind.expect("made above"), heard)
}

fn sets(heard: &Mutex<Vec<String>>) -> Vec<String> {
    let heard = heard.lock().expect("nobody panics");
    heard.iter().filter(|text| text.starts_with("SET")).cloned().collect()
}

#[test]
fn a_command_to_a_line_is_framed_and_the_frame_that_matches_is_its_answer() {
    let more = RULES
        .replace("[role", "writable = true\nanswer = '^\\s*(OK|ERR)'\nanswer-timeout = \"500ms\"\n[role");
    let mute = Arc::default();
    let (site, _behind, heard) = line("write-line", &more, &mute);
    wait_until_subscribed(&site);
    site.wait_until_open("relay");
    let answer = ask(&site, "relay/down/any/path", &["-m", "SET 5"]);
    assert!(answer.contains("status:2.04") && answer.contains("OK 5"), "{answer}");
    wait_for("the reading beside it", || site.payloads("relay").iter().any(|text| text.contains("T=1")));
    assert!(site.payloads("relay").iter().all(|text| !text.contains("OK")), "the answer is no reading");
    let answer = ask(&site, "relay/down/x", &["-m", "SET\r6"]);
    assert!(answer.contains("status:refused") && answer.contains("ends a frame"), "{answer}");
    let long = "x".repeat(2000);
    let answer = ask(&site, "relay/down/x", &["-m", &long]);
    assert!(answer.contains("status:refused") && answer.contains("max-frame"), "{answer}");
    mute.store(1, Ordering::Relaxed);
    let answer = ask(&site, "relay/down/x", &["-m", "SET 7"]);
    assert!(answer.contains("status:timeout") && answer.contains("may have been carried out"), "{answer}");
    mute.store(0, Ordering::Relaxed);
    let (code, text) = site.daemon.command(&["send", "relay", "x", "SET 8"]);
    assert!(code == 0 && text.contains("OK 8"), "{text}");
    assert_eq!(sets(&heard), ["SET 5", "SET 7", "SET 8"]);
}

#[test]
fn of_a_device_that_answers_twice_each_command_gets_its_own_answer_and_no_answer_is_a_reading() {
    let more = RULES.replace("[role", "writable = true\nanswer = '^\\s*OK'\n[role");
    let mute = Arc::new(AtomicUsize::new(2));
    let (site, _behind, heard) = line("write-twice", &more, &mute);
    wait_until_subscribed(&site);
    site.wait_until_open("relay");
    for number in 0..8 {
        publish(&site, &format!("relay/request/{number}/x"), &format!("SET {number}"));
    }
    for number in 0..8 {
        let id = number.to_string();
        wait_for("an outcome", || outcome(&site, "relay", &id, "x").is_some());
        let told = outcome(&site, "relay", &id, "x").expect("it is there");
        assert_eq!(told["status"], "2.04", "{told}");
        assert!(told.to_string().contains(&format!("OK {number}")), "{number}: {told}");
    }
    assert_eq!(sets(&heard).len(), 8);
    wait_for("the last surplus answer", || {
        site.ports()["relay"]["bad_reasons"]["late or surplus answer to a command"] == 8
    });
    assert!(site.payloads("relay").is_empty(), "{:?}", site.payloads("relay"));
}

#[test]
fn a_device_that_is_asked_gets_commands_between_its_questions_and_both_go_on() {
    let more = RULES.replace(
        "[role",
        "poll = 'A\\r'\npoll-period = \"100ms\"\npoll-timeout = \"90ms\"\nwritable = true\nanswer = '^\\s*OK'\n[role",
    );
    let mute = Arc::default();
    let (site, _behind, heard) = line("write-asked", &more, &mute);
    wait_for("readings", || site.payloads("relay").len() >= 3);
    for number in 0..10 {
        let (code, text) = site.daemon.command(&["send", "relay", "x", &format!("SET {number}")]);
        assert!(code == 0 && text.contains(&format!("OK {number}")), "{text}");
    }
    assert_eq!(sets(&heard).len(), 10);
    let before = site.payloads("relay").len();
    wait_for("further readings", || site.payloads("relay").len() >= before + 5);
}

#[test]
fn devices_that_share_a_line_get_commands_in_their_turns() {
    let mut behind = None;
    let site = Site::new("write-shared", |folder: &Folder| {
        behind = Some(Behind::new(folder, "line", b'\r', |text| {
            let text = String::from_utf8_lossy(text).trim().to_owned();
            format!("{text}=ok\r").into_bytes()
        }));
        let table = |id: &str| {
            format!(
                "[serial.{id}]\nport = \"{}\"\nframing = \"line\"\nline-end = \"cr\"\nrole = \"meter\"\npoll = '{id}\\r'\n\
                 poll-period = \"100ms\"\npoll-timeout = \"90ms\"\nwritable = true\nanswer = '^{id}SET'\n",
                folder.join("line").display()
            )
        };
        RULES.to_owned() + &table("a") + &table("b")
    });
    wait_for("readings", || ["a", "b"].iter().all(|id| site.payloads(id).len() >= 3));
    for number in 0..5 {
        for id in ["a", "b"] {
            let (code, text) = site.daemon.command(&["send", id, "x", &format!("{id}SET{number}")]);
            assert!(code == 0 && text.contains(&format!("{id}SET{number}=ok")), "{text}");
        }
    }
    for id in ["a", "b"] {
        let before = site.payloads(id).len();
        wait_for("further readings", || site.payloads(id).len() >= before + 5);
        let other = if id == "a" { "b" } else { "a" };
        let is_own = |text: &String| !text.contains(other) && !text.contains("SET");
        assert!(site.payloads(id).iter().all(is_own), "{:?}", site.payloads(id));
    }
}

#[test]
fn after_a_kill_between_written_and_answered_a_command_is_unknown_or_if_it_may_be_sent_again() {
    for is_idempotent in [false, true] {
        let more = RULES
            .replace("[role", "writable = true\nanswer = '^\\s*OK'\nanswer-timeout = \"60s\"\n[role")
            + if is_idempotent { "idempotent = true\n" } else { "" };
        let mute = Arc::new(AtomicUsize::new(1));
        let (mut site, _behind, heard) = line(&format!("write-kill-{is_idempotent}"), &more, &mute);
        wait_until_subscribed(&site);
        site.wait_until_open("relay");
        publish(&site, "relay/request/9/x", "SET 1");
        wait_for("the command on the line", || sets(&heard).len() == 1);
        site.daemon.kill();
        mute.store(0, Ordering::Relaxed);
        site.daemon.resume();
        wait_for("its outcome", || outcome(&site, "relay", "9", "x").is_some());
        let told = outcome(&site, "relay", "9", "x").expect("it is there");
        let (status, times) = if is_idempotent { ("2.04", 2) } else { ("unknown", 1) };
        assert_eq!((&told["status"], sets(&heard).len()), (&json!(status), times), "{told}");
    }
}

#[test]
fn a_reload_that_opens_the_line_anew_in_the_middle_tells_what_may_have_run() {
    let more = RULES.replace("[role", "writable = true\nanswer = '^\\s*OK'\nanswer-timeout = \"60s\"\n[role");
    let mute = Arc::new(AtomicUsize::new(1));
    let (site, _behind, heard) = line("write-reload", &more, &mute);
    wait_until_subscribed(&site);
    site.wait_until_open("relay");
    publish(&site, "relay/request/1/x", "SET 1");
    wait_for("the command on the line", || sets(&heard).len() == 1);
    let text = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    let changed = text.replace("answer-timeout = \"60s\"", "answer-timeout = \"1s\"");
    std::fs::write(site.daemon.config(), changed).expect("the new one");
    let (code, said) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{said}");
    wait_for("its outcome", || outcome(&site, "relay", "1", "x").is_some());
    let told = outcome(&site, "relay", "1", "x").expect("it is there");
    assert_eq!(told["status"], "unknown", "{told}");
    // The next one goes out on the new line.
    mute.store(0, Ordering::Relaxed);
    let (code, text) = site.daemon.command(&["send", "relay", "x", "SET 2"]);
    assert!(code == 0 && text.contains("OK 2"), "{text}");
}
