use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::Command;

use crate::place::{Place, mode};

#[test]
fn init_writes_a_drop_in_and_says_what_comes_next() {
    let place = Place::new();
    let before = place.read("tombolo.toml");
    let said = place.run("init --url mqtts://broker.example.com --id greenhouse-7").fine();
    for word in [
        "conf.d/10-site.toml",
        "greenhouse-7",
        "tombolo.toml check",
        "tombolo.toml run",
        "tombolo.toml device add",
    ] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert_eq!(place.read("tombolo.toml"), before, "the packaged file stays as it is");
    let written = place.read("conf.d/10-site.toml");
    assert!(
        written.contains("url = \"mqtts://broker.example.com\"") && written.contains("id = \"greenhouse-7\""),
        "{written}"
    );
}

#[test]
fn a_second_init_is_refused_unless_it_is_meant() {
    let place = Place::new();
    let json = place.run("--json init --url mqtts://one.example.com").json();
    assert_eq!((json["gateway"].is_null(), &json["running"]), (true, &serde_json::json!(false)));
    let refused = place.run("init --url mqtts://two.example.com");
    assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
    refused.failed(1, &["10-site.toml exists already", "--force"]);
    assert!(place.read("conf.d/10-site.toml").contains("one.example.com"));
    place.run("init --url mqtts://two.example.com --force").fine();
    assert!(place.read("conf.d/10-site.toml").contains("two.example.com"));
}

#[test]
fn what_makes_no_upstream_is_refused_and_nothing_is_written() {
    for (line, words) in [
        ("init --url broker.example.com", &["mqtts://"][..]),
        ("init --url mqtt://broker.example.com", &["insecure"]),
        ("init --url mqtts://broker.example.com --ca-file none.pem", &["none.pem", "does not exist"]),
        ("init --url mqtts://broker.example.com --id a/b", &["gateway.id"]),
        ("init --url mqtts://me:topsecret@broker.example.com", &["--username"]),
    ] {
        let place = Place::new();
        let ran = place.run(line);
        assert!(!ran.err.contains("topsecret"), "{}", ran.err);
        assert_eq!(ran.status, 78, "{line}: {}", ran.err);
        for word in words.iter().filter(|word| **word != "--username") {
            assert!(ran.err.contains(word), "{line}: no {word:?} in {}", ran.err);
        }
        assert!(!place.path("conf.d/10-site.toml").exists(), "{line}");
        assert!(ran.err.contains("nothing was written"), "{line}: {}", ran.err);
    }
}

#[test]
fn what_was_typed_is_said_with_its_fault_and_the_way_out() {
    let place = Place::new();
    place.run("init --url=").failed(2, &["--url is empty", "mqtts://HOST"]);
    place.run("init --url http://b").failed(78, &["\"http://b\": the scheme is not mqtts://"]);
    place.write("empty", "\n");
    place
        .run("init --url mqtts://b --username u --password-file empty")
        .failed(78, &["upstream.password-file: is empty", "write the password into it"]);
    let pem = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["gw".to_owned()]).unwrap();
        place.write(&format!("{name}.pem"), &certificate.self_signed(&key).unwrap().pem());
        place.write(&format!("{name}.key"), &key.serialize_pem());
    };
    pem("a");
    pem("b");
    place
        .run("init --url mqtts://b --certificate-file a.pem --key-file b.key")
        .failed(78, &["upstream.certificate-file", "the key that belongs to it"]);
    assert!(!place.path("conf.d/10-site.toml").exists());
}

