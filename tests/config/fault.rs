//! Each class of fault reports file, line, key and remedy, and disables only its item.

use tombolo::config::{Level, Looked, Origin};
use tombolo::message::Name;

use crate::support::{Case, lines, main_file};

const ROLE: &str = "[role.r.uplink.x]\npath = \"x\"\n";

/// Refused as a whole, with exactly these words.
#[track_caller]
fn refused(text: &str, words: &[&str]) {
    assert_eq!(main_file(text).complaints(), (false, words.iter().map(|w| (*w).to_owned()).collect()));
}

/// Loads, with exactly these complaints.
#[track_caller]
fn complains(case: &Case, words: &[&str]) {
    assert_eq!(case.complaints(), (true, words.iter().map(|w| (*w).to_owned()).collect()));
}

#[test]
fn syntax() {
    refused(
        "[gateway]\nid = greenhouse\n",
        &[
            "fail  /etc/tombolo/tombolo.toml:2: syntax: is not TOML: string values must be quoted, expected literal string; \
           correct this line; text values need double quotes",
        ],
    );
    let (loads, complaints) = main_file("[log]\nlevel = \"info\"\n[log]\n").complaints();
    assert!(
        !loads && complaints[0].starts_with("fail  /etc/tombolo/tombolo.toml:3: syntax: is not TOML: "),
        "{complaints:?}"
    );
    for (text, advice) in [
        ("[log]\nlevel = “info”\n", "the quotes of TOML are straight: \""),
        (
            "[log]\nlevel = \"info\"\nlevel = \"info\"\n",
            "duplicate key level; it is there already in line 2: take one of the two out",
        ),
        (
            "[role.a]\nmax-payload = 1\n[role.b]\nmax-payload = 2\n[role.a]\n",
            "duplicate key [role.a]; it is there already in line 1: take one of the two out",
        ),
        ("[metrics]\nlisten = [\":9184\"]\n", "like [\"127.0.0.1:9184\"]"),
        ("[coap]\nlisten = [\"[::]:5684\"\n", "close what this line begins"),
    ] {
        let (_, complaints) = main_file(text).complaints();
        assert!(complaints[0].ends_with(advice), "{complaints:?}");
    }
}

#[test]
#[cfg(feature = "dimpl")]
fn an_engine_that_cannot_do_what_is_asked() {
    complains(
        &main_file("[coap]\nengine = \"dimpl\"\nconnection-id = true\n"),
        &[
            "warn  /etc/tombolo/tombolo.toml:3: coap.connection-id: the engine \"dimpl\" does not support connection ids: a device \
           whose address changes must handshake again; use engine = \"tombolo\", or take the key out",
        ],
    );
    complains(&main_file("[coap]\nengine = \"dimpl\"\n"), &[]);
    complains(&main_file("[coap]\nconnection-id = true\n"), &[]);
}

#[test]
#[cfg(not(feature = "dimpl"))]
fn an_engine_that_is_not_built_in() {
    refused(
        "[coap]\nengine = \"dimpl\"\n",
        &[
            "fail  /etc/tombolo/tombolo.toml:2: coap.engine: this program was built without the engine \"dimpl\"; \
           use \"tombolo\", or a program built with the cargo feature dimpl (on by default)",
        ],
    );
}

#[test]
#[cfg(not(any(feature = "modbus", feature = "mqtt", feature = "update")))]
fn parts_that_are_not_built_in() {
    complains(
        &main_file(
            "[mqtt]\ninsecure-listen = [\"127.0.0.1:1883\"]\n\n[update]\nsource = \"tuf\"\n\n\
             [serial.bus]\nport = \"/dev/ttyS0\"\n\n[serial.bus.unit.7]\nid = \"meter\"\nrole = \"sensor\"\n",
        ),
        &[
            "fail  /etc/tombolo/tombolo.toml:5: update.source: this program was built without TUF; use source = \"apt\" \
             or \"none\", or a program built with the cargo feature update (on by default)",
            "fail  /etc/tombolo/tombolo.toml:10: serial.bus.unit: this program was built without Modbus; use a program \
             built with the cargo feature modbus (on by default), or take the port out",
            "fail  /etc/tombolo/tombolo.toml:2: mqtt.insecure-listen: this program was built without a listener for MQTT \
             clients; take it out, or use a program built with the cargo feature mqtt (on by default)",
        ],
    );
}

