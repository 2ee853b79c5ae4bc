//! A board without a clock battery: 1970 after a power cut, 2036 after a bad answer from a time
//! server.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::CertificateParams;
use serde_json::Value;

use super::{KEY, SITE, binary};
use tombolo_test_support::kernel::{DAY, Disk, Kernel};
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, wait_for};

fn bridges_at(name: &str, time: &str) {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{KEY}"));
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p\t%P");
    let library = std::process::Command::new("faketime")
        .args(["-f", "+0d", "printenv", "LD_PRELOAD"])
        .output()
        .expect("faketime is installed");
    let library = String::from_utf8_lossy(&library.stdout).trim().to_owned();
    let wrapper = format!(
        "#!/bin/sh\nexport LD_PRELOAD='{library}' FAKETIME='{time}' DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1\nexec '{}' \"$@\"\n",
        binary().display()
    );
    let wrapper = folder.script("tombolo", &wrapper);
    // Nobody vouches for this clock, and the kernel here does not either.
    let extra = format!("{SITE}\n[role.sensor.uplink.short]\npath = \"s/+\"\nexpires = \"1h\"\n");
    let config = |text: &str| text.replace("trust = \"always\"", "trust = \"kernel\"");
    let mut daemon = Daemon::start_with(&wrapper, &folder, broker.tls_port, &pki.ca(), &extra, config);
    for path in ["t/x", "s/x"] {
        let output = std::process::Command::new("coap-client-openssl")
            .args(["-u", "door-7", "-k", KEY, "-m", "post", "-e", path, "-B", "5"])
            .arg(format!("coaps://{}/{path}", daemon.coaps))
            .output()
            .expect("libcoap3-bin is installed");
        assert!(output.status.success());
    }
    wait_for("both readings", || witness.text().contains("up/t/x") && witness.text().contains("up/s/x"));
    assert!(
        !witness.text().contains("received:"),
        "no time is claimed that nobody trusts: {}",
        witness.text()
    );
    let status = daemon.status();
    assert_eq!(status["clock"]["trusted"], false);
    assert_eq!(status["journal"]["lost"], 0);
    let (code, _) = daemon.stop();
    assert_eq!(code, Some(0));
}

#[test]
fn it_connects_and_bridges_in_1970() {
    bridges_at("1970", "@1970-01-01 00:00:20");
}

#[test]
fn it_connects_and_bridges_in_2036() {
    bridges_at("2036", "@2036-02-07 06:28:00");
}

/// What speaks for the time upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    /// TLS with a leaf of 90 days, ten of which are over.
    Short,
    /// TLS with a leaf of 20 years.
    Long,
    /// `mqtt://`, which proves nothing.
    Plain,
}

/// A site whose kernel the test sets.
struct World {
    // Dropped in this order.
    daemon: Daemon,
    witness: Subscriber,
    broker: Mosquitto,
    kernel: Kernel,
    folder: Folder,
    sent: usize,
}

const YEAR: i64 = 365;

/// Sets what the leaf of a broker is valid for, where the right time is the machine's plus `ahead`
/// days.
fn valid(upstream: Upstream, ahead: i64) -> impl FnOnce(&mut CertificateParams) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64 / 86_400;
    let day = move |day: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + DAY * u32::try_from(now + ahead + day).expect("a day")
    };
    let (from, to) = match upstream {
        Upstream::Long => (-YEAR, 19 * YEAR),
        _ => (-10, 80),
    };
    move |params| {
        params.not_before = day(from);
        params.not_after = day(to);
    }
}

