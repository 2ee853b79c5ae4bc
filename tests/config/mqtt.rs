//! `[mqtt]`, and what a device logs in with.

use std::path::PathBuf;

use tombolo::southbound::mqtt::settings::{PlainAddress, Settings};

use crate::support::{Case, main_file};

const MAIN: &str = "/etc/tombolo/tombolo.toml";

fn mqtt(keys: &str) -> Case {
    main_file(&format!("[mqtt]\n{keys}\n"))
}

fn settings(keys: &str) -> Settings {
    mqtt(keys).loaded().settings.mqtt.clone()
}

/// It is refused, with this one complaint.
#[track_caller]
fn refused(case: &Case, expected: &str) {
    let (loads, complaints) = case.complaints();
    assert!(!loads, "{complaints:?}");
    assert_eq!(complaints, [format!("fail  {MAIN}:2: {expected}")]);
}

#[test]
fn mirror_true_is_the_topic_of_device_and_path_and_false_and_nothing_are_none() {
    for (keys, expected) in [
        ("", None),
        ("mirror = false", None),
        ("mirror = \"\"", None),
        ("mirror = true", Some("{device}/{path}")),
        ("mirror = \"readings/{device}/{path}\"", Some("readings/{device}/{path}")),
        ("mirror = \"{path}/of/{device}/{device}\"", Some("{path}/of/{device}/{device}")),
    ] {
        assert_eq!(settings(keys).mirror.as_deref(), expected, "{keys}");
    }
}

#[test]
fn a_mirror_that_is_no_template_of_a_topic_is_refused() {
    for wrong in [
        "readings/{device}",
        "readings/{path}",
        "readings",
        "{device}/{path}/{path}",
        "{device}/{path}/{role}",
        "{device}/{path}/+",
        "#/{device}/{path}",
        "$SYS/{device}/{path}",
        "{device}/{path",
    ] {
        refused(
            &mqtt(&format!("mirror = \"{wrong}\"")),
            &format!(
                "mqtt.mirror: \"{wrong}\" is no template of a topic: it needs {{device}} and, once, {{path}}; \
                 write true, or a text like \"readings/{{device}}/{{path}}\""
            ),
        );
    }
}

#[test]
fn without_tls_only_addresses_of_this_machine_are_listened_on() {
    let loopback = |text: &str| PlainAddress::Loopback(text.parse().expect("an address"));
    let taken = settings(
        "insecure-listen = [\"127.0.0.1:1883\", \"127.8.9.10:1884\", \"[::1]:1883\", \"unix:mqtt.sock\", \"unix:/run/x\"]",
    );
    let expected = [
        loopback("127.0.0.1:1883"),
        loopback("127.8.9.10:1884"),
        loopback("[::1]:1883"),
        PlainAddress::Unix(PathBuf::from("/etc/tombolo/mqtt.sock")),
        PlainAddress::Unix(PathBuf::from("/run/x")),
    ];
    assert_eq!(taken.insecure_listen, expected);
    for address in ["192.0.2.7:1883", "0.0.0.0:1883", "[::]:1883", "[2001:db8::7]:1883", "[fe80::1]:1883"] {
        refused(
            &mqtt(&format!("insecure-listen = [\"{address}\"]")),
            &format!(
                "mqtt.insecure-listen: {address} can be reached from other machines, and has no TLS; use 127.0.0.1, \
                 [::1] or unix:PATH; other machines reach mqtt.listen, which has TLS"
            ),
        );
    }
    for text in ["localhost:1883", "127.0.0.1", "1883", "unix"] {
        refused(
            &mqtt(&format!("insecure-listen = [\"{text}\"]")),
            &format!(
                "mqtt.insecure-listen: \"{text}\" is no address; write \"127.0.0.1:1883\", \"[::1]:1883\" or \
                 \"unix:/run/tombolo/mqtt.sock\""
            ),
        );
    }
    refused(
        &mqtt("insecure-listen = [\"127.0.0.1:1883\", \"127.0.0.1:1883\"]"),
        "mqtt.insecure-listen: 127.0.0.1:1883 is listed twice; name each address once",
    );
}