#[test]
fn unknown_keys() {
    refused(
        "[upstream]\nca_file = \"x\"\n",
        &["fail  /etc/tombolo/tombolo.toml:2: upstream.ca_file: unknown key; did you mean ca-file?"],
    );
    refused(
        "[devices.door-7]\nrole = \"r\"\n",
        &["fail  /etc/tombolo/tombolo.toml:1: devices: unknown key; did you mean device?"],
    );
    refused(
        "[clock]\n\nsource = \"gps\"\n",
        &["fail  /etc/tombolo/tombolo.toml:3: clock.source: unknown key; known here: trust"],
    );
}

#[test]
fn wrong_types_and_values_out_of_bounds() {
    refused(
        "[upstream]\nkeep-alive = 60\n",
        &["fail  /etc/tombolo/tombolo.toml:2: upstream.keep-alive: 60 is not accepted; \
           use a duration from 5s to 18h, like \"60s\""],
    );
    refused(
        "[coap]\nmax-sessions = 0\n",
        &[
            "fail  /etc/tombolo/tombolo.toml:2: coap.max-sessions: 0 is not accepted; use a whole number from 1 to 1000000",
        ],
    );
    refused(
        "[lane.high]\nwhen-full = \"drop-newest\"\n",
        &["fail  /etc/tombolo/tombolo.toml:2: lane.high.when-full: \"drop-newest\" is not accepted; \
           use \"refuse\" or \"drop-oldest\""],
    );
    refused(
        "[journal]\nmax-bytes = \"256MB\"\n",
        &["fail  /etc/tombolo/tombolo.toml:2: journal.max-bytes: \"256MB\" is not accepted; \
           use a size from 8MiB to 1024GiB, like \"64KiB\" or a number of bytes"],
    );
    refused(
        "[coap]\nlisten = [\"localhost:5684\"]\n",
        &["fail  /etc/tombolo/tombolo.toml:2: coap.listen: \"localhost:5684\" in the list is not accepted; \
           use a list of IP addresses with ports, like [\"[::]:5684\", \"192.0.2.1:5684\"]"],
    );
    refused(
        "[coap]\nlisten = [\"[::]:5684\", 5684]\n",
        &["fail  /etc/tombolo/tombolo.toml:2: coap.listen: 5684 in the list is not accepted; \
           use a list of IP addresses with ports, like [\"[::]:5684\", \"192.0.2.1:5684\"]"],
    );
    refused("log = 5\n", &["fail  /etc/tombolo/tombolo.toml:1: log: is a whole number; use a table, [log]"]);
}

#[test]
fn more_for_the_rejected_than_there_can_be_is_said_and_the_most_is_used() {
    let asked =
        |size: &str| main_file(&format!("[journal]\nmax-bytes = \"64GiB\"\nrejected-max-bytes = {size}\n"));
    let used = |case: &Case| case.loaded().settings.journal.rejected_max_bytes;
    for size in ["\"2GiB\"", "1073741825", "\"2048GiB\"", "9223372036854775807"] {
        let words = format!(
            "fail  /etc/tombolo/tombolo.toml:3: journal.rejected-max-bytes: {size} is not accepted; 1GiB is used; \
             use a size from 64KiB to 1GiB, like \"64KiB\" or a number of bytes"
        );
        complains(&asked(size), &[&words]);
        assert_eq!(used(&asked(size)), 1 << 30);
    }
    let of_environment = main_file("").environment("TOMBOLO_JOURNAL__REJECTED_MAX_BYTES", "2GiB");
    assert!(of_environment.complaints().1.iter().any(|line| line.contains("1GiB is used")));
    complains(&asked("\"1GiB\""), &[]);
    assert_eq!(used(&asked("\"1GiB\"")), 1 << 30);
    // Nor is more used where nothing was asked for.
    assert_eq!(used(&main_file("[journal]\nmax-bytes = \"64GiB\"\n")), 1 << 30);
    refused(
        "[journal]\nrejected-max-bytes = \"1KiB\"\n",
        &["fail  /etc/tombolo/tombolo.toml:2: journal.rejected-max-bytes: \"1KiB\" is not accepted; \
           use a size from 64KiB to 1GiB, like \"64KiB\" or a number of bytes"],
    );
}

