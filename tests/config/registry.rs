//! The registry on a real disk.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tombolo::config::io::{Options, load, load_to_run, make_gateway_id};
use tombolo::config::registry::io::{add, random_key, remove};
use tombolo::config::{IdSource, Level, Loaded, registry};
use tombolo::gate::{Device, Psk, SharedDevice};
use tombolo::message::Name;
use zeroize::Zeroizing;

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tombolo-config-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub fn options(&self) -> Options {
        Options {
            config: self.0.join("tombolo.toml"),
            vendor_conf_d: self.0.join("vendor"),
            environment: Vec::new(),
            credentials_directory: None,
        }
    }

    pub fn load(&self) -> Loaded {
        load(&self.options(), None).unwrap_or_else(|f| panic!("{}", crate::support::lines(&f)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub const MAIN: &str = "[gateway]\nid = \"g\"\n[paths]\nstate-dir = \"state\"\nruntime-dir = \"run\"\n\
                    [role.sensor.uplink.t]\npath = \"t/#\"\n[device.fixed]\nrole = \"sensor\"\n";

#[test]
fn a_registry_that_is_gone_is_a_fault_and_its_devices_stay_until_there_is_an_empty_one() {
    let folder = Folder::new("registry-gone");
    folder.write("tombolo.toml", MAIN);
    add(&folder.load(), &device("door-1", "one")).unwrap();
    let before = folder.load();
    let registry = folder.0.join("state/devices");
    fs::remove_dir_all(&registry).unwrap();
    let after = load(&folder.options(), Some(&before)).unwrap();
    let is_known = |loaded: &Loaded| loaded.known.iter().any(|known| known.id == "door-1");
    assert!(is_known(&after));
    let fault = |finding: &&tombolo::config::Finding| finding.level == Level::Fail;
    let found = after.findings.iter().find(fault).expect("it is a fault");
    assert!(found.message.contains("the registry is gone; its device stays in use"), "{}", found.message);
    // The same again, from what stayed.
    assert!(is_known(&load(&folder.options(), Some(&after)).unwrap()));
    fs::create_dir_all(&registry).unwrap();
    let empty = load(&folder.options(), Some(&after)).unwrap();
    assert!(!is_known(&empty) && !empty.findings.iter().any(|finding| finding.level == Level::Fail));
}

pub fn device(id: &str, identity: &str) -> Device {
    let psk = Psk { identity: identity.into(), key: Zeroizing::new(b"0123456789abcdef".to_vec()) };
    Device { psk: Some(psk), ..Device::new(Name::parse(id).unwrap(), Name::parse("sensor").unwrap()) }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_device_is_added_found_and_removed() {
    let folder = Folder::new("add");
    folder.write("tombolo.toml", MAIN);
    let path = add(&folder.load(), &device("door-7", "door-7")).unwrap();
    assert_eq!(path, folder.0.join("state/devices/door-7.toml"));
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);

    let loaded = folder.load();
    assert_eq!(loaded.settings.gate.devices.len(), 2);
    assert!(loaded.known("door-7").unwrap().usable);
    let names =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert!(names.iter().all(|name| name == "door-7.toml" || name == ".lock"), "{names:?}");

    remove(&loaded, "door-7").unwrap();
    assert_eq!(folder.load().settings.gate.devices.len(), 1);
    assert!(remove(&folder.load(), "door-7").is_err());
}

#[test]
fn an_id_or_identity_that_exists_is_refused_with_its_place() {
    let folder = Folder::new("twice");
    folder.write("tombolo.toml", MAIN);
    add(&folder.load(), &device("a", "one")).unwrap();
    let at = folder.0.display();
    let refused =
        |id: &str, identity: &str| add(&folder.load(), &device(id, identity)).unwrap_err().to_string();
    assert_eq!(
        refused("a", "two"),
        format!(
            "fail  {at}/state/devices/a.toml: device a: it exists already; `tombolo device rekey a --psk` gives it a new key, \
             `tombolo device set a --role ROLE` another role; to begin anew, `tombolo device remove a`"
        )
    );
    assert_eq!(
        refused("fixed", "two"),
        format!(
            "fail  {at}/tombolo.toml:8: device fixed: it exists already; change it there, or use another name"
        )
    );
    assert_eq!(
        refused("b", "one"),
        format!(
            "fail  {at}/state/devices/a.toml: device b: device a has the same PSK identity; use another identity"
        )
    );
    assert_eq!(
        refused("gateway", "two"),
        "fail  device gateway: this name is reserved for the gateway's own topics; use another name"
    );
    // Also when it was added after the configuration was read.
    let early = folder.load();
    add(&folder.load(), &device("c", "three")).unwrap();
    assert!(add(&early, &device("c", "four")).is_err());
    assert!(
        add(&early, &device("d", "three"))
            .unwrap_err()
            .message
            .contains("device c has the same PSK identity")
    );
    let mut other = device("e", "five");
    other.role = Name::parse("sensr").unwrap();
    assert_eq!(
        add(&folder.load(), &other).unwrap_err().to_string(),
        "fail  device e: there is no role \"sensr\"; did you mean \"sensor\"?"
    );
}

#[test]
fn a_configured_device_is_not_removed_but_found_by_file_and_line() {
    let folder = Folder::new("configured");
    folder.write("tombolo.toml", MAIN);
    assert_eq!(
        remove(&folder.load(), "fixed").unwrap_err().to_string(),
        format!(
            "fail  {}/tombolo.toml:8: device.fixed: it is in the configuration; take [device.fixed] out there, then reload",
            folder.0.display()
        )
    );
    assert_eq!(
        remove(&folder.load(), "fixd").unwrap_err().to_string(),
        "fail  device fixd: it does not exist; did you mean fixed?"
    );
}

#[test]
fn what_root_adds_belongs_to_the_folder_s_owner() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = Folder::new("owner");
    folder.write("tombolo.toml", MAIN);
    let state = folder.0.join("state");
    fs::create_dir_all(&state).unwrap();
    chown(&state, Some(4711), Some(4712)).unwrap();
    let path = add(&folder.load(), &device("door-7", "door-7")).unwrap();
    let owner = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner(&path), (4711, 4712));
    assert_eq!(owner(path.parent().unwrap()), (4711, 4712));
    assert_eq!(owner(&path.with_file_name(".lock")), (4711, 4712));
    let id = make_gateway_id(&folder.load().settings.paths).unwrap();
    assert!(id.as_str().starts_with("tb-") && id.as_str().len() == 11);
    assert_eq!(owner(&state.join("gateway-id")), (4711, 4712));
}

#[test]
fn the_lock_is_not_followed_through_a_link() {
    let folder = Folder::new("link");
    folder.write("tombolo.toml", MAIN);
    let victim = folder.write("victim", "precious");
    fs::create_dir_all(folder.0.join("state/devices")).unwrap();
    std::os::unix::fs::symlink(&victim, folder.0.join("state/devices/.lock")).unwrap();
    assert!(add(&folder.load(), &device("a", "a")).is_err());
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
}

#[test]
fn a_bad_file_disables_only_its_device_and_can_be_removed() {
    let folder = Folder::new("bad");
    folder.write("tombolo.toml", MAIN);
    let left = folder.write("state/devices/.good.toml.12345", "psk = \"text:half\"");
    add(&folder.load(), &device("good", "good")).unwrap();
    assert!(!left.exists(), "what a killed writer left holds a key");
    folder.write("state/devices/bad.toml", "role = ");
    fs::write(folder.0.join("state/devices/binary.toml"), [0xff; 100]).unwrap();
    folder.write("state/devices/large.toml", &"#".repeat(20_000));
    fs::create_dir(folder.0.join("state/devices/folder.toml")).unwrap();
    nix::unistd::mkfifo(&folder.0.join("state/devices/pipe.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    folder.write("state/devices/.hidden.toml", "role = ");
    folder.write("state/devices/notes.txt", "role = ");
    let loaded = folder.load();
    assert_eq!(loaded.settings.gate.devices.len(), 2);
    let failed: Vec<_> =
        loaded.findings.iter().filter(|f| f.level == Level::Fail).map(|f| f.subject.as_str()).collect();
    assert_eq!(failed, ["device bad", "device binary", "device folder", "device large", "device pipe"]);
    assert!(add(&loaded, &device("bad", "x")).unwrap_err().message.contains("cannot be read"));
    remove(&loaded, "bad").unwrap();
    assert!(!folder.0.join("state/devices/bad.toml").exists());
}

#[test]
fn a_reload_keeps_the_last_good_version_of_a_device() {
    let folder = Folder::new("last-good");
    folder.write("tombolo.toml", MAIN);
    add(&folder.load(), &device("a", "a")).unwrap();
    let running = folder.load();
    folder.write("state/devices/a.toml", "role = ");
    let reloaded = load(&folder.options(), Some(&running)).unwrap();
    assert!(reloaded.settings.gate.devices.iter().any(|d| d.id.as_str() == "a" && d.psk.is_some()));
    assert!(reloaded.findings.iter().any(|f| f.message.contains("last good version stays")));
    // Removed is removed.
    fs::remove_file(folder.0.join("state/devices/a.toml")).unwrap();
    let gone = load(&folder.options(), Some(&reloaded)).unwrap();
    assert!(gone.known("a").is_none());
}

#[test]
fn a_device_is_in_memory_once_and_an_unchanged_one_is_that_of_before_after_a_reload() {
    let folder = Folder::new("held-once");
    folder.write("key", "text:0123456789abcdef");
    folder.write("tombolo.toml", &format!("{MAIN}psk-file = \"key\"\n[device.other]\nrole = \"sensor\"\n"));
    add(&folder.load(), &device("a", "a")).unwrap();
    add(&folder.load(), &device("b", "b")).unwrap();
    let of = |loaded: &Loaded, id: &str| -> SharedDevice {
        let devices = &loaded.settings.gate.devices;
        devices.iter().find(|device| device.id.as_str() == id).unwrap().clone()
    };
    let running = folder.load();
    for id in ["a", "b", "fixed", "other"] {
        let known = running.known(id).unwrap().device.clone().unwrap();
        assert!(known.is_same(&of(&running, id)), "{id}");
    }
    assert!(running.registry.entry("a").unwrap().device.is_same(&of(&running, "a")));
    // Its file has another key, and one of the configuration another label.
    let text = registry::render(&device("b", "c"));
    fs::write(folder.0.join("state/devices/b.toml"), text.as_bytes()).unwrap();
    let main = fs::read_to_string(folder.0.join("tombolo.toml")).unwrap();
    folder.write("tombolo.toml", &format!("{main}label = \"new\"\n"));
    let reloaded = load(&folder.options(), Some(&running)).unwrap();
    let kept = |id: &str| {
        let now = of(&reloaded, id);
        let known = reloaded.known(id).unwrap().device.clone().unwrap();
        assert!(known.is_same(&now), "{id}");
        let entry = reloaded.registry.entry(id);
        assert!(entry.is_none_or(|entry| entry.device.is_same(&now)), "{id}");
        now.is_same(&of(&running, id))
    };
    assert_eq!(["a", "b", "fixed", "other"].map(kept), [true, false, true, false]);
    assert_eq!(of(&reloaded, "other").label.as_deref(), Some("new"));
    assert_eq!(of(&reloaded, "b").psk, device("b", "c").psk);
}

#[test]
fn keys_that_everybody_can_read_are_warned_about_once() {
    let folder = Folder::new("exposed");
    folder.write("tombolo.toml", MAIN);
    for id in ["a", "b", "c"] {
        let path = add(&folder.load(), &device(id, id)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let loaded = folder.load();
    let warned: Vec<_> = loaded.findings.iter().filter(|f| f.message.contains("every user")).collect();
    assert_eq!(warned.len(), 1);
    assert!(warned[0].message.contains("this key and 2 more"));
}

#[test]
fn the_first_start_makes_the_gateway_s_id_and_no_later_one_does() {
    let folder = Folder::new("gateway-id");
    folder.write("tombolo.toml", &MAIN.replace("id = \"g\"", ""));
    assert_eq!(folder.load().settings.gateway.id_source, IdSource::Missing);
    assert!(!folder.0.join("state").exists(), "looking must not write");
    let first = load_to_run(&folder.options()).unwrap().settings.gateway;
    assert_eq!(first.id_source, IdSource::Stored);
    assert!(
        first
            .id
            .as_str()
            .strip_prefix("tb-")
            .unwrap()
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
    );
    assert_eq!(load_to_run(&folder.options()).unwrap().settings.gateway, first);
}

#[test]
fn layers_are_found_where_they_belong_and_in_name_order() {
    let folder = Folder::new("layers");
    folder.write("tombolo.toml", MAIN);
    folder.write("vendor/a.toml", "[gateway]\nlabel = \"vendor\"\n[log]\nlevel = \"debug\"\n");
    folder.write("state/conf.d/a.toml", "[log]\nlevel = \"trace\"\n");
    folder.write("conf.d/20-b.toml", "[upstream]\nurl = \"mqtts://two\"\n");
    folder.write("conf.d/10-a.toml", "[upstream]\nurl = \"mqtts://one\"\n");
    folder.write("conf.d/.hidden.toml", "nonsense");
    folder.write("conf.d/README", "nonsense");
    let loaded = folder.load();
    assert_eq!(loaded.settings.gateway.label.as_deref(), Some("vendor"));
    assert_eq!(loaded.settings.log.level, log::LevelFilter::Trace);
    assert_eq!(loaded.settings.upstream.unwrap().host, "two");
}

#[test]
fn a_missing_main_file_that_is_named_is_refused_also_beside_drop_ins() {
    let folder = Folder::new("missing");
    let refused = load(&folder.options(), None).unwrap_err();
    assert_eq!(
        crate::support::lines(&refused),
        format!(
            "fail  {}/tombolo.toml: configuration: does not exist; \
             name another one with --config, or make it: tombolo init --url mqtts://HOST\n",
            folder.0.display()
        )
    );
    folder.write("conf.d/10-site.toml", "[gateway]\nid = \"g\"\n[paths]\nstate-dir = \"../state\"\n");
    assert_eq!(load(&folder.options(), None).unwrap_err(), refused);
    // The name is a slip: the near one is said.
    folder.write("tombola.toml", MAIN);
    let refused = crate::support::lines(&load(&folder.options(), None).unwrap_err());
    let near = folder.0.join("tombola.toml").display().to_string();
    assert!(refused.ends_with(&format!("does not exist; did you mean --config {near}?\n")), "{refused}");
}

#[test]
fn a_drop_in_that_is_a_link_to_nothing_is_named_as_that() {
    let folder = Folder::new("link");
    folder.write("tombolo.toml", MAIN);
    fs::create_dir_all(folder.0.join("conf.d")).unwrap();
    std::os::unix::fs::symlink("/nowhere/30-x.toml", folder.0.join("conf.d/30-x.toml")).unwrap();
    let refused = crate::support::lines(&load(&folder.options(), None).unwrap_err());
    assert!(
        refused.contains("conf.d/30-x.toml: configuration: is a link to a file that does not exist; make that file, or remove the link"),
        "{refused}"
    );
}

#[test]
fn ten_thousand_devices_load() {
    let folder = Folder::new("many");
    folder.write("tombolo.toml", MAIN);
    fs::create_dir_all(folder.0.join("state/devices")).unwrap();
    for n in 0..10_000 {
        let id = format!("device-{n}");
        let text = tombolo::config::registry::render(&device(&id, &id));
        fs::write(folder.0.join(format!("state/devices/{id}.toml")), text.as_bytes()).unwrap();
    }
    let begun = Instant::now();
    let loaded = folder.load();
    let registry = begun.elapsed();
    assert_eq!(loaded.settings.gate.devices.len(), 10_001);
    fs::remove_dir_all(folder.0.join("state/devices")).unwrap();

    // The same in one configuration file.
    let mut text = MAIN.to_owned();
    for n in 0..10_000 {
        text.push_str(&format!("[device.device-{n}]\nrole = \"sensor\"\nlabel = \"number {n}\"\n"));
    }
    folder.write("tombolo.toml", &text);
    let begun = Instant::now();
    let loaded = folder.load();
    let configured = begun.elapsed();
    assert_eq!(loaded.settings.gate.devices.len(), 10_001);
    println!("10,000 devices: registry {registry:?}, one file {configured:?}");
    // In release it is under a second; unoptimised, and beside other tests, this only guards the
    // order of growth.
    let bound = if cfg!(debug_assertions) { 20 } else { 1 };
    assert!(registry.as_secs() < bound && configured.as_secs() < bound, "{registry:?} {configured:?}");
}

#[test]
fn every_random_key_is_another_one() {
    let (a, b) = (random_key().unwrap(), random_key().unwrap());
    assert_ne!(a, b);
    assert_eq!(a.len(), 22);
}
