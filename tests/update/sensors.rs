//! Firmware for sensors through the whole daemon: from a repository to real CoAP clients, byte for
//! byte, interrupted, replaced, killed, on a disk that loses it, and stopped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, disk_faults, wait_for, wait_within};

use crate::gateway::server;

const KEY: &str = "sesame-sesame-77";
/// As in repositories.py.
const BYTES: usize = 256 * 1024;

const ROLES: &str = r#"
[role.sensor]
firmware = "door"
firmware-version-path = "info"
firmware-version-field = "/fw/version"
[role.sensor.uplink.info]
path = "info"
[role.other.uplink.all]
path = "t/#"
[device.door-7]
role = "sensor"
psk-file = "door-7.psk"
[device.window-1]
role = "other"
psk-file = "door-7.psk"
"#;

pub struct Site {
    pub daemon: Daemon,
    _broker: Mosquitto,
    pub folder: Folder,
    more: String,
}

/// A gateway with these keys of `[update]` besides, that has looked at the repository.
pub fn site(name: &str, repository: &str, more: &str, roles: &str) -> Site {
    site_with(name, repository, more, roles, |_, _| {})
}

/// The same; `prepare` changes the daemon before it meets the repository.
fn site_with(
    name: &str,
    repository: &str,
    more: &str,
    roles: &str,
    prepare: impl FnOnce(&Folder, &mut Daemon),
) -> Site {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{KEY}"));
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let binary = tombolo_test_support::program(env!("CARGO_BIN_EXE_tombolo"));
    let mut daemon = Daemon::start(&binary, &folder, broker.tls_port, &pki.ca(), roles);
    daemon.stop();
    prepare(&folder, &mut daemon);
    let mut site = Site { daemon, _broker: broker, folder, more: more.to_owned() };
    site.configure(repository);
    site.daemon.resume();
    site.check();
    site
}

impl Site {
    fn configure(&self, repository: &str) {
        let folder = server().folder().display();
        std::fs::create_dir_all(self.folder.join("conf.d")).unwrap();
        let table = format!(
            "[update]\nsource = \"tuf\"\nurl = \"https://127.0.0.1:{}/{repository}/\"\n\
             root-file = \"{folder}/root.json\"\nca-file = \"{folder}/ca.pem\"\n{}\n",
            server().port(),
            self.more
        );
        self.folder.write("conf.d/50-update.toml", table);
    }

    fn check(&self) {
        let (code, text) = self.daemon.command(&["update", "check", "--json"]);
        assert_eq!(code, 0, "{text}");
    }

    /// Another state of the repository, which is looked at.
    pub fn publish(&self, repository: &str) {
        self.configure(repository);
        let (code, text) = self.daemon.command(&["reload"]);
        assert_eq!(code, 0, "{text}");
        self.check();
    }

    fn class(&self) -> Value {
        self.daemon.status()["firmware"][0].clone()
    }

    pub fn offers(&self, version: &str) {
        // A server that is silent is given up after 20 s.
        let within = std::time::Duration::from_secs(60);
        wait_within(within, version, || self.class()["version"] == version);
    }

    fn sensor(&self, identity: &str) -> Sensor {
        Sensor::start(&self.daemon, identity)
    }

    fn device(&self, id: &str) -> Value {
        let (code, text) = self.daemon.command(&["update", "devices", "--json"]);
        assert_eq!(code, 0, "{text}");
        let page: Value = serde_json::from_str(&text).unwrap();
        page["devices"].as_array().unwrap().iter().find(|of| of["device"] == id).cloned().unwrap_or_default()
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.daemon.status()["counters"][name].as_u64().unwrap()
    }
}

struct Reply {
    code: String,
    bytes: usize,
    sha256: String,
    etag: String,
    more: bool,
    size2: String,
    payload: Vec<u8>,
}

/// aiocoap as a sensor.
struct Sensor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Sensor {
    fn start(daemon: &Daemon, identity: &str) -> Sensor {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
        assert!(python.exists(), "tests/run peers builds it");
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/update/aiocoap_sensor.py"))
            .args([&format!("coaps://{}", daemon.coaps), identity, KEY])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Sensor { child, input, output }
    }

