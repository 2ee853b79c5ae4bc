//! The second day: what is in force, what is collected, how a gateway is taken out of service.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use clap::CommandFactory as _;
use serde_json::Value;

use crate::place::{Place, Ran};

/// A command line that fails in this place, for each command that has no subcommands.
const FAILING: &[(&str, &str)] = &[
    ("run", "run"),
    ("check", "check --sideways"),
    ("init", "init --url nothing"),
    ("device add", "device add x --role nobody --psk"),
    ("device list", "device list --sideways"),
    ("device show", "device show nobody"),
    ("device remove", "device remove nobody"),
    ("device test", "device test nobody"),
    ("device set", "device set nobody --label x"),
    ("device enable", "device enable nobody"),
    ("device disable", "device disable nobody"),
    ("device rekey", "device rekey nobody --psk"),
    ("device key add", "device key add nobody nothing.pem"),
    ("device key remove", "device key remove nobody 00"),
    ("device key list", "device key list nobody"),
    ("device import", "device import nothing.csv"),
    ("device keygen", "device keygen --sideways"),
    ("send", "send door-7 x 1"),
    ("mailbox list", "mailbox list"),
    ("mailbox show", "mailbox show 7"),
    ("mailbox drop", "mailbox drop 7"),
    ("tail", "tail"),
    ("trace", "trace nobody"),
    ("status", "status"),
    ("usage", "usage"),
    ("reload", "reload"),
    ("acl explain", "acl explain nobody GET x"),
    ("acl test", "acl test nothing.acl"),
    ("import mosquitto", "import mosquitto --conf nothing.conf"),
    ("queue verify", "queue verify --sideways"),
    ("queue import", "queue import nothing"),
    ("queue rejected list", "queue rejected list"),
    ("queue rejected retry", "queue rejected retry"),
    ("queue rejected export", "queue rejected export x"),
    ("queue rejected drop", "queue rejected drop"),
    ("queue skip", "queue skip x"),
    ("cert status", "cert status"),
    ("cert renew", "cert renew nothing"),
    ("cert enroll", "cert enroll nothing"),
    ("cert csr", "cert csr nothing"),
    ("cert install", "cert install nothing nothing"),
    ("cert probe", "cert probe nothing"),
    ("cert rollback", "cert rollback nothing"),
    ("cert history", "cert history nothing"),
    ("update check", "update check"),
    ("update download", "update download"),
    ("update apply", "update apply --sideways"),
    ("update rollback", "update rollback --sideways"),
    ("health", "health --sideways"),
    ("update history", "update history --sideways"),
    ("update hold", "update hold --sideways"),
    ("update release", "update release --sideways"),
    ("update denied list", "update denied list --sideways"),
    ("update denied add", "update denied add"),
    ("update denied clear", "update denied clear --sideways"),
    ("update devices", "update devices"),
    ("update verify", "update verify nothing"),
    ("update metadata", "update metadata --sideways"),
    ("clock trust", "clock trust --sideways"),
    ("clock reset", "clock reset --sideways"),
    ("clock watch", "clock watch --sideways"),
    ("serial list", "serial list --sideways"),
    ("serial trace", "serial trace nothing"),
    ("serial relearn", "serial relearn nothing"),
    ("config show", "config show no.such.key"),
    ("config apply", "config apply nothing.toml"),
    ("config migrate", "config migrate --sideways"),
    ("config confirm", "config confirm"),
    ("config revert", "config revert"),
    ("support-bundle", "support-bundle tombolo.toml"),
    ("backup", "backup tombolo.toml"),
    ("restore", "restore tombolo.toml"),
    ("firstboot", "firstboot --sideways"),
    ("decommission", "decommission"),
    ("demo", "demo --sideways"),
    ("help", "help nothing"),
    ("complete", "complete nothing"),
    ("queue", "queue"),
    ("clock", "clock --sideways"),
];

