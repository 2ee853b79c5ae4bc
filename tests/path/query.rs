//! All of a request arrives: its query, its Content-Format, its body in blocks. Seen with libcoap's
//! client and aiocoap.

use std::process::Command;

use super::{KEY, Site};
use tombolo_test_support::wait_for;

const RULES: &str = r#"
[role.sensor.uplink.unit]
path = "u/#"
topic = "{prefix}/{device}/unit/{query.unit}/{rest}"
[role.sensor.uplink.plain]
path = "p/#"
query = "refuse"
[role.sensor.uplink.wrapped]
path = "w/#"
envelope = "json"
"#;

#[test]
fn a_query_arrives_as_a_property_in_the_topic_or_in_the_envelope() {
    let site = Site::new("query", RULES);
    site.post(&["-e", "21.5"], "t/env?unit=C&ort=K%C3%B6ln&a=x%26y");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/env").is_empty());
    let reading = &site.arrived("tombolo/gw/door-7/up/t/env")[0];
    assert!(reading[3].contains("query:unit=C&ort=K%C3%B6ln&a=x%26y"), "{}", reading[3]);

    site.post(&["-e", "21.5"], "u/env?unit=F");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/unit/F/env").is_empty());
    for bad in ["u/env", "u/env?unit=%2B", "u/env?unit=a%2Fb", "u/env?unit=1&unit=2", "u/env?unit="] {
        let output = site.post(&["-e", "1"], bad);
        assert!(output.contains("4.00"), "{bad}: {output}");
    }
    let output = site.post(&["-e", "1"], "p/x?a=b");
    assert!(output.contains("4.02"), "{output}");
    assert_eq!(site.daemon.status()["counters"]["tombolo_gate_refused_query_readings_total"], 6);

    site.post(&["-e", "1"], "w/x?a=b");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/w/x").is_empty());
    let wrapped = &site.arrived("tombolo/gw/door-7/up/w/x")[0];
    let json: serde_json::Value = serde_json::from_str(&wrapped[1]).expect("JSON");
    assert_eq!((&json["path"], &json["query"]), (&"w/x".into(), &"a=b".into()));

    let (code, text) = site.daemon.command(&["acl", "explain", "door-7", "POST", "u/env?unit=F"]);
    assert!(code == 0 && text.contains("tombolo/gw/door-7/unit/F/env"), "{text}");
    let (code, text) = site.daemon.command(&["acl", "explain", "door-7", "POST", "p/x?a=b"]);
    assert!(code == 1 && text.contains("rule plain refuses requests with a query"), "{text}");
}

#[test]
fn a_stored_reading_keeps_its_query_and_its_format_over_a_restart() {
    let mut site = Site::new("kept-query", "");
    site.broker.stop();
    site.post(&["-t", "65001", "-e", "1"], "t/kept?n=1&unit=C");
    assert_eq!(site.daemon.status()["journal"]["records"], 1);
    site.daemon.kill();
    site.daemon.resume();
    site.broker.resume();
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/kept").is_empty());
    let reading = &site.arrived("tombolo/gw/door-7/up/t/kept")[0];
    for property in ["query:n=1&unit=C", "content-format:65001"] {
        assert!(reading[3].contains(property), "{property} in {}", reading[3]);
    }
}

#[test]
fn a_body_in_blocks_is_refused_at_its_first_block() {
    let site = Site::new("first-block", "[role.sensor.uplink.plain]\npath = \"p/#\"\nquery = \"refuse\"\n");
    let file = site.folder.write("large.txt", "0123456789abcdef".repeat(500)).display().to_string();
    for program in ["coap-client-openssl", "coap-client-gnutls"] {
        for (path, answer) in [("nowhere/x", "4.03"), ("rd/x", "4.04"), ("p/x?a=b", "4.02")] {
            let arguments = ["-m", "post", "-f", &file, "-b", "64"];
            let output = site.coap_client(program, "door-7", KEY, &arguments, path);
            assert!(output.contains(answer), "{program} {path}: {output}");
        }
    }
    let counters = &site.daemon.status()["counters"];
    assert_eq!(counters["tombolo_coap_received_requests_total"], 0, "no body came whole");
    assert_eq!(counters["tombolo_gate_refused_no_rule_readings_total"], 2, "each was judged once");
    let large = site.folder.write("larger.txt", "x".repeat(70_000)).display().to_string();
    let output = site.post(&["-f", &large, "-b", "512"], "t/large");
    assert!(output.contains("4.13"), "{output}");
    site.post(&["-f", &file, "-b", "64"], "t/fits");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/fits").is_empty());
}

#[test]
fn aiocoap_sends_two_bodies_to_one_path_at_once() {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
    assert!(python.exists(), "tests/run peers makes {}", python.display());
    let site = Site::new("aiocoap-blocks", "");
    let output = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path/aiocoap_blocks.py"))
        .arg(format!("coaps://{}/t/blocks", site.daemon.coaps))
        .args(["door-7", KEY])
        .output()
        .expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), "2.04 2.04 2.04", "{}", String::from_utf8_lossy(&output.stderr));
    let arrived = || site.arrived("tombolo/gw/door-7/up/t/blocks");
    wait_for("the readings", || arrived().len() == 3);
    let mut payloads: Vec<String> = arrived().into_iter().map(|fields| fields[1].clone()).collect();
    payloads.sort();
    assert!(payloads == ["a".repeat(9_000), "b".repeat(9_000), "c".repeat(9_000)], "each body is whole");
}