#[test]
fn without_a_main_file_a_whole_gateway_is_made_in_the_folder() {
    let place = Place::new();
    let config = place.path("own/tombolo.toml");
    let run = |words: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tombolo"));
        command.arg("--config").arg(&config).args(words.split_whitespace());
        let output = command.env_clear().env("PATH", "/nowhere").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (status, out, err) = run("init --url mqtts://127.0.0.1:1");
    assert_eq!(status, Some(0), "{out}{err}");
    let shown = config.display().to_string();
    for words in ["with the role sensor", &format!("tombolo --config {shown} check"), &format!("{shown} run")]
    {
        assert!(out.contains(words), "{words} in {out}");
    }
    let (status, out, err) = run("device add door-7 --role sensor --psk");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.contains("coaps://127.0.0.1"), "{out}");
    let (status, out, err) = run("check --offline");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(err.contains(&format!("next: tombolo --config {shown} run")), "{err}");
    // All of it is in the folder.
    for name in ["own/state/devices/door-7.toml", "own/run", "own/conf.d/10-site.toml"] {
        assert!(place.path(name).exists(), "{name}");
    }
    let (status, _, err) = run("init --url mqtts://127.0.0.1:2");
    assert_eq!(status, Some(1), "{err}");
}

#[test]
fn a_slip_in_the_name_of_the_configuration_is_named_by_every_command_and_changes_nothing() {
    let place = Place::new();
    place.write("conf.d/10-site.toml", "[gateway]\nid = \"gw\"\n[upstream]\nurl = \"mqtts://b\"\n");
    let slip = place.path("tombola.toml");
    let run = |words: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tombolo"));
        command.arg("--config").arg(&slip).args(words.split_whitespace());
        let output = command.env_clear().env("PATH", "/nowhere").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let missing = format!("{}", slip.display());
    let near = format!("did you mean --config {}?", place.path("tombolo.toml").display());
    for words in ["status", "tail", "reload", "check", "device list", "queue verify", "config show", "run"] {
        let (status, out, err) = run(words);
        assert!(words == "config show" || status != Some(0), "{words}: {out}{err}");
        let said = format!("{out}{err}");
        for text in [&*missing, "does not exist", &near] {
            assert!(said.contains(text), "{words}: no {text:?} in {said}");
        }
        assert!(!said.contains("no role") && !said.contains("not running"), "{words}: {said}");
    }
    let before = place.read("conf.d/10-site.toml");
    for words in ["init --url mqtts://c", "init --url mqtts://c --force"] {
        let (status, out, err) = run(words);
        assert!(status != Some(0) && err.contains(&near), "{words}: {out}{err}");
        assert!(!slip.exists() && place.read("conf.d/10-site.toml") == before, "{words}");
    }
}

#[test]
fn a_whole_gateway_is_made_also_beside_drop_ins_and_force_keeps_the_id() {
    let place = Place::new();
    std::fs::remove_file(place.path("tombolo.toml")).unwrap();
    place.write("conf.d/30-label.toml", "[gateway]\nlabel = \"Greenhouse\"\n");
    let said = place.run("init --url mqtts://one.example --id greenhouse-7").fine();
    assert!(said.contains("with the role sensor"), "{said}");
    place.run("check --offline").fine();
    let said = place.run("init --url mqtts://two.example --force").fine();
    assert!(said.contains("this gateway is greenhouse-7"), "{said}");
    let text = place.read("conf.d/10-site.toml");
    assert!(text.contains("id = \"greenhouse-7\"") && text.contains("two.example"), "{text}");
    place.run("init --url mqtts://two.example --force --id other").fine();
    assert!(place.read("conf.d/10-site.toml").contains("id = \"other\""));
}

