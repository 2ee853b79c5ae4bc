//! `[role.*.observe.*]`, `[role.*.poll.*]`, and those of devices.

use std::time::Duration;

use tombolo::config::Loaded;
use tombolo::downlink::served::Manner;
use tombolo::message::{ContentFormat, Name};

use crate::support::{Case, main_file};

const BASE: &str = "[role.r.uplink.u]\npath = \"#\"\n[device.d]\nrole = \"r\"\npsk-file = \"/d\"\n";

fn case(text: &str) -> Case {
    main_file(&format!("{BASE}{text}")).file("/d", "text:0123456789abcdef")
}

/// What is asked of a device: table, name, path, path of the readings.
fn of(loaded: &Loaded, device: &str, role: &str) -> Vec<String> {
    let name = |text: &str| Name::parse(text).unwrap();
    let paths = loaded.settings.downlink.served.of(&name(device), &name(role));
    paths.iter().map(|p| format!("{}.{} {} {}", p.table(), p.name, p.path, p.reading)).collect()
}

/// The one complaint that has these words, and what is asked of `d` all the same.
#[track_caller]
fn complains(text: &str, words: &[&str]) -> Vec<String> {
    let case = case(text);
    let (loads, complaints) = case.complaints();
    let has = |line: &&String| words.iter().all(|word| line.contains(word));
    assert!(loads && complaints.iter().any(|line| has(&line)), "{words:?}: {complaints:#?}");
    of(&case.loaded(), "d", "r")
}

#[test]
fn tables_have_their_values_and_their_defaults() {
    let loaded = case(
        "[role.r.observe.temp]\npath = \"s/temp\"\n\
         [role.r.poll.temp]\npath = \"s/temp\"\nas = \"t/temp\"\nquery = \"u=C&a\"\naccept = \"application/cbor\"\nblock-size = 64\nevery = \"5min\"\n",
    )
    .loaded();
    assert_eq!(of(&loaded, "d", "r"), ["observe.temp s/temp s/temp", "poll.temp s/temp t/temp"]);
    let poll = &loaded.settings.downlink.served.roles[&Name::parse("r").unwrap()][1];
    assert_eq!(poll.manner, Manner::Poll { every: Duration::from_secs(300) });
    assert_eq!(poll.block_exponent, Some(2));
    assert_eq!((poll.accept, poll.query.as_deref()), (Some(ContentFormat::CBOR), Some("u=C&a")));
    assert!(!case("").loaded().settings.downlink.served.is_wanted());
}

#[test]
fn a_devices_own_table_replaces_its_roles_and_one_that_is_off_takes_it_out() {
    let text = "[role.base.observe.a]\npath = \"base/a\"\n[role.base.observe.b]\npath = \"base/b\"\n[role.base.poll.a]\npath = \"p\"\nevery = \"1s\"\n\
                [role.r]\nincludes = [\"base\"]\n[role.r.observe.a]\npath = \"r/a\"\n[role.r.poll.a]\nenabled = false\n\
                [device.d.observe.b]\nenabled = false\n[device.d.poll.own]\npath = \"own\"\nevery = \"1s\"\n";
    let loaded = case(text).loaded();
    assert_eq!(of(&loaded, "other", "r"), ["observe.a r/a r/a", "observe.b base/b base/b"]);
    assert_eq!(of(&loaded, "d", "r"), ["observe.a r/a r/a", "poll.own own own"]);
    assert_eq!(of(&loaded, "other", "base").len(), 3);
}

#[test]
fn a_device_of_the_registry_may_have_tables_in_the_configuration() {
    let text = "[role.r.uplink.u]\npath = \"#\"\n[device.stored.observe.a]\npath = \"a\"\n";
    let stored = "role = \"r\"\npsk = \"hex:000102030405060708090a0b0c0d0e0f\"\n";
    let case = main_file(text).device("stored", stored);
    assert_eq!(case.complaints().1, [""; 0]);
    let loaded = case.loaded();
    assert_eq!(of(&loaded, "stored", "r"), ["observe.a a a"]);
    assert!(loaded.settings.gate.devices.iter().any(|device| device.id.as_str() == "stored"));
}

