//! The daemon with a state directory that is damaged, unreadable or not writable: it becomes READY,
//! reports the fault, and keeps the configuration in force.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::place::{Place, Ran};
use tombolo_test_support::wait_for;

/// `tombolo run` in a place; killed with the value.
struct Daemon<'p> {
    place: &'p Place,
    child: Child,
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'p> Daemon<'p> {
    fn start(place: &'p Place) -> Daemon<'p> {
        Daemon::start_with(place, |_| {})
    }

    /// With a change to how it is started. Waits until it answers.
    fn start_with(place: &'p Place, change: impl FnOnce(&mut Command)) -> Daemon<'p> {
        let log = fs::OpenOptions::new().create(true).append(true).open(place.path("log")).unwrap();
        let mut command = place.command("run");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        change(&mut command);
        let mut daemon = Daemon { place, child: command.spawn().unwrap() };
        wait_for("the daemon", || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", place.read("log"));
            place.run("status").status == 0
        });
        daemon
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Reloads and waits until that is done.
    fn reload(&self) {
        let count = || self.place.read("log").matches("INFO  reloaded").count();
        let before = count();
        self.signal(Signal::SIGHUP);
        wait_for("the reload", || {
            assert!(
                !self.place.read("log").contains("configuration is refused"),
                "{}",
                self.place.read("log")
            );
            count() > before
        });
    }

    /// Ends it as systemd would.
    fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let ended = self.child.wait().unwrap();
        assert_eq!(ended.code(), Some(0), "{}", self.place.read("log"));
    }

    fn status(&self) -> Value {
        self.place.run("--json status").json()
    }

    fn problems(&self) -> String {
        texts(&self.status()["problems"])
    }

    fn id(&self) -> String {
        self.status()["gateway"]["id"].as_str().unwrap().to_owned()
    }

    fn known(&self) -> u64 {
        self.status()["devices"]["known"].as_u64().unwrap()
    }
}

fn texts(list: &Value) -> String {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// `check` ends with 1 and has all these words.
#[track_caller]
fn check_fails(place: &Place, words: &[&str]) {
    let Ran { status, out, .. } = place.run("check --offline");
    assert_eq!(status, 1, "{out}");
    for word in words {
        assert!(out.contains(word), "no {word:?} in\n{out}");
    }
}

#[track_caller]
fn check_is_content(place: &Place) {
    place.run("check --offline").fine();
}

type Spoil = fn(&Path);

fn overwrite(path: &Path, bytes: Vec<u8>) {
    fs::write(path, bytes).unwrap();
}

const SPOILS: [(&str, Spoil); 7] = [
    ("of no length", |path| overwrite(path, Vec::new())),
    ("zeros", |path| overwrite(path, vec![0; fs::metadata(path).unwrap().len() as usize])),
    ("cut", |path| {
        let length = fs::metadata(path).unwrap().len() / 2;
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    }),
    ("random", |path| {
        let bytes = (0..500u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
        overwrite(path, bytes);
    }),
    ("huge", |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap()),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("a pipe", |path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }),
];

const KEPT: &str = "[device.kept]\nrole = \"sensor\"\n";

/// A place in which a gateway has run, with a device in the registry and one in the state's
/// configuration.
fn used() -> (Place, String) {
    let place = Place::new();
    place.write("state/conf.d/20-kept.toml", KEPT);
    place.run("device add added --role sensor --psk").fine();
    let daemon = Daemon::start(&place);
    let id = daemon.id();
    assert_eq!((daemon.known(), daemon.problems()), (2, String::new()));
    daemon.stop();
    check_is_content(&place);
    fs::write(place.path("log"), "").unwrap();
    (place, id)
}

#[test]
fn whatever_is_damaged_the_gateway_is_ready_under_its_id_and_says_what_is_wrong() {
    std::thread::scope(|scope| {
        for (how, spoil) in SPOILS {
            scope.spawn(move || {
                let (place, id) = used();
                for name in [
                    "gateway-id",
                    "conf.d/20-kept.toml",
                    "devices/added.toml",
                    "sessions/key",
                    "sessions/log",
                ] {
                    spoil(&place.path("state").join(name));
                }
                check_fails(&place, &["gateway-id: gateway id: is damaged", "20-kept.toml", "added.toml"]);
                let daemon = Daemon::start(&place);
                assert_eq!((daemon.id(), daemon.known()), (id, 0), "{how}");
                let (problems, status) = (daemon.problems(), daemon.status());
                assert!(
                    problems.contains("20-kept.toml") && problems.contains("gateway-id.damaged-1"),
                    "{how}: {problems}"
                );
                assert!(texts(&status["gateway"]["disabled"]).contains("added.toml"), "{how}: {status}");
                for name in ["20-kept.toml", "gateway-id.damaged-1", "added.toml", "DTLS sessions"] {
                    assert!(place.read("log").contains(name), "{how}: {name} in {}", place.read("log"));
                }
                check_fails(&place, &["20-kept.toml", "gateway-id.damaged-1", "added.toml", "; "]);
                let text = place.run("status").fine();
                assert!(text.contains("problem   ") && text.contains("disabled  "), "{how}: {text}");
                daemon.stop();
            });
        }
    });
}

#[test]
fn an_id_that_is_lost_is_replaced_once_and_check_fails_until_somebody_has_seen_it() {
    let (place, id) = used();
    for name in ["gateway-id", "gateway-id.copy"] {
        overwrite(&place.path("state").join(name), Vec::new());
    }
    check_fails(&place, &["the next start makes a new id", "set [gateway] id"]);
    let daemon = Daemon::start(&place);
    let new = daemon.id();
    assert!(new != id && new.starts_with("tb-") && new.len() == 11, "{new}");
    let log = place.read("log");
    let told = |line: &str| line.starts_with("ERROR ") && line.contains("the gateway's id was lost");
    assert!(log.lines().any(told), "{log}");
    assert!(daemon.problems().contains("stays on the broker"), "{}", daemon.problems());
    daemon.stop();
    check_fails(&place, &["the gateway's id was lost", "gateway-id.copy.damaged-1, gateway-id.damaged-1"]);
    for name in ["gateway-id.damaged-1", "gateway-id.copy.damaged-1"] {
        fs::remove_file(place.path("state").join(name)).unwrap();
    }
    check_is_content(&place);
    assert_eq!(Daemon::start(&place).id(), new);
}

#[test]
fn a_reload_beside_damaged_files_goes_on_with_what_was_in_force() {
    let (place, id) = used();
    let daemon = Daemon::start(&place);
    for name in ["gateway-id", "gateway-id.copy", "conf.d/20-kept.toml", "devices/added.toml"] {
        let path = place.path("state").join(name);
        overwrite(&path, vec![0; 12]);
    }
    for _ in 0..2 {
        daemon.reload();
        assert_eq!((daemon.id(), daemon.known()), (id.clone(), 2));
        let problems = daemon.problems();
        assert!(problems.contains("its last good version stays in use"), "{problems}");
        assert!(problems.contains("was restored"), "{problems}");
    }
    check_fails(&place, &["20-kept.toml", "added.toml"]);
    for name in
        ["conf.d/20-kept.toml", "devices/added.toml", "gateway-id.damaged-1", "gateway-id.copy.damaged-1"]
    {
        fs::remove_file(place.path("state").join(name)).unwrap();
    }
    daemon.reload();
    assert_eq!((daemon.id(), daemon.known(), daemon.problems()), (id.clone(), 0, String::new()));
    daemon.stop();
    assert_eq!(Daemon::start(&place).id(), id);
}

/// Makes reads fail in a daemon it is preloaded into.
struct Unreadable {
    library: PathBuf,
    control: PathBuf,
}

impl Unreadable {
    fn new(place: &Place) -> Unreadable {
        let library = place.path("unreadable.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/unreadable.c");
        let built = Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .expect("gcc is installed");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Unreadable { library, control: place.path("unreadable") }
    }

    fn preload(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("TOMBOLO_TEST_UNREADABLE", &self.control);
    }

    /// Reading anything whose path has one of these parts, or ends with one that has a `$` behind
    /// it, fails from now on.
    fn set(&self, parts: &[&str]) {
        fs::write(&self.control, parts.join("\n")).unwrap();
    }
}

#[test]
fn one_file_of_the_id_suffices_where_the_other_cannot_be_read() {
    let (place, id) = used();
    let shim = Unreadable::new(&place);
    shim.set(&["state/gateway-id.copy"]);
    let daemon = Daemon::start_with(&place, |command| shim.preload(command));
    assert_eq!(daemon.id(), id);
    assert!(
        daemon.problems().contains("gateway-id.copy: gateway id: cannot be read: Input/output error"),
        "{}",
        daemon.problems()
    );
    daemon.stop();
}

#[test]
fn what_cannot_be_read_is_neither_overwritten_nor_set_aside_and_counts_again_once_it_can() {
    let (place, id) = used();
    let shim = Unreadable::new(&place);
    let content = |name: &str| fs::read(place.path("state").join(name)).unwrap();
    let (plain, copy, kept) =
        (content("gateway-id"), content("gateway-id.copy"), content("conf.d/20-kept.toml"));

    // An id for the time being, in memory only.
    shim.set(&["state/gateway-id", "state/conf.d/20", "state/devices/added"]);
    let daemon = Daemon::start_with(&place, |command| shim.preload(command));
    assert_ne!(daemon.id(), id);
    assert_eq!(daemon.known(), 0);
    let problems = daemon.problems();
    assert!(
        problems.contains("until it can be, the gateway runs under an id made")
            && problems.contains("20-kept.toml"),
        "{problems}"
    );
    for (name, before) in [("gateway-id", &plain), ("gateway-id.copy", &copy), ("conf.d/20-kept.toml", &kept)]
    {
        assert_eq!(content(name), *before, "{name}");
    }
    // The disk reads again.
    shim.set(&[]);
    daemon.reload();
    assert_eq!((daemon.id(), daemon.known(), daemon.problems()), (id.clone(), 2, String::new()));
    check_is_content(&place);
    daemon.stop();
}

#[test]
fn what_cannot_be_read_while_the_gateway_runs_leaves_in_force_what_was_folders_included() {
    let (place, id) = used();
    let shim = Unreadable::new(&place);
    shim.set(&[]);
    let daemon = Daemon::start_with(&place, |command| shim.preload(command));
    for parts in [&["state/gateway-id", "conf.d/20", "devices/added"][..], &["state/conf.d", "state/devices"]]
    {
        shim.set(parts);
        daemon.reload();
        assert_eq!((daemon.id(), daemon.known()), (id.clone(), 2), "{parts:?}");
        assert!(daemon.problems().contains("its last good version stays in use"), "{}", daemon.problems());
    }
    daemon.stop();
}

#[test]
fn an_interim_id_stays_the_same_until_the_old_one_can_be_read() {
    let (place, id) = used();
    let shim = Unreadable::new(&place);
    // Of the version before: one file, and that cannot be read.
    fs::remove_file(place.path("state/gateway-id.copy")).unwrap();
    let plain = place.read("state/gateway-id");
    shim.set(&["state/gateway-id$"]);
    let daemon = Daemon::start_with(&place, |command| shim.preload(command));
    let interim = daemon.id();
    assert_ne!(interim, id);
    daemon.stop();
    let daemon = Daemon::start_with(&place, |command| shim.preload(command));
    assert_eq!(daemon.id(), interim);
    check_fails(&place, &["gateway-id"]);
    shim.set(&[]);
    daemon.reload();
    assert_eq!((daemon.id(), daemon.problems()), (id.clone(), String::new()));
    assert!(place.read("log").contains(&format!("is {id} now, and was {interim}")), "{}", place.read("log"));
    assert_eq!(place.read("state/gateway-id"), plain);
    daemon.stop();
}

/// Only root can run as another user.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Gives everything in a folder to a user.
fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), user));
    }
}