#[test]
fn a_file_kept_with_the_state_refuses_nothing_whatever_is_in_it() {
    for text in ["[lo", "\0\0\0", "[gateway]\nid = 7\n", "a = [[[[", "[journal]\nx = 1"] {
        let case = main_file("").layer(Origin::State, "/var/lib/tombolo/conf.d/s.toml", text);
        let (loads, complaints) = case.complaints();
        assert!(
            loads && complaints.iter().any(|line| line.contains("conf.d/s.toml:")),
            "{text:?}: {complaints:?}"
        );
    }
}

#[test]
fn all_faults_are_named_in_one_go() {
    let (loads, complaints) =
        main_file("[log]\nlevel = \"loud\"\n[coap]\nlissten = []\n[upstream]\nurl = \"x\"\n").complaints();
    assert!(!loads);
    assert_eq!(complaints.len(), 3, "{complaints:#?}");
}

#[test]
fn the_upstream_url() {
    let url = |url: &str| main_file(&format!("[upstream]\nurl = \"{url}\"\n")).complaints();
    let line =
        |words: &str| (false, vec![format!("fail  /etc/tombolo/tombolo.toml:2: upstream.url: {words}")]);
    assert_eq!(
        url("wss://broker.example.com"),
        line(
            "\"wss://broker.example.com\": MQTT over WebSocket (ws://, wss://) is reserved and not implemented yet; use \"mqtts://HOST\" or \"mqtts://HOST:PORT\""
        )
    );
    assert_eq!(
        url("mqtt://broker.example.com"),
        line("mqtt:// is not encrypted; use mqtts://, or set insecure = true (init --insecure)")
    );
    assert_eq!(
        url("broker.example.com:8883"),
        line("\"broker.example.com:8883\": it has no scheme; use \"mqtts://HOST\" or \"mqtts://HOST:PORT\"")
    );
    assert_eq!(
        url("mqtts://me:hunter2@broker.example.com"),
        line("the URL must not contain a user name or password; set username and password-file instead")
    );
}

#[test]
fn the_upstream_as_a_whole() {
    let upstream = |more: &str| main_file(&format!("[upstream]\nurl = \"mqtts://b\"\n{more}")).complaints();
    let fatal = |words: &str| (false, vec![format!("fail  /etc/tombolo/tombolo.toml:3: {words}")]);
    assert_eq!(
        upstream("key-file = \"/k\"\n"),
        fatal("upstream.key-file: the key has no certificate; set certificate-file too")
    );
    assert_eq!(
        upstream("password = \"hunter2\"\n"),
        fatal(
            "upstream.password: a secret does not belong here; \
             put it into a file of its own, mode 0640, and name that with password-file"
        )
    );
    assert_eq!(
        upstream("proxy = \"http://p\"\n"),
        fatal(
            "upstream.proxy: is reserved: connections through a proxy are not implemented yet; take the key out"
        )
    );
    // What may be put right without a restart does not keep the daemon from starting.
    assert_eq!(
        upstream("ca-file = \"ca.pem\"\n"),
        (
            true,
            vec![
                "fail  /etc/tombolo/tombolo.toml:3: upstream.ca-file: /etc/tombolo/ca.pem does not exist; \
                 put the file there; the daemon looks again at every connection"
                    .to_owned()
            ]
        )
    );
}

