//! Devices behind others: their readings come over the sessions and connections of their parents.

use tombolo_test_support::{printed, wait_for};

use super::Site;
use super::mqtt::{SOCKET, publish, site};

/// `door-7` and `pump-2` are of the role `sensor`; each has a probe behind it.
const PROBES: &str = r#"
[role.sensor.on-behalf.probes]
roles = ["probe"]
path = "t/#"
[role.probe]
quota = { messages = 1, per = "1h", burst = 3 }
[role.probe.uplink.telemetry]
path = "t/#"
[device.probe-1]
role = "probe"
parent = "door-7"
[device.probe-2]
role = "probe"
parent = "pump-2"
"#;

fn shown(site: &Site, id: &str) -> serde_json::Value {
    let (code, text) = site.daemon.command(&["--json", "device", "show", id]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).expect("an object")
}

#[test]
fn a_device_forwards_readings_of_the_devices_behind_it_and_of_no_other() {
    let site = site("on-behalf", |_, _| format!("{SOCKET}{PROBES}"));
    let arrived = |topic: &str| !site.arrived(topic).is_empty();
    assert!(site.post(&["-e", "21.5"], "~probe-1/t/env").contains("2.04"));
    wait_for("the reading over CoAP", || arrived("tombolo/gw/probe-1/up/t/env"));
    assert!(site.arrived("tombolo/gw/probe-1/up/t/env")[0][3].contains("device:probe-1"));
    let sent = publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "~probe-2/t/env", "-m", "22"]);
    assert!(sent.status.success(), "{}", printed(&sent));
    wait_for("the reading over MQTT", || arrived("tombolo/gw/probe-2/up/t/env"));
    // A body in blocks.
    let file = site.folder.write("large.txt", "0123456789abcdef".repeat(200)).display().to_string();
    assert!(site.post(&["-f", &file, "-b", "256"], "~probe-1/t/large").contains("2.04"));
    wait_for("the large reading", || arrived("tombolo/gw/probe-1/up/t/large"));

    for path in ["~probe-2/t/env", "~pump-2/t/env", "~nobody/t/env", "~probe-1/x"] {
        let said = site.post(&["-e", "1"], path);
        assert!(said.contains("4.03"), "{path}: {said}");
    }
    let refused = site.post(&["-f", &file, "-b", "256"], "~nobody/t/large");
    assert!(refused.contains("4.03"), "a body in blocks, at its first: {refused}");
    let refused = publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "~probe-1/t/env", "-m", "1"]);
    assert!(printed(&refused).contains("Not authorized"), "{}", printed(&refused));
    let refused = publish(&site, &["-V", "mqttv311", "-q", "1", "-t", "~probe-1/t/env", "-m", "1"]);
    assert!(!refused.status.success(), "3.1.1 has no other answer than the end: {}", printed(&refused));

    // The quota is the child's: two have passed.
    assert!(site.post(&["-e", "1"], "~probe-1/t/env").contains("2.04"));
    assert!(site.post(&["-e", "1"], "~probe-1/t/env").contains("4.29"));
    assert!(site.post(&["-e", "1"], "t/own").contains("2.04"), "its parent has another");
    let probe = shown(&site, "probe-1");
    assert_eq!(
        (&probe["parent"], &probe["accepted"], &probe["online"]),
        (&"door-7".into(), &3.into(), &true.into())
    );
    assert_eq!(probe["refused_reasons"]["over_quota"], 1, "{probe}");
    let door = shown(&site, "door-7");
    assert_eq!((&door["children"][0], &door["accepted"]), (&"probe-1".into(), &1.into()), "{door}");
    assert_eq!(door["refused_reasons"]["on_behalf"], 5, "{door}");
    let counters = site.daemon.status()["counters"].clone();
    assert_eq!(counters["tombolo_gate_refused_on_behalf_readings_total"], 7, "{counters}");
    wait_for("its status", || arrived("tombolo/gw/probe-1/status"));
    let (_, explained) = site.daemon.command(&["acl", "explain", "door-7", "POST", "~probe-1/t/env"]);
    assert!(explained.contains("probe-1 t/env, by on-behalf rule probes of role sensor"), "{explained}");
    let (code, explained) = site.daemon.command(&["acl", "explain", "pump-2", "publish", "~probe-1/t/env"]);
    assert!(code == 1 && explained.contains("no device behind it has this id"), "{explained}");
}

#[test]
fn a_reload_moves_a_child_and_takes_the_permission_away_and_check_says_who_is_mute() {
    let site = site("on-behalf-reload", |_, _| format!("{SOCKET}{PROBES}"));
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(site.daemon.config()).expect("the configuration");
        assert!(text.contains(from), "{text}");
        std::fs::write(site.daemon.config(), text.replacen(from, to, 1)).expect("it can be written");
        let (code, said) = site.daemon.command(&["reload"]);
        assert_eq!(code, 0, "{said}");
    };
    assert!(site.post(&["-e", "1"], "~probe-1/t/env").contains("2.04"));
    change("parent = \"door-7\"", "parent = \"pump-2\"");
    assert!(site.post(&["-e", "1"], "~probe-1/t/env").contains("4.03"));
    let sent = publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "~probe-1/t/env", "-m", "2"]);
    assert!(sent.status.success(), "{}", printed(&sent));
    assert_eq!(shown(&site, "probe-1")["accepted"], 2, "it is the same device, with the same quota");
    change("path = \"t/#\"\n[role.probe]", "path = \"t/#\"\ndeny = true\n[role.probe]");
    let refused = publish(&site, &["-V", "mqttv5", "-q", "1", "-t", "~probe-1/t/env", "-m", "3"]);
    assert!(printed(&refused).contains("Not authorized"), "{}", printed(&refused));
    let (_, checked) = site.daemon.command(&["check"]);
    assert!(checked.contains("no on-behalf rule of the role \"sensor\" lets pump-2 forward"), "{checked}");
}
