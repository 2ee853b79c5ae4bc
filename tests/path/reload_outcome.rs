//! What `reload` says where the configuration is in force and something of it cannot be used.

use std::net::{TcpListener, TcpStream};

use super::Site;
use tombolo_test_support::{free_tcp_port, wait_for};

fn connected(site: &Site) -> bool {
    site.daemon.status()["upstream"]["connected"] == true
}

fn metrics(site: &Site, addresses: &[std::net::SocketAddr]) {
    let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    site.folder.write("conf.d/40-metrics.toml", format!("[metrics]\nlisten = [{}]\n", list.join(", ")));
}

#[test]
fn a_port_of_the_metrics_that_another_program_has_is_told_by_check_reload_and_status() {
    let mut site = Site::new("metrics-taken", "");
    wait_for("the broker", || connected(&site));
    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = other.local_addr().unwrap();
    metrics(&site, &[taken]);
    let is_said = |text: &str| {
        let words = [taken.to_string(), "another program has the port".to_owned()];
        text.lines().any(|line| words.iter().all(|word| line.contains(word)))
    };
    let (status, text) = site.daemon.command(&["check"]);
    assert!(status == 1 && is_said(&text), "{text}");
    let (status, text) = site.daemon.command(&["reload"]);
    assert!(status == 3 && is_said(&text), "{status} {text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(is_said(&text), "{text}");
    // One that is free beside it is served, and stays so over a reload that takes the other out.
    let free = free_tcp_port();
    let free = std::net::SocketAddr::from(([127, 0, 0, 1], free));
    metrics(&site, &[taken, free]);
    let (status, text) = site.daemon.command(&["reload"]);
    assert!(status == 3 && is_said(&text) && !text.contains(&free.to_string()), "{status} {text}");
    assert!(TcpStream::connect(free).is_ok());
    metrics(&site, &[free]);
    // The running gateway has no other program's port, and still lacks the one before.
    let (_, text) = site.daemon.command(&["check"]);
    assert!(is_said(&text) && !text.contains(&format!("{free} cannot be had")), "{text}");
    let (status, text) = site.daemon.command(&["reload"]);
    assert_eq!(status, 0, "{text}");
    assert!(TcpStream::connect(free).is_ok());
    let (status, text) = site.daemon.command(&["check"]);
    assert!(status == 0 && !is_said(&text), "its own port is no other program's: {text}");
    // Stopped, it is tried as well.
    metrics(&site, &[taken]);
    site.daemon.stop();
    let (status, text) = site.daemon.command(&["check"]);
    assert!(status == 1 && is_said(&text), "{text}");
}

#[test]
fn a_reload_with_files_of_the_upstream_that_cannot_be_used_is_done_in_part() {
    let site = Site::new("files-unusable", "");
    wait_for("the broker", || connected(&site));
    let file = site.folder.write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let text = format!("[upstream]\nca-file = \"{}\"\n", file.display());
    site.folder.write("conf.d/50-upstream.toml", text);
    let (status, text) = site.daemon.command(&["reload"]);
    assert!(status == 3 && text.contains("the files of [upstream] cannot be used"), "{status} {text}");
    let (_, text) = site.daemon.command(&["config", "show", "upstream"]);
    assert!(text.contains("cut.pem"), "{text}");
}

#[test]
fn a_pair_that_mqtt_clients_were_not_served_with_in_between_does_not_come_back() {
    let site = Site::new("mqtt-pair", "");
    site.pki.issue("mqtt", &["localhost"]);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_tcp_port()));
    let named = |key: &str| {
        let text = format!(
            "[mqtt]\nlisten = [\"{address}\"]\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n",
            site.folder.join("mqtt.pem").display(),
            site.folder.join(key).display()
        );
        site.folder.write("conf.d/50-mqtt.toml", text);
        site.daemon.command(&["reload"])
    };
    let is_served = || {
        let mut client = std::process::Command::new("openssl");
        client.args(["s_client", "-connect", &address.to_string()]).stdin(std::process::Stdio::null());
        let said = client.output().expect("openssl is installed").stdout;
        String::from_utf8_lossy(&said).contains("BEGIN CERTIFICATE")
    };
    let (status, text) = named("mqtt.key");
    assert!(status == 0 && is_served(), "{text}");
    // The last good pair stays in use while it is served.
    let (status, text) = named("missing.key");
    assert!(status == 3 && text.contains("missing.key does not exist") && is_served(), "{text}");
    std::fs::remove_file(site.folder.join("conf.d/50-mqtt.toml")).unwrap();
    let (status, text) = site.daemon.command(&["reload"]);
    assert!(status == 0 && !is_served(), "{text}");
    let (status, text) = named("missing.key");
    assert!(status == 3 && !is_served(), "{text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("no TLS client can connect"), "{text}");
    let (status, text) = named("mqtt.key");
    assert!(status == 0 && is_served(), "{text}");
}

