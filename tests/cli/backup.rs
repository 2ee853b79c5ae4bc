//! Backups: what is in one, where it can be restored, and what is refused.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;
use tombolo_test_support::wait_for;

use crate::place::{Place, Ran};

/// A gateway with devices, secrets, a certificate, and what is no part of a backup.
fn gateway(id: &str) -> Place {
    let place = Place::new();
    place.write("conf.d/10-site.toml", "[upstream]\nurl = \"mqtts://b.example\"\nca-file = \"../ca.pem\"\nusername = \"gw\"\npassword-file = \"../secrets/password\"\n");
    place.write("ca.pem", "not read by a backup\n");
    place.write("secrets/password", "s3cret\n");
    fs::set_permissions(place.path("secrets/password"), fs::Permissions::from_mode(0o640)).unwrap();
    place.write("state/gateway-id", &format!("{id}\n"));
    place.write("state/certificates/uplink/current.pem", "chain and key\n");
    place.write("state/journal/x", "readings");
    place.write("state/sessions/key", "session keys");
    place.write("state/update/floor", "7");
    place.write("state/clock", "1");
    place.write("note.txt", "the owner's");
    place.run("device add door-7 --role sensor --psk text:a-key-of-the-door").fine();
    place
}

fn copy(from: &Place, to: &Place) {
    fs::copy(from.path("b.tar"), to.path("b.tar")).unwrap();
}