fn leaves(command: &clap::Command, path: &str, out: &mut Vec<String>) {
    let name = |child: &clap::Command| format!("{path} {}", child.get_name()).trim().to_owned();
    for child in command.get_subcommands() {
        match child.has_subcommands() {
            true => leaves(child, &name(child), out),
            false => out.push(name(child)),
        }
    }
}

#[test]
fn with_json_every_commands_error_is_one_json_object_on_standard_error() {
    let mut all = Vec::new();
    leaves(&tombolo::cli::args::Arguments::command(), "", &mut all);
    for command in &all {
        let is_tried = FAILING.iter().any(|(name, _)| name == command);
        assert!(is_tried, "`{command}` needs a line in FAILING that makes it fail");
    }
    let place = Place::new();
    for (command, line) in FAILING {
        if *command == "run" {
            place.write("conf.d/30-wrong.toml", "[coap\n");
        }
        let ran = place.run(&format!("--json {line}"));
        let _ = fs::remove_file(place.path("conf.d/30-wrong.toml"));
        assert!(ran.status != 0, "{command}: {}{}", ran.out, ran.err);
        assert_eq!(ran.out, "", "{command}");
        assert_eq!(ran.err.lines().count(), 1, "{command}: {}", ran.err);
        let error: Value =
            serde_json::from_str(&ran.err).unwrap_or_else(|_| panic!("{command}: {}", ran.err));
        let code = error["error"]["code"].as_str().unwrap_or_default();
        assert!(["usage", "failed", "configuration"].contains(&code), "{command}: {}", ran.err);
        assert!(
            error["error"]["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{command}: {}",
            ran.err
        );
    }
    for line in ["--json", "--json device", "--json send x", "--json device add --psk x --role sensor"] {
        let ran = place.run(line);
        assert_eq!(ran.status, 2, "{line}");
        let error: Value = serde_json::from_str(&ran.err).unwrap_or_else(|_| panic!("{line}: {}", ran.err));
        assert_eq!(error["error"]["code"], "usage", "{line}");
    }
}

#[test]
fn a_version_that_is_none_or_not_denied_is_said_and_so_is_a_folder_that_is_no_repository() {
    let place = Place::new();
    let blank = place.command("update denied add").arg("x y").output().unwrap();
    let said = String::from_utf8_lossy(&blank.stderr).into_owned();
    assert!(blank.status.code() == Some(2) && said.contains("\"x y\" is no version"), "{said}");
    place.run("update denied add foo").failed(2, &["\"foo\" is no version", "one is like 2.4.1"]);
    place.run("health --wait 3s --steady 10s").failed(2, &["--steady 10s has to be shorter", "--wait 3s"]);
    place.run("update denied add 1.2").fine();
    place.run("update denied clear 1.3").failed(1, &["\"1.3\" is not denied", "denied list"]);
    place.run("update denied clear 1.2").fine();
    place.run("tail --last 129").failed(2, &["the last 128"]);
    if cfg!(feature = "update") {
        place.run("update verify nodir").failed(1, &["nodir: it has no folder metadata"]);
    }
}

#[test]
fn help_of_a_command_is_what_its_option_prints() {
    let place = Place::new();
    for command in ["device add", "queue rejected", "config apply", "check"] {
        let by_option = place.run(&format!("{command} --help")).fine();
        assert_eq!(place.run(&format!("help {command}")).fine(), by_option, "{command}");
    }
    assert_eq!(place.run("help").fine(), place.run("--help").fine());
    place.run("help device nonsense").failed(2, &["no command \"nonsense\"", "tombolo help"]);
}

#[test]
fn names_of_devices_and_roles_complete_also_where_the_configuration_has_faults() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    place.write(
        "conf.d/40-more.toml",
        "[device.window-1]\nrole = \"sensor\"\n[role.broken]\nmax-payload = \n",
    );
    assert_eq!(place.run("complete devices").fine(), "door-7\nwindow-1\n");
    assert_eq!(place.run("complete roles").fine(), "broken\nmute\nsensor\n");
    fs::remove_dir_all(place.path("state")).unwrap();
    assert_eq!(place.run("complete devices").fine(), "window-1\n");
}

