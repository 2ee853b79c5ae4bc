//! Resources that real devices serve, observed and polled over the session that the device opened.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;
use tombolo_test_support::wait_for;

use super::commands::Device as Aiocoap;
use super::{KEY, Site};

pub const AWAKE: &str = "[role.sensor.mailbox]\nalways-awake = true\n";

/// A device that serves.
pub struct Device {
    child: Child,
    input: ChildStdin,
    log: PathBuf,
}

impl Device {
    /// libcoap, serving.
    pub fn start(site: &Site) -> Device {
        let (host, port) = (site.daemon.coaps.ip().to_string(), site.daemon.coaps.port().to_string());
        Device::run(site, Path::new("python3"), "libcoap_served.py", &[&host, &port])
    }

    /// aiocoap, serving.
    fn aiocoap(site: &Site) -> Device {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
        assert!(python.exists(), "tests/run peers builds it");
        Device::run(site, &python, "aiocoap_served.py", &[&format!("coaps://{}", site.daemon.coaps)])
    }

    fn run(site: &Site, python: &Path, program: &str, gateway: &[&str]) -> Device {
        let log = site.folder.join("served.txt");
        let mut child = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/path").join(program))
            .args(gateway)
            .args(["door-7", KEY])
            .arg(&log)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(site.folder.join("served.err")).unwrap())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        Device { child, input, log }
    }

    /// Its values are this from now on.
    pub fn set(&mut self, value: &str) {
        writeln!(self.input, "{value}").unwrap();
    }

    /// The paths of the GETs that it answered.
    fn gets(&self) -> Vec<String> {
        std::fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site(name: &str, tables: &str) -> Site {
    let site = Site::new(name, &format!("{AWAKE}{tables}"));
    wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    site
}

/// The payloads of a path.
pub fn values(site: &Site, path: &str) -> Vec<String> {
    let arrived = site.arrived(&format!("tombolo/gw/door-7/up/{path}"));
    arrived.into_iter().map(|fields| fields[1].clone()).collect()
}

/// What `device show` says of what is asked of the device.
pub fn served(site: &Site) -> Vec<Value> {
    let (code, text) = site.daemon.command(&["device", "show", "door-7", "--json"]);
    assert_eq!(code, 0, "{text}");
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    shown["served"].as_array().cloned().unwrap_or_default()
}

pub const OBSERVE: &str = "[role.sensor.observe.temp]\npath = \"sensors/temp\"\nas = \"t/temp\"\n";

#[test]
fn libcoap_is_observed_and_its_notifications_reach_the_broker() {
    let site = site("served-observe", OBSERVE);
    assert_eq!(served(&site)[0]["heard"], false, "it is configured");
    let mut device = Device::start(&site);
    wait_for("the first value", || values(&site, "t/temp") == ["20"]);
    for value in ["21", "22"] {
        device.set(value);
        wait_for("the notification", || values(&site, "t/temp").last().is_some_and(|last| last == value));
    }
    assert_eq!(values(&site, "t/temp"), ["20", "21", "22"]);
    wait_for("the values to be counted", || served(&site)[0]["values"] == 3);
    let shown = served(&site);
    assert!(shown[0]["observed_s"].is_u64() && shown[0]["trouble"].is_null(), "{shown:?}");
    assert_eq!((&shown[0]["asked"], &shown[0]["reading"]), (&1.into(), &"t/temp".into()));
    assert_eq!(site.daemon.status()["served"]["observed"], 1);
    let (_, text) = site.daemon.command(&["device", "show", "door-7"]);
    assert!(text.contains("observes") && text.contains("3 values"), "{text}");
}

#[test]
fn aiocoap_is_observed_again_after_a_stop_and_after_a_kill_of_the_gateway() {
    let mut site = site("served-restart", OBSERVE);
    let mut device = Device::aiocoap(&site);
    wait_for("the first value", || values(&site, "t/temp") == ["20"]);
    device.set("21");
    wait_for("the notification", || values(&site, "t/temp") == ["20", "21"]);
    // The session goes on, and the token of the process before is not known any more.
    for (kill, value) in [(false, "30"), (true, "40")] {
        match kill {
            true => site.daemon.kill(),
            false => drop(site.daemon.stop()),
        }
        site.daemon.resume();
        device.set(value);
        wait_for("the value", || values(&site, "t/temp").last().is_some_and(|last| last == value));
        wait_for("the relation", || served(&site)[0]["observed_s"].is_u64());
        let next = format!("{value}1");
        device.set(&next);
        wait_for("the notification", || values(&site, "t/temp").last() == Some(&next));
        assert_eq!(served(&site)[0]["asked"], 1, "of this process");
    }
}

#[test]
fn a_large_value_of_libcoap_is_fetched_whole_with_each_notification() {
    let site =
        site("served-blocks", "[role.sensor.observe.long]\npath = \"sensors/long\"\nas = \"t/long\"\n");
    let mut device = Device::start(&site);
    wait_for("the first value", || values(&site, "t/long") == ["20".repeat(1_000)]);
    for value in ["abc", "defg"] {
        device.set(value);
        wait_for("the notification", || values(&site, "t/long").last() == Some(&value.repeat(1_000)));
    }
    let shown = served(&site);
    assert!(shown[0]["trouble"].is_null(), "{shown:?}");
}

#[test]
fn a_resource_that_cannot_be_observed_is_polled_and_a_missing_one_is_named_and_the_rest_goes_on() {
    let tables = "[role.sensor.observe.level]\npath = \"level\"\nas = \"t/level\"\n\
                  [role.sensor.observe.none]\npath = \"none\"\nas = \"t/none\"\n\
                  [role.sensor.observe.secret]\npath = \"sensors/temp\"\nas = \"x/temp\"\n\
                  [role.sensor.poll.temp]\npath = \"sensors/temp\"\nas = \"t/temp\"\nevery = \"1s\"\n";
    let site = site("served-trouble", tables);
    let device = Device::start(&site);
    wait_for("three values", || values(&site, "t/temp").len() >= 3);
    wait_for("its value", || values(&site, "t/level") == ["20"]);
    let trouble = |name: &str| {
        let of = served(&site).into_iter().find(|of| of["name"] == name).expect("it is there");
        of["trouble"].as_str().unwrap_or_default().to_owned()
    };
    wait_for("the reasons", || {
        trouble("none").contains("4.04")
            && trouble("level").contains("without Observe")
            && trouble("secret").contains("no rule")
    });
    assert_eq!(trouble("temp"), "");
    assert!(values(&site, "x/temp").is_empty() && device.gets().len() >= 5);
    let (_, text) = site.daemon.command(&["check"]);
    assert!(text.contains("observe.none never had a value") && text.contains("4.04"), "{text}");
    assert!(!text.contains("observe.level"), "it answers: {text}");
    let status = site.daemon.status();
    assert_eq!(status["served"]["troubled"], 3, "{}", status["served"]);
}

#[test]
fn aiocoap_is_polled_while_commands_reach_it() {
    let tables = "[role.sensor.poll.level]\npath = \"set/level\"\nas = \"t/level\"\nevery = \"1s\"\naccept = \"text/plain\"\n\
                  [role.sensor.downlink.all]\ntopic = \"{prefix}/{device}/down/#\"\npath = \"{rest}\"\n";
    let site = site("served-aiocoap", tables);
    let device = Aiocoap::start(&site);
    wait_for("the value", || values(&site, "t/level").iter().filter(|value| *value == "none").count() >= 2);
    let (code, text) = site.daemon.command(&["send", "door-7", "set/level", "40"]);
    assert_eq!(code, 0, "{text}");
    wait_for("the new value", || values(&site, "t/level").last().is_some_and(|last| last == "40"));
    assert!(device.runs().iter().any(|run| run.starts_with("GET set/level")));
}

#[test]
fn a_reload_changes_what_is_observed_and_what_it_takes_out_gets_a_reset() {
    let site = site("served-reload", OBSERVE);
    let mut device = Device::start(&site);
    wait_for("the first value", || values(&site, "t/temp") == ["20"]);
    let text = std::fs::read_to_string(site.daemon.config()).unwrap();
    std::fs::write(site.daemon.config(), text.replace("as = \"t/temp\"", "as = \"t/other\"")).unwrap();
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    wait_for("it to be asked anew", || values(&site, "t/other") == ["20"]);
    device.set("21");
    wait_for("the notification", || values(&site, "t/other").last().is_some_and(|last| last == "21"));
    assert_eq!(values(&site, "t/temp"), ["20"], "nothing by the relation before");
}

#[test]
fn a_device_is_removed_at_once_though_tables_of_it_stay_which_is_said_with_file_and_line() {
    let site = Site::new("served-removed", "");
    let (code, text) = site.daemon.command(&["device", "add", "meter-9", "--role", "sensor", "--psk"]);
    assert_eq!(code, 0, "{text}");
    std::fs::create_dir_all(site.folder.join("conf.d")).unwrap();
    site.folder.write(
        "conf.d/70-meter.toml",
        "# of one meter\n[device.meter-9.poll.energy]\npath = \"energy\"\nas = \"t/energy\"\nevery = \"5min\"\n",
    );
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    let (_, text) = site.daemon.command(&["device", "show", "meter-9"]);
    assert!(text.contains("energy (energy) as t/energy"), "{text}");
    let said = |text: &str| {
        ["70-meter.toml:2", "device.meter-9.poll", "without effect", "take [device.meter-9.poll] out"]
            .iter()
            .all(|words| text.contains(words))
    };
    let (code, text) = site.daemon.command(&["device", "remove", "meter-9"]);
    assert!(code == 0 && said(&text) && text.contains("its sessions are closed"), "{text}");
    let (code, text) = site.daemon.command(&["device", "show", "meter-9"]);
    assert!(code != 0, "{text}");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    let (_, text) = site.daemon.command(&["check", "--offline"]);
    assert!(text.lines().any(|line| line.starts_with("warn") && said(line)), "{text}");
}