    fn ask(&mut self, request: &str) -> Reply {
        writeln!(self.input, "{request}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let fields: Vec<&str> = line.trim_end_matches('\n').split(' ').collect();
        let [code, bytes, sha256, etag, more, size2, payload] = fields[..] else {
            panic!("{request}: {line:?}")
        };
        Reply {
            code: code.to_owned(),
            bytes: bytes.parse().unwrap(),
            sha256: sha256.to_owned(),
            etag: etag.to_owned(),
            more: more == "true",
            size2: size2.to_owned(),
            payload: (0..payload.len() / 2)
                .map(|at| u8::from_str_radix(&payload[2 * at..2 * at + 2], 16).unwrap())
                .collect(),
        }
    }

    fn manifest(&mut self) -> Value {
        let reply = self.ask("get firmware/door");
        assert_eq!(reply.code, "2.05");
        serde_json::from_slice(&reply.payload).unwrap()
    }

    /// Blocks of 1,024 bytes: their bytes' hashes.
    fn blocks(&mut self, path: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
        let block = |number| {
            let reply = self.ask(&format!("block {path} {number} 6"));
            assert_eq!((reply.code.as_str(), reply.bytes), ("2.05", 1024), "{number}");
            assert_eq!(reply.etag, path.rsplit('/').next().unwrap(), "{number}");
            assert_eq!((reply.more, reply.size2.as_str()), (number < 255, "262144"), "{number}");
            reply.sha256
        };
        numbers.map(block).collect()
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path_of(manifest: &Value) -> String {
    manifest["path"].as_str().unwrap().trim_start_matches('/').to_owned()
}

/// The image of that version, as it is in the repository.
fn image(version: &str) -> Vec<u8> {
    let targets = server().folder().join("sensors-3/targets");
    let found = std::fs::read_dir(targets).unwrap().map(|entry| entry.unwrap().path());
    let suffix = format!(".door-{version}.bin");
    let path: Vec<PathBuf> = found.filter(|path| path.to_string_lossy().ends_with(&suffix)).collect();
    std::fs::read(&path[0]).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_sensor_gets_its_firmware_byte_for_byte_by_aiocoap_and_by_libcoap_and_reports_it() {
    let site = site("sensors-fetch", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    let manifest = sensor.manifest();
    let path = path_of(&manifest);
    let expected = image("1.0.0");
    assert_eq!((&manifest["version"], &manifest["size"]), (&json!("1.0.0"), &json!(BYTES)));
    assert_eq!(manifest["sha-256"], json!(sha256(&expected)));
    assert_eq!(site.device("door-7")["state"], "offered");
    let cbor = sensor.ask("get firmware/door 60");
    assert_eq!((cbor.code.as_str(), &cbor.payload[..15]), ("2.05", &b"\xa4\x67version\x651.0.0"[..]));

    let saved = site.folder.join("aiocoap.bin");
    assert_eq!(sensor.ask(&format!("save {path} {}", saved.display())).code, "2.05");
    assert!(std::fs::read(&saved).unwrap() == expected, "aiocoap has other bytes");
    let saved = site.folder.join("libcoap.bin");
    let output = Command::new("coap-client-openssl")
        .args(["-u", "door-7", "-k", KEY, "-B", "60", "-m", "get", "-o"])
        .arg(&saved)
        .arg(format!("coaps://{}/{path}", site.daemon.coaps))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(std::fs::read(&saved).unwrap() == expected, "{output:?}");
    assert!(site.counter("tombolo_firmware_sent_blocks_total") >= 512);

    let state = |of: &Value| (of["state"].clone(), of["percent"].clone(), of["reported"].clone());
    assert_eq!(state(&site.device("door-7")), (json!("fetched"), json!(100), Value::Null));
    assert_eq!(sensor.ask("post info {\"fw\":{\"version\":\"1.0.0\"}}").code, "2.04");
    wait_for("the report", || site.device("door-7")["state"] == "reported");
    assert_eq!(sensor.ask("get firmware/door?v=0.9.0").code, "2.05");
    assert_eq!(state(&site.device("door-7")), (json!("offered"), Value::Null, json!("0.9.0")));
    assert_eq!(sensor.ask("get firmware/door?v=1.0.0").code, "2.05");
    assert_eq!(site.device("door-7")["state"], "reported");
    let (_, text) = site.daemon.command(&["update", "devices"]);
    assert!(text.contains("door-7") && text.contains("runs 1.0.0") && text.contains("1 run it"), "{text}");
    let (_, text) = site.daemon.command(&["status"]);
    assert!(text.contains("door: version 1.0.0; 1 run it"), "{text}");

    // What is refused.
    for (request, code) in [
        ("get firmware", "4.04"),
        ("get firmware/roof", "4.03"),
        ("get firmware/door/0000000000000000", "4.04"),
        ("get firmware/door 0", "4.06"),
        ("get firmware/door?n=1", "4.02"),
        ("post firmware/door 1", "4.04"),
        (&format!("block {path} 256 6"), "4.00"),
    ] {
        assert_eq!(sensor.ask(request).code, code, "{request}");
    }
    let mut other = site.sensor("window-1");
    assert_eq!(other.ask("get firmware/door").code, "4.03");
    assert_eq!(other.ask(&format!("block {path} 0 6")).code, "4.03");
}

#[test]
fn a_suit_envelope_is_told_by_its_tag_and_passed_through_byte_for_byte_and_another_image_is_none() {
    let site = site("sensors-suit", "sensors-suit-1", "", ROLES);
    site.offers("5.0.0");
    let mut sensor = site.sensor("door-7");
    let manifest = sensor.manifest();
    assert_eq!(manifest["suit"], true, "{manifest}");
    let cbor = sensor.ask("get firmware/door 60");
    assert_eq!(cbor.payload[0], 0xa5, "it says so in CBOR, too");
    let image = |version: &str| {
        let targets = server().folder().join("sensors-suit-2/targets");
        let suffix = format!(".door-{version}.bin");
        let found = std::fs::read_dir(targets).unwrap().map(|entry| entry.unwrap().path());
        let path = found.into_iter().find(|path| path.to_string_lossy().ends_with(&suffix)).unwrap();
        std::fs::read(path).unwrap()
    };
    let expected = image("5.0.0");
    assert!(expected.starts_with(&[0xd8, 0x6b]) && expected.len() == BYTES);
    // By the path of the manifest, and in the place of the manifest with Accept 42.
    let reply = sensor.ask(&format!("get {}", path_of(&manifest)));
    assert_eq!((reply.code.as_str(), &reply.sha256), ("2.05", &sha256(&expected)));
    let reply = sensor.ask("get firmware/door 42");
    assert_eq!((reply.code.as_str(), reply.bytes, &reply.sha256), ("2.05", BYTES, &sha256(&expected)));
    let saved = site.folder.join("libcoap.bin");
    let output = Command::new("coap-client-openssl")
        .args(["-u", "door-7", "-k", KEY, "-B", "60", "-m", "get", "-A", "42", "-o"])
        .arg(&saved)
        .arg(format!("coaps://{}/firmware/door", site.daemon.coaps))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(std::fs::read(&saved).unwrap() == expected, "{output:?}");
    // The next one is none: it has a manifest alone.
    site.publish("sensors-suit-2");
    site.offers("6.0.0");
    let manifest = sensor.manifest();
    assert!(manifest["suit"].is_null(), "{manifest}");
    assert_eq!(sensor.ask("get firmware/door 42").code, "4.06");
    let reply = sensor.ask(&format!("get {}", path_of(&manifest)));
    assert_eq!(reply.sha256, sha256(&image("6.0.0")));
}

#[test]
fn a_transfer_goes_on_by_block_number_after_a_kill_and_while_a_new_version_is_published() {
    let mut site = site("sensors-resumed", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    let mut hashes = sensor.blocks(&path, 0..100);
    site.daemon.kill();
    site.daemon.resume();
    let mut sensor = site.sensor("door-7");
    // The files are verified first.
    wait_for("the image", || sensor.ask("get firmware/door").code == "2.05");
    hashes.extend(sensor.blocks(&path, 100..150));
    site.publish("sensors-2");
    site.offers("2.0.0");
    assert_eq!(site.class()["previous"], "1.0.0");
    hashes.extend(sensor.blocks(&path, 150..256));
    let expected: Vec<String> = image("1.0.0").chunks(1024).map(sha256).collect();
    assert_eq!(hashes, expected);
    assert_eq!(sensor.manifest()["version"], "2.0.0");
    site.publish("sensors-3");
    site.offers("3.0.0");
    assert_eq!(sensor.ask(&format!("block {path} 0 6")).code, "4.04", "two are kept");
    let files = std::fs::read_dir(site.folder.join("state/firmware/door")).unwrap();
    let images =
        files.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|of| of == "bin"));
    assert_eq!(images.count(), 2);
}

#[test]
fn a_gateway_that_is_killed_and_reloaded_in_the_middle_of_the_fetch_offers_nothing_before_all_is_here() {
    let fault = "sensors-1:half:door-1.0.0.bin";
    let mut site = site("sensors-killed", fault, "", ROLES);
    let part = site.folder.join("state/firmware/door/image.part");
    wait_for("half of it", || {
        let reason = site.class()["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains("interrupted") && part.metadata().is_ok_and(|of| of.len() == BYTES as u64 / 2)
    });
    let mut sensor = site.sensor("door-7");
    assert_eq!(sensor.ask("get firmware/door").code, "4.04");
    site.publish("sensors-1:silent:door-1.0.0.bin");
    wait_for("the fetch", || site.class()["coming_percent"].is_u64());
    site.daemon.kill();
    assert!(part.exists());
    site.daemon.resume();
    site.check();
    wait_for("the fetch once more", || site.class()["coming_percent"].is_u64());
    // A reload in the middle of it.
    site.publish("sensors-1");
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    assert_eq!(sensor.ask(&format!("get {path}")).sha256, sha256(&image("1.0.0")));
    assert!(!part.exists());
}

#[test]
fn an_image_that_the_disk_loses_is_said_not_served_and_fetched_again() {
    let site = site("sensors-lost", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    let tag = path.rsplit('/').next().unwrap();
    let file = site.folder.join(&format!("state/firmware/door/{tag}.bin"));
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(10_000).unwrap();
    // Also one that is still there: it is another file than was verified.
    assert_eq!(sensor.ask(&format!("block {path} 3 6")).code, "5.03");
    assert_eq!(site.counter("tombolo_firmware_unreadable_blocks_total"), 1);
    wait_for("the image once more", || sensor.ask(&format!("block {path} 200 6")).code == "2.05");
    assert_eq!(sensor.ask(&format!("get {path}")).sha256, sha256(&image("1.0.0")));
    wait_for("the log", || site.daemon.log().contains("a block of firmware cannot be read"));
}

#[test]
fn an_image_that_is_damaged_while_the_gateway_is_stopped_is_deleted_and_fetched_at_once() {
    let mut site = site("sensors-damaged", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    let path = path_of(&site.sensor("door-7").manifest());
    let tag = path.rsplit('/').next().unwrap();
    let file = site.folder.join(&format!("state/firmware/door/{tag}.bin"));
    site.daemon.stop();
    let damage = || {
        let file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"other bytes", 5_000).unwrap();
    };
    damage();
    // Without a repository nothing says that it comes, and what is damaged does not stay.
    site.configure("nowhere");
    site.daemon.resume();
    let said = |site: &Site| site.daemon.status()["problems"].to_string();
    wait_for("its name", || said(&site).contains("the image of 1.0.0 was damaged and is deleted"));
    assert!(said(&site).contains("it is fetched again once a check has found"), "{}", said(&site));
    assert!(!file.exists());
    let (_, text) = site.daemon.command(&["update", "devices"]);
    assert!(text.contains("was damaged and is deleted"), "{text}");
    // With it the first check does not wait for its turn, which comes within 10 min.
    site.daemon.stop();
    site.configure("sensors-1");
    site.daemon.resume();
    site.offers("1.0.0");
    assert_eq!(site.sensor("door-7").ask(&format!("get {path}")).sha256, sha256(&image("1.0.0")));
    assert!(!said(&site).contains("the image of 1.0.0"), "{}", said(&site));
}

#[test]
fn an_image_that_is_damaged_each_time_is_not_fetched_in_a_circle() {
    let site = site("sensors-circle", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    let tag = path.rsplit('/').next().unwrap();
    let file = site.folder.join(&format!("state/firmware/door/{tag}.bin"));
    let mut damage = || {
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(10_000).unwrap();
        assert_eq!(sensor.ask(&format!("block {path} 3 6")).code, "5.03");
    };
    damage();
    site.offers("1.0.0");
    wait_for("the image once more", || file.metadata().is_ok_and(|of| of.len() == BYTES as u64));
    // It is taken when the sensor gets blocks of it again.
    let mut other = site.sensor("door-7");
    wait_for("its blocks", || other.ask(&format!("block {path} 3 6")).code == "2.05");
    damage();
    let said = || site.daemon.status()["problems"].to_string();
    wait_for("the reason", || said().contains("it was damaged again after it had been fetched"));
    assert!(!file.exists() && said().contains("dmesg"), "{}", said());
    // Somebody has looked at the disk.
    site.check();
    wait_for("its blocks", || other.ask(&format!("block {path} 3 6")).code == "2.05");
}

#[test]
fn an_image_that_is_written_over_while_its_folder_is_away_is_not_served_and_fetched_again() {
    let site = site("sensors-away", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    let good = sensor.ask(&format!("block {path} 3 6"));
    let tag = path.rsplit('/').next().unwrap();
    let (place, aside) = (site.folder.join("state/firmware"), site.folder.join("aside"));
    std::fs::rename(&place, &aside).unwrap();
    let image_file = aside.join(format!("door/{tag}.bin"));
    // As `rsync --inplace --times` does it: other bytes of the same length in the same file, with
    // the date of before.
    let file = std::fs::OpenOptions::new().write(true).open(&image_file).unwrap();
    let (length, modified) = {
        let of = file.metadata().unwrap();
        (of.len(), of.modified().unwrap())
    };
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; length as usize], 0).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    std::fs::rename(&aside, &place).unwrap();
    let first = sensor.ask(&format!("block {path} 3 6"));
    assert_eq!(first.code, "5.03", "the bytes of another image are not served");
    wait_for("the image once more", || sensor.ask(&format!("block {path} 3 6")).code == "2.05");
    assert_eq!(sensor.ask(&format!("block {path} 3 6")).sha256, good.sha256);
    assert_eq!(sensor.ask(&format!("get {path}")).sha256, sha256(&image("1.0.0")));
    wait_for("the log", || site.daemon.log().contains("it was changed since it was verified"));
}

#[test]
fn an_image_that_is_written_over_and_that_nobody_asks_for_is_found_out_by_the_look_at_its_folder() {
    let site = site("sensors-over", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    let tag = path.rsplit('/').next().unwrap();
    let file = site.folder.join(&format!("state/firmware/door/{tag}.bin"));
    let file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"other bytes", 5_000).unwrap();
    let within = std::time::Duration::from_secs(90);
    let words = "an image of firmware was changed since it was verified";
    wait_within(within, "the log", || site.daemon.log().contains(words));
    wait_for("the image once more", || sensor.ask(&format!("block {path} 4 6")).code == "2.05");
    assert_eq!(sensor.ask(&format!("get {path}")).sha256, sha256(&image("1.0.0")));
}

#[test]
fn a_version_that_devices_do_not_report_is_stopped_until_somebody_goes_on_with_it() {
    let more = "firmware-failures = 1\nfirmware-report-within = \"1s\"";
    let mut site = site("sensors-stopped", "sensors-1", more, ROLES);
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    // It runs what is offered, and has nothing to report of it.
    assert_eq!(sensor.ask("get firmware/door?v=1.0.0").code, "2.05");
    site.publish("sensors-2");
    site.offers("2.0.0");
    let path = path_of(&sensor.manifest());
    assert_eq!(sensor.ask(&format!("block {path} 255 6")).code, "2.05");
    wait_for("the stop", || site.class()["stopped"].is_string());
    assert_eq!(sensor.manifest()["version"], "1.0.0");
    assert_eq!(sensor.ask(&format!("block {path} 0 6")).code, "4.03");
    for command in [["status"].as_slice(), &["check"], &["update", "devices"]] {
        let (_, text) = site.daemon.command(command);
        assert!(
            text.contains("1 device fetched version 2.0.0 and did not report it within 1s: door-7"),
            "{text}"
        );
    }
    // It is so after a restart, too.
    site.daemon.stop();
    site.daemon.resume();
    wait_for("the images", || site.class()["stopped"].is_string());
    let (code, text) = site.daemon.command(&["update", "devices", "--resume", "roof"]);
    assert!(code == 1 && text.contains("no role has firmware = \"roof\""), "{text}");
    let (code, text) = site.daemon.command(&["update", "devices", "--resume", "door"]);
    assert_eq!(code, 0, "{text}");
    let mut sensor = site.sensor("door-7");
    assert_eq!(sensor.manifest()["version"], "2.0.0");
    let (code, text) = site.daemon.command(&["update", "devices", "--resume", "door"]);
    assert!(code == 1 && text.contains("is not stopped"), "{text}");
}

#[test]
fn an_image_for_which_firmware_disk_has_no_room_is_said_and_not_fetched() {
    let site = site("sensors-room", "sensors-1", "firmware-disk = \"128KiB\"", ROLES);
    wait_for("the problem", || site.daemon.command(&["status"]).1.contains("firmware-disk is 131072"));
    assert_eq!(site.counter("tombolo_update_fetched_bytes_total"), 0);
    assert!(!site.folder.join("state/firmware/door/image.part").exists());
}

#[test]
fn a_version_in_a_cbor_reading_is_reported() {
    let site = site("sensors-cbor", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    sensor.manifest();
    assert_eq!(site.device("door-7")["state"], "offered");
    // {"fw": {"version": "1.0.0"}}, cut short and then whole.
    let reading = "a1626677a16776657273696f6e65312e302e30";
    assert_eq!(sensor.ask(&format!("cbor info {}", &reading[..reading.len() - 2])).code, "2.04");
    assert_eq!(site.device("door-7")["state"], "offered");
    assert_eq!(sensor.ask(&format!("cbor info {reading}")).code, "2.04");
    wait_for("the report", || site.device("door-7")["state"] == "reported");
    assert_eq!(site.device("door-7")["reported"], "1.0.0");
}

#[test]
fn a_version_that_is_denied_for_a_class_is_offered_to_no_sensor_until_it_is_allowed_again() {
    let site = site("sensors-denied", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    site.publish("sensors-2");
    site.offers("2.0.0");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    let denied = |arguments: &[&str]| site.daemon.command(&[&["update", "denied"], arguments].concat());
    for wrong in ["door/", "/2.0.0", "door/2.0.0/1", "do or/2.0.0"] {
        assert_eq!(denied(&["add", wrong]).0, 2, "{wrong}");
    }
    assert_eq!(sensor.ask(&format!("block {path} 255 6")).code, "2.05");
    assert_eq!(denied(&["add", "door/2.0.0"]).0, 0);
    assert_eq!(sensor.ask(&format!("block {path} 255 6")).code, "4.04", "at once");
    site.offers("1.0.0");
    assert_eq!(sensor.manifest()["version"], "1.0.0");
    let (_, text) = site.daemon.command(&["update", "devices"]);
    assert!(text.contains("it is denied"), "{text}");
    assert_eq!(sensor.ask(&format!("block {path} 255 6")).code, "4.04");
    // What follows is offered, and what was denied is not.
    site.publish("sensors-3");
    site.offers("3.0.0");
    assert_eq!(denied(&["add", "door/3.0.0"]).0, 0);
    site.offers("1.0.0");
    let (code, text) = denied(&["clear", "door/9.0.0"]);
    assert!(code == 1 && text.contains("is not denied"), "{text}");
    assert_eq!(denied(&["clear", "door/2.0.0"]).0, 0);
    site.offers("2.0.0");
    assert_eq!(denied(&["clear"]).0, 0);
    site.offers("3.0.0");
}

/// A gateway with these images whose disk fails as it is told.
fn faulty(name: &str) -> (Site, PathBuf) {
    let mut faults = PathBuf::new();
    let site = site_with(name, "sensors-1", "", ROLES, |folder, daemon| {
        faults = folder.write("faults", "");
        daemon.environment.push(("LD_PRELOAD".into(), disk_faults::library().display().to_string()));
        daemon.environment.push((disk_faults::VARIABLE.into(), faults.display().to_string()));
    });
    site.offers("1.0.0");
    (site, faults)
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[test]
fn an_image_that_the_disk_does_not_give_for_a_while_is_unavailable_and_neither_gone_nor_fetched_again() {
    let (mut site, faults) = faulty("sensors-eio");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    let tag = path.rsplit('/').next().unwrap().to_owned();
    let fetched = site.counter("tombolo_update_fetched_bytes_total");
    disk_faults::write(&faults, &format!("read {EIO} firmware/door/{tag}"));
    assert_eq!(sensor.ask(&format!("block {path} 3 6")).code, "5.03");
    let problem = "the image of 1.0.0 cannot be read: Input/output error";
    wait_for("the reason", || site.daemon.command(&["status"]).1.contains(problem));
    assert_eq!(sensor.ask(&format!("block {path} 3 6")).code, "5.03");
    assert_eq!(sensor.ask("get firmware/door").code, "5.03");
    // Readings go on.
    assert_eq!(sensor.ask("post info {}").code, "2.04");
    disk_faults::write(&faults, "");
    wait_for("the image", || sensor.ask(&format!("block {path} 3 6")).code == "2.05");
    assert_eq!(sensor.ask(&format!("get {path}")).sha256, sha256(&image("1.0.0")));
    assert_eq!(site.counter("tombolo_update_fetched_bytes_total"), fetched);
    assert!(!site.daemon.command(&["status"]).1.contains("cannot be read"));
    // So it is with a record that cannot be read at the start.
    disk_faults::write(&faults, &format!("read {EIO} firmware/door/kept"));
    site.daemon.stop();
    site.daemon.resume();
    let problem =
        "the record of the images cannot be read: a slot of kept cannot be read: Input/output error";
    wait_for("the reason", || site.daemon.command(&["status"]).1.contains(problem));
    let mut sensor = site.sensor("door-7");
    assert_eq!(sensor.ask("get firmware/door").code, "5.03");
    disk_faults::write(&faults, "");
    wait_for("the image", || sensor.ask("get firmware/door").code == "2.05");
    assert_eq!(site.counter("tombolo_update_fetched_bytes_total"), 0);
}

#[test]
fn a_read_that_the_disk_does_not_answer_is_named_and_readings_go_on() {
    let (site, faults) = faulty("sensors-hang");
    let (mut sensor, mut other) = (site.sensor("door-7"), site.sensor("door-7"));
    let path = path_of(&sensor.manifest());
    let tag = path.rsplit('/').next().unwrap().to_owned();
    disk_faults::write(&faults, &format!("read wait firmware/door/{tag}"));
    writeln!(sensor.input, "block {path} 3 6").unwrap();
    assert_eq!(other.ask("post info {}").code, "2.04");
    let problem = "the disk has not given a block of the firmware for door for";
    let within = std::time::Duration::from_secs(60);
    wait_within(within, "the reason", || {
        let text = site.daemon.command(&["status"]).1;
        text.contains(problem) && text.contains("NOT FINE")
    });
    assert_eq!(other.ask("post info {}").code, "2.04");
    disk_faults::write(&faults, "");
    let mut line = String::new();
    sensor.output.read_line(&mut line).unwrap();
    assert!(line.starts_with("2.05 1024 "), "{line}");
    wait_for("the end of it", || !site.daemon.command(&["status"]).1.contains(problem));
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named_at_the_start_and_by_check_until_it_is_gone() {
    let site = site_with("sensors-file", "sensors-1", "", ROLES, |folder, _| {
        let place = folder.join("state/firmware");
        let _ = std::fs::remove_dir_all(&place);
        std::fs::write(place, "").unwrap();
    });
    let problem = "state/firmware is no folder: no firmware for sensors is kept or served; delete it";
    wait_for("the reason", || {
        let text = site.daemon.command(&["status"]).1;
        text.contains(problem)
            && text.contains("NOT FINE")
            && text.contains("until then devices are answered 4.04")
    });
    assert_eq!(site.sensor("door-7").ask("get firmware/door").code, "4.04");
    let (code, text) = site.daemon.command(&["check", "--offline"]);
    let is_said = |line: &str| line.starts_with("fail") && line.contains(problem);
    assert!(code != 0 && text.lines().any(is_said), "{text}");
    site.check();
    wait_for("the failed fetch", || {
        site.daemon.command(&["status"]).1.contains("firmware for door does not arrive")
    });
    std::fs::remove_file(site.folder.join("state/firmware")).unwrap();
    let within = std::time::Duration::from_secs(90);
    wait_within(within, "the folder", || site.folder.join("state/firmware/door").is_dir());
    // It is looked at every 30 s, whatever made the folder.
    wait_within(within, "the end of it", || !site.daemon.command(&["status"]).1.contains(problem));
    // What could not be stored is not waited for.
    site.offers("1.0.0");
    assert_eq!(site.sensor("door-7").manifest()["version"], "1.0.0");
}

#[test]
fn a_folder_that_is_lost_while_the_gateway_runs_is_named_and_its_image_is_fetched_again() {
    let site = site("sensors-folder", "sensors-1", "", ROLES);
    site.offers("1.0.0");
    std::fs::remove_dir_all(site.folder.join("state/firmware")).unwrap();
    let within = std::time::Duration::from_secs(90);
    wait_within(within, "the reason", || {
        site.daemon.log().contains("the folder was lost with the firmware for door")
    });
    wait_within(within, "the image", || {
        let folder = std::fs::read_dir(site.folder.join("state/firmware/door"));
        let mut names = folder.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().ends_with(".bin"))
    });
    site.offers("1.0.0");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    assert_eq!(sensor.ask(&format!("get {path}")).sha256, sha256(&image("1.0.0")));
}

#[test]
fn a_folder_that_is_lost_and_put_back_is_served_and_what_was_said_of_it_is_over() {
    let (site, faults) = faulty("sensors-back");
    let fetched = site.counter("tombolo_update_fetched_bytes_total");
    // Nothing can be fetched in its place.
    disk_faults::write(&faults, &format!("append {ENOSPC} firmware/door/\nwrite {ENOSPC} firmware/door/"));
    let (place, aside) = (site.folder.join("state/firmware"), site.folder.join("aside"));
    std::fs::rename(&place, &aside).unwrap();
    let within = std::time::Duration::from_secs(90);
    let lost = "the folder was lost with the firmware for door";
    wait_within(within, "the reason", || site.daemon.log().contains(lost));
    wait_within(within, "the failure", || {
        site.daemon.command(&["status"]).1.contains("firmware for door does not arrive")
    });
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(&aside, &place).unwrap();
    let words = [lost, "does not arrive", "the disk is full", "no room"];
    wait_within(within, "the end of it", || {
        let (status, devices) =
            (site.daemon.command(&["status"]).1, site.daemon.command(&["update", "devices"]).1);
        words.iter().all(|words| !status.contains(words) && !devices.contains(words))
            && site.class()["version"] == "1.0.0"
    });
    assert_eq!(site.counter("tombolo_update_fetched_bytes_total"), fetched);
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    assert_eq!(sensor.ask(&format!("get {path}")).sha256, sha256(&image("1.0.0")));
}

#[test]
fn a_disk_that_takes_no_new_image_leaves_the_one_before_and_is_named() {
    let (site, faults) = faulty("sensors-full");
    let mut sensor = site.sensor("door-7");
    let path = path_of(&sensor.manifest());
    let hurry = || assert_eq!(site.daemon.command(&["update", "check"]).0, 0);
    let attempts = [
        (format!("append {ENOSPC} firmware/door/\nwrite {ENOSPC} firmware/door/"), "the disk is full"),
        (format!("sync {EIO} firmware/door/"), "Input/output error"),
        (format!("rename {EIO} firmware/door/"), "Input/output error"),
    ];
    for (at, (fault, reason)) in attempts.iter().enumerate() {
        disk_faults::write(&faults, fault);
        if at == 0 {
            site.publish("sensors-2");
        } else {
            hurry();
        }
        let problem = || site.daemon.command(&["status"]).1;
        wait_for(reason, || {
            let text = problem();
            text.contains("firmware for door does not arrive") && text.contains(reason)
        });
        assert_eq!(sensor.manifest()["version"], "1.0.0");
        assert_eq!(sensor.ask(&format!("block {path} 7 6")).code, "2.05");
    }
    disk_faults::write(&faults, "");
    hurry();
    site.offers("2.0.0");
    let path = path_of(&sensor.manifest());
    assert_eq!(sensor.ask(&format!("get {path}")).sha256, sha256(&image("2.0.0")));
}