#[test]
fn tables_of_a_device_that_was_removed_are_a_warning_with_their_line_and_the_rest_is_in_force() {
    let text = "[role.r.uplink.u]\npath = \"#\"\n[device.gone.poll.a]\npath = \"a\"\nevery = \"1min\"\n";
    let (loads, complaints) = main_file(text).complaints();
    assert!(loads);
    let [line] = &complaints[..] else { panic!("{complaints:#?}") };
    let words = ["warn", ":3", "device.gone.poll", "no such device", "take [device.gone.poll] out"];
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    // One with anything else is a device that has a fault.
    let other = text.replace("[device.gone.poll.a]", "[device.gone]\nlabel = \"x\"\n[device.gone.poll.a]");
    let (_, complaints) = main_file(&other).complaints();
    assert!(complaints.iter().any(|line| line.contains("gone") && line.contains("role")), "{complaints:#?}");
}

#[test]
fn polls_that_are_more_than_the_quota_are_named_with_the_way_out() {
    let quota = "[role.r.quota]\nmessages = 10\nper = \"1min\"\n";
    let poll = |of: &str, name: &str, every: &str| {
        format!("[{of}.poll.{name}]\npath = \"{name}\"\nevery = \"{every}\"\n")
    };
    let of_role = |every: &[&str]| -> String {
        every.iter().enumerate().map(|(at, every)| poll("role.r", &format!("p{at}"), every)).collect()
    };
    complains(
        &format!("{quota}{}", of_role(&["5s"])),
        &["role.r.poll.p0.every", "every 5s", "10 in 1m", "poll it more rarely"],
    );
    complains(
        &format!("{quota}{}", of_role(&["10s", "10s"])),
        &["role.r.poll", "every 5s", "its 2 polls count together"],
    );
    complains(
        &format!("{quota}{}{}", of_role(&["10s"]), poll("device.d", "own", "7s")),
        &["device.d.poll.own.every", "quota", "its 2 polls count together"],
    );
    // Where each device has a rhythm of its own the role's is nobody's.
    let own = |every: &str| format!("{quota}{}{}", of_role(&["5s"]), poll("device.d", "p0", every));
    assert_eq!(case(&own("10s")).complaints().1, [""; 0]);
    complains(&own("4s"), &["device.d.poll.p0.every", "every 4s"]);
    let off = format!("{quota}{}[device.d.poll.p0]\nenabled = false\n", of_role(&["5s"]));
    assert_eq!(case(&off).complaints().1, [""; 0]);
    let two = format!("{}[device.e]\nrole = \"r\"\npsk-file = \"/d\"\n", own("10s"));
    complains(&two, &["role.r.poll.p0.every", "every 5s"]);
    let fine = format!("{quota}{}", of_role(&["6s"]));
    assert_eq!(case(&fine).complaints().1, [""; 0]);
    let observed = format!("{quota}[role.r.observe.a]\npath = \"a\"\n");
    assert_eq!(case(&observed).complaints().1, [""; 0]);
}

#[test]
fn the_coap_node_on_a_serial_line_may_have_tables_of_its_own() {
    let text = "[role.r.uplink.u]\npath = \"#\"\n[serial.node]\nport = \"/dev/ttyUSB0\"\nframing = \"slipmux\"\nrole = \"r\"\n\
                [device.node.poll.own]\npath = \"own\"\nevery = \"1min\"\n";
    let case = main_file(text);
    let (loads, complaints) = case.complaints();
    let of_node: Vec<&String> = complaints.iter().filter(|line| line.contains("device.node")).collect();
    assert!(loads && of_node.is_empty(), "{complaints:#?}");
    let loaded = case.loaded();
    assert_eq!(of(&loaded, "node", "r"), ["poll.own own own"]);
}