#[test]
fn config_show_names_each_value_and_where_it_is_set_and_no_secret() {
    let place = Place::new();
    place.write("secrets/password", "hunter2-hunter2");
    place.write(
        "conf.d/50-site.toml",
        "[upstream]\nurl = \"mqtts://somebody:hunter2-hunter2@broker.example\"\nusername = \"gh\"\n\n\
         password-file = \"../secrets/password\"\n",
    );
    let all = place.run("config show").fine();
    let line = |key: &str| {
        let found = all.lines().find(|line| line.split(' ').next() == Some(key));
        found.unwrap_or_else(|| panic!("no {key} in {all}")).to_owned()
    };
    assert!(line("upstream.password-file").ends_with("50-site.toml:5"), "{all}");
    assert!(
        line("upstream.keep-alive").contains("\"60s\"") && line("upstream.keep-alive").ends_with("default")
    );
    assert!(line("role.sensor.uplink.telemetry.path").ends_with("tombolo.toml:22"), "{all}");
    assert!(!all.contains("hunter2"), "{all}");

    let changed = place.run("config show --changed upstream").fine();
    assert_eq!(changed.lines().count(), 3, "{changed}");
    let json = place.run("config show --json clock.trust").json();
    let shown = &json["settings"]["clock.trust"];
    assert_eq!(shown["value"], "always");
    assert_eq!(shown["default"], false);
    assert!(shown["file"].as_str().unwrap().ends_with("tombolo.toml") && shown["line"].is_u64());
    let id = place.run("config show --json gateway.id").json();
    assert_eq!(id["settings"]["gateway.id"]["default"], true);

    // Of a configuration that cannot be used what can be read is shown, and that it cannot is said.
    place.write("conf.d/60-wrong.toml", "[coap]\nmax-sessions = 0\n");
    let ran = place.run("config show coap");
    assert!(ran.err.contains("60-wrong.toml:2") && ran.err.contains("check"), "{}", ran.err);
    assert!(ran.fine().contains("coap.listen"));
    place.run("config show no.such").failed(1, &["no.such", "config show"]);
}

#[test]
fn a_file_is_applied_under_its_name_and_a_faulty_one_changes_nothing() {
    let place = Place::new();
    place.write("new/50-quota.toml", "[role.sensor.quota]\nmessages = 5\n");
    place.write("new/wrong.toml", "[role.sensor.quota]\nmessages = 0\n");
    place.run("config apply new/50-quota.toml").fine();
    assert_eq!(place.read("conf.d/50-quota.toml"), place.read("new/50-quota.toml"));
    place.run("config apply new/50-quota.toml").failed(1, &["has this content already"]);
    place.run("config apply new/wrong.toml --as 50-quota.toml").failed(
        78,
        &["fail  new/wrong.toml:2", "messages", "nothing was changed: new/wrong.toml cannot be used"],
    );
    assert!(place.read("conf.d/50-quota.toml").contains("messages = 5"));
    place.run("config apply new/wrong.toml --as ../x.toml").failed(2, &["no name of a drop-in"]);
    place.run("config apply new/wrong.toml --as x.conf").failed(2, &["50-site.toml"]);
    place.run("config apply new/50-quota.toml --confirm 5s").failed(2, &["10s to 1day"]);
    // Nobody would go back.
    place.run("config apply new/50-quota.toml --as 51.toml --confirm 10min").failed(1, &["not running"]);
    assert!(!place.path("conf.d/51.toml").exists());
    place.write("new/move.toml", "[paths]\nstate-dir = \"/var/elsewhere\"\n");
    place.run("config apply new/move.toml").failed(1, &["nothing was changed", "state-dir"]);
    // Who may read it stays.
    fs::set_permissions(place.path("conf.d/50-quota.toml"), fs::Permissions::from_mode(0o640)).unwrap();
    place.write("new/50-quota.toml", "[role.sensor.quota]\nmessages = 6\n");
    place.run("config apply new/50-quota.toml").fine();
    assert_eq!(crate::place::mode(&place.path("conf.d/50-quota.toml")), 0o640);
    // The main file.
    let main = place.read("tombolo.toml").replace("8MiB", "9MiB");
    place.write("new/main.toml", &main);
    place.run("config apply new/main.toml --main").fine();
    assert_eq!(place.read("tombolo.toml"), main);
    place.run("config confirm").failed(1, &["no configuration is on trial"]);
    place.run("config revert").failed(1, &["no configuration is on trial"]);
}

