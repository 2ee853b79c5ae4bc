use std::net::UdpSocket;

use crate::place::Place;

#[test]
fn a_gateway_in_order_has_no_fail_and_every_line_begins_with_its_level() {
    let place = Place::new();
    let ran = place.run("check --offline");
    assert_eq!(ran.status, 0, "{}{}", ran.out, ran.err);
    for line in ran.out.lines() {
        assert!(["ok    ", "warn  "].iter().any(|level| line.starts_with(level)), "{line}");
    }
    let (count, next) = ran.err.trim_end().split_once("; next: ").unwrap();
    assert!(count.starts_with("0 fail, ") && count.ends_with(" warn"), "{}", ran.err);
    let config = place.path("tombolo.toml");
    assert_eq!(next, format!("tombolo --config {} init --url mqtts://BROKER", config.display()));
    let stopped = ran.out.lines().find(|line| line.contains("tombolo is not running")).unwrap();
    assert!(stopped.starts_with("warn") && stopped.ends_with("tombolo.toml run"), "{stopped}");
    for subject in ["configuration: ", "clock: ", "state directory: ", "disk: ", "daemon: ", "ports: "] {
        assert!(ran.out.contains(subject), "{subject} in {}", ran.out);
    }
}

#[test]
fn what_fails_is_named_with_file_line_and_the_way_out_and_ends_with_1() {
    let place = Place::new();
    place.write("conf.d/40-role.toml", "[device.a]\nrole = \"nobody\"\npsk-file = \"a.psk\"\n");
    let ran = place.run("check --offline");
    assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
    let fail = ran.out.lines().find(|line| line.starts_with("fail")).unwrap_or_else(|| panic!("{}", ran.out));
    assert!(fail.contains("40-role.toml:2"), "{fail}");

    let json = place.run("--json check --offline");
    assert_eq!(json.status, 1);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert!(json["fail"].as_u64().unwrap() >= 1);
    let finding =
        json["findings"].as_array().unwrap().iter().find(|finding| finding["level"] == "fail").unwrap();
    assert_eq!(finding["line"], 2);
}

#[test]
fn a_configuration_that_cannot_be_used_is_a_finding_too() {
    let place = Place::new();
    place.write("conf.d/30-wrong.toml", "[coap\n");
    let ran = place.run("check");
    assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("30-wrong.toml:1"), "{}", ran.out);
}

#[test]
fn a_port_that_another_program_holds_fails() {
    let place = Place::new();
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    place.write("conf.d/50-listen.toml", &format!("[coap]\nlisten = [\"{address}\"]\n"));
    let ran = place.run("check --offline");
    assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains(&format!("{address} is held by another program")), "{}", ran.out);
}

#[test]
fn a_byte_order_mark_before_a_certificate_is_no_fault_and_utf_16_is_named() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["ca".to_owned()]).unwrap().self_signed(&key).unwrap();
    place.write("ca.pem", &format!("\u{feff}{}", certificate.pem()));
    place.write("conf.d/10.toml", "[upstream]\nurl = \"mqtts://localhost\"\nca-file = \"../ca.pem\"\n");
    let out = place.run("check --offline").fine();
    assert!(out.contains("ca.pem has 1 CA certificate"), "{out}");
    let wide: Vec<u8> =
        format!("\u{feff}{}", certificate.pem()).encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(place.path("ca.pem"), wide).unwrap();
    let ran = place.run("check --offline");
    assert!(ran.status == 1 && ran.out.contains("ca.pem: is UTF-16 text"), "{}", ran.out);
}

