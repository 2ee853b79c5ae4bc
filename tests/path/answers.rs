//! What a device hears and what the broker gets, seen with libcoap's client on both of its TLS
//! libraries.

use super::{KEY, Site};
use tombolo_test_support::wait_for;

#[test]
fn a_reading_arrives_with_topic_payload_type_and_properties() {
    let site = Site::new("arrive", "");
    for (number, program) in ["coap-client-openssl", "coap-client-gnutls"].into_iter().enumerate() {
        let payload = format!("{{\"t\":{number}}}");
        let arguments = ["-m", "post", "-t", "50", "-e", &payload];
        let output = site.coap_client(program, "door-7", KEY, &arguments, "t/env");
        wait_for("the reading", || site.arrived("tombolo/gw/door-7/up/t/env").len() > number);
        let reading = &site.arrived("tombolo/gw/door-7/up/t/env")[number];
        assert_eq!(reading[1], payload, "{output}");
        assert_eq!(reading[2], "application/json");
        for property in ["id:", "device:door-7", "method:POST", "received:20"] {
            assert!(reading[3].contains(property), "{property} in {}", reading[3]);
        }
        assert_eq!(reading[4], "0", "not retained");
    }
}

#[test]
fn content_formats_become_media_types() {
    let site = Site::new("types", "");
    let types =
        [("0", "text/plain;charset=utf-8"), ("60", "application/cbor"), ("110", "application/senml+json")];
    for (number, (format, media)) in types.into_iter().enumerate() {
        site.post(&["-t", format, "-e", "x"], "t/format");
        wait_for("the reading", || site.arrived("tombolo/gw/door-7/up/t/format").len() > number);
        assert_eq!(site.arrived("tombolo/gw/door-7/up/t/format")[number][2], media);
    }
    site.post(&["-e", "x"], "t/none");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/none").is_empty());
    assert_eq!(site.arrived("tombolo/gw/door-7/up/t/none")[0][2], "", "no type claimed where none was given");
}

#[test]
fn put_publishes_as_post_does() {
    let site = Site::new("put", "");
    site.coap_client("coap-client-openssl", "door-7", KEY, &["-m", "put", "-e", "1"], "t/put");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/put").is_empty());
    assert!(site.arrived("tombolo/gw/door-7/up/t/put")[0][3].contains("method:PUT"));
}

#[test]
fn a_large_payload_comes_by_block1_in_one_piece() {
    let site = Site::new("block", "");
    let payload = "0123456789abcdef".repeat(300);
    let file = site.folder.write("large.txt", &payload);
    let file = file.display().to_string();
    let output = site.post(&["-f", &file, "-b", "512"], "t/large");
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/large").is_empty());
    assert_eq!(site.arrived("tombolo/gw/door-7/up/t/large")[0][1], payload, "{output}");
}

#[test]
fn every_refusal_has_its_own_answer() {
    let extra = "[role.small]\nquota = { messages = 2, bytes = \"1KiB\", per = \"1h\", burst = 2 }\n\
                 [role.small.uplink.all]\npath = \"t/#\"\n\
                 [device.limited]\nrole = \"small\"\npsk-file = \"door-7.psk\"\n";
    let site = Site::new("refuse", extra);
    let output = site.post(&["-e", "1"], "secret/x");
    assert!(output.contains("4.03") && output.contains("no rule"), "{output}");
    assert!(site.post(&["-e", "1"], "t/a+b").contains("4.00"), "bad path");
    assert!(site.post(&["-e", "1"], "~gw/x").contains("4.04"), "reserved");
    assert!(site.coap_client("coap-client-openssl", "door-7", KEY, &[], "t/env").contains("4.03"), "GET");
    let delete = site.coap_client("coap-client-openssl", "door-7", KEY, &["-m", "delete"], "t/env");
    assert!(delete.contains("4.05"), "{delete}");
    let core = site.coap_client("coap-client-openssl", "door-7", KEY, &[], ".well-known/core");
    assert!(core.contains('<'), "link format: {core}");

    let large = site.folder.write("huge.txt", vec![b'x'; 70_000]);
    let output = site.post(&["-f", &large.display().to_string(), "-b", "1024"], "t/huge");
    assert!(output.contains("4.13"), "{output}");

    let limited = || {
        let arguments = ["-m", "post", "-e", "1"];
        site.coap_client("coap-client-openssl", "limited", KEY, &arguments, "t/q")
    };
    limited();
    limited();
    let output = limited();
    assert!(output.contains("4.29"), "{output}");
    wait_for("two readings of the limited one", || site.arrived("tombolo/gw/limited/up/t/q").len() == 2);

    let status = site.daemon.status();
    let counters = status["counters"].to_string();
    assert!(counters.contains("refused"), "{counters}");
}

#[test]
fn a_wrong_key_and_an_unknown_identity_are_counted_and_named() {
    let site = Site::new("strangers", "");
    site.coap_client("coap-client-openssl", "door-7", "not-the-key", &["-m", "post", "-e", "1"], "t/x");
    site.coap_client("coap-client-openssl", "stranger", KEY, &["-m", "post", "-e", "1"], "t/x");
    wait_for("both failures in the log", || {
        let log = site.daemon.log();
        let says = |cause: &str, who: &str| {
            log.lines()
                .any(|line| line.contains("handshake failed") && line.contains(cause) && line.contains(who))
        };
        says("wrong key", "device=door-7") && says("unknown PSK identity", "stranger")
    });
    assert!(site.arrived("tombolo/gw/door-7/up/t/x").is_empty());
    let counters = site.daemon.status()["counters"].clone();
    for (kind, count) in [("failed", 2), ("wrong_key", 1), ("unknown_identity", 1)] {
        assert_eq!(counters[format!("tombolo_dtls_{kind}_handshakes_total")], count, "{kind}");
    }
}