/// As if a machine lost power while a file was on trial: the record is of another boot.
fn on_trial_at_a_power_cut(place: &Place, before: Option<&str>) {
    let candidate = "[role.sensor.quota]\nmessages = 5\n";
    place.write("conf.d/50-quota.toml", candidate);
    let record = serde_json::json!({
        "version": 1, "file": place.path("conf.d/50-quota.toml"), "candidate": candidate, "before": before,
        "boot": "00000000000000000000000000000000", "ends_ms": u64::MAX,
    });
    place.write("state/config-trial.json", &record.to_string());
}

#[test]
fn after_a_power_cut_the_configuration_before_the_trial_is_used() {
    let place = Place::new();
    on_trial_at_a_power_cut(&place, Some("[role.sensor.quota]\nmessages = 7\n"));
    let value = |place: &Place| {
        place.run("config show --json role.sensor.quota.messages").json()["settings"]
            ["role.sensor.quota.messages"]["value"]
            .clone()
    };
    assert_eq!(value(&place), 7);
    let check = place.run("check --offline");
    assert_eq!(check.status, 1);
    assert!(
        check.out.contains("not confirmed in time") && check.out.contains("config revert"),
        "{}",
        check.out
    );
    // Kept after all.
    place.run("config confirm").fine();
    assert_eq!(value(&place), 5);
    assert!(!place.path("state/config-trial.json").exists());

    on_trial_at_a_power_cut(&place, None);
    let shown = place.run("config show role.sensor.quota.messages --json").json();
    let shown = &shown["settings"]["role.sensor.quota.messages"];
    assert_eq!((&shown["value"], &shown["default"]), (&60.into(), &true.into()));
    place.run("config revert").fine();
    assert!(!place.path("conf.d/50-quota.toml").exists() && !place.path("state/config-trial.json").exists());

    // Edited by hand since: nobody's trial.
    on_trial_at_a_power_cut(&place, None);
    place.write("conf.d/50-quota.toml", "[role.sensor.quota]\nmessages = 6\n");
    assert_eq!(value(&place), 6);
    assert_eq!(place.run("check --offline").status, 0);
    // A damaged record takes nothing away.
    place.write("state/config-trial.json", "{");
    assert_eq!(value(&place), 6);
    assert!(place.run("check --offline").fine().contains("config-trial.json"));
}

#[test]
fn no_key_was_renamed_so_migrate_changes_nothing() {
    let place = Place::new();
    let before = place.read("tombolo.toml");
    assert!(place.run("config migrate").fine().contains("nothing to do"));
    assert_eq!(place.read("tombolo.toml"), before);
    assert_eq!(place.run("config migrate --json").json()["changed"], serde_json::json!([]));
}

/// The files of an archive: names and contents.
fn untar(place: &Place, file: &str) -> String {
    let folder = place.path("unpacked");
    fs::create_dir_all(&folder).unwrap();
    let done = std::process::Command::new("/usr/bin/tar")
        .args(["xf", place.path(file).to_str().unwrap(), "-C", folder.to_str().unwrap()])
        .status()
        .or_else(|_| std::process::Command::new("/bin/tar").args(["xf", file]).current_dir(&folder).status())
        .unwrap();
    assert!(done.success());
    let mut all = String::new();
    for entry in fs::read_dir(folder.join("tombolo-support")).unwrap() {
        let path = entry.unwrap().path();
        all.push_str(&format!("== {}\n{}\n", path.display(), fs::read_to_string(&path).unwrap()));
    }
    all
}