#[test]
fn a_bad_device_disables_only_itself() {
    let case = main_file(&format!(
        "{ROLE}[device.good]\nrole = \"r\"\n[device.bad]\nrole = \"sensr\"\n[device.\"a/b\"]\nrole = \"r\"\n\
         [device.gateway]\nrole = \"r\"\n[device.none]\n[device.typo]\nrole = \"r\"\nlable = \"x\"\n"
    ));
    complains(
        &case,
        &[
            "fail  /etc/tombolo/tombolo.toml:7: device.\"a/b\": a name has only letters, digits, '.', '_' and '-'; \
             use 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit",
            "fail  /etc/tombolo/tombolo.toml:9: device.gateway: this name is reserved for the gateway's own topics; \
             give the device another name",
            "fail  /etc/tombolo/tombolo.toml:14: device.typo.lable: unknown key; did you mean label?",
            "fail  /etc/tombolo/tombolo.toml:6: device.bad.role: there is no role \"sensr\"; there are: r",
            "fail  /etc/tombolo/tombolo.toml:11: device.none: the device has no role; set role to one of the [role.*]",
        ],
    );
    let loaded = case.loaded();
    assert_eq!(loaded.settings.gate.devices.len(), 1);
    assert!(!loaded.known("typo").unwrap().usable && loaded.known("good").unwrap().usable);
}

#[test]
fn a_bad_role_disables_itself_and_its_devices() {
    let case = main_file(&format!(
        "{ROLE}[role.bad.uplink.a]\npath = \"t/#/x\"\n[role.bad.uplink.b]\npath = \"t/+\"\ntopic = \"{{prefix}}/{{2}}\"\n\
         [role.tie.uplink.a]\npath = \"t/+\"\n[role.tie.uplink.b]\npath = \"t/+\"\n\
         [device.d]\nrole = \"bad\"\n[device.e]\nrole = \"r\"\n"
    ));
    complains(
        &case,
        &[
            "fail  /etc/tombolo/tombolo.toml:4: role.bad.uplink.a.path: \"t/#/x\": '#' can only be the last level; \
             use levels joined by '/', '+' for one level, '#' at the end for all the rest",
            "fail  /etc/tombolo/tombolo.toml:7: role.bad.uplink.b.topic: \"{prefix}/{2}\": {2} needs a path pattern with at least 2 levels '+'; \
             set a topic that fits this rule's path",
            "fail  /etc/tombolo/tombolo.toml:11: role.tie.uplink.b.path: rule a has the same path, so neither of the two has precedence; \
             change one, or take one out",
            "fail  /etc/tombolo/tombolo.toml:13: device.d.role: the role \"bad\" is disabled by its own faults; correct the role",
        ],
    );
    assert_eq!(case.loaded().settings.gate.devices.len(), 1);
    assert_eq!(case.loaded().settings.gate.roles.len(), 1);
}

#[test]
fn a_name_in_braces_in_the_path_of_a_rule_is_refused_with_the_pattern_that_is_meant() {
    let said = |path: &str| main_file(&format!("[role.r.uplink.x]\npath = \"{path}\"\n")).complaints().1;
    assert_eq!(
        said("data/s{t}/x"),
        [
            "fail  /etc/tombolo/tombolo.toml:2: role.r.uplink.x.path: \"data/s{t}/x\": a rule captures by '+' alone: \
             '{t}' stands for itself there; use path = \"data/+/x\"; topic has what each '+' matched as {1}, {2}, …"
        ]
    );
    assert!(said("data/{").iter().chain(&said("data/+")).all(|line| !line.contains("role.r")));
}

