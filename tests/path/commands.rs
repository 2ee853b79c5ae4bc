//! Commands from a real broker to a real device over the session that it opened, and back.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tombolo_test_support::{printed, wait_for, wait_within};

use super::lossy_link::LossyLink;
use super::{KEY, Site};

pub const RULES: &str = r#"
[role.sensor.mailbox]
always-awake = true
[role.sensor.downlink.all]
topic = "{prefix}/{device}/down/#"
path = "{rest}"
[role.sensor.downlink.factory]
topic = "{prefix}/{device}/down/factory/#"
deny = true
"#;

/// aiocoap, listening on the session it opened.
pub struct Device {
    id: String,
    child: Child,
    input: ChildStdin,
    log: PathBuf,
    answers: PathBuf,
}

impl Device {
    pub fn start(site: &Site) -> Device {
        Device::start_at(site, site.daemon.coaps)
    }

    /// The gateway is at this address for it.
    pub fn start_at(site: &Site, gateway: SocketAddr) -> Device {
        Device::start_by(Command::new(Device::python()), site, "door-7", gateway)
    }

    /// The interpreter that has aiocoap.
    pub fn python() -> String {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
        assert!(python.exists(), "tests/run peers builds it");
        python.display().to_string()
    }

    /// With this command, which runs [`Device::python`], and as this device.
    pub fn start_by(mut command: Command, site: &Site, id: &str, gateway: SocketAddr) -> Device {
        let file = |kind: &str| site.folder.join(&format!("device-{id}.{kind}"));
        let (log, answers) = (file("txt"), file("out"));
        let topic = format!("tombolo/gw/{id}/up/t/hello");
        let before = site.arrived(&topic).len();
        let mut child = command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path/aiocoap_device.py"))
            .args([&format!("coaps://{gateway}"), id, KEY])
            .arg(&log)
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(&answers).unwrap())
            .stderr(std::fs::File::create(file("err")).unwrap())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let device = Device { id: id.to_owned(), child, input, log, answers };
        wait_for("the device's session", || site.arrived(&topic).len() > before);
        device
    }

    /// What its readings were answered with: code, payload of the reading.
    pub fn answers(&self) -> Vec<String> {
        std::fs::read_to_string(&self.answers).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// It says something.
    fn speak(&mut self) {
        self.say("again");
    }

    /// It posts this, once what it posted before is answered.
    pub fn say(&mut self, payload: &str) {
        writeln!(self.input, "{payload}").unwrap();
    }

    /// What it carried out.
    pub fn runs(&self) -> Vec<String> {
        std::fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request with a response topic; what came back: content type, user properties, payload.
pub fn request(site: &Site, path: &str, arguments: &[&str]) -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let answer = format!("app/answers/{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let output = Command::new("mosquitto_rr")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &site.broker.plain_port.to_string(),
            "-V",
            "5",
            "-q",
            "2",
            "-W",
            "30",
        ])
        .args(["-t", &format!("tombolo/gw/door-7/down/{path}"), "-e", &answer, "-F", "%C|%P|%p"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    printed(&output)
}

fn publish(site: &Site, topic: &str, payload: &str, arguments: &[&str]) {
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &site.broker.plain_port.to_string(), "-t", topic, "-m", payload])
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success());
}

pub fn subscribed(site: &Site) {
    wait_for("the subscription", || {
        let status = site.daemon.status();
        status["upstream"]["connected"] == true && site.broker_log().contains("tombolo/gw/+/down/#")
    });
}

