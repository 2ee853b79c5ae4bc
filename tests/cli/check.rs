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
    assert_eq!(next, "tombolo init --url mqtts://BROKER");
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
