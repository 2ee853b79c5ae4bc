//! A board without a clock battery: 1970 after a power cut, 2036 after a bad answer from a time server.

use super::support::{Daemon, Folder, Mosquitto, Pki, Subscriber, wait_for};
use super::{KEY, SITE, binary};

fn bridges_at(name: &str, time: &str) {
    let folder = Folder::new(name);
    folder.write("door-7.psk", format!("text:{KEY}"));
    let pki = Pki::new(folder.path());
    let broker = Mosquitto::start(folder.path(), &pki, "");
    let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t\t%p\t%P");
    let library = std::process::Command::new("faketime")
        .args(["-f", "+0d", "printenv", "LD_PRELOAD"])
        .output()
        .expect("faketime is installed");
    let library = String::from_utf8_lossy(&library.stdout).trim().to_owned();
    let wrapper = format!(
        "#!/bin/sh\nexport LD_PRELOAD='{library}' FAKETIME='{time}' DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1\nexec '{}' \"$@\"\n",
        binary().display()
    );
    let wrapper = folder.write("tombolo", wrapper);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&wrapper, mode).expect("it can be made executable");
    // Nobody vouches for this clock, and the kernel here does not either.
    let extra = format!("{SITE}\n[role.sensor.uplink.short]\npath = \"s/+\"\nexpires = \"1h\"\n");
    let config = |text: &str| text.replace("trust = \"always\"", "trust = \"kernel\"");
    let mut daemon = Daemon::start_with(&wrapper, &folder, broker.tls_port, &pki.ca(), &extra, config);
    for path in ["t/x", "s/x"] {
        let output = std::process::Command::new("coap-client-openssl")
            .args(["-u", "door-7", "-k", KEY, "-m", "post", "-e", path, "-B", "5"])
            .arg(format!("coaps://{}/{path}", daemon.coaps))
            .output()
            .expect("libcoap3-bin is installed");
        assert!(output.status.success());
    }
    wait_for("both readings", || witness.text().contains("up/t/x") && witness.text().contains("up/s/x"));
    assert!(
        !witness.text().contains("received:"),
        "no time is claimed that nobody trusts: {}",
        witness.text()
    );
    let status = daemon.status();
    assert_eq!(status["clock"]["trusted"], false);
    assert_eq!(status["journal"]["lost"], 0);
    let (code, _) = daemon.stop();
    assert_eq!(code, Some(0));
}

#[test]
fn it_connects_and_bridges_in_1970() {
    bridges_at("1970", "@1970-01-01 00:00:20");
}

#[test]
fn it_connects_and_bridges_in_2036() {
    bridges_at("2036", "@2036-02-07 06:28:00");
}
