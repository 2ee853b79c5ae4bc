//! The program that installs, and the one that judges, between a real daemon, a real mosquitto and
//! the repositories: what is installed, what is refused though the daemon's user wants it, what
//! becomes of a version that does not work.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tombolo::update::floor::Floor;
use tombolo::update::io::floor::{on_disk, read};
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber, wait_for, wait_within};

use crate::gateway::server;

mod room;
mod service;

const STATE: &str = "state/update";
const ROOT: &str = "state-update";
const TOPIC: &str = "tombolo/gw/gateway/update";

struct Site {
    daemon: Daemon,
    witness: Subscriber,
    broker: Mosquitto,
    folder: Folder,
}

/// What RAUC says of the version in the file `version`.
const RAUC: &str = r#"#!/bin/sh
# A mock of RAUC's client: what it is asked is in `rauc.log`; `rauc.fault` is what it fails by.
here=${0%/bin/rauc}
echo "$*" >>"$here/rauc.log"
case $1 in
    info) echo "{\"compatible\":\"acme-gw2\",\"version\":\"$(cat "$here/bundle" 2>/dev/null || echo 3.0.0)\"}"; exit ;;
    install)
        [ ! -e "$here/rauc.fault" ] || {
            echo ' 20% Checking bundle'; cat "$here/rauc.fault"; echo "Installing \`$2' failed" >&2; exit 1
        }
        printf 'installing\n  0%% Installing\n 40%% Copying image\n100%% Installing done.\n'
        cp "$2" "$here/slot"; exit ;;
    status) ;;
    *) exit 2 ;;
esac
case ${2:-} in
    mark-*) [ ! -e "$here/rauc.fault" ] || { cat "$here/rauc.fault" >&2; exit 1; } ;;
    *) cat <<END
{"compatible":"acme-gw2","booted":"A","slots":[{"rootfs.0":{"state":"booted","bootname":"A",
 "slot_status":{"bundle":{"version":"$(cat "$here/version")"}}}}]}
END
esac
"#;

/// An integrator's program: what it is called with is in `backend.log`; `backend.status` is how it
/// ends.
const BACKEND: &str = r#"#!/bin/sh
here=${0%/update-backend}
echo "$* version=$TOMBOLO_VERSION previous=$TOMBOLO_PREVIOUS target=$TOMBOLO_TARGET sha256=$TOMBOLO_SHA256" >>"$here/backend.log"
status=$(cat "$here/backend.status" 2>/dev/null || echo 0)
case $status in
    0) ;;
    10) [ "$1" != install ] || cp "$2" "$here/slot"; exit 10 ;;
    *) echo 'the slot is locked' >&2; exit "$status" ;;
esac
case $1 in
    install)
        while [ -e "$here/backend.waits" ]; do sleep 0.1; done
        echo 50; cp "$2" "$here/slot"; echo "$TOMBOLO_VERSION" >"$here/version" ;;
    roll-back) echo "$TOMBOLO_PREVIOUS" >"$here/version" ;;
esac
"#;

/// A gateway that runs 1.0.0.
fn site(name: &str, repository: &str, backend: &str) -> Site {
    let folder = Folder::new(name);
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p");
    fs::create_dir(folder.join("bin")).unwrap();
    folder.script("bin/rauc", RAUC);
    folder.script("bin/systemctl", "#!/bin/sh\necho \"$*\" >>\"${0%/bin/systemctl}/systemctl.log\"\n");
    folder.script("update-backend", BACKEND);
    folder.write("version", "1.0.0");
    let binary = Path::new(env!("CARGO_BIN_EXE_tombolo"));
    let mut daemon = Daemon::start(binary, &folder, broker.tls_port, &pki.ca(), "");
    daemon.stop();
    daemon.environment.push(("PATH".to_owned(), path(&folder)));
    let mut site = Site { daemon, witness, broker, folder };
    site.configure(repository, backend, "");
    site.daemon.resume();
    wait_for("the broker", || site.daemon.status()["upstream"]["connected"] == true);
    site
}

fn path(folder: &Folder) -> String {
    format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap())
}

impl Site {
    fn configure(&self, repository: &str, backend: &str, more: &str) {
        fs::create_dir_all(self.folder.join("conf.d")).unwrap();
        let of = server().folder();
        fs::copy(of.join("root.json"), self.folder.join("root.json")).unwrap();
        fs::copy(of.join("ca.pem"), self.folder.join("updates-ca.pem")).unwrap();
        let table = format!(
            "[update]\nsource = \"tuf\"\nurl = \"https://127.0.0.1:{}/{repository}/\"\nroot-file = \"../root.json\"\n\
             ca-file = \"../updates-ca.pem\"\nperiod = \"1h\"\nbackend = \"{backend}\"\n{more}\n",
            server().port()
        );
        self.folder.write("conf.d/50-update.toml", table);
    }