impl World {
    /// The right time is the machine's plus `ahead` days; the kernel's is `wrong` days more.
    /// `prepare` comes before the start.
    fn new(name: &str, upstream: Upstream, ahead: i64, wrong: i64, prepare: impl FnOnce(&Folder)) -> World {
        let folder = Folder::new(name);
        folder.write("door-7.psk", format!("text:{KEY}"));
        let pki = Pki::new(folder.path());
        let broker = Mosquitto::start_with(folder.path(), &pki, "", valid(upstream, ahead));
        let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p\t%P");
        let kernel = Kernel::new(&folder, ahead + wrong);
        pki.issue("gateway", &["localhost", "127.0.0.1"]);
        pki.issue_with("front", &["front.example"], valid(Upstream::Short, ahead));
        pki.issue_with("gone", &["gone.example"], |params| {
            valid(Upstream::Short, ahead - 100)(params);
        });
        prepare(&folder);
        let wrapper = kernel.wrap(&folder, binary());
        let extra = format!(
            "{SITE}\n[role.sensor.uplink.week]\npath = \"s/+\"\nexpires = \"7d\"\n\
             [device.front]\nrole = \"sensor\"\ncertificate-dns = \"front.example\"\n\
             [device.gone]\nrole = \"sensor\"\ncertificate-dns = \"gone.example\"\n"
        );
        let coap = "[coap]\ncertificate-file = \"gateway.pem\"\nkey-file = \"gateway.key\"\nclient-ca-file = \"ca.pem\"\n";
        let (tls, plain) = (broker.tls_port, broker.plain_port);
        let config = |text: &str| {
            let text = text.replace("trust = \"always\"", "trust = \"kernel\"").replace("[coap]\n", coap);
            if upstream != Upstream::Plain {
                return text;
            }
            let text =
                text.replace(&format!("mqtts://localhost:{tls}"), &format!("mqtt://localhost:{plain}"));
            text.replace("\nca-file =", "\ninsecure = true\n#")
        };
        let daemon = Daemon::start_with(&wrapper, &folder, tls, &pki.ca(), &extra, config);
        World { daemon, witness, broker, kernel, folder, sent: 0 }
    }

    fn clock(&self) -> Value {
        self.daemon.status()["clock"].clone()
    }

    fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || condition(&self.clock()));
        self.clock()
    }

    fn connected(&self) {
        wait_for("a connection", || self.daemon.status()["upstream"]["connected"] == true);
    }

    /// Ten readings that expire in a week, acknowledged.
    fn ten(&mut self) {
        for _ in 0..10 {
            self.sent += 1;
            let output = Command::new("coap-client-openssl")
                .args([
                    "-u",
                    "door-7",
                    "-k",
                    KEY,
                    "-m",
                    "post",
                    "-e",
                    &format!("reading-{}.", self.sent),
                    "-B",
                    "10",
                    "-v",
                    "6",
                ])
                .arg(format!("coaps://{}/s/x", self.daemon.coaps))
                .stdin(Stdio::null())
                .output()
                .expect("libcoap3-bin is installed");
            let said = tombolo_test_support::printed(&output);
            assert!(said.contains("2.04"), "{said}");
        }
    }

    /// All readings so far are with the broker, and none is lost.
    fn all_arrived(&self) {
        wait_for("all readings", || {
            let text = self.witness.text();
            (1..=self.sent).all(|number| text.contains(&format!("reading-{number}.")))
        });
        assert_eq!(self.daemon.status()["journal"]["lost"], 0);
    }

    /// Whether a device with that certificate gets through.
    fn passes(&self, name: &str) -> bool {
        let file = |ending: &str| self.folder.join(&format!("{name}.{ending}")).display().to_string();
        let output = Command::new("coap-client-openssl")
            .args(["-m", "post", "-e", "1", "-B", "5", "-v", "6", "-c", &file("pem"), "-j", &file("key")])
            .args(["-C", &self.folder.join("ca.pem").display().to_string()])
            .arg(format!("coaps://{}/t/x", self.daemon.coaps))
            .stdin(Stdio::null())
            .output()
            .expect("libcoap3-bin is installed");
        tombolo_test_support::printed(&output).contains("2.04")
    }

    fn line(&self, reading: usize) -> String {
        let lines = self.witness.lines();
        let line = lines.iter().find(|line| line.contains(&format!("reading-{reading}.")));
        line.expect("it arrived").clone()
    }

    /// Stops the daemon, boots the machine anew `days` off, and starts it again.
    fn reboot(&mut self, days: i64) {
        assert_eq!(self.daemon.stop().0, Some(0));
        self.kernel.reboot();
        self.kernel.step(days);
        self.daemon.resume();
    }
}

