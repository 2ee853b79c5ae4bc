//! Devices with certificates and raw public keys, through the whole daemon, with clients of three
//! libraries.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use nix::sys::signal::Signal;
use rcgen::{CertificateParams, SanType};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use super::Site;
use super::device::Device;
use tombolo_test_support::dtls::client::{Config, Own};
use tombolo_test_support::{Folder, Pki, wait_for};

/// A CA of devices, the gateway's own certificate, and a gateway that knows both.
struct World {
    site: Site,
    pki: Pki,
    folder: Folder,
}

impl World {
    /// `devices` is configuration; before it stands a role `sensor` that allows `t/#`. `prepare`
    /// makes files first.
    fn new(name: &str, coap: &str, devices: &str, prepare: impl FnOnce(&Pki)) -> World {
        let folder = Folder::new(&format!("{name}-pki"));
        let pki = Pki::new(folder.path());
        pki.issue("gateway", &["localhost", "127.0.0.1"]);
        prepare(&pki);
        let place = folder.path().display().to_string();
        let coap = format!(
            "[coap]\ncertificate-file = \"{place}/gateway.pem\"\nkey-file = \"{place}/gateway.key\"\n\
             client-ca-file = \"{place}/ca.pem\"\n{}\n",
            coap.replace("PKI", &place)
        );
        let devices = devices.replace("PKI", &place);
        let site = Site::build(name, &devices, "", |text| text.replace("[coap]\n", &coap));
        World { site, pki, folder }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Posts once with libcoap's client and what it proves itself with; all it prints.
    fn post(&self, program: &str, proof: &[&str], path: &str) -> String {
        let output = Command::new(program)
            .args(["-m", "post", "-e", "1", "-B", "5", "-v", "6"])
            .args(proof)
            .arg(format!("coaps://{}/{path}", self.site.daemon.coaps))
            .stdin(Stdio::null())
            .output()
            .expect("libcoap3-bin is installed");
        tombolo_test_support::printed(&output)
    }

    /// Posts with the certificate of that name.
    fn post_as(&self, name: &str, path: &str) -> String {
        let (certificate, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        self.post("coap-client-openssl", &["-c", &certificate, "-j", &key, "-C", &self.file("ca.pem")], path)
    }

    fn arrives(&self, topic: &str) {
        wait_for(topic, || !self.site.arrived(topic).is_empty());
    }

    fn log_says(&self, parts: &[&str]) {
        wait_for(&parts.join(" … "), || {
            self.site.daemon.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
        });
    }

    fn reload(&self) {
        let before = self.site.daemon.log().matches("reloaded").count();
        self.site.daemon.signal(Signal::SIGHUP);
        wait_for("the reload", || self.site.daemon.log().matches("reloaded").count() > before);
    }

    fn sessions(&self) -> u64 {
        self.site.daemon.status()["devices"]["sessions"].as_u64().expect("a number")
    }

    /// A client that stays; what is written to it goes to the gateway.
    fn stay(&self, program: &str, arguments: &[&str]) -> Child {
        let before = self.sessions();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is installed");
        wait_for("the session", || self.sessions() > before);
        child
    }

    fn openssl_as(&self, name: &str) -> Child {
        let (certificate, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        let connect = self.site.daemon.coaps.to_string();
        self.stay(
            "openssl",
            &["s_client", "-dtls1_2", "-quiet", "-connect", &connect, "-cert", &certificate, "-key", &key]
                .into_iter()
                .chain(["-CAfile", &self.file("ca.pem"), "-verify_return_error"])
                .collect::<Vec<_>>(),
        )
    }

    fn gnutls(&self, types: &str, proof: &[&str]) -> Child {
        let priority = format!("NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+ECDHE-ECDSA{types}");
        let port = self.site.daemon.coaps.port().to_string();
        let arguments = ["--udp", "--priority", &priority, "--port", &port];
        self.stay("gnutls-cli", &[&arguments[..], proof, &["localhost"]].concat())
    }
}

/// A confirmable POST of `1` to `t/x`, and the end of a line, where these clients end a record.
const REQUEST: &[u8] = b"\x40\x02\x12\x34\xb1t\x01x\xff1\n";

fn say(mut child: Child, until: impl FnOnce()) {
    child.stdin.take().expect("a pipe").write_all(REQUEST).expect("it reads");
    until();
    let _ = child.kill();
    let _ = child.wait();
}

fn uri(text: &str) -> impl FnOnce(&mut CertificateParams) {
    let name = SanType::URI(text.try_into().expect("ASCII"));
    move |params| params.subject_alt_names.push(name)
}

const DEVICES: &str = r#"
[device.front]
role = "sensor"
certificate-dns = "Front.Doors.example"
[device.urn]
role = "sensor"
certificate-uri = "urn:dev:ops:1"
[device.named]
role = "sensor"
certificate-cn = "the back door"
[device.raw]
role = "sensor"
public-key-file = "PKI/raw.pub"
"#;

fn devices(pki: &Pki) {
    pki.issue("front", &["front.doors.example", "unused.example"]);
    pki.issue_with("urn", &[], uri("urn:dev:ops:1"));
    pki.issue("the back door", &[]);
    pki.issue("raw", &[]);
}

#[test]
fn a_client_that_refuses_an_expired_certificate_is_logged_by_the_name_of_its_alert() {
    let world = World::new("expired-at-the-client", "", "", |_| {});
    let after_all_ends = "70000000000";
    let output = Command::new("openssl")
        .args(["s_client", "-dtls1_2", "-connect", &world.site.daemon.coaps.to_string()])
        .args(["-CAfile", &world.file("ca.pem"), "-verify_return_error", "-attime", after_all_ends])
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    assert!(!output.status.success());
    world.log_says(&["handshake failed", "client gave up: certificate_expired (45)"]);
}

#[test]
fn clients_of_openssl_and_gnutls_publish_by_certificate_and_by_raw_public_key() {
    let world = World::new("certificates", "", DEVICES, devices);
    let answer = world.post_as("front", "t/coap");
    world.arrives("tombolo/gw/front/up/t/coap");
    assert!(answer.contains("2.04"), "{answer}");
    world.post_as("the back door", "t/coap");
    world.arrives("tombolo/gw/named/up/t/coap");
    say(world.openssl_as("urn"), || world.arrives("tombolo/gw/urn/up/t/x"));
    let (certificate, key) = (world.file("front.pem"), world.file("front.key"));
    let ca = world.file("ca.pem");
    let x509 = ["--x509certfile", &certificate, "--x509keyfile", &key, "--x509cafile", &ca];
    say(world.gnutls("", &x509), || world.arrives("tombolo/gw/front/up/t/x"));
    let (public, key) = (world.file("raw.pub"), world.file("raw.key"));
    let raw = ["--rawpkfile", &public, "--rawpkkeyfile", &key, "--no-ca-verification"];
    let types = ":-CTYPE-ALL:+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK";
    say(world.gnutls(types, &raw), || world.arrives("tombolo/gw/raw/up/t/x"));
    // A pre-shared key is no worse for it.
    world.site.post(&["-e", "1"], "t/psk");
    world.arrives("tombolo/gw/door-7/up/t/psk");
}

#[test]
fn libcoap_with_gnutls_publishes_with_a_raw_public_key_it_was_added_with() {
    let world = World::new("rawkey", "", "", devices);
    let (code, text) = world.site.daemon.command(&[
        "device",
        "add",
        "raw",
        "--role",
        "sensor",
        "--public-key",
        &world.file("raw.pub"),
    ]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("coap-client-gnutls -v 6 -m post -C gateway-ca.pem -M raw.key"), "{text}");
    // It takes the key in the form of SEC 1 only.
    let sec1 = world.file("raw.sec1");
    let made = Command::new("openssl")
        .args(["pkey", "-in", &world.file("raw.key"), "-out", &sec1, "-traditional"])
        .status();
    assert!(made.expect("openssl is installed").success());
    let proof = ["-C", &world.file("ca.pem"), "-M", &sec1];
    world.post("coap-client-gnutls", &proof, "t/raw");
    world.arrives("tombolo/gw/raw/up/t/raw");
    let (code, text) = world.site.daemon.command(&["device", "remove", "raw"]);
    assert_eq!(code, 0, "{text}");
    let answer = world.post("coap-client-gnutls", &proof, "t/again");
    assert!(!answer.contains("2.04"), "{answer}");
    assert!(world.site.arrived("tombolo/gw/raw/up/t/again").is_empty());
}

#[test]
fn a_fleet_makes_devices_of_certificates_that_fit_and_refuses_the_others_by_name() {
    let fleet = r#"
[fleet.doors]
role = "sensor"
certificate-dns = "door-{id}.example"
max-devices = 2
[device.8]
role = "sensor"
certificate-cn = "somebody else"
[device.9]
role = "sensor"
enabled = false
"#;
    let world = World::new("fleet", "", fleet, |pki| {
        for id in ["1", "2", "3", "8", "9", "gateway"] {
            pki.issue(id, &[&format!("door-{id}.example")]);
        }
        pki.issue("two", &["door-1.example", "door-2.example"]);
        pki.issue("stranger", &["stranger.example"]);
    });
    for id in ["1", "2", "1"] {
        world.post_as(id, &format!("t/{id}"));
        world.arrives(&format!("tombolo/gw/{id}/up/t/{id}"));
    }
    for (name, parts) in [
        ("3", &["door-3.example", "fleet doors already has 2 devices", "max-devices"][..]),
        ("8", &["door-8.example", "another device has already"]),
        ("9", &["door-9.example", "the id 9 is switched off, disabled or reserved"]),
        ("gateway", &["the id gateway is switched off, disabled or reserved"]),
        ("two", &["door-2.example", "its names match several devices: 1, 2; "]),
        ("stranger", &["stranger.example", "no device and no fleet is configured for it"]),
    ] {
        let answer = world.post_as(name, "t/refused");
        assert!(!answer.contains("2.04"), "{name}: {answer}");
        world.log_says(&[&["certificate of no device"][..], parts].concat());
    }
    assert!(!world.site.witness.text().contains("t/refused"));
    assert_eq!(world.site.daemon.status()["devices"]["known"], 4);
    wait_for("the status of one", || !world.site.arrived("tombolo/gw/2/status").is_empty());

    // The entry goes: so do its devices, their sessions and what is retained of them.
    let kept = world.openssl_as("1");
    let text = std::fs::read_to_string(world.site.daemon.config()).expect("the configuration");
    std::fs::write(
        world.site.daemon.config(),
        text.replace("[fleet.doors]", "[fleet.doors]\nenabled = false"),
    )
    .expect("it can be written");
    world.reload();
    wait_for("the end of the session", || world.sessions() == 0);
    assert_eq!(world.site.daemon.status()["devices"]["known"], 2);
    wait_for("the status cleared", || {
        world.site.arrived("tombolo/gw/2/status").last().is_some_and(|fields| fields[1].is_empty())
    });
    let mut kept = kept;
    let _ = kept.kill();
    let _ = kept.wait();
}

const DOORS: &str =
    "[fleet.doors]\nrole = \"sensor\"\ncertificate-dns = \"door-{id}.example\"\noffline-after = \"10s\"\n";

fn doors(pki: &Pki) {
    for id in ["1", "2"] {
        pki.issue(id, &[&format!("door-{id}.example")]);
    }
}

impl World {
    /// What is retained last of a device: its payload.
    fn status_of(&self, id: &str) -> String {
        let arrived = self.site.arrived(&format!("tombolo/gw/{id}/status"));
        arrived.last().map_or_else(String::new, |fields| fields[1].clone())
    }

    /// The ids that `device list` shows, with their fleets.
    fn listed(&self) -> Vec<(String, String)> {
        let (code, text) = self.site.daemon.command(&["device", "list", "--json"]);
        assert_eq!(code, 0, "{text}");
        let items = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let of_fleets = items.filter(|item| item["source"] == "fleet");
        of_fleets
            .map(|item| {
                (
                    item["id"].as_str().unwrap_or_default().to_owned(),
                    item["fleet"].as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect()
    }
}

/// What the device of a fleet shows: certificate and key of that name.
fn own(world: &World, name: &str) -> Arc<Own> {
    let pem = |end: &str| std::fs::read(world.file(&format!("{name}.{end}"))).expect("it was issued");
    let certificate = CertificateDer::from_pem_slice(&pem("pem")).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem("key")).expect("a key");
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(&pem("pub")).expect("a public key");
    Arc::new(Own {
        chain: vec![certificate.to_vec()],
        key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_pkcs8_der())
            .expect("a P-256 key")
            .into(),
        spki: spki.to_vec(),
        algorithm: 0x0403,
    })
}

#[test]
fn devices_of_a_fleet_are_observed_and_polled_by_the_tables_of_its_role() {
    let tables = format!(
        "{DOORS}[role.sensor.mailbox]\nalways-awake = true\n\
         [role.sensor.observe.temp]\npath = \"temp\"\nas = \"t/temp\"\n\
         [role.sensor.poll.level]\npath = \"level\"\nas = \"t/level\"\nevery = \"1s\"\n"
    );
    let world = World::new("fleet-served", "", &tables, doors);
    let arrived = |id: &str, path: &str| world.site.arrived(&format!("tombolo/gw/{id}/up/t/{path}")).len();
    for id in ["1", "2"] {
        let mut device =
            Device::connect(world.site.daemon.coaps, Config::certified(&own(&world, id))).expect("a session");
        assert!(device.post("t/hello", b"hello"));
        let (mut observe, mut notified) = (None, 0);
        wait_for("an observed value, a notification and two polled values", || {
            device.serve(|request| {
                let path: Vec<_> = request.options.values(11).collect();
                match path[..] {
                    [b"temp"] => {
                        observe = Some(request.token);
                        Some((b"20".to_vec(), Some(1)))
                    }
                    [b"level"] => Some((b"7".to_vec(), None)),
                    _ => None,
                }
            });
            if let (Some(token), 0) = (observe, notified) {
                notified = 2;
                device.notify(token, notified, b"21");
            }
            arrived(id, "temp") >= 2 && arrived(id, "level") >= 2
        });
        let (code, text) = world.site.daemon.command(&["device", "show", id, "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let served = shown["served"].as_array().cloned().unwrap_or_default();
        assert!(code == 0 && served.len() == 2, "{text}");
        assert!(served.iter().all(|of| of["trouble"].is_null()), "{text}");
        assert!(served.iter().any(|of| of["name"] == "temp" && of["observed_s"].is_u64()), "{text}");
    }
}

#[test]
fn a_fleets_device_outlives_a_restart_is_told_offline_and_is_cleared_when_its_fleet_has_gone_meanwhile() {
    let mut world = World::new("fleet-restart", "", DOORS, doors);
    for id in ["1", "2"] {
        world.post_as(id, "t/x");
        wait_for("its status", || world.status_of(id).contains("true"));
    }
    let both = [("1", "doors"), ("2", "doors")].map(|(id, fleet)| (id.to_owned(), fleet.to_owned()));
    wait_for("the list", || world.listed() == both);
    let (code, said) = world.site.daemon.command(&["device", "remove", "2"]);
    assert_eq!(code, 1);
    let expected = "2 belongs to fleet doors; revoke its certificate, or add [device.2] with enabled = false";
    assert!(said.contains(expected), "{said}");
    // It is written every few seconds.
    let state = world.site.folder.join("state");
    wait_for("the stored list", || {
        let mut stored = 0;
        if let Some(roll) = tombolo::daemon::fleets::read(&state) {
            for page in roll.pages() {
                stored += page.devices.len();
            }
        }
        stored == 2
    });
    // The power goes: no goodbye, no last write.
    world.site.daemon.kill();
    world.site.daemon.resume();
    assert_eq!(world.listed(), both);
    assert_eq!(world.site.daemon.status()["devices"]["fleets"]["doors"]["devices"], 2);
    // The one that comes is there; the other one is told offline.
    world.post_as("1", "t/y");
    wait_for("the silent one", || world.status_of("2").contains("false"));
    // In order this time, and the second start finds no such fleet.
    assert_eq!(world.site.daemon.stop().0, Some(0));
    let config = world.site.daemon.config().to_owned();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, text.replace("[fleet.doors]", "[fleet.doors]\nenabled = false"))
        .expect("written");
    world.site.daemon.resume();
    for id in ["1", "2"] {
        wait_for("the status cleared", || world.status_of(id).is_empty());
    }
    assert_eq!(world.listed(), []);
}

#[test]
fn a_damaged_list_of_fleets_devices_is_set_aside_and_named_and_they_are_made_again() {
    let mut world = World::new("fleet-damage", "", DOORS, doors);
    world.post_as("1", "t/x");
    wait_for("the list", || world.listed().len() == 1);
    assert_eq!(world.site.daemon.stop().0, Some(0));
    let file = world.site.folder.join("state/fleet-devices");
    let whole = std::fs::read(&file).expect("the list");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("cut");
    world.site.daemon.resume();
    world.log_says(&["fleet-devices", "damaged", "unknown until they come"]);
    assert!(world.site.folder.join("state/fleet-devices.damaged-1").exists());
    let problems = world.site.daemon.status()["problems"].to_string();
    assert!(problems.contains("fleet-devices.damaged-1"), "{problems}");
    world.post_as("1", "t/y");
    wait_for("the list", || world.listed().len() == 1);
    // A reload finds the file that was set aside by itself: it is named once.
    world.reload();
    let problems = world.site.daemon.status()["problems"].to_string();
    assert_eq!(problems.matches("fleet-devices.damaged-1").count(), 1, "{problems}");
}

#[test]
fn a_revoked_certificate_loses_its_session_on_reload_and_an_expired_one_never_gets_any() {
    let world = World::new("revoked", "crl-file = \"PKI/revoked.pem\"", DEVICES_OF_ONE, |pki| {
        pki.issue_with("front", &["front.doors.example"], |params| params.serial_number = Some(77.into()));
        pki.issue_with("late", &["front.doors.example"], |params| {
            params.not_after = rcgen::date_time_ymd(2021, 5, 1);
        });
        std::fs::write(pki.ca().with_file_name("revoked.pem"), pki.revoke(&[1])).expect("a list");
    });
    let mut client = world.openssl_as("front");
    let answer = world.post_as("late", "t/late");
    assert!(!answer.contains("2.04"), "{answer}");
    world.log_says(&["handshake failed", "certificate refused", "2021-05-01", "front.doors.example"]);

    // A list that cannot be read leaves in force what was, and keeps nothing else from being taken
    // up.
    world.folder.write("revoked.pem", "half a li");
    world.reload();
    assert_eq!(world.sessions(), 1);
    world.log_says(&["revoked.pem", "the previous files stay in use until the next restart"]);

    world.folder.write("revoked.pem", world.pki.revoke(&[1, 77]));
    world.reload();
    wait_for("the end of the session", || world.sessions() == 0);
    let _ = client.kill();
    let _ = client.wait();
    let answer = world.post_as("front", "t/front");
    assert!(!answer.contains("2.04"), "{answer}");
    world.log_says(&["handshake failed", "revoked", "front.doors.example"]);
    assert!(!world.site.witness.text().contains("t/front"));

    // Without any list it would be let in again, which is said.
    let config: PathBuf = world.site.daemon.config().to_owned();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("crl-file")).collect();
    std::fs::write(&config, lines.join("\n")).expect("it can be written");
    world.reload();
    world.log_says(&["no revocation list any more"]);
}

const DEVICES_OF_ONE: &str = "[device.front]\nrole = \"sensor\"\ncertificate-dns = \"front.doors.example\"\n";

#[test]
fn another_key_or_another_issuer_for_a_device_ends_its_session() {
    let world = World::new("rekeyed", "", DEVICES_OF_ONE, devices);
    let mut client = world.openssl_as("front");
    let config: PathBuf = world.site.daemon.config().to_owned();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let other =
        text.replace("certificate-dns = \"front.doors.example\"", "$0\ncertificate-issuer = \"CN=other\"");
    let other = other.replace("$0", "certificate-dns = \"front.doors.example\"");
    std::fs::write(&config, other).expect("it can be written");
    world.reload();
    wait_for("the end of the session", || world.sessions() == 0);
    let _ = client.kill();
    let _ = client.wait();
    world.post_as("front", "t/front");
    world.log_says(&["certificate of no device", "front.doors.example", "issuer"]);
}