#[test]
fn a_file_that_the_service_cannot_read_is_copied_with_its_owner_and_mode() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    const USER: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    chown(place.path("state"), Some(USER), Some(USER)).unwrap();
    let closed = |name: &str, text: &str| {
        place.write(name, text);
        let path = place.path(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    // Outside the configuration's folder.
    let outside = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["gw".to_owned()]).unwrap().self_signed(&key).unwrap();
    outside.write("ca.pem", &certificate.pem());
    outside.write("password", "sesame");
    for name in ["ca.pem", "password"] {
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(outside.path(name), mode).unwrap();
    }
    let (ca, password) = (outside.path("ca.pem"), outside.path("password"));
    let line = |ca: &std::path::Path, password: &std::path::Path| {
        format!(
            "init --url mqtts://b --force --ca-file {} --username u --password-file {}",
            ca.display(),
            password.display()
        )
    };
    let said = place.run(&line(&ca, &password)).fine();
    assert!(said.contains(&format!("copied {} to", ca.display())), "{said}");
    let owner = |name: &str| {
        let found = std::fs::metadata(place.path(name)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(owner("ca.pem").2, 0o644);
    assert_eq!(owner("secrets/password"), (0, USER, 0o640));
    assert_eq!(owner("secrets"), (0, USER, 0o2750));
    let written = place.read("conf.d/10-site.toml");
    for name in ["ca.pem", "secrets/password"] {
        assert!(written.contains(&place.path(name).display().to_string()), "{written}");
    }
    assert_eq!(place.run("check --offline").status, 0);

    // One in the folder gets its group and mode where it is.
    let inside = closed("own-password", "sesame");
    place.run(&line(&place.path("ca.pem"), &inside)).fine();
    assert_eq!(owner("own-password"), (0, USER, 0o640));

    // One that is a link is renewed by somebody: it is not copied, and nothing is written.
    let live = outside.path("live.pem");
    symlink(&ca, &live).unwrap();
    let before = place.read("conf.d/10-site.toml");
    place
        .run(&line(&live, &password))
        .failed(78, &["live.pem", "another program renews it", "nothing was written"]);
    assert_eq!(place.read("conf.d/10-site.toml"), before);

    // What it would replace is not lost without --force.
    outside.write("ca.pem", "another");
    std::fs::remove_file(place.path("conf.d/10-site.toml")).unwrap();
    place
        .run(&line(&ca, &password).replace(" --force", ""))
        .failed(78, &["ca.pem exists already", "--force"]);
}

#[test]
fn a_ca_file_without_a_certificate_and_a_key_of_another_certificate_are_refused() {
    let pair = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (certificate, key) = pair("one");
    let other_key = pair("two").1;
    for (ca, ours, key, words) in [
        (
            key.as_str(),
            certificate.as_str(),
            key.as_str(),
            &["ca.pem holds no CA certificate", "upstream.ca-file"][..],
        ),
        ("", &certificate, &key, &["ca.pem", "empty", "upstream.ca-file"]),
        (&certificate, &key, &key, &["gw.pem holds no certificate", "upstream.certificate-file"]),
        (&certificate, &certificate, &other_key, &["does not belong to the certificate"]),
    ] {
        let place = Place::new();
        place.write("ca.pem", ca);
        place.write("gw.pem", ours);
        place.write("gw.key", key);
        let ran = place.run(
            "init --url mqtts://broker.example.com --ca-file ca.pem --certificate-file gw.pem --key-file gw.key",
        );
        assert!(ran.err.contains("nothing was written"), "{}", ran.err);
        ran.failed(78, words);
        assert!(!place.path("conf.d/10-site.toml").exists());
    }
    let place = Place::new();
    place.write("ca.pem", &certificate);
    place.write("gw.pem", &certificate);
    place.write("gw.key", &key);
    place
        .run("init --url mqtts://broker.example.com --ca-file ca.pem --certificate-file gw.pem --key-file gw.key")
        .fine();
}

#[test]
fn a_port_that_another_program_has_is_named_with_the_one_taken_instead() {
    // Another test's `init` has it for the moment in which it tries it; another program, for good.
    let taken = || std::net::UdpSocket::bind(("127.0.0.1", 5684)).ok();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let mut held = taken();
    while held.is_none() && std::time::Instant::now() < until {
        std::thread::yield_now();
        held = taken();
    }
    let place = Place::new();
    let config = place.path("own/tombolo.toml");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tombolo"))
        .arg("--config")
        .arg(&config)
        .args(["init", "--url", "mqtts://127.0.0.1:1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let written = std::fs::read_to_string(&config).unwrap();
    let port = ["15684", "25684", "35684", "45684", "55684"]
        .into_iter()
        .find(|port| written.contains(&format!("127.0.0.1:{port}")));
    let port = port.unwrap_or_else(|| panic!("{written}"));
    assert!(
        said.contains(&format!("devices connect to port {port}, because another program has port 5684")),
        "{said}"
    );
}

#[test]
fn of_an_id_that_is_none_the_rule_is_said_as_for_a_command_line() {
    let ran = Place::new().run("init --url mqtts://broker.example.com --id a/b");
    assert!(ran.err.contains("\"a/b\" is not accepted; use 1 to 64 letters"), "{}", ran.err);
    assert!(!ran.err.contains("in quotes"), "{}", ran.err);
}

#[test]
fn a_main_file_that_is_a_link_to_nowhere_is_called_that_and_not_missing() {
    let place = Place::new();
    let link = place.path("elsewhere/tombolo.toml");
    std::fs::create_dir_all(place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("nowhere.toml", &link).unwrap();
    for words in ["check", "init --url mqtts://b"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tombolo"));
        let output = command.arg("--config").arg(&link).args(words.split_whitespace()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.contains("is a link to a file that does not exist; make that file, or remove the link"),
            "{said}"
        );
        assert!(!output.status.success() && !said.contains("or make it: tombolo"), "{said}");
    }
    assert!(!place.path("elsewhere/conf.d").exists());
}

/// A gateway whose configuration, in `etc`, is on a read-only file system for what it runs.
pub struct ReadOnly(pub Place);

impl ReadOnly {
    /// `None`: this user may not mount. Another user owns the state, as with the packaged service.
    pub fn new(more: &str) -> Option<ReadOnly> {
        let place = Place::new();
        let main =
            place.read("tombolo.toml").replace("\"state\"", "\"../state\"").replace("\"run\"", "\"../run\"");
        place.write("etc/tombolo.toml", &format!("{main}{more}"));
        let site = ReadOnly(place);
        let (status, _, err) = site.run("--version");
        if status != Some(0) {
            eprintln!("skipped: nothing can be mounted here: {err}");
            return None;
        }
        chown(site.0.path("state"), Some(OWNER), Some(OWNER)).unwrap();
        Some(site)
    }

    /// Of a program in which this is mounted before.
    pub fn command_in(&self, before: &str, words: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = format!("{before} && exec \"$0\" \"$@\"");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        command.arg(env!("CARGO_BIN_EXE_tombolo")).arg("--config").arg(self.0.path("etc/tombolo.toml"));
        command.args(words.split_whitespace()).current_dir(self.0.path("."));
        command
    }

    pub fn run_in(&self, before: &str, words: &str) -> (Option<i32>, String, String) {
        let output = self.command_in(before, words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    pub fn run(&self, words: &str) -> (Option<i32>, String, String) {
        self.run_in(BOUND, words)
    }
}

/// What makes its folder read-only.
pub const BOUND: &str = "mount --bind etc etc && mount -o remount,bind,ro etc";
pub const OWNER: u32 = 12_345;

#[test]
fn where_the_configuration_is_read_only_init_writes_below_the_state_directory() {
    let Some(site) = ReadOnly::new("") else { return };
    let place = &site.0;
    place.write("usb/password", "secret");
    fs::set_permissions(place.path("usb/password"), fs::Permissions::from_mode(0o600)).unwrap();
    let init = "init --url mqtts://b.example.com --id gw-1 --username me --password-file usb/password";
    let (status, out, err) = site.run(init);
    assert_eq!(status, Some(0), "{out}{err}");
    let shown = |name: &str| place.path(name).display().to_string();
    for words in [
        &format!("copied {}", shown("usb/password")),
        &format!("to {}", shown("state/secrets/password")),
        &format!("wrote {}", shown("state/conf.d/10-site.toml")),
        &format!("because {} is on a file system that is read-only", shown("etc/conf.d")),
    ] {
        assert!(out.contains(words.as_str()), "no {words} in {out}");
    }
    assert!(!place.path("etc/conf.d").exists() && !place.path("etc/secrets").exists());
    for (name, wanted) in [
        ("state/conf.d", 0o700),
        ("state/conf.d/10-site.toml", 0o600),
        ("state/secrets", 0o700),
        ("state/secrets/password", 0o600),
    ] {
        let about = fs::metadata(place.path(name)).unwrap();
        assert_eq!((about.uid(), about.gid(), mode(&place.path(name))), (OWNER, OWNER, wanted), "{name}");
    }
    // It is in force, and so is a device.
    let (_, out, err) = site.run("config show upstream");
    assert!(out.contains("mqtts://b.example.com") && out.contains("10-site.toml"), "{out}{err}");
    let (status, out, err) = site.run("device add door-7 --role sensor --psk");
    assert_eq!(status, Some(0), "{out}{err}");
    let (_, out, err) = site.run("check --offline");
    assert!(out.contains("gateway gw-1"), "{out}{err}");
    assert!(!format!("{out}{err}").contains("fail  configuration"), "{out}{err}");

    let (status, _, err) = site.run("init --url mqtts://c.example.com");
    assert!(status == Some(1) && err.contains("state/conf.d/10-site.toml exists already"), "{err}");
    let (status, out, err) = site.run("--json init --url mqtts://c.example.com --force");
    assert_eq!(status, Some(0), "{err}");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (said["read_only"].as_str(), said["gateway"].as_str()),
        (Some(&*shown("etc/conf.d")), Some("gw-1"))
    );

    // Writable again: what was written below the state directory does not stay in force unseen.
    let (status, _, err) = site.run_in("true", "init --url mqtts://d.example.com");
    assert!(status == Some(1) && err.contains("state/conf.d/10-site.toml exists already"), "{err}");
    let (status, out, err) = site.run_in("true", "init --url mqtts://d.example.com --force");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(place.read("etc/conf.d/10-site.toml").contains("d.example.com"));
    assert!(!place.path("state/conf.d/10-site.toml").exists());
}

#[test]
fn so_it_does_on_a_read_only_disk_and_says_what_would_win_over_it() {
    let Some(site) = ReadOnly::new("[upstream]\nurl = \"mqtts://image.example.com\"\n") else { return };
    let place = &site.0;
    let disk = "cp -a etc was && mount -t tmpfs none etc && cp -a was/. etc/ && mount -o remount,ro etc";
    let (status, out, err) = site.run_in(disk, "init --url mqtts://b.example.com");
    assert_eq!(status, Some(78), "{out}{err}");
    for words in
        ["etc/tombolo.toml", "upstream.url: is set there, which takes precedence over", "nothing was written"]
    {
        assert!(err.contains(words), "no {words} in {err}");
    }
    assert!(!place.path("state/conf.d").exists());
    // Not with a right that is missing alone.
    fs::remove_dir_all(place.path("was")).unwrap();
    let without =
        place.read("etc/tombolo.toml").replace("[upstream]\nurl = \"mqtts://image.example.com\"\n", "");
    place.write("etc/tombolo.toml", &without);
    let (status, out, err) = site.run_in(disk, "init --url mqtts://b.example.com");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(place.path("state/conf.d/10-site.toml").exists() && !place.path("etc/conf.d").exists());
}

#[test]
fn a_link_in_the_place_of_a_folder_below_the_state_directory_is_not_followed() {
    let Some(site) = ReadOnly::new("") else { return };
    let place = &site.0;
    fs::create_dir(place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", place.path("state/conf.d")).unwrap();
    let (status, out, err) = site.run("init --url mqtts://b.example.com");
    assert!(status == Some(78) && err.contains("a symbolic link; delete it"), "{out}{err}");
    assert_eq!(fs::read_dir(place.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn the_example_for_a_small_board_fits_beside_the_lanes_that_init_writes() {
    let place = Place::new();
    std::fs::remove_file(place.path("tombolo.toml")).unwrap();
    place.run("init --url mqtts://one.example --id greenhouse-7").fine();
    assert!(place.read("tombolo.toml").contains("[lane.high]"));
    place.write("conf.d/30-small.toml", include_str!("../../config/examples/small-board.toml"));
    place.run("check --offline").fine();
}