#[test]
fn after_a_boot_that_is_synchronised_and_in_2036_it_is_online_and_nothing_expires() {
    let mut world = World::new("believed", Upstream::Short, 0, 0, |_| {});
    world.connected();
    assert_eq!(world.clock()["proven_by"], "certificate");
    world.broker.stop();
    world.ten();
    world.reboot(10 * YEAR);
    world.broker.resume();
    world.all_arrived();
    let clock = world.clock();
    assert_eq!((&clock["trusted"], &clock["doubted"]), (&false.into(), &true.into()), "{clock}");
    assert!(clock["floor"].as_str().expect("a floor") < "2036", "{clock}");
    world.ten();
    world.all_arrived();
    assert!(!world.line(15).contains("received:"), "no time is claimed that is in doubt: {}", world.line(15));
    let (_, check) = world.daemon.command(&["check"]);
    assert!(check.contains("in doubt") && check.contains(" clock trust"), "{check}");
    // The next boot, at the right time, is as if nothing had been.
    world.broker.stop();
    world.ten();
    world.reboot(-10 * YEAR);
    world.broker.resume();
    world.all_arrived();
    let clock = world.clock();
    assert_eq!((&clock["trusted"], &clock["proven_by"]), (&true.into(), &"certificate".into()), "{clock}");
}

#[test]
fn devices_certificates_are_judged_as_the_brokers_is() {
    let mut world = World::new("devices", Upstream::Short, 0, 0, |_| {});
    world.connected();
    world.until("evidence", |clock| clock["proven_by"] == "certificate");
    assert_eq!((world.passes("front"), world.passes("gone")), (true, false));
    for jump in [10 * YEAR, -10 * YEAR, -100, 100] {
        world.reboot(jump);
        // In 2036, and on a day when the one that is expired was valid.
        assert_eq!((world.passes("front"), world.passes("gone")), (true, false), "{}", world.clock());
    }
    // While it runs, too.
    world.kernel.step(10 * YEAR);
    world.until("doubt", |clock| clock["doubted"] == true);
    assert_eq!((world.passes("front"), world.passes("gone")), (true, false));
}

#[test]
fn what_the_version_before_left_in_2036_refuses_no_boot() {
    let mut world = World::new("floor-2036", Upstream::Short, 0, 0, |folder| {
        let text = format!("2085978496 {:08x}\n", crc32c::crc32c(b"2085978496"));
        folder.write("state/clock-floor", text);
    });
    world.connected();
    let clock = world.until("evidence", |clock| clock["proven_by"] == "certificate");
    assert!(clock["trusted"] == true && clock["floor"].as_str().expect("a floor") < "2036", "{clock}");
    world.ten();
    world.all_arrived();
    assert!(world.line(1).contains("received:"));
    world.reboot(0);
    assert_eq!(world.clock()["trusted"], true);
    assert!(!world.folder.join("state/clock-floor").exists());
}

#[test]
fn at_the_first_start_in_2036_the_brokers_certificate_refutes_the_clock() {
    let mut world = World::new("first-2036", Upstream::Short, 0, 10 * YEAR, |_| {});
    world.connected();
    let clock = world.until("doubt", |clock| clock["doubted"] == true);
    assert!(clock["reason"].as_str().is_some_and(|reason| reason.contains("certificate")), "{clock}");
    world.ten();
    world.all_arrived();
    assert!(!world.line(1).contains("received:"), "{}", world.line(1));
    // Set right while it runs: the chain of the connection that stands proves it, no handshake is
    // needed.
    world.kernel.step(-10 * YEAR);
    let clock = world.until("trust", |clock| clock["trusted"] == true);
    assert_eq!(clock["proven_by"], "certificate");
    world.ten();
    world.all_arrived();
    assert!(world.line(11).contains("received:"), "{}", world.line(11));
}

/// Without evidence: what is stored does not expire by a jump, nor after the correction.
fn nothing_expires_unproven(name: &str, upstream: Upstream, ahead: i64, jump: i64) {
    let mut world = World::new(name, upstream, ahead, 0, |_| {});
    world.connected();
    assert_eq!(world.clock()["trusted"], true, "at the first start the kernel's word is all there is");
    world.kernel.pass(DAY + Duration::from_secs(60));
    let clock = world.until("24 h", |clock| clock["reason"] == "for a day without a jump");
    assert_eq!(clock["proven_by"], Value::Null);
    world.broker.stop();
    world.ten();
    world.reboot(jump);
    world.broker.resume();
    world.all_arrived();
    assert_eq!(world.clock()["doubted"], true);
    // For a day it is in doubt, then the jump is believed: unproven, it ages nothing of before.
    world.broker.stop();
    world.ten();
    world.kernel.pass(DAY - Duration::from_secs(300));
    assert_eq!(world.until("a look", |clock| clock["doubt_ends_in_s"].as_u64() < Some(400))["doubted"], true);
    world.kernel.pass(Duration::from_secs(400));
    world.until("the end of the doubt", |clock| clock["trusted"] == true);
    world.ten();
    // Corrected, the stamps of the wrong time age nothing either.
    world.reboot(-jump);
    assert_eq!(world.clock()["doubted"], true);
    world.kernel.pass(DAY + Duration::from_secs(60));
    world.until("the end of the doubt", |clock| clock["trusted"] == true);
    world.broker.resume();
    world.all_arrived();
}