#[test]
fn what_only_the_gate_can_judge_is_named_at_its_line_too() {
    let role = |more: &str| main_file(&format!("[role.r]\n{more}")).complaints().1;
    let line = |words: &str| [format!("fail  /etc/tombolo/tombolo.toml:{words}")];
    assert_eq!(
        role("max-payload = \"64KiB\"\nquota = { bytes = \"1KiB\" }\n[role.r.uplink.x]\npath = \"x\"\n"),
        line(
            "2: role.r.max-payload: max-payload is more than the quota's 1024 bytes, so such a payload could never pass; \
             raise quota.bytes, or use less"
        )
    );
    assert_eq!(
        role("[role.r.uplink.x]\npath = \"x\"\ndelete = true\n"),
        line(
            "4: role.r.uplink.x.delete: delete needs retain: what is not retained cannot be deleted; set retain = true too"
        )
    );
    assert_eq!(
        role("[role.r.uplink.x]\npath = \"x\"\ntopic = \"{prefix}/gateway/x\"\n"),
        line(
            "4: role.r.uplink.x.topic: \"{prefix}/gateway/x\": topics under {prefix}/gateway are reserved for the gateway; \
             set a topic that fits this rule's path"
        )
    );
    let taken =
        "[role.r.uplink.x]\npath = \"x\"\ntopic = \"{prefix}/door-7/x\"\n[device.door-7]\nrole = \"r\"\n";
    let case = main_file(taken).device("door-8", "role = \"r\"\n");
    complains(
        &case,
        &[
            "fail  /etc/tombolo/tombolo.toml:4: device.door-7: rule x of role r has this id as a level of its topic; choose another; \
           use another id, or another topic in that rule",
        ],
    );
    assert!(!case.loaded().known("door-7").unwrap().usable);
    assert_eq!(case.loaded().settings.gate.devices.len(), 1);
}

#[test]
fn keys_of_devices() {
    let device = |more: &str| main_file(&format!("{ROLE}[device.d]\nrole = \"r\"\n{more}"));
    let line = |words: &str| format!("fail  /etc/tombolo/tombolo.toml:5: device.d.{words}");
    complains(
        &device("psk = \"text:hunter2\"\n"),
        &[&line(
            "psk: a secret does not belong here; put it into a file of its own, mode 0640, and name that with psk-file",
        )],
    );
    complains(
        &device("psk-file = \"text:hunter2\"\n"),
        &[&line(
            "psk-file: the secret itself is in the configuration; put it into a file of its own, mode 0640, and name that file here",
        )],
    );
    complains(
        &device("psk-file = \"d.psk\"\n"),
        &[&line(
            "psk-file: /etc/tombolo/d.psk does not exist; put the key there, as hex:… or text:…, readable to the service's user",
        )],
    );
    complains(
        &device("psk-file = \"d.psk\"\n").file("/etc/tombolo/d.psk", "hunter2hunter2\n"),
        &[&line(
            "psk-file: /etc/tombolo/d.psk: the key begins with neither \"hex:\" nor \"text:\"; \
             write it as hex:… or text:…, 1 to 64 bytes",
        )],
    );
    complains(
        &device("psk-identity = \"x\"\n"),
        &[&line("psk-identity: psk-identity is set without a key; set psk-file too")],
    );
    let mut open = device("psk-file = \"d.psk\"\n").file("/etc/tombolo/d.psk", "text:0123456789abcdef");
    open.files.0.get_mut(std::path::Path::new("/etc/tombolo/d.psk")).unwrap().1 =
        Looked { exposed: true, closed_to: None };
    complains(
        &open,
        &[
            "warn  /etc/tombolo/tombolo.toml:5: device.d.psk-file: /etc/tombolo/d.psk can be read by every user of this machine; \
           chmod 0640 /etc/tombolo/d.psk",
        ],
    );
    assert_eq!(
        open.loaded().settings.gate.devices[0].psk.as_ref().unwrap().key.as_slice(),
        b"0123456789abcdef"
    );
}

