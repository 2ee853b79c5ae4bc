//! Local MQTT clients with certificates, when revocation lists or their CA change, or are missing.

use std::process::{Child, Command, Output, Stdio};

use tombolo_test_support::{Folder, Pki, free_tcp_port, printed, wait_for};

use super::Site;
use super::mqtt::site;

/// A gateway whose cameras, devices `1` and `2`, have certificates with these serial numbers, of a
/// CA of their own; `pump-2` has a password.
struct World {
    site: Site,
    /// The CA of the cameras.
    pki: Pki,
    folder: Folder,
    port: String,
}

impl World {
    /// `coap` is added to `[coap]`; `crl.pem` has the content `list`.
    fn new(name: &str, coap: &str, list: &str) -> World {
        let folder = Folder::new(&format!("{name}-pki"));
        let pki = Pki::new(folder.path());
        for serial in 1..=2u64 {
            pki.issue_with(&format!("cam-{serial}"), &[&format!("cam-{serial}.example")], |params| {
                params.serial_number = Some(serial.into());
            });
        }
        let list = match list {
            "none" => pki.revoke(&[]),
            "first" => pki.revoke(&[1]),
            "expired" => pki.revoke_until(&[], 2025),
            text => text.to_owned(),
        };
        folder.write("crl.pem", list);
        let port = free_tcp_port();
        let coap = coap.replace("CRL", &folder.join("crl.pem").display().to_string());
        let site = site(name, |_, own| {
            let (certificate, key) = own.issue("gateway", &["localhost", "127.0.0.1"]);
            format!(
                "[mqtt]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n\
                 client-ca-file = \"{}\"\n[fleet.cams]\nrole = \"sensor\"\ncertificate-dns = \"cam-{{id}}.example\"\n",
                certificate.display(),
                key.display(),
                pki.ca().display(),
            )
        });
        let text = std::fs::read_to_string(site.daemon.config()).expect("a file");
        let text = text.replacen("[coap]\n", &format!("[coap]\n{coap}\n"), 1);
        std::fs::write(site.daemon.config(), text).expect("a file");
        let mut world = World { site, pki, folder, port: port.to_string() };
        world.site.daemon.stop();
        world.site.daemon.resume();
        world
    }

    fn command(&self, program: &str, camera: u64) -> Command {
        let file = |end: &str| self.folder.join(&format!("cam-{camera}.{end}")).display().to_string();
        let mut command = Command::new(program);
        command.args(["-h", "localhost", "-p", &self.port, "-V", "mqttv5", "-q", "1"]);
        command.args(["--cafile", &self.site.pki.ca().display().to_string()]);
        command.args(["--cert", &file("pem"), "--key", &file("key")]).stdin(Stdio::null());
        command
    }

    fn publish(&self, camera: u64) -> bool {
        let mut command = self.command("mosquitto_pub", camera);
        let output = command.args(["-t", "t/x", "-m", "1"]).output().expect("mosquitto-clients is installed");
        output.status.success()
    }

    fn publish_by_password(&self) -> Output {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "localhost", "-p", &self.port, "-V", "mqttv5", "-q", "1"]);
        command.args(["--cafile", &self.site.pki.ca().display().to_string()]);
        command.args(["-u", "pump-2", "-P", "sesame-sesame", "-t", "t/x", "-m", "1"]);
        command.stdin(Stdio::null()).output().expect("mosquitto-clients is installed")
    }

    fn subscribe(&self, camera: u64) -> Client {
        let mut command = self.command("mosquitto_sub", camera);
        command.args(["-t", "set/#"]).stdout(Stdio::null()).stderr(Stdio::null());
        Client(command.spawn().expect("mosquitto-clients is installed"))
    }

    fn clients(&self) -> u64 {
        self.site.daemon.status()["mqtt"]["clients"].as_u64().expect("a number")
    }

    fn reload(&self) {
        let (status, text) = self.site.daemon.command(&["reload"]);
        assert_eq!(status, 0, "{text}");
    }

    fn ended(&self, camera: u64, why: &str) -> bool {
        let device = format!("device={camera} ");
        self.site.daemon.log().lines().any(|line| line.contains(&device) && line.contains(why))
    }
}

/// A program of mosquitto's; ended with the test.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_reload_ends_the_connections_of_what_a_new_list_revokes_and_of_a_ca_that_is_gone() {
    let world = World::new("mqtt-revoked", "crl-file = \"CRL\"", "none");
    let (warnings, text) = world.site.daemon.command(&["check", "--offline"]);
    assert!(!text.contains("no CA is configured"), "{warnings} {text}");
    let clients = [world.subscribe(1), world.subscribe(2)];
    wait_for("both", || world.clients() == 2);
    world.folder.write("crl.pem", world.pki.revoke(&[1]));
    world.reload();
    wait_for("the end of the first", || world.ended(1, "its certificate is revoked"));
    wait_for("the other stays", || world.clients() == 1);
    assert!(!world.publish(1) && world.publish(2));
    assert!(!world.ended(2, "its certificate"), "{}", world.site.daemon.log());

    // Its CA is another one now, of the same name.
    let other = Folder::new("mqtt-revoked-other-ca");
    Pki::new(other.path());
    std::fs::copy(other.join("ca.pem"), world.pki.ca()).expect("a copy");
    std::fs::remove_file(world.folder.join("crl.pem")).expect("it is there");
    world.folder.write("crl.pem", world.pki.revoke(&[]));
    world.reload();
    wait_for("the end of the second", || world.ended(2, "its certificate leads to no CA"));
    wait_for("nobody", || world.clients() == 0);
    assert!(!world.publish(2));
    drop(clients);
}