#[test]
fn with_mqtt_which_proves_nothing_a_jump_forward_expires_nothing_now_or_later() {
    nothing_expires_unproven("unproven-mqtt", Upstream::Plain, 0, 10 * YEAR);
}

#[test]
fn with_a_chain_of_20_years_a_jump_forward_expires_nothing_now_or_later() {
    nothing_expires_unproven("unproven-long", Upstream::Long, 0, 13 * YEAR);
}

#[test]
fn with_mqtt_which_proves_nothing_a_jump_back_expires_nothing_now_or_later() {
    nothing_expires_unproven("unproven-back", Upstream::Plain, 3 * YEAR, -YEAR);
}

#[test]
fn a_jump_while_it_runs_is_noticed_and_over_when_it_is_undone() {
    let mut world = World::new("jump", Upstream::Short, 0, 0, |_| {});
    world.connected();
    for jump in [10 * YEAR, 13 * YEAR, -20 * YEAR] {
        world.kernel.step(jump);
        world.until("distrust", |clock| clock["trusted"] == false);
        world.ten();
        world.all_arrived();
        assert!(!world.line(world.sent).contains("received:"), "{}", world.line(world.sent));
        world.kernel.step(-jump);
        world.until("trust", |clock| clock["trusted"] == true);
    }
    let log = world.daemon.log();
    assert!(log.contains("the clock is in doubt") && log.contains("days forward"), "{log}");
}

#[test]
fn a_month_switched_off_is_proven_by_the_first_connection_and_ages_what_was_stored() {
    let mut world = World::new("month-off", Upstream::Short, 0, 0, |_| {});
    world.connected();
    world.until("evidence", |clock| clock["proven_by"] == "certificate");
    world.broker.stop();
    world.ten();
    world.reboot(30);
    assert_eq!(world.clock()["doubted"], true);
    world.broker.resume();
    world.until("evidence", |clock| clock["trusted"] == true);
    // Now they are known to be older than the week they are good for.
    wait_for("the expiry", || world.daemon.status()["journal"]["records"] == 0);
    let status = world.daemon.status();
    assert_eq!(status["counters"]["tombolo_northbound_expired_readings_total"], 10, "{status}");
}

#[test]
fn the_owner_ends_a_doubt_and_lowers_the_floor_with_and_without_the_daemon() {
    let mut world = World::new("owner", Upstream::Short, 0, 0, |_| {});
    world.connected();
    world.until("evidence", |clock| clock["proven_by"] == "certificate");
    world.reboot(10 * YEAR);
    assert_eq!(world.clock()["doubted"], true);
    let json = |world: &World, arguments: &[&str]| -> Value {
        let (code, text) = world.daemon.command(&[&["--json"], arguments].concat());
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(text.lines().next().unwrap_or_default()).expect("one object")
    };
    let shown = json(&world, &["clock"]);
    assert_eq!((&shown["state"], &shown["doubted"]), (&"doubted".into(), &true.into()), "{shown}");
    let (_, text) = world.daemon.command(&["clock"]);
    assert!(text.contains("IN DOUBT") && text.contains(" clock trust"), "{text}");
    assert_eq!(
        (&shown["floor_from"], &shown["floor_ahead_s"]),
        (&"certificate".into(), &Value::Null),
        "{shown}"
    );
    assert!(text.contains("proven by a server's certificate"), "{text}");
    let trusted = json(&world, &["clock", "trust"]);
    assert_eq!((&trusted["trusted"], &trusted["proven_by"]), (&true.into(), &"owner".into()), "{trusted}");
    // On disk before it was answered.
    world.daemon.kill();
    world.daemon.resume();
    assert_eq!(world.clock()["proven_by"], "owner");
    let high = world.clock()["floor"].as_str().expect("a floor").to_owned();
    let low = json(&world, &["clock", "reset"]);
    assert!(low["floor"].as_str() < Some(high.as_str()), "{high} {low}");
    assert_eq!(low["floor_from"], "build", "{low}");

    // The same where it does not run.
    world.kernel.step(-10 * YEAR);
    world.daemon.kill();
    world.kernel.reboot();
    let (_, text) = world.daemon.command(&["clock"]);
    assert!(text.contains("IN DOUBT") && text.contains("tombolo is not running"), "{text}");
    assert_eq!(json(&world, &["clock", "trust"])["proven_by"], "owner");
    assert_eq!(json(&world, &["clock", "reset"])["trusted"], true);
    world.daemon.resume();
    assert_eq!(world.clock()["trusted"], true);
    world.daemon.kill();
    world.kernel.synchronise(false);
    let (code, text) = world.daemon.command(&["clock", "trust"]);
    assert!(code == 1 && text.contains("timedatectl"), "{text}");
    world.kernel.synchronise(true);
    world.kernel.set_to_1970();
    let (code, text) = world.daemon.command(&["clock", "trust"]);
    // Before the build date no reset helps.
    assert!(code == 1 && text.contains("when this version was made; set it right"), "{text}");
    assert!(!text.contains(" clock reset"), "{text}");
}