impl Site {
    fn broker_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("mosquitto.log")).unwrap_or_default()
    }

    fn mailbox(&self) -> Vec<serde_json::Value> {
        let (code, text) = self.daemon.command(&["mailbox", "list", "--json"]);
        assert_eq!(code, 0, "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub const BROKER: &str = "log_type subscribe\nautosave_on_changes true\nautosave_interval 1\n";

#[test]
fn a_command_reaches_a_device_over_its_session_and_its_answer_the_one_that_asked() {
    let site = Site::with_broker("commands", RULES, BROKER);
    subscribed(&site);
    let device = Device::start(&site);
    let answer = request(&site, "set/level", &["-m", "40"]);
    assert!(answer.contains("status:2.04"), "{answer}");
    let get = ["-n", "-D", "publish", "user-property", "method", "GET"];
    let answer = request(&site, "set/level", &get);
    assert!(answer.starts_with("text/plain") && answer.contains("status:2.05"), "{answer}");
    assert!(answer.trim_end().ends_with("|40"), "{answer}");
    assert_eq!(device.runs(), ["PUT set/level 40", "GET set/level "]);
    // What is not there, what comes late and what comes in blocks.
    let answer = request(&site, "nothing", &["-m", "1"]);
    assert!(answer.contains("status:4.04"), "{answer}");
    let answer = request(&site, "slow", &["-m", "1"]);
    assert!(answer.contains("status:2.04") && answer.trim_end().ends_with("|at last"), "{answer}");
    let answer = request(&site, "big", &["-m", "1"]);
    assert!(answer.contains("partial:true") && answer.contains("xxxx"), "{answer}");
    let answer = request(&site, "long", &get);
    let numbers: String = (0..1_000).map(|number| format!("{number:03} ")).collect();
    assert!(answer.trim_end().ends_with(numbers.trim_end()) && !answer.contains("partial:true"), "{answer}");
    // What no rule allows, and what cannot be carried out.
    let answer = request(&site, "factory/reset", &["-m", "1"]);
    assert!(answer.contains("status:refused") && answer.contains("factory denies"), "{answer}");
    let answer = request(&site, "set/level", &["-m", &"x".repeat(16_385)]);
    assert!(answer.contains("status:refused") && answer.contains("16384 bytes"), "{answer}");
    let answer = request(&site, &format!("{}/x", "é".repeat(140)), &["-m", "1"]);
    assert!(answer.contains("status:refused") && answer.contains("bytes"), "{answer}");
    let answer =
        request(&site, "set/level", &["-m", "1", "-D", "publish", "user-property", "method", "OPEN"]);
    assert!(answer.contains("status:refused"), "{answer}");
    // One of them in four blocks.
    assert_eq!(device.runs().len(), 9);
    wait_for("the mailbox to be empty", || site.mailbox().is_empty());
    let counters = &site.daemon.status()["counters"];
    assert_eq!(counters["tombolo_downlink_taken_commands_total"], 6);
    assert_eq!(counters["tombolo_downlink_answered_commands_total"], 6);
    assert_eq!(counters["tombolo_downlink_refused_commands_total"], 4);
}

#[test]
fn a_response_topic_of_somebody_else_is_refused_and_nothing_is_published_there() {
    let site = Site::with_broker("commands-topic", RULES, BROKER);
    subscribed(&site);
    let device = Device::start(&site);
    let foreign =
        ["tombolo/gw/door-7/up/t/forged", "tombolo/gw/gateway/status", "tombolo/other/x/up/t", "$SYS/x"];
    for topic in foreign {
        let asked = ["-V", "5", "-q", "2", "-D", "publish", "response-topic", topic];
        publish(&site, "tombolo/gw/door-7/down/set/level", "1", &asked);
    }
    let default = "tombolo/gw/door-7/reply/set/level";
    wait_for("the refusals", || site.arrived(default).len() == foreign.len());
    assert!(site.arrived(default).iter().all(|fields| fields[3].contains("status:refused")));
    assert!(site.arrived(default)[3][1].contains("begins with $"), "{:?}", site.arrived(default));
    // Also where there is no such device.
    let asked = ["-V", "5", "-q", "2", "-D", "publish", "response-topic", "tombolo/gw/gateway/status"];
    publish(&site, "tombolo/gw/nobody/down/set/level", "1", &asked);
    wait_for("its refusal", || site.arrived("tombolo/gw/nobody/reply/set/level").len() == 1);
    assert!(site.arrived("tombolo/gw/door-7/up/t/forged").is_empty());
    assert!(site.arrived("tombolo/other/x/up/t").is_empty());
    assert!(device.runs().is_empty());
}

#[test]
fn correlation_data_come_back_and_a_rule_without_a_device_copies_to_all_of_its_role() {
    let rules = format!(
        "{RULES}[role.sensor.downlink.site]\ntopic = \"site/all/#\"\npath = \"set/{{rest}}\"\n\
         [device.door-8]\nrole = \"sensor\"\npsk-file = \"door-7.psk\"\n"
    );
    let site = Site::with_broker("commands-copies", &rules, BROKER);
    subscribed(&site);
    let device = Device::start(&site);
    let port = site.broker.plain_port.to_string();
    let listener = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-C", "2", "-W", "30", "-F", "%t|%D|%P"])
        .args(["-t", "app/ready", "-t", "app/answers"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the listener", || site.broker_log().contains("app/answers"));
    publish(&site, "app/ready", "1", &["-q", "1"]);
    let asked = ["-V", "5", "-q", "2", "-D", "publish", "response-topic", "app/answers"];
    let asked = [&asked[..], &["-D", "publish", "correlation-data", "job-7"]].concat();
    publish(&site, "site/all/level", "40", &asked);
    let heard = listener.wait_with_output().unwrap();
    let heard = String::from_utf8_lossy(&heard.stdout).into_owned();
    assert!(heard.contains("app/answers|job-7|") && heard.contains("status:2.04"), "{heard}");
    assert_eq!(device.runs(), ["PUT set/level 40"]);
    // That of the other device is held.
    let held = site.mailbox();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(held[0]["device"], "door-8");
}

#[test]
fn a_client_of_mqtt_3_1_1_asks_by_topic_and_reads_the_answer_as_json() {
    let site = Site::with_broker("commands-3", RULES, BROKER);
    subscribed(&site);
    let _device = Device::start(&site);
    publish(&site, "tombolo/gw/door-7/request/77/set/level", "40", &["-V", "mqttv311", "-q", "1"]);
    let topic = "tombolo/gw/door-7/reply/77/set/level";
    wait_for("the answer", || !site.arrived(topic).is_empty());
    let answer: serde_json::Value = serde_json::from_str(&site.arrived(topic)[0][1]).unwrap();
    assert_eq!((&answer["status"], &answer["device"]), (&"2.04".into(), &"door-7".into()));
}

#[test]
fn a_command_is_held_for_a_device_that_sleeps_and_sent_with_its_next_datagram() {
    let rules = RULES.replace("always-awake = true", "awake-for = \"1s\"");
    let site = Site::with_broker("commands-sleep", &rules, BROKER);
    subscribed(&site);
    let mut device = Device::start(&site);
    wait_for("it to be silent for two seconds", || {
        let (_, text) = site.daemon.command(&["device", "show", "door-7", "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        shown["last_seen_s"].as_u64().is_some_and(|seconds| seconds >= 2)
    });
    let topic = "tombolo/gw/door-7/down/set/level";
    for value in ["1", "2"] {
        publish(&site, topic, value, &["-V", "5", "-q", "2"]);
    }
    wait_for("both to be held", || site.mailbox().len() == 2);
    assert!(site.mailbox().iter().all(|held| held["state"] == "waiting"));
    assert!(device.runs().is_empty());
    device.speak();
    wait_for("both to run", || device.runs() == ["PUT set/level 1", "PUT set/level 2"]);
    wait_for("both answers", || site.arrived("tombolo/gw/door-7/reply/set/level").len() == 2);
}

#[test]
fn the_operator_sends_lists_shows_and_drops_commands() {
    let site = Site::with_broker("commands-cli", RULES, BROKER);
    subscribed(&site);
    let (code, text) = site.daemon.command(&["send", "door-7", "set/level", "40", "--wait", "1s"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("stays in the mailbox"), "{text}");
    let held = site.mailbox();
    assert_eq!((&held[0]["device"], &held[0]["state"]), (&"door-7".into(), &"waiting".into()));
    let number = held[0]["number"].to_string();
    let (code, text) = site.daemon.command(&["mailbox", "show", &number]);
    assert!(code == 0 && text.contains("PUT set/level") && text.contains("40"), "{text}");
    let (code, text) = site.daemon.command(&["mailbox", "drop", &number]);
    assert_eq!(code, 0, "{text}");
    assert!(site.mailbox().is_empty());
    let (code, text) = site.daemon.command(&["mailbox", "drop", &number]);
    assert!(code == 1 && text.contains("there is no command"), "{text}");
    let device = Device::start(&site);
    let (code, text) = site.daemon.command(&["send", "door-7", "set/level", "41"]);
    assert!(code == 0 && text.starts_with("2.04"), "{text}");
    let (code, text) = site.daemon.command(&["send", "door-7", "set/level", "--method", "get", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &answer["status"], &answer["text"]), (0, &"2.05".into(), &"41".into()));
    let (code, text) = site.daemon.command(&["send", "door-7", "nothing", "1"]);
    assert!(code == 1 && text.contains("4.04"), "{text}");
    let (code, text) = site.daemon.command(&["send", "door-7", "factory/reset", "1"]);
    assert!(code == 1 && text.contains("factory denies"), "{text}");
    let (code, text) = site.daemon.command(&["send", "door-8", "set/level", "1"]);
    assert!(code == 1 && text.contains("door-8"), "{text}");
    assert_eq!(device.runs(), ["PUT set/level 41", "GET set/level ", "PUT nothing 1"]);
}

#[test]
fn a_check_of_a_stopped_gateway_takes_no_command_that_waits_at_the_broker() {
    let mut site = Site::with_broker("commands-check", RULES, BROKER);
    subscribed(&site);
    site.daemon.stop();
    publish(&site, "tombolo/gw/door-7/down/set/level", "40", &["-V", "5", "-q", "2"]);
    // It connects with the gateway's client id and subscribes as the gateway does.
    let (code, text) = site.daemon.command(&["check"]);
    let words = "upstream commands: the broker accepts the subscription to tombolo/gw/+/down/# (rule all of role sensor)";
    assert!(code == 0 && text.contains(words), "{text}");
    assert!(text.contains("acknowledged and back from tombolo/gw/gateway/check"), "{text}");
    site.daemon.resume();
    wait_for("the command", || site.mailbox().len() == 1);
}

/// The first topic that comes in the gateway's session at the broker, of those that are published
/// one after the other until one comes.
fn first_in_its_session(site: &Site, topics: &[&str], qos: &str) -> String {
    let port = site.broker.plain_port.to_string();
    let end = "after/check";
    let mut child = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-c", "-i", "gw", "-x", "100000"])
        .args(["-t", end, "-C", "1", "-F", "%t"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("a message", || {
        topics.iter().for_each(|topic| publish(site, topic, "1", &["-q", qos]));
        publish(site, end, "1", &["-q", "0"]);
        child.try_wait().unwrap().is_some()
    });
    printed(&child.wait_with_output().unwrap()).trim().to_owned()
}

#[test]
fn a_check_leaves_no_subscription_of_its_own_in_the_gateways_session() {
    let mut site = Site::with_broker("commands-check-session", RULES, BROKER);
    subscribed(&site);
    site.daemon.stop();
    let own = ["tombolo/gw/gateway/check", "tombolo/gw/gateway/status"];
    let command = "tombolo/gw/door-7/down/set/level";
    let echo = "acknowledged and back from tombolo/gw/gateway/check";
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 0 && text.contains(echo), "{text}");
    assert_eq!(first_in_its_session(&site, &own, "0"), "after/check");
    // What the gateway subscribes to is still there.
    assert_eq!(first_in_its_session(&site, &[command], "1"), command);
    // Without a session before the check there is nothing in it behind it. A clean start ends it.
    let port = site.broker.plain_port.to_string();
    let ended = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-i", "gw", "-t", "nothing", "-E"])
        .status()
        .unwrap();
    assert!(ended.success());
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 0 && text.contains(echo), "{text}");
    assert_eq!(first_in_its_session(&site, &[own[0], own[1], command], "0"), "after/check");
}

#[test]
fn over_mqtt_3_1_1_a_check_sees_its_own_come_back_where_commands_are_wanted() {
    let plain = |text: &str| text.replacen("[upstream]\n", "[upstream]\nprotocol = \"3.1.1\"\n", 1);
    let mut site = Site::build("commands-check-plain", RULES, BROKER, plain);
    subscribed(&site);
    assert_eq!(site.daemon.status()["upstream"]["protocol"], "3.1.1");
    site.daemon.stop();
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 0 && text.contains("and back from tombolo/gw/gateway/check"), "{text}");
    assert!(text.contains("upstream readings: taken on") && !text.contains("not proven"), "{text}");
    let own = ["tombolo/gw/gateway/check", "tombolo/gw/tombolo-check/up/t/tombolo-check"];
    assert_eq!(first_in_its_session(&site, &own, "0"), "after/check");
}

/// Publishes commands, after each few of them something is killed; then a device comes. `kept`:
/// the broker loses nothing.
fn each_runs_once(name: &str, few: usize, kept: bool, mut trouble: impl FnMut(&mut Site)) {
    let rules = RULES.replace("always-awake = true", "messages = 100\nbytes = \"1MiB\"");
    let mut site = Site::with_broker(name, &rules, BROKER);
    subscribed(&site);
    const COUNT: usize = 24;
    for value in 0..COUNT {
        let topic = "tombolo/gw/door-7/down/set/level";
        publish(&site, topic, &value.to_string(), &["-V", "5", "-q", "2"]);
        if value % few == few - 1 {
            trouble(&mut site);
        }
    }
    match kept {
        true => wait_for("all to be held", || site.mailbox().len() >= COUNT),
        // What the broker has not forgotten comes before what is published now.
        false => wait_for("a later one to be held", || {
            publish(&site, "tombolo/gw/door-7/down/set/end", "1", &["-V", "5", "-q", "2"]);
            site.mailbox().iter().any(|held| held["path"] == "set/end")
        }),
    }
    let device = Device::start(&site);
    wait_for("all to be told", || site.mailbox().is_empty());
    let mut runs = device.runs();
    if !kept {
        runs.retain(|run| !run.starts_with("PUT set/end"));
        let all = runs.len();
        runs.sort();
        runs.dedup();
        assert_eq!(runs.len(), all, "none ran twice");
        return;
    }
    let mut expected: Vec<String> = (0..COUNT).map(|value| format!("PUT set/level {value}")).collect();
    runs.sort();
    expected.sort();
    assert_eq!(runs, expected, "each once");
}

#[test]
fn each_command_runs_once_however_often_the_gateway_is_killed() {
    each_runs_once("commands-kill", 4, true, |site| {
        site.daemon.kill();
        site.daemon.resume();
    });
}

#[test]
fn each_command_runs_once_however_often_the_connection_to_the_broker_breaks() {
    each_runs_once("commands-broker", 12, true, |site| {
        site.broker.stop();
        site.broker.resume();
        subscribed(site);
    });
}

#[test]
fn no_command_runs_twice_when_the_broker_is_killed() {
    each_runs_once("commands-broker-kill", 12, false, |site| {
        let pid = nix::unistd::Pid::from_raw(site.broker.pid() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        site.broker.resume();
        subscribed(site);
    });
}

#[test]
fn a_gateway_killed_while_commands_run_runs_none_twice_and_tells_of_each() {
    let rules = RULES.replace("always-awake = true", "always-awake = true\nmessages = 100");
    let mut site = Site::with_broker("commands-crash", &rules, BROKER);
    subscribed(&site);
    const COUNT: usize = 20;
    let topic = "tombolo/gw/door-7/down/set/level";
    let mut device = Device::start(&site);
    for value in 0..COUNT {
        publish(&site, topic, &value.to_string(), &["-V", "5", "-q", "2"]);
        if value % 5 == 4 {
            site.daemon.kill();
            site.daemon.resume();
            // Its session may be gone with the process.
            device = Device::start(&site);
        }
    }
    let replies = || {
        let arrived = site.arrived("tombolo/gw/door-7/reply/set/level");
        arrived
            .iter()
            .filter(|fields| fields[3].contains("status:2.04") || fields[3].contains("status:unknown"))
            .count()
    };
    wait_for("an outcome of each", || replies() >= COUNT && site.mailbox().is_empty());
    let mut runs = device.runs();
    let all = runs.len();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), all, "none ran twice");
}

/// So many readings of each device and commands to it at once, over a link that loses some of the
/// datagrams: what is acknowledged is delivered, and once.
pub fn exchange_both_ways(site: &Site, devices: &mut [Device], count: usize) {
    for value in 0..count {
        for device in devices.iter_mut() {
            device.say(&format!("reading-{value}"));
            let topic = format!("tombolo/gw/{}/down/set/level", device.id);
            publish(site, &topic, &value.to_string(), &["-V", "5", "-q", "2"]);
        }
    }
    let within = std::time::Duration::from_secs(300);
    for device in devices {
        let id = &device.id;
        wait_within(within, "the answers to all readings", || device.answers().len() > count);
        let told = || site.arrived(&format!("tombolo/gw/{id}/reply/set/level"));
        wait_within(within, "an outcome of each command", || told().len() >= count);
        // Readings.
        let arrived = || site.arrived(&format!("tombolo/gw/{id}/up/t/hello"));
        for line in device.answers() {
            let (code, payload) = line.split_once(' ').unwrap();
            assert_eq!(code, "2.04", "{id}: {line}");
            wait_for("the reading", || arrived().iter().any(|fields| fields[1] == payload));
        }
        assert_eq!(arrived().len(), count + 1, "{id}: each once");
        // Commands: what was answered ran, and nothing ran twice. All five transmissions of one are
        // lost once in 4,000 times.
        let outcomes = told();
        let of = |status: &str| outcomes.iter().filter(|fields| fields[3].contains(status)).count();
        let (answered, lost) = (of("status:2.04"), of("status:timeout"));
        assert_eq!((outcomes.len(), answered + lost), (count, count), "{id}: {outcomes:?}");
        let mut runs = device.runs();
        let all = runs.len();
        runs.sort();
        runs.dedup();
        let is_right = runs.len() == all && (answered..=count).contains(&all);
        assert!(is_right, "{id}: {answered} answered, {all} ran");
        assert!(lost <= 2, "{id}: {lost} were not answered");
        println!("{id}: {} readings and {answered} commands acknowledged and delivered", arrived().len());
    }
}

#[test]
fn over_a_link_that_loses_a_tenth_what_is_acknowledged_is_delivered_in_both_directions() {
    let rules = RULES.replace("always-awake = true", "always-awake = true\nmessages = 100");
    let site = Site::with_broker("commands-lossy", &rules, BROKER);
    subscribed(&site);
    let link = LossyLink::to(site.daemon.coaps);
    let mut device = Device::start_at(&site, link.address);
    exchange_both_ways(&site, std::slice::from_mut(&mut device), 30);
    assert!(link.lost() > 0, "the link loses nothing");
}

#[test]
fn a_reload_takes_commands_away_that_no_rule_allows_any_more() {
    let site =
        Site::with_broker("commands-reload", &RULES.replace("always-awake = true", "messages = 4"), BROKER);
    subscribed(&site);
    publish(&site, "tombolo/gw/door-7/down/set/level", "1", &["-V", "5", "-q", "2"]);
    wait_for("it to be held", || site.mailbox().len() == 1);
    let text = std::fs::read_to_string(site.daemon.config()).unwrap();
    std::fs::write(site.daemon.config(), text.replace("down/#\"", "down/other/#\"")).unwrap();
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    let topic = "tombolo/gw/door-7/reply/set/level";
    wait_for("the refusal", || !site.arrived(topic).is_empty());
    assert!(site.arrived(topic)[0][3].contains("status:refused"));
    assert!(site.mailbox().is_empty());
}

#[test]
fn a_reload_without_a_rule_takes_its_subscription_out_of_the_session() {
    let mut site = Site::with_broker("commands-unsubscribe", RULES, BROKER);
    subscribed(&site);
    let text = std::fs::read_to_string(site.daemon.config()).unwrap();
    std::fs::write(site.daemon.config(), text.replace("down/#\"", "down/other/#\"")).unwrap();
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    wait_for("the new subscription", || site.broker_log().contains("tombolo/gw/+/down/other/#"));
    site.daemon.stop();
    let (gone, kept) = ("tombolo/gw/door-7/down/set/level", "tombolo/gw/door-7/down/other/level");
    assert_eq!(first_in_its_session(&site, &[gone], "1"), "after/check");
    assert_eq!(first_in_its_session(&site, &[kept], "1"), kept);
}

#[test]
fn libcoap_answers_over_its_own_session_too() {
    let site = Site::with_broker("commands-libcoap", RULES, BROKER);
    subscribed(&site);
    // libcoap's client has no resources, and says so when it is asked between its own requests.
    let mut child = Command::new("coap-client-openssl")
        .args(["-u", "door-7", "-k", KEY, "-m", "post", "-e", "1", "-G", "30"])
        .arg(format!("coaps://{}/t/hello", site.daemon.coaps))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("its reading", || !site.arrived("tombolo/gw/door-7/up/t/hello").is_empty());
    let answer = request(&site, "set/level", &["-m", "1"]);
    let _ = child.kill();
    let _ = child.wait();
    assert!(answer.contains("status:4.") || answer.contains("status:5."), "{answer}");
}

#[test]
fn libcoap_is_sent_a_large_command_in_blocks_and_its_large_answer_is_fetched() {
    let site = Site::with_broker("commands-libcoap-large", RULES, BROKER);
    subscribed(&site);
    let log = site.folder.join("libcoap.txt");
    let (host, port) = (site.daemon.coaps.ip().to_string(), site.daemon.coaps.port().to_string());
    let mut child = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path/libcoap_device.py"))
        .args([&host, &port, "door-7", KEY])
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(site.folder.join("libcoap.err")).unwrap())
        .spawn()
        .unwrap();
    wait_for("its reading", || !site.arrived("tombolo/gw/door-7/up/t/hello").is_empty());
    let get = ["-n", "-D", "publish", "user-property", "method", "GET"];
    let answer = request(&site, "long", &get);
    let long: String = (0..1_000).map(|number| format!("{number:03} ")).collect();
    // Two bodies one after the other, which differ in the middle only.
    let mut said = Vec::new();
    for fill in ["x", "y"] {
        let body = format!("{}{}{}", "a".repeat(3_000), fill.repeat(1_024), "z".repeat(1_000));
        said.push((request(&site, "set/config", &["-m", &body]), body));
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(answer.contains("status:2.05") && answer.trim_end().ends_with(long.trim_end()), "{answer}");
    assert!(!answer.contains("partial"), "{answer}");
    let log = std::fs::read_to_string(log).unwrap();
    for (answer, body) in said {
        assert!(answer.contains("status:2.04"), "{answer}");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
        let digest = tombolo::hex::format_hex(&digest.as_ref()[..8]);
        assert!(log.contains(&format!("PUT set/config {} {digest}\n", body.len())), "{log}");
    }
}

#[test]
fn a_retained_command_that_arrives_live_runs_once_and_not_again_with_a_new_session() {
    // Held for the next datagram: sessions of devices that have gone are resumed, too.
    let rules = RULES.replace("always-awake = true", "messages = 16");
    let mut site = Site::with_broker("commands-retained", &rules, BROKER);
    subscribed(&site);
    let mut device = Device::start(&site);
    let topic = "tombolo/gw/door-7/down/set/level";
    publish(
        &site,
        topic,
        "40",
        &["-V", "5", "-q", "2", "-r", "-D", "publish", "message-expiry-interval", "900"],
    );
    device.speak();
    wait_for("it to run", || device.runs() == ["PUT set/level 40"]);
    // The gateway's session at the broker ends, so that it gets what is retained.
    let duplicates = |site: &Site| {
        let status = site.daemon.status();
        status["counters"]["tombolo_downlink_duplicate_messages_total"].as_u64().expect("a counter")
    };
    let end_session = |site: &mut Site| {
        site.daemon.stop();
        let port = site.broker.plain_port.to_string();
        let ended = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-i", "gw", "-t", "nothing", "-E"])
            .status()
            .unwrap();
        assert!(ended.success());
    };
    for _ in 0..2 {
        end_session(&mut site);
        site.daemon.resume();
        wait_for("it to come again", || duplicates(&site) == 1);
        assert_eq!(Device::start(&site).runs().len(), 1);
    }
    // One that is not equal, and was published while there was no session, runs.
    end_session(&mut site);
    publish(&site, topic, "41", &["-V", "5", "-q", "1", "-r"]);
    site.daemon.resume();
    wait_for("it to be held", || site.mailbox().len() == 1);
    let device = Device::start(&site);
    wait_for("the other one", || device.runs().last().is_some_and(|run| run == "PUT set/level 41"));
    assert_eq!(device.runs(), ["PUT set/level 40", "PUT set/level 41"]);
    wait_for("both outcomes", || site.arrived("tombolo/gw/door-7/reply/set/level").len() == 2);
}

#[test]
fn a_mailbox_that_cannot_be_opened_refuses_commands_and_is_named() {
    let state = tombolo_test_support::Folder::new("commands-state");
    let mut site = Site::with_state("commands-defect", RULES, state.path());
    site.daemon.stop();
    std::fs::remove_dir_all(state.join("mailbox")).unwrap();
    std::fs::write(state.join("mailbox"), "in the way").unwrap();
    site.daemon.resume();
    wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    assert!(site.daemon.status()["mailbox"]["failing"].is_string());
    let answer = request(&site, "set/level", &["-m", "1"]);
    assert!(answer.contains("status:full"), "{answer}");
    let (code, said) = site.daemon.command(&["check"]);
    assert_eq!(code, 1);
    assert!(said.contains("restart tombolo"), "{said}");
}

fn counter(site: &Site, name: &str) -> u64 {
    site.daemon.status()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
}

#[test]
fn more_refused_commands_than_the_receive_maximum_leave_the_way_of_commands_open() {
    let rules = RULES.replace("always-awake = true", "always-awake = true\nmessages = 1");
    let site = Site::with_broker("commands-refused", &rules, BROKER);
    subscribed(&site);
    // One by one: mosquitto counts each answer before it sends the next.
    for refused in 0..80 {
        publish(&site, "tombolo/gw/door-7/down/set/level", "1", &["-V", "5", "-q", "2"]);
        wait_for("its end", || {
            counter(&site, "tombolo_downlink_taken_commands_total") == 1
                && counter(&site, "tombolo_downlink_full_commands_total") == refused
        });
    }
    let device = Device::start(&site);
    wait_for("the command that was taken", || site.mailbox().is_empty());
    let answer = request(&site, "set/level", &["-m", "40"]);
    assert!(answer.contains("status:2.04"), "{answer}");
    assert_eq!(device.runs(), ["PUT set/level 1", "PUT set/level 40"]);
}

#[test]
fn a_burst_of_commands_for_nobody_does_not_hold_the_readings_back() {
    let site = Site::with_broker("commands-burst", RULES, BROKER);
    subscribed(&site);
    let device = Device::start(&site);
    let mut sender = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &site.broker.plain_port.to_string(), "-V", "5", "-q", "2", "-l"])
        .args(["-t", "tombolo/gw/nobody/down/x"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "0\n".repeat(600);
    sender.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(sender.wait().unwrap().success());
    let answer = request(&site, "set/level", &["-m", "40"]);
    assert!(answer.contains("status:2.04"), "{answer}");
    assert_eq!(device.runs(), ["PUT set/level 40"]);
    let since_start = counter(&site, "tombolo_northbound_connected_sessions_total");
    assert_eq!(since_start, 1, "on the same connection");
}

#[test]
fn commands_that_wait_are_refused_and_their_outcomes_told_when_the_last_rule_goes_or_the_reply_moves() {
    let rules = RULES.replace("always-awake = true", "messages = 16");
    let site = Site::with_broker("commands-rules-go", &rules, BROKER);
    subscribed(&site);
    let config = std::fs::read_to_string(site.daemon.config()).unwrap();
    let hold = |path: &str, count: usize| {
        publish(&site, &format!("tombolo/gw/door-7/down/{path}"), "1", &["-V", "5", "-q", "2"]);
        wait_for("it to be held", || site.mailbox().len() == count);
    };
    let reload = |text: &str| {
        std::fs::write(site.daemon.config(), text).unwrap();
        let (code, said) = site.daemon.command(&["reload"]);
        assert_eq!(code, 0, "{said}");
    };
    // Where outcomes go is another place than when the first came.
    hold("set/a", 1);
    let (head, tail) = config.split_once("[topics]\n").unwrap_or((&config, ""));
    let topics = format!("[topics]\nreply = \"{{prefix}}/{{device}}/answer/{{path}}\"\n{tail}");
    reload(&format!("{head}\n{topics}"));
    hold("set/b", 2);
    let without = rules.split("[role.sensor.downlink.all]").next().unwrap();
    reload(&format!("{head}\n{topics}").replace(&rules, without));
    for path in ["set/a", "set/b"] {
        let topic = format!("tombolo/gw/door-7/answer/{path}");
        wait_for(&topic, || !site.arrived(&topic).is_empty());
        assert!(site.arrived(&topic)[0][3].contains("status:refused"), "{:?}", site.arrived(&topic));
    }
    wait_for("the mailbox to be empty", || site.mailbox().is_empty());
}
