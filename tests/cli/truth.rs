//! What is said to a user without rights, and the commands that are printed.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::place::Place;

/// Runs the binary as the user nobody; `None` where this process may not become that user.
fn as_nobody(place: &Place, line: &str) -> Option<(i32, String)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let output = Command::new("/usr/bin/setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_tombolo"))
        .arg("--config")
        .arg(place.path("tombolo.toml"))
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .env_clear()
        .output()
        .expect("setpriv is part of util-linux");
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}

fn close(place: &Place, name: &str) {
    std::fs::set_permissions(place.path(name), std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_user_without_rights_is_told_so_and_the_broker_is_not_tried_with_another_client_id() {
    let place = Place::new();
    place.write("state/gateway-id", "tb-abcdefgh\n");
    place.write("conf.d/10.toml", "[upstream]\nurl = \"mqtt://127.0.0.1:1\"\ninsecure = true\n");
    close(&place, "state");
    let Some((status, text)) = as_nobody(&place, "check") else { return };
    assert_eq!(status, 1, "{text}");
    let line =
        text.lines().find(|line| line.starts_with("fail  state: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("state may not be read by this user") && line.contains("as root or as"), "{line}");
    let line =
        text.lines().find(|line| line.starts_with("fail  upstream: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("the broker is not tried") && line.contains("client id"), "{line}");
    assert!(
        !text.contains("gateway id") && !text.contains("damaged") && !text.contains("upstream tcp"),
        "{text}"
    );
    // Root sees all of it.
    let ran = place.run("check");
    assert!(ran.out.contains("gateway tb-abcdefgh") && ran.out.contains("upstream tcp"), "{}", ran.out);
}

#[test]
fn a_reserved_port_of_an_unprivileged_user_fails_with_the_way_out() {
    let place = Place::new();
    place.write("conf.d/10.toml", "[coap]\nlisten = [\"127.0.0.1:683\"]\n");
    for name in ["state", "run"] {
        std::fs::create_dir_all(place.path(name)).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(place.path(name), Some(65534), Some(65534)).unwrap();
        }
    }
    let from = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if from.trim().parse::<u16>().is_ok_and(|from| from <= 683) {
        return; // here every user may have it
    }
    let Some((status, text)) = as_nobody(&place, "check --offline") else { return };
    assert_eq!(status, 1, "{text}");
    let line =
        text.lines().find(|line| line.starts_with("fail  ports: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("127.0.0.1:683 may not be had by this user"), "{line}");
    assert!(line.contains("5684") && line.contains("ip_unprivileged_port_start=683"), "{line}");
    // Root, which may, knows that the owner of this gateway may not.
    let ran = place.run("check --offline");
    let line = ran.out.lines().find(|line| line.contains("127.0.0.1:683")).unwrap();
    assert!(line.starts_with("warn") && line.contains("may not be had by"), "{line}");
}

#[test]
fn an_access_list_decides_what_the_service_may_read() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["ca".to_owned()]).unwrap().self_signed(&key).unwrap();
    place.write("ca.pem", &certificate.pem());
    place.write("conf.d/10.toml", "[upstream]\nurl = \"mqtts://localhost\"\nca-file = \"../ca.pem\"\n");
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    std::fs::create_dir_all(place.path("state")).unwrap();
    std::os::unix::fs::chown(place.path("state"), Some(65534), Some(65534)).unwrap();
    std::fs::set_permissions(place.path("ca.pem"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let closed = |out: &str| out.lines().any(|line| line.starts_with("fail") && line.contains("ca.pem"));
    let ran = place.run("check --offline");
    assert!(closed(&ran.out), "the owner alone may read it: {}", ran.out);
    // setfacl -m u:65534:r, which sets the mask to r: version 2, then tag, permissions and id each.
    let list = |named: u8, mask: u8| {
        let undefined = [0xFF; 4];
        let mut value = vec![2, 0, 0, 0];
        for (tag, permissions, id) in [
            (0x01, 6, undefined),
            (0x02, named, 65534u32.to_le_bytes()),
            (0x04, 0, undefined),
            (0x10, mask, undefined),
            (0x20, 0, undefined),
        ] {
            value.extend_from_slice(&[tag, 0, permissions, 0]);
            value.extend_from_slice(&id);
        }
        value
    };
    let set = |value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(place.path("ca.pem"), "system.posix_acl_access", value, flags)
    };
    if set(&list(4, 4)).is_err() {
        return; // this file system has no access lists
    }
    let ran = place.run("check --offline");
    assert!(!closed(&ran.out), "{}", ran.out);
    assert!(ran.out.contains("ca.pem has 1 CA certificate"), "{}", ran.out);
    set(&list(4, 0)).unwrap();
    assert!(closed(&place.run("check --offline").out), "the mask takes it away");
}

#[test]
fn the_journal_is_verified_whatever_is_wrong_elsewhere_and_who_may_not_look_is_told_so() {
    let place = Place::new();
    place.write("conf.d/10.toml", "[upstream]\nurl = \"http://nonsense\"\n[device.a]\nrole = 7\n");
    place.run("queue verify").failed(1, &["there is no journal in", "first start makes it"]);
    std::fs::create_dir_all(place.path("state/journal")).unwrap();
    close(&place, "state");
    let Some((status, text)) = as_nobody(&place, "queue verify") else { return };
    assert_eq!(status, 1, "{text}");
    assert!(
        text.contains("state/journal may not be read by this user") && !text.contains("no journal"),
        "{text}"
    );
    place.write("conf.d/20.toml", "[journal]\nmax-bytes = \"1B\"\n");
    place.run("queue verify").failed(78, &["20.toml: journal.max-bytes"]);
}

/// Commands of ours without the configuration in use.
fn bare(text: &str) -> Vec<String> {
    let commands = tombolo::telemetry::hint::COMMANDS;
    let after = text.match_indices("tombolo ").map(|(at, found)| &text[at + found.len()..]);
    let words =
        after.map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or(""));
    words.filter(|word| commands.contains(word)).map(str::to_owned).collect()
}

#[test]
fn every_printed_command_names_the_configuration_in_use() {
    let place = Place::new();
    place.write("state/devices/broken.toml", "x");
    for line in [
        "check --offline",
        "check",
        "status",
        "status --json",
        "reload",
        "reload --json",
        "queue",
        "queue rejected list",
        "queue rejected drop seven",
        "tail",
        "clock",
        "clock reset",
        "device list",
        "device show nope",
        "device remove nope",
        "device add broken --role sensor --psk",
        "device add --psk door-7 --role sensor",
        "device add --psk door-7 --role sensor --json",
        "device add door-7 --role sensor --psk",
        "device add door-7 --role sensor --psk",
        "device remove door-7",
        "acl explain nope POST t/x",
        "send door-7 x 1",
        "send door-7 x 1 --json",
        "mailbox list",
        "mailbox show 7",
        "init --url mqtts://broker.example.com",
        "init --url mqtts://broker.example.com",
        "check --offline --json",
        "config apply none.toml",
        "config show",
        "config migrate",
        "trace door-7",
        "device test door-7",
        "cert status",
        "serial trace none",
        "queue verify",
        "queue import none",
        "acl explain door-7 GET t/x",
        "support-bundle tombolo.toml",
        "support-bundle none/x.tar",
        "decommission",
        "--config none/none.toml status",
    ] {
        let ran = place.run(line);
        let text = format!("{}{}", ran.out, ran.err);
        assert!(bare(&text).is_empty(), "{line}: {:?} in\n{text}", bare(&text));
        for word in ["systemctl", "journalctl", "sudo", "adduser", "(os error", "Os {", "Some(", "Error("] {
            assert!(!text.contains(word), "{line}: {word} in\n{text}");
        }
        if line.ends_with("--json") && ran.status != 0 && !ran.err.is_empty() {
            let object: serde_json::Value =
                serde_json::from_str(&ran.err).unwrap_or_else(|_| panic!("{line}: {}", ran.err));
            assert!(object["error"]["message"].is_string(), "{line}: {object}");
        }
    }
}

#[test]
fn who_may_not_read_is_told_without_numbers_of_errors_and_without_words_of_the_service() {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    place.write("conf.d/10.toml", "[upstream]\nurl = \"mqtts://127.0.0.1:1\"\nca-file = \"../ca/ca.pem\"\n");
    place.write("ca/ca.pem", "");
    close(&place, "state");
    close(&place, "ca");
    for line in [
        "check --offline",
        "check",
        "status",
        "reload",
        "device list",
        "device show door-7",
        "device add door-8 --role sensor --psk",
        "device remove door-7",
        "queue",
        "queue verify",
        "clock",
        "config show",
        "config apply tombolo.toml --as 90-x.toml",
        "init --url mqtts://broker.example.com --force",
        "decommission --yes --offline",
        "support-bundle x.tar",
    ] {
        let Some((_, text)) = as_nobody(&place, line) else { return };
        for word in ["systemctl", "journalctl", "sudo", "adduser", "(os error", "Os {", "Some(", "PathBuf"] {
            assert!(!text.contains(word), "{line}: {word} in\n{text}");
        }
    }
}

#[test]
fn every_command_that_a_message_names_exists() {
    let mut named = 0;
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in lines.filter(|line| line.contains("`tombolo ")) {
                for (at, found) in line.match_indices("`tombolo ") {
                    let word =
                        line[at + found.len()..].split(|c: char| !c.is_ascii_lowercase() && c != '-').next();
                    let word = word.unwrap_or_default();
                    let is_known = tombolo::telemetry::hint::COMMANDS.contains(&word);
                    assert!(
                        is_known
                            || ["", "--help", "--config", "fleet-devices", "demo", "help"].contains(&word),
                        "{}: {line}",
                        path.display()
                    );
                    named += 1;
                }
            }
        }
    }
    assert!(named > 50, "{named}");
}

#[test]
fn init_cites_no_line_of_a_file_that_it_has_not_written() {
    let place = Place::new();
    let ran = place.run("init --url mqtts://broker.example.com --ca-file none.pem");
    assert_eq!(ran.status, 78, "{}", ran.err);
    assert!(
        ran.err.contains("upstream.ca-file: ") && ran.err.contains("none.pem does not exist"),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains("10-site.toml"), "{}", ran.err);
}

#[test]
fn drop_ins_do_not_replace_a_main_file_that_is_named_and_its_absence_is_all_that_is_said() {
    let place = Place::new();
    let main =
        place.read("tombolo.toml").replace("\"state\"", "\"../state\"").replace("\"run\"", "\"../run\"");
    place.write("conf.d/10.toml", &main);
    std::fs::remove_file(place.path("tombolo.toml")).unwrap();
    let ran = place.run("check --offline");
    assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
    assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
    assert!(ran.out.starts_with("fail") && ran.out.contains("tombolo.toml: configuration: does not exist"));
}

#[test]
fn a_device_whose_role_is_disabled_is_explained_by_that() {
    let place = Place::new();
    place.write(
        "conf.d/10.toml",
        "[role.other]\nmax-payload = \"1MiB\"\n[role.other.uplink.x]\npath = \"t/#\"\n",
    );
    place.write("d.psk", "text:sesame-sesame");
    place.write("conf.d/20.toml", "[device.door-7]\nrole = \"other\"\npsk-file = \"../d.psk\"\n");
    let ran = place.run("acl explain door-7 POST t/x");
    assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
    assert!(
        ran.out.contains("a fault disables device door-7") && ran.out.contains("10.toml:2"),
        "{}",
        ran.out
    );
}

#[test]
fn what_listens_on_this_machine_alone_is_tried_there() {
    let place = Place::new();
    let said = place.run("device add door-7 --role sensor --psk").fine();
    assert!(said.contains("try it, on this machine") && !said.contains("any machine"), "{said}");
    place.write("conf.d/10.toml", "[coap]\nlisten = [\"[::]:0\"]\n");
    let said = place.run("device add door-8 --role sensor --psk").fine();
    assert!(said.contains("try it, on any machine"), "{said}");
}

#[test]
fn the_settings_of_a_line_are_named_where_the_port_is_in_the_network() {
    let place = Place::new();
    place.write(
        "conf.d/10.toml",
        "[serial.bus]\nport = \"modbus-tcp://192.0.2.1\"\nbaud = 9600\n\
         [serial.bus.unit.1]\nid = \"m\"\nrole = \"sensor\"\npath = \"t/m\"\n\
         register.v = { address = 0 }\n",
    );
    let ran = place.run("check --offline");
    assert!(ran.out.contains("serial.bus.baud: without effect"), "{}", ran.out);
}

#[test]
fn the_package_does_not_adopt_an_account_of_a_person() {
    let place = Place::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/deb/debian/tombolo.preinst");
    let install = |action: &str, account: &str| {
        place.write("bin/getent", &format!("{account}\n"));
        // The script is read by sh, not run: another test's child may hold it open.
        let line = format!(
            "getent() {{ [ \"$1\" = passwd ] && . {}/getent; }}; set -- {action}; . {script}",
            place.path("bin").display()
        );
        let output = Command::new("/bin/sh").args(["-c", &line]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let account = |uid: u32, shell: &str| format!("echo tombolo:x:{uid}:{uid}::/var/lib/tombolo:{shell}");
    assert_eq!(install("install", "true").0, Some(0), "there is none");
    assert_eq!(install("install", &account(998, "/usr/sbin/nologin")).0, Some(0), "a system user");
    let person = account(1000, "/bin/bash");
    assert_eq!(install("upgrade", &person).0, Some(0), "what is installed is not broken");
    let (status, said) = install("install", &person);
    assert_eq!(status, Some(1));
    assert!(said.contains("a person's account") && said.contains("usermod"), "{said}");
}

#[test]
fn a_configuration_that_does_not_exist_is_never_another_gateways() {
    let place = Place::new();
    for line in ["status", "reload", "tail", "queue rejected drop --all", "device test x", "trace x"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
        command.arg("--config").arg(place.path("none/tombolo.toml")).args(line.split_whitespace());
        let output = command.stdin(Stdio::null()).env_clear().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains("none/tombolo.toml does not exist"), "{line}: {said}");
        assert!(said.contains("/none/tombolo.toml init --url") && !said.contains("/run/tombolo"), "{said}");
    }
}

#[test]
fn no_line_of_the_log_shows_a_value_as_the_source_writes_it() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for call in text.split("log::").skip(1) {
                let level = call.split('!').next().unwrap_or_default();
                if !["error", "warn", "info", "debug"].contains(&level) {
                    continue;
                }
                seen += 1;
                let fields = call.split(';').next().unwrap_or_default();
                assert!(!fields.contains(":? ="), "{}: log::{fields}", path.display());
            }
        }
    }
    assert!(seen > 80, "{seen}");
}

/// As [`close`], for the user nobody alone.
fn give_to_nobody(place: &Place, names: &[&str]) {
    for name in names {
        std::fs::create_dir_all(place.path(name)).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(place.path(name), Some(65534), Some(65534)).unwrap();
        }
    }
}