#[test]
fn damage_to_the_clocks_file_costs_nothing_and_its_loss_only_what_it_said() {
    let mut world = World::new("damaged", Upstream::Short, 0, 0, |_| {});
    world.connected();
    world.until("evidence", |clock| clock["proven_by"] == "certificate");
    world.reboot(0);
    world.daemon.kill();
    std::fs::write(world.folder.join("state/clock"), [0; 64]).expect("it can be damaged");
    world.kernel.reboot();
    world.daemon.resume();
    let clock = world.clock();
    assert!(clock["trusted"] == true && clock["proven_by"] == "certificate", "{clock}");
    wait_for("the log", || world.daemon.log().contains("clock.damaged-1"));
    // Both: it is as at a first start.
    world.daemon.kill();
    for name in ["state/clock", "state/clock.copy"] {
        std::fs::write(world.folder.join(name), "tombolo-clock 1\ncertain 99\n").expect("it can be damaged");
    }
    world.kernel.reboot();
    world.daemon.resume();
    world.connected();
    world.until("evidence", |clock| clock["proven_by"] == "certificate");
    wait_for("the log", || world.daemon.log().contains("as at a first start"));
}

#[test]
fn a_disk_that_hangs_under_the_clocks_file_stops_nothing() {
    let mut world = World::new("hanging", Upstream::Short, 0, 0, |_| {});
    world.connected();
    world.until("evidence", |clock| clock["proven_by"] == "certificate");
    world.kernel.disk(Disk::Hangs);
    world.ten();
    world.all_arrived();
    let (code, text) = world.daemon.command(&["clock", "reset"]);
    assert!(code == 1 && text.contains("in force") && text.contains("does not answer"), "{text}");
    assert_eq!(world.daemon.stop().0, Some(0));
}

#[test]
fn a_full_disk_under_the_clocks_file_is_named_until_it_takes_it_again() {
    let mut world = World::new("full", Upstream::Short, 0, 0, |_| {});
    world.connected();
    world.until("evidence", |clock| clock["proven_by"] == "certificate");
    world.kernel.disk(Disk::Full);
    let (code, text) = world.daemon.command(&["clock", "trust"]);
    assert!(code == 1 && text.contains("in force") && text.contains("No space left"), "{text}");
    let (_, check) = world.daemon.command(&["check"]);
    assert!(check.contains("cannot be saved") && check.contains("No space left"), "{check}");
    world.kernel.disk(Disk::Fine);
    let (code, text) = world.daemon.command(&["clock", "trust"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(world.clock()["failing"], Value::Null);
}

#[test]
fn systemd_is_told_of_a_doubt() {
    let mut world = World::new("systemd", Upstream::Plain, 0, 0, |_| {});
    assert_eq!(world.daemon.stop().0, Some(0));
    let socket = UnixDatagram::bind(world.folder.join("notify")).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    world.kernel.reboot();
    world.kernel.step(2 * YEAR);
    world.daemon.resume();
    let mut bytes = [0; 4096];
    wait_for("the status line", || {
        let length = socket.recv(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).contains("clock in doubt: run tombolo --config")
    });
}