#[test]
fn two_devices_with_one_identity_are_named_with_both_places() {
    let case = main_file(&format!(
        "{ROLE}[device.a]\nrole = \"r\"\npsk-file = \"k\"\npsk-identity = \"same\"\n[device.b]\nrole = \"r\"\npsk-file = \"k\"\n"
    ))
    .file("/etc/tombolo/k", "text:0123456789abcdef")
    .device("same", "role = \"r\"\npsk = \"text:0123456789abcdef\"\n")
    .device("b", "role = \"r\"\n")
    .device("c", "role = \"gone\"\n")
    .device("e", "role = \"gone\"\n");
    complains(
        &case,
        &[
            "fail  /var/lib/tombolo/devices/b.toml: device b: /etc/tombolo/tombolo.toml:7 has a device of the same id; \
             remove one of the two; the configuration's is in use",
            "fail  /var/lib/tombolo/devices/same.toml: device same: device a (/etc/tombolo/tombolo.toml:3) has the same PSK identity; \
             give each device an identity of its own",
            "fail  device c and 1 more: there is no role \"gone\"; there are: r",
        ],
    );
    assert_eq!(case.loaded().settings.gate.devices.len(), 2);
}

#[test]
fn plain_coap_needs_both_keys_and_warns_off_loopback() {
    refused(
        "[coap]\ninsecure-listen = [\"127.0.0.1:5683\"]\n",
        &["fail  /etc/tombolo/tombolo.toml:2: coap.insecure-listen: plain CoAP needs a device; \
           set coap.insecure-device to the device that all plain CoAP senders count as"],
    );
    let case = main_file(&format!(
        "{ROLE}[coap]\ninsecure-listen = [\"0.0.0.0:5683\"]\ninsecure-device = \"lab\"\n[device.lab]\nrole = \"r\"\n"
    ));
    complains(
        &case,
        &[
            "warn  /etc/tombolo/tombolo.toml:4: coap.insecure-listen: every host that can reach 0.0.0.0:5683 can send as the \
           insecure device, without a key; listen on 127.0.0.1 or [::1], or use coaps",
        ],
    );
    // The device may come and go; the addresses stay.
    let text = "[coap]\ninsecure-listen = [\"127.0.0.1:5683\"]\ninsecure-device = \"lab\"\n";
    complains(
        &main_file(text),
        &[
            "fail  /etc/tombolo/tombolo.toml:3: coap.insecure-device: there is no usable device lab: plain CoAP is refused; \
           add [device.lab], or take the key out",
        ],
    );
    assert!(main_file(text).loaded().settings.coap.insecure.is_some());
}

#[test]
fn topics() {
    refused(
        "[topics]\nprefix = \"a/#\"\n",
        &[
            "fail  /etc/tombolo/tombolo.toml:2: topics.prefix: the prefix has no '+', no '#' and no control character; \
           use levels joined by '/', like \"tombolo/{gateway}\"",
        ],
    );
    refused(
        "[topics]\nreading = \"{device}/x\"\n",
        &[
            "fail  /etc/tombolo/tombolo.toml:2: topics.reading: the first level of a topic must be literal text or {prefix}; \
           use levels joined by '/', or \"\" to switch it off",
        ],
    );
    refused(
        "[topics]\ndevice-status = \"{prefix}/status\"\n",
        &["fail  /etc/tombolo/tombolo.toml:2: topics.device-status: all devices would share one topic; \
           use {device} somewhere in it, or \"\" to switch it off"],
    );
    let case = main_file(&format!("{ROLE}[topics]\nreading = \"\"\n"));
    complains(
        &case,
        &[
            "fail  /etc/tombolo/tombolo.toml:1: role.r.uplink.x: the rule needs a topic, because topics.reading is switched off; \
           set topic",
        ],
    );
}

