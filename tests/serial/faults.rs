//! Wrong settings and a full lane: one port's trouble is its own.

use crate::{Device, Site};
use tombolo_test_support::wait_for;

#[test]
fn a_wrong_port_is_named_with_its_line_fails_check_and_leaves_the_rest_running() {
    let site = Site::new("wrong", |folder| {
        let good = format!(
            "[serial.good]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\n",
            folder.join("good").display()
        );
        let file = folder.write("no-port", "");
        format!(
            "{good}\
             [serial.baud]\nport = \"/dev/ttyS7\"\nbaud = 1\nframing = \"line\"\nrole = \"meter\"\n\
             [serial.framing]\nport = \"/dev/ttyS8\"\nframing = \"morse\"\nrole = \"meter\"\n\
             [serial.regex]\nport = \"/dev/ttyS9\"\nframing = \"line\"\npattern = '('\nrole = \"meter\"\n\
             [serial.role]\nport = \"/dev/ttyS10\"\nframing = \"line\"\nrole = \"nobody\"\n\
             [serial.file]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\n",
            file.display()
        )
    });
    let mut good = Device::plugged_in(site.folder.join("good"));
    site.wait_until_open("good");
    good.say(b"\nfine\n");
    wait_for("the reading", || site.payloads("good") == ["fine"]);
    let ports = site.ports();
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["file", "good"]);
    assert_eq!(ports["file"]["reason"], "it is not a serial port");
    let (code, text) = site.daemon.command(&["check", "--offline"]);
    assert_eq!(code, 1, "{text}");
    for key in ["serial.baud.baud", "serial.framing.framing", "serial.regex.pattern", "serial.role.role"] {
        let line = text.lines().find(|line| line.starts_with("fail") && line.contains(key));
        let line = line.unwrap_or_else(|| panic!("{key} in\n{text}"));
        assert!(line.contains("tombolo.toml:"), "{line}");
    }
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("good: open") && text.contains("file: retrying"), "{text}");
}

#[test]
fn while_the_lane_is_full_the_newest_readings_wait_and_the_rest_is_counted() {
    let mut site = Site::new("full", |folder| {
        let small = "[journal]\nmax-bytes = \"8MiB\"\n[lane.normal]\nmax-bytes = \"256KiB\"\n[lane.high]\nmax-bytes = \"256KiB\"\n";
        format!(
            "{small}[serial.meter]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\n",
            folder.join("meter").display()
        )
    });
    let mut meter = Device::plugged_in(site.folder.join("meter"));
    site.wait_until_open("meter");
    site.broker.stop();
    meter.say(b"\n");
    let mut number = 0;
    wait_for("losses", || {
        for _ in 0..4 {
            // What does not fit onto the line now is said again: the numbers stay whole.
            if meter.say(format!("{number:0900}\n").as_bytes()) {
                number += 1;
            } else {
                meter.say(b"\n");
                break;
            }
        }
        site.ports()["meter"]["lost_readings"].as_u64() > Some(20)
    });
    wait_for("the line to be read out", || {
        let port = &site.ports()["meter"];
        port["frames"].as_u64() >= Some(number)
    });
    let stored = site.ports()["meter"]["readings"].as_u64().unwrap();
    site.broker.resume();
    let port = || site.ports()["meter"].clone();
    // Some are on their way to disk for a moment, neither waiting nor stored.
    wait_for("those that waited", || {
        let port = port();
        let number = |name: &str| port[name].as_u64().unwrap();
        port["waiting"] == 0
            && number("readings") + number("lost_readings") >= number("frames")
            && site.arrived("meter").len() as u64 == number("readings")
    });
    let counted = port();
    let (readings, lost) =
        (counted["readings"].as_u64().unwrap(), counted["lost_readings"].as_u64().unwrap());
    assert!(readings > stored && lost > 20, "{counted}");
    // Nothing is missing that is not counted, and nothing came twice.
    assert_eq!(readings + lost, counted["frames"].as_u64().unwrap(), "{counted}");
}
