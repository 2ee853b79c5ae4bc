//! Devices with certificates and public keys on the command line, and the findings of `check` about
//! them.

use std::process::Command;

use serde_json::json;

use crate::place::Place;

/// A CA, the gateway's certificate and key, and a device's public key, made by openssl.
fn with_files() -> Place {
    let place = Place::new();
    let openssl = |line: &str| {
        let arguments = line.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => place.path(name).display().to_string(),
            None => word.to_owned(),
        });
        let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for name in ["ca", "gw", "door"] {
        openssl(&format!("ecparam -name prime256v1 -genkey -noout -out @{name}.key"));
    }
    openssl("req -x509 -new -key @ca.key -subj /CN=Door_CA -days 3650 -out @ca.pem");
    openssl("req -x509 -new -key @gw.key -subj /CN=gw -days 5 -out @gw.pem");
    openssl("pkey -in @door.key -pubout -out @door.pub");
    let coap = "[coap]\ncertificate-file = \"../gw.pem\"\nkey-file = \"../gw.key\"\nclient-ca-file = \"../ca.pem\"\n";
    place.write("conf.d/30-certificates.toml", coap);
    place
}

#[test]
fn a_device_is_added_by_its_certificate_and_by_its_key() {
    let place = with_files();
    let add = "--json device add front --role sensor --certificate-dns Front.example --certificate-issuer CN=Door_CA";
    let certificate = json!({ "dns": "front.example", "issuer": "CN=Door_CA" });
    let added = place.run(add).json();
    assert_eq!(added, json!({ "id": "front", "role": "sensor", "certificate": certificate }));
    let shown = place.run("--json device show front").json();
    assert_eq!((&shown["certificate"], &shown["psk_identity"]), (&certificate, &json!(null)));
    assert!(
        place.run("device show front").fine().contains("certificate-dns \"front.example\" of CN=Door_CA")
    );

    let key = place.path("door.pub").display().to_string();
    let said = place.run(&format!("device add raw --role sensor --public-key {key}")).fine();
    assert!(said.contains("public key") && said.contains("this gateway's key"), "{said}");
    assert!(said.contains("coap-client-gnutls -v 6 -m post -C gateway-ca.pem -M raw.key -e 21.5"), "{said}");
    let hash = place.run("--json device show raw").json()["public_key"].as_str().unwrap().to_owned();
    assert!(hash.starts_with("sha256:") && hash.len() == 71, "{hash}");
    let listed = place.run("device list").fine();
    assert!(listed.contains("dns front.example") && listed.contains(&hash[..15]), "{listed}");

    // Neither name nor key may be another's.
    place
        .run(&format!("device add twin --role sensor --public-key {hash}"))
        .failed(1, &["device raw", "public key"]);
    place
        .run("device add twin --role sensor --certificate-dns front.EXAMPLE")
        .failed(1, &["device front", "certificate", "devices/front.toml"]);
    let said = place.run("device add third --role sensor --certificate-dns third.example").fine();
    assert!(said.contains("-c third.pem -j third.key -C gateway-ca.pem -e 21.5"), "{said}");
    place.run("device remove raw").fine();
}

#[test]
fn what_is_no_certificate_or_key_is_said_with_what_is() {
    let place = with_files();
    let add = |rest: &str| place.run(&format!("device add a --role sensor {rest}"));
    add("").failed(2, &["--psk", "--certificate-dns", "--public-key"]);
    add("--certificate-dns *.example").failed(2, &["--certificate-dns", "not a DNS name"]);
    add("--certificate-cn x --certificate-issuer Door").failed(2, &["--certificate-issuer", "openssl x509"]);
    add("--public-key sha256:00").failed(2, &["64 hexadecimal digits"]);
    add(&format!("--public-key {}", place.path("door.key").display()))
        .failed(1, &["door.key", "private key"]);
    add(&format!("--public-key {}", place.path("none").display())).failed(1, &["none", "cannot be read"]);
    // Without files of the gateway the device is added, and what is missing is said.
    let bare = Place::new();
    let added = bare.run("device add a --role sensor --certificate-cn x");
    let all = "coap.key-file, coap.certificate-file, coap.client-ca-file are missing: no device can connect";
    assert!(added.err.contains(all), "{}", added.err);
    for part in
        ["set: key-file = ", "gateway.key` makes one", "certificate-file = ", "client-ca-file = ", "reload`"]
    {
        assert!(added.err.contains(part), "{part}: {}", added.err);
    }
    assert!(added.fine().contains("when that is done, try it"));
    let hash = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let added = bare.run(&format!("device add b --role sensor --public-key {hash}"));
    assert!(
        added.err.contains("coap.key-file is missing") && !added.err.contains("client-ca"),
        "{}",
        added.err
    );
    assert!(added.fine().contains("BEGIN EC PRIVATE KEY"));
}

#[test]
fn check_tells_of_certificates_that_end_lists_out_of_date_and_devices_without_proof() {
    let place = with_files();
    place.write(
        "conf.d/40-devices.toml",
        "[device.mute]\nrole = \"sensor\"\n[device.d]\nrole = \"sensor\"\ncertificate-cn = \"x\"\n",
    );
    let said = place.run("check --offline").out;
    assert!(said.contains("ok    coap: the gateway shows devices its key and 1 certificate"), "{said}");
    assert!(said.contains("gw.pem) expires on"), "{said}");
    assert!(said.contains("lead to 1 CA, over 0 intermediates"), "{said}");
    assert!(said.contains("nothing says how these prove who they are: mute; set psk-file"), "{said}");
    // Serial devices prove themselves by their port.
    let unit =
        "id = \"meter\"\nrole = \"sensor\"\npath = \"t/m\"\nregister.v = { address = 0, type = \"u16\" }\n";
    let serial = format!(
        "[serial.line]\npath = \"t/l\"\nport = \"/dev/null\"\nrole = \"sensor\"\nframing = \"line\"\n[serial.bus]\nport = \"/dev/zero\"\n[serial.bus.unit.3]\n{unit}"
    );
    place.write("conf.d/45-serial.toml", &serial);
    let with_serial = place.run("check --offline").out;
    assert!(with_serial.contains("prove who they are: mute; set psk-file"), "{with_serial}");
    assert!(with_serial.contains("devices: 4"), "{with_serial}");
    std::fs::remove_file(place.path("conf.d/45-serial.toml")).unwrap();
    // The key of another certificate: no device can connect with a certificate, and the check
    // fails.
    place.write("conf.d/50-wrong.toml", "[coap]\nkey-file = \"../door.key\"\n");
    place.run("check --offline").failed(1, &[]);
    let said = place.run("check --offline").out;
    assert!(
        said.contains("50-wrong.toml:2: coap.key-file") && said.contains("is not that of the certificate"),
        "{said}"
    );
}

#[test]
fn acl_explain_takes_a_device_with_a_certificate_like_any_other() {
    let place = with_files();
    place.run("device add front --role sensor --certificate-cn front").fine();
    let said = place.run("--json acl explain front POST t/x").json();
    assert_eq!(
        (&said["allowed"], &said["publish"]["topic"]),
        (&json!(true), &json!("tombolo/tb-not-started/front/up/t/x"))
    );
}