#[test]
fn a_device_added_while_it_runs_may_speak_at_once_and_a_removed_one_may_not() {
    let site = Site::new("registry", "");
    let arguments =
        ["device", "add", "window-1", "--role", "sensor", "--psk", "text:open-open-open-1", "--json"];
    let (code, text) = site.daemon.command(&arguments);
    assert_eq!(code, 0, "{text}");
    let added: serde_json::Value = serde_json::from_str(&text).expect("--json prints JSON");
    assert_eq!(added["psk_identity"], "window-1");
    let post = |path: &str| {
        let arguments = ["-m", "post", "-e", "1"];
        site.coap_client("coap-client-openssl", "window-1", "open-open-open-1", &arguments, path)
    };
    post("t/w");
    wait_for("its reading", || !site.arrived("tombolo/gw/window-1/up/t/w").is_empty());
    let (code, text) = site.daemon.command(&["device", "remove", "window-1"]);
    assert_eq!(code, 0, "{text}");
    post("t/again");
    assert!(site.arrived("tombolo/gw/window-1/up/t/again").is_empty());
}

#[test]
fn the_status_topics_are_retained_and_the_will_says_offline() {
    let mut site = Site::new("presence", "");
    wait_for("online", || {
        site.arrived("tombolo/gw/gateway/status").last().is_some_and(|f| f[1].contains("\"online\":true"))
    });
    site.post(&["-e", "1"], "t/p");
    wait_for("the device's status", || !site.arrived("tombolo/gw/door-7/status").is_empty());
    site.daemon.kill();
    wait_for("the will", || {
        site.arrived("tombolo/gw/gateway/status").last().is_some_and(|f| f[1].contains("\"online\":false"))
    });
}

#[test]
fn aiocoap_publishes_over_dtls() {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
    assert!(python.exists(), "tests/run peers makes {}", python.display());
    let site = Site::new("aiocoap", "");
    let output = std::process::Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/path/aiocoap_post.py"))
        .arg(format!("coaps://{}/t/aio", site.daemon.coaps))
        .args(["door-7", KEY, "{\"t\":1}"])
        .output()
        .expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("2.04"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    wait_for("the reading", || !site.arrived("tombolo/gw/door-7/up/t/aio").is_empty());
}

#[test]
fn openssl_and_gnutls_shake_hands_and_speak_coap() {
    let site = Site::new("tls-tools", "");
    // A confirmable POST to t/x with payload 1, message id 0x1234, no token: as bytes on a
    // terminal.
    let request = b"\x40\x02\x12\x34\xb1t\x01x\xff1";
    let address = site.daemon.coaps.to_string();
    let port = site.daemon.coaps.port().to_string();
    let hex: String = KEY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["s_client", "-dtls1_2", "-connect", &address, "-psk_identity", "door-7", "-psk", &hex]);
    openssl.args(["-cipher", "PSK-AES128-CCM8:@SECLEVEL=0", "-quiet"]);
    let mut gnutls = std::process::Command::new("gnutls-cli");
    gnutls.args(["--udp", "--port", &port, "--pskusername", "door-7", "--pskkey", &hex]);
    gnutls.args(["--priority", "NORMAL:-KX-ALL:+PSK:-CIPHER-ALL:+AES-128-CCM-8:-VERS-ALL:+VERS-DTLS1.2"]);
    gnutls.arg("127.0.0.1");
    for (number, mut command) in [openssl, gnutls].into_iter().enumerate() {
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it is installed");
        let mut input = child.stdin.take().expect("a pipe");
        wait_for("the session", || site.daemon.status()["devices"]["sessions"].as_u64() > Some(0));
        // These two end a record where a line ends.
        std::io::Write::write_all(&mut input, &[&request[..], b"\n"].concat()).expect("it reads");
        wait_for("the reading", || site.arrived("tombolo/gw/door-7/up/t/x").len() > number);
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn the_gateway_says_upstream_how_it_is() {
    let site = super::Site::new("own-status", "");
    let newest = || {
        let said = site.arrived("tombolo/gw/gateway/status");
        let line = said.iter().rfind(|fields| fields[1].contains("version"))?;
        serde_json::from_str::<serde_json::Value>(&line[1]).ok()
    };
    tombolo_test_support::wait_for("a status", || newest().is_some());
    let status = newest().expect("it is there");
    for key in [
        "online",
        "gateway",
        "version",
        "since",
        "protocol",
        "protocol_since",
        "lanes",
        "rejected",
        "lost",
        "unreadable",
        "clock_trusted",
        "certificate_days",
        "disk_free_bytes",
        "written_today_bytes",
        "problems",
    ] {
        assert!(status.get(key).is_some(), "{key} is missing: {status}");
    }
    assert_eq!((&status["online"], &status["gateway"]), (&true.into(), &"gw".into()));
    assert_eq!(status["lanes"]["normal"]["records"], 0);
    assert!(status["disk_free_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{status}");
    assert_eq!(status["problems"], serde_json::json!([]));
}