#[test]
fn files_that_are_closed_to_the_service_are_named_and_stop_nothing() {
    const USER: u32 = 65_534;
    if !is_root() {
        return;
    }
    let (place, id) = used();
    for name in ["state", "run", "log"] {
        give(&place.path(name), USER);
    }
    let close = |name: &str| {
        let path = place.path("state").join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(0), Some(0)).unwrap();
    };
    let open = |name: &str| give(&place.path("state").join(name), USER);
    for name in ["gateway-id", "conf.d/20-kept.toml", "devices/added.toml"] {
        close(name);
    }
    let as_user = |command: &mut Command| {
        command.uid(USER).gid(USER);
    };
    let daemon = Daemon::start_with(&place, as_user);
    assert_eq!((daemon.id(), daemon.known()), (id.clone(), 0));
    let problems = daemon.problems();
    for words in [
        "gateway-id: gateway id: cannot be read: Permission denied",
        "20-kept.toml",
        "give it to the service's user",
    ] {
        assert!(problems.contains(words), "{words} in {problems}");
    }
    assert!(texts(&daemon.status()["gateway"]["disabled"]).contains("added.toml"));
    for name in ["gateway-id", "conf.d/20-kept.toml", "devices/added.toml"] {
        open(name);
    }
    daemon.reload();
    assert_eq!((daemon.id(), daemon.known(), daemon.problems()), (id, 2, String::new()));
    daemon.stop();
}

/// A small file system of its own, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf, options: &str) -> Small {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tombolo-test"]).arg(&path).status();
        assert!(mounted.is_ok_and(|status| status.success()), "mounting a tmpfs needs root");
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_first_start_on_a_full_disk_is_ready_and_its_id_is_stored_once_there_is_room() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let small = Small::mount(place.path("state"), "size=1m");
    let ballast = place.path("state/ballast");
    overwrite(&ballast, vec![1; 1 << 20]);
    let daemon = Daemon::start(&place);
    let id = daemon.id();
    assert!(daemon.problems().contains("No space left on device"), "{}", daemon.problems());
    check_fails(&place, &["gateway-id: gateway id: cannot be written", "make room"]);
    place.run("device add late --role sensor --psk").failed(1, &["make room on this disk"]);
    fs::remove_file(&ballast).unwrap();
    daemon.reload();
    // 1 MiB is little for a journal, which the daemon may have noticed by now.
    let left = daemon.problems();
    assert!(left.is_empty() || left.starts_with("the disk of the journal is nearly full"), "{left}");
    assert!(daemon.id() == id && !left.contains("No space left on device"), "{left}");
    assert_eq!(place.read("state/gateway-id").trim(), id);
    daemon.stop();
    drop(small);
}
