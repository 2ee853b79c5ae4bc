//! `tombolo check` beside a gateway whose broker takes the client id from the user name: to it
//! every connection of the account is the gateway's.

use super::Site;
use tombolo_test_support::{Folder, free_tcp_port, wait_for};

/// More take-overs than name a rival.
const OFTEN: usize = 5;

/// A gateway with a user name, which is its client id to this broker.
fn site(name: &str, broker: &str) -> Site {
    // The setting is one of a listener.
    let port = free_tcp_port();
    let broker = format!("{broker}\nlistener {port} 127.0.0.1\nuse_username_as_clientid true");
    let site = Site::build(name, "", &broker, |text| {
        let at = text.find("url = ").expect("a url");
        let end = at + text[at..].find('\n').expect("a line");
        let account = "insecure = true\nusername = \"bob\"";
        format!("{}url = \"mqtt://127.0.0.1:{port}\"\n{account}{}", &text[..at], &text[end..])
    });
    wait_for("the broker", || connected(&site));
    site
}

fn connected(site: &Site) -> bool {
    site.daemon.status()["upstream"]["connected"] == true
}

fn connections(site: &Site) -> u64 {
    let connected = &site.daemon.status()["counters"]["tombolo_northbound_connected_sessions_total"];
    connected.as_u64().expect("a number")
}

fn found(text: &str, level: &str, words: &[&str]) -> bool {
    text.lines().any(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)))
}

#[test]
fn a_check_of_the_same_account_has_the_gateway_publish_and_leaves_its_connection() {
    let site = site("user-as-id", "");
    for _ in 0..OFTEN {
        let (status, text) = site.daemon.command(&["check"]);
        assert_eq!(status, 0, "{text}");
        let words = ["upstream readings: taken on", "tombolo/gw/door-7/up/t/tombolo-check"];
        assert!(found(&text, "ok", &words), "{text}");
    }
    assert_eq!(connections(&site), 1);
    let status = site.daemon.status();
    assert!(status["upstream"]["contested"].is_null(), "{status}");
    assert!(!site.daemon.log().contains("tombolo check"), "{}", site.daemon.log());
}

#[test]
fn what_the_broker_denies_that_account_fails_without_a_connection_of_the_checks_own() {
    let folder = Folder::new("user-as-id-acl");
    let acl =
        folder.write("acl", "topic readwrite tombolo/#\nuser bob\ntopic readwrite tombolo/gw/gateway/#\n");
    let site = site("user-as-id-denied", &format!("acl_file {}\nmax_queued_messages 100000", acl.display()));
    let (status, text) = site.daemon.command(&["check"]);
    assert_eq!(status, 1, "{text}");
    let words = ["upstream readings: the broker refuses readings", "not authorized (0x87)"];
    assert!(found(&text, "fail", &words), "{text}");
    let status = site.daemon.status();
    assert!(connected(&site) && status["upstream"]["suspects"] == 0, "{status}");
}

#[test]
fn a_check_of_other_settings_ends_the_connection_for_a_moment_says_so_and_is_no_rival() {
    let site = site("user-as-id-other", "");
    site.folder.write("conf.d/50.toml", "[upstream]\nkeep-alive = \"50s\"\n");
    for round in 0..OFTEN {
        let (status, text) = site.daemon.command(&["check"]);
        assert_eq!(status, 0, "{text}");
        assert!(found(&text, "ok", &["upstream publish: acknowledged and back"]), "{text}");
        let words = ["the broker ended the running gateway's connection for the check's", "user name"];
        assert!(found(&text, "warn", &words), "{text}");
        wait_for("the next connection", || connected(&site) && connections(&site) == round as u64 + 2);
    }
    let status = site.daemon.status();
    assert!(status["upstream"]["contested"].is_null(), "{status}");
}
