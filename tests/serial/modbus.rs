//! A Modbus bus through the daemon: pymodbus's units on a pseudo-terminal, their readings at the
//! broker, each under its own device.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::{Device, Folder, Site};
use tombolo_test_support::wait_for;

/// pymodbus at one end of a line, and at the other a plug that can be pulled.
pub struct Bus {
    plug: Device,
    stop: Arc<AtomicBool>,
    pump: Option<std::thread::JoinHandle<()>>,
    units: std::fs::File,
    child: Child,
}

impl Bus {
    pub fn new(link: PathBuf) -> Bus {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
        assert!(python.exists(), "tests/run peers makes {}", python.display());
        // pymodbus has the other end when it is ready; until then the slave is held here.
        let (units, _slave, name) = crate::line();
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modbus/pymodbus_units.py"))
            .arg(name)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("pymodbus starts");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut said).expect("a line");
        assert_eq!(said, "ready\n");
        let (plug, stop) = (Device::new(link), Arc::default());
        Bus { plug, stop, pump: None, units, child }
    }

    fn plugged_in(link: PathBuf) -> Bus {
        let mut bus = Bus::new(link);
        bus.plug_in();
        bus
    }

    pub fn plug_in(&mut self) {
        self.plug.plug_in();
        let near = self.plug.master.take().expect("it was plugged in");
        let far = self.units.try_clone().expect("a second descriptor");
        self.stop = Arc::default();
        let stop = self.stop.clone();
        self.pump = Some(std::thread::spawn(move || carry(near, far, &stop)));
    }

    /// When it returns, the port has hung up.
    fn unplug(&mut self) {
        self.plug.unplug();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            pump.join().expect("the line's thread");
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Carries bytes both ways; what an end does not take is lost, as on a line.
fn carry(mut near: std::fs::File, mut far: std::fs::File, stop: &AtomicBool) {
    let mut bytes = [0; 1024];
    while !stop.load(Ordering::Relaxed) {
        let mut ends =
            [PollFd::new(near.as_fd(), PollFlags::POLLIN), PollFd::new(far.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ends, PollTimeout::from(20_u8));
        let hung_up = ends[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
        if let Ok(count) = near.read(&mut bytes) {
            let _ = far.write_all(&bytes[..count]);
        }
        if let Ok(count) = far.read(&mut bytes) {
            let _ = near.write_all(&bytes[..count]);
        }
        if hung_up {
            // Nobody has the port open yet, or any more: poll would not wait.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// A bus whose units have time enough also on a machine that does much else.
pub fn port(folder: &Folder) -> String {
    format!(
        "[serial.bus1]\nport = \"{}\"\nbaud = 19200\n[serial.bus1.modbus]\ntimeout = \"2s\"\nbackoff = \"100ms\"\n",
        folder.join("bus1").display()
    )
}

pub fn unit(address: u8, more: &str) -> String {
    format!("[serial.bus1.unit.{address}]\nid = \"u{address}\"\nrole = \"meter\"\nperiod = \"200ms\"\n{more}")
}

/// One holding register, `v`.
const VALUE: &str = "register.v.address = 0\n";

/// A bus that is there before the gateway is.
pub fn site(name: &str, configuration: impl FnOnce(&Folder) -> String) -> (Site, Bus) {
    let mut bus = None;
    let site = Site::new(name, |folder| {
        bus = Some(Bus::plugged_in(folder.join("bus1")));
        configuration(folder)
    });
    (site, bus.expect("it was plugged in"))
}

/// Without those that came again: delivery is at least once.
fn distinct(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    numbers.filter(|number| seen.insert(*number)).collect()
}

impl Site {
    fn unit(&self, id: &str) -> Value {
        self.ports()["bus1"]["units"][id].clone()
    }

    fn count(&self, id: &str, what: &str) -> u64 {
        self.unit(id)[what].as_u64().unwrap_or(0)
    }

    fn values(&self, id: &str) -> Vec<Value> {
        let arrived = self.payloads(id);
        let last = arrived.len().saturating_sub(1);
        let read =
            arrived.iter().enumerate().filter_map(|(at, payload)| match serde_json::from_str(payload) {
                Ok(value) => Some(value),
                // The witness is just writing it down.
                Err(_) if at == last => None,
                Err(error) => panic!("{error}: {payload}"),
            });
        read.collect()
    }

    /// Reloads, with `change` made to the configuration.
    fn change(&self, change: impl FnOnce(&str) -> String) -> (i32, String) {
        let text = std::fs::read_to_string(self.daemon.config()).expect("the configuration");
        std::fs::write(self.daemon.config(), change(&text)).expect("the new one");
        self.daemon.signal(nix::sys::signal::Signal::SIGHUP);
        self.daemon.command(&["check", "--offline"])
    }
}

#[test]
fn each_units_readings_arrive_under_its_own_device_with_all_tables_and_without_refused_registers() {
    let template = "[default]\ntable = \"input\"\n[register.count]\naddress = 1\ntype = \"u32\"\n[register.low]\naddress = 3\ntype = \"i16\"\n\
                    [register.spare]\naddress = 9\n";
    let (site, _bus) = site("modbus", |folder| {
        folder.write("modbus/all.toml", template);
        let all = "template = \"all\"\npath = \"m/all\"\nregister.spare.enabled = false\n\
                   register.voltage = { address = 100, table = \"holding\", type = \"f32\" }\n\
                   register.name = { address = 200, table = \"holding\", type = \"string\", length = 4 }\n\
                   register.coil = { address = 12, table = \"coil\" }\nregister.discrete = { address = 3, table = \"discrete\" }\n";
        let lacking =
            [0, 4, 6, 8].map(|address| format!("register.r{address}.address = {address}\n")).concat();
        port(folder) + &unit(1, all) + &unit(5, &lacking) + &unit(11, VALUE)
    });
    wait_for("readings of all", || ["u1", "u5", "u11"].iter().all(|id| site.arrived(id).len() >= 3));
    let expected = json!({"count": 123_456, "low": -32_768, "name": "TOMBOLO", "coil": true, "discrete": true,
                          "voltage": f32::from_bits(0x4366_1A9F).to_string().parse::<f64>().unwrap()});
    assert!(site.values("u1").iter().all(|value| *value == expected), "{:?}", site.values("u1")[0]);
    assert!(site.arrived("u1").iter().all(|(path, _)| path == "m/all"));
    assert!(site.values("u5").iter().all(|value| *value == json!({"r0": 50, "r4": 54, "r8": 58})));
    assert!(site.values("u11").iter().all(|value| *value == json!({"v": 11})));
    assert!(site.arrived("bus1").is_empty());
    let lacking = site.unit("u5");
    assert_eq!(
        (&lacking["state"], &lacking["address"], &lacking["silent"]),
        (&json!("up"), &json!(5), &json!(0))
    );
    assert!(lacking["exceptions"].as_u64() > Some(0), "{lacking}");

    // The commands know units as devices.
    let (code, text) = site.daemon.command(&["device", "list"]);
    assert!(code == 0 && ["u1 ", "u5 ", "u11 "].iter().all(|id| text.contains(id)), "{text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("bus1: open") && text.contains("unit 5, u5: up"), "{text}");
    let (code, text) = site.daemon.command(&["acl", "explain", "u1", "POST", "m/all"]);
    assert!(code == 0 && text.contains("tombolo/gw/u1/up/m/all"), "{text}");
    wait_for("their presence", || ["u1", "u5", "u11"].iter().all(|id| site.told(id).is_some()));
    assert_eq!(site.told("u1").unwrap()["online"], true);
    // Said once, under the device.
    let log = site.daemon.log();
    let lines =
        |what: &str| log.lines().filter(|line| line.contains(what) && line.contains("device=u5")).count();
    assert_eq!((lines("unit refuses a register"), lines("unit answers")), (1, 1), "{log}");
}

#[test]
fn dead_and_faulty_units_cost_the_live_ones_no_reading_and_are_named() {
    let (site, _bus) = site("dead", |folder| {
        let live = [11, 12, 13, 14].map(|address| unit(address, VALUE)).concat();
        let faulty = [2, 3, 4].map(|address| unit(address, VALUE)).concat();
        let dead = [21, 22, 23].map(|address| unit(address, VALUE)).concat();
        // One unit is late by 700 ms.
        port(folder).replace("2s", "500ms") + &live + &faulty + &dead
    });
    let live = ["u11", "u12", "u13", "u14"];
    wait_for("the live ones", || live.iter().all(|id| site.arrived(id).len() >= 20));
    wait_for("the dead ones to be named", || {
        ["u21", "u22", "u23"].iter().all(|id| site.unit(id)["state"] == "down")
    });
    wait_for("the faulty ones", || {
        ["u2", "u3", "u4"].iter().all(|id| site.arrived(id).len() >= 4)
            && site.count("u2", "damaged") > 0
            && site.count("u3", "late") > 0
            && site.count("u4", "silent") > 0
    });
    let units = &site.ports()["bus1"]["units"];
    let count = |id: &str, what: &str| units[id][what].as_u64().unwrap();
    let requests: u64 =
        units.as_object().unwrap().values().map(|unit| unit["requests"].as_u64().unwrap()).sum();
    println!(
        "{requests} requests to 4 sound, 3 faulty and 3 dead units, {} readings at the broker; daemon CPU {:?}",
        site.ports()["bus1"]["readings"],
        tombolo_test_support::cpu_time(site.daemon.pid())
    );
    // Most of the rounds cost one time-out, whoever does not answer. (With some to spare for
    // whatever else the machine does.)
    let polls = live.iter().map(|id| count(id, "polls")).max().unwrap();
    let dead: u64 = ["u21", "u22", "u23"].iter().map(|id| count(id, "silent")).sum();
    assert!(dead <= 2 * polls + 10, "{units}");
    // A late answer is nobody's reading: unit 3 counts its requests, and every fourth comes too
    // late.
    let counted: Vec<u64> = site.values("u3").iter().map(|value| value["v"].as_u64().unwrap()).collect();
    assert!(counted.is_sorted_by(|a, b| a < b) && counted.iter().all(|count| count % 4 != 0), "{counted:?}");
    assert!(site.values("u2").iter().all(|value| *value == json!({"v": 22})));
    wait_for("what is told of a dead one", || site.told("u21").is_some());
    let told = site.told("u21").unwrap();
    assert_eq!(
        (&told["online"], &told["port"], &told["unit"]),
        (&json!(false), &json!("open"), &json!("down"))
    );
    assert_eq!(told["reason"], "it does not answer");
    let log = site.daemon.log();
    let named =
        log.lines().filter(|line| line.contains("device=u21") && line.contains("unit does not answer"));
    assert_eq!(named.count(), 1, "{log}");
}

#[test]
fn an_unplugged_bus_heals_and_loses_nothing_committed() {
    let site = Site::new("bus-plugs", |folder| port(folder) + &unit(6, VALUE) + &unit(11, VALUE));
    let mut bus = Bus::new(site.folder.join("bus1"));
    for _ in 0..10 {
        let before = site.count("u6", "readings");
        bus.plug_in();
        wait_for("readings after the plug is in", || site.count("u6", "readings") >= before + 3);
        bus.unplug();
        wait_for("the loss to be noticed", || !site.is_open("bus1"));
    }
    assert_eq!(site.ports()["bus1"]["lost"], 10);
    // What was on its way to disk arrives; there is nothing more to come.
    wait_for("all committed", || {
        let port = site.ports()["bus1"].clone();
        port["units"]["u6"]["readings"] == site.arrived("u6").len() as u64
            && port["readings"] == (site.arrived("u6").len() + site.arrived("u11").len()) as u64
    });
    let counted: Vec<u64> = site.values("u6").iter().map(|value| value["v"].as_u64().unwrap()).collect();
    assert!(counted.len() >= 30 && counted.is_sorted_by(|a, b| a < b), "{counted:?}");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", site.daemon.pid())).unwrap();
    let ttys = descriptors.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    assert_eq!(ttys.filter(|path| path.starts_with("/dev/pts")).count(), 0);
}

#[test]
fn a_reload_adds_removes_and_changes_units_and_leaves_other_ports_alone() {
    let (site, _bus) = site("bus-reload", |folder| {
        let line = folder.join("line");
        format!(
            "{}{}{}[serial.line]\nport = \"{}\"\nframing = \"line\"\nrole = \"meter\"\n",
            port(folder),
            unit(11, VALUE),
            unit(12, VALUE),
            line.display()
        )
    });
    let mut line = Device::plugged_in(site.folder.join("line"));
    site.wait_until_open("line");
    line.say(b"\nbefore\n");
    wait_for("readings", || !site.arrived("u11").is_empty() && !site.arrived("u12").is_empty());
    wait_for("the line's", || site.payloads("line") == ["before"]);
    // One goes, one is changed, one comes.
    let (code, text) = site.change(|text| {
        let text =
            text.replace(&unit(11, VALUE), "").replace("id = \"u12\"", "id = \"u12\"\npath = \"m/other\"");
        text + &unit(13, VALUE)
    });
    assert_eq!(code, 0, "{text}");
    wait_for("the new one", || !site.arrived("u13").is_empty());
    wait_for("the changed one", || site.arrived("u12").iter().any(|(path, _)| path == "m/other"));
    let units = site.ports()["bus1"]["units"].clone();
    assert_eq!(units.as_object().unwrap().keys().collect::<Vec<_>>(), ["u12", "u13"]);
    // The retained status of the one that is gone is cleared.
    wait_for("its status", || {
        site.witness
            .lines()
            .iter()
            .rev()
            .find(|line| line.starts_with("tombolo/gw/u11/status"))
            .is_some_and(|line| line.trim_end() == "tombolo/gw/u11/status")
    });
    // The other port has noticed nothing.
    line.say(b"after\n");
    wait_for("the line's", || site.payloads("line") == ["before", "after"]);
    assert_eq!(site.ports()["line"]["lost"], 0);
    let log = site.daemon.log();
    let opened = log.lines().filter(|line| line.contains("serial port open") && line.contains("device=line"));
    assert_eq!(opened.count(), 1, "{log}");
}

#[test]
fn a_wrong_map_template_address_role_or_id_disables_its_unit_fails_check_and_leaves_the_rest_running() {
    let (site, _bus) = site("bus-wrong", |folder| {
        folder.write("modbus/faulty.toml", "[register.x]\naddress = 1\nscale = 0\n");
        let wrong = [
            unit(2, "register.v = { address = 0, type = \"f32\", bit = 3 }\n"),
            unit(3, "template = \"nothing\"\n"),
            unit(4, "template = \"faulty\"\n"),
            unit(12, VALUE).replace("\"meter\"", "\"nobody\""),
            unit(13, VALUE).replace("u13", "u11"),
            format!("[serial.bus1.unit.256]\nid = \"x\"\nrole = \"meter\"\n{VALUE}"),
        ];
        port(folder) + &unit(11, VALUE) + &wrong.concat()
    });
    wait_for("the good one", || site.arrived("u11").len() >= 3);
    let units = site.ports()["bus1"]["units"].clone();
    assert_eq!(units.as_object().unwrap().keys().collect::<Vec<_>>(), ["u11"]);
    let (code, text) = site.daemon.command(&["check", "--offline"]);
    assert_eq!(code, 1, "{text}");
    for key in [
        "unit.2.register.v.bit",
        "unit.3.template",
        "unit.4.template",
        "unit.12.role",
        "unit.13.id",
        "unit.256",
    ] {
        let found = text
            .lines()
            .find(|line| line.starts_with("fail") && line.contains(&format!("serial.bus1.{key}:")));
        let line = found.unwrap_or_else(|| panic!("{key} in\n{text}"));
        assert!(line.contains("tombolo.toml:"), "{line}");
    }
    assert!(
        text.lines()
            .any(|line| line.starts_with("fail") && line.contains("faulty.toml:3: register.x.scale: is 0")),
        "{text}"
    );
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("disabled") && text.contains("serial.bus1.unit.3.template"), "{text}");
}

#[test]
fn a_reading_that_no_rule_let_pass_is_said_when_one_does_though_nothing_has_changed() {
    let once = "publish = \"change\"\nmax-unchanged = \"0s\"\npath = \"new\"\n";
    let (site, _bus) = site("bus-rule", |folder| port(folder) + &unit(11, &format!("{once}{VALUE}")));
    wait_for("refusals", || site.count("u11", "refused") >= 2);
    let (code, text) = site.daemon.command(&["check", "--offline"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("serial.bus1.unit.11.path: no rule of the role \"meter\" lets its path \"new\" pass"),
        "{text}"
    );
    site.change(|text| format!("{text}[role.meter.uplink.new]\npath = \"new\"\n"));
    wait_for("the reading", || site.values("u11") == [json!({"v": 11})]);
    let polls = site.count("u11", "polls");
    wait_for("more polls", || site.count("u11", "polls") > polls + 5);
    assert_eq!((site.values("u11").len(), site.count("u11", "readings")), (1, 1));
}

#[test]
fn a_unit_over_its_quota_is_refused_alone() {
    let (site, _bus) = site("bus-quota", |folder| {
        let small = "[role.small]\nquota = { messages = 1, per = \"1h\", burst = 2 }\n[role.small.uplink.data]\npath = \"data\"\n";
        format!(
            "{small}{}{}{}",
            port(folder),
            unit(6, VALUE).replace("\"meter\"", "\"small\""),
            unit(11, VALUE)
        )
    });
    wait_for("refusals", || site.count("u6", "refused") >= 5);
    wait_for("the other's", || site.arrived("u11").len() >= 7);
    assert_eq!(
        (site.arrived("u6").len(), site.count("u6", "readings"), site.count("u11", "refused")),
        (2, 2, 0)
    );
    // With a larger quota it goes on; nothing of the bus is opened anew for that.
    site.change(|text| {
        text.replace("messages = 1, per = \"1h\", burst = 2", "messages = 1000, per = \"1s\", burst = 1000")
    });
    wait_for("more", || site.arrived("u6").len() >= 5);
    assert_eq!(site.ports()["bus1"]["lost"], 0);
    let log = site.daemon.log();
    assert_eq!(log.lines().filter(|line| line.contains("serial port open")).count(), 1, "{log}");
}

#[test]
fn while_the_lane_is_full_the_newest_readings_of_each_unit_wait_and_the_rest_is_counted() {
    let (mut site, _bus) = site("bus-full", |folder| {
        let small = "[journal]\nmax-bytes = \"8MiB\"\n[lane.normal]\nmax-bytes = \"256KiB\"\n[lane.high]\nmax-bytes = \"256KiB\"\n";
        // Some 3.6 KB a reading.
        let long: String =
            (0..50).map(|number| format!("register.{}-{number:02}.address = 0\n", "x".repeat(60))).collect();
        let quick = |address| unit(address, &long).replace("200ms", "50ms");
        format!("{small}{}{}{}", port(folder), quick(6), quick(11))
    });
    wait_for("first readings", || !site.arrived("u6").is_empty() && !site.arrived("u11").is_empty());
    site.broker.stop();
    wait_for("losses", || ["u6", "u11"].iter().all(|id| site.count(id, "lost_readings") > 5));
    assert!(site.count("u6", "waiting") > 5);
    site.broker.resume();
    wait_for("those that waited", || {
        let units = site.ports()["bus1"]["units"].clone();
        ["u6", "u11"].iter().all(|id| units[id]["waiting"] == 0)
    });
    let after = site.count("u6", "readings");
    wait_for("new ones", || site.count("u6", "readings") > after + 5);
    // Nothing is missing that is not counted: each poll is a reading committed or lost, in a moment
    // with none on its way.
    let mut unit = Value::Null;
    wait_for("all to be counted", || {
        unit = site.unit("u6");
        let number = |what: &str| unit[what].as_u64().unwrap();
        number("polls") == number("readings") + number("lost_readings") + number("waiting")
    });
    let number = |what: &str| unit[what].as_u64().unwrap();
    let counted = || {
        let field = format!("{}-00", "x".repeat(60));
        distinct(site.values("u6").iter().map(|value| value[&field].as_u64().expect("a number")))
    };
    wait_for("all committed", || counted().len() as u64 >= number("readings"));
    assert!(counted().is_sorted(), "{:?}", counted());
}