#[test]
fn the_session_of_an_absent_client_ends_with_its_certificate() {
    let world = World::new("mqtt-revoked-absent", "crl-file = \"CRL\"", "none");
    for camera in [1, 2] {
        let mut command = world.command("mosquitto_sub", camera);
        // SUBSCRIBE, and away.
        command.args(["-i", "absent", "-c", "-x", "3600", "-t", "set/#", "-E"]);
        assert!(command.output().expect("mosquitto-clients is installed").status.success());
    }
    let absent = || world.site.daemon.status()["mqtt"]["absent_sessions"].as_u64();
    wait_for("both sessions", || absent() == Some(2));
    world.folder.write("crl.pem", world.pki.revoke(&[1]));
    world.reload();
    assert_eq!(absent(), Some(1), "{}", world.site.daemon.log());
    let log = world.site.daemon.log();
    let line = log.lines().find(|line| line.contains("session of an absent MQTT client ended"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    for part in ["device=1 ", "client_id=absent ", "its certificate is revoked", "audit=revoked"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn a_list_that_cannot_be_read_at_the_start_keeps_every_certificate_out_and_no_password() {
    let world = World::new("mqtt-no-list", "crl-file = \"CRL\"", "-----BEGIN X509 CRL-----\nno\n");
    assert!(!world.publish(1) && !world.publish(2));
    let output = world.publish_by_password();
    assert!(output.status.success(), "{}", printed(&output));
    let problems = world.site.daemon.status()["problems"].to_string();
    assert!(problems.contains("no client can connect with a certificate"), "{problems}");
    world.folder.write("crl.pem", world.pki.revoke(&[1]));
    world.reload();
    assert!(!world.publish(1) && world.publish(2));
    let problems = world.site.daemon.status()["problems"].to_string();
    assert!(!problems.contains("with a certificate"), "{problems}");
}

#[test]
fn with_refuse_an_expired_list_and_none_at_all_keep_certificates_out() {
    let refuse = "crl-file = \"CRL\"\ncrl-expired = \"refuse\"";
    let world = World::new("mqtt-expired", refuse, "expired");
    assert!(!world.publish(2));
    assert!(world.publish_by_password().status.success());
    world.folder.write("crl.pem", world.pki.revoke(&[]));
    world.reload();
    let client = world.subscribe(2);
    wait_for("service", || world.clients() == 1);
    // Who is connected stays connected, as over DTLS.
    world.folder.write("crl.pem", world.pki.revoke_until(&[], 2025));
    world.reload();
    assert!(!world.publish(2));
    assert_eq!(world.clients(), 1);
    drop(client);
    let url = format!("crl-url = \"http://127.0.0.1:{}/x\"\ncrl-expired = \"refuse\"", free_tcp_port());
    let world = World::new("mqtt-missing", &url, "none");
    assert!(!world.publish(2));
    assert!(world.publish_by_password().status.success());
}

#[test]
fn without_refuse_an_expired_list_still_revokes_and_keeps_nobody_else_out() {
    let world = World::new("mqtt-old-list", "crl-file = \"CRL\"", "first");
    assert!(!world.publish(1) && world.publish(2));
    world.folder.write("crl.pem", world.pki.revoke_until(&[1], 2025));
    world.reload();
    assert!(!world.publish(1) && world.publish(2));
}

#[test]
fn the_delayed_will_of_a_client_that_is_away_is_forgotten_with_its_certificate() {
    let world = World::new("mqtt-will-revoked", "crl-file = \"CRL\"", "none");
    let mut clients: Vec<Client> = [1, 2]
        .map(|camera| {
            let mut command = world.command("mosquitto_sub", camera);
            command.args(["-i", "cam", "-c", "-x", "3600", "-t", "set/#"]);
            command.args(["--will-topic", "t/gone", "--will-payload", "1"]);
            command.args(["-D", "will", "will-delay-interval", "3600"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            Client(command.spawn().expect("mosquitto-clients is installed"))
        })
        .into();
    wait_for("both", || world.clients() == 2);
    clients.clear();
    let away = || world.site.daemon.status()["mqtt"]["absent_sessions"].as_u64();
    wait_for("both are away", || away() == Some(2));
    world.folder.write("crl.pem", world.pki.revoke(&[1]));
    world.reload();
    assert_eq!(away(), Some(1));
}
