//! RAUC's own client between the root program and a service on a D-Bus of its own: what each
//! outcome of an installation comes to.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Child;

use super::*;

/// The service, and the bus that it is on; both end with this.
struct Service {
    folder: PathBuf,
    bus: Child,
    service: Option<Child>,
}

impl Service {
    fn begin(site: &Site) -> Service {
        let folder = site.folder.path().to_owned();
        let address = format!("unix:path={}", folder.join("bus").display());
        let policy = r#"<allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>"#;
        let configuration = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig><type>system</type><listen>{address}</listen>\
             <policy context=\"default\">{policy}</policy></busconfig>\n"
        );
        let file = site.folder.write("bus.conf", configuration);
        let mut bus = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", file.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon is installed");
        first_line(&mut bus);
        // The client as it is, on that bus; a bundle's signature is looked at by itself.
        let keyring = server().folder().join("ca.pem").display().to_string();
        site.folder.script(
            "bin/rauc",
            &format!(
                "#!/bin/sh\nexport DBUS_SYSTEM_BUS_ADDRESS='{address}'\n\
                 [ \"$1\" != info ] || set -- \"$@\" --keyring='{keyring}'\nexec /usr/bin/rauc \"$@\"\n"
            ),
        );
        let mut service = Service { folder, bus, service: None };
        service.resume();
        service
    }

    /// Starts it (again), and waits until it has its name.
    fn resume(&mut self) {
        let bus = format!("unix:path={}", self.folder.join("bus").display());
        // Debian's, which has its D-Bus.
        let mut service = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/update/rauc_service.py"))
            .arg(&self.folder)
            .env("DBUS_SYSTEM_BUS_ADDRESS", bus)
            .stdout(Stdio::piped())
            .spawn()
            .expect("Debian's python3 is installed");
        let name = first_line(&mut service);
        assert_eq!(name, "de.pengutronix.rauc", "python3-dbus and python3-gi are needed");
        if let Some(mut before) = self.service.replace(service) {
            let _ = before.wait();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for child in self.service.iter_mut().chain([&mut self.bus]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// A gateway whose RAUC says that 1.0.0 runs, and to which a bundle of 3.0.0 is offered. `None`:
/// there is no RAUC here.
fn site_with_service(name: &str) -> Option<(Site, Service)> {
    if !server().folder().join("out.raucb").exists() {
        let peers = std::env::var("TOMBOLO_TEST_PEERS").unwrap_or_default();
        assert_ne!(peers, "all", "rauc and squashfs-tools are missing");
        return None;
    }
    let site = site(name, "bundle", "rauc");
    let service = Service::begin(&site);
    site.ready();
    assert_eq!(site.daemon.status()["update"]["installed"], "1.0.0", "the booted slot's");
    Some((site, service))
}

#[test]
fn an_installation_that_rauc_fails_or_refuses_or_leaves_is_told_by_what_rauc_says_of_it() {
    let Some((site, mut service)) = site_with_service("install-service") else { return };
    for (outcome, why) in [
        ("failed", "status 1: Installation error: Failed to write to slot rootfs.1: No space left on device"),
        ("busy", "already processing a different method; D-Bus error while installing"),
        ("gone", "RAUC service disappeared; D-Bus error while installing"),
    ] {
        site.folder.write("outcome", outcome);
        site.refused(why);
        assert!(site.record()["cause"].as_str().unwrap_or_default().contains(why), "{}", site.record());
        assert_eq!(site.record()["phase"], "failed");
    }
    // Nobody has the name any more, and with it nobody says what runs.
    site.refused("the installed version is not known");
    let (code, text) = site.root(&["check"]);
    assert!(code == 1 && text.contains("The name de.pengutronix.rauc was not provided"), "{text}");
    assert!(!site.folder.join("slot").exists());
    // And it is installed once the service is there again.
    fs::remove_file(site.folder.join("outcome")).unwrap();
    service.resume();
    let (code, text) = site.apply();
    assert!(code == 0 && text.contains("it runs after `systemctl reboot`"), "{text}");
    let signed = fs::read(server().folder().join("out.raucb")).unwrap();
    assert_eq!(fs::read(site.folder.join("slot")).unwrap(), signed);
}

#[test]
fn the_progress_of_rauc_is_shown_and_what_it_installed_is_marked_and_taken_back_by_it() {
    let Some((site, _service)) = site_with_service("install-progress") else { return };
    site.folder.write("outcome", "held");
    std::thread::scope(|scope| {
        let applied = scope.spawn(|| site.apply());
        wait_within(Duration::from_secs(40), "the progress", || {
            let update = site.daemon.status()["update"].clone();
            update["state"] == "installing" && update["progress"] == 40
        });
        fs::remove_file(site.folder.join("outcome")).unwrap();
        let (code, text) = applied.join().unwrap();
        assert!(code == 0 && text.contains("it runs after `systemctl reboot`"), "{text}");
    });
    site.rebooted_into("3.0.0");
    let (code, seen) = site.health("20s");
    assert_eq!((code, &seen["verdict"]), (0, &"confirmed".into()), "{seen}");
    let (code, text) = site.root(&["update", "rollback"]);
    assert!(code == 0 && text.contains("after `systemctl reboot`"), "{text}");
    let copy = site.folder.join(ROOT).join("image").display().to_string();
    let asked =
        [format!("install {copy} held").as_str(), "mark good booted", "mark active other", "mark bad booted"]
            .join("\n");
    assert_eq!(site.text("asked"), asked);
}

#[test]
fn a_service_of_rauc_that_does_not_answer_is_given_up_by_its_client() {
    let Some((site, _service)) = site_with_service("install-unanswered") else { return };
    site.folder.write("outcome", "unanswered");
    // After the 25 s of D-Bus.
    site.refused("Timeout was reached; D-Bus error while installing");
}
