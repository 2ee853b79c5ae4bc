//! Files of the upstream that were changed under a connection that stands: it goes on, and nobody
//! says that all is fine unless the broker lets the gateway in with them.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;

use super::Site;
use tombolo_test_support::{Folder, Pki, wait_for};

/// What proves that the answer did not wait for a time limit.
const AT_ONCE: Duration = Duration::from_secs(30);

fn connected(site: &Site) -> bool {
    site.daemon.status()["upstream"]["connected"] == true
}

/// A finding of that level that has all these words.
fn found(text: &str, level: &str, words: &[&str]) -> bool {
    text.lines().any(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)))
}

fn deliver(site: &Site) {
    for path in ["t/a", "alarm/a"] {
        let (code, text) = site.daemon.command(&["device", "test", "door-7", "--path", path]);
        assert_eq!(code, 0, "{text}");
    }
}

/// The gateway has its CA in a file of the test's.
fn with_ca(name: &str) -> (Site, std::path::PathBuf, Vec<u8>) {
    let site = Site::new(name, "");
    let good = std::fs::read(site.pki.ca()).unwrap();
    let file = site.folder.write("site-ca.pem", &good);
    let text = format!("[upstream]\nca-file = \"{}\"\n", file.display());
    site.folder.write("conf.d/50-ca.toml", text);
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    wait_for("the broker", || connected(&site));
    (site, file, good)
}

#[test]
fn another_ca_under_a_connection_that_stands_is_a_failure_everywhere_until_it_is_put_right() {
    let (site, file, good) = with_ca("other-ca");
    deliver(&site);
    let (code, text) = site.daemon.command(&["check"]);
    assert_eq!(code, 0, "{text}");
    let other = Folder::new("other-ca-pki");
    std::fs::write(&file, std::fs::read(Pki::new(other.path()).ca()).unwrap()).unwrap();
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 1 && found(&text, "fail", &["upstream tls"]), "{text}");
    let connections = site.daemon.status()["counters"]["tombolo_northbound_connected_sessions_total"].clone();
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 3, "{text}");
    let words = ["have changed since the connection was made, and are not proven"];
    assert!(text.contains(words[0]) && !text.lines().any(|line| line == "reloaded"), "{text}");
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 1 && found(&text, "fail", &words) && found(&text, "fail", &["upstream tls"]), "{text}");
    let status = site.daemon.status();
    assert_eq!(status["ok"], false, "{status}");
    // The connection that stands has not been given up for it.
    assert_eq!(status["counters"]["tombolo_northbound_connected_sessions_total"], connections);
    assert!(connected(&site));
    // A trial of something else is not confirmed by that connection.
    let label = site.folder.write("60-log.toml", "[log]\nlevel = \"debug\"\n");
    let (code, text) = site.daemon.command(&["config", "apply", label.to_str().unwrap(), "--confirm", "10s"]);
    assert_eq!(code, 1, "{text}");
    assert!(!site.folder.join("conf.d/60-log.toml").exists(), "{text}");
    std::fs::write(&file, &good).unwrap();
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 0 && !text.contains("have changed"), "{text}");
    // A renewed file with the same CA is proven beside the connection: nothing is left to say.
    std::fs::write(&file, [good.as_slice(), b"# renewed\n"].concat()).unwrap();
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 0 && found(&text, "warn", &["files that [upstream] names have changed"]), "{text}");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 0 && !text.contains("have changed"), "{text}");
    assert_eq!(site.daemon.status()["ok"], true);
}

#[test]
fn files_at_another_path_are_tried_beside_the_connection_as_changed_ones_are() {
    let (site, _, good) = with_ca("other-path");
    deliver(&site);
    let connections =
        || site.daemon.status()["counters"]["tombolo_northbound_connected_sessions_total"].as_u64().unwrap();
    let before = connections();
    let name = |file: &std::path::Path| {
        site.folder.write("conf.d/50-ca.toml", format!("[upstream]\nca-file = \"{}\"\n", file.display()));
        site.daemon.command(&["reload"])
    };
    let other = Folder::new("other-path-pki");
    let (code, text) = name(&Pki::new(other.path()).ca());
    assert!(code == 3 && text.contains("are not proven"), "{code} {text}");
    assert!(connected(&site) && connections() == before, "the connection was given up for it");
    assert_eq!(site.daemon.status()["ok"], false);
    // The same CA at another path: it works, and the connection stays.
    let moved = site.folder.write("moved-ca.pem", &good);
    let (code, text) = name(&moved);
    assert_eq!(code, 0, "{text}");
    assert!(connected(&site) && connections() == before, "the connection was given up for it");
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 0 && !text.contains("still uses") && !text.contains("have changed"), "{text}");
    // The next connection reads it there: the file before is gone.
    std::fs::remove_file(site.folder.join("site-ca.pem")).unwrap();
    let mut site = site;
    site.broker.stop();
    site.broker.resume();
    wait_for("another connection", || {
        let status = site.daemon.status();
        let count = status["counters"]["tombolo_northbound_connected_sessions_total"].as_u64();
        status["upstream"]["connected"] == true && count > Some(before)
    });
}

#[test]
fn another_password_under_a_connection_that_stands_is_a_failure_everywhere() {
    let folder = Folder::new("other-password-files");
    let users = folder.write("users", "");
    let made = Command::new("mosquitto_passwd").arg("-b").arg(&users).args(["bob", "goodpass"]).output();
    assert!(made.expect("mosquitto_passwd is installed").status.success());
    let password = folder.write("password", "goodpass\n");
    let extra = format!("password_file {}", users.display());
    let site = Site::build("other-password", "", &extra, |text| {
        let own = format!("[upstream]\nusername = \"bob\"\npassword-file = \"{}\"", password.display());
        text.replace("[upstream]", &own)
    });
    wait_for("the broker", || connected(&site));
    deliver(&site);
    std::fs::write(&password, "badpass\n").unwrap();
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 1 && found(&text, "fail", &["upstream mqtt", "not authorized"]), "{text}");
    let (code, text) = site.daemon.command(&["reload"]);
    assert!(code == 3 && text.contains("not authorized"), "{code} {text}");
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 1 && found(&text, "fail", &["are not proven", "not authorized"]), "{text}");
    assert_eq!(site.daemon.status()["ok"], false);
    assert!(connected(&site));
}

#[test]
fn a_pipe_in_place_of_a_file_is_named_at_once_and_holds_up_nothing() {
    let (site, file, good) = with_ca("pipe");
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let begun = Instant::now();
    let words = [file.to_str().unwrap(), "is not a regular file"];
    let is_named = |text: &str| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
    let (code, text) = site.daemon.command(&["check"]);
    assert!(code == 1 && is_named(&text), "{text}");
    let (code, text) = site.daemon.command(&["reload"]);
    assert!(code == 3 && is_named(&text), "{code} {text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(is_named(&text), "{text}");
    assert!(begun.elapsed() < AT_ONCE, "nobody waited for a writer");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &good).unwrap();
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
}
