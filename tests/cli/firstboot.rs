//! A copied card: it makes an identity of its own, once, and the daemon waits for that.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use tombolo::config::first_boot::io::serial;
use tombolo::config::first_boot::{MARKER, Serial};
use tombolo::config::inventory::{Copied, Entry, STATE};

use crate::place::Place;

/// A card that was copied from a gateway in use.
fn copied() -> Place {
    let place = Place::new();
    place.write("state/gateway-id", "tb-aaaaaaaa\n");
    place.write("state/journal/0.seg", "readings of the other board");
    place.write("state/journal.unknown-1/normal/0.seg", "more of them, of another version");
    place.write("state/fleet-devices.damaged-1", "some of its devices");
    place.write("state/support-bundle.tar", "what it was like");
    place.write("state/new-keys", "its keys");
    place.write("state/tokens.txt", "the owner's");
    place.write("state/sessions/key", "its session key");
    place.write("state/certificates/uplink/current.pem", "its key");
    place.write("state/mailbox/log", "its commands");
    place.write("state/fleet-devices", "its devices");
    place.write("state/before-restore-1.tar", "its secrets");
    place.write("state/update/floor", "7");
    place.write("state/clock", "1");
    place.run("device add door-7 --role sensor --psk").fine();
    place.run("firstboot --mark").fine();
    place
}