#[test]
fn files_of_root_in_the_state_of_another_user_fail_with_the_command_that_gives_them_back() {
    let place = Place::new();
    give_to_nobody(&place, &["state", "run"]);
    let Some((status, text)) = as_nobody(&place, "check --offline") else { return };
    assert!(status == 0 && text.contains("ok    state: its files are in order"), "{text}");
    for name in ["state/journal", "state/journal/normal"] {
        std::fs::create_dir_all(place.path(name)).unwrap();
        close(&place, name);
        let root = place.run("check --offline").out;
        let nobody = as_nobody(&place, "check --offline").unwrap().1;
        for text in [&root, &nobody] {
            let line = text
                .lines()
                .find(|line| line.starts_with("fail  state: "))
                .unwrap_or_else(|| panic!("{text}"));
            assert!(line.contains(&format!("{name} belongs to root")), "{line}");
            assert!(line.contains("chown -R nobody: ") && line.ends_with("/state"), "{line}");
            assert!(!text.contains("its files are in order"), "{text}");
        }
        // The next one is found below it.
        give_to_nobody(&place, &[name]);
    }
    // A single segment is enough.
    place.write("state/journal/normal/00000000000000000001.seg", "x");
    let segment = "state/journal/normal/00000000000000000001.seg";
    std::fs::set_permissions(place.path(segment), std::fs::Permissions::from_mode(0o600)).unwrap();
    let (_, text) = as_nobody(&place, "check --offline").unwrap();
    assert!(text.contains(".seg belongs to root"), "{text}");
    // The start names the way out, too.
    close(&place, "state/journal");
    std::os::unix::fs::chown(place.path("state/journal"), Some(0), Some(0)).unwrap();
    let (status, text) = as_nobody(&place, "run").unwrap();
    assert!(status == 1 && text.contains("chown -R USER: ") && text.contains("state/journal"), "{text}");
}

