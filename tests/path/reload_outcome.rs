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
    let said = "its other files had changed too: role.half-done, log.level are in force now as there";
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