#[test]
fn the_journal_must_hold_its_lanes() {
    refused(
        "[lane.normal]\nmax-bytes = \"1GiB\"\n",
        &[
            "fail  /etc/tombolo/tombolo.toml:2: lane.normal.max-bytes: the journal's 256MiB are too few for lane.high (40MiB), lane.normal (1GiB), the rejected (16MiB) and \
           two segments (8MiB); use at least 1088MiB, or smaller lanes",
        ],
    );
    // A small lane makes small segments, not a fault.
    complains(&main_file("[lane.high]\nmax-bytes = \"256KiB\"\n"), &[]);
    refused(
        "[journal]\nsegment-bytes = 65537\n",
        &[
            "fail  /etc/tombolo/tombolo.toml:2: journal.segment-bytes: the size is not a multiple of 4096 bytes; \
           use a multiple of 4KiB, like \"4MiB\"",
        ],
    );
}

#[test]
fn the_environment() {
    let case =
        main_file("").environment("TOMBOLO_UPSTREAM__KEEPALIVE", "60s").environment("TOMBOLO_DEBUG", "1");
    assert_eq!(
        case.complaints(),
        (
            false,
            vec![
                "fail  environment variable TOMBOLO_UPSTREAM__KEEPALIVE: upstream.keepalive: unknown key; did you mean keep-alive?"
                    .to_owned(),
                "warn  environment variable TOMBOLO_DEBUG: environment: is not a setting and was ignored; \
                 a setting is TOMBOLO_TABLE__KEY, like TOMBOLO_UPSTREAM__CA_FILE"
                    .to_owned(),
            ]
        )
    );
    let case = main_file("").environment("TOMBOLO_COAP__MAX_SESSIONS", "many");
    assert_eq!(
        case.complaints().1,
        [
            "fail  environment variable TOMBOLO_COAP__MAX_SESSIONS: coap.max-sessions: \"many\" is not accepted; \
             use a whole number from 1 to 1000000"
        ]
    );
}

#[test]
fn a_fault_found_after_the_merge_is_named_in_the_layer_that_won() {
    let case = main_file("[upstream]\nurl = \"mqtts://b\"\n").layer(
        Origin::DropIn,
        "/etc/tombolo/conf.d/20-x.toml",
        "# nothing\n[upstream]\nurl = \"mqtt://b\"\n",
    );
    assert_eq!(
        case.complaints().1,
        ["fail  /etc/tombolo/conf.d/20-x.toml:3: upstream.url: mqtt:// is not encrypted; \
             use mqtts://, or set insecure = true (init --insecure)"]
    );
}

#[test]
fn without_an_upstream_the_gateway_runs_and_says_what_to_do() {
    let loaded = main_file("").loaded();
    assert!(loaded.settings.upstream.is_none());
    let warning = loaded.findings.iter().find(|f| f.level == Level::Warn).unwrap();
    assert_eq!(
        warning.to_string(),
        "warn  upstream.url: there is no upstream broker: readings are stored until one is configured; tombolo init --url mqtts://HOST"
    );
}

#[test]
fn hostile_depth_and_length_are_refused_without_harm() {
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!main_file(&deep).complaints().0);
    let dotted = format!("{}a = 1", "a.".repeat(100_000));
    assert!(!main_file(&dotted).complaints().0);
    let long = format!("[device.{}]\nrole = \"{}\"\n", "x".repeat(1 << 20), "y".repeat(1 << 20));
    assert!(main_file(&long).complaints().0);
}