fn names(ran: &Value) -> Vec<&str> {
    ran["files"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn a_backup_has_configuration_devices_and_credentials_and_nothing_else_and_is_closed_to_others() {
    let place = gateway("tb-aaaaaaaa");
    let said = place.run("--json backup b.tar").json();
    let expected = [
        "config/ca.pem",
        "config/conf.d/10-site.toml",
        "config/secrets/password",
        "config/tombolo.toml",
        "state/certificates/uplink/current.pem",
        "state/devices/door-7.toml",
        "state/gateway-id",
    ];
    assert_eq!(names(&said), expected);
    assert_eq!(said["gateway"], "tb-aaaaaaaa");
    let about = fs::metadata(place.path("b.tar")).unwrap();
    assert_eq!((about.mode() & 0o7777, about.len()), (0o600, said["bytes"].as_u64().unwrap()));
    place.run("backup b.tar").failed(1, &["b.tar exists"]);
    let listed = std::process::Command::new("tar").arg("tf").arg(place.path("b.tar")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.first(), Some(&"tombolo-backup.json"));
    assert_eq!(lines.last(), Some(&"SHA256"));
    assert_eq!(lines.len(), expected.len() + 2);
    place.run("--json backup -").failed(2, &["standard output"]);
}

#[test]
fn what_is_configured_and_not_in_a_backup_is_named() {
    let place = gateway("tb-aaaaaaaa");
    let outside = Place::new();
    outside.write("live.pem", "of certbot");
    symlink(outside.path("live.pem"), place.path("linked.pem")).unwrap();
    let text = format!(
        "[coap]\ncertificate-file = \"../linked.pem\"\nkey-file = \"{}\"\nclient-ca-file = \"../gone.pem\"\n",
        outside.path("live.pem").display()
    );
    place.write("conf.d/20-outside.toml", &text);
    place.write("conf.d/30-secret.toml", "[upstream]\npassword-file = \"credential:upstream-password\"\n");
    let said = place.run("--json backup b.tar").json();
    let left: Vec<&str> =
        said["left_out"].as_array().unwrap().iter().map(|left| left.as_str().unwrap()).collect();
    for key in ["coap.certificate-file", "coap.key-file", "coap.client-ca-file", "upstream.password-file"] {
        assert_eq!(left.iter().filter(|left| left.starts_with(&format!("{key}: "))).count(), 1, "{left:?}");
    }
    assert!(!names(&said).contains(&"config/linked.pem"));
    // A folder beside that of the configuration is no part of it.
    let inside = fs::canonicalize(place.path("tombolo.toml")).unwrap();
    let inside = inside.parent().unwrap().display();
    let way_out =
        format!("outside of {inside}; a backup has only the files below that folder: copy this one");
    let of = |key: &str| *left.iter().find(|left| left.starts_with(key)).unwrap();
    let key = of("coap.key-file");
    assert!(
        key.contains(&format!("live.pem is {way_out}")) && key.ends_with("change coap.key-file"),
        "{key}"
    );
    let linked = of("coap.certificate-file");
    assert!(linked.contains("linked.pem is a link to ") && linked.contains(&way_out), "{linked}");
    let text = place.run("backup c.tar").err;
    assert_eq!(text.matches("not in the backup: ").count(), 4, "{text}");
}

#[test]
fn a_backup_restored_on_an_empty_machine_makes_it_the_same_gateway() {
    let old = gateway("tb-aaaaaaaa");
    old.run("backup b.tar").fine();
    let new = Place::new();
    fs::remove_dir_all(new.path("state")).unwrap();
    fs::remove_file(new.path("tombolo.toml")).unwrap();
    copy(&old, &new);
    let said = new.run("--json restore b.tar").json();
    assert_eq!(said["gateway"], "tb-aaaaaaaa");
    // Nothing here named a state directory: it is that of the configuration that is restored.
    let before = Path::new(said["before"].as_str().unwrap());
    assert!(before.starts_with(new.path("state")), "{}", before.display());
    for name in ["tombolo.toml", "conf.d/10-site.toml", "ca.pem", "secrets/password", "state/gateway-id"] {
        assert_eq!(old.read(name), new.read(name), "{name}");
    }
    for name in ["state/devices/door-7.toml", "state/certificates/uplink/current.pem"] {
        assert_eq!(old.read(name), new.read(name), "{name}");
        assert_eq!(fs::metadata(new.path(name)).unwrap().mode() & 0o7777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(new.path("secrets/password")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(new.path("secrets")).unwrap().mode() & 0o007, 0);
    for name in ["state/journal", "state/sessions", "state/update", "state/clock", "note.txt"] {
        assert!(!new.path(name).exists(), "{name}");
    }
    let key = new.run("--json device show door-7 --key").json();
    assert_eq!(key["psk_text"], "a-key-of-the-door");
}

#[test]
fn a_restore_replaces_what_counts_keeps_the_rest_and_can_be_taken_back() {
    let place = gateway("tb-aaaaaaaa");
    place.run("backup b.tar").fine();
    place.run("device add door-8 --role sensor --psk").fine();
    place.write("conf.d/90-later.toml", "[journal]\nmax-bytes = \"9MiB\"\n");
    place.write("conf.d/10-site.toml", "# changed\n");
    place.write("state/certificates/uplink/candidate.pem", "later");
    place.write("state/update/floor", "8");
    let said = place.run("--json restore b.tar").json();
    assert_eq!(said["removed"].as_array().unwrap().len(), 3, "{said}");
    assert!(place.read("conf.d/10-site.toml").contains("b.example"));
    for name in
        ["conf.d/90-later.toml", "state/devices/door-8.toml", "state/certificates/uplink/candidate.pem"]
    {
        assert!(!place.path(name).exists(), "{name}");
    }
    for (name, content) in [
        ("state/update/floor", "8"),
        ("state/journal/x", "readings"),
        ("state/sessions/key", "session keys"),
        ("state/clock", "1"),
        ("note.txt", "the owner's"),
    ] {
        assert_eq!(place.read(name), content, "{name}");
    }
    let before = said["before"].as_str().unwrap();
    assert_eq!(fs::metadata(before).unwrap().mode() & 0o7777, 0o600);
    place.run(&format!("restore {before}")).fine();
    assert_eq!(place.read("conf.d/10-site.toml"), "# changed\n");
    for name in
        ["conf.d/90-later.toml", "state/devices/door-8.toml", "state/certificates/uplink/candidate.pem"]
    {
        assert!(place.path(name).exists(), "{name}");
    }
    for _ in 0..5 {
        place.run("restore b.tar").fine();
    }
    let kept = fs::read_dir(place.path("state")).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("before-restore-"));
    assert_eq!(kept.count(), 3);
}

#[test]
fn the_backup_of_another_gateway_is_refused_by_name_unless_its_id_is_to_be_taken() {
    let (old, new) = (gateway("tb-aaaaaaaa"), gateway("tb-bbbbbbbb"));
    old.run("backup b.tar").fine();
    copy(&old, &new);
    new.run("restore b.tar").failed(1, &["nothing was changed", "tb-aaaaaaaa", "tb-bbbbbbbb", "--take-id"]);
    assert_eq!(new.read("state/gateway-id"), "tb-bbbbbbbb\n");
    new.write("state/gateway-id.copy", "of the id before");
    new.run("restore b.tar --take-id").fine();
    assert_eq!(new.read("state/gateway-id"), "tb-aaaaaaaa\n");
    // Where it was one, it would be believed over a damaged file.
    assert!(!new.path("state/gateway-id.copy").exists());
    let shown = new.run("--json backup again.tar").json();
    assert_eq!(shown["gateway"], "tb-aaaaaaaa");
}

/// Every file below a folder with its content.
fn all(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => waiting.push(path),
                false => found.push((path.display().to_string(), fs::read(&path).unwrap())),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn an_archive_that_is_hostile_truncated_or_too_large_changes_nothing() {
    let place = gateway("tb-aaaaaaaa");
    place.run("backup b.tar").fine();
    let whole = fs::read(place.path("b.tar")).unwrap();
    // As tar writes them: links, ways out.
    let evil = Place::new();
    fs::create_dir(evil.path("config")).unwrap();
    symlink("/etc/passwd", evil.path("config/link")).unwrap();
    evil.write("config/ok", "x");
    let tar = |name: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new("tar");
        command
            .arg("--format=ustar")
            .arg("-cf")
            .arg(place.path(name))
            .arg("-C")
            .arg(evil.path(""))
            .args(arguments);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    tar("foreign.tar", &["config/ok"]);
    let manifest = r#"{"format":"tombolo-backup","major":1,"minor":0,"version":"0","made":"x"}"#;
    evil.write("tombolo-backup.json", manifest);
    tar("link.tar", &["tombolo-backup.json", "config/link"]);
    tar("way-out.tar", &["tombolo-backup.json", "--transform=s,^config/ok,config/../../x,", "config/ok"]);
    tar("absolute.tar", &["-P", "tombolo-backup.json", "--transform=s,^config/ok,/etc/x,", "config/ok"]);
    tar("journal.tar", &["tombolo-backup.json", "--transform=s,^config/ok,state/journal/x,", "config/ok"]);
    tar("folder.tar", &["tombolo-backup.json", "config"]);
    tar("no-sum.tar", &["tombolo-backup.json", "config/ok"]);
    fs::write(place.path("truncated.tar"), &whole[..whole.len() / 2]).unwrap();
    let mut flipped = whole.clone();
    flipped[3 * 512 + 3] ^= 1;
    fs::write(place.path("flipped.tar"), flipped).unwrap();
    fs::File::create(place.path("huge.tar")).unwrap().set_len(65 << 20).unwrap();
    fs::write(place.path("empty.tar"), "").unwrap();
    let before = all(&place.path(""));
    for (name, words) in [
        ("foreign.tar", &["begins with \"config/ok\""][..]),
        ("link.tar", &["\"config/link\"", "is a link"]),
        ("way-out.tar", &["\"config/../../x\""]),
        ("absolute.tar", &["\"/etc/x\""]),
        ("journal.tar", &["\"state/journal/x\""]),
        ("folder.tar", &["\"config/\"", "type '5'"]),
        ("no-sum.tar", &["truncated"]),
        ("truncated.tar", &["truncated"]),
        ("flipped.tar", &["damaged"]),
        ("huge.tar", &["too many"]),
        ("empty.tar", &["truncated"]),
        ("nothing.tar", &["nothing.tar"]),
        (".", &["not a regular file"]),
    ] {
        place.run(&format!("restore {name}")).failed(1, &[&["nothing was changed", name], words].concat());
        assert_eq!(all(&place.path("")), before, "{name}");
    }
}

#[test]
fn a_restore_follows_no_link_and_writes_nothing_of_the_configuration_into_the_state() {
    let old = gateway("tb-aaaaaaaa");
    old.write("extra/x.pem", "x");
    old.write("conf.d/40-x.toml", "[coap]\nclient-ca-file = \"../extra/x.pem\"\n");
    old.run("backup b.tar").fine();
    let new = Place::new();
    copy(&old, &new);
    let elsewhere = Place::new();
    symlink(elsewhere.path(""), new.path("extra")).unwrap();
    new.run("restore b.tar").failed(1, &["nothing was changed", "extra is no folder"]);
    assert!(!elsewhere.path("x.pem").exists());
    assert!(!new.path("ca.pem").exists());
    // Where `extra` is the state directory of this one.
    let other = Place::new();
    copy(&old, &other);
    other.write("tombolo.toml", "[paths]\nstate-dir = \"extra\"\nruntime-dir = \"run\"\n");
    other.run("restore b.tar").failed(1, &["nothing was changed", "would be in the state directory"]);
}

#[test]
fn a_link_in_the_state_directory_is_not_followed_by_a_backup_or_a_restore() {
    let (place, elsewhere) = (gateway("tb-aaaaaaaa"), Place::new());
    place.run("backup b.tar").fine();
    elsewhere.write("secret.toml", "only for root");
    symlink(elsewhere.path("secret.toml"), place.path("state/devices/evil.toml")).unwrap();
    place.run("backup x.tar").failed(1, &["state/devices/evil.toml", "symbolic link"]);
    assert!(!place.path("x.tar").exists());
    fs::remove_file(place.path("state/devices/evil.toml")).unwrap();
    // The folder itself.
    fs::rename(place.path("state/devices"), place.path("devices-before")).unwrap();
    symlink(elsewhere.path(""), place.path("state/devices")).unwrap();
    place.run("backup x.tar").failed(1, &["state/devices/", "symbolic link"]);
    fs::remove_file(elsewhere.path("secret.toml")).unwrap();
    fs::remove_file(elsewhere.path("tombolo.toml")).unwrap();
    place.run("restore b.tar").failed(1, &["nothing was changed", "state/devices is no folder"]);
    assert!(!elsewhere.path("door-7.toml").exists());
}

struct Running(Child);

impl Running {
    fn start(place: &Place) -> Running {
        let mut command = place.command("run");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = Running(child);
        wait_for("the gateway", || place.run("--json status").status == 0);
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn with_the_daemon_running_devices_are_restored_at_once_and_an_id_or_certificate_is_not() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    let certificates = place.path("state/certificates/coap-files-0");
    fs::create_dir_all(&certificates).unwrap();
    let note_attempt = |text: &str| {
        for name in ["state", "state.copy"] {
            fs::write(certificates.join(name), text).unwrap();
        }
    };
    note_attempt("tried 1\n");
    let running = Running::start(&place);
    let backup = place.run("--json backup b.tar").json();
    assert!(backup["gateway"].is_string());
    // What the daemon notes of the same certificates is neither compared nor replaced.
    note_attempt("tried 2\n");
    place.run("device remove door-7").fine();
    place.run("device add door-8 --role sensor --psk").fine();
    let said = place.run("--json restore b.tar").json();
    assert_eq!((&said["running"], &said["reloaded"]), (&true.into(), &true.into()), "{said}");
    let Ran { out, .. } = place.run("--json device list");
    assert!(out.contains("door-7") && !out.contains("door-8"), "{out}");
    for name in ["state", "state.copy"] {
        assert_eq!(fs::read_to_string(certificates.join(name)).unwrap(), "tried 2\n");
    }
    // One whose certificate differs.
    let other = gateway("tb-zzzzzzzz");
    other.run("backup b.tar").fine();
    fs::copy(other.path("b.tar"), place.path("other.tar")).unwrap();
    place
        .run("restore other.tar --take-id")
        .failed(1, &["nothing was changed", "the gateway runs", "stop it"]);
    drop(running);
    place.run("restore other.tar --take-id").fine();
}

/// A daemon closes a connection on which nothing is asked for a minute. This one does not wait so
/// long with its first; what is asked on the others it answers with `answer`.
fn closes_the_first(place: &Place, answer: &'static str) {
    let listener = UnixListener::bind(place.path("run/control.sock")).unwrap();
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { return };
            if index == 0 {
                continue; // closed
            }
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let answer = if line.contains("reload") {
                answer
            } else {
                r#"{"error":{"code":"failed","message":"no"}}"#
            };
            let _ = (&stream).write_all(format!("{answer}\n").as_bytes());
        }
    });
}

#[test]
fn a_restore_that_takes_longer_than_an_idle_connection_lasts_reloads_all_the_same() {
    let place = gateway("tb-aaaaaaaa");
    place.run("backup b.tar").fine();
    closes_the_first(&place, r#"{"ok":{}}"#);
    let said = place.run("--json restore b.tar").json();
    assert_eq!((&said["running"], &said["reloaded"]), (&true.into(), &true.into()), "{said}");
}

#[test]
fn a_restore_says_of_a_gateway_that_does_not_answer_that_it_is_not_known_what_it_does() {
    let place = gateway("tb-aaaaaaaa");
    place.run("backup b.tar").fine();
    closes_the_first(&place, "no answer");
    let Ran { status, err, .. } = place.run("restore b.tar");
    assert!(status != 0 && err.contains("not known whether") && err.contains("reload"), "{status} {err}");
    assert!(!err.contains("go back with"), "{err}");
}

#[test]
fn a_backup_can_be_made_and_restored_while_the_configuration_is_faulty_and_through_a_pipe() {
    let place = gateway("tb-aaaaaaaa");
    place.run("backup good.tar").fine();
    place.write("conf.d/30-wrong.toml", "[coap\n");
    place.run("backup faulty.tar").fine();
    place.run("restore good.tar").fine();
    assert!(!place.path("conf.d/30-wrong.toml").exists());
    let out = place.command("backup -").stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success());
    place.write("conf.d/30-wrong.toml", "[coap\n");
    place.run_with_input("restore -", &out.stdout).fine();
    assert!(!place.path("conf.d/30-wrong.toml").exists());
}