#[test]
fn the_pins_and_the_keys_password_are_judged() {
    let place = Place::new();
    let with = |text: &str| {
        place.write("conf.d/10.toml", &format!("[upstream]\nurl = \"mqtts://localhost\"\n{text}\n"));
        place.run("check --offline")
    };
    let pin = "ab".repeat(32);
    let good = with(&format!("pin-sha256 = [\"{pin}\"]"));
    assert!(good.status == 0 && good.out.contains("only the broker's key is judged"), "{}", good.out);
    assert_eq!(
        with(&format!("pin-sha256 = [\"{}\"]", pin.replace("ab", "ab:").trim_end_matches(':'))).status,
        0
    );
    for wrong in ["pin-sha256 = [\"abcd\"]", "pin-sha256 = [\"sha256//base64=\"]"] {
        let ran = with(wrong);
        assert!(ran.status == 1 && ran.out.contains("is not the SHA-256 of a public key"), "{}", ran.out);
    }
    let ran = with("key-password-file = \"nothing\"");
    assert!(ran.out.contains("without effect: there is no key-file"), "{}", ran.out);
}

#[test]
fn a_file_of_conf_d_with_another_ending_is_named_and_a_template_that_may_be_meant() {
    let place = Place::new();
    place.write("conf.d/30-mqtt.tml", "[mqtt]\n");
    place.write("conf.d/40-off.toml.disabled", "[mqtt]\n");
    place.write("modbus/sdm120.toml", "");
    let port = "[serial.bus]\nport = \"/dev/zero\"\n[serial.bus.unit.3]\nid = \"m\"\nrole = \"sensor\"\ntemplate = \"sdm12\"\n";
    place.write("conf.d/50-bus.toml", port);
    let said = place.run("check --offline").out;
    let line = said.lines().find(|line| line.contains("30-mqtt.tml")).unwrap_or_default();
    assert!(line.starts_with("warn") && line.contains("needs a name that ends in .toml"), "{said}");
    assert!(!said.contains(".disabled: "), "{said}");
    assert!(said.contains("there is no template \"sdm12\"; did you mean \"sdm120\"? or put"), "{said}");
}

#[test]
fn a_certificate_of_mqtt_that_has_expired_fails_and_an_expired_ca_of_clients_warns() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let made = |year| {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.self_signed(&key).unwrap().pem()
    };
    place.write("mqtt.pem", &made(2021));
    place.write("mqtt.key", &key.serialize_pem());
    let files = "[mqtt]\nlisten = [\"127.0.0.1:0\"]\ncertificate-file = \"../mqtt.pem\"\nkey-file = \"../mqtt.key\"\n";
    place.write("conf.d/50-mqtt.toml", files);
    let line = |out: &str, key: &str| {
        out.lines().find(|line| line.contains(key) && line.contains(" on 20")).unwrap_or_default().to_owned()
    };
    let ran = place.run("check --offline");
    let said = line(&ran.out, "mqtt.certificate-file");
    assert!(
        ran.status == 1 && said.starts_with("fail") && said.contains("expired on 2021-01-01"),
        "{}",
        ran.out
    );
    place.write("mqtt.pem", &made(2090));
    place.write("ca.pem", &made(2021));
    place.write("conf.d/50-mqtt.toml", &format!("{files}client-ca-file = \"../ca.pem\"\n"));
    let out = place.run("check --offline").fine();
    let said = line(&out, "mqtt.client-ca-file");
    assert!(said.starts_with("warn") && said.contains("accepted all the same"), "{out}");
}

#[test]
fn a_port_of_mqtt_that_another_program_holds_fails_and_the_listener_is_a_way_for_devices() {
    let place = Place::new();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let config = std::fs::read_to_string(place.path("tombolo.toml")).unwrap();
    place.write("tombolo.toml", &config.replace("[\"127.0.0.1:0\"]", "[]"));
    assert!(place.run("check --offline").out.contains("no device can send"));
    place.write("conf.d/50-mqtt.toml", &format!("[mqtt]\ninsecure-listen = [\"{address}\"]\n"));
    let ran = place.run("check --offline");
    assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains(&format!("mqtt {address} is held by another program")), "{}", ran.out);
    assert!(!ran.out.contains("no device can send"), "{}", ran.out);
    drop(held);
    let out = place.run("check --offline").fine();
    assert!(out.contains(&format!("mqtt {address} is free")), "{out}");
}