#[test]
fn a_support_bundle_has_what_helps_and_no_secret() {
    let place = Place::new();
    let secrets = [
        "sesame-sesame-77",
        "hunter2-hunter2",
        "MIGkAgEBBDDkeykeykeykeykeykeykeykeykeykey",
        "0badc0ffee0badc0ffee",
        "query-secret-1",
        "serial-secret-2",
        "serial-secret-3",
    ];
    place.write("door-7.psk", "text:sesame-sesame-77\n");
    place.write("secrets/password", "hunter2-hunter2\n");
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", secrets[2]);
    place.write("gateway.key", &pem);
    place.write("gateway.pem", "nothing");
    place.run_with_input("device add window-1 --role sensor --psk -", b"hex:0badc0ffee0badc0ffee").fine();
    place.write(
        "conf.d/50-site.toml",
        "# the password is hunter2-hunter2\n[upstream]\nurl = \"mqtts://127.0.0.1:1\"\nusername = \"greenhouse-user\"\n\
         password-file = \"../secrets/password\"\ncertificate-file = \"../gateway.pem\"\nkey-file = \"../gateway.key\"\n\
         [device.door-7]\nrole = \"sensor\"\npsk-file = \"../door-7.psk\"\nmqtt-username = \"door-user\"\n\
         [role.sensor.poll.energy]\npath = \"energy\"\nquery = \"unit=kWh&api=query-secret-1\"\nevery = \"1h\"\n\
         [serial.scale]\nport = \"/dev/ttyUSB9\"\nrole = \"sensor\"\npath = \"t/x\"\npoll = \"LOGIN serial-secret-2\\r\"\nwake = \"serial-secret-3\"\n",
    );
    // A file named after a secret, which the listing would show.
    place.write("state/hunter2-hunter2", "sesame-sesame-77");
    place.write("state-update/installation.json", "{\"version\":\"3.0.0-installed\"}");
    place.write("state-update/history.json", "{\"denied\":[\"2.9.9-denied\"]}");
    place.run("support-bundle bundle.tar --offline").fine();
    assert_eq!(crate::place::mode(&place.path("bundle.tar")), 0o600);
    let all = untar(&place, "bundle.tar");
    for secret in secrets {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
    for part in [
        "config.txt",
        "check.json",
        "status.json",
        "queue.json",
        "verify.json",
        "state.txt",
        "update.txt",
        "log.txt",
    ] {
        assert!(all.contains(&format!("{part}\n")), "{part}");
    }
    for what in ["3.0.0-installed", "2.9.9-denied", "== floor", "state-update/installation.json", "disk of "]
    {
        assert!(all.contains(what), "{what}");
    }
    assert!(
        all.contains("greenhouse-user")
            && all.contains("door-user")
            && all.contains("upstream.password-file")
            && all.contains("unit=[removed]&api=[removed]")
            && all.contains("serial.scale.poll"),
        "{all}"
    );
    assert!(all.contains("not running"), "that the daemon is stopped is said");
    assert!(fs::metadata(place.path("bundle.tar")).unwrap().len() < 4 << 20);
    place.run("support-bundle bundle.tar").failed(1, &["exists"]);

    // With a configuration that cannot be used, and names taken out.
    place.write("conf.d/60-wrong.toml", "[coap\npassword = \"hunter2-hunter2\"\n");
    let json = place.run("support-bundle second.tar --offline --hide-names --json").json();
    assert!(json["bytes"].as_u64().unwrap() > 1_000);
    let all = untar(&place, "second.tar");
    assert!(all.contains("60-wrong.toml"), "{all}");
    for gone in secrets.iter().chain(&["greenhouse-user", "window-1", "door-user"]) {
        assert!(!all.contains(gone), "{gone} is in {all}");
    }
}

fn finding(ran: &Ran, level: &str, words: &[&str]) -> bool {
    ran.out.lines().any(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)))
}