#[test]
fn a_command_that_changes_a_device_says_what_else_its_reload_took_up() {
    let site = Site::new("also-changed", "");
    let run = |arguments: &[&str]| {
        let (status, text) = site.daemon.command(arguments);
        assert_eq!(status, 0, "{arguments:?}: {text}");
        text
    };
    let hash = format!("sha256:{}", "0123456789abcdef".repeat(4));
    // A public key is among what certificates are judged by, and is the device's all the same.
    let text = run(&["device", "add", "lamp-1", "--role", "sensor", "--public-key", &hash]);
    assert!(!text.contains("had changed too"), "{text}");
    let pending = "[role.half-done.uplink.x]\npath = \"x\"\n[log]\nlevel = \"debug\"\n";
    site.folder.write("conf.d/60-pending.toml", pending);
    let text = run(&["device", "add", "lamp-2", "--role", "sensor", "--psk"]);
    let said = "its other files had changed too: role.half-done, log.level are taken over as they are there now, or gone";
    assert!(text.contains(said), "{text}");
    let text = run(&["device", "add", "lamp-3", "--role", "sensor", "--psk"]);
    assert!(!text.contains("had changed too"), "{text}");
    site.folder.write("conf.d/60-pending.toml", "[log]\nlevel = \"debug\"\n");
    site.folder.write("new.csv", "id,role,psk\nlamp-4,sensor,generate\n");
    let file = site.folder.join("new.csv").display().to_string();
    let text = run(&["--json", "device", "import", &file]);
    assert!(text.contains("\"also_changed\":[\"role.half-done\"]"), "{text}");
    site.folder.write("conf.d/60-pending.toml", "");
    let text = run(&["--json", "device", "remove", "lamp-4"]);
    assert!(text.contains("\"also_changed\":[\"log.level\"]"), "{text}");
}

/// A fault in a file that is half written is taken up with a device's change as by `reload`.
#[test]
fn a_command_that_changes_a_device_says_what_of_the_files_is_not_in_force_as_reload_does() {
    let mut site = Site::new("not-in-force", "");
    wait_for("the broker", || connected(&site));
    let mut ids = ["lamp-1", "lamp-2", "lamp-3", "lamp-4", "lamp-5", "lamp-6", "lamp-7"].into_iter();
    for id in ids.clone() {
        let (status, text) = site.daemon.command(&["device", "add", id, "--role", "sensor", "--psk"]);
        assert_eq!(status, 0, "{text}");
    }
    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = other.local_addr().unwrap();
    let ca = site.folder.write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n").display().to_string();
    let cases = [
        ("[role.sensor]\nmax-payload = \"lots\"\n".to_owned(), "role.sensor", "max-payload"),
        (format!("[mqtt]\ninsecure-listen = [\"{taken}\"]\n"), "mqtt", "another program listens there"),
        (
            format!("[upstream]\nca-file = \"{ca}\"\n"),
            "upstream.ca-file",
            "the files of [upstream] cannot be used",
        ),
    ];
    let file = "conf.d/50-half.toml";
    for (text, key, fault) in &cases {
        site.folder.write(file, text);
        if *key == "mqtt" {
            // A command to try would give the password to the program that has the address.
            let add = ["device", "add", "client", "--role", "sensor", "--password"];
            let (status, said) = site.daemon.command(&add);
            assert!(status == 3 && said.contains("password") && !said.contains("mosquitto_pub"), "{said}");
            let (status, said) = site.daemon.command(&["device", "rekey", "client", "--password"]);
            assert!(status == 3 && said.contains("password") && !said.contains("mosquitto_pub"), "{said}");
            std::fs::remove_file(site.folder.join(file)).unwrap();
            assert_eq!(site.daemon.command(&["reload"]).0, 0);
            site.folder.write(file, text);
        }
        let id = ids.next().unwrap();
        let (status, said) = site.daemon.command(&["device", "remove", id]);
        assert!(status == 3 && said.contains(fault), "{key}: {status} {said}");
        assert!(
            said.contains(&format!("removed {id} (")) && said.contains("its sessions are closed"),
            "{said}"
        );
        let note = said.lines().find(|line| line.contains("had changed too")).unwrap_or_default();
        assert!(note.contains(key) && note.ends_with(" there now, or gone"), "{said}");
        let but = |said: &str| said.split_once("reloaded, but ").map(|(_, text)| text.to_owned());
        let (status, reloaded) = site.daemon.command(&["reload"]);
        let same = but(&said).is_some_and(|text| Some(text) == but(&reloaded));
        assert!(status == 3 && same, "{said}\n{reloaded}");
        // It is said as long as it lasts, and once it is put right there is nothing to say.
        let (status, said) = site.daemon.command(&["--json", "device", "remove", ids.next().unwrap()]);
        assert!(status == 3 && said.contains("\"reload\":{") && said.contains(fault), "{key}: {said}");
        std::fs::remove_file(site.folder.join(file)).unwrap();
        let (status, said) = site.daemon.command(&["device", "disable", "lamp-7"]);
        assert!(status == 0 && !said.contains("but "), "{key}: {status} {said}");
    }
    site.daemon.stop();
}