#[test]
fn listen_needs_certificate_and_key() {
    let missing = |name: &str| {
        format!(
            "fail  {MAIN}:2: mqtt.listen: mqtt.listen is TLS, and mqtt.{name} is missing; set mqtt.certificate-file and \
             mqtt.key-file; clients of this machine can use insecure-listen"
        )
    };
    let (certificate, key) = ("certificate-file = \"gateway.pem\"", "key-file = \"gateway.key\"");
    for (keys, names) in [
        (String::new(), vec!["certificate-file", "key-file"]),
        (certificate.to_owned(), vec!["key-file"]),
        (key.to_owned(), vec!["certificate-file"]),
    ] {
        let (loads, complaints) = mqtt(&format!("listen = [\"0.0.0.0:8883\"]\n{keys}")).complaints();
        assert!(!loads, "{keys}");
        let said: Vec<&String> =
            complaints.iter().filter(|text| text.contains("mqtt.listen is TLS")).collect();
        assert_eq!(said, names.into_iter().map(missing).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
    // With both, files that are not there keep TLS clients out, and nothing else.
    let (loads, complaints) =
        mqtt(&format!("listen = [\"0.0.0.0:8883\"]\n{certificate}\n{key}")).complaints();
    assert!(loads && !complaints.is_empty(), "{complaints:?}");
    assert!(complaints.iter().all(|text| !text.contains("is missing")), "{complaints:?}");
}

#[test]
fn the_audience_of_tokens_is_taken_and_has_a_length() {
    assert_eq!(settings("").jwt_audience, None);
    assert_eq!(settings("jwt-audience = \"plant-4\"").jwt_audience.as_deref(), Some("plant-4"));
    assert_eq!(settings("jwt-audience = \"\"").jwt_audience, None, "as everywhere: its default");
    let (loads, complaints) = mqtt(&format!("jwt-audience = \"{}\"", "x".repeat(256))).complaints();
    assert!(!loads && complaints[0].contains("mqtt.jwt-audience"), "{complaints:?}");
}

const ROLE: &str =
    "[mqtt]\ninsecure-listen = [\"127.0.0.1:1883\"]\n[role.r]\n[role.r.uplink.all]\npath = \"#\"\n";

/// Devices of these tables, whose passwords are in /etc/tombolo/one and /etc/tombolo/two.
fn devices(tables: &str) -> Case {
    let main = main_file(&format!("{ROLE}{tables}"));
    main.file("/etc/tombolo/one", "text:sesame-sesame\n").file("/etc/tombolo/two", "text:another-sesame\n")
}

#[test]
fn the_user_name_is_the_id_unless_another_is_set() {
    let tables = "[device.cam-1]\nrole = \"r\"\npassword-file = \"one\"\nmqtt-username = \"plant/camera\"\n\
                  [device.cam-2]\nrole = \"r\"\npassword-file = \"two\"\n";
    let case = devices(tables);
    assert_eq!(case.complaints(), (true, Vec::new()));
    let loaded = case.loaded();
    let names: Vec<(String, String)> = loaded
        .settings
        .gate
        .devices
        .iter()
        .filter_map(|device| Some((device.id.to_string(), device.login.as_ref()?.username.clone())))
        .collect();
    let expected = [("cam-1", "plant/camera"), ("cam-2", "cam-2")];
    assert_eq!(names, expected.map(|(id, name)| (id.to_owned(), name.to_owned())));
}

#[test]
fn a_user_name_without_a_password_and_one_that_two_devices_have_are_named() {
    let alone = devices("[device.cam-1]\nrole = \"r\"\nmqtt-username = \"camera\"\n");
    let (loads, complaints) = alone.complaints();
    let expected =
        "device.cam-1.mqtt-username: mqtt-username is set without a password; set password-file too";
    assert!(loads && complaints.iter().any(|text| text.contains(expected)), "{complaints:?}");
    // Also where it is the id of another.
    let twins = devices(
        "[device.cam-1]\nrole = \"r\"\npassword-file = \"one\"\n\
         [device.cam-2]\nrole = \"r\"\npassword-file = \"two\"\nmqtt-username = \"cam-1\"\n",
    );
    let (loads, complaints) = twins.complaints();
    let is_named = |text: &String| {
        text.contains("device.cam-2.mqtt-username")
            && text.contains("give each device an identity of its own")
    };
    assert!(loads && complaints.iter().any(is_named), "{complaints:?}");
}