#[test]
fn what_could_be_abused_is_found() {
    let place = Place::new();
    let quiet = place.run("check --security");
    assert_eq!(quiet.status, 0, "{}{}", quiet.out, quiet.err);
    assert!(finding(&quiet, "ok", &["listeners", "none without protection"]), "{}", quiet.out);
    assert!(finding(&quiet, "warn", &["role mute", "no device has this role"]), "{}", quiet.out);

    place.write("a.psk", "text:short");
    place.write("b.psk", "text:the-same-key-for-two");
    place.write("c.psk", "text:the-same-key-for-two");
    for name in ["a.psk", "b.psk"] {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(place.path("c.psk"), fs::Permissions::from_mode(0o644)).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(500 * 86_400);
    fs::File::options().write(true).open(place.path("b.psk")).unwrap().set_modified(old).unwrap();
    place.write(
        "conf.d/50-open.toml",
        "[upstream]\nurl = \"mqtt://broker.example\"\ninsecure = true\nusername = \"u\"\n\
         [coap]\ninsecure-listen = [\"0.0.0.0:0\"]\ninsecure-device = \"a\"\n\
         [role.wide.uplink.all]\npath = \"#\"\ntopic = \"all/{path}\"\n\
         [device.a]\nrole = \"wide\"\npsk-file = \"../a.psk\"\n\
         [device.b]\nrole = \"wide\"\npsk-file = \"../b.psk\"\n[device.c]\nrole = \"sensor\"\npsk-file = \"../c.psk\"\n",
    );
    let ran = place.run("check --security");
    assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
    for (level, words) in [
        ("fail", &["upstream.url", "the password can be read"][..]),
        ("fail", &["coap.insecure-listen", "everybody who reaches it can send as a"]),
        ("fail", &["c.psk", "every user of this machine"]),
        ("warn", &["b.psk", "more than a year"]),
        ("warn", &["less than 16 bytes: a"]),
        ("warn", &["the same pre-shared key: b, c"]),
        ("warn", &["role.wide.uplink.all", "without {device}"]),
        ("warn", &["daemon", "not known", "not running"]),
    ] {
        assert!(finding(&ran, level, words), "{words:?} in {}", ran.out);
    }
    assert!(!ran.out.contains("the-same-key"), "{}", ran.out);
}

#[test]
fn a_gateway_is_taken_out_of_service_with_its_keys_and_nothing_else() {
    let place = Place::new();
    let outside = Place::new();
    outside.write("live.key", "somebody else's");
    place.write("door-7.psk", "text:sesame-sesame-77");
    place.write("pw", "hunter2");
    place.run("device add window-1 --role sensor --psk").fine();
    place.write(
        "conf.d/50-site.toml",
        &format!(
            "[gateway]\nid = \"gw\"\n[upstream]\nurl = \"mqtts://127.0.0.1:1\"\nusername = \"u\"\npassword-file = \"../pw\"\n\
             [coap]\nkey-file = \"{}\"\n[device.door-7]\nrole = \"sensor\"\npsk-file = \"../door-7.psk\"\n",
            outside.path("live.key").display()
        ),
    );
    // What was installed, denied and seen is of the owner before, too.
    for name in ["installation.json", "history.json", "floor", "attempt", "packages/a.deb"] {
        place.write(&format!("state-update/{name}"), "x");
    }
    place.run("decommission").failed(2, &["gateway gw", "--yes"]);
    // The broker cannot be reached.
    assert!(place.path("pw").exists() && place.path("state/devices/window-1.toml").exists());
    let ran = place.run("decommission --yes --offline");
    assert_eq!(ran.status, 0, "{}{}", ran.out, ran.err);
    assert!(!place.path("pw").exists() && !place.path("door-7.psk").exists());
    assert_eq!(fs::read_dir(place.path("state")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path("state-update")).unwrap().count(), 0);
    assert_eq!(outside.read("live.key"), "somebody else's");
    assert!(
        ran.err.contains("live.key") && ran.err.contains("was left") && ran.err.contains("flash"),
        "{}",
        ran.err
    );
    assert!(place.path("tombolo.toml").exists() && place.path("conf.d/50-site.toml").exists());
}

/// The two ends of a new pseudo-terminal, and the program's standard output or error on it.
fn on_terminal(
    place: &Place,
    line: &str,
    term: &str,
    no_color: bool,
    error: bool,
) -> (std::process::Child, fs::File) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = place.command(line);
    command.env("TERM", term).stdin(std::process::Stdio::null());
    if no_color {
        command.env("NO_COLOR", "1");
    }
    match error {
        true => command.stdout(std::process::Stdio::null()).stderr(pty.slave),
        false => command.stdout(pty.slave).stderr(std::process::Stdio::null()),
    };
    let child = command.spawn().unwrap();
    drop(command);
    (child, fs::File::from(pty.master))
}

