//! What holds a device or a lane back beyond rules and quota: mutes, the bytes of a day, and who
//! used how much.

use std::time::Duration;

use serde_json::Value;
use tombolo_test_support::{wait_for, wait_within};

use super::{KEY, Site};

/// A device `meter-1`, whose role takes one reading an hour.
const SLOW: &str = r#"
[role.slow]
quota = { messages = 1, per = "1h", burst = 1 }
max-handshakes = 1000
[role.slow.uplink.telemetry]
path = "t/#"
[device.meter-1]
role = "slow"
psk-file = "door-7.psk"
"#;

fn post(site: &Site) -> String {
    site.coap_client("coap-client-openssl", "meter-1", KEY, &["-m", "post", "-e", "1"], "t/x")
}

fn change(site: &Site, from: &str, to: &str) {
    let text = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
    assert!(text.contains(from), "{text}");
    std::fs::write(site.daemon.config(), text.replace(from, to)).expect("it can be written");
    let (code, said) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_device_that_ignores_4_29_is_muted_and_named_and_a_reload_of_its_quota_lets_it_go() {
    let site = Site::new("mute", SLOW);
    post(&site);
    for _ in 0..66 {
        let said = post(&site);
        assert!(said.contains("4.29"), "{said}");
    }
    let status = site.daemon.status();
    let limited = &status["limited"][0];
    assert_eq!((&limited["device"], &limited["reason"]), (&"meter-1".into(), &"muted".into()), "{status}");
    assert!(status["counters"]["tombolo_gate_refused_muted_readings_total"].as_u64() >= Some(1), "{status}");
    let (_, shown) = site.daemon.command(&["device", "show", "meter-1"]);
    assert!(shown.contains("it ignored 4.29"), "{shown}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("limited") && text.contains("meter-1: muted"), "{text}");
    let (_, checked) = site.daemon.command(&["check"]);
    assert!(checked.contains("device meter-1: muted"), "{checked}");
    // Its neighbour is not concerned.
    assert!(site.post(&["-e", "1"], "t/calm").contains("2.04"));
    change(&site, "burst = 1 }", "burst = 3 }");
    assert!(post(&site).contains("2.04"));
    assert!(site.daemon.status()["limited"].is_null(), "nobody is muted");
}

#[test]
fn a_device_that_handshakes_without_end_is_refused_and_named() {
    let site = Site::new("handshakes", &SLOW.replace("max-handshakes = 1000", "max-handshakes = 8"));
    for _ in 0..10 {
        post(&site);
    }
    let status = site.daemon.status();
    let limited = &status["limited"][0];
    assert_eq!(
        (&limited["device"], &limited["reason"]),
        (&"meter-1".into(), &"too_often".into()),
        "{status}"
    );
    assert!(site.post(&["-e", "1"], "t/calm").contains("2.04"));
    change(&site, "max-handshakes = 8", "max-handshakes = 100");
    // At 8 a minute the next one would be let in after 7 s.
    wait_within(Duration::from_secs(5), "it is let in", || post(&site).contains("4.29"));
}

#[test]
fn a_lane_that_has_used_its_day_keeps_its_readings_over_a_restart_and_alarms_go_on() {
    let mut site = Site::new("day", "[lane.normal]\ndaily-bytes = \"64KiB\"\n");
    let file = site.folder.write("large.txt", "0123456789abcdef".repeat(1_900)).display().to_string();
    for number in 1..=4 {
        let said = site.post(&["-f", &file, "-b", "1024"], &format!("t/{number}"));
        assert!(said.contains("2.04"), "{said}");
    }
    let arrived = |site: &Site, path: &str| !site.arrived(&format!("tombolo/gw/door-7/up/{path}")).is_empty();
    wait_for("the third", || arrived(&site, "t/3"));
    assert!(site.post(&["-e", "1"], "alarm/door").contains("2.04"));
    wait_for("the alarm", || arrived(&site, "alarm/door"));
    let used_up = |site: &Site| site.daemon.status()["upstream"]["daily_bytes"]["normal"]["used_up"] == true;
    assert!(used_up(&site) && !arrived(&site, "t/4"));
    let (_, checked) = site.daemon.command(&["check"]);
    let warned =
        |line: &str| line.starts_with("warn") && line.contains("[lane.normal] daily-bytes = \"64KiB\"");
    assert!(checked.lines().any(warned), "{checked}");
    assert!(!checked.contains("readings do not flow") && !checked.contains("suspected"), "{checked}");
    let (_, queue) = site.daemon.command(&["queue"]);
    assert!(queue.contains("[lane.normal] daily-bytes") && !queue.contains("skip"), "{queue}");

    site.daemon.stop();
    site.daemon.resume();
    wait_for("the uplink", || site.daemon.status()["upstream"]["connected"] == true);
    assert!(used_up(&site), "{}", site.daemon.status()["upstream"]);
    assert_eq!(site.daemon.status()["journal"]["records"], 1);
    change(&site, "daily-bytes = \"64KiB\"", "daily-bytes = \"1MiB\"");
    wait_for("the fourth", || arrived(&site, "t/4"));
    let status = site.daemon.status();
    assert_eq!(status["counters"]["tombolo_northbound_connected_sessions_total"], 1, "it stays connected");
    assert!(status["upstream"]["daily_bytes"]["normal"]["bytes"].as_u64() > Some(120_000), "{status}");
}

#[test]
fn a_device_that_has_its_share_of_a_lane_is_told_5_03_and_its_neighbour_has_room() {
    let lane = "[lane.normal]\nmax-bytes = \"1MiB\"\ndevice-share = 20\n";
    let mut site = Site::new("share", &format!("{SLOW}{lane}"));
    site.broker.stop();
    let file = site.folder.write("large.txt", "0123456789abcdef".repeat(3_000)).display().to_string();
    let large = |site: &Site, number: u32| site.post(&["-f", &file, "-b", "1024"], &format!("t/{number}"));
    // 48 kB each, of 210 kB.
    let said: Vec<String> = (0..6).map(|number| large(&site, number)).collect();
    assert!(said[0].contains("2.04"), "{}", said[0]);
    let refused = said.iter().position(|said| said.contains("5.03")).expect("one is beyond the share");
    assert!((3..=5).contains(&refused) && said[refused].contains("share used up"), "{}", said[refused]);
    assert!(said[refused..].iter().all(|said| said.contains("5.03")));
    assert!(post(&site).contains("2.04"), "its neighbour has room");
    let status = site.daemon.status();
    let limited = &status["limited"][0];
    assert_eq!(
        (&limited["device"], &limited["reason"]),
        (&"door-7".into(), &"over_share".into()),
        "{status}"
    );
    let (_, shown) = site.daemon.command(&["--json", "device", "show", "door-7"]);
    let shown: Value = serde_json::from_str(&shown).expect("an object");
    assert_eq!(shown["unstored"].as_u64(), Some(6 - refused as u64), "{shown}");
    // A reload of the share takes effect at once.
    let (_, explained) = site.daemon.command(&["acl", "explain", "door-7", "POST", "t/env"]);
    assert!(
        explained.contains(" passes\n") && explained.contains("of the lane normal: the journal"),
        "{explained}"
    );
    change(&site, "device-share = 20", "device-share = 100");
    assert!(large(&site, 9).contains("2.04"));
}

#[test]
fn usage_says_what_each_device_has_sent_and_is_kept_over_a_restart() {
    let mut site = Site::new("usage", SLOW);
    for _ in 0..3 {
        site.post(&["-e", "12345"], "t/env");
    }
    post(&site);
    assert!(post(&site).contains("4.29"));
    let asked = |site: &Site, arguments: &[&str]| -> Vec<Value> {
        let line = [&["--json", "usage"], arguments].concat();
        let (code, text) = site.daemon.command(&line);
        assert_eq!(code, 0, "{text}");
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    };
    let check = |site: &Site| {
        let all = asked(site, &[]);
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(
            (&all[0]["device"], &all[0]["messages"], &all[0]["bytes"]),
            (&"door-7".into(), &3.into(), &15.into())
        );
        let one = &asked(site, &["meter-1"])[0];
        assert_eq!(
            (&one["messages"], &one["refused_reasons"]["over_quota"]),
            (&1.into(), &1.into()),
            "{one}"
        );
        assert_eq!(one["days"][0]["refused"], 1, "{one}");
    };
    check(&site);
    let (_, text) = site.daemon.command(&["usage"]);
    assert!(text.contains("messages") && text.contains("1 over quota"), "{text}");
    site.daemon.stop();
    assert!(site.folder.join("state/usage").is_dir());
    site.daemon.resume();
    check(&site);
    let folder = site.folder.join("state/usage");
    site.daemon.stop();
    for entry in std::fs::read_dir(&folder).expect("the folder") {
        std::fs::write(entry.expect("an entry").path(), "rubbish").expect("it can be written");
    }
    site.daemon.resume();
    let (code, text) = site.daemon.command(&["usage"]);
    assert!(code == 0 && text.contains("of 30 days nothing is known that was sent"), "{text}");
    let problems = site.daemon.status()["problems"].to_string();
    assert!(
        problems.contains(".damaged-1") && problems.contains("not known to `tombolo usage`"),
        "{problems}"
    );
    let (_, checked) = site.daemon.command(&["check"]);
    assert_eq!(checked.matches(".damaged-1 was damaged and set aside").count(), 1, "{checked}");
    let (code, text) = site.daemon.command(&["usage", "nobody"]);
    assert!(code == 1 && text.contains("nothing is known of a device nobody"), "{text}");
}