#[test]
fn a_device_of_the_registry_is_off_where_the_configuration_switches_it_off() {
    let text = format!("{ROLE}[device.stolen]\nrole = \"r\"\nenabled = false\n");
    let case = main_file(&text)
        .device("stolen", "role = \"r\"\npsk = \"text:0123456789abcdef\"\n")
        .device("other", "role = \"r\"\npsk = \"text:0123456789abcdef\"\n");
    complains(
        &case,
        &["warn  /etc/tombolo/tombolo.toml:5: device.stolen.enabled: switches off the device in \
             /var/lib/tombolo/devices/stolen.toml: nothing of it is accepted; if that is no longer meant, take [device.stolen] \
             out; `tombolo device remove stolen` removes the device itself"],
    );
    let loaded = case.loaded();
    let ids: Vec<&str> = loaded.settings.gate.devices.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(ids, ["other"]);
    assert!(loaded.settings.gate.withheld.ids.iter().any(|id| id.as_str() == "stolen"));
    let known = loaded.known("stolen").unwrap();
    assert!(known.switched_off && !known.usable && known.role().map(Name::as_str) == Some("r"), "{known:?}");
    // One with faults is off as before, and the fault says so.
    let text = format!("{ROLE}[device.stolen]\nrole = \"r\"\nenabled = 3\n");
    let case = main_file(&text).device("stolen", "role = \"r\"\npsk = \"text:0123456789abcdef\"\n");
    assert!(case.loaded().settings.gate.devices.is_empty());
    assert!(!case.loaded().known("stolen").unwrap().switched_off);
}

#[test]
fn a_serial_device_is_off_where_the_configuration_switches_its_id_off() {
    let text = format!(
        "{ROLE}[device.meter]\nenabled = false\n[serial.meter]\nport = \"/dev/ttyS0\"\nframing = \"line\"\nrole = \"r\"\n"
    );
    let loaded = main_file(&text).loaded();
    assert!(loaded.settings.gate.devices.is_empty() && loaded.settings.serial.is_empty());
    let said = lines(&loaded.findings);
    assert!(
        said.contains("serial.meter: /etc/tombolo/tombolo.toml:4 switches off the device of this id"),
        "{said}"
    );
}

#[test]
fn without_an_address_no_device_can_send_but_by_a_serial_port() {
    let none = "[coap]\nlisten = []\n";
    let said = lines(&main_file(none).loaded().findings);
    assert_eq!(said.matches("no device can send").count(), 1, "{said}");
    let port = "[serial.meter]\nport = \"/dev/ttyS0\"\nframing = \"line\"\nrole = \"r\"\n";
    let said = lines(&main_file(&format!("{none}{ROLE}{port}")).loaded().findings);
    assert!(!said.contains("coap.listen"), "{said}");
    let off = format!("{none}{ROLE}{port}enabled = false\n");
    let said = lines(&main_file(&off).loaded().findings);
    assert!(said.contains("no device can send"), "{said}");
}

#[test]
fn the_addresses_of_registers_are_explained_by_both_numberings() {
    let bus = "[serial.bus]\nport = \"/dev/ttyS0\"\nframing = \"modbus\"\n[serial.bus.unit.3]\nid = \"b\"\nrole = \"r\"\n";
    for wrong in ["\"hello\"", "465537", "-1"] {
        let text = format!("{ROLE}{bus}[serial.bus.unit.3.register.x]\naddress = {wrong}\n");
        let said = lines(&main_file(&text).loaded().findings);
        let words = "use a whole number from 0 to 65535, or with numbering = \"manual\" from 1 to 465536";
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn an_address_that_includes_another_of_its_table_is_named_with_it() {
    let text =
        "[mqtt]\nlisten = [\"[::]:1883\"]\ninsecure-listen = [\"127.0.0.1:1883\", \"127.0.0.1:1884\"]\n";
    let (_, complaints) = main_file(text).complaints();
    let named: Vec<&String> = complaints.iter().filter(|text| text.contains("includes")).collect();
    let expected = "warn  /etc/tombolo/tombolo.toml:3: mqtt.insecure-listen: [::]:1883 includes 127.0.0.1:1883, which is \
                    listed too: only one of them can be listened on; take one of them out, or give it another port";
    assert_eq!(named, [expected], "{complaints:?}");
}