/// Runs the gateway until it is ready, then ends it.
fn start_and_stop(place: &Place) {
    use std::io::BufRead as _;
    let mut daemon = place.command("run");
    let mut daemon =
        daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufReader::new(daemon.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let is_ready = lines.any(|line| line.contains("ready"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    lines.for_each(drop);
    assert!(daemon.wait().unwrap().success() && is_ready);
}

#[test]
fn a_gateway_that_root_ran_in_the_folder_of_another_user_leaves_it_usable() {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::new();
    std::fs::remove_dir_all(place.path("run")).unwrap();
    give_to_nobody(&place, &[".", "state"]);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    start_and_stop(&place);
    let mut folders = vec![place.path("state"), place.path("run")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(std::fs::metadata(&folder).unwrap().uid(), 65534, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let about = entry.path().symlink_metadata().unwrap();
            seen += 1;
            // The socket goes with its daemon.
            assert!(about.uid() == 65534 || folder.ends_with("run"), "{}", entry.path().display());
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert!(seen > 5, "{seen}");
    let (status, text) = as_nobody(&place, "check --offline").unwrap();
    assert!(status == 0 && text.contains("its files are in order"), "{text}");
}

#[test]
fn what_a_user_may_not_read_is_not_taken_for_absent() {
    let place = Place::new();
    place.write("conf.d/10.toml", "[upstream]\nurl = \"mqtt://127.0.0.1:1\"\ninsecure = true\n");
    place.run("device add door-7 --role sensor --psk").fine();
    close(&place, "state");
    let closed = "may not be read by this user";
    for (line, status, never) in [
        ("device remove door-7", 1, "no device"),
        ("device add door-7 --role sensor --psk", 1, "no role"),
        ("acl explain door-7 POST t/x", 1, "no device"),
        ("config confirm", 1, "no configuration is on trial"),
        ("config revert", 1, "no configuration is on trial"),
        ("decommission --yes --offline", 1, "first stop it"),
        ("support-bundle --hide-names x.tar", 1, "look through it"),
        ("config show journal.max-bytes", 0, "dmesg"),
        ("config show upstream.client-id", 0, "tb-not-started"),
        ("check --offline", 1, "tb-not-started"),
        ("check --security", 1, "no device has this role"),
        ("check --security", 1, "ok    secrets"),
        ("check --security", 1, "ok    keys"),
    ] {
        let Some((ended, text)) = as_nobody(&place, line) else { return };
        assert!(ended == status && text.contains(closed), "{line}: {ended}\n{text}");
        assert!(!text.contains(never), "{line}: {text}");
    }
    let (_, text) = as_nobody(&place, "config show journal.max-bytes").unwrap();
    assert!(!text.contains("fail"), "{text}");
}

#[test]
fn a_state_directory_that_this_user_cannot_make_fails() {
    let place = Place::new();
    std::fs::remove_dir_all(place.path("state")).unwrap();
    give_to_nobody(&place, &["run"]);
    let Some((status, text)) = as_nobody(&place, "check --offline") else { return };
    let line = text.lines().find(|line| line.starts_with("fail  state directory: "));
    assert!(status == 1 && line.is_some_and(|line| line.contains("cannot be made by this user")), "{text}");
    give_to_nobody(&place, &["."]);
    let (status, text) = as_nobody(&place, "check --offline").unwrap();
    assert!(status == 0 && text.contains("the gateway's first start makes it"), "{text}");
}