#[test]
fn a_device_that_a_pending_file_switches_off_or_on_is_named_by_the_command_that_takes_it_up() {
    let site = Site::new("pending-off", "");
    let run = |arguments: &[&str]| site.daemon.command(arguments);
    for id in ["lamp-1", "lamp-2"] {
        assert_eq!(run(&["device", "add", id, "--role", "sensor", "--psk"]).0, 0);
    }
    let file = "conf.d/60-off.toml";
    let named = "device.lamp-1 is taken over as it is there now, or gone";
    let off = "[device.lamp-1]\nenabled = false\n";
    for (table, expected) in [(off, 0), ("[device.lamp-1]\ntags = { a = \"b\" }\n", 3)] {
        site.folder.write(file, table);
        let (status, text) = run(&["device", "set", "lamp-2", "--label", "x"]);
        assert!(
            status == expected && text.contains(named) && text.contains("in force now"),
            "{status} {text}"
        );
        std::fs::remove_file(site.folder.join(file)).unwrap();
        let (status, text) = run(&["--json", "reload"]);
        assert!(status == 0 && text.contains("\"changed\":[\"device.lamp-1\"]"), "{status} {text}");
        site.folder.write(file, table);
        assert_eq!(run(&["reload"]).0, expected);
        std::fs::remove_file(site.folder.join(file)).unwrap();
        let (status, text) = run(&["device", "rekey", "lamp-2", "--psk"]);
        assert!(status == 0 && text.contains(named), "{status} {text}");
    }
    // What a command does to the device that a file switches off has no effect yet, and it says so.
    site.folder.write(file, off);
    let stays = "it stays switched off by ";
    for arguments in [
        &["device", "enable", "lamp-1"][..],
        &["device", "set", "lamp-1", "--label", "y"],
        &["device", "rekey", "lamp-1", "--psk"],
        &["device", "rekey", "lamp-1", "--password"],
    ] {
        let (status, text) = run(arguments);
        assert!(status == 0 && text.contains(stays) && text.contains("60-off.toml:2"), "{status} {text}");
        let wrong = ["it may connect now", "in force now", "try it", "mosquitto_pub"];
        assert!(!wrong.iter().any(|wrong| text.contains(wrong)), "{text}");
    }
    let (_, text) = run(&["--json", "device", "enable", "lamp-1"]);
    assert!(text.contains("\"stays_off\":\"it stays switched off by "), "{text}");
    std::fs::remove_file(site.folder.join(file)).unwrap();
    let (status, text) = run(&["device", "enable", "lamp-1"]);
    assert!(status == 0 && text.contains("it may connect now") && text.contains(named), "{text}");
}