/// What comes until it has `words`, or until the terminal is closed.
fn read_until(master: &mut fs::File, words: &str) -> String {
    use std::io::Read as _;
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while !words.is_empty() && !String::from_utf8_lossy(&text).contains(words) || words.is_empty() {
        match master.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn colours_are_on_a_terminal_only_and_can_be_refused() {
    let place = Place::new();
    let shown = |term: &str, no_color: bool| {
        let (mut child, mut master) = on_terminal(&place, "check --offline", term, no_color, false);
        let text = read_until(&mut master, "");
        child.wait().unwrap();
        text
    };
    assert!(shown("xterm", false).contains("\x1b[32mok\x1b[0m"));
    assert!(!shown("xterm", true).contains('\x1b'));
    assert!(!shown("dumb", false).contains('\x1b'));
    assert!(!place.run("check --offline").out.contains('\x1b'));
}

#[test]
fn what_takes_longer_than_a_second_shows_progress_on_a_terminal_and_erases_it() {
    let place = Place::new();
    // Accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtts://{}", silent.local_addr().unwrap());
    place.write("conf.d/50-site.toml", &format!("[gateway]\nid = \"gw\"\n[upstream]\nurl = \"{url}\"\n"));
    let (mut child, mut master) = on_terminal(&place, "check", "xterm", false, true);
    let text = read_until(&mut master, "checking …");
    assert!(text.contains("checking …"), "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
    // With --json, and in a pipe, nothing is there but the result.
    let (mut child, mut master) = on_terminal(&place, "check --json --offline", "xterm", false, true);
    assert_eq!(read_until(&mut master, ""), "");
    child.wait().unwrap();
}

/// What bash offers at the end of a line; its helper, which comes with the package bash-completion,
/// is replaced by what it does here.
fn completed(place: &Place, words: &[&str]) -> Vec<String> {
    let script = r#"
        _init_completion() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
        source "$1"; shift
        PATH=$1:$PATH; shift
        COMP_WORDS=(tombolo "$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _tombolo
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/completions/bash/tombolo");
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_tombolo")).parent().unwrap();
    let config = place.path("tombolo.toml");
    let output = std::process::Command::new("bash")
        .args(["-c", script, "bash", file, folder.to_str().unwrap(), "--config", config.to_str().unwrap()])
        .args(words)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_the_names_of_the_configuration_on_the_line() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    assert_eq!(completed(&place, &["device", "add", "x", "--role", ""]), ["mute", "sensor"]);
    assert_eq!(completed(&place, &["device", "show", "do"]), ["door-7"]);
    assert_eq!(completed(&place, &["tail", "door"]), ["door-7"]);
    assert_eq!(completed(&place, &["config", ""]), ["show", "apply", "confirm", "revert", "migrate"]);
    assert_eq!(completed(&place, &["deco"]), ["decommission"]);
}