#[test]
fn a_fault_names_thing_value_and_way_out_and_leaves_out_that_one_alone() {
    let good = "[role.r.observe.good]\npath = \"good\"\n";
    let kept = ["observe.good good good"];
    for (table, words) in [
        ("[role.r.observe.x]\n", ["role.r.observe.x", "no path", "set path"]),
        ("[role.r.observe.x]\npath = \"a//b\"\n", ["role.r.observe.x.path", "a//b", "segment"]),
        ("[role.r.observe.x]\npath = \"a\"\nas = \"a/+\"\n", ["role.r.observe.x.as", "a/+", "segments"]),
        ("[role.r.observe.x]\npath = \".well-known/core\"\n", ["observe.x.path", "reserved", "set as"]),
        ("[role.r.observe.x]\npath = \"a\"\nquery = \"a&&b\"\n", ["observe.x.query", "a&&b", "argument"]),
        ("[role.r.observe.x]\npath = \"a\"\naccept = \"none\"\n", ["observe.x.accept", "none", "media type"]),
        (
            "[role.r.observe.x]\npath = \"a\"\naccept = \"a b c\"\n",
            ["observe.x.accept", "a b c", "media type"],
        ),
        (
            "[role.r.observe.x]\npath = \"a\"\nblock-size = 100\n",
            ["observe.x.block-size", "100 is no size of blocks", "use 16, 32"],
        ),
        ("[role.r.poll.x]\npath = \"a\"\n", ["role.r.poll.x", "no period", "set every"]),
    ] {
        assert_eq!(complains(&format!("{good}{table}"), &words), kept, "{table}");
    }
}

#[test]
fn a_period_below_a_second_is_named_with_its_bounds() {
    let (_, complaints) = case("[role.r.poll.x]\npath = \"a\"\nevery = \"500ms\"\n").complaints();
    let found =
        complaints.iter().any(|line| line.contains("every") && line.contains("500ms") && line.contains("1s"));
    assert!(found, "{complaints:#?}");
    let (_, complaints) = case("[role.r.observe.x]\npath = \"a\"\nevery = \"5s\"\n").complaints();
    assert!(complaints.iter().any(|line| line.contains("every")), "observe has no period: {complaints:#?}");
}

#[test]
fn a_device_has_at_most_sixteen_of_role_and_own_together() {
    let table = |of: &str, number: usize| format!("[{of}.observe.n{number}]\npath = \"a/{number}\"\n");
    let of_role: String = (0..10).map(|number| table("role.r", number)).collect();
    let own: String = (10..16).map(|number| table("device.d", number)).collect();
    let full = format!("{of_role}{own}");
    assert_eq!(case(&full).complaints().1, [""; 0]);
    let asked =
        complains(&format!("{full}{}", table("device.d", 16)), &["device.d", "17", "16", "take some out"]);
    assert_eq!(asked.len(), 16);
    let many: String = (0..20).map(|number| table("role.r", number)).collect();
    assert_eq!(complains(&many, &["role.r", "20"]).len(), 16);
}

#[test]
fn a_device_that_cannot_be_asked_is_named() {
    let observe = |id: &str| format!("[device.{id}.observe.a]\npath = \"a\"\n");
    let mqtt = format!("[device.m]\nrole = \"r\"\npassword-file = \"/m\"\n{}", observe("m"));
    let case = case(&mqtt).file("/m", "text:sesame");
    let (_, complaints) = case.complaints();
    let words = ["device.m", "MQTT", "psk-file"];
    assert!(complaints.iter().any(|line| words.iter().all(|word| line.contains(word))), "{complaints:#?}");
    assert_eq!(of(&case.loaded(), "m", "r"), [""; 0]);
    let line = "[role.s.uplink.u]\npath = \"#\"\n[role.s.poll.a]\npath = \"a\"\nevery = \"1s\"\n\
                [serial.meter]\nport = \"/dev/ttyS0\"\nrole = \"s\"\nframing = \"line\"\n";
    let (_, complaints) = self::case(line).complaints();
    let words = ["role.s", "none of them has a DTLS credential"];
    assert!(complaints.iter().any(|line| words.iter().all(|word| line.contains(word))), "{complaints:#?}");
}

#[test]
fn a_path_that_no_rule_lets_pass_is_a_warning() {
    let text = "[role.q.uplink.u]\npath = \"t/#\"\n[role.q.observe.a]\npath = \"a\"\n[role.q.observe.b]\npath = \"b\"\nas = \"t/b\"\n";
    let (loads, complaints) = main_file(text).complaints();
    assert!(loads);
    let about: Vec<&String> = complaints.iter().filter(|line| line.contains("role.q.observe")).collect();
    assert!(
        about.len() == 1 && about[0].contains("observe.a") && about[0].contains("uplink"),
        "{complaints:#?}"
    );
}