#[test]
fn a_marked_card_gets_a_new_id_loses_keys_sessions_and_readings_and_keeps_floors_and_devices() {
    let place = copied();
    let said = place.run("--json firstboot").json();
    let id = said["gateway"].as_str().unwrap().to_owned();
    assert_ne!(id, "tb-aaaaaaaa");
    assert_eq!(place.read("state/gateway-id"), format!("{id}\n"));
    for name in [
        "journal",
        "journal.unknown-1",
        "fleet-devices.damaged-1",
        "support-bundle.tar",
        "new-keys",
        "sessions",
        "certificates",
        "mailbox",
        "fleet-devices",
        "before-restore-1.tar",
        "first-boot",
    ] {
        assert!(!place.path(&format!("state/{name}")).exists(), "{name}");
    }
    assert_eq!(
        (place.read("state/update/floor"), place.read("state/clock")),
        ("7".to_owned(), "1".to_owned())
    );
    assert!(place.path("state/devices/door-7.toml").exists());
    assert_eq!(place.read("state/tokens.txt"), "the owner's");
    // Once.
    let again = place.run("--json firstboot").json();
    assert_eq!((&again["made"], &again["gateway"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(place.read("state/gateway-id"), format!("{id}\n"));
}

/// A state directory and a runtime directory in which everything is that can be there.
fn populated() -> Place {
    let place = Place::new();
    let folders =
        ["journal", "sessions", "mailbox", "certificates", "tokens", "usage", "devices", "conf.d", "secrets"];
    for name in STATE.iter().map(|entry| entry.name).filter(|name| *name != MARKER) {
        let is_folder = folders.contains(&name) || ["firmware", "update", "revocation"].contains(&name);
        let inside = if is_folder { "/below/file" } else { "" };
        place.write(&format!("state/{name}{inside}"), "x");
        place.write(&format!("state/{name}.damaged-1"), "x");
        place.write(&format!("state/.{name}.new"), "x");
    }
    place.write("state/before-restore-1.tar", "x");
    place.write("run/sessions", "of the process before");
    place.write("run/certificates/uplink/current.pem", "a key");
    place
}

/// The names in a folder.
fn names(place: &Place, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(place.path(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn a_first_boot_leaves_of_all_that_is_kept_what_the_table_says_and_a_decommission_nothing() {
    let place = populated();
    place.run("firstboot --mark").fine();
    place.run("firstboot").fine();
    let stays = |entry: &&Entry| entry.copied == Copied::Stays;
    for entry in STATE.iter().filter(|entry| entry.name != MARKER && entry.name != "gateway-id") {
        let name = entry.name;
        for name in [name.to_owned(), format!("{name}.damaged-1"), format!(".{name}.new")] {
            let there = fs::symlink_metadata(place.path(&format!("state/{name}"))).is_ok();
            assert_eq!(there, stays(&entry), "{name}");
        }
    }
    assert!(!names(&place, "state").iter().any(|name| name.starts_with("before-restore")));
    assert_eq!(names(&place, "run"), [""; 0]);

    let place = populated();
    for name in ["conf.d", "config-trial.json", "journal", "devices"] {
        // What cannot be read as what it is keeps a gateway from being loaded.
        let path = place.path(&format!("state/{name}"));
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    fs::create_dir(place.path("state/lost+found")).unwrap();
    place.run("decommission --yes --offline --discard").fine();
    assert_eq!(names(&place, "state"), ["lost+found"], "the file system's");
    assert_eq!(names(&place, "run"), [""; 0]);
    place.run("decommission --yes --offline --discard").fine();
}

#[test]
fn two_copies_get_different_ids() {
    let id = || copied().run("--json firstboot").json()["gateway"].as_str().unwrap().to_owned();
    assert_ne!(id(), id());
}

#[test]
fn the_daemon_does_not_start_on_a_copy_without_an_identity_of_its_own() {
    let place = copied();
    place.run("run").failed(1, &["state/first-boot", "tombolo", "firstboot"]);
    let checked = place.run("check --offline");
    assert!(checked.status == 1 && checked.out.contains("fail  first boot"), "{}", checked.out);
    assert_eq!(place.read("state/gateway-id"), "tb-aaaaaaaa\n");
}

#[test]
fn a_first_boot_that_was_cut_short_anywhere_is_completed_by_the_next() {
    // What is left when the power is cut after each step.
    let steps: [&[&str]; 5] = [
        &["state/sessions"],
        &["state/sessions", "state/journal", "state/mailbox", "state/certificates"],
        &["state/gateway-id.copy"],
        &["state/gateway-id"],
        &["state/gateway-id", "state/gateway-id.copy", "state/journal"],
    ];
    for gone in steps {
        let place = copied();
        for name in gone {
            let path = place.path(name);
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        let id = place.run("--json firstboot").json()["gateway"].as_str().unwrap().to_owned();
        assert_ne!(id, "tb-aaaaaaaa", "{gone:?}");
        assert!(
            !place.path("state/journal").exists() && !place.path("state/first-boot").exists(),
            "{gone:?}"
        );
    }
}

#[test]
fn a_step_that_the_disk_refuses_leaves_the_marker_and_is_named() {
    let place = copied();
    // A folder where the id is to be written: it is removed as well.
    fs::remove_file(place.path("state/gateway-id")).unwrap();
    fs::create_dir(place.path("state/gateway-id")).unwrap();
    place.run("firstboot").fine();
    // A link in the place of the journal is removed; what it leads to stays.
    let (place, elsewhere) = (copied(), Place::new());
    elsewhere.write("kept", "x");
    fs::remove_dir_all(place.path("state/journal")).unwrap();
    symlink(elsewhere.path(""), place.path("state/journal")).unwrap();
    place.run("firstboot").fine();
    assert_eq!(elsewhere.read("kept"), "x");
    // A state directory that is none.
    let place = Place::new();
    fs::remove_dir_all(place.path("state")).unwrap();
    fs::write(place.path("state"), "a file").unwrap();
    place.run("firstboot --mark").failed(1, &["state"]);
}

#[test]
fn what_all_copies_share_is_named() {
    let place = Place::new();
    place.write("key.pem", "key");
    place.write("conf.d/10-site.toml", "[gateway]\nid = \"one-for-all\"\n[upstream]\nurl = \"mqtts://b\"\nkey-file = \"../key.pem\"\ncertificate-file = \"../key.pem\"\n");
    place.run("firstboot --mark").fine();
    let said = place.run("--json firstboot").json();
    assert_eq!(said["shared"].as_array().unwrap().len(), 2, "{said}");
    assert!(
        said["shared"].to_string().contains("one-for-all")
            && said["shared"].to_string().contains("upstream.key-file")
    );
}

#[test]
fn a_running_gateway_is_not_marked_and_gets_no_other_identity() {
    let place = copied();
    let _listener = UnixListener::bind(place.path("run/control.sock")).unwrap();
    for line in ["firstboot", "firstboot --mark"] {
        let said = place.run(line);
        assert!(
            said.err.contains("the gateway runs") && said.err.contains("first stop it"),
            "{line}: {}",
            said.err
        );
        assert!(!said.err.contains("stop it: stop it"), "{}", said.err);
        assert_eq!(said.status, 1, "{line}");
    }
    fs::remove_file(place.path("state/first-boot")).unwrap();
    place.run("firstboot --mark").failed(1, &["would be removed at its next start"]);
    assert!(!place.path("state/first-boot").exists());
}

#[test]
fn what_devices_and_the_broker_tell_by_is_said_apart() {
    let place = Place::new();
    place.write("key.pem", "key");
    place.write("mq.pw", "text:secret12345678");
    place.write(
        "conf.d/10-site.toml",
        "[gateway]\nid = \"one-for-all\"\n[device.mq]\nrole = \"sensor\"\npassword-file = \"../mq.pw\"\n",
    );
    place.run("firstboot --mark").fine();
    let said = place.run("firstboot");
    let (broker, devices) = said.err.split_once("the broker cannot tell them apart").unwrap();
    assert!(broker.contains("gateway.id") && !broker.contains("mq.pw"), "{}", said.err);
    assert!(devices.contains("device.mq.password-file") && devices.contains("reads one card"), "{devices}");
}

#[test]
fn another_serial_number_of_the_board_is_said_once_and_changes_nothing() {
    let place = Place::new();
    let (state, source) = (place.path("state"), place.path("serial-number"));
    let look = || serial(&state, &[place.path("nothing"), source.clone()]).unwrap();
    assert_eq!(look(), Serial::Same);
    place.write("serial-number", "10000000abcdef01\0");
    assert_eq!(look(), Serial::First("10000000abcdef01".to_owned()));
    assert_eq!(look(), Serial::Same);
    place.write("serial-number", "10000000abcdef02\0");
    let changed = Serial::Changed { from: "10000000abcdef01".to_owned(), to: "10000000abcdef02".to_owned() };
    assert_eq!(look(), changed);
    assert_eq!(look(), Serial::Same);
    // Damaged, it is as if none had been stored.
    place.write("state/board-serial", "two words");
    assert_eq!(look(), Serial::First("10000000abcdef02".to_owned()));
}