    /// As root runs it: exit status, and all it prints.
    fn root(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tombolo"))
            .arg("--config")
            .arg(self.daemon.config())
            .args(arguments)
            .env("PATH", path(&self.folder))
            // What is in the environment counts for nothing.
            .env("TOMBOLO_UPDATE__URL", "https://127.0.0.1:1/other/")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    fn apply(&self) -> (i32, String) {
        self.root(&["update", "apply"])
    }

    /// Applies, and is refused for that.
    fn refused(&self, why: &str) {
        let before = self.text("version");
        let (code, text) = self.apply();
        assert!(text.contains(why), "{why}: {code} {text}");
        assert_eq!(self.text("version"), before, "{text}");
        assert!(!self.folder.join(ROOT).join("image").exists(), "a copy is left: {text}");
    }

    fn health(&self, wait: &str) -> (i32, Value) {
        let (code, text) = self.root(&["health", "--wait", wait, "--steady", "1s", "--json"]);
        let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
        (code, serde_json::from_str(line).unwrap_or_else(|_| panic!("{text}")))
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default().trim().to_owned()
    }

    fn ready(&self) {
        let (code, text) = self.daemon.command(&["update", "check"]);
        assert_eq!(code, 0, "{text}");
        wait_for("the image", || self.daemon.status()["update"]["state"] == "ready");
    }

    fn shows(&self, state: &str, reason: &str) {
        wait_within(Duration::from_secs(40), state, || {
            let update = self.daemon.status()["update"].clone();
            update["state"] == state && update["reason"].as_str().unwrap_or_default().contains(reason)
        });
    }

    fn is_told(&self, state: &str, reason: &str) {
        wait_within(Duration::from_secs(40), state, || {
            let lines = self.witness.lines();
            let told = lines.iter().rev().find_map(|line| line.strip_prefix(TOPIC)).unwrap_or_default();
            let told: Value = serde_json::from_str(told.trim()).unwrap_or_default();
            told["state"] == state && told["reason"].as_str().unwrap_or_default().contains(reason)
        });
    }

    fn record(&self) -> Value {
        serde_json::from_str(&self.text("state-update/installation.json")).unwrap_or_default()
    }

    /// As after a reboot into the version in the file `version`.
    fn rebooted_into(&self, version: &str) {
        self.folder.write("version", version);
        for name in ["installation.json", "installation.json.copy"] {
            let mut record = self.record();
            record["boot"] = "another".into();
            self.folder.write(&format!("{ROOT}/{name}"), record.to_string());
        }
    }

    fn history(&self) -> String {
        self.daemon.command(&["update", "history"]).1
    }
}

#[test]
fn a_version_is_found_asked_for_installed_by_root_judged_and_confirmed() {
    let site = site("install-exec", "large", "exec");
    site.ready();
    // The daemon asks, and nobody takes it here.
    wait_for("the request", || site.folder.join(STATE).join("request").exists());
    assert_eq!(site.text("version"), "1.0.0", "the daemon installs nothing");
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 3.0.0 is installed"), "{text}");
    let image = fs::read(site.folder.join("slot")).unwrap();
    assert_eq!((image.len(), &image[..14]), (200_000, &b"firmware 3.0.0"[..]));
    let called = site.text("backend.log");
    let copy = site.folder.join("state-update/image").display().to_string();
    assert!(
        called.starts_with(&format!("install {copy} version=3.0.0 previous=1.0.0 target=gateway-3.0.0.bin")),
        "{called}"
    );
    assert!(!Path::new(&copy).exists(), "the copy is deleted");
    // A check right after it knows of it.
    let (code, text) = site.daemon.command(&["update", "check", "--json"]);
    assert!(code == 0 && text.contains(r#""state":"pending""#), "{text}");
    site.is_told("pending", "version 3.0.0");
    // Twice asked for, it is not installed twice.
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 3.0.0 runs, and is judged"), "{text}");

    let (code, seen) = site.health("30s");
    assert_eq!(
        (code, &seen["verdict"], &seen["connected"]),
        (0, &"confirmed".into(), &true.into()),
        "{seen}"
    );
    assert!(site.text("backend.log").contains("mark-good version=3.0.0"));
    assert_eq!(site.daemon.command(&["update", "check"]).0, 0);
    site.shows("up-to-date", "");
    let history = site.history();
    for what in ["3.0.0  downloaded", "3.0.0  installing", "3.0.0  confirmed"] {
        assert!(history.contains(what), "{what}: {history}");
    }
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("nothing newer"), "{text}");

    // By the owner's word back to the version before; the other one is denied from then on.
    let (code, text) = site.root(&["update", "rollback"]);
    assert!(code == 0 && text.contains("3.0.0 is denied"), "{text}");
    assert_eq!(site.text("version"), "1.0.0");
    site.refused("version 3.0.0: it is denied here");
    let (_, text) = site.daemon.command(&["update", "denied", "list"]);
    assert!(text.contains("3.0.0"), "{text}");
    let (code, text) = site.root(&["update", "denied", "clear", "3.0.0"]);
    assert!(code == 0 && !text.contains("3.0.0"), "{text}");
    wait_for("the end of the denial", || site.daemon.status()["update"]["denied"] == serde_json::json!([]));
    // The floor: what was good once is the least that is installed.
    site.configure("newer", "exec", "");
    site.refused("older than 3.0.0");
}

#[test]
fn what_the_daemons_user_puts_in_the_way_is_refused_by_its_name_and_nothing_is_installed() {
    let mut site = site("install-distrust", "large", "exec");
    site.ready();
    site.daemon.stop();
    let image = site.folder.join(STATE).join("image");
    let signed = fs::read(&image).unwrap();
    let secret = site.folder.write("secret", &signed);
    let put = |act: &dyn Fn()| {
        let _ = fs::remove_file(&image);
        let _ = fs::remove_dir(&image);
        act();
    };
    put(&|| symlink(&secret, &image).unwrap());
    site.refused("symbolic link");
    put(&|| fs::hard_link(&secret, &image).unwrap());
    site.refused("hard link");
    put(&|| assert!(Command::new("mkfifo").arg(&image).status().unwrap().success()));
    site.refused("not a file");
    put(&|| fs::create_dir(&image).unwrap());
    site.refused("not a file");
    put(&|| fs::write(&image, b"evil").unwrap());
    site.refused("not the image that was signed");
    let mut other = signed.clone();
    other[100] ^= 1;
    put(&|| fs::write(&image, &other).unwrap());
    site.refused("not the image that was signed");
    other.clone_from(&signed);
    other.push(0);
    put(&|| fs::write(&image, &other).unwrap());
    site.refused("not the image that was signed");
    put(&|| {});
    site.refused("its image is not here");
    assert_eq!(site.text("backend.log"), "", "nothing was handed to what installs");
    put(&|| fs::write(&image, &signed).unwrap());

    // Its folder is another one.
    let (folder, moved) = (site.folder.join(STATE), site.folder.join("moved"));
    fs::rename(&folder, &moved).unwrap();
    symlink(&moved, &folder).unwrap();
    site.refused("is refused: ");
    // Nor do the commands that work without the daemon write through the link.
    let before = fs::read_dir(&moved).unwrap().count();
    let commands: [&[&str]; 6] =
        [&["hold"], &["release"], &["denied", "add", "9.9"], &["denied", "list"], &["history"], &["check"]];
    for command in commands {
        let arguments: Vec<&str> = ["update"].iter().chain(command).copied().collect();
        let (code, text) = site.root(&arguments);
        assert!(code == 1 && text.contains("symbolic link"), "{command:?}: {text}");
    }
    let (_, text) = site.root(&["check"]);
    assert!(text.contains("it is no folder, or a symbolic link"), "{text}");
    assert_eq!(fs::read_dir(&moved).unwrap().count(), before);
    let written = site.text("moved/history.json");
    assert!(!written.contains("9.9") && !written.contains(r#""held":true"#), "{written}");
    fs::remove_file(&folder).unwrap();
    fs::rename(&moved, &folder).unwrap();

    // Settings and the root of trust that others can write.
    let mode = |name: &str, mode| {
        fs::set_permissions(site.folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in
        ["conf.d/50-update.toml", "tombolo.toml", "conf.d", "root.json", "updates-ca.pem", "update-backend"]
    {
        let before = fs::metadata(site.folder.join(name)).unwrap().permissions().mode();
        mode(name, before | 0o002);
        site.refused("can be written by others than root");
        mode(name, before);
    }
    if nix::unistd::geteuid().is_root() {
        for name in ["conf.d/50-update.toml", "root.json", "update-backend", "state-update"] {
            let give = |uid| std::os::unix::fs::chown(site.folder.join(name), Some(uid), None).unwrap();
            give(65_534);
            site.refused("belongs to the user 65534");
            give(0);
        }
    }
    // Settings of the state directory, and a request of any content, count for nothing.
    site.folder.write(
        "state/conf.d/99-update.toml",
        "[update]\nurl = \"https://127.0.0.1:1/other/\"\nbackend = \"rauc\"\n",
    );
    site.folder.write(&format!("{STATE}/request"), [0xff; 100_000]);
    fs::remove_file(site.folder.join(STATE).join("floor")).unwrap();
    // What the owner holds is held.
    let history = site.folder.join(STATE).join("history.json");
    fs::write(&history, r#"{"held":true}"#).unwrap();
    site.refused("updates are held");
    // A person wanted it installed; the unit did what it was to do.
    assert_eq!(site.apply().0, 1);
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    assert!(code == 0 && text.contains("updates are held"), "{text}");
    fs::write(&history, r#"{"denied":["3.0.0"]}"#).unwrap();
    site.refused("denied here");
    fs::remove_file(&history).unwrap();
    symlink("/dev/zero", &history).unwrap();
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 3.0.0 is installed"), "{text}");
    assert!(site.text("backend.log").contains("sha256="), "{text}");
}

#[test]
fn an_image_that_went_bad_is_fetched_again_when_somebody_asks_and_when_root_refused_it() {
    let site = site("install-image", "large", "exec");
    site.ready();
    let image = site.folder.join(STATE).join("image");
    let signed = fs::read(&image).unwrap();
    let spoilt: [&dyn Fn(); 2] =
        [&|| fs::write(&image, b"evil").unwrap(), &|| fs::remove_file(&image).unwrap()];
    for spoil in spoilt {
        spoil();
        let (code, text) = site.daemon.command(&["update", "download"]);
        assert_eq!(code, 0, "{text}");
        assert!(fs::read(&image).unwrap() == signed, "{text}");
    }
    for (spoil, why) in spoilt.into_iter().zip(["not the image that was signed", "its image is not here"]) {
        spoil();
        site.refused(why);
        wait_within(Duration::from_secs(40), "the image", || {
            fs::read(&image).is_ok_and(|bytes| bytes == signed)
        });
        // What is newer than the failure is shown, and the failure beside it while it is true.
        wait_within(Duration::from_secs(40), "ready", || {
            let status = site.daemon.status();
            let failure = status["update"]["failure"].as_str().unwrap_or_default().to_owned();
            let is_true = why != "its image is not here";
            status["update"]["state"] == "ready"
                && failure.contains(why) == is_true
                && !status["problems"].to_string().contains("its image is not here")
        });
    }
    // Failed by something else: the cause stays the state until somebody asks for the image.
    site.folder.write("backend.status", "1");
    site.refused("the slot is locked");
    site.shows("failed", "the slot is locked");
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert!(code == 0 && text.contains("the last attempt failed: "), "{text}");
    fs::remove_file(site.folder.join("backend.status")).unwrap();
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 3.0.0 is installed"), "{text}");
}

#[test]
fn the_metadata_is_verified_anew_against_a_floor_that_only_root_can_lower() {
    let mut site = site("install-floor", "signed-anew", "exec");
    site.ready();
    site.folder.write("backend.status", "1");
    // The floor is in both slots of its record after the second time.
    for _ in 0..2 {
        let (code, text) = site.apply();
        let is_named = text.contains("was not installed: ") && text.contains("the slot is locked");
        assert!(code == 1 && is_named, "{text}");
    }
    site.shows("failed", "the slot is locked");
    // One that is asked for does not try it again and again.
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    assert!(code == 0 && text.contains("version 2.1.0 was tried"), "{text}");
    site.daemon.stop();
    // The daemon's user forgets what it has seen, and leads to an older state.
    fs::remove_dir_all(site.folder.join(STATE)).unwrap();
    site.configure("first", "exec", "");
    site.refused("rollback: the repository offers version 1 of");
    for (repository, why) in [
        ("timestamp-of-a-stranger", "Failed to verify timestamp metadata"),
        ("targets-of-a-stranger", "Failed to verify targets metadata"),
    ] {
        site.configure(repository, "exec", "");
        site.refused(why);
    }
    // One slot of root's floor is torn.
    let floor = site.folder.join(ROOT).join("floor");
    let mut bytes = fs::read(&floor).unwrap();
    bytes[..512].fill(0);
    fs::write(&floor, bytes).unwrap();
    site.configure("first", "exec", "");
    site.refused("rollback");
}

#[test]
fn a_fork_by_a_root_key_that_was_replaced_is_refused_by_root_too_though_the_daemon_forgot() {
    let mut site = site("install-fork", "rotated-for-years", "exec");
    site.ready();
    site.folder.write("backend.status", "1");
    site.refused("the slot is locked");
    site.configure("forked", "exec", "");
    let (code, text) = site.daemon.command(&["reload"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = site.daemon.command(&["update", "check"]);
    assert!(code == 1 && text.contains("fork: the repository's 2.root.json"), "{text}");
    site.is_told("error", "fork: the repository's 2.root.json");
    site.daemon.stop();
    fs::remove_dir_all(site.folder.join(STATE)).unwrap();
    site.refused("fork: the repository's 2.root.json");
}

#[test]
fn check_says_what_keeps_rauc_from_installing() {
    let site = site("install-rauc-silent", "large", "rauc");
    let (_, text) = site.root(&["check"]);
    assert!(text.contains("ok    update: rauc installs what is found"), "{text}");
    let fault = "Error connecting to D-Bus: The name de.pengutronix.rauc was not provided";
    site.folder.script("bin/rauc", &format!("#!/bin/sh\necho '{fault}' >&2\nexit 1\n"));
    let (code, text) = site.root(&["check"]);
    assert!(
        code == 1
            && text.contains(&format!(
                "rauc installs nothing as it is: rauc status ended with status 1: {fault}"
            )),
        "{text}"
    );
    assert!(!text.contains("rauc installs what is found"), "{text}");
}

#[test]
fn root_refuses_what_the_daemon_would_and_keeps_nothing_of_a_run_that_installs_nothing() {
    let mut site = site("install-learn", "rotated-for-years", "exec");
    site.ready();
    let floor = |site: &Site| read(on_disk(&site.folder.join(ROOT))).unwrap();
    // Root has seen nothing yet; the daemon has.
    site.configure("forked", "exec", "");
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    for why in ["fork: the repository's 2.root.json", "the daemon saw that"] {
        assert!(code == 1 && text.contains(why), "{why}: {text}");
    }
    assert_eq!(floor(&site), Floor::default());
    wait_within(Duration::from_secs(40), "the refusal", || {
        let status = site.daemon.status();
        let failure = status["update"]["failure"].as_str().unwrap_or_default().to_owned();
        failure.contains("fork: ") && status.to_string().contains("what installs refused what was offered")
    });
    let (_, text) = site.root(&["check", "--offline"]);
    assert!(text.contains("what installs refused it: fork: "), "{text}");
    // The daemon's user forgets what it saw, and has no image.
    site.daemon.stop();
    fs::remove_file(site.folder.join(STATE).join("floor")).unwrap();
    let image = site.folder.join(STATE).join("image");
    let signed = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    site.refused("its image is not here");
    assert_eq!((floor(&site), site.record()), (Floor::default(), Value::Null), "no attempt that failed");
    // The owner's is installed, and what it was verified by is kept.
    fs::write(&image, signed).unwrap();
    site.configure("rotated-for-years", "exec", "");
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 2.0.0 is installed"), "{text}");
    assert_eq!(floor(&site).metadata.root, 2);
    assert!(!site.folder.join(ROOT).join("refusal.json").exists());
}

#[test]
fn a_floor_that_is_damaged_is_named_and_so_is_what_is_in_its_place() {
    let mut site = site("install-damage", "newer", "exec");
    site.ready();
    site.daemon.stop();
    let floor = site.folder.join(STATE).join("floor");
    let whole = fs::read(&floor).unwrap();
    fs::write(&floor, [vec![7; 512], whole[512..].to_vec()].concat()).unwrap();
    let (_, text) = site.root(&["check"]);
    assert!(text.contains("one of the two copies in the record floor is damaged"), "{text}");
    fs::write(&floor, vec![7; whole.len()]).unwrap();
    site.daemon.resume();
    let (code, text) = site.daemon.command(&["update", "check"]);
    assert_eq!(code, 0, "{text}");
    wait_within(Duration::from_secs(40), "the damage", || {
        site.daemon.status().to_string().contains("was damaged and is forgotten")
    });
    // Until somebody has seen to it.
    wait_for("the check", || site.folder.join(STATE).join("floor.damaged-1").exists());
    site.daemon.stop();
    let (_, text) = site.root(&["check"]);
    assert!(text.contains("and delete floor.damaged-1"), "{text}");
    fs::remove_file(site.folder.join(STATE).join("floor.damaged-1")).unwrap();
    let (_, text) = site.root(&["check"]);
    assert!(!text.contains("damaged"), "{text}");
    for (kind, name) in [("a folder", "mkdir"), ("a pipe or device", "mkfifo")] {
        let _ = fs::remove_dir(&floor).or_else(|_| fs::remove_file(&floor));
        assert!(Command::new(name).arg(&floor).status().unwrap().success());
        let (_, text) = site.root(&["update", "check"]);
        let why = format!("{} is {kind}, not a file; move it away", floor.display());
        assert!(text.contains(&why), "{why}: {text}");
        // Nor does root install past it.
        site.refused(&format!("{} is refused: it is not a file, so what the daemon saw", floor.display()));
    }
    let _ = fs::remove_dir(&floor).or_else(|_| fs::remove_file(&floor));
    symlink("nowhere", &floor).unwrap();
    site.refused(
        "it is a symbolic link, so what the daemon saw of the repository is not known; move it away",
    );
    fs::remove_file(&floor).unwrap();
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 2.1.0 is installed"), "{text}");
}

#[test]
fn rauc_is_asked_for_every_outcome() {
    let site = site("install-rauc", "large", "rauc");
    site.ready();
    site.folder.write("bundle", "2.9.9");
    site.refused("the bundle says version 2.9.9, and the repository 3.0.0");
    fs::remove_file(site.folder.join("bundle")).unwrap();
    site.folder.write("rauc.fault", "LastError: signature verification failed: self-signed certificate\n");
    site.refused("signature verification failed");
    site.shows("failed", "signature verification failed");
    fs::remove_file(site.folder.join("rauc.fault")).unwrap();
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("it runs after `systemctl reboot`"), "{text}");
    assert_eq!(fs::read(site.folder.join("slot")).unwrap().len(), 200_000);
    assert_eq!(site.text("systemctl.log"), "", "only the unit reboots");
    site.shows("installing", "runs after the next boot");
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    assert!(code == 0 && site.text("systemctl.log").contains("reboot"), "{text}");

    // The boot loader came back: the version did not boot.
    site.rebooted_into("1.0.0");
    let (code, seen) = site.health("5s");
    assert_eq!((code, &seen["verdict"]), (0, &"works".into()), "{seen}");
    assert_eq!(site.record()["phase"], "failed");
    site.shows("failed", "did not boot");
    // It is tried once more; this time it boots.
    assert_eq!(site.apply().0, 0);
    site.rebooted_into("3.0.0");
    site.folder.write("rauc.fault", "Error: slot is busy\n");
    let (code, seen) = site.health("20s");
    assert_eq!(
        (code, &seen["verdict"]),
        (0, &"confirmed".into()),
        "a fault of mark-good undoes nothing: {seen}"
    );
    fs::remove_file(site.folder.join("rauc.fault")).unwrap();
    let (code, text) = site.root(&["update", "rollback"]);
    assert!(code == 0 && text.contains("after `systemctl reboot`"), "{text}");
    let asked = site.text("rauc.log");
    let at = |what: &str| asked.find(what).unwrap_or_else(|| panic!("{what}: {asked}"));
    assert!(at("status mark-active other") < at("status mark-bad booted"));
    assert!(asked.contains("status mark-good booted") && asked.contains("info --output-format=json"));
    site.rebooted_into("1.0.0");
    site.refused("version 3.0.0: it is denied here");
}

/// The bundle is looked at by the real program. A bundle of RAUC is not installed here: that takes
/// slots, and a boot loader.
#[test]
fn a_bundle_that_rauc_made_is_verified_by_rauc_and_one_of_another_key_is_refused() {
    if !server().folder().join("out.raucb").exists() {
        let peers = std::env::var("TOMBOLO_TEST_PEERS").unwrap_or_default();
        assert_ne!(peers, "all", "rauc and squashfs-tools are missing");
        return;
    }
    let site = site("install-bundle", "bundle", "rauc");
    let real = |keyring: &str| {
        let keyring = server().folder().join(keyring);
        let info = format!("info) exec /usr/bin/rauc \"$@\" --keyring='{}' ;;", keyring.display());
        site.folder.script("bin/rauc", &RAUC.replacen("info)", &format!("{info}\n    x)"), 1));
    };
    site.ready();
    real("other-ca.pem");
    site.refused("signature verification failed");
    real("ca.pem");
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 3.0.0 is installed"), "{text}");
    let signed = fs::read(server().folder().join("out.raucb")).unwrap();
    assert_eq!(fs::read(site.folder.join("slot")).unwrap(), signed);
}

#[test]
fn a_version_that_does_not_work_is_rolled_back_and_after_the_second_time_denied() {
    let mut site = site("install-broken", "large", "exec");
    site.ready();
    for time in ["first", "second"] {
        let (code, text) = site.apply();
        assert!(code == 0 && text.contains("is installed"), "{time}: {text}");
        site.daemon.stop();
        let (code, seen) = site.health("2s");
        assert_eq!((code, &seen["verdict"]), (1, &"rolled-back".into()), "{time}: {seen}");
        assert!(seen["text"].as_str().unwrap().contains("did not work within 2s"), "{seen}");
        assert_eq!(site.text("version"), "1.0.0");
        site.daemon.resume();
        site.ready_or_denied();
    }
    site.refused("version 3.0.0: it is denied here");
    site.shows("ineligible", "denied");
    assert_eq!(site.history().matches("failed itself").count(), 2);
    let (code, seen) = site.health("20s");
    assert_eq!((code, &seen["verdict"]), (0, &"works".into()), "{seen}");
}

#[test]
fn an_outage_rolls_back_once_denies_nothing_and_then_it_is_pending_until_the_broker_is_reached() {
    let mut site = site("install-outage", "large", "exec");
    site.ready();
    let (code, text) = site.apply();
    assert_eq!(code, 0, "{text}");
    site.broker.stop();
    wait_for("the outage", || site.daemon.status()["upstream"]["connected"] == false);
    let (code, seen) = site.health("3s");
    assert_eq!((code, &seen["verdict"]), (1, &"rolled-back".into()), "{seen}");
    assert!(seen["text"].as_str().unwrap().contains("the broker was not reached in time"), "{seen}");
    assert_eq!(site.text("version"), "1.0.0");
    assert_eq!(site.daemon.status()["update"]["denied"], serde_json::json!([]));

    // Again the same version, in the same outage: it stays.
    let (code, text) = site.apply();
    assert_eq!(code, 0, "{text}");
    let (code, seen) = site.health("3s");
    assert_eq!((code, &seen["verdict"]), (0, &"pending".into()), "{seen}");
    assert_eq!((site.text("version"), &site.record()["phase"]), ("3.0.0".to_owned(), &"pending".into()));
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("is judged"), "it is not concluded without the broker: {text}");
    // The outage ends: the daemon asks, and root concludes.
    let request = site.folder.join(STATE).join("request");
    let _ = fs::remove_file(&request);
    site.broker.resume();
    wait_within(Duration::from_secs(60), "the request", || request.exists());
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    assert!(code == 0 && text.contains("works, and reached the broker"), "{text}");
    assert_eq!(site.record()["phase"], "confirmed");
    // A gateway that had no broker before is not rolled back for having none.
    assert!(!site.history().contains("3.0.0  failed itself"));
}

/// The daemon's own next attempt may be minutes away.
#[test]
fn a_broker_that_is_back_is_reached_within_the_time_however_long_the_daemon_would_wait() {
    let mut site = site("install-hurry", "large", "exec");
    site.ready();
    assert_eq!(site.apply().0, 0);
    site.broker.stop();
    wait_within(Duration::from_secs(400), "a long wait", || {
        site.daemon.status()["upstream"]["retry_in_s"].as_u64().is_some_and(|seconds| seconds > 16)
    });
    site.broker.resume();
    let (code, seen) = site.health("12s");
    assert_eq!((code, &seen["verdict"]), (0, &"confirmed".into()), "{seen}");
}

/// Of which an hour is not now.
fn day_after_tomorrow() -> &'static str {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][usize::try_from((now / 86_400 + 2) % 7).unwrap()]
}

#[test]
fn outside_of_the_window_nothing_is_asked_for_or_installed_but_by_root_itself() {
    let site = site("install-window", "large", "exec");
    site.ready();
    let day = day_after_tomorrow();
    let _ = fs::remove_file(site.folder.join(STATE).join("request"));
    site.configure("large", "exec", &format!("maintenance-window = \"{day} 02:00-03:00\""));
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    wait_for("the reason", || {
        let update = site.daemon.status()["update"].clone();
        update["reason"].as_str().unwrap_or_default().contains("maintenance window, which opens in")
    });
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    assert!(code == 0 && text.contains("outside of the maintenance window"), "{text}");
    assert_eq!(site.text("version"), "1.0.0");
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 3.0.0 is installed"), "{text}");
}

#[test]
fn what_was_refused_once_and_is_in_order_is_looked_at_again_outside_of_the_window() {
    let site = site("install-again", "rotated-for-years", "exec");
    let closed = format!("maintenance-window = \"{} 02:00-03:00\"", day_after_tomorrow());
    site.configure("rotated-for-years", "exec", &closed);
    assert_eq!(site.daemon.command(&["reload"]).0, 0);
    site.ready();
    let refusal = site.folder.join(ROOT).join("refusal.json");
    let problem = || site.daemon.status()["problems"].to_string().contains("what installs refused");
    let in_window = || site.root(&["update", "apply", "--in-window"]);
    // The way out that it names is enough.
    fs::remove_file(site.folder.join(STATE).join("image")).unwrap();
    site.refused("its image is not here");
    let (code, text) = site.daemon.command(&["update", "download"]);
    assert!(code == 0 && !text.contains("its image is not here"), "{text}");
    wait_within(Duration::from_secs(40), "the end of the problem", || !problem());
    let (_, text) = site.root(&["check", "--offline"]);
    assert!(!text.contains("its image is not here"), "{text}");
    let (code, text) = in_window();
    assert!(code == 0 && text.contains("outside of the maintenance window"), "{text}");
    assert!(!refusal.exists() && site.text("backend.log").is_empty(), "{text}");
    // A fork that root saw once, and the daemon never.
    let request = site.folder.join(STATE).join("request");
    let _ = fs::remove_file(&request);
    let url = |from: &str, to: &str| {
        let table = site.text("conf.d/50-update.toml").replace(&format!("/{from}/"), &format!("/{to}/"));
        site.folder.write("conf.d/50-update.toml", table);
    };
    url("rotated-for-years", "forked");
    site.refused("fork: ");
    url("forked", "rotated-for-years");
    wait_within(Duration::from_secs(40), "the problem", problem);
    wait_within(Duration::from_secs(40), "the request", || {
        fs::read_to_string(&request).is_ok_and(|text| text == "look again\n")
    });
    let (code, text) = in_window();
    assert!(code == 0 && !refusal.exists(), "{text}");
    wait_within(Duration::from_secs(40), "the end of the problem", || !problem());
    assert_eq!(site.text("version"), "1.0.0");
}

#[test]
fn another_user_who_locks_the_folder_of_root_keeps_nothing_from_being_installed_and_confirmed() {
    let site = site("install-locked", "large", "exec");
    site.ready();
    let folder = site.folder.join(ROOT);
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    // As any user may; and so with each file there that this user may open.
    let lock = |path: &Path| {
        let flag = nix::fcntl::FlockArg::LockExclusiveNonblock;
        nix::fcntl::Flock::lock(fs::File::open(path).unwrap(), flag).map_err(|(_, error)| error).unwrap()
    };
    let mut held = vec![lock(&folder)];
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("version 3.0.0 is installed"), "{text}");
    for entry in fs::read_dir(&folder).unwrap().flatten() {
        if entry.metadata().unwrap().permissions().mode() & 0o044 != 0 {
            held.push(lock(&entry.path()));
        }
    }
    assert!(held.len() > 2, "nothing there can be read by others");
    let (code, seen) = site.health("20s");
    assert_eq!((code, &seen["verdict"]), (0, &"confirmed".into()), "{seen}");
    assert_eq!(site.record()["phase"], "confirmed");
}

#[test]
fn only_one_program_works_at_a_time_and_one_that_is_asked_for_does_not_wait() {
    let site = site("install-lock", "large", "exec");
    site.ready();
    assert_eq!(site.apply().0, 0);
    let mut judge = Command::new(env!("CARGO_BIN_EXE_tombolo"))
        .arg("--config")
        .arg(site.daemon.config())
        .args(["health", "--wait", "60s", "--steady", "50s"])
        .env("PATH", path(&site.folder))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the judge", || site.apply().1.contains("is at work"));
    let begun = Instant::now();
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    assert!(code == 0 && text.contains("is at work"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    judge.kill().unwrap();
    judge.wait().unwrap();
    // A power cut in the middle of the judgement: it begins anew.
    let (code, seen) = site.health("30s");
    assert_eq!((code, &seen["verdict"]), (0, &"confirmed".into()), "{seen}");
}

#[test]
fn what_installs_holds_the_lock_also_when_the_program_that_began_it_was_killed() {
    let site = site("install-killed", "large", "exec");
    site.ready();
    site.folder.write("backend.waits", "");
    let mut killed = Command::new(env!("CARGO_BIN_EXE_tombolo"))
        .arg("--config")
        .arg(site.daemon.config())
        .args(["update", "apply"])
        .env("PATH", path(&site.folder))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the backend", || site.text("backend.log").contains("install"));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (code, text) = site.apply();
    assert!(code == 1 && text.contains("is at work"), "{text}");
    let (code, text) = site.root(&["update", "apply", "--in-window"]);
    assert!(code == 0 && text.contains("is at work"), "{text}");
    assert_eq!(site.text("backend.log").matches("install ").count(), 1);
    fs::remove_file(site.folder.join("backend.waits")).unwrap();
    let mut said = (1, String::new());
    wait_within(Duration::from_secs(40), "the end of the backend", || {
        said = site.apply();
        !said.1.contains("is at work")
    });
    let (code, text) = said;
    assert!(code == 0 && (text.contains("is installed") || text.contains("is judged")), "{text}");
    assert!(!site.folder.join(ROOT).join("image").exists(), "a copy is left: {text}");
}

impl Site {
    /// After a restart of the daemon: it looked for newer versions.
    fn ready_or_denied(&self) {
        wait_for("the broker", || self.daemon.status()["upstream"]["connected"] == true);
        let (_, text) = self.daemon.command(&["update", "check"]);
        wait_for("an answer", || {
            let state = self.daemon.status()["update"]["state"].clone();
            state == "ready" || state == "ineligible" || state == "failed"
        });
        assert!(!text.contains("no answer"), "{text}");
    }
}
